//! The framer against rxml: it never accepts what rxml refuses, and refuses
//! nothing that rxml accepts except by its own stricter rules.

use super::*;
use crate::testing::{Verdict, framer};
use proptest::prelude::*;
use std::cell::Cell;

/// Checks both directions; says whether the framer took all of it.
pub(super) fn compare(input: &[u8]) -> bool {
    testing::compare(input, false).error.is_none()
}

/// Pieces from which streams are mutated.
pub(super) const PIECES: &[&[u8]] = &[
    b"<",
    b">",
    b"/",
    b"/>",
    b"</",
    b"&",
    b";",
    b"'",
    b"\"",
    b"=",
    b":",
    b" ",
    b"\n",
    b"\t",
    b"\r\n",
    b"\r",
    b"]",
    b"]]",
    b"]]>",
    b"<![CDATA[",
    b"<!--",
    b"-->",
    b"<?",
    b"?>",
    b"<!DOCTYPE ",
    b"&amp;",
    b"&lt;",
    b"&#65;",
    b"&#x0;",
    b"&#xD800;",
    b"&#xFFFE;",
    b"&#00000065;",
    b"&#000000065;",
    b"&x;",
    b"<a>",
    b"</a>",
    b"<a/>",
    b"<p:a xmlns:p='u:p'/>",
    b" xmlns='u:a'",
    b" xmlns=''",
    b" xmlns:p='u:p'",
    b" xmlns:q='u:p'",
    b" p:a='1'",
    b" q:a='2'",
    b" a='1'",
    b" a = \"2\"",
    b" xml:lang='en'",
    b" xmlns:xml='u:x'",
    b" xmlns:xmlns='u:x'",
    b" xmlns:p=''",
    b"xmlns",
    b"xml",
    b"db:",
    b"s:",
    b"u:",
    b" xmlns:z='http://www.w3.org/XML/1998/namespace'",
    b" xmlns:z='http://www.w3.org/2000/xmlns/'",
    b"\0",
    b"\x01",
    b"\x1f",
    b"\x7f",
    b"\x80",
    b"\xbf",
    b"\xc0\x80",
    b"\xc2",
    b"\xc3\xa9",
    b"\xe0\x80\x80",
    b"\xe2\x82",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\xef\xbf\xbe",
    b"\xef\xbf\xbd",
    b"\xef\xb7\xb0",
    b"\xf0\x9f\x98\x80",
    b"\xf4\x90\x80\x80",
    b"\xf8",
    b"\xff",
    b"\xc2\xb7",
    b"\xe2\x80\xbf",
    b"1",
    b"-",
    b".",
    b"from",
    b"from='x'",
    b" from='x&#10;y'",
    b" to=\"\xc3\xa9\"",
    b" id=''",
];

#[derive(Debug, Clone)]
pub(super) enum Mutation {
    Insert(usize, usize),
    Replace(usize, u8),
    Overwrite(usize, usize),
    Delete(usize, usize),
    Copy(usize, usize, usize),
}

pub(super) fn mutation() -> impl Strategy<Value = Mutation> {
    let at = 0..STREAM.len();
    prop_oneof![
        4 => (at.clone(), 0..PIECES.len()).prop_map(|(a, p)| Mutation::Insert(a, p)),
        1 => (at.clone(), any::<u8>()).prop_map(|(a, b)| Mutation::Replace(a, b)),
        2 => (at.clone(), 0..PIECES.len()).prop_map(|(a, p)| Mutation::Overwrite(a, p)),
        1 => (at.clone(), 1..30usize).prop_map(|(a, n)| Mutation::Delete(a, n)),
        1 => (at.clone(), 1..60usize, at).prop_map(|(a, n, b)| Mutation::Copy(a, n, b)),
    ]
}

pub(super) fn apply(stream: &mut Vec<u8>, mutation: &Mutation) {
    let within = |at: usize, len: usize| at.min(len);
    match *mutation {
        Mutation::Insert(at, piece) => {
            let at = within(at, stream.len());
            stream.splice(at..at, PIECES[piece].iter().copied());
        }
        Mutation::Replace(at, byte) => {
            if let Some(b) = stream.get_mut(at) {
                *b = byte;
            }
        }
        Mutation::Overwrite(at, piece) => {
            let at = within(at, stream.len());
            let end = within(at + PIECES[piece].len(), stream.len());
            stream.splice(at..end, PIECES[piece].iter().copied());
        }
        Mutation::Delete(at, n) => {
            let at = within(at, stream.len());
            let end = within(at + n, stream.len());
            stream.drain(at..end);
        }
        Mutation::Copy(at, n, to) => {
            let at = within(at, stream.len());
            let end = within(at + n, stream.len());
            let copy = stream[at..end].to_vec();
            let to = within(to, stream.len());
            stream.splice(to..to, copy);
        }
    }
}

#[test]
fn every_piece_inserted_at_every_place_is_judged_as_by_rxml() {
    let (mut taken, mut refused) = (0, 0);
    for at in 0..=STREAM.len() {
        for piece in 0..PIECES.len() {
            // A prime step visits each pair of place and piece now and then, all pieces often.
            if !(at * PIECES.len() + piece).is_multiple_of(7) {
                continue;
            }
            let mut stream = STREAM.as_bytes().to_vec();
            apply(&mut stream, &Mutation::Insert(at, piece));
            if compare(&stream) {
                taken += 1;
            } else {
                refused += 1;
            }
        }
    }
    assert!(taken > 1000 && refused > 1000, "{taken} taken, {refused} refused");
}

#[test]
fn every_character_reference_and_every_character_is_judged_as_by_rxml() {
    let edges = [
        0x0,
        0x8,
        0x9,
        0xA,
        0xB,
        0xD,
        0xE,
        0x1F,
        0x20,
        0x2D,
        0x2E,
        0x30,
        0x3A,
        0x40,
        0x5B,
        0x5F,
        0x60,
        0x7B,
        0x7F,
        0x80,
        0xB6,
        0xB7,
        0xB8,
        0xC0,
        0xD7,
        0xF7,
        0x2FF,
        0x300,
        0x370,
        0x37E,
        0x1FFF,
        0x2000,
        0x200C,
        0x200E,
        0x203F,
        0x2041,
        0x2070,
        0x2190,
        0x2C00,
        0x2FF0,
        0x3000,
        0x3001,
        0xD7FF,
        0xE000,
        0xF900,
        0xFDD0,
        0xFDF0,
        0xFFFD,
        0xFFFE,
        0xFFFF,
        0x10000,
        0x1FFFE,
        0xEFFFF,
        0xF0000,
        0x0010_FFFF,
    ];
    let characters = edges.into_iter().flat_map(|e: u32| [e.saturating_sub(1), e, e + 1]);
    for character in characters.filter_map(char::from_u32) {
        for xml in [
            format!("<a>{character}</a>"),
            format!("<a b='{character}'/>"),
            format!("<a><![CDATA[{character}]]></a>"),
            format!("<a{character}/>"),
            format!("<{character}/>"),
            format!("<a b{character}=''/>"),
            format!("<a>&#{};</a>", u32::from(character)),
            format!("<a b='&#x{:x};'/>", u32::from(character)),
            format!("<a>&{character};</a>"),
        ] {
            compare(format!("{HEADER}{xml}").as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(seeded(1))]

    #[test]
    fn mutated_streams_are_judged_as_by_rxml(seed in any::<[u8; 16]>()) {
        use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
        let (taken, refused) = (Cell::new(0), Cell::new(0));
        let rng = TestRng::from_seed(RngAlgorithm::XorShift, &seed);
        let mut runner = TestRunner::new_with_rng(seeded(4000), rng);
        let mutations = proptest::collection::vec(mutation(), 1..4);
        runner.run(&mutations, |mutations| {
            let mut stream = STREAM.as_bytes().to_vec();
            for mutation in &mutations {
                apply(&mut stream, mutation);
            }
            let counter = if compare(&stream) { &taken } else { &refused };
            counter.set(counter.get() + 1);
            Ok(())
        }).map_err(|e| TestCaseError::fail(e.to_string()))?;
        // Otherwise the test would prove nothing.
        prop_assert!(taken.get() > 100 && refused.get() > 1000);
    }

}

proptest! {
    #![proptest_config(seeded(400))]

    #[test]
    fn a_refused_stream_is_refused_the_same_byte_by_byte(mutation in mutation()) {
        let mut stream = STREAM.as_bytes().to_vec();
        apply(&mut stream, &mutation);
        let (whole, single) = (framer(&stream, 1 << 20), framer(&stream, 1));
        let text = |v: &Verdict| v.frames.iter().map(describe).collect::<Vec<_>>();
        let error = |v: &Verdict| v.error.map(|e| (e.condition, e.reason));
        prop_assert_eq!(text(&whole), text(&single));
        prop_assert_eq!(error(&whole), error(&single));
    }
}
