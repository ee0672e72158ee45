//! `db:result` and `db:verify` as they are read and written.

use std::borrow::Cow;

use xmpp_federation_core::{DialbackKey, Domain, StreamId};

use crate::bounce::STANZA_ERRORS;
use xmpp_federation_xml::{Element, Node, UnwritableChar, XmlWriter, ns};

/// Which of the two elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `db:result`: initiating and receiving server.
    Result,
    /// `db:verify`: receiving and authoritative server.
    Verify,
}

impl Kind {
    /// The element, as people write it.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Result => "db:result",
            Self::Verify => "db:verify",
        }
    }
}

/// What a typed element says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// `type='valid'`.
    Valid,
    /// `type='invalid'`.
    Invalid,
    /// `type='error'` with the condition's name, if there was one.
    Error(Option<String>),
    /// A type the standard does not know.
    Unknown,
}

/// An element as received.
#[derive(Debug, Clone)]
pub struct DialbackElement {
    /// Which element.
    pub kind: Kind,
    /// `from` as written.
    pub from: String,
    /// `to` as written.
    pub to: String,
    /// `from`, canonical.
    pub from_domain: Domain,
    /// `to`, canonical.
    pub to_domain: Domain,
    /// `id` of a `db:verify`.
    pub id: Option<StreamId>,
    /// Set on answers, `None` on requests.
    pub answer: Option<Answer>,
    /// The key, white space around it removed; empty on answers.
    pub key: String,
}

/// Longest key looked at; ours have 64 digits, other servers' hashes are not much longer.
const MAX_KEY: usize = 1024;

/// Longest `from` and `to` looked at: a domain has at most 1,023 bytes (RFC 7622 section 3.2).
const MAX_ADDRESS: usize = 1023;

/// What is wrong with a dialback element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// `from` or `to` is missing or no domain.
    #[error("from and to of a dialback element must be domains")]
    Addressing,
    /// The id of a `db:verify` is missing, too long or holds white space.
    #[error("the id of db:verify must be a stream id without white space")]
    Id,
    /// The key is longer than any hash.
    #[error("the dialback key is too long")]
    Key,
    /// Not readable.
    #[error("the dialback element cannot be read")]
    Xml,
}

impl DialbackElement {
    /// Whether this is a dialback element at all, and which.
    pub fn kind_of(element: &Element) -> Option<Kind> {
        if element.is(ns::DIALBACK, "result") {
            Some(Kind::Result)
        } else if element.is(ns::DIALBACK, "verify") {
            Some(Kind::Verify)
        } else {
            None
        }
    }

    /// Reads an element for which [`Self::kind_of`] gave a kind.
    pub fn parse(element: &Element, kind: Kind) -> Result<Self, Malformed> {
        // The strict parser takes even fewer names; such an element is only answered.
        let node = match element.unportable() {
            None => element.parse().map_err(|_| Malformed::Xml)?,
            Some(_) => Node::default(),
        };
        let address = |text: Option<Cow<'_, str>>| {
            let text = text.filter(|text| text.len() <= MAX_ADDRESS);
            let text = text.ok_or(Malformed::Addressing)?;
            let domain = Domain::parse(&text).map_err(|_| Malformed::Addressing)?;
            Ok((text.into_owned(), domain))
        };
        let (from, from_domain) = address(element.from())?;
        let (to, to_domain) = address(element.to())?;
        let id = match kind {
            Kind::Result => None,
            Kind::Verify => Some(
                element
                    .id()
                    .and_then(|id| StreamId::from_peer(&id))
                    .ok_or(Malformed::Id)?,
            ),
        };
        let answer = element.type_().map(|text| answer(&text, &node));
        let key = node.text();
        let key = key.trim();
        if key.len() > MAX_KEY {
            return Err(Malformed::Key);
        }
        let key = if answer.is_some() {
            String::new()
        } else {
            key.to_owned()
        };
        Ok(Self {
            kind,
            from,
            to,
            from_domain,
            to_domain,
            id,
            answer,
            key,
        })
    }
}

fn answer(text: &str, node: &Node) -> Answer {
    match text {
        "valid" => Answer::Valid,
        "invalid" => Answer::Invalid,
        "error" => Answer::Error(
            node.children()
                .find(|child| child.name == "error")
                .and_then(|error| error.children().find(|c| c.ns == STANZA_ERRORS))
                .map(|condition| condition.name.chars().take(64).collect()),
        ),
        _ => Answer::Unknown,
    }
}

/// Step 1: `<db:result from to>key</db:result>`.
pub fn result_request(from: &str, to: &str, key: &DialbackKey) -> Result<String, UnwritableChar> {
    let mut w = XmlWriter::new();
    w.start(Kind::Result.tag())
        .attr("from", from)
        .attr("to", to)
        .text(key.as_str())
        .end();
    w.finish()
}

/// Step 2: `<db:verify from to id>key</db:verify>`; the key is the peer's, passed on.
pub fn verify_request(from: &str, to: &str, id: &StreamId, key: &str) -> Result<String, UnwritableChar> {
    let mut w = XmlWriter::new();
    w.start(Kind::Verify.tag())
        .attr("from", from)
        .attr("to", to)
        .attr("id", id.as_str())
        .text(key)
        .end();
    w.finish()
}

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Reply {
    /// `type='valid'`.
    Valid,
    /// `type='invalid'`.
    Invalid,
    /// `type='error'` with this stanza error condition.
    Error(&'static str),
}

impl Reply {
    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Steps 3 and 4: the answer to `request`, addresses echoed as the peer wrote them.
pub fn reply(request: &DialbackElement, reply: Reply) -> Result<String, UnwritableChar> {
    let mut w = XmlWriter::new();
    w.start(request.kind.tag())
        .attr("from", &request.to)
        .attr("to", &request.from);
    w.attr_opt("id", request.id.as_ref().map(StreamId::as_str))
        .attr("type", reply.as_str());
    if let Reply::Error(condition) = reply {
        w.start("error")
            .attr("type", "cancel")
            .empty(condition, STANZA_ERRORS)
            .end();
    }
    w.end();
    w.finish()
}

#[cfg(test)]
mod tests;
