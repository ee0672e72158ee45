//! Moving a stanza to another stream changes nothing but the content namespace.

use super::*;
use proptest::prelude::*;
use rstest::rstest;
use std::fmt::Write as _;

const PEER: &str = "<stream:stream xmlns='jabber:server' \
    xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback' \
    xmlns:s='jabber:server' xmlns:u='urn:u' xmlns:v='urn:v&apos;&amp;'>";
const PEER_WITH_LANG: &str = "<stream:stream xmlns='jabber:server' \
    xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback' \
    xmlns:s='jabber:server' xmlns:u='urn:u' xmlns:v='urn:v&apos;&amp;' xml:lang='de'>";
const PEER_WITHOUT_DEFAULT: &str = "<stream xmlns='http://etherx.jabber.org/streams' \
    xmlns:s='jabber:server' xmlns:u='urn:u' xmlns:v='urn:v'>";
const LINK: &str = "<stream:stream xmlns='jabber:component:accept' \
    xmlns:stream='http://etherx.jabber.org/streams' id='1' from='c'>";

fn elements(header: &str, stanzas: &str) -> Vec<Element> {
    let input = format!("{header}{stanzas}");
    let (got, error) = frames(input.as_bytes(), usize::MAX, Limits::stanzas(100_000));
    assert_eq!(error, None, "{input}");
    got.into_iter()
        .filter_map(|frame| match frame {
            Frame::Element(element) => Some(element),
            _ => None,
        })
        .collect()
}

/// The tree as it should be on the other side.
fn mapped(element: &Element, way: Reroot) -> Node {
    testing::mapped(element, way).unwrap()
}

/// The tree that the other side reads, on a stream with nothing but the usual header.
fn moved(element: &Element, way: Reroot) -> (Vec<u8>, Node) {
    testing::moved(element, way).unwrap()
}

#[rstest]
#[case::plain("<message to='b'><body>x</body><x xmlns='urn:x'/></message>")]
#[case::own_prefixes("<iq><p:q xmlns:p='urn:p' p:a=''><p:r/></p:q></iq>")]
#[case::client_namespace_inside("<message><message xmlns='jabber:client'/></message>")]
fn a_stanza_that_relies_on_the_default_namespace_alone_is_not_copied(#[case] xml: &str) {
    let element = elements(PEER, xml).remove(0);
    let out = element.reroot(Reroot::TO_LINK).unwrap();
    assert_eq!(out, xml.as_bytes());
    assert_eq!(out.as_ptr(), element.bytes().as_ptr());
}

#[rstest]
#[case::prefix_of_the_header(PEER, "<message><u:x/></message>", "<message xmlns:u='urn:u'><u:x/></message>")]
#[case::prefix_with_special_name(PEER, "<message v:a='b' />", "<message xmlns:v='urn:v&apos;&amp;' v:a='b' />")]
#[case::language(PEER_WITH_LANG, "<message to='b'/>", "<message xml:lang='de' to='b'/>")]
#[case::own_language(PEER_WITH_LANG, "<message xml:lang='fr'/>", "<message xml:lang='fr'/>")]
#[case::own_language_with_xml_declared(
    PEER_WITH_LANG,
    "<message xmlns:xml='http://www.w3.org/XML/1998/namespace' xml:lang='fr'/>",
    "<message xmlns:xml='http://www.w3.org/XML/1998/namespace' xml:lang='fr'/>"
)]
#[case::language_of_a_child(
    PEER_WITH_LANG,
    "<message><body xml:lang='fr'/></message>",
    "<message xml:lang='de'><body xml:lang='fr'/></message>"
)]
#[case::own_default_namespace(
    PEER,
    "<message xmlns='jabber:server' to='b'><body/></message>",
    "<message  to='b'><body/></message>"
)]
#[case::prefixed_stanza(
    PEER,
    "<s:message to='b'><s:body>a&amp;&#13;</s:body></s:message>",
    "<message to='b'><body>a&amp;&#13;</body></message>"
)]
#[case::namespace_named_by_a_child(
    PEER,
    "<message><body xmlns='jabber:server'/></message>",
    "<message><body/></message>"
)]
#[case::prefix_of_the_content_namespace_inside_another(
    PEER,
    "<message><x xmlns='urn:x'><s:body/></x></message>",
    "<message><x xmlns='urn:x'><body xmlns='jabber:component:accept'/></x></message>"
)]
#[case::default_namespace_undone(PEER, "<s:message><x xmlns=''/></s:message>", "<message><x xmlns=''/></message>")]
#[case::element_in_the_namespace_of_xml(PEER, "<s:a><xml:b><s:c/></xml:b></s:a>", "<a><xml:b><c/></xml:b></a>")]
#[case::attributes_in_both_namespaces(
    PEER,
    "<a xmlns:c='jabber:component:accept' c:x='1' s:x='2'/>",
    "<a xmlns:a0='jabber:component:accept' a0:x='1' xmlns:a1='jabber:server' a1:x='2'/>"
)]
#[case::no_default_namespace_on_the_header(
    PEER_WITHOUT_DEFAULT,
    "<s:message><s:body>x</s:body></s:message>",
    "<message><body>x</body></message>"
)]
fn a_stanza_that_relies_on_more_is_changed_as_little_as_possible(
    #[case] header: &str,
    #[case] xml: &str,
    #[case] expected: &str,
) {
    let element = elements(header, xml).remove(0);
    let (bytes, node) = moved(&element, Reroot::TO_LINK);
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    assert_eq!(node, mapped(&element, Reroot::TO_LINK));
}

#[test]
fn there_and_back_again_is_the_same_stanza() {
    for element in elements(
        "",
        STREAM.split_once("</stream:stream>").map(|(before, _)| before).unwrap(),
    ) {
        let (bytes, node) = moved(&element, Reroot::TO_LINK);
        assert_eq!(node, mapped(&element, Reroot::TO_LINK));
        let link = elements(LINK, std::str::from_utf8(&bytes).unwrap()).remove(0);
        let (_, back) = moved(&link, Reroot::TO_SERVER);
        let identity = Reroot {
            from: ns::SERVER,
            to: ns::SERVER,
        };
        assert_eq!(back, mapped(&element, identity));
    }
}

/// An element with prefixes bound on the header (`s`, `u`, `v`), on itself (`p`) or not at all.
fn element() -> impl Strategy<Value = String> {
    let attrs = proptest::collection::btree_map(
        prop_oneof!["[ab]", "s:[ab]", "u:[ab]", "v:[ab]", "p:[ab]", Just("xml:lang".into())],
        prop_oneof!["[a-z]{0,3}", Just("&lt;&#10;'".replace('\'', "&apos;"))],
        0..4,
    );
    let declared = proptest::option::of(prop_oneof![
        Just("jabber:server"),
        Just("urn:x"),
        Just("urn:u"),
        Just("jabber:client"),
        Just(""),
    ]);
    let bound = prop_oneof![Just("jabber:server"), Just("urn:p"), Just("urn:q&amp;")];
    let name = prop_oneof![
        4 => "[a-c]",
        1 => "s:[a-c]",
        1 => "u:[a-c]",
        1 => "v:[a-c]",
        1 => "p:[a-c]",
        1 => "xml:[a-c]",
    ];
    let start = (name, declared, bound, attrs).prop_map(|(name, declared, bound, attrs)| {
        let mut tag = format!(" xmlns:p='{bound}'");
        if let Some(declared) = declared {
            write!(tag, " xmlns='{declared}'").unwrap();
        }
        // `s` and `p` may be the same namespace: keep their local names apart.
        for (attr, value) in attrs {
            let attr = attr.replace("p:a", "p:c").replace("p:b", "p:d");
            write!(tag, " {attr}='{value}'").unwrap();
        }
        (name, tag)
    });
    let plain = prop_oneof![
        3 => "[a-c]".prop_map(|name| (name, String::new())),
        2 => start,
    ];
    let leaf = plain.clone().prop_map(|(name, tag)| match name.split_once(':') {
        Some(("p", local)) if tag.is_empty() => format!("<{local}/>"),
        _ => format!("<{name}{tag}/>"),
    });
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let piece = prop_oneof![
            3 => inner,
            1 => prop_oneof![Just("x &amp; y".to_owned()), Just("<![CDATA[<]]>".to_owned()), Just("\u{e9}\r\n&#13;".to_owned())],
        ];
        (plain.clone(), proptest::collection::vec(piece, 0..4)).prop_map(
            |((name, tag), content)| format!("<{name}{tag}>{}</{name}>", content.concat()),
        )
    })
}

proptest! {
    #![proptest_config(seeded(1500))]

    #[test]
    fn the_infoset_stays_the_same(xml in element(), header in 0..3usize) {
        let header = [PEER, PEER_WITH_LANG, PEER_WITHOUT_DEFAULT][header];
        let element = elements(header, &xml).remove(0);
        let (_, node) = moved(&element, Reroot::TO_LINK);
        prop_assert_eq!(node, mapped(&element, Reroot::TO_LINK));
    }
}

#[rstest]
#[case::usual("<message from='a' to='b' id='c' type='d'><body from='e'/></message>")]
#[case::other_order("<message type='d' to=\"b\" xmlns='jabber:server'\n id='c' from = 'a' />")]
#[case::declared_between(
    "<message from='aaaaaaaaaaaaaaaaaaaa' xmlns='jabber:server' xmlns:p='urn:p' to='bbb' p:from='x' id=''/>"
)]
#[case::prefixed("<s:message u:to='x' from='&lt;' to='&#x62;' id='c'><s:body u:y=''/></s:message>")]
#[case::without_from("<message to='b' id='c' type='d'>x</message>")]
#[case::without_addresses("<message id='c' u:x='d'/>")]
fn another_address_changes_nothing_else(
    #[case] stanza: &str,
    #[values(PEER, PEER_WITH_LANG)] header: &str,
    #[values(None, Some(""), Some("bob@b\u{fc}cher.example/<'\"&\t>"))] from: Option<&str>,
    #[values(None, Some("b"), Some("x"))] to: Option<&str>,
) {
    let element = elements(header, stanza).remove(0);
    let other = element.with_addresses(from, to);
    let mut expected = mapped(&element, Reroot::TO_LINK);
    for (name, value) in [("from", from), ("to", to)] {
        let mut attrs = expected.attrs.iter_mut();
        let attr = attrs.find(|attr| attr.ns.is_empty() && attr.name == name);
        if let (Some(attr), Some(value)) = (attr, value) {
            value.clone_into(&mut attr.value);
        }
    }
    expected.attrs.sort();
    let (_, found) = moved(&other, Reroot::TO_LINK);
    assert_eq!(found, expected);
    let here = element.from().and(from.map(Into::into)).or(element.from());
    assert_eq!(other.from(), here);
    let there = element.to().and(to.map(Into::into)).or(element.to());
    assert_eq!(other.to(), there);
    assert_eq!(other.id(), element.id());
    assert_eq!(other.type_(), element.type_());
    let quoted = |e: &Element| e.from_quoted().map(<[u8]>::to_vec);
    if from.is_none() {
        assert_eq!(quoted(&other), quoted(&element));
    }
    if let Some(quoted) = quoted(&other) {
        assert!(matches!(quoted.first(), Some(b'\'' | b'"')));
        assert_eq!(quoted.first(), quoted.last());
    }
}
