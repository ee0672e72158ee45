//! What the edge notes about attempts that failed and peers that it refused: once for the log,
//! the metrics and `ctl failures`.

use std::io;
use std::net::IpAddr;

use tokio::time::Instant;
use xmpp_federation_core::Domain;

use crate::edge::Edge;
use crate::observe::failures::Attempt;
use crate::observe::log_rate::{EXCHANGES, Party, REFUSALS, Trust};
use crate::observe::registry::StreamEntry;
use crate::outbound::turns::Standing;
use crate::refusal::{Check, Refusal};
use crate::stream::Failure;
use crate::words::Direction;
use crate::words::Stage;

impl Edge {
    /// One way to a remote domain failed, or somebody was refused who came in its name.
    pub(crate) fn attempt_failed(&self, remote: &Domain, attempt: Attempt) {
        self.metrics.attempt_failed(attempt.direction, attempt.stage);
        self.registry.attempt_failed(remote, attempt);
    }

    /// A peer was refused by a check, at this stage of the stream. `local`, `remote`: whom it wanted and in
    /// whose name it came, as far as it said so.
    pub(crate) fn refused(
        &self,
        entry: &StreamEntry,
        stage: Stage,
        local: Option<&Domain>,
        remote: Option<&Domain>,
        refusal: &Refusal,
    ) {
        let (direction, peer) = (entry.direction, entry.peer);
        entry.update(|detail| detail.refused = true);
        self.metrics.peer_refused(refusal.check.as_str());
        let party = match (direction, remote) {
            (Direction::Outbound, Some(remote)) => Party::Called(remote, Some(peer.ip())),
            _ => Party::Caller(peer.ip(), remote),
        };
        if self.admit_line(refusal.check.as_str(), party, REFUSALS) {
            refusal.log(direction, peer, local, remote);
        }
        if let Some(remote) = remote {
            let attempt = Attempt {
                direction,
                stage: refusal.check.stage().unwrap_or(stage),
                local: local.cloned(),
                address: Some(peer),
                reason: refusal.reason.to_string(),
            };
            self.attempt_failed(remote, attempt);
        }
    }

    /// Whether a line about a step that a peer, its DNS or a router's user can repeat at will is to
    /// be written.
    pub(crate) fn may_log(&self, about: &'static str, party: Party<'_>) -> bool {
        self.admit_line(about, party, EXCHANGES)
    }

    fn admit_line(&self, about: &'static str, party: Party<'_>, most: u32) -> bool {
        let now = Instant::now();
        let admitted = self.log_rate.admit(about, party, self, most, now);
        if !admitted {
            self.metrics.log_line_left_out();
        }
        admitted
    }

    /// A peer's stream ended by this failure; notes what we refused, and a peer that hung up before anything
    /// was authenticated.
    pub(crate) fn stream_refused(&self, entry: &StreamEntry, failure: &Failure) {
        if let Some(check) = failed_check(failure) {
            let remote = entry.claimed();
            let refusal = Refusal::new(check, failure.to_string());
            self.refused(entry, entry.stage(), None, remote.as_ref(), &refusal);
        } else if is_hang_up(failure)
            && entry.came_to_nothing()
            && let Some(remote) = entry.claimed()
        {
            let reason = format!("{failure} before a pair of domains was authenticated");
            let attempt = Attempt::inbound(failed_stage(failure, entry.stage()), entry.peer, reason);
            self.attempt_failed(&remote, attempt);
        }
    }
}

impl Edge {
    /// In whose name somebody at this address shows a key of this domain.
    pub(crate) fn standing(&self, address: IpAddr, remote: &Domain) -> Standing {
        match (self.is_partner(remote), self.is_partners(address)) {
            (true, true) => Standing::Partner,
            (true, false) => Standing::Claimed,
            (false, _) => Standing::Stranger,
        }
    }
}

impl Trust for Edge {
    fn is_partner(&self, remote: &Domain) -> bool {
        self.live().policy.is_partner(remote)
    }

    fn is_partners(&self, address: IpAddr) -> bool {
        self.is_partners_address(&self.live(), address)
    }
}

/// Which check of ours an inbound stream failed; `None` if the peer or the network ended it, or
/// if the refusal was noted where it arose.
pub(crate) fn failed_check(failure: &Failure) -> Option<Check> {
    match failure {
        Failure::Timeout(_) => Some(Check::Time),
        Failure::Fault { check, .. } => *check,
        Failure::Refused(_) | Failure::Io(_) | Failure::Ended | Failure::Closed | Failure::Peer { .. } => None,
    }
}

/// Whether it was the peer, or the network, that ended the stream.
pub(crate) fn is_hang_up(failure: &Failure) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, TimedOut, UnexpectedEof};
    match failure {
        Failure::Ended | Failure::Closed | Failure::Peer { .. } => true,
        Failure::Io(error) => matches!(
            error.kind(),
            BrokenPipe | ConnectionAborted | ConnectionReset | InvalidData | TimedOut | UnexpectedEof
        ),
        Failure::Fault { .. } | Failure::Refused(_) | Failure::Timeout(_) => false,
    }
}

/// Where a stream failed that had come to this stage.
pub(crate) fn failed_stage(failure: &Failure, stage: Stage) -> Stage {
    match failure {
        Failure::Refused(refusal) => refusal.check.stage().unwrap_or(stage),
        // A record that TLS refuses, such as an alert behind the handshake.
        Failure::Io(error) if error.kind() == io::ErrorKind::InvalidData => Stage::Tls,
        _ => stage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use xmpp_federation_xml::{StreamErrorCondition as Condition, XmlError};

    fn too_large() -> Failure {
        let error = XmlError {
            condition: Condition::PolicyViolation,
            reason: "stanza too large",
            offset: 0,
        };
        error.into()
    }

    #[rstest]
    #[case(Failure::violation(Check::Policy, "not allowed"), Some("policy"))]
    #[case(Failure::fault(Condition::PolicyViolation, "a rule"), Some("protocol"))]
    #[case(too_large(), Some("size"))]
    #[case(Failure::fault(Condition::HostUnknown, "not hosted"), Some("hosted"))]
    #[case(Failure::fault(Condition::NotWellFormed, "no"), Some("xml"))]
    #[case(Failure::fault(Condition::SystemShutdown, "stopping"), None)]
    #[case(Failure::Timeout("the negotiation of the stream"), Some("time"))]
    #[case(io::Error::from(io::ErrorKind::ConnectionReset).into(), None)]
    #[case(Refusal::new(Check::Pin, "noted where it arose").into(), None)]
    #[case(Failure::Closed, None)]
    #[case(Failure::Peer { condition: Condition::HostUnknown, text: None }, None)]
    fn only_what_we_refused_names_a_check(#[case] failure: Failure, #[case] check: Option<&'static str>) {
        assert_eq!(failed_check(&failure).map(Check::as_str), check);
    }

    #[rstest]
    #[case::of_its_own(Refusal::new(Check::Pin, "").into(), Stage::External, Stage::Certificate)]
    #[case::limits(Refusal::new(Check::Limits, "").into(), Stage::Features, Stage::Features)]
    #[case::limits_of_keys(Refusal::new(Check::Limits, "").into(), Stage::Dialback, Stage::Dialback)]
    #[case::memory(io::Error::from(io::ErrorKind::OutOfMemory).into(), Stage::External, Stage::External)]
    #[case::time(Failure::Timeout("the negotiation of the stream"), Stage::Tls, Stage::Tls)]
    #[case::hang_up(Failure::Ended, Stage::External, Stage::External)]
    #[case::alert(io::Error::from(io::ErrorKind::InvalidData).into(), Stage::Features, Stage::Tls)]
    fn a_failure_belongs_to_the_stage_at_which_it_came(
        #[case] failure: Failure,
        #[case] at: Stage,
        #[case] stage: Stage,
    ) {
        assert_eq!(failed_stage(&failure, at), stage);
    }
}
