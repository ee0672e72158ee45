//! Name resolution and the publication of records.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::values::{Address, Network};

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
