//! What the controller gets back: verdicts for conditions, nodes, rows, events, when to call again.

use std::time::Duration;

use xmpp_federation_core::ComponentId;

use super::control_center::RouterState;
use super::pkid::Pkid;
use super::reasons::Reason;

/// The answer to one reconcile of one IM&P cluster.
#[derive(Debug, Clone)]
pub struct Report {
    /// Condition `AxlAuthenticated`: logins to AXL and Control Center.
    pub axl_authenticated: Verdict,
    /// Condition `ComponentsRegistered`: our rows and nothing unwanted beside them.
    pub components_registered: Verdict,
    /// Condition `RoutersInSync`: every router provably read the rows.
    pub routers_in_sync: Verdict,
    /// Condition `ImpFederationOff`: IM&P's own XMPP federation.
    pub imp_federation_off: Verdict,
    /// Whether work continues or waits for a time (condition Reconciling), or waits for a person
    /// (condition Stalled), with the sentence for it.
    pub progress: Progress,
    /// AXL version in use, as `14.0`.
    pub axl_version: Option<String>,
    /// Name of the table of component ids.
    pub table: Option<String>,
    /// The IM&P nodes, publisher first; empty while the list was never read.
    pub nodes: Vec<NodeReport>,
    /// Names of the nodes that the ledger knows, publisher first: where routers are while the list was never read.
    pub recorded_nodes: Vec<String>,
    /// Our rows, as they were last read back.
    pub registrations: Vec<Registration>,
    /// One entry per desired slot, in slot order.
    pub slots: Vec<SlotReport>,
    /// How many slots the ledger records; `None`: nothing was registered yet.
    pub recorded_slots: Option<u16>,
    /// The last value of the annotation `restart-routers` that was served.
    pub handled_restart_token: Option<String>,
    /// The last actions, oldest first, at most 20.
    pub recent_actions: Vec<crate::records::ActionRecord>,
    /// Events to publish on the resource, in this reconcile only.
    pub events: Vec<Event>,
    /// When to call again at the latest; zero: at once.
    pub requeue_after: Duration,
    /// Another entry of the same resource has the cluster, or it is not the one that is meant: no
    /// link is wanted for this entry.
    pub barred: bool,
    /// A write or restart is due and was held back as asked for.
    pub wants_to_act: bool,
}

impl Report {
    /// Rows of others stand in the table and none of ours: until that is settled the domain is
    /// theirs, and no link of ours takes a part of its traffic, even where a router still knows our
    /// ids from before.
    pub fn served_by_others(&self) -> bool {
        self.components_registered.reason == Reason::ForeignComponents && !self.has_rows()
    }

    /// The look that this tells of was still one of a resource that was Prepared: whether rows of
    /// others stand in the way is not known yet.
    pub fn was_prepared(&self) -> bool {
        self.components_registered.reason == Reason::Prepared && !self.has_rows()
    }

    fn has_rows(&self) -> bool {
        self.slots.iter().any(|slot| slot.registered)
    }
}

/// What a condition says, for a reason of one catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<R = Reason> {
    /// Whether the condition holds.
    pub status: Status,
    /// The word for why, with its meaning in the catalogue.
    pub reason: R,
    /// What is, with which value, and what to do; a full sentence.
    pub message: String,
}

impl<R> Verdict<R> {
    fn new(status: Status, reason: impl Into<R>, message: impl Into<String>) -> Self {
        let (reason, mut message) = (reason.into(), message.into());
        // It lives until the next answer, and grew by doubling.
        message.shrink_to_fit();
        Self {
            status,
            reason,
            message,
        }
    }

    /// The condition holds.
    pub fn yes(reason: impl Into<R>, message: impl Into<String>) -> Self {
        Self::new(Status::True, reason, message)
    }

    /// The condition does not hold.
    pub fn no(reason: impl Into<R>, message: impl Into<String>) -> Self {
        Self::new(Status::False, reason, message)
    }

    /// It cannot be told.
    pub fn unknown(reason: impl Into<R>, message: impl Into<String>) -> Self {
        Self::new(Status::Unknown, reason, message)
    }

    /// The same with the reason in a catalogue that takes in this one's.
    pub fn widen<S: From<R>>(self) -> Verdict<S> {
        Verdict {
            status: self.status,
            reason: self.reason.into(),
            message: self.message,
        }
    }
}

impl Reason {
    /// The condition holds.
    pub fn yes(self, message: impl Into<String>) -> Verdict {
        Verdict::yes(self, message)
    }

    /// The condition does not hold.
    pub fn no(self, message: impl Into<String>) -> Verdict {
        Verdict::no(self, message)
    }

    /// It cannot be told.
    pub fn unknown(self, message: impl Into<String>) -> Verdict {
        Verdict::unknown(self, message)
    }

    /// An event about it.
    pub fn event(self, warning: bool, message: String) -> Event {
        let reason = self;
        Event {
            warning,
            reason,
            message,
        }
    }
}

/// Status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be told.
    Unknown,
}

impl Status {
    /// The word as it stands in a condition.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What the cluster is waiting for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Nothing.
    Done,
    /// A call, a delay or a restart; the operator continues without help.
    Reconciling(String),
    /// A person has to act.
    Stalled(String),
}

/// One IM&P node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// Name as in `processnode`.
    pub name: String,
    /// The address override, where one is given.
    pub address: Option<String>,
    /// Whether it is the publisher.
    pub publisher: bool,
    /// State of its XCP router; `None`: never read.
    pub router: Option<RouterState>,
    /// Seconds since its XCP router started, as last read.
    pub up_time: Option<u64>,
    /// Whether its router provably read all rows.
    pub in_sync: bool,
    /// The restart that is due or under way.
    pub pending_restart: Option<PendingRestart>,
}

/// A restart that is due or under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRestart {
    /// Its id in the ledger; empty while it is only due.
    pub id: String,
    /// Why, and what it waits for.
    pub reason: String,
    /// RFC 3339 time of the command; `None`: not sent.
    pub started_at: Option<String>,
}

/// One of our rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its component id (`cp_id`).
    pub component_id: ComponentId,
    /// Its primary key.
    pub pkid: Pkid,
}

/// What is known of one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotReport {
    /// Its component id.
    pub component_id: ComponentId,
    /// Whether its row was read back.
    pub registered: bool,
    /// Whether all routers know it.
    pub sync: SlotSync,
}

/// Whether the routers know a slot's component id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotSync {
    /// Every node's router provably read its row.
    InSync,
    /// At least one router has not.
    NotInSync,
    /// Nothing is proven either way (an adopted row, a lost ledger).
    Unknown,
}

/// An event on the resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Warning instead of Normal.
    pub warning: bool,
    /// What it is about.
    pub reason: Reason,
    /// What was done, with values and why.
    pub message: String,
}

/// The answer to one step of a removal.
#[derive(Debug, Clone)]
pub struct Removal {
    /// Whether nothing of ours is left to remove.
    pub done: bool,
    /// Whether this step removed a row.
    pub removed: bool,
    /// What failed or is left, as a sentence; also what a restart would still clean.
    pub message: String,
    /// Rows still there, with the SQL that removes them by hand.
    pub rows_left: Vec<String>,
    /// Events to publish.
    pub events: Vec<Event>,
    /// When to call again.
    pub requeue_after: Duration,
}

/// A row for a person who removes it by hand on the publisher's command line.
pub fn row_left(component_id: &str, pkid: &str, table: Option<&str>) -> String {
    let table = table.unwrap_or("xmpps2snodes");
    format!("{component_id} ({pkid}): run sql delete from {table} where pkid = '{pkid}'")
}
