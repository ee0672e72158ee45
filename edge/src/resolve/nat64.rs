//! IPv4 addresses inside IPv6 ones (NAT64, RFC 6052): which one a translator would send to.
//!
//! In a network without IPv4, DNS64 answers with such addresses for every domain that has IPv4
//! only. Anyone may publish them too, for any IPv4 address. Three sources tell the prefixes:
//!
//! - RFC 6052 itself: `64:ff9b::/96`;
//! - the resolver, if it does DNS64: [`Nat64::learn`] asks for a name that has known IPv4
//!   addresses only (RFC 7050);
//! - `dns.allowPrivateTargets`: its networks below `64:ff9b:1::/48`, which is for local use (RFC 8215).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv6Net};
use parking_lot::RwLock;
use tokio::sync::Mutex;
use tokio::time::timeout;
use xmpp_federation_core::edge_config::Cidr;

use super::dns::Lookup;

/// The lengths that a prefix may have (RFC 6052 section 2.2).
const LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];
/// `64:ff9b::/96`.
const WELL_KNOWN: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
/// `64:ff9b:1::/48`: its prefixes are anybody's choice.
const LOCAL_USE: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48);

/// Has these IPv4 addresses and no IPv6 ones, unless a resolver makes them (RFC 7050 section 2.2).
const PROBE: &str = "ipv4only.arpa.";
const PROBED: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];
/// How long an answer counts, and after which time a resolver that gave none is asked again.
const KEEP: Duration = Duration::from_hours(1);
const RETRY: Duration = Duration::from_mins(1);
/// How long the answer is waited for: addresses are judged without it then.
const PATIENCE: Duration = Duration::from_secs(2);
/// Prefixes that are believed; a network has one or two.
const MOST: usize = 8;

/// The IPv4 address behind a prefix of this length; octet 8 is not part of it.
fn embedded(address: Ipv6Addr, length: u8) -> Ipv4Addr {
    let octets = address.octets();
    let behind = (usize::from(length / 8)..octets.len()).filter(|at| *at != 8);
    let mut four = [0; 4];
    for (place, at) in four.iter_mut().zip(behind) {
        *place = octets.get(at).copied().unwrap_or_default();
    }
    four.into()
}

/// The prefixes that are known now.
#[derive(Debug, Default)]
pub(crate) struct Nat64 {
    given: Vec<Ipv6Net>,
    learned: RwLock<Vec<Ipv6Net>>,
    /// When to ask again; held while asking, so that others wait for the answer.
    due: Mutex<Option<Instant>>,
}

impl Nat64 {
    pub(crate) fn new(allowed: &[Cidr]) -> Self {
        let given = allowed.iter().filter_map(|network| match network.net() {
            // The whole of it says nothing about the length.
            IpNet::V6(net) if net.prefix_len() > LOCAL_USE.prefix_len() && LENGTHS.contains(&net.prefix_len()) => {
                LOCAL_USE.contains(&net).then(|| net.trunc())
            }
            _ => None,
        });
        Self {
            given: given.collect(),
            ..Self::default()
        }
    }

    /// Asks which prefixes the resolver makes addresses with, once an hour.
    pub(crate) async fn learn(&self, lookup: &dyn Lookup) {
        let mut due = self.due.lock().await;
        if due.is_some_and(|due| Instant::now() < due) {
            return;
        }
        let answer = timeout(PATIENCE, lookup.addresses(PROBE)).await;
        let Ok(Ok(found)) = answer else {
            // What was known stays known.
            *due = Some(Instant::now() + RETRY);
            return;
        };
        *due = Some(Instant::now() + KEEP);
        let mut prefixes = Vec::new();
        for address in found {
            let IpAddr::V6(address) = address else {
                continue;
            };
            for length in LENGTHS {
                let Ok(prefix) = Ipv6Net::new(address, length).map(|net| net.trunc()) else {
                    continue;
                };
                if PROBED.contains(&embedded(address, length)) && !prefixes.contains(&prefix) {
                    prefixes.push(prefix);
                }
            }
        }
        prefixes.truncate(MOST);
        *self.learned.write() = prefixes;
    }

    /// The IPv4 addresses that a translator would send to; empty for an address that is not NAT64.
    /// There are several where the length of the prefix is not known.
    pub(crate) fn inside(&self, address: IpAddr) -> Vec<Ipv4Addr> {
        let IpAddr::V6(address) = address else {
            return Vec::new();
        };
        let learned = self.learned.read();
        let known = [WELL_KNOWN];
        let known = known.iter().chain(&self.given).chain(learned.iter());
        let found: Vec<_> = known
            .filter(|prefix| prefix.contains(&address))
            .map(|prefix| embedded(address, prefix.prefix_len()))
            .collect();
        if !found.is_empty() || !LOCAL_USE.contains(&address) {
            return found;
        }
        // With a length that is not the network's, zeros of the prefix come first, most often:
        // such an address leads nowhere.
        let lengths = LENGTHS.into_iter().filter(|l| *l >= LOCAL_USE.prefix_len());
        let all: Vec<_> = lengths.map(|length| embedded(address, length)).collect();
        let some: Vec<_> = all.iter().copied().filter(|ip| ip.octets()[0] != 0).collect();
        if some.is_empty() { all } else { some }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rstest::rstest;

    use super::*;
    use crate::resolve::dns::{LookupError, LookupFuture, SrvRecord};

    /// RFC 6052 section 2.4, tables 1 and 2.
    #[rstest]
    #[case("2001:db8:c000:221::", 32)]
    #[case("2001:db8:1c0:2:21::", 40)]
    #[case("2001:db8:122:c000:2:2100::", 48)]
    #[case("2001:db8:122:3c0:0:221::", 56)]
    #[case("2001:db8:122:344:c0:2:2100::", 64)]
    #[case("2001:db8:122:344::192.0.2.33", 96)]
    #[case("64:ff9b::192.0.2.33", 96)]
    fn an_address_is_taken_out_as_the_standard_shows(#[case] six: Ipv6Addr, #[case] length: u8) {
        assert_eq!(embedded(six, length), Ipv4Addr::new(192, 0, 2, 33));
    }

    #[rstest]
    #[case("64:ff9b::10.0.0.5", "10.0.0.5")]
    #[case("2001:db8::10.0.0.5", "")]
    #[case("10.0.0.5", "")]
    // Local use: /96 is the usual length, and the others lead nowhere with it.
    #[case("64:ff9b:1::198.51.100.7", "198.51.100.7")]
    #[case("64:ff9b:1::", "0.0.0.0 0.0.0.0 0.0.0.0 0.0.0.0")]
    // Which of these a translator takes cannot be seen.
    #[case("64:ff9b:1:a00:0:500::", "10.0.0.5")]
    #[case("64:ff9b:1:a00:0:501:c633:6407", "10.0.0.5 198.51.100.7")]
    // A prefix that the configuration names.
    #[case("64:ff9b:1:abcd::10.0.0.5", "10.0.0.5")]
    #[case("64:ff9b:1:abce::10.0.0.5", "171.206.0.0 206.0.0.0 10.0.0.5")]
    fn a_translators_target_is_known(#[case] address: IpAddr, #[case] expected: &str) {
        let nat64 = Nat64::new(&["64:ff9b:1:abcd::/96".parse().unwrap()]);
        let found: Vec<_> = nat64.inside(address).iter().map(ToString::to_string).collect();
        assert_eq!(found.join(" "), expected);
    }

    /// A resolver that does DNS64 with two prefixes, or fails.
    struct FakeResolver {
        answers: bool,
        asked: AtomicUsize,
    }

    impl Lookup for FakeResolver {
        fn srv<'a>(&'a self, _: &'a str) -> LookupFuture<'a, SrvRecord> {
            Box::pin(async { Ok(Vec::new()) })
        }
        fn addresses<'a>(&'a self, name: &'a str) -> LookupFuture<'a, IpAddr> {
            assert_eq!(name, "ipv4only.arpa.");
            self.asked.fetch_add(1, Ordering::SeqCst);
            Box::pin(async {
                if !self.answers {
                    return Err(LookupError("SERVFAIL".to_owned()));
                }
                let texts = [
                    "2001:db8:64::192.0.0.170",
                    "2001:db8:64::192.0.0.171",
                    "2001:db8:122:344:c0:0:ab00::",
                    "192.0.0.170",
                ];
                Ok(texts.iter().map(|text| text.parse().unwrap()).collect())
            })
        }
    }

    #[rstest]
    #[case("2001:db8:64::10.0.0.5", "10.0.0.5")]
    #[case("2001:db8:122:344:a:0:500::", "10.0.0.5")]
    #[case("2001:db8:65::10.0.0.5", "")]
    #[tokio::test]
    async fn the_resolver_tells_the_networks_own_prefixes(#[case] address: IpAddr, #[case] expected: &str) {
        let nat64 = Nat64::default();
        let lookup = FakeResolver {
            answers: true,
            asked: AtomicUsize::new(0),
        };
        assert!(nat64.inside(address).is_empty());
        for _ in 0..3 {
            nat64.learn(&lookup).await;
        }
        assert_eq!(lookup.asked.load(Ordering::SeqCst), 1, "once an hour");
        let found: Vec<_> = nat64.inside(address).iter().map(ToString::to_string).collect();
        assert_eq!(found.join(" "), expected);
    }

    #[tokio::test]
    async fn a_resolver_that_fails_is_not_asked_each_time() {
        let nat64 = Nat64::default();
        let lookup = FakeResolver {
            answers: false,
            asked: AtomicUsize::new(0),
        };
        for _ in 0..3 {
            nat64.learn(&lookup).await;
        }
        assert_eq!(lookup.asked.load(Ordering::SeqCst), 1);
    }
}
