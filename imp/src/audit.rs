//! What was done to a cluster, said once and told four times: as an event on the resource, as a
//! log line, as a recent action in the status, and as a count.

use super::report::Event;
use crate::counter::Counter;
use crate::reasons::Reason;
use crate::records::{ActionKind, ActionRecord};

impl ActionRecord {
    /// The event on the resource; none where the operator's own event tells it.
    pub fn event(&self) -> Option<Event> {
        let (reason, verb) = match self.action {
            ActionKind::InsertRow => (Reason::RowInserted, "INSERT"),
            ActionKind::DeleteRow => (Reason::RowDeleted, "DELETE"),
            ActionKind::AdoptRow => (Reason::RowAdopted, "Adoption of the row of"),
            ActionKind::RestartRouter => (Reason::RouterRestart, "Restart of Cisco XCP Router on"),
            ActionKind::RouterBack => (Reason::RouterBack, "Cisco XCP Router is back on"),
            ActionKind::GiveUpRows => return None,
        };
        let message = format!("{verb} {}, because {}: {}", self.subject, self.reason, self.outcome);
        Some(reason.event(!self.result.is_done(), message))
    }

    /// The log line and the count.
    pub fn announce(&self, counter: &dyn Counter) {
        tracing::info!(
            action = %self.action,
            subject = self.subject,
            reason = self.reason,
            outcome = self.outcome,
            "IM&P action"
        );
        counter.acted(self.action, self.result);
    }
}
