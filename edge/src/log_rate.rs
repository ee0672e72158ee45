//! How many lines of the log a peer may cause: whoever fails a check with every element must not
//! fill the log. What is not written is counted, and told once a minute; metrics and
//! [`crate::failures`] count everything.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::inbound::network_of;

/// After this time lines are written again.
const MINUTE: Duration = Duration::from_mins(1);
/// Lines of a minute about one check that peers of one network fail.
pub(crate) const REFUSALS: u32 = 20;
/// Lines of a minute about one step of dialback with one network. More, since a server may bring
/// many domains at once.
pub(crate) const EXCHANGES: u32 = 60;
/// Networks and subjects told apart in a minute; all others share what one network gets.
const TOLD_APART: usize = 256;

/// What a line is about, and which network; `None`: all that are not told apart.
type Subject = (&'static str, Option<IpAddr>);

/// What was logged in this minute.
#[derive(Debug)]
pub(crate) struct LogRate(Mutex<Minute>);

#[derive(Debug)]
struct Minute {
    began: Instant,
    written: HashMap<Subject, Written>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Written {
    lines: u32,
    unwritten: u64,
}

/// Lines that were left out.
#[derive(Debug, PartialEq, Eq)]
struct Unwritten {
    subject: Subject,
    lines: u64,
}

impl Default for LogRate {
    fn default() -> Self {
        Self(Mutex::new(Minute::new(Instant::now())))
    }
}

impl LogRate {
    fn lock(&self) -> MutexGuard<'_, Minute> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more line about a peer may be written, of `most` in a minute; `about`: a word
    /// of a small fixed set.
    pub(crate) fn admit(&self, about: &'static str, peer: IpAddr, most: u32, now: Instant) -> bool {
        let mut minute = self.lock();
        let ended = minute.end_by(now);
        let admitted = minute.admit((about, Some(network_of(peer))), most);
        drop(minute);
        tell(&ended);
        admitted
    }

    /// Tells what was not written at the end of each minute, also if nobody causes lines any more.
    pub(crate) async fn run(&self) {
        let mut minutes = tokio::time::interval(MINUTE);
        loop {
            let now = minutes.tick().await;
            let ended = self.lock().end_by(now);
            tell(&ended);
        }
    }

    /// The edge ends: tells what was not written until now.
    pub(crate) fn end(&self) {
        let ended = self.lock().end(Instant::now());
        tell(&ended);
    }
}

impl Minute {
    fn new(began: Instant) -> Self {
        Self {
            began,
            written: HashMap::new(),
        }
    }

    fn admit(&mut self, (about, network): Subject, most: u32) -> bool {
        let mut subject = (about, network);
        if self.written.len() >= TOLD_APART && !self.written.contains_key(&subject) {
            subject = (about, None);
        }
        let written = self.written.entry(subject).or_default();
        if written.lines < most {
            written.lines += 1;
            return true;
        }
        written.unwritten += 1;
        false
    }

    fn end_by(&mut self, now: Instant) -> Vec<Unwritten> {
        if now.duration_since(self.began) < MINUTE {
            return Vec::new();
        }
        self.end(now)
    }

    fn end(&mut self, now: Instant) -> Vec<Unwritten> {
        let ended = std::mem::replace(self, Self::new(now));
        let unwritten = ended
            .written
            .into_iter()
            .map(|(subject, written)| Unwritten {
                subject,
                lines: written.unwritten,
            });
        unwritten.filter(|unwritten| unwritten.lines > 0).collect()
    }
}

fn tell(ended: &[Unwritten]) {
    for Unwritten {
        subject: (about, network),
        lines,
    } in ended
    {
        tracing::warn!(
            about,
            network = network.map(|network| network.to_string()),
            lines,
            "one peer caused too many lines in a minute; these were not written"
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

    #[test]
    fn a_peer_has_so_many_lines_a_minute_and_what_was_not_written_is_told() {
        let rate = LogRate::default();
        let began = rate.lock().began;
        let admitted = |about, peer, now| rate.admit(about, peer, REFUSALS, now);
        // The hosts of one network count together.
        let written = (0..500).filter(|n| admitted("policy", v6(1, *n), began));
        assert_eq!(written.count(), REFUSALS as usize);
        assert!(admitted("hosted", v6(1, 1), began), "another check");
        assert!(admitted("policy", v6(2, 1), began), "another network");
        let late = began + MINUTE - Duration::from_millis(1);
        assert!(!admitted("policy", v6(1, 1), late));
        assert!(rate.lock().end_by(late).is_empty());
        assert_eq!(
            rate.lock().end_by(began + MINUTE),
            [Unwritten {
                subject: ("policy", Some(v6(1, 0))),
                lines: 500 - u64::from(REFUSALS) + 1
            }]
        );
        assert!(admitted("policy", v6(1, 1), began + MINUTE));
        // The next minute begins with the first line after the last one, too.
        assert!(admitted("policy", v6(1, 1), began + 3 * MINUTE));
        assert_eq!(rate.lock().began, began + 3 * MINUTE);
        assert!(rate.lock().end(began + 3 * MINUTE).is_empty());
    }

    #[test]
    fn any_number_of_networks_has_a_bounded_number_of_lines() {
        let rate = LogRate::default();
        let began = rate.lock().began;
        let mut written = 0;
        for network in 0..10_000 {
            for host in 0..3 {
                let admitted = rate.admit("policy", v6(network, host), REFUSALS, began);
                written += usize::from(admitted);
            }
        }
        assert_eq!(rate.lock().written.len(), TOLD_APART + 1);
        assert_eq!(written, 3 * TOLD_APART + REFUSALS as usize);
        let ended = rate.lock().end_by(began + MINUTE);
        let unwritten: u64 = ended.iter().map(|unwritten| unwritten.lines).sum();
        assert_eq!(unwritten, 30_000 - u64::try_from(written).unwrap());
    }
}
