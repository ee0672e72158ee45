//! Which certificate proves what.

use rcgen::DnType;
use rstest::rstest;
use tokio::net::TcpStream;
use xmpp_federation_core::edge_config::TlsMode;

use crate::support::pki::{Identity, partners, pki, server};
use crate::support::{KEY, PROCEED, Speaker, attribute, give_terms, header, pin, terms, to_alice, verified};

use super::world::{HEADER_END, Host, Inbound, MESSAGE, World, identity, required};

#[rstest]
#[case::common_name_only(&[], "it names no domain")]
#[case::the_target_of_srv_only(&["xmpp.vngtp.lab"], "do not cover vngtp.lab; it names xmpp.vngtp.lab")]
#[tokio::test]
async fn a_required_certificate_names_the_domain_itself(#[case] names: &[&str], #[case] says: &str) {
    let world = World::new(required).await;
    let shown = pki().issue(names, |params| {
        params.distinguished_name.push(DnType::CommonName, "vngtp.lab");
    });
    let mut bob = Inbound::secured(world.lab.s2s, Some(&shown)).await;
    assert!(!bob.offers_external());
    assert_eq!(bob.refused(KEY).await, "not-authorized");
    world.refused_by(bob.address, "certificate", says).await;
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, &shown);
    assert_eq!(host.is_written_to(&world.peer).await, None);
    world.refused_by(world.peer_address(), "certificate", says).await;
}

#[tokio::test]
async fn a_required_certificate_is_required_of_every_domain_of_a_stream() {
    let mut world = World::new(required).await;
    let mut bob = Inbound::external(world.lab.s2s, partners()).await;
    let other = "<db:result from='other.example' to='coluc.com'>k</db:result>";
    assert_eq!(bob.refused(other).await, "not-authorized");
    world
        .refused_by(bob.address, "certificate", "do not cover other.example")
        .await;
    let verify = "<db:verify from='other.example' to='coluc.com' id='1'>k</db:verify>";
    assert_eq!(bob.refused(verify).await, "not-authorized");
    bob.passes(&mut world.link, "1").await;
}

#[tokio::test]
async fn nothing_is_said_to_a_server_whose_required_certificate_does_not_hold() {
    let mut world = World::new(required).await;
    world.link.say(MESSAGE);
    let shown = identity("expired").unwrap();
    let mut edge = world.peer.accept_starttls().await;
    edge.say(PROCEED).await;
    edge.tls_server(server(&shown)).await.unwrap();
    let all = edge.hear_end().await;
    assert!(all.contains("<policy-violation ") && !all.contains("db:"), "{all}");
    let failing = world.lab.edge.registry.failing_partners();
    assert!(failing.is_empty() || failing[0].reason.contains("expired 2021-01-01"));
    assert!(world.link.hear().await.contains("<remote-server-not-found "));
    let failing = world.lab.edge.registry.failing_partners();
    assert!(failing[0].reason.contains("expired 2021-01-01"), "{failing:?}");
}

#[tokio::test]
async fn only_the_pinned_certificate_is_accepted_in_both_directions() {
    let pinned = Identity::self_signed(&["whatever.example"]);
    let mut world = World::new(|config| {
        give_terms(config, pin(&pinned.sha256().to_uppercase()));
    })
    .await;
    let mut bob = Inbound::external(world.lab.s2s, &pinned).await;
    bob.passes(&mut world.link, "1").await;
    let mut eve = Inbound::secured(world.lab.s2s, Some(partners())).await;
    assert!(!eve.offers_external());
    assert_eq!(eve.refused(KEY).await, "not-authorized");
    world
        .refused_by(eve.address, "pin", "not one that is pinned for vngtp.lab")
        .await;

    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, partners());
    assert_eq!(host.is_written_to(&world.peer).await, None);
    world
        .refused_by(world.peer_address(), "pin", "not one that is pinned")
        .await;
    assert!(world.link.hear().await.contains("type='error'"));
    // The pinned one: after the pause that follows a final failure, or at once when asked for.
    world.lab.edge.retry(Some(&"vngtp.lab".parse().unwrap()));
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, &pinned);
    assert_eq!(host.is_written_to(&world.peer).await, Some(true));
}

#[tokio::test]
async fn each_domain_is_held_to_its_own_mode() {
    let mut world = World::new(|config| {
        config.tls.mode = TlsMode::Optional;
        for domain in ["strict.example", "clear.example", "proven.example"] {
            config.privacy.domains.push(domain.parse().unwrap());
        }
        give_terms(config, terms("strict.example", "tls: {mode: Required}"));
        give_terms(config, terms("clear.example", "tls: {mode: Disabled}"));
        give_terms(config, terms("proven.example", "tls: {requireCertificate: true}"));
    })
    .await;
    let edge = world.lab.s2s;
    for (from, starttls, required) in [
        ("vngtp.lab", true, false),
        ("strict.example", true, true),
        ("clear.example", false, false),
        ("proven.example", true, true),
    ] {
        let opened = Inbound::open(edge, &header(from, "coluc.com", "")).await;
        let features = &opened.features;
        assert_eq!(features.contains("<starttls"), starttls, "{from}: {features}");
        assert_eq!(features.contains("<required/>"), required, "{from}: {features}");
    }
    // Whoever comes up later on a stream in clear is held to it there.
    let mut clear = Inbound::from_peer(edge).await;
    let mut check = async |element: &str, expected: &str| {
        assert_eq!(clear.refused(element).await, expected, "{element}");
    };
    check(
        "<db:result from='strict.example' to='coluc.com'>k</db:result>",
        "policy-violation",
    )
    .await;
    check(
        "<db:result from='proven.example' to='coluc.com'>k</db:result>",
        "policy-violation",
    )
    .await;
    check(
        "<db:verify from='strict.example' to='coluc.com' id='1'>k</db:verify>",
        "policy-violation",
    )
    .await;
    let id = clear.id.clone();
    clear.speaker.say(KEY).await;
    Host::new(TlsMode::Disabled, partners()).verifies(&world.peer).await;
    clear.speaker.hear("type='valid'/>").await;
    assert!(!id.is_empty());
    clear.passes(&mut world.link, "1").await;
}

#[tokio::test]
async fn a_domain_without_tls_that_names_itself_late_is_taken_in_clear() {
    let world = World::new(|config| {
        give_terms(config, terms("vngtp.lab", "tls: {mode: Disabled}"));
    })
    .await;
    let bare = header("vngtp.lab", "coluc.com", "").replace(" from='vngtp.lab'", "");
    let mut bob = Inbound::open(world.lab.s2s, &bare).await;
    assert!(bob.features.contains("<required/>"), "the general mode");
    bob.speaker.say(KEY).await;
    Host::new(TlsMode::Disabled, partners()).verifies(&world.peer).await;
    bob.speaker.hear("type='valid'/>").await;
}

#[rstest]
#[case::optional(TlsMode::Optional)]
#[case::disabled(TlsMode::Disabled)]
#[tokio::test]
async fn a_server_from_before_xmpp_1_0_federates_by_dialback_where_tls_is_not_required(#[case] mode: TlsMode) {
    let mut world = World::new(|config| config.tls.mode = mode).await;
    let tcp = TcpStream::connect(world.lab.s2s).await.unwrap();
    let mut old = Speaker::new(tcp);
    old.say(&header("vngtp.lab", "coluc.com", "").replace(" version='1.0'>", ">"))
        .await;
    let answer = old.hear("<stream:stream").await + &old.hear(">").await;
    assert!(!answer.contains(" version='1.0'>"), "{answer}");
    old.say(KEY).await;
    // It is asked in the same old way.
    let mut asked = world.peer.accept_tcp().await;
    asked.hear(HEADER_END).await;
    asked
        .say(&header("vngtp.lab", "coluc.com", "v").replace(" version='1.0'>", ">"))
        .await;
    let question = asked.hear("</db:verify>").await;
    let id = attribute(&question, "db:verify", "id");
    asked.say(&verified("vngtp.lab", "coluc.com", &id, "valid")).await;
    old.hear("type='valid'/>").await;
    old.say(&to_alice("1")).await;
    assert!(world.link.hear().await.contains("id='1'"));
}
