//! The parts of a ledger that other modules read.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use xmpp_federation_core::ComponentId;

use crate::clock::Stamp;

/// One row of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RowRecord {
    /// Its `cp_id`.
    pub component_id: ComponentId,
    /// How far it is.
    pub state: RowState,
    /// Whether its appearance asks for restarts: rows we inserted do, adopted ones do not.
    pub asks_restart: bool,
}

/// How far a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowState {
    /// pkid chosen; the INSERT may or may not have happened.
    Planned,
    /// It was read back.
    Present,
    /// The DELETE may or may not have happened.
    Deleting,
}

/// A point in time and what the routers' up times were at or after it, so that a later, smaller
/// one proves a start behind it without any clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Baseline {
    /// The point in time.
    pub at: Stamp,
    /// By node name: up time read after `at` from a router that had not provably started after it.
    #[serde(default)]
    pub up_times: BTreeMap<String, UpTimeMark>,
}

impl Baseline {
    /// That time, with no up time read since.
    pub const fn at(at: Stamp) -> Self {
        Self {
            at,
            up_times: BTreeMap::new(),
        }
    }
}

/// An up time and when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpTimeMark {
    /// Seconds.
    pub seconds: u64,
    /// When it was asked for.
    pub asked: Stamp,
}

/// What can be done; the words of status, log and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::IntoStaticStr)]
pub enum ActionKind {
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
    /// The claim on a cluster ended, and its rows were left as they are.
    GiveUpRows,
}

/// How an action went; the words of the metric.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    #[default]
    Done,
    /// It certainly was not done.
    NotDone,
    /// It may or may not have been done.
    Unknown,
}

impl Outcome {
    /// Whether it was done.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub fn is_done(&self) -> bool {
        *self == Self::Done
    }
}

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActionRecord {
    /// When it was over.
    pub at: Timestamp,
    /// What was done.
    pub action: ActionKind,
    /// The row, as `cp_id (pkid)`, or the node.
    pub subject: String,
    /// Why, as the end of a sentence.
    pub reason: String,
    /// How it went, with what was before and after, as a sentence.
    pub outcome: String,
    /// How it went. Ledgers of releases before this field have none.
    #[serde(default, skip_serializing_if = "Outcome::is_done")]
    pub result: Outcome,
}
