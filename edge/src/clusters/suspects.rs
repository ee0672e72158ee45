//! Senders over whose stanzas a router may have ended a link, and those it did end one over.
//!
//! A router that ends its link over one stanza takes everybody's unproven ones with it. Who had one
//! among them is a suspect from then on: its stanzas wait in a line of their own and are sent one at
//! a time with nothing else in flight, so that a second such end names the sender and costs nobody
//! else anything. That one is refused for a while and is a suspect for as long again. A server could
//! use another name each time: a domain that had stanzas in flight at several ends in a row, or of which
//! several senders are refused, is a suspect as a whole, and refused if that goes on. The list belongs
//! to the cluster: whichever of its links is up next goes on with it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use super::batch::{Batch, Source};
use super::room::Room;
use crate::bounce::Cause;
use crate::jid::DomainCache;
use crate::stanza::wants_answer;
use xmpp_federation_xml::{Element, Fragments, StreamContext, StreamErrorCondition as Condition, ns};

/// Senders that are suspected or refused at once.
pub const MOST: usize = 256;
/// How long somebody is a suspect, or refused.
pub const PERIOD: Duration = Duration::from_mins(10);
/// Stanzas in flight at most while an end may have had more senders than can be suspected.
pub(super) const FEW: usize = MOST;
/// Ends in a row with stanzas of one domain in flight, and refused senders of one domain, that make
/// everybody of it a suspect.
const OF_ONE_DOMAIN: usize = 3;
/// Refused senders of one domain at which all of it is refused.
const MOST_OF_ONE_DOMAIN: usize = 8;
/// Others have their turn for this many times as long as a suspect's stanza took.
const OTHERS: u32 = 3;

/// Whether an end of the link with this condition is about what was sent over it.
pub(crate) const fn is_about_a_stanza(condition: Condition) -> bool {
    matches!(
        condition,
        Condition::NotWellFormed
            | Condition::BadFormat
            | Condition::InvalidXml
            | Condition::PolicyViolation
            | Condition::InvalidFrom
    )
}

#[derive(Debug)]
struct Suspect {
    until: Instant,
    /// A link ended over a stanza of its own.
    refused: bool,
    waiting: VecDeque<(Source, Batch)>,
    bytes: usize,
}

/// The suspects of one cluster and what waits of them.
#[derive(Debug)]
pub(super) struct Suspects {
    /// By bare address in one spelling, or by `@` and a domain for everybody else of it.
    known: HashMap<Box<str>, Suspect>,
    /// Those with something waiting, by turn.
    turns: VecDeque<Box<str>>,
    stanzas: usize,
    bytes: usize,
    /// Bytes that all together may have waiting. What is beyond is answered: it may not stop those who
    /// read from the same stream.
    most: usize,
    /// Since when a stanza is alone in flight.
    alone: Option<Instant>,
    /// Until when others have their turn.
    others: Option<Instant>,
    /// They have not had it since a stanza was alone in flight.
    owed: bool,
    /// Until when few stanzas are in flight.
    few: Option<Instant>,
    /// The domains that had stanzas in flight at the last ends, each as `@` and its name.
    ends: VecDeque<(Instant, HashSet<Box<str>>)>,
    /// What is not sent, to be reported.
    refused: Vec<(Batch, Cause)>,
    /// What waited of those who gave way.
    freed: Vec<(Source, Batch)>,
    reader: Reader,
}

/// Reads the stanzas of batches.
#[derive(Debug)]
struct Reader {
    fragments: Fragments,
    /// Around stanzas that wait for a link.
    around: Arc<StreamContext>,
    domains: DomainCache,
}

impl Default for Suspects {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            turns: VecDeque::new(),
            stanzas: 0,
            bytes: 0,
            most: Room::default().suspects(),
            alone: None,
            others: None,
            owed: false,
            few: None,
            ends: VecDeque::new(),
            refused: Vec::new(),
            freed: Vec::new(),
            reader: Reader {
                fragments: Fragments::default(),
                around: Arc::new(StreamContext::new(ns::COMPONENT, &[], None)),
                domains: DomainCache::default(),
            },
        }
    }
}

impl Reader {
    /// The stanzas of a batch; `None` if it cannot be read, which what the edge wrote always can.
    fn stanzas(&mut self, batch: &Batch) -> Option<Vec<Element>> {
        let mut stanzas = Vec::with_capacity(batch.count);
        let each = |stanza| stanzas.push(stanza);
        let cut = self.fragments.cut(batch.bytes.clone(), &self.around, each);
        cut.is_ok().then_some(stanzas)
    }

    /// Whose stanza it is, without resource and in one spelling. An answer of the edge is the
    /// matter of the hosted user whose stanza it answers.
    fn sender(&mut self, stanza: &Element, is_answer: bool) -> Option<Box<str>> {
        let address = if is_answer { stanza.to() } else { stanza.from() };
        let address = address?;
        let bare = address.split_once('/').map_or(&*address, |(bare, _)| bare);
        let (local, domain) = bare.split_once('@').unwrap_or(("", bare));
        let canonical = self.domains.domain(domain);
        let domain = canonical.map_or_else(|| domain.to_lowercase(), |domain| domain.to_string());
        Some(if local.is_empty() {
            domain.into()
        } else {
            // As routers of RFC 3920 read it: one user has many spellings.
            let read = stringprep::nodeprep(local);
            let local = read.map_or_else(|_| local.to_lowercase(), Cow::into_owned);
            format!("{local}@{domain}").into()
        })
    }
}

/// Some stanzas of a batch in a batch of their own. They are copied: what waits long must not keep the
/// whole batch in memory.
fn some(of: &Batch, stanzas: &[Element]) -> Batch {
    let bytes = match stanzas {
        [one] if of.count == 1 => one.bytes().clone(),
        more => {
            let mut bytes = BytesMut::with_capacity(more.iter().map(|s| s.bytes().len()).sum());
            for stanza in more {
                bytes.extend_from_slice(stanza.bytes());
            }
            bytes.freeze()
        }
    };
    Batch {
        bytes,
        count: stanzas.len(),
        requests: if of.is_answer {
            0
        } else {
            stanzas.iter().filter(|stanza| wants_answer(stanza)).count()
        },
        ..*of
    }
}

impl Suspects {
    /// What the cluster may hold from now on.
    pub(super) fn set_room(&mut self, room: Room) {
        self.most = room.suspects();
    }

    /// Whether nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.turns.is_empty()
    }

    /// Stanzas and bytes that wait.
    pub(super) fn depth(&self) -> (usize, usize) {
        (self.stanzas, self.bytes)
    }

    /// How many are suspected and how many refused.
    pub(super) fn counts(&self) -> (usize, usize) {
        let refused = self.known.values().filter(|known| known.refused).count();
        (self.known.len() - refused, refused)
    }

    /// Takes out of a batch what does not go with others; gives the rest.
    pub(super) fn sift(&mut self, source: &Source, batch: Batch) -> Option<Batch> {
        if self.known.is_empty() {
            return Some(batch);
        }
        let Some(stanzas) = self.reader.stanzas(&batch) else {
            return Some(batch);
        };
        let mut others = Vec::with_capacity(stanzas.len());
        for stanza in stanzas {
            let sender = self.reader.sender(&stanza, batch.is_answer);
            match sender.as_deref().and_then(|sender| self.key_of(sender)) {
                Some(key) => self.hold(key, source, some(&batch, &[stanza])),
                None => others.push(stanza),
            }
        }
        match others.len() {
            0 => None,
            all if all == batch.count => Some(batch),
            _ => Some(some(&batch, &others)),
        }
    }

    /// Under which key a sender is known, if it is.
    fn key_of<'a>(&self, sender: &'a str) -> Option<&'a str> {
        if self.known.contains_key(sender) {
            return Some(sender);
        }
        let at = sender.find('@')?;
        let domain = sender.get(at..)?;
        self.known.contains_key(domain).then_some(domain)
    }

    /// One stanza of a suspect waits, or of one that is refused is not sent.
    fn hold(&mut self, sender: &str, source: &Source, batch: Batch) {
        let share = self.most / self.turns.len().max(1);
        let Some(suspect) = self.known.get_mut(sender) else {
            return;
        };
        let size = batch.bytes.len();
        // One stanza waits while there is room for it, however large.
        let full = self.bytes + size > self.most || (suspect.bytes > 0 && suspect.bytes + size > share);
        if suspect.refused || full {
            let cause = if suspect.refused {
                Cause::BreaksLinks
            } else {
                Cause::QueueFull
            };
            self.refused.push((batch, cause));
            return;
        }
        if suspect.waiting.is_empty() {
            self.turns.push_back(sender.into());
        }
        suspect.bytes += size;
        self.bytes += size;
        self.stanzas += batch.count;
        suspect.waiting.push_back((source.clone(), batch));
    }

    /// What is not sent and was not reported yet.
    pub(super) fn take_refused(&mut self) -> Vec<(Batch, Cause)> {
        std::mem::take(&mut self.refused)
    }

    pub(super) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// A link ended with these batches unproven: their senders are suspects. Gives them.
    pub(super) fn accuse<'a>(&mut self, window: impl Iterator<Item = &'a Batch>, now: Instant) -> Vec<Box<str>> {
        let mut seen = HashSet::new();
        let mut named = Vec::new();
        let mut domains = HashSet::new();
        // The router reads in order: the sender of the first stanza is the likeliest.
        for batch in window {
            for stanza in self.reader.stanzas(batch).unwrap_or_default() {
                let Some(sender) = self.reader.sender(&stanza, batch.is_answer) else {
                    continue;
                };
                if let Some(at) = sender.find('@').filter(|_| !batch.is_answer) {
                    domains.insert(sender.get(at..).unwrap_or_default().into());
                }
                if seen.insert(sender.clone()) && named.len() < MOST {
                    named.push(sender);
                }
            }
        }
        if seen.len() > MOST {
            self.few = Some(now + PERIOD);
        }
        let again = self.at_every_end(domains, now);
        named.truncate(MOST - again.len().min(MOST));
        named.splice(0..0, again);
        self.give_way(&named);
        for sender in &named {
            self.insert(sender, now + PERIOD, false);
        }
        named
    }

    /// A link ended with stanzas of these domains in flight; gives those that had some at each of the
    /// last ends.
    fn at_every_end(&mut self, domains: HashSet<Box<str>>, now: Instant) -> Vec<Box<str>> {
        self.ends.retain(|(at, _)| now.saturating_duration_since(*at) < PERIOD);
        self.ends.push_back((now, domains));
        if self.ends.len() < OF_ONE_DOMAIN {
            return Vec::new();
        }
        let mut ends = self.ends.iter().map(|(_, domains)| domains);
        let mut every = ends.next_back().cloned().unwrap_or_default();
        every.retain(|domain| ends.clone().all(|others| others.contains(domain)));
        self.ends.pop_front();
        every.into_iter().take(MOST).collect()
    }

    /// Makes room for these; the longest known give way, refused ones last.
    fn give_way(&mut self, named: &[Box<str>]) {
        let new = named.iter().filter(|name| !self.known.contains_key(*name));
        let too_many = (self.known.len() + new.count()).saturating_sub(MOST);
        if too_many == 0 {
            return;
        }
        let mut old: Vec<_> = self
            .known
            .iter()
            .filter(|(name, _)| !named.contains(name))
            .map(|(name, known)| (known.refused, known.until, name.clone()))
            .collect();
        old.sort_unstable();
        for (.., name) in old.into_iter().take(too_many) {
            let waited = self.empty(&name);
            self.freed.extend(waited);
            self.known.remove(&name);
        }
    }

    /// What waited of those who gave way, to go with others.
    pub(super) fn take_freed(&mut self) -> Vec<(Source, Batch)> {
        std::mem::take(&mut self.freed)
    }

    fn insert(&mut self, sender: &str, until: Instant, refused: bool) {
        if let Some(known) = self.known.get_mut(sender) {
            known.until = known.until.max(until);
            known.refused |= refused;
            return;
        }
        self.known.insert(
            sender.into(),
            Suspect {
                until,
                refused,
                waiting: VecDeque::new(),
                bytes: 0,
            },
        );
    }

    /// A link ended while this stanza was alone in flight: its sender is refused. Gives who that
    /// is, and what waited of it.
    pub(super) fn convict(&mut self, alone: &Batch, now: Instant) -> Option<(Box<str>, Vec<Batch>)> {
        let stanza = self.reader.stanzas(alone)?.pop()?;
        let sender = self.reader.sender(&stanza, alone.is_answer)?;
        let waited = self.key_of(&sender).map(|key| self.empty(key));
        if !self.known.contains_key(&sender) {
            // It was one of its domain.
            self.give_way(std::slice::from_ref(&sender));
        }
        self.insert(&sender, now + PERIOD, true);
        if let Some(domain) = sender.find('@').and_then(|at| sender.get(at..)) {
            let known = self.known.iter();
            let refused = known.filter(|(name, known)| known.refused && name.ends_with(domain));
            let refused = refused.count();
            if refused >= OF_ONE_DOMAIN {
                self.insert(domain, now + PERIOD, refused >= MOST_OF_ONE_DOMAIN);
            }
        }
        let mut refused = Vec::new();
        for (source, batch) in waited.unwrap_or_default() {
            let own = self.reader.stanzas(&batch).and_then(|mut stanzas| stanzas.pop());
            let from = own.and_then(|stanza| self.reader.sender(&stanza, batch.is_answer));
            match from.as_deref().and_then(|from| self.key_of(from)) {
                Some(key) if *key != *sender => self.hold(key, &source, batch),
                _ => refused.push(batch),
            }
        }
        Some((sender, refused))
    }

    /// Takes over whom another cluster's routers ended links over.
    pub(super) fn adopt(&mut self, known: Vec<(Box<str>, Instant, bool)>) {
        for (sender, until, refused) in known {
            if self.known.contains_key(&sender) || self.known.len() < MOST {
                self.insert(&sender, until, refused);
            }
        }
    }

    /// Everybody, for another cluster.
    pub(super) fn known(&self) -> Vec<(Box<str>, Instant, bool)> {
        let known = self.known.iter();
        known
            .map(|(sender, known)| (sender.clone(), known.until, known.refused))
            .collect()
    }

    /// Takes what waits of one sender.
    fn empty(&mut self, sender: &str) -> VecDeque<(Source, Batch)> {
        let Some(known) = self.known.get_mut(sender) else {
            return VecDeque::new();
        };
        self.turns.retain(|turn| **turn != *sender);
        self.bytes = self.bytes.saturating_sub(known.bytes);
        self.stanzas = self.stanzas.saturating_sub(known.waiting.len());
        known.bytes = 0;
        std::mem::take(&mut known.waiting)
    }

    /// Whether the next stanza to be sent is a suspect's: one waits, and others (`others`: they have
    /// something waiting) have had their time.
    pub(super) fn is_next(&self, others: bool, now: Instant) -> bool {
        let over = !self.owed && self.others.is_none_or(|until| now >= until);
        !self.turns.is_empty() && (over || !others)
    }

    /// Nothing is in flight on the link that takes: if a stanza was alone there, its turn is over.
    pub(super) fn nothing_in_flight(&mut self, now: Instant) {
        if let Some(since) = self.alone.take() {
            self.others = Some(now + now.saturating_duration_since(since) * OTHERS);
            self.owed = true;
        }
    }

    /// The next stanza to be sent alone; none while `own`, what is in flight on the
    /// link that takes, is not proven.
    pub(super) fn next(&mut self, own: usize, now: Instant) -> Option<Batch> {
        if own > 0 {
            return None;
        }
        let sender = self.turns.pop_front()?;
        let suspect = self.known.get_mut(&sender)?;
        let (_, batch) = suspect.waiting.pop_front()?;
        let size = batch.bytes.len();
        suspect.bytes = suspect.bytes.saturating_sub(size);
        self.bytes = self.bytes.saturating_sub(size);
        self.stanzas = self.stanzas.saturating_sub(batch.count);
        if !suspect.waiting.is_empty() {
            self.turns.push_back(sender);
        }
        self.alone = Some(now);
        Some(batch)
    }

    /// Others have their turn. Gives how many stanzas may be in flight at once.
    pub(super) fn others_go(&mut self, now: Instant) -> usize {
        self.owed = false;
        match self.few {
            Some(until) if now < until => FEW,
            _ => usize::MAX,
        }
    }

    /// The first stanzas of a batch that is larger; the rest stays.
    pub(super) fn split(&mut self, batch: &mut Batch, count: usize) -> Batch {
        let stanzas = self.reader.stanzas(batch).unwrap_or_default();
        match stanzas.split_at_checked(count) {
            Some((first, rest)) if !first.is_empty() && !rest.is_empty() => {
                let first = some(batch, first);
                *batch = some(batch, rest);
                first
            }
            _ => {
                let whole = batch.clone();
                batch.count = 0;
                batch.bytes.clear();
                whole
            }
        }
    }

    /// Takes what is `wanted`, each sender's first ones.
    pub(super) fn take_each(&mut self, wanted: impl Fn(&Batch) -> bool, mut give: impl FnMut(&Source, Batch)) {
        let (mut stanzas, mut bytes) = (0, 0);
        for suspect in self.known.values_mut() {
            while let Some((source, batch)) = suspect.waiting.pop_front_if(|(_, batch)| wanted(batch)) {
                suspect.bytes = suspect.bytes.saturating_sub(batch.bytes.len());
                bytes += batch.bytes.len();
                stanzas += batch.count;
                give(&source, batch);
            }
        }
        self.stanzas = self.stanzas.saturating_sub(stanzas);
        self.bytes = self.bytes.saturating_sub(bytes);
        let known = &self.known;
        self.turns.retain(|sender| {
            let known = known.get(sender);
            known.is_some_and(|known| !known.waiting.is_empty())
        });
    }

    /// Lets go whose time is over. Who was refused is a suspect for as long again; while something
    /// waits, a sender stays one, so that its stanzas keep their order.
    pub(super) fn release(&mut self, now: Instant) {
        self.known.retain(|_, known| {
            if known.refused && now >= known.until {
                known.refused = false;
                known.until = now + PERIOD;
            }
            now < known.until || !known.waiting.is_empty()
        });
        if self.known.is_empty() {
            self.known = HashMap::new();
            self.turns = VecDeque::new();
            self.reader.domains.shrink();
            self.others = None;
        }
    }
}

#[cfg(test)]
mod tests;
