//! Primary keys of IM&P's tables: lower-case UUIDs. We choose those of our rows ourselves, which
//! makes the rows recognisable as ours.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// A primary key; only characters that need no escaping in SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pkid(Uuid);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a pkid, which is a UUID with hyphens")]
pub struct PkidError(String);

impl Pkid {
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// From a number; for tests.
    pub const fn from_u128(number: u128) -> Self {
        Self(Uuid::from_u128(number))
    }
}

impl FromStr for Pkid {
    type Err = PkidError;
    fn from_str(text: &str) -> Result<Self, PkidError> {
        // Only the hyphenated form: the parser would take braces and URNs too.
        (text.len() == 36)
            .then(|| Uuid::try_parse(text).ok())
            .flatten()
            .map(Self)
            .ok_or_else(|| PkidError(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Pkid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

xmpp_federation_core::as_text!(Pkid);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_pkid_is_written_in_lower_case() {
        let pkid: Pkid = "055C13D9-943D-459D-A3C6-AF1D1176936D".parse().unwrap();
        assert_eq!(pkid.to_string(), "055c13d9-943d-459d-a3c6-af1d1176936d");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "' or 1=1 --",
            "055c13d9943d459da3c6af1d1176936d",
            "{055c13d9-943d-459d-a3c6-af1d117693}",
        ] {
            assert!(text.parse::<Pkid>().is_err(), "{text:?}");
        }
    }
}
