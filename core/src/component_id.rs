//! Component ids of server-to-server command processors in an XCP deployment.

use std::fmt;
use std::str::FromStr;

use crate::Realm;

/// The prefix of every S2S component: command processor 1 of connection manager 2.
const PREFIX: &str = "cm-2_s2scp-1.";

/// A component id such as `cm-2_s2scp-1.eft-xwye-a-coluc-com`; only characters that need no
/// escaping in XML or SQL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ComponentId(Box<str>);

/// A text that is no component id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a component id: 1 to 255 lower-case letters, digits, '-', '_' and '.', such as cm-2_s2scp-1.edge-example-com"
)]
pub struct ComponentIdError(pub String);

impl ComponentId {
    /// The id of the edge replica with this realm.
    pub fn of_realm(realm: &Realm) -> Self {
        Self(format!("{PREFIX}{realm}").into())
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ComponentId {
    type Err = ComponentIdError;
    fn from_str(text: &str) -> Result<Self, ComponentIdError> {
        let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        if (1..=255).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.into()))
        } else {
            Err(ComponentIdError(text.to_owned()))
        }
    }
}

impl fmt::Display for ComponentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

crate::as_text!(ComponentId);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::Domain;

    #[test]
    fn the_guides_host_gives_the_guides_component_id() {
        let host = Domain::parse("eft-xwye-a.coluc.com").unwrap();
        let id = ComponentId::of_realm(&Realm::of_replica(&host, 0));
        assert_eq!(id.as_str(), "cm-2_s2scp-1.eft-xwye-a-coluc-com");
    }

    #[test]
    fn quotes_and_markup_are_refused() {
        for text in ["", "a'b", "a<b", "a b", "É"] {
            assert!(text.parse::<ComponentId>().is_err(), "{text:?}");
        }
    }
}
