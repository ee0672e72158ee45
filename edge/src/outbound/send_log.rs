//! Stanzas that were sent and may not have been read: if their stream is lost, their senders are told.
//!
//! A stream without acknowledgements of its own (XEP-0198) tells nothing about what the peer has read.
//! TCP tells what the peer's system has taken, and that is all as far as the peer's program keeps up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::queue::SendRoom;
use crate::budget::{Pool, Share, fair};
use crate::stream::transport::{Delivery, Progress};

/// What the peer's system took this long before it took something last is read.
const READ: Duration = Duration::from_secs(5);
/// Bytes of one stream at most, more than the window of an ordinary system, and its part of all at most.
const MOST: usize = 4 * 1024 * 1024;
const PART: usize = 16;
/// Bytes of it that are kept although the peer's system has taken them: fifty busy streams of a peer that
/// reads would else have 200 MB.
const TAKEN: usize = 1024 * 1024;
/// Bytes with which a stream gets on. A quarter of the memory is for streams with no more.
const LITTLE: usize = 64 * 1024;
const RESERVE: usize = 4;
/// Bytes that a stream may send in any case when its log is empty.
const SMALL: usize = 4 * 1024;
/// Stanzas that are not kept are counted together for this long.
const SPAN: Duration = Duration::from_millis(250);

/// Stanzas that were sent at once.
#[derive(Debug)]
struct SentBatch {
    at: Instant,
    bytes: Bytes,
    count: usize,
    /// How much the system had been given when all of them were.
    end: Option<u64>,
}

impl SentBatch {
    /// Whether the peer's system has it, if it has taken so many bytes of the stream.
    fn is_taken(&self, taken: u64) -> bool {
        self.end.is_some_and(|end| end <= taken)
    }
}

/// What one stream keeps.
#[derive(Debug)]
pub(super) struct SendLog {
    /// Its part of what all streams keep.
    share: Share,
    batches: VecDeque<SentBatch>,
    /// Bytes of the batches.
    bytes: usize,
    /// Bytes that TLS holds besides until they are with the system.
    copied: usize,
    /// Stanzas that may be unread and are not kept any more, by when they were sent.
    unkept: VecDeque<(Instant, usize)>,
    progress: Progress,
    /// When the peer's system was last found to have taken everything.
    all_taken: Instant,
}

impl SendLog {
    /// Of a new stream.
    pub(super) fn new(memory: Arc<Pool>, network: &impl Delivery) -> Self {
        Self {
            share: Share::new(memory),
            batches: VecDeque::new(),
            bytes: 0,
            copied: 0,
            unkept: VecDeque::new(),
            progress: Progress::new(network),
            all_taken: Instant::now(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Whether there is nothing that may be unread.
    pub(super) fn is_settled(&self) -> bool {
        self.batches.is_empty() && self.unkept.is_empty()
    }

    /// Whether the peer's system has taken everything.
    pub(super) fn is_taken(&self, network: &impl Delivery) -> bool {
        let last = self.batches.back();
        last.is_none_or(|batch| batch.is_taken(network.acknowledged()))
    }

    /// How much of `wanted` bytes may be sent while all streams may keep `most_of_all`. What the peer's system has
    /// taken gives way to it.
    pub(super) fn room(&mut self, most_of_all: usize, wanted: usize, network: &impl Delivery) -> SendRoom {
        let others = self.share.others();
        let much = fair(most_of_all - most_of_all / RESERVE, others)
            .min(MOST)
            .min(most_of_all / PART);
        let share = fair(most_of_all, others).min(LITTLE).max(much).max(SMALL);
        let most = share.saturating_sub(wanted).min(TAKEN);
        if self.bytes > most {
            self.drop_taken(most, network);
        }
        let free = share.saturating_sub(self.bytes);
        let first = match (self.batches.is_empty(), others) {
            (false, _) => 0,
            (true, 0) => usize::MAX,
            // A large stanza waits until others have less; it is never stuck behind its own.
            (true, others) => most_of_all.saturating_sub(others).max(SMALL),
        };
        let bytes = if wanted <= free || first > 0 || free >= SMALL {
            free.min(wanted)
        } else {
            0
        };
        SendRoom { bytes, first }
    }

    /// Stanzas were sent; `copied`: TLS holds them, too.
    pub(super) fn push(&mut self, now: Instant, bytes: Bytes, count: usize, copied: bool) {
        self.bytes += bytes.len();
        if copied {
            self.copied += bytes.len();
        }
        self.batches.push_back(SentBatch {
            at: now,
            bytes,
            count,
            end: None,
        });
        self.share.set(self.bytes + self.copied);
    }

    /// Forgets what the peer has read.
    pub(super) fn forget(&mut self, now: Instant, network: &impl Delivery) {
        if network.needs_flush() {
            return;
        }
        let unmarked = self.batches.iter_mut().rev();
        for batch in unmarked.take_while(|batch| batch.end.is_none()) {
            batch.end = Some(network.written());
        }
        self.copied = 0;
        let old = |at: &Instant, read: Instant| read.saturating_duration_since(*at) >= READ;
        let first = self.batches.front().map(|batch| batch.at);
        if first.is_some_and(|at| old(&at, now)) || self.unkept.front().is_some_and(|(at, _)| old(at, now)) {
            // A system whose program reads no more takes nothing more, once its buffers are full.
            let (read, taken) = (self.progress(now, network), network.acknowledged());
            while let Some(batch) = self.batches.front()
                && old(&batch.at, read)
                && batch.is_taken(taken)
            {
                self.pop();
            }
            while self.unkept.front().is_some_and(|(at, _)| old(at, read)) {
                self.unkept.pop_front();
            }
        }
        self.share.set(self.bytes + self.copied);
    }

    /// When the peer's system took something last, or had taken everything.
    pub(super) fn progress(&mut self, now: Instant, network: &impl Delivery) -> Instant {
        if network.is_acknowledged() {
            self.all_taken = now;
        }
        self.progress.look(network).max(self.all_taken)
    }

    /// Everything that is kept, and the number of stanzas besides that may be unread.
    pub(super) fn drain(&mut self) -> (Vec<Bytes>, usize) {
        let unkept = self.unkept.drain(..).map(|(_, count)| count).sum();
        let batches = std::mem::take(&mut self.batches);
        (self.bytes, self.copied) = (0, 0);
        self.share.set(self.bytes + self.copied);
        (batches.into_iter().map(|batch| batch.bytes).collect(), unkept)
    }

    /// Keeps no more bytes than these of what the peer's system has taken.
    fn drop_taken(&mut self, bytes: usize, network: &impl Delivery) {
        let taken = network.acknowledged();
        while self.bytes > bytes
            && self.batches.front().is_some_and(|batch| batch.is_taken(taken))
            && let Some(SentBatch { at, count, .. }) = self.pop()
        {
            match self.unkept.back_mut() {
                Some((since, stanzas)) if at.duration_since(*since) < SPAN => *stanzas += count,
                _ => self.unkept.push_back((at, count)),
            }
        }
        self.share.set(self.bytes + self.copied);
    }

    fn pop(&mut self) -> Option<SentBatch> {
        let batch = self.batches.pop_front()?;
        self.bytes = self.bytes.saturating_sub(batch.bytes.len());
        if self.batches.is_empty() {
            // An idle stream holds no memory.
            self.batches = VecDeque::new();
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const KIB: usize = 1024;

    /// A peer's system, and whether its program reads.
    #[derive(Debug, Default)]
    struct System {
        written: u64,
        taken: u64,
    }

    impl Delivery for System {
        fn needs_flush(&self) -> bool {
            false
        }

        fn written(&self) -> u64 {
            self.written
        }

        fn acknowledged(&self) -> u64 {
            self.taken
        }
    }

    impl System {
        /// Sends as much as there is room for, at most this much.
        fn send(&mut self, log: &mut SendLog, now: Instant, most: usize, wanted: usize) -> usize {
            log.forget(now, self);
            let SendRoom { bytes, .. } = log.room(most, wanted, self);
            if bytes > 0 {
                log.push(now, vec![b'x'; bytes].into(), 1, false);
                self.written += bytes as u64;
                log.forget(now, self);
            }
            bytes
        }
    }

    fn logs(count: usize) -> (Arc<Pool>, Vec<(SendLog, System)>) {
        let memory = Arc::<Pool>::default();
        let log = |_| (SendLog::new(memory.clone(), &System::default()), System::default());
        let logs = (0..count).map(log).collect();
        (memory, logs)
    }

    #[test]
    fn streams_that_are_not_taken_share_the_memory_and_a_new_one_gets_some() {
        const MEMORY: usize = 20 * KIB * KIB;
        let (memory, mut logs) = logs(200);
        let now = Instant::now();
        for (log, system) in &mut logs {
            while system.send(log, now, MEMORY, 64 * KIB) > 0 {}
        }
        let had = |range: std::ops::Range<usize>| logs[range].iter().map(|(log, _)| log.bytes).min().unwrap();
        assert!(had(0..10) > 1200 * KIB, "{}", had(0..10));
        assert!(had(0..40) > 32 * KIB, "{}", had(0..40));
        assert!(had(0..200) >= SMALL);
        assert!(memory.held() <= MEMORY + 200 * SMALL, "{}", memory.held());
        drop(logs);
        assert_eq!(memory.held(), 0);
    }

    #[test]
    fn large_stanzas_wait_while_others_fill_the_memory_and_a_single_one_never_does() {
        const MEMORY: usize = 10 * KIB * KIB;
        const LARGE: usize = 240 * KIB;
        let (memory, mut many) = logs(300);
        let now = Instant::now();
        for (log, system) in &mut many {
            let SendRoom { bytes, first } = log.room(MEMORY, LARGE, system);
            if bytes >= LARGE || first >= LARGE {
                log.push(now, vec![b'x'; LARGE].into(), 1, false);
            } else {
                assert!(first >= SMALL);
            }
        }
        assert!(
            memory.held() <= MEMORY && memory.held() > MEMORY / 2,
            "{}",
            memory.held()
        );
        let (_, mut one) = logs(1);
        let (log, system) = &mut one[0];
        assert!(log.room(KIB, LARGE, system).first >= LARGE);
    }

    #[test]
    fn a_stream_that_is_taken_goes_on_beside_full_ones() {
        const MEMORY: usize = 20 * KIB * KIB;
        let (_, mut logs) = logs(31);
        let now = Instant::now();
        for (log, system) in &mut logs[1..] {
            while system.send(log, now, MEMORY, 64 * KIB) > 0 {}
        }
        let (log, system) = &mut logs[0];
        for _ in 0..100 {
            assert_eq!(system.send(log, now, MEMORY, LITTLE), LITTLE);
            system.taken = system.written;
        }
    }

    #[test]
    fn what_was_taken_by_a_system_whose_program_stopped_reading_is_kept_or_counted() {
        const SENT: usize = 100;
        let (_, mut logs) = logs(1);
        let (log, system) = &mut logs[0];
        let start = Instant::now();
        for _ in 0..SENT {
            assert_eq!(system.send(log, start, usize::MAX, 64 * KIB), 64 * KIB);
            system.taken = system.written;
        }
        // Its buffers are full from now on.
        assert!(system.send(log, start, usize::MAX, 64 * KIB) > 0);
        log.progress(start, system);
        log.forget(start + 100 * READ, system);
        let (kept, unkept) = log.drain();
        assert_eq!(kept.len() + unkept, SENT + 1);
        assert!(kept.len() >= TAKEN / (64 * KIB), "{}", kept.len());
    }

    #[test]
    fn what_is_old_enough_is_read_once_the_peer_has_taken_something_later() {
        let (memory, mut logs) = logs(1);
        let (log, system) = &mut logs[0];
        let start = Instant::now();
        for _ in 0..100 {
            system.send(log, start, usize::MAX, 64 * KIB);
            system.taken = system.written;
        }
        log.forget(start + READ, system);
        assert_eq!(log.drain(), (Vec::new(), 0));
        assert_eq!(memory.held(), 0);
    }
}
