//! What waits for the routers of one cluster: one queue per source, served in turn.
//!
//! A source is a remote domain, or the edge itself with its answers to the router. Links take by
//! deficit round robin (Shreedhar and Varghese, 1995), so a peer that sends much waits for itself
//! only; within one source the order is kept. A source that has more than its share waiting is
//! told to pause while the others go on; only when too much waits in all does everybody pause.
//!
//! Configured partners and strangers are two classes, each with its own rounds and half of the room:
//! a stranger may have as many domains as it likes. While both classes have something waiting, links
//! take as many bytes of one as of the other, and partners' first.

use crate::observe::links::LinkPlace;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::batch::{Batch, Source};
use super::class::Class;
use super::room::Room;
use super::suspects::Suspects;
use crate::bounce::Cause;

/// How long stanzas wait for a router that is slow.
const WORKING: Duration = Duration::from_mins(10);

/// One for configured partners and the edge itself, one for strangers.
#[derive(Debug, Default)]
struct Classes<T> {
    partners: T,
    strangers: T,
}

impl<T> Classes<T> {
    fn of(&self, source: &Source) -> &T {
        match source {
            Source::Edge | Source::Peer(_) => &self.partners,
            Source::Stranger(_) => &self.strangers,
        }
    }

    fn of_mut(&mut self, source: &Source) -> &mut T {
        match source {
            Source::Edge | Source::Peer(_) => &mut self.partners,
            Source::Stranger(_) => &mut self.strangers,
        }
    }

    fn both(&self) -> [&T; 2] {
        [&self.partners, &self.strangers]
    }

    fn both_mut(&mut self) -> [&mut T; 2] {
        [&mut self.partners, &mut self.strangers]
    }
}

/// Whether peers of a class are read.
#[derive(Debug)]
struct Gate {
    /// More than [`Room::shut`] waits.
    shut: AtomicBool,
    /// The same, to wait for its end.
    watch: watch::Sender<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            shut: AtomicBool::new(false),
            watch: watch::Sender::new(false),
        }
    }
}

impl Gate {
    fn set(&self, shut: bool) {
        if self.shut.swap(shut, Ordering::AcqRel) != shut {
            self.watch.send_replace(shut);
        }
    }
}

/// Not to read until it is over.
#[derive(Debug)]
pub struct Pause(watch::Receiver<bool>);

impl Pause {
    /// Waits until there is room again. May be dropped and called again.
    pub async fn over(&mut self) {
        // A queue that is gone stops nobody.
        drop(self.0.wait_for(|full| !full).await);
    }
}

/// What a link got.
#[derive(Debug, Default)]
pub struct LinkLoad {
    /// Batches to be written; unproven until [`Queue::proven`].
    pub batches: Vec<Batch>,
    /// It is this link's turn, but another one's last batches are not proven yet: ask again when
    /// woken, at the latest then.
    pub again: Option<Instant>,
    /// The only batch is one stanza of a suspect: nothing else may be in flight with it.
    pub alone: bool,
}

/// The queue of one cluster.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<QueueState>,
    /// See [`Room`].
    room: AtomicUsize,
    gates: Classes<Gate>,
    up: AtomicBool,
    /// Something was not taken, and is to be reported.
    refused: AtomicBool,
    /// A link is up whose router is not known to be without a way to us.
    well: AtomicBool,
    /// How long the next link waits for the proof of what the last one wrote.
    handover: Duration,
}

#[derive(Debug, Default)]
struct QueueState {
    classes: Classes<Class>,
    /// Bytes that were taken of partners beyond those of strangers, since both have something waiting.
    ahead: usize,
    /// The links that are up, in the order of their places; the first one takes.
    up: Vec<(LinkPlace, Arc<Notify>)>,
    /// Batches that a link wrote and whose processing is not proven.
    unproven: usize,
    /// When a router last proved that it had processed something.
    progress: Option<Instant>,
    /// Another link's turn began while something was unproven.
    handover: Option<Instant>,
    /// The cluster is not configured any more.
    closed: bool,
    suspects: Suspects,
}

impl QueueState {
    fn wake_first(&self) {
        if let Some((_, first)) = self.up.first() {
            first.notify_one();
        }
    }

    fn is_idle(&self) -> bool {
        let mut both = self.classes.both().into_iter();
        both.all(|class| class.turns.is_empty())
    }

    fn bytes(&self) -> usize {
        self.classes.both().iter().map(|class| class.bytes).sum()
    }

    /// Takes the stanzas of suspects out of everything that waits.
    fn sift(&mut self, room: Room) {
        for (source, batch) in self.suspects.take_freed() {
            self.classes.of_mut(&source).append(&source, batch);
        }
        for class in self.classes.both_mut() {
            class.sift(&mut self.suspects, room);
        }
    }

    /// The next batch of at most so many stanzas, of the class whose turn it is.
    fn next(&mut self, most: usize, room: Room) -> Option<Batch> {
        let Self { classes, suspects, .. } = self;
        let [partners, strangers] = classes.both_mut();
        if partners.turns.is_empty() || strangers.turns.is_empty() {
            self.ahead = 0;
            let partner = partners.next(suspects, most, room);
            return partner.or_else(|| strangers.next(suspects, most, room));
        }
        let size = |batch: &Option<Batch>| batch.as_ref().map_or(0, |batch| batch.bytes.len());
        if self.ahead == 0 {
            let batch = partners.next(suspects, most, room);
            self.ahead = size(&batch);
            return batch;
        }
        let batch = strangers.next(suspects, most, room);
        self.ahead = self.ahead.saturating_sub(size(&batch));
        batch
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self::new(Duration::ZERO)
    }
}

impl Queue {
    /// An empty one; when another link takes over, it waits at most `handover` for the proof of
    /// what the last one wrote, so that the order is kept.
    pub fn new(handover: Duration) -> Self {
        Self {
            inner: Mutex::default(),
            room: AtomicUsize::new(Room::MOST.0),
            gates: Classes::default(),
            up: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            well: AtomicBool::new(false),
            handover,
        }
    }

    /// What the cluster may hold from now on.
    pub fn set_room(&self, room: Room) {
        self.room.store(room.0, Ordering::Relaxed);
        self.inner.lock().suspects.set_room(room);
    }

    /// What the cluster may hold.
    pub fn room(&self) -> Room {
        Room(self.room.load(Ordering::Relaxed))
    }

    /// Appends; the link that takes is woken once, however much is appended before it runs.
    /// Gives a pause if the source has more than its share waiting now. The batch comes back if
    /// the cluster is not configured any more.
    pub fn push(&self, source: &Source, batch: Batch) -> Result<Option<Pause>, Batch> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if inner.closed {
            return Err(batch);
        }
        let batch = inner.suspects.sift(source, batch);
        self.note_refused(inner);
        let Some(batch) = batch else {
            inner.wake_first();
            return Ok(None);
        };
        let room = self.room();
        let class = inner.classes.of_mut(source);
        if class.bytes + batch.bytes.len() > room.shut() {
            self.gates.of(source).set(true);
        }
        let sources = class.sources.len();
        let waiting = class.append(source, batch);
        let share = room.share(sources);
        let pause = (waiting.bytes > share && *source != Source::Edge).then(|| {
            let hold = &mut waiting.hold;
            let hold = hold.get_or_insert_with(|| watch::Sender::new(true));
            Pause(hold.subscribe())
        });
        inner.wake_first();
        Ok(pause)
    }

    fn note_refused(&self, inner: &QueueState) {
        if inner.suspects.has_refused() {
            self.refused.store(true, Ordering::Release);
        }
    }

    /// What was not taken since the last call, and why: stanzas of senders that are refused, or of
    /// suspects who have too much waiting.
    pub fn refused(&self) -> Vec<(Batch, Cause)> {
        // Looked at for each batch: reading is cheaper.
        if !self.refused.load(Ordering::Acquire) || !self.refused.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        self.inner.lock().suspects.take_refused()
    }

    /// A router ended its link over something: the senders of what was unproven are suspects from
    /// now on. Gives those who are.
    pub fn accuse<'a>(&self, window: impl Iterator<Item = &'a Batch>, now: Instant) -> Vec<Box<str>> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let named = inner.suspects.accuse(window, now);
        inner.sift(self.room());
        self.open(inner);
        self.note_refused(inner);
        named
    }

    /// A router ended its link while this stanza was alone in flight: its sender is refused from
    /// now on. Gives who that is, and what waited of it.
    pub fn convict(&self, alone: &Batch, now: Instant) -> Option<(Box<str>, Vec<Batch>)> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let refused = inner.suspects.convict(alone, now);
        inner.sift(self.room());
        self.open(inner);
        self.note_refused(inner);
        refused
    }

    /// How many senders are suspects, and how many are refused.
    pub fn suspects(&self) -> (usize, usize) {
        self.inner.lock().suspects.counts()
    }

    /// Set while so much waits in all of the source's class that no peer of it may be read.
    pub fn shut(&self, source: &Source) -> Option<Pause> {
        let gate = self.gates.of(source);
        let shut = gate.shut.load(Ordering::Acquire);
        shut.then(|| Pause(gate.watch.subscribe()))
    }

    /// Bytes of the edge's own answers to the router that wait.
    pub fn answers(&self) -> usize {
        let inner = self.inner.lock();
        let own = inner.classes.partners.sources.get(&Source::Edge);
        own.map_or(0, |own| own.bytes)
    }

    /// A link came up; the one of the least place takes from now on.
    pub fn link_up(&self, place: impl Into<LinkPlace>, wake: &Arc<Notify>) {
        self.change_links(|up| {
            up.push((place.into(), wake.clone()));
            up.sort_by_key(|(place, _)| *place);
        });
    }

    /// A link has another place from now on; nothing if it is not up.
    pub fn link_moved(&self, to: LinkPlace, wake: &Arc<Notify>) {
        self.change_links(|up| {
            for (place, other) in up.iter_mut() {
                if Arc::ptr_eq(other, wake) {
                    *place = to;
                }
            }
            up.sort_by_key(|(place, _)| *place);
        });
    }

    /// A link is no longer up; the next one takes over what still waits. What nobody will take
    /// any more, because the cluster is not configured, is given back.
    pub fn link_down(&self, wake: &Arc<Notify>) -> Vec<Batch> {
        self.change_links(|up| up.retain(|(_, other)| !Arc::ptr_eq(other, wake)));
        self.orphans()
    }

    /// The link with this `wake` takes no more, if another one is up to do so.
    pub fn step_down(&self, wake: &Arc<Notify>) -> bool {
        let mut done = false;
        self.change_links(|up| {
            if up.len() > 1 {
                up.retain(|(_, other)| !Arc::ptr_eq(other, wake));
                done = true;
            }
        });
        done
    }

    fn change_links(&self, change: impl FnOnce(&mut Vec<(LinkPlace, Arc<Notify>)>)) {
        let mut inner = self.inner.lock();
        let before = inner.up.first().map(|(_, first)| Arc::as_ptr(first));
        change(&mut inner.up);
        let after = inner.up.first().map(|(_, first)| Arc::as_ptr(first));
        if before != after && inner.unproven > 0 {
            inner.handover = Some(Instant::now() + self.handover);
        }
        self.up.store(after.is_some(), Ordering::Release);
        let well = inner.up.first().is_some_and(|(first, _)| !first.not_gateway);
        self.well.store(well, Ordering::Release);
        inner.wake_first();
    }

    /// Whether any link is up.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Whether a link is up that is not known to lead to a router without a way to us.
    pub fn is_well(&self) -> bool {
        self.well.load(Ordering::Acquire)
    }

    /// Takes nothing in any more; links that are up deliver the rest. What nobody will take is
    /// given back.
    pub fn close(&self) -> Vec<Batch> {
        self.inner.lock().closed = true;
        self.orphans()
    }

    fn orphans(&self) -> Vec<Batch> {
        let nobody = {
            let inner = self.inner.lock();
            inner.closed && inner.up.is_empty()
        };
        if nobody { self.clear() } else { Vec::new() }
    }

    /// Takes batches of about `most` bytes for the link with this `wake`, if it is its turn.
    /// `own`: how many batches of that link are not proven yet.
    pub fn take(&self, wake: &Arc<Notify>, own: usize, most: usize, now: Instant) -> LinkLoad {
        let mut inner = self.inner.lock();
        let first = inner.up.first();
        if !first.is_some_and(|(_, first)| Arc::ptr_eq(first, wake)) {
            return LinkLoad::default();
        }
        if let Some(until) = inner.handover {
            if inner.unproven > own && now < until {
                return LinkLoad {
                    again: Some(until),
                    ..LinkLoad::default()
                };
            }
            inner.handover = None;
        }
        if own == 0 {
            inner.suspects.nothing_in_flight(now);
        }
        let others = !inner.is_idle();
        if inner.suspects.is_next(others, now) {
            return match inner.suspects.next(own, now) {
                Some(batch) => {
                    inner.unproven += 1;
                    LinkLoad {
                        batches: vec![batch],
                        again: None,
                        alone: true,
                    }
                }
                None => LinkLoad::default(),
            };
        }
        let room = self.room();
        let mut stanzas = inner.suspects.others_go(now);
        if stanzas < usize::MAX && own > 0 {
            return LinkLoad::default();
        }
        let (mut taken, mut size) = (Vec::new(), 0);
        while size < most
            && stanzas > 0
            && let Some(batch) = inner.next(stanzas, room)
        {
            size += batch.bytes.len();
            stanzas = stanzas.saturating_sub(batch.count);
            taken.push(batch);
        }
        inner.unproven += taken.len();
        self.open(&inner);
        LinkLoad {
            batches: taken,
            ..LinkLoad::default()
        }
    }

    /// Peers of a class of which little waits now are read again.
    fn open(&self, inner: &QueueState) {
        let room = self.room();
        for (class, gate) in inner.classes.both().into_iter().zip(self.gates.both()) {
            if class.bytes < room.high_water() {
                gate.set(false);
            }
        }
    }

    /// This many batches are proven processed.
    pub fn processed(&self, batches: usize, now: Instant) {
        self.inner.lock().progress = Some(now);
        self.proven(batches);
    }

    /// This many batches are proven processed, or were reported.
    pub fn proven(&self, batches: usize) {
        let mut inner = self.inner.lock();
        inner.unproven = inner.unproven.saturating_sub(batches);
        if inner.handover.is_some() {
            inner.wake_first();
        }
    }

    /// Takes what has waited for `hold` by `now`, or for [`WORKING`] while a router that is linked
    /// processes what it gets; and lets suspects go whose time is over.
    pub fn expire(&self, now: Instant, hold: Duration) -> Vec<Batch> {
        let works = {
            let mut inner = self.inner.lock();
            inner.suspects.release(now);
            let works = |at| now.saturating_duration_since(at) < hold;
            !inner.up.is_empty() && inner.progress.is_some_and(works)
        };
        let hold = if works { hold.max(WORKING) } else { hold };
        self.take_while(|batch| now.duration_since(batch.at) >= hold)
    }

    /// Takes everything.
    pub fn clear(&self) -> Vec<Batch> {
        self.take_while(|_| true)
    }

    /// Hands everything that waits over to the queue of another cluster, and with it whom this
    /// one's routers ended links over; what that one does not take is given back.
    pub fn move_to(&self, other: &Self) -> Vec<Batch> {
        let known = self.inner.lock().suspects.known();
        if !known.is_empty() {
            let mut inner = other.inner.lock();
            inner.suspects.adopt(known);
            inner.sift(other.room());
            other.note_refused(&inner);
        }
        let mut moved = Vec::new();
        self.take_each(|_| true, |source, batch| moved.push((source.clone(), batch)));
        moved
            .into_iter()
            .filter_map(|(source, batch)| other.push(&source, batch).err())
            .collect()
    }

    fn take_while(&self, wanted: impl Fn(&Batch) -> bool) -> Vec<Batch> {
        let mut taken = Vec::new();
        self.take_each(wanted, |_, batch| taken.push(batch));
        taken
    }

    fn take_each(&self, wanted: impl Fn(&Batch) -> bool, mut give: impl FnMut(&Source, Batch)) {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let room = self.room();
        inner.suspects.take_each(&wanted, &mut give);
        for class in inner.classes.both_mut() {
            class.take_each(&wanted, &mut give, room);
        }
        self.open(inner);
    }

    /// Stanzas and bytes that wait to be written.
    pub fn depth(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        let classes = inner.classes.both().into_iter();
        let sources = classes.flat_map(|class| class.sources.values());
        let batches = sources.flat_map(|waiting| &waiting.batches);
        let stanzas: usize = batches.map(|batch| batch.count).sum();
        let suspects = inner.suspects.depth();
        (stanzas + suspects.0, inner.bytes() + suspects.1)
    }

    /// Whether nothing waits to be written.
    pub fn is_empty(&self) -> bool {
        let inner = self.inner.lock();
        inner.is_idle() && inner.suspects.is_idle()
    }

    /// Whether nothing waits and everything written is proven or reported.
    pub fn is_settled(&self) -> bool {
        let inner = self.inner.lock();
        inner.is_idle() && inner.suspects.is_idle() && inner.unproven == 0
    }
}

#[cfg(test)]
mod tests;
