//! One fact about many domains, bounded: configured ones and strangers have their own room.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use xmpp_federation_core::Domain;

/// One fact about many domains or pairs of domains.
#[derive(Debug)]
pub struct Memory<T, K = Domain> {
    life: Duration,
    most: usize,
    facts: Mutex<Facts<T, K>>,
}

#[derive(Debug)]
struct Facts<T, K> {
    /// Configured partners have their room to themselves; the configuration bounds it.
    partners: HashMap<K, (Instant, T)>,
    strangers: HashMap<K, (Instant, T)>,
}

impl<T: Clone + PartialEq, K: Clone + Eq + Hash> Memory<T, K> {
    pub(crate) fn new(life: Duration, most: usize) -> Self {
        Self {
            life,
            most,
            facts: Mutex::new(Facts {
                partners: HashMap::new(),
                strangers: HashMap::new(),
            }),
        }
    }

    /// The fact holds for the domain from now on; `partner`: whether it is configured.
    pub fn note(&self, domain: &K, partner: bool, fact: T) {
        self.note_at(domain, partner, fact, Instant::now());
    }

    /// Whether this fact was noted for the domain and is not too old.
    pub fn holds(&self, domain: &K, fact: &T) -> bool {
        self.holds_at(domain, fact, Instant::now())
    }

    /// What was noted for the domain, if it is not too old.
    pub fn get(&self, domain: &K) -> Option<T> {
        self.get_at(domain, Instant::now())
    }

    fn note_at(&self, domain: &K, partner: bool, fact: T, now: Instant) {
        let mut facts = self.facts.lock();
        // The configuration may have changed since it was noted last.
        facts.partners.remove(domain);
        facts.strangers.remove(domain);
        let fresh = |(at, _): &(Instant, T)| now.duration_since(*at) < self.life;
        if partner {
            if facts.partners.len() >= self.most {
                facts.partners.retain(|_, known| fresh(known));
            }
            facts.partners.insert(domain.clone(), (now, fact));
            return;
        }
        let strangers = &mut facts.strangers;
        if strangers.len() >= self.most {
            strangers.retain(|_, known| fresh(known));
        }
        if strangers.len() >= self.most {
            let oldest = strangers.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(oldest) = oldest.map(|(domain, _)| domain.clone()) {
                strangers.remove(&oldest);
            }
        }
        strangers.insert(domain.clone(), (now, fact));
    }

    fn holds_at(&self, domain: &K, fact: &T, now: Instant) -> bool {
        self.get_at(domain, now).as_ref() == Some(fact)
    }

    fn get_at(&self, domain: &K, now: Instant) -> Option<T> {
        let facts = self.facts.lock();
        let known = facts.partners.get(domain);
        let (at, fact) = known.or_else(|| facts.strangers.get(domain))?;
        (now.duration_since(*at) < self.life).then(|| fact.clone())
    }

    /// Forgets what was noted for these domains.
    pub fn forget(&self, which: impl Fn(&K) -> bool) {
        let mut facts = self.facts.lock();
        facts.partners.retain(|domain, _| !which(domain));
        facts.strangers.retain(|domain, _| !which(domain));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn domain(n: usize) -> Domain {
        Domain::parse(&format!("d{n}.example")).unwrap()
    }

    #[test]
    fn a_fact_is_forgotten_after_its_time_and_the_oldest_for_want_of_room() {
        const MOST: usize = 64;
        let memory = Memory::new(Duration::from_mins(1), MOST);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        memory.note_at(&domain(0), false, 1, start);
        assert!(memory.holds_at(&domain(0), &1, after(59)));
        assert!(!memory.holds_at(&domain(0), &1, after(60)));
        assert!(!memory.holds_at(&domain(0), &2, start));
        assert!(!memory.holds_at(&domain(1), &1, start));
        for n in 1..=MOST {
            memory.note_at(&domain(n), false, 1, after(30));
        }
        assert_eq!(memory.facts.lock().strangers.len(), MOST);
        assert!(!memory.holds_at(&domain(0), &1, after(30)), "the oldest gave way");
        assert!(memory.holds_at(&domain(1), &1, after(30)));
        assert!(memory.holds_at(&domain(MOST), &1, after(30)));
        memory.forget(|known| *known == domain(1));
        assert!(!memory.holds_at(&domain(1), &1, after(30)));
        assert!(!memory.holds_at(&domain(2), &1, after(90)));
        memory.note_at(&domain(MOST + 1), false, 1, after(90));
        memory.note_at(&domain(MOST + 2), false, 1, after(90));
        assert_eq!(memory.facts.lock().strangers.len(), 2, "what is too old makes room");
    }

    #[test]
    fn strangers_do_not_push_a_configured_partner_out() {
        const MOST: usize = 64;
        let memory = Memory::new(Duration::from_mins(1), MOST);
        let start = Instant::now();
        memory.note_at(&domain(0), true, 1, start);
        for n in 1..=2 * MOST {
            memory.note_at(&domain(n), false, 1, start);
        }
        assert!(memory.holds_at(&domain(0), &1, start));
        assert_eq!(memory.facts.lock().strangers.len(), MOST);
        memory.forget(|known| *known == domain(0));
        assert!(!memory.holds_at(&domain(0), &1, start));
    }
}
