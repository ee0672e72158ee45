//! Commands whose outcome is open: looked at until it is known, or until a human is asked.

use std::time::Duration;

use super::by_hand::BY_HAND;
use super::need::need;
use super::{RestartInput, RestartStep, RestartWait, WaitKind};
use crate::clock::Elapsed;
use crate::control_center::RestartAnswer;
use crate::ledger::{Ledger, Restart};

impl RestartInput<'_> {
    /// What is to be done about commands whose outcome is open; `None` without any. Where a human is
    /// asked for something that is not needed any more, there is nothing to ask for.
    pub fn watch_open(self) -> Option<RestartStep> {
        let mut refused: Option<RestartWait> = None;
        for node in self.nodes {
            let Some(restart) = open_restart(self.ledger, &node.name) else {
                continue;
            };
            let (kind, next) = self.watch(&node.name, restart);
            match next {
                _ if kind != WaitKind::Restarting && need(&node.name, self.ids, self.ledger).is_none() => {}
                RestartStep::Wait(waiting) if kind == WaitKind::Refused => {
                    refused = Some(match refused {
                        None => waiting,
                        Some(other) => RestartWait {
                            kind,
                            until: if other.until.mono_ms < waiting.until.mono_ms {
                                other.until
                            } else {
                                waiting.until
                            },
                            message: format!("{}; {}", other.message, waiting.message),
                        },
                    });
                }
                other => return Some(other),
            }
        }
        refused
            .map(|waiting| RestartWait {
                message: format!("{}. Restart it by hand: {BY_HAND}", waiting.message),
                ..waiting
            })
            .map(RestartStep::Wait)
    }

    /// A command whose outcome is open.
    fn watch(self, node: &str, restart: &Restart) -> (WaitKind, RestartStep) {
        let now = self.now;
        let elapsed = now.since(&restart.planned);
        let state = self
            .seen
            .services
            .get(node)
            .map_or("not seen since".to_owned(), |services| {
                format!("last seen {:?}", services.value.router)
            });
        let (kind, message) = match &restart.answer {
            Some(RestartAnswer::Refused(why)) => (
                WaitKind::Refused,
                format!("{node} refuses to restart Cisco XCP Router over Control Center ({why})"),
            ),
            Some(RestartAnswer::Accepted) if elapsed.reached(self.seen.timings.restart_deadline) => (
                WaitKind::Hangs,
                format!(
                    "The restart of Cisco XCP Router on {node} accepted at {} is not over ({state}). Look at the node, restart the service by hand ({BY_HAND}), or let it be commanded once more with the annotation xmppfederation.io/restart-routers",
                    restart.planned.wall
                ),
            ),
            Some(RestartAnswer::Accepted) => (
                WaitKind::Restarting,
                format!("Cisco XCP Router on {node} is restarting ({state})"),
            ),
            Some(RestartAnswer::Ambiguous(_)) | None
                if !elapsed.reached(self.seen.timings.ambiguous_deadline) && elapsed != Elapsed::Estimated(None) =>
            {
                (
                    WaitKind::Restarting,
                    format!(
                        "Whether the restart of Cisco XCP Router on {node} was carried out is not known; it is watched ({state})"
                    ),
                )
            }
            Some(RestartAnswer::Ambiguous(why)) => (
                WaitKind::OutcomeUnknown,
                format!(
                    "Whether the restart of Cisco XCP Router on {node} commanded at {} was carried out is not known ({why}); it is not repeated unasked. Restart it by hand ({BY_HAND}), or let it be commanded once more with the annotation xmppfederation.io/restart-routers",
                    restart.planned.wall
                ),
            ),
            None => (
                WaitKind::OutcomeUnknown,
                format!(
                    "Whether the restart of Cisco XCP Router on {node} planned at {} was sent before the operator stopped is not known; it is not repeated unasked. Restart it by hand ({BY_HAND}), or let it be commanded with the annotation xmppfederation.io/restart-routers",
                    restart.planned.wall
                ),
            ),
        };
        let every = match kind {
            WaitKind::Restarting if !elapsed.reached(Duration::from_mins(1)) => self.seen.timings.look_every,
            WaitKind::Restarting => self.seen.timings.look_slowly,
            _ => Duration::from_mins(1),
        };
        let first = match elapsed {
            Elapsed::Certain(elapsed) => self.seen.timings.first_look.saturating_sub(elapsed),
            Elapsed::Estimated(_) => Duration::ZERO,
        };
        (
            kind,
            self.look(
                node,
                first,
                every,
                RestartWait {
                    kind,
                    until: now,
                    message,
                },
            ),
        )
    }

    /// Reads when it is time to, else waits until then.
    pub(super) fn look(self, node: &str, first: Duration, every: Duration, waiting: RestartWait) -> RestartStep {
        let again = self
            .seen
            .services
            .get(node)
            .map_or(Duration::ZERO, |services| self.now.since(&services.asked).left(every));
        let failure = self
            .seen
            .control_center_failures
            .get(node)
            .map_or(Duration::ZERO, |failure| match failure.retry_at.since(&self.now) {
                Elapsed::Certain(left) => left,
                Elapsed::Estimated(_) => Duration::ZERO,
            });
        let left = first.max(again).max(failure);
        if left.is_zero() {
            return RestartStep::Read(node.to_owned());
        }
        RestartStep::Wait(RestartWait {
            until: self.now.plus(left.max(Duration::from_millis(100))),
            ..waiting
        })
    }
}

pub(super) fn open_restart<'a>(ledger: &'a Ledger, node: &str) -> Option<&'a Restart> {
    ledger.nodes.get(node).and_then(|record| record.restart.as_ref())
}
