//! What is said on a stream, in one line each.
//!
//! Keys of dialback and what SASL exchanges are never shown. Of stanzas only the head is shown,
//! with the names of what is inside; all of it only to those who ask for bodies.

use std::fmt::Write as _;

use xmpp_federation_xml::{Content, Element, Frame, Framer, Limits, Node, StreamHeader, ns};

/// Longest line, bytes.
pub const LONGEST: usize = 4096;
/// Longest attribute that is shown, bytes.
const ATTRIBUTE: usize = 256;
/// Names of what is inside a stanza, at most.
const NAMES: usize = 8;

/// On one line, and harmless to a terminal: control characters and marks that change the writing
/// direction are escaped. Cut behind `longest` bytes, with the number of those left out.
pub fn printable(text: &str, longest: usize) -> String {
    let mut out = String::with_capacity(text.len().min(longest));
    for (at, c) in text.char_indices() {
        if out.len() >= longest {
            let _ = write!(out, "… {} bytes more", text.len() - at);
            break;
        }
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

fn framer() -> Framer {
    Framer::new(Limits {
        max_stanza_bytes: usize::MAX >> 2,
        max_depth: usize::MAX >> 2,
        max_attributes: usize::MAX >> 2,
        max_namespaces: usize::MAX >> 2,
        max_name_bytes: usize::MAX >> 2,
    })
}

/// What we are about to send, as the peer will read it.
pub(super) fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut framer = framer();
    let begins = [&b"<?xml"[..], b"<stream:stream"];
    let has_header = begins.iter().any(|begin| bytes.starts_with(begin));
    if !has_header {
        // What our own header put in scope.
        let header = format!(
            "<stream:stream xmlns='{}' xmlns:db='{}' xmlns:stream='{}'>",
            ns::SERVER,
            ns::DIALBACK,
            ns::STREAMS
        );
        framer.feed(header.as_bytes());
        let _ = framer.next_frame();
    }
    framer.feed(bytes);
    let mut found = Vec::new();
    while let Ok(Some(frame)) = framer.next_frame() {
        let end = matches!(frame, Frame::End);
        found.push(frame);
        if end {
            break;
        }
    }
    found
}

/// A frame in words.
pub(super) fn frame(frame: &Frame, bodies: bool) -> String {
    match frame {
        Frame::Header(found) => header(found),
        Frame::Element(found) => element(found, bodies),
        Frame::End => "</stream:stream>".to_owned(),
    }
}

fn attribute(out: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        let value = value.replace('&', "&amp;").replace('\'', "&apos;");
        let _ = write!(out, " {name}='{}'", printable(&value.replace('<', "&lt;"), ATTRIBUTE));
    }
}

fn header(header: &StreamHeader) -> String {
    let mut out = "<stream:stream".to_owned();
    let namespace = Some(header.default_ns()).filter(|name| *name != ns::SERVER);
    attribute(&mut out, "xmlns", namespace);
    for (name, value) in [
        ("from", &header.from),
        ("to", &header.to),
        ("id", &header.id),
        ("version", &header.version),
        ("xml:lang", &header.lang),
    ] {
        attribute(&mut out, name, value.as_deref());
    }
    if header.declares(ns::DIALBACK) {
        out.push_str(" (knows dialback)");
    }
    out + ">"
}

fn raw(element: &Element) -> String {
    String::from_utf8_lossy(element.bytes()).into_owned()
}

fn element(element: &Element, bodies: bool) -> String {
    match (element.ns(), element.name()) {
        (ns::STREAMS, "features" | "error") | (ns::TLS, _) | (ns::SASL, "failure") => raw(element),
        (ns::DIALBACK, _) => dialback(element),
        (ns::SASL, _) => sasl(element),
        _ if bodies => raw(element),
        _ => head(element),
    }
}

/// The key is shown by its length only.
fn dialback(element: &Element) -> String {
    let name = element.name();
    let mut out = format!("<db:{name}");
    attribute(&mut out, "from", element.from().as_deref());
    attribute(&mut out, "to", element.to().as_deref());
    attribute(&mut out, "id", element.id().as_deref());
    attribute(&mut out, "type", element.type_().as_deref());
    let Ok(node) = element.parse() else {
        return out + "> (not readable)";
    };
    let key = node.text().trim().chars().count();
    let reason = conditions(&node);
    match (key, reason.is_empty()) {
        (0, true) => return out + "/>",
        (0, false) => {
            let _ = write!(out, ">{reason}");
        }
        _ => {
            let _ = write!(out, ">{reason}[key of {key} characters]");
        }
    }
    let _ = write!(out, "</db:{name}>");
    out
}

/// What an `<error/>` inside says.
fn conditions(node: &Node) -> String {
    let errors = node.children().filter(|child| child.name == "error");
    let mut out = String::new();
    for condition in errors.flat_map(Node::children).take(4) {
        if condition.name == "text" {
            let _ = write!(out, " ({})", printable(&condition.text(), ATTRIBUTE));
        } else {
            let _ = write!(out, "error {}", printable(&condition.name, ATTRIBUTE));
        }
    }
    out
}

/// EXTERNAL carries a domain and no secret; what others carry is not shown.
fn sasl(element: &Element) -> String {
    let mut out = format!("<{} xmlns='{}'", element.name(), ns::SASL);
    let Ok(node) = element.parse() else {
        return out + "> (not readable)";
    };
    let mechanism = node.attr("mechanism");
    attribute(&mut out, "mechanism", mechanism);
    let text = node.text();
    match text.trim() {
        "" => return out + "/>",
        open if mechanism == Some("EXTERNAL") || open == "=" => {
            let _ = write!(out, ">{}", printable(open, ATTRIBUTE));
        }
        _ => out.push_str(">[not shown]"),
    }
    let _ = write!(out, "</{}>", element.name());
    out
}

/// Name, addresses and size, and the names of what is inside.
fn head(element: &Element) -> String {
    let mut out = format!("<{}", printable(element.name(), ATTRIBUTE));
    let namespace = Some(element.ns()).filter(|name| *name != ns::SERVER);
    attribute(&mut out, "xmlns", namespace);
    attribute(&mut out, "from", element.from().as_deref());
    attribute(&mut out, "to", element.to().as_deref());
    attribute(&mut out, "id", element.id().as_deref());
    attribute(&mut out, "type", element.type_().as_deref());
    out.push('>');
    if let Ok(node) = element.parse() {
        let is_error = node.attr("type") == Some("error");
        let reason = if is_error { conditions(&node) } else { String::new() };
        if !reason.is_empty() {
            let _ = write!(out, " {reason}");
        }
        let mut names = Vec::new();
        for child in node.children().take(NAMES) {
            let own = child.ns == element.ns();
            names.push(if own {
                printable(&child.name, ATTRIBUTE)
            } else {
                format!(
                    "{{{}}}{}",
                    printable(&child.ns, ATTRIBUTE),
                    printable(&child.name, ATTRIBUTE)
                )
            });
        }
        if node.children().count() > NAMES {
            names.push("…".to_owned());
        }
        if !names.is_empty() {
            let _ = write!(out, " with {}", names.join(", "));
        }
        let has_text = node
            .content
            .iter()
            .any(|piece| matches!(piece, Content::Text(text) if !text.trim().is_empty()));
        if has_text {
            out.push_str(" with text");
        }
    }
    let _ = write!(out, ", {} bytes", element.bytes().len());
    out
}
