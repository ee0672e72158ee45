//! The realm under which one edge replica is known in IM and Presence.

use std::fmt;

use crate::Domain;

/// A realm: a host name with dashes for dots (`eft-xwye-a.coluc.com` → `eft-xwye-a-coluc-com`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Realm(Box<str>);

impl Realm {
    /// The realm of replica `index` behind `hostname`.
    ///
    /// Replica 0 has the host name itself, as Expressway would write it; replica n ≥ 1 has `-n`
    /// behind the first label. Different host names can give the same realm (`a-b.c` and
    /// `a.b-c`), so callers compare realms, not host names.
    pub fn of_replica(hostname: &Domain, index: u16) -> Self {
        let (first, rest) = hostname.as_str().split_once('.').unwrap_or((hostname.as_str(), ""));
        let rest = rest.replace('.', "-");
        Self(if index == 0 {
            format!("{first}-{rest}").into()
        } else {
            format!("{first}-{index}-{rest}").into()
        })
    }

    /// The realm's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn replicas_get_realms_as_expressway_peers_do() {
        let host = Domain::parse("eft-xwye-a.coluc.com").unwrap();
        assert_eq!(Realm::of_replica(&host, 0).as_str(), "eft-xwye-a-coluc-com");
        assert_eq!(Realm::of_replica(&host, 1).as_str(), "eft-xwye-a-1-coluc-com");
    }
}
