//! Sizes: what is just allowed, what is one too many, and that memory stays bounded.

use super::*;
use StreamErrorCondition as C;
use rstest::rstest;

fn verdict(input: &str, limits: Limits) -> Result<usize, C> {
    let (got, error) = frames(input.as_bytes(), 1460, limits);
    error.map_or(Ok(got.len()), |e| Err(e.condition))
}

fn element_of(bytes: usize) -> String {
    let empty = "<a></a>".len();
    format!("<a>{}</a>", "x".repeat(bytes - empty))
}

fn many(count: usize, each: impl Fn(usize) -> String) -> String {
    (0..count).map(each).collect()
}

#[rstest]
#[case::one_below(9_999, true)]
#[case::exactly(10_000, true)]
#[case::one_above(10_001, false)]
fn an_element_may_have_as_many_bytes_as_the_limit(#[case] size: usize, #[case] passes: bool) {
    for step in [1, 1460, usize::MAX] {
        let input = format!("{HEADER}<b/>{}<b/>", element_of(size));
        let (got, error) = frames(input.as_bytes(), step, Limits::stanzas(10_000));
        if passes {
            assert_eq!((got.len(), error), (4, None), "steps of {step}");
        } else {
            assert_eq!(got.len(), 2);
            assert_eq!(error.unwrap().condition, C::PolicyViolation);
        }
    }
}

#[test]
fn the_header_is_bounded_too() {
    let header = |n: usize| HEADER.replace("coluc.com", &"x".repeat(n));
    let room = Limits::negotiation().max_stanza_bytes;
    assert_eq!(verdict(&header(room / 2), Limits::negotiation()), Ok(1));
    assert_eq!(verdict(&header(room), Limits::negotiation()), Err(C::PolicyViolation));
}

#[test]
fn text_without_end_is_refused_with_little_memory() {
    let mut framer = Framer::new(Limits::stanzas(10_000));
    framer.feed(HEADER.as_bytes());
    framer.feed(b"<a>");
    let piece = [b'x'; 4096];
    for _ in 0..250_000 {
        framer.feed(&piece);
        match framer.next_frame() {
            Ok(Some(_)) => {}
            Ok(None) => assert!(framer.buffered() < 10_000),
            Err(error) => {
                assert_eq!(error.condition, C::PolicyViolation);
                assert!(error.offset < 20_000);
                assert_eq!(framer.buffered(), 0);
                return;
            }
        }
    }
    panic!("a gigabyte was taken");
}

#[test]
fn white_space_without_end_costs_no_memory() {
    let mut framer = Framer::new(Limits::stanzas(10_000));
    framer.feed(HEADER.as_bytes());
    assert!(framer.next_frame().unwrap().is_some());
    for _ in 0..10_000 {
        framer.feed(&[b' '; 1024]);
        assert!(framer.next_frame().unwrap().is_none());
        assert_eq!(framer.buffered(), 0);
    }
    framer.feed(b"<a/>");
    assert!(matches!(framer.next_frame(), Ok(Some(Frame::Element(_)))));
}

#[rstest]
#[case::depth("<a>".repeat(10_000), C::PolicyViolation)]
#[case::attributes(
    format!("<a{}/>", many(1500, |i| format!(" a{i}=''"))),
    C::PolicyViolation
)]
#[case::namespaces_of_one_element(
    format!("<a{}/>", many(100_000, |i| format!(" xmlns:p{i}='u:{i}'"))),
    C::PolicyViolation
)]
#[case::namespaces_nested(
    many(100_000, |i| format!("<a xmlns:p{i}='u:{i}' xmlns:q{i}='u:{i}'>")),
    C::PolicyViolation
)]
#[case::element_name(format!("<{}/>", "a".repeat(1_000_000)), C::PolicyViolation)]
#[case::attribute_name(format!("<a {}=''/>", "a".repeat(1_000_000)), C::PolicyViolation)]
#[case::prefix(format!("<{}:a/>", "a".repeat(1_000_000)), C::PolicyViolation)]
#[case::end_tag_name(format!("<a></{}>", "a".repeat(1_000_000)), C::PolicyViolation)]
#[case::reference(format!("<a>&{};</a>", "a".repeat(1_000_000)), C::RestrictedXml)]
#[case::declaration_space(format!("<a{}/>", " ".repeat(1_000_000)), C::PolicyViolation)]
fn excess_of_each_kind_is_refused_early(#[case] xml: String, #[case] condition: C) {
    let (got, error) = frames(format!("{HEADER}{xml}").as_bytes(), 1460, Limits::stanzas(200_000));
    assert_eq!(got.len(), 1);
    assert_eq!(error.unwrap().condition, condition);
}

#[test]
fn many_children_and_siblings_with_own_namespaces_pass_within_the_size() {
    let children = "<x xmlns='u:x' xmlns:p='u:p' p:a=''/>".repeat(5_000);
    let input = format!("{HEADER}<a>{children}</a>");
    assert_eq!(verdict(&input, Limits::stanzas(250_000)), Ok(2));
    let input = format!("{HEADER}<a>{}</a>", "<b/>".repeat(25_000));
    assert_eq!(verdict(&input, Limits::stanzas(250_000)), Ok(2));
    assert_eq!(verdict(&input, Limits::stanzas(50_000)), Err(C::PolicyViolation));
}

#[test]
fn depth_attributes_and_namespaces_are_allowed_up_to_the_limit() {
    let limits = Limits {
        max_depth: 3,
        max_attributes: 3,
        max_namespaces: 2,
        max_name_bytes: 4,
        ..Limits::stanzas(10_000)
    };
    let mut framer = Framer::new(Limits::stanzas(10_000));
    framer.feed(HEADER.as_bytes());
    framer.next_frame().unwrap();
    framer.set_limits(limits);
    framer.feed(b"<a><b><c/></b></a><a b='' c='' d=''/><a xm='' e='' f='\xC3\xA9'/><abcd/>");
    for _ in 0..4 {
        assert!(matches!(framer.next_frame(), Ok(Some(Frame::Element(_)))));
    }
    for bad in [
        "<a><b><c><d/></c></b></a>",
        "<a b='' c='' d='' e=''/>",
        "<a b='' c='' d='&amp;' e=''/>",
        "<abcde/>",
        "<a abcde=''/>",
    ] {
        let mut framer = Framer::new(Limits::stanzas(10_000));
        framer.feed(HEADER.as_bytes());
        framer.next_frame().unwrap();
        framer.set_limits(limits);
        framer.feed(bad.as_bytes());
        let error = framer.next_frame().unwrap_err();
        assert_eq!(error.condition, C::PolicyViolation, "{bad}");
    }
}
