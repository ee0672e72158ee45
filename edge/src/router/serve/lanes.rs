//! Where stanzas of a router go, remembered while the configuration stays.

use super::{BATCH, LiveLink};
use crate::bounce::Cause;
use crate::clusters::select;
use crate::config::Live;
use crate::jid::{JidFault, LONGEST, LastJudged, Side, domain_part, judge};
use bytes::BytesMut;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use xmpp_federation_core::Domain;
use xmpp_federation_xml::{ns, split};

/// Ways of stanzas that a link remembers; a router that uses more only loses the saving.
pub(super) const LANES: usize = 1024;

/// A way of stanzas that was checked: hosted sender, foreign recipient.
pub(super) struct PairLane {
    pub(super) from: Box<str>,
    pub(super) to: Box<str>,
    pub(super) local: Domain,
    pub(super) remote: Domain,
    /// What is written instead, if these are other spellings than those of our streams' headers.
    pub(super) from_instead: Option<Box<str>>,
    pub(super) to_instead: Option<Box<str>>,
    /// Those of this turn, as parts of its text.
    pub(super) stanzas: Vec<Range<usize>>,
}

/// Places for stanzas that a lane keeps between turns.
pub(super) const SPARE: usize = 16;

/// The ways that the router's stanzas take under one configuration.
#[derive(Default)]
pub(super) struct Lanes {
    pub(super) live: Option<Arc<Live>>,
    pub(super) all: Vec<PairLane>,
    /// By the domain parts of `from` and `to` as written, with a separator that neither can have.
    pub(super) known: HashMap<Box<str>, usize>,
    /// The last stanza's: most are like the one before.
    pub(super) last: usize,
    /// The last addresses that were found good, and their lane.
    pub(super) judged: (LastJudged, usize),
    pub(super) key: String,
    /// Those with stanzas.
    pub(super) used: Vec<usize>,
    /// This turn's stanzas, as they leave.
    pub(super) text: BytesMut,
}

impl Lanes {
    /// What was checked under another configuration does not count.
    pub(super) fn under(&mut self, live: &Arc<Live>) {
        let same = self.live.as_ref().is_some_and(|own| Arc::ptr_eq(own, live));
        if !same || self.all.len() > LANES {
            self.known = HashMap::new();
            self.all = Vec::new();
            self.judged.0.forget();
            self.live = Some(live.clone());
        }
    }

    pub(super) fn find(&mut self, from: &str, to: &str) -> Option<usize> {
        let last = self.all.get(self.last);
        if last.is_some_and(|lane| *lane.from == *from && *lane.to == *to) {
            return Some(self.last);
        }
        if from.len().max(to.len()) > LONGEST {
            return None;
        }
        self.write_key(from, to);
        self.last = *self.known.get(self.key.as_str())?;
        Some(self.last)
    }

    pub(super) fn add(&mut self, (from, to): (&str, &str), local: Domain, remote: Domain, side: Side<'_>) -> usize {
        self.write_key(from, to);
        self.last = self.all.len();
        self.known.insert(self.key.as_str().into(), self.last);
        self.all.push(PairLane {
            from: from.into(),
            to: to.into(),
            from_instead: side.instead(from, &local),
            to_instead: side.instead(to, &remote),
            local,
            remote,
            stanzas: Vec::new(),
        });
        self.last
    }

    pub(super) fn write_key(&mut self, from: &str, to: &str) {
        self.key.clear();
        self.key.push_str(from);
        self.key.push('\0');
        self.key.push_str(to);
    }

    /// What is behind `start` in the text is a stanza of this lane.
    pub(super) fn append(&mut self, lane: usize, start: usize) {
        if let Some(found) = self.all.get_mut(lane) {
            if found.stanzas.is_empty() {
                self.used.push(lane);
            }
            found.stanzas.push(start..self.text.len());
        }
    }
}

/// Why a stanza has no lane.
pub(super) enum NoLane {
    /// It may not leave.
    Check(Cause),
    /// Its sender's address is none.
    From(JidFault),
    /// Its recipient's address is none.
    To,
}

impl LiveLink<'_> {
    /// Hands the stanzas of this turn to the streams of their recipients' domains.
    pub(super) fn hand_over(&mut self, live: &Arc<Live>) {
        let routers = &self.link.routers;
        let mut used = std::mem::take(&mut self.lanes.used);
        let mut text = std::mem::take(&mut self.lanes.text);
        for lane in used.drain(..) {
            let Some(lane) = self.lanes.all.get_mut(lane) else {
                continue;
            };
            let mut stanzas = std::mem::take(&mut lane.stanzas);
            let (local, remote) = (&lane.local, &lane.remote);
            let pushed = routers.outbound.push_all(live, local, remote, &text, &mut stanzas);
            // An idle lane holds little memory.
            if pushed.is_ok() && stanzas.capacity() <= SPARE {
                lane.stanzas = stanzas;
                continue;
            }
            for stanza in stanzas {
                let stanza = text.get(stanza).unwrap_or_default();
                for element in split(stanza, ns::SERVER) {
                    self.refuse(live, &element, pushed.err().unwrap_or(Cause::QueueFull));
                }
            }
        }
        self.lanes.used = used;
        if text.capacity() <= BATCH {
            text.clear();
            self.lanes.text = text;
        }
    }

    /// The lane of a stanza whose addresses are good.
    pub(super) fn find_lane(&mut self, live: &Live, from: Option<&str>, to: Option<&str>) -> Result<usize, NoLane> {
        let both = from.zip(to);
        let (last, lane) = &self.lanes.judged;
        if both.is_some_and(|(from, to)| last.are(from, to)) {
            return Ok(*lane);
        }
        let known = both.and_then(|(from, to)| self.lanes.find(domain_part(from), domain_part(to)));
        let lane = match known {
            Some(lane) => lane,
            None => self.check(live, from, to).map_err(NoLane::Check)?,
        };
        let (from, to) = both.unwrap_or_default();
        judge(from, &mut self.domains).map_err(NoLane::From)?;
        judge(to, &mut self.domains).map_err(|_| NoLane::To)?;
        self.lanes.judged.0.note(from, to);
        self.lanes.judged.1 = lane;
        Ok(lane)
    }

    /// Whether a stanza may go from one address to the other; then it has a lane from now on.
    pub(super) fn check(&mut self, live: &Live, from: Option<&str>, to: Option<&str>) -> Result<usize, Cause> {
        let sender = from.and_then(|from| self.domains.domain_of(from));
        let local = sender
            .filter(|local| live.hosted.contains(local))
            .ok_or(Cause::ForeignSender)?;
        let served = select(&self.link.routers.clusters.all(), live, &local).is_some();
        let to = to.filter(|_| served).ok_or(Cause::Malformed)?;
        if domain_part(to) == self.link.id.as_str() {
            return Err(Cause::NotForUs);
        }
        let remote = self.domains.domain_of(to).ok_or(Cause::Malformed)?;
        if live.hosted.contains(&remote) {
            return Err(Cause::NotForUs);
        }
        if live.policy.check(&remote).is_err() {
            return Err(Cause::Denied);
        }
        let from = domain_part(from.unwrap_or_default());
        let side = Side::Peer(&self.link.routers.shared.memory.labels);
        Ok(self.lanes.add((from, domain_part(to)), local, remote, side))
    }
}
