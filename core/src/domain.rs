//! Domains in canonical form: UTS-46 non-transitional A-labels, lower case, no trailing dot.
//!
//! Lists, routes, dialback pairs, DNS, SNI and certificate checks all compare this form, so a
//! domain denied under one spelling is denied under all of them.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A canonical domain name of at least two labels, or of one when parsed with [`Domain::parse`]
/// from a source that may hold single labels; never an IP literal. Clones share the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Arc<str>);

/// Why a text is not a federated domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// No characters at all.
    #[error("a domain is empty; write a name such as example.com")]
    Empty,
    /// An IPv4 or IPv6 address; XMPP federation authenticates names only.
    #[error("{0:?} is an IP address; federation needs a domain name such as example.com")]
    IpLiteral(String),
    /// One label such as `localhost` or `kubernetes`.
    #[error("{0:?} has a single label; federation needs a public domain name such as example.com")]
    SingleLabel(String),
    /// A wildcard such as `*.com`.
    #[error("{0:?} covers a whole top-level domain; write two labels or more behind the asterisk, as in *.example.com")]
    TopLevel(String),
    /// A wildcard whose asterisk is elsewhere.
    #[error("{0:?} has an asterisk that is not its first label; write *.example.com for all domains below example.com")]
    Asterisk(String),
    /// More bytes than any spelling may have (RFC 7622 section 3.2).
    #[error("a domain that begins with {0:?} has {1} bytes; write its name in at most 1023")]
    Long(String, usize),
    /// UTS-46 or DNS rules refuse it (RFC 7622 section 3.2, RFC 1035 section 2.3.4).
    #[error("{0:?} is not a domain name: labels of 1 to 63 letters, digits and hyphens, 253 characters in all")]
    Invalid(String),
    /// Valid, but not in the canonical spelling where that is demanded.
    #[error("{given:?} is not in canonical form; write {canonical:?}")]
    NotCanonical {
        /// What was written.
        given: String,
        /// What to write instead.
        canonical: String,
    },
}

impl Domain {
    /// Bytes of a domain in any spelling (RFC 7622 section 3.2).
    pub const LONGEST: usize = 1023;

    /// Reads any spelling of a domain (U-label, upper case, trailing dot, U+3002 as dot).
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        if text.is_empty() {
            return Err(DomainError::Empty);
        }
        // Characters that UTS-46 ignores make a short domain arbitrarily long.
        if text.len() > Self::LONGEST {
            let start: String = text.chars().take(64).collect();
            return Err(DomainError::Long(start, text.len()));
        }
        let invalid = || DomainError::Invalid(text.to_owned());
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(invalid());
        }
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        if text.parse::<Ipv4Addr>().is_ok() || bare.unwrap_or(text).parse::<Ipv6Addr>().is_ok() {
            return Err(DomainError::IpLiteral(text.to_owned()));
        }
        let ascii = idna::AsciiDenyList::STD3;
        let canonical = idna::uts46::Uts46::new()
            .to_ascii(
                text.as_bytes(),
                ascii,
                idna::uts46::Hyphens::Allow,
                idna::uts46::DnsLength::VerifyAllowRootDot,
            )
            .map_err(|_| invalid())?;
        let canonical = canonical.strip_suffix('.').unwrap_or(&canonical);
        if canonical.is_empty() {
            return Err(invalid());
        }
        // A last label of digits only would be read as an IPv4 address by other software.
        let last = canonical.rsplit('.').next().unwrap_or(canonical);
        if last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(DomainError::IpLiteral(text.to_owned()));
        }
        if canonical
            .split('.')
            .any(|label| label.starts_with('-') || label.ends_with('-'))
        {
            return Err(invalid());
        }
        if !canonical.contains('.') {
            return Err(DomainError::SingleLabel(text.to_owned()));
        }
        Ok(Self(canonical.into()))
    }

    /// Reads a domain that must already be canonical, as configuration demands.
    pub fn parse_canonical(text: &str) -> Result<Self, DomainError> {
        let domain = Self::parse(text)?;
        if domain.as_str() == text {
            Ok(domain)
        } else {
            Err(DomainError::NotCanonical {
                given: text.to_owned(),
                canonical: domain.to_string(),
            })
        }
    }

    /// The canonical A-label form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The U-label form, which goes into XML where we speak first (RFC 7622 section 3.2).
    pub fn to_unicode(&self) -> String {
        idna::domain_to_unicode(&self.0).0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl AsRef<str> for Domain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Domain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Domain {
    type Err = DomainError;
    fn from_str(text: &str) -> Result<Self, DomainError> {
        Self::parse(text)
    }
}

impl Serialize for Domain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Domain {
    /// Configuration must be canonical: the message names the spelling to use.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse_canonical(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("coluc.com", "coluc.com")]
    #[case("COLUC.Com.", "coluc.com")]
    #[case("straße.de", "xn--strae-oqa.de")]
    #[case("strasse.de", "strasse.de")]
    #[case("bücher.example", "xn--bcher-kva.example")]
    #[case("a\u{3002}example", "a.example")]
    #[case("xn--bcher-kva.example", "xn--bcher-kva.example")]
    fn every_spelling_has_one_canonical_form(#[case] text: &str, #[case] canonical: &str) {
        assert_eq!(Domain::parse(text).unwrap().as_str(), canonical);
    }

    #[rstest]
    #[case("")]
    #[case(".")]
    #[case("[::1]")]
    #[case("::1")]
    #[case("192.0.2.1")]
    #[case("1.2.3.256")]
    #[case("localhost")]
    #[case("a b.example")]
    #[case("a\n.example")]
    #[case("a..example")]
    #[case("-a.example")]
    #[case("under_score.example")]
    fn what_is_no_domain_is_refused(#[case] text: &str) {
        assert!(Domain::parse(text).is_err(), "{text:?} was accepted");
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config {
            cases: 5_000, failure_persistence: None,
            rng_seed: proptest::test_runner::RngSeed::Fixed(1),
            ..proptest::test_runner::Config::default()
        })]

        #[test]
        fn what_is_written_for_people_is_read_back_as_the_same_domain(
            text in "[a-zA-Z0-9\u{df}\u{fc}\u{130}\u{3b1}-\u{3c9}\u{430}-\u{44f}\u{5d0}-\u{5ea}\u{627}-\u{64a}\u{4e00}-\u{4e10}\u{ad}\u{200d}\u{308}-]{1,12}[.\u{3002}\u{ff0e}](xn--)?[a-z\u{e9}-]{1,8}\\.?"
        ) {
            if let Ok(domain) = Domain::parse(&text) {
                assert_eq!(Domain::parse(domain.as_str()).as_ref(), Ok(&domain), "{text:?}");
                assert_eq!(Domain::parse(&domain.to_unicode()).as_ref(), Ok(&domain), "{text:?}");
            }
        }
    }

    #[test]
    fn a_domain_has_at_most_1023_bytes_in_any_spelling() {
        let spelling = |bytes: usize| {
            let hyphens = bytes - "a.example".len();
            let odd = if hyphens % 2 == 1 { "a" } else { "" };
            format!("{odd}{}a.example", "\u{ad}".repeat(hyphens / 2))
        };
        assert!(Domain::parse(&spelling(1023)).is_ok());
        let error = Domain::parse(&spelling(1024)).unwrap_err();
        assert!(matches!(&error, DomainError::Long(_, 1024)), "{error}");
    }

    #[test]
    fn a_u_label_in_configuration_is_refused_with_its_a_label() {
        let error = Domain::parse_canonical("bücher.example").unwrap_err();
        assert!(error.to_string().contains("xn--bcher-kva.example"), "{error}");
    }
}
