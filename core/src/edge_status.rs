//! What an edge shows at `/status` of its admin port; nothing personal.
//!
//! Edge and operator may be of different releases. A later edge may add fields and words; a field without a default is never
//! taken away. Names are plain texts, so a spelling that only a later release knows makes no status unreadable.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The whole answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeStatus {
    /// Version of the edge; absent: an edge older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Version of the operator that wrote the configuration in force; absent: a person wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_by: Option<String>,
    /// Fields of a later release in that configuration, which the edge ignores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored_fields: Vec<String>,
    /// SHA-256, lower-case hexadecimal, of the configuration file's bytes that are in force; empty: none is,
    /// the edge waits for one that it knows to read.
    pub config_hash: String,
    /// The newest file, if it was refused; the configuration in `config_hash` stays in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<RejectedConfig>,
    /// SHA-256 fingerprint of the leaf certificate shown first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_sha256: Option<String>,
    /// First 16 hexadecimal digits of SHA-256(SHA-256(secret)) of the dialback secret that signs,
    /// then those of the others that are accepted: tells secrets apart without giving them away.
    pub dialback_secrets: Vec<String>,
    /// Whether it has been told to stop.
    pub draining: bool,
    /// The links to XCP routers.
    pub links: Vec<LinkStatus>,
    /// Configured partners (that the allow list or `partners` names itself) whose last attempt failed: one entry for each
    /// hosted domain that they refuse, or one for all if they cannot be reached.
    pub failing_partners: Vec<PartnerFailure>,
    /// Open streams: inbound and outbound.
    pub streams: StreamCounts,
    /// Senders whose stanzas may have made routers end links, in all clusters.
    #[serde(default)]
    pub suspects: SuspectCounts,
    /// What was refused since the process started; absent: nothing.
    #[serde(default, skip_serializing_if = "RefusalCounts::is_empty")]
    pub refused: RefusalCounts,
    /// What the edge may hold in memory; absent: an older edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryBounds>,
}

/// How often something was refused, by reason; reasons without any are absent. The words are those of
/// the metrics of the same names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RefusalCounts {
    /// Inbound connections turned away, by bound.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub connections: BTreeMap<String, u64>,
    /// Inbound connections ended without a proof, by bound.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unproven_connections: BTreeMap<String, u64>,
    /// Peers, by check.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub peers: BTreeMap<String, u64>,
    /// Log lines that were not written, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub log_lines: BTreeMap<String, u64>,
}

impl RefusalCounts {
    /// Whether nothing was refused.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Bounds on memory, derived from what the process may use or configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryBounds {
    /// The memory that the process may use.
    pub limit_bytes: u64,
    /// The file that says so.
    pub limit_from: String,
    /// What all bounds add up to.
    pub sum_bytes: u64,
    /// Each bound in bytes.
    pub parts: BTreeMap<String, u64>,
    /// Inbound connections at once.
    pub connections: u64,
    /// Remote domains with something waiting or a stream open.
    pub routes: u64,
    /// Keys being verified at once.
    pub verifications: u64,
}

/// A configuration that was not taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectedConfig {
    /// SHA-256 of the refused file.
    pub config_hash: String,
    /// Why, with line and field.
    pub reason: String,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkStatus {
    /// Name of the cluster, as in the configuration.
    pub router: String,
    /// Name of the node.
    pub node: String,
    /// Address dialled.
    pub address: String,
    /// The component id used.
    pub component_id: String,
    /// What it is doing.
    pub state: StateWord,
    /// RFC 3339 time since when.
    pub since: String,
    /// The last failure as a sentence, kept until the link is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When this pod's link was up last; absent while it is up, and where it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_up: Option<LastUp>,
    /// What the router returned since it last took something; absent: it takes what it is sent, or
    /// was sent nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<ReturnedStanzas>,
    /// Whole seconds since the router accepted the handshake, by a clock that does not jump;
    /// absent while there is no link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_seconds: Option<u64>,
    /// Profile Xcp: how this node's router announced this component while this link was open, as
    /// another link of this edge saw it; absent: no link of this edge saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<RouterAnnouncement>,
    /// Profile Xcp: what came over this link, while it is open, about the component ids of other replicas
    /// in `routers[]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sightings: Vec<Sighting>,
}

/// When a link was up last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastUp {
    /// RFC 3339 time of the accepted handshake.
    pub from: String,
    /// RFC 3339 time of its end.
    pub until: String,
}

/// Messages and requests that came back as stanza errors over the link that they were sent on,
/// without a single other one being taken meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReturnedStanzas {
    /// RFC 3339 time of the first of them.
    pub since: String,
    /// Messages and requests that the router has processed since then.
    pub sent: u64,
    /// Of these, how many came back.
    pub returned: u64,
    /// The condition of all of them, a word of RFC 6120 section 8.3.3.
    pub condition: String,
    /// Whether the router takes nothing at all; else single addressees cannot be reached.
    pub everything: bool,
}

/// A component of another replica, as a router announced it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sighting {
    /// The announced component.
    pub component_id: String,
    /// The announcement.
    #[serde(flatten)]
    pub announced: RouterAnnouncement,
}

/// A router's announcement of a component (profile Xcp), from the configuration that the router read at its
/// start. The router sends it to all components except that one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterAnnouncement {
    /// The component is the way to foreign domains (`<default-gateway/>`).
    pub gateway: bool,
    /// Number of names in `<local-hosts>`.
    pub local_hosts: usize,
    /// RFC 3339 time of the announcement.
    pub at: String,
}

/// State of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum LinkState {
    /// Dialling or in the handshake.
    Connecting,
    /// It carries stanzas.
    Up,
    /// No TCP connection: closed port or network.
    Unreachable,
    /// The router knows no such component id (it has not read its table since).
    UnknownComponent,
    /// Profile Xcp: the link stands, but the router announces the component without
    /// `<default-gateway/>` (it has not read its table since), so it sends nothing over the link.
    /// The link takes stanzas only while no other one is up.
    NotGateway,
    /// The shared secret is wrong.
    WrongSecret,
    /// Any other failure.
    Failed,
}

/// The state of a link, as an edge of any release says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StateWord {
    /// A state of this release.
    Known(LinkState),
    /// A word of a later one.
    Later(String),
}

impl StateWord {
    /// The state; `None`: a later release's.
    pub const fn known(&self) -> Option<LinkState> {
        match self {
            Self::Known(state) => Some(*state),
            Self::Later(_) => None,
        }
    }
}

impl From<LinkState> for StateWord {
    fn from(state: LinkState) -> Self {
        Self::Known(state)
    }
}

impl PartialEq<LinkState> for StateWord {
    fn eq(&self, state: &LinkState) -> bool {
        self.known() == Some(*state)
    }
}

/// The word itself.
impl fmt::Display for StateWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(state) => write!(f, "{state:?}"),
            Self::Later(word) => f.write_str(word),
        }
    }
}

/// A partner that could not be reached or authenticated, or one hosted domain that it refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartnerFailure {
    /// The remote domain.
    pub domain: String,
    /// The hosted domain, if others may reach the partner; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// Stage and reason as a sentence.
    pub reason: String,
    /// RFC 3339 time of the first failure since it last worked.
    pub since: String,
}

/// Numbers of senders whose stanzas made a router end its link, or may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SuspectCounts {
    /// Their stanzas are sent one by one.
    pub suspected: usize,
    /// Their stanzas are refused.
    pub refused: usize,
}

/// Numbers of open streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamCounts {
    /// Opened by peers.
    pub inbound: usize,
    /// Opened by this edge.
    pub outbound: usize,
}
