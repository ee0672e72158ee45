//! Where the scanner stands, and what a step of it finds.

use super::element::Span;
use super::error::StreamErrorCondition as Condition;
use super::header::StreamHeader;

/// Where the scanner stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Before the header.
    Start,
    /// Inside `<?xml … ?>`.
    Declaration,
    /// Behind the header, between top-level elements.
    Between,
    /// In the content of an element.
    Text,
    /// Behind `<`.
    Open,
    /// Behind `<!`.
    Bang,
    /// In a CDATA section.
    Cdata,
    /// In the name of a start tag.
    StartName,
    /// In a start tag, behind the name or an attribute.
    Tag,
    /// In the name of an attribute.
    AttrName,
    /// Behind the name of an attribute.
    BeforeEq,
    /// Behind the `=` of an attribute.
    BeforeValue,
    /// In an attribute's value, with this quote.
    Value(u8),
    /// Behind `&`; in a value with this quote, or in text when 0.
    Ref(u8),
    /// Behind `/` in a start tag.
    EmptyClose,
    /// In the name of an end tag.
    EndName,
    /// Behind the name of an end tag.
    EndTail,
    /// Behind the end of the stream.
    Ended,
}

/// What the first bytes of the buffer turned out to be.
pub(super) enum Cut {
    /// So many bytes without meaning: white space, XML declaration.
    Skip(usize),
    /// The stream header.
    Header(usize, Box<StreamHeader>),
    /// A top-level element, described by [`super::scanner::Scanner::head`].
    Element(usize),
    /// The end of the stream.
    End(usize),
}

/// A started element that waits for its end tag.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenElement {
    pub(super) name: Span,
    /// Bindings in scope outside of it.
    pub(super) bindings: usize,
}

pub(super) type Step<T> = Result<T, (Condition, &'static str)>;

pub(super) const fn malformed<T>(reason: &'static str) -> Step<T> {
    Err((Condition::NotWellFormed, reason))
}

pub(super) const fn over_limit<T>(reason: &'static str) -> Step<T> {
    Err((Condition::PolicyViolation, reason))
}

#[inline]
pub(super) fn from(bytes: &[u8], start: usize) -> &[u8] {
    bytes.get(start..).unwrap_or_default()
}

pub(super) const fn bad_utf8<T>() -> Step<T> {
    Err((Condition::UnsupportedEncoding, "ill-formed UTF-8"))
}
