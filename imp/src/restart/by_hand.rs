//! What a human is asked for where the mode is Manual.

use std::time::Duration;

use super::need::need;
use super::{RestartInput, RestartStep, RestartWait, WaitKind};
use crate::axl::Node;
use crate::desired::RestartMode;
use crate::text::names;

/// How a human restarts a router.
pub const BY_HAND: &str = "in Cisco Unified IM and Presence Serviceability > Tools > Control Center - Network Services, select the node and restart Cisco XCP Router, or on the node's command line: utils service restart Cisco XCP Router";

impl RestartInput<'_> {
    /// What a human is asked for where the mode is Manual; `None` where no router needs anything.
    pub fn asked_of_human(self) -> Option<RestartWait> {
        let needy: Vec<(&str, String)> = self
            .nodes
            .iter()
            .filter_map(|node| Some((node.name.as_str(), need(&node.name, self.ids, self.ledger)?.to_string())))
            .collect();
        let (_, reason) = needy.first()?;
        (self.policy.mode == RestartMode::Manual).then(|| RestartWait {
        kind: WaitKind::ByHand,
        until: self.now,
        message: format!(
            "imp[].restart.mode is Manual: restart Cisco XCP Router on {}, one node after the other; {reason}. How: {BY_HAND}",
            names(needy.iter().map(|(node, _)| *node))
        ),
    })
    }

    /// Looks at the nodes that a human has to restart.
    pub(super) fn by_hand(self, asked: &RestartWait, needy: &[(&Node, String)]) -> RestartStep {
        let mut soonest: Option<RestartWait> = None;
        for (node, _) in needy {
            match self.look(&node.name, Duration::ZERO, self.seen.timings.look_slowly, asked.clone()) {
                RestartStep::Wait(waiting) => {
                    let sooner = soonest
                        .as_ref()
                        .is_none_or(|other| waiting.until.mono_ms < other.until.mono_ms);
                    if sooner {
                        soonest = Some(waiting);
                    }
                }
                read => return read,
            }
        }
        soonest.map_or(RestartStep::Nothing, RestartStep::Wait)
    }
}
