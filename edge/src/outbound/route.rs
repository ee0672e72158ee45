//! One remote domain: the pairs that have something waiting for it, and the streams to it.
//!
//! Each pair has a queue and a task ([`super::pair`]) that opens a stream in its name; what becomes
//! of that touches no other pair. A pair may instead be a guest on another pair's stream where the
//! remote server takes several (XEP-0220 section 2.6): [`Route::turn`] says which, always the same
//! in the same situation.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use xmpp_federation_core::Domain;

use super::connect::{FailureScope, OpenError};
use super::queue::{Portion, QueueBounds, SendRoom, StanzaQueue};
use super::{Outbound, is_alone, keep_alone, pair};
use crate::backoff::Backoff;
use crate::bounce::Cause;
use crate::tls::ShownCertificate;

/// First and longest pause between attempts to open a stream.
pub(super) const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// How long a failure that trying again does not mend is taken as the answer for new stanzas.
pub(super) const NEGATIVE: Duration = Duration::from_secs(10);
/// How long a pair waits for the first pair's stream once that is connected, in the hope of sharing
/// it; before that all would meet the same addresses.
const HEAD_START: Duration = Duration::from_secs(1);

/// Everything towards one remote domain.
#[derive(Debug)]
pub struct Route {
    /// The remote domain.
    pub(super) remote: Domain,
    inner: Mutex<RouteState>,
    /// Bytes waiting here and in all other routes.
    total: Arc<AtomicUsize>,
    /// Something changed that pairs without a stream may wait for.
    changed: Notify,
    /// Streams with something written that is not with the network yet.
    writing: AtomicUsize,
}

#[derive(Debug)]
struct RouteState {
    /// By name of the hosted domain.
    pairs: Vec<RoutePair>,
    /// The streams that take further pairs, oldest first.
    hosts: Vec<Host>,
    /// The pair whose stream is being opened, and for how long it is connected.
    opening: Option<(Domain, Option<Instant>)>,
    /// No address of the domain could be connected to.
    unreachable: Option<(Instant, OpenError)>,
    backoff: Backoff,
    bytes: usize,
    hosted: u64,
    pairs_so_far: u64,
}

/// Stanzas of one hosted domain.
#[derive(Debug)]
struct RoutePair {
    local: Domain,
    queue: StanzaQueue,
    /// Wakes what serves the queue: the pair's task, or the stream whose guest the pair is.
    wake: Arc<Notify>,
    /// It was no welcome guest and opens a stream in its own name.
    alone: bool,
    /// Its back-off is void.
    retry: bool,
    /// Its place among all pairs, by when they came.
    number: u64,
    /// It has not asked yet where its stanzas go.
    fresh: bool,
}

#[derive(Debug)]
struct Host {
    id: u64,
    wake: Arc<Notify>,
    takes: GuestPolicy,
    guests: Vec<Domain>,
    /// Guests that the stream has not noticed yet.
    joining: Vec<Domain>,
    /// Guests at most.
    most: usize,
}

/// Which hosted domains a stream may carry besides the one in its header.
#[derive(Debug, Clone)]
pub(super) enum GuestPolicy {
    /// Any: neither side has looked at our certificate.
    Any,
    /// Those that the certificate shown on it names.
    Named(Arc<ShownCertificate>),
}

/// Where the stanzas of a pair go.
#[derive(Debug)]
pub(super) enum Way {
    /// The pair is a guest on another's stream now.
    Guest,
    /// It opens a stream.
    Open(Option<OpeningTurn>),
    /// No address could be connected to, and it is too early to try again.
    Unreachable(Instant, OpenError),
}

/// Held by the pair that the others wait for while its stream is being opened.
#[derive(Debug)]
pub(super) struct OpeningTurn(Arc<Route>);

impl Drop for OpeningTurn {
    fn drop(&mut self) {
        self.0.inner.lock().opening = None;
        self.0.changed.notify_waiters();
    }
}

impl RouteState {
    fn place(&self, local: &Domain) -> Result<usize, usize> {
        self.pairs.binary_search_by(|pair| pair.local.cmp(local))
    }

    fn pair(&mut self, local: &Domain) -> Option<&mut RoutePair> {
        let place = self.place(local).ok()?;
        self.pairs.get_mut(place)
    }
}

impl Route {
    pub(super) fn new(remote: Domain, total: Arc<AtomicUsize>) -> Self {
        Self {
            remote,
            inner: Mutex::new(RouteState {
                pairs: Vec::new(),
                hosts: Vec::new(),
                opening: None,
                unreachable: None,
                backoff: Backoff::new(PAUSE.0, PAUSE.1),
                bytes: 0,
                hosted: 0,
                pairs_so_far: 0,
            }),
            total,
            changed: Notify::new(),
            writing: AtomicUsize::new(0),
        }
    }

    /// Queues those stanzas of one pair that there is room for, parts of `text`, and takes them out
    /// of `stanzas`; what is left keeps its order. Gives whether the pair is new and needs a task.
    pub(super) fn push(
        &self,
        bounds: QueueBounds,
        local: &Domain,
        text: &[u8],
        stanzas: &mut Vec<Range<usize>>,
    ) -> bool {
        let now = Instant::now();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let (place, new) = match inner.place(local) {
            Ok(place) => (place, None),
            Err(place) => (place, Some(StanzaQueue::default())),
        };
        let (mut total, mut own) = (self.total.load(Ordering::Relaxed), inner.bytes);
        let mut fresh = new;
        let queue = match (&mut fresh, inner.pairs.get_mut(place)) {
            (Some(queue), _) => queue,
            (None, Some(pair)) => &mut pair.queue,
            (None, None) => return false,
        };
        let mut more: usize = stanzas.iter().map(ExactSizeIterator::len).sum();
        let before = own;
        stanzas.retain(|stanza| {
            let size = stanza.len();
            more -= size;
            let Some(bytes) = text.get(stanza.clone()) else {
                return false;
            };
            if !bounds.admit(own, total, size) {
                return true;
            }
            own += size;
            total += size;
            queue.push(now, bytes, more);
            false
        });
        inner.bytes = own;
        self.total.fetch_add(own - before, Ordering::Relaxed);
        if own == before {
            return false;
        }
        let Some(queue) = fresh else {
            if let Some(pair) = inner.pairs.get(place) {
                pair.wake.notify_one();
            }
            return false;
        };
        inner.pairs_so_far += 1;
        let number = inner.pairs_so_far;
        inner.pairs.insert(
            place,
            RoutePair {
                local: local.clone(),
                queue,
                wake: Arc::default(),
                alone: false,
                retry: false,
                number,
                fresh: true,
            },
        );
        true
    }

    /// Starts the task of a pair. The pair is in the table.
    pub(super) fn spawn(self: &Arc<Self>, outbound: &Arc<Outbound>, local: Domain) {
        let task = pair::run(self.clone(), outbound.clone(), local, None);
        outbound.tasks.spawn(task);
    }

    /// Voids the back-off of one pair, or of all; `None` also where nobody could be reached.
    pub(super) fn retry(&self, local: Option<&Domain>) {
        let mut inner = self.inner.lock();
        inner.unreachable = None;
        inner.backoff.reset();
        for pair in &mut inner.pairs {
            if local.is_none_or(|local| *local == pair.local) {
                pair.retry = true;
                pair.wake.notify_one();
            }
        }
        self.changed.notify_waiters();
    }

    /// Whether the pair's back-off was voided since it was asked last.
    pub(super) fn retries(&self, local: &Domain) -> bool {
        let mut inner = self.inner.lock();
        let Some(pair) = inner.pair(local) else {
            return false;
        };
        if std::mem::take(&mut pair.fresh) {
            self.changed.notify_waiters();
        }
        std::mem::take(&mut pair.retry)
    }

    /// Wakes what serves the pair.
    pub(super) fn wake(&self, local: &Domain) -> Arc<Notify> {
        let mut inner = self.inner.lock();
        let wake = inner.pair(local).map(|pair| pair.wake.clone());
        wake.unwrap_or_default()
    }

    pub(super) fn is_settled(&self) -> bool {
        let inner = self.inner.lock();
        let empty = inner.pairs.iter().all(|pair| pair.queue.is_empty());
        empty && self.writing.load(Ordering::Acquire) == 0
    }

    /// A stream has something written that is not with the network, or not any more.
    pub(super) fn set_writing(&self, before: &mut bool, now: bool) {
        if now != std::mem::replace(before, now) {
            if now {
                self.writing.fetch_add(1, Ordering::AcqRel);
            } else {
                self.writing.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    /// Stanzas and bytes that wait; `local`: of one pair.
    pub(super) fn depth(&self, local: Option<&Domain>) -> (usize, usize) {
        let inner = self.inner.lock();
        let pairs = inner.pairs.iter();
        let pairs = pairs.filter(|pair| local.is_none_or(|local| *local == pair.local));
        pairs.fold((0, 0), |(count, bytes), pair| {
            (count + pair.queue.count(), bytes + pair.queue.bytes())
        })
    }

    /// Whether nothing of the pair waits.
    pub(super) fn is_empty(&self, local: &Domain) -> bool {
        let mut inner = self.inner.lock();
        inner.pair(local).is_none_or(|pair| pair.queue.is_empty())
    }

    fn took(&self, inner: &mut RouteState, bytes: usize) {
        inner.bytes = inner.bytes.saturating_sub(bytes);
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes stanzas of one pair, about 64 kB; `largest`: what the peer says it takes. Gives
    /// whether more wait, too.
    pub(super) fn take(
        &self,
        local: &Domain,
        largest: Option<usize>,
        room: impl FnOnce(usize) -> SendRoom,
    ) -> (Portion, bool) {
        let mut inner = self.inner.lock();
        let Some(pair) = inner.pair(local) else {
            return (Portion::default(), false);
        };
        let before = pair.queue.bytes();
        let taken = pair.queue.take(largest, room);
        let after = pair.queue.bytes();
        self.took(&mut inner, before - after);
        (taken, after > 0)
    }

    /// Takes what has waited longer than `life`.
    fn take_older(&self, life: Duration, local: &Domain) -> Vec<Bytes> {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let Some(pair) = inner.pair(local) else {
            return Vec::new();
        };
        let before = pair.queue.bytes();
        let taken = pair.queue.take_older(now, life);
        let after = pair.queue.bytes();
        self.took(&mut inner, before - after);
        taken
    }

    /// Reports what has waited longer than `life` to its senders.
    pub(super) fn report_older(&self, outbound: &Outbound, life: Duration, local: &Domain, cause: Cause) {
        for stanzas in self.take_older(life, local) {
            outbound.clusters.report(&stanzas, cause);
        }
    }

    /// A pair without anything waiting leaves the table, and the route with its last pair. Then its
    /// task ends.
    pub(super) fn retire(&self, outbound: &Outbound, local: &Domain) -> bool {
        if !self.is_empty(local) {
            return false;
        }
        // Stanzas are queued under the same lock, so none can slip in between.
        let mut routes = outbound.routes.lock();
        let mut inner = self.inner.lock();
        let Ok(place) = inner.place(local) else {
            return true;
        };
        if inner.pair(local).is_some_and(|pair| !pair.queue.is_empty()) {
            return false;
        }
        inner.pairs.remove(place);
        self.changed.notify_waiters();
        if inner.pairs.is_empty() {
            routes.remove(&self.remote);
            if routes.is_empty() {
                *routes = std::collections::HashMap::new();
            }
        }
        true
    }

    /// The route leaves the table if it has no pair.
    pub(super) fn leave_table(&self, outbound: &Outbound) {
        let mut routes = outbound.routes.lock();
        let known = routes.get(&self.remote);
        if known.is_some_and(|known| std::ptr::eq(&raw const **known, self)) && self.inner.lock().pairs.is_empty() {
            routes.remove(&self.remote);
        }
    }

    /// A pair was refused on its own stream, which goes on for its guests: another task serves it,
    /// and answers what comes within the next seconds for the same cause.
    pub(super) fn hand_over(self: &Arc<Self>, outbound: &Arc<Outbound>, local: &Domain, cause: Cause, message: String) {
        keep_alone(&outbound.shared, &self.remote, Some(local), "refused");
        let mut inner = self.inner.lock();
        let Some(pair) = inner.pair(local) else {
            return;
        };
        pair.wake = Arc::default();
        drop(inner);
        let error = OpenError {
            cause,
            temporary: false,
            message,
            says: FailureScope::OfPair,
        };
        let task = pair::run(self.clone(), outbound.clone(), local.clone(), Some(error));
        outbound.tasks.spawn(task);
    }

    /// Waits until it is clear where the stanzas of a pair go. `failed`: its last stream failed, so
    /// nobody waits for it.
    pub(super) async fn turn(self: &Arc<Self>, outbound: &Outbound, local: &Domain, failed: bool) -> Way {
        let mut first = None;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (until, other) = match self.try_turn(outbound, local, failed, first.as_ref()) {
                Ok(way) => return way,
                Err(wait) => wait,
            };
            first.get_or_insert(other);
            match until {
                Some(until) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(until) => {}
                },
                None => changed.await,
            }
        }
    }

    /// The way; or until when to wait for another pair at most, and for which. `first`: the one
    /// that was waited for first; its stream is of no use, and no other's is waited for as well.
    fn try_turn(
        self: &Arc<Self>,
        outbound: &Outbound,
        local: &Domain,
        failed: bool,
        first: Option<&Domain>,
    ) -> Result<Way, (Option<Instant>, Domain)> {
        let now = Instant::now();
        let mut alone = is_alone(&outbound.shared.memory, &self.remote, local);
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let Ok(place) = inner.place(local) else {
            return Ok(Way::Open(None));
        };
        let number = inner.pairs.get(place).map_or(0, |pair| pair.number);
        let mut earlier = inner.pairs.iter();
        let earlier = earlier.find(|pair| pair.fresh && pair.number < number);
        let earlier = earlier.map(|pair| pair.local.clone());
        if let Some(pair) = inner.pairs.get_mut(place) {
            if std::mem::take(&mut pair.fresh) {
                self.changed.notify_waiters();
            }
            alone |= pair.alone;
            let host = inner.hosts.iter_mut().filter(|_| !alone);
            let mut host = host.filter(|host| host.takes(local));
            if let Some(host) = host.next() {
                pair.wake = host.wake.clone();
                host.guests.push(local.clone());
                host.joining.push(local.clone());
                host.wake.notify_one();
                return Ok(Way::Guest);
            }
        }
        if let Some((until, error)) = &inner.unreachable
            && now < *until
        {
            return Ok(Way::Unreachable(*until, error.clone()));
        }
        match (&inner.opening, earlier) {
            (None, _) if failed => Ok(Way::Open(None)),
            // Tasks begin in any order; the pair that came first has its turn first.
            (None, Some(earlier)) => Err((None, earlier)),
            (None, None) => {
                inner.opening = Some((local.clone(), None));
                Ok(Way::Open(Some(OpeningTurn(self.clone()))))
            }
            (Some((other, None)), _) => Err((None, other.clone())),
            (Some((other, Some(since))), _) => {
                let until = *since + HEAD_START;
                let another = first.is_some_and(|first| first != other);
                if alone || another || now >= until {
                    Ok(Way::Open(None))
                } else {
                    Err((Some(until), other.clone()))
                }
            }
        }
    }

    /// A connection of the pair to the remote domain is up.
    pub(super) fn connected(&self, local: &Domain) {
        let mut inner = self.inner.lock();
        inner.unreachable = None;
        inner.backoff.reset();
        if let Some((first, since)) = &mut inner.opening
            && first == local
            && since.is_none()
        {
            *since = Some(Instant::now());
            self.changed.notify_waiters();
        }
    }

    /// No address could be connected to; gives when to try again.
    pub(super) fn not_connected(&self, error: &OpenError) -> Instant {
        let mut inner = self.inner.lock();
        let wait = if error.temporary {
            inner.backoff.wait()
        } else {
            NEGATIVE
        };
        let until = Instant::now() + wait;
        inner.unreachable = Some((until, error.clone()));
        self.changed.notify_waiters();
        until
    }

    /// The stream of this pair takes guests from now on.
    pub(super) fn host(&self, local: &Domain, takes: GuestPolicy, most: usize) -> u64 {
        let mut inner = self.inner.lock();
        inner.hosted += 1;
        let id = inner.hosted;
        let wake = inner.pair(local).map(|pair| pair.wake.clone());
        inner.hosts.push(Host {
            id,
            wake: wake.unwrap_or_default(),
            takes,
            guests: Vec::new(),
            joining: Vec::new(),
            most,
        });
        drop(inner);
        self.changed.notify_waiters();
        id
    }

    /// The guests that have come since the last call.
    pub(super) fn joining(&self, host: u64) -> Vec<Domain> {
        let mut inner = self.inner.lock();
        let host = inner.hosts.iter_mut().find(|known| known.id == host);
        host.map(|host| std::mem::take(&mut host.joining)).unwrap_or_default()
    }

    /// The stream takes no more guests; gives those that it has not noticed.
    pub(super) fn unhost(&self, host: u64) -> Vec<Domain> {
        let mut inner = self.inner.lock();
        let place = inner.hosts.iter().position(|known| known.id == host);
        place.map_or_else(Vec::new, |place| inner.hosts.remove(place).joining)
    }

    /// A guest leaves a stream; `alone`: it opens its own if there is need. Nothing of it is under
    /// way.
    pub(super) fn leave(self: &Arc<Self>, outbound: &Arc<Outbound>, host: u64, local: &Domain, alone: bool) {
        let mut inner = self.inner.lock();
        if let Some(host) = inner.hosts.iter_mut().find(|known| known.id == host) {
            host.guests.retain(|guest| guest != local);
        }
        let Ok(place) = inner.place(local) else {
            return;
        };
        let Some(pair) = inner.pairs.get_mut(place) else {
            return;
        };
        pair.wake = Arc::default();
        pair.alone |= alone;
        if pair.queue.is_empty() {
            // The task of the stream looks after the route.
            inner.pairs.remove(place);
        } else {
            drop(inner);
            self.spawn(outbound, local.clone());
        }
    }
}

impl Host {
    fn takes(&self, local: &Domain) -> bool {
        let named = match &self.takes {
            GuestPolicy::Any => true,
            GuestPolicy::Named(certificate) => certificate.names.cover(local),
        };
        named && self.guests.len() < self.most
    }
}

#[cfg(test)]
mod tests;
