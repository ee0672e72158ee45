//! The state machine below the framer: looks at each byte once, checks
//! everything, remembers only where it stands.
//!
//! Offsets are relative to the first byte of the frame in progress, whose bytes
//! stay in the caller's buffer until the frame is complete; names and values are
//! therefore ranges, never copies.

use std::sync::Arc;

use super::chars::{
    MAX_REFERENCE, Reference, Utf8, decode, is_space, is_xml_char, letter_run, reference, spaces, starts_name,
    text_run, value_run,
};
use super::element::{Head, Span};
use super::error::{StreamErrorCondition as Condition, XmlError};
use super::header::StreamContext;
use super::limits::Limits;
use super::prolog::Prolog;
use super::state::{Cut, OpenElement, State, Step, bad_utf8, from, malformed, over_limit};
use super::tag::{Attr, Binding};

#[derive(Debug)]
pub(super) struct Scanner {
    pub(super) limits: Limits,
    pub(super) state: State,
    /// Next byte to look at.
    pub(super) pos: usize,
    /// Start of the name, value or text in progress.
    pub(super) mark: usize,
    /// Behind the `&` of the reference in progress.
    pub(super) ref_mark: usize,
    /// Colon of the name in progress, 0 if none.
    pub(super) colon: usize,
    /// The name in progress is none by the fourth edition of XML 1.0.
    pub(super) unportable: bool,
    /// Bytes of the stream before the frame in progress.
    pub(super) base: u64,
    pub(super) open: Vec<OpenElement>,
    pub(super) bindings: Vec<Binding>,
    /// Name of the start tag in progress and its colon, 0 if none.
    pub(super) tag_name: Span,
    pub(super) tag_colon: usize,
    pub(super) attrs: Vec<Attr>,
    /// The attribute in progress.
    attr: Attr,
    pub(super) head: Head,
    /// Set once the header is complete.
    pub(super) context: Option<Arc<StreamContext>>,
}

impl Scanner {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits: limits.bounded(),
            state: State::Start,
            pos: 0,
            mark: 0,
            ref_mark: 0,
            colon: 0,
            unportable: false,
            base: 0,
            open: Vec::new(),
            bindings: Vec::new(),
            tag_name: Span::default(),
            tag_colon: 0,
            attrs: Vec::new(),
            attr: Attr::default(),
            head: Head::default(),
            context: None,
        }
    }

    /// Forgets the stream; keeps the limits.
    pub(super) fn restart(&mut self) {
        *self = Self::new(self.limits);
    }

    /// Gives back memory that an unusual stanza needed.
    pub(super) fn shrink(&mut self) {
        self.open.shrink_to(8);
        self.bindings.shrink_to(4);
        self.attrs.shrink_to(8);
    }

    /// Goes on from where it stopped. `buf` starts with the frame in progress and
    /// has grown since. `None`: more bytes are needed.
    pub(super) fn run(&mut self, buf: &[u8]) -> Result<Option<Cut>, XmlError> {
        match self.scan(buf) {
            Ok(cut) => {
                if let Some(Cut::Skip(n) | Cut::Header(n, _) | Cut::Element(n) | Cut::End(n)) = cut {
                    self.base += n as u64;
                    self.pos = 0;
                }
                Ok(cut)
            }
            Err((condition, reason)) => Err(XmlError {
                condition,
                reason,
                offset: self.base + self.pos as u64,
            }),
        }
    }

    /// Out of bytes: is what we have already too much?
    fn starved(&mut self, buf: &[u8], pos: usize, state: State) -> Step<Option<Cut>> {
        self.pos = pos;
        self.state = state;
        if buf.len() >= self.limits.max_stanza_bytes {
            return over_limit("stanza too large");
        }
        Ok(None)
    }

    #[allow(
        clippy::too_many_lines,
        reason = "one arm per state of one machine; splitting it would hide the transitions"
    )]
    fn scan(&mut self, buf: &[u8]) -> Step<Option<Cut>> {
        let mut state = self.state;
        let mut pos = self.pos;
        // The byte at `pos`, or return and come back to the same state.
        macro_rules! byte {
            () => {
                match buf.get(pos) {
                    Some(&b) => b,
                    None => return self.starved(buf, pos, state),
                }
            };
        }
        macro_rules! fail {
            ($refusal:expr) => {{
                self.pos = pos;
                return $refusal;
            }};
        }
        macro_rules! check {
            ($step:expr) => {
                match $step {
                    Ok(value) => value,
                    Err(refusal) => fail!(Err(refusal)),
                }
            };
        }
        loop {
            match state {
                State::Text => {
                    // A tag behind a tag is frequent.
                    if buf.get(pos) != Some(&b'<') {
                        pos += text_run(from(buf, pos));
                    }
                    match byte!() {
                        b'<' => {
                            pos += 1;
                            state = State::Open;
                        }
                        b'&' => {
                            pos += 1;
                            self.ref_mark = pos;
                            state = State::Ref(0);
                        }
                        b'>' => {
                            if pos >= self.mark + 2 && from(buf, pos - 2).starts_with(b"]]") {
                                fail!(malformed("]]> in character data"));
                            }
                            pos += 1;
                        }
                        b'\t' | b'\n' | b'\r' => pos += 1,
                        b if b < 0x80 => fail!(malformed("control character")),
                        _ => match check!(character(from(buf, pos))) {
                            Some(n) => pos += n,
                            None => return self.starved(buf, pos, state),
                        },
                    }
                }
                State::Open => match byte!() {
                    b'/' => {
                        pos += 1;
                        // The usual case in one comparison.
                        if let Some(open) = self.open.last() {
                            let name = open.name.of(buf);
                            let rest = from(buf, pos);
                            if rest.starts_with(name) && rest.get(name.len()) == Some(&b'>') {
                                pos += name.len() + 1;
                                if let Some(cut) = check!(self.close(pos)) {
                                    self.state = State::Between;
                                    return Ok(Some(cut));
                                }
                                self.mark = pos;
                                state = State::Text;
                                continue;
                            }
                        }
                        self.mark = pos;
                        self.colon = 0;
                        state = State::EndName;
                    }
                    b'!' => {
                        pos += 1;
                        self.mark = pos;
                        state = State::Bang;
                    }
                    b'?' => fail!(Err((Condition::RestrictedXml, "processing instruction"))),
                    _ => {
                        self.mark = pos;
                        self.colon = 0;
                        let letters = letter_run(from(buf, pos));
                        let behind = buf.get(pos + letters);
                        if letters > 0
                            && letters <= self.limits.max_name_bytes
                            && matches!(behind, Some(b' ' | b'>' | b'/'))
                        {
                            pos += letters;
                            check!(self.begin_tag(pos));
                            state = State::Tag;
                        } else {
                            state = State::StartName;
                        }
                    }
                },
                State::StartName => {
                    if !check!(self.name(buf, &mut pos)) {
                        return self.starved(buf, pos, state);
                    }
                    if !self.name_is_proper(buf, pos) {
                        fail!(malformed("not a name behind <"));
                    }
                    check!(self.begin_tag(pos));
                    self.note_name(pos);
                    state = State::Tag;
                }
                State::Tag => {
                    // The usual attributes at once; the states below do the others, and
                    // those whose end has not arrived.
                    while self.attrs.len() < self.limits.max_attributes
                        && let Some((attr, end)) = Attr::simple(buf, pos, self.limits.max_name_bytes)
                    {
                        self.attrs.push(attr);
                        pos = end;
                    }
                    let mut b = byte!();
                    if is_space(b) {
                        pos += 1;
                        pos += spaces(from(buf, pos));
                        b = byte!();
                    }
                    match b {
                        b'>' => {
                            check!(self.start_tag(buf));
                            pos += 1;
                            if self.context.is_none() {
                                let header = check!(self.header(buf, pos));
                                self.state = State::Between;
                                return Ok(Some(Cut::Header(pos, header)));
                            }
                            self.mark = pos;
                            state = State::Text;
                        }
                        b'/' => {
                            pos += 1;
                            state = State::EmptyClose;
                        }
                        _ => {
                            let before = pos.checked_sub(1).and_then(|at| buf.get(at));
                            if !before.is_some_and(|&b| is_space(b)) {
                                fail!(malformed("space missing in a tag"));
                            }
                            if self.attrs.len() >= self.limits.max_attributes {
                                fail!(over_limit("too many attributes"));
                            }
                            self.mark = pos;
                            self.colon = 0;
                            state = State::AttrName;
                        }
                    }
                }
                State::AttrName => {
                    if !check!(self.name(buf, &mut pos)) {
                        return self.starved(buf, pos, state);
                    }
                    if !self.name_is_proper(buf, pos) {
                        fail!(malformed("not an attribute name"));
                    }
                    self.attr = Attr::named(buf, self.mark, self.colon, pos);
                    self.note_name(pos);
                    state = State::BeforeEq;
                }
                State::BeforeEq => {
                    let mut b = byte!();
                    if is_space(b) {
                        pos += spaces(from(buf, pos));
                        b = byte!();
                    }
                    if b != b'=' {
                        fail!(malformed("attribute without value"));
                    }
                    pos += 1;
                    state = State::BeforeValue;
                }
                State::BeforeValue => {
                    let mut b = byte!();
                    if is_space(b) {
                        pos += spaces(from(buf, pos));
                        b = byte!();
                    }
                    if !matches!(b, b'\'' | b'"') {
                        fail!(malformed("attribute value without quotes"));
                    }
                    pos += 1;
                    self.mark = pos;
                    state = State::Value(b);
                }
                State::Value(quote) => {
                    pos += value_run(from(buf, pos), quote);
                    match byte!() {
                        b if b == quote => {
                            self.attr.value = Span::new(self.mark, pos);
                            self.attrs.push(self.attr);
                            pos += 1;
                            state = State::Tag;
                        }
                        b'&' => {
                            self.attr.plain = false;
                            pos += 1;
                            self.ref_mark = pos;
                            state = State::Ref(quote);
                        }
                        b'<' => fail!(malformed("< in an attribute value")),
                        b'\t' | b'\n' => {
                            self.attr.plain = false;
                            pos += 1;
                        }
                        b'\r' => match buf.get(pos + 1) {
                            Some(b'\n') => {
                                self.attr.plain = false;
                                pos += 2;
                            }
                            // Parsers disagree about it, and no serialiser writes it.
                            Some(_) => {
                                fail!(malformed("carriage return alone in an attribute value"))
                            }
                            None => return self.starved(buf, pos, state),
                        },
                        b if b < 0x80 => fail!(malformed("control character")),
                        _ => match check!(character(from(buf, pos))) {
                            Some(n) => pos += n,
                            None => return self.starved(buf, pos, state),
                        },
                    }
                }
                State::Ref(quote) => {
                    let body = from(buf, self.ref_mark);
                    let body = body.get(..MAX_REFERENCE + 1).unwrap_or(body);
                    let end = body.iter().position(|&b| !(b.is_ascii_alphanumeric() || b == b'#'));
                    match end.and_then(|end| body.get(..end).zip(body.get(end))) {
                        Some((body, b';')) => match reference(body) {
                            Reference::Char(_) => pos = self.ref_mark + body.len() + 1,
                            Reference::UnknownEntity => {
                                fail!(Err((Condition::RestrictedXml, "entity reference")))
                            }
                            Reference::Malformed => fail!(malformed("malformed reference")),
                        },
                        Some(_) => fail!(malformed("malformed reference")),
                        None if body.len() > MAX_REFERENCE => {
                            if starts_name(body) {
                                fail!(Err((Condition::RestrictedXml, "entity reference")));
                            }
                            fail!(malformed("malformed reference"));
                        }
                        None => return self.starved(buf, pos, state),
                    }
                    state = if quote == 0 { State::Text } else { State::Value(quote) };
                }
                State::EmptyClose => {
                    if byte!() != b'>' {
                        fail!(malformed("/ inside a tag"));
                    }
                    check!(self.start_tag(buf));
                    pos += 1;
                    if self.context.is_none() {
                        fail!(Err((Condition::BadFormat, "stream header closed at once")));
                    }
                    if let Some(cut) = check!(self.close(pos)) {
                        self.state = State::Between;
                        return Ok(Some(cut));
                    }
                    self.mark = pos;
                    state = State::Text;
                }
                State::EndName => {
                    if !check!(self.name(buf, &mut pos)) {
                        return self.starved(buf, pos, state);
                    }
                    let name = buf.get(self.mark..pos).unwrap_or_default();
                    let expected = match self.open.last() {
                        Some(open) => open.name.of(buf),
                        None => self.context.as_ref().map_or(&b""[..], |c| &c.root),
                    };
                    if name != expected || name.is_empty() {
                        fail!(malformed("end tag does not match"));
                    }
                    // The start tag had the same name.
                    self.unportable = false;
                    state = State::EndTail;
                }
                State::EndTail => {
                    pos += spaces(from(buf, pos));
                    if byte!() != b'>' {
                        fail!(malformed("something else than > at the end of an end tag"));
                    }
                    pos += 1;
                    if self.open.is_empty() {
                        self.state = State::Ended;
                        return Ok(Some(Cut::End(pos)));
                    }
                    if let Some(cut) = check!(self.close(pos)) {
                        self.state = State::Between;
                        return Ok(Some(cut));
                    }
                    self.mark = pos;
                    state = State::Text;
                }
                State::Bang => {
                    const CDATA: &[u8] = b"[CDATA[";
                    let rest = from(buf, self.mark);
                    if rest.starts_with(CDATA) {
                        if self.open.is_empty() {
                            fail!(Err((Condition::BadFormat, "text between stanzas")));
                        }
                        pos = self.mark + CDATA.len();
                        self.mark = pos;
                        state = State::Cdata;
                    } else if CDATA.starts_with(rest) {
                        return self.starved(buf, buf.len(), state);
                    } else if rest.starts_with(b"[") {
                        fail!(malformed("malformed CDATA section"));
                    } else if rest.starts_with(b"-") {
                        fail!(Err((Condition::RestrictedXml, "comment")));
                    } else {
                        fail!(Err((Condition::RestrictedXml, "document type declaration")));
                    }
                }
                State::Cdata => {
                    pos += text_run(from(buf, pos));
                    match byte!() {
                        b'<' | b'&' | b'\t' | b'\n' | b'\r' => pos += 1,
                        b'>' => {
                            let ends = pos >= self.mark + 2 && from(buf, pos - 2).starts_with(b"]]");
                            pos += 1;
                            if ends {
                                self.mark = pos;
                                state = State::Text;
                            }
                        }
                        b if b < 0x80 => fail!(malformed("control character")),
                        _ => match check!(character(from(buf, pos))) {
                            Some(n) => pos += n,
                            None => return self.starved(buf, pos, state),
                        },
                    }
                }
                State::Between => {
                    if pos == 0 {
                        let skip = spaces(buf);
                        if skip > 0 {
                            return Ok(Some(Cut::Skip(skip)));
                        }
                    }
                    match buf.get(pos) {
                        Some(b'<') => {
                            pos += 1;
                            state = State::Open;
                        }
                        Some(0) => fail!(malformed("NUL between stanzas")),
                        Some(b) if *b < 0x20 => fail!(malformed("control character")),
                        Some(b) if *b < 0x80 => {
                            fail!(Err((Condition::BadFormat, "text between stanzas")))
                        }
                        Some(_) => match check!(character(from(buf, pos))) {
                            Some(_) => fail!(Err((Condition::BadFormat, "text between stanzas"))),
                            None => return self.starved(buf, pos, state),
                        },
                        None => {
                            self.pos = pos;
                            self.state = state;
                            return Ok(None);
                        }
                    }
                }
                State::Start | State::Declaration => {
                    self.pos = pos;
                    self.state = state;
                    match self.prolog(buf)? {
                        Prolog::Header => {
                            pos = 1;
                            state = State::Open;
                        }
                        Prolog::Skip(n) => return Ok(Some(Cut::Skip(n))),
                        Prolog::Starved => {
                            return self.starved(buf, self.pos, self.state);
                        }
                    }
                }
                State::Ended => return Ok(Some(Cut::Skip(buf.len())).filter(|_| !buf.is_empty())),
            }
        }
    }

    /// The name of a start tag ends at `end`.
    #[inline]
    fn begin_tag(&mut self, end: usize) -> Step<()> {
        self.tag_name = Span::new(self.mark, end);
        self.tag_colon = self.colon;
        self.attrs.clear();
        if self.open.is_empty() {
            self.head = Head::default();
        } else if self.open.len() >= self.limits.max_depth {
            return over_limit("elements nested too deeply");
        }
        Ok(())
    }

    /// Takes the innermost element off; the frame when it was the top-level one.
    #[inline]
    fn close(&mut self, end: usize) -> Step<Option<Cut>> {
        if let Some(open) = self.open.pop() {
            self.bindings.truncate(open.bindings);
        }
        if !self.open.is_empty() {
            return Ok(None);
        }
        if end > self.limits.max_stanza_bytes {
            return over_limit("stanza too large");
        }
        Ok(Some(Cut::Element(end)))
    }
}

/// Length of the character at the start, `None` when the rest of it is missing.
fn character(bytes: &[u8]) -> Step<Option<usize>> {
    match decode(bytes) {
        Utf8::Char(c, n) if is_xml_char(c) => Ok(Some(n)),
        Utf8::Char(..) => malformed("character not allowed in XML"),
        Utf8::Partial => Ok(None),
        Utf8::Bad => bad_utf8(),
    }
}
