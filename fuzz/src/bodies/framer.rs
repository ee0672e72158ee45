//! The framer against rxml: what it delivers, rxml must accept; how bytes are
//! split must not matter; what rxml accepts as a whole is refused only by a stricter rule.
use xmpp_federation_xml::Frame;
use xmpp_federation_xml::testing::{Verdict, compare, framer};

const HEADER: &[u8] = b"<stream:stream xmlns='jabber:server' \
    xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback'>";

fn described(verdict: &Verdict) -> (usize, Vec<&[u8]>, Option<xmpp_federation_xml::StreamErrorCondition>) {
    let bytes = verdict.frames.iter().filter_map(|frame| match frame {
        Frame::Element(element) => Some(&element.bytes()[..]),
        _ => None,
    });
    (
        verdict.accepted,
        bytes.collect(),
        verdict.error.map(|error| error.condition),
    )
}

/// One input. The first byte chooses the size of the reads and whether a header comes first.
pub fn run(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let mut input = if choice & 1 == 0 { HEADER.to_vec() } else { Vec::new() };
    input.extend_from_slice(data);
    let input = input.trim_ascii_start();
    let whole = compare(input, true);
    let in_steps = framer(input, usize::from(choice >> 1) + 1);
    assert_eq!(described(&whole), described(&in_steps));
}
