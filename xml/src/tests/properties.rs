//! What holds for every stream: splits do not matter, moving a stanza changes nothing that it
//! says, and nothing is accepted that rxml refuses.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rxml::{Event, Parse, WithOptions};

use super::differential::{PIECES, compare};
use super::generator::Maker;
use super::*;

const LINK: &str = "<stream:stream xmlns='jabber:component:accept' \
    xmlns:stream='http://etherx.jabber.org/streams' id='1' from='c'>";

fn choices() -> impl Strategy<Value = Vec<u16>> {
    proptest::collection::vec(any::<u16>(), 0..300)
}

/// The elements below the root of a whole document, by rxml alone: nothing of the framer's idea of
/// what a header puts in scope goes in.
fn trees(document: &[u8]) -> Result<Vec<Node>, rxml::error::EndOrError> {
    let mut parser = rxml::Parser::with_options(rxml::Options {
        max_token_length: document.len() + 1,
        ..rxml::Options::default()
    });
    let mut rest = document;
    let (mut open, mut done): (Vec<Node>, Vec<Node>) = (Vec::new(), Vec::new());
    while let Some(event) = parser.parse(&mut rest, true)? {
        match event {
            Event::XmlDeclaration(..) => {}
            Event::StartElement(_, (ns, name), attrs) => {
                let attrs = attrs.into_iter().map(|((ns, name), value)| Attribute {
                    ns: ns.to_string(),
                    name: name.to_string(),
                    value,
                });
                let mut attrs: Vec<_> = attrs.collect();
                attrs.sort();
                open.push(Node {
                    ns: ns.to_string(),
                    name: name.to_string(),
                    attrs,
                    content: Vec::new(),
                });
            }
            Event::Text(_, text) => {
                let content = &mut open.last_mut().unwrap().content;
                match content.last_mut() {
                    Some(Content::Text(before)) => before.push_str(&text),
                    _ => content.push(Content::Text(text)),
                }
            }
            Event::EndElement(_) => {
                let node = open.pop().unwrap();
                match open.len() {
                    0 => {}
                    1 => done.push(node),
                    _ => open.last_mut().unwrap().content.push(Content::Node(node)),
                }
            }
        }
    }
    Ok(done)
}

fn sorted(mut node: Node) -> Node {
    fn sort(node: &mut Node) {
        node.attrs.sort();
        for piece in &mut node.content {
            if let Content::Node(child) = piece {
                sort(child);
            }
        }
    }
    sort(&mut node);
    node
}

/// The tree as the other side should read it.
fn moved(mut node: Node, lang: Option<&str>, way: Reroot) -> Node {
    fn map(node: &mut Node, way: Reroot) {
        if node.ns == way.from {
            way.to.clone_into(&mut node.ns);
        }
        for piece in &mut node.content {
            if let Content::Node(child) = piece {
                map(child, way);
            }
        }
    }
    if let Some(lang) = lang
        && node.attr_ns(ns::XML, "lang").is_none()
    {
        node.attrs.push(Attribute {
            ns: ns::XML.into(),
            name: "lang".into(),
            value: lang.into(),
        });
    }
    map(&mut node, way);
    sorted(node)
}

fn read(input: &str) -> Vec<Element> {
    let (got, error) = frames(input.as_bytes(), usize::MAX, Limits::stanzas(100_000));
    assert_eq!(error, None, "{input}");
    got.into_iter()
        .filter_map(|frame| match frame {
            Frame::Element(element) => Some(element),
            _ => None,
        })
        .collect()
}

proptest! {
    #![proptest_config(seeded(2000))]

    #[test]
    fn what_is_valid_is_read_as_rxml_reads_it_and_means_the_same_when_moved(choices in choices()) {
        let (header, stanzas, end) = Maker::new(&choices).stream();
        let document = format!("{header}{}{end}", stanzas.concat());
        let expected = trees(document.as_bytes()).unwrap();
        prop_assert_eq!(expected.len(), stanzas.len());
        let elements = read(&document);
        prop_assert_eq!(elements.len(), stanzas.len());
        for ((element, text), tree) in elements.iter().zip(&stanzas).zip(expected) {
            prop_assert_eq!(&element.bytes()[..], text.as_bytes());
            prop_assert_eq!(&sorted(element.parse().unwrap()), &tree);
            prop_assert!(element.is(&tree.ns, &tree.name));
            for (found, name) in [
                (element.from(), "from"), (element.to(), "to"),
                (element.id(), "id"), (element.type_(), "type"),
            ] {
                prop_assert_eq!(found.as_deref(), tree.attr(name));
            }
            // To the link,
            let there = element.reroot(Reroot::TO_LINK).unwrap();
            let document = format!("{LINK}{}</stream:stream>", std::str::from_utf8(&there).unwrap());
            let lang = element.context().lang();
            let there_tree = moved(tree, lang, Reroot::TO_LINK);
            prop_assert_eq!(trees(document.as_bytes()).unwrap(), vec![there_tree.clone()]);
            // from there to a peer,
            let on_link = read(&document).remove(0);
            let back = on_link.reroot(Reroot::TO_SERVER).unwrap();
            let document = format!(
                "{}{}</stream:stream>",
                LINK.replace(ns::COMPONENT, ns::SERVER),
                std::str::from_utf8(&back).unwrap()
            );
            let back_tree = moved(there_tree, None, Reroot::TO_SERVER);
            prop_assert_eq!(trees(document.as_bytes()).unwrap(), vec![back_tree]);
        }
        // and a batch for the link falls apart into what it was made of.
        let moved: Vec<_> = elements.iter().map(|e| e.reroot(Reroot::TO_LINK).unwrap()).collect();
        let parts = crate::split(&moved.concat(), ns::COMPONENT);
        let parts: Vec<_> = parts.iter().map(|part| part.bytes().clone()).collect();
        prop_assert_eq!(parts, moved);
    }
}

/// Where and how a stream is changed: what, where, how much, which piece.
type Change = (u8, u16, u8, u8);

fn change(stream: &mut Vec<u8>, (what, at, length, piece): Change) {
    let at = usize::from(at) % (stream.len() + 1);
    let end = (at + usize::from(length) % 40).min(stream.len());
    let piece = PIECES[usize::from(piece) % PIECES.len()];
    match what % 8 {
        0..=2 => drop(stream.splice(at..at, piece.iter().copied())),
        3 => drop(stream.splice(at..(at + piece.len()).min(stream.len()), piece.iter().copied())),
        4 => {
            if let Some(byte) = stream.get_mut(at) {
                *byte ^= 1 << (length % 8);
            }
        }
        5 => drop(stream.drain(at..end)),
        6 => {
            let copy = stream[at..end].to_vec();
            stream.splice(at..at, copy);
        }
        // A piece of the stream somewhere else: prefixes leave their scope.
        _ => {
            let cut: Vec<_> = stream.drain(at..end).collect();
            let to = usize::from(length) * 7 % (stream.len() + 1);
            stream.splice(to..to, cut);
        }
    }
}

#[test]
fn changed_streams_are_judged_as_by_rxml() {
    let (taken, refused) = (Cell::new(0), Cell::new(0));
    let changes = proptest::collection::vec(any::<Change>(), 1..3);
    let mut runner = TestRunner::new(seeded(4000));
    runner
        .run(&(choices(), changes), |(choices, changes)| {
            let (header, stanzas, end) = Maker::new(&choices).stream();
            let mut stream = format!("{header}{}{end}", stanzas.concat()).into_bytes();
            for one in changes {
                change(&mut stream, one);
            }
            let counter = if compare(&stream) { &taken } else { &refused };
            counter.set(counter.get() + 1);
            Ok(())
        })
        .unwrap();
    // Otherwise the test would prove nothing.
    assert!(
        taken.get() > 300 && refused.get() > 1000,
        "{taken:?} taken, {refused:?} refused"
    );
}

proptest! {
    #![proptest_config(seeded(1000))]

    #[test]
    fn splits_do_not_matter_valid_or_not(
        choices in choices(),
        changes in proptest::collection::vec(any::<Change>(), 0..2),
        cuts in proptest::collection::vec(1usize..60, 1..60),
    ) {
        let (header, stanzas, end) = Maker::new(&choices).stream();
        let mut stream = format!("{header}{}{end}", stanzas.concat()).into_bytes();
        for one in changes {
            change(&mut stream, one);
        }
        let limits = Limits { max_depth: 4, ..Limits::stanzas(600) };
        let text = |(got, error): (Vec<Frame>, Option<XmlError>)| {
            let error = error.map(|error| error.condition);
            (got.iter().map(describe).collect::<Vec<_>>(), error)
        };
        let whole = text(frames(&stream, usize::MAX, limits));
        let mut framer = Framer::new(limits);
        let (mut got, mut error) = (Vec::new(), None);
        let mut rest = &stream[..];
        for cut in cuts.iter().copied().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            rest = after;
            framer.feed(piece);
            loop {
                match framer.next_frame() {
                    Ok(Some(frame)) => got.push(frame),
                    Ok(None) => break,
                    Err(refused) => {
                        error = Some(refused);
                        rest = &[];
                        break;
                    }
                }
            }
            // What waits is never more than a stanza and the piece that was read last.
            prop_assert!(framer.buffered() <= limits.max_stanza_bytes + piece.len());
        }
        let (got, error) = text((got, error));
        prop_assert_eq!(got, whole.0);
        prop_assert_eq!(error.is_some(), whole.1.is_some());
        // What is too large and wrong behind that may be refused for either.
        let too_large = Some(StreamErrorCondition::PolicyViolation);
        if error != too_large && whole.1 != too_large {
            prop_assert_eq!(error, whole.1);
        }
    }
}

/// One namespace, bound once and used everywhere: written out each time, the square of the size.
#[test]
fn a_stanza_grows_within_bounds_when_it_is_moved_or_read() {
    let long = "n".repeat(50_000);
    let element = |inside: &str, count: usize| {
        let text = format!(
            "<c:message xmlns:c='jabber:server' xmlns:p='{long}'>{}</c:message>",
            inside.repeat(count)
        );
        let input = format!("{HEADER}{text}");
        let (mut got, error) = frames(input.as_bytes(), usize::MAX, Limits::stanzas(200_000));
        assert_eq!(error, None);
        let Some(Frame::Element(element)) = got.pop() else {
            panic!("no element")
        };
        element
    };
    for inside in ["<p:a/>", "<a p:b=''/>"] {
        let few = element(inside, 3);
        assert!(few.parse().is_ok() && few.reroot(Reroot::TO_LINK).is_ok());
        let many = element(inside, 5_000);
        let refused = StreamErrorCondition::PolicyViolation;
        assert_eq!(many.parse().unwrap_err().condition, refused);
        assert_eq!(many.reroot(Reroot::TO_LINK).unwrap_err().condition, refused);
    }
    // Many children in a usual namespace are no excess.
    let usual = "<c:iq xmlns:c='jabber:server'><q xmlns='http://jabber.org/protocol/pubsub#event'>";
    let text = format!("{usual}{}</q></c:iq>", "<item/>".repeat(20_000));
    let (mut got, _) = frames(
        format!("{HEADER}{text}").as_bytes(),
        usize::MAX,
        Limits::stanzas(200_000),
    );
    let Some(Frame::Element(element)) = got.pop() else {
        panic!("no element")
    };
    assert!(element.parse().is_ok());
    assert!(element.reroot(Reroot::TO_LINK).unwrap().len() < 2 * text.len());
}

/// The prefixes of a header come on top of a stanza's own: the bound for peers does not apply again.
#[test]
fn what_was_moved_can_be_split_again_however_many_namespaces_it_has() {
    let many = |count: usize, each: &dyn Fn(usize) -> String| (0..count).map(each).collect::<Vec<_>>().concat();
    let on_header = many(16, &|n| format!(" xmlns:h{n}='urn:h{n}'"));
    let header = HEADER.replace(" from=", &format!("{on_header} from="));
    let own = many(30, &|n| format!(" xmlns:p{n}='urn:p{n}'"));
    let uses = many(16, &|n| format!("<h{n}:x/>"));
    let deep = format!("{}{}", "<a u:x=''>".repeat(60), "</a>".repeat(60));
    for stanza in [
        format!("<message{own}>{uses}</message>"),
        format!("<message xmlns:u='urn:u' xmlns:c='jabber:server'><c:x>{deep}</c:x></message>"),
    ] {
        let element = read(&format!("{header}{stanza}")).remove(0);
        let batch = [
            element.reroot(Reroot::TO_LINK).unwrap(),
            element.reroot(Reroot::TO_LINK).unwrap(),
        ];
        assert_eq!(crate::split(&batch.concat(), ns::COMPONENT).len(), 2);
    }
}
