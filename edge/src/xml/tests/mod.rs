//! Tests of the XML module, through its public interface.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use super::*;

mod verdicts;

/// The header of an ordinary peer.
pub(crate) const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' \
    xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback' \
    from='vngtp.lab' to='coluc.com' version='1.0'>";

/// All frames of `input`, fed in pieces of at most `step` bytes, and the error that ended it.
pub(crate) fn frames(input: &[u8], step: usize, limits: Limits) -> (Vec<Frame>, Option<XmlError>) {
    let mut framer = Framer::new(limits);
    let mut out = Vec::new();
    for piece in input.chunks(step.max(1)) {
        framer.feed(piece);
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => out.push(frame),
                Ok(None) => break,
                Err(error) => return (out, Some(error)),
            }
        }
    }
    (out, None)
}

/// A frame in a form that can be compared and read.
pub(crate) fn describe(frame: &Frame) -> String {
    match frame {
        Frame::Header(h) => format!("{h:?}"),
        Frame::Element(e) => format!(
            "{{{}}}{} from={:?} to={:?} id={:?} type={:?} {}",
            e.ns(),
            e.name(),
            e.from(),
            e.to(),
            e.id(),
            e.type_(),
            String::from_utf8_lossy(e.bytes())
        ),
        Frame::End => "end".into(),
    }
}
