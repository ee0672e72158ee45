//! What routing needs to know about stanzas: their names and the domains they go between.

use std::collections::{HashMap, HashSet};

use xmpp_federation_core::Domain;

use crate::jid::Part;
use xmpp_federation_xml::Element;

/// Whether this is a stanza of a stream with that content namespace.
pub fn is_stanza(element: &Element, content_ns: &str) -> bool {
    element.ns() == content_ns && matches!(element.name(), "message" | "presence" | "iq")
}

/// Whether the stanza comes back as an error where nobody takes it: a message or a request.
/// Presence is left out, which servers drop in silence (RFC 6121 section 8.5).
pub fn wants_answer(element: &Element) -> bool {
    match element.name() {
        "message" => element.type_().as_deref() != Some("error"),
        "iq" => matches!(element.type_().as_deref(), Some("get" | "set")),
        _ => false,
    }
}

/// The domain part of an address, as written (RFC 7622 section 3.1).
pub fn domain_part(address: &str) -> &str {
    let bare = address.split_once('/').map_or(address, |(bare, _)| bare);
    bare.split_once('@').map_or(bare, |(_, domain)| domain)
}

/// Spellings seen on one stream and their canonical form, so that a busy stream does not
/// canonicalise the same domain for every stanza; and parts of addresses that are no ASCII, good ones
/// and bad ones.
#[derive(Debug, Default)]
pub struct DomainCache {
    known: HashMap<Box<str>, Option<Domain>>,
    good: HashSet<(Part, Box<str>)>,
    /// Apart, so that they take no place of a good one.
    bad: HashSet<(Part, Box<str>)>,
}

/// Spellings remembered; a peer that uses more only loses the saving.
const CACHED: usize = 64;
/// The same of bad parts of addresses.
const CACHED_BAD: usize = 16;
/// Longest spelling worth remembering; no valid domain is longer.
pub(crate) const LONGEST: usize = Domain::LONGEST;

impl DomainCache {
    /// The canonical domain of an address, `None` if its domain part is no federated domain.
    pub fn domain_of(&mut self, address: &str) -> Option<Domain> {
        self.domain(domain_part(address))
    }

    /// The canonical domain of a domain part. An address would be cut once more: in
    /// `a@b.example@c.example` nothing may be taken for `c.example`.
    pub fn domain(&mut self, text: &str) -> Option<Domain> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if text.len() > LONGEST {
            return None;
        }
        let domain = Domain::parse(text).ok();
        if self.known.len() >= CACHED {
            self.known.clear();
        }
        self.known.insert(text.into(), domain.clone());
        domain
    }

    /// Whether a part of an address is good, found out once.
    pub(crate) fn passes(&mut self, part: Part, text: &str, judge: impl FnOnce() -> bool) -> bool {
        // A pair with a borrowed text cannot be looked up; the copy costs little against the
        // judgement.
        let key = (part, text.into());
        if self.good.contains(&key) {
            return true;
        }
        if self.bad.contains(&key) {
            return false;
        }
        let good = judge();
        let (known, most) = if good {
            (&mut self.good, CACHED)
        } else {
            (&mut self.bad, CACHED_BAD)
        };
        if known.len() >= most {
            known.clear();
        }
        known.insert(key);
        good
    }

    /// Whether a part was found to be good.
    pub(crate) fn knows_good(&self, part: Part, text: &str) -> bool {
        !self.good.is_empty() && self.good.contains(&(part, text.into()))
    }

    /// Gives memory back while the stream is idle.
    pub fn shrink(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("coluc.com", "coluc.com")]
    #[case("alice@coluc.com", "coluc.com")]
    #[case("alice@coluc.com/phone", "coluc.com")]
    #[case("coluc.com/a@b.example/c", "coluc.com")]
    #[case("", "")]
    fn the_domain_is_between_the_first_at_and_the_first_slash(#[case] address: &str, #[case] domain: &str) {
        assert_eq!(domain_part(address), domain);
    }

    #[test]
    fn a_part_of_an_address_is_judged_once_and_bad_ones_take_no_place_of_good_ones() {
        let mut cache = DomainCache::default();
        assert!(cache.passes(Part::Local, "good", || true));
        for n in 0..1000 {
            let bad = n.to_string();
            assert!(!cache.passes(Part::Local, &bad, || false));
            assert!(!cache.passes(Part::Local, &bad, || panic!("judged again")));
        }
        assert!(cache.passes(Part::Local, "good", || panic!("judged again")));
        assert!(cache.bad.len() <= CACHED_BAD);
    }

    #[test]
    fn the_cache_gives_canonical_domains_and_stays_small() {
        let mut cache = DomainCache::default();
        for n in 0..1000 {
            assert!(cache.domain_of(&format!("a@d{n}.Example")).is_some());
        }
        assert!(cache.known.len() <= CACHED);
        assert_eq!(cache.domain_of("a@[::1]"), None);
        assert_eq!(cache.domain_of("a@b.example@c.example"), None);
        let domain = cache.domain_of("a@COLUC.com./x").map(|d| d.to_string());
        assert_eq!(domain.as_deref(), Some("coluc.com"));
    }
}
