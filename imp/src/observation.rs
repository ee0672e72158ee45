//! What this process has seen of one cluster, and when; kept in memory, never a reason to act
//! without the ledger.

mod evidence;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use xmpp_federation_core::ComponentId;

use super::axl::{HaState, Node, Row, Table};
use super::clock::Stamp;
use super::control_center::{Services, Which};
use super::desired::FederationCheck;
use super::error::CallError;
use super::pkid::Pkid;
use super::timings::Timings;
use crate::records::{RowRecord, RowState};

pub use evidence::started_after;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading<T> {
    pub value: T,
    /// When it was asked for: it is not older than this.
    pub asked: Stamp,
    /// When it had arrived.
    pub answered: Stamp,
}

/// A node that the list does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingNode {
    pub since: Stamp,
    pub read: Stamp,
}

/// A failure that was not followed by a success yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub error: CallError,
    pub count: u32,
    pub retry_at: Stamp,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Read {
    Nodes,
    /// The name of the table.
    Table,
    Rows,
    /// The administrator's own check of IM&P's federation.
    Federation,
    /// Services of the node of that name.
    Services(String),
    /// States of the nodes in their redundancy groups.
    Redundancy,
}

/// Why a publisher that answers is not one to do anything at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exclusion {
    /// This entry of the same resource leads to it too, and comes first.
    SameAs(String),
    /// Another one is meant: this pkid was found.
    Elsewhere(String),
}

#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// How long this process waits for things.
    pub timings: Timings,
    pub nodes: Option<Reading<Vec<Node>>>,
    /// Nodes that stand on the record and not in the list, until that is confirmed; they are in
    /// `nodes` all the same.
    pub missing_nodes: BTreeMap<Pkid, MissingNode>,
    pub table: Option<Table>,
    /// All rows; reading them is due after whatever may have changed them.
    pub rows: Option<Reading<Vec<Row>>>,
    /// Writes were answered with success since the rows were read; `rows` holds what is expected.
    pub unverified: bool,
    /// Component ids of our rows: since when every read of this process shows them.
    pub present_since: BTreeMap<ComponentId, Stamp>,
    /// The rows of ours that the last read showed: an id whose row went and came again between
    /// two reads is in another row.
    pub present_rows: BTreeSet<Pkid>,
    /// Rows of ours that the last reads did not show: since when.
    pub missing_since: BTreeMap<Pkid, Stamp>,
    pub services: BTreeMap<String, Reading<Services>>,
    /// Writes that failed in a row, whatever was read between them.
    pub write_failures: u32,
    /// Restart commands in a row that failed without effect, by node name.
    pub restart_failures: BTreeMap<String, u32>,
    /// What the administrator's own check of IM&P's federation said last.
    pub federation_check: Option<CheckReading>,
    /// Nodes that answer a fault where they are asked for all services, and not where they are
    /// asked for those that are needed.
    pub without_services: BTreeSet<String>,
    /// Nodes that have just answered a fault to the first, and are asked for the second at once.
    pub suspects: BTreeSet<String>,
    /// States in the redundancy groups, read before a restart.
    pub redundancy: Option<Reading<Vec<HaState>>>,
    /// There is no way to read them here.
    pub redundancy_unreadable: bool,
    pub axl_failure: Option<Failure>,
    /// Control Center's current failures by node name.
    pub control_center_failures: BTreeMap<String, Failure>,
    /// Times of the Control Center calls of the last minute.
    pub control_center_calls: VecDeque<Stamp>,
    /// Reads that are due whatever the age of what is known.
    pub due: BTreeSet<Read>,
    /// The last value of the annotation `refresh` that was served.
    pub refreshed: Option<String>,
    /// Why nothing may be done at this publisher, whoever has the cluster.
    pub barred: Option<Exclusion>,
    /// A human asked for a refresh since the ledger learned last.
    pub human_looked: bool,
    /// Restarts that were answered with "later" and when they may be tried again, by node name.
    pub restart_not_before: BTreeMap<String, (Stamp, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckAnswer {
    Off,
    On(String),
    /// It was answered with a fault, or with something else than one value: a sentence.
    Unreadable(String),
}

/// The check and its last answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReading {
    /// What was asked.
    pub check: FederationCheck,
    /// What was answered.
    pub seen: Reading<CheckAnswer>,
}

/// Control Center calls per minute and cluster; the limit of the facts is "under 12".
pub const CALLS_PER_MINUTE: usize = 11;

impl Observation {
    pub fn node_list(&self) -> &[Node] {
        self.nodes.as_ref().map_or(&[], |seen| &seen.value)
    }

    pub fn node_names(&self) -> impl Iterator<Item = String> {
        self.node_list().iter().map(|node| node.name.clone())
    }

    /// Whether the rows are as the last call left them.
    pub fn rows_current(&self) -> bool {
        self.rows.is_some() && !self.unverified && !self.due.contains(&Read::Rows) && self.axl_failure.is_none()
    }

    /// How long until that many more Control Center calls are within the budget.
    pub fn budget_wait(&self, calls: usize, now: &Stamp) -> Duration {
        let minute = self.timings.budget_window;
        let recent: Vec<Duration> = self
            .control_center_calls
            .iter()
            .map(|at| now.since(at).left(minute))
            .filter(|left| !left.is_zero())
            .collect();
        // The oldest calls have to leave the minute first.
        let calls = calls.clamp(1, CALLS_PER_MINUTE);
        let Some(surplus) = (recent.len() + calls).checked_sub(CALLS_PER_MINUTE + 1) else {
            return Duration::ZERO;
        };
        recent.get(surplus).copied().unwrap_or_default()
    }

    pub fn called_control_center(&mut self, at: Stamp) {
        self.control_center_calls.push_back(at);
        while self.control_center_calls.len() > 4 * CALLS_PER_MINUTE {
            self.control_center_calls.pop_front();
        }
    }

    /// Takes in a read of all rows, given which pkids are ours.
    pub fn saw_rows(&mut self, rows: Reading<Vec<Row>>, ours: &BTreeMap<Pkid, RowRecord>) {
        let mut present = BTreeMap::new();
        let mut present_rows = BTreeSet::new();
        let mut missing = BTreeMap::new();
        let confirm = self.timings.confirm_missing;
        // The last read, and what was answered with success since.
        let expected: BTreeSet<&str> = self
            .rows
            .iter()
            .flat_map(|seen| seen.value.iter().map(|row| row.pkid.as_str()))
            .collect();
        for (pkid, record) in ours {
            let there = rows
                .value
                .iter()
                .any(|row| row.pkid == pkid.to_string() && row.cp_id == record.component_id.as_str());
            match record.state {
                RowState::Deleting => {}
                _ if there => {
                    present_rows.insert(*pkid);
                    let since = self
                        .present_since
                        .get(&record.component_id)
                        .filter(|_| self.present_rows.contains(pkid));
                    // Of two rows with one id the older one counts: it stands as long as it is shown.
                    match since {
                        Some(since) => {
                            present.insert(record.component_id.clone(), *since);
                        }
                        None => {
                            present.entry(record.component_id.clone()).or_insert(rows.answered);
                        }
                    }
                }
                // With another id it is not missing but somebody's.
                RowState::Present if rows.value.iter().any(|row| row.pkid == pkid.to_string()) => {}
                RowState::Present => {
                    let since = self.missing_since.get(pkid);
                    missing.insert(*pkid, since.copied().unwrap_or(rows.asked));
                }
                // Its INSERT was answered with success, and this read may be a partial one. A
                // second read that lacks it too shows that the answer was wrong.
                RowState::Planned => {
                    let pkid_text = pkid.to_string();
                    let since = self
                        .missing_since
                        .get(pkid)
                        .copied()
                        .or_else(|| expected.contains(pkid_text.as_str()).then_some(rows.asked));
                    if let Some(since) = since
                        && !rows.asked.since(&since).reached(confirm)
                    {
                        missing.insert(*pkid, since);
                    }
                }
            }
        }
        self.present_since = present;
        self.present_rows = present_rows;
        self.missing_since = missing;
        self.rows = Some(rows);
        self.unverified = false;
        self.due.remove(&Read::Rows);
    }

    /// Everything is to be read again because somebody asked; what is known stays until then.
    pub fn refresh(&mut self) {
        self.due.insert(Read::Nodes);
        self.look_again();
        self.federation_check = None;
        self.human_looked = true;
        self.ask_for_all();
        self.forgive();
    }

    /// Rows and services are to be read again because the way to them changed.
    pub fn look_again(&mut self) {
        self.due.insert(Read::Rows);
        let names: Vec<String> = self.node_names().collect();
        self.due.extend(names.into_iter().map(Read::Services));
    }

    /// What a node is asked for: where it answers faults, now this and now that.
    pub fn services_to_ask(&self, node: &str) -> Which {
        let odd = |failure: &Failure| failure.count % 2 == 1;
        let failing = self.control_center_failures.get(node).is_some_and(odd);
        if failing || self.without_services.contains(node) || self.suspects.contains(node) {
            Which::Needed
        } else {
            Which::All
        }
    }

    /// A node answered a fault: whether it is asked at once for what is needed alone.
    pub fn suspect_names(&mut self, node: &str, which: Which) -> bool {
        let suspect = which == Which::All && !self.control_center_failures.contains_key(node);
        if suspect {
            self.suspects.insert(node.to_owned());
            self.due.insert(Read::Services(node.to_owned()));
        }
        suspect
    }

    /// What an answer tells of the names. After a failure that had to do with other things, they
    /// are all asked for again.
    pub fn services_answered(&mut self, node: &str, which: Which, good: bool) {
        let suspect = self.suspects.remove(node);
        if !good || which == Which::All {
            return;
        }
        if suspect {
            self.without_services.insert(node.to_owned());
        } else if !self.without_services.contains(node) {
            self.due.insert(Read::Services(node.to_owned()));
        }
    }

    /// What could not be read is tried once more: releases change.
    pub fn ask_for_all(&mut self) {
        self.without_services.clear();
        self.redundancy_unreadable = false;
    }

    /// Another process wrote to the ledger: what was seen before that may be older than what it
    /// wrote, and must not be held against it.
    pub fn outdate(&mut self) {
        self.rows = None;
        self.unverified = false;
        self.present_since.clear();
        self.present_rows.clear();
        self.missing_since.clear();
        self.services.clear();
        self.redundancy = None;
    }

    /// Failures are forgotten: what they were about has changed.
    pub fn forgive(&mut self) {
        self.axl_failure = None;
        self.write_failures = 0;
        self.restart_failures.clear();
        self.control_center_failures.clear();
        self.restart_not_before.clear();
    }
}
