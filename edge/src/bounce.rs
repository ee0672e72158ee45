//! The one table from a cause to the stanza error its sender gets (RFC 6120 section 8.3).

use std::borrow::Cow;

use bytes::Bytes;
use strum::IntoEnumIterator as _;

use crate::jid::{domain_part, is_good};
use xmpp_federation_xml::{Element, XmlWriter};

/// Namespace of stanza error conditions (RFC 6120 section 8.3.2).
pub const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";

/// Bytes that an error may have although its stanza has fewer: what every server takes (RFC 6120
/// section 13.12).
const ALWAYS_TAKEN: usize = 10_000;

/// Why a stanza did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::EnumIter)]
pub enum Cause {
    /// The lists do not admit the remote domain.
    Denied,
    /// The remote domain does not exist, does not federate, or leads to forbidden addresses.
    NotFound,
    /// The remote server did not answer, or refused the connection.
    Unreachable,
    /// Secure transport could not be agreed on.
    Insecure,
    /// The remote server did not believe our dialback key.
    DialbackInvalid,
    /// The remote server could not check our dialback key, or did not answer.
    DialbackFailed,
    /// Too much is waiting for the remote domain.
    QueueFull,
    /// The remote server says that it takes no stanza of this size (XEP-0478).
    TooLarge {
        /// Bytes of the stanza.
        bytes: usize,
        /// Bytes that it takes.
        most: usize,
    },
    /// The stream broke after the stanza was written; it may have arrived.
    StreamLost,
    /// The link to the XCP router broke after the stanza was written; it may have arrived.
    LinkLost,
    /// The XCP router gave the stanza back (profile Xcp).
    RouterRefused,
    /// No link to an XCP router came up in time.
    LinkDown,
    /// The stanza's sender is not of a hosted domain.
    ForeignSender,
    /// `from` or `to` is missing or no address.
    Malformed,
    /// The XCP router's envelope around the stanza held something else too (profile Xcp).
    BadEnvelope,
    /// The stanza is addressed to this edge itself, or back to a hosted domain.
    NotForUs,
    /// A name or namespace in it is one that not every XML parser takes.
    Unportable,
    /// Stanzas of its sender have ended links to the XCP router.
    BreaksLinks,
    /// The edge stops and could not deliver in time.
    Stopping,
}

/// The condition that the sender of a stanza sees, for a name of the table.
pub fn condition_of(cause: &str) -> Option<&'static str> {
    let row = Cause::iter().map(Cause::row);
    row.filter(|row| row.0 == cause).map(|row| row.1).next()
}

/// A row: name in logs and metrics, condition, type, text.
struct Row(&'static str, &'static str, &'static str, &'static str);

impl Cause {
    #[rustfmt::skip]
    const fn row(self) -> Row {
        match self {
            Self::Denied => Row("denied", "not-allowed", "cancel", "Federation with this domain is not allowed here"),
            Self::NotFound => Row("not-found", "remote-server-not-found", "cancel", "The remote domain has no reachable XMPP server"),
            Self::Unreachable => Row("unreachable", "remote-server-timeout", "wait", "The remote server could not be reached in time"),
            Self::Insecure => Row("insecure", "remote-server-not-found", "cancel", "No secure connection to the remote server is possible"),
            Self::DialbackInvalid => Row("dialback-invalid", "internal-server-error", "wait", "The remote server did not accept our identity"),
            Self::DialbackFailed => Row("dialback-failed", "remote-server-timeout", "wait", "The remote server could not verify our identity"),
            Self::QueueFull => Row("queue-full", "resource-constraint", "wait", "Too many messages are waiting for the remote domain"),
            Self::TooLarge { .. } => Row("too-large", "policy-violation", "modify", "The message is larger than the remote server takes"),
            Self::StreamLost => Row("stream-lost", "remote-server-timeout", "wait", "The connection to the remote server broke; the message may have arrived"),
            Self::LinkLost => Row("link-lost", "recipient-unavailable", "wait", "The connection to the messaging system broke; the message may have arrived"),
            Self::RouterRefused => Row("router-refused", "recipient-unavailable", "wait", "The messaging system did not take the message"),
            Self::LinkDown => Row("link-down", "recipient-unavailable", "wait", "The messaging system is not reachable at the moment"),
            Self::ForeignSender => Row("foreign-sender", "not-authorized", "cancel", "The sender's domain is not federated here"),
            Self::Malformed => Row("malformed", "jid-malformed", "modify", "The address is not valid"),
            Self::BadEnvelope => Row("bad-envelope", "bad-request", "modify", "The message came in a form that cannot be understood"),
            Self::NotForUs => Row("not-for-us", "service-unavailable", "cancel", "This address takes no messages"),
            Self::Unportable => Row("unportable", "not-acceptable", "modify", "The message holds a name that not every server can read"),
            Self::BreaksLinks => Row("breaks-links", "not-acceptable", "cancel", "The messaging system ended its connection over messages from this address"),
            Self::Stopping => Row("stopping", "remote-server-timeout", "wait", "The gateway was stopped before the remote server could be reached"),
        }
    }

    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// What the sender reads.
    fn text(self) -> Cow<'static, str> {
        let Row(.., text) = self.row();
        match self {
            Self::TooLarge { bytes, most } => Cow::Owned(format!("{text}: {bytes} bytes, at most {most}")),
            _ => Cow::Borrowed(text),
        }
    }
}

/// The error to send back, in the default namespace; `None` if nobody may be told: errors and
/// results are never answered, other elements are no stanzas, and without `from` there is nobody,
/// nor at an address that is none. What a request without an id asked cannot be said, and no answer
/// may be without one (RFC 6120 section 8.2.3).
/// Nor if the error would be larger than the stanza and [`ALWAYS_TAKEN`], which escaping can make of
/// long addresses; an id that long is left out where the error means something without it.
pub fn bounce(stanza: &Element, cause: Cause) -> Option<Bytes> {
    let name = match stanza.name() {
        "message" => "message",
        "presence" => "presence",
        "iq" => "iq",
        _ => return None,
    };
    let kind = stanza.type_();
    let silent = match kind.as_deref() {
        Some("error") => true,
        Some("result") => name == "iq",
        _ => false,
    };
    let from = stanza.from().filter(|from| !silent && is_good(from))?;
    let to = stanza.to();
    // From an address that is none the error would be dropped: the domain answers.
    let to = to
        .as_deref()
        .map(|to| if is_good(to) { to } else { domain_part(to) })
        .filter(|to| !to.is_empty());
    let most = stanza.bytes().len().max(ALWAYS_TAKEN);
    let write = |id: Option<&str>| error(name, (&from, to), id, cause).filter(|error| error.len() <= most);
    let id = stanza.id();
    if name == "iq" {
        return write(Some(&id?));
    }
    write(id.as_deref()).or_else(|| write(None))
}

fn error(name: &'static str, (from, to): (&str, Option<&str>), id: Option<&str>, cause: Cause) -> Option<Bytes> {
    let Row(_, condition, error_type, _) = cause.row();
    let mut w = XmlWriter::new();
    w.start(name)
        .attr_opt("from", to)
        .attr("to", from)
        .attr_opt("id", id)
        .attr("type", "error");
    w.start("error")
        .attr("type", error_type)
        .empty(condition, STANZA_ERRORS);
    w.start("text")
        .attr("xmlns", STANZA_ERRORS)
        .attr("xml:lang", "en")
        .text(&cause.text())
        .end();
    w.end().end();
    w.finish().ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;
    use xmpp_federation_xml::{Frame, Framer, Limits, ns};

    fn element(xml: &str) -> Element {
        let mut framer = Framer::new(Limits::stanzas(200_000));
        let (server, streams) = (ns::SERVER, ns::STREAMS);
        framer.feed(format!("<s:stream xmlns='{server}' xmlns:s='{streams}'>{xml}").as_bytes());
        framer.next_frame().unwrap();
        match framer.next_frame().unwrap() {
            Some(Frame::Element(element)) => element,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_row_of_the_table_is_among_all() {
        let rows = include_str!("bounce.rs").matches("=> Row(\"").count();
        assert_eq!(rows, Cause::iter().count());
        for cause in Cause::iter() {
            assert_eq!(condition_of(cause.as_str()), Some(cause.row().1));
        }
    }

    #[rstest]
    #[case("<message from='a@x.example' to='b@y.example' type='error'/>")]
    #[case("<iq from='a@x.example' to='b@y.example' type='result' id='1'/>")]
    #[case("<iq from='a@x.example' to='b@y.example' type='error' id='1'/>")]
    #[case("<presence from='a@x.example' to='b@y.example' type='error'/>")]
    #[case("<message to='b@y.example'/>")]
    #[case("<other from='a@x.example' to='b@y.example'/>")]
    #[case("<iq from='a@x.example' to='b@y.example' type='get'/>")]
    #[case("<iq from='a@x.example' to='b@y.example' type='set'/>")]
    #[case("<message from='' to='b@y.example'/>")]
    fn what_nobody_may_be_told_is_not_bounced(#[case] xml: &str) {
        assert_eq!(bounce(&element(xml), Cause::LinkDown), None);
    }

    #[test]
    fn an_error_goes_back_to_its_sender_with_the_same_id() {
        let stanza = element("<message from='a@x.example/&apos;' to='b@y.example' id='&lt;1'/>");
        let xml = bounce(&stanza, Cause::QueueFull).unwrap();
        let answer = element(std::str::from_utf8(&xml).unwrap());
        assert_eq!(answer.from().unwrap(), "b@y.example");
        assert_eq!(answer.to().unwrap(), "a@x.example/'");
        assert_eq!(answer.id().unwrap(), "<1");
        assert_eq!(answer.type_().unwrap(), "error");
        let node = answer.parse().unwrap();
        let error = node.child("jabber:server", "error").unwrap();
        assert!(error.child(STANZA_ERRORS, "resource-constraint").is_some());
    }

    #[rstest]
    #[case::ids_of_apostrophes("message", "'", 5000, 5, true, false)]
    #[case::ids_of_references("presence", "&amp;", 20_000, 5, true, true)]
    #[case::an_iq_is_known_by_its_id("iq", "'", 5000, 5, false, false)]
    #[case::an_iq_with_a_long_id("iq", "i", 20_000, 5, true, true)]
    #[case::addresses_of_apostrophes("message", "i", 5, 3000, false, false)]
    fn an_error_is_not_larger_than_its_stanza_or_what_everybody_takes(
        #[case] name: &str,
        #[case] character: &str,
        #[case] of_id: usize,
        #[case] of_resource: usize,
        #[case] told: bool,
        #[case] with_id: bool,
    ) {
        let (id, resource) = (character.repeat(of_id), "'".repeat(of_resource));
        let xml = format!(
            "<{name} from=\"a@x.example/{resource}\" to='b@y.example' id=\"{id}\"><b>{}</b></{name}>",
            "x".repeat(500)
        );
        let stanza = element(&xml);
        let error = bounce(&stanza, Cause::QueueFull);
        assert_eq!(error.is_some(), told);
        if let Some(error) = error {
            assert!(error.len() <= xml.len().max(10_000), "{}", error.len());
            let answer = element(std::str::from_utf8(&error).unwrap());
            assert_eq!(answer.to(), stanza.from());
            assert_eq!(answer.id(), stanza.id().filter(|_| with_id));
        }
    }

    #[rstest]
    #[case(Cause::Denied, "not-allowed", "cancel")]
    #[case(Cause::NotFound, "remote-server-not-found", "cancel")]
    #[case(Cause::Unreachable, "remote-server-timeout", "wait")]
    #[case(Cause::Insecure, "remote-server-not-found", "cancel")]
    #[case(Cause::DialbackInvalid, "internal-server-error", "wait")]
    #[case(Cause::DialbackFailed, "remote-server-timeout", "wait")]
    #[case(Cause::QueueFull, "resource-constraint", "wait")]
    #[case(Cause::TooLarge { bytes: 10_001, most: 10_000 }, "policy-violation", "modify")]
    #[case(Cause::StreamLost, "remote-server-timeout", "wait")]
    #[case(Cause::LinkLost, "recipient-unavailable", "wait")]
    #[case(Cause::RouterRefused, "recipient-unavailable", "wait")]
    #[case(Cause::LinkDown, "recipient-unavailable", "wait")]
    #[case(Cause::ForeignSender, "not-authorized", "cancel")]
    #[case(Cause::Malformed, "jid-malformed", "modify")]
    #[case(Cause::BadEnvelope, "bad-request", "modify")]
    #[case(Cause::NotForUs, "service-unavailable", "cancel")]
    #[case(Cause::Unportable, "not-acceptable", "modify")]
    #[case(Cause::BreaksLinks, "not-acceptable", "cancel")]
    #[case(Cause::Stopping, "remote-server-timeout", "wait")]
    fn each_cause_has_its_condition_type_and_text(#[case] cause: Cause, #[case] condition: &str, #[case] kind: &str) {
        let stanza = element("<iq from='a@x.example' to='b@y.example' type='get' id='1'/>");
        let xml = bounce(&stanza, cause).unwrap();
        let answer = element(std::str::from_utf8(&xml).unwrap());
        let node = answer.parse().unwrap();
        let error = node.child("jabber:server", "error").unwrap();
        assert_eq!(error.attr("type"), Some(kind));
        assert!(error.child(STANZA_ERRORS, condition).is_some());
        let text = error.child(STANZA_ERRORS, "text").unwrap().text();
        assert_eq!(text, cause.text());
        if let Cause::TooLarge { .. } = cause {
            assert!(text.ends_with("10001 bytes, at most 10000"), "{text}");
        }
    }
}
