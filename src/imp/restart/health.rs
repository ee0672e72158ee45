//! Whether every node of the cluster was just seen healthy.

use std::time::Duration;

use super::allowed::is_unsettled;
use super::{Input, Next, WaitKind, Waiting};
use crate::imp::clock::Elapsed;
use crate::imp::control_center::ServiceState;
use crate::imp::ledger::Ledger;
use crate::imp::observation::{Seen, Services};

/// Whether `other` has to be looked at before `node` is restarted.
pub(super) fn to_be_read(input: Input<'_>, node: &str, other: &str) -> bool {
    !is_fresh(input, other) || is_unsettled(input.ledger, node, other)
}

/// Every node, this one included, has to be seen healthy, just now.
pub(super) fn unhealthy(input: Input<'_>, node: &str) -> Option<Next> {
    let Input {
        nodes, seen, now, ..
    } = input;
    for other in nodes {
        let name = &other.name;
        if let Some(failure) = seen.control_center_failures.get(name)
            && failure
                .retry_at
                .since(&now)
                .reached(Duration::from_millis(1))
        {
            return Some(Next::Wait(Waiting {
                kind: WaitKind::NotHealthy,
                until: failure.retry_at,
                message: format!(
                    "no router is restarted while the state of {name} is not known: {}",
                    failure.error
                ),
            }));
        }
        let Some(services) = seen.services.get(name) else {
            return Some(Next::Read(name.clone()));
        };
        if to_be_read(input, node, name) {
            return Some(Next::Read(name.clone()));
        }
        if services.value.router != ServiceState::Started || services.value.up_time.is_none() {
            return Some(Next::Wait(Waiting {
                kind: WaitKind::NotHealthy,
                until: now.plus(now.since(&services.asked).left(seen.timings.fresh)),
                message: format!(
                    "no router is restarted while that of {name} is {:?}{}",
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

/// Whether a node was looked at lately, and later than its rows were readable.
fn is_fresh(input: Input<'_>, node: &str) -> bool {
    input.seen.services.get(node).is_some_and(|services| {
        !input
            .now
            .since(&services.asked)
            .reached(input.seen.timings.fresh)
            && asked_after_rows(services, input.ledger)
    })
}

/// A look that is to be the "before" of a proof has to be later than the rows.
fn asked_after_rows(services: &Seen<Services>, ledger: &Ledger) -> bool {
    ledger.readable.as_ref().is_none_or(|readable| {
        match services.asked.since(&readable.baseline.at) {
            Elapsed::Certain(_) => services.asked.mono_ms >= readable.baseline.at.mono_ms,
            Elapsed::Estimated(_) => true,
        }
    })
}
