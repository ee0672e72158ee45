//! TLS from the first byte (XEP-0368), in both directions.

use std::sync::Arc;
use std::time::Duration;

use rstest::rstest;
use xmpp_federation_core::edge_config::{EdgeConfig, PrivacyMode, TlsMode};
use xmpp_federation_edge::resolve::{AttemptBounds, Resolver};
use xmpp_federation_edge::tls::TlsSettings;

use crate::support::dns::Dns;
use crate::support::pki::{Pki, files};
use crate::support::{
    self, DIALBACK, Lab, PLAIN_DIALBACK, Peer, Router, RouterLink, Speaker, attribute, config, features, give_terms,
    header, live, result, terms, to_alice, to_bob, verified,
};

/// Records of `_xmpps-server` and `_xmpp-server`, priority and port; every host is at 127.0.0.1.
fn dns(direct: &[(u16, u16)], plain: &[(u16, u16)]) -> Arc<Dns> {
    let target = |port: u16| if port == 0 { "." } else { "x.partner.example." };
    let dns = Dns::default().others(&["127.0.0.1"]);
    let dns = direct
        .iter()
        .fold(dns, |dns, (n, port)| dns.direct(*n, *port, target(*port)));
    Arc::new(
        plain
            .iter()
            .fold(dns, |dns, (n, port)| dns.plain(*n, *port, target(*port))),
    )
}

/// An edge that finds everybody through this zone.
async fn start(dns: Arc<Dns>, change: impl FnOnce(&mut EdgeConfig)) -> (Lab, RouterLink) {
    start_with(dns, change, |resolver| resolver).await
}

async fn start_with(
    dns: Arc<Dns>,
    change: impl FnOnce(&mut EdgeConfig),
    resolving: impl FnOnce(Resolver) -> Resolver,
) -> (Lab, RouterLink) {
    let router = Router::new().await;
    let mut config = config(&[], &[&router]);
    config.privacy.mode = PrivacyMode::AllowAll;
    config.dns.allow_private_targets = vec!["127.0.0.0/8".parse().unwrap()];
    change(&mut config);
    let mut live = live(config);
    let resolver = Resolver::with_lookup(&live.config, dns, Arc::default());
    live.resolver = Arc::new(resolving(resolver));
    let lab = Lab::start(live);
    let link = router.accept().await;
    (lab, link)
}

fn client_with(protocols: &[&str]) -> rustls::ClientConfig {
    let mut config = (*support::client_tls()).clone();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    config
}

fn server_with(protocols: &[&str]) -> rustls::ServerConfig {
    let mut config = (*support::server_tls()).clone();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    config
}

fn port(peer: &Peer) -> u16 {
    peer.listener.local_addr().unwrap().port()
}

const MESSAGE: &str = "<message from='alice@coluc.com/pc' to='bob@partner.example' id='m1'><body>x</body></message>";

/// Takes a connection of the edge with TLS from the first byte up to features.
async fn accept_direct(peer: &Peer, id: &str) -> Speaker {
    let mut stream = peer.accept_tcp().await;
    let (name, protocol) = stream.tls_as_server(server_with(&["xmpp-server"])).await;
    assert_eq!(name.as_deref(), Some(peer.domain), "SNI is the domain");
    assert_eq!(protocol.as_deref(), Some(&b"xmpp-server"[..]));
    let first = stream.hear("version='1.0'>").await;
    assert_eq!(attribute(&first, "stream:stream", "to"), peer.domain);
    let local = attribute(&first, "stream:stream", "from");
    stream.say(&header(peer.domain, &local, id)).await;
    stream.say(&features(DIALBACK)).await;
    stream
}

async fn believe(stream: &mut Speaker, peer: &Peer) {
    let result = stream.hear("</db:result>").await;
    assert!(!result.contains("<starttls"), "{result}");
    let to = attribute(&result, "db:result", "from");
    stream
        .say(&format!("<db:result from='{}' to='{to}' type='valid'/>", peer.domain))
        .await;
}

#[rstest]
#[case::none(&[], Ok(None))]
#[case::ours(&["xmpp-server"], Ok(Some("xmpp-server")))]
#[case::ours_among_others(&["h2", "xmpp-server"], Ok(Some("xmpp-server")))]
#[case::clients(&["xmpp-client"], Err(()))]
#[case::others(&["h2", "http/1.1"], Err(()))]
#[tokio::test]
async fn alpn_names_our_protocol_or_nothing(#[case] offered: &[&str], #[case] expected: Result<Option<&str>, ()>) {
    let (lab, _peer, _router, _link) = Lab::with_link().await;
    let mut peer = Speaker::connect(lab.direct_tls).await;
    let agreed = peer.try_tls_as_client("coluc.com", client_with(offered)).await;
    match (agreed, expected) {
        (Ok(agreed), Ok(expected)) => {
            assert_eq!(agreed.as_deref(), expected.map(str::as_bytes));
            let features = peer.open(&header("vngtp.lab", "coluc.com", "")).await;
            assert!(features.contains("<dialback "), "{features}");
            assert!(!features.contains("starttls"), "{features}");
        }
        (Err(error), Err(())) => {
            assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
            let failures = "xmpp_edge_tls_failures_total{direction=\"inbound\"}";
            lab.until("the failure is counted", |lab| lab.metric(failures) == 1)
                .await;
        }
        (agreed, expected) => panic!("{agreed:?} instead of {expected:?}"),
    }
}

#[rstest]
#[case::ours(&["xmpp-server"])]
#[case::others(&["h2"])]
#[tokio::test]
async fn alpn_plays_no_part_in_starttls(#[case] offered: &[&str]) {
    let (lab, _peer, _router, _link) = Lab::with_link().await;
    let mut peer = Speaker::connect(lab.s2s).await;
    peer.open(&header("vngtp.lab", "coluc.com", "")).await;
    peer.starttls().await;
    let agreed = peer.try_tls_as_client("coluc.com", client_with(offered)).await;
    assert_eq!(agreed.unwrap(), None);
}

#[tokio::test]
async fn a_pair_is_authenticated_and_delivered_over_it() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let (mut bob, id) = peer.open_direct(lab.direct_tls, "coluc.com").await;
    peer.authenticate(&mut bob, &id, "coluc.com").await;
    bob.say(&to_alice("d1")).await;
    assert!(link.hear().await.contains("id='d1'"));
    let streams = lab.edge.registry.streams(None);
    let inbound = streams.iter().find(|s| s.direction == "inbound").unwrap();
    assert!(
        inbound.detail.tls.as_ref().unwrap().version.starts_with("TLS"),
        "{inbound:?}"
    );
    assert_eq!(inbound.detail.pairs.len(), 1);
}

#[rstest]
#[case::starttls("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", "unsupported-stanza-type")]
#[case::stanza("<message from='bob@vngtp.lab' to='alice@coluc.com'/>", "not-authorized")]
#[tokio::test]
async fn what_is_out_of_place_ends_the_stream(#[case] said: &str, #[case] expected: &str) {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let (mut bob, _) = peer.open_direct(lab.direct_tls, "coluc.com").await;
    bob.say(said).await;
    let end = bob.hear("</stream:stream>").await;
    assert!(end.contains(&format!("<{expected} ")), "{end}");
}

#[rstest]
#[case::foreign_to("vngtp.lab", "elsewhere.example", "host-unknown")]
#[case::our_own_from("coluc.com", "coluc.com", "invalid-from")]
#[case::not_allowed("stranger.example", "coluc.com", "policy-violation")]
#[tokio::test]
async fn headers_are_judged_as_after_starttls(#[case] from: &str, #[case] to: &str, #[case] expected: &str) {
    let (lab, _peer, _router, _link) = Lab::with_link().await;
    let mut bob = Speaker::connect(lab.direct_tls).await;
    bob.start_tls_as_client("coluc.com").await;
    bob.say(&header(from, to, "")).await;
    let end = bob.hear("</stream:stream>").await;
    assert!(end.contains(&format!("<{expected} ")), "{end}");
}

#[tokio::test]
async fn a_stream_without_version_goes_straight_to_dialback() {
    let (lab, _peer, _router, _link) = Lab::with_link().await;
    let mut bob = Speaker::connect(lab.direct_tls).await;
    bob.start_tls_as_client("coluc.com").await;
    let old = header("vngtp.lab", "coluc.com", "").replace(" version='1.0'>", ">");
    bob.say(&old).await;
    bob.say(&result("vngtp.lab", "other.example", "k")).await;
    let answer = bob.hear("</db:result>").await;
    assert!(!answer.contains("features"), "{answer}");
    assert!(answer.contains("<item-not-found "), "{answer}");
}

#[tokio::test]
async fn clear_text_on_its_port_gets_no_stream() {
    let (lab, _peer, _router, _link) = Lab::with_link().await;
    let mut bob = Speaker::connect(lab.direct_tls).await;
    bob.say(&header("vngtp.lab", "coluc.com", "")).await;
    let end = bob.hear_end().await;
    assert!(!end.contains("stream"), "{end}");
    lab.counts("tls_failures_total{direction=\"inbound\"}", 1);
}

#[tokio::test]
async fn its_port_serves_nobody_once_tls_is_disabled() {
    let (lab, _peer, _router, _link) = Lab::with_link().await;
    let mut config = lab.edge.live().config.clone();
    config.tls.mode = TlsMode::Disabled;
    let mut after = live(config);
    after.tls = TlsSettings::new(None, None);
    lab.live.send(Arc::new(after)).unwrap();
    let mut bob = Speaker::connect(lab.direct_tls).await;
    let refused = bob.try_tls_as_client("coluc.com", client_with(&[])).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_domain_that_offers_nothing_else_is_reached_and_asked() {
    let peer = Peer::new("partner.example").await;
    let dns = dns(&[(0, port(&peer))], &[(0, 0)]);
    let (lab, mut link) = start(dns, |_| {}).await;
    // Initiating role.
    link.say(MESSAGE);
    let mut stream = accept_direct(&peer, "out").await;
    believe(&mut stream, &peer).await;
    stream.hear("id='m1'").await;
    // Receiving role: the authoritative server is asked the same way.
    let (mut bob, id) = peer.open_direct(lab.direct_tls, "coluc.com").await;
    bob.say("<db:result from='partner.example' to='coluc.com'>key</db:result>")
        .await;
    let mut asked = accept_direct(&peer, "verify").await;
    asked.hear("</db:verify>").await;
    asked.say(&verified("partner.example", "coluc.com", &id, "valid")).await;
    bob.hear("type='valid'/>").await;
    bob.say("<message from='bob@partner.example' to='alice@coluc.com' id='in'/>")
        .await;
    assert!(link.hear().await.contains("id='in'"));
}

#[tokio::test]
async fn a_peer_that_ignores_alpn_is_taken() {
    let peer = Peer::new("partner.example").await;
    let dns = dns(&[(0, port(&peer))], &[]);
    let (_lab, link) = start(dns, |_| {}).await;
    link.say(MESSAGE);
    let mut stream = peer.accept_tcp().await;
    let (_, protocol) = stream.tls_as_server(server_with(&[])).await;
    assert_eq!(protocol, None);
    stream.hear("version='1.0'>").await;
    stream.say(&header("partner.example", "coluc.com", "id")).await;
    stream.say(&features(PLAIN_DIALBACK)).await;
    believe(&mut stream, &peer).await;
    stream.hear("id='m1'").await;
}

#[tokio::test]
async fn a_target_that_stalls_leaves_time_for_the_next_one() {
    let (stalling, good) = (Peer::new("partner.example").await, Peer::new("partner.example").await);
    let dns = dns(&[(1, port(&stalling))], &[(2, port(&good))]);
    let (_lab, link) = start_with(
        dns,
        |_| {},
        |resolver| {
            resolver.with_bounds(AttemptBounds {
                each: Duration::from_millis(500),
                ..AttemptBounds::default()
            })
        },
    )
    .await;
    link.say(MESSAGE);
    let mut stalled = stalling.accept_tcp().await;
    let mut stream = good.accept_authenticated("coluc.com").await;
    stream.hear("id='m1'").await;
    stalled.hear_end().await;
}

#[rstest]
#[case::closes(b"")]
#[case::speaks_in_clear(b"<?xml version='1.0'?><stream:stream>")]
#[case::alert(b"\x15\x03\x03\0\x02\x02\x28")]
#[tokio::test]
async fn when_tls_fails_the_next_target_is_tried(#[case] answer: &[u8]) {
    let (bad, good) = (Peer::new("partner.example").await, Peer::new("partner.example").await);
    let dns = dns(&[(1, port(&bad))], &[(2, port(&good))]);
    let (_lab, link) = start(dns, |_| {}).await;
    link.say(MESSAGE);
    let mut broken = bad.accept_tcp().await;
    broken.try_say(answer).await.unwrap();
    drop(broken);
    let mut stream = good.accept_authenticated("coluc.com").await;
    stream.hear("id='m1'").await;
}

#[tokio::test]
async fn the_better_priority_wins_whichever_service_it_is() {
    let (plain, direct) = (Peer::new("partner.example").await, Peer::new("partner.example").await);
    for (first, second) in [(1, 2), (2, 1)] {
        let dns = dns(&[(second, port(&direct))], &[(first, port(&plain))]);
        let (_lab, link) = start(dns, |_| {}).await;
        link.say(MESSAGE);
        if first == 1 {
            let mut stream = plain.accept_authenticated("coluc.com").await;
            stream.hear("id='m1'").await;
        } else {
            let mut stream = accept_direct(&direct, "id").await;
            believe(&mut stream, &direct).await;
            stream.hear("id='m1'").await;
        }
    }
}

#[tokio::test]
async fn a_peer_with_which_tls_is_disabled_is_refused() {
    let peer = Peer::new("vngtp.lab").await;
    let router = Router::new().await;
    let mut config = config(&[&peer], &[&router]);
    give_terms(&mut config, terms("vngtp.lab", "tls: {mode: Disabled}"));
    let lab = Lab::start(live(config));
    let mut bob = Speaker::connect(lab.direct_tls).await;
    bob.start_tls_as_client("coluc.com").await;
    bob.say(&header("vngtp.lab", "coluc.com", "")).await;
    let end = bob.hear("</stream:stream>").await;
    assert!(end.contains("<policy-violation "), "{end}");
}

/// Two edges that require certificates: both roles of SASL EXTERNAL over direct TLS.
#[tokio::test]
async fn two_edges_federate_by_external_over_it() {
    let pki = Pki::new();
    let b = pki.issue(&["vngtp.lab"], |_| {});
    let b = b.pem();
    let (router_a, router_b) = (Router::new().await, Router::new().await);
    let setup = |router: &Router| {
        let mut config = config(&[], &[router]);
        config.privacy.mode = PrivacyMode::AllowAll;
        config.dns.allow_private_targets = vec!["127.0.0.0/8".parse().unwrap()];
        config.tls.require_client_certificates = true;
        config
    };
    let (here, mut there) = (setup(&router_a), setup(&router_b));
    there.domains = vec!["vngtp.lab".parse().unwrap()];
    there.tls.certificates = vec![files("/b")];
    // Each needs the other's port: B is told A's afterwards, by a reload.
    let live_b = || pki.live_with(there.clone(), &[("/b", &b)]);
    let lab_b = Lab::start(dns(&[], &[]).resolves(live_b()));
    let to_b = dns(&[(0, lab_b.direct_tls.port())], &[]);
    let lab_a = Lab::start(to_b.resolves(pki.live(here)));
    let to_a = dns(&[(0, lab_a.direct_tls.port())], &[]);
    lab_b.live.send(Arc::new(to_a.resolves(live_b()))).unwrap();
    let (mut link_a, mut link_b) = (router_a.accept().await, router_b.accept().await);
    link_a.say(&to_bob("m1"));
    assert!(link_b.hear().await.contains("id='m1'"));
    link_b.say(&to_alice("m2"));
    assert!(link_a.hear().await.contains("id='m2'"));
    for lab in [&lab_a, &lab_b] {
        let streams = lab.edge.registry.streams(None);
        assert_eq!(streams.len(), 2, "no stream for dialback: {streams:?}");
        for stream in streams {
            assert_eq!(stream.detail.pairs[0].mechanism, "external");
        }
    }
}

#[tokio::test]
async fn a_stop_drains_both_listeners() {
    let peer = Peer::new("vngtp.lab").await;
    let router = Router::new().await;
    let mut config = config(&[&peer], &[&router]);
    config.drain_delay = "1s".parse().unwrap();
    let mut lab = Lab::start(live(config));
    let mut link = router.accept().await;
    let (mut bob, id) = peer.open_direct(lab.direct_tls, "coluc.com").await;
    peer.authenticate(&mut bob, &id, "coluc.com").await;
    let (mut plain, _) = peer.open(lab.s2s, "conf.coluc.com").await;
    lab.begin_stop();
    lab.until("no longer ready", |lab| lab.edge.draining()).await;
    // Partners that have not noticed yet are served on both, also when they come only now.
    let (mut late, _) = peer.open_direct(lab.direct_tls, "coluc.com").await;
    let (mut late_plain, _) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(&to_alice("last")).await;
    assert!(link.hear().await.contains("id='last'"));
    for stream in [&mut bob, &mut plain, &mut late, &mut late_plain] {
        let end = stream.hear("</stream:stream>").await;
        assert!(end.contains("<system-shutdown "), "{end}");
        stream.say("</stream:stream>").await;
    }
    link.ends().await;
    let (s2s, direct) = (lab.s2s, lab.direct_tls);
    tokio::time::timeout(Duration::from_secs(10), lab.stopped())
        .await
        .unwrap();
    for address in [s2s, direct] {
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
    }
}
