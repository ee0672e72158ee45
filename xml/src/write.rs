//! Making XML: escaping, elements, stream headers and stream errors.

use super::chars::is_xml_char;
use super::error::StreamErrorCondition;
use super::ns;

/// A string holds a character that XML 1.0 cannot express, not even by a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("U+{0:04X} cannot be written in XML")]
pub struct UnwritableChar(pub u32);

/// Can XML 1.0 express all of it?
pub fn is_writable(value: &str) -> bool {
    value.chars().all(is_xml_char)
}

/// Appends `value` for use inside `'…'` or `"…"`. Tabs and line ends become
/// references, since a parser would turn them into spaces.
pub(crate) fn escape_attribute(value: &str, out: &mut String) {
    escape(value, out, in_attribute);
}

/// Bytes that [`escape_attribute`] appends.
pub(super) fn escaped_len(value: &str) -> usize {
    let len = |c: char| in_attribute(c).map_or(c.len_utf8(), str::len);
    value.chars().map(len).sum()
}

fn in_attribute(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '\'' => Some("&apos;"),
        '"' => Some("&quot;"),
        '\t' => Some("&#9;"),
        '\n' => Some("&#10;"),
        '\r' => Some("&#13;"),
        _ => None,
    }
}

/// Appends `value` for use as character data. A carriage return becomes a
/// reference, since a parser would turn it into a line feed.
pub(super) fn escape_text(value: &str, out: &mut String) {
    escape(value, out, |c| match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '\r' => Some("&#13;"),
        _ => None,
    });
}

fn escape(value: &str, out: &mut String, replacement: impl Fn(char) -> Option<&'static str>) {
    for c in value.chars() {
        match replacement(c) {
            Some(text) => out.push_str(text),
            None => out.push(c),
        }
    }
}

/// Writes one element after the other into a string, escaping everything.
///
/// Names are the program's own and are written as given; values may come from
/// anywhere. A character that XML cannot express makes [`XmlWriter::finish`] fail.
///
/// ```
/// use xmpp_federation_xml::XmlWriter;
/// let mut w = XmlWriter::new();
/// w.start("db:result").attr("from", "a.example").attr("to", "b.example").text("k&y").end();
/// assert_eq!(w.finish().unwrap(), "<db:result from='a.example' to='b.example'>k&amp;y</db:result>");
/// ```
#[derive(Debug, Default)]
pub struct XmlWriter {
    out: String,
    open: Vec<&'static str>,
    in_tag: bool,
    refused: Option<UnwritableChar>,
}

impl XmlWriter {
    /// Nothing written.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts an element, `db:result`.
    pub fn start(&mut self, name: &'static str) -> &mut Self {
        self.close_tag();
        self.out.push('<');
        self.out.push_str(name);
        self.open.push(name);
        self.in_tag = true;
        self
    }

    /// Adds an attribute to the element just started; also `xmlns` and `xmlns:…`.
    /// Ignored once the element has content.
    pub fn attr(&mut self, name: &str, value: &str) -> &mut Self {
        if self.in_tag {
            self.check(value);
            self.out.push(' ');
            self.out.push_str(name);
            self.out.push_str("='");
            escape_attribute(value, &mut self.out);
            self.out.push('\'');
        }
        self
    }

    /// Adds an attribute if there is a value.
    pub fn attr_opt(&mut self, name: &str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.attr(name, value),
            None => self,
        }
    }

    /// Adds character data.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.close_tag();
        self.check(value);
        escape_text(value, &mut self.out);
        self
    }

    /// Adds XML that was written before.
    pub fn raw(&mut self, xml: &str) -> &mut Self {
        self.close_tag();
        self.out.push_str(xml);
        self
    }

    /// Ends the innermost element.
    pub fn end(&mut self) -> &mut Self {
        if let Some(name) = self.open.pop() {
            if self.in_tag {
                self.out.push_str("/>");
                self.in_tag = false;
            } else {
                self.out.push_str("</");
                self.out.push_str(name);
                self.out.push('>');
            }
        }
        self
    }

    /// An element without content, in its own namespace: `<name xmlns='ns'/>`.
    pub fn empty(&mut self, name: &'static str, ns: &str) -> &mut Self {
        self.start(name).attr("xmlns", ns).end()
    }

    /// What was written, open elements ended.
    pub fn finish(mut self) -> Result<String, UnwritableChar> {
        while !self.open.is_empty() {
            self.end();
        }
        match self.refused {
            Some(refused) => Err(refused),
            None => Ok(self.out),
        }
    }

    /// What was written, the innermost elements left open: a stream header.
    pub fn finish_open(mut self) -> Result<String, UnwritableChar> {
        self.close_tag();
        match self.refused {
            Some(refused) => Err(refused),
            None => Ok(self.out),
        }
    }

    fn close_tag(&mut self) {
        if self.in_tag {
            self.out.push('>');
            self.in_tag = false;
        }
    }

    fn check(&mut self, value: &str) {
        if self.refused.is_none() {
            let bad = value.chars().find(|&c| !is_xml_char(c));
            self.refused = bad.map(|c| UnwritableChar(u32::from(c)));
        }
    }
}

/// A stream header of ours.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeaderToSend<'a> {
    /// Content namespace: [`ns::SERVER`] or [`ns::COMPONENT`].
    pub content_ns: &'a str,
    /// `from`.
    pub from: Option<&'a str>,
    /// `to`.
    pub to: Option<&'a str>,
    /// `id`; the receiving side chooses it.
    pub id: Option<&'a str>,
    /// `version='1.0'`; false only on component links.
    pub version: bool,
    /// Declares the prefix `db`, always on server streams (XEP-0220 §2.1).
    pub dialback: bool,
}

impl HeaderToSend<'_> {
    /// XML declaration and header.
    pub fn write(&self) -> Result<String, UnwritableChar> {
        let mut w = XmlWriter::new();
        w.raw("<?xml version='1.0'?>")
            .start("stream:stream")
            .attr("xmlns", self.content_ns)
            .attr("xmlns:stream", ns::STREAMS);
        if self.dialback {
            w.attr("xmlns:db", ns::DIALBACK);
        }
        w.attr_opt("from", self.from)
            .attr_opt("to", self.to)
            .attr_opt("id", self.id);
        if self.version {
            w.attr("version", "1.0");
        }
        w.finish_open()
    }
}

/// The end of a stream of ours.
pub const STREAM_END: &str = "</stream:stream>";

/// `<stream:error>` with its condition and a text in English, without the stream's end.
pub fn stream_error(condition: StreamErrorCondition, text: Option<&str>) -> Result<String, UnwritableChar> {
    let mut w = XmlWriter::new();
    w.start("stream:error").empty(condition.as_str(), ns::STREAM_ERRORS);
    if let Some(text) = text {
        w.start("text")
            .attr("xmlns", ns::STREAM_ERRORS)
            .attr("xml:lang", "en")
            .text(text)
            .end();
    }
    w.finish()
}
