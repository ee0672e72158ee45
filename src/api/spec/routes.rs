//! Which remote domains federate, where they are reached, and under which terms.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use xmpp_federation_core::edge_config::{PrivacyMode, TlsMode};

use crate::api::values::RemoteName;

/// Which remote domains may federate.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.mode != 'AllowAll' || !has(self.domains) || self.domains.size() == 0").message("AllowAll takes no list; remove domains, or choose AllowList or DenyList").field_path(".domains"))]
pub struct PrivacySpec {
    /// AllowList (the listed domains and partners are admitted; without any nothing federates), DenyList (the list
    /// wins over partners) or AllowAll. Default AllowList.
    #[serde(default)]
    pub mode: PrivacyMode,
    /// The listed domains. *.partner.example covers all domains below partner.example, and not that one itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(max = 1000))]
    pub domains: Vec<RemoteName>,
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

/// A remote domain, or all domains below one, with terms or hosts of its own.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PartnerSpec {
    /// The remote domain. *.partner.example covers all domains below partner.example, and not that one itself.
    pub domain: RemoteName,
    /// Security mode and certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<PartnerTlsSpec>,
    /// Hosts used instead of DNS, all of equal priority. A domain with a route never falls back to DNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    pub route: Option<Vec<HostAndPort>>,
    /// Bounds on what is taken from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<PartnerLimitsSpec>,
    /// A note for administrators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub comment: Option<String>,
}

/// Security mode and certificates of a partner; what is absent is as in spec.tls.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.mode) || self.mode != 'Disabled' || ((!has(self.requireCertificate) || !self.requireCertificate) && (!has(self.pinnedSha256) || self.pinnedSha256.size() == 0))").message("a certificate cannot be required where tls.mode is Disabled; choose Required, or remove requireCertificate and pinnedSha256").field_path(".mode"))]
pub struct PartnerTlsSpec {
    /// Required, Optional or Disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<TlsMode>,
    /// Whether its certificate must be valid and name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_certificate: Option<bool>,
    /// SHA-256 fingerprints of its certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 95)))]
    pub pinned_sha256: Vec<String>,
}

/// Bounds on what is taken from a partner; what is absent is as in spec.edge.limits. The domains that a wildcard
/// covers share its rates.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct PartnerLimitsSpec {
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
