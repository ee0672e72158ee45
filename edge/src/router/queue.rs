//! What waits for the routers of one cluster: one queue that its links take from in turn.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Bytes that may wait before inbound peers are paused.
const HIGH_WATER: usize = 4 * 1024 * 1024;
/// Bytes under which they go on.
const LOW_WATER: usize = 1024 * 1024;
/// How long a stanza may wait for a link.
pub const HOLD: Duration = Duration::from_secs(30);

/// Stanzas one after the other, ready for a link's stream.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The stanzas' bytes in the content namespace of links.
    pub bytes: Bytes,
    /// Number of stanzas.
    pub count: usize,
    at: Instant,
}

/// Collects the stanzas of one turn.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    /// Where stanzas are appended.
    pub out: BytesMut,
    /// Number of stanzas appended.
    pub count: usize,
}

impl BatchBuilder {
    /// What was collected; `None` if nothing was.
    pub fn finish(&mut self) -> Option<Batch> {
        let count = std::mem::take(&mut self.count);
        (count > 0).then(|| Batch {
            bytes: self.out.split().freeze(),
            count,
            at: Instant::now(),
        })
    }
}

impl Batch {
    /// A single stanza.
    pub fn one(bytes: Bytes) -> Self {
        Self {
            bytes,
            count: 1,
            at: Instant::now(),
        }
    }
}

/// The queue of one cluster.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    full: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Batch>,
    bytes: usize,
    /// The links that are up, by rank; the lowest one takes.
    up: Vec<(usize, Arc<Notify>)>,
    /// Batches that a link wrote and whose processing is not proven.
    unproven: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            full: watch::Sender::new(false),
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends; the link that takes is woken once, however much is appended before it runs.
    pub fn push(&self, batch: Batch) {
        let mut inner = self.lock();
        inner.bytes += batch.bytes.len();
        inner.waiting.push_back(batch);
        if inner.bytes > HIGH_WATER {
            self.full
                .send_if_modified(|full| !std::mem::replace(full, true));
        }
        if let Some((_, wake)) = inner.up.first() {
            wake.notify_one();
        }
    }

    /// Whether producers must pause, as a value to wait on.
    pub fn full(&self) -> watch::Receiver<bool> {
        self.full.subscribe()
    }

    /// Whether so much waits that even errors must wait: the router does not read.
    pub fn overfull(&self) -> bool {
        self.lock().bytes > 2 * HIGH_WATER
    }

    /// A link came up; the one of the lowest rank takes from now on.
    pub fn link_up(&self, rank: usize, wake: &Arc<Notify>) {
        let mut inner = self.lock();
        inner.up.push((rank, wake.clone()));
        inner.up.sort_by_key(|(rank, _)| *rank);
        if let Some((_, first)) = inner.up.first() {
            first.notify_one();
        }
    }

    /// A link is no longer up; the next one takes over what still waits.
    pub fn link_down(&self, wake: &Arc<Notify>) {
        let mut inner = self.lock();
        inner.up.retain(|(_, other)| !Arc::ptr_eq(other, wake));
        if let Some((_, first)) = inner.up.first() {
            first.notify_one();
        }
    }

    /// Whether any link is up.
    pub fn is_up(&self) -> bool {
        !self.lock().up.is_empty()
    }

    /// Takes batches of about `most` bytes for the link with this `wake`, if it is its turn; they
    /// count as unproven until [`Self::proven`].
    pub fn take(&self, wake: &Arc<Notify>, most: usize) -> Vec<Batch> {
        let mut inner = self.lock();
        if !inner
            .up
            .first()
            .is_some_and(|(_, first)| Arc::ptr_eq(first, wake))
        {
            return Vec::new();
        }
        let (mut taken, mut size) = (Vec::new(), 0);
        while size < most
            && let Some(batch) = inner.waiting.pop_front()
        {
            size += batch.bytes.len();
            taken.push(batch);
        }
        inner.unproven += taken.len();
        self.took(&mut inner, size);
        taken
    }

    fn took(&self, inner: &mut Inner, size: usize) {
        inner.bytes = inner.bytes.saturating_sub(size);
        if inner.bytes < LOW_WATER {
            self.full
                .send_if_modified(|full| std::mem::replace(full, false));
        }
        if inner.waiting.is_empty() {
            inner.waiting = VecDeque::new();
        }
    }

    /// This many batches are proven processed, or were reported.
    pub fn proven(&self, batches: usize) {
        let mut inner = self.lock();
        inner.unproven = inner.unproven.saturating_sub(batches);
    }

    /// Takes what has waited for [`HOLD`] by `now`.
    pub fn expire(&self, now: Instant) -> Vec<Batch> {
        self.take_while(|batch| now.duration_since(batch.at) >= HOLD)
    }

    /// Takes everything.
    pub fn clear(&self) -> Vec<Batch> {
        self.take_while(|_| true)
    }

    fn take_while(&self, wanted: impl Fn(&Batch) -> bool) -> Vec<Batch> {
        let mut inner = self.lock();
        let mut expired = Vec::new();
        let mut size = 0;
        while let Some(batch) = inner.waiting.front()
            && wanted(batch)
        {
            size += batch.bytes.len();
            expired.extend(inner.waiting.pop_front());
        }
        if !expired.is_empty() {
            self.took(&mut inner, size);
        }
        expired
    }

    /// Stanzas and bytes that wait to be written.
    pub fn depth(&self) -> (usize, usize) {
        let inner = self.lock();
        let stanzas = inner.waiting.iter().map(|batch| batch.count).sum();
        (stanzas, inner.bytes)
    }

    /// Whether nothing waits to be written.
    pub fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Whether nothing waits and everything written is proven or reported.
    pub fn is_settled(&self) -> bool {
        let inner = self.lock();
        inner.waiting.is_empty() && inner.unproven == 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn batch(size: usize) -> Batch {
        Batch::one(Bytes::from(vec![b' '; size]))
    }

    #[tokio::test]
    async fn the_link_of_lowest_rank_takes_and_the_next_one_when_it_is_down() {
        let queue = Queue::default();
        let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        queue.push(batch(10));
        queue.link_up(1, &second);
        queue.link_up(0, &first);
        assert!(queue.take(&second, 100).is_empty());
        assert_eq!(queue.take(&first, 100).len(), 1);
        queue.push(batch(10));
        queue.link_down(&first);
        assert_eq!(queue.take(&second, 100).len(), 1);
        assert!(!queue.is_settled());
        queue.proven(2);
        assert!(queue.is_settled());
    }

    #[tokio::test]
    async fn producers_pause_at_the_high_water_mark_and_go_on_below_the_low_one() {
        let queue = Queue::default();
        let wake = Arc::new(Notify::new());
        queue.link_up(0, &wake);
        let full = queue.full();
        for _ in 0..5 {
            queue.push(batch(HIGH_WATER / 4));
        }
        assert!(*full.borrow());
        queue.take(&wake, HIGH_WATER / 4);
        assert!(*full.borrow(), "one batch less is not enough");
        queue.take(&wake, HIGH_WATER);
        assert!(!*full.borrow());
    }

    #[tokio::test]
    async fn only_what_waited_its_time_expires() {
        let queue = Queue::default();
        queue.push(batch(1));
        let now = Instant::now();
        let mut second = batch(2);
        second.at = now + HOLD / 2;
        queue.push(second);
        assert!(queue.expire(now + HOLD / 2).is_empty());
        let expired = queue.expire(now + HOLD);
        assert_eq!(
            expired.iter().map(|b| b.bytes.len()).collect::<Vec<_>>(),
            [1]
        );
        assert!(!queue.is_empty());
        assert_eq!(queue.clear().len(), 1);
    }
}
