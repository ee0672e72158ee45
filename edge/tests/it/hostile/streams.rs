//! Hostile and odd input on 5269: each with the answer it gets.

use std::time::Duration;

use rstest::rstest;

use crate::support::{
    self, KEY, Lab, Peer, Router, Speaker, attribute, config, has, header, live, result, to_alice, verified,
};

const OPEN: &str =
    "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'";

async fn condition(peer: &mut Speaker) -> String {
    let text = peer.hear("</stream:stream>").await;
    let error = text
        .split("<stream:error><")
        .nth(1)
        .unwrap_or_else(|| panic!("no error in {text}"));
    error.split([' ', '/']).next().unwrap().to_owned()
}

fn said(rest: &str) -> String {
    format!("{OPEN}{rest}")
}

#[rstest]
#[case::doctype("<!DOCTYPE x [<!ENTITY a 'b'>]><stream:stream>".into(), "restricted-xml")]
#[case::comment("<!-- x --><stream:stream>".into(), "restricted-xml")]
#[case::instruction("<?php x?><stream:stream>".into(), "restricted-xml")]
#[case::not_xml("GET / HTTP/1.1\r\n\r\n".into(), "not-well-formed")]
#[case::tls_on_the_clear_port("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}".into(), "not-well-formed")]
#[case::no_namespace("<stream>".into(), "invalid-namespace")]
#[case::client_stream(
    "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='coluc.com' version='1.0'>".into(),
    "invalid-namespace"
)]
#[case::pre_1_0(said(" to='coluc.com' from='vngtp.lab'>"), "policy-violation")]
#[case::odd_version(said(" to='coluc.com' version='x'>"), "unsupported-version")]
#[case::unhosted(said(" to='other.example' version='1.0'>"), "host-unknown")]
#[case::our_own_domain(said(" to='coluc.com' from='conf.coluc.com' version='1.0'>"), "invalid-from")]
#[case::our_own_domain_in_capitals(said(" to='coluc.com' from='COLUC.COM.' version='1.0'>"), "invalid-from")]
#[case::not_allowed(said(" to='coluc.com' from='evil.example' version='1.0'>"), "policy-violation")]
#[case::ip_literal(said(" to='coluc.com' from='[::1]' version='1.0'>"), "improper-addressing")]
#[case::single_label(said(" to='coluc.com' from='kubernetes' version='1.0'>"), "improper-addressing")]
#[case::second_header(said(" to='coluc.com' version='1.0'><stream:stream>"), "bad-format")]
#[case::stanza_in_clear(
    said(" to='coluc.com' version='1.0'><message from='a@vngtp.lab' to='b@coluc.com'/>"),
    "policy-violation"
)]
#[case::sasl_in_clear(
    said(" to='coluc.com' version='1.0'><auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"),
    "unsupported-stanza-type"
)]
#[case::behind_starttls(
    said(" to='coluc.com' version='1.0'><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><message/>"),
    "policy-violation"
)]
#[case::endless_header(said(&format!(" x='{}", "a".repeat(20_000))), "policy-violation")]
#[case::many_attributes(
    said(&format!("{} to='coluc.com'>", (0..1500).map(|n| format!(" a{n}='1'")).collect::<String>())), "policy-violation"
)]
#[case::duplicate_attribute(said(" to='coluc.com' to='coluc.com' version='1.0'>"), "not-well-formed")]
#[case::wrong_end(said(" to='coluc.com' version='1.0'><a></b>"), "not-well-formed")]
#[case::unbound_prefix(said(" to='coluc.com' version='1.0'><a:b/>"), "not-well-formed")]
#[tokio::test]
async fn before_tls(#[case] text: String, #[case] expected: &str) {
    let (lab, _peer, _router, _link) = Lab::with_link().await;
    let mut hostile = Speaker::connect(lab.s2s).await;
    hostile.say(&text).await;
    assert_eq!(condition(&mut hostile).await, expected);
    hostile.hear_end().await;
}

#[tokio::test]
async fn other_encodings_than_utf_8_are_refused() {
    let (lab, _peer, _router, _link) = Lab::with_link().await;
    for bytes in [
        &b"\xff\xfe<\0?\0x\0"[..],
        b"<?xml version='1.0' encoding='ISO-8859-1'?>",
        b"<a b='\xc0\x80'>",
    ] {
        let mut hostile = Speaker::connect(lab.s2s).await;
        hostile.try_say(bytes).await.unwrap();
        assert_eq!(condition(&mut hostile).await, "unsupported-encoding", "{bytes:?}");
    }
}

#[tokio::test]
async fn dialback_in_clear_is_refused_and_the_stream_lives() {
    let (lab, _peer, _router, _link) = Lab::with_link().await;
    let mut clear = Speaker::connect(lab.s2s).await;
    clear.open(&header("vngtp.lab", "coluc.com", "")).await;
    for element in [
        "<db:result from='vngtp.lab' to='coluc.com'>k</db:result>",
        "<db:verify from='vngtp.lab' to='coluc.com' id='1'>k</db:verify>",
    ] {
        clear.say(element).await;
        let answer = clear.hear("</error></db:").await;
        has(&answer, ["type='error'", "<policy-violation "]);
    }
    clear.starttls().await;
}

#[tokio::test]
async fn a_header_cut_at_every_byte_is_understood() {
    let (lab, _peer, _router, _link) = Lab::with_link().await;
    let mut slow = Speaker::connect(lab.s2s).await;
    for byte in header("vngtp.lab", "coluc.com", "").as_bytes() {
        slow.try_say(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    slow.hear("</stream:features>").await;
}

#[rstest]
#[case::result_unasked("<db:result from='vngtp.lab' to='coluc.com' type='valid'/>", "policy-violation")]
#[case::verify_unasked(
    "<db:verify from='vngtp.lab' to='coluc.com' id='1' type='valid'/>",
    "policy-violation"
)]
#[case::result_in_our_name("<db:result from='conf.coluc.com' to='coluc.com'>k</db:result>", "invalid-from")]
#[case::result_from_itself("<db:result from='coluc.com' to='coluc.com'>k</db:result>", "invalid-from")]
#[case::result_without_to("<db:result from='vngtp.lab'>k</db:result>", "improper-addressing")]
#[case::result_from_an_address("<db:result from='[::1]' to='coluc.com'>k</db:result>", "improper-addressing")]
#[case::verify_without_id("<db:verify from='vngtp.lab' to='coluc.com'>k</db:verify>", "invalid-xml")]
#[case::verify_with_white_space(
    "<db:verify from='vngtp.lab' to='coluc.com' id='a&#10;b'>k</db:verify>",
    "invalid-xml"
)]
#[case::domain_with_white_space(
    "<db:verify from='vngtp.lab' to='coluc.com&#10;x' id='a'>k</db:verify>",
    "improper-addressing"
)]
#[case::stanza("<message from='bob@vngtp.lab' to='alice@coluc.com'/>", "not-authorized")]
#[case::second_header("<stream:stream xmlns:stream='http://etherx.jabber.org/streams'>", "bad-format")]
#[case::starttls("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", "unsupported-stanza-type")]
#[case::unknown("<x xmlns='y'/>", "unsupported-stanza-type")]
#[tokio::test]
async fn before_dialback(#[case] text: &str, #[case] expected: &str) {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let (mut hostile, _) = peer.open(lab.s2s, "coluc.com").await;
    hostile.say(text).await;
    assert_eq!(condition(&mut hostile).await, expected);
}

#[rstest]
#[case::unhosted("<db:result from='vngtp.lab' to='other.example'>k</db:result>", "item-not-found")]
#[case::denied("<db:result from='evil.example' to='coluc.com'>k</db:result>", "not-allowed")]
#[case::verify_unhosted(
    "<db:verify from='vngtp.lab' to='other.example' id='1'>k</db:verify>",
    "item-not-found"
)]
#[case::verify_denied("<db:verify from='evil.example' to='coluc.com' id='1'>k</db:verify>", "not-allowed")]
#[tokio::test]
async fn dialback_errors_leave_the_stream_alive(#[case] text: &str, #[case] expected: &str) {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(text).await;
    let answer = bob.hear("</error></db:").await;
    has(&answer, ["type='error'", &format!("<{expected} ")]);
    bob.hear(">").await;
    peer.authenticate(&mut bob, &id, "coluc.com").await;
    bob.say(&to_alice("later")).await;
    assert!(link.hear().await.contains("later"));
}

#[rstest]
#[case::foreign_from("<message from='eve@evil.example' to='alice@coluc.com'/>", "invalid-from")]
#[case::our_from("<message from='root@coluc.com' to='alice@coluc.com'/>", "invalid-from")]
#[case::no_from("<message to='alice@coluc.com'/>", "improper-addressing")]
#[case::no_to("<message from='bob@vngtp.lab'/>", "improper-addressing")]
#[case::unhosted_to("<message from='bob@vngtp.lab' to='x@other.example'/>", "host-unknown")]
#[case::other_pair("<message from='bob@vngtp.lab' to='room@conf.coluc.com'/>", "invalid-from")]
#[case::to_the_component(
    "<message from='bob@vngtp.lab' to='cm-2_s2scp-1.eft-xwye-a-coluc-com'/>",
    "improper-addressing"
)]
#[case::to_internal("<message from='bob@vngtp.lab' to='config@-internal'/>", "improper-addressing")]
#[case::route(
    "<route xmlns='jabber:server' from='vngtp.lab' to='coluc.com'/>",
    "unsupported-stanza-type"
)]
#[case::typed_result("<db:result from='vngtp.lab' to='conf.coluc.com' type='valid'/>", "policy-violation")]
#[case::client_namespace(
    "<message xmlns='jabber:client' from='bob@vngtp.lab' to='alice@coluc.com'/>",
    "unsupported-stanza-type"
)]
#[case::nul(
    "<message from='bob@vngtp.lab' to='alice@coluc.com'><body>&#0;</body></message>",
    "not-well-formed"
)]
#[case::cdata_end(
    "<message from='bob@vngtp.lab' to='alice@coluc.com'>]]></message>",
    "not-well-formed"
)]
#[case::entity(
    "<message from='bob@vngtp.lab' to='alice@coluc.com'>&bomb;</message>",
    "restricted-xml"
)]
#[tokio::test]
async fn after_dialback(#[case] text: &str, #[case] expected: &str) {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut hostile = peer.open_authenticated(lab.s2s, "coluc.com").await;
    hostile.say(&to_alice("good")).await;
    hostile.say(text).await;
    assert_eq!(condition(&mut hostile).await, expected);
    assert!(link.hear().await.contains("good"), "what came before is delivered");
    link.stays_silent(Duration::from_millis(100)).await;
}

#[rstest]
#[case(10_001, true)]
#[case(262_144, true)]
#[case(262_145, false)]
#[tokio::test]
async fn stanzas_pass_up_to_their_limit(#[case] size: usize, #[case] passes: bool) {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let (start, end) = (
        "<message from='bob@vngtp.lab' to='alice@coluc.com'><body>",
        "</body></message>",
    );
    let stanza = format!("{start}{}{end}", "x".repeat(size - start.len() - end.len()));
    bob.say(&stanza).await;
    if passes {
        assert_eq!(link.hear().await, stanza);
    } else {
        assert_eq!(condition(&mut bob).await, "policy-violation");
    }
}

#[tokio::test]
async fn an_endless_stanza_ends_at_the_limit() {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say("<message from='bob@vngtp.lab' to='alice@coluc.com'><body>")
        .await;
    let chunk = vec![b'x'; 64 * 1024];
    for _ in 0..16 {
        if bob.try_say(&chunk).await.is_err() {
            break;
        }
    }
    assert_eq!(condition(&mut bob).await, "policy-violation");
}

#[tokio::test]
async fn connections_from_one_address_are_bounded() {
    let (lab, _peer, _link) = Lab::configured(|config| config.limits.max_connections_per_address = 2).await;
    // The partner's own address has wider bounds.
    let stranger = [127, 0, 0, 8];
    let open = async || {
        let mut stream = Speaker::connect_from(stranger, lab.s2s).await;
        stream.open(&header("vngtp.lab", "coluc.com", "")).await;
        stream
    };
    let (mut first, second) = (open().await, open().await);
    let third = open().await;
    assert_eq!(first.hear_end().await, "");
    lab.inbound(2).await;
    drop((second, third));
    lab.inbound(0).await;
    let (mut fourth, _fifth) = (open().await, open().await);
    assert!(fourth.is_silent(Duration::from_millis(50)).await);
}

#[tokio::test]
async fn who_says_nothing_is_closed_after_the_negotiation_time() {
    let (lab, _peer, _link) =
        Lab::configured(|config| config.limits.negotiation_timeout = "300ms".parse().unwrap()).await;
    let mut silent = Speaker::connect(lab.s2s).await;
    assert_eq!(condition(&mut silent).await, "connection-timeout");
    let mut stalled = Speaker::connect(lab.s2s).await;
    stalled.say(&header("vngtp.lab", "coluc.com", "")).await;
    stalled.starttls().await;
    stalled.hear_end().await;
}

#[rstest]
#[case::other_id("<db:verify from='vngtp.lab' to='coluc.com' id='other' type='valid'/>")]
#[case::other_from("<db:verify from='evil.example' to='coluc.com' id='ID' type='valid'/>")]
#[case::other_to("<db:verify from='vngtp.lab' to='conf.coluc.com' id='ID' type='valid'/>")]
#[case::result_instead("<db:result from='vngtp.lab' to='coluc.com' type='valid'/>")]
#[case::stanza("<message from='bob@vngtp.lab' to='alice@coluc.com'/>")]
#[tokio::test]
async fn an_answer_that_was_not_asked_for_authenticates_nobody(#[case] answer: &str) {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(KEY).await;
    let mut verifying = peer.accept_question().await;
    verifying.say(&answer.replace("ID", &id)).await;
    verifying.hear("</stream:stream>").await;
    let refused = bob.hear("</db:result>").await;
    assert_eq!(attribute(&refused, "db:result", "type"), "error");
    bob.say("<message from='bob@vngtp.lab' to='alice@coluc.com'/>").await;
    assert_eq!(condition(&mut bob).await, "not-authorized");
}

#[tokio::test]
async fn an_invalid_key_closes_the_stream_unless_another_pair_is_valid() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let (mut eve, _) = peer.open(lab.s2s, "coluc.com").await;
    eve.say(KEY).await;
    let mut verifying = peer.accept("v").await;
    let asked = verifying.hear("</db:verify>").await;
    let id = attribute(&asked, "db:verify", "id");
    verifying.say(&verified("vngtp.lab", "coluc.com", &id, "invalid")).await;
    let answer = eve.hear("</stream:stream>").await;
    assert_eq!(attribute(&answer, "db:result", "type"), "invalid");

    // The verification stream is shared; the second question comes over it.
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    for (to, verdict) in [("coluc.com", "valid"), ("conf.coluc.com", "invalid")] {
        bob.say(&format!("<db:result from='vngtp.lab' to='{to}'>k</db:result>"))
            .await;
        verifying.hear("</db:verify>").await;
        verifying.say(&verified("vngtp.lab", to, &id, verdict)).await;
        let answer = bob.hear("/>").await;
        assert_eq!(attribute(&answer, "db:result", "type"), verdict);
    }
    bob.say(&to_alice("lives")).await;
    assert!(link.hear().await.contains("lives"));
    bob.say("<message from='bob@vngtp.lab' to='x@conf.coluc.com'/>").await;
    assert_eq!(condition(&mut bob).await, "invalid-from");
}

#[tokio::test]
async fn a_wrong_key_shown_again_on_a_live_pair_ends_it() {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(KEY).await;
    let mut verifying = peer.accept("v").await;
    for verdict in ["valid", "invalid"] {
        verifying.hear("</db:verify>").await;
        verifying.say(&verified("vngtp.lab", "coluc.com", &id, verdict)).await;
        let answer = bob.hear("/>").await;
        assert_eq!(attribute(&answer, "db:result", "type"), verdict);
        if verdict == "valid" {
            bob.say("<db:result from='vngtp.lab' to='coluc.com'>wrong</db:result>")
                .await;
        }
    }
    bob.hear("</stream:stream>").await;
}

#[tokio::test]
async fn an_answer_after_its_time_authenticates_nobody_and_the_stream_lives() {
    let (lab, peer, _link) = Lab::configured(|config| config.limits.dialback_timeout = "300ms".parse().unwrap()).await;
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(KEY).await;
    let mut verifying = peer.accept_question().await;
    let answer = bob.hear("</db:result>").await;
    assert!(answer.contains("<remote-server-timeout "), "{answer}");
    let late = format!("<db:verify from='vngtp.lab' to='coluc.com' id='{id}' type='valid'/>");
    verifying.say(&late).await;
    assert!(
        verifying.is_silent(Duration::from_millis(100)).await,
        "the verification stream ended"
    );
    bob.say("<message from='bob@vngtp.lab' to='alice@coluc.com'/>").await;
    assert_eq!(condition(&mut bob).await, "not-authorized");
    // The same answer once more was asked for by nobody.
    verifying.say(&late).await;
    verifying.hear("</stream:stream>").await;
}

#[tokio::test]
async fn a_peer_that_never_reads_is_not_read_either() {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    // Who has proven nothing may not send so much.
    let mut deaf = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let questions = "<db:verify from='vngtp.lab' to='coluc.com' id='1'>k</db:verify>".repeat(1000);
    let flood = async {
        // 60 MB of questions, whose answers nobody takes.
        for _ in 0..1000 {
            deaf.say(&questions).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(3), flood).await.is_err(),
        "all was read"
    );
}

#[tokio::test]
async fn a_domain_that_cannot_be_asked_is_answered_with_an_error_and_not_tried_again_at_once() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    let nobody = Peer::new("gone.example").await;
    config
        .partners
        .push(support::config(&[&nobody], &[]).partners.remove(0));
    drop(nobody);
    let lab = Lab::start(live(config));
    let (mut bob, _) = peer.open(lab.s2s, "coluc.com").await;
    for _ in 0..2 {
        bob.say(&result("gone.example", "coluc.com", "k")).await;
        let answer = bob.hear("</db:result>").await;
        assert!(answer.contains("<remote-connection-failed "), "{answer}");
    }
}
