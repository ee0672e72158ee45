//! The plan: from desired state, observation, ledger and clock to exactly one next step, which is
//! a read, one thing to do, or a wait with its reason. Pure: the same input gives the same step.

use std::time::Duration;

use xmpp_federation_core::{Activation, ComponentId};

use super::clock::Stamp;
use super::control_center::ImpFederation;
use super::desired::{Desired, Owner};
use super::ledger::Ledger;
use super::observation::{Exclusion, Observation, Read};
use super::pkid::Pkid;
use super::registration::{Comparison, RowAction, RowChange, RowObstacle};
use super::restart::{self, RestartWait};

/// How often the node list is read anew.
pub const NODES_EVERY: Duration = Duration::from_hours(1);
/// Rows count for this long when something is about to be done because of them.
const ROWS_FRESH: Duration = Duration::from_mins(1);

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextStep {
    /// Read something, then plan again.
    Read(Read),
    /// Do one thing, after writing the intent to the ledger.
    Act(Action),
    /// Nothing now.
    Wait(Wait),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Change a row, or whose it is.
    Row(RowAction),
    /// Restart `Cisco XCP Router` on one node.
    Restart {
        /// Node name.
        node: String,
        /// Why, as the end of a sentence.
        reason: String,
    },
}

/// A wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// What for.
    pub why: WaitReason,
    /// When to plan again at the latest.
    pub until: Stamp,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// Nothing: all is done.
    Settled,
    /// AXL to answer again.
    Axl,
    /// The ledger to be readable.
    Ledger,
    /// A cluster that another resource has.
    Claimed(Owner),
    /// A cluster that another entry of the same resource has, or one that is not meant.
    Barred(Exclusion),
    /// The end of maintenance.
    Maintenance,
    /// A human, because of rows.
    Blocked(RowObstacle),
    /// A human, because IM&P's own federation is on at these nodes.
    FederationOn(Vec<String>),
    /// A human, because rows of ours vanish again and again.
    Vanished,
    /// A second read that confirms that rows are missing.
    ConfirmMissing,
    /// The propagation delay.
    Propagating,
    /// Something about restarts.
    Restart(RestartWait),
    /// The budget of Control Center calls.
    Budget,
}

/// What the plan needs.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// What is wanted.
    pub desired: &'a Desired,
    /// What was seen.
    pub seen: &'a Observation,
    /// The record; `None` where it could not be read.
    pub ledger: Option<&'a Ledger>,
    /// The clock.
    pub now: Stamp,
    /// A pkid for a new row.
    pub fresh: Pkid,
}

/// Plans.
pub fn plan(input: Input<'_>) -> NextStep {
    let step = unbounded(input);
    // Calls to Control Center have a budget over all that is planned.
    if let NextStep::Read(Read::Services(_)) | NextStep::Act(Action::Restart { .. }) = &step {
        let wait = input.seen.budget_wait(1, &input.now);
        if !wait.is_zero() {
            let until = input.now.plus(wait);
            // What a human has to do is known without asking again.
            let by_hand = input
                .ledger
                .filter(|ledger| is_readable(ledger, input.desired.wanted()))
                .and_then(|ledger| restart::asked_of_human(restart_input(input, ledger)));
            let why = by_hand.map_or(WaitReason::Budget, WaitReason::Restart);
            return NextStep::Wait(Wait { why, until });
        }
    }
    step
}

fn unbounded(input: Input<'_>) -> NextStep {
    let Input { desired, seen, now, .. } = input;
    if let Some(read) = overdue(input) {
        return NextStep::Read(read);
    }
    let wait = |why: WaitReason| {
        NextStep::Wait(Wait {
            why,
            until: next_poll(input),
        })
    };
    let Some(ledger) = input.ledger else {
        if seen.nodes.is_none() {
            return wait(WaitReason::Axl);
        }
        let until = now.plus(Duration::from_secs(2));
        return NextStep::Wait(Wait {
            why: WaitReason::Ledger,
            until,
        });
    };
    if let Some(barred) = &seen.barred {
        return wait(WaitReason::Barred(barred.clone()));
    }
    if let Some(other) = ledger.claimed_by_another(&desired.owner) {
        return wait(WaitReason::Claimed(other.clone()));
    }
    let restart = restart_input(input, ledger);
    // A restart under way is watched whatever else is the matter.
    let watched = restart::watch_open(restart);
    if let Some(restart::RestartStep::Read(node)) = &watched {
        return NextStep::Read(Read::Services(node.clone()));
    }
    if !seen.rows_current() && seen.axl_failure.is_some() {
        return match watched {
            Some(restart::RestartStep::Wait(waiting)) => restart_wait(input, waiting),
            _ => wait(WaitReason::Axl),
        };
    }
    let step = match rows(input, ledger) {
        Some(step) => step,
        None if desired.activation == Activation::Prepared => wait(WaitReason::Settled),
        None => match restart::next(restart) {
            restart::RestartStep::Nothing => wait(WaitReason::Settled),
            restart::RestartStep::Read(node) => NextStep::Read(Read::Services(node)),
            restart::RestartStep::ReadRedundancy => NextStep::Read(Read::Redundancy),
            restart::RestartStep::Wait(waiting) => restart_wait(input, waiting),
            restart::RestartStep::Restart { node, reason } => NextStep::Act(Action::Restart { node, reason }),
        },
    };
    match step {
        NextStep::Act(_) if desired.maintenance => wait(WaitReason::Maintenance),
        NextStep::Act(Action::Row(RowAction {
            change: RowChange::Adopt,
            ..
        })) => step,
        NextStep::Act(_) if stale(input) => NextStep::Read(Read::Rows),
        _ => step,
    }
}

fn restart_input<'a>(input: Input<'a>, ledger: &'a Ledger) -> restart::Input<'a> {
    restart::Input {
        ids: input.desired.wanted(),
        nodes: input.seen.node_list(),
        seen: input.seen,
        ledger,
        policy: &input.desired.restart,
        now: input.now,
    }
}

/// Whether all of these were readable on every node at some time.
fn is_readable(ledger: &Ledger, wanted: &[ComponentId]) -> bool {
    ledger
        .readable
        .as_ref()
        .is_some_and(|readable| wanted.iter().all(|id| readable.ids.contains(id)))
}

/// Rows: what to do about them, what to wait for, or `None` when they are readable everywhere.
fn rows(input: Input<'_>, ledger: &Ledger) -> Option<NextStep> {
    let Input { desired, seen, now, .. } = input;
    let until = next_poll(input);
    let wait = |why: WaitReason, until: Stamp| Some(NextStep::Wait(Wait { why, until }));
    let rows = seen.rows.as_ref()?;
    if seen.missing_since.keys().any(|pkid| ledger.rows.contains_key(pkid)) {
        return wait(WaitReason::ConfirmMissing, until);
    }
    let comparison = Comparison {
        desired: desired.wanted(),
        rows: &rows.value,
        ledger,
        foreign: desired.foreign_components,
        adopt: desired.requests.adopt_rows.is_some(),
        fresh: input.fresh,
    };
    let action = match comparison.next() {
        Ok(action) => action,
        Err(blocked) => return wait(WaitReason::Blocked(blocked), until),
    };
    if let Some(action) = action {
        if action.change == RowChange::Insert {
            if ledger.vanished >= 2 {
                return wait(WaitReason::Vanished, until);
            }
            let on = federation_on(seen);
            if !on.is_empty() && seen.present_since.is_empty() {
                return wait(WaitReason::FederationOn(on), until);
            }
            if unasked(seen) {
                return wait(WaitReason::Budget, until);
            }
        }
        return Some(NextStep::Act(Action::Row(action)));
    }
    if seen.unverified {
        return Some(NextStep::Read(Read::Rows));
    }
    let wanted = desired.wanted();
    if is_readable(ledger, wanted) || wanted.is_empty() {
        return None;
    }
    // The delay is over when the last of them was there for long enough.
    let left = wanted
        .iter()
        .map(|id| {
            seen.present_since.get(id).map_or(Duration::from_secs(1), |since| {
                now.since(since).left(desired.restart.propagation_delay)
            })
        })
        .max()
        .unwrap_or_default();
    wait(WaitReason::Propagating, now.plus(left.max(Duration::from_millis(20))))
}

/// Nodes at which IM&P's own federation is on.
pub fn federation_on(seen: &Observation) -> Vec<String> {
    seen.node_list()
        .iter()
        .filter(|node| seen.federation(&node.name) == ImpFederation::On)
        .map(|node| node.name.clone())
        .collect()
}

/// Whether some node was never asked for its services.
fn unasked(seen: &Observation) -> bool {
    seen.node_list()
        .iter()
        .any(|node| !seen.services.contains_key(&node.name) && !seen.control_center_failures.contains_key(&node.name))
}

/// Whether the rows are too old to act upon.
fn stale(input: Input<'_>) -> bool {
    let Input { seen, now, .. } = input;
    seen.rows
        .as_ref()
        .is_none_or(|rows| !seen.rows_current() && !seen.unverified || now.since(&rows.asked).reached(ROWS_FRESH))
}

/// What has to be read before anything else.
fn overdue(input: Input<'_>) -> Option<Read> {
    let Input { desired, seen, now, .. } = input;
    let poll = desired.poll_interval;
    let axl_ready = seen
        .axl_failure
        .as_ref()
        .is_none_or(|failure| retry_left(&failure.retry_at, &now).is_zero());
    if axl_ready {
        let Some(nodes) = &seen.nodes else {
            return Some(Read::Nodes);
        };
        // One read per poll interval, whichever.
        let last = last_asked(seen, nodes.asked);
        let due = now.since(&last).reached(poll);
        let confirm = !seen.missing_nodes.is_empty() && now.since(&nodes.asked).reached(seen.timings.confirm_missing);
        if seen.due.contains(&Read::Nodes)
            || confirm
            || due && now.since(&nodes.asked).reached(NODES_EVERY) && !rests(input)
        {
            return Some(Read::Nodes);
        }
        if rests(input) {
            return None;
        }
        if input.ledger.is_some() {
            if seen.table.is_none() || seen.due.contains(&Read::Table) {
                return Some(Read::Table);
            }
            let Some(rows) = &seen.rows else {
                return Some(Read::Rows);
            };
            // In place of every other read of the rows.
            if desired.federation_check.is_some() && seen.federation_is_open() {
                let asked = seen.federation_check.as_ref().map(|c| c.seen.asked);
                if asked.is_none_or(|asked| due && now.since(&asked).reached(2 * poll)) {
                    return Some(Read::Federation);
                }
            }
            let confirm =
                !seen.missing_since.is_empty() && now.since(&rows.asked).reached(seen.timings.confirm_missing);
            if due || confirm || seen.axl_failure.is_some() || seen.due.contains(&Read::Rows) {
                return Some(Read::Rows);
            }
        }
    }
    if rests(input) {
        return None;
    }
    // What the budget does not allow must not hold up what needs no such call.
    overdue_services(input).filter(|_| seen.budget_wait(1, &now).is_zero())
}

/// Whether somebody else looks at this cluster: however many resources name it, only one reads its
/// rows and services. The ledger tells when that ends.
pub fn rests(input: Input<'_>) -> bool {
    input.seen.barred.is_some()
        || input
            .ledger
            .is_some_and(|ledger| ledger.claimed_by_another(&input.desired.owner).is_some())
}

/// A node whose services have to be read.
fn overdue_services(input: Input<'_>) -> Option<Read> {
    let Input { desired, seen, now, .. } = input;
    let poll = desired.poll_interval;
    seen.node_list()
        .iter()
        .find(|node| {
            let failed = seen
                .control_center_failures
                .get(&node.name)
                .map(|failure| retry_left(&failure.retry_at, &now));
            match failed {
                Some(left) => left.is_zero(),
                None => {
                    seen.due.contains(&Read::Services(node.name.clone()))
                        || seen
                            .services
                            .get(&node.name)
                            .is_none_or(|services| now.since(&services.asked).reached(poll))
                }
            }
        })
        .map(|node| Read::Services(node.name.clone()))
}

/// When something is overdue next, if nothing else happens.
fn next_poll(input: Input<'_>) -> Stamp {
    let Input { desired, seen, now, .. } = input;
    let poll = desired.poll_interval;
    let mut left = poll;
    if let Some(failure) = &seen.axl_failure {
        left = left.min(retry_left(&failure.retry_at, &now));
    }
    if rests(input) {
        return now.plus(left.max(Duration::from_millis(100)));
    }
    if seen.axl_failure.is_some() {
        // Counted already.
    } else if let Some(rows) = &seen.rows {
        if let Some(nodes) = &seen.nodes {
            let last = last_asked(seen, nodes.asked);
            left = left.min(now.since(&last).left(poll));
            if !seen.missing_nodes.is_empty() {
                let confirm = seen.timings.confirm_missing;
                left = left.min(now.since(&nodes.asked).left(confirm));
            }
        }
        if !seen.missing_since.is_empty() {
            let confirm = seen.timings.confirm_missing;
            left = left.min(now.since(&rows.asked).left(confirm));
        }
    }
    for node in seen.node_list() {
        if let Some(failure) = seen.control_center_failures.get(&node.name) {
            left = left.min(retry_left(&failure.retry_at, &now));
        } else if let Some(services) = seen.services.get(&node.name) {
            left = left.min(now.since(&services.asked).left(poll));
        }
    }
    if overdue_services(input).is_some() {
        left = left.min(seen.budget_wait(1, &now));
    }
    now.plus(left.max(Duration::from_millis(100)))
}

/// When AXL was last asked for something that is read again and again.
fn last_asked(seen: &Observation, nodes: Stamp) -> Stamp {
    let rows = seen.rows.as_ref().map(|rows| rows.asked);
    let check = seen.federation_check.as_ref().map(|c| c.seen.asked);
    [rows, check].into_iter().flatten().fold(nodes, later)
}

fn restart_wait(input: Input<'_>, waiting: RestartWait) -> NextStep {
    let poll = next_poll(input);
    let until = if waiting.until.mono_ms < poll.mono_ms {
        waiting.until
    } else {
        poll
    };
    NextStep::Wait(Wait {
        why: WaitReason::Restart(waiting),
        until,
    })
}

/// What is left until a time this process set itself.
fn retry_left(retry_at: &Stamp, now: &Stamp) -> Duration {
    Duration::from_millis(retry_at.mono_ms.saturating_sub(now.mono_ms))
}

fn later(a: Stamp, b: Stamp) -> Stamp {
    if a.mono_ms >= b.mono_ms { a } else { b }
}
