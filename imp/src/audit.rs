//! What was done to a cluster, said once and told four times: as an event on the resource, as a
//! log line, as a recent action in the status, and as a count.

use jiff::Timestamp;

use super::report::Event;
use crate::counter::Counter;
use crate::reasons::Reason;
use crate::records::ActionRecord;

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A row was inserted, or not.
    InsertRow,
    /// A row was deleted, or not.
    DeleteRow,
    /// A row of somebody else was taken over.
    AdoptRow,
    /// A restart was commanded.
    RestartRouter,
    /// A restart came to its end.
    RouterBack,
}

impl Action {
    const ALL: [Self; 5] = [
        Self::InsertRow,
        Self::DeleteRow,
        Self::AdoptRow,
        Self::RestartRouter,
        Self::RouterBack,
    ];

    /// Its word, in the status and in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::InsertRow => "InsertRow",
            Self::DeleteRow => "DeleteRow",
            Self::AdoptRow => "AdoptRow",
            Self::RestartRouter => "RestartRouter",
            Self::RouterBack => "RouterBack",
        }
    }

    /// The reason of its event.
    const fn event(self) -> Reason {
        match self {
            Self::InsertRow => Reason::RowInserted,
            Self::DeleteRow => Reason::RowDeleted,
            Self::AdoptRow => Reason::RowAdopted,
            Self::RestartRouter => Reason::RouterRestart,
            Self::RouterBack => Reason::RouterBack,
        }
    }

    /// What it did, as the beginning of a sentence.
    const fn verb(self) -> &'static str {
        match self {
            Self::InsertRow => "INSERT",
            Self::DeleteRow => "DELETE",
            Self::AdoptRow => "Adoption of the row of",
            Self::RestartRouter => "Restart of Cisco XCP Router on",
            Self::RouterBack => "Cisco XCP Router is back on",
        }
    }
}

/// How it went; the words of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It certainly was not done.
    NotDone,
    /// It may or may not have been done.
    Unknown,
}

impl Outcome {
    /// The word in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NotDone => "not-done",
            Self::Unknown => "unknown",
        }
    }
}

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// When it was over.
    pub at: Timestamp,
    /// What.
    pub action: Action,
    /// The row, as `cp_id (pkid)`, or the node.
    pub subject: String,
    /// Why, as the end of a sentence.
    pub reason: String,
    /// How it went.
    pub outcome: Outcome,
    /// How it went, with what was before and after.
    pub told: String,
}

impl Deed {
    /// For the status.
    pub fn record(&self) -> ActionRecord {
        ActionRecord {
            at: self.at,
            action: self.action.word().to_owned(),
            subject: self.subject.clone(),
            reason: self.reason.clone(),
            outcome: self.told.clone(),
        }
    }

    /// For the resource.
    pub fn event(&self) -> Event {
        Event {
            warning: self.outcome != Outcome::Done,
            reason: self.action.event(),
            message: format!(
                "{} {}, because {}: {}",
                self.action.verb(),
                self.subject,
                self.reason,
                self.told
            ),
        }
    }

    /// For the log and the counts.
    pub fn announce(&self, counter: &dyn Counter) {
        say(&self.record());
        counter.acted(self.action.word(), self.outcome.word());
    }
}

/// For what was learned instead of done: log and counts of a record that the ledger has now.
pub fn announce_learned(record: &ActionRecord, counter: &dyn Counter) {
    say(record);
    if let Some(action) = Action::ALL.into_iter().find(|action| action.word() == record.action) {
        counter.acted(action.word(), Outcome::Done.word());
    }
}

fn say(record: &ActionRecord) {
    tracing::info!(
        action = record.action,
        subject = record.subject,
        reason = record.reason,
        outcome = record.outcome,
        "IM&P action"
    );
}
