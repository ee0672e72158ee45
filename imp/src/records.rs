//! What stands in a ledger and is read by others too.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use xmpp_federation_core::ComponentId;

use crate::clock::Stamp;

/// One row of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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

/// An up time and when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpTimeMark {
    /// Seconds.
    pub seconds: u64,
    /// When it was asked for.
    pub asked: Stamp,
}

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActionRecord {
    /// When.
    pub at: Timestamp,
    /// As `InsertRow`, `DeleteRow`, `AdoptRow`, `RestartRouter`.
    pub action: String,
    /// The row or node.
    pub subject: String,
    /// Why.
    pub reason: String,
    /// What came of it.
    pub outcome: String,
}
