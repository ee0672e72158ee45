//! What the edge notes about attempts that failed and peers that it refused: once for the log,
//! the metrics and `ctl failures`.

use std::io;
use std::net::SocketAddr;

use xmpp_federation_core::Domain;

use crate::edge::Edge;
use crate::failures::{Attempt, Stage};
use crate::logging;
use crate::registry::StreamEntry;
use crate::stream::Failure;
use crate::xml::StreamErrorCondition as Condition;

impl Edge {
    /// One way to a remote domain failed, or somebody was refused who came in its name.
    pub(crate) fn attempt_failed(&self, remote: &Domain, attempt: Attempt) {
        self.metrics
            .attempt_failed(attempt.direction, attempt.stage);
        self.registry.attempt_failed(remote, attempt);
    }

    /// A peer was refused by a check. `remote`: in whose name it came, if it said so.
    pub(crate) fn refused(
        &self,
        peer: SocketAddr,
        remote: Option<&Domain>,
        stage: Stage,
        check: &'static str,
        reason: &str,
    ) {
        self.metrics.peer_refused(check);
        logging::refused(peer, remote, check, reason);
        if let Some(remote) = remote {
            self.attempt_failed(remote, Attempt::inbound(stage, peer, reason));
        }
    }

    /// A peer's stream ended by this failure; notes it if it was we who refused something.
    pub(crate) fn stream_refused(&self, entry: &StreamEntry, failure: &Failure) {
        if let Some((stage, check)) = failed_check(failure) {
            let remote = entry.claimed();
            let reason = failure.to_string();
            self.refused(entry.peer, remote.as_ref(), stage, check, &reason);
        }
    }
}

/// Which check of ours an inbound stream failed; `None` if the peer or the network ended it.
pub(crate) fn failed_check(failure: &Failure) -> Option<(Stage, &'static str)> {
    let condition = match failure {
        Failure::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Some((Stage::Tls, "tls-handshake"));
        }
        Failure::Timeout(_) => return Some((Stage::Stream, "time")),
        _ => failure.to_send()?.0,
    };
    Some(match condition {
        Condition::HostUnknown | Condition::HostGone => (Stage::Policy, "hosted"),
        Condition::InvalidFrom | Condition::ImproperAddressing => (Stage::Stream, "addressing"),
        Condition::NotAuthorized => (Stage::Dialback, "authenticated"),
        Condition::PolicyViolation => (Stage::Policy, "policy"),
        Condition::ResourceConstraint => (Stage::Stream, "limits"),
        Condition::UnsupportedVersion
        | Condition::UnsupportedStanzaType
        | Condition::UnsupportedFeature => (Stage::Stream, "protocol"),
        Condition::BadFormat
        | Condition::BadNamespacePrefix
        | Condition::InvalidNamespace
        | Condition::InvalidXml
        | Condition::NotWellFormed
        | Condition::RestrictedXml
        | Condition::UnsupportedEncoding => (Stage::Stream, "xml"),
        // Our own stop or fault is nobody's failed check.
        _ => return None,
    })
}

/// Where an outbound stream failed during its negotiation.
pub(crate) fn failed_stage(failure: &Failure, handshaking: bool) -> Stage {
    match failure {
        _ if handshaking => Stage::Tls,
        Failure::Fault {
            condition: Condition::PolicyViolation,
            ..
        } => Stage::Tls,
        Failure::Io(error) if error.kind() == io::ErrorKind::InvalidData => Stage::Tls,
        _ => Stage::Features,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(
        Failure::fault(Condition::PolicyViolation, "not allowed"),
        Some("policy")
    )]
    #[case(Failure::fault(Condition::HostUnknown, "not hosted"), Some("hosted"))]
    #[case(Failure::fault(Condition::NotWellFormed, "no"), Some("xml"))]
    #[case(Failure::fault(Condition::SystemShutdown, "stopping"), None)]
    #[case(Failure::Timeout("the negotiation of the stream"), Some("time"))]
    #[case(io::Error::from(io::ErrorKind::InvalidData).into(), Some("tls-handshake"))]
    #[case(io::Error::from(io::ErrorKind::ConnectionReset).into(), None)]
    #[case(Failure::Closed, None)]
    #[case(Failure::Peer { condition: Condition::HostUnknown, text: None }, None)]
    fn only_what_we_refused_names_a_check(
        #[case] failure: Failure,
        #[case] check: Option<&'static str>,
    ) {
        assert_eq!(failed_check(&failure).map(|(_, check)| check), check);
    }
}
