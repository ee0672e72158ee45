//! Waiting longer after each failure, with jitter so that many edges do not call at once.

use std::time::Duration;

/// Doubles from a first to a longest wait; each wait is 75 to 125 % of its nominal length.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The time to wait after one more failure.
    pub fn wait(&mut self) -> Duration {
        let nominal = self.next;
        self.next = (nominal * 2).min(self.longest);
        nominal.mul_f64(rand::random_range(0.75..1.25))
    }

    /// It worked: start again at the first wait.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_again_after_success() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 4 * second);
        let mut within = |nominal: u32| {
            let wait = backoff.wait();
            assert!(wait >= (second * nominal).mul_f64(0.75), "{wait:?} for {nominal}");
            assert!(wait <= (second * nominal).mul_f64(1.25), "{wait:?} for {nominal}");
        };
        for nominal in [1, 2, 4, 4] {
            within(nominal);
        }
        backoff.reset();
        assert!(backoff.wait() <= second.mul_f64(1.25));
    }
}
