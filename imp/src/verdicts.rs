//! What observation, ledger and plan mean: conditions, nodes, slots, in sentences that name what
//! failed, with which value, and what to do. Pure.

mod accounts;
mod federation;

use std::time::Duration;

use xmpp_federation_core::{Activation, ComponentId};

use super::announcement::{self, Proof};
use super::axl::Table;
use super::desired::Desired;
use super::ledger::Ledger;
use super::observation::{Exclusion, Observation, Read};
use super::plan::{Action, NextStep, Wait, WaitReason};
use super::registration::{RowAction, RowChange, RowObstacle};
use super::report::{Event, NodeReport, PendingRestart, Progress, Registration, Report, SlotReport, SlotSync, Verdict};
use crate::access::AxlVersion;
use crate::reasons::Reason;
use crate::records::RowState;
use federation::TURN_OFF;

use super::restart::{RestartWait, WaitKind, need};
use crate::store::StoreError;
use crate::text::names;

#[derive(Debug, Clone, Copy)]
pub struct ReportInput<'a> {
    pub desired: &'a Desired,
    pub seen: &'a Observation,
    pub ledger: Option<&'a Ledger>,
    pub step: &'a NextStep,
    /// Why no call can be made at all.
    pub setup_error: Option<&'a str>,
    /// Why the record is not usable.
    pub ledger_error: Option<&'a StoreError>,
    pub axl_version: Option<AxlVersion>,
}

impl ReportInput<'_> {
    pub fn report(&self, events: Vec<Event>, requeue_after: Duration) -> Report {
        // What another resource or entry did there is told by that one.
        let ours = self.ledger.filter(|_| !self.rests());
        Report {
            axl_authenticated: self.axl_authenticated(),
            components_registered: self.components_registered(),
            routers_in_sync: self.routers_in_sync(),
            imp_federation_off: if self.rests() {
                Reason::NotProven.unknown("Whoever has this IM&P cluster looks at its own XMPP federation")
            } else {
                federation::verdict(self.seen, self.desired.federation_check.as_ref())
            },
            progress: self.progress(),
            axl_version: self.axl_version.map(|version| version.to_string()),
            table: self.seen.table.map(|table| table.to_string()),
            nodes: self.nodes(),
            recorded_nodes: ours.map_or_else(Vec::new, Ledger::node_names),
            registrations: registrations(ours.filter(|ledger| ledger.is_of(&self.desired.owner.uid))),
            slots: self
                .desired
                .component_ids
                .iter()
                .map(|id| SlotReport {
                    component_id: id.clone(),
                    registered: self.is_present(id),
                    sync: self.slot_sync(id),
                })
                .collect(),
            recorded_slots: ours
                .filter(|ledger| ledger.is_of(&self.desired.owner.uid))
                .and_then(|ledger| ledger.slots),
            handled_restart_token: ours.and_then(|ledger| ledger.handled_restart_token.clone()),
            recent_actions: ours.map_or_else(Vec::new, |ledger| ledger.actions.clone()),
            events,
            requeue_after,
            barred: self.seen.barred.is_some(),
            wants_to_act: self.desired.hold_acts && matches!(self.step, NextStep::Act(_)),
        }
    }

    /// Whether another resource or entry has the cluster, so that only the node list is read.
    fn rests(&self) -> bool {
        matches!(
            self.step,
            NextStep::Wait(Wait {
                why: WaitReason::Claimed(_) | WaitReason::Barred(_),
                ..
            })
        )
    }

    fn components_registered(&self) -> Verdict {
        let Some(ledger) = self.ledger.filter(|_| self.ledger_error.is_none()) else {
            return self.without_ledger();
        };
        if let NextStep::Wait(wait) = self.step
            && let Some(verdict) = blocked(&wait.why, self.desired)
        {
            return verdict;
        }
        let table = self.seen.table.map_or("xmpps2snodes", Table::name);
        let wanted = self.desired.wanted();
        if wanted.is_empty() {
            if ledger.rows.is_empty() {
                return Reason::Prepared.yes(format!("No rows are wanted in {table}, and none of ours is there"));
            }
            let ids: Vec<&str> = ledger.rows.values().map(|row| row.component_id.as_str()).collect();
            if !ledger.is_of(&self.desired.owner.uid) {
                return Reason::Prepared.yes(format!(
                    "No rows are wanted in {table}; those of {}, which a former resource left, are for the next one that is active",
                    ids.join(", ")
                ));
            }
            return Reason::Registering.no(format!(
                "The rows of {} are to be removed from {table}{}",
                ids.join(", "),
                maintenance(self.desired)
            ));
        }
        let missing: Vec<&str> = wanted
            .iter()
            .filter(|id| !self.is_present(id))
            .map(ComponentId::as_str)
            .collect();
        if let Some(failure) = &self.seen.axl_failure {
            let what = if missing.is_empty() {
                format!("The rows of {} stood in {table} when it was read last", join(wanted))
            } else {
                format!("The rows of {} are not known to stand in {table}", missing.join(", "))
            };
            let message = format!("{what}; {}", failure.error);
            return if missing.is_empty() {
                failure.error.reason().unknown(message)
            } else {
                failure.error.reason().no(message)
            };
        }
        if !missing.is_empty() {
            return Reason::Registering.no(format!(
                "The rows of {} are being written into {table}{}",
                missing.join(", "),
                maintenance(self.desired)
            ));
        }
        Reason::Registered.yes(format!("{} stand in {table}", join(wanted)))
    }

    /// Verdict about rows or routers while the ledger is not there.
    fn without_ledger(&self) -> Verdict {
        if let Some(error) = self.ledger_error {
            return Reason::LedgerUnavailable.unknown(format!(
                "The record of what was done to this IM&P cluster is not usable: {error}"
            ));
        }
        if let Some(failure) = &self.seen.axl_failure {
            return failure
                .error
                .reason()
                .unknown(format!("Nothing is known of the rows: {}", failure.error));
        }
        if let Some(error) = self.setup_error {
            return Reason::CertificateRefused.unknown(error);
        }
        Reason::NotTried.unknown("IM&P has not been asked yet")
    }

    fn routers_in_sync(&self) -> Verdict {
        if self.desired.activation == Activation::Prepared {
            return Reason::Prepared.yes("No router has to know a row of ours");
        }
        let Some(ledger) = self.ledger else {
            return self.without_ledger();
        };
        let nodes = self.node_names();
        if nodes.is_empty() {
            return self.without_ledger();
        }
        let wanted = self.desired.wanted();
        let behind: Vec<&str> = nodes
            .iter()
            .filter(|node| !node_in_sync(ledger, node, wanted))
            .map(String::as_str)
            .collect();
        if behind.is_empty() {
            if let Some(message) = self.unannounced(&nodes) {
                return Reason::NotAnnouncedAsGateway.no(message);
            }
            if let Some(message) = self.still_bouncing() {
                return Reason::StillBouncingAfterRestart.no(message);
            }
            if self.desired.announces {
                let message = announcement::in_sync(&nodes, self.desired, &self.seen.services);
                return Reason::InSync.yes(message);
            }
            return Reason::InSync.yes(format!(
                "Cisco XCP Router on {} started after all rows were readable",
                names(nodes.iter().map(String::as_str))
            ));
        }
        let behind = names(behind.into_iter());
        match self.step {
            NextStep::Wait(wait) => match &wait.why {
                WaitReason::Restart(waiting) => restart_verdict(waiting),
                WaitReason::Propagating => Reason::Propagating.no(format!(
                        "The rows were read back; {behind} get them by replication, for which imp[].restart.propagationDelay ({} s) is waited",
                        self.desired.restart.propagation_delay.as_secs_f32()
                    ),
                ),
                WaitReason::Axl => Reason::Unreachable.unknown(format!(
                        "Whether Cisco XCP Router on {behind} has read all rows is not proven, and AXL does not answer"
                    ),
                ),
                WaitReason::Maintenance => Reason::Maintenance.no(format!(
                        "Cisco XCP Router on {behind} has to be restarted, which waits for the end of maintenance (imp[].maintenance)"
                    ),
                ),
                WaitReason::Settled => Reason::Unproven.unknown(format!(
                        "Whether Cisco XCP Router on {behind} has read all rows is not proven: the rows were not written by this operator's record, so nothing is restarted unasked. Working router links are a good sign; the annotation xmppfederation.io/restart-routers restarts every router once"
                    ),
                ),
                WaitReason::Budget => Reason::Restarting.no(format!(
                        "Cisco XCP Router on {behind} has not read all rows; IM&P is asked again when its rate limit allows"
                    ),
                ),
                WaitReason::Withheld(why) => Reason::Restarting.no(format!("Cisco XCP Router on {behind} has not provably read all rows. {why}"),
                ),
                _ => Reason::Registering.no(format!("Cisco XCP Router on {behind} cannot have read rows that are not there"),
                ),
            },
            NextStep::Act(Action::Restart { node, reason }) => Reason::Restarting.no(format!("Cisco XCP Router on {node} is restarted next: {reason}"),
            ),
            NextStep::Read(Read::Services(_) | Read::Redundancy) => Reason::Restarting.no(format!("Cisco XCP Router on {behind} has not provably read all rows; its state is read next"),
            ),
            _ => Reason::Registering.no(format!("Cisco XCP Router on {behind} cannot have read rows that are not there"),
            ),
        }
    }

    /// Profile Xcp: a router that provably read the rows and announces one of our components without
    /// the way to foreign domains.
    fn unannounced(&self, nodes: &[String]) -> Option<String> {
        let ledger = self.ledger.filter(|_| self.desired.announces)?;
        let wanted = self.desired.wanted();
        let proven = nodes.iter().filter(|node| node_in_sync(ledger, node, wanted));
        announcement::unannounced(proven, self.desired, &self.seen.services)
    }

    /// A router that provably read the rows and accepted the link, and returns every stanza.
    fn still_bouncing(&self) -> Option<String> {
        let ledger = self.ledger?;
        let wanted = self.desired.wanted();
        let (link, condition) = self.desired.links.iter().find_map(|link| {
            let proven = wanted.contains(&link.component_id)
                && self.seen.node_list().iter().any(|node| node.name == link.node)
                && node_in_sync(ledger, &link.node, wanted);
            let condition = link.bouncing.as_ref().filter(|_| link.up && proven)?;
            Some((link, condition))
        })?;
        let table = self.seen.table.map_or("xmpps2snodes", Table::name);
        Some(format!(
            "Cisco XCP Router on {node} started after the row of {id} was readable and accepts its link, and still everything that is sent there comes back ({condition}). Look whether the row stands in {node}'s own table, on its command line: run sql select * from {table}. Cisco's last resort is a reboot of the cluster's nodes, which this operator never does: one after the other, on their command lines: utils system restart",
            node = link.node,
            id = link.component_id,
        ))
    }

    fn progress(&self) -> Progress {
        if let Some(error) = self.setup_error {
            return Progress::Stalled(error.to_owned());
        }
        match self.step {
            NextStep::Read(_) => Progress::Reconciling("IM&P is being read".to_owned()),
            NextStep::Act(act) => Progress::Reconciling(match act {
                Action::Row(RowAction { id, change, .. }) => {
                    let done = match change {
                        RowChange::Insert => "inserted",
                        RowChange::Delete(_) => "deleted",
                        RowChange::Adopt => "adopted",
                    };
                    format!("The row of {id} is {done} next")
                }
                Action::Restart { node, .. } => format!("Cisco XCP Router on {node} is restarted next"),
            }),
            NextStep::Wait(wait) => match &wait.why {
                WaitReason::Settled => self
                    .unannounced(&self.node_names())
                    .or_else(|| self.still_bouncing())
                    .map_or(Progress::Done, Progress::Stalled),
                WaitReason::Claimed(_)
                | WaitReason::Barred(_)
                | WaitReason::Blocked(_)
                | WaitReason::FederationOn(_)
                | WaitReason::Vanished => Progress::Stalled(
                    blocked(&wait.why, self.desired)
                        .map(|verdict| verdict.message)
                        .unwrap_or_default(),
                ),
                WaitReason::Restart(waiting) => match waiting.kind {
                    WaitKind::ByHand
                    | WaitKind::Refused
                    | WaitKind::Hangs
                    | WaitKind::Unhealthy
                    | WaitKind::OutcomeUnknown => Progress::Stalled(waiting.message.clone()),
                    _ => Progress::Reconciling(waiting.message.clone()),
                },
                WaitReason::Maintenance => {
                    Progress::Stalled("imp[].maintenance holds back writes and restarts".to_owned())
                }
                WaitReason::Axl => Progress::Reconciling(
                    self.seen
                        .axl_failure
                        .as_ref()
                        .map_or_else(|| "AXL is asked again".to_owned(), |failure| failure.error.to_string()),
                ),
                WaitReason::Ledger => Progress::Reconciling(self.without_ledger().message),
                WaitReason::ConfirmMissing => {
                    Progress::Reconciling("Missing rows are confirmed by a second read".to_owned())
                }
                WaitReason::Propagating => Progress::Reconciling("Rows replicate to all nodes".to_owned()),
                WaitReason::Budget => Progress::Reconciling("IM&P's rate limit is waited for".to_owned()),
                WaitReason::Withheld(why) => Progress::Reconciling(why.clone()),
            },
        }
    }

    fn nodes(&self) -> Vec<NodeReport> {
        self.seen
            .node_list()
            .iter()
            .map(|node| {
                let services = self.seen.services.get(&node.name);
                let announced = self.desired.announces.then(|| {
                    announcement::proof(
                        &node.name,
                        self.desired.wanted(),
                        &self.desired.links,
                        &self.seen.services,
                    )
                });
                NodeReport {
                    name: node.name.clone(),
                    address: self
                        .desired
                        .target
                        .addresses
                        .get(&node.name)
                        .map(|given| given.host.to_string()),
                    publisher: node.publisher,
                    router: services.map(|services| services.value.router),
                    up_time: services.and_then(|services| services.value.up_time),
                    in_sync: self
                        .ledger
                        .is_some_and(|ledger| node_in_sync(ledger, &node.name, self.desired.wanted()))
                        && !matches!(announced, Some(Proof::NotGateway(_))),
                    pending_restart: self
                        .ledger
                        .and_then(|ledger| pending(ledger, &node.name, self.desired.wanted())),
                }
            })
            .collect()
    }

    fn node_names(&self) -> Vec<String> {
        let seen = self.seen.node_list();
        if seen.is_empty() {
            self.ledger.map_or_else(Vec::new, Ledger::node_names)
        } else {
            seen.iter().map(|node| node.name.clone()).collect()
        }
    }

    fn is_present(&self, id: &ComponentId) -> bool {
        if self.seen.rows_current() {
            return self.seen.present_since.contains_key(id);
        }
        self.ledger.is_some_and(|ledger| {
            ledger
                .rows
                .values()
                .any(|row| row.component_id == *id && row.state == RowState::Present)
        })
    }

    /// What decides which pods run. Announcements do not count here, whatever the profile: a pod that
    /// does not run is announced by no router.
    fn slot_sync(&self, id: &ComponentId) -> SlotSync {
        let Some(ledger) = self.ledger else {
            return SlotSync::Unknown;
        };
        let nodes = self.node_names();
        if nodes.is_empty() {
            return SlotSync::Unknown;
        }
        if nodes.iter().all(|node| ledger.has_loaded(node, id)) {
            return SlotSync::InSync;
        }
        let adopted = ledger
            .rows
            .values()
            .any(|row| row.component_id == *id && !row.asks_restart);
        if adopted {
            SlotSync::Unknown
        } else {
            SlotSync::NotInSync
        }
    }
}

fn registrations(ledger: Option<&Ledger>) -> Vec<Registration> {
    let rows = ledger.map(|ledger| &ledger.rows);
    rows.into_iter()
        .flatten()
        .filter(|(_, row)| row.state == RowState::Present)
        .map(|(pkid, row)| Registration {
            component_id: row.component_id.clone(),
            pkid: *pkid,
        })
        .collect()
}

fn maintenance(desired: &Desired) -> &'static str {
    if desired.maintenance {
        ", which waits for the end of maintenance (imp[].maintenance)"
    } else {
        ""
    }
}

fn join(ids: &[ComponentId]) -> String {
    ids.iter().map(ComponentId::as_str).collect::<Vec<_>>().join(", ")
}

/// What keeps rows from being written, where a human has to decide.
fn blocked(why: &WaitReason, desired: &Desired) -> Option<Verdict> {
    Some(match why {
        WaitReason::Claimed(owner) if !desired.live_owners.sees(owner) => Reason::ClaimedByAnother.no(format!(
                "The XmppFederation {owner} has this IM&P cluster, and namespace {0} is not watched by this operator: watch it again and delete that resource or set its activation to Prepared. If that resource is gone or nobody serves it any more, set the annotation xmppfederation.io/adopt-rows to {owner}, and this resource takes the cluster with its rows",
                owner.namespace
            ),
        ),
        WaitReason::Claimed(owner) => Reason::ClaimedByAnother.no(format!(
                "The XmppFederation {owner} is active on this IM&P cluster already; one federation edge per cluster is supported: delete one of the two, or set its activation to Prepared"
            ),
        ),
        WaitReason::Barred(Exclusion::SameAs(entry)) => Reason::SameCluster.no(format!(
                "This publisher is the one of spec.imp[{entry}] too, under another name; nothing is done for this entry: remove one of the two, and give the other the domains of both"
            ),
        ),
        WaitReason::Barred(Exclusion::Elsewhere(pkid)) => Reason::OtherCluster.no(format!(
                "The publisher's name leads to another cluster by now (its publisher has the pkid {pkid}), and nothing of ours is removed there"
            ),
        ),
        WaitReason::Blocked(RowObstacle::Foreign(rows)) => Reason::ForeignComponents.no(format!(
                "IM&P's table holds rows of others: {}. Turn XMPP federation off on the Expressway that wrote them, or set imp[].foreignComponents to Tolerate",
                rows.join(", ")
            ),
        ),
        WaitReason::Blocked(RowObstacle::Identical(row)) => Reason::IdenticalForeignRow.no(format!(
                "IM&P's table holds {row}, which has our component id but was not written by us; if it is ours (a lost ledger), set the annotation xmppfederation.io/adopt-rows, otherwise remove it"
            ),
        ),
        WaitReason::Blocked(RowObstacle::Altered(row)) => Reason::RowsVanished.no(format!("Somebody changed a row of ours to {row}; nothing is written until it is removed or changed back"),
        ),
        WaitReason::FederationOn(nodes) => Reason::FederationOn.no(format!(
                "No row is written while IM&P's own XMPP federation is on ({}); {TURN_OFF}",
                nodes.join(", ")
            ),
        ),
        WaitReason::Vanished => Reason::RowsVanished.no("Rows of ours vanished from IM&P's table twice: somebody else (an Expressway?) writes it. Find out who, then set the annotation xmppfederation.io/refresh to a new value",
        ),
        WaitReason::ConfirmMissing => Reason::RowsVanished.unknown("Rows of ours are missing in IM&P's table; it is read once more after 60 s before anything is done",
        ),
        _ => return None,
    })
}

fn restart_verdict(waiting: &RestartWait) -> Verdict {
    let reason = match waiting.kind {
        WaitKind::Restarting | WaitKind::Budget => Reason::Restarting,
        WaitKind::OutcomeUnknown | WaitKind::OnItsWay => Reason::RestartOutcomeUnknown,
        WaitKind::Hangs => Reason::RestartHangs,
        WaitKind::Refused => Reason::RestartRefused,
        WaitKind::ByHand => Reason::RestartByHand,
        WaitKind::MinInterval => Reason::MinInterval,
        WaitKind::Window => Reason::WaitingForWindow,
        WaitKind::NotHealthy | WaitKind::Unhealthy => Reason::NodeNotHealthy,
        WaitKind::Canary => Reason::WaitingForFirstLink,
        WaitKind::CallFailed => Reason::Unreachable,
    };
    Verdict::no(reason, &waiting.message)
}

fn pending(ledger: &Ledger, node: &str, wanted: &[ComponentId]) -> Option<PendingRestart> {
    let open = ledger.nodes.get(node).and_then(|record| record.restart.as_ref());
    match open {
        Some(restart) => Some(PendingRestart {
            id: restart.id.clone(),
            reason: restart.reason.clone(),
            started_at: Some(restart.planned.wall.to_string()),
        }),
        None => need(node, wanted, ledger).map(|need| PendingRestart {
            id: String::new(),
            reason: need.to_string(),
            started_at: None,
        }),
    }
}

/// Whether a node needs nothing and everything is proven.
fn node_in_sync(ledger: &Ledger, node: &str, wanted: &[ComponentId]) -> bool {
    need(node, wanted, ledger).is_none() && wanted.iter().all(|id| ledger.has_loaded(node, id))
}
