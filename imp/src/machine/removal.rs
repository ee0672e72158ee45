//! The rows of a resource that goes.

use super::{Machine, Request, State, Then};
use crate::axl::Table;
use crate::desired::Desired;
use crate::ledger::Ledger;
use crate::pkid::Pkid;
use crate::reasons::Reason;
use crate::records::RowRecord;
use crate::report::{Removal, Report, Status, row_left};

impl Machine {
    /// After a turn that left no row of ours: the ledger in which another resource may have the cluster is to be saved,
    /// before this one is told to be done.
    pub fn free(&mut self, desired: &Desired) -> Option<Request> {
        let mut ledger = self.ledger.clone()?;
        let none_left = ledger.rows.is_empty() && self.seen.rows_current() && self.ledger_error.is_none();
        if !none_left || self.seen.barred.is_some() || ledger.claimed_by_another(&desired.owner).is_some() {
            return None;
        }
        ledger.free(&desired.owner);
        self.state = State::Saving(ledger.clone(), Then::End);
        Some(Request::SaveLedger(Box::new(ledger)))
    }

    /// How far the removal is, by the report of its turn; `freed`: the cluster was to be freed behind it.
    pub fn removal(&mut self, desired: &Desired, report: Report, freed: bool) -> Removal {
        let freed = freed && self.ledger_error.is_none();
        let barred = self.seen.barred.is_some();
        let ledger = self.ledger.as_ref();
        let of_others =
            |ledger: &Ledger| !ledger.is_of(&desired.owner.uid) && (ledger.owner.is_some() || !ledger.rows.is_empty());
        let of_others = self.ledger_error.is_none() && ledger.is_some_and(of_others);
        let done = !barred && (of_others || freed);
        let table = self.seen.table.map(Table::name);
        let rows_left = match ledger {
            Some(ledger) if !done && !barred => rows_left(ledger, table),
            _ => Vec::new(),
        };
        let mut events = report.events;
        let removed = events
            .iter()
            .any(|event| event.reason == Reason::RowDeleted && !event.warning);
        let rows = self.seen.rows.iter().filter(|_| freed).flat_map(|rows| &rows.value);
        for row in rows.filter(|row| desired.component_ids.iter().any(|id| id.as_str() == row.cp_id)) {
            let message = format!(
                "A row with a component id of ours stays in IM&P's table, as the record does not show it as ours; if it is (a lost record), remove it on the publisher's command line: {}",
                row_left(&row.cp_id, &row.pkid, table)
            );
            events.push(Reason::IdenticalForeignRow.event(true, message));
        }
        let message = if done {
            let deleted = std::mem::take(&mut self.deleted);
            if of_others {
                "No row in IM&P's table is of this resource".to_owned()
            } else if deleted.is_empty() {
                "No row of ours is left in IM&P's table".to_owned()
            } else {
                let message = format!(
                    "The rows of {} are removed from IM&P's table; no router was restarted. Until Cisco XCP Router is restarted on every node, the routers still know these component ids, without links to them",
                    deleted.join(", ")
                );
                events.push(Reason::RestartWouldClean.event(false, message.clone()));
                message
            }
        } else if report.axl_authenticated.status == Status::False {
            // What the condition says beside the error is not about rows, and an event is short.
            let failure = self.seen.axl_failure.as_ref();
            failure.map_or(report.axl_authenticated.message, |failure| failure.error.to_string())
        } else {
            report.components_registered.message
        };
        Removal {
            done,
            removed,
            message,
            rows_left,
            events,
            requeue_after: report.requeue_after,
        }
    }
}

/// All rows of ours that may stand in the table, for a person who removes them.
pub fn rows_left(ledger: &Ledger, table: Option<&str>) -> Vec<String> {
    let row = |(pkid, row): (&Pkid, &RowRecord)| row_left(row.component_id.as_str(), &pkid.to_string(), table);
    ledger.rows.iter().map(row).collect()
}
