//! A small document model on top of rxml (strict, namespace-aware, no DTD): documents as of SOAP, XMPP streams stanza by
//! stanza. minidom is no substitute: its reader takes duplicate attributes and whole documents only.

use rxml::error::{EndOrError, Error};
use rxml::parser::{Options, WithOptions};
use rxml::{AttrMap, Event, Parse, Parser};
use std::fmt::Write as _;

/// The largest stanza or document taken, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
const XML_NS: &str = "http://www.w3.org/XML/1998/namespace";

/// An element with its resolved namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Namespace name; empty: none.
    pub ns: String,
    /// Local name.
    pub name: String,
    /// Attributes: namespace, local name, value; sorted.
    pub attributes: Vec<(String, String, String)>,
    /// Content in document order.
    pub children: Vec<Node>,
}

/// Content of an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A child element.
    Element(Element),
    /// Character data, unescaped.
    Text(String),
}

impl Element {
    /// An empty element.
    pub fn new(ns: &str, name: &str) -> Self {
        Self {
            ns: ns.into(),
            name: name.into(),
            attributes: Vec::new(),
            children: Vec::new(),
        }
    }

    /// With one more attribute.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    /// With one more child.
    #[must_use]
    pub fn with_child(mut self, child: Self) -> Self {
        self.children.push(Node::Element(child));
        self
    }

    /// With character data.
    #[must_use]
    pub fn with_text(mut self, text: &str) -> Self {
        self.children.push(Node::Text(text.into()));
        self
    }

    /// The value of an attribute without namespace.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(ns, local, _)| ns.is_empty() && local == name)
            .map(|(_, _, value)| value.as_str())
    }

    /// Sets an attribute without namespace.
    pub fn set(&mut self, name: &str, value: &str) {
        match self
            .attributes
            .iter_mut()
            .find(|(ns, local, _)| ns.is_empty() && local == name)
        {
            Some(found) => found.2 = value.into(),
            None => self.attributes.push((String::new(), name.into(), value.into())),
        }
    }

    /// The child elements.
    pub fn elements(&self) -> impl Iterator<Item = &Self> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The first child element of that local name.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.elements().find(|element| element.name == name)
    }

    /// The character data directly inside.
    pub fn text(&self) -> String {
        self.children
            .iter()
            .filter_map(|node| match node {
                Node::Text(text) => Some(text.as_str()),
                Node::Element(_) => None,
            })
            .collect()
    }

    /// Replaces a namespace everywhere, so that stanzas are the same whatever stream they came on.
    fn rename_ns(&mut self, from: &[&str], to: &str) {
        if from.contains(&self.ns.as_str()) {
            self.ns = to.into();
        }
        for node in &mut self.children {
            if let Node::Element(element) = node {
                element.rename_ns(from, to);
            }
        }
    }

    /// As text inside a context whose default namespace is `context`.
    pub fn to_xml(&self, context: &str) -> String {
        let mut out = String::with_capacity(256);
        self.write(&mut out, context);
        out
    }

    fn write(&self, out: &mut String, context: &str) {
        let _ = write!(out, "<{}", self.name);
        if self.ns != context {
            let _ = write!(out, " xmlns='{}'", escape(&self.ns));
        }
        for (index, (ns, name, value)) in self.attributes.iter().enumerate() {
            let value = escape(value);
            let _ = match ns.as_str() {
                "" => write!(out, " {name}='{value}'"),
                XML_NS => write!(out, " xml:{name}='{value}'"),
                ns => write!(out, " xmlns:a{index}='{}' a{index}:{name}='{value}'", escape(ns)),
            };
        }
        if self.children.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        for node in &self.children {
            match node {
                Node::Element(element) => element.write(out, &self.ns),
                Node::Text(text) => out.push_str(&escape(text)),
            }
        }
        let _ = write!(out, "</{}>", self.name);
    }
}

/// Escapes for text and for attribute values in either quotes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            '\r' | '\n' | '\t' => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Parses one whole document.
pub fn parse_document(text: &[u8]) -> Result<Element, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("larger than {MAX_BYTES} bytes"));
    }
    let mut builder = Builder::default();
    let mut parser = parser();
    let mut rest = text;
    let mut root = None;
    loop {
        match parser.parse(&mut rest, true) {
            Ok(None) => break,
            Ok(Some(event)) => {
                if let Some(element) = builder.push(event) {
                    root = Some(element);
                }
            }
            Err(EndOrError::NeedMoreData) => return Err("ends too early".into()),
            Err(EndOrError::Error(error)) => return Err(error.to_string()),
        }
    }
    root.ok_or_else(|| "has no element".into())
}

/// Parses one stanza written without its stream's namespace (or in `jabber:client`); the result is in `ns`.
pub fn parse_stanza(text: &[u8], ns: &str) -> Result<Element, String> {
    let mut element = parse_document(text)?;
    element.rename_ns(&["", "jabber:client"], ns);
    Ok(element)
}

fn parser() -> Parser {
    Parser::with_options(Options {
        max_token_length: MAX_BYTES,
        ..Options::default()
    })
}

/// Builds elements from events.
#[derive(Debug, Default)]
struct Builder {
    open: Vec<Element>,
}

impl Builder {
    /// Takes one event; gives the element that it completes on the outermost level.
    fn push(&mut self, event: Event) -> Option<Element> {
        match event {
            Event::XmlDeclaration(..) => None,
            Event::StartElement(_, (ns, name), attributes) => {
                self.open.push(Element {
                    ns: ns.as_str().into(),
                    name: name.as_str().into(),
                    attributes: attributes_of(attributes),
                    children: Vec::new(),
                });
                None
            }
            Event::Text(_, text) => {
                if let Some(top) = self.open.last_mut() {
                    match top.children.last_mut() {
                        Some(Node::Text(before)) => before.push_str(&text),
                        _ => top.children.push(Node::Text(text)),
                    }
                }
                None
            }
            Event::EndElement(_) => {
                let element = self.open.pop()?;
                match self.open.last_mut() {
                    Some(parent) => {
                        parent.children.push(Node::Element(element));
                        None
                    }
                    None => Some(element),
                }
            }
        }
    }
}

fn attributes_of(map: AttrMap) -> Vec<(String, String, String)> {
    let mut attributes: Vec<_> = map
        .into_iter()
        .map(|((ns, name), value)| (ns.as_str().into(), name.as_str().into(), value))
        .collect();
    attributes.sort();
    attributes
}

/// What happens on an XMPP stream.
#[derive(Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// The stream header (without children).
    Header(Element),
    /// One complete child of the stream element.
    Stanza(Element),
    /// `</stream:stream>`.
    End,
}

/// Why a stream cannot be read any further: the stream error to answer with (RFC 6120 section 4.9.3) and a text.
#[derive(Debug, PartialEq, Eq)]
pub struct StreamFault {
    /// `not-well-formed`, `restricted-xml`, `bad-namespace-prefix`, `policy-violation`.
    pub condition: &'static str,
    /// For the log.
    pub text: String,
}

/// Reads an XMPP stream from bytes as they come.
#[derive(Debug)]
pub struct StreamParser {
    parser: Parser,
    builder: Builder,
    header_seen: bool,
    pending: usize,
}

impl Default for StreamParser {
    fn default() -> Self {
        Self {
            parser: parser(),
            builder: Builder::default(),
            header_seen: false,
            pending: 0,
        }
    }
}

impl StreamParser {
    /// The next event in `bytes`; `None`: all bytes are taken and more are needed.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<StreamEvent>, StreamFault> {
        loop {
            let before = bytes.len();
            let outcome = self.parser.parse(bytes, false);
            self.pending += before - bytes.len();
            if self.pending > MAX_BYTES {
                return Err(StreamFault {
                    condition: "policy-violation",
                    text: format!("a stanza is larger than {MAX_BYTES} bytes"),
                });
            }
            match outcome {
                Ok(None) => return Ok(Some(StreamEvent::End)),
                Ok(Some(Event::StartElement(_, (ns, name), attributes))) if !self.header_seen => {
                    self.header_seen = true;
                    self.pending = 0;
                    return Ok(Some(StreamEvent::Header(Element {
                        ns: ns.as_str().into(),
                        name: name.as_str().into(),
                        attributes: attributes_of(attributes),
                        children: Vec::new(),
                    })));
                }
                Ok(Some(Event::EndElement(_))) if self.builder.open.is_empty() => {
                    return Ok(Some(StreamEvent::End));
                }
                Ok(Some(Event::Text(_, text))) if self.builder.open.is_empty() => {
                    self.pending = 0;
                    if text.chars().any(|c| !c.is_ascii_whitespace()) {
                        return Err(StreamFault {
                            condition: "invalid-xml",
                            text: "character data between stanzas".into(),
                        });
                    }
                }
                Ok(Some(event)) => {
                    if self.builder.open.len() > 256 {
                        return Err(StreamFault {
                            condition: "policy-violation",
                            text: "elements are nested deeper than 256".into(),
                        });
                    }
                    if let Some(element) = self.builder.push(event) {
                        self.pending = 0;
                        return Ok(Some(StreamEvent::Stanza(element)));
                    }
                }
                Err(EndOrError::NeedMoreData) => return Ok(None),
                Err(EndOrError::Error(error)) => {
                    return Err(StreamFault {
                        condition: match error {
                            Error::RestrictedXml(_) | Error::UndeclaredEntity => "restricted-xml",
                            Error::UndeclaredNamespacePrefix(_) => "bad-namespace-prefix",
                            _ => "not-well-formed",
                        },
                        text: error.to_string(),
                    });
                }
            }
        }
    }
}
