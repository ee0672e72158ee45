//! What was done to one IM&P cluster. It belongs to the cluster, not to a resource: one ConfigMap
//! per publisher, keyed by the publisher's pkid in `processnode`, JSON in one key. Types and pure
//! transitions are here, reading and writing in [`file`].
//!
//! A ledger that is absent reads as unknown: rows without a record are foreign, and nothing in it
//! can ask for a restart.

pub mod cache;
pub mod file;
mod nodes;
mod slots;
pub mod transitions;
pub mod writes;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use xmpp_federation_core::ComponentId;

use super::axl::Row;
use super::clock::Stamp;
use super::control_center::RestartAnswer;
use super::desired::Owner;
use super::pkid::Pkid;
use super::records::{ActionRecord, Baseline, RowRecord, RowState};

/// The version of this format; a ledger of a newer one is not touched. It rises where a release that does not know a field
/// would do harm. Every other field of a later release is ignored, and kept where the ledger or a node has it.
pub const SCHEMA: u32 = 1;
const MAX_ACTIONS: usize = 20;

#[allow(
    clippy::struct_excessive_bools,
    reason = "facts that hold or do not, independently of each other"
)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    pub schema: u32,
    /// The publisher's pkid in `processnode`.
    pub publisher: String,
    /// Names under which the publisher was reached, to find the ledger while it is not.
    #[serde(default)]
    pub known_as: BTreeSet<String>,
    /// The resource that is active on the cluster.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// How that resource reaches the cluster, in the controller's words.
    #[serde(default)]
    pub reach: Option<String>,
    /// The owner's slots: recorded before its first row, they rise only when its spec asks for more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u16>,
    /// Our rows by pkid.
    #[serde(default)]
    pub rows: BTreeMap<Pkid, RowRecord>,
    /// How often rows of ours disappeared, confirmed by a second read.
    #[serde(default)]
    pub vanished: u32,
    /// From when on which rows were readable on every node.
    #[serde(default)]
    pub readable: Option<Readable>,
    /// Rounds of restarts that somebody asked for.
    #[serde(default)]
    pub rounds: Vec<Round>,
    /// What is known of each node's router, by node name.
    #[serde(default)]
    pub nodes: BTreeMap<String, NodeRecord>,
    /// The node restarted first on the very first registration.
    #[serde(default)]
    pub canary: Option<String>,
    /// Whether a link of ours ever worked after such a restart.
    #[serde(default)]
    pub canary_passed: bool,
    /// IM&P's own federation was seen On and not Off since.
    #[serde(default)]
    pub federation_was_on: bool,
    /// The last value of the annotation `restart-routers` that was served.
    #[serde(default)]
    pub handled_restart_token: Option<String>,
    /// It was restored, and a request that stands now was made before that.
    #[serde(default)]
    pub restored: bool,
    /// Commands may have been sent that stand in no record, because it was lost or restored.
    #[serde(default)]
    pub commands_lost: bool,
    #[serde(default)]
    pub actions: Vec<ActionRecord>,
    /// What a later release wrote down.
    #[serde(flatten)]
    pub later: BTreeMap<String, Value>,
}

/// From a point in time on, rows were readable on every node: read back, and the propagation delay over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Readable {
    pub ids: BTreeSet<ComponentId>,
    #[serde(flatten)]
    pub baseline: Baseline,
}

/// Every router is to be restarted once, for a reason other than rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Round {
    pub cause: RoundCause,
    /// Routers have to start after this.
    pub baseline: Baseline,
    /// Nodes whose routers have not, provably.
    pub pending: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RoundCause {
    /// By the annotation with this value.
    Requested(String),
    FederationOff,
}

/// What is known of one node's router.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecord {
    /// Its key in `processnode`, which it keeps when it is renamed.
    #[serde(default)]
    pub pkid: Option<Pkid>,
    /// The node list does not name it any more.
    #[serde(default)]
    pub gone: bool,
    /// Component ids that its router provably read.
    #[serde(default)]
    pub loaded: BTreeSet<ComponentId>,
    /// Those that it had read when the ledger was backed up: they count again when the same rows are seen to stand.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub loaded_before: BTreeSet<ComponentId>,
    /// The last command, until its outcome is known.
    #[serde(default)]
    pub restart: Option<Restart>,
    #[serde(default)]
    pub last_restart: Option<Stamp>,
    /// From when on the latest arrival counts of a command whose answer did not tell what became
    /// of it, the open one or one before it; gone after a look at the node behind that time.
    #[serde(default)]
    pub on_its_way: Option<Stamp>,
    /// XCP services that did not run when a person asked for a restart, and that have not run since.
    #[serde(default)]
    pub excused: BTreeSet<String>,
    /// What a later release wrote down.
    #[serde(flatten)]
    pub later: BTreeMap<String, Value>,
}

/// A restart command: written before it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    pub id: String,
    /// Why, as a sentence's end.
    pub reason: String,
    pub planned: Stamp,
    /// Up times right before, by node; proof needs a smaller one of this node.
    pub baseline: Baseline,
    /// The component ids that were readable everywhere then: a start behind it has read them.
    #[serde(default)]
    pub ids: BTreeSet<ComponentId>,
    /// The rounds that waited for this node then: a start behind it serves them.
    #[serde(default)]
    pub rounds: Vec<RoundCause>,
    /// What was answered; `None`: the command may or may not have been sent.
    #[serde(default)]
    pub answer: Option<RestartAnswer>,
    /// When the command before this one was sent, for the case that this one was not sent.
    #[serde(default)]
    pub previous: Option<Stamp>,
    /// The command that was on its way before this one, for the case that this one was not sent.
    #[serde(default)]
    pub previous_on_its_way: Option<Stamp>,
    /// Whether it made its node the first of the very first registration.
    #[serde(default)]
    pub made_canary: bool,
}

impl Ledger {
    /// The ledger of a cluster of which nothing is known.
    pub fn unknown(publisher: impl Into<String>) -> Self {
        Self {
            schema: SCHEMA,
            publisher: publisher.into(),
            known_as: BTreeSet::new(),
            owner: None,
            reach: None,
            slots: None,
            rows: BTreeMap::new(),
            vanished: 0,
            readable: None,
            rounds: Vec::new(),
            nodes: BTreeMap::new(),
            canary: None,
            canary_passed: false,
            federation_was_on: false,
            handled_restart_token: None,
            restored: false,
            commands_lost: false,
            actions: Vec::new(),
            later: BTreeMap::new(),
        }
    }

    /// The resource that has the cluster, where it is another one.
    pub fn claimed_by_another(&self, owner: &Owner) -> Option<&Owner> {
        self.owner.as_ref().filter(|other| other.uid != owner.uid)
    }

    /// Whether the resource with that UID has the cluster.
    pub fn is_of(&self, uid: &str) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.uid == uid)
    }

    /// The resource gives the cluster up, where it has it and no row of ours is left.
    pub fn free(&mut self, owner: &Owner) {
        if self.is_of(&owner.uid) && self.rows.is_empty() {
            self.owner = None;
            self.rounds.clear();
            self.readable = None;
            self.slots = None;
        }
    }

    /// The record of a row, where it is ours.
    pub fn record_of(&self, row: &Row) -> Option<&RowRecord> {
        self.rows.get(&row.pkid.parse().ok()?)
    }

    /// Adds an action, dropping the oldest.
    pub fn acted(&mut self, action: ActionRecord) {
        self.actions.push(action);
        let surplus = self.actions.len().saturating_sub(MAX_ACTIONS);
        self.actions.drain(..surplus);
    }

    /// The record of a node, made where there is none.
    pub fn node_mut(&mut self, name: &str) -> &mut NodeRecord {
        self.nodes.entry(name.to_owned()).or_default()
    }

    /// Whether that router provably read that id.
    pub fn has_loaded(&self, node: &str, id: &ComponentId) -> bool {
        self.nodes.get(node).is_some_and(|record| record.loaded.contains(id))
    }

    /// From when on the latest arrival of a command to that node counts, where one may be on its way.
    pub fn on_its_way(&self, node: &str) -> Option<Stamp> {
        self.nodes.get(node).and_then(|record| record.on_its_way)
    }

    /// A row is gone: what routers read of it counts no longer, unless another row of ours with its
    /// id, one of `stood`, was there before it went.
    pub fn forget_row(&mut self, pkid: &Pkid, stood: &BTreeSet<Pkid>) {
        let Some(row) = self.rows.remove(pkid) else {
            return;
        };
        self.unclaim(&row.component_id, stood);
    }

    /// A row with that id is to go, or is gone: what routers read of it counts no longer, unless
    /// one of `stood` has that id too.
    pub fn unclaim(&mut self, id: &ComponentId, stood: &BTreeSet<Pkid>) {
        let stands = |(other, row): (&Pkid, &RowRecord)| {
            row.component_id == *id && row.state == RowState::Present && stood.contains(other)
        };
        if self.rows.iter().any(stands) {
            return;
        }
        for node in self.nodes.values_mut() {
            node.loaded.remove(id);
            node.loaded_before.remove(id);
            // A start to come reads what stands then, which may be another row, or none.
            if let Some(restart) = &mut node.restart {
                restart.ids.remove(id);
            }
        }
        if let Some(readable) = &mut self.readable {
            readable.ids.remove(id);
        }
    }

    /// Our rows that stood when they were read last.
    pub fn standing(&self) -> BTreeSet<Pkid> {
        self.rows
            .iter()
            .filter(|(_, row)| row.state == RowState::Present)
            .map(|(pkid, _)| *pkid)
            .collect()
    }

    /// The ledger was restored from somewhere: rows stay ours, but nothing is proven before they are seen, and
    /// nothing in it asks for a restart.
    pub fn distrust(&mut self) {
        self.restored = true;
        self.commands_lost = true;
        self.readable = None;
        self.rounds.clear();
        self.federation_was_on = false;
        for row in self.rows.values_mut() {
            row.asks_restart = false;
        }
        for node in self.nodes.values_mut() {
            node.loaded_before.append(&mut node.loaded);
            node.excused.clear();
            // What is open stays open, but a start behind it proves nothing about rows of today.
            if let Some(restart) = &mut node.restart {
                restart.ids.clear();
                restart.rounds.clear();
            }
        }
    }

    /// After a restore the table was read, and shows these rows of ours. A pkid is never inserted again after its row
    /// went, so a row that still stands stood all the time: a router that had read it has read it.
    pub fn recall(&mut self, shown: &BTreeSet<Pkid>) {
        let stands = |(pkid, row): &(&Pkid, &RowRecord)| row.state == RowState::Present && shown.contains(*pkid);
        let ids: BTreeSet<&ComponentId> = self
            .rows
            .iter()
            .filter(stands)
            .map(|(_, row)| &row.component_id)
            .collect();
        for node in self.nodes.values_mut() {
            let before = std::mem::take(&mut node.loaded_before);
            node.loaded.extend(before.into_iter().filter(|id| ids.contains(id)));
        }
    }
}
