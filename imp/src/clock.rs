//! Points in time that survive the process. The wall clock may jump and differs between machines,
//! so a duration is trusted only between two points of one process, where the monotonic clock
//! counts; across processes it is an estimate, and rules that need proof ask for other evidence
//! (a router's up time that went back).

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A point in time as one process saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stamp {
    /// By the wall clock, which may be set.
    pub wall: Timestamp,
    /// The process whose monotonic clock `mono_ms` is of.
    pub process: u64,
    /// Milliseconds of that clock.
    pub mono_ms: u64,
}

/// How long it was between two stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elapsed {
    /// One process: the monotonic clock says so.
    Certain(Duration),
    /// Two processes: the wall clock's estimate; `None` where it went backwards.
    Estimated(Option<Duration>),
}

impl Elapsed {
    /// At least `wait`, by the best clock there is. A clock that went backwards proves nothing.
    pub fn reached(self, wait: Duration) -> bool {
        match self {
            Self::Certain(elapsed) | Self::Estimated(Some(elapsed)) => elapsed >= wait,
            Self::Estimated(None) => false,
        }
    }

    /// What is left of `wait`.
    pub fn left(self, wait: Duration) -> Duration {
        match self {
            Self::Certain(elapsed) | Self::Estimated(Some(elapsed)) => wait.saturating_sub(elapsed),
            Self::Estimated(None) => wait,
        }
    }
}

impl Stamp {
    /// From `earlier` to this one.
    pub fn since(&self, earlier: &Stamp) -> Elapsed {
        if self.process == earlier.process {
            Elapsed::Certain(Duration::from_millis(self.mono_ms.saturating_sub(earlier.mono_ms)))
        } else {
            Elapsed::Estimated(Duration::try_from(self.wall.duration_since(earlier.wall)).ok())
        }
    }

    /// This point moved forward; for tests and for "until".
    #[must_use]
    pub fn plus(&self, duration: Duration) -> Stamp {
        let step = jiff::SignedDuration::try_from(duration).unwrap_or(jiff::SignedDuration::MAX);
        Stamp {
            wall: self.wall.checked_add(step).unwrap_or(Timestamp::MAX),
            process: self.process,
            mono_ms: self
                .mono_ms
                .saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// Where stamps come from.
pub trait Clock: Send + Sync {
    /// The time by this process's clocks.
    fn now(&self) -> Stamp;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Stamp {
        static START: OnceLock<(Instant, u64)> = OnceLock::new();
        let (start, process) = START.get_or_init(|| (Instant::now(), rand::random()));
        Stamp {
            wall: Timestamp::now(),
            process: *process,
            mono_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(process: u64, wall_s: i64, mono_ms: u64) -> Stamp {
        Stamp {
            wall: Timestamp::constant(wall_s, 0),
            process,
            mono_ms,
        }
    }

    #[test]
    fn within_a_process_a_jump_of_the_wall_clock_changes_nothing() {
        let elapsed = stamp(1, 9_000_000, 2_500).since(&stamp(1, 1_000, 500));
        assert_eq!(elapsed, Elapsed::Certain(Duration::from_secs(2)));
    }

    #[test]
    fn across_processes_a_clock_that_went_back_reaches_nothing() {
        let elapsed = stamp(2, 900, 0).since(&stamp(1, 1_000, 500));
        assert_eq!(elapsed, Elapsed::Estimated(None));
        assert!(!elapsed.reached(Duration::ZERO));
        assert_eq!(elapsed.left(Duration::from_secs(30)), Duration::from_secs(30));
    }
}
