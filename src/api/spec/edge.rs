//! The edge pods: how many, behind which Service, within which bounds.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, PodSecurityContext, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::passed::{Passed, unknown_in};
use crate::api::values::{Address, DomainName, Duration, Network, any_object, any_objects};

/// The edge pods.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.slots) || self.slots >= self.replicas").message("slots must be at least replicas: each replica needs a component id registered ahead; lower replicas, or raise slots, which restarts Cisco XCP Router on every IM and Presence node").field_path(".slots"))]
#[x_kube(validation = Rule::new("!has(self.service) || !has(self.service.directTlsNodePort) || (has(self.directTls) && self.directTls.enabled)").message("service.directTlsNodePort has no effect while directTls is not enabled; enable it, or remove the port").field_path(".service"))]
#[x_kube(validation = Rule::new("!has(self.autoscaling) || !has(self.slots) || self.autoscaling.maxReplicas <= self.slots").message("autoscaling.maxReplicas must be at most slots: each replica needs a component id registered ahead; lower maxReplicas, or raise slots, which restarts Cisco XCP Router on every IM and Presence node").field_path(".autoscaling"))]
pub struct EdgeSpec {
    /// Public host name: target of the SRV records and base of the realms under which IM and
    /// Presence knows the replicas.
    pub hostname: DomainName,

    /// Number of edge pods. Default 2.
    #[serde(default = "two")]
    #[schemars(range(min = 0, max = 32))]
    pub replicas: i32,

    /// Component ids registered ahead; replicas never exceeds it. Absent: 4 at the first registration, and then what was
    /// registered (status.edge.slots). A higher number restarts the XCP router of every node; scaling within slots
    /// restarts none.
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

    /// How long a new pod has to be ready before the next one is replaced, so that load balancers have noticed it.
    /// Default 30s.
    #[serde(default = "thirty_seconds")]
    pub min_ready: Duration,

    /// Who may connect to the pods, and whither they may.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,

    /// What is passed on to the pods.
    #[serde(default)]
    pub pod: PodSpec,
}

fn thirty_seconds() -> Duration {
    Duration::seconds(30)
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
#[x_kube(validation = Rule::new("self.type != 'ClusterIP' || (!has(self.nodePort) && !has(self.directTlsNodePort))").message("a Service of type ClusterIP has no node port; remove nodePort and directTlsNodePort, or choose type NodePort or LoadBalancer").field_path(".type"))]
#[x_kube(validation = Rule::new("self.type == 'LoadBalancer' || (!has(self.loadBalancerClass) && !has(self.loadBalancerIP) && !has(self.allocateLoadBalancerNodePorts) && !has(self.healthCheckNodePort) && (!has(self.loadBalancerSourceRanges) || self.loadBalancerSourceRanges.size() == 0))").message("loadBalancerClass, loadBalancerIP, loadBalancerSourceRanges, allocateLoadBalancerNodePorts and healthCheckNodePort need a load balancer; remove them, or choose type LoadBalancer").field_path(".type"))]
#[x_kube(validation = Rule::new("!has(self.healthCheckNodePort) || self.externalTrafficPolicy == 'Local'").message("load balancers use healthCheckNodePort only with externalTrafficPolicy Local; remove it, or choose Local").field_path(".healthCheckNodePort"))]
pub struct ServiceSpec {
    /// LoadBalancer, NodePort or ClusterIP. Default LoadBalancer.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
    /// Further labels, as for a pool of addresses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations for the load balancer's controller.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Class of the load balancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub load_balancer_class: Option<String>,
    /// Address that is asked of the load balancer; many clouds want an annotation instead.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "loadBalancerIP")]
    pub load_balancer_ip: Option<Address>,
    /// Whether a load balancer gets node ports. Absent: Kubernetes' default, true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocate_load_balancer_node_ports: Option<bool>,
    /// Node port of 5269, with types NodePort and LoadBalancer. Absent: one that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<i32>,
    /// Node port of 5270 (direct TLS), as nodePort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub direct_tls_node_port: Option<i32>,
    /// Node port where load balancers ask for ready pods, with type LoadBalancer and policy Local. Absent: one that is
    /// free. Kubernetes refuses to change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub health_check_node_port: Option<i32>,
    /// Whether one peer's connections lead to one pod. Absent: Kubernetes' default, to any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<SessionAffinity>,
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

/// Whether one peer's connections lead to one pod.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAffinity {
    /// To any.
    None,
    /// To one.
    ClientIP,
}

/// The pods' NetworkPolicy.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Whether there is one. Default true.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Who may read metrics from port 8080 besides the operator, in the words of Kubernetes' own NetworkPolicy (from).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_objects")]
    pub metrics_from: Vec<Passed<NetworkPolicyPeer>>,
    /// Further rules for connections to the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_objects")]
    pub extra_ingress: Vec<Passed<NetworkPolicyIngressRule>>,
    /// Further rules for connections from the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_objects")]
    pub extra_egress: Vec<Passed<NetworkPolicyEgressRule>>,
}

impl Default for NetworkPolicySpec {
    fn default() -> Self {
        Self {
            enabled: true,
            metrics_from: Vec::new(),
            extra_ingress: Vec::new(),
            extra_egress: Vec::new(),
        }
    }
}

fn yes() -> bool {
    true
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
    /// Stanzas taken per second from each remote domain to which partners gives no rate; above it, the domain is
    /// read no faster, and nothing is dropped. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub messages_per_second: Option<i32>,
    /// Bytes of stanzas taken per second, in the same way. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1000, max = 1_000_000_000))]
    pub bytes_per_second: Option<i32>,
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
    pub resources: Option<Passed<ResourceRequirements>>,
    /// User, groups and further settings of the pods. Absent: user, group and fsGroup 65532, or none on OpenShift, which
    /// assigns them. What is given takes their place, so {} leaves user and groups to another platform that assigns them. The pods run as no root and with the
    /// runtime's seccomp profile, unless other ones are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub security_context: Option<Passed<PodSecurityContext>>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_objects")]
    pub tolerations: Vec<Passed<Toleration>>,
    /// Affinity. Absent: pods prefer different nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub affinity: Option<Passed<Affinity>>,
    /// How pods spread over zones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_objects")]
    pub topology_spread_constraints: Vec<Passed<TopologySpreadConstraint>>,
    /// Priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub priority_class_name: Option<String>,
    /// Secrets for pulling the image. Default: those that the operator is set to (edgeImage.pullSecrets of its chart).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_objects")]
    pub image_pull_secrets: Vec<Passed<LocalObjectReference>>,
    /// Further annotations. Those by which service meshes take a pod in or leave it out replace ours,
    /// which leave it out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Further labels; the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl EdgeSpec {
    /// Fields that Kubernetes does not have in what is passed on to it, one sentence each.
    pub fn unknown_fields(&self) -> Vec<String> {
        fn of<T>(part: Option<&Passed<T>>, field: &str) -> Vec<String> {
            let unknown = part.map(|part| part.unknown(&format!("spec.edge.pod.{field}")).collect());
            unknown.unwrap_or_default()
        }
        let (pod, policy) = (&self.pod, &self.network_policy);
        [
            of(pod.resources.as_ref(), "resources"),
            of(pod.security_context.as_ref(), "securityContext"),
            unknown_in(&pod.tolerations, "spec.edge.pod.tolerations"),
            of(pod.affinity.as_ref(), "affinity"),
            unknown_in(
                &pod.topology_spread_constraints,
                "spec.edge.pod.topologySpreadConstraints",
            ),
            unknown_in(&pod.image_pull_secrets, "spec.edge.pod.imagePullSecrets"),
            unknown_in(&policy.metrics_from, "spec.edge.networkPolicy.metricsFrom"),
            unknown_in(&policy.extra_ingress, "spec.edge.networkPolicy.extraIngress"),
            unknown_in(&policy.extra_egress, "spec.edge.networkPolicy.extraEgress"),
        ]
        .concat()
    }
}
