//! The restart window: outside it nothing is commanded that no human asked for. A restart that was
//! commanded inside may end outside; the next node's waits for the next window.

use std::time::Duration;

use jiff::Timestamp;

use super::allowed::asked_since;
use super::{RestartInput, RestartWait, WaitKind};
use crate::axl::Node;
use crate::desired::RestartMode;
use crate::text::names;
use crate::window::{Window, WindowState};

impl RestartInput<'_> {
    /// The wait for the next window of all nodes that wait for it, where `node` does.
    pub(super) fn closed(self, node: &str, needy: &[(&Node, String)]) -> Option<RestartWait> {
        let RestartMode::Window(window) = &self.policy.mode else {
            return None;
        };
        let opens = self.opens(window)?;
        if asked_since(self.ledger, node) {
            return None;
        }
        let left = opens.duration_since(self.now.wall);
        let left = Duration::try_from(left).unwrap_or_default();
        let waiting: Vec<&(&Node, String)> = needy
            .iter()
            .filter(|(node, _)| !asked_since(self.ledger, &node.name))
            .collect();
        let reason = waiting.first().map_or("", |(_, reason)| reason.as_str());
        Some(RestartWait {
            kind: WaitKind::Window,
            until: self.now.plus(left),
            message: format!(
                "{} waits for the window of imp[].restart, which opens at {}; the annotation xmppfederation.io/restart-routers restarts without waiting for it. Needed because {reason}",
                names(waiting.iter().map(|(node, _)| node.name.as_str())),
                window.local(opens),
            ),
        })
    }

    /// When the window opens, where it is closed or closes before a command could be out.
    fn opens(self, window: &Window) -> Option<Timestamp> {
        let now = self.now.wall;
        let until = match window.state(now) {
            WindowState::Closed { opens } => return Some(opens),
            WindowState::Open { until } => until,
        };
        let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
        if left > self.seen.timings.send_within {
            return None;
        }
        match window.state(until) {
            WindowState::Closed { opens } => Some(opens),
            WindowState::Open { .. } => None,
        }
    }
}
