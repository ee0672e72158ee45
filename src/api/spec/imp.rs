//! The clusters of IM and Presence.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xmpp_federation_core::ForeignComponents;
use xmpp_federation_core::edge_config::LinkProfile;

use super::{SecretKeyRef, SecretRef};
use crate::api::values::{DomainName, Duration};

/// One cluster of IM and Presence.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.router.profile == 'S2s' || has(self.restart)").message("restart is required with the router profiles Component and Xcp: write restart.mode, Automatic, Window or Manual").field_path(".restart"))]
pub struct ImpSpec {
    /// Name of the entry.
    #[schemars(length(min = 1, max = 30), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Which of domains and chatNodeAliases this cluster serves; empty: all. Clusters that serve the
    /// same domain are intercluster peers: a stanza goes to one healthy node of one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub domains: Vec<DomainName>,
    /// Host name or address of the publisher, where AXL is served.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^[A-Za-z0-9]([-A-Za-z0-9.:]*[A-Za-z0-9])?$")
    )]
    pub publisher: String,
    /// Addresses of nodes; the nodes themselves are read from the publisher.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 16))]
    pub nodes: Vec<NodeSpec>,
    /// Secret with username and password for AXL.
    pub credentials_secret_ref: SecretRef,
    /// Secret for Control Center Services. Absent: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_center_credentials_secret_ref: Option<SecretRef>,
    /// How the publisher's and nodes' certificates are checked.
    pub tls: ImpTlsSpec,
    /// AXL.
    #[serde(default)]
    pub axl: AxlSpec,
    /// The XCP routers.
    pub router: RouterSpec,
    /// When XCP routers may be restarted. Required, except with router profile S2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartSpec>,
    /// How often IM and Presence is asked for what changed there. Default 5m.
    #[serde(default = "five_minutes")]
    pub poll_interval: Duration,
    /// Refuse or Tolerate rows of other federation edges. Default Refuse.
    #[serde(default)]
    pub foreign_components: ForeignComponents,
    /// Your own check whether IM and Presence's federation is off, for nodes whose services do not
    /// prove it. Cisco publishes no table that tells: what the query means is yours to find out and
    /// to answer for. Absent: such a node stays Unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub federation_check: Option<FederationCheckSpec>,
    /// No writes and no restarts, as during an upgrade of IM and Presence. Default false.
    #[serde(default)]
    pub maintenance: bool,
    /// RemoveRows or Retain. Default RemoveRows.
    #[serde(default)]
    pub on_delete: OnDelete,
    /// How long a deletion tries to remove rows before it gives up. Default 10m.
    #[serde(default = "ten_minutes")]
    pub deletion_timeout: Duration,
}

fn five_minutes() -> Duration {
    Duration::seconds(300)
}

fn ten_minutes() -> Duration {
    Duration::seconds(600)
}

/// Address of a node.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// Name as IM and Presence knows it.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Host name or address to use instead.
    #[schemars(length(min = 1, max = 253))]
    pub address: String,
}

/// How certificates of IM and Presence are checked: exactly one way.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.caSecretRef), has(self.pinnedSha256) && self.pinnedSha256.size() > 0, has(self.insecureSkipVerify) && self.insecureSkipVerify].filter(x, x).size() == 1").message("choose exactly one: caSecretRef, pinnedSha256, or insecureSkipVerify: true"))]
pub struct ImpTlsSpec {
    /// Authorities, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// SHA-256 fingerprints, hexadecimal, of the certificates themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(regex(pattern = "^([0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}$")))]
    pub pinned_sha256: Option<Vec<String>>,
    /// No check at all; a condition says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure_skip_verify: Option<bool>,
}

/// AXL.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AxlSpec {
    /// TCP port of AXL and Control Center Services. Default 8443.
    #[serde(default = "axl_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Version of the schema, as 14.0. Absent: detected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]{1,2}\.[0-9]$"))]
    pub version: Option<String>,
}

fn axl_port() -> i32 {
    8443
}

impl Default for AxlSpec {
    fn default() -> Self {
        Self {
            port: axl_port(),
            version: None,
        }
    }
}

/// The XCP routers.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.profile == 'S2s' || has(self.secretRef)").message("secretRef is required with the profiles Component and Xcp: name the Secret and the key with the routers' shared secret").field_path(".secretRef"))]
pub struct RouterSpec {
    /// TCP port. Default 7400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Component (XEP-0114), Xcp (with XCP's announcements and envelopes, proven against a simulator
    /// and a public capture only), or S2s (IM and Presence's own federation service, not available in
    /// this release). Default Component.
    #[serde(default)]
    pub profile: RouterProfile,
    /// The shared secret of the handshake. Required, except with profile S2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
}

impl RouterSpec {
    /// The port in force.
    pub fn port(&self) -> i32 {
        self.port.unwrap_or(7400)
    }
}

/// How edges and IM and Presence reach each other.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouterProfile {
    /// A link to the XCP router, plain XEP-0114.
    #[default]
    Component,
    /// The same with XCP's announcements and envelopes.
    Xcp,
    /// IM and Presence's own federation service, by server-to-server streams: no rows, no restarts.
    S2s,
}

impl RouterProfile {
    /// The protocol of the links to routers; `None`: there are none.
    pub fn link(self) -> Option<LinkProfile> {
        match self {
            Self::Component => Some(LinkProfile::Component),
            Self::Xcp => Some(LinkProfile::Xcp),
            Self::S2s => None,
        }
    }
}

/// When XCP routers may be restarted; a restart drops every session on its node.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.window) == (self.mode == 'Window')").message("mode Window needs window, and the other modes take none").field_path(".window"))]
pub struct RestartSpec {
    /// Automatic (at once when needed), Window (then) or Manual (a person restarts).
    pub mode: RestartMode,
    /// The window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowSpec>,
    /// Time between reading a new row back and a restart: replication to the other nodes and the
    /// rewriting of the router's configuration. Default 30s.
    #[serde(default = "thirty_seconds")]
    pub propagation_delay: Duration,
    /// Least time between two restarts of one node. Default 24h.
    #[serde(default = "one_day")]
    pub min_interval: Duration,
}

fn thirty_seconds() -> Duration {
    Duration::seconds(30)
}

fn one_day() -> Duration {
    Duration::seconds(86_400)
}

/// Who restarts, and when.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartMode {
    /// The operator, at once.
    Automatic,
    /// The operator, in the window.
    Window,
    /// A person.
    Manual,
}

/// A restart window.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WindowSpec {
    /// Its start in five cron fields (minute, hour, day of month, month, day of week), on the clock
    /// of timeZone. A fixed time that a change of the clock skips comes right behind the gap, one
    /// that is repeated comes once; with a wildcard in minute or hour it follows the clock.
    #[schemars(length(min = 1, max = 128))]
    pub schedule: String,
    /// How long it is open, in elapsed time: 1m to 168h. A restart begun inside may end outside.
    pub duration: Duration,
    /// IANA time zone. Absent: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub time_zone: Option<String>,
}

/// One query over AXL, asked in place of every other read of the rows, and only while the services
/// prove nothing.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.query.matches('^[Ss][Ee][Ll][Ee][Cc][Tt] [^;]*$') && !self.query.matches('(?i)(^|[^a-z0-9_])into([^a-z0-9_]|$)')").message("write one SELECT on one line without a semicolon and without INTO").field_path(".query"))]
pub struct FederationCheckSpec {
    /// One SELECT that answers exactly one row with one column.
    #[schemars(length(min = 8, max = 1000))]
    pub query: String,
    /// The value that means that it is off; any other means that it is on.
    #[schemars(length(max = 256))]
    pub off_value: String,
}

/// What a deletion does with the rows.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDelete {
    /// Removes ours.
    #[default]
    RemoveRows,
    /// Leaves them.
    Retain,
}
