//! Which remote domains federate, where they are reached, and under which terms.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use xmpp_federation_core::edge_config::{PrivacyMode, TlsMode};

use crate::api::values::DomainName;

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
