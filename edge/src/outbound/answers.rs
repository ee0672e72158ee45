//! Answers to our own dialback elements, the only ones that peers may say on streams that we open.

use xmpp_federation_core::{Domain, StreamId};
use xmpp_federation_xml::{Element, ns};

use crate::dialback::elements::{Answer, DialbackElement, Kind};
use crate::refusal::Check;
use crate::stream::Failure;

/// What a peer answered.
pub(super) struct DialbackAnswer {
    /// Our domain in the question.
    pub(super) local: Domain,
    pub(super) answer: Answer,
    /// The stream's id in the question; of `db:verify` only.
    pub(super) id: Option<StreamId>,
}

/// Reads an answer of `remote`; `None`: the element needs none. Anything else ends the stream.
pub(super) fn take(element: &Element, kind: Kind, remote: &Domain) -> Result<Option<DialbackAnswer>, Failure> {
    if element.is(ns::STREAMS, "features") {
        return Ok(None);
    }
    if DialbackElement::kind_of(element) != Some(kind) {
        let text = format!("only answers to {} are expected on this stream", kind.tag());
        return Err(Failure::unsupported_stanza_type(text));
    }
    let received =
        DialbackElement::parse(element, kind).map_err(|error| Failure::improper_addressing(error.to_string()))?;
    match received.answer {
        Some(answer) if received.from_domain == *remote => Ok(Some(DialbackAnswer {
            local: received.to_domain,
            answer,
            id: received.id,
        })),
        _ => Err(unasked(kind)),
    }
}

/// The peer answers what it was not asked on this stream.
pub(super) fn unasked(kind: Kind) -> Failure {
    let text = format!("an answer to a {} that was not sent on this stream", kind.tag());
    Failure::violation(Check::Protocol, text)
}
