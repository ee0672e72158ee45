//! How much is written to a router and not proven processed: about what it processes in a moment, so that
//! a slow one neither takes a quiet partner's stanza late nor answers a ping too late for its link.

use std::time::Duration;

/// What a stanza waits for behind others that are written already, about.
const LAG: Duration = Duration::from_millis(500);
/// Before anything is known of the router.
const START: usize = 256 * 1024;
/// However slow it is.
const LEAST: usize = 64 * 1024;

/// The bytes that may be in flight on one link.
#[derive(Debug)]
pub(super) struct InFlight {
    bytes: usize,
    /// More would have been written since the last proof.
    full: bool,
}

impl Default for InFlight {
    fn default() -> Self {
        Self {
            bytes: START,
            full: false,
        }
    }
}

impl InFlight {
    /// Bytes that may be written beside those that are in flight; `most`: whatever the router does.
    pub(super) fn room(&self, in_flight: usize, most: usize) -> usize {
        self.bytes.min(most).saturating_sub(in_flight)
    }

    /// There was no room for more.
    pub(super) fn was_full(&mut self) {
        self.full = true;
    }

    /// The router processed `bytes` in this time.
    pub(super) fn proven(&mut self, bytes: usize, took: Duration, most: usize) {
        let bytes = u128::try_from(bytes).unwrap_or(u128::MAX);
        let in_lag = bytes.saturating_mul(LAG.as_micros()) / took.as_micros().max(1);
        let in_lag = usize::try_from(in_lag).unwrap_or(usize::MAX);
        if took > LAG {
            self.bytes = in_lag.min(self.bytes);
        } else if self.full && in_lag >= self.bytes {
            // A ping may have been behind a part of what is in flight only.
            self.bytes *= 2;
        }
        self.bytes = self.bytes.clamp(LEAST, most.max(LEAST));
        self.full = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 4 * 1024 * 1024;

    /// What is in flight after some turns with a router that processes so many bytes in a second, when
    /// there is always more to write; and the longest time that a proof took.
    fn settle(in_flight: &mut InFlight, per_second: usize) -> (usize, Duration) {
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            let bytes = in_flight.room(0, MOST);
            in_flight.was_full();
            let took = Duration::from_micros(u64::try_from(bytes * 1_000_000 / per_second).unwrap_or(0));
            longest = longest.max(took);
            in_flight.proven(bytes, took, MOST);
        }
        (in_flight.room(0, MOST), longest)
    }

    #[test]
    fn a_fast_router_gets_all_that_may_be_in_flight_and_a_slow_one_half_a_second() {
        let (bytes, _) = settle(&mut InFlight::default(), 200_000_000);
        assert_eq!(bytes, MOST);
        let mut slow = InFlight::default();
        let (_, longest) = settle(&mut slow, 120_000);
        assert!(longest < Duration::from_secs(3), "{longest:?}");
        let (bytes, longest) = settle(&mut slow, 120_000);
        assert!(bytes <= 120_000 && longest <= 2 * LAG + LAG / 5, "{bytes} {longest:?}");
        // It recovers.
        assert_eq!(settle(&mut slow, 200_000_000).0, MOST);
    }

    #[test]
    fn a_ping_behind_a_part_of_what_is_in_flight_makes_no_room_that_is_too_much() {
        let mut in_flight = InFlight::default();
        in_flight.was_full();
        in_flight.proven(64 * 1024, Duration::from_millis(270), MOST);
        assert_eq!(in_flight.room(0, MOST), START);
    }

    #[test]
    fn little_traffic_changes_nothing_and_the_least_always_fits() {
        let mut in_flight = InFlight::default();
        in_flight.proven(500, Duration::from_millis(1), MOST);
        assert_eq!(in_flight.room(0, MOST), START);
        in_flight.proven(500, Duration::from_secs(10), MOST);
        assert_eq!(in_flight.room(0, MOST), LEAST);
        assert_eq!(in_flight.room(LEAST, MOST), 0);
        in_flight.was_full();
        in_flight.proven(LEAST, Duration::from_millis(1), 80 * 1024);
        assert_eq!(in_flight.room(0, MOST), 80 * 1024);
    }
}
