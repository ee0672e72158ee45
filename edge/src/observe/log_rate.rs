//! How many lines of the log somebody may cause: a peer that fails a check with every element, or
//! a user who writes to ever new domains, must not fill the log. What is not written is counted, and
//! told once a minute; metrics and [`crate::observe::failures`] count everything.
//!
//! Partners have places of their own: however many strangers cause lines, those of a partner are
//! written.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use xmpp_federation_core::Domain;

use crate::network::network_of;
use crate::observe::metrics::Metrics;

/// After this time lines are written again.
const MINUTE: Duration = Duration::from_mins(1);
/// Lines of a minute about one check that peers of one network fail.
pub(crate) const REFUSALS: u32 = 20;
/// Lines of a minute about one step of a stream or of dialback with one network. More, since a
/// server may bring many domains at once.
pub(crate) const EXCHANGES: u32 = 60;

/// Because of whom a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Party<'a> {
    /// Somebody called from this address; and in whose name, as far as it said so.
    Caller(IpAddr, Option<&'a Domain>),
    /// We call this domain, at this address as far as it is known.
    Called(&'a Domain, Option<IpAddr>),
    /// The XCP router sent something.
    Router,
}

/// Who shares the lines of one minute.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum LineShare {
    /// A network that no partner is known at.
    Network(IpAddr),
    /// Such a network, in the name of a partner.
    Claimed(IpAddr),
    /// A network that a partner is at.
    Partner(IpAddr),
    /// A partner that we call.
    Domain(Domain),
    /// Domains that nobody configured, before an address of theirs is known.
    Domains,
    /// The XCP routers.
    Router,
    /// All that find no place of their own.
    Rest(ShareKind),
}

/// Places of one kind do not take those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ShareKind {
    Stranger,
    Claimed,
    Partner,
}

impl ShareKind {
    /// Subjects told apart in a minute; all others of the kind share what one gets.
    const fn most(self) -> usize {
        match self {
            Self::Stranger | Self::Claimed => 256,
            Self::Partner => 1024,
        }
    }
}

impl LineShare {
    fn of(party: Party<'_>, trust: &impl PartnerLookup) -> Self {
        match party {
            Party::Caller(address, named) => {
                let network = network_of(address);
                if trust.is_partners(address) {
                    Self::Partner(network)
                } else if named.is_some_and(|named| trust.is_partner(named)) {
                    Self::Claimed(network)
                } else {
                    Self::Network(network)
                }
            }
            Party::Called(remote, _) if trust.is_partner(remote) => Self::Domain(remote.clone()),
            Party::Called(_, Some(address)) => Self::Network(network_of(address)),
            Party::Called(_, None) => Self::Domains,
            Party::Router => Self::Router,
        }
    }

    const fn kind(&self) -> ShareKind {
        match self {
            Self::Network(_) | Self::Domains => ShareKind::Stranger,
            Self::Claimed(_) => ShareKind::Claimed,
            Self::Partner(_) | Self::Domain(_) | Self::Router => ShareKind::Partner,
            Self::Rest(kind) => *kind,
        }
    }
}

impl fmt::Display for LineShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) | Self::Claimed(network) | Self::Partner(network) => network.fmt(f),
            Self::Domain(domain) => domain.fmt(f),
            Self::Domains => f.write_str("domains that are not configured"),
            Self::Router => f.write_str("XCP routers"),
            Self::Rest(ShareKind::Partner) => f.write_str("other partners"),
            Self::Rest(ShareKind::Stranger | ShareKind::Claimed) => f.write_str("other networks"),
        }
    }
}

/// Says who belongs to a partner.
pub(crate) trait PartnerLookup {
    /// Whether an administrator wrote this domain down.
    fn is_partner(&self, remote: &Domain) -> bool;
    /// Whether a domain that an administrator wrote down is at this address.
    fn is_partners(&self, address: IpAddr) -> bool;
}

/// What a line is about, a word of a small fixed set, and because of whom it is written.
type Subject = (&'static str, LineShare);

/// What was logged in this minute.
#[derive(Debug)]
pub(crate) struct LogRate(Mutex<Minute>);

#[derive(Debug)]
struct Minute {
    began: Instant,
    written: HashMap<Subject, LineCount>,
    /// Places taken by kind.
    places: HashMap<ShareKind, usize>,
    /// Lines that standard output had not taken when the minute began.
    unwritten: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct LineCount {
    lines: u32,
    unwritten: u64,
}

/// Lines that were left out.
#[derive(Debug, PartialEq, Eq)]
struct LinesLeftOut {
    subject: Subject,
    lines: u64,
}

impl Default for LogRate {
    fn default() -> Self {
        Self(Mutex::new(Minute::new(Instant::now())))
    }
}

impl LogRate {
    /// Whether one more line may be written, of `most` in a minute; `about`: a word of a small fixed
    /// set.
    pub(crate) fn admit(
        &self,
        about: &'static str,
        party: Party<'_>,
        trust: &impl PartnerLookup,
        most: u32,
        now: Instant,
    ) -> bool {
        let place = LineShare::of(party, trust);
        let mut minute = self.0.lock();
        let ended = minute.end_by(now);
        let admitted = minute.admit((about, place), most);
        drop(minute);
        tell(&ended);
        admitted
    }

    /// Tells what was not written at the end of each minute, also if nobody causes lines any more.
    pub(crate) async fn run(&self, metrics: &Metrics) {
        let mut minutes = tokio::time::interval(MINUTE);
        loop {
            let now = minutes.tick().await;
            let unwritten = metrics.unwritten_lines();
            let mut minute = self.0.lock();
            let ended = minute.end_by(now);
            let lost = unwritten - std::mem::replace(&mut minute.unwritten, unwritten);
            drop(minute);
            tell(&ended);
            if lost > 0 {
                tracing::warn!(
                    lines = lost,
                    "standard output is not read fast enough; these lines were not written"
                );
            }
        }
    }

    /// The edge ends: tells what was not written until now.
    pub(crate) fn end(&self) {
        let ended = self.0.lock().end(Instant::now());
        tell(&ended);
    }
}

impl Minute {
    fn new(began: Instant) -> Self {
        Self {
            began,
            written: HashMap::new(),
            places: HashMap::new(),
            unwritten: 0,
        }
    }

    fn admit(&mut self, mut subject: Subject, most: u32) -> bool {
        if !self.written.contains_key(&subject) {
            let kind = subject.1.kind();
            let taken = self.places.entry(kind).or_default();
            if *taken < kind.most() {
                *taken += 1;
            } else {
                subject.1 = LineShare::Rest(kind);
            }
        }
        let written = self.written.entry(subject).or_default();
        if written.lines < most {
            written.lines += 1;
            return true;
        }
        written.unwritten += 1;
        false
    }

    fn end_by(&mut self, now: Instant) -> Vec<LinesLeftOut> {
        if now.duration_since(self.began) < MINUTE {
            return Vec::new();
        }
        self.end(now)
    }

    fn end(&mut self, now: Instant) -> Vec<LinesLeftOut> {
        let fresh = Self {
            unwritten: self.unwritten,
            ..Self::new(now)
        };
        let ended = std::mem::replace(self, fresh);
        let unwritten = ended.written.into_iter().map(|(subject, written)| LinesLeftOut {
            subject,
            lines: written.unwritten,
        });
        unwritten.filter(|unwritten| unwritten.lines > 0).collect()
    }
}

fn tell(ended: &[LinesLeftOut]) {
    for LinesLeftOut {
        subject: (about, place),
        lines,
    } in ended
    {
        tracing::warn!(
            about,
            source = %place,
            lines,
            "too many log lines about one subject in a minute; the rest was not written"
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn v6(network: u16, host: u16) -> IpAddr {
        IpAddr::from([0x2001, 0xdb8, 0, network, 0, 0, 0, host])
    }

    /// `partner.example` is written down and is at 192.0.2.1.
    struct Configured;

    impl PartnerLookup for Configured {
        fn is_partner(&self, remote: &Domain) -> bool {
            remote.as_str() == "partner.example"
        }
        fn is_partners(&self, address: IpAddr) -> bool {
            address == IpAddr::from([192, 0, 2, 1])
        }
    }

    #[test]
    fn a_peer_has_so_many_lines_a_minute_and_what_was_not_written_is_told() {
        let rate = LogRate::default();
        let began = rate.0.lock().began;
        let admitted = |about, peer, now| rate.admit(about, Party::Caller(peer, None), &Configured, REFUSALS, now);
        // The hosts of one network count together.
        let written = (0..500).filter(|n| admitted("policy", v6(1, *n), began));
        assert_eq!(written.count(), REFUSALS as usize);
        assert!(admitted("hosted", v6(1, 1), began), "another check");
        assert!(admitted("policy", v6(2, 1), began), "another network");
        let late = began + MINUTE - Duration::from_millis(1);
        assert!(!admitted("policy", v6(1, 1), late));
        assert!(rate.0.lock().end_by(late).is_empty());
        assert_eq!(
            rate.0.lock().end_by(began + MINUTE),
            [LinesLeftOut {
                subject: ("policy", LineShare::Network(v6(1, 0))),
                lines: 500 - u64::from(REFUSALS) + 1
            }]
        );
        assert!(admitted("policy", v6(1, 1), began + MINUTE));
        // The next minute begins with the first line after the last one, too.
        assert!(admitted("policy", v6(1, 1), began + 3 * MINUTE));
        assert_eq!(rate.0.lock().began, began + 3 * MINUTE);
        assert!(rate.0.lock().end(began + 3 * MINUTE).is_empty());
    }

    #[test]
    fn any_number_of_networks_has_a_bounded_number_of_lines_and_partners_keep_theirs() {
        let rate = LogRate::default();
        let began = rate.0.lock().began;
        let partner = Domain::parse("partner.example").unwrap();
        let foreign = Domain::parse("foreign.example").unwrap();
        let admit = |party| rate.admit("policy", party, &Configured, REFUSALS, began);
        let apart = ShareKind::Stranger.most();
        for named in [None, Some(&foreign), Some(&partner)] {
            let mut written = 0;
            for network in 0..10_000 {
                for host in 0..3 {
                    written += usize::from(admit(Party::Caller(v6(network, host), named)));
                }
            }
            let most = match named {
                Some(named) if *named == foreign => 17 * apart,
                _ => 3 * apart + REFUSALS as usize,
            };
            assert!(written <= most, "{written} lines with {named:?}");
        }
        // All places of strangers are taken; no place of a partner is.
        assert!(!admit(Party::Called(&foreign, None)));
        for party in [
            Party::Caller([192, 0, 2, 1].into(), None),
            Party::Caller([192, 0, 2, 1].into(), Some(&foreign)),
            Party::Called(&partner, None),
            Party::Called(&partner, Some(v6(1, 1))),
            Party::Router,
        ] {
            assert!(admit(party), "{party:?}");
        }
        assert!(rate.0.lock().written.len() <= 2 * (apart + 1) + 3);
        let ended = rate.0.lock().end_by(began + MINUTE);
        let unwritten: u64 = ended.iter().map(|unwritten| unwritten.lines).sum();
        assert!(unwritten > 60_000, "{unwritten} lines were not written");
    }
}
