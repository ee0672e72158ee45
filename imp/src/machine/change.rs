//! What is done to IM&P, one thing in a turn: permission, intent, call, outcome.

use xmpp_federation_core::ComponentId;

use super::intent::{Change, Recorded, Unsaved};
use super::{Machine, Next, Request, State, Then};
use crate::axl::Row;
use crate::clock::Stamp;
use crate::control_center::{CommandFailure, CommandOutcome, RestartAnswer};
use crate::desired::Desired;
use crate::error::{CallError, CallErrorKind};
use crate::observation::Read;
use crate::pkid::Pkid;
use crate::plan::Action;
use crate::records::{ActionKind, ActionRecord, Outcome};
use crate::registration::{RowAction, RowChange};
use crate::restart;

impl Machine {
    /// The action is permitted: its intent is saved, or it is done where it is about the ledger alone.
    pub(super) fn intend(&mut self, now: Stamp, fresh: Pkid, desired: &Desired, action: Action) -> Option<Next> {
        self.state = State::Look;
        let record = self.ledger.as_ref()?;
        let (change, reason) = match action {
            Action::Restart { node, reason } => {
                let need = restart::need(&node, self.allowed(desired).wanted(), record);
                let cause = need.map_or("unknown", |need| need.word());
                let not_after = now.plus(self.seen.timings.send_within);
                (Change::Restart { node, cause, not_after }, reason)
            }
            Action::Row(RowAction { pkid, id, change }) => {
                let table = self.seen.table?;
                match change {
                    RowChange::Insert => (
                        Change::Insert { table, pkid, id },
                        format!("{} has a slot for it", desired.owner),
                    ),
                    RowChange::Delete(reason) => {
                        let text = pkid.to_string();
                        let mut rows = self.seen.rows.iter().flat_map(|rows| &rows.value);
                        let shown = rows.any(|row| row.pkid == text);
                        (Change::Delete { table, pkid, id, shown }, reason.to_owned())
                    }
                    RowChange::Adopt => return self.adopt(now, pkid, &id),
                }
            }
        };
        let (ledger, unsaved) = Unsaved::new(change, reason, now, fresh, record, &self.seen);
        Some(self.save(ledger, Then::Change(unsaved)))
    }

    /// Takes a row over that stands for a component of ours, as the annotation asks.
    fn adopt(&mut self, now: Stamp, pkid: Pkid, id: &ComponentId) -> Option<Next> {
        let action = ActionRecord {
            at: now.wall,
            action: ActionKind::AdoptRow,
            subject: format!("{id} ({pkid})"),
            reason: "the annotation xmppfederation.io/adopt-rows asks for it".to_owned(),
            outcome: "it was of somebody else, it is ours from now on; nothing was written to the table".to_owned(),
            result: Outcome::Done,
        };
        let mut ledger = self.ledger.clone()?;
        ledger.adopt(pkid, id);
        ledger.acted(action.clone());
        Some(self.save(ledger, Then::Look(Some(action))))
    }

    pub(super) fn call(&mut self, now: Stamp, recorded: Recorded) -> Next {
        if matches!(recorded.change, Change::Restart { .. }) {
            self.seen.called_control_center(now);
        }
        self.ask(State::Changing(recorded.clone()), Request::Change(recorded))
    }

    pub(super) fn announce(&mut self, action: ActionRecord) {
        if action.action == ActionKind::AdoptRow {
            self.seen.due.insert(Read::Rows);
        }
        self.events.extend(action.event());
        self.actions.push(action);
    }

    /// Notes what came of a write.
    pub(super) fn written(&mut self, now: Stamp, recorded: &Recorded, answer: Result<u64, CallError>) -> State {
        let (action, pkid, id) = match &recorded.change {
            Change::Insert { pkid, id, .. } => (ActionKind::InsertRow, pkid, id),
            Change::Delete { pkid, id, .. } => (ActionKind::DeleteRow, pkid, id),
            Change::Restart { .. } => return State::Look,
        };
        let before = self.rows_of_ours();
        if answer.is_ok() {
            self.expect(action, *pkid, id);
        }
        let result = match &answer {
            Ok(1) => Outcome::Done,
            Err(error) if error.may_have_arrived() => Outcome::Unknown,
            _ => Outcome::NotDone,
        };
        let outcome = match &answer {
            Ok(rows) => {
                let now = self.rows_of_ours();
                format!("{rows} row(s); the table had {before} rows of ours, has {now}")
            }
            Err(error) => format!("the table had {before} rows of ours; {error}"),
        };
        let record = ActionRecord {
            at: now.wall,
            action,
            subject: format!("{id} ({pkid})"),
            reason: recorded.reason.clone(),
            outcome,
            result,
        };
        match answer {
            Ok(rows) => {
                self.seen.axl_failure = None;
                self.seen.write_failures = 0;
                // A row that was never seen: look whether it is gone.
                if rows != 1 {
                    self.seen.due.insert(Read::Rows);
                }
            }
            Err(error) => {
                self.seen.write_failures = self.seen.write_failures.saturating_add(1);
                self.seen.due.insert(Read::Rows);
                if matches!(error.kind, CallErrorKind::Fault(_)) {
                    self.seen.due.insert(Read::Table);
                }
                self.axl_failed(now, error);
            }
        }
        self.done(record, None)
    }

    /// A write was answered with success: what the table is expected to hold until it is read.
    fn expect(&mut self, action: ActionKind, pkid: Pkid, id: &ComponentId) {
        let pkid = pkid.to_string();
        let rows = self.seen.rows.as_mut().map(|rows| &mut rows.value);
        if action == ActionKind::DeleteRow {
            if let Some(rows) = rows {
                rows.retain(|row| row.pkid != pkid);
            }
            let id = id.to_string();
            if !self.deleted.contains(&id) {
                self.deleted.push(id);
            }
        } else if let Some(rows) = rows {
            let cp_id = id.to_string();
            rows.push(Row { pkid, cp_id });
        }
        self.seen.unverified = true;
    }

    /// Notes what came of a restart command.
    pub(super) fn commanded(&mut self, now: Stamp, recorded: &Recorded, outcome: CommandOutcome) -> State {
        let Change::Restart { node, .. } = &recorded.change else {
            return State::Look;
        };
        let seen = &mut self.seen;
        let (answer, result, told) = match outcome {
            CommandOutcome::Answered(answer) => {
                seen.restart_failures.remove(node);
                let (result, told) = match &answer {
                    RestartAnswer::Accepted => (Outcome::Done, "accepted".to_owned()),
                    RestartAnswer::Refused(why) => (Outcome::NotDone, format!("refused ({why})")),
                    RestartAnswer::Ambiguous(why) => (Outcome::Unknown, format!("unknown ({why})")),
                };
                (Some(answer), result, told)
            }
            CommandOutcome::NotDone(not_done) => {
                let (wait, why) = match not_done {
                    CommandFailure::Busy(why) => (seen.timings.busy, why),
                    CommandFailure::Failed(error) => {
                        let count = seen.restart_failures.entry(node.clone()).or_default();
                        *count = count.saturating_add(1);
                        let unit = seen.timings.back_off_unit;
                        (error.back_off(*count, now.wall, unit).max(unit * 10), error.to_string())
                    }
                };
                let told = format!("not carried out ({why})");
                seen.restart_not_before.insert(node.clone(), (now.plus(wait), why));
                (None, Outcome::NotDone, told)
            }
        };
        let up_time = seen.services.get(node).and_then(|services| services.value.up_time);
        let up_time = up_time.map_or_else(|| "not known".to_owned(), |seconds| format!("{seconds} s before"));
        let record = ActionRecord {
            at: now.wall,
            action: ActionKind::RestartRouter,
            subject: node.clone(),
            reason: recorded.reason.clone(),
            outcome: format!("{told}; up time {up_time}"),
            result,
        };
        self.done(record, Some((node, answer)))
    }

    /// Announces what was done, and has its outcome saved.
    fn done(&mut self, record: ActionRecord, restart: Option<(&String, Option<RestartAnswer>)>) -> State {
        self.announce(record.clone());
        let Some(mut ledger) = self.ledger.clone() else {
            return State::Look;
        };
        ledger.acted(record);
        if let Some((node, answer)) = restart {
            ledger.restart_answered(node, answer);
        }
        State::Outcome(ledger)
    }

    /// How many rows of ours stand in the table, as far as is known.
    fn rows_of_ours(&self) -> usize {
        let rows = self.seen.rows.iter().flat_map(|rows| &rows.value);
        rows.filter(|row| {
            self.ledger
                .as_ref()
                .is_some_and(|ledger| ledger.record_of(row).is_some())
        })
        .count()
    }
}
