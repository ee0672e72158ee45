//! The framer against rxml: what it delivers, rxml must accept; how bytes are
//! split must not matter; what rxml accepts as a whole is refused only by a stricter rule.
use rxml::error::EndOrError;
use rxml::{Parse, WithOptions};
use xmpp_federation_xml::{Frame, Framer, Limits, StreamErrorCondition as C, XmlError};

const HEADER: &[u8] = b"<stream:stream xmlns='jabber:server' \
    xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback'>";

/// The first byte chooses the size of the reads and whether a header comes first.
fn cut(input: &[u8], step: usize) -> (usize, Vec<Vec<u8>>, Option<XmlError>) {
    let mut framer = Framer::new(Limits::stanzas(1 << 20));
    let (mut fed, mut accepted, mut elements) = (0, 0, Vec::new());
    for piece in input.chunks(step) {
        framer.feed(piece);
        fed += piece.len();
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => {
                    accepted = fed - framer.buffered();
                    if let Frame::Element(element) = frame {
                        // A tree that would grow beyond reason is refused, nothing else.
                        if let Err(error) = element.parse()
                            && element.unportable().is_none()
                        {
                            assert_eq!(error.condition, C::PolicyViolation, "both parsers agree");
                        }
                        elements.push(element.bytes().to_vec());
                    }
                    if framer.ended() {
                        return (accepted, elements, None);
                    }
                }
                Ok(None) => break,
                Err(error) => return (accepted, elements, Some(error)),
            }
        }
    }
    (accepted, elements, None)
}

fn rxml_verdict(mut input: &[u8], whole: bool) -> Result<(), rxml::Error> {
    let mut parser = rxml::Parser::with_options(rxml::Options {
        max_token_length: input.len() + 1,
        ..rxml::Options::default()
    });
    loop {
        match parser.parse(&mut input, whole) {
            Ok(Some(_)) => {}
            Ok(None) | Err(EndOrError::NeedMoreData) => return Ok(()),
            Err(EndOrError::Error(error)) => return Err(error),
        }
    }
}

/// rxml refuses U+FDF0 to U+FFFD in names, which XML 1.0 allows since its fifth edition: the same
/// with another character in their place.
fn as_rxml_takes_names(input: &[u8]) -> Vec<u8> {
    let mut output = input.to_vec();
    for at in 0..output.len().saturating_sub(2) {
        let text = std::str::from_utf8(&output[at..at + 3]);
        if text.is_ok_and(|text| ("\u{fdf0}"..="\u{fffd}").contains(&text)) {
            output[at + 1..at + 3].copy_from_slice(b"\xa4\x80");
        }
    }
    output
}

fn stricter(error: XmlError) -> bool {
    matches!(error.condition, C::PolicyViolation | C::BadFormat | C::InvalidNamespace)
        || matches!(
            error.reason,
            "carriage return alone in an attribute value"
                | "the namespace of xmlns is bound"
                | "duplicate attribute"
                | "malformed XML declaration"
                | "XML version other than 1.0"
                | "encoding other than UTF-8"
                | "document is not standalone"
        )
}

/// One input.
pub fn run(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let mut input = if choice & 1 == 0 { HEADER.to_vec() } else { Vec::new() };
    input.extend_from_slice(data);
    // White space before the root is legal, but not to rxml.
    let input = input.trim_ascii_start();
    let (accepted, elements, error) = cut(input, usize::MAX);
    let step = usize::from(choice >> 1) + 1;
    let (accepted_in_steps, elements_in_steps, error_in_steps) = cut(input, step);
    assert_eq!((accepted, &elements), (accepted_in_steps, &elements_in_steps));
    assert_eq!(error.map(|e| e.condition), error_in_steps.map(|e| e.condition));
    if let Err(refusal) = rxml_verdict(&as_rxml_takes_names(&input[..accepted]), false) {
        panic!("accepted, but rxml says {refusal}");
    }
    if let Some(error) = error.filter(|e| !stricter(*e)) {
        let refused = rxml_verdict(input, true).is_err() || rxml_verdict(&as_rxml_takes_names(input), true).is_err();
        assert!(refused, "refused: {error}");
    }
}
