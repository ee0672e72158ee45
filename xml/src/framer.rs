//! Cuts the bytes of a stream into header, top-level elements and end.

use std::sync::Arc;

use bytes::{Buf, BytesMut};

use super::chars::is_space;
use super::element::Element;
use super::error::XmlError;
use super::header::{StreamContext, StreamHeader};
use super::limits::Limits;
use super::scanner::Scanner;
use super::state::{Cut, State};

/// What the framer found next in a stream.
#[derive(Debug, Clone)]
pub enum Frame {
    /// The peer's stream header; the first frame after a (re)start.
    Header(Box<StreamHeader>),
    /// A complete top-level element.
    Element(Element),
    /// The peer closed its stream. Nothing follows: later bytes are dropped unread.
    End,
}

/// Streaming reader of one XMPP stream: bytes in, checked frames out.
///
/// Enforces the restricted profile of RFC 6120 §11.1 (no comments, processing
/// instructions, DTD, other entities), well-formedness (XML 1.0), namespaces
/// (Namespaces in XML 1.0), UTF-8 and [`Limits`]. Each byte is looked at once,
/// however the bytes are split over reads. White space between elements
/// (RFC 6120 §4.6.1 keepalives) is dropped; that bytes arrived is what counts.
///
/// Holds at most one incomplete element plus what was read last. A delivered
/// [`Element`] shares the memory of the read it came with: copy what is kept for long.
///
/// ```
/// use xmpp_federation_xml::{Frame, Framer, Limits};
/// let mut framer = Framer::new(Limits::negotiation());
/// framer.feed(b"<stream:stream xmlns='jabber:server' version='1.0' \
///     xmlns:stream='http://etherx.jabber.org/streams'><message to='a@b'/");
/// assert!(matches!(framer.next_frame(), Ok(Some(Frame::Header(_)))));
/// assert!(matches!(framer.next_frame(), Ok(None)));
/// framer.feed(b">");
/// let Ok(Some(Frame::Element(element))) = framer.next_frame() else { panic!() };
/// assert!(element.is("jabber:server", "message"));
/// ```
#[derive(Debug)]
pub struct Framer {
    buf: BytesMut,
    scanner: Scanner,
    error: Option<XmlError>,
}

impl Framer {
    /// Waits for a stream header.
    pub fn new(limits: Limits) -> Self {
        Self {
            buf: BytesMut::new(),
            scanner: Scanner::new(limits),
            error: None,
        }
    }

    /// Where to append what was read (`read_buf`). Anything but appending would
    /// garble the stream. Reserve room first; [`Framer::feed`] does so itself.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// Appends a copy of `bytes`; for reads into a buffer shared by connections.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// The next frame, or `None` until more bytes are appended. Call it until
    /// it gives `None` after each read. An error is final: every later call repeats it.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, XmlError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        loop {
            match self.scanner.run(&self.buf) {
                Ok(None) => return Ok(None),
                Ok(Some(Cut::Skip(n))) => self.buf.advance(n),
                Ok(Some(Cut::Header(n, header))) => {
                    self.buf.advance(n);
                    return Ok(Some(Frame::Header(header)));
                }
                Ok(Some(Cut::Element(n))) => {
                    return Ok(Some(Frame::Element(Element {
                        bytes: self.buf.split_to(n).freeze(),
                        head: std::mem::take(&mut self.scanner.head),
                        context: self.scanner.context.clone().unwrap_or_default(),
                    })));
                }
                Ok(Some(Cut::End(n))) => {
                    self.buf.advance(n);
                    return Ok(Some(Frame::End));
                }
                Err(error) => {
                    self.error = Some(error);
                    self.buf = BytesMut::new();
                    return Err(error);
                }
            }
        }
    }

    /// After STARTTLS or SASL success: forgets the stream and everything
    /// buffered, and waits for a new header. Returns how many bytes, not counting
    /// white space, were pipelined behind the last frame and are thrown away.
    pub fn restart(&mut self) -> usize {
        let dropped = self.buf.iter().filter(|&&b| !is_space(b)).count();
        self.buf = BytesMut::new();
        self.error = None;
        self.scanner.restart();
        dropped
    }

    /// Replaces the limits from the next byte on, for example after authentication.
    pub fn set_limits(&mut self, limits: Limits) {
        self.scanner.limits = limits.bounded();
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.scanner.limits
    }

    /// Bytes appended and not yet part of a frame.
    pub fn buffered(&self) -> usize {
        self.buf.len()
    }

    /// Was more than white space appended that is not yet part of a frame?
    pub fn holds_more_than_space(&self) -> bool {
        self.buf.iter().any(|&byte| !is_space(byte))
    }

    /// Has the peer closed its stream?
    pub fn ended(&self) -> bool {
        self.scanner.state == State::Ended
    }

    /// What the header left in force, once it was read.
    pub fn context(&self) -> Option<&Arc<StreamContext>> {
        self.scanner.context.as_ref()
    }

    /// Gives memory back while the stream is idle.
    pub fn shrink(&mut self) {
        self.scanner.shrink();
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
        }
    }
}
