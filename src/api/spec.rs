//! What a user writes. Defaults are those of Expressway unless said otherwise.
//!
//! Rules of the schema stand beside the fields they concern; values that are refused until they
//! are built are listed in [`super::later`].

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xmpp_federation_core::{ComponentId, Domain, Realm};

use super::status::XmppFederationStatus;
use super::values::{Address, DomainName, Duration, Network, any_object, any_objects};

/// XMPP federation of one or more domains of Cisco Unified CM IM and Presence.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "xmppfederation.io",
    version = "v1alpha1",
    kind = "XmppFederation",
    shortname = "xfed",
    namespaced,
    status = "XmppFederationStatus",
    derive = "PartialEq",
    doc = "XMPP federation of domains of Cisco Unified CM IM and Presence: edge pods, certificates, DNS records, and the registration in IM and Presence.",
    validation = Rule::new("self.metadata.name.size() <= 40").message("name the resource within 40 characters; the objects made for it carry its name and a suffix"),
    validation = Rule::new("self.metadata.name.matches('^[a-z][-a-z0-9]*$')").message("name the resource with lower-case letters, digits and hyphens only, a letter first; a Service carries its name"),
    scale(
        spec_replicas_path = ".spec.edge.replicas",
        status_replicas_path = ".status.edge.replicas",
        label_selector_path = ".status.edge.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Domains", type_ = "string", json_path = ".spec.domains"),
    printcolumn(name = "Edge", type_ = "string", json_path = ".status.edge.ready", description = "Ready and wanted edge pods"),
    printcolumn(name = "Certificate", type_ = "string", json_path = ".status.certificate.notAfter", description = "When the certificate expires"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.chatNodeAliases) || self.chatNodeAliases.all(a, !(a in self.domains))").message("list a name either in domains or in chatNodeAliases, not in both").field_path(".chatNodeAliases"))]
#[x_kube(validation = Rule::new("!has(self.edge.directTls) || !self.edge.directTls.enabled || !has(self.tls) || self.tls.mode != 'Disabled'").message("direct TLS cannot be served while tls.mode is Disabled; disable directTls, or choose Required or Optional").field_path(".edge"))]
#[x_kube(validation = Rule::new("self.imp.all(i, !has(i.domains) || i.domains.all(d, d in self.domains || (has(self.chatNodeAliases) && d in self.chatNodeAliases)))").message("an entry of imp serves domains of spec.domains or chatNodeAliases only; add the missing one there or remove it from imp").field_path(".imp"))]
#[x_kube(validation = Rule::new("self.imp.all(i, self.imp.filter(j, j.publisher.lowerAscii() == i.publisher.lowerAscii()).size() == 1)").message("a cluster of IM and Presence has one entry, and two name the same publisher; put the domains of both into one").field_path(".imp"))]
pub struct XmppFederationSpec {
    /// Active: everything. Prepared: everything except rows in IM and Presence and links to its
    /// routers, for migration and rollback. Default Active.
    #[serde(default)]
    pub activation: Activation,

    /// The presence domains that federate.
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(min = 1, max = 32))]
    pub domains: Vec<DomainName>,

    /// Domains of conferences; each needs its own SRV record and certificate name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(max = 32))]
    pub chat_node_aliases: Vec<DomainName>,

    /// The pods that face the internet.
    pub edge: EdgeSpec,

    /// The dialback secret. Absent: generated once and kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialback: Option<DialbackSpec>,

    /// Certificates and security mode.
    #[serde(default)]
    pub tls: TlsSpec,

    /// Which remote domains may federate.
    #[serde(default)]
    pub privacy: PrivacySpec,

    /// Fixed addresses of remote domains; a domain listed here never falls back to DNS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["domain".into()]))]
    #[schemars(length(max = 200))]
    pub static_routes: Vec<StaticRouteSpec>,

    /// Policy per remote domain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["domain".into()]))]
    #[schemars(length(max = 200))]
    pub peers: Vec<PeerSpec>,

    /// Name resolution.
    #[serde(default)]
    pub dns: DnsSpec,

    /// The clusters of IM and Presence, one entry each. Rows and restarts of one cluster never wait
    /// for another one. An entry that is removed has its rows removed first, as with a deletion.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(min = 1, max = 8))]
    pub imp: Vec<ImpSpec>,

    /// Stops all work on this resource: nothing is written, to Kubernetes or to IM and Presence.
    #[serde(default)]
    pub paused: bool,
}

/// How far a resource goes.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// Everything.
    #[default]
    Active,
    /// Everything except rows and router links.
    Prepared,
}

/// The edge pods.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.slots) || self.slots >= self.replicas").message("slots must be at least replicas: each replica needs a component id registered ahead").field_path(".slots"))]
pub struct EdgeSpec {
    /// Public host name: target of the SRV records and base of the realms under which IM and
    /// Presence knows the replicas.
    pub hostname: DomainName,

    /// Number of edge pods. Default 2.
    #[serde(default = "two")]
    #[schemars(range(min = 0, max = 32))]
    pub replicas: i32,

    /// Component ids registered ahead. Default: replicas. Registering one needs a restart of the
    /// XCP routers; scaling within slots does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub slots: Option<i32>,

    /// Scaling by load, within slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingSpec>,

    /// Image of the edge. Absent: that of the operator's own release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// When the kubelet pulls the image: Always, IfNotPresent or Never. Absent: Kubernetes' own
    /// rule by the image's tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,

    /// The Service that peers reach.
    #[serde(default)]
    pub service: ServiceSpec,

    /// Public addresses, where NAT hides what the Service shows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(max = 16))]
    pub public_addresses: Vec<Address>,

    /// Load balancers that prefix connections with a PROXY header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocolSpec>,

    /// TLS from the first byte (XEP-0368), besides STARTTLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_tls: Option<DirectTlsSpec>,

    /// Bounds on the resources that peers use; absent fields have the edge's defaults.
    #[serde(default)]
    pub limits: LimitsSpec,

    /// How long a stopping pod goes on accepting, so that load balancers notice. Default 15s.
    #[serde(default = "fifteen_seconds")]
    pub drain_delay: Duration,

    /// What is passed on to the pods.
    #[serde(default)]
    pub pod: PodSpec,
}

fn two() -> i32 {
    2
}

fn fifteen_seconds() -> Duration {
    Duration::seconds(15)
}

/// When an image is pulled.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// At each start of a pod.
    Always,
    /// When the node has none.
    IfNotPresent,
    /// Never; the node has it.
    Never,
}

/// Scaling by load.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingSpec {
    /// Most pods; at most slots.
    #[schemars(range(min = 1, max = 32))]
    pub max_replicas: i32,
    /// Mean CPU use, in percent of the request, that is aimed at. Default 70.
    #[serde(default = "seventy", rename = "targetCPUUtilizationPercentage")]
    #[schemars(range(min = 1, max = 100))]
    pub target_cpu_utilization_percentage: i32,
}

fn seventy() -> i32 {
    70
}

/// The Service that peers reach.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// LoadBalancer, NodePort or ClusterIP. Default LoadBalancer.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
    /// Annotations for the load balancer's controller.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Class of the load balancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub load_balancer_class: Option<String>,
    /// Local (peers' addresses stay visible) or Cluster. Default Local.
    #[serde(default)]
    pub external_traffic_policy: TrafficPolicy,
    /// Networks that may connect; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub load_balancer_source_ranges: Vec<Network>,
    /// SingleStack, PreferDualStack or RequireDualStack. Absent: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
    /// IPv4, IPv6 or both in order. Empty: the cluster's default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub ip_families: Vec<IpFamily>,
}

/// Kind of Service.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServiceType {
    /// With an address of the cloud's load balancer.
    #[default]
    LoadBalancer,
    /// A port on each node.
    NodePort,
    /// Inside the cluster only.
    ClusterIP,
}

/// Which nodes answer.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrafficPolicy {
    /// Those with a ready pod.
    #[default]
    Local,
    /// All.
    Cluster,
}

/// Families of addresses.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpFamilyPolicy {
    /// One.
    SingleStack,
    /// Both where possible.
    PreferDualStack,
    /// Both.
    RequireDualStack,
}

/// One family.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpFamily {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

/// Trusted load balancers.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ProxyProtocolSpec {
    /// Networks whose PROXY headers are believed.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub trusted_sources: Vec<Network>,
}

/// Direct TLS.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct DirectTlsSpec {
    /// Whether port 5270 is offered. Default false.
    #[serde(default)]
    pub enabled: bool,
}

/// Bounds; what is absent has the edge's default.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct LimitsSpec {
    /// Largest stanza, bytes. Default 262144; at least 10000 (RFC 6120 section 13.12).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10_000, max = 16_777_216))]
    pub max_stanza_bytes: Option<i32>,
    /// Largest element before authentication, bytes. Default 16384.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 1_048_576))]
    pub max_unauthenticated_bytes: Option<i32>,
    /// Inbound connections of one pod. Default: as many as its memory limit carries, at most 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: Option<i32>,
    /// Inbound connections from one IPv4 address or IPv6 /64. Default 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections_per_address: Option<i32>,
    /// Inbound connections from one IPv6 /56. Default 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections_per56: Option<i32>,
    /// Inbound connections from one IPv6 /48. Default 4096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections_per48: Option<i32>,
    /// New inbound connections in a second from one of these networks. Default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub new_connections_per_second: Option<i32>,
    /// Domain pairs on one stream. Default 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_pairs_per_stream: Option<i32>,
    /// Dialback verifications under way at once. Default: as many as the pod's memory limit carries, at
    /// most 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_verifications: Option<i32>,
    /// Ignored. The edge warns of it, since maxQueuedBytes is the bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_queued_stanzas: Option<i32>,
    /// Bytes of stanzas waiting for one remote domain. Default 33554432.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10_000, max = 1_073_741_824))]
    pub max_queued_bytes: Option<i32>,
    /// Time for TCP, TLS and stream negotiation together. Default 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negotiation_timeout: Option<Duration>,
    /// Time for a dialback answer. Default 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialback_timeout: Option<Duration>,
    /// A stream on which nothing comes is closed after this time. Default 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
}

/// What is passed on to the pods, in the words of Kubernetes' own pod specification.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Requests and limits of the edge's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub resources: Option<ResourceRequirements>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_objects")]
    pub tolerations: Vec<Toleration>,
    /// Affinity. Absent: pods prefer different nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub affinity: Option<Affinity>,
    /// How pods spread over zones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_objects")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub priority_class_name: Option<String>,
    /// Secrets for pulling the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_objects")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Further annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Further labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The dialback secret.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.secretRef) && has(self.rotateEvery))").message("give secretRef or rotateEvery, not both: a secret that you bring is yours to change"))]
pub struct DialbackSpec {
    /// A Secret that you bring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// How often a generated secret is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate_every: Option<Duration>,
}

/// A key of a Secret in the resource's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in its data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A Secret in the resource's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A key of a ConfigMap in the resource's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapKeyRef {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in its data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Certificates and security mode.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// Required, Optional (TLS where the peer offers it) or Disabled. Default Required.
    #[serde(default)]
    pub mode: TlsMode,
    /// Whether a peer's certificate must be valid and name its domain. Default false: server
    /// dialback authenticates.
    #[serde(default)]
    pub require_client_certificates: bool,
    /// The certificate shown to peers. Absent: issued by an authority of the operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateSource>,
    /// The certificate shown where the edge connects. Absent: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<CertificateSource>,
    /// Authorities that peers' certificates are checked against.
    #[serde(default)]
    pub trust_anchors: TrustAnchorsSpec,
    /// Revocation lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation_lists: Option<RevocationListsSpec>,
    /// VersionTLS12 or VersionTLS13. Default VersionTLS12.
    #[serde(default)]
    pub min_version: TlsVersion,
}

/// Security mode.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    /// Nothing without TLS.
    #[default]
    Required,
    /// TLS where the peer offers it.
    Optional,
    /// No TLS.
    Disabled,
}

/// Lowest version of TLS.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersion {
    /// 1.2 and 1.3.
    #[default]
    VersionTLS12,
    /// 1.3 only.
    VersionTLS13,
}

/// Where a certificate comes from: exactly one of the two.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.secretRef), has(self.issuerRef)].filter(x, x).size() == 1").message("give exactly one of secretRef and issuerRef; leave the whole field out for a certificate of the operator's own authority"))]
pub struct CertificateSource {
    /// A Secret with tls.crt and tls.key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// An issuer of cert-manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
}

/// An issuer of cert-manager.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRef {
    /// Name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Issuer or ClusterIssuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub kind: Option<String>,
    /// API group of the issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub group: Option<String>,
}

/// Authorities.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TrustAnchorsSpec {
    /// Whether the public authorities count. Default true.
    #[serde(default = "yes")]
    pub system: bool,
    /// Further authorities, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
}

fn yes() -> bool {
    true
}

impl Default for TrustAnchorsSpec {
    fn default() -> Self {
        Self {
            system: true,
            secret_ref: None,
        }
    }
}

/// Revocation lists.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RevocationListsSpec {
    /// PEM lists in a ConfigMap.
    pub config_map_ref: ConfigMapKeyRef,
}

/// Which remote domains may federate; exact names.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.mode != 'AllowAll' || !has(self.domains) || self.domains.size() == 0").message("AllowAll takes no list; remove domains, or choose AllowList or DenyList").field_path(".domains"))]
pub struct PrivacySpec {
    /// AllowList (domains of staticRoutes and peers are admitted beside the listed ones; without any nothing
    /// federates), DenyList (the list wins over staticRoutes and peers) or AllowAll. Default AllowList.
    #[serde(default)]
    pub mode: PrivacyMode,
    /// The listed domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(max = 1000))]
    pub domains: Vec<DomainName>,
}

/// How the list is read.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrivacyMode {
    /// Listed domains, and those of staticRoutes and peers.
    #[default]
    AllowList,
    /// All but the listed.
    DenyList,
    /// Everybody.
    AllowAll,
}

/// Fixed addresses of a remote domain.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StaticRouteSpec {
    /// The remote domain.
    pub domain: DomainName,
    /// Its addresses, all of equal priority.
    #[schemars(length(min = 1, max = 8))]
    pub addresses: Vec<HostAndPort>,
}

/// A host and a port.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostAndPort {
    /// Host name or IP address.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9.:_-]+$"))]
    pub host: String,
    /// TCP port. Default 5269.
    #[serde(default = "s2s_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

fn s2s_port() -> i32 {
    5269
}

/// Policy towards one remote domain.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.tlsMode) || self.tlsMode != 'Disabled' || ((!has(self.requireCertificate) || !self.requireCertificate) && (!has(self.pinnedSha256) || self.pinnedSha256.size() == 0))").message("a certificate cannot be required where tlsMode is Disabled; choose Required, or remove requireCertificate and pinnedSha256").field_path(".tlsMode"))]
pub struct PeerSpec {
    /// The remote domain.
    pub domain: DomainName,
    /// Required, Optional or Disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_mode: Option<TlsMode>,
    /// Whether its certificate must be valid and name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_certificate: Option<bool>,
    /// SHA-256 fingerprints of its certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 95)))]
    pub pinned_sha256: Vec<String>,
    /// Largest stanza taken from it, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10_000, max = 16_777_216))]
    pub max_stanza_bytes: Option<i32>,
    /// Stanzas taken from it per second; above it, it is read no faster, and nothing is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub messages_per_second: Option<i32>,
    /// Bytes of stanzas taken from it per second, in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1000, max = 1_000_000_000))]
    pub bytes_per_second: Option<i32>,
}

/// Name resolution.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct DnsSpec {
    /// Resolvers that see public DNS, for the edge and for the verification of records. Empty:
    /// the cluster's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub resolvers: Vec<Address>,
    /// None, or ExternalDns: records are written for external-dns to publish. Default None.
    #[serde(default)]
    pub publish: Publish,
    /// Private networks that DNS may lead to all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub allow_private_targets: Vec<Network>,
}

/// Whether records are published.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Publish {
    /// By the administrator.
    #[default]
    None,
    /// By external-dns.
    ExternalDns,
}

/// One cluster of IM and Presence.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
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
    /// When XCP routers may be restarted.
    pub restart: RestartSpec,
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
pub struct RouterSpec {
    /// TCP port. Default 7400.
    #[serde(default = "router_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Component (XEP-0114) or Xcp (with XCP's announcements and envelopes, proven against a
    /// simulator and a public capture only). Default Component.
    #[serde(default)]
    pub profile: RouterProfile,
    /// The shared secret of the handshake.
    pub secret_ref: SecretKeyRef,
}

fn router_port() -> i32 {
    7400
}

/// Protocol towards the routers.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouterProfile {
    /// XEP-0114.
    #[default]
    Component,
    /// XEP-0114 with XCP's announcements and envelopes.
    Xcp,
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

/// What rows of other federation edges mean.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForeignComponents {
    /// Nothing is registered beside them.
    #[default]
    Refuse,
    /// They are left alone.
    Tolerate,
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

impl XmppFederationSpec {
    /// Number of component ids to register.
    pub fn slots(&self) -> u16 {
        let slots = self.edge.slots.unwrap_or(self.edge.replicas).max(1);
        u16::try_from(slots).unwrap_or(1)
    }

    /// The component id of each slot, given the host name of the edge.
    pub fn component_ids(&self, hostname: &Domain) -> Vec<ComponentId> {
        (0..self.slots())
            .map(|slot| ComponentId::of_realm(&Realm::of_replica(hostname, slot)))
            .collect()
    }
}
