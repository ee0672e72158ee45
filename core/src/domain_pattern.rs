//! What a list of remote domains may name: one domain, or all domains below one.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use crate::domain::{Domain, DomainError};

/// One domain, or all domains below one at any depth: `*.partner.example` covers `a.partner.example` and
/// `b.a.partner.example`, and not `partner.example` itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DomainPattern {
    /// This domain.
    Exact(Domain),
    /// All domains below this one.
    Below(Domain),
}

const WILDCARD: &str = "*.";

impl DomainPattern {
    /// The domain, unless it is a wildcard.
    pub fn exact(&self) -> Option<&Domain> {
        match self {
            Self::Exact(domain) => Some(domain),
            Self::Below(_) => None,
        }
    }
}

impl FromStr for DomainPattern {
    type Err = DomainError;

    /// As configuration writes it: in canonical form.
    fn from_str(text: &str) -> Result<Self, DomainError> {
        let Some(parent) = text.strip_prefix(WILDCARD) else {
            return if text.contains('*') {
                Err(DomainError::Asterisk(text.to_owned()))
            } else {
                Domain::parse_canonical(text).map(Self::Exact)
            };
        };
        let parent = Domain::parse_canonical(parent).map_err(|error| match error {
            DomainError::SingleLabel(_) => DomainError::TopLevel(text.to_owned()),
            DomainError::NotCanonical { canonical, .. } => DomainError::NotCanonical {
                given: text.to_owned(),
                canonical: format!("{WILDCARD}{canonical}"),
            },
            _ if parent.contains('*') => DomainError::Asterisk(text.to_owned()),
            error => error,
        })?;
        Ok(Self::Below(parent))
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(domain) => domain.fmt(f),
            Self::Below(parent) => write!(f, "{WILDCARD}{parent}"),
        }
    }
}

impl From<Domain> for DomainPattern {
    fn from(domain: Domain) -> Self {
        Self::Exact(domain)
    }
}

crate::as_text!(DomainPattern);

/// Values of patterns. One counts for a domain: that of its own name, else that of the longest wildcard above it.
#[derive(Debug, Clone)]
pub struct DomainMap<V> {
    exact: HashMap<Domain, V>,
    below: HashMap<Domain, V>,
}

impl<V> Default for DomainMap<V> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            below: HashMap::new(),
        }
    }
}

impl<V> DomainMap<V> {
    /// The value that counts for a domain; takes one look-up for each label at most.
    pub fn get(&self, domain: &Domain) -> Option<&V> {
        self.exact.get(domain).or_else(|| {
            let mut parents = parents(domain).take_while(|_| !self.below.is_empty());
            parents.find_map(|parent| self.below.get(parent))
        })
    }

    /// The domains that are named themselves.
    pub fn names(&self) -> impl Iterator<Item = &Domain> {
        self.exact.keys()
    }

    /// Whether a domain is named itself.
    pub fn names_itself(&self, domain: &Domain) -> bool {
        self.exact.contains_key(domain)
    }
}

impl<V> FromIterator<(DomainPattern, V)> for DomainMap<V> {
    fn from_iter<I: IntoIterator<Item = (DomainPattern, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (pattern, value) in entries {
            match pattern {
                DomainPattern::Exact(domain) => map.exact.insert(domain, value),
                DomainPattern::Below(parent) => map.below.insert(parent, value),
            };
        }
        map
    }
}

/// The names above a domain, the longest first.
fn parents(domain: &Domain) -> impl Iterator<Item = &str> {
    let name = domain.as_str();
    name.match_indices('.').filter_map(|(dot, _)| name.get(dot + 1..))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("partner.example", "")]
    #[case("*.partner.example", "")]
    #[case("*.xn--bcher-kva.example", "")]
    #[case(
        "*.bücher.example",
        "\"*.bücher.example\" is not in canonical form; write \"*.xn--bcher-kva.example\""
    )]
    #[case("*.Partner.example", "write \"*.partner.example\"")]
    #[case("bücher.example", "write \"xn--bcher-kva.example\"")]
    #[case("*.com", "\"*.com\" covers a whole top-level domain")]
    #[case("*", "\"*\" has an asterisk that is not its first label; write *.example.com")]
    #[case("*example.com", "has an asterisk that is not its first label")]
    #[case("a.*.example", "has an asterisk that is not its first label")]
    #[case("*.*.example", "has an asterisk that is not its first label")]
    #[case("*.", "a domain is empty")]
    #[case("*.192.0.2.1", "is an IP address")]
    #[case("", "a domain is empty")]
    fn a_pattern_is_a_canonical_domain_behind_at_most_one_asterisk(#[case] text: &str, #[case] refused: &str) {
        match text.parse::<DomainPattern>() {
            Ok(pattern) => {
                assert_eq!(refused, "", "{text} was accepted");
                assert_eq!(pattern.to_string(), text);
            }
            Err(error) => {
                let error = error.to_string();
                assert!(!refused.is_empty() && error.contains(refused), "{text}: {error}");
            }
        }
    }

    fn map(patterns: &[&'static str]) -> DomainMap<&'static str> {
        let entries = patterns.iter().map(|text| (text.parse().unwrap(), *text));
        entries.collect()
    }

    #[rstest]
    #[case::the_name(&["partner.example"], "partner.example", Some("partner.example"))]
    #[case::nothing_below_a_name(&["partner.example"], "a.partner.example", None)]
    #[case::below(&["*.partner.example"], "a.partner.example", Some("*.partner.example"))]
    #[case::any_depth(&["*.partner.example"], "c.b.a.partner.example", Some("*.partner.example"))]
    #[case::not_itself(&["*.partner.example"], "partner.example", None)]
    #[case::whole_labels_only(&["*.partner.example"], "otherpartner.example", None)]
    #[case::not_above(&["*.a.partner.example"], "b.partner.example", None)]
    #[case::exact_wins(&["*.partner.example", "a.partner.example"], "a.partner.example", Some("a.partner.example"))]
    #[case::exact_covers_itself_only(&["*.partner.example", "a.partner.example"], "b.a.partner.example", Some("*.partner.example"))]
    #[case::longest_wins(&["*.partner.example", "*.a.partner.example"], "b.a.partner.example", Some("*.a.partner.example"))]
    #[case::longest_covers_below_only(&["*.partner.example", "*.a.partner.example"], "a.partner.example", Some("*.partner.example"))]
    #[case::order_does_not_matter(&["*.a.partner.example", "*.partner.example"], "b.a.partner.example", Some("*.a.partner.example"))]
    fn the_exact_entry_counts_and_else_the_longest_wildcard(
        #[case] patterns: &[&'static str],
        #[case] domain: &str,
        #[case] counts: Option<&str>,
    ) {
        let domain = Domain::parse(domain).unwrap();
        assert_eq!(map(patterns).get(&domain).copied(), counts);
    }

    #[test]
    fn a_look_up_asks_once_for_each_label_whatever_the_length_of_the_list() {
        let domain = Domain::parse("d.c.b.a.example").unwrap();
        let asked: Vec<&str> = parents(&domain).collect();
        assert_eq!(asked, ["c.b.a.example", "b.a.example", "a.example", "example"]);
    }
}
