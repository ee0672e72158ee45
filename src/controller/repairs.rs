//! Objects that the operator makes as wanted again, because somebody undid what it wrote. Another controller may answer each
//! of these writes with its own, so they come ever later.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::kube::Kind;
use crate::backoff::doubled;

/// So many come at once: a person who tries things.
const AT_ONCE: u32 = 16;
/// The next one comes after this at first, …
const SOON: Duration = Duration::from_secs(1);
/// … and twice as long each time, up to this.
const SELDOM: Duration = Duration::from_mins(5);
/// Those before a pause as long as this do not count.
const OVER: Duration = Duration::from_mins(15);

/// Of one resource, by kind and name.
#[derive(Debug, Default)]
pub struct Repairs(HashMap<(Kind, String), Repair>);

#[derive(Debug)]
struct Repair {
    times: u32,
    at: Instant,
}

impl Repairs {
    /// Whether the object may be repaired now.
    pub fn are_due(&mut self, object: &(Kind, String), now: Instant) -> bool {
        self.0.retain(|_, last| now.duration_since(last.at) < OVER);
        self.0.get(object).is_none_or(|last| {
            let late = last.times.checked_sub(AT_ONCE);
            late.is_none_or(|times| now.duration_since(last.at) >= doubled(SOON, times, SELDOM))
        })
    }

    /// The object was repaired; whether that goes on and on.
    pub fn note(&mut self, object: &(Kind, String), now: Instant) -> bool {
        let last = self.0.entry(object.clone()).or_insert(Repair { times: 0, at: now });
        last.times = last.times.saturating_add(1);
        last.at = now;
        last.times >= AT_ONCE
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn service() -> (Kind, String) {
        (Kind::Service, "coluc-edge".to_owned())
    }

    /// The seconds of an hour in which an object is repaired that somebody spoils whenever it is whole.
    #[test]
    fn repairs_that_somebody_undoes_come_ever_later() {
        let (mut repairs, start) = (Repairs::default(), Instant::now());
        let mut done = Vec::new();
        for tenth in 0..36_000_u64 {
            let now = start + Duration::from_millis(tenth * 100);
            if repairs.are_due(&service(), now) {
                repairs.note(&service(), now);
                done.push(tenth / 10);
            }
        }
        assert!(done.iter().filter(|second| **second < 60).count() <= 22, "{done:?}");
        let pauses: Vec<u64> = done
            .windows(2)
            .map(|pair| pair.last().unwrap() - pair.first().unwrap())
            .collect();
        assert!(pauses.iter().all(|pause| *pause <= 300), "{pauses:?}");
        assert!(done.len() < 40, "{}", done.len());
    }

    #[test]
    fn what_is_repaired_now_and_then_is_repaired_at_once_and_is_no_fight() {
        let (mut repairs, start) = (Repairs::default(), Instant::now());
        for time in 0..100_u32 {
            let now = start + OVER * time;
            assert!(repairs.are_due(&service(), now));
            assert!(!repairs.note(&service(), now));
        }
        assert_eq!(repairs.0.len(), 1);
    }
}
