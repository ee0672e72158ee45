//! Strict reader of single elements for the negotiation: features, STARTTLS,
//! SASL, dialback, handshake, errors. Also the way to look inside a stanza.
//!
//! The framer has cut and checked the bytes; rxml reads them again with the
//! stream's namespaces in scope, so two independent parsers must agree.

use rxml::{Event, Parse, WithOptions};

use super::element::Element;
use super::error::{StreamErrorCondition, XmlError};
use super::header::StreamContext;
use super::ns;
use super::portable::is_old_name;
use super::write::{escape_attribute, is_writable};

/// An element with everything in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Namespace; empty for none.
    pub ns: String,
    /// Local name.
    pub name: String,
    /// Attributes in no particular order, declarations excluded.
    pub attrs: Vec<Attribute>,
    /// Child elements and text in document order.
    pub content: Vec<Content>,
}

/// An attribute of a [`Node`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attribute {
    /// Namespace; empty for an attribute without prefix.
    pub ns: String,
    /// Local name.
    pub name: String,
    /// Value, references replaced.
    pub value: String,
}

/// A piece of a [`Node`]'s content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Character data; neighbouring pieces are joined.
    Text(String),
    /// A child element.
    Node(Node),
}

/// Deeper trees are refused; a [`Node`] is dropped recursively. The configuration allows no more.
const MAX_DEPTH: usize = 256;

/// How much an element may grow when names are written out. A namespace is declared once and used
/// by every child: without a bound, the square of the element's size would be written.
#[derive(Debug)]
pub(super) struct Growth(usize);

impl Growth {
    /// For an element of `bytes`: room for anything that is meant seriously, and for what
    /// a stream header may add.
    pub(super) fn of(bytes: usize) -> Self {
        Self(bytes.saturating_mul(16).saturating_add(4 * 1024))
    }

    /// So many bytes have been written in all.
    pub(super) fn check(&self, written: usize) -> Result<(), XmlError> {
        if written <= self.0 {
            return Ok(());
        }
        Err(XmlError {
            condition: StreamErrorCondition::PolicyViolation,
            reason: "an element repeats long namespaces too often",
            offset: 0,
        })
    }
}

impl Node {
    /// Is it this element?
    pub fn is(&self, ns: &str, name: &str) -> bool {
        self.name == name && self.ns == ns
    }

    /// Value of an attribute without namespace.
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attr_ns("", name)
    }

    /// Value of an attribute in a namespace, `(ns::XML, "lang")`.
    pub fn attr_ns(&self, ns: &str, name: &str) -> Option<&str> {
        let mut attrs = self.attrs.iter();
        let attr = attrs.find(|a| a.name == name && a.ns == ns)?;
        Some(&attr.value)
    }

    /// Child elements.
    pub fn children(&self) -> impl Iterator<Item = &Node> {
        self.content.iter().filter_map(|piece| match piece {
            Content::Node(node) => Some(node),
            Content::Text(_) => None,
        })
    }

    /// First child element with this name.
    pub fn child(&self, ns: &str, name: &str) -> Option<&Node> {
        self.children().find(|child| child.is(ns, name))
    }

    /// The element's own character data, without that of its children.
    pub fn text(&self) -> String {
        let pieces = self.content.iter().map(|piece| match piece {
            Content::Text(text) => text.as_str(),
            Content::Node(_) => "",
        });
        pieces.collect()
    }

    fn push_text(&mut self, more: &str) {
        if let Some(Content::Text(text)) = self.content.last_mut() {
            text.push_str(more);
        } else {
            self.content.push(Content::Text(more.to_owned()));
        }
    }
}

impl Element {
    /// Reads the element into a tree.
    ///
    /// Fails only if rxml refuses what the framer let pass; the peer gets
    /// the condition as for any other XML error.
    pub fn parse(&self) -> Result<Node, XmlError> {
        let node = parse(&self.bytes, &self.context);
        if node.is_ok() || self.unportable().is_none() {
            return node;
        }
        // rxml takes fewer names than XML 1.0 allows. No name that means something here has such a
        // character: in a list of features the rest counts.
        let text = String::from_utf8_lossy(&self.bytes);
        let text: String = text.chars().map(stand_in).collect();
        parse(text.as_bytes(), &self.context)
    }
}

/// Another character of a name, as long, in place of one that rxml does not take in names.
fn stand_in(c: char) -> char {
    const FIRST: char = '\u{fdf0}';
    match c {
        FIRST..='\u{fffd}' => {
            let nth = u32::from(c) - u32::from(FIRST);
            char::from_u32(u32::from('\u{4e00}') + nth).unwrap_or(c)
        }
        other => other,
    }
}

/// Reads one element whose surroundings are `context`.
pub fn parse(bytes: &[u8], context: &StreamContext) -> Result<Node, XmlError> {
    let mut open: Vec<Node> = Vec::new();
    let mut done = None;
    let growth = Growth::of(bytes.len());
    let mut written = 0;
    events(bytes, context, |event| {
        match event {
            Event::XmlDeclaration(..) => {}
            Event::StartElement(_, (ns, name), attrs) => {
                let names = attrs.iter().map(|((ns, _), _)| ns.len());
                written += ns.len() + names.sum::<usize>();
                growth.check(written)?;
                open.push(Node {
                    ns: ns.to_string(),
                    name: name.to_string(),
                    attrs: attrs
                        .into_iter()
                        .map(|((ns, name), value)| Attribute {
                            ns: ns.to_string(),
                            name: name.to_string(),
                            value,
                        })
                        .collect(),
                    content: Vec::new(),
                });
            }
            Event::Text(_, text) => {
                if let Some(node) = open.last_mut() {
                    node.push_text(&text);
                }
            }
            Event::EndElement(_) => {
                let node = open.pop();
                match (open.last_mut(), node) {
                    (Some(parent), Some(node)) => parent.content.push(Content::Node(node)),
                    (None, node) => done = node,
                    (Some(_), None) => {}
                }
            }
        }
        Ok(())
    })?;
    done.ok_or(XmlError {
        condition: StreamErrorCondition::NotWellFormed,
        reason: "no element",
        offset: 0,
    })
}

/// Reads one element whose surroundings are `context`, event by event.
pub(super) fn events(
    bytes: &[u8],
    context: &StreamContext,
    mut each: impl FnMut(Event) -> Result<(), XmlError>,
) -> Result<(), XmlError> {
    let refused = |condition, reason| XmlError {
        condition,
        reason,
        offset: 0,
    };
    let root = synthetic_root(context).ok_or(refused(
        StreamErrorCondition::InternalServerError,
        "the context cannot be written",
    ))?;
    let mut parser = rxml::Parser::with_options(rxml::Options {
        // One token is at most the whole element.
        max_token_length: bytes.len().max(root.len()),
        ..Default::default()
    });
    let mut depth = 0usize;
    let mut elements = 0usize;
    for mut chunk in [root.as_bytes(), bytes] {
        loop {
            match parser.parse(&mut chunk, false) {
                Ok(Some(event)) => {
                    match event {
                        Event::StartElement(..) => depth += 1,
                        Event::EndElement(..) => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    let outer = match event {
                        Event::StartElement(..) => depth <= 1,
                        _ => depth == 0,
                    };
                    if matches!(event, Event::StartElement(..)) && depth == 2 {
                        elements += 1;
                    }
                    // The root around the element is one more.
                    if depth > MAX_DEPTH + 1 {
                        return Err(refused(
                            StreamErrorCondition::PolicyViolation,
                            "elements nested too deeply",
                        ));
                    }
                    if !outer {
                        each(event)?;
                    }
                }
                Ok(None) | Err(rxml::error::EndOrError::NeedMoreData) => break,
                Err(rxml::error::EndOrError::Error(error)) => {
                    return Err(refused(condition(error), "refused by the strict parser"));
                }
            }
        }
    }
    if depth == 1 && elements == 1 {
        Ok(())
    } else {
        Err(refused(StreamErrorCondition::NotWellFormed, "not one complete element"))
    }
}

/// Start tag that puts the context's namespaces in scope.
fn synthetic_root(context: &StreamContext) -> Option<String> {
    let mut root = String::from("<r");
    let mut declare = |name: &str, value: &str| {
        if !is_writable(value) {
            return None;
        }
        root.push(' ');
        root.push_str(name);
        root.push_str("='");
        escape_attribute(value, &mut root);
        root.push('\'');
        Some(())
    };
    if !context.default_ns().is_empty() {
        declare("xmlns", context.default_ns())?;
    }
    for (prefix, name) in context.prefixes() {
        // rxml takes not every prefix either; nothing that may be passed on uses such a one.
        if !is_old_name(prefix.as_bytes()) {
            continue;
        }
        declare(&format!("xmlns:{prefix}"), name)?;
    }
    root.push('>');
    Some(root)
}

fn condition(error: rxml::Error) -> StreamErrorCondition {
    match error {
        rxml::Error::RestrictedXml(_) | rxml::Error::UndeclaredEntity => StreamErrorCondition::RestrictedXml,
        rxml::Error::InvalidUtf8Byte(_) => StreamErrorCondition::UnsupportedEncoding,
        _ => StreamErrorCondition::NotWellFormed,
    }
}

impl Node {
    /// Condition and text of a `<stream:error/>`; an unknown condition is `undefined-condition`.
    pub fn stream_error(&self) -> Option<(StreamErrorCondition, Option<String>)> {
        if !self.is(ns::STREAMS, "error") {
            return None;
        }
        let condition = self
            .children()
            .filter(|child| child.ns == ns::STREAM_ERRORS)
            .find_map(|child| child.name.parse().ok())
            .unwrap_or(StreamErrorCondition::UndefinedCondition);
        Some((condition, self.child(ns::STREAM_ERRORS, "text").map(Node::text)))
    }
}
