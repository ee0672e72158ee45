//! Peers that cost time, connections or memory: each is bounded, and nobody else notices.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rstest::rstest;
use xmpp_federation_core::edge_status::LinkState;

use crate::support::{
    Lab, PATIENCE, Peer, Router, STARTTLS, Speaker, config, configured_scene, header, live, scene, to_alice,
};

/// Where a slow peer stops, or goes on too slowly.
#[derive(Debug, Clone, Copy)]
enum Stop {
    /// Nothing is said at all.
    Silent,
    /// The header comes byte by byte.
    InHeader,
    /// Nothing behind our features.
    BehindFeatures,
    /// `<starttls/>` comes byte by byte.
    InStartTls,
    /// Nothing behind `<proceed/>`.
    BehindProceed,
    /// The first bytes of a TLS record, then one after the other.
    InHandshake,
    /// A handshake and nothing behind it.
    BehindHandshake,
    /// A header over TLS and nothing behind it.
    Unauthenticated,
    /// A dialback element byte by byte.
    InDialback,
    /// An authenticated stream with a stanza that comes byte by byte.
    InStanza,
}

const STOPS: [Stop; 10] = [
    Stop::Silent,
    Stop::InHeader,
    Stop::BehindFeatures,
    Stop::InStartTls,
    Stop::BehindProceed,
    Stop::InHandshake,
    Stop::BehindHandshake,
    Stop::Unauthenticated,
    Stop::InDialback,
    Stop::InStanza,
];

/// Goes as far as `stop` says; with the byte that comes again and again from then on, if any does.
async fn begin(s2s: SocketAddr, peer: &Peer, stop: Stop) -> (Speaker, Option<u8>) {
    let opening = header(peer.domain, "coluc.com", "");
    let mut slow = match stop {
        Stop::Unauthenticated | Stop::InDialback => peer.open(s2s, "coluc.com").await.0,
        Stop::InStanza => peer.open_authenticated(s2s, "coluc.com").await,
        _ => Speaker::connect(s2s).await,
    };
    match stop {
        Stop::Silent | Stop::Unauthenticated => return (slow, None),
        Stop::InHeader => {
            slow.say(&opening[..opening.len() - 1]).await;
            return (slow, Some(b' '));
        }
        Stop::InDialback => {
            slow.say("<db:result from='vngtp.lab' to='coluc.com'>").await;
            return (slow, Some(b'k'));
        }
        Stop::InStanza => {
            slow.say("<message from='bob@vngtp.lab' to='alice@coluc.com'><body>")
                .await;
            return (slow, Some(b'x'));
        }
        _ => {}
    }
    slow.open(&opening).await;
    match stop {
        Stop::BehindFeatures => return (slow, None),
        Stop::InStartTls => {
            slow.say(&STARTTLS[..STARTTLS.len() - 2]).await;
            return (slow, Some(b' '));
        }
        _ => {}
    }
    slow.starttls().await;
    match stop {
        Stop::InHandshake => {
            // The head of a record of 500 bytes with a client's hello.
            let head = [22, 3, 1, 1, 244, 1, 0, 1, 240];
            slow.try_say(&head).await.unwrap();
            (slow, Some(0))
        }
        Stop::BehindHandshake => {
            slow.start_tls_as_client("coluc.com").await;
            (slow, None)
        }
        _ => (slow, None),
    }
}

#[tokio::test]
async fn slow_peers_are_closed_after_the_time_of_their_phase() {
    let time = Duration::from_secs(3);
    let (lab, peer, mut link, mut bystander) = configured_scene(|config| {
        config.limits.negotiation_timeout = "3s".parse().unwrap();
        config.limits.idle_timeout = "3s".parse().unwrap();
    })
    .await;
    let mut slow = Vec::new();
    for stop in STOPS {
        let before = Instant::now();
        let (mut speaker, byte) = begin(lab.s2s, &peer, stop).await;
        slow.push(async move {
            let slowly = async {
                while let Some(byte) = byte
                    && speaker.try_say(&[byte]).await.is_ok()
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                speaker.hear_end().await
            };
            let end = tokio::time::timeout(4 * PATIENCE, slowly).await;
            (stop, before.elapsed(), end)
        });
    }
    let all = futures::future::join_all(slow);
    let (ends, others) = bystander.during(&mut link, all).await;
    for (stop, took, end) in ends {
        let end = end.unwrap_or_else(|_| panic!("{stop:?} is still served"));
        assert!(took >= time, "{stop:?} was closed at once: {took:?}, {end}");
    }
    assert!(others.is_empty(), "{others:?}");
    lab.inbound(1).await;
}

#[tokio::test]
async fn connections_of_one_address_are_bounded_and_those_that_are_proven_live_on() {
    const MOST: usize = 40;
    let (lab, _peer, mut link, mut bystander) = configured_scene(|config| {
        config.limits.max_connections_per_address = MOST;
        config.limits.new_connections_per_second = Some(100_000);
    })
    .await;
    let attack = async {
        let mut all = Vec::new();
        for _ in 0..400 {
            let mut one = Speaker::connect_from([127, 0, 0, 8], lab.s2s).await;
            one.open(&header("vngtp.lab", "coluc.com", "")).await;
            all.push(one);
        }
        all
    };
    let (mut all, _) = bystander.during(&mut link, attack).await;
    lab.inbound(MOST + 1).await;
    // The oldest gave way.
    assert_eq!(all[0].hear_end().await, "");
    assert_eq!(all[399 - MOST].hear_end().await, "");
    assert!(all[400 - MOST].is_silent(Duration::from_millis(50)).await);
    drop(all);
    lab.inbound(1).await;
}

#[rstest]
#[case::at_once(String::new())]
#[case::in_the_header("<?xml version='1.0'?><stream:stream".into())]
#[case::behind_the_header(header("vngtp.lab", "coluc.com", ""))]
#[case::behind_starttls(header("vngtp.lab", "coluc.com", "") + "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")]
#[tokio::test]
async fn a_flood_of_resets_leaves_nothing_behind(#[case] text: String) {
    use tokio::io::AsyncWriteExt;
    let (lab, _peer, mut link, mut bystander) = scene().await;
    let attack = async {
        for _ in 0..500 {
            let mut tcp = tokio::net::TcpStream::connect(lab.s2s).await.unwrap();
            let _ = tcp.write_all(text.as_bytes()).await;
            socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
        }
    };
    let ((), others) = bystander.during(&mut link, attack).await;
    assert!(others.is_empty(), "{others:?}");
    lab.inbound(1).await;
    bystander.exchange(&mut link).await;
}

#[tokio::test]
async fn a_peer_that_never_reads_fills_its_own_queue_only() {
    let (_lab, peer, mut link, mut bystander) =
        configured_scene(|config| config.limits.max_queued_bytes = 20 * 100_000).await;
    let deaf = link.opens(&peer, "first").await;
    let body = "x".repeat(100_000);
    // Far more than the sockets' buffers and the queue hold.
    for n in 0..300 {
        link.say(&format!(
            "<message from='alice@coluc.com' to='bob@vngtp.lab' id='big{n}'><body>{body}</body></message>"
        ));
    }
    let full = link.hear().await;
    assert!(full.contains("<resource-constraint "), "{full}");
    for _ in 0..10 {
        for other in bystander.exchange(&mut link).await {
            assert!(other.contains("<resource-constraint "), "{other}");
        }
    }
    drop(deaf);
}

#[tokio::test]
async fn while_the_router_is_gone_messages_wait_and_arrive_afterwards() {
    let (lab, peer, router, link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    link.cut().await;
    lab.until("the link is down", |lab| {
        lab.edge.registry.links()[0].state != LinkState::Up
    })
    .await;
    bob.say(&to_alice("waits")).await;
    let mut link = router.accept().await;
    assert!(link.hear().await.contains("waits"));
}

/// Latencies of messages from the router to many partners, each of which gets one after the other.
async fn latencies(peers: usize, stalled: bool) -> Vec<Duration> {
    let mut partners = Vec::new();
    for n in 0..peers {
        let domain: &'static str = Box::leak(format!("p{n}.example").into_boxed_str());
        partners.push(Peer::new(domain).await);
    }
    let router = Router::new().await;
    let all: Vec<_> = partners.iter().collect();
    let _lab = Lab::start(live(config(&all, &[&router])));
    let link = router.accept().await;
    let mut streams = Vec::new();
    for peer in &partners {
        let to = peer.domain;
        link.say(&format!("<message from='alice@coluc.com' to='x@{to}' id='open'/>"));
        let mut stream = peer.accept_authenticated("coluc.com").await;
        stream.hear("id='open'/>").await;
        streams.push(stream);
    }
    let mut last = streams.pop().unwrap();
    let body = "x".repeat(60_000);
    for n in 0..100 {
        let to = partners[peers - 1].domain;
        link.say(&format!(
            "<message from='alice@coluc.com' to='x@{to}' id='big{n}'><body>{body}</body></message>"
        ));
    }
    if !stalled {
        last.hear("id='big99'>").await;
    }
    let mut times = Vec::new();
    for round in 0..5 {
        for (stream, peer) in streams.iter_mut().zip(&partners) {
            let start = Instant::now();
            let to = peer.domain;
            link.say(&format!("<message from='alice@coluc.com' to='x@{to}' id='m{round}'/>"));
            stream.hear(&format!("id='m{round}'/>")).await;
            times.push(start.elapsed());
        }
    }
    drop(last);
    times.sort();
    times
}

#[tokio::test]
async fn one_stalled_peer_of_a_hundred_slows_nobody_else() {
    let percentile = |times: &[Duration]| times[times.len() * 99 / 100];
    let free = latencies(100, false).await;
    let stalled = latencies(100, true).await;
    let (free, stalled) = (percentile(&free), percentile(&stalled));
    println!("p99 of 99 partners: {free:?}, with a stalled one beside them {stalled:?}");
    // A message that waited for the stalled one would take seconds; the margin is for busy machines.
    assert!(
        stalled <= free * 5 + Duration::from_millis(200),
        "{stalled:?} instead of {free:?}"
    );
}
