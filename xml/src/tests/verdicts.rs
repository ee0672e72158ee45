//! Which input is accepted, and with which condition the rest is refused.

use super::*;
use StreamErrorCondition as C;
use rstest::rstest;

fn verdict(input: &[u8]) -> Result<Vec<String>, C> {
    let whole = frames(input, usize::MAX, Limits::stanzas(100_000));
    let single = frames(input, 1, Limits::stanzas(100_000));
    let text = |f: &[Frame]| f.iter().map(describe).collect::<Vec<_>>();
    assert_eq!(text(&whole.0), text(&single.0), "split must not matter");
    assert_eq!(
        whole.1.map(|e| e.condition),
        single.1.map(|e| e.condition),
        "split must not matter"
    );
    match whole.1 {
        Some(error) => Err(error.condition),
        None => Ok(text(&whole.0)),
    }
}

fn stanza(xml: &str) -> Result<Vec<String>, C> {
    verdict(format!("{HEADER}{xml}").as_bytes())
}

#[test]
fn a_stanza_is_delivered_with_its_addresses_and_original_bytes() {
    let xml = "<message from='a@vngtp.lab/x' to=\"b@coluc.com\" id='i&amp;1' type='chat'>\
        <body>hi &lt; there</body><x xmlns='u:x'/></message>";
    let (got, error) = frames(
        format!("{HEADER}  {xml}\n{xml}</stream:stream>").as_bytes(),
        usize::MAX,
        Limits::stanzas(10_000),
    );
    assert_eq!(error, None);
    let [
        Frame::Header(header),
        Frame::Element(first),
        Frame::Element(second),
        Frame::End,
    ] = &got[..]
    else {
        panic!("{got:?}")
    };
    assert_eq!(header.from.as_deref(), Some("vngtp.lab"));
    assert_eq!(header.to.as_deref(), Some("coluc.com"));
    assert_eq!(header.version.as_deref(), Some("1.0"));
    assert_eq!(header.default_ns(), "jabber:server");
    assert!(header.declares("jabber:server:dialback"));
    assert!(first.is("jabber:server", "message"));
    assert_eq!(first.from().as_deref(), Some("a@vngtp.lab/x"));
    assert_eq!(first.to().as_deref(), Some("b@coluc.com"));
    assert_eq!(first.id().as_deref(), Some("i&1"));
    assert_eq!(first.type_().as_deref(), Some("chat"));
    assert_eq!(first.bytes(), xml.as_bytes());
    assert_eq!(second.bytes(), xml.as_bytes());
    let node = first.parse().unwrap();
    assert_eq!(node.child("jabber:server", "body").unwrap().text(), "hi < there");
}

#[rstest]
#[case::empty_element("<a/>")]
#[case::space_before_slash("<a />")]
#[case::space_in_end_tag("<a></a \n>")]
#[case::spaces_around_equals("<a b = 'c'\n\td=\"e\"/>")]
#[case::the_five_entities("<a b='&lt;&gt;&amp;&apos;&quot;'>&lt;&gt;&amp;&apos;&quot;</a>")]
#[case::character_references("<a b='&#9;&#xA;'>&#x10FFFF;&#65;</a>")]
#[case::cdata("<a><![CDATA[ <&>]] ]> ]]]></a>")]
#[case::cdata_empty("<a><![CDATA[]]></a>")]
#[case::cdata_then_greater("<a><![CDATA[]]>></a>")]
#[case::brackets_in_text("<a>]] > ]>]]&gt;</a>")]
#[case::greater_in_text("<a b='>'>></a>")]
#[case::non_ascii("<ä ö='ü'>\u{10FFFD}\u{FFFD}é</ä>")]
#[case::prefix_of_header("<db:result from='a' to='b'>x</db:result>")]
#[case::prefix_of_its_own("<p:a xmlns:p='u:p' p:b='c' b='d'><p:c/></p:a>")]
#[case::prefix_bound_again("<p:a xmlns:p='u:p'><p:c xmlns:p='u:q'/><p:d/></p:a>")]
#[case::default_undeclared("<a xmlns='u:a'><b xmlns=''/></a>")]
#[case::xml_lang("<a xml:lang='en'><xml:b/></a>")]
#[case::xml_prefix_declared("<a xmlns:xml='http://www.w3.org/XML/1998/namespace'/>")]
#[case::two_prefixes_two_local_names("<a xmlns:p='u:p' xmlns:q='u:p' p:b='' q:c=''/>")]
#[case::crlf("<a\r\n b='x\r\ny'>\r\r\n</a>")]
#[case::c1_control("<a>\u{85}\u{9F}</a>")]
fn well_formed_elements_are_accepted(#[case] xml: &str) {
    let got = stanza(xml).unwrap();
    assert_eq!(got.len(), 2, "{got:?}");
    assert!(got[1].ends_with(xml), "{got:?}");
}

#[rstest]
#[case::dtd("<!DOCTYPE a>", C::RestrictedXml)]
#[case::element_declaration("<a><!ELEMENT b></a>", C::RestrictedXml)]
#[case::processing_instruction("<?php?>", C::RestrictedXml)]
#[case::processing_instruction_inside("<a><?x?></a>", C::RestrictedXml)]
#[case::second_declaration("<?xml version='1.0'?>", C::RestrictedXml)]
#[case::comment("<!-- x -->", C::RestrictedXml)]
#[case::comment_inside("<a><!-- x --></a>", C::RestrictedXml)]
#[case::entity("<a>&lol;</a>", C::RestrictedXml)]
#[case::entity_in_value("<a b='&nbsp;'/>", C::RestrictedXml)]
#[case::long_entity("<a>&lollollollol;</a>", C::RestrictedXml)]
#[case::reference_to_nul("<a>&#0;</a>", C::NotWellFormed)]
#[case::reference_to_surrogate("<a>&#xD800;</a>", C::NotWellFormed)]
#[case::reference_to_nonchar("<a b='&#xFFFE;'/>", C::NotWellFormed)]
#[case::reference_too_large("<a>&#x110000;</a>", C::NotWellFormed)]
#[case::reference_without_digits("<a>&#;</a>", C::NotWellFormed)]
#[case::reference_upper_case_x("<a>&#X41;</a>", C::NotWellFormed)]
#[case::reference_unended("<a>&amp </a>", C::NotWellFormed)]
#[case::ampersand_alone("<a>& </a>", C::NotWellFormed)]
#[case::cdata_split("<a><![CDA TA[x]]></a>", C::NotWellFormed)]
#[case::cdata_lower_case("<a><![cdata[x]]></a>", C::NotWellFormed)]
#[case::cdata_between_stanzas("<![CDATA[ ]]>", C::BadFormat)]
#[case::cdata_end_in_text("<a>]]></a>", C::NotWellFormed)]
#[case::cdata_end_in_text_after_more("<a>x]]]></a>", C::NotWellFormed)]
#[case::nul("<a>\0</a>", C::NotWellFormed)]
#[case::control("<a>\u{1}</a>", C::NotWellFormed)]
#[case::control_in_value("<a b='\u{1F}'/>", C::NotWellFormed)]
#[case::control_in_cdata("<a><![CDATA[\u{C}]]></a>", C::NotWellFormed)]
#[case::nonchar("<a>\u{FFFE}</a>", C::NotWellFormed)]
#[case::nonchar_in_value("<a b='\u{FFFF}'/>", C::NotWellFormed)]
#[case::duplicate_attribute("<a b='' c='' b=''/>", C::NotWellFormed)]
#[case::duplicate_default_ns("<a xmlns='u:a' xmlns='u:b'/>", C::NotWellFormed)]
#[case::duplicate_prefix("<a xmlns:p='u:a' xmlns:p='u:a'/>", C::NotWellFormed)]
#[case::duplicate_by_two_prefixes("<a xmlns:p='u:p' xmlns:q='u:p' p:b='' q:b=''/>", C::NotWellFormed)]
#[case::duplicate_by_two_prefixes_with_reference(
    "<a xmlns:p='u:p' xmlns:q='u&#58;p' p:b='' q:b=''/>",
    C::NotWellFormed
)]
#[case::duplicate_by_prefix_of_header("<a xmlns:d='jabber:server:dialback' d:b='' db:b=''/>", C::NotWellFormed)]
#[case::unbound_element_prefix("<p:a/>", C::NotWellFormed)]
#[case::unbound_attribute_prefix("<a p:b=''/>", C::NotWellFormed)]
#[case::prefix_out_of_scope("<a><b xmlns:p='u:p'/><p:c/></a>", C::NotWellFormed)]
#[case::prefix_of_an_earlier_stanza("<a xmlns:p='u:p'/><p:a/>", C::NotWellFormed)]
#[case::xmlns_as_element_prefix("<xmlns:a/>", C::NotWellFormed)]
#[case::xmlns_bound("<a xmlns:xmlns='u:a'/>", C::NotWellFormed)]
#[case::xmlns_namespace_bound("<a xmlns:p='http://www.w3.org/2000/xmlns/'/>", C::NotWellFormed)]
#[case::xmlns_namespace_as_default("<a xmlns='http://www.w3.org/2000/xmlns/'/>", C::NotWellFormed)]
#[case::xml_bound_elsewhere("<a xmlns:xml='u:a'/>", C::NotWellFormed)]
#[case::xml_namespace_bound("<a xmlns:p='http://www.w3.org/XML/1998/namespace'/>", C::NotWellFormed)]
#[case::xml_namespace_as_default("<a xmlns='http://www.w3.org/XML/1998/namespace'/>", C::NotWellFormed)]
#[case::prefix_bound_to_nothing("<a xmlns:p=''/>", C::NotWellFormed)]
#[case::two_colons("<a:b:c/>", C::NotWellFormed)]
#[case::colon_first("<:a/>", C::NotWellFormed)]
#[case::colon_last("<a: />", C::NotWellFormed)]
#[case::digit_behind_colon("<db:1/>", C::NotWellFormed)]
#[case::digit_first("<1/>", C::NotWellFormed)]
#[case::no_name("< a/>", C::NotWellFormed)]
#[case::wrong_end_tag("<a></b>", C::NotWellFormed)]
#[case::longer_end_tag("<a></ab>", C::NotWellFormed)]
#[case::shorter_end_tag("<ab></a>", C::NotWellFormed)]
#[case::other_prefix_in_end_tag("<a xmlns:p='u:p' xmlns:q='u:p'><p:b></q:b></a>", C::NotWellFormed)]
#[case::attribute_in_end_tag("<a></a b=''>", C::NotWellFormed)]
#[case::space_before_end_name("<a></ a>", C::NotWellFormed)]
#[case::no_space_between_attributes("<a b=''c=''/>", C::NotWellFormed)]
#[case::attribute_without_value("<a b/>", C::NotWellFormed)]
#[case::attribute_without_quotes("<a b=c/>", C::NotWellFormed)]
#[case::less_in_value("<a b='<'/>", C::NotWellFormed)]
#[case::slash_inside_tag("<a / >", C::NotWellFormed)]
#[case::carriage_return_in_value("<a b='x\ry'/>", C::NotWellFormed)]
#[case::text_between_stanzas("<a/>x<a/>", C::BadFormat)]
#[case::reference_between_stanzas("<a/>&#32;", C::BadFormat)]
#[case::second_header("<stream:stream xmlns:stream='http://etherx.jabber.org/streams'>", C::BadFormat)]
#[case::unopened_end("</a>", C::NotWellFormed)]
fn ill_formed_elements_are_refused(#[case] xml: &str, #[case] condition: C) {
    assert_eq!(stanza(xml), Err(condition));
}

#[rstest]
#[case::stray_continuation(b"<a>\x80</a>")]
#[case::overlong_two(b"<a>\xC0\xAF</a>")]
#[case::overlong_three(b"<a>\xE0\x80\xAF</a>")]
#[case::overlong_four(b"<a>\xF0\x80\x80\xAF</a>")]
#[case::overlong_in_value(b"<a b='\xC1\xBF'/>")]
#[case::overlong_in_cdata(b"<a><![CDATA[\xE0\x9F\xBF]]></a>")]
#[case::overlong_in_name(b"<a\xC0\x80/>")]
#[case::surrogate(b"<a>\xED\xA0\x80</a>")]
#[case::surrogate_pair(b"<a>\xED\xA0\xBD\xED\xB8\x80</a>")]
#[case::above_the_last_character(b"<a>\xF4\x90\x80\x80</a>")]
#[case::five_bytes(b"<a>\xF8\x88\x80\x80\x80</a>")]
#[case::cut_short(b"<a>\xE2\x82</a>")]
#[case::latin1(b"<a>caf\xE9</a>")]
fn ill_formed_utf8_is_refused(#[case] xml: &[u8]) {
    let input = [HEADER.as_bytes(), xml].concat();
    assert_eq!(verdict(&input), Err(C::UnsupportedEncoding));
}

#[rstest]
#[case::utf16_le_with_mark(b"\xFF\xFE<\0?\0", C::UnsupportedEncoding)]
#[case::utf16_be_with_mark(b"\xFE\xFF\0<\0?", C::UnsupportedEncoding)]
#[case::utf16_le(b"<\0?\0x\0", C::UnsupportedEncoding)]
#[case::utf16_be(b"\0<\0?", C::UnsupportedEncoding)]
#[case::utf8_mark(b"\xEF\xBB\xBF<?xml version='1.0'?>", C::NotWellFormed)]
#[case::latin1_declared(b"<?xml version='1.0' encoding='ISO-8859-1'?>", C::UnsupportedEncoding)]
#[case::xml_1_1(b"<?xml version='1.1'?>", C::RestrictedXml)]
#[case::not_standalone(b"<?xml version='1.0' encoding='utf-8' standalone='no'?>", C::RestrictedXml)]
#[case::no_version(b"<?xml encoding='utf-8'?>", C::NotWellFormed)]
#[case::declaration_twice(b"<?xml version='1.0'?><?xml version='1.0'?>", C::RestrictedXml)]
#[case::space_before_declaration(b" <?xml version='1.0'?>", C::RestrictedXml)]
#[case::stylesheet(b"<?xml-stylesheet href='x'?>", C::RestrictedXml)]
#[case::doctype(b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'b'>]>", C::RestrictedXml)]
#[case::comment(b"<!-- hello -->", C::RestrictedXml)]
#[case::text(b"hello", C::NotWellFormed)]
#[case::http(b"GET / HTTP/1.1\r\n", C::NotWellFormed)]
#[case::tls_record(b"\x16\x03\x01\x02\x00", C::NotWellFormed)]
#[case::end_first(b"</stream:stream>", C::NotWellFormed)]
#[case::end_first_behind_declaration(b"<?xml version='1.0'?></a>", C::NotWellFormed)]
#[case::cdata_first(b"<![CDATA[x]]>", C::BadFormat)]
#[case::no_namespace(b"<stream>", C::InvalidNamespace)]
#[case::wrong_namespace(b"<stream:stream xmlns:stream='u:x'>", C::InvalidNamespace)]
#[case::not_a_stream(b"<stream:scream xmlns:stream='http://etherx.jabber.org/streams'>", C::BadFormat)]
#[case::unbound(b"<stream:stream>", C::NotWellFormed)]
#[case::closed_at_once(b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams'/>", C::BadFormat)]
#[case::duplicate_from(
    b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams' from='a' from='b'>",
    C::NotWellFormed
)]
fn bad_beginnings_are_refused(#[case] input: &[u8], #[case] condition: C) {
    assert_eq!(verdict(input), Err(condition));
}

#[rstest]
#[case::plain("")]
#[case::declared("<?xml version='1.0'?>")]
#[case::line_behind("<?xml version=\"1.0\" ?>\r\n")]
#[case::utf8("<?xml version='1.0' encoding='UTF-8' standalone='yes'?>")]
#[case::space("\n ")]
fn usual_beginnings_are_accepted(#[case] before: &str) {
    let header = HEADER.strip_prefix("<?xml version='1.0'?>").unwrap();
    assert_eq!(verdict(format!("{before}{header}").as_bytes()).unwrap().len(), 1);
}
