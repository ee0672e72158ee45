//! Tables that strangers can fill: what gives way, what is refused, and what is kept for partners.
//!
//! The peer `vngtp.lab` has a static route to 127.0.0.1, so that address is a partner's; the others of
//! the loopback network are strangers'.

use std::time::Duration;

use rstest::rstest;
use tokio::time::{Instant, sleep};
use xmpp_federation_core::edge_config::EdgeConfig;

use crate::support::{Lab, Peer, Router, RouterLink, Speaker, config, header, live, to_alice};

struct Scene {
    lab: Lab,
    peer: Peer,
    link: RouterLink,
    _router: Router,
}

async fn scene(change: impl FnOnce(&mut EdgeConfig)) -> Scene {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    change(&mut config);
    let lab = Lab::start(live(config));
    let link = router.accept().await;
    Scene {
        lab,
        peer,
        link,
        _router: router,
    }
}

impl Scene {
    async fn open(&self, host: u8) -> Speaker {
        let mut speaker = Speaker::connect_from([127, 0, 0, host], self.lab.s2s).await;
        speaker.open(&header("vngtp.lab", "coluc.com", "")).await;
        speaker
    }

    /// A stream with an authenticated pair, from this address.
    async fn authenticated(&self, host: u8) -> Speaker {
        let speaker = Speaker::connect_from([127, 0, 0, host], self.lab.s2s).await;
        let (mut speaker, id) = self.peer.open_on(speaker, "coluc.com").await;
        self.peer.authenticate(&mut speaker, &id, "coluc.com").await;
        speaker
    }

    async fn still_delivers(&mut self, stream: &mut Speaker) {
        stream.say(&to_alice("on")).await;
        assert!(self.link.hear().await.contains("id='on'"));
    }

    fn ended(&self, reason: &str) -> u64 {
        let name = "xmpp_edge_unproven_connections_ended_total";
        self.lab.metric(&format!("{name}{{reason=\"{reason}\"}}"))
    }

    fn refused(&self, reason: &str) -> u64 {
        let name = "xmpp_edge_connections_refused_total";
        self.lab.metric(&format!("{name}{{reason=\"{reason}\"}}"))
    }
}

const VERIFY: &str = "<db:verify from='vngtp.lab' to='coluc.com' id='1'>0123456789abcdef</db:verify>";
const RESULT: &str = "<db:result from='vngtp.lab' to='elsewhere.example'>x</db:result>";

#[rstest]
#[case::keys_that_are_not_ours(VERIFY)]
#[case::keys_for_a_domain_that_is_not_hosted_here(RESULT)]
#[tokio::test]
async fn a_stream_on_which_nothing_was_ever_proven_ends_whatever_it_sends(#[case] what: &str) {
    // The time is twice the idle time here.
    let mut scene = scene(|config| config.limits.idle_timeout = "700ms".parse().unwrap()).await;
    let mut proven = scene.authenticated(8).await;
    let began = Instant::now();
    let stranger = Speaker::connect_from([127, 0, 0, 9], scene.lab.s2s).await;
    let (mut stranger, _) = scene.peer.open_on(stranger, "coluc.com").await;
    while scene.ended("time") == 0 {
        assert!(began.elapsed() < Duration::from_secs(4), "it is still served");
        stranger.try_say(what.as_bytes()).await.unwrap();
        scene.still_delivers(&mut proven).await;
        sleep(Duration::from_millis(50)).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(1300));
    assert!(stranger.hear_end().await.contains("<policy-violation "));
    scene.still_delivers(&mut proven).await;
}

#[tokio::test]
async fn at_the_bound_of_an_address_the_oldest_unproven_connection_gives_way_and_no_proven_one() {
    let mut scene = scene(|config| config.limits.max_connections_per_address = 4).await;
    // Through a stranger's address, as if the partner were not known there yet.
    let mut proven = scene.authenticated(8).await;
    let mut strangers = Vec::new();
    for _ in 0..4 {
        strangers.push(scene.open(9).await);
    }
    let mut newest = scene.open(9).await;
    assert_eq!(strangers[0].hear_end().await, "", "without a word");
    assert_eq!(scene.ended("per-address"), 1);
    let refused = scene.lab.edge.metrics.refused();
    assert_eq!(refused.unproven_connections["per-address"], 1, "{refused:?}");
    assert!(newest.is_silent(Duration::from_millis(50)).await);
    assert!(strangers[1].is_silent(Duration::from_millis(50)).await);
    scene.still_delivers(&mut proven).await;
    scene.lab.inbound(5).await;
    assert_eq!(scene.refused("per-address"), 0);
}

#[tokio::test]
async fn where_a_partner_was_authenticated_lately_it_has_wider_bounds() {
    let scene = scene(|config| config.limits.max_connections_per_address = 2).await;
    drop(scene.authenticated(8).await);
    let mut many = Vec::new();
    for _ in 0..20 {
        many.push(scene.open(8).await);
    }
    assert_eq!((scene.ended("per-address"), scene.refused("per-address")), (0, 0));
}

#[tokio::test]
async fn strangers_fill_the_table_and_a_partner_still_gets_in() {
    let mut scene = scene(|config| config.limits.max_connections = Some(16)).await;
    let mut strangers = Vec::new();
    for host in 10..60 {
        strangers.push(scene.open(host).await);
    }
    let inbound = scene.lab.edge.registry.counts().inbound;
    assert!(inbound <= 16, "{inbound}");
    assert!(scene.ended("total") >= 34, "{}", scene.ended("total"));
    // From its own address at once, and from a new one while strangers go on.
    let mut known = scene.authenticated(1).await;
    let mut new = scene.authenticated(2).await;
    for host in 60..110 {
        strangers.push(scene.open(host).await);
    }
    scene.still_delivers(&mut known).await;
    scene.still_delivers(&mut new).await;
}

#[tokio::test]
async fn new_connections_beyond_the_rate_wait_for_their_turn_and_others_do_not() {
    let scene = scene(|config| config.limits.new_connections_per_second = Some(5)).await;
    let began = Instant::now();
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(scene.open(9).await);
    }
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "a burst of a second passes"
    );
    let (other, partner) = (scene.open(10).await, scene.open(1).await);
    let sixth = scene.open(9).await;
    let seventh = scene.open(9).await;
    assert!(began.elapsed() >= Duration::from_millis(190), "{:?}", began.elapsed());
    assert_eq!(scene.refused("rate"), 0);
    drop((other, partner, sixth, seventh));
}

#[tokio::test]
async fn the_bounds_of_ipv6_networks_count_relayed_clients() {
    let scene = scene(|config| {
        config.proxy_protocol.trusted_sources = vec!["127.0.0.1/32".parse().unwrap()];
        config.limits.max_connections_per_address = 2;
        config.limits.max_connections_per56 = 3;
        config.limits.max_connections_per48 = 4;
    })
    .await;
    let mut open = Vec::new();
    for client in [
        "2001:db8::1",
        "2001:db8::2",
        "2001:db8::3",
        "2001:db8:0:1::1",
        "2001:db8:0:2::1",
        "2001:db8:0:100::1",
        "2001:db8:0:200::1",
    ] {
        let mut stream = Speaker::connect(scene.lab.s2s).await;
        stream
            .say(&format!("PROXY TCP6 {client} 2001:db8:ff::1 4000 5269\r\n"))
            .await;
        stream.open(&header("vngtp.lab", "coluc.com", "")).await;
        open.push(stream);
    }
    let bounds = ["per-address", "per-56", "per-48", "total"];
    assert_eq!(bounds.map(|bound| scene.ended(bound)), [1, 1, 1, 0]);
    for gone in &mut open[..3] {
        assert_eq!(gone.hear_end().await, "");
    }
}

#[tokio::test]
async fn who_sends_much_before_anything_is_proven_is_closed() {
    let mut scene = scene(|_| {}).await;
    let mut proven = scene.authenticated(8).await;
    let mut stranger = Speaker::connect_from([127, 0, 0, 9], scene.lab.s2s).await;
    stranger.say(&header("vngtp.lab", "coluc.com", "")).await;
    let spaces = vec![b' '; 16 * 1024];
    let mut sent = 0;
    while sent < 64 && stranger.try_say(&spaces).await.is_ok() {
        sent += 1;
    }
    stranger.hear_end().await;
    scene.lab.until("it is counted", |_| scene.ended("bytes") == 1).await;
    // Who is proven may send any number of bytes.
    proven.try_say(&vec![b' '; 512 * 1024]).await.unwrap();
    scene.still_delivers(&mut proven).await;
}
