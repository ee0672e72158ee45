//! Certificates, trust and the security mode.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use xmpp_federation_core::edge_config::{TlsMode, TlsVersion};

use super::{ConfigMapKeyRef, SecretKeyRef, SecretRef};

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
