//! Streams (RFC 6120 section 4): headers, frames in order, errors, the closing handshake.
//!
//! [`listen`] and [`direct_tls`]: the ways in; [`transport`] moves bytes, [`Wire`] speaks in frames over it,
//! [`established`] is the loop of every stream and link after its negotiation; who says what when is the business
//! of `inbound`, `outbound` and `router`.

pub mod direct_tls;
pub(crate) mod established;
mod failure;
pub mod incomplete;
pub(crate) mod initiating;
pub mod listen;
pub mod pace;
mod pair;
pub mod tls;
pub mod transport;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::Limits as ConfiguredLimits;

use crate::observe::metrics::Metrics;
use crate::words::Direction;
pub use established::Closing;
pub use failure::Failure;
pub(crate) use pair::pair_changed;
use transport::{Transport, Turn};
use xmpp_federation_xml::{
    Element, Frame, Framer, Limits, STREAM_END, StreamErrorCondition, StreamHeader, XmlError, ns, stream_error,
};

/// How long a peer may take to close its side after we closed ours while nothing can be lost.
pub const CLOSE_TIME: Duration = Duration::from_secs(5);

/// After a turn that took as long, a stream or link lets others have theirs.
pub const LONG_TURN: Duration = Duration::from_millis(1);

/// A connection that speaks in frames.
#[derive(Debug)]
pub struct Wire {
    /// The bytes below.
    pub transport: Transport,
    /// What was read.
    pub framer: Framer,
    direction: Direction,
    metrics: Arc<Metrics>,
    header_sent: bool,
    /// Set once our side is closed.
    pub closing: Option<Closing>,
}

impl Wire {
    /// Nothing said yet.
    pub fn new(transport: Transport, limits: Limits, direction: Direction, metrics: Arc<Metrics>) -> Self {
        Self {
            transport,
            framer: Framer::new(limits),
            direction,
            metrics,
            header_sent: false,
            closing: None,
        }
    }

    /// Whether our side is open.
    pub fn is_open(&self) -> bool {
        self.closing.is_none()
    }

    /// The next frame, if one was read completely.
    pub fn take_frame(&mut self) -> Result<Option<Frame>, XmlError> {
        let frame = self.framer.next_frame()?;
        if let (Some(frame), Some(trace)) = (&frame, self.transport.trace()) {
            if let (Frame::Header(header), Direction::Inbound) = (frame, self.direction)
                && let Some(Ok(remote)) = header.from.as_deref().map(Domain::parse)
            {
                trace.entry().claims(&remote);
            }
            trace.received(frame);
        }
        Ok(frame)
    }

    /// One turn of [`Transport::turn`]: whether something was read. The connection's end is a failure.
    pub async fn turn(&mut self, read: bool) -> Result<bool, Failure> {
        match self.transport.turn(read, self.framer.buffer()).await? {
            Turn::Read => Ok(true),
            Turn::Flushed => Ok(false),
            Turn::End => Err(Failure::Ended),
        }
    }

    /// The next frame. A stream error and the stream's end are failures here.
    pub async fn next_frame(&mut self) -> Result<Frame, Failure> {
        loop {
            match self.take_frame()? {
                Some(Frame::End) => return Err(Failure::Closed),
                Some(Frame::Element(element)) if element.is(ns::STREAMS, "error") => {
                    return Err(self.peer_error(&element));
                }
                Some(frame) => return Ok(frame),
                None => {
                    self.turn(true).await?;
                }
            }
        }
    }

    /// The next frame, which must be a header.
    pub async fn header(&mut self) -> Result<Box<StreamHeader>, Failure> {
        match self.next_frame().await? {
            Frame::Header(header) => Ok(header),
            Frame::Element(_) | Frame::End => Err(Failure::bad_format("a stream header was expected")),
        }
    }

    /// The next frame, which must be an element.
    pub async fn element(&mut self) -> Result<Element, Failure> {
        match self.next_frame().await? {
            Frame::Element(element) => Ok(element),
            Frame::Header(_) | Frame::End => Err(Failure::bad_format("an element was expected")),
        }
    }

    /// Reads a stream error that the peer sent.
    pub fn peer_error(&self, element: &Element) -> Failure {
        let parsed = element.parse().ok().and_then(|node| node.stream_error());
        let (condition, text) = parsed.unwrap_or((StreamErrorCondition::UndefinedCondition, None));
        self.metrics.stream_error(self.direction, false, condition.as_str());
        let text = text.map(|text| text.chars().filter(|c| !c.is_control()).take(200).collect());
        Failure::Peer { condition, text }
    }

    /// Writes now. The text is ours and complete.
    pub async fn send(&mut self, xml: String) -> Result<(), Failure> {
        self.queue(xml);
        Ok(self.transport.flush().await?)
    }

    /// Queues what is ours and complete; our header comes first on every stream.
    pub fn queue(&mut self, xml: String) {
        self.header_sent = true;
        self.transport.queue(Bytes::from(xml));
    }

    /// The stream starts anew after STARTTLS or SASL: nothing said before counts.
    pub fn restart(&mut self) -> usize {
        self.header_sent = false;
        self.framer.restart()
    }

    /// Queues what a failing stream says last: a header if none was sent, the error, the end.
    pub fn queue_error(&mut self, condition: StreamErrorCondition, text: &str, header: impl FnOnce() -> String) {
        self.metrics.stream_error(self.direction, true, condition.as_str());
        let mut xml = if self.header_sent { String::new() } else { header() };
        self.header_sent = true;
        // The conditions and texts are ours and always writable.
        xml.push_str(&stream_error(condition, Some(text)).unwrap_or_default());
        xml.push_str(STREAM_END);
        self.transport.queue(Bytes::from(xml));
    }

    /// Closes our side: says why, if the peer is to know, and queues the end. The peer gets `most` for its side, and
    /// [`CLOSE_TIME`] while it shows no sign of life.
    pub fn close(&mut self, failure: Option<&Failure>, header: impl FnOnce() -> String, most: Duration) {
        match failure.and_then(Failure::to_send) {
            Some((condition, text)) => self.queue_error(condition, &text, header),
            None if self.header_sent => self.transport.queue(Bytes::from_static(STREAM_END.as_bytes())),
            None => {}
        }
        self.closing = Some(Closing::begin(most));
    }

    /// Ends a stream on which nothing can be lost any more: closes our side if it is open, then as
    /// [`Self::finish`].
    pub async fn hang_up(mut self, failure: &Failure, header: impl FnOnce() -> String) {
        if self.is_open() {
            if let Some(trace) = self.transport.trace() {
                trace.event(|| format!("the stream ends: {failure}"));
            }
            if matches!(failure, Failure::Io(_)) {
                return;
            }
            self.close(Some(failure), header, CLOSE_TIME);
        }
        self.finish().await;
    }

    /// After our side was closed: ends the writing direction and reads (and drops) until the
    /// peer's end, so that no reset destroys what it has not read yet.
    pub async fn finish(mut self) {
        let deadline = Instant::now() + CLOSE_TIME;
        let _ = timeout_at(deadline, async {
            self.transport.finish_writing().await?;
            let mut dropped = bytes::BytesMut::new();
            while self.transport.turn(true, &mut dropped).await? != Turn::End {
                dropped.clear();
            }
            Ok::<_, io::Error>(())
        })
        .await;
    }
}

/// The framer's limits for a peer that is not authenticated yet.
pub fn negotiation_limits(limits: &ConfiguredLimits) -> Limits {
    let fixed = Limits::negotiation();
    Limits {
        max_stanza_bytes: limits.max_unauthenticated_bytes,
        ..fixed
    }
}

/// Bytes of the largest stanza read from a router.
const LINK_STANZA: usize = 4 * 1024 * 1024;

/// The framer's limits for a router. It is trusted, and breaking one of them breaks the link with
/// everything on it that is not proven: what peers may not get is answered instead.
pub fn link_limits(limits: &ConfiguredLimits) -> Limits {
    Limits {
        max_stanza_bytes: limits.max_stanza_bytes.max(LINK_STANZA),
        max_depth: limits.max_depth.max(1024),
        max_attributes: limits.max_attributes.max(1024),
        max_namespaces: 1024,
        max_name_bytes: 1024,
    }
}

/// The framer's limits for an authenticated peer.
pub fn stanza_limits(limits: &ConfiguredLimits) -> Limits {
    let fixed = Limits::stanzas(limits.max_stanza_bytes);
    Limits {
        max_depth: limits.max_depth,
        max_attributes: limits.max_attributes,
        ..fixed
    }
}

/// The major version a header announces (RFC 6120 section 4.7.5): `None` for a server from before
/// XMPP 1.0.
pub fn major_version(header: &StreamHeader) -> Result<Option<u32>, Failure> {
    let Some(version) = header.version.as_deref() else {
        return Ok(None);
    };
    let parse = || {
        let (major, minor) = version.split_once('.')?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        (digits(minor) && digits(major)).then(|| major.parse::<u32>().ok())?
    };
    match parse() {
        Some(0) => Ok(None),
        Some(major) => Ok(Some(major)),
        None => Err(Failure::unsupported_version(
            "the stream's version is not a version number",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("", Ok(None))]
    #[case(" version='1.0'", Ok(Some(1)))]
    #[case(" version='1.15'", Ok(Some(1)))]
    #[case(" version='2.0'", Ok(Some(2)))]
    #[case(" version='0.9'", Ok(None))]
    #[case(" version='one'", Err(()))]
    #[case(" version='1'", Err(()))]
    fn versions_are_read_by_their_major_number(#[case] attribute: &str, #[case] expected: Result<Option<u32>, ()>) {
        let mut framer = Framer::new(Limits::negotiation());
        let streams = ns::STREAMS;
        framer.feed(format!("<s:stream xmlns='jabber:server' xmlns:s='{streams}'{attribute}>").as_bytes());
        let Some(Frame::Header(header)) = framer.next_frame().unwrap() else {
            panic!("no header")
        };
        assert_eq!(major_version(&header).map_err(drop), expected);
    }
}
