//! What a user writes. Defaults are those of Expressway unless said otherwise.
//!
//! Rules of the schema stand beside the fields they concern; values that are refused until they
//! are built are listed in [`super::later`].

mod edge;
mod imp;
mod records;
mod routes;
mod tls;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use xmpp_federation_core::Activation;

use super::status::XmppFederationStatus;
use super::values::{DomainName, Duration};

pub use edge::*;
pub use imp::*;
pub use records::*;
pub use routes::*;
pub use tls::*;

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
    // A status is written whatever the rules say of replicas: the first rule is for creations, and the second one for what
    // raises replicas or removes slots.
    validation = Rule::new("has(self.status) || has(self.spec.edge.slots) || self.spec.edge.replicas <= 4").message("replicas is above the 4 component ids that are registered ahead if edge.slots is absent; set edge.slots to at least replicas, or lower replicas").field_path(".spec.edge.replicas"),
    validation = Rule::new("has(self.spec.edge.slots) || (!has(oldSelf.spec.edge.slots) && self.spec.edge.replicas <= oldSelf.spec.edge.replicas) || self.spec.edge.replicas <= (has(self.status) && has(self.status.edge) && has(self.status.edge.slots) ? self.status.edge.slots : 4)").message("replicas is above the component ids that are registered ahead (status.edge.slots, before the first registration 4); lower replicas, or set edge.slots to at least replicas, which restarts Cisco XCP Router on every IM and Presence node").field_path(".spec.edge.replicas"),
    scale(
        spec_replicas_path = ".spec.edge.replicas",
        status_replicas_path = ".status.edge.replicas",
        label_selector_path = ".status.edge.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why Ready has its status"),
    printcolumn(name = "Edge", type_ = "string", json_path = ".status.edge.ready", description = "Ready and wanted edge pods"),
    printcolumn(name = "Links", type_ = "string", json_path = ".status.links.up", description = "Working and wanted links to routers"),
    printcolumn(name = "Partners", type_ = "string", json_path = ".status.partners.reachable", description = "Named partners that do not fail, and all named ones"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.edge.addresses[0]", description = "The first public address"),
    printcolumn(name = "Upgrade", type_ = "string", json_path = ".status.edge.upgrade", description = "How far the edge pods are with the operator's release", priority = 1),
    printcolumn(name = "Release", type_ = "string", json_path = ".status.edge.release", description = "Release of the edge pods", priority = 1),
    printcolumn(name = "Domains", type_ = "string", json_path = ".spec.domains", priority = 1),
    printcolumn(name = "Certificate", type_ = "string", json_path = ".status.certificate.notAfter", description = "When the certificate expires", priority = 1),
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

    /// Remote domains with terms or hosts of their own. With AllowList each entry admits what it names. One entry
    /// counts for a domain: that of its own name, else the longest wildcard that covers it. What this entry does not
    /// set comes from tls and edge.limits, and from no other entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["domain".into()]))]
    #[schemars(length(max = 1000))]
    pub partners: Vec<PartnerSpec>,

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
