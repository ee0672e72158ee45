//! What holds for every input, for tests and fuzz targets: the framer against rxml, and a moved stanza against what it
//! said before.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a panic is what tells a finding"
)]

use rxml::error::EndOrError;
use rxml::{Parse, WithOptions};

use crate::{
    Attribute, Content, Element, Frame, Framer, Limits, Node, Reroot, StreamErrorCondition as C, XmlError, ns,
};

/// What the framer makes of some bytes.
pub struct Verdict {
    /// Bytes up to the end of the last frame.
    pub accepted: usize,
    /// What it delivered.
    pub frames: Vec<Frame>,
    /// What ended it.
    pub error: Option<XmlError>,
}

/// Reads `input` in pieces of at most `step` bytes.
pub fn framer(input: &[u8], step: usize) -> Verdict {
    let mut framer = Framer::new(Limits::stanzas(1 << 20));
    let mut verdict = Verdict {
        accepted: 0,
        frames: Vec::new(),
        error: None,
    };
    let mut fed = 0;
    for piece in input.chunks(step) {
        framer.feed(piece);
        fed += piece.len();
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => {
                    verdict.frames.push(frame);
                    verdict.accepted = fed - framer.buffered();
                    if framer.ended() {
                        return verdict;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    verdict.error = Some(error);
                    return verdict;
                }
            }
        }
    }
    verdict
}

/// What rxml says of these bytes, as a `whole` document or as the beginning of one.
fn rxml_verdict(mut input: &[u8], whole: bool) -> Result<(), EndOrError> {
    let mut parser = rxml::Parser::with_options(rxml::Options {
        max_token_length: input.len() + 1,
        ..rxml::Options::default()
    });
    loop {
        match parser.parse(&mut input, whole) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(EndOrError::NeedMoreData) if !whole => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// rxml refuses U+FDF0 to U+FFFD in names, which XML 1.0 allows since its fifth edition: what means
/// the same with another character in their place.
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

/// Rules of the framer that rxml does not have.
fn stricter(error: XmlError) -> bool {
    matches!(error.condition, C::PolicyViolation | C::BadFormat | C::InvalidNamespace)
        || matches!(
            error.reason,
            "carriage return alone in an attribute value"
            | "the namespace of xmlns is bound"
            // rxml lets a second `xmlns` pass.
            | "duplicate attribute"
            // Of the XML declaration, in whose values rxml passes over a carriage return.
            | "malformed XML declaration"
            | "XML version other than 1.0"
            | "encoding other than UTF-8"
            | "document is not standalone"
        )
}

/// Whether a tree or a moved stanza would grow beyond reason, for which alone an element may be refused that the
/// framer took.
pub fn grows(error: &XmlError) -> bool {
    error.condition == C::PolicyViolation
}

/// The framer delivers nothing that rxml refuses, and refuses nothing that rxml accepts but by its own stricter rules;
/// both readers agree on each element, unless its tree grows beyond reason and `may_grow`.
pub fn compare(input: &[u8], may_grow: bool) -> Verdict {
    // White space before the root is legal, but not to rxml.
    let input = input.trim_ascii_start();
    let verdict = framer(input, usize::MAX);
    if let Err(error) = rxml_verdict(&as_rxml_takes_names(&input[..verdict.accepted]), false) {
        panic!(
            "accepted, but rxml says {error:?}: {}",
            input[..verdict.accepted].escape_ascii()
        );
    }
    for element in verdict.frames.iter().filter_map(element_of) {
        if element.unportable().is_some() {
            continue;
        }
        match element.parse() {
            Ok(node) => {
                assert!(element.is(&node.ns, &node.name), "{node:?}");
                assert_eq!(element.from().as_deref(), node.attr("from"));
                assert_eq!(element.to().as_deref(), node.attr("to"));
                assert_eq!(element.id().as_deref(), node.attr("id"));
                assert_eq!(element.type_().as_deref(), node.attr("type"));
            }
            Err(error) => assert!(
                may_grow && grows(&error),
                "accepted, but not by the tree reader: {error}"
            ),
        }
    }
    if let Some(error) = verdict.error
        && !stricter(error)
    {
        assert!(
            rxml_verdict(input, true).is_err() && rxml_verdict(&as_rxml_takes_names(input), true).is_err(),
            "refused ({error}), but not by rxml: {}",
            input.escape_ascii()
        );
    }
    verdict
}

fn element_of(frame: &Frame) -> Option<&Element> {
    match frame {
        Frame::Element(element) => Some(element),
        _ => None,
    }
}

/// The elements behind a header, as far as the framer takes them.
pub fn elements(header: &str, xml: &[u8]) -> Vec<Element> {
    let frames = framer(&[header.as_bytes(), xml].concat(), usize::MAX).frames;
    frames.iter().filter_map(element_of).cloned().collect()
}

fn each(node: &mut Node, change: &impl Fn(&mut Node)) {
    change(node);
    node.attrs.sort();
    for piece in &mut node.content {
        if let Content::Node(child) = piece {
            each(child, change);
        }
    }
}

/// The tree that a stanza must have on the other stream; attributes are in order.
///
/// # Errors
/// The tree would grow beyond reason.
pub fn mapped(element: &Element, way: Reroot) -> Result<Node, XmlError> {
    let mut node = element.parse()?;
    if let Some(lang) = element.context().lang()
        && node.attr_ns(ns::XML, "lang").is_none()
    {
        node.attrs.push(Attribute {
            ns: ns::XML.into(),
            name: "lang".into(),
            value: lang.into(),
        });
    }
    each(&mut node, &|node| {
        if node.ns == way.from {
            way.to.clone_into(&mut node.ns);
        }
    });
    Ok(node)
}

/// What is written to the other stream, whose header has nothing but the usual, and the tree that is read there.
///
/// # Errors
/// The stanza would grow beyond reason.
pub fn moved(element: &Element, way: Reroot) -> Result<(Vec<u8>, Node), XmlError> {
    let bytes = element.reroot(way)?;
    let header = format!(
        "<stream:stream xmlns='{}' xmlns:stream='http://etherx.jabber.org/streams' id='1' from='c'>",
        way.to
    );
    let read = elements(&header, &bytes);
    let [read] = &read[..] else {
        panic!("{} elements of {}", read.len(), bytes.escape_ascii());
    };
    assert_eq!(read.bytes(), &bytes);
    let mut node = read.parse()?;
    each(&mut node, &|_| {});
    Ok((bytes.to_vec(), node))
}
