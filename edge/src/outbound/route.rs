//! One remote domain: its queues and the task that keeps a stream while there is need.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use xmpp_federation_core::Domain;

use super::connect::{OpenError, Opener, Purpose};
use super::stream;
use crate::backoff::Backoff;
use crate::bounce::Cause;
use crate::edge::Edge;
use crate::failures::{Attempt, Stage};

/// First and longest pause between attempts to open a stream.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Bytes that may wait for all remote domains together: many that are down must not use up the
/// memory.
const MAX_WAITING: usize = 64 * 1024 * 1024;
/// Part of it that only pairs with little waiting may use: the few that are stalled with much must
/// not keep the others from sending.
const RESERVE: usize = 16 * 1024 * 1024;
/// Bytes that are little.
const SMALL: usize = 16 * 1024;
/// How long a failure that trying again does not mend is taken as the answer for new stanzas.
const NEGATIVE: Duration = Duration::from_secs(10);

/// Queues towards one remote domain.
#[derive(Debug)]
pub struct Route {
    /// The remote domain.
    pub(super) remote: Domain,
    queues: Mutex<Queues>,
    /// Bytes waiting here and in all other routes.
    total: Arc<AtomicUsize>,
    /// Something was queued.
    pub(super) wake: Notify,
    /// The back-off is void.
    retry: Notify,
    /// Something that was written is not with the network yet.
    pub(super) writing: AtomicBool,
}

#[derive(Debug, Default)]
struct Queues {
    pairs: HashMap<Domain, Pair>,
}

/// What may wait for one pair of domains.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) stanzas: usize,
    pub(super) bytes: usize,
}

impl Room {
    /// Whatever fits into the memory for all pairs.
    pub(super) const ANY: Self = Self {
        stanzas: usize::MAX,
        bytes: usize::MAX,
    };
}

/// What [`Route::take`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Stanzas one after the other in one piece.
    pub(super) bytes: Bytes,
    /// Their number.
    pub(super) count: usize,
    /// Stanzas that the peer would not take.
    pub(super) too_large: Vec<Bytes>,
}

/// Stanzas of one hosted domain.
#[derive(Debug, Default)]
struct Pair {
    waiting: VecDeque<(Instant, Bytes)>,
    bytes: usize,
}

impl Route {
    pub(super) fn new(remote: Domain, total: Arc<AtomicUsize>) -> Self {
        Self {
            remote,
            queues: Mutex::default(),
            total,
            wake: Notify::new(),
            retry: Notify::new(),
            writing: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues those stanzas of one pair that there is room for, and takes them out of `stanzas`;
    /// what is left keeps its order.
    pub(super) fn push_all(
        &self,
        room: Room,
        local: &Domain,
        stanzas: &mut Vec<Bytes>,
    ) -> Result<(), Cause> {
        // A report has nobody who could be told that it found no room.
        let report = room.bytes == usize::MAX;
        let now = Instant::now();
        let mut guard = self.lock();
        let queues = &mut *guard;
        if !queues.pairs.contains_key(local) {
            queues.pairs.insert(local.clone(), Pair::default());
        }
        let Some(pair) = queues.pairs.get_mut(local) else {
            return Err(Cause::QueueFull);
        };
        let total = self.total.load(Ordering::Relaxed);
        let (mut left, mut added) = (Vec::new(), 0);
        for stanza in stanzas.drain(..) {
            let size = stanza.len();
            let small = pair.bytes + size <= SMALL;
            let most = if small || report {
                MAX_WAITING
            } else {
                MAX_WAITING - RESERVE
            };
            if pair.waiting.len() >= room.stanzas
                || pair.bytes + size > room.bytes
                || total + added + size > most
            {
                left.push(stanza);
                continue;
            }
            added += size;
            pair.bytes += size;
            pair.waiting.push_back((now, stanza));
        }
        self.total.fetch_add(added, Ordering::Relaxed);
        if pair.waiting.is_empty() {
            queues.pairs.remove(local);
        }
        drop(guard);
        if added > 0 {
            self.wake.notify_one();
        }
        *stanzas = left;
        if stanzas.is_empty() {
            Ok(())
        } else {
            Err(Cause::QueueFull)
        }
    }

    #[cfg(test)]
    fn push(&self, room: Room, local: &Domain, stanza: Bytes) -> Result<(), Cause> {
        self.push_all(room, local, &mut vec![stanza])
    }

    pub(super) fn retry(&self) {
        self.retry.notify_one();
    }

    pub(super) fn is_settled(&self) -> bool {
        self.is_empty() && !self.writing.load(Ordering::Acquire)
    }

    /// Stanzas that wait.
    pub(super) fn len(&self) -> usize {
        let queues = self.lock();
        queues.pairs.values().map(|pair| pair.waiting.len()).sum()
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lock()
            .pairs
            .values()
            .all(|pair| pair.waiting.is_empty())
    }

    /// The hosted domains with something waiting.
    pub(super) fn waiting(&self) -> Vec<Domain> {
        let queues = self.lock();
        let waiting = queues
            .pairs
            .iter()
            .filter(|(_, pair)| !pair.waiting.is_empty());
        waiting.map(|(local, _)| local.clone()).collect()
    }

    /// Takes stanzas of one pair, about `most` bytes; `largest`: what the peer says it takes.
    pub(super) fn take(&self, local: &Domain, most: usize, largest: Option<usize>) -> Taken {
        let mut queues = self.lock();
        let Some(pair) = queues.pairs.get_mut(local) else {
            return Taken::default();
        };
        let largest = largest.unwrap_or(usize::MAX);
        let mut taken = Taken::default();
        let mut more = BytesMut::new();
        let mut size = 0;
        while size < most
            && let Some((_, stanza)) = pair.waiting.pop_front()
        {
            size += stanza.len();
            if stanza.len() > largest {
                taken.too_large.push(stanza);
                continue;
            }
            taken.count += 1;
            if taken.count == 1 {
                // Most often it is the only one, and is not copied.
                taken.bytes = stanza;
                continue;
            }
            if taken.count == 2 {
                more.reserve((pair.bytes + taken.bytes.len()).min(most + stanza.len()));
                more.extend_from_slice(&taken.bytes);
            }
            more.extend_from_slice(&stanza);
        }
        if taken.count > 1 {
            taken.bytes = more.freeze();
        }
        pair.bytes = pair.bytes.saturating_sub(size);
        self.total.fetch_sub(size, Ordering::Relaxed);
        if pair.waiting.is_empty() {
            // An idle pair holds no memory.
            queues.pairs.remove(local);
        }
        taken
    }

    /// Takes what has waited longer than `life`; `local`: of one pair only.
    pub(super) fn take_older(&self, life: Duration, local: Option<&Domain>) -> Vec<Bytes> {
        let now = Instant::now();
        let mut taken = Vec::new();
        let mut queues = self.lock();
        for (own, pair) in &mut queues.pairs {
            if local.is_some_and(|local| local != own) {
                continue;
            }
            while let Some((at, _)) = pair.waiting.front()
                && now.duration_since(*at) >= life
                && let Some((_, stanza)) = pair.waiting.pop_front()
            {
                pair.bytes = pair.bytes.saturating_sub(stanza.len());
                self.total.fetch_sub(stanza.len(), Ordering::Relaxed);
                taken.push(stanza);
            }
        }
        queues.pairs.retain(|_, pair| !pair.waiting.is_empty());
        taken
    }

    /// Reports what has waited longer than `life` to its senders.
    pub(super) fn report_older(
        &self,
        edge: &Edge,
        life: Duration,
        local: Option<&Domain>,
        cause: Cause,
    ) {
        for stanza in self.take_older(life, local) {
            edge.report_to_router(&stanza, cause);
        }
    }

    /// Reports what waits from domains that a reload took away: no key of theirs would be valid.
    fn report_gone(&self, edge: &Edge) {
        let live = edge.live();
        for local in self.waiting() {
            if !live.hosted.contains(&local) {
                self.report_older(edge, Duration::ZERO, Some(&local), Cause::ForeignSender);
            }
        }
    }

    /// Works while there is something to send or a stream is open.
    pub(super) async fn run(self: Arc<Self>, edge: Arc<Edge>) {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        loop {
            if self.is_empty() && self.retire(&edge) {
                return;
            }
            if edge.outbound.give_up.is_cancelled() {
                self.report_older(&edge, Duration::ZERO, None, Cause::Stopping);
                continue;
            }
            let started = Instant::now();
            match self.attempt(&edge).await {
                // A peer that takes streams only to end them is not called again at once.
                Ok(()) if started.elapsed() < PAUSE.0 && !self.is_empty() => {
                    tokio::select! {
                        () = sleep_until(started + PAUSE.0) => {}
                        () = edge.outbound.give_up.cancelled() => {}
                    }
                }
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::warn!(remote = %self.remote, reason = error.message, "no stream to the remote domain");
                    edge.registry
                        .partner_failed(&self.remote, error.message.clone());
                    self.pause(&edge, &error, &mut backoff).await;
                }
            }
        }
    }

    /// Leaves the table if nothing was queued meanwhile.
    fn retire(&self, edge: &Edge) -> bool {
        let mut routes = edge.outbound.lock();
        // Stanzas are queued under the same lock, so none can slip in between.
        let done = self.is_empty();
        if done {
            routes.remove(&self.remote);
            if routes.is_empty() {
                *routes = HashMap::new();
            }
        }
        done
    }

    /// Opens a stream and uses it to its end. Stanzas that grow too old meanwhile are reported.
    async fn attempt(&self, edge: &Arc<Edge>) -> Result<(), OpenError> {
        let live = edge.live();
        if let Err(denied) = live.policy.check(&self.remote) {
            let attempt = Attempt::outbound(Stage::Policy, None, denied.to_string());
            edge.attempt_failed(&self.remote, attempt);
            return Err(OpenError {
                cause: Cause::Denied,
                temporary: false,
                message: format!("{} may not federate: {denied}", self.remote),
            });
        }
        let hold = live.config.limits.dialback_timeout.0;
        let mut opener = {
            // In boxes that go before the stream's long life begins.
            let resolving = Box::pin(Opener::resolve(edge, &self.remote));
            self.ageing(edge, hold, resolving).await?
        };
        loop {
            self.report_gone(edge);
            let Some(local) = self.waiting().into_iter().next() else {
                return Ok(());
            };
            let opening = Box::pin(opener.open(&local, Purpose::Stanzas));
            let stream = self.ageing(edge, hold, opening).await?;
            match stream::run(edge, self, stream).await {
                stream::End::Used => return Ok(()),
                // Nothing was authenticated on it: the next address may do better.
                stream::End::Useless(reason) => {
                    tracing::info!(remote = %self.remote, reason, "the stream was of no use");
                    opener.note(Cause::Unreachable, reason);
                }
                stream::End::Refused(cause) => {
                    return Err(OpenError {
                        cause,
                        temporary: true,
                        message: format!("{} did not accept our dialback key", self.remote),
                    });
                }
            }
        }
    }

    /// Waits for something while reporting stanzas that grow too old.
    async fn ageing<T>(
        &self,
        edge: &Edge,
        life: Duration,
        what: impl Future<Output = Result<T, OpenError>>,
    ) -> Result<T, OpenError> {
        tokio::pin!(what);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                done = &mut what => return done,
                _ = tick.tick() => self.report_older(edge, life, None, Cause::Unreachable),
                () = edge.outbound.give_up.cancelled() => return Err(OpenError {
                    cause: Cause::Stopping,
                    temporary: true,
                    message: "this gateway is stopping".to_owned(),
                }),
            }
        }
    }

    /// Holds (or, if the failure is final, answers) what waits until the next attempt is due.
    async fn pause(&self, edge: &Edge, error: &OpenError, backoff: &mut Backoff) {
        let life = edge.live().config.limits.dialback_timeout.0;
        let (until, hold) = if error.temporary {
            (Instant::now() + backoff.wait(), life)
        } else {
            (Instant::now() + NEGATIVE, Duration::ZERO)
        };
        loop {
            self.report_older(edge, hold, None, error.cause);
            let now = Instant::now();
            if now >= until {
                return;
            }
            tokio::select! {
                () = sleep_until(until.min(now + Duration::from_secs(1))) => {}
                () = self.wake.notified(), if !error.temporary => {}
                () = self.retry.notified() => {
                    backoff.reset();
                    return;
                }
                () = edge.outbound.give_up.cancelled() => return,
                () = edge.outbound.close.cancelled() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn of_several_stanzas_those_that_fit_are_queued_and_the_others_are_left_in_order() {
        let total = Arc::new(AtomicUsize::new(0));
        let route = Route::new(Domain::parse("a.example").unwrap(), total.clone());
        let local = Domain::parse("coluc.com").unwrap();
        let room = Room {
            stanzas: 3,
            bytes: 15,
        };
        let of = |texts: &[&'static str]| -> Vec<_> {
            let texts = texts.iter();
            texts
                .map(|text| Bytes::from_static(text.as_bytes()))
                .collect()
        };
        let mut stanzas = of(&["<a/>", "<too-large/>", "<b/>", "<c/>", "<d/>", "<e/>"]);
        let pushed = route.push_all(room, &local, &mut stanzas);
        assert_eq!(pushed, Err(Cause::QueueFull));
        assert_eq!(stanzas, of(&["<too-large/>", "<d/>", "<e/>"]));
        assert_eq!(total.load(Ordering::Relaxed), 12);
        let taken = route.take(&local, 1024, None);
        assert_eq!((&taken.bytes[..], taken.count), (&b"<a/><b/><c/>"[..], 3));
        stanzas.remove(0);
        assert_eq!(route.push_all(room, &local, &mut stanzas), Ok(()));
        assert!(stanzas.is_empty());
    }

    #[tokio::test]
    async fn what_waits_is_bounded_by_pair_and_over_all_routes() {
        let total = Arc::new(AtomicUsize::new(0));
        let domain = |text: &str| Domain::parse(text).unwrap();
        let route = Route::new(domain("a.example"), total.clone());
        let other = Route::new(domain("b.example"), total.clone());
        let room = Room {
            stanzas: 2,
            bytes: 1000,
        };
        let local = domain("coluc.com");
        let stanza = Bytes::from_static(b"<message/>");
        assert_eq!(route.push(room, &local, stanza.clone()), Ok(()));
        assert_eq!(route.push(room, &local, stanza.clone()), Ok(()));
        assert_eq!(
            route.push(room, &local, stanza.clone()),
            Err(Cause::QueueFull)
        );
        assert_eq!(total.load(Ordering::Relaxed), 20);
        total.fetch_add(MAX_WAITING - 25, Ordering::Relaxed);
        assert_eq!(
            other.push(room, &local, stanza.clone()),
            Err(Cause::QueueFull)
        );
        assert_eq!(
            route.take(&local, 1024, None),
            Taken {
                bytes: Bytes::from_static(b"<message/><message/>"),
                count: 2,
                too_large: Vec::new()
            }
        );
        assert_eq!(other.push(room, &local, stanza), Ok(()));
        assert_eq!(other.take_older(Duration::ZERO, None).len(), 1);
        assert_eq!(total.load(Ordering::Relaxed), MAX_WAITING - 25);
        assert!(route.is_settled() && other.is_settled());
    }

    #[test]
    fn what_the_peer_would_not_take_is_set_aside_and_the_rest_keeps_its_order() {
        let total = Arc::new(AtomicUsize::new(0));
        let local = Domain::parse("coluc.com").unwrap();
        let route = Route::new(Domain::parse("a.example").unwrap(), total.clone());
        for text in ["<a/>", "<too-large/>", "<b/>", "<c/>", "<also-large/>"] {
            let stanza = Bytes::from_static(text.as_bytes());
            assert_eq!(route.push(Room::ANY, &local, stanza), Ok(()));
        }
        let taken = route.take(&local, 1024, Some(4));
        assert_eq!((&taken.bytes[..], taken.count), (&b"<a/><b/><c/>"[..], 3));
        assert_eq!(
            taken.too_large,
            [&b"<too-large/>"[..], &b"<also-large/>"[..]]
        );
        assert_eq!(total.load(Ordering::Relaxed), 0);
        assert!(route.is_empty());
    }

    #[test]
    fn many_pairs_that_are_stalled_leave_room_for_the_others() {
        let total = Arc::new(AtomicUsize::new(0));
        let local = Domain::parse("coluc.com").unwrap();
        let room = Room {
            stanzas: usize::MAX,
            bytes: 8 * 1024 * 1024,
        };
        let stanza = Bytes::from(vec![b' '; 100_000]);
        let routes: Vec<_> = (0..100)
            .map(|n| {
                let remote = Domain::parse(&format!("stalled{n}.example")).unwrap();
                Route::new(remote, total.clone())
            })
            .collect();
        for route in &routes {
            while route.push(room, &local, stanza.clone()).is_ok() {}
        }
        let other = Route::new(Domain::parse("other.example").unwrap(), total.clone());
        for _ in 0..5 {
            assert_eq!(other.push(room, &local, stanza.slice(..3000)), Ok(()));
        }
        // Alone, a pair may use all that is configured.
        drop(routes);
        total.store(0, Ordering::Relaxed);
        let alone = Route::new(Domain::parse("alone.example").unwrap(), total.clone());
        while alone.push(room, &local, stanza.clone()).is_ok() {}
        assert!(total.load(Ordering::Relaxed) > room.bytes - stanza.len());
    }
}
