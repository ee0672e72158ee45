//! Rates per remote domain (`messagesPerSecond` and `bytesPerSecond` of `partners[].limits`, else of `limits`):
//! all streams of a domain share one token bucket that holds what one second brings, and so do all domains that
//! take their rate from one wildcard. A domain that has used it up is not read until it has filled again;
//! nothing is dropped.
//!
//! A stanza that is refused never comes to the queue of a link, where too much of it would stop its
//! sender. So refused stanzas have buckets too, whatever `partners` says. One is of the user who sent them:
//! what is refused beyond it is dropped, which costs no more than to pass a stanza on, and nobody else at
//! the user's server notices. The other is of the whole domain: only many users can use it up, and then
//! the domain is not read until it has filled again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use xmpp_federation_core::{Domain, DomainPattern};

use crate::policy::{PeerPolicy, Policy};

/// What may be used at once: the rate of this time.
const BURST: Duration = Duration::from_secs(1);
/// The same of refused stanzas.
const REFUSED_BURST: Duration = Duration::from_millis(250);
/// What a refused stanza costs: 200 in a second. To judge an address takes up to a millisecond.
const REFUSED: Duration = Duration::from_millis(5);
/// The same of one user's: 25 at once, and 50 in a second.
const USERS_BURST: Duration = Duration::from_millis(500);
const USERS: Duration = Duration::from_millis(20);
/// Buckets of a kind at which it is first looked which of them are full again.
const TIDY: usize = 256;

/// Whose refused stanzas share a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Payer {
    /// A configured partner.
    Partner(Domain),
    /// Everybody else by network: a stranger has any number of domains.
    Network(IpAddr),
}

/// The buckets of domains with a rate, as many as have streams or are not full; and those of refused
/// stanzas, as many as are not full.
#[derive(Debug, Default)]
pub(super) struct Rates {
    known: Mutex<Buckets<DomainPattern, Arc<Rate>>>,
    refused: Mutex<RefusalBuckets>,
}

#[derive(Debug, Default)]
struct RefusalBuckets {
    payers: Buckets<Payer, Fill>,
    /// By a hash of the bare address: a peer cannot choose it, and it takes little memory.
    users: Buckets<u64, Fill>,
    hasher: RandomState,
}

/// When a bucket will be full again; `None`: it was never used.
type Fill = Option<Instant>;

trait Bucket {
    /// Whether it is anything but as good as a new one.
    fn is_needed(&self, now: Instant) -> bool;
}

impl Bucket for Fill {
    fn is_needed(&self, now: Instant) -> bool {
        self.is_some_and(|at| at > now)
    }
}

impl Bucket for Arc<Rate> {
    fn is_needed(&self, now: Instant) -> bool {
        // Streams have it, or it is not full.
        Self::strong_count(self) > 1 || !self.is_full(now)
    }
}

/// Buckets, of which those that are not needed are forgotten now and then.
#[derive(Debug)]
struct Buckets<K, B> {
    all: HashMap<K, B>,
    tidy_at: usize,
}

impl<K, B> Default for Buckets<K, B> {
    fn default() -> Self {
        Self {
            all: HashMap::new(),
            tidy_at: TIDY,
        }
    }
}

impl<K: Eq + Hash, B: Bucket> Buckets<K, B> {
    /// One that may be new.
    fn entry(&mut self, key: K, now: Instant) -> Entry<'_, K, B> {
        if self.all.len() >= self.tidy_at {
            self.all.retain(|_, bucket| bucket.is_needed(now));
            self.tidy_at = TIDY.max(2 * self.all.len());
        }
        self.all.entry(key)
    }
}

/// What a refused stanza came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RefusalCost {
    /// The time at which the stream may go on, if that is not now.
    pub(super) until: Option<Instant>,
    /// The user's bucket is used up.
    pub(super) user_is_over: bool,
}

impl Rates {
    /// A stanza was refused; `user`: its sender, if that is at fault.
    pub(super) fn refused(&self, payer: Payer, user: Option<&str>, now: Instant) -> RefusalCost {
        let mut guard = self.refused.lock();
        let refused = &mut *guard;
        let over = user.and_then(|user| {
            let bucket = refused.users.entry(refused.hasher.hash_one(user), now);
            spend(bucket.or_default(), USERS, USERS_BURST.saturating_sub(USERS), now)
        });
        let payer = refused.payers.entry(payer, now).or_default();
        RefusalCost {
            until: spend(payer, REFUSED, REFUSED_BURST.saturating_sub(REFUSED), now),
            user_is_over: over.is_some(),
        }
    }

    /// Whether what is refused of this user now is to be dropped.
    pub(super) fn is_over(&self, user: &str, now: Instant) -> bool {
        let refused = self.refused.lock();
        let full = refused.users.all.get(&refused.hasher.hash_one(user));
        let room = USERS_BURST.saturating_sub(USERS);
        full.copied().flatten().is_some_and(|full| full > now + room)
    }

    /// The bucket of a domain; `None` if it has no rate.
    pub(super) fn of(&self, policy: &Policy, remote: &Domain) -> Option<Arc<Rate>> {
        self.of_at(policy, remote, Instant::now())
    }

    fn of_at(&self, policy: &Policy, remote: &Domain, now: Instant) -> Option<Arc<Rate>> {
        let terms = policy.peer(remote);
        let key = terms.rates_shared_by.clone().unwrap_or_else(|| remote.clone().into());
        let mut known = self.known.lock();
        let Some(wanted) = Rate::new(terms) else {
            known.all.remove(&key);
            return None;
        };
        if let Some(rate) = known.all.get(&key).filter(|rate| rate.is_like(&wanted)) {
            return Some(rate.clone());
        }
        let rate = Arc::new(wanted);
        known.entry(key, now).insert_entry(rate.clone());
        Some(rate)
    }
}

/// The rates of one domain and what it has used. A bucket is kept as the time when it will be
/// full again.
#[derive(Debug)]
pub(super) struct Rate {
    messages: Option<u32>,
    bytes: Option<u64>,
    full: Mutex<Full>,
}

#[derive(Debug, Default)]
struct Full {
    messages: Fill,
    bytes: Fill,
}

impl Rate {
    fn new(terms: &PeerPolicy) -> Option<Self> {
        let (messages, bytes) = (terms.messages_per_second, terms.bytes_per_second);
        (messages.is_some() || bytes.is_some()).then(|| Self {
            messages,
            bytes,
            full: Mutex::default(),
        })
    }

    fn is_like(&self, other: &Self) -> bool {
        self.messages == other.messages && self.bytes == other.bytes
    }

    fn is_full(&self, now: Instant) -> bool {
        let full = self.full.lock();
        full.messages.max(full.bytes).is_none_or(|at| at <= now)
    }

    /// A stanza of this size was taken; the time at which the next one may be, if that is not now.
    pub(super) fn spend(&self, size: usize, now: Instant) -> Option<Instant> {
        let mut full = self.full.lock();
        let next = self.messages.and_then(|rate| {
            let one = cost(1, u64::from(rate));
            // The next stanza needs room for itself.
            spend(&mut full.messages, one, BURST.saturating_sub(one), now)
        });
        let size = u64::try_from(size).unwrap_or(u64::MAX);
        let bytes = self
            .bytes
            .and_then(|rate| spend(&mut full.bytes, cost(size, rate), BURST, now));
        next.max(bytes)
    }
}

/// The time in which a rate brings this amount.
fn cost(amount: u64, per_second: u64) -> Duration {
    let nanos = amount.saturating_mul(1_000_000_000) / per_second.max(1);
    Duration::from_nanos(nanos)
}

fn spend(full: &mut Fill, cost: Duration, burst: Duration, now: Instant) -> Option<Instant> {
    let until = full.unwrap_or(now).max(now) + cost;
    *full = Some(until);
    let next = until.checked_sub(burst)?;
    (next > now).then_some(next)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;
    use xmpp_federation_core::edge_config::EdgeConfig;

    fn terms(messages: Option<u32>, bytes: Option<u64>) -> PeerPolicy {
        PeerPolicy {
            messages_per_second: messages,
            bytes_per_second: bytes,
            ..PeerPolicy::default()
        }
    }

    /// Takes stanzas as fast as the rate allows for `seconds`; how many.
    fn taken(terms: &PeerPolicy, size: usize, seconds: u64) -> u32 {
        let start = Instant::now() + Duration::from_hours(1);
        let (rate, mut now, mut count) = (Rate::new(terms).unwrap(), start, 0);
        while now < start + Duration::from_secs(seconds) {
            count += 1;
            now = rate.spend(size, now).unwrap_or(now);
        }
        count
    }

    #[rstest]
    #[case::messages(terms(Some(10), None), 1000, 10, 110)]
    #[case::one_per_second(terms(Some(1), None), 1000, 10, 10)]
    #[case::many(terms(Some(1000), None), 1000, 3, 4000)]
    #[case::bytes(terms(None, Some(5000)), 1000, 10, 55)]
    #[case::both_the_tighter_one_counts(terms(Some(10), Some(2000)), 1000, 10, 22)]
    #[case::a_stanza_above_the_rate_waits_its_time(terms(None, Some(1000)), 10_000, 20, 3)]
    fn what_comes_in_is_a_burst_of_one_second_and_the_rate(
        #[case] terms: PeerPolicy,
        #[case] size: usize,
        #[case] seconds: u64,
        #[case] expected: u32,
    ) {
        let count = taken(&terms, size, seconds);
        assert!(count.abs_diff(expected) <= 1 + expected / 100, "{count}");
    }

    #[test]
    fn refused_stanzas_have_a_bucket_for_each_payer_and_full_ones_are_forgotten() {
        let rates = Rates::default();
        let vngtp = || Payer::Partner(Domain::parse("vngtp.lab").unwrap());
        let (start, mut now, mut count) = (Instant::now(), Instant::now(), 0);
        while now < start + Duration::from_secs(10) {
            count += 1;
            now = rates
                .refused(vngtp(), Some(&count.to_string()), now)
                .until
                .unwrap_or(now);
        }
        assert!((2040..=2060).contains(&count), "{count}");
        for n in 0..10_000_u32 {
            let network = Payer::Network(IpAddr::from(n.to_be_bytes()));
            let paid = rates.refused(network, Some(&format!("user{n}")), now);
            assert_eq!((paid.until, paid.user_is_over), (None, false));
            now += REFUSED;
        }
        let refused = rates.refused.lock();
        assert!(refused.payers.all.len() <= TIDY);
        assert!(refused.users.all.len() <= TIDY + 2);
    }

    #[test]
    fn one_user_uses_up_no_bucket_but_its_own() {
        let rates = Rates::default();
        let payer = || Payer::Partner(Domain::parse("vngtp.lab").unwrap());
        let (start, mut now, mut count) = (Instant::now(), Instant::now(), 0);
        while now < start + Duration::from_secs(10) {
            if !rates.is_over("bob@vngtp.lab", now) {
                count += 1;
                assert_eq!(rates.refused(payer(), Some("bob@vngtp.lab"), now).until, None);
            }
            assert!(!rates.is_over("carol@vngtp.lab", now));
            now += Duration::from_millis(1);
        }
        assert!((515..=530).contains(&count), "{count}");
    }

    #[test]
    fn a_bucket_fills_again_up_to_one_second() {
        let rate = Rate::new(&terms(Some(4), None)).unwrap();
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(rate.spend(1, start), None);
        }
        let next = rate.spend(1, start).unwrap();
        assert_eq!(next, start + Duration::from_millis(250));
        let later = start + Duration::from_mins(1);
        for _ in 0..3 {
            assert_eq!(rate.spend(1, later), None, "no more than a second's");
        }
        assert!(rate.spend(1, later).is_some());
    }

    fn config(partners: &str, limits: &str) -> EdgeConfig {
        let yaml = format!(
            "domains: [coluc.com]\ndialback: {{sign: /s}}\ntls: {{}}\nrouters: []\npartners: [{partners}]\nlimits: {{{limits}}}\n"
        );
        serde_yaml::from_str(&yaml).unwrap()
    }

    #[test]
    fn streams_of_a_domain_share_its_bucket_until_a_reload_changes_its_rate() {
        let (vngtp, other) = (
            Domain::parse("vngtp.lab").unwrap(),
            Domain::parse("other.example").unwrap(),
        );
        let slow = Policy::new(&config(
            "{domain: vngtp.lab, limits: {messagesPerSecond: 1}}, {domain: other.example, limits: {bytesPerSecond: 9}}",
            "",
        ));
        let rates = Rates::default();
        let first = rates.of(&slow, &vngtp).unwrap();
        assert!(Arc::ptr_eq(&first, &rates.of(&slow, &vngtp).unwrap()));
        assert!(!Arc::ptr_eq(&first, &rates.of(&slow, &other).unwrap()));
        let faster = Policy::new(&config("{domain: vngtp.lab, limits: {messagesPerSecond: 2}}", ""));
        assert!(!Arc::ptr_eq(&first, &rates.of(&faster, &vngtp).unwrap()));
        assert!(rates.of(&faster, &other).is_none());
        assert_eq!(rates.known.lock().all.len(), 1);
    }

    #[test]
    fn domains_of_a_wildcard_share_its_bucket_and_those_of_the_default_rate_have_one_each() {
        let policy = Policy::new(&config(
            "{domain: '*.partner.example', limits: {messagesPerSecond: 1}}, {domain: a.partner.example}, {domain: '*.other.example'}",
            "messagesPerSecond: 2",
        ));
        let rates = Rates::default();
        let of = |name: &str| rates.of(&policy, &Domain::parse(name).unwrap()).unwrap();
        let same = |a: &str, b: &str| Arc::ptr_eq(&of(a), &of(b));
        assert!(same("b.partner.example", "x.c.partner.example"));
        assert!(!same("b.partner.example", "a.partner.example"), "it has its own entry");
        assert!(
            !same("b.other.example", "c.other.example"),
            "the rate is not the wildcard's"
        );
        assert!(!same("x.example", "y.example"));
        assert_eq!(of("b.partner.example").messages, Some(1));
        for name in ["a.partner.example", "b.other.example", "x.example"] {
            assert_eq!(of(name).messages, Some(2), "{name}");
        }
    }

    #[test]
    fn buckets_of_the_default_rate_are_forgotten_when_they_are_full_and_no_stream_has_them() {
        let policy = Policy::new(&config("", "messagesPerSecond: 10"));
        let (rates, mut now) = (Rates::default(), Instant::now());
        let held = rates
            .of_at(&policy, &Domain::parse("held.example").unwrap(), now)
            .unwrap();
        for n in 0..10_000_u32 {
            let name = Domain::parse(&format!("d{n}.example")).unwrap();
            let rate = rates.of_at(&policy, &name, now).unwrap();
            assert_eq!(rate.spend(100, now), None);
            drop(rate);
            let again = rates.of_at(&policy, &name, now).unwrap();
            assert!(!again.is_full(now), "what was used stays used");
            now += Duration::from_millis(1);
        }
        assert!(rates.known.lock().all.len() <= 2 * TIDY);
        let again = rates.of_at(&policy, &Domain::parse("held.example").unwrap(), now);
        assert!(Arc::ptr_eq(&held, &again.unwrap()));
    }
}
