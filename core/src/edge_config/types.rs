//! The fields of the configuration file and their defaults.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::partner::Partner;
use super::values::{Cidr, HostPort, HumanDuration};
use crate::{ComponentId, Domain, DomainPattern, Release};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EdgeConfig {
    /// Version of the operator that wrote the file; absent: a person wrote it. In a file of a later version than its own the
    /// edge ignores fields that it does not know. It names them in its log and at `/status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_by: Option<Release>,
    /// Features that restrict something and that the first release does not have. An edge that does not know one of them
    /// refuses the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// The hosted domains, chat aliases included: A-labels in lower case.
    pub domains: Vec<Domain>,
    /// Where to listen.
    #[serde(default)]
    pub listen: Listen,
    /// The files that hold the dialback secrets.
    pub dialback: Dialback,
    /// Certificates and security mode.
    pub tls: Tls,
    /// Who may federate.
    #[serde(default)]
    pub privacy: Privacy,
    /// Remote domains with terms or hosts of their own. One entry counts for a domain: that of its own name, else the
    /// longest wildcard that covers it. What this entry does not set comes from `tls` and `limits`, and from no other
    /// entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partners: Vec<Partner>,
    /// Name resolution.
    #[serde(default)]
    pub dns: Dns,
    /// The links into the IM and Presence clusters.
    pub routers: Vec<Router>,
    /// Bounds on the resources that peers use.
    #[serde(default)]
    pub limits: Limits,
    /// Load balancers that may speak the PROXY protocol.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
    /// How long a stopping edge goes on accepting connections. Default 15s.
    #[serde(default = "default_drain_delay")]
    pub drain_delay: HumanDuration,
    /// Logging.
    #[serde(default)]
    pub log: Log,
}

/// Longest time that a stopping edge takes after `drainDelay`. A supervisor must wait longer before it kills the edge.
pub const FINISH_AT_MOST: Duration = Duration::from_secs(25);

fn default_drain_delay() -> HumanDuration {
    HumanDuration(Duration::from_secs(15))
}

/// Listening sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Listen {
    /// Server-to-server streams with STARTTLS. Default [::]:5269.
    #[cfg_attr(feature = "schemars", schemars(extend("format" = "address-and-port")))]
    pub s2s: SocketAddr,
    /// Server-to-server streams with TLS from the first byte (XEP-0368), port 5270 as a rule;
    /// published as `_xmpps-server._tcp`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(extend("format" = "address-and-port")))]
    pub direct_tls: Option<SocketAddr>,
    /// Health, metrics and status over HTTP. Default [::]:8080.
    #[cfg_attr(feature = "schemars", schemars(extend("format" = "address-and-port")))]
    pub admin: SocketAddr,
    /// Unix socket for `ctl`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(extend("format" = "file")))]
    pub control: Option<PathBuf>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            s2s: SocketAddr::from(([0_u16; 8], 5269)),
            direct_tls: None,
            admin: SocketAddr::from(([0_u16; 8], 8080)),
            control: None,
        }
    }
}

/// Dialback secrets: the one to sign with and others that are accepted during a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Dialback {
    /// File with the secret that keys are made with; always accepted too.
    #[cfg_attr(feature = "schemars", schemars(extend("format" = "file")))]
    pub sign: PathBuf,
    /// Files with further secrets under which a key is valid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schemars", schemars(extend("format" = "file")))]
    pub accept: Vec<PathBuf>,
}

/// Security mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub enum TlsMode {
    /// No stanza and no dialback key without TLS. Cisco Expressway calls this TLS required.
    #[default]
    Required,
    /// TLS where the peer offers it, clear text only where it does not; never after a failed
    /// handshake, and not with a domain that used TLS within the last day. Cisco Expressway calls
    /// this TLS optional.
    Optional,
    /// TLS neither offered nor accepted; dialback in clear. Cisco Expressway calls this No TLS.
    Disabled,
}

/// Lowest TLS version spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub enum TlsVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    VersionTLS12,
    /// TLS 1.3 only.
    VersionTLS13,
}

/// Certificates and security mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Tls {
    /// Required, Optional or Disabled. Default Required.
    #[serde(default)]
    pub mode: TlsMode,
    /// Certificate chains shown to peers; the one that covers the domain asked for (by SNI, else in
    /// the stream's header; where the edge connects: the domain that sends) is chosen, an unexpired
    /// one before an expired one, else the first. Of several for one domain, the first whose kind of
    /// key the peer can verify.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateFiles>,
    /// Chain shown where the edge connects, for all domains; absent: the same ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<CertificateFiles>,
    /// Authorities that peers' certificates are checked against.
    #[serde(default)]
    pub trust_anchors: TrustAnchors,
    /// PEM files with revocation lists. A certificate that the list of its authority names counts
    /// as invalid; without a list of its authority nothing is known and it counts as not revoked.
    /// A list past its time is warned of and still revokes what it names. Of several lists of one
    /// authority the latest counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schemars", schemars(extend("format" = "file")))]
    pub revocation_lists: Vec<PathBuf>,
    /// Whether a peer's certificate must be valid and name its domain, in both directions and
    /// besides dialback; every domain on a stream must be named. Where the mode is Optional, peers
    /// without TLS are refused then, since they show no certificate. Default false.
    #[serde(default)]
    pub require_client_certificates: bool,
    /// VersionTLS12 or VersionTLS13. Default VersionTLS12.
    #[serde(default)]
    pub min_version: TlsVersion,
}

/// A certificate chain and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CertificateFiles {
    /// Leaf first, then intermediates.
    #[cfg_attr(feature = "schemars", schemars(extend("format" = "file")))]
    pub certificate_file: PathBuf,
    /// PKCS #8, PKCS #1 or SEC1.
    #[cfg_attr(feature = "schemars", schemars(extend("format" = "file")))]
    pub private_key_file: PathBuf,
}

/// Authorities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct TrustAnchors {
    /// Whether the public authorities count. Default true.
    pub system: bool,
    /// PEM file with further authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(extend("format" = "file")))]
    pub file: Option<PathBuf>,
}

impl Default for TrustAnchors {
    fn default() -> Self {
        Self {
            system: true,
            file: None,
        }
    }
}

/// How the list of [`Privacy`] is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub enum PrivacyMode {
    /// The listed domains and `partners` federate; without any of them nobody does.
    #[default]
    AllowList,
    /// All but the listed domains federate; the list wins over `partners`.
    DenyList,
    /// Everybody federates.
    AllowAll,
}

/// Who may federate.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Privacy {
    /// AllowList, DenyList or AllowAll. Default AllowList.
    pub mode: PrivacyMode,
    /// The listed domains. `*.partner.example` covers all domains below `partner.example`, and not that one itself.
    pub domains: Vec<DomainPattern>,
}

/// Name resolution.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Dns {
    /// Addresses of resolvers, port 53; empty: those of /etc/resolv.conf.
    pub resolvers: Vec<IpAddr>,
    /// Private networks that DNS may lead to all the same. An IPv4 address inside an IPv6 one
    /// (NAT64) is judged in its place: list its IPv4 network, not the NAT64 prefix.
    pub allow_private_targets: Vec<Cidr>,
    /// Networks that DNS must not lead to either, besides private ones: the cluster's pods and
    /// services. What is in `allowPrivateTargets` is excepted.
    pub deny_targets: Vec<Cidr>,
}

/// Protocol of the link to an XCP router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub enum LinkProfile {
    /// Plain XEP-0114.
    #[default]
    Component,
    /// XEP-0114 with XCP's announcements and route wrapping; proven against a simulator and a public
    /// capture only.
    Xcp,
}

/// The XCP routers of one IM and Presence cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Router {
    /// Name of the cluster.
    pub name: String,
    /// Which hosted domains it serves; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<Domain>,
    /// Component or Xcp. Default Component.
    #[serde(default)]
    pub profile: LinkProfile,
    /// Component id of each replica; `--index` picks one.
    pub component_ids: Vec<ComponentId>,
    /// File with the shared secret of the handshake.
    #[cfg_attr(feature = "schemars", schemars(extend("format" = "file")))]
    pub secret_file: PathBuf,
    /// The nodes, in order of preference; may be empty while no link is wanted.
    pub endpoints: Vec<Endpoint>,
}

/// One XCP router.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Endpoint {
    /// The node's name as IM and Presence knows it.
    pub name: String,
    /// Host and port, 7400 as a rule.
    pub address: HostPort,
}

/// Bounds; all of them are enforced per edge process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Limits {
    /// Largest stanza from an authenticated peer, bytes; at least 10000 (RFC 6120 section 13.12).
    pub max_stanza_bytes: usize,
    /// Stanzas taken per second from each remote domain to which `partners` gives no rate, over all of its streams. A
    /// burst of one second passes at once, then the domain is read no faster. Nothing is dropped. Absent: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_second: Option<u32>,
    /// Bytes of stanzas taken per second, in the same way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Largest element before authentication, bytes.
    pub max_unauthenticated_bytes: usize,
    /// Deepest nesting inside a stanza, 256 at most.
    pub max_depth: usize,
    /// Attributes of one element, namespace declarations included.
    pub max_attributes: usize,
    /// Inbound connections in total. Default: derived from the memory limit, as all bounds together
    /// must stay within 60 % of it; a tenth of the limit at 24 KiB each, at most 10000 (512 MiB: 2184).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<usize>,
    /// Inbound connections from one IPv4 address or IPv6 /64. At this bound, and at those below, the
    /// edge closes the oldest connection without a proof (an authenticated pair, or a `db:verify` with a
    /// key of this edge). Addresses of configured partners get sixteen times as many.
    pub max_connections_per_address: usize,
    /// Inbound connections from one IPv6 /56.
    pub max_connections_per56: usize,
    /// Inbound connections from one IPv6 /48.
    pub max_connections_per48: usize,
    /// New inbound connections in a second from one IPv4 address, IPv6 /64, /56 or /48. After a burst of
    /// one second more of them wait for their turn. Addresses of configured partners do not wait.
    /// Default: derived, 50 for each 256 of `maxConnectionsPerAddress`, at least 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_connections_per_second: Option<u32>,
    /// Domain pairs on one stream.
    pub max_pairs_per_stream: usize,
    /// Dialback verifications under way at once; further keys wait for their turn. One network has a
    /// quarter of them, one of a configured partner half. Default: derived from the memory limit, 2 % of it
    /// at 40 KiB each, at most 1024 (512 MiB: 262).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_verifications: Option<usize>,
    /// Ignored, with a warning: bytes are the bound, see `maxQueuedBytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_queued_stanzas: Option<usize>,
    /// Bytes of stanzas waiting for one remote domain. All remote domains together have a quarter of
    /// the memory limit, and share it fairly.
    pub max_queued_bytes: usize,
    /// Time for a PROXY header, TLS and stream negotiation together.
    pub negotiation_timeout: HumanDuration,
    /// Time for a dialback answer, and for a stanza to wait for its stream.
    pub dialback_timeout: HumanDuration,
    /// A stream on which nothing is received is closed after this time. White space keeps the stream
    /// open once a pair is authenticated. Before that, the stream is closed after a minute at the
    /// latest. A stream without any proof (no authenticated pair, no `db:verify` with a key of this
    /// edge) is closed after two minutes or twice this time, the shorter of the two, whatever it sends.
    pub idle_timeout: HumanDuration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_stanza_bytes: 262_144,
            messages_per_second: None,
            bytes_per_second: None,
            max_unauthenticated_bytes: 16_384,
            max_depth: 128,
            max_attributes: 64,
            max_connections: None,
            max_connections_per_address: 256,
            max_connections_per56: 1024,
            max_connections_per48: 4096,
            new_connections_per_second: None,
            max_pairs_per_stream: 64,
            max_verifications: None,
            max_queued_stanzas: None,
            max_queued_bytes: 32 * 1024 * 1024,
            negotiation_timeout: HumanDuration(Duration::from_secs(30)),
            dialback_timeout: HumanDuration(Duration::from_secs(30)),
            idle_timeout: HumanDuration(Duration::from_mins(10)),
        }
    }
}

/// Who may prefix connections with a PROXY header.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ProxyProtocol {
    /// Networks of trusted load balancers, whose connections must begin with a PROXY header
    /// (version 1 or 2); nobody else's may. Empty: no PROXY headers.
    pub trusted_sources: Vec<Cidr>,
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Log {
    /// Directive as `info` or `info,edge::dialback=debug`. Default info.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
        }
    }
}
