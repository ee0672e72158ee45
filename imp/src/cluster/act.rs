//! What is done to IM&P.

use xmpp_federation_core::ComponentId;

use super::access::{axl, control_center};
use super::{Cluster, Manager};
use crate::axl::Row;
use crate::control_center::{CommandFailure, CommandOutcome, RestartAnswer};
use crate::desired::Desired;
use crate::effects::Action;
use crate::error::{CallError, CallErrorKind};
use crate::http::Caller;
use crate::ledger::Ledger;
use crate::observation::Read;
use crate::pkid::Pkid;
use crate::records::{ActionKind, ActionRecord, Outcome};
use crate::registration::{RowAction, RowChange};
use crate::report::Event;
use crate::restart;

impl Manager {
    /// Does one thing: the intent is in the ledger before the call, the outcome after it.
    pub(super) async fn act(&self, cluster: &mut Cluster, desired: &Desired, action: Action, events: &mut Vec<Event>) {
        let Some(Ok(caller)) = &cluster.caller else {
            return;
        };
        let caller = caller.clone();
        match action {
            Action::Row(row) => self.change(cluster, desired, &caller, &row, events).await,
            Action::Restart { node, reason } => {
                self.restart(cluster, desired, &caller, &node, reason, events).await;
            }
        }
    }

    async fn change(
        &self,
        cluster: &mut Cluster,
        desired: &Desired,
        caller: &Caller,
        row: &RowAction,
        events: &mut Vec<Event>,
    ) {
        let RowAction { pkid, id, change } = row;
        let (action, reason) = match change {
            RowChange::Insert => (ActionKind::InsertRow, format!("{} has a slot for it", desired.owner)),
            RowChange::Delete(reason) => (ActionKind::DeleteRow, (*reason).to_owned()),
            RowChange::Adopt => return self.adopt(cluster, *pkid, id, events).await,
        };
        let intended = match change {
            RowChange::Insert if cluster.ledger().is_some_and(|ledger| ledger.rows.contains_key(pkid)) => true,
            RowChange::Insert => self.record(cluster, |ledger| ledger.intend_insert(*pkid, id)).await,
            _ => self.record(cluster, |ledger| ledger.intend_delete(*pkid)).await,
        };
        let Some(table) = cluster.seen.table.filter(|_| intended) else {
            return;
        };
        let before = cluster.rows_of_ours();
        let is_it = |row: &Row| row.pkid == pkid.to_string();
        let mut axl = axl(caller, &desired.target, cluster.axl_version);
        let result = if *change == RowChange::Insert {
            axl.insert(table, *pkid, id).await
        } else {
            let rows = cluster.seen.rows.as_ref();
            let shown = rows.is_some_and(|rows| rows.value.iter().any(is_it));
            axl.delete(table, *pkid, id, shown).await
        };
        cluster.axl_version = axl.version;
        let rows = cluster.seen.rows.as_mut().map(|rows| &mut rows.value);
        match (change, &result) {
            (RowChange::Insert, Ok(1)) => {
                if let Some(rows) = rows {
                    rows.push(Row {
                        pkid: pkid.to_string(),
                        cp_id: id.to_string(),
                    });
                    cluster.seen.unverified = true;
                }
            }
            (RowChange::Delete(_), Ok(_)) => {
                if let Some(rows) = rows {
                    rows.retain(|row| !is_it(row));
                }
                cluster.seen.unverified = true;
                if !cluster.deleted.contains(&id.to_string()) {
                    cluster.deleted.push(id.to_string());
                }
            }
            _ => {}
        }
        let subject = format!("{id} ({pkid})");
        self.row_done(cluster, action, (subject, reason), before, result, events)
            .await;
    }

    /// Takes a row over that stands for a component of ours, as the annotation asks.
    async fn adopt(&self, cluster: &mut Cluster, pkid: Pkid, id: &ComponentId, events: &mut Vec<Event>) {
        let record = ActionRecord {
            at: self.clock.now().wall,
            action: ActionKind::AdoptRow,
            subject: format!("{id} ({pkid})"),
            reason: "the annotation xmppfederation.io/adopt-rows asks for it".to_owned(),
            outcome: "it was of somebody else, it is ours from now on; nothing was written to the table".to_owned(),
            result: Outcome::Done,
        };
        let saved = self
            .record(cluster, |ledger| {
                ledger.adopt(pkid, id);
                ledger.acted(record.clone());
            })
            .await;
        if saved {
            cluster.seen.due.insert(Read::Rows);
            record.announce(&*self.counter);
            events.extend(record.event());
        }
    }

    /// Notes what came of a write.
    async fn row_done(
        &self,
        cluster: &mut Cluster,
        action: ActionKind,
        (subject, reason): (String, String),
        before: usize,
        answer: Result<u64, CallError>,
        events: &mut Vec<Event>,
    ) {
        let (result, outcome) = match &answer {
            Ok(rows) => (
                if *rows == 1 { Outcome::Done } else { Outcome::NotDone },
                format!(
                    "{rows} row(s); the table had {before} rows of ours, has {}",
                    cluster.rows_of_ours()
                ),
            ),
            Err(error) => (
                if error.may_have_arrived() {
                    Outcome::Unknown
                } else {
                    Outcome::NotDone
                },
                format!("the table had {before} rows of ours; {error}"),
            ),
        };
        let record = ActionRecord {
            at: self.clock.now().wall,
            action,
            subject,
            reason,
            outcome,
            result,
        };
        record.announce(&*self.counter);
        events.extend(record.event());
        match answer {
            Ok(rows) => {
                cluster.seen.axl_failure = None;
                cluster.seen.write_failures = 0;
                // A row that was never seen: look whether it is gone.
                if rows != 1 {
                    cluster.seen.due.insert(Read::Rows);
                }
            }
            Err(error) => {
                cluster.seen.write_failures = cluster.seen.write_failures.saturating_add(1);
                cluster.seen.due.insert(Read::Rows);
                if matches!(error.kind, CallErrorKind::Fault(_)) {
                    cluster.seen.due.insert(Read::Table);
                }
                self.axl_failed(cluster, error);
            }
        }
        self.record(cluster, |ledger| ledger.acted(record)).await;
    }

    async fn restart(
        &self,
        cluster: &mut Cluster,
        desired: &Desired,
        caller: &Caller,
        node: &str,
        reason: String,
        events: &mut Vec<Event>,
    ) {
        let planned = self.clock.now();
        let seen = cluster.seen.clone();
        let intent = |ledger: &mut Ledger| {
            let id = Pkid::random().to_string();
            ledger.intend_restart(node, &reason, id, planned, &seen);
        };
        let cause = cluster
            .ledger()
            .and_then(|ledger| restart::need(node, desired.wanted(), ledger))
            .map_or("unknown", |need| need.word());
        if !self.record(cluster, intent).await {
            return;
        }
        self.counter.restarted(node, cause);
        cluster.seen.called_control_center(self.clock.now());
        let commanded = control_center(caller, &desired.target, node)
            .restart_router(planned.plus(self.timings.send_within))
            .await;
        let now = self.clock.now();
        let (answer, result, told) = match commanded {
            CommandOutcome::Answered(answer) => {
                cluster.seen.restart_failures.remove(node);
                let (result, told) = match &answer {
                    RestartAnswer::Accepted => (Outcome::Done, "accepted".to_owned()),
                    RestartAnswer::Refused(why) => (Outcome::NotDone, format!("refused ({why})")),
                    RestartAnswer::Ambiguous(why) => (Outcome::Unknown, format!("unknown ({why})")),
                };
                (Some(answer), result, told)
            }
            CommandOutcome::NotDone(not_done) => {
                let (wait, why) = match not_done {
                    CommandFailure::Busy(why) => (self.timings.busy, why),
                    CommandFailure::Failed(error) => {
                        let count = cluster.seen.restart_failures.entry(node.to_owned()).or_default();
                        *count = count.saturating_add(1);
                        let unit = self.timings.back_off_unit;
                        (error.back_off(*count, now.wall, unit).max(unit * 10), error.to_string())
                    }
                };
                cluster
                    .seen
                    .restart_not_before
                    .insert(node.to_owned(), (now.plus(wait), why.clone()));
                (None, Outcome::NotDone, format!("not carried out ({why})"))
            }
        };
        let up_time = seen
            .services
            .get(node)
            .and_then(|services| services.value.up_time)
            .map_or_else(|| "not known".to_owned(), |seconds| format!("{seconds} s before"));
        let record = ActionRecord {
            at: now.wall,
            action: ActionKind::RestartRouter,
            subject: node.to_owned(),
            reason,
            outcome: format!("{told}; up time {up_time}"),
            result,
        };
        record.announce(&*self.counter);
        events.extend(record.event());
        self.record(cluster, |ledger| {
            ledger.acted(record);
            ledger.restart_answered(node, answer);
        })
        .await;
    }
}
