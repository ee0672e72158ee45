//! Whether every node of the cluster was just seen healthy.

use std::time::Duration;

use super::allowed::is_unsettled;
use super::{RestartInput, RestartStep, RestartWait, WaitKind};
use crate::clock::Elapsed;
use crate::control_center::beside::Down;
use crate::control_center::{ServiceState, Services};
use crate::ledger::Ledger;
use crate::observation::Reading;

impl RestartInput<'_> {
    /// Whether `other` has to be looked at before `node` is restarted.
    pub(super) fn to_be_read(self, node: &str, other: &str) -> bool {
        !self.is_fresh(other) || is_unsettled(self.ledger, node, other)
    }

    /// Every node, this one included, has to be seen healthy, just now.
    pub(super) fn unhealthy(self, node: &str) -> Option<RestartStep> {
        for other in self.nodes {
            let name = &other.name;
            if let Some(failure) = self.seen.control_center_failures.get(name)
                && failure.retry_at.since(&self.now).reached(Duration::from_millis(1))
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
            let Some(services) = self.seen.services.get(name) else {
                return Some(RestartStep::Read(name.clone()));
            };
            if self.to_be_read(node, name) {
                return Some(RestartStep::Read(name.clone()));
            }
            if services.value.router != ServiceState::Started || services.value.up_time.is_none() {
                return Some(RestartStep::Wait(RestartWait {
                    kind: WaitKind::NotHealthy,
                    until: self
                        .now
                        .plus(self.now.since(&services.asked).left(self.seen.timings.fresh)),
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
    pub(super) fn stopped(self) -> Option<RestartStep> {
        let timings = self.seen.timings;
        for node in self.nodes {
            let services = self.seen.services.get(&node.name)?;
            let excused = self.ledger.nodes.get(&node.name).map(|record| &record.excused);
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
            let left = self.now.since(&services.asked).left(every);
            let failed = self.seen.control_center_failures.contains_key(&node.name);
            if left.is_zero() && !failed {
                return Some(RestartStep::Read(node.name.clone()));
            }
            let remedy = if stays {
                "; start it in Cisco Unified IM and Presence Serviceability > Tools > Control Center - Feature Services, or deactivate it there. Where the release has no such service, set the annotation xmppfederation.io/restart-routers once: it restarts the routers with the service as it is, which then does not count until it runs"
            } else {
                ""
            };
            if !left.is_zero() {
                return Some(RestartStep::Wait(RestartWait {
                    kind,
                    until: self.now.plus(left),
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
    pub(super) fn settling(self, node: &str, reason: &str) -> Option<RestartStep> {
        let settle = self.seen.timings.settle;
        let left = |other: &str| {
            let services = self.seen.services.get(other)?;
            let since = match self.now.since(&services.asked) {
                Elapsed::Certain(since) => since,
                Elapsed::Estimated(_) => Duration::ZERO,
            };
            let up = Duration::from_secs(services.value.youngest?).saturating_add(since);
            Some(settle.saturating_sub(up)).filter(|left| !left.is_zero())
        };
        let others = self.nodes.iter().map(|other| other.name.as_str());
        let (other, left) = others
            .filter(|other| *other != node)
            .filter_map(|other| Some((other, left(other)?)))
            .max_by_key(|(_, left)| *left)?;
        Some(RestartStep::Wait(RestartWait {
            kind: WaitKind::NotHealthy,
            until: self.now.plus(left),
            message: format!(
                "The XCP services of {other} have just started; {node} is restarted when they have been up for {} s. Needed because {reason}",
                settle.as_secs()
            ),
        }))
    }

    /// Whether a node was looked at lately, and later than its rows were readable.
    fn is_fresh(self, node: &str) -> bool {
        self.seen.services.get(node).is_some_and(|services| {
            !self.now.since(&services.asked).reached(self.seen.timings.fresh) && asked_after_rows(services, self.ledger)
        })
    }
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
