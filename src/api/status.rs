//! What the operator answers. A fixed point: nothing in it moves unless something happened.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// State of the resource.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct XmppFederationStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions; Ready names the first thing that fails and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 32))]
    pub conditions: Vec<Condition>,
    /// The edge pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<EdgeStatus>,
    /// The links of the edge pods to the routers of IM and Presence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<LinksStatus>,
    /// The partners that the spec names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partners: Option<PartnersStatus>,
    /// The certificate shown to peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateStatus>,
    /// The certificate shown where the edge connects, if it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<CertificateStatus>,
    /// The dialback secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialback: Option<DialbackStatus>,
    /// Public records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2200))]
    pub records: Vec<RecordStatus>,
    /// The clusters of IM and Presence, in the order of the spec; then those that left it and may
    /// still hold rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub imp: Vec<ImpStatus>,
    /// Requests by annotation that were served, by annotation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub handled_requests: Vec<HandledRequest>,
}

/// The edge pods.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct EdgeStatus {
    /// Pods that run.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready_replicas: i32,
    /// Ready and wanted, as a column shows it.
    #[serde(default)]
    pub ready: String,
    /// Releases that the pods say they are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// How far the pods are with the operator's release: Current, Waiting, Rolling or Halted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<String>,
    /// Component ids registered ahead, as recorded at the first registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<i32>,
    /// Label selector of the pods.
    pub selector: String,
    /// Public addresses: IP addresses, and host names of load balancers that have no fixed ones.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub addresses: Vec<String>,
}

/// The links to routers.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct LinksStatus {
    /// Links that work and wanted ones, as a column shows it. Without a link that is wanted: 0/0.
    pub up: String,
    /// Links that do not work, by pod and node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub down: Vec<LinkTrouble>,
    /// How many more do not work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub further: Option<i32>,
}

/// One link that does not work; the condition of the links has the sentence.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct LinkTrouble {
    /// The edge pod.
    pub pod: String,
    /// Name of the entry in spec.imp.
    pub imp: String,
    /// The node of IM and Presence.
    pub node: String,
    /// A word of the catalogue of reasons.
    pub reason: String,
    /// RFC 3339 time since when.
    pub since: String,
}

/// The partners that the spec names; a wildcard names none.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct PartnersStatus {
    /// Named partners that do not fail and all named ones, as a column shows it. Where none is named: 0/0.
    pub reachable: String,
    /// Partners that fail: those of which an edge pod tells, by name; then those whose records fail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub failing: Vec<PartnerTrouble>,
    /// How many more fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub further: Option<i32>,
}

/// One partner that fails.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PartnerTrouble {
    /// The remote domain.
    pub domain: String,
    /// The hosted domain that the partner refuses; absent: it cannot be reached at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// The last reason as a sentence.
    pub reason: String,
    /// RFC 3339 time of the first failure since it last worked; absent: its records fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// The source of a certificate that the operator issues itself.
pub const OWN_AUTHORITY: &str = "OwnAuthority";

/// A certificate.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// OwnAuthority or Secret.
    pub source: String,
    /// Secret that holds it.
    pub secret_name: String,
    /// RFC 3339 time at which the first certificate of the chain expires.
    pub not_after: String,
    /// Name of the issuer.
    pub issuer: String,
    /// SHA-256 fingerprint.
    pub fingerprint: String,
}

/// The dialback secret.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DialbackStatus {
    /// Secret that holds it.
    pub secret_name: String,
    /// RFC 3339 time of the last rotation; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_at: Option<String>,
    /// Stage of a rotation, or Steady.
    pub stage: String,
}

/// One public record.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RecordStatus {
    /// Name of the record.
    pub name: String,
    /// Verified, or what is wrong.
    pub state: String,
    /// What was found and what to do.
    pub message: String,
    /// RFC 3339 time since when DNS gives no answer, where an earlier one stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered_since: Option<String>,
}

/// One cluster of IM and Presence.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ImpStatus {
    /// Name of the entry in the spec; of one that left it, with its publisher.
    pub name: String,
    /// Set while the cluster is not in the spec any more and its rows are being removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<LeavingStatus>,
    /// Version of AXL in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub axl_version: Option<String>,
    /// Table that holds the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub nodes: Vec<NodeStatus>,
    /// Our rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub registrations: Vec<RegistrationStatus>,
    /// Last restart-routers token that was served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handled_restart_token: Option<String>,
    /// What was done last, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub recent_actions: Vec<ActionStatus>,
}

/// A cluster that left the spec.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LeavingStatus {
    /// RFC 3339 time since when its rows are being removed.
    pub since: String,
    /// What that waits for.
    pub message: String,
}

/// One node.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Name as IM and Presence knows it.
    pub name: String,
    /// Address in use.
    pub address: String,
    /// State of its XCP router towards our rows: InSync, RestartNeeded, Restarting, Unknown.
    pub router: String,
    /// A restart that was asked for and is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_restart: Option<PendingRestart>,
}

/// A restart under way.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PendingRestart {
    /// Id in the ledger.
    pub id: String,
    /// Why.
    pub reason: String,
    /// RFC 3339 time.
    pub started_at: String,
}

/// One row.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RegistrationStatus {
    /// Component id.
    pub component_id: String,
    /// Primary key of the row.
    pub pkid: String,
}

/// One action.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ActionStatus {
    /// RFC 3339 time.
    pub at: String,
    /// What was done, to what, with which outcome.
    pub action: String,
}

/// A request by annotation that was served.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HandledRequest {
    /// The annotation.
    pub annotation: String,
    /// Its value then.
    #[schemars(length(max = 1024))]
    pub value: String,
}
