//! Why a stream cannot go on, and what follows from it.

use std::borrow::Cow;
use std::io;

use xmpp_federation_xml::{StreamErrorCondition, XmlError};

use crate::refusal::{Check, Refusal};
use crate::words::Stage;

/// Why a stream cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The network or TLS failed.
    #[error("{0}")]
    Io(io::Error),
    /// The peer closed the connection without closing its stream.
    #[error("the peer closed the connection")]
    Ended,
    /// The peer closed its stream.
    #[error("the peer closed the stream")]
    Closed,
    /// The peer reported an error.
    #[error("the peer reported {condition}{}", text.as_ref().map(|t| format!(" ({t})")).unwrap_or_default())]
    Peer {
        /// Its condition.
        condition: StreamErrorCondition,
        /// Its text, cut to a sane length.
        text: Option<String>,
    },
    /// The peer broke a rule; it is told this condition and text.
    #[error("{condition}: {text}")]
    Fault {
        /// What it is told.
        condition: StreamErrorCondition,
        /// Says what was wrong; holds no peer data.
        text: Cow<'static, str>,
        /// The check that the log names; `None` if the edge stops or has a fault.
        check: Option<Check>,
    },
    /// The peer failed a check that the log names.
    #[error("{0}")]
    Refused(Refusal),
    /// A phase took too long.
    #[error("{0} took too long")]
    Timeout(&'static str),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // The connection itself works, and the peer may be told.
        if error.kind() == io::ErrorKind::OutOfMemory {
            return Self::fault(StreamErrorCondition::ResourceConstraint, error.to_string());
        }
        Self::Io(error)
    }
}

impl From<XmlError> for Failure {
    fn from(error: XmlError) -> Self {
        match error.condition {
            StreamErrorCondition::PolicyViolation => Self::violation(Check::Size, error.reason),
            condition => Self::fault(condition, error.reason),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Faults by their conditions.
macro_rules! faults {
    ($($name:ident: $condition:ident),* $(,)?) => {
        impl Failure {$(
            #[doc = concat!("A rule was broken, which is `", stringify!($condition), "`.")]
            pub fn $name(text: impl Into<Cow<'static, str>>) -> Self {
                Self::fault(StreamErrorCondition::$condition, text)
            }
        )*}
    };
}

faults! {
    bad_format: BadFormat,
    host_unknown: HostUnknown,
    improper_addressing: ImproperAddressing,
    invalid_from: InvalidFrom,
    invalid_namespace: InvalidNamespace,
    invalid_xml: InvalidXml,
    undefined_condition: UndefinedCondition,
    unsupported_stanza_type: UnsupportedStanzaType,
    unsupported_version: UnsupportedVersion,
}

impl Failure {
    /// A rule was broken that the condition names.
    pub fn fault(condition: StreamErrorCondition, text: impl Into<Cow<'static, str>>) -> Self {
        Self::Fault {
            condition,
            text: text.into(),
            check: Check::of_stream(condition),
        }
    }

    /// A rule was broken for which there is only `policy-violation`.
    pub fn violation(check: Check, text: impl Into<Cow<'static, str>>) -> Self {
        Self::Fault {
            condition: StreamErrorCondition::PolicyViolation,
            text: text.into(),
            check: Some(check),
        }
    }

    /// What the peer is told, if it is told anything.
    pub fn to_send(&self) -> Option<(StreamErrorCondition, Cow<'static, str>)> {
        match self {
            Self::Fault { condition, text, .. } => Some((*condition, text.clone())),
            Self::Refused(Refusal { check, .. }) => Some((check.stream_condition(), Cow::Borrowed(check.to_peer()))),
            Self::Timeout(what) => Some((
                StreamErrorCondition::ConnectionTimeout,
                Cow::Owned(format!("{what} took too long")),
            )),
            Self::Io(_) | Self::Ended | Self::Closed | Self::Peer { .. } => None,
        }
    }

    /// Which check of ours an inbound stream failed; `None` if the peer or the network ended it, or
    /// if the refusal was noted where it arose.
    pub(crate) fn check(&self) -> Option<Check> {
        match self {
            Self::Timeout(_) => Some(Check::Time),
            Self::Fault { check, .. } => *check,
            Self::Refused(_) | Self::Io(_) | Self::Ended | Self::Closed | Self::Peer { .. } => None,
        }
    }

    /// Whether it was the peer, or the network, that ended the stream.
    pub(crate) fn is_hang_up(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, TimedOut, UnexpectedEof};
        match self {
            Self::Ended | Self::Closed | Self::Peer { .. } => true,
            Self::Io(error) => matches!(
                error.kind(),
                BrokenPipe | ConnectionAborted | ConnectionReset | InvalidData | TimedOut | UnexpectedEof
            ),
            Self::Fault { .. } | Self::Refused(_) | Self::Timeout(_) => false,
        }
    }

    /// Where a stream failed that had come to this stage.
    pub(crate) fn stage(&self, stage: Stage) -> Stage {
        match self {
            Self::Refused(refusal) => refusal.check.stage().unwrap_or(stage),
            // A record that TLS refuses, such as an alert behind the handshake.
            Self::Io(error) if error.kind() == io::ErrorKind::InvalidData => Stage::Tls,
            _ => stage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use xmpp_federation_xml::StreamErrorCondition as Condition;

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
        assert_eq!(failure.check().map(Check::as_str), check);
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
        assert_eq!(failure.stage(at), stage);
    }
}
