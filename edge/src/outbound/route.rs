//! One remote domain: its queues and the task that keeps a stream while there is need.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::Limits;

use super::connect::{OpenError, Opener, Purpose};
use super::stream;
use crate::backoff::Backoff;
use crate::bounce::Cause;
use crate::edge::Edge;

/// First and longest pause between attempts to open a stream.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Bytes that may wait for all remote domains together: many that are down must not use up the
/// memory.
const MAX_WAITING: usize = 64 * 1024 * 1024;
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

    /// Queues stanzas of one pair until something is full; those that were queued are taken out of
    /// `stanzas`.
    pub(super) fn push_all(
        &self,
        limits: &Limits,
        local: &Domain,
        stanzas: &mut Vec<Bytes>,
    ) -> Result<(), Cause> {
        let mut queues = self.lock();
        if !queues.pairs.contains_key(local) {
            queues.pairs.insert(local.clone(), Pair::default());
        }
        let Some(pair) = queues.pairs.get_mut(local) else {
            return Err(Cause::QueueFull);
        };
        let now = Instant::now();
        let waiting = self.total.load(Ordering::Relaxed);
        let (mut count, mut bytes) = (0, 0);
        for stanza in &*stanzas {
            let more = bytes + stanza.len();
            if pair.waiting.len() + count >= limits.max_queued_stanzas
                || pair.bytes + more > limits.max_queued_bytes
                || waiting + more > MAX_WAITING
            {
                break;
            }
            (count, bytes) = (count + 1, more);
        }
        let fitting = stanzas.drain(..count).map(|stanza| (now, stanza));
        pair.waiting.extend(fitting);
        pair.bytes += bytes;
        self.total.fetch_add(bytes, Ordering::Relaxed);
        if pair.waiting.is_empty() {
            queues.pairs.remove(local);
        }
        drop(queues);
        if count > 0 {
            self.wake.notify_one();
        }
        if stanzas.is_empty() {
            Ok(())
        } else {
            Err(Cause::QueueFull)
        }
    }

    #[cfg(test)]
    fn push(&self, limits: &Limits, local: &Domain, stanza: Bytes) -> Result<(), Cause> {
        self.push_all(limits, local, &mut vec![stanza])
    }

    pub(super) fn retry(&self) {
        self.retry.notify_one();
    }

    pub(super) fn is_settled(&self) -> bool {
        self.is_empty() && !self.writing.load(Ordering::Acquire)
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

    /// Takes stanzas of one pair, about `most` bytes, one after the other in one piece; with their
    /// number.
    pub(super) fn take(&self, local: &Domain, most: usize) -> (Bytes, usize) {
        let mut queues = self.lock();
        let Some(pair) = queues.pairs.get_mut(local) else {
            return (Bytes::new(), 0);
        };
        let mut taken = match (pair.waiting.pop_front(), pair.waiting.is_empty()) {
            (None, _) => return (Bytes::new(), 0),
            (Some((_, only)), true) => {
                // An idle pair holds no memory.
                self.total.fetch_sub(only.len(), Ordering::Relaxed);
                queues.pairs.remove(local);
                return (only, 1);
            }
            (Some((_, first)), false) => {
                let mut taken = BytesMut::with_capacity(pair.bytes.min(most + first.len()));
                taken.extend_from_slice(&first);
                taken
            }
        };
        let mut count = 1;
        while taken.len() < most
            && let Some((_, next)) = pair.waiting.pop_front()
        {
            taken.extend_from_slice(&next);
            count += 1;
        }
        pair.bytes = pair.bytes.saturating_sub(taken.len());
        self.total.fetch_sub(taken.len(), Ordering::Relaxed);
        if pair.waiting.is_empty() {
            queues.pairs.remove(local);
        }
        (taken.freeze(), count)
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
                stream::End::Refused => {
                    return Err(OpenError {
                        cause: Cause::DialbackInvalid,
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
        let route = Route::new(Domain::parse("a.example").unwrap(), Arc::default());
        let local = Domain::parse("coluc.com").unwrap();
        let limits = Limits {
            max_queued_stanzas: 3,
            ..Limits::default()
        };
        let mut stanzas: Vec<_> = ["<a/>", "<b/>", "<c/>", "<d/>", "<e/>"]
            .map(|text| Bytes::from_static(text.as_bytes()))
            .into();
        let pushed = route.push_all(&limits, &local, &mut stanzas);
        assert_eq!(pushed, Err(Cause::QueueFull));
        assert_eq!(stanzas, [&b"<d/>"[..], &b"<e/>"[..]]);
        let queued = Bytes::from_static(b"<a/><b/><c/>");
        assert_eq!(route.take(&local, 1024), (queued, 3));
        assert_eq!(route.push_all(&limits, &local, &mut stanzas), Ok(()));
        assert!(stanzas.is_empty());
    }

    #[tokio::test]
    async fn what_waits_is_bounded_by_pair_and_over_all_routes() {
        let total = Arc::new(AtomicUsize::new(0));
        let domain = |text: &str| Domain::parse(text).unwrap();
        let route = Route::new(domain("a.example"), total.clone());
        let other = Route::new(domain("b.example"), total.clone());
        let limits = Limits {
            max_queued_stanzas: 2,
            ..Limits::default()
        };
        let local = domain("coluc.com");
        let stanza = Bytes::from_static(b"<message/>");
        assert_eq!(route.push(&limits, &local, stanza.clone()), Ok(()));
        assert_eq!(route.push(&limits, &local, stanza.clone()), Ok(()));
        assert_eq!(
            route.push(&limits, &local, stanza.clone()),
            Err(Cause::QueueFull)
        );
        assert_eq!(total.load(Ordering::Relaxed), 20);
        total.fetch_add(MAX_WAITING - 25, Ordering::Relaxed);
        assert_eq!(
            other.push(&limits, &local, stanza.clone()),
            Err(Cause::QueueFull)
        );
        assert_eq!(
            route.take(&local, 1024),
            (Bytes::from_static(b"<message/><message/>"), 2)
        );
        assert_eq!(other.push(&limits, &local, stanza), Ok(()));
        assert_eq!(other.take_older(Duration::ZERO, None).len(), 1);
        assert_eq!(total.load(Ordering::Relaxed), MAX_WAITING - 25);
        assert!(route.is_settled() && other.is_settled());
    }
}
