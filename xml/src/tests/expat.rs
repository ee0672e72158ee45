//! What the edge passes on against libexpat, which Prosody, ejabberd and others read their streams
//! with: it takes every stanza that is moved to another stream, in whichever way its program names
//! things.

use super::differential::{Mutation, PIECES, apply, mutation};
use super::generator::Maker;
use super::*;
use crate::chars::{is_name_char, is_name_start};
use crate::testing::framer;
use proptest::prelude::*;
use std::cell::Cell;
use std::fmt::Write as _;
use testkit_expat::{Parser, document};

/// What stands between a namespace and a name: of `fast_xml` (ejabberd), of lxp as Prosody uses it,
/// of jabberd2, and of programs that chose what a namespace might hold; or namespaces are the
/// program's own matter.
const PROGRAMS: [Option<u8>; 6] = [Some(b'\n'), Some(1), Some(b'|'), Some(b' '), Some(b'^'), None];

/// A stream of the other kind with everything that may be passed on, as the edge writes it.
fn passed_on(input: &[u8], way: Reroot, envelopes: bool) -> (String, usize, usize) {
    let header = HeaderToSend {
        content_ns: way.to,
        to: Some("cm-2_s2scp-1.coluc-com"),
        ..HeaderToSend::default()
    };
    let mut stream = header.write().unwrap();
    let (mut passed, mut refused) = (0, 0);
    for frame in framer(input, 1 << 20).frames {
        let Frame::Element(element) = frame else {
            continue;
        };
        if element.unportable().is_some() {
            refused += 1;
            continue;
        }
        let Ok(moved) = element.reroot(way) else {
            continue;
        };
        let moved = std::str::from_utf8(&moved).unwrap();
        passed += 1;
        if envelopes {
            write!(stream, "<route from='a.example' to='b.example'>{moved}</route>").unwrap();
        } else {
            stream += moved;
        }
    }
    (stream + STREAM_END, passed, refused)
}

/// Gives how many elements were passed on, and how many refused for their names.
fn judge(input: &[u8], way: Reroot) -> (usize, usize) {
    let mut counts = (0, 0);
    for envelopes in [false, true] {
        let (stream, passed, refused) = passed_on(input, way, envelopes);
        counts = (passed, refused);
        if passed == 0 {
            continue;
        }
        for program in PROGRAMS {
            if let Err(refused) = document(stream.as_bytes(), program) {
                panic!(
                    "passed on, but libexpat with {program:?} says {refused}: {}, out of {}",
                    stream.escape_debug(),
                    input.escape_ascii()
                );
            }
        }
    }
    counts
}

/// From a peer to a link, and the same stream from a router to a peer.
fn judge_both_ways(stream: &[u8]) -> (usize, usize) {
    let counts = judge(stream, Reroot::TO_LINK);
    let text = String::from_utf8_lossy(stream);
    if let std::borrow::Cow::Borrowed(text) = text {
        let turned = text
            .replace("jabber:component:accept", "\0")
            .replace("jabber:server'", "jabber:component:accept'")
            .replace('\0', "jabber:server");
        judge(turned.as_bytes(), Reroot::TO_SERVER);
    }
    counts
}

/// Names and namespaces that parsers disagree about, besides everything of the other test.
const MORE: &[&str] = &[
    "\u{132}",
    "\u{132}:",
    "a\u{2070}",
    "\u{10000}",
    "\u{ff21}",
    " xmlns:\u{132}='u:\u{132}'",
    " \u{132}:\u{218}='1'",
    " xmlns:p='u:&#10;p'",
    " xmlns='u:&#10;'",
    " xmlns='u a'",
    " xmlns:p='u|p'",
    " xmlns='\u{132}'",
    " xmlns:p='xml'",
    " xml:x='1'",
    " xml:xmlns='1'",
    " xmlns:xml='http://www.w3.org/XML/1998/namespace'",
    "<xml:a/>",
    "<xmlns/>",
    "<p:xmlns xmlns:p='u:p' p:xmlns='1'/>",
    "<p:\u{132} xmlns:p='u:p'/>",
    "\u{1fffe}",
    "&#x1FFFE;",
    "&#xFFFF;",
    "\u{85}\u{2028}",
    "\u{feff}",
];

#[test]
fn every_piece_inserted_at_every_place_leaves_what_libexpat_takes() {
    let (mut passed, mut refused) = (0, 0);
    let more: Vec<&[u8]> = MORE.iter().map(|text| text.as_bytes()).collect();
    for at in 0..=STREAM.len() {
        for (n, piece) in PIECES.iter().chain(&more).enumerate() {
            // A prime step visits each pair of place and piece now and then, all pieces often.
            if !(at * (PIECES.len() + more.len()) + n).is_multiple_of(23) {
                continue;
            }
            let mut stream = STREAM.as_bytes().to_vec();
            stream.splice(at..at, piece.iter().copied());
            let counts = judge_both_ways(&stream);
            passed += counts.0;
            refused += counts.1;
        }
    }
    assert!(passed > 1000 && refused > 50, "{passed} passed on, {refused} refused");
}

proptest! {
    #![proptest_config(seeded(1))]

    #[test]
    fn mutated_streams_leave_what_libexpat_takes(seed in any::<[u8; 16]>()) {
        use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
        let passed = Cell::new(0);
        let rng = TestRng::from_seed(RngAlgorithm::XorShift, &seed);
        let mut runner = TestRunner::new_with_rng(seeded(1500), rng);
        let more = (0..STREAM.len(), 0..MORE.len());
        let changes = (
            proptest::collection::vec(mutation(), 0..3),
            proptest::collection::vec(more, 0..3),
        );
        runner.run(&changes, |(mutations, more): (Vec<Mutation>, Vec<(usize, usize)>)| {
            let mut stream = STREAM.as_bytes().to_vec();
            for mutation in &mutations {
                apply(&mut stream, mutation);
            }
            for (at, piece) in more {
                let at = at.min(stream.len());
                stream.splice(at..at, MORE[piece].bytes());
            }
            passed.set(passed.get() + judge_both_ways(&stream).0);
            Ok(())
        }).map_err(|e| TestCaseError::fail(e.to_string()))?;
        // Otherwise the test would prove nothing.
        prop_assert!(passed.get() > 1000, "{}", passed.get());
    }
}

proptest! {
    #![proptest_config(seeded(400))]

    #[test]
    fn odd_valid_streams_leave_what_libexpat_takes(choices in proptest::collection::vec(any::<u16>(), 0..300)) {
        let (header, stanzas, end) = Maker::new(&choices).stream();
        judge_both_ways((header + &stanzas.concat() + &end).as_bytes());
    }
}

/// Every element of this stream, which is one that the framer takes.
fn elements(stream: &str) -> Vec<Element> {
    let (frames, error) = frames(stream.as_bytes(), 1 << 20, Limits::stanzas(10_000));
    assert_eq!(error, None);
    let elements = frames.into_iter().filter_map(|frame| match frame {
        Frame::Element(element) => Some(element),
        Frame::Header(_) | Frame::End => None,
    });
    elements.collect()
}

type Role<'a> = (&'a dyn Fn(char) -> String, fn(char) -> bool);

#[test]
fn every_character_in_a_name_is_passed_on_if_libexpat_takes_it_and_only_then() {
    let starts = |c: char| format!("<{c}/>");
    let continues = |c: char| format!("<a{c}/>");
    let roles: [Role<'_>; 2] = [(&starts, is_name_start), (&continues, is_name_char)];
    for (write, allowed) in roles {
        let (mut taken, mut passed) = (String::from(HEADER), String::from("<a>"));
        let mut characters = Vec::new();
        for c in '\u{80}'..=char::MAX {
            let xml = write(c);
            if allowed(c) {
                characters.push(c);
                taken.push_str(&xml);
            } else if c < '\u{10000}' || u32::from(c).is_multiple_of(1009) {
                let stream = format!("{HEADER}{xml}");
                let (_, error) = frames(stream.as_bytes(), 1 << 20, Limits::stanzas(10_000));
                assert!(error.is_some(), "{c:?}");
            }
        }
        let elements = elements(&taken);
        assert_eq!(elements.len(), characters.len());
        let mut refused = 0;
        for (c, element) in characters.into_iter().zip(elements) {
            let xml = std::str::from_utf8(element.bytes()).unwrap();
            if element.unportable().is_none() {
                passed += xml;
            } else {
                refused += 1;
                // Beyond the first plane it takes none at all.
                if c < '\u{10000}' || u32::from(c).is_multiple_of(1009) {
                    let taken = document(xml.as_bytes(), Some(b'\n'));
                    assert!(taken.is_err(), "{c:?} could be passed on");
                }
            }
        }
        for program in PROGRAMS {
            assert_eq!(document((passed.clone() + "</a>").as_bytes(), program), Ok(()));
        }
        assert!(refused > 900_000 && passed.len() > 50_000, "{refused}");
    }
}

#[test]
fn every_ascii_character_in_a_namespace_is_passed_on_only_if_nobody_can_separate_names_with_it() {
    let mut passed = 0;
    for c in 1..=127_u8 {
        let namespace = format!("u:&#{c};x");
        for stanza in [
            format!("<message xmlns:p='{namespace}'><p:a/></message>"),
            format!("<message><a xmlns='{namespace}'/></message>"),
        ] {
            let stream = format!("{HEADER}{stanza}");
            let (found, error) = frames(stream.as_bytes(), 1 << 20, Limits::stanzas(10_000));
            if error.is_some() {
                continue;
            }
            let Some(Frame::Element(element)) = found.last() else {
                panic!("{found:?}")
            };
            let taken = document(stanza.as_bytes(), Some(c)).is_ok();
            assert_eq!(element.unportable().is_none(), taken, "{:?}", char::from(c));
            passed += usize::from(taken);
        }
    }
    assert!(passed > 100);
}

#[test]
fn a_header_may_bind_a_prefix_that_only_an_element_with_it_cannot_be_passed_on_for() {
    let bound = HEADER.replace(" from=", " xmlns:\u{132}='u:i' from=");
    let stanzas = "<message><a/></message><message><\u{132}:a/></message><message \u{132}:b='1'/>\
        <message><a xmlns:\u{132}='u:j'/></message>";
    let found = elements(&(bound.clone() + stanzas));
    let found: Vec<_> = found.iter().map(Element::unportable).collect();
    assert_eq!(
        found,
        [None, Some("\u{132}:a"), Some("\u{132}:b"), Some("xmlns:\u{132}")]
    );
    judge_both_ways((bound + stanzas).as_bytes());
}

#[test]
fn a_header_with_other_names_that_not_every_parser_takes_is_refused() {
    for (name, header) in [
        ("attribute", HEADER.replace(" from=", " \u{132}='1' from=")),
        ("local name", HEADER.replace(" from=", " stream:\u{132}='1' from=")),
        (
            "root",
            HEADER.replace("stream:", "\u{132}:").replace(":stream=", ":\u{132}="),
        ),
        ("namespace", HEADER.replace(" from=", " xmlns:p='u:&#10;' from=")),
        ("space", HEADER.replace(" from=", " xmlns:p='u: ' from=")),
    ] {
        let (found, error) = frames(header.as_bytes(), 1 << 20, Limits::negotiation());
        assert!(found.is_empty(), "{name}: {found:?}");
        let condition = error.map(|error| error.condition);
        assert_eq!(condition, Some(StreamErrorCondition::BadFormat), "{name}");
    }
}

#[test]
fn a_stream_that_lasts_is_taken_piece_by_piece() {
    let (stream, ..) = passed_on(STREAM.as_bytes(), Reroot::TO_LINK, false);
    let mut parser = Parser::new(Some(b'\n'));
    for byte in stream.as_bytes() {
        parser.parse(&[*byte], false).unwrap();
    }
    parser.parse(&[], true).unwrap();
}
