//! The words that logs, metrics, the admin port and code share.

use serde::Serialize;

/// Who opened a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, strum::IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Direction {
    /// The peer.
    Inbound,
    /// This edge.
    Outbound,
}

impl Direction {
    /// The word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The role played in one dialback (XEP-0220 section 1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Role {
    /// Sends `db:result` with a key.
    Initiating,
    /// Takes that key and has it verified.
    Receiving,
    /// Says whether the key is its own.
    Authoritative,
}

impl Role {
    /// The word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// How a pair of domains was authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Mechanism {
    /// Server dialback (XEP-0220).
    Dialback,
    /// SASL EXTERNAL (XEP-0178).
    External,
}

impl Mechanism {
    /// The word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Where an attempt failed, in the order in which a stream passes these.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    strum::IntoStaticStr,
    strum::VariantNames,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Stage {
    /// The name: DNS, static routes, address rules.
    Resolve,
    /// TCP.
    Connect,
    /// STARTTLS and the handshake.
    Tls,
    /// The peer's certificate.
    Certificate,
    /// Headers and stream features.
    #[default]
    Features,
    /// SASL EXTERNAL.
    External,
    /// Server dialback.
    Dialback,
    /// The lists and the terms of the domain.
    Policy,
    /// The established stream.
    Stream,
}

impl Stage {
    /// The word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// How a stream comes to TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// `_xmpp-server._tcp`: in clear first, then STARTTLS.
    StartTls,
    /// `_xmpps-server._tcp`: TLS from the first byte.
    DirectTls,
}
