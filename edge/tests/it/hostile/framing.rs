//! Bytes that are no XMPP, in each phase of a stream: the stream error they get, and that nobody
//! else notices.

use std::time::Duration;

use rstest::rstest;

use crate::support::{Lab, PATIENCE, Peer, Speaker, configured_scene, header, scene};

const OPEN: &str =
    "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' to='coluc.com'";
const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";

/// How far a hostile peer gets before it misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Behind the features, in clear.
    Clear,
    /// Behind the features, over TLS.
    Unauthenticated,
    /// A pair is authenticated.
    Authenticated,
}

async fn reach(phase: Phase, lab: &Lab, peer: &Peer) -> Speaker {
    match phase {
        Phase::Clear => {
            let mut clear = Speaker::connect(lab.s2s).await;
            clear.open(&header(peer.domain, "coluc.com", "")).await;
            clear
        }
        Phase::Unauthenticated => peer.open(lab.s2s, "coluc.com").await.0,
        Phase::Authenticated => peer.open_authenticated(lab.s2s, "coluc.com").await,
    }
}

#[rstest]
#[case::dtd(b"<!DOCTYPE x [<!ENTITY a 'b'>]><x/>", "restricted-xml")]
#[case::entity_bomb(b"<message><body>&lol9;</body></message>", "restricted-xml")]
#[case::entity_in_an_attribute(b"<message to='&lol9;'/>", "restricted-xml")]
#[case::instruction(b"<?x y?>", "restricted-xml")]
#[case::instruction_inside(b"<message><?x y?></message>", "restricted-xml")]
#[case::second_declaration(b"<?xml version='1.0'?>", "restricted-xml")]
#[case::comment(b"<!-- x -->", "restricted-xml")]
#[case::comment_inside(b"<message><!-- x --></message>", "restricted-xml")]
#[case::cdata_split_by_a_space(b"<message><![CDA TA[x]]></message>", "not-well-formed")]
#[case::cdata_between(b"<![CDATA[x]]>", "bad-format")]
#[case::cdata_end(b"<message>]]></message>", "not-well-formed")]
#[case::nul(b"<message>\0</message>", "not-well-formed")]
#[case::nul_between(b"\0", "not-well-formed")]
#[case::nul_by_reference(b"<message>&#0;</message>", "not-well-formed")]
#[case::control(b"<message>\x01</message>", "not-well-formed")]
#[case::surrogate(b"<message>\xED\xA0\x80</message>", "unsupported-encoding")]
#[case::surrogate_pair(b"<message a='\xED\xA0\xBD\xED\xB8\x80'/>", "unsupported-encoding")]
#[case::surrogate_by_reference(b"<message>&#xD800;</message>", "not-well-formed")]
#[case::overlong(b"<message>\xC0\xAF</message>", "unsupported-encoding")]
#[case::overlong_in_a_name(b"<message\xE0\x80\xAF/>", "unsupported-encoding")]
#[case::latin_1(b"<message>caf\xE9</message>", "unsupported-encoding")]
#[case::byte_order_mark(b"\xEF\xBB\xBF<message/>", "bad-format")]
#[case::utf_16(b"<\0m\0/\0>\0", "not-well-formed")]
#[case::duplicate_attribute(b"<message id='1' id='1'/>", "not-well-formed")]
#[case::duplicate_by_two_prefixes(b"<message xmlns:p='u' xmlns:q='u' p:a='1' q:a='2'/>", "not-well-formed")]
#[case::duplicate_by_a_prefix_of_the_header(
    b"<message xmlns:q='jabber:server:dialback' db:a='1' q:a='2'/>",
    "not-well-formed"
)]
#[case::unbound_element(b"<p:message/>", "not-well-formed")]
#[case::unbound_attribute(b"<message p:a=''/>", "not-well-formed")]
#[case::prefix_out_of_scope(b"<message><p:a xmlns:p='u'/><p:b/></message>", "not-well-formed")]
#[case::prefix_bound_to_nothing(b"<message xmlns:p=''/>", "not-well-formed")]
#[case::xml_bound_anew(b"<message xmlns:xml='u'/>", "not-well-formed")]
#[case::xmlns_bound(b"<message xmlns:xmlns='u'/>", "not-well-formed")]
#[case::name_of_xmlns_bound(b"<message xmlns:p='http://www.w3.org/2000/xmlns/'/>", "not-well-formed")]
#[case::two_colons(b"<db:a:b/>", "not-well-formed")]
#[case::colon_first(b"<:message/>", "not-well-formed")]
#[case::wrong_end(b"<message></iq>", "not-well-formed")]
#[case::wrong_end_by_case(b"<message></Message>", "not-well-formed")]
#[case::end_of_another_prefix(b"<db:x xmlns:q='jabber:server:dialback'></q:x>", "not-well-formed")]
#[case::end_without_start(b"</message>", "not-well-formed")]
#[case::attribute_without_quotes(b"<message id=1/>", "not-well-formed")]
#[case::attribute_without_value(b"<message id/>", "not-well-formed")]
#[case::less_than_in_a_value(b"<message id='<'/>", "not-well-formed")]
#[case::no_space_between_attributes(b"<message id='1'to='2'/>", "not-well-formed")]
#[case::text_between(b"hello", "bad-format")]
#[case::second_header(b"<stream:stream xmlns='jabber:server' to='coluc.com' version='1.0'>", "bad-format")]
#[tokio::test]
async fn what_is_no_xmpp_ends_the_stream_in_each_phase(
    #[values(Phase::Clear, Phase::Unauthenticated, Phase::Authenticated)] phase: Phase,
    #[case] bytes: &[u8],
    #[case] expected: &str,
) {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let mut hostile = reach(phase, &lab, &peer).await;
    hostile.try_say(bytes).await.unwrap();
    assert_eq!(hostile.condition().await, expected);
    hostile.hear_end().await;
}

#[rstest]
#[case::byte_order_mark(b"\xEF\xBB\xBF".to_vec(), "not-well-formed")]
#[case::utf_16_with_mark(b"\xFE\xFF\0<\0s".to_vec(), "unsupported-encoding")]
#[case::utf_16_without_mark(b"<\0s\0t\0".to_vec(), "unsupported-encoding")]
#[case::utf_16_big_endian(b"\0<\0s".to_vec(), "unsupported-encoding")]
#[case::overlong(format!("{OPEN} from='").into_bytes().into_iter().chain(*b"\xC0\x80'>").collect(), "unsupported-encoding")]
#[case::surrogate(format!("{OPEN} from='").into_bytes().into_iter().chain(*b"\xED\xA0\x80'>").collect(), "unsupported-encoding")]
#[case::nul(format!("{OPEN}\0>").into(), "not-well-formed")]
#[case::entity(format!("{OPEN} from='&x;'>").into(), "restricted-xml")]
#[case::duplicate_by_two_prefixes(
    format!("{OPEN} xmlns:p='u' xmlns:q='u' p:a='' q:a='' version='1.0'>").into(),
    "not-well-formed"
)]
#[case::unbound(format!("{OPEN} p:a='' version='1.0'>").into(), "not-well-formed")]
#[case::xml_bound_anew(format!("{OPEN} xmlns:xml='u' version='1.0'>").into(), "not-well-formed")]
#[case::end_first(b"</stream:stream>".to_vec(), "not-well-formed")]
#[case::closed_at_once(format!("{OPEN} version='1.0'/>").into(), "bad-format")]
#[case::not_a_stream(OPEN.replace("stream:stream ", "stream:steam ").into_bytes().into_iter().chain(*b">").collect(), "bad-format")]
#[case::many_namespaces(
    (0..100_000).fold(OPEN.to_owned(), |text, n| text + &format!(" xmlns:p{n}='u'")).into_bytes(),
    "policy-violation"
)]
#[case::long_name(format!("{OPEN} {}='1'>", "n".repeat(1_000_000)).into(), "policy-violation")]
#[case::long_value(format!("{OPEN} from='{}'>", "n".repeat(1_000_000)).into(), "policy-violation")]
#[case::long_declaration(format!("<?xml version='1.0' {}?>", " ".repeat(1_000_000)).into(), "restricted-xml")]
#[tokio::test]
async fn what_is_no_header_is_refused(#[case] bytes: Vec<u8>, #[case] expected: &str) {
    let (lab, _peer, mut link, mut bystander) = scene().await;
    let attack = async {
        let mut hostile = Speaker::connect(lab.s2s).await;
        // The edge may end the stream before everything is written.
        let _ = hostile.try_say(&bytes).await;
        let condition = hostile.condition().await;
        hostile.hear_end().await;
        condition
    };
    let (condition, others) = bystander.during(&mut link, attack).await;
    assert_eq!(condition, expected);
    assert!(others.is_empty(), "{others:?}");
}

#[tokio::test]
async fn a_header_in_two_pieces_is_understood_wherever_it_is_cut() {
    let (lab, _peer, _router, _link) = Lab::with_link().await;
    let text = header("vngtp.lab", "coluc.com", "");
    for at in 1..text.len() {
        let mut cut = Speaker::connect(lab.s2s).await;
        cut.try_say(&text.as_bytes()[..at]).await.unwrap();
        tokio::task::yield_now().await;
        cut.try_say(&text.as_bytes()[at..]).await.unwrap();
        cut.hear("</stream:features>").await;
    }
}

#[tokio::test]
async fn a_stanza_in_two_pieces_passes_unchanged_wherever_it_is_cut() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let text = "<message from='bob@vngtp.lab' to='alice@coluc.com'><body>\u{e9}&amp;\u{1f600}]]</body>\
        <![CDATA[]]]]><![CDATA[>]]><x xmlns='u:x' y=\"'\"/></message>"
        .as_bytes();
    for at in 1..text.len() {
        bob.try_say(&text[..at]).await.unwrap();
        tokio::task::yield_now().await;
        bob.try_say(&text[at..]).await.unwrap();
    }
    for at in 1..text.len() {
        assert_eq!(link.hear().await.as_bytes(), text, "cut at {at}");
    }
}

#[rstest]
#[case::stanza("<message from='bob@vngtp.lab' to='alice@coluc.com' id='late'/>".into())]
#[case::dialback("<db:result from='vngtp.lab' to='conf.coluc.com'>k</db:result>".into())]
#[case::not_xml("\u{0}<!DOCTYPE x>".into())]
#[case::much("x".repeat(4_000_000))]
#[tokio::test]
async fn what_comes_behind_the_end_of_the_stream_is_dropped(#[case] text: String) {
    let (lab, peer, mut link, mut bystander) = scene().await;
    let mut hostile = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let _ = hostile.try_say(format!("</stream:stream>{text}").as_bytes()).await;
    let end = hostile.hear("</stream:stream>").await;
    assert_eq!(end, "</stream:stream>", "an end and nothing else");
    let others = bystander.exchange(&mut link).await;
    assert!(others.is_empty(), "{others:?}");
    hostile.finish_writing().await;
    hostile.hear_end().await;
}

#[rstest]
#[case::stanza("<message from='bob@vngtp.lab' to='alice@coluc.com'/>".into())]
#[case::header(header("vngtp.lab", "coluc.com", ""))]
#[case::white_space_and_stanza(" <message/>".into())]
#[tokio::test]
async fn nothing_behind_starttls_is_taken_for_what_tls_protects(#[case] behind: String) {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let mut hostile = reach(Phase::Clear, &lab, &peer).await;
    hostile.say(&format!("<starttls xmlns='{TLS}'/>{behind}")).await;
    let end = hostile.hear_end().await;
    assert!(end.contains("<failure ") && !end.contains("<proceed"), "{end}");
}

#[rstest]
#[case::text("<message><body>", "x")]
#[case::cdata("<message><![CDATA[", "x")]
#[case::name("<", "n")]
#[case::value("<message id='", "v")]
#[case::depth("<message>", "<a>")]
#[case::children("<message>", "<a/>")]
#[case::attributes("<message", " a='1'")]
#[case::namespaces("<message", " xmlns:p='u'")]
#[case::space_in_a_tag("<message", " ")]
#[case::references("<message>", "&amp;")]
#[tokio::test]
async fn what_has_no_end_is_cut_at_the_limit_of_the_phase(
    #[values(Phase::Clear, Phase::Unauthenticated, Phase::Authenticated)] phase: Phase,
    #[case] start: &str,
    #[case] more: &str,
) {
    let (lab, peer, mut link, mut bystander) = scene().await;
    let mut hostile = reach(phase, &lab, &peer).await;
    let attack = async {
        let _ = hostile.try_say(start.as_bytes()).await;
        let _ = hostile.try_say(more.repeat(1_000_000 / more.len()).as_bytes()).await;
        hostile.condition().await
    };
    let (condition, others) = bystander.during(&mut link, attack).await;
    assert_eq!(condition, "policy-violation");
    assert!(others.is_empty(), "{others:?}");
}

#[rstest]
#[tokio::test]
async fn who_never_stops_is_cut_off(#[values(Phase::Clear, Phase::Authenticated)] phase: Phase) {
    let (lab, peer, mut link, mut bystander) = scene().await;
    let mut hostile = reach(phase, &lab, &peer).await;
    let attack = async {
        let _ = hostile.try_say(b"<message><body>").await;
        let more = vec![b'x'; 64 * 1024];
        // The edge reads and drops for the time that a peer gets to close, no longer.
        while hostile.try_say(&more).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let attack = tokio::time::timeout(3 * PATIENCE, attack);
    let (ended, others) = bystander.during(&mut link, attack).await;
    ended.unwrap();
    assert!(others.is_empty(), "{others:?}");
}

#[tokio::test]
async fn white_space_before_authentication_buys_no_time() {
    let (lab, peer, mut link, mut bystander) =
        configured_scene(|config| config.limits.negotiation_timeout = "3s".parse().unwrap()).await;
    let mut hostile = reach(Phase::Clear, &lab, &peer).await;
    let attack = async {
        while hostile.try_say(&[b' '; 4096]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        hostile.hear_end().await
    };
    let attack = tokio::time::timeout(3 * PATIENCE, attack);
    let (end, _) = bystander.during(&mut link, attack).await;
    let end = end.unwrap();
    assert!(end.is_empty() || end.contains("<connection-timeout "), "{end}");
}

#[rstest]
#[case::largest_but_one(262_143, true)]
#[case::largest(262_144, true)]
#[case::one_more(262_145, false)]
#[tokio::test]
async fn a_stanza_may_be_as_large_as_the_limit_and_no_larger(#[case] size: usize, #[case] passes: bool) {
    let (lab, peer, mut link, mut bystander) = scene().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let (start, end) = (
        "<message from='bob@vngtp.lab' to='alice@coluc.com'><body>",
        "</body></message>",
    );
    let stanza = format!("{start}{}{end}", "x".repeat(size - start.len() - end.len()));
    bob.say(&stanza).await;
    if passes {
        assert!(link.hear().await == stanza, "changed on its way");
    } else {
        assert_eq!(bob.condition().await, "policy-violation");
    }
    assert!(bystander.exchange(&mut link).await.is_empty());
}

#[rstest]
#[case::largest(0, "unsupported-stanza-type")]
#[case::one_more(1, "policy-violation")]
#[tokio::test]
async fn before_authentication_far_less_is_read(
    #[values(Phase::Clear, Phase::Unauthenticated)] phase: Phase,
    #[case] more: usize,
    #[case] expected: &str,
) {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let mut hostile = reach(phase, &lab, &peer).await;
    let most = lab.edge.live().config.limits.max_unauthenticated_bytes;
    assert!(most < 20_000);
    let odd = format!("<x xmlns='u'>{}</x>", "x".repeat(most + more - 17));
    assert_eq!(odd.len(), most + more);
    let _ = hostile.try_say(odd.as_bytes()).await;
    assert_eq!(hostile.condition().await, expected);
}

/// `<s:message>` makes the edge write the stanza anew; one long namespace and many uses of it must
/// not be written out many times.
#[rstest]
#[case::elements(format!(
    "<s:message xmlns:s='jabber:server' from='bob@vngtp.lab' to='alice@coluc.com' xmlns:p='{}'>{}</s:message>",
    "n".repeat(120_000),
    "<p:a/>".repeat(20_000)
))]
#[case::attributes(format!(
    "<s:message xmlns:s='jabber:server' from='bob@vngtp.lab' to='alice@coluc.com' xmlns:p='{}'>{}</s:message>",
    "n".repeat(120_000),
    "<s:a p:b=''/>".repeat(9_000)
))]
#[case::dialback(format!(
    "<db:result from='vngtp.lab' to='conf.coluc.com' xmlns:p='{}'>{}</db:result>",
    "n".repeat(120_000),
    "<p:a/>".repeat(20_000)
))]
#[case::error(format!(
    "<stream:error xmlns:p='{}'>{}</stream:error>",
    "n".repeat(120_000),
    "<p:a/>".repeat(20_000)
))]
#[tokio::test]
async fn a_long_namespace_used_often_is_not_written_out(#[case] text: String) {
    let (lab, peer, mut link, mut bystander) = scene().await;
    let mut hostile = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let attack = async {
        hostile.say(&text).await;
        hostile.hear("</stream:stream>").await
    };
    let (end, others) = bystander.during(&mut link, attack).await;
    // An error of the peer's is not answered by one, but by the end of the stream.
    let is_error = text.starts_with("<stream:error");
    assert!(
        is_error || end.contains("<policy-violation ") || end.contains("<invalid-xml "),
        "{end}"
    );
    assert!(others.is_empty(), "{} bytes", others.concat().len());
}

/// Bindings with references in their values, then many more: each used to be compared with all.
#[tokio::test]
async fn namespaces_with_references_cost_no_more_than_others() {
    let (lab, peer, mut link, mut bystander) = scene().await;
    let mut hostile = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let bound = (0..30).fold(String::new(), |text, n| {
        text + &format!(" xmlns:p{n}='{n}{}'", "&#65;".repeat(800))
    });
    let stanza = format!(
        "<message from='bob@vngtp.lab' to='alice@coluc.com' id='costly'><a{bound}>{}</a></message>",
        "<b xmlns:q='u'/>".repeat(7_000)
    );
    assert!(stanza.len() < 262_144);
    let attack = async {
        let start = std::time::Instant::now();
        for _ in 0..4 {
            hostile.say(&stanza).await;
        }
        start.elapsed()
    };
    let (_, mut others) = bystander.during(&mut link, attack).await;
    let start = std::time::Instant::now();
    while others.len() < 4 {
        others.extend(bystander.exchange(&mut link).await);
    }
    // Unoptimised, this took minutes.
    assert!(start.elapsed() < 2 * PATIENCE, "{:?}", start.elapsed());
    assert!(others.iter().all(|other| *other == stanza));
}
