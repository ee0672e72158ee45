//! However the bytes are split over reads, the frames are the same.

use super::*;
use proptest::prelude::*;

fn text(result: &(Vec<Frame>, Option<XmlError>)) -> (Vec<String>, Option<XmlError>) {
    (result.0.iter().map(describe).collect(), result.1)
}

fn whole(input: &[u8]) -> (Vec<String>, Option<XmlError>) {
    text(&frames(input, usize::MAX, Limits::stanzas(10_000)))
}

fn in_two(input: &[u8], at: usize) -> (Vec<String>, Option<XmlError>) {
    let mut framer = Framer::new(Limits::stanzas(10_000));
    let mut out = Vec::new();
    let (a, b) = input.split_at(at);
    for piece in [a, b] {
        framer.feed(piece);
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => out.push(describe(&frame)),
                Ok(None) => break,
                Err(error) => return (out, Some(error)),
            }
        }
    }
    (out, None)
}

#[test]
fn the_stream_of_these_tests_is_read_to_its_end() {
    let (got, error) = whole(STREAM.as_bytes());
    assert_eq!(error, None);
    assert_eq!(got.len(), 8, "{got:#?}");
    assert_eq!(got[7], "end");
}

#[test]
fn a_stream_split_in_two_at_every_byte_gives_the_same_frames() {
    let expected = whole(STREAM.as_bytes());
    for at in 0..=STREAM.len() {
        assert_eq!(in_two(STREAM.as_bytes(), at), expected, "split at {at}");
    }
}

#[test]
fn pieces_of_every_size_give_the_same_frames() {
    let expected = whole(STREAM.as_bytes());
    for size in 1..64 {
        let got = frames(STREAM.as_bytes(), size, Limits::stanzas(10_000));
        assert_eq!(text(&got), expected, "pieces of {size}");
    }
}

#[test]
fn an_error_is_the_same_at_every_split() {
    let long_name_then_wrong = format!("<a {}:x:y=''/>", "n".repeat(300));
    for bad in [
        &long_name_then_wrong,
        "<a b='&#xFFFE;'/>",
        "<a><b></a>",
        "<a p:b=''/>",
        "<a>]]></a>",
        "<!DOCTYPE x>",
        "<a b='1' b='2'/>",
    ] {
        let input = format!("{HEADER}<x/>{bad}");
        let expected = whole(input.as_bytes());
        let error = expected.1.unwrap();
        for at in 0..=input.len() {
            let got = in_two(input.as_bytes(), at);
            assert_eq!(got.0, expected.0, "{bad} split at {at}");
            assert_eq!(got.1.unwrap().condition, error.condition);
            assert_eq!(got.1.unwrap().reason, error.reason);
        }
    }
}

#[test]
fn one_byte_per_read_of_a_megabyte_of_text_takes_linear_time() {
    let text = "lorem ipsum é ".repeat(1_000_000 / 15);
    let elapsed = |pieces: usize| {
        let texts = text.as_bytes().chunks(text.len().div_ceil(pieces * 15) * 15);
        let stanzas = texts.map(|t| format!("<a>{}</a>", std::str::from_utf8(t).unwrap()));
        let input = HEADER.to_owned() + &stanzas.collect::<String>();
        let times = (0..3).map(|_| {
            let start = std::time::Instant::now();
            let (got, error) = frames(input.as_bytes(), 1, Limits::stanzas(2_000_000));
            assert_eq!((got.len(), error), (pieces + 1, None));
            start.elapsed()
        });
        times.min().unwrap()
    };
    let (one, forty) = (elapsed(1), elapsed(40));
    // Quadratic behaviour would make one stanza 40 times as slow as 40 small ones
    // of the same total length; the margin is for busy machines.
    assert!(one < forty * 8, "{one:?} in one stanza, {forty:?} in 40");
}

#[test]
fn restart_forgets_everything_and_counts_what_was_pipelined() {
    let mut framer = Framer::new(Limits::negotiation());
    framer.feed(HEADER.as_bytes());
    framer.feed(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><db:result");
    assert!(matches!(framer.next_frame(), Ok(Some(Frame::Header(_)))));
    assert!(matches!(framer.next_frame(), Ok(Some(Frame::Element(_)))));
    assert_eq!(framer.restart(), "<db:result".len());
    assert!(framer.context().is_none());
    framer.feed(b"<db:result/>");
    assert!(framer.next_frame().is_err(), "a header comes first");
    assert_eq!(framer.restart(), 0);
    framer.feed(HEADER.as_bytes());
    framer.feed(b" \r\n");
    assert!(matches!(framer.next_frame(), Ok(Some(Frame::Header(_)))));
    assert_eq!(framer.restart(), 0, "white space is no attack");
}

#[test]
fn bytes_behind_the_end_of_the_stream_are_dropped() {
    let (got, error) = frames(
        format!("{HEADER}</stream:stream>\n<!DOCTYPE x>\u{0}<a/>").as_bytes(),
        7,
        Limits::negotiation(),
    );
    assert_eq!((got.len(), error), (2, None));
    let mut framer = Framer::new(Limits::negotiation());
    framer.feed(format!("{HEADER}</stream:stream >").as_bytes());
    while let Ok(Some(_)) = framer.next_frame() {}
    for _ in 0..1000 {
        framer.feed(&[b'x'; 1000]);
        assert!(matches!(framer.next_frame(), Ok(None)));
        assert_eq!(framer.buffered(), 0);
    }
    assert!(framer.ended());
}

#[test]
fn an_error_is_repeated_whatever_comes_next() {
    let mut framer = Framer::new(Limits::negotiation());
    framer.feed(b"<!DOCTYPE");
    let error = framer.next_frame().unwrap_err();
    framer.feed(HEADER.as_bytes());
    assert_eq!(framer.next_frame().unwrap_err(), error);
}

proptest! {
    #![proptest_config(seeded(200))]

    #[test]
    fn any_splits_give_the_same_frames(cuts in proptest::collection::vec(1usize..40, 1..400)) {
        let mut framer = Framer::new(Limits::stanzas(10_000));
        let mut out = Vec::new();
        let mut rest = STREAM.as_bytes();
        for cut in cuts.iter().copied().chain([usize::MAX]) {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            rest = after;
            framer.feed(piece);
            while let Some(frame) = framer.next_frame().unwrap() {
                out.push(describe(&frame));
            }
        }
        prop_assert_eq!(out, whole(STREAM.as_bytes()).0);
    }
}
