//! The evidence that planning rests on: whether a router provably started after a point in time.

use std::collections::BTreeMap;

use crate::control_center::{ServiceState, Services};
use crate::observation::Reading;
use crate::records::Baseline;

/// Whole seconds are read; the router may have started up to this much earlier.
const UP_TIME_ERROR_MS: i64 = 1_000;

/// Whether a node's router provably started after the baseline.
pub fn started_after(baseline: &Baseline, node: &str, services: &BTreeMap<String, Reading<Services>>) -> bool {
    let Some((seen, up_time)) = running(node, services) else {
        return false;
    };
    if let Some(mark) = baseline.up_times.get(node)
        && up_time.saturating_add(1) < mark.seconds
    {
        // The UpTime went back: no clock is needed.
        return true;
    }
    let up_ms = i64::try_from(up_time.saturating_mul(1_000)).unwrap_or(i64::MAX);
    let earliest = up_ms.saturating_add(UP_TIME_ERROR_MS);
    if seen.asked.process == baseline.at.process {
        let asked = i64::try_from(seen.asked.mono_ms).unwrap_or(0);
        let at = i64::try_from(baseline.at.mono_ms).unwrap_or(i64::MAX);
        return asked.saturating_sub(earliest) >= at;
    }
    // Another process wrote the baseline, and wall clocks prove nothing: another router's UpTime
    // is the clock. Since it was marked, at least that time has passed by which it grew.
    baseline.up_times.iter().any(|(other, mark)| {
        running(other, services).is_some_and(|(clock, now)| {
            let Some(grown) = now.checked_sub(mark.seconds) else {
                return false;
            };
            let grown_ms = i64::try_from(grown.saturating_mul(1_000)).unwrap_or(0);
            let between = i64::try_from(seen.asked.mono_ms).unwrap_or(0)
                - i64::try_from(clock.answered.mono_ms).unwrap_or(i64::MAX);
            seen.asked.process == clock.answered.process && between + grown_ms - UP_TIME_ERROR_MS >= earliest
        })
    })
}

fn running<'a>(node: &str, services: &'a BTreeMap<String, Reading<Services>>) -> Option<(&'a Reading<Services>, u64)> {
    let seen = services.get(node)?;
    match (seen.value.router, seen.value.up_time) {
        (ServiceState::Started, Some(up_time)) => Some((seen, up_time)),
        _ => None,
    }
}
