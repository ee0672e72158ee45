//! What TLS must withstand.

use rstest::rstest;
use rustls::SupportedProtocolVersion;
use tokio::net::TcpStream;
use xmpp_federation_core::edge_config::{TlsMode, TlsVersion};

use crate::support::pki::{client, client_of, partners, pki, server};
use crate::support::{DIALBACK, KEY, PROCEED, Peer, STARTTLS, Speaker, features, header, route_host};

use super::world::{HEADER_END, Host, Inbound, MESSAGE, World};

#[tokio::test]
async fn a_domain_that_used_tls_is_not_spoken_to_in_clear_where_tls_is_optional() {
    let mut world = World::new(|config| config.tls.mode = TlsMode::Optional).await;
    let mut bob = Inbound::external(world.lab.s2s, partners()).await;
    bob.passes(&mut world.link, "1").await;

    // Inbound: the attacker strips <starttls/>, or leaves `from` out.
    let mut stripped = Inbound::from_peer(world.lab.s2s).await;
    assert!(stripped.features.contains("<required/>"));
    assert_eq!(stripped.refused(KEY).await, "policy-violation");
    world
        .refused_by(stripped.address, "tls-downgrade", "used TLS within the last day")
        .await;
    let bare = header("vngtp.lab", "coluc.com", "").replace(" from='vngtp.lab'", "");
    let mut nameless = Inbound::open(world.lab.s2s, &bare).await;
    assert!(!nameless.features.contains("<required/>"));
    assert_eq!(nameless.refused(KEY).await, "policy-violation");
    world.refused_by(nameless.address, "tls-downgrade", "").await;
    let verify = "<db:verify from='vngtp.lab' to='coluc.com' id='1'>k</db:verify>";
    assert_eq!(nameless.refused(verify).await, "policy-violation");
    let old = header("vngtp.lab", "coluc.com", "").replace(" version='1.0'>", ">");
    let tcp = TcpStream::connect(world.lab.s2s).await.unwrap();
    let mut old_peer = Speaker::new(tcp);
    old_peer.say(&old).await;
    let end = old_peer.hear("</stream:stream>").await;
    assert!(end.contains("<policy-violation "), "{end}");

    // Outbound: the same.
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Disabled, partners());
    assert_eq!(host.is_written_to(&world.peer).await, None);
    world.refused_by(world.peer_address(), "tls-downgrade", "").await;
    assert!(world.link.hear().await.contains("<remote-server-not-found "));
}

#[rstest]
#[case::no_handshake(false)]
#[case::refused_right_behind_it(true)]
#[tokio::test]
async fn after_a_failed_handshake_nothing_is_said_in_clear_to_another_address_either(#[case] completed: bool) {
    let second = Peer::new("vngtp.lab").await;
    let address = second.listener.local_addr().unwrap();
    let mut world = World::new(|config| {
        config.tls.mode = TlsMode::Optional;
        config.partners[0].route.push(route_host(address));
    })
    .await;
    world.link.say(MESSAGE);
    // Static addresses have no order: whoever is called first offers TLS and breaks it.
    let (first, other) = tokio::select! {
        edge = world.peer.accept_tcp() => (edge, &second),
        edge = second.accept_tcp() => (edge, &world.peer),
    };
    let mut first = first;
    first.hear(HEADER_END).await;
    first.say(&header("vngtp.lab", "coluc.com", "id")).await;
    first.say(&features(&format!("{STARTTLS}{DIALBACK}"))).await;
    first.hear(STARTTLS).await;
    first.say(PROCEED).await;
    if completed {
        // As a server does that does not like our certificate.
        first.tls_server(server(partners())).await.unwrap();
        drop(first);
    } else {
        first.say("this is no TLS record").await;
    }
    let host = Host::new(TlsMode::Disabled, partners());
    assert_eq!(host.is_written_to(other).await, None);
    world
        .refused_by(
            other.listener.local_addr().unwrap(),
            "tls-handshake",
            "the edge sends nothing to it in clear",
        )
        .await;
    assert!(world.link.hear().await.contains("type='error'"));
}

#[tokio::test]
async fn starttls_refused_after_it_was_offered_is_a_failed_handshake() {
    let mut world = World::new(|config| config.tls.mode = TlsMode::Optional).await;
    world.link.say(MESSAGE);
    let mut edge = world.peer.accept_starttls().await;
    edge.say("<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
    let end = edge.hear_end().await;
    assert!(!end.contains("db:result"), "{end}");
    assert!(world.link.hear().await.contains("type='error'"));
    world
        .refused_by(world.peer_address(), "tls-handshake", "then refused it")
        .await;
}

#[tokio::test]
async fn a_handshake_that_stalls_is_ended_and_others_go_on() {
    let mut world = World::new(|config| {
        config.limits.negotiation_timeout = "1s".parse().unwrap();
    })
    .await;
    let mut bob = Inbound::external(world.lab.s2s, partners()).await;
    let mut stalled = Inbound::from_peer(world.lab.s2s).await;
    stalled.speaker.say(STARTTLS).await;
    stalled.speaker.hear(PROCEED).await;
    bob.passes(&mut world.link, "1").await;
    stalled.speaker.hear_end().await;
    bob.passes(&mut world.link, "2").await;

    // Outbound: the edge gives the connection up.
    world.link.say(MESSAGE);
    let mut edge = world.peer.accept_starttls().await;
    edge.say(PROCEED).await;
    edge.hear_end().await;
    world
        .refused_by(world.peer_address(), "tls-handshake", "took too long")
        .await;
}

#[tokio::test]
async fn the_victims_certificate_without_its_key_fails_the_handshake() {
    let world = World::new(|_| {}).await;
    let thief = partners().clone().with_key_of(&pki().issue(&["evil.example"], |_| {}));
    let mut eve = Inbound::from_peer(world.lab.s2s).await;
    if eve.start_tls(client(Some(&thief))).await.is_ok() {
        // With TLS 1.3 the client's side is done before the server has judged it.
        eve.speaker.hear_end().await;
    }
    world.refused_by(eve.address, "tls-handshake", "BadSignature").await;
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, &thief);
    assert_eq!(host.is_written_to(&world.peer).await, None);
    world
        .refused_by(world.peer_address(), "tls-handshake", "BadSignature")
        .await;
}

#[tokio::test]
async fn a_chain_of_100_kb_is_refused_and_harms_nobody() {
    let mut world = World::new(|_| {}).await;
    let mut long = partners().clone();
    while long.chain.iter().map(|c| c.len()).sum::<usize>() < 100_000 {
        let more = long.chain.clone();
        long.chain.extend(more);
    }
    let mut eve = Inbound::from_peer(world.lab.s2s).await;
    if eve.start_tls(client(Some(&long))).await.is_ok() {
        eve.speaker.hear_end().await;
    }
    world.refused_by(eve.address, "tls-handshake", "").await;
    let mut bob = Inbound::external(world.lab.s2s, partners()).await;
    bob.passes(&mut world.link, "1").await;
}

#[rstest]
#[case::tls_1_2(&rustls::version::TLS12)]
#[case::tls_1_3(&rustls::version::TLS13)]
#[tokio::test]
async fn both_versions_of_tls_are_spoken_in_both_directions(#[case] version: &'static SupportedProtocolVersion) {
    let mut world = World::new(|_| {}).await;
    let mut bob = Inbound::from_peer(world.lab.s2s).await;
    bob.secure(client_of(Some(partners()), &[version])).await;
    assert!(bob.auth("=").await.contains("<success"));
    bob.header(&header("vngtp.lab", "coluc.com", "")).await;
    bob.passes(&mut world.link, "1").await;
    world.link.say(MESSAGE);
    let versions = [version];
    let host = Host {
        versions: &versions,
        ..Host::new(TlsMode::Required, partners())
    };
    assert_eq!(host.is_written_to(&world.peer).await, Some(true));
    let streams = world.lab.edge.registry.streams(None);
    let said = if *version == rustls::version::TLS12 {
        "TLSv1_2"
    } else {
        "TLSv1_3"
    };
    for stream in streams {
        let tls = stream.detail.tls.unwrap();
        assert_eq!(tls.version, said);
    }
}

#[tokio::test]
async fn tls_1_2_is_refused_where_1_3_is_the_lowest() {
    let world = World::new(|config| config.tls.min_version = TlsVersion::VersionTLS13).await;
    let mut bob = Inbound::from_peer(world.lab.s2s).await;
    let old = client_of(Some(partners()), &[&rustls::version::TLS12]);
    assert!(bob.start_tls(old).await.is_err());
    world.refused_by(bob.address, "tls-handshake", "").await;
    world.link.say(MESSAGE);
    let host = Host {
        versions: &[&rustls::version::TLS12],
        ..Host::new(TlsMode::Required, partners())
    };
    assert_eq!(host.is_written_to(&world.peer).await, None);
    world.refused_by(world.peer_address(), "tls-handshake", "").await;
}
