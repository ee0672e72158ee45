//! The rows of a resource that goes.

use xmpp_federation_core::Activation;

use super::Manager;
use crate::axl::Table;
use crate::desired::Desired;
use crate::ledger::Ledger;
use crate::pkid::Pkid;
use crate::reasons::Reason;
use crate::records::RowRecord;
use crate::report::{Event, Removal, Status, row_left};
use crate::store::StoreError;

impl Manager {
    /// Removes our rows, one step at a time; never restarts anything.
    pub async fn remove(&self, desired: &Desired) -> Removal {
        let mut prepared = desired.clone();
        prepared.activation = Activation::Prepared;
        let report = self.reconcile(&prepared).await;
        let cluster = self.cluster(desired);
        let mut cluster = cluster.lock().await;
        let ledger = cluster.file.as_ref().map(|file| &file.ledger);
        let barred = cluster.seen.barred.is_some();
        let claimed = ledger
            .and_then(|ledger| ledger.claimed_by_another(&desired.owner))
            .is_some();
        let none_left = ledger.is_some_and(|ledger| ledger.rows.is_empty())
            && cluster.seen.rows_current()
            && cluster.ledger_error.is_none();
        // The cluster is free for another resource, before this one is told to be done.
        let freed =
            none_left && !barred && !claimed && self.record(&mut cluster, |ledger| ledger.free(&desired.owner)).await;
        let done = !barred && (claimed || freed);
        let ledger = cluster.file.as_ref().map(|file| &file.ledger);
        let table = cluster.seen.table.map(Table::name);
        let rows_left = match ledger {
            Some(ledger) if !done && !barred => rows_left(ledger, table),
            _ => Vec::new(),
        };
        let like_ours: Vec<String> = cluster
            .seen
            .rows
            .iter()
            .filter(|_| freed)
            .flat_map(|rows| &rows.value)
            .filter(|row| {
                let ids = &desired.component_ids;
                ids.iter().any(|id| id.as_str() == row.cp_id)
            })
            .map(|row| row_left(&row.cp_id, &row.pkid, table))
            .collect();
        let mut events = report.events;
        events.extend(like_ours.iter().map(|row| Event {
            warning: true,
            reason: Reason::IdenticalForeignRow,
            message: format!(
                "A row with a component id of ours stays in IM&P's table, as the record does not show it as ours; if it is (a lost record), remove it on the publisher's command line: {row}"
            ),
        }));
        let message = if done {
            let deleted = std::mem::take(&mut cluster.deleted);
            if deleted.is_empty() {
                "No row of ours is left in IM&P's table".to_owned()
            } else {
                let message = format!(
                    "The rows of {} are removed from IM&P's table; no router was restarted. Until Cisco XCP Router is restarted on every node, the routers still know these component ids, without links to them",
                    deleted.join(", ")
                );
                events.push(Event {
                    warning: false,
                    reason: Reason::RestartWouldClean,
                    message: message.clone(),
                });
                message
            }
        } else if report.axl_authenticated.status == Status::False {
            // What the condition says beside the error is not about rows, and an event is short.
            let failure = cluster.seen.axl_failure.as_ref();
            failure.map_or(report.axl_authenticated.message, |failure| failure.error.to_string())
        } else {
            report.components_registered.message
        };
        Removal {
            done,
            message,
            rows_left,
            events,
            requeue_after: report.requeue_after,
        }
    }

    /// The rows of a resource as the record has them, without asking IM&P, each with the command
    /// that removes it by hand; `None` where no record tells of this resource.
    pub async fn recorded(
        &self,
        owner_uid: &str,
        publisher: &str,
        table: Option<&str>,
    ) -> Result<Option<Vec<String>>, StoreError> {
        let publisher = publisher.to_ascii_lowercase();
        let is_it = |ledger: &Ledger| ledger.known_as.contains(&publisher);
        let file = self.ledger_of(owner_uid, is_it).await?;
        Ok(file.map(|file| rows_left(&file.ledger, table)))
    }
}

/// All rows of ours that may stand in the table, for a person who removes them.
pub(crate) fn rows_left(ledger: &Ledger, table: Option<&str>) -> Vec<String> {
    let row = |(pkid, row): (&Pkid, &RowRecord)| row_left(row.component_id.as_str(), &pkid.to_string(), table);
    ledger.rows.iter().map(row).collect()
}
