//! Redundancy groups: a node that runs for the other one of its group has that one's users, and
//! must not be restarted too.

use std::time::Duration;

use super::{RestartInput, RestartStep, RestartWait, WaitKind};
use crate::axl::HaState;

impl RestartInput<'_> {
    /// What was seen lately and keeps every router from being restarted.
    pub(super) fn seen_failed_over(self) -> Option<RestartStep> {
        let seen = self.seen.redundancy.as_ref()?;
        let left = self.now.since(&seen.asked).left(Duration::from_mins(1));
        let ours = |state: &&HaState| self.nodes.iter().any(|node| same_host(&node.name, &state.name));
        let state = seen
            .value
            .iter()
            .filter(ours)
            .find(|state| state.runs_for_the_other())
            .filter(|_| !left.is_zero())?;
        Some(RestartStep::Wait(RestartWait {
            kind: WaitKind::Unhealthy,
            until: self.now.plus(left),
            message: format!(
                "No router is restarted while {} runs for the other node of its redundancy group (enterprisenode.tkhaserverstate is {}); when that node is in order, fall back in Cisco Unified CM Administration > System > Presence Redundancy Groups",
                state.name, state.number
            ),
        }))
    }

    /// The last look before a command.
    pub(super) fn failed_over(self) -> Option<RestartStep> {
        if self.seen.redundancy_unreadable {
            return None;
        }
        let fresh = self.seen.redundancy.as_ref().is_some_and(|seen| {
            let elapsed = self.now.since(&seen.asked);
            !elapsed.reached(self.seen.timings.fresh)
        });
        if fresh {
            return self.seen_failed_over();
        }
        Some(RestartStep::ReadRedundancy)
    }
}

/// `processnode` and `enterprisenode` need not name a host in the same way.
fn same_host(node: &str, name: &str) -> bool {
    let label = |text: &str| text.split('.').next().map(str::to_ascii_lowercase);
    node.eq_ignore_ascii_case(name) || label(node) == label(name)
}
