//! SASL EXTERNAL where the peer connects, and how much such a peer can make the edge log.

use std::time::Duration;

use rstest::rstest;
use tracing::Level;
use xmpp_federation_core::edge_config::TlsMode;

use crate::support::log::Log;
use crate::support::pki::{client, partners};
use crate::support::{KEY, Lab, Speaker, header};

use super::world::{Host, Inbound, World, identity, must_say};

#[tokio::test]
async fn external_authenticates_the_headers_pair_and_dialback_adds_others() {
    let mut world = World::new(|_| {}).await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    assert!(bob.offers_external() && bob.features.contains("<errors/>"));
    let before = bob.id.clone();
    assert!(bob.auth("=").await.contains("<success"));
    bob.header(&header("vngtp.lab", "coluc.com", "")).await;
    assert_ne!(bob.id, before, "the stream after SASL has an id of its own");
    assert!(!bob.features.contains("mechanisms") && bob.features.contains("<errors/>"));
    bob.passes(&mut world.link, "1").await;
    assert_eq!(world.mechanisms("inbound"), ["external"]);

    let id = bob.id.clone();
    world.peer.authenticate(&mut bob.speaker, &id, "conf.coluc.com").await;
    bob.speaker
        .say("<message from='bob@vngtp.lab' to='room@conf.coluc.com' id='2'/>")
        .await;
    assert!(world.link.hear().await.contains("room@conf.coluc.com"));
    assert_eq!(world.mechanisms("inbound"), ["external", "dialback"]);
}

#[tokio::test]
async fn external_authenticates_no_other_pair() {
    let world = World::new(|_| {}).await;
    let mut bob = Inbound::external(world.lab.s2s, partners()).await;
    bob.speaker
        .say("<message from='bob@vngtp.lab' to='room@conf.coluc.com'/>")
        .await;
    assert_eq!(bob.ends_with().await, "invalid-from");
}

#[tokio::test]
async fn a_from_that_is_named_only_after_tls_is_enough_for_external() {
    let mut world = World::new(|_| {}).await;
    let bare = header("vngtp.lab", "coluc.com", "").replace(" from='vngtp.lab'", "");
    let mut bob = Inbound::open(world.lab.s2s, &bare).await;
    bob.secure(client(Some(partners()))).await;
    assert!(bob.offers_external(), "{}", bob.features);
    assert!(bob.auth("").await.contains("<success"));
    bob.header(&header("vngtp.lab", "coluc.com", "")).await;
    bob.passes(&mut world.link, "1").await;
}

#[tokio::test]
async fn without_a_from_nothing_is_offered_and_nothing_authenticated() {
    let world = World::new(|_| {}).await;
    let bare = header("vngtp.lab", "coluc.com", "").replace(" from='vngtp.lab'", "");
    let mut bob = Inbound::open(world.lab.s2s, &bare).await;
    bob.start_tls(client(Some(partners()))).await.unwrap();
    bob.header(&bare).await;
    assert!(!bob.offers_external());
    assert!(bob.auth("=").await.contains("<not-authorized/>"));
}

#[rstest]
#[case::another_identity("EXTERNAL", "ZXZpbC5leGFtcGxl", "invalid-authzid")]
#[case::no_base64("EXTERNAL", "vngtp.lab", "incorrect-encoding")]
#[case::another_mechanism("PLAIN", "=", "invalid-mechanism")]
#[tokio::test]
async fn a_failed_external_leaves_the_stream_to_dialback(
    #[case] mechanism: &str,
    #[case] identity: &str,
    #[case] condition: &str,
) {
    let mut world = World::new(|_| {}).await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    bob.speaker
        .say(&format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='{mechanism}'>{identity}</auth>"
        ))
        .await;
    let failure = bob.speaker.hear("</failure>").await;
    assert!(failure.contains(&format!("<{condition}/>")), "{failure}");
    let id = bob.id.clone();
    world.peer.authenticate(&mut bob.speaker, &id, "coluc.com").await;
    bob.passes(&mut world.link, "1").await;
    assert_eq!(world.mechanisms("inbound"), ["dialback"]);
}

#[tokio::test]
async fn external_can_be_tried_again_a_few_times_only() {
    let world = World::new(|_| {}).await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    for _ in 0..3 {
        assert!(bob.auth("!").await.contains("<incorrect-encoding/>"));
    }
    assert!(bob.auth("!").await.contains("<incorrect-encoding/>"));
    assert_eq!(bob.ends_with().await, "policy-violation");
}

#[rstest]
#[case::self_signed("self-signed")]
#[case::expired("expired")]
#[case::wrong_name("wrong-name")]
#[case::missing("missing")]
#[tokio::test]
async fn external_that_was_not_offered_fails_by_the_check_that_failed(#[case] shown: &str) {
    let world = World::new(|_| {}).await;
    let shown_identity = identity(shown);
    let mut bob = Inbound::secured(world.lab.s2s, shown_identity.as_ref()).await;
    assert!(!bob.offers_external());
    assert!(bob.auth("=").await.contains("<not-authorized/>"));
    world
        .refused_by(bob.address, "certificate", must_say("certificate", shown))
        .await;
}

#[tokio::test]
async fn nothing_may_be_pipelined_behind_auth() {
    let mut world = World::new(|_| {}).await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    let injected = header("vngtp.lab", "coluc.com", "");
    bob.speaker
        .say(&format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>{injected}\
             <message from='bob@vngtp.lab' to='alice@coluc.com'/>"
        ))
        .await;
    assert_eq!(bob.ends_with().await, "policy-violation");
    let nothing = tokio::time::timeout(Duration::from_millis(100), world.link.hear()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[rstest]
#[case::from("other.example", "coluc.com", "invalid-from")]
#[case::to("vngtp.lab", "conf.coluc.com", "host-unknown")]
#[tokio::test]
async fn the_domains_may_not_change_after_sasl(#[case] from: &str, #[case] to: &str, #[case] condition: &str) {
    let world = World::new(|config| {
        config.privacy.domains.push("other.example".parse().unwrap());
    })
    .await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    assert!(bob.auth("=").await.contains("<success"));
    bob.speaker.say(&header(from, to, "")).await;
    assert_eq!(bob.ends_with().await, condition);
    assert_eq!(world.mechanisms("inbound"), [""; 0]);
}

#[tokio::test]
async fn what_comes_after_success_instead_of_a_header_ends_the_stream() {
    let world = World::new(|_| {}).await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    assert!(bob.auth("=").await.contains("<success"));
    bob.speaker
        .say("<message from='bob@vngtp.lab' to='alice@coluc.com'/>")
        .await;
    let text = bob.speaker.hear("</stream:stream>").await;
    assert!(text.starts_with("<?xml"), "an error needs a header: {text}");
    assert!(text.contains("<stream:error>"), "{text}");
}

#[tokio::test]
async fn external_on_a_stream_that_used_dialback_is_refused() {
    let mut world = World::new(|_| {}).await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    let id = bob.id.clone();
    world.peer.authenticate(&mut bob.speaker, &id, "coluc.com").await;
    assert!(bob.auth("=").await.contains("<not-authorized/>"));
    bob.passes(&mut world.link, "1").await;
}

#[rstest]
#[case::abort("abort", "aborted")]
#[case::response("response", "malformed-request")]
#[tokio::test]
async fn what_belongs_to_no_exchange_fails_and_the_stream_lives(#[case] name: &str, #[case] condition: &str) {
    let mut world = World::new(|_| {}).await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    bob.speaker
        .say(&format!("<{name} xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"))
        .await;
    let failure = bob.speaker.hear("</failure>").await;
    assert!(failure.contains(&format!("<{condition}/>")), "{failure}");
    assert!(bob.auth("=").await.contains("<success"));
    bob.header(&header("vngtp.lab", "coluc.com", "")).await;
    bob.passes(&mut world.link, "1").await;
}

#[tokio::test]
async fn external_without_tls_fails_and_dialback_goes_on() {
    let mut world = World::new(|config| config.tls.mode = TlsMode::Optional).await;
    let mut bob = Inbound::from_peer(world.lab.s2s).await;
    assert!(!bob.offers_external());
    assert!(bob.auth("=").await.contains("<encryption-required/>"));
    bob.speaker.say(KEY).await;
    Host::new(TlsMode::Disabled, partners()).verifies(&world.peer).await;
    bob.speaker.hear("type='valid'/>").await;
    bob.passes(&mut world.link, "1").await;
}

#[tokio::test]
async fn external_after_a_question_to_us_as_authoritative_server_works() {
    let mut world = World::new(|_| {}).await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    bob.speaker
        .say("<db:verify from='vngtp.lab' to='coluc.com' id='1'>k</db:verify>")
        .await;
    bob.speaker.hear("type='invalid'/>").await;
    assert!(bob.auth("=").await.contains("<success"));
    bob.header(&header("vngtp.lab", "coluc.com", "")).await;
    bob.passes(&mut world.link, "1").await;
}

#[tokio::test]
async fn a_peer_that_fails_a_check_with_every_element_does_not_fill_the_log() {
    const FLOOD: usize = 300;
    let log = Log::start(Level::INFO);
    let (mut lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = Speaker::connect_from([127, 0, 5, 1], lab.s2s).await;
    bob.open(&header("vngtp.lab", "coluc.com", "")).await;
    bob.starttls().await;
    bob.start_tls_as_client("coluc.com").await;
    bob.open(&header("vngtp.lab", "coluc.com", "")).await;
    for _ in 0..FLOOD {
        bob.say("<db:result from='vngtp.lab' to='other.example'>key</db:result>")
            .await;
        bob.hear("</db:result>").await;
        bob.say("<db:verify from='vngtp.lab' to='coluc.com' id='x'>key</db:verify>")
            .await;
        bob.hear("type='invalid'/>").await;
    }
    // All is counted.
    lab.counts("peers_refused_total{check=\"hosted\"}", FLOOD as u64);
    let attempts = lab.edge.registry.failures(None).remove(0).attempts;
    assert_eq!(attempts[0].count as usize, FLOOD);
    drop(bob);
    lab.begin_stop();
    link.ends().await;
    lab.stopped().await;
    drop(peer);
    let text = log.text();
    let lines = |what: &str| {
        let about = |line: &&str| line.contains(what) && line.contains("127.0.5.1");
        text.lines().filter(about).count()
    };
    assert_eq!(lines("peer refused"), 20);
    assert_eq!(lines("db:verify received and answered"), 60);
    assert_eq!(lines("the rest was not written"), 2);
    for unwritten in [FLOOD - 20, FLOOD - 60] {
        assert_eq!(lines(&format!("lines={unwritten}")), 1);
    }
}
