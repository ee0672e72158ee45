//! Turns at the socket for connections on which nothing is proven yet: all of them share so many in a
//! second, in the order in which they ask. However many strangers there are and whatever they send,
//! most of the processor is left for streams that are proven.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

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
pub struct Paced {
    pace: Arc<Pace>,
    turns: PollSemaphore,
}

impl Paced {
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

    /// What it had done with its turn took as much as so many more.
    pub(super) fn charge(&self, turns: usize) {
        self.pace.debt.fetch_add(turns, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::future::poll_fn;

    use tokio::time::{Instant, timeout};

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
        let mut all: Vec<_> = (0..10).map(|_| Paced::new(pace.clone())).collect();
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
}
