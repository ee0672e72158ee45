#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, RngSeed};

use super::*;
use xmpp_federation_xml::{Frame, Framer, Limits};

const HEADER: &str = "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
    xmlns:db='jabber:server:dialback' from='vngtp.lab' to='coluc.com' version='1.0'>";
const PIECES: [&[u8]; 12] = [
    b"<",
    b">",
    b"/>",
    b"&amp;",
    b"&#65;",
    b" ",
    b"'",
    b" type='valid'",
    b" from='a@b'",
    b" to=''",
    b"<a/>",
    b"\xc3\xbc",
];

fn elements(text: &[u8]) -> Vec<Element> {
    let mut framer = Framer::new(Limits::negotiation());
    framer.feed(HEADER.as_bytes());
    framer.feed(text);
    let mut found = Vec::new();
    while let Ok(Some(frame)) = framer.next_frame() {
        if let Frame::Element(element) = frame {
            found.push(element);
        }
    }
    found
}

/// Puts a piece somewhere, changes a byte, or takes some away.
fn change(text: &mut Vec<u8>, (what, at, length, piece): (u8, u16, u8, u8)) {
    let at = usize::from(at) % (text.len() + 1);
    let end = (at + usize::from(length) % 40).min(text.len());
    match what % 4 {
        0 | 1 => drop(text.splice(at..at, PIECES[usize::from(piece) % PIECES.len()].iter().copied())),
        2 if at < text.len() => text[at] ^= 1 << (length % 8),
        _ => drop(text.drain(at..end)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3000,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn dialback_elements_are_read_or_refused_and_answered_as_they_were_asked(
        base in 0..4usize,
        changes in proptest::collection::vec(any::<(u8, u16, u8, u8)>(), 0..3),
    ) {
        let base = [
            "<db:result from='vngtp.lab' to='coluc.com'>b4835385f37fe289</db:result>",
            "<db:verify from='VNGTP.lab.' to='b\u{fc}cher.example' id='D6&quot;0'> k\n</db:verify>",
            "<db:result from='vngtp.lab' to='coluc.com' type='error'><error type='cancel'>\
             <item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></db:result>",
            "<x:verify xmlns:x='jabber:server:dialback' from='a.example' to='b.example' id='1' type='valid'/>",
        ][base];
        let mut text = base.as_bytes().to_vec();
        for one in changes {
            change(&mut text, one);
        }
        for element in elements(&text) {
            match element.parse() {
                Ok(node) => drop(node.stream_error()),
                Err(_) => prop_assert!(element.unportable().is_some()),
            }
            let Some(kind) = DialbackElement::kind_of(&element) else { continue };
            let Ok(received) = DialbackElement::parse(&element, kind) else { continue };
            for answer in [Reply::Valid, Reply::Error("item-not-found")] {
                let xml = reply(&received, answer).unwrap();
                let answered = elements(xml.as_bytes()).remove(0);
                prop_assert_eq!(DialbackElement::kind_of(&answered), Some(kind));
                prop_assert_eq!(answered.from(), element.to());
                prop_assert_eq!(answered.to(), element.from());
                let again = DialbackElement::parse(&answered, kind).unwrap();
                prop_assert_eq!(again.id, received.id.clone());
                prop_assert!(again.answer.is_some() && again.key.is_empty());
            }
        }
    }
}
