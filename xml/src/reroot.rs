//! Moves a stanza from one stream to another that has another content namespace.
//!
//! The two streams differ in what their headers put in scope: default namespace,
//! prefixes, `xml:lang`. A stanza that relies on none but the default namespace is
//! forwarded byte for byte. Prefixes of the peer's header that are used inside, and its
//! `xml:lang`, are declared again on the stanza. Only a stanza that names its content
//! namespace itself (`xmlns='jabber:server'`, `<s:message>`) is written anew.
//!
//! In each case the infoset stays the same, with the content namespace of elements
//! replaced. Attributes keep theirs: two that differ by nothing else must not become one.

use bytes::{Bytes, BytesMut};
use rxml::{Event, Namespace};

use super::element::{Element, HAS_LANG, NAMES_CONTENT, OWN_DEFAULT, PREFIXED};
use super::error::XmlError;
use super::header::StreamContext;
use super::negotiation::{Growth, events};
use super::ns;
use super::write::{escape_attribute, escape_text, escaped_len};

/// From which content namespace to which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reroot {
    /// Content namespace where the stanza was read.
    pub from: &'static str,
    /// Content namespace, and default namespace, where it is written.
    pub to: &'static str,
}

impl Reroot {
    /// From a peer's stream to a component link.
    pub const TO_LINK: Self = Self {
        from: ns::SERVER,
        to: ns::COMPONENT,
    };
    /// From a component link to a peer's stream.
    pub const TO_SERVER: Self = Self {
        from: ns::COMPONENT,
        to: ns::SERVER,
    };

    fn map(self, ns: Namespace<'static>) -> Namespace<'static> {
        if *ns == *self.from {
            Namespace::from_str(self.to)
        } else {
            ns
        }
    }
}

impl Element {
    /// The element's bytes for the other stream; the original ones, not copied, if they will do.
    ///
    /// Fails if the element would grow beyond reason, or if rxml refuses what the framer let pass.
    pub fn reroot(&self, way: Reroot) -> Result<Bytes, XmlError> {
        if self.plan(way) == Plan::Verbatim {
            return Ok(self.bytes.clone());
        }
        let mut out = BytesMut::with_capacity(self.bytes.len() + 64);
        self.reroot_into(way, &mut out)?;
        Ok(out.freeze())
    }

    /// Appends the element's bytes for the other stream, for writers that batch.
    pub fn reroot_into(&self, way: Reroot, out: &mut BytesMut) -> Result<(), XmlError> {
        match self.plan(way) {
            Plan::Verbatim => out.extend_from_slice(&self.bytes),
            Plan::Splice => self.splice(out)?,
            Plan::Anew => out.extend_from_slice(self.write_anew(way)?.as_bytes()),
        }
        Ok(())
    }

    fn plan(&self, way: Reroot) -> Plan {
        let head = &self.head;
        let context = &*self.context;
        let own = head.flags & OWN_DEFAULT != 0;
        if context.default_ns() != way.from
            || head.flags & (PREFIXED | NAMES_CONTENT) != 0
            || head.used & context.default_ns_prefixes != 0
            || (own && head.ns.as_str() != way.from)
        {
            Plan::Anew
        } else if own || head.used != 0 || self.missing_lang().is_some() {
            Plan::Splice
        } else {
            Plan::Verbatim
        }
    }

    /// Language of the stream that the element does not override.
    fn missing_lang(&self) -> Option<&str> {
        let lang = self.context.lang();
        lang.filter(|_| self.head.flags & HAS_LANG == 0)
    }

    /// Original bytes with declarations put in behind the name, and without the
    /// element's own `xmlns='…'`.
    fn splice(&self, out: &mut BytesMut) -> Result<(), XmlError> {
        let part = |a: usize, b: usize| self.bytes.get(a..b).unwrap_or_default();
        let name_end = self.head.qname.end();
        // A header adds less; what surrounds an element in an envelope may be longer.
        let growth = Growth::of(self.bytes.len());
        let mut added = String::new();
        for (i, (prefix, name)) in self.context.prefixes().enumerate() {
            if self.head.used & 1 << i != 0 {
                growth.check(added.len() + escaped_len(name))?;
                declare(&mut added, prefix, name);
            }
        }
        if let Some(lang) = self.missing_lang() {
            growth.check(added.len() + escaped_len(lang))?;
            added.push_str(" xml:lang='");
            escape_attribute(lang, &mut added);
            added.push('\'');
        }
        out.reserve(self.bytes.len() + added.len());
        out.extend_from_slice(part(0, name_end));
        out.extend_from_slice(added.as_bytes());
        let own = self.head.default_decl;
        if own.is_absent() {
            out.extend_from_slice(part(name_end, self.bytes.len()));
        } else {
            out.extend_from_slice(part(name_end, own.start()));
            out.extend_from_slice(part(own.end(), self.bytes.len()));
        }
        Ok(())
    }

    fn write_anew(&self, way: Reroot) -> Result<String, XmlError> {
        let mut writer = Rewriter {
            way,
            out: String::with_capacity(self.bytes.len() + 64),
            open: Vec::new(),
            in_tag: false,
            lang: self.missing_lang(),
        };
        write_all(&self.bytes, &self.context, &mut writer)?;
        Ok(writer.out)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Verbatim,
    Splice,
    Anew,
}

fn declare(out: &mut String, prefix: &str, name: &str) {
    out.push_str(" xmlns:");
    out.push_str(prefix);
    out.push_str("='");
    escape_attribute(name, out);
    out.push('\'');
}

/// Writes events with as few declarations as possible: elements have no prefixes.
struct Rewriter<'a> {
    way: Reroot,
    out: String,
    /// Name as written of the open elements, and the default namespace inside.
    open: Vec<(String, Namespace<'static>)>,
    in_tag: bool,
    /// To be added to the first element.
    lang: Option<&'a str>,
}

fn write_all(bytes: &[u8], context: &StreamContext, writer: &mut Rewriter<'_>) -> Result<(), XmlError> {
    let growth = Growth::of(bytes.len());
    events(bytes, context, |event| {
        match event {
            Event::XmlDeclaration(..) => {}
            Event::StartElement(_, (ns, name), attrs) => writer.start(ns, &name, &attrs),
            Event::Text(_, text) => {
                writer.close_tag();
                escape_text(&text, &mut writer.out);
            }
            Event::EndElement(_) => writer.end(),
        }
        growth.check(writer.out.len())
    })
}

impl Rewriter<'_> {
    fn start(&mut self, ns: Namespace<'static>, name: &str, attrs: &rxml::AttrMap) {
        self.close_tag();
        let ns = self.way.map(ns);
        let default = self.open.last().map(|(_, ns)| ns.clone());
        let mut default = default.unwrap_or_else(|| Namespace::from_str(self.way.to));
        // The one namespace that must have its prefix.
        let written = if *ns == *ns::XML {
            format!("xml:{name}")
        } else {
            name.to_owned()
        };
        self.out.push('<');
        self.out.push_str(&written);
        if ns != default && *ns != *ns::XML {
            self.out.push_str(" xmlns='");
            escape_attribute(&ns, &mut self.out);
            self.out.push('\'');
            default = ns;
        }
        for (i, ((attr_ns, attr), value)) in attrs.iter().enumerate() {
            if attr_ns.is_empty() {
                self.out.push(' ');
            } else if **attr_ns == *ns::XML {
                self.out.push_str(" xml:");
            } else {
                let prefix = format!("a{i}");
                declare(&mut self.out, &prefix, attr_ns);
                self.out.push(' ');
                self.out.push_str(&prefix);
                self.out.push(':');
            }
            self.out.push_str(attr);
            self.out.push_str("='");
            escape_attribute(value, &mut self.out);
            self.out.push('\'');
        }
        if let Some(lang) = self.lang.take() {
            self.out.push_str(" xml:lang='");
            escape_attribute(lang, &mut self.out);
            self.out.push('\'');
        }
        self.open.push((written, default));
        self.in_tag = true;
    }

    fn end(&mut self) {
        let Some((name, _)) = self.open.pop() else {
            return;
        };
        if self.in_tag {
            self.in_tag = false;
            self.out.push_str("/>");
        } else {
            self.out.push_str("</");
            self.out.push_str(&name);
            self.out.push('>');
        }
    }

    /// A start tag is left open in case the element turns out to be empty.
    fn close_tag(&mut self) {
        if self.in_tag {
            self.in_tag = false;
            self.out.push('>');
        }
    }
}
