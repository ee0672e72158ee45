//! When a resource is looked at again although nothing has changed.

use std::time::Duration;

use tokio::time::Instant;

use super::effects::RESOLVE_EVERY;
use super::status::Inputs;

/// While nothing fails and nothing is due: what changes starts a reconcile by itself. This is for what comes
/// with time alone, such as the renewal of a certificate.
const STEADY: Duration = Duration::from_mins(5);

/// What fails is tried again after this at first, …
const SOON: Duration = Duration::from_secs(1);
/// … then after as long as it has been failing, up to this.
const SELDOM: Duration = Duration::from_mins(5);

/// Since when something of a resource fails that can only be tried again.
#[derive(Debug, Default)]
pub struct Trouble(Option<Instant>);

impl Trouble {
    /// Something fails; when it is tried again.
    pub fn again(&mut self, now: Instant) -> Duration {
        let since = *self.0.get_or_insert(now);
        now.duration_since(since).clamp(SOON, SELDOM)
    }

    /// Whether something fails; when it is tried again.
    pub fn is_now(&mut self, fails: bool, now: Instant) -> Option<Duration> {
        if !fails {
            self.0 = None;
            return None;
        }
        Some(self.again(now))
    }
}

/// A part of `most` that depends on the UID alone, so that resources do not march in step.
pub fn jitter(uid: &str, most: Duration) -> Duration {
    let sum = uid
        .bytes()
        .fold(0_u32, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(b)));
    most.mul_f64(f64::from(sum % 1000) / 1000.0)
}

/// The time until the next reconcile; `tell`: when a pod is told again of new files; `retry`: when what
/// failed is tried again.
pub fn after(inputs: &Inputs<'_>, tell: Option<Duration>, retry: Option<Duration>) -> Duration {
    let effects = inputs.effects;
    let due = effects.clusters.iter().filter_map(|result| result.due);
    let routers = (!effects.routers.is_empty()).then_some(RESOLVE_EVERY);
    let overdue = inputs.view.pods.iter().filter_map(|pod| pod.overdue());
    let overdue = overdue.filter_map(|at| Duration::try_from(at.duration_since(inputs.now)).ok());
    let waits = due.chain([effects.records.due]).chain(routers).chain(tell).chain(retry);
    let waits = waits.chain(overdue);
    // Observers look when they are asked, and round up.
    let wait = waits
        .min()
        .unwrap_or(STEADY)
        .min(STEADY)
        .max(Duration::from_millis(100));
    if wait > Duration::from_secs(30) {
        wait + jitter(&inputs.valid.owner.uid, Duration::from_secs(3))
    } else {
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_failing_is_tried_ever_later_and_anew_when_it_comes_back() {
        let (mut trouble, mut now) = (Trouble::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..12 {
            let wait = trouble.again(now);
            waits.push(wait.as_secs());
            now += wait;
        }
        assert_eq!(waits, [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(trouble.is_now(false, now), None);
        assert_eq!(trouble.is_now(true, now), Some(SOON));
    }
}
