//! Load balancers in front of the edge: the PROXY protocol, and checks whether somebody listens.

use std::net::SocketAddr;
use std::time::Duration;

use rstest::rstest;
use xmpp_federation_core::edge_config::EdgeConfig;

use crate::support::{self, Lab, Peer, RouterLink, Speaker, header, to_alice};

const REFUSED: &str = "xmpp_edge_connections_refused_total{reason=\"proxy-header\"}";

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 5269\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x01\x9c\x40\x14\x95";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const V2_IPV6: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x27\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\
    \x9c\x40\x14\x95\x04\0\0";

/// An edge that trusts this network.
async fn start(trusted: &str, change: impl FnOnce(&mut EdgeConfig)) -> (Lab, Peer, RouterLink) {
    let (lab, peer, link) = Lab::configured(|config| {
        config.proxy_protocol.trusted_sources = vec![trusted.parse().unwrap()];
        change(config);
    })
    .await;
    (lab, peer, link)
}

fn headers(lab: &Lab, outcome: &str) -> u64 {
    lab.metric(&format!("xmpp_edge_proxy_headers_total{{outcome=\"{outcome}\"}}"))
}

fn inbound_peers(lab: &Lab) -> Vec<SocketAddr> {
    let streams = lab.edge.registry.streams(None).into_iter();
    let inbound = streams.filter(|stream| stream.direction == "inbound");
    inbound.map(|stream| stream.peer).collect()
}

#[rstest]
#[case::version_1(V1, "192.0.2.1:40000", "v1")]
#[case::version_2(V2, "192.0.2.1:40000", "v2")]
#[case::version_2_with_ipv6_and_a_field(V2_IPV6, "[2001:db8::1]:40000", "v2")]
#[tokio::test]
async fn the_clients_address_counts_on_both_listeners(
    #[case] first: &[u8],
    #[case] client: &str,
    #[case] outcome: &str,
    #[values(false, true)] direct: bool,
    #[values(false, true)] in_pieces: bool,
) {
    let (lab, peer, mut link) = start("127.0.0.0/8", |_| {}).await;
    let address = if direct { lab.direct_tls } else { lab.s2s };
    let mut bob = Speaker::connect(address).await;
    if in_pieces {
        for byte in first {
            bob.try_say(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    } else {
        bob.try_say(first).await.unwrap();
    }
    let id;
    if direct {
        bob.start_tls_as_client("coluc.com").await;
        let text = bob.open(&header("vngtp.lab", "coluc.com", "")).await;
        id = support::attribute(&text, "stream:stream", "id");
    } else {
        (bob, id) = peer.open_on(bob, "coluc.com").await;
    }
    peer.authenticate(&mut bob, &id, "coluc.com").await;
    bob.say(&to_alice("1")).await;
    assert!(link.hear().await.contains("id='1'"));
    assert_eq!(inbound_peers(&lab), [client.parse().unwrap()]);
    assert_eq!(headers(&lab, outcome), 1);
    lab.counts(REFUSED, 0);
}

#[tokio::test]
async fn what_follows_the_header_in_one_piece_is_the_stream() {
    let (lab, _peer, _link) = start("127.0.0.0/8", |_| {}).await;
    for first in [V1, V2, V2_LOCAL] {
        let mut bob = Speaker::connect(lab.s2s).await;
        let hello = header("vngtp.lab", "coluc.com", "");
        let both = [first, hello.as_bytes()].concat();
        bob.try_say(&both).await.unwrap();
        bob.hear("</stream:features>").await;
    }
}

#[rstest]
#[case::none(b"<?xml version='1.0'?><stream:stream xmlns='jabber:server'>")]
#[case::tls(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03")]
#[case::garbage(b"PROXY TCP4 nonsense\r\n")]
#[case::endless(&[b'P'; 200])]
#[case::too_long(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff")]
#[case::other_command(b"\r\n\r\n\0\r\nQUIT\n\x2f\x11\0\x0c")]
#[tokio::test]
async fn a_trusted_source_without_a_good_header_is_closed_without_a_word(
    #[case] first: &[u8],
    #[values(false, true)] direct: bool,
) {
    let (lab, _peer, _link) = start("127.0.0.0/8", |_| {}).await;
    let address = if direct { lab.direct_tls } else { lab.s2s };
    let mut balancer = Speaker::connect(address).await;
    balancer.try_say(first).await.unwrap();
    assert_eq!(balancer.hear_end().await, "");
    lab.counts(REFUSED, 1);
    assert_eq!(headers(&lab, "malformed"), 1);
    assert_eq!(inbound_peers(&lab), []);
}

#[rstest]
#[case::nothing(b"")]
#[case::version_1_unfinished(b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 5269\r")]
#[case::version_2_unfinished(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02")]
#[tokio::test]
async fn a_header_that_does_not_come_ends_with_the_negotiation_time(
    #[case] first: &[u8],
    #[values(false, true)] direct: bool,
) {
    let (lab, _peer, _link) = start("127.0.0.0/8", |config| {
        config.limits.negotiation_timeout = "300ms".parse().unwrap();
    })
    .await;
    let address = if direct { lab.direct_tls } else { lab.s2s };
    let mut balancer = Speaker::connect(address).await;
    balancer.try_say(first).await.unwrap();
    assert_eq!(balancer.hear_end().await, "");
    lab.counts(REFUSED, 1);
    assert_eq!(headers(&lab, "timeout"), 1);
}

#[tokio::test]
async fn header_and_negotiation_share_one_time_limit() {
    let (lab, _peer, _link) = start("127.0.0.0/8", |config| {
        config.limits.negotiation_timeout = "2s".parse().unwrap();
    })
    .await;
    let began = tokio::time::Instant::now();
    let mut slow = Speaker::connect(lab.s2s).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    slow.try_say(V1).await.unwrap();
    slow.hear("<connection-timeout ").await;
    let took = began.elapsed().as_millis();
    assert!((2000..3500).contains(&took), "{took} ms");
}

#[rstest]
#[case::version_1(V1)]
#[case::version_2(V2)]
#[tokio::test]
async fn an_untrusted_source_cannot_say_who_it_is(#[case] first: &[u8]) {
    let (lab, peer, _link) = start("127.0.0.2/32", |_| {}).await;
    let mut liar = Speaker::connect(lab.s2s).await;
    liar.try_say(first).await.unwrap();
    let end = liar.hear_end().await;
    assert!(end.contains("<stream:error>"), "{end}");
    let mut liar = Speaker::connect(lab.direct_tls).await;
    liar.try_say(first).await.unwrap();
    let end = liar.hear_end().await;
    assert!(!end.contains("<stream"), "{end}");
    // It was never read as a header.
    lab.counts(REFUSED, 0);
    // Who says nothing of the kind is served under its own address.
    let (_bob, _) = peer.open(lab.s2s, "coluc.com").await;
    let peers = inbound_peers(&lab);
    assert!(
        peers.iter().any(|peer| peer.ip().to_string() == "127.0.0.1"),
        "{peers:?}"
    );
}

#[rstest]
#[case::version_1(b"PROXY UNKNOWN\r\n")]
#[case::version_1_with_addresses(b"PROXY UNKNOWN 192.0.2.1 198.51.100.1 40000 5269\r\n")]
#[case::version_2(V2_LOCAL)]
#[tokio::test]
async fn a_connection_of_the_balancers_own_has_its_address(#[case] first: &[u8]) {
    let (lab, peer, _link) = start("127.0.0.0/8", |_| {}).await;
    let mut own = Speaker::connect_from([127, 0, 0, 7], lab.s2s).await;
    own.try_say(first).await.unwrap();
    let (_own, _) = peer.open_on(own, "coluc.com").await;
    let peers = inbound_peers(&lab);
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].ip().to_string(), "127.0.0.7");
    assert_eq!(headers(&lab, "local"), 1);
}

#[rstest]
#[case::without_a_byte(&[])]
#[case::version_1(b"PROXY UNKNOWN\r\n")]
#[case::version_2(V2_LOCAL)]
#[case::version_1_relayed(V1)]
#[tokio::test]
async fn checks_by_a_balancer_are_no_failures(#[case] first: &[u8], #[values(false, true)] direct: bool) {
    let (lab, _peer, _link) = start("127.0.0.0/8", |_| {}).await;
    let address = if direct { lab.direct_tls } else { lab.s2s };
    for _ in 0..3 {
        let mut check = Speaker::connect(address).await;
        check.try_say(first).await.unwrap();
        check.finish_writing().await;
        assert_eq!(check.hear_end().await, "");
    }
    assert_no_failures(&lab);
}

#[rstest]
#[tokio::test]
async fn checks_from_anywhere_are_no_failures(#[values(false, true)] direct: bool) {
    let (lab, _peer, _link) = start("127.0.0.2/32", |_| {}).await;
    let address = if direct { lab.direct_tls } else { lab.s2s };
    for _ in 0..3 {
        let mut check = Speaker::connect(address).await;
        check.finish_writing().await;
        assert_eq!(check.hear_end().await, "");
    }
    assert_no_failures(&lab);
    lab.until("all are gone", |lab| inbound_peers(lab).is_empty()).await;
}

fn assert_no_failures(lab: &Lab) {
    let text = lab.edge.metrics.render(&lab.edge.registry);
    for counter in ["connections_refused", "tls_failures", "stream_errors"] {
        assert!(!text.contains(&format!("xmpp_edge_{counter}_total{{")), "{text}");
    }
}

#[tokio::test]
async fn the_bound_per_address_is_on_clients_and_not_on_their_balancer() {
    let (lab, _peer, _link) = start("127.0.0.0/8", |config| {
        config.limits.max_connections_per_address = 2;
    })
    .await;
    let client = |n: u8, port: u16| format!("PROXY TCP4 192.0.2.{n} 198.51.100.1 {port} 5269\r\n");
    let mut open = Vec::new();
    for n in 1..=5 {
        for port in [1, 2] {
            let mut stream = Speaker::connect(lab.s2s).await;
            stream.say(&client(n, port)).await;
            stream.open(&header("vngtp.lab", "coluc.com", "")).await;
            open.push(stream);
        }
    }
    let mut third = Speaker::connect(lab.s2s).await;
    third.say(&client(3, 3)).await;
    // The oldest of the same client gives way.
    assert_eq!(open[4].hear_end().await, "");
    let gave_way = "xmpp_edge_unproven_connections_ended_total{reason=\"per-address\"}";
    lab.counts(gave_way, 1);
    assert!(open[5].is_silent(Duration::from_millis(50)).await);
}

#[tokio::test]
async fn the_bound_on_all_connections_includes_those_that_wait_for_a_header() {
    let (lab, _peer, _link) = start("127.0.0.0/8", |config| {
        config.limits.max_connections = Some(3);
    })
    .await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut silent = Speaker::connect(lab.s2s).await;
        silent.say("PROXY ").await;
        waiting.push(silent);
    }
    let _fourth = Speaker::connect(lab.direct_tls).await;
    assert_eq!(waiting[0].hear_end().await, "");
    lab.counts("unproven_connections_ended_total{reason=\"total\"}", 1);
    assert!(waiting[1].is_silent(Duration::from_millis(50)).await);
}
