//! One top-level element: its bytes as received and what the framer picked out of them.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::chars::attribute_value;
use super::header::{NsName, StreamContext};
use super::write::escape_attribute;

/// A range of a frame's bytes. Never starts at 0, where a frame has its `<`:
/// the default stands for "absent".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) len: u32,
}

impl Span {
    /// From byte `start` up to byte `end`; frames are far below 4 GiB.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the framer keeps frames below 2^30 bytes"
    )]
    pub(super) fn new(start: usize, end: usize) -> Self {
        Self {
            start: start as u32,
            len: end.saturating_sub(start) as u32,
        }
    }

    pub(super) fn start(self) -> usize {
        self.start as usize
    }

    pub(super) fn end(self) -> usize {
        self.start as usize + self.len as usize
    }

    pub(super) fn is_absent(self) -> bool {
        self.start == 0
    }

    /// The bytes meant, nothing when they are not there.
    #[inline]
    pub(super) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start()..self.end()).unwrap_or_default()
    }
}

/// The attributes that routing needs; index into [`Head::values`].
pub(super) const FROM: usize = 0;
pub(super) const TO: usize = 1;
pub(super) const ID: usize = 2;
pub(super) const TYPE: usize = 3;

/// The element's name is written with a prefix.
pub(super) const PREFIXED: u8 = 1;
/// The element declares the default namespace itself.
pub(super) const OWN_DEFAULT: u8 = 2;
/// Some declaration inside names the stream's default namespace.
pub(super) const NAMES_CONTENT: u8 = 4;
/// The element has `xml:lang`.
pub(super) const HAS_LANG: u8 = 8;

/// What the scanner notes about a top-level element.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    /// Name as written, with prefix.
    pub(super) qname: Span,
    /// Local name.
    pub(super) local: Span,
    pub(super) ns: NsName,
    pub(super) values: [Span; 4],
    /// The whole `xmlns='…'` of the element, when it has one.
    pub(super) default_decl: Span,
    /// The first name or namespace anywhere inside that not every parser takes.
    pub(super) unportable: Span,
    /// Header prefixes used anywhere inside, by index.
    pub(super) used: u64,
    pub(super) flags: u8,
}

/// A top-level element of a stream: stanza, dialback element, feature list, error …
///
/// Holds the original bytes, a slice of the read buffer. Complete, well-formed
/// in the stream's context, within the limits.
#[derive(Debug, Clone)]
pub struct Element {
    pub(super) bytes: Bytes,
    pub(super) head: Head,
    pub(super) context: Arc<StreamContext>,
}

impl Element {
    /// The bytes as received, from `<` to `>`.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Local name, `message`.
    pub fn name(&self) -> &str {
        std::str::from_utf8(self.head.local.of(&self.bytes)).unwrap_or_default()
    }

    /// Namespace, `jabber:server`; empty for none.
    pub fn ns(&self) -> &str {
        self.head.ns.as_str()
    }

    /// Is it this element?
    pub fn is(&self, ns: &str, name: &str) -> bool {
        self.head.local.of(&self.bytes) == name.as_bytes() && self.ns() == ns
    }

    /// `from`, references replaced.
    pub fn from(&self) -> Option<Cow<'_, str>> {
        self.value(FROM)
    }

    /// `to`, references replaced.
    pub fn to(&self) -> Option<Cow<'_, str>> {
        self.value(TO)
    }

    /// `id`, references replaced.
    pub fn id(&self) -> Option<Cow<'_, str>> {
        self.value(ID)
    }

    /// `type`, references replaced.
    pub fn type_(&self) -> Option<Cow<'_, str>> {
        self.value(TYPE)
    }

    /// A name, or the value of a namespace declaration, that is well-formed and that not every
    /// parser takes (see `portable`): nothing with one may be passed on. Cut to what a line of the
    /// log has room for.
    pub fn unportable(&self) -> Option<&str> {
        const MOST: usize = 80;
        let span = self.head.unportable;
        if span.is_absent() {
            return None;
        }
        let text = std::str::from_utf8(span.of(&self.bytes)).unwrap_or_default();
        let end = text.char_indices().map(|(at, c)| at + c.len_utf8());
        let end = end.take_while(|end| *end <= MOST).last().unwrap_or(0);
        text.get(..end)
    }

    /// Namespaces and language in force around the element.
    pub fn context(&self) -> &Arc<StreamContext> {
        &self.context
    }

    /// `from` as it is written, in its quotes.
    pub fn from_quoted(&self) -> Option<&[u8]> {
        self.quoted(FROM)
    }

    /// `to` as it is written, in its quotes.
    pub fn to_quoted(&self) -> Option<&[u8]> {
        self.quoted(TO)
    }

    fn quoted(&self, which: usize) -> Option<&[u8]> {
        let span = self.head.values.get(which).filter(|s| !s.is_absent())?;
        self.bytes.get(span.start() - 1..=span.end())
    }

    /// The same element with other addresses, where they are given and it has them.
    #[must_use]
    pub fn with_addresses(&self, from: Option<&str>, to: Option<&str>) -> Self {
        let mut other = self.clone();
        for (which, value) in [(FROM, from), (TO, to)] {
            if let Some(value) = value {
                other.replace(which, value);
            }
        }
        other
    }

    fn replace(&mut self, which: usize, value: &str) {
        let Some(old) = self.head.values.get(which).copied() else {
            return;
        };
        let (Some(before), Some(behind)) = (
            self.bytes.get(..old.start()).filter(|_| !old.is_absent()),
            self.bytes.get(old.end()..),
        ) else {
            return;
        };
        let mut new = String::with_capacity(value.len());
        escape_attribute(value, &mut new);
        self.bytes = Bytes::from([before, new.as_bytes(), behind].concat());
        // What comes behind the value has moved.
        let moved = |span: &mut Span| {
            if span.start() > old.start() {
                let start = span.start() - old.end() + old.start() + new.len();
                *span = Span::new(start, start + span.len as usize);
            }
        };
        self.head.values.iter_mut().for_each(moved);
        moved(&mut self.head.default_decl);
        if let Some(own) = self.head.values.get_mut(which) {
            *own = Span::new(old.start(), old.start() + new.len());
        }
    }

    fn value(&self, which: usize) -> Option<Cow<'_, str>> {
        let span = *self.head.values.get(which)?;
        (!span.is_absent()).then(|| attribute_value(span.of(&self.bytes)))
    }
}
