//! Whether a router that accepts a link also takes what it is sent over it.
//!
//! A router that has not read its table bounces everything (Cisco's guide, symptom two), and so do
//! others whose cluster is broken behind them; stanzas to a user who is away or does not exist bounce too.
//! To tell the two apart, messages and requests are counted when the router has provably processed
//! them, and errors when they come back over the same link. A *run* of returns lasts as long as
//! nothing else becomes of what was sent: it ends with the first stanza that has not come back
//! [`SPAN`] to twice [`SPAN`] after it was processed, with the first result, and with another
//! condition. Only numbers are kept: no stanza is remembered.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use tokio::time::Instant;
use xmpp_federation_core::edge_status;

use crate::bounce::STANZA_ERRORS;
use xmpp_federation_xml::Element;

/// What has not come back after this time, at most twice this, was taken.
const SPAN: Duration = Duration::from_secs(3);
/// A run without a further return for this long tells nothing any more.
const FORGET: Duration = Duration::from_mins(10);
/// Returns from which on a run may be everything …
const LEAST: u64 = 3;
/// … and those of a condition that single users cause: so many,
const LEAST_OF_USERS: u64 = 8;
/// from so many of them,
const USERS: usize = 3;
/// in not less than this time.
const LONG_OF_USERS: Duration = Duration::from_secs(10);

/// The defined conditions (RFC 6120 section 8.3.3).
#[rustfmt::skip]
const CONDITIONS: [&str; 22] = [
    "bad-request", "conflict", "feature-not-implemented", "forbidden", "gone",
    "internal-server-error", "item-not-found", "jid-malformed", "not-acceptable", "not-allowed",
    "not-authorized", "policy-violation", "recipient-unavailable", "redirect",
    "registration-required", "remote-server-not-found", "remote-server-timeout",
    "resource-constraint", "service-unavailable", "subscription-required", "undefined-condition",
    "unexpected-request",
];
/// What an error without a defined condition counts as.
const UNDEFINED: &str = "undefined-condition";

/// Whether a single user, who is away, unknown or unwilling, may cause the condition. The others
/// are about servers.
fn is_of_users(condition: &str) -> bool {
    !matches!(
        condition,
        "internal-server-error" | "remote-server-not-found" | "remote-server-timeout" | "resource-constraint"
    )
}

/// The condition of a stanza error, as far as it is written as usual: the last element of the
/// errors' namespace that is one. No tree is built, since everybody may cause errors.
pub fn condition(error: &Element) -> &'static str {
    let bytes = error.bytes();
    let mut found = memchr::memmem::rfind_iter(bytes, STANZA_ERRORS.as_bytes()).take(4);
    found
        .find_map(|at| {
            let before = bytes.get(..at)?;
            let tag = before.get(memchr::memrchr(b'<', before)? + 1..)?;
            let name = tag.split(u8::is_ascii_whitespace).next()?;
            let local = name.rsplit(|b| *b == b':').next()?;
            CONDITIONS.into_iter().find(|known| known.as_bytes() == local)
        })
        .unwrap_or(UNDEFINED)
}

/// What a stanza of a hosted user says about the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouterEvidence {
    /// A message or request came back.
    Returned,
    /// Nothing: presence that came back, which is not counted as sent either.
    Nothing,
    /// Somebody writes to a partner: the router knows the way to us.
    Sent,
    /// The result of a request: it was taken.
    Answered,
}

impl RouterEvidence {
    /// From the stanza's name and type.
    pub fn of(element: &Element) -> Self {
        match (element.name(), element.type_().as_deref()) {
            ("message" | "iq", Some("error")) => Self::Returned,
            (_, Some("error")) => Self::Nothing,
            ("iq", Some("result")) => Self::Answered,
            _ => Self::Sent,
        }
    }
}

/// A run of returns.
#[derive(Debug)]
struct Run {
    condition: &'static str,
    since: jiff::Timestamp,
    began: Instant,
    last: Instant,
    returned: u64,
    /// Hashes of the first addressees, which are never told.
    users: [u64; USERS],
    known: usize,
    /// It was found to be everything.
    told: bool,
}

impl Run {
    fn meets(&mut self, user: u64) {
        let known = self.users.get(..self.known).unwrap_or_default();
        if !known.contains(&user)
            && let Some(place) = self.users.get_mut(self.known)
        {
            *place = user;
            self.known += 1;
        }
    }
}

/// What became of the messages and requests of one stay up of a link.
#[derive(Debug, Default)]
pub struct ReturnCounts {
    run: Option<Run>,
    /// Processed and not come back: in this span and in the one before.
    open: [u64; 2],
    /// Came back before the proof that they were processed.
    early: u64,
    /// When this span began.
    span: Option<Instant>,
}

impl ReturnCounts {
    /// The router has provably processed so many messages and requests.
    pub fn processed(&mut self, now: Instant, requests: usize) {
        self.turn(now);
        let early = std::mem::take(&mut self.early);
        let [fresh, _] = &mut self.open;
        *fresh += (requests as u64).saturating_sub(early);
    }

    /// One came back from that address while so many were sent and not proven; whether it shows
    /// for the first time that all come back.
    pub fn came_back(&mut self, now: Instant, condition: &'static str, from: &str, unproven: usize) -> bool {
        self.turn(now);
        let [fresh, before] = &mut self.open;
        // A router answers in order, so it is one of those; only then a late one of those before.
        if self.early < unproven as u64 {
            self.early += 1;
        } else if *before > 0 {
            *before -= 1;
        } else {
            *fresh = fresh.saturating_sub(1);
        }
        let run = self.run.take_if(|run| run.condition == condition);
        let mut run = run.unwrap_or_else(|| Run {
            condition,
            since: jiff::Timestamp::now(),
            began: now,
            last: now,
            returned: 0,
            users: [0; USERS],
            known: 0,
            told: false,
        });
        run.last = now;
        run.returned += 1;
        let mut hasher = DefaultHasher::new();
        from.split('/').next().hash(&mut hasher);
        run.meets(hasher.finish());
        let news = !run.told && self.is_everything(&run, now);
        run.told |= news;
        self.run = Some(run);
        news
    }

    /// Something else came over the link.
    pub fn heard(&mut self, heard: RouterEvidence) {
        let over = |run: &mut Run| match heard {
            RouterEvidence::Returned | RouterEvidence::Nothing => false,
            // A router that bounces for want of a way to us sends us nothing else. Where servers
            // fail, users may go on writing.
            RouterEvidence::Sent => is_of_users(run.condition),
            RouterEvidence::Answered => true,
        };
        self.run.take_if(over);
    }

    /// The run under way, as `/status` tells it.
    pub fn told(&mut self, now: Instant) -> Option<edge_status::ReturnedStanzas> {
        self.turn(now);
        let run = self.run.as_ref()?;
        Some(edge_status::ReturnedStanzas {
            since: run.since.to_string(),
            sent: run.returned + self.open.iter().sum::<u64>(),
            returned: run.returned,
            condition: run.condition.to_owned(),
            everything: self.is_everything(run, now),
        })
    }

    fn is_everything(&self, run: &Run, now: Instant) -> bool {
        let lasted = now.saturating_duration_since(run.began);
        let enough = if is_of_users(run.condition) {
            run.returned >= LEAST_OF_USERS && run.known == USERS && lasted >= LONG_OF_USERS
        } else {
            run.returned >= LEAST
        };
        // Whatever was taken in the first span has ended the run by now.
        enough && lasted >= 3 * SPAN && self.open.iter().sum::<u64>() <= run.returned / 10
    }

    /// Time goes on.
    fn turn(&mut self, now: Instant) {
        self.run
            .take_if(|run| now.saturating_duration_since(run.last) >= FORGET);
        let span = *self.span.get_or_insert(now);
        let passed = now.saturating_duration_since(span);
        if passed < SPAN {
            return;
        }
        let [fresh, before] = self.open;
        let late = passed >= 2 * SPAN;
        if before > 0 || (late && fresh > 0) {
            self.run = None;
        }
        self.open = [0, if late { 0 } else { fresh }];
        self.span = Some(now);
    }
}

#[cfg(test)]
mod tests;
