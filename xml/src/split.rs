//! Stanzas that were written here, read again.

use crate::{Element, Frame, Framer, Limits, ns};

/// Cuts bytes that the edge wrote itself, stanzas one after the other without a stream around
/// them, into elements again; for the rare case that they must be answered.
pub fn split(bytes: &[u8], content_ns: &str) -> Vec<Element> {
    // What was moved from another stream declares the prefixes of that stream's header besides its
    // own: no limit that was applied to it before may be applied again.
    let mut framer = Framer::new(Limits {
        max_stanza_bytes: usize::MAX >> 2,
        max_depth: usize::MAX >> 2,
        max_attributes: usize::MAX >> 2,
        max_namespaces: usize::MAX >> 2,
        max_name_bytes: usize::MAX >> 2,
    });
    let streams = ns::STREAMS;
    framer.feed(format!("<s:stream xmlns='{content_ns}' xmlns:s='{streams}'>").as_bytes());
    framer.feed(bytes);
    let mut elements = Vec::new();
    while let Ok(Some(frame)) = framer.next_frame() {
        if let Frame::Element(element) = frame {
            elements.push(element);
        }
    }
    elements
}
