//! What the controller gets back: verdicts for conditions, nodes, rows, events, when to call again.

use std::time::Duration;

use xmpp_federation_core::ComponentId;

use super::control_center::RouterState;
use super::pkid::Pkid;

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
    /// Whether something goes on or waits for a time (condition Reconciling), or for a human
    /// (condition Stalled), with the sentence for it.
    pub progress: Progress,
    /// AXL version in use, as `14.0`.
    pub axl_version: Option<String>,
    /// Name of the table of component ids.
    pub table: Option<String>,
    /// The IM&P nodes, publisher first; empty while the list was never read.
    pub nodes: Vec<NodeReport>,
    /// Our rows, as they were last read back.
    pub registrations: Vec<Registration>,
    /// One entry per desired slot, in slot order.
    pub slots: Vec<SlotReport>,
    /// The last value of the annotation `restart-routers` that was served.
    pub handled_restart_token: Option<String>,
    /// The last actions, oldest first, at most 20.
    pub recent_actions: Vec<super::ledger::ActionRecord>,
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
        self.components_registered.reason == reasons::FOREIGN_COMPONENTS && !self.has_rows()
    }

    /// The look that this tells of was still one of a resource that was Prepared: whether rows of
    /// others stand in the way is not known yet.
    pub fn was_prepared(&self) -> bool {
        self.components_registered.reason == reasons::PREPARED && !self.has_rows()
    }

    fn has_rows(&self) -> bool {
        self.slots.iter().any(|slot| slot.registered)
    }
}

/// What a condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Its status.
    pub status: Status,
    /// One of the constants of [`reasons`].
    pub reason: &'static str,
    /// What is, with which value, and what to do; a full sentence.
    pub message: String,
}

impl Verdict {
    /// The condition holds.
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: Status::True,
            reason,
            message: message.into(),
        }
    }

    /// The condition does not hold.
    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: Status::False,
            reason,
            message: message.into(),
        }
    }

    /// It cannot be told.
    pub fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: Status::Unknown,
            reason,
            message: message.into(),
        }
    }
}

/// Status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be told.
    Unknown,
}

/// What the cluster is waiting for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Nothing.
    Done,
    /// A call, a delay, a restart: the operator goes on by itself.
    Reconciling(String),
    /// A human.
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
    /// One of the constants of [`reasons`].
    pub reason: &'static str,
    /// What was done, with values and why.
    pub message: String,
}

/// The answer to one step of a removal.
#[derive(Debug, Clone)]
pub struct Removal {
    /// Whether nothing of ours is left to remove.
    pub done: bool,
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

/// Reasons of the conditions and events of this module; the documentation is generated from here.
pub mod reasons {
    /// One reason.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Reason {
        /// The word as it stands in a condition or event.
        pub word: &'static str,
        /// What it means.
        pub meaning: &'static str,
        /// What to do; empty where nothing is to be done.
        pub remedy: &'static str,
    }

    /// Declares the reasons: constant, word, meaning, remedy.
    macro_rules! reasons {
        ($($name:ident = $word:literal: $meaning:literal, $remedy:literal;)*) => {
            $(#[doc = $meaning] pub const $name: &str = $word;)*
            /// All of them, in the catalogue's order.
            pub const ALL: &[Reason] = &[$(Reason { word: $word, meaning: $meaning, remedy: $remedy },)*];
        };
    }

    reasons! {
        AUTHENTICATED = "Authenticated": "Both accounts were accepted.", "";
        NOT_TRIED = "NotTried": "Nothing has been asked yet.", "Wait for the first look.";
        UNAUTHORIZED = "Unauthorized": "HTTP 401: IM&P refuses name or password; this version of the Secret is not used again for an hour.", "Correct the Secret named in the message, try it at the test URL there.";
        FORBIDDEN = "Forbidden": "HTTP 403: the account lacks a role.", "Give it Standard AXL API Access (AXL) or a serviceability role (Control Center), as the message says.";
        UNREACHABLE = "Unreachable": "No answer, or no connection.", "Check name, port 8443 and the network between operator and IM&P.";
        CERTIFICATE_REFUSED = "CertificateRefused": "The tomcat certificate of IM&P is not accepted.", "Put its authority into imp[].tls.caSecretRef, or its fingerprint into pinnedSha256.";
        TLS_FAILED = "TlsHandshakeFailed": "No TLS connection to IM&P: it speaks only TLS 1.0 or 1.1 (releases before 11.5), or is no TLS server.", "Allow TLS 1.2 in IM&P or update it; check imp[].axl.port.";
        THROTTLED = "Throttled": "IM&P asked to wait: HTTP 503, or an exceeded rate.", "Wait; it is tried again by itself.";
        VERSION_UNSUPPORTED = "AxlVersionUnsupported": "No AXL version is answered.", "Check imp[].axl.version, and that the AXL service is activated.";
        FAULT = "SoapFault": "IM&P answered with a SOAP fault.", "Read the message; it is IM&P's.";
        BAD_ANSWER = "BadAnswer": "The answer is not one of AXL or Control Center.", "Check that imp[].publisher names an IM&P publisher and no proxy stands between.";
        REGISTERED = "Registered": "All rows are there.", "";
        REGISTERING = "Registering": "Rows are being written.", "Wait.";
        PREPARED = "Prepared": "spec.activation is Prepared: no rows are written.", "Set activation to Active at the cut-over.";
        FOREIGN_COMPONENTS = "ForeignComponents": "Rows of others stand in the table, another federation edge is registered.", "Turn that one off, or set imp[].foreignComponents to Tolerate.";
        IDENTICAL_FOREIGN_ROW = "IdenticalForeignRow": "A row with our component id was not written by this operator.", "Take it over with the annotation xmppfederation.io/adopt-rows, or remove it.";
        ROWS_VANISHED = "RowsVanished": "Rows of ours were removed twice: something else writes the table.", "Find the other writer (Expressway-C?), then ask for a look with xmppfederation.io/refresh.";
        CLAIMED = "ClaimedByAnother": "Another resource has this IM&P cluster.", "Delete one of the two, or set it to Prepared.";
        SAME_CLUSTER = "SameCluster": "Two entries of spec.imp lead to one cluster.", "Keep one of the two, with the domains of both.";
        OTHER_CLUSTER = "OtherCluster": "The publisher's name leads to another cluster by now.", "Remove the rows named in the message by hand, where the old cluster still runs.";
        MAINTENANCE = "Maintenance": "imp[].maintenance is true: no writes, no restarts.", "Set it to false after the upgrade.";
        LEDGER_UNAVAILABLE = "LedgerUnavailable": "The record of what was done to this cluster cannot be read or written; nothing is done without it.", "Check the operator's right to ConfigMaps in its namespace.";
        NODE_LIST = "NodeListUnusable": "IM&P's node list is empty or has no publisher.", "Check the account's rights and that imp[].publisher is the publisher.";
        IN_SYNC = "InSync": "All routers provably read the rows.", "";
        PROPAGATING = "Propagating": "The rows are on their way to all nodes.", "Wait for imp[].restart.propagationDelay.";
        RESTARTING = "Restarting": "A router restart is under way or next.", "Wait.";
        RESTART_BY_HAND = "RestartByHand": "Routers wait to be restarted by a person, because the mode is Manual.", "Restart Cisco XCP Router on the nodes named in the message.";
        RESTART_REFUSED = "RestartRefused": "IM&P refuses to restart the router over its interface.", "Restart it by hand as the message says.";
        RESTART_OUTCOME_UNKNOWN = "RestartOutcomeUnknown": "A restart command may or may not have arrived.", "Look at the node; ask for another one with xmppfederation.io/restart-routers.";
        RESTART_HANGS = "RestartHangs": "A restart did not finish.", "Look at the node's services in Cisco Unified IM and Presence Serviceability.";
        MIN_INTERVAL = "MinInterval": "The node was restarted less than imp[].restart.minInterval ago.", "Wait, or ask with xmppfederation.io/restart-routers.";
        RESTART_WINDOW = "WaitingForWindow": "Routers are restarted when the window of imp[].restart opens.", "Wait until the time in the message, or ask with xmppfederation.io/restart-routers.";
        NODE_NOT_HEALTHY = "NodeNotHealthy": "Another node has to be healthy and readable first.", "Bring the node named in the message back.";
        CANARY = "WaitingForFirstLink": "The first restarted node's link has to work before the next one is restarted.", "Check TCP 7400 and imp[].router.secretRef if it does not come up.";
        STILL_BOUNCING = "StillBouncingAfterRestart": "A router that provably read the rows returns everything that is sent to it.", "Check the table on that node; Cisco's last resort is a reboot of the cluster's nodes by an administrator.";
        NOT_ANNOUNCED = "NotAnnouncedAsGateway": "Profile Xcp: another link of the edge sees that a router that was restarted announces a component without default-gateway.", "Check Cisco XCP Config Manager on the node in the message, then ask with xmppfederation.io/restart-routers.";
        UNPROVEN = "Unproven": "Nothing is proven about the routers.", "Wait for the next look; the message says what is missing.";
        FEDERATION_OFF = "NotActivated": "IM&P's own XMPP federation is off, as it must be.", "";
        FEDERATION_ON = "FederationOn": "IM&P's own XMPP federation is on.", "Turn it off: Presence > Inter-Domain Federation > XMPP Federation > Settings.";
        FEDERATION_UNKNOWN = "NotProven": "Its service is stopped or cannot be read, which proves nothing.", "Look at Presence > Inter-Domain Federation > XMPP Federation > Settings.";
        ROW_INSERTED = "RowInserted": "Event: a row was inserted, or not.", "";
        ROW_DELETED = "RowDeleted": "Event: a row was deleted, or not.", "";
        ROW_ADOPTED = "RowAdopted": "Event: a row was taken over.", "";
        ROUTER_RESTART = "RouterRestart": "Event: a restart was commanded, with its reason and answer.", "";
        ROUTER_BACK = "RouterBack": "Event: a router that was restarted is back, with its up times before and after.", "";
        ROUTER_IN_SYNC = "RouterInSync": "Event: a router is back and has read the rows.", "";
        NODE_REMOVED = "NodeRemoved": "Event: IM&P's node list does not name a node any more.", "Look at System > Server where that was not meant.";
        RESTART_WOULD_CLEAN = "RestartWouldClean": "Event: rows are gone, and routers know them until they are restarted.", "Restart the routers at a quiet hour, if at all.";
    }
}
