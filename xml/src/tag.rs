//! A complete start tag: unique attributes, namespaces bound, what routing needs.

use std::borrow::Cow;
use std::sync::Arc;

use super::chars::{attribute_value, letter_run, value_run};
use super::element::{FROM, HAS_LANG, ID, NAMES_CONTENT, OWN_DEFAULT, PREFIXED, Span, TO, TYPE};
use super::error::StreamErrorCondition as Condition;
use super::header::{NsName, StreamContext, StreamHeader, bound_to};
use super::limits::Limits;
use super::ns;
use super::portable::{is_namespace, is_old_name};
use super::scanner::Scanner;
use super::state::{OpenElement, Step, malformed, over_limit};
use super::write::escaped_len;

/// What an attribute's name says before namespaces are looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum AttrKind {
    /// No prefix.
    #[default]
    Plain,
    /// Prefix other than `xmlns`.
    Prefixed,
    /// `xmlns`.
    DefaultNs,
    /// `xmlns:…`.
    PrefixNs,
}

/// An attribute of the start tag in progress.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Attr {
    pub(super) name: Span,
    pub(super) colon: usize,
    pub(super) value: Span,
    /// The value's bytes are the value: no references, nothing to normalise.
    pub(super) plain: bool,
    pub(super) kind: AttrKind,
    /// Namespace, once resolved.
    ns: NsId,
    /// First byte, last byte and length: differs for most pairs of names.
    key: u32,
}

impl Attr {
    /// An attribute whose value is still to come.
    pub(super) fn named(buf: &[u8], start: usize, colon: usize, end: usize) -> Self {
        let name = Span::new(start, end);
        let bytes = name.of(buf);
        let kind = match (colon, bytes) {
            (0, b"xmlns") => AttrKind::DefaultNs,
            (0, _) => AttrKind::Plain,
            (_, [b'x', b'm', b'l', b'n', b's', b':', ..]) => AttrKind::PrefixNs,
            _ => AttrKind::Prefixed,
        };
        let edge = |b: Option<&u8>| u32::from(b.copied().unwrap_or_default());
        Self {
            name,
            colon,
            value: Span::default(),
            plain: true,
            kind,
            ns: 0,
            key: name.len << 16 | edge(bytes.first()) << 8 | edge(bytes.last()),
        }
    }

    /// Reads ` name='value'` at `pos` and says where it ends, if it is there as a whole
    /// and made of ASCII without references.
    #[inline]
    pub(super) fn simple(buf: &[u8], pos: usize, max_name: usize) -> Option<(Self, usize)> {
        let (b' ', rest) = buf.get(pos..)?.split_first()? else {
            return None;
        };
        let start = pos + 1;
        let mut len = letter_run(rest);
        let mut colon = 0;
        if len == 0 {
            return None;
        }
        if rest.get(len) == Some(&b':') {
            let local = letter_run(rest.get(len + 1..)?);
            if local == 0 {
                return None;
            }
            colon = start + len;
            len += 1 + local;
        }
        let [b'=', quote @ (b'\'' | b'"'), value @ ..] = rest.get(len..)? else {
            return None;
        };
        let value_len = value_run(value, *quote);
        if len > max_name || value.get(value_len) != Some(quote) {
            return None;
        }
        let mut attr = Self::named(buf, start, colon, start + len);
        let value = start + len + 2;
        attr.value = Span::new(value, value + value_len);
        Some((attr, value + value_len + 1))
    }

    /// Local part of the name.
    fn local<'b>(&self, buf: &'b [u8]) -> &'b [u8] {
        if self.colon == 0 {
            return self.name.of(buf);
        }
        Span::new(self.colon + 1, self.name.end()).of(buf)
    }

    /// Prefix of the name, empty if none.
    fn prefix<'b>(&self, buf: &'b [u8]) -> &'b [u8] {
        Span::new(self.name.start(), self.colon).of(buf)
    }

    fn value<'b>(&self, buf: &'b [u8]) -> Cow<'b, [u8]> {
        let raw = self.value.of(buf);
        if self.plain {
            return Cow::Borrowed(raw);
        }
        match attribute_value(raw) {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        }
    }
}

/// A prefix bound inside the frame in progress.
#[derive(Debug)]
pub(super) struct Binding {
    prefix: Span,
    attr: Attr,
    /// The value when it is not its bytes: worked out once, since every later declaration is
    /// compared with it.
    decoded: Option<Box<[u8]>>,
    ns: NsId,
}

impl Binding {
    /// The namespace's name.
    fn value<'b>(&'b self, buf: &'b [u8]) -> &'b [u8] {
        match &self.decoded {
            Some(value) => value,
            None => self.attr.value.of(buf),
        }
    }
}

/// Small number that is the same for the same namespace, while it is in scope.
type NsId = u16;

/// The namespace of `xml`.
const NS_XML: NsId = 0;
/// That of the first prefix on the stream header; at most 64 follow.
const NS_HEADER: NsId = 1;
/// That of the first prefix in the frame.
const NS_FRAME: NsId = NS_HEADER + 64;

/// Where a prefix is bound.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// `xml`.
    Xml,
    /// In the frame: index into [`Scanner::bindings`].
    Frame(usize),
    /// On the stream header: index into [`StreamContext::prefixes`].
    Header(usize),
}

impl Scanner {
    /// The start tag in progress is complete: applies the rules of namespaces
    /// and opens the element.
    pub(super) fn start_tag(&mut self, buf: &[u8]) -> Step<()> {
        let outside = self.bindings.len();
        if self.attrs.is_empty() && self.tag_colon == 0 && !self.open.is_empty() {
            self.open.push(OpenElement {
                name: self.tag_name,
                bindings: outside,
            });
            return Ok(());
        }
        let mut declares = false;
        let mut prefixed = false;
        for (i, attr) in self.attrs.iter().enumerate() {
            let earlier = self.attrs.get(..i).unwrap_or_default();
            if earlier
                .iter()
                .any(|a| a.key == attr.key && a.name.of(buf) == attr.name.of(buf))
            {
                return malformed("duplicate attribute");
            }
            match attr.kind {
                AttrKind::Plain => {}
                AttrKind::Prefixed => prefixed = true,
                AttrKind::DefaultNs | AttrKind::PrefixNs => declares = true,
            }
        }
        let top = self.open.is_empty();
        if declares {
            self.declare(buf, top)?;
        }
        if prefixed {
            self.resolve_attributes(buf, top)?;
        }
        let bound = if self.tag_colon == 0 {
            None
        } else {
            let prefix = Span::new(self.tag_name.start(), self.tag_colon);
            Some(self.resolve(buf, prefix.of(buf))?)
        };
        if top {
            self.top_level(buf, bound)?;
            if self.context.is_none() {
                // A header: it is not an element that waits for its end tag here.
                return Ok(());
            }
        }
        self.open.push(OpenElement {
            name: self.tag_name,
            bindings: outside,
        });
        Ok(())
    }

    /// Binds the prefixes that the tag declares (Namespaces in XML §2.2, §3).
    fn declare(&mut self, buf: &[u8], top: bool) -> Step<()> {
        for attr in &self.attrs {
            let value = match attr.kind {
                AttrKind::Plain | AttrKind::Prefixed => continue,
                AttrKind::DefaultNs | AttrKind::PrefixNs => attr.value(buf),
            };
            let reserved = *value == *ns::XML.as_bytes();
            if !is_namespace(&value) && self.head.unportable.is_absent() {
                self.head.unportable = attr.value;
            }
            if *value == *ns::XMLNS.as_bytes() {
                return malformed("the namespace of xmlns is bound");
            }
            if attr.kind == AttrKind::DefaultNs {
                if reserved {
                    return malformed("the namespace of xml is bound to another prefix");
                }
                if top {
                    self.head.flags |= OWN_DEFAULT;
                    self.head.default_decl = Span::new(attr.name.start(), attr.value.end() + 1);
                }
            } else {
                let prefix = Span::new(attr.colon + 1, attr.name.end());
                match prefix.of(buf) {
                    b"xmlns" => return malformed("the prefix xmlns is bound"),
                    b"xml" if !reserved => return malformed("the prefix xml is bound anew"),
                    // Says what is so anyway; `xml` is never looked up here.
                    b"xml" => continue,
                    _ if reserved => {
                        return malformed("the namespace of xml is bound to another prefix");
                    }
                    _ if value.is_empty() => return malformed("a prefix is bound to nothing"),
                    _ => {}
                }
                if self.bindings.len() >= self.limits.max_namespaces {
                    return over_limit("too many namespaces");
                }
                let ns = self.ns_id_of(buf, &value);
                let decoded = (!attr.plain).then(|| value.as_ref().into());
                self.bindings.push(Binding {
                    prefix,
                    attr: *attr,
                    decoded,
                    ns,
                });
            }
            if let Some(context) = &self.context
                && *value == *context.default_ns().as_bytes()
                && !(top && attr.kind == AttrKind::DefaultNs)
            {
                self.head.flags |= NAMES_CONTENT;
            }
        }
        Ok(())
    }

    /// Not every parser takes this name or namespace; the first one is kept.
    pub(super) fn note_unportable(&mut self, what: Span) {
        if self.head.unportable.is_absent() {
            self.head.unportable = what;
        }
    }

    /// Checks the prefixes of attributes, and that no two attributes have the
    /// same expanded name (Namespaces in XML §6.3).
    fn resolve_attributes(&mut self, buf: &[u8], top: bool) -> Step<()> {
        let mut attrs = std::mem::take(&mut self.attrs);
        let result = self.resolve_each(buf, top, &mut attrs);
        self.attrs = attrs;
        result
    }

    fn resolve_each(&mut self, buf: &[u8], top: bool, attrs: &mut [Attr]) -> Step<()> {
        for i in 0..attrs.len() {
            let (earlier, rest) = attrs.split_at_mut(i);
            let Some(attr) = rest.first_mut() else {
                break;
            };
            if attr.kind != AttrKind::Prefixed {
                continue;
            }
            let bound = self.resolve(buf, attr.prefix(buf))?;
            attr.ns = self.ns_id(bound);
            if top && bound == Bound::Xml && attr.local(buf) == b"lang" {
                self.head.flags |= HAS_LANG;
            }
            let twice = earlier
                .iter()
                .any(|a| a.kind == AttrKind::Prefixed && a.ns == attr.ns && a.local(buf) == attr.local(buf));
            if twice {
                return malformed("duplicate attribute by two prefixes");
            }
        }
        Ok(())
    }

    /// The number of the namespace that a prefix stands for.
    fn ns_id(&self, bound: Bound) -> NsId {
        match bound {
            Bound::Xml => NS_XML,
            Bound::Frame(i) => self.bindings.get(i).map_or(NS_FRAME, |b| b.ns),
            Bound::Header(i) => {
                let prefixes = self.context.as_ref().map_or(&[][..], |c| &c.prefixes);
                let name = prefixes.get(i).map(|(_, name)| name);
                let first = prefixes.iter().position(|(_, n)| Some(n) == name);
                nth(NS_HEADER, first.unwrap_or(i))
            }
        }
    }

    /// The number of a namespace that is about to be bound.
    fn ns_id_of(&self, buf: &[u8], name: &[u8]) -> NsId {
        let prefixes = self.context.as_ref().map_or(&[][..], |c| &c.prefixes);
        let on_header = prefixes.iter().position(|(_, n)| n.as_str().as_bytes() == name);
        if let Some(i) = on_header {
            return nth(NS_HEADER, i);
        }
        let mut bound = self.bindings.iter();
        let same = bound.find(|b| b.ns >= NS_FRAME && *b.value(buf) == *name);
        same.map_or(nth(NS_FRAME, self.bindings.len()), |b| b.ns)
    }

    /// Finds what a prefix is bound to.
    fn resolve(&mut self, buf: &[u8], prefix: &[u8]) -> Step<Bound> {
        if let Some(i) = self.bindings.iter().rposition(|b| b.prefix.of(buf) == prefix) {
            return Ok(Bound::Frame(i));
        }
        if prefix == b"xml" {
            return Ok(Bound::Xml);
        }
        let header = self.context.as_ref().and_then(|context| {
            let mut prefixes = context.prefixes.iter();
            prefixes.position(|(p, _)| p.as_bytes() == prefix)
        });
        match header {
            Some(i) => {
                self.head.used |= 1 << i;
                Ok(Bound::Header(i))
            }
            None => malformed("prefix not bound"),
        }
    }

    /// The namespace that a prefix stands for.
    fn namespace<'b>(&'b self, buf: &'b [u8], bound: Bound) -> Cow<'b, [u8]> {
        match bound {
            Bound::Xml => Cow::Borrowed(ns::XML.as_bytes()),
            Bound::Frame(i) => match self.bindings.get(i) {
                Some(binding) => Cow::Borrowed(binding.value(buf)),
                None => Cow::Borrowed(b""),
            },
            Bound::Header(i) => {
                let context = self.context.as_ref();
                let prefix = context.and_then(|c| c.prefixes.get(i));
                Cow::Borrowed(prefix.map_or(b"", |(_, name)| name.as_str().as_bytes()))
            }
        }
    }

    /// Notes name, namespace and addresses of a top-level element or header.
    fn top_level(&mut self, buf: &[u8], bound: Option<Bound>) -> Step<()> {
        self.head.qname = self.tag_name;
        self.head.local = self.tag_name;
        let own_default = |s: &Self| {
            let mut attrs = s.attrs.iter();
            attrs
                .find(|a| a.kind == AttrKind::DefaultNs)
                .map(|a| NsName::new(&String::from_utf8_lossy(&a.value(buf))))
        };
        self.head.ns = match bound {
            Some(Bound::Header(i)) => {
                let prefix = self.context.as_ref().and_then(|c| c.prefixes.get(i));
                prefix.map(|(_, name)| name.clone()).unwrap_or_default()
            }
            Some(bound) => NsName::new(&String::from_utf8_lossy(&self.namespace(buf, bound))),
            None if self.head.flags & OWN_DEFAULT != 0 => own_default(self).unwrap_or_default(),
            None => {
                let context = self.context.as_ref();
                context.map(|c| c.default_ns.clone()).unwrap_or_default()
            }
        };
        if bound.is_some() {
            self.head.flags |= PREFIXED;
            self.head.local = Span::new(self.tag_colon + 1, self.tag_name.end());
        }
        if self.context.is_some() && self.head.local.of(buf) == b"stream" && self.head.ns.as_str() == ns::STREAMS {
            return Err((Condition::BadFormat, "second stream header"));
        }
        for attr in self.attrs.iter().filter(|a| a.kind == AttrKind::Plain) {
            let which = match attr.name.of(buf) {
                b"from" => FROM,
                b"to" => TO,
                b"id" => ID,
                b"type" => TYPE,
                _ => continue,
            };
            if let Some(value) = self.head.values.get_mut(which) {
                *value = attr.value;
            }
        }
        Ok(())
    }

    /// Whether every name of the header that not every parser takes is that of a prefix: an element
    /// that uses it is known by that, and otherwise it goes nowhere.
    fn only_prefixes_are_unportable(&self, buf: &[u8]) -> bool {
        is_old_name(self.tag_name.of(buf))
            && self.attrs.iter().all(|attr| match attr.kind {
                AttrKind::Plain | AttrKind::Prefixed => is_old_name(attr.name.of(buf)),
                AttrKind::DefaultNs | AttrKind::PrefixNs => is_namespace(&attr.value(buf)),
            })
    }

    /// The start tag just completed is the stream header.
    pub(super) fn header(&mut self, buf: &[u8], end: usize) -> Step<Box<StreamHeader>> {
        if end > self.limits.max_stanza_bytes {
            return over_limit("stream header too large");
        }
        if self.bindings.len() > Limits::HEADER_PREFIXES {
            return over_limit("too many namespaces");
        }
        if self.head.ns.as_str() != ns::STREAMS {
            return Err((Condition::InvalidNamespace, "the root is not in the streams namespace"));
        }
        if self.head.local.of(buf) != b"stream" {
            return Err((Condition::BadFormat, "the root is not a stream"));
        }
        if !self.head.unportable.is_absent() && !self.only_prefixes_are_unportable(buf) {
            return Err((
                Condition::BadFormat,
                "a name or namespace of the stream header that not every parser takes",
            ));
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let attribute = |name: &[u8]| {
            let mut attrs = self.attrs.iter();
            attrs.find(|a| a.name.of(buf) == name).map(|a| text(&a.value(buf)))
        };
        let prefixes: Vec<(Box<str>, NsName)> = self
            .bindings
            .iter()
            .map(|b| {
                let name = NsName::new(&text(b.value(buf)));
                (text(b.prefix.of(buf)).into(), name)
            })
            .collect();
        let default_ns = attribute(b"xmlns").unwrap_or_default();
        let lang = attribute(b"xml:lang");
        if lang.as_ref().is_some_and(|lang| lang.len() > Limits::HEADER_LANGUAGE) {
            return over_limit("the language of the stream is longer than 64 bytes");
        }
        let written = |(prefix, name): &(Box<str>, NsName)| prefix.len() + escaped_len(name.as_str());
        if prefixes.iter().map(written).sum::<usize>() > Limits::HEADER_NAMES {
            return over_limit("the namespaces of the stream are longer than 2048 bytes");
        }
        let context = Arc::new(StreamContext {
            root: self.head.qname.of(buf).into(),
            default_ns: NsName::new(&default_ns),
            default_ns_prefixes: bound_to(&prefixes, &default_ns),
            prefixes,
            lang: lang.as_deref().map(Into::into),
        });
        let header = StreamHeader {
            from: attribute(b"from"),
            to: attribute(b"to"),
            id: attribute(b"id"),
            version: attribute(b"version"),
            lang,
            context: Arc::clone(&context),
        };
        self.context = Some(context);
        self.bindings.clear();
        self.open.clear();
        Ok(Box::new(header))
    }
}

/// Indices are at most 2^15, the most prefixes in scope.
fn nth(first: NsId, index: usize) -> NsId {
    first.saturating_add(NsId::try_from(index).unwrap_or(NsId::MAX))
}
