//! Spellings and parts of addresses that were judged before on a stream.

use std::collections::{HashMap, HashSet};

use xmpp_federation_core::Domain;

use super::{JidPart, domain_part};

/// Spellings seen on one stream and their canonical form, so that a busy stream does not
/// canonicalise the same domain for every stanza; and parts of addresses that are no ASCII, good ones
/// and bad ones.
#[derive(Debug, Default)]
pub struct DomainCache {
    known: HashMap<Box<str>, Option<Domain>>,
    good: HashSet<(JidPart, Box<str>)>,
    /// Apart, so that they take no place of a good one.
    bad: HashSet<(JidPart, Box<str>)>,
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
    pub(crate) fn passes(&mut self, part: JidPart, text: &str, judge: impl FnOnce() -> bool) -> bool {
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
    pub(crate) fn knows_good(&self, part: JidPart, text: &str) -> bool {
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
        assert!(cache.passes(JidPart::Local, "good", || true));
        for n in 0..1000 {
            let bad = n.to_string();
            assert!(!cache.passes(JidPart::Local, &bad, || false));
            assert!(!cache.passes(JidPart::Local, &bad, || panic!("judged again")));
        }
        assert!(cache.passes(JidPart::Local, "good", || panic!("judged again")));
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
