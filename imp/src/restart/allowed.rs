//! Whether one node's router may be restarted right now.

use std::time::Duration;

use super::health::{settling, stopped, to_be_read, unhealthy};
use super::redundancy::{failed_over, seen_failed_over};
use super::{Input, RestartStep, RestartWait, WaitKind};
use crate::clock::Elapsed;
use crate::ledger::{Ledger, RoundCause};
use crate::timings::Timings;

/// Whether this node may be restarted right now.
pub(super) fn allowed(input: Input<'_>, node: &str, reason: &str) -> RestartStep {
    let Input {
        nodes,
        seen,
        ledger,
        policy,
        now,
        ..
    } = input;
    if let Some(waiting) = missing_node(input) {
        return RestartStep::Wait(waiting);
    }
    if let Some((not_before, why)) = seen.restart_not_before.get(node) {
        let left = not_before.since(&now);
        if left.reached(Duration::from_millis(1)) {
            return RestartStep::Wait(RestartWait {
                kind: WaitKind::CallFailed,
                until: *not_before,
                message: format!("The restart of {node} is tried again later: {why}"),
            });
        }
    }
    if let Some(last) = ledger.nodes.get(node).and_then(|record| record.last_restart) {
        let elapsed = now.since(&last);
        if !asked_since(ledger, node) && !policy.min_interval.is_zero() && !elapsed.reached(policy.min_interval) {
            return RestartStep::Wait(RestartWait {
                kind: WaitKind::MinInterval,
                until: now.plus(elapsed.left(policy.min_interval)),
                message: format!(
                    "{node} was restarted at {} and imp[].restart.minInterval is {} s; the annotation xmppfederation.io/restart-routers overrides it. Needed because {reason}",
                    last.wall,
                    policy.min_interval.as_secs()
                ),
            });
        }
    }
    if let Some(waiting) = nodes
        .iter()
        .find_map(|other| on_its_way(input, node, &other.name, reason))
    {
        return RestartStep::Wait(waiting);
    }
    if let Some(not_yet) = stopped(input).or_else(|| seen_failed_over(input)) {
        return not_yet;
    }
    // Looks at all nodes, the command and the first look after it have to fit into the budget
    // together, or the first look would be too old when its turn to be used comes.
    let stale = nodes
        .iter()
        .filter(|other| to_be_read(input, node, &other.name))
        .count();
    let room = seen.budget_wait(stale + 2, &now);
    if !room.is_zero() {
        return RestartStep::Wait(RestartWait {
            kind: WaitKind::Budget,
            until: now.plus(room),
            message: format!("The restart of {node} waits for IM&P's rate limit; it is needed because {reason}"),
        });
    }
    if let Some(not_yet) = unhealthy(input, node) {
        return not_yet;
    }
    if let Some(not_yet) = just_started(input, node, reason) {
        return not_yet;
    }
    if let Some(not_yet) = settling(input, node, reason).or_else(|| failed_over(input)) {
        return not_yet;
    }
    RestartStep::Restart {
        node: node.to_owned(),
        reason: reason.to_owned(),
    }
}

/// A node that the list does not name may be there all the same.
fn missing_node(input: Input<'_>) -> Option<RestartWait> {
    let seen = input.seen;
    let (pkid, missing) = seen.missing_nodes.first_key_value()?;
    let node = input.nodes.iter().find(|node| node.pkid == *pkid)?;
    let confirm = seen.timings.confirm_missing;
    let left = input.now.since(&missing.read).left(confirm);
    Some(RestartWait {
        kind: WaitKind::NotHealthy,
        until: input.now.plus(left),
        message: format!(
            "{} is missing in IM&P's node list; no router is restarted before a second read, {} s later, shows whether it is gone",
            node.name,
            confirm.as_secs()
        ),
    })
}

/// The start of a router that has just started could be taken for the one that is to come.
fn just_started(input: Input<'_>, node: &str, reason: &str) -> Option<RestartStep> {
    let provable = provable_up_time(input.seen.timings);
    if let Some(services) = input.seen.services.get(node)
        && let Some(up_time) = services.value.up_time.filter(|up_time| *up_time < provable)
    {
        let since = match input.now.since(&services.asked) {
            Elapsed::Certain(since) => since.as_secs(),
            Elapsed::Estimated(_) => 0,
        };
        let left = provable.saturating_sub(up_time.saturating_add(since));
        if left == 0 {
            return Some(RestartStep::Read(node.to_owned()));
        }
        return Some(RestartStep::Wait(RestartWait {
            kind: WaitKind::NotHealthy,
            until: input.now.plus(Duration::from_secs(left)),
            message: format!(
                "Cisco XCP Router on {node} has just started; it is restarted when it is up for {provable} s, so that one start can be told from the next. Needed because {reason}"
            ),
        }));
    }
    None
}

/// The up time in seconds from which on a restart is proven by a smaller one even where the first
/// look behind it has to wait for its turn.
fn provable_up_time(timings: Timings) -> u64 {
    let looked = timings.first_look + timings.look_every;
    looked.as_secs() + 2
}

/// Whether a human asked for a restart of this node after the last command to it: a request
/// stays pending until a start behind a command for it is proven.
pub(super) fn asked_since(ledger: &Ledger, node: &str) -> bool {
    ledger
        .rounds
        .iter()
        .any(|round| matches!(round.cause, RoundCause::Requested(_)) && round.pending.contains(node))
}

/// Whether a command to `other` may be on its way, or was not followed by a look since its time
/// ran out, and that keeps `node` from being restarted.
pub(super) fn is_unsettled(ledger: &Ledger, node: &str, other: &str) -> bool {
    let excused = node == other && asked_since(ledger, node);
    !excused && ledger.on_its_way(other).is_some()
}

/// The wait for a command to `other` that may still arrive.
fn on_its_way(input: Input<'_>, node: &str, other: &str, reason: &str) -> Option<RestartWait> {
    let Input { ledger, now, .. } = input;
    if !is_unsettled(ledger, node, other) {
        return None;
    }
    let since = ledger.on_its_way(other)?;
    let latest = input.seen.timings.latest_arrival;
    let left = match now.since(&since) {
        Elapsed::Certain(elapsed) => latest.saturating_sub(elapsed),
        Elapsed::Estimated(_) => latest,
    };
    let until = now.plus(left);
    (!left.is_zero()).then(|| RestartWait {
        kind: WaitKind::OnItsWay,
        until,
        message: format!(
            "{node} is not restarted before {}: a command to restart Cisco XCP Router on {other} was sent or may have been sent, what became of it was not told, and until then it may still arrive. Needed because {reason}",
            until.wall.strftime("%Y-%m-%d %H:%M:%S UTC")
        ),
    })
}
