//! Why a peer is refused, by the check that it failed: one line in the log, one sentence to the
//! peer, one condition of a dialback error.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

use xmpp_federation_core::Domain;

use crate::words::{Direction, Stage};
use xmpp_federation_xml::StreamErrorCondition;

/// The checks that a peer can fail; their names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum Check {
    /// The privacy lists.
    Policy,
    /// A domain of ours does not come in from outside.
    OwnDomain,
    /// Is the domain asked for hosted here?
    Hosted,
    /// TLS before everything else.
    TlsRequired,
    /// TLS where it was used before.
    TlsDowngrade,
    /// The TLS handshake itself.
    TlsHandshake,
    /// TLS is disabled, and the peer wants it.
    TlsDisabled,
    /// Chain and name of the certificate.
    Certificate,
    /// Fingerprint of the certificate.
    Pin,
    /// The dialback key.
    Dialback,
    /// How much may be under way at once.
    Limits,
    /// From, to and who was authenticated for them.
    Addressing,
    /// A pair that was not authenticated.
    Authenticated,
    /// The order and kinds of what is said on a stream.
    Protocol,
    /// The XML itself.
    Xml,
    /// How large, deep or wide an element or a stream header may be.
    Size,
    /// The time that a phase may take.
    Time,
}

impl Check {
    /// The word used in logs.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The stage that it belongs to, `None` if a stream can fail it at any; the conditions of a stream error (RFC 6120
    /// section 4.9.3) and of a dialback error (XEP-0220 section 2.4); what the peer is told.
    #[rustfmt::skip]
    const fn row(self) -> (Option<Stage>, StreamErrorCondition, &'static str, &'static str) {
        use StreamErrorCondition as Condition;
        match self {
            Self::Policy => (Some(Stage::Policy), Condition::PolicyViolation, "not-allowed", "federation with this domain is not allowed here"),
            Self::OwnDomain => (Some(Stage::Policy), Condition::InvalidFrom, "not-allowed", "a domain hosted here cannot come in from outside"),
            Self::Hosted => (Some(Stage::Policy), Condition::HostUnknown, "item-not-found", "this domain is not hosted here"),
            Self::TlsRequired => (Some(Stage::Tls), Condition::PolicyViolation, "policy-violation", "TLS is required here"),
            Self::TlsDowngrade => (Some(Stage::Tls), Condition::PolicyViolation, "policy-violation", "TLS was used with this domain before and is required since"),
            Self::TlsHandshake => (Some(Stage::Tls), Condition::PolicyViolation, "policy-violation", "the TLS handshake failed"),
            Self::TlsDisabled => (Some(Stage::Tls), Condition::PolicyViolation, "policy-violation", "TLS is disabled here"),
            Self::Certificate => (Some(Stage::Certificate), Condition::PolicyViolation, "not-authorized", "the certificate does not prove the domain"),
            Self::Pin => (Some(Stage::Certificate), Condition::PolicyViolation, "not-authorized", "the certificate is not the one expected of the domain"),
            Self::Dialback => (Some(Stage::Dialback), Condition::PolicyViolation, "not-authorized", "the dialback key is not valid"),
            Self::Limits => (None, Condition::ResourceConstraint, "resource-constraint", "too many requests at once"),
            Self::Addressing => (None, Condition::PolicyViolation, "bad-request", "these addresses are not allowed on this stream"),
            Self::Authenticated => (Some(Stage::Dialback), Condition::PolicyViolation, "not-authorized", "this pair of domains is not authenticated"),
            Self::Protocol => (None, Condition::PolicyViolation, "bad-request", "this is not expected here"),
            Self::Xml => (None, Condition::PolicyViolation, "bad-request", "this XML is not allowed in a stream"),
            Self::Size => (None, Condition::PolicyViolation, "bad-request", "this is larger than allowed here"),
            Self::Time => (None, Condition::PolicyViolation, "resource-constraint", "timeout"),
        }
    }

    /// The stage that it belongs to; `None` if a stream can fail it at any.
    pub const fn stage(self) -> Option<Stage> {
        self.row().0
    }

    /// The condition of a stream error.
    pub const fn stream_condition(self) -> StreamErrorCondition {
        self.row().1
    }

    /// The condition of a dialback error.
    pub const fn dialback_condition(self) -> &'static str {
        self.row().2
    }

    /// What the peer is told in a stream error.
    pub const fn to_peer(self) -> &'static str {
        self.row().3
    }

    /// The check that a stream error with this condition stands for; `None` if it is nobody's fault.
    pub const fn of_stream(condition: StreamErrorCondition) -> Option<Self> {
        use StreamErrorCondition as Condition;
        Some(match condition {
            Condition::HostUnknown | Condition::HostGone => Self::Hosted,
            Condition::InvalidFrom | Condition::ImproperAddressing => Self::Addressing,
            Condition::NotAuthorized => Self::Authenticated,
            Condition::ResourceConstraint => Self::Limits,
            // Privacy lists and bounds end streams with it, too, and name their own checks.
            Condition::PolicyViolation
            | Condition::UnsupportedVersion
            | Condition::UnsupportedStanzaType
            | Condition::UnsupportedFeature => Self::Protocol,
            Condition::BadFormat
            | Condition::BadNamespacePrefix
            | Condition::InvalidNamespace
            | Condition::InvalidXml
            | Condition::NotWellFormed
            | Condition::RestrictedXml
            | Condition::UnsupportedEncoding => Self::Xml,
            _ => return None,
        })
    }
}

/// A check that a peer failed, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The check.
    pub check: Check,
    /// What was wrong, as a sentence for our log and status.
    pub reason: Cow<'static, str>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.check.as_str())
    }
}

impl Refusal {
    /// This check failed for this reason.
    pub fn new(check: Check, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            check,
            reason: reason.into(),
        }
    }

    /// The line of the log; `local` and `remote` as far as they are known.
    pub fn log(&self, direction: Direction, peer: SocketAddr, local: Option<&Domain>, remote: Option<&Domain>) {
        tracing::warn!(
            check = self.check.as_str(),
            direction = direction.as_str(),
            %peer,
            local = local.map(Domain::as_str),
            remote = remote.map(Domain::as_str),
            reason = %self.reason,
            "peer refused"
        );
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantNames as _;

    use super::*;

    #[test]
    fn every_check_is_explained_in_the_documentation() {
        let page = include_str!("../../docs/reference/edge-security.md");
        for check in Check::VARIANTS {
            let name = format!("`{check}`");
            let row = |line: &str| line.split('|').nth(1).is_some_and(|c| c.contains(&name));
            assert!(page.lines().any(row), "no row for {name}");
        }
    }
}
