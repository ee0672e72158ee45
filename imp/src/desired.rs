//! What the controller wants of one IM&P cluster: the validated form of one entry of `spec.imp`,
//! with the Secrets read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use xmpp_federation_core::{ComponentId, SecretBytes};

use super::announcement::{Announced, Opened};
use super::axl::AxlVersion;
use super::window::Window;

/// One IM&P cluster as one resource wants it.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The resource.
    pub owner: Owner,
    /// UIDs of all `XmppFederation` resources that exist, to tell a live claim on a cluster from
    /// one left behind. Empty: unknown, no claim is taken over.
    pub live_owners: BTreeSet<String>,
    /// How to reach the cluster.
    pub target: Target,
    /// Component ids in slot order, slot 0 first. Ignored while `activation` is Prepared.
    pub component_ids: Vec<ComponentId>,
    /// Active, or everything except rows and restarts.
    pub activation: Activation,
    /// Restart policy.
    pub restart: RestartPolicy,
    /// What other systems' rows mean.
    pub foreign_components: ForeignComponents,
    /// What tells whether IM&P's own federation is off where its services do not.
    pub federation_check: Option<FederationCheck>,
    /// No writes and no restarts.
    pub maintenance: bool,
    /// The next write or restart is only announced ([`super::report::Report::wants_to_act`]), not
    /// done: whoever asks has something to put in place first.
    pub hold_acts: bool,
    /// How often a cluster in order is looked at.
    pub poll_interval: Duration,
    /// Values of the annotations.
    pub requests: Requests,
    /// Routers of profile Xcp: they take the link of any component, and their announcements count.
    pub announces: bool,
    /// Where it stands among the resource's clusters.
    pub place: Place,
    /// Router links as the running edge pods report them, just read; empty where no pod answered.
    pub links: Vec<Link>,
}

impl Desired {
    /// The component ids that are to stand in the table.
    pub fn wanted(&self) -> &[ComponentId] {
        match self.activation {
            Activation::Active => &self.component_ids,
            Activation::Prepared => &[],
        }
    }
}

/// The resource on whose behalf something is done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: a resource applied anew is another one.
    pub uid: String,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where a cluster stands among those of its resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Entries before this one. One that leads to the same publisher has the cluster.
    pub earlier: Vec<Sibling>,
    /// Kept in the ledger while the resource is active there, for the controller alone: how to
    /// reach the cluster once the spec does not say it any more. No secrets.
    pub reach: Option<String>,
    /// The publisher's pkid, where nothing may be done at any other one: names are given to new
    /// machines.
    pub only: Option<String>,
}

/// Another entry of `spec.imp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sibling {
    /// Its name.
    pub entry: String,
    /// Its publisher, lower case.
    pub publisher: String,
}

/// How to reach an IM&P cluster.
#[derive(Debug, Clone)]
pub struct Target {
    /// Name of the entry in `spec.imp`.
    pub name: String,
    /// Host name or address of the publisher, lower case.
    pub publisher: String,
    /// HTTPS port of AXL and Control Center, 8443 by default.
    pub port: u16,
    /// Fixed AXL version; `None`: detected.
    pub axl_version: Option<AxlVersion>,
    /// Address overrides by node name (lower case); names not in here are resolved.
    pub addresses: BTreeMap<String, NodeAddress>,
    /// Account for AXL.
    pub axl: Credentials,
    /// Account for Control Center; `None`: the same.
    pub control_center: Option<Credentials>,
    /// How the nodes' certificates are judged.
    pub tls: ServerTrust,
}

/// Where a node answers instead of what its name resolves to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeAddress {
    /// The address.
    pub address: IpAddr,
    /// The HTTPS port, where it is not the target's.
    pub port: Option<u16>,
}

impl From<IpAddr> for NodeAddress {
    fn from(address: IpAddr) -> Self {
        Self { address, port: None }
    }
}

/// A user name and password read from a Secret.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Where they come from.
    pub secret: SecretVersion,
    /// User name.
    pub username: String,
    /// Password.
    pub password: SecretBytes,
}

/// One version of a Secret: its content as it was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretVersion {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID: a Secret deleted and created again is another one.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

impl std::fmt::Display for SecretVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}/{} (resourceVersion {})",
            self.namespace, self.name, self.resource_version
        )
    }
}

/// How a node's certificate is judged; exactly one way.
#[derive(Debug, Clone)]
pub enum ServerTrust {
    /// It must chain to one of these certificates (PEM) and carry the host's name.
    Ca {
        /// One or more certificates.
        pem: Vec<u8>,
        /// Where they come from, for messages: `Secret imp-ca, key ca.crt`.
        source: String,
    },
    /// The leaf's SHA-256 fingerprint must be one of these; neither name nor issuer count.
    Pinned(Vec<[u8; 32]>),
    /// Anything is accepted: the explicit opt-out.
    Insecure,
}

/// Whether rows are wanted at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Rows are registered and routers restarted.
    Active,
    /// Neither; rows of ours are removed.
    Prepared,
}

/// When routers may be restarted.
#[derive(Debug, Clone)]
pub struct RestartPolicy {
    /// By whom.
    pub mode: RestartMode,
    /// From the rows' read-back to the earliest restart.
    pub propagation_delay: Duration,
    /// Between two restarts of one node.
    pub min_interval: Duration,
}

/// Who restarts routers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestartMode {
    /// The operator, as soon as the rules allow it.
    Automatic,
    /// The operator, while this is open.
    Window(Box<Window>),
    /// A human; the operator says which nodes and how.
    Manual,
}

/// What rows of other systems mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignComponents {
    /// Nothing is registered beside them.
    Refuse,
    /// They are left alone.
    Tolerate,
}

/// A query of the administrator's own, and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederationCheck {
    /// One SELECT that answers one row with one column.
    pub query: String,
    /// The value that means Off; every other means On.
    pub off_value: String,
}

/// Values of the annotations; each value is served once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests {
    /// `xmppfederation.io/refresh`: read everything again now.
    pub refresh: Option<String>,
    /// `xmppfederation.io/restart-routers`: restart every router once; also a human's decision
    /// after an ambiguous call.
    pub restart_routers: Option<String>,
    /// `xmppfederation.io/adopt-rows`: identical rows of others become ours.
    pub adopt_rows: Option<String>,
}

/// One edge pod's link to one node's XCP router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Node name as in `processnode` (as the edge's configuration names it).
    pub node: String,
    /// The slot's component id.
    pub component_id: ComponentId,
    /// Whether the router accepted the handshake and the link stands.
    pub up: bool,
    /// While everything that is sent over the link comes back as an error: the condition it comes
    /// back with, as in `remote-server-not-found`. `None`: something was taken, or nothing sent.
    pub bouncing: Option<String>,
    /// How long the link had been open when the edge was asked; `None` while it is not.
    pub opened: Option<Opened>,
    /// Profile Xcp: what the node's router announced of components, as far as the edge that has
    /// this link could see it.
    pub announced: Vec<Announced>,
}
