//! Whether every node of the cluster was just seen healthy.

use std::time::Duration;

use super::allowed::is_unsettled;
use super::{Input, RestartStep, RestartWait, WaitKind};
use crate::clock::Elapsed;
use crate::control_center::ServiceState;
use crate::control_center::Services;
use crate::control_center::beside::Down;
use crate::ledger::Ledger;
use crate::observation::Reading;

/// Whether `other` has to be looked at before `node` is restarted.
pub(super) fn to_be_read(input: Input<'_>, node: &str, other: &str) -> bool {
    !is_fresh(input, other) || is_unsettled(input.ledger, node, other)
}

/// Every node, this one included, has to be seen healthy, just now.
pub(super) fn unhealthy(input: Input<'_>, node: &str) -> Option<RestartStep> {
    let Input { nodes, seen, now, .. } = input;
    for other in nodes {
        let name = &other.name;
        if let Some(failure) = seen.control_center_failures.get(name)
            && failure.retry_at.since(&now).reached(Duration::from_millis(1))
        {
            return Some(RestartStep::Wait(RestartWait {
                kind: WaitKind::NotHealthy,
                until: failure.retry_at,
                message: format!(
                    "No router is restarted while the state of {name} is not known: {}",
                    failure.error
                ),
            }));
        }
        let Some(services) = seen.services.get(name) else {
            return Some(RestartStep::Read(name.clone()));
        };
        if to_be_read(input, node, name) {
            return Some(RestartStep::Read(name.clone()));
        }
        if services.value.router != ServiceState::Started || services.value.up_time.is_none() {
            return Some(RestartStep::Wait(RestartWait {
                kind: WaitKind::NotHealthy,
                until: now.plus(now.since(&services.asked).left(seen.timings.fresh)),
                message: format!(
                    "No router is restarted while that of {name} is {:?}{}",
                    services.value.router,
                    if services.value.up_time.is_none() {
                        " without an UpTime"
                    } else {
                        ""
                    }
                ),
            }));
        }
    }
    None
}

/// A service that was seen not to run: as long as that is news enough nothing else is looked at,
/// then the node that it is of. Somebody may have to start it, which takes its time.
pub(super) fn stopped(input: Input<'_>) -> Option<RestartStep> {
    let timings = input.seen.timings;
    for node in input.nodes {
        let services = input.seen.services.get(&node.name)?;
        let excused = input.ledger.nodes.get(&node.name).map(|record| &record.excused);
        let is_excused = |down: &&Down| excused.is_none_or(|excused| !excused.contains(down.name));
        let Some(down) = services.value.down.iter().find(is_excused) else {
            continue;
        };
        let stays = services.value.stays_down(down, &timings);
        let (kind, every) = if stays {
            (WaitKind::Unhealthy, Duration::from_mins(1))
        } else {
            (WaitKind::NotHealthy, timings.look_slowly)
        };
        let left = input.now.since(&services.asked).left(every);
        let failed = input.seen.control_center_failures.contains_key(&node.name);
        if left.is_zero() && !failed {
            return Some(RestartStep::Read(node.name.clone()));
        }
        let remedy = if stays {
            "; start it in Cisco Unified IM and Presence Serviceability > Tools > Control Center - Feature Services, or deactivate it there. The annotation xmppfederation.io/restart-routers restarts the routers with it as it is"
        } else {
            ""
        };
        if !left.is_zero() {
            return Some(RestartStep::Wait(RestartWait {
                kind,
                until: input.now.plus(left),
                message: format!(
                    "No router is restarted while {} on {} is {:?}{remedy}",
                    down.name, node.name, down.state
                ),
            }));
        }
    }
    None
}

/// Another node whose router or services have just started is not left alone yet.
pub(super) fn settling(input: Input<'_>, node: &str, reason: &str) -> Option<RestartStep> {
    let settle = input.seen.timings.settle;
    let left = |other: &str| {
        let services = input.seen.services.get(other)?;
        let since = match input.now.since(&services.asked) {
            Elapsed::Certain(since) => since,
            Elapsed::Estimated(_) => Duration::ZERO,
        };
        let up = Duration::from_secs(services.value.youngest?).saturating_add(since);
        Some(settle.saturating_sub(up)).filter(|left| !left.is_zero())
    };
    let others = input.nodes.iter().map(|other| other.name.as_str());
    let (other, left) = others
        .filter(|other| *other != node)
        .filter_map(|other| Some((other, left(other)?)))
        .max_by_key(|(_, left)| *left)?;
    Some(RestartStep::Wait(RestartWait {
        kind: WaitKind::NotHealthy,
        until: input.now.plus(left),
        message: format!(
            "The XCP services of {other} have just started; {node} is restarted when they have been up for {} s. Needed because {reason}",
            settle.as_secs()
        ),
    }))
}

/// Whether a node was looked at lately, and later than its rows were readable.
fn is_fresh(input: Input<'_>, node: &str) -> bool {
    input.seen.services.get(node).is_some_and(|services| {
        !input.now.since(&services.asked).reached(input.seen.timings.fresh) && asked_after_rows(services, input.ledger)
    })
}

/// A look that is to be the "before" of a proof has to be later than the rows.
fn asked_after_rows(services: &Reading<Services>, ledger: &Ledger) -> bool {
    ledger
        .readable
        .as_ref()
        .is_none_or(|readable| match services.asked.since(&readable.baseline.at) {
            Elapsed::Certain(_) => services.asked.mono_ms >= readable.baseline.at.mono_ms,
            Elapsed::Estimated(_) => true,
        })
}
