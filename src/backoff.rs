//! Waits that grow while something does not change.

use std::time::Duration;

/// `first`, doubled that many times, and `most` at most.
pub fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(most)
}
