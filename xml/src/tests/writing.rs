//! What is written is read back as it was meant.

use super::*;
use proptest::prelude::*;
use rstest::rstest;
use strum::VariantArray as _;

#[test]
fn values_are_escaped_and_read_back() {
    let value = "<&>'\"\t\n\r ]]> é\u{1F600}";
    let mut w = XmlWriter::new();
    w.start("a").attr("b", value).attr_opt("c", None).text(value).end();
    let xml = w.finish().unwrap();
    let node = parse(xml.as_bytes(), &StreamContext::default()).unwrap();
    assert_eq!(node.attr("b"), Some(value));
    assert_eq!(node.attr("c"), None);
    assert_eq!(node.text(), value);
}

#[rstest]
#[case('\0')]
#[case('\u{1F}')]
#[case('\u{FFFE}')]
fn a_character_that_xml_cannot_express_is_refused(#[case] bad: char) {
    let value = format!("a{bad}b");
    let mut attr = XmlWriter::new();
    attr.start("a").attr("b", &value);
    assert_eq!(attr.finish(), Err(UnwritableChar(bad.into())));
    let mut text = XmlWriter::new();
    text.start("a").text(&value);
    assert_eq!(text.finish(), Err(UnwritableChar(bad.into())));
}

#[test]
fn our_header_is_read_back() {
    let header = HeaderToSend {
        content_ns: ns::SERVER,
        from: Some("coluc.com"),
        to: Some("straße.de"),
        id: Some("a'b"),
        version: true,
        dialback: true,
    };
    let (got, error) = frames(header.write().unwrap().as_bytes(), usize::MAX, Limits::negotiation());
    assert_eq!(error, None);
    let [Frame::Header(read)] = &got[..] else {
        panic!("{got:?}")
    };
    assert_eq!(read.from.as_deref(), Some("coluc.com"));
    assert_eq!(read.to.as_deref(), Some("straße.de"));
    assert_eq!(read.id.as_deref(), Some("a'b"));
    assert_eq!(read.version.as_deref(), Some("1.0"));
    assert_eq!(read.default_ns(), ns::SERVER);
    assert!(read.declares(ns::DIALBACK));
}

#[test]
fn a_component_header_has_no_version_and_no_dialback() {
    let header = HeaderToSend {
        content_ns: ns::COMPONENT,
        to: Some("cm-2_s2scp-1.eft-xwye-a-coluc-com"),
        ..HeaderToSend::default()
    };
    assert_eq!(
        header.write().unwrap(),
        "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' \
         xmlns:stream='http://etherx.jabber.org/streams' to='cm-2_s2scp-1.eft-xwye-a-coluc-com'>"
    );
}

#[test]
fn every_stream_error_is_read_back() {
    for condition in StreamErrorCondition::VARIANTS.iter().copied() {
        let error = stream_error(condition, Some("a < b")).unwrap();
        let input = format!("{HEADER}{error}{STREAM_END}");
        let (got, refused) = frames(input.as_bytes(), usize::MAX, Limits::negotiation());
        assert_eq!(refused, None);
        let Frame::Element(element) = &got[1] else {
            panic!("{got:?}")
        };
        assert_eq!(
            element.parse().unwrap().stream_error(),
            Some((condition, Some("a < b".into())))
        );
    }
}

#[test]
fn a_tree_has_attributes_children_and_text() {
    let (got, _) = frames(STREAM.as_bytes(), usize::MAX, Limits::negotiation());
    let Frame::Element(features) = &got[1] else {
        panic!("{got:?}")
    };
    assert!(features.is(ns::STREAMS, "features"));
    let tree = features.parse().unwrap();
    assert!(tree.is(ns::STREAMS, "features"));
    assert!(
        tree.child(ns::TLS, "starttls")
            .unwrap()
            .child(ns::TLS, "required")
            .is_some()
    );
    let feature = tree.child(ns::DIALBACK_FEATURE, "dialback").unwrap();
    assert!(feature.child(ns::DIALBACK_FEATURE, "errors").is_some());
    let Frame::Element(result) = &got[2] else {
        panic!("{got:?}")
    };
    let tree = result.parse().unwrap();
    assert!(tree.is(ns::DIALBACK, "result"));
    assert_eq!(tree.attr("from"), Some("a.example"));
    assert_eq!(tree.text(), "b4835385f37fe289");
    let Frame::Element(message) = &got[3] else {
        panic!("{got:?}")
    };
    let tree = message.parse().unwrap();
    assert_eq!(tree.attr("id"), Some("1\"\n"));
    assert_eq!(tree.text(), "<raw> ]] ]>&");
    let x = tree.child("urn:u&1", "x").unwrap();
    assert_eq!(x.attr_ns("urn:u&1", "y"), Some("z"));
    assert_eq!(x.attr("y"), Some("'"));
}

proptest! {
    #![proptest_config(seeded(256))]

    #[test]
    fn any_text_is_refused_or_read_back(value: String) {
        let mut w = XmlWriter::new();
        w.start("a").attr("b", &value).text(&value);
        match w.finish() {
            Err(_) => prop_assert!(!is_writable(&value)),
            Ok(xml) => {
                let node = parse(xml.as_bytes(), &StreamContext::default()).unwrap();
                prop_assert_eq!(node.attr("b"), Some(&*value));
                prop_assert_eq!(node.text(), value);
            }
        }
    }
}
