//! When a resource is looked at again.

use std::time::Duration;

use super::status::Inputs;
use crate::api::conditions::Status;

/// While something is on its way.
pub const SOON: Duration = Duration::from_secs(1);
/// While something fails that we can only look at again.
pub const LATER: Duration = Duration::from_secs(5);
/// While everything is as wanted. What changes starts a reconcile by itself, edges included (see
/// [`crate::edges::watch`]); this is for what a watch may have missed.
const STEADY: Duration = Duration::from_mins(2);
/// While something is used that no watch tells of: users' ConfigMaps.
const UNWATCHED: Duration = Duration::from_secs(15);

/// A part of `most` that depends on the UID alone, so that resources do not march in step.
pub fn jitter(uid: &str, most: Duration) -> Duration {
    let sum = uid
        .bytes()
        .fold(0_u32, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(b)));
    most.mul_f64(f64::from(sum % 1000) / 1000.0)
}

/// The time until the next reconcile; `told`: pods were just notified of new files.
pub fn after(inputs: &Inputs<'_>, ready: bool, told: bool) -> Duration {
    let mut wait = match (ready && !told, &inputs.observed.revocation_lists) {
        (true, None) => STEADY,
        (true, Some(_)) => UNWATCHED,
        (false, _) => LATER,
    };
    let pods_settle = inputs.observed.pods.len() != usize::from(inputs.pods_allowed)
        || inputs.observed.pods.iter().any(|pod| {
            // Links are looked at all the time, see [`crate::edges::watch`].
            !matches!(&pod.status, Ok(s) if s.config_hash == inputs.desired.config_hash) || pod.stopping
        });
    if told || (pods_settle && !ready) {
        wait = SOON;
    }
    for result in &inputs.effects.clusters {
        match &result.report {
            Ok(report) if result.current => {
                wait = wait.min(report.requeue_after.max(Duration::from_millis(100)));
            }
            // Its answer is on its way, or one to an earlier question has just come.
            Ok(_) => wait = wait.min(SOON),
            Err(verdict) if verdict.status == Status::Unknown => wait = wait.min(SOON),
            Err(_) => {}
        }
    }
    if !inputs.effects.pending.is_empty() {
        wait = wait.min(SOON);
    }
    if let Ok(records) = &inputs.effects.records {
        wait = wait.min(records.due_in().max(SOON));
    }
    if wait >= UNWATCHED {
        wait += jitter(&inputs.valid.owner.uid, Duration::from_secs(3));
    }
    wait
}
