//! Whether one node's router may be restarted right now.

use std::time::Duration;

use super::{RestartInput, RestartStep, RestartWait, WaitKind};
use crate::clock::Elapsed;
use crate::ledger::{Ledger, RoundCause};
use crate::timings::Timings;

impl RestartInput<'_> {
    /// Whether this node may be restarted right now.
    pub(super) fn allowed(self, node: &str, reason: &str) -> RestartStep {
        if let Some(waiting) = self.missing_node() {
            return RestartStep::Wait(waiting);
        }
        if let Some((not_before, why)) = self.seen.restart_not_before.get(node) {
            let left = not_before.since(&self.now);
            if left.reached(Duration::from_millis(1)) {
                return RestartStep::Wait(RestartWait {
                    kind: WaitKind::CallFailed,
                    until: *not_before,
                    message: format!("The restart of {node} is tried again later: {why}"),
                });
            }
        }
        if let Some(last) = self.ledger.nodes.get(node).and_then(|record| record.last_restart) {
            let elapsed = self.now.since(&last);
            if !asked_since(self.ledger, node)
                && !self.policy.min_interval.is_zero()
                && !elapsed.reached(self.policy.min_interval)
            {
                return RestartStep::Wait(RestartWait {
                    kind: WaitKind::MinInterval,
                    until: self.now.plus(elapsed.left(self.policy.min_interval)),
                    message: format!(
                        "{node} was restarted at {} and imp[].restart.minInterval is {} s; the annotation xmppfederation.io/restart-routers overrides it. Needed because {reason}",
                        last.wall,
                        self.policy.min_interval.as_secs()
                    ),
                });
            }
        }
        if let Some(waiting) = self
            .nodes
            .iter()
            .find_map(|other| self.on_its_way(node, &other.name, reason))
        {
            return RestartStep::Wait(waiting);
        }
        if let Some(not_yet) = self.stopped().or_else(|| self.seen_failed_over()) {
            return not_yet;
        }
        // Looks at all nodes, the command and the first look after it have to fit into the budget
        // together, or the first look would be too old when its turn to be used comes.
        let stale = self
            .nodes
            .iter()
            .filter(|other| self.to_be_read(node, &other.name))
            .count();
        let room = self.seen.budget_wait(stale + 2, &self.now);
        if !room.is_zero() {
            return RestartStep::Wait(RestartWait {
                kind: WaitKind::Budget,
                until: self.now.plus(room),
                message: format!("The restart of {node} waits for IM&P's rate limit; it is needed because {reason}"),
            });
        }
        if let Some(not_yet) = self.unhealthy(node) {
            return not_yet;
        }
        if let Some(not_yet) = self.just_started(node, reason) {
            return not_yet;
        }
        if let Some(not_yet) = self.settling(node, reason).or_else(|| self.failed_over()) {
            return not_yet;
        }
        RestartStep::Restart {
            node: node.to_owned(),
            reason: reason.to_owned(),
        }
    }

    /// A node that the list does not name may still exist.
    fn missing_node(self) -> Option<RestartWait> {
        let seen = self.seen;
        let (pkid, missing) = seen.missing_nodes.first_key_value()?;
        let node = self.nodes.iter().find(|node| node.pkid == *pkid)?;
        let confirm = seen.timings.confirm_missing;
        let left = self.now.since(&missing.read).left(confirm);
        Some(RestartWait {
            kind: WaitKind::NotHealthy,
            until: self.now.plus(left),
            message: format!(
                "{} is missing in IM&P's node list; no router is restarted before a second read, {} s later, shows whether it is gone",
                node.name,
                confirm.as_secs()
            ),
        })
    }

    /// The start of a router that has just started could be taken for the one that is to come.
    fn just_started(self, node: &str, reason: &str) -> Option<RestartStep> {
        let provable = provable_up_time(self.seen.timings);
        if let Some(services) = self.seen.services.get(node)
            && let Some(up_time) = services.value.up_time.filter(|up_time| *up_time < provable)
        {
            let since = match self.now.since(&services.asked) {
                Elapsed::Certain(since) => since.as_secs(),
                Elapsed::Estimated(_) => 0,
            };
            let left = provable.saturating_sub(up_time.saturating_add(since));
            if left == 0 {
                return Some(RestartStep::Read(node.to_owned()));
            }
            return Some(RestartStep::Wait(RestartWait {
                kind: WaitKind::NotHealthy,
                until: self.now.plus(Duration::from_secs(left)),
                message: format!(
                    "Cisco XCP Router on {node} has just started; it is restarted when it is up for {provable} s, so that one start can be told from the next. Needed because {reason}"
                ),
            }));
        }
        None
    }

    /// The wait for a command to `other` that may still arrive.
    fn on_its_way(self, node: &str, other: &str, reason: &str) -> Option<RestartWait> {
        if !is_unsettled(self.ledger, node, other) {
            return None;
        }
        let since = self.ledger.on_its_way(other)?;
        let latest = self.seen.timings.latest_arrival;
        let left = match self.now.since(&since) {
            Elapsed::Certain(elapsed) => latest.saturating_sub(elapsed),
            Elapsed::Estimated(_) => latest,
        };
        let until = self.now.plus(left);
        (!left.is_zero()).then(|| RestartWait {
        kind: WaitKind::OnItsWay,
        until,
        message: format!(
            "{node} is not restarted before {}: a command to restart Cisco XCP Router on {other} was sent or may have been sent, what became of it was not told, and until then it may still arrive. Needed because {reason}",
            until.wall.strftime("%Y-%m-%d %H:%M:%S UTC")
        ),
    })
    }
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
