//! Remote domains with terms or hosts of their own.

use std::fmt;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};

use super::types::TlsMode;
use super::values::HostPort;
use crate::{DomainPattern, Fingerprint};

/// A remote domain, or all domains below one. An entry admits what it names in mode AllowList.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Partner {
    /// The remote domain. `*.partner.example` covers all domains below `partner.example`, and not that one itself.
    pub domain: DomainPattern,
    /// Security mode and certificates.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tls: PartnerTls,
    /// Hosts used instead of DNS, all of equal priority; private addresses are allowed here. A domain with a route never
    /// falls back to DNS. Absent: DNS.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_more")]
    pub route: Vec<RouteHost>,
    /// Bounds on what is taken from it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: PartnerLimits,
    /// A note for administrators; the edge does not use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl Partner {
    /// An entry that admits, and sets nothing.
    pub fn new(domain: impl Into<DomainPattern>) -> Self {
        Self {
            domain: domain.into(),
            tls: PartnerTls::default(),
            route: Vec::new(),
            limits: PartnerLimits::default(),
            comment: None,
        }
    }
}

/// Security mode and certificates of a remote domain.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct PartnerTls {
    /// Security mode towards it. A domain that names itself only in dialback is held to its mode
    /// then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<TlsMode>,
    /// Whether its certificate must be valid and name it, in both directions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_certificate: Option<bool>,
    /// SHA-256 fingerprints of its certificate, 64 hexadecimal digits each, with or without colons. Only these certificates
    /// are accepted then, in both directions, and nothing else about them is checked: neither
    /// authority nor name, dates or revocation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pinned_sha256: Vec<Fingerprint>,
}

/// A host where a remote domain is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RouteHost {
    /// Host name or IP address.
    pub host: String,
    /// TCP port. Default 5269.
    #[serde(default = "s2s_port")]
    pub port: u16,
}

impl fmt::Display for RouteHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (self.host.clone(), self.port);
        HostPort { host, port }.fmt(f)
    }
}

const fn s2s_port() -> u16 {
    5269
}

/// Bounds on what is taken from a remote domain. The domains that a wildcard covers share its rates.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct PartnerLimits {
    /// Largest stanza taken from it, bytes; at least 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_stanza_bytes: Option<usize>,
    /// Stanzas taken from it per second, over all of its streams; a burst of one second passes at
    /// once, then it is read no faster. Nothing is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_second: Option<u32>,
    /// Bytes of stanzas taken from it per second, in the same way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// An empty route would be none, and the domain would be looked up in DNS unasked.
fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RouteHost>, D::Error> {
    let hosts = Vec::deserialize(deserializer)?;
    if hosts.is_empty() {
        return Err(D::Error::custom(
            "the route is empty; give at least one host, or remove it so that DNS is used",
        ));
    }
    Ok(hosts)
}
