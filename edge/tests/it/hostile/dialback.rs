//! Dialback by peers that lie, repeat, mix up or say nothing: nobody is authenticated by it, and
//! nobody else notices.

use std::collections::HashSet;
use std::sync::Arc;

use rstest::rstest;
use xmpp_federation_core::edge_config::TlsMode;
use xmpp_federation_core::{Domain, SecretBytes};
use xmpp_federation_edge::dialback::DialbackSecrets;

use crate::support::{
    KEY, Lab, PLAIN_DIALBACK, Peer, Router, SECRET, Speaker, VALID, attribute, config, configured_scene, features, has,
    header, live, result, scene, to_bob, verified,
};

const STANZA: &str = "<message from='bob@vngtp.lab' to='alice@coluc.com' id='hostile'/>";

/// The key of the pair xmpp.example.com (receiving), example.org (originating), id D60000229F.
const RIGHT: &str = "37c69b1cf07a3f67c04a5ef5902fa5114f2c76fe4a2686482ba5b89323075643";
/// The same by whoever takes the raw digest of the secret for the key of the HMAC.
const MISTAKE: &str = "4530485cd3f519a56e49b11b294b990ee9697dddaa9e95949e4cb0e64e9f017f";
/// The key of montague.example (receiving) and capulet.example (originating), same id and secret.
const OTHER_PAIR: &str = "b4835385f37fe2895af6c196b59097b16862406db80559900d96bf6fa7d23df3";

#[rstest]
#[case::right("xmpp.example.com", "example.org", "D60000229F", RIGHT, "valid")]
#[case::right_with_space("xmpp.example.com", "example.org", "D60000229F", "\n KEY\t", "valid")]
#[case::right_in_cdata("xmpp.example.com", "example.org", "D60000229F", "<![CDATA[KEY]]>", "valid")]
#[case::replayed_under_another_id("xmpp.example.com", "example.org", "D60000229E", RIGHT, "invalid")]
#[case::id_in_another_case("xmpp.example.com", "example.org", "d60000229f", RIGHT, "invalid")]
#[case::shown_to_another_domain("other.example", "example.org", "D60000229F", RIGHT, "invalid")]
#[case::for_another_domain_of_ours("xmpp.example.com", "capulet.example", "D60000229F", RIGHT, "invalid")]
#[case::the_other_way_round("example.net", "xmpp.example.com", "D60000229F", RIGHT, "item-not-found")]
#[case::of_another_pair("xmpp.example.com", "example.org", "D60000229F", OTHER_PAIR, "invalid")]
#[case::empty("xmpp.example.com", "example.org", "D60000229F", "", "invalid")]
#[case::cut_short("xmpp.example.com", "example.org", "D60000229F", &RIGHT[..63], "invalid")]
#[case::with_more_behind("xmpp.example.com", "example.org", "D60000229F", "KEY0", "invalid")]
#[case::space_inside("xmpp.example.com", "example.org", "D60000229F", "KEY KEY", "invalid")]
#[case::classic_mistake("xmpp.example.com", "example.org", "D60000229F", MISTAKE, "invalid")]
#[case::longest_looked_at("xmpp.example.com", "example.org", "D60000229F", "KILO", "invalid")]
#[tokio::test]
async fn as_authoritative_server_only_the_right_key_is_valid(
    #[case] from: &str,
    #[case] to: &str,
    #[case] id: &str,
    #[case] key: &str,
    #[case] expected: &str,
) {
    let (peer, router) = (Peer::new("xmpp.example.com").await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    config.domains = ["example.org", "capulet.example"]
        .map(|text| Domain::parse(text).unwrap())
        .to_vec();
    config.privacy.mode = xmpp_federation_core::edge_config::PrivacyMode::AllowAll;
    let lab = Lab::start(live(config));
    let (mut asking, _) = peer.open(lab.s2s, "example.org").await;
    let key = key.replace("KEY", RIGHT).replace("KILO", &"k".repeat(1024));
    let ask = format!("<db:verify from='{from}' to='{to}' id='{id}'>{key}</db:verify>");
    asking.say(&ask).await;
    let answer = asking.hear("/>").await;
    assert_eq!(attribute(&answer, "db:verify", "id"), id);
    assert_eq!(attribute(&answer, "db:verify", "from"), to);
    assert_eq!(attribute(&answer, "db:verify", "to"), from);
    match attribute(&answer, "db:verify", "type").as_str() {
        "error" => assert!(answer.contains(&format!("<{expected} ")), "{answer}"),
        verdict => assert_eq!(verdict, expected),
    }
}

#[rstest]
#[case::key_too_long(
    "<db:verify from='vngtp.lab' to='coluc.com' id='1'>KEY</db:verify>",
    1025,
    "invalid-xml"
)]
#[case::result_key_too_long("<db:result from='vngtp.lab' to='coluc.com'>KEY</db:result>", 1025, "invalid-xml")]
#[case::megabyte("<db:verify from='vngtp.lab' to='coluc.com' id='1'>KEY</db:verify>", 1 << 20, "policy-violation")]
#[case::result_megabyte("<db:result from='vngtp.lab' to='coluc.com'>KEY</db:result>", 1 << 20, "policy-violation")]
#[case::id_too_long(
    "<db:verify from='vngtp.lab' to='coluc.com' id='KEY'>k</db:verify>",
    1025,
    "invalid-xml"
)]
#[case::from_too_long(
    "<db:result from='KEY.example' to='coluc.com'>k</db:result>",
    300,
    "improper-addressing"
)]
#[case::to_too_long(
    "<db:result from='vngtp.lab' to='KEY.example'>k</db:result>",
    300,
    "improper-addressing"
)]
#[case::empty_id("<db:verify from='vngtp.lab' to='coluc.com' id=''>k</db:verify>", 0, "invalid-xml")]
#[case::line_end_in_id(
    "<db:verify from='vngtp.lab' to='coluc.com' id='a&#10;'>k</db:verify>",
    0,
    "invalid-xml"
)]
#[case::space_in_id(
    "<db:verify from='vngtp.lab' to='coluc.com' id='a b'>k</db:verify>",
    0,
    "invalid-xml"
)]
#[case::space_in_from(
    "<db:verify from='vngtp.lab coluc.com' to='coluc.com' id='a'>k</db:verify>",
    0,
    "improper-addressing"
)]
#[case::line_end_in_from(
    "<db:result from='vngtp.lab&#10;' to='coluc.com'>k</db:result>",
    0,
    "improper-addressing"
)]
#[case::from_with_a_user(
    "<db:result from='bob@vngtp.lab' to='coluc.com'>k</db:result>",
    0,
    "improper-addressing"
)]
#[case::from_with_a_resource(
    "<db:result from='vngtp.lab/x' to='coluc.com'>k</db:result>",
    0,
    "improper-addressing"
)]
#[case::without_from("<db:result to='coluc.com'>k</db:result>", 0, "improper-addressing")]
#[case::from_us("<db:result from='coluc.com' to='conf.coluc.com'>k</db:result>", 0, "invalid-from")]
#[case::from_us_in_capitals("<db:result from='COLUC.com' to='conf.coluc.com'>k</db:result>", 0, "invalid-from")]
#[case::from_us_with_a_dot("<db:result from='coluc.com.' to='conf.coluc.com'>k</db:result>", 0, "invalid-from")]
#[case::from_us_with_an_ideographic_dot(
    "<db:result from='coluc\u{3002}com' to='conf.coluc.com'>k</db:result>",
    0,
    "invalid-from"
)]
#[case::from_is_to("<db:result from='coluc.com' to='coluc.com'>k</db:result>", 0, "invalid-from")]
#[case::answer("<db:result from='vngtp.lab' to='coluc.com' type='valid'/>", 0, "policy-violation")]
#[case::invalid_answer("<db:result from='vngtp.lab' to='coluc.com' type='invalid'/>", 0, "policy-violation")]
#[case::error_answer("<db:result from='vngtp.lab' to='coluc.com' type='error'/>", 0, "policy-violation")]
#[case::answer_of_no_type(
    "<db:result from='vngtp.lab' to='coluc.com' type=''>k</db:result>",
    0,
    "policy-violation"
)]
#[case::verify_answer(
    "<db:verify from='vngtp.lab' to='coluc.com' id='1' type='valid'/>",
    0,
    "policy-violation"
)]
#[case::other_prefix_answer(
    "<x:result xmlns:x='jabber:server:dialback' from='vngtp.lab' to='coluc.com' type='valid'/>",
    0,
    "policy-violation"
)]
#[case::result_in_another_namespace(
    "<result xmlns='jabber:server' from='vngtp.lab' to='coluc.com'>k</result>",
    0,
    "unsupported-stanza-type"
)]
#[case::unknown_element("<db:other from='vngtp.lab' to='coluc.com'/>", 0, "unsupported-stanza-type")]
#[tokio::test]
async fn malformed_or_unasked_dialback_ends_the_stream(
    #[case] text: &str,
    #[case] length: usize,
    #[case] expected: &str,
) {
    let (lab, peer, mut link, mut bystander) = scene().await;
    let (mut hostile, _) = peer.open(lab.s2s, "coluc.com").await;
    // The edge may end the stream before everything is written.
    let text = text.replace("KEY", &"k".repeat(length));
    let _ = hostile.try_say(text.as_bytes()).await;
    assert_eq!(hostile.condition().await, expected);
    assert!(bystander.exchange(&mut link).await.is_empty());
}

#[tokio::test]
async fn an_empty_key_is_asked_about_like_any_other() {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    bob.say("<db:result from='vngtp.lab' to='coluc.com'/>").await;
    let mut verifying = peer.accept("v").await;
    let asked = verifying.hear("<db:verify ").await + &verifying.hear(">").await;
    assert_eq!(attribute(&asked, "db:verify", "id"), id);
    verifying.say(&verified("vngtp.lab", "coluc.com", &id, "invalid")).await;
    let end = bob.hear("</stream:stream>").await;
    assert_eq!(attribute(&end, "db:result", "type"), "invalid");
}

/// The verdict must come from the authoritative server over the stream it was asked on.
#[rstest]
#[case::verdict_on_the_same_stream("<db:verify from='vngtp.lab' to='coluc.com' id='ID' type='valid'/>")]
#[case::verdict_of_another_kind("<db:result from='vngtp.lab' to='coluc.com' type='valid'/>")]
#[case::stanza_before_the_verdict(STANZA)]
#[tokio::test]
async fn who_shows_a_key_cannot_judge_it(#[case] text: &str) {
    let (lab, peer, mut link, mut bystander) = scene().await;
    let (mut hostile, id) = peer.open(lab.s2s, "coluc.com").await;
    hostile.say(KEY).await;
    let mut verifying = peer.accept_question().await;
    hostile.say(&text.replace("ID", &id)).await;
    let condition = hostile.condition().await;
    assert!(condition == "policy-violation" || condition == "not-authorized");
    // The answer to a question whose asker is gone is dropped, and the stream goes on.
    verifying.say(&verified("vngtp.lab", "coluc.com", &id, "valid")).await;
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(KEY).await;
    let asked = verifying.hear("</db:verify>").await;
    assert_eq!(attribute(&asked, "db:verify", "id"), id);
    verifying.say(&verified("vngtp.lab", "coluc.com", &id, "valid")).await;
    bob.hear("type='valid'/>").await;
    assert!(bystander.exchange(&mut link).await.is_empty());
}

#[rstest]
#[case::question("<db:verify from='vngtp.lab' to='coluc.com' id='ID'>k</db:verify>")]
#[case::key("<db:result from='vngtp.lab' to='coluc.com'>k</db:result>")]
#[case::of_the_wrong_kind("<db:result from='vngtp.lab' to='coluc.com' type='valid'/>")]
#[case::for_another_stream("<db:verify from='vngtp.lab' to='coluc.com' id='other' type='valid'/>")]
#[case::for_another_pair("<db:verify from='vngtp.lab' to='conf.coluc.com' id='ID' type='valid'/>")]
#[case::in_anothers_name("<db:verify from='bystander.example' to='coluc.com' id='ID' type='valid'/>")]
#[case::of_no_known_type("<db:verify from='vngtp.lab' to='coluc.com' id='ID' type='perhaps'/>")]
#[case::malformed("<db:verify from='vngtp.lab' to='coluc.com' type='valid'/>")]
#[case::stanza(STANZA)]
#[case::not_xml("<!-- -->")]
#[case::end("</stream:stream>")]
#[tokio::test]
async fn an_authoritative_server_that_talks_nonsense_authenticates_nobody(#[case] text: &str) {
    let (lab, peer, mut link, mut bystander) = scene().await;
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(KEY).await;
    let mut verifying = peer.accept_question().await;
    verifying.say(&text.replace("ID", &id)).await;
    let refused = bob.hear("</db:result>").await;
    assert_eq!(attribute(&refused, "db:result", "type"), "error");
    bob.say(STANZA).await;
    assert_eq!(bob.condition().await, "not-authorized");
    assert!(bystander.exchange(&mut link).await.is_empty());
}

/// What comes right behind the features is read before any question could be answered.
#[tokio::test]
async fn an_authoritative_server_that_fails_at_once_is_asked_again_over_a_new_stream() {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(KEY).await;
    let mut failing = peer.accept_tls_with("v").await;
    failing.say(&format!("<stream:features/>{STANZA}")).await;
    let refused = bob.hear("</db:result>").await;
    assert_eq!(attribute(&refused, "db:result", "type"), "error");
    // The failing one stays connected for as long as the edge lets it.
    bob.say(KEY).await;
    let mut verifying = peer.accept_question().await;
    verifying.say(&verified("vngtp.lab", "coluc.com", &id, "valid")).await;
    bob.hear("type='valid'/>").await;
    drop(failing);
}

#[tokio::test]
async fn a_question_that_is_never_answered_ends_after_its_time_and_the_peer_may_try_again() {
    let (lab, peer, mut link, mut bystander) =
        configured_scene(|config| config.limits.dialback_timeout = "2s".parse().unwrap()).await;
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(KEY).await;
    let mut verifying = peer.accept_question().await;
    let (answer, _) = bystander.during(&mut link, bob.hear("</db:result>")).await;
    assert!(answer.contains("<remote-server-timeout "), "{answer}");
    // The stream on which it was asked lives, and so does the peer's.
    bob.say(&result("vngtp.lab", "coluc.com", "k2")).await;
    verifying.hear(">k2</db:verify>").await;
    verifying.say(&verified("vngtp.lab", "coluc.com", &id, "valid")).await;
    bob.hear("type='valid'/>").await;
    bob.say(STANZA).await;
    assert!(link.hear().await.contains("hostile"));
}

#[tokio::test]
async fn a_late_answer_on_a_shared_stream_harms_no_other_question() {
    let (lab, peer, mut link, mut bystander) =
        configured_scene(|config| config.limits.dialback_timeout = "2s".parse().unwrap()).await;
    let (mut first, first_id) = peer.open(lab.s2s, "coluc.com").await;
    first.say(KEY).await;
    let mut verifying = peer.accept_question().await;
    let timed_out = first.hear("</db:result>").await;
    assert!(timed_out.contains("<remote-server-timeout "), "{timed_out}");
    let (mut second, second_id) = peer.open(lab.s2s, "coluc.com").await;
    second.say(KEY).await;
    verifying.hear("</db:verify>").await;
    for id in [&first_id, &second_id] {
        verifying.say(&verified("vngtp.lab", "coluc.com", id, "valid")).await;
    }
    second.hear("type='valid'/>").await;
    second.say(STANZA).await;
    assert!(link.hear().await.contains("hostile"));
    first.say(STANZA).await;
    assert_eq!(first.condition().await, "not-authorized");
    assert!(bystander.exchange(&mut link).await.is_empty());
}

#[tokio::test]
async fn pairs_and_questions_of_one_stream_are_bounded() {
    let (lab, peer, mut link, mut bystander) = configured_scene(|config| config.limits.max_pairs_per_stream = 1).await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say(&result("vngtp.lab", "conf.coluc.com", "k")).await;
    let answer = bob.hear("</db:result>").await;
    assert!(answer.contains("<resource-constraint "), "{answer}");
    bob.say(STANZA).await;
    assert!(link.hear().await.contains("hostile"));
    assert!(bystander.exchange(&mut link).await.is_empty());
}

#[tokio::test]
async fn one_address_gets_its_share_of_the_questions_and_no_more() {
    let (lab, peer, _link) = Lab::configured(|config| config.limits.max_verifications = Some(8)).await;
    let mut streams = Vec::new();
    // Not the address that the partner's route leads to.
    let connect = || Speaker::connect_from([127, 5, 5, 5], lab.s2s);
    for _ in 0..2 {
        let (mut bob, _) = peer.open_on(connect().await, "coluc.com").await;
        bob.say(KEY).await;
        streams.push(bob);
    }
    // Both are asked about before the next one comes.
    let mut verifying = peer.accept_question().await;
    verifying.hear("</db:verify>").await;
    let (mut third, _) = peer.open_on(connect().await, "coluc.com").await;
    third.say(KEY).await;
    // It waits; the next address does not.
    lab.until("the third key waits", |lab| lab.edge.verifications() == (2, 1))
        .await;
    let (mut other, _) = peer.open(lab.s2s, "coluc.com").await;
    other.say(KEY).await;
    verifying.hear("</db:verify>").await;
    assert_eq!(lab.edge.verifications(), (3, 1));
}

fn without(text: &str, attribute: &str) -> String {
    text.replace(attribute, "")
}

#[tokio::test]
async fn a_stream_whose_header_names_nobody_may_ask_and_be_authenticated() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let opening = without(
        &header("vngtp.lab", "coluc.com", ""),
        " from='vngtp.lab' to='coluc.com'",
    );
    assert!(!opening.contains("vngtp"));
    let (mut bob, id) = Speaker::secured(lab.s2s, &opening).await;
    bob.say("<db:verify from='vngtp.lab' to='coluc.com' id='1'>k</db:verify>")
        .await;
    let answer = bob.hear("/>").await;
    assert_eq!(attribute(&answer, "db:verify", "type"), "invalid");
    peer.authenticate(&mut bob, &id, "coluc.com").await;
    bob.say(STANZA).await;
    assert!(link.hear().await.contains("hostile"));
}

#[rstest]
#[case::later("2.0", true)]
#[case::later_minor("1.9", true)]
#[case::leading_zero("01.0", true)]
#[case::no_number("1.x", false)]
#[case::too_large("99999999999999999999.0", false)]
#[tokio::test]
async fn a_later_version_is_answered_with_ours(#[case] version: &str, #[case] good: bool) {
    let (lab, _peer, _router, _link) = Lab::with_link().await;
    let opening = header("vngtp.lab", "coluc.com", "").replace(" version='1.0'>", &format!(" version='{version}'>"));
    let mut bob = Speaker::connect(lab.s2s).await;
    bob.say(&opening).await;
    if good {
        let features = bob.hear("</stream:features>").await;
        assert_eq!(attribute(&features, "stream:stream", "version"), "1.0");
    } else {
        assert_eq!(bob.condition().await, "unsupported-version");
    }
}

#[rstest]
#[tokio::test]
async fn a_peer_from_before_version_1_gets_neither_version_nor_features(
    #[values("", " version='0.9'")] version: &str,
    #[values(TlsMode::Required, TlsMode::Optional, TlsMode::Disabled)] mode: TlsMode,
) {
    let (lab, _peer, _link) = Lab::configured(|config| config.tls.mode = mode).await;
    let opening = header("vngtp.lab", "coluc.com", "").replace(" version='1.0'>", &format!("{version}>"));
    let mut bob = Speaker::connect(lab.s2s).await;
    bob.say(&opening).await;
    let answer = if mode == TlsMode::Required {
        bob.hear("</stream:stream>").await
    } else {
        // Straight to dialback.
        bob.say(&result("vngtp.lab", "other.example", "key")).await;
        bob.hear("</db:result>").await
    };
    assert_eq!(attribute(&answer, "stream:stream", "from"), "coluc.com");
    let (_, header) = answer.split_once("<stream:stream ").unwrap();
    let (header, rest) = header.split_once('>').unwrap();
    assert!(!header.contains("version"), "{header}");
    assert!(!rest.contains("features"), "{rest}");
    let expected = match mode {
        TlsMode::Required => "<policy-violation ",
        _ => "<item-not-found ",
    };
    assert!(rest.contains(expected), "{rest}");
}

#[tokio::test]
async fn ids_of_our_headers_are_long_and_never_the_same() {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let mut ids = HashSet::new();
    for _ in 0..50 {
        let mut clear = Speaker::connect(lab.s2s).await;
        let features = clear.open(&header("vngtp.lab", "coluc.com", "")).await;
        let before = attribute(&features, "stream:stream", "id");
        assert_eq!(before.len(), 32, "128 bits in hexadecimal");
        assert!(ids.insert(before));
    }
    let (_bob, after) = peer.open(lab.s2s, "coluc.com").await;
    assert!(ids.insert(after));
}

/// A key that the edge showed, and the stream where it did.
async fn key_shown(peer: &Peer) -> (Speaker, String) {
    let mut stream = peer.accept("outbound-id").await;
    let text = stream.hear("</db:result>").await;
    let key = text.rsplit("'>").next().unwrap().trim_end_matches("</db:result>");
    assert_eq!(key.len(), 64, "{text}");
    (stream, key.to_owned())
}

async fn ask(asking: &mut Speaker, key: &str) -> String {
    asking
        .say(&format!(
            "<db:verify from='vngtp.lab' to='coluc.com' id='outbound-id'>{key}</db:verify>"
        ))
        .await;
    let answer = asking.hear("/>").await;
    attribute(&answer, "db:verify", "type")
}

fn secrets(sign: &str, accept: &[&str]) -> DialbackSecrets {
    let secret = |text: &str| SecretBytes::new(text.as_bytes().to_vec());
    DialbackSecrets::new(secret(sign), accept.iter().map(|text| secret(text)).collect())
}

#[tokio::test]
async fn a_key_shown_before_a_rotation_is_valid_until_its_secret_is_dropped() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let config = config(&[&peer], &[&router]);
    let lab = Lab::start(live(config.clone()));
    let link = router.accept().await;
    let mut asking = peer.open(lab.s2s, "coluc.com").await.0;
    link.say("<message from='alice@coluc.com' to='bob@vngtp.lab'/>");
    let (stream, key) = key_shown(&peer).await;
    let stages = [
        (secrets(SECRET, &["new"]), "valid"),
        (secrets("new", &[SECRET]), "valid"),
        (secrets("new", &[]), "invalid"),
    ];
    for (stage, expected) in stages {
        let mut next = live(config.clone());
        next.dialback = stage;
        lab.live.send(Arc::new(next)).unwrap();
        assert_eq!(ask(&mut asking, &key).await, expected);
    }
    drop(stream);
}

#[tokio::test]
async fn any_replica_is_the_authoritative_server_of_any_others_stream() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let config = config(&[&peer], &[&router]);
    let first = Lab::start(live(config.clone()));
    let link = router.accept().await;
    let mut without_links = config.clone();
    without_links.routers[0].endpoints.clear();
    let second = Lab::start(live(without_links));
    link.say(&to_bob("m1"));
    let (mut stream, key) = key_shown(&peer).await;
    let mut asking = peer.open(second.s2s, "coluc.com").await.0;
    assert_eq!(ask(&mut asking, &key).await, "valid");
    stream.say(VALID).await;
    stream.hear("id='m1'/>").await;
    drop(first);
}

/// What the edge computes its key with, and what it must not.
#[rstest]
#[case::line_end_in_id(" id='a&#10;b'".into())]
#[case::space_in_id(" id='a b'".into())]
#[case::empty_id(" id=''".into())]
#[case::no_id(String::new())]
#[case::long_id(format!(" id='{}'", "i".repeat(1025)))]
#[tokio::test]
async fn no_key_is_shown_on_a_stream_whose_id_could_mean_another(#[case] id: String) {
    let (_lab, peer, mut link, mut bystander) =
        configured_scene(|config| config.limits.dialback_timeout = "1s".parse().unwrap()).await;
    link.say(&to_bob("m1"));
    let (mut stream, local) = peer.accept_tls().await;
    let opening = header(peer.domain, &local, "").replace(" version='1.0'>", &format!("{id} version='1.0'>"));
    stream.say(&opening).await;
    stream.say(&features(PLAIN_DIALBACK)).await;
    let end = stream.hear("</stream:stream>").await;
    assert!(!end.contains("<db:result"), "{end}");
    let error = link.hear().await;
    assert!(error.contains("type='error'") && error.contains("id='m1'"), "{error}");
    bystander.exchange(&mut link).await;
}

#[tokio::test]
async fn a_domain_denied_while_its_stream_is_negotiated_gets_nothing() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let allowed = config(&[&peer], &[&router]);
    let lab = Lab::start(live(allowed.clone()));
    let mut link = router.accept().await;
    link.say(&to_bob("m1"));
    let mut stream = peer.accept_tls_with("id").await;
    let mut denied = allowed;
    denied.partners.clear();
    lab.live.send(Arc::new(live(denied))).unwrap();
    stream.say(&features(PLAIN_DIALBACK)).await;
    let end = stream.hear("</stream:stream>").await;
    assert!(end.contains("<policy-violation "), "{end}");
    assert!(!end.contains("<db:result"), "{end}");
    let error = link.hear().await;
    assert!(error.contains("<not-allowed "), "{error}");
}

#[tokio::test]
async fn what_a_peer_took_that_never_answered_our_end_is_reported() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut deaf = link.opens(&peer, "m1").await;
    let outbound = lab.edge.registry.streams(None);
    let stream = outbound.iter().find(|stream| stream.direction == "outbound").unwrap();
    assert!(lab.edge.registry.close(stream.id));
    deaf.hear("</stream:stream>").await;
    // Neither an end of the stream nor one of the connection comes back.
    let error = link.hear().await;
    has(&error, ["<remote-server-timeout ", "id='m1'"]);
}
