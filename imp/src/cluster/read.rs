//! What is asked of IM&P.

use super::access::{axl, control_center};
use super::{Cluster, Manager};
use crate::axl::HaState;
use crate::clock::Stamp;
use crate::desired::Desired;
use crate::error::{CallError, CallErrorKind};
use crate::federation;
use crate::http::Caller;
use crate::observation::{CheckReading, Failure, Read, Reading};

impl Manager {
    pub(super) async fn read(&self, cluster: &mut Cluster, desired: &Desired, read: Read) {
        let Some(Ok(caller)) = &cluster.caller else {
            return;
        };
        let caller = caller.clone();
        if let Read::Services(node) = read {
            self.read_services(cluster, desired, &caller, node).await;
            return;
        }
        let mut axl = axl(&caller, &desired.target, cluster.axl_version);
        let asked = self.clock.now();
        let result = match &read {
            Read::Nodes => match axl.nodes().await {
                Ok(value) => {
                    let answered = self.clock.now();
                    cluster
                        .seen
                        .services
                        .retain(|name, _| value.iter().any(|node| node.name == *name));
                    cluster
                        .seen
                        .control_center_failures
                        .retain(|name, _| value.iter().any(|node| node.name == *name));
                    cluster.seen.ask_for_all();
                    cluster.seen.nodes = Some(Reading { value, asked, answered });
                    self.found_publisher(&desired.target.publisher, &cluster.seen);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Read::Table => axl.table().await.map(|table| cluster.seen.table = Some(table)),
            Read::Rows => match cluster.seen.table {
                Some(table) => match axl.rows(table).await {
                    Ok(value) => {
                        let answered = self.clock.now();
                        let ours = cluster
                            .file
                            .as_ref()
                            .map(|file| file.ledger.rows.clone())
                            .unwrap_or_default();
                        cluster.seen.saw_rows(Reading { value, asked, answered }, &ours);
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                None => Ok(()),
            },
            Read::Federation => match &desired.federation_check {
                Some(check) => federation::ask(&mut axl, check).await.map(|value| {
                    let answered = self.clock.now();
                    cluster.seen.federation_check = Some(CheckReading {
                        check: check.clone(),
                        seen: Reading { value, asked, answered },
                    });
                }),
                None => Ok(()),
            },
            Read::Redundancy => self
                .take_redundancy(cluster, asked, axl.redundancy().await)
                .map_or(Ok(()), Err),
            Read::Services(_) => Ok(()),
        };
        cluster.axl_version = axl.version;
        match result {
            Ok(()) => {
                cluster.seen.due.remove(&read);
                cluster.seen.axl_failure = None;
            }
            Err(error) => {
                if matches!(error.kind, CallErrorKind::Fault(_)) {
                    // An upgrade may have renamed the table.
                    cluster.seen.due.insert(Read::Table);
                }
                self.axl_failed(cluster, error);
            }
        }
    }

    pub(super) fn axl_failed(&self, cluster: &mut Cluster, error: CallError) {
        let now = self.clock.now();
        let count = cluster
            .seen
            .axl_failure
            .as_ref()
            .map_or(0, |failure| failure.count)
            .max(cluster.seen.write_failures.saturating_sub(1))
            + 1;
        let retry_at = now.plus(error.back_off(count, now.wall, self.timings.back_off_unit));
        cluster.seen.axl_failure = Some(Failure { error, count, retry_at });
    }

    /// Takes in the states of redundancy groups; where there are none, that is remembered.
    fn take_redundancy(
        &self,
        cluster: &mut Cluster,
        asked: Stamp,
        states: Result<Vec<HaState>, CallError>,
    ) -> Option<CallError> {
        match states {
            Ok(value) => {
                cluster.seen.redundancy = Some(Reading {
                    value,
                    asked,
                    answered: self.clock.now(),
                });
                None
            }
            Err(error) if matches!(error.kind, CallErrorKind::Fault(_)) => {
                tracing::info!(%error, "states in redundancy groups cannot be read here; they say nothing");
                cluster.seen.redundancy_unreadable = true;
                None
            }
            Err(error) => Some(error),
        }
    }

    async fn read_services(&self, cluster: &mut Cluster, desired: &Desired, caller: &Caller, node: String) {
        let asked = self.clock.now();
        cluster.seen.called_control_center(asked);
        let which = cluster.seen.services_to_ask(&node);
        let answer = control_center(caller, &desired.target, &node).services(which).await;
        let answered = self.clock.now();
        cluster.seen.due.remove(&Read::Services(node.clone()));
        if let Err(error) = &answer
            && matches!(error.kind, CallErrorKind::Fault(_))
            && cluster.seen.suspect_names(&node, which)
        {
            tracing::info!(node, %error, "perhaps a service has another name here: those that are needed are asked for alone");
            return;
        }
        cluster.seen.services_answered(&node, which, answer.is_ok());
        match answer {
            Ok(value) => {
                cluster.seen.control_center_failures.remove(&node);
                cluster.seen.services.insert(node, Reading { value, asked, answered });
            }
            Err(error) => {
                let count = cluster
                    .seen
                    .control_center_failures
                    .get(&node)
                    .map_or(0, |failure| failure.count)
                    + 1;
                let unit = self.timings.back_off_unit;
                let retry_at = answered.plus(error.back_off(count, answered.wall, unit));
                cluster
                    .seen
                    .control_center_failures
                    .insert(node, Failure { error, count, retry_at });
            }
        }
    }
}
