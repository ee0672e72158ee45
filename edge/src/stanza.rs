//! What routing needs to know about stanzas: their names and whether they want an answer.

use xmpp_federation_xml::Element;

/// Whether this is a stanza of a stream with that content namespace.
pub fn is_stanza(element: &Element, content_ns: &str) -> bool {
    element.ns() == content_ns && matches!(element.name(), "message" | "presence" | "iq")
}

/// Whether the stanza comes back as an error where nobody takes it: a message or a request.
/// Presence is left out, which servers drop in silence (RFC 6121 section 8.5).
pub fn wants_answer(element: &Element) -> bool {
    match element.name() {
        "message" => element.type_().as_deref() != Some("error"),
        "iq" => matches!(element.type_().as_deref(), Some("get" | "set")),
        _ => false,
    }
}
