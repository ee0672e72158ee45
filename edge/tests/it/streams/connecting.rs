//! Which connections the edge opens, keeps, shares and gives up.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use crate::support::dns::Dns;
use crate::support::{
    Lab, Peer, Router, Speaker, answered, attribute, config, header, live, route_host, to_alice, to_bob,
};

const MESSAGE: &str = "<message from='alice@coluc.com' to='bob@vngtp.lab' id='m1'/>";

/// Adds addresses to the static route of the first peer.
fn also_at(config: &mut xmpp_federation_core::edge_config::EdgeConfig, address: &str) {
    let address = address.parse().unwrap();
    config.partners[0].route.push(route_host(address));
}

/// An address at which nobody listens.
async fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn one_stream_carries_all_hosted_domains_each_with_its_own_dialback() {
    let (lab, peer, _router, link) = Lab::with_link().await;
    link.say(MESSAGE);
    link.say("<message from='room@conf.coluc.com' to='bob@vngtp.lab' id='m2'/>");
    let mut stream = peer.accept("shared").await;
    let asked = stream.hear("</db:result>").await + &stream.hear("</db:result>").await;
    for local in ["coluc.com", "conf.coluc.com"] {
        assert!(asked.contains(&format!("from='{local}'")), "{asked}");
        stream
            .say(&format!("<db:result from='vngtp.lab' to='{local}' type='valid'/>"))
            .await;
    }
    let heard =
        stream.hear("id='m").await + &stream.hear("/>").await + &stream.hear("id='m").await + &stream.hear("/>").await;
    assert!(heard.contains("m1") && heard.contains("m2"), "{heard}");
    assert_eq!(lab.edge.registry.counts().outbound, 1);
    let streams = lab.edge.registry.streams(None);
    assert_eq!(streams[0].detail.pairs.len(), 2);
    assert!(
        timeout(Duration::from_millis(100), peer.listener.accept())
            .await
            .is_err(),
        "a second connection"
    );
}

#[tokio::test]
async fn a_pair_that_is_refused_leaves_the_other_one_of_the_stream_alone() {
    let (_lab, peer, _router, mut link) = Lab::with_link().await;
    link.say(MESSAGE);
    let mut stream = peer.accept_authenticated("coluc.com").await;
    stream.hear("id='m1'/>").await;
    link.say("<message from='room@conf.coluc.com' to='bob@vngtp.lab' id='m2'/>");
    let asked = stream.hear("</db:result>").await;
    assert_eq!(attribute(&asked, "db:result", "from"), "conf.coluc.com");
    stream.say(&answered("vngtp.lab", "conf.coluc.com", "invalid")).await;
    link.say(&to_bob("m3"));
    stream.hear("id='m3'/>").await;
    // The refused domain asks once more, on a stream of its own.
    let mut own = peer.accept("own-id").await;
    let asked = own.hear("</db:result>").await;
    assert_eq!(attribute(&asked, "db:result", "from"), "conf.coluc.com");
    own.say(&answered("vngtp.lab", "conf.coluc.com", "invalid")).await;
    let answer = link.hear().await;
    assert_eq!(attribute(&answer, "message", "id"), "m2");
    link.say(&to_bob("m4"));
    stream.hear("id='m4'/>").await;
}

#[tokio::test]
async fn an_inbound_success_clears_the_back_off() {
    let (lab, peer, _router, link) = Lab::with_link().await;
    link.say(MESSAGE);
    // Pauses of about 1 s, 2 s and, from now on, 4 s: 3 s at least.
    for _ in 0..3 {
        drop(peer.accept_tcp().await);
    }
    let failed = Instant::now();
    let _bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let heard = Instant::now();
    let mut stream = peer.accept_authenticated("coluc.com").await;
    let waited = failed.elapsed();
    stream.hear("id='m1'/>").await;
    assert!(
        waited < Duration::from_millis(2900),
        "tried {waited:?} after the failure, {:?} after the success",
        heard.elapsed()
    );
}

#[tokio::test]
async fn streams_are_spread_over_the_equal_addresses_of_a_route() {
    let (one, two) = (Peer::new("vngtp.lab").await, Peer::new("vngtp.lab").await);
    let router = Router::new().await;
    let mut config = config(&[&one], &[&router]);
    also_at(&mut config, &two.listener.local_addr().unwrap().to_string());
    let lab = Lab::start(live(config));
    let link = router.accept().await;
    let mut used = [0; 2];
    for _ in 0..24 {
        link.say(MESSAGE);
        let mut stream = tokio::select! {
            stream = one.accept_authenticated("coluc.com") => { used[0] += 1; stream }
            stream = two.accept_authenticated("coluc.com") => { used[1] += 1; stream }
        };
        stream.hear("id='m1'/>").await;
        stream.say("</stream:stream>").await;
        stream.hear_end().await;
        drop(stream);
        lab.outbound(0).await;
    }
    // Each is passed over 24 times in a row once in sixteen million runs.
    assert!(used.iter().all(|count| *count > 0), "{used:?}");
}

#[tokio::test]
async fn an_address_that_refuses_is_passed_over_whichever_comes_first() {
    for _ in 0..6 {
        let peer = Peer::new("vngtp.lab").await;
        let router = Router::new().await;
        let mut config = config(&[&peer], &[&router]);
        also_at(&mut config, &closed().await);
        let _lab = Lab::start(live(config));
        let link = router.accept().await;
        link.say(MESSAGE);
        let mut stream = peer.accept_authenticated("coluc.com").await;
        stream.hear("id='m1'/>").await;
    }
}

#[tokio::test]
async fn dns_is_not_asked_when_all_addresses_of_a_route_are_down() {
    let peer = Peer::new("vngtp.lab").await;
    let router = Router::new().await;
    let mut config = config(&[&peer], &[&router]);
    also_at(&mut config, &closed().await);
    config.limits.dialback_timeout = "1s".parse().unwrap();
    drop(peer);
    let dns = Arc::new(Dns::default());
    let lab = Lab::start(dns.resolves(live(config)));
    let mut link = router.accept().await;
    link.say(MESSAGE);
    let answer = link.hear().await;
    assert!(answer.contains("<remote-server-timeout "), "{answer}");
    let failing = lab.edge.registry.failing_partners();
    assert!(
        failing[0].reason.matches("connection refused").count() == 2,
        "both are named: {failing:?}"
    );
    assert!(dns.asked().is_empty());
}

#[tokio::test]
async fn a_flood_from_one_address_is_bounded_and_hurts_nobody_else() {
    const FLOOD: usize = 3000;
    const ALLOWED: usize = 20;
    let (lab, peer, mut link) = Lab::configured(|config| {
        config.limits.max_connections_per_address = ALLOWED;
        config.limits.new_connections_per_second = Some(100_000);
    })
    .await;
    let bystander = Speaker::connect_from([127, 0, 0, 9], lab.s2s).await;
    let (mut bystander, id) = peer.open_on(bystander, "coluc.com").await;
    peer.authenticate(&mut bystander, &id, "coluc.com").await;

    let address = lab.s2s;
    let flood = tokio::spawn(async move {
        let mut held = Vec::new();
        for _ in 0..FLOOD {
            held.push(Speaker::connect_from([127, 0, 0, 8], address).await);
        }
        held
    });
    let mut delivered = 0;
    while !flood.is_finished() {
        bystander.say(&to_alice("b")).await;
        let began = Instant::now();
        link.hear().await;
        assert!(began.elapsed() < Duration::from_secs(2));
        delivered += 1;
        // And a newcomer is served.
        let mut newcomer = Speaker::connect_from([127, 0, 0, 10], lab.s2s).await;
        newcomer.open(&header("vngtp.lab", "coluc.com", "")).await;
    }
    assert!(delivered > 0);
    let held = flood.await.unwrap();
    let gave_way = "xmpp_edge_unproven_connections_ended_total{reason=\"per-address\"}";
    lab.until("all others gave way", |lab| {
        lab.metric(gave_way) == (FLOOD - ALLOWED) as u64
    })
    .await;
    let from_there = |lab: &Lab| {
        let streams = lab.edge.registry.streams(None).into_iter();
        streams
            .filter(|stream| stream.peer.ip() == IpAddr::from([127, 0, 0, 8]))
            .count()
    };
    lab.until("they are gone", |lab| from_there(lab) == ALLOWED).await;
    drop(held);
    lab.until("they are forgotten", |lab| from_there(lab) == 0).await;
    let mut again = Speaker::connect_from([127, 0, 0, 8], lab.s2s).await;
    again.open(&header("vngtp.lab", "coluc.com", "")).await;
}

#[tokio::test]
async fn a_thousand_connections_may_wait_to_be_accepted() {
    let listener = xmpp_federation_edge::stream::listen::bind("127.0.0.1:0".parse().unwrap());
    let listener = listener.unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody accepts; each takes a place in the queue, also when it is closed at once.
    let all = tokio::task::spawn_blocking(move || {
        (0..1100).all(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
    });
    assert!(all.await.unwrap(), "the queue is shorter than 1100");
}
