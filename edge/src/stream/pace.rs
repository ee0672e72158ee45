//! Turns at the socket for strangers' connections, in the order in which they ask. However many
//! strangers there are and whatever they send, partners' streams have the processor when they need it.
//!
//! Connections on which nothing is proven yet share a number of turns in a second. Streams of strangers
//! that proved a domain have all that is left: their turns come one after the other, each behind
//! whatever else is ready to run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::PollSemaphore;

/// How often turns are given out.
const TICK: Duration = Duration::from_millis(5);
const TICKS_PER_SECOND: usize = 200;
/// Turns of this time may be taken at once after a pause.
const BURST_TICKS: usize = 100;

/// The turns.
#[derive(Debug)]
pub struct Pace {
    turns: Arc<Semaphore>,
    /// Work that took more than its turn.
    debt: AtomicUsize,
    /// Somebody took a turn.
    taken: Notify,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(0)),
            debt: AtomicUsize::new(0),
            taken: Notify::new(),
        }
    }
}

impl Pace {
    /// Gives turns out, for as long as it is not dropped.
    pub async fn run(&self, per_second: impl Fn() -> usize) {
        loop {
            let each = (per_second() / TICKS_PER_SECOND).max(1);
            let room = (each * BURST_TICKS).saturating_sub(self.turns.available_permits());
            let debt = self.debt.load(Ordering::Relaxed).min(each);
            self.debt.fetch_sub(debt, Ordering::Relaxed);
            self.turns.add_permits((each - debt).min(room));
            if room <= each && debt == 0 {
                self.taken.notified().await;
            }
            sleep(TICK).await;
        }
    }
}

/// The part of one connection.
#[derive(Debug)]
pub struct PacedTurns {
    pace: Arc<Pace>,
    turns: PollSemaphore,
}

impl PacedTurns {
    /// A connection that takes turns.
    pub fn new(pace: Arc<Pace>) -> Self {
        Self {
            turns: PollSemaphore::new(pace.turns.clone()),
            pace,
        }
    }

    /// Whether it is its turn.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Nobody closes the semaphore.
        if let Some(turn) = ready!(self.turns.poll_acquire(cx)) {
            turn.forget();
        }
        self.pace.taken.notify_one();
        Poll::Ready(())
    }

    /// What was done in its turn took as much work as `turns` more turns.
    pub(super) fn charge(&self, turns: usize) {
        self.pace.debt.fetch_add(turns, Ordering::Relaxed);
    }
}

/// Time that all these streams work until whatever else is ready goes first. Short against what a
/// partner notices, long against what it costs to look what is ready.
const SLICE: Duration = Duration::from_micros(500);
/// Bytes that are read in a turn. Twice as many while that takes little time, half as many when it
/// takes too much.
const FEWEST: usize = 4 * 1024;
const MOST: usize = 64 * 1024;

/// Turns of streams whose domains are proven and no configured partner's.
#[derive(Debug)]
pub struct LowTurns {
    free: Arc<Semaphore>,
    /// Nanoseconds that turns took since everybody else went first.
    worked: AtomicU64,
    /// Turns that ended and were not given out again.
    over: AtomicUsize,
    /// One more of those.
    ended: Notify,
}

impl LowTurns {
    /// So many at once.
    pub fn new(at_once: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(at_once)),
            worked: AtomicU64::new(0),
            over: AtomicUsize::new(0),
            ended: Notify::new(),
        }
    }

    /// Gives turns out again, for as long as it is not dropped.
    pub async fn run(&self) {
        loop {
            self.ended.notified().await;
            // Goes on once every task that is ready has run and the system was asked what came in:
            // a partner's stream that has something to read is always first.
            tokio::task::yield_now().await;
            self.worked.store(0, Ordering::Relaxed);
            self.free.add_permits(self.over.swap(0, Ordering::AcqRel));
        }
    }

    fn end(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let worked = self.worked.fetch_add(took, Ordering::Relaxed);
        if Duration::from_nanos(worked.saturating_add(took)) < SLICE {
            self.free.add_permits(1);
        } else {
            self.over.fetch_add(1, Ordering::AcqRel);
            self.ended.notify_one();
        }
    }
}

/// The part of one stream.
#[derive(Debug)]
pub struct LowPriority {
    all: Arc<LowTurns>,
    turns: PollSemaphore,
    /// When its turn began.
    began: Option<Instant>,
    read: usize,
}

impl LowPriority {
    /// A stream that takes turns.
    pub fn new(all: Arc<LowTurns>) -> Self {
        Self {
            turns: PollSemaphore::new(all.free.clone()),
            all,
            began: None,
            read: FEWEST,
        }
    }

    /// Whether it is its turn, which lasts until [`Self::end_turn`]; how much may be read in it.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if self.began.is_none() {
            // Nobody closes the semaphore.
            if let Some(turn) = ready!(self.turns.poll_acquire(cx)) {
                turn.forget();
                self.began = Some(Instant::now());
            }
        }
        Poll::Ready(self.read)
    }

    /// What was read in the turn is worked off; nothing, if it has none.
    pub(super) fn end_turn(&mut self) {
        let Some(began) = self.began.take() else {
            return;
        };
        let took = began.elapsed();
        if took > SLICE {
            self.read = (self.read / 2).max(FEWEST);
        } else if took < SLICE / 2 {
            self.read = (2 * self.read).min(MOST);
        }
        self.all.end(took);
    }
}

impl Drop for LowPriority {
    fn drop(&mut self) {
        self.end_turn();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::future::poll_fn;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn all_share_the_turns_of_a_second_and_nobody_waits_while_there_are_some() {
        let pace = Arc::new(Pace::default());
        let running = pace.clone();
        let running = tokio::spawn(async move { running.run(|| 400).await });
        // Until a burst is there.
        sleep(Duration::from_secs(1)).await;
        let began = Instant::now();
        let mut taken = 0;
        let mut all: Vec<_> = (0..10).map(|_| PacedTurns::new(pace.clone())).collect();
        while began.elapsed() < Duration::from_secs(1) {
            for one in &mut all {
                let turn = timeout(Duration::from_millis(500), poll_fn(|cx| one.poll_turn(cx)));
                taken += usize::from(turn.await.is_ok());
            }
        }
        let burst = BURST_TICKS * 2;
        assert!(taken >= burst, "{taken}");
        assert!(taken <= burst + 410, "{taken}");
        // What takes more than a turn is paid for by all.
        all[0].charge(1_000_000);
        let began = Instant::now();
        let next = poll_fn(|cx| all[1].poll_turn(cx));
        let next = timeout(Duration::from_millis(300), next).await;
        assert!(next.is_err(), "{:?}", began.elapsed());
        running.abort();
    }

    /// Strangers read for ever, a partner is woken now and then.
    #[tokio::test]
    async fn a_stranger_has_its_next_turn_behind_whatever_is_ready() {
        let all = Arc::new(LowTurns::new(1));
        let running = all.clone();
        let running = tokio::spawn(async move { running.run().await });
        let taken = Arc::new(AtomicUsize::new(0));
        let strangers: Vec<_> = (0..20)
            .map(|_| {
                let (mut low, taken) = (LowPriority::new(all.clone()), taken.clone());
                tokio::spawn(async move {
                    loop {
                        poll_fn(|cx| low.poll_turn(cx)).await;
                        taken.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(SLICE);
                        low.end_turn();
                    }
                })
            })
            .collect();
        let (ask, mut asked) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<()>>(1);
        let partner = tokio::spawn(async move {
            while let Some(answer) = asked.recv().await {
                let _ = answer.send(());
            }
        });
        for _ in 0..100 {
            let (answer, answered) = tokio::sync::oneshot::channel();
            let before = taken.load(Ordering::Relaxed);
            ask.send(answer).await.unwrap();
            answered.await.unwrap();
            let meanwhile = taken.load(Ordering::Relaxed) - before;
            assert!(meanwhile <= 2, "{meanwhile} turns before the partner's");
            sleep(Duration::from_millis(1)).await;
        }
        assert!(taken.load(Ordering::Relaxed) > 100, "they have what is left");
        for task in strangers.into_iter().chain([partner, running]) {
            task.abort();
        }
    }
}
