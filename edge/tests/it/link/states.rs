//! The link to XCP routers: its states, its trust rules, and what happens when it breaks.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rstest::rstest;
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_status::LinkState;
use xmpp_federation_edge::router::Timing;

use crate::support::{COMPONENT, Lab, Peer, Router, RouterLink, attribute, config, has, id, live, message, to_bob};

#[rstest]
#[case("host-unknown", LinkState::UnknownComponent, "restarted")]
#[case("not-authorized", LinkState::WrongSecret, "secret")]
#[case("conflict", LinkState::Failed, "conflict")]
#[tokio::test]
async fn a_refused_handshake_has_a_name(#[case] condition: &str, #[case] expected: LinkState, #[case] says: &str) {
    let router = Router::new().await;
    let lab = Lab::start(live(config(&[], &[&router])));
    let mut speaker = router.accept_header().await;
    speaker.hear("</handshake>").await;
    speaker
        .say(&format!(
            "<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
        ))
        .await;
    let reason = lab.link(expected).await.reason.unwrap_or_default();
    assert!(reason.contains(says), "{reason}");
    // It is dialled again and comes up.
    let _link = router.accept().await;
    lab.link(LinkState::Up).await;
}

#[tokio::test]
async fn a_closed_port_is_unreachable_and_the_link_comes_up_when_it_opens() {
    let router = Router::new().await;
    let address = router.listener.local_addr().unwrap();
    let config = config(&[], &[&router]);
    drop(router);
    let lab = Lab::start(live(config));
    let reason = lab.link(LinkState::Unreachable).await.reason.unwrap_or_default();
    has(&reason, ["node0", "open from here"]);
    let router = Router {
        listener: tokio::net::TcpListener::bind(address).await.unwrap(),
    };
    let _link = router.accept().await;
    lab.link(LinkState::Up).await;
}

#[rstest]
#[case::to_hosted(
    "<message from='alice@coluc.com' to='x@conf.coluc.com' id='1'/>",
    Some("service-unavailable")
)]
#[case::to_hosted_in_capitals(
    "<message from='alice@coluc.com' to='x@COLUC.com.' id='1'/>",
    Some("service-unavailable")
)]
#[case::to_the_component(
    "<message from='alice@coluc.com' to='cm-2_s2scp-1.eft-xwye-a-coluc-com' id='1'/>",
    Some("service-unavailable")
)]
#[case::to_a_single_label("<message from='alice@coluc.com' to='x@kubernetes' id='1'/>", Some("jid-malformed"))]
#[case::to_an_address("<message from='alice@coluc.com' to='x@[::1]' id='1'/>", Some("jid-malformed"))]
#[case::without_to("<message from='alice@coluc.com' id='1'/>", Some("jid-malformed"))]
#[case::to_a_denied_domain("<message from='alice@coluc.com' to='x@evil.example' id='1'/>", Some("not-allowed"))]
#[case::error_to_a_denied_domain("<message from='alice@coluc.com' to='x@evil.example' type='error'/>", None)]
#[case::result_to_a_denied_domain("<iq from='alice@coluc.com' to='x@evil.example' type='result' id='1'/>", None)]
#[case::foreign_from(
    "<message from='alice@forgotten.example' to='bob@vngtp.lab'/>",
    Some("not-authorized")
)]
#[case::foreign_from_and_error("<message from='alice@forgotten.example' to='bob@vngtp.lab' type='error'/>", None)]
#[case::without_from("<message to='bob@vngtp.lab'/>", None)]
#[case::route("<route from='alice@coluc.com' to='bob@vngtp.lab'><message/></route>", None)]
#[case::xdb("<xdb from='coluc.com' to='vngtp.lab' type='get'/>", None)]
#[tokio::test]
async fn what_the_router_may_not_send_never_leaves(#[case] text: &str, #[case] answer: Option<&str>) {
    let (_lab, peer, _router, mut link) = Lab::with_link().await;
    link.say(text);
    link.say(&to_bob("after"));
    if let Some(condition) = answer {
        let error = link.hear().await;
        assert!(error.contains(&format!("<{condition} ")), "{error}");
        let sender = attribute(text, "message", "from");
        assert_eq!(attribute(&error, "message", "to"), sender);
    }
    // The link lives, and nothing but the good message leaves.
    let mut stream = peer.accept_authenticated("coluc.com").await;
    let first = stream.hear(">").await;
    assert!(first.contains("id='after'"), "{first}");
    link.stays_silent(Duration::from_millis(50)).await;
}

async fn ids(link: &mut RouterLink, count: usize) -> HashSet<usize> {
    let mut ids = HashSet::new();
    while ids.len() < count {
        ids.insert(id(&link.hear().await));
    }
    ids
}

#[tokio::test]
async fn what_is_unproven_when_the_link_breaks_is_reported_and_the_rest_goes_over_the_other_link() {
    let (lab, peer, _routers, [mut one, mut two]) = Lab::with_links(Timing::default()).await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;

    bob.say(&message(0)).await;
    assert_eq!(ids(&mut one, 1).await, HashSet::from([0]));
    // Proven by now or soon: wait until the echo has gone round.
    tokio::time::sleep(Duration::from_millis(100)).await;
    one.echo.store(false, Ordering::SeqCst);
    bob.say(&message(1)).await;
    assert_eq!(ids(&mut one, 1).await, HashSet::from([1]));
    one.cut().await;
    // Message 1 may have been processed: its sender is told. Message 0 was, so nobody is.
    let mut back = peer.accept_authenticated("coluc.com").await;
    let error = back.hear("</message>").await;
    assert_eq!(attribute(&error, "message", "id"), "1");
    assert_eq!(attribute(&error, "message", "to"), "bob@vngtp.lab");
    assert!(error.contains("<recipient-unavailable "), "{error}");
    bob.say(&message(2)).await;
    assert_eq!(ids(&mut two, 1).await, HashSet::from([2]));
    assert!(back.is_silent(Duration::from_millis(100)).await);
}

#[tokio::test]
async fn every_message_is_delivered_or_reported_when_a_link_breaks_under_load() {
    const COUNT: usize = 2000;
    let (lab, peer, _routers, [mut one, mut two]) = Lab::with_links(Timing::default()).await;
    let bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let writer = tokio::spawn(bob.say_all((0..COUNT).map(message)));
    let mut delivered = ids(&mut one, COUNT / 4).await;
    let taken = one.cut().await;
    delivered.extend(taken.iter().map(|stanza| id(stanza)));
    let mut reported = HashSet::new();
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut back = peer.accept_authenticated("coluc.com").await;
        loop {
            let _ = tx.send(id(&back.hear("</message>").await));
        }
    });
    let all: HashSet<usize> = (0..COUNT).collect();
    tokio::time::timeout(Duration::from_secs(20), async {
        while delivered.union(&reported).count() < COUNT {
            tokio::select! {
                stanza = two.hear() => {
                    delivered.insert(id(&stanza));
                }
                Some(id) = rx.recv() => { reported.insert(id); }
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("missing: {}", all.len() - delivered.union(&reported).count()));
    let _bob = writer.await.unwrap();
}

#[tokio::test]
async fn a_peer_is_paused_while_no_router_takes_anything_and_goes_on_afterwards() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let lab = Lab::start(live(config(&[&peer], &[&router])));
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let body = "x".repeat(100_000);
    let big = format!("<message from='bob@vngtp.lab' to='alice@coluc.com' id='big'><body>{body}</body></message>");
    let count = 400;
    let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = written.clone();
    let writer = tokio::spawn(async move {
        for _ in 0..count {
            bob.say(&big).await;
            counter.fetch_add(1, Ordering::SeqCst);
        }
        bob
    });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let before = written.load(Ordering::SeqCst);
    assert!(before < count, "40 MB were swallowed");
    let mut link = router.accept().await;
    for _ in 0..count {
        link.hear().await;
    }
    let _bob = writer.await.unwrap();
}

#[tokio::test]
async fn what_came_in_one_piece_with_the_end_of_the_link_leaves_in_order() {
    let (_lab, peer, _router, link) = Lab::with_link().await;
    let message = |id| format!("<message from='alice@coluc.com' to='bob@vngtp.lab' id='{id}'/>");
    let all: String = (1..=3).map(message).collect();
    link.say(&format!("{all}</stream:stream>"));
    let mut stream = peer.accept_authenticated("coluc.com").await;
    let came = stream.hear("id='3'/>").await;
    let at = |id: &str| came.find(id).unwrap_or_else(|| panic!("{id}: {came}"));
    assert!(at("id='1'") < at("id='2'"), "{came}");
}

#[tokio::test]
async fn endpoints_come_and_go_with_the_configuration() {
    let router = Router::new().await;
    let with = config(&[], &[&router]);
    let mut without = with.clone();
    without.routers[0].endpoints.clear();
    let lab = Lab::start(live(without.clone()));
    assert!(lab.edge.registry.links().is_empty());
    lab.live.send(std::sync::Arc::new(live(with))).unwrap();
    let mut link = router.accept().await;
    lab.link(LinkState::Up).await;
    assert_eq!(lab.edge.registry.links()[0].component_id.as_str(), COMPONENT);
    lab.live.send(std::sync::Arc::new(live(without))).unwrap();
    assert_eq!(link.hear().await, "</stream:stream>");
}

/// The production times are 20 s for the echo and 30 s for the rest.
const SHORT: Timing = Timing {
    echo: Duration::from_millis(800),
    quiet: Duration::from_secs(30),
    hold: Duration::from_secs(30),
    handover: Duration::from_secs(2),
};

#[tokio::test]
async fn a_router_that_does_not_echo_in_time_counts_as_broken_and_the_other_link_takes_over() {
    let (lab, peer, _routers, [mut one, mut two]) = Lab::with_links(SHORT).await;
    one.echo.store(false, Ordering::SeqCst);
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let sent = Instant::now();
    for n in 0..3 {
        bob.say(&message(n)).await;
    }
    ids(&mut one, 3).await;
    // It took them, and nobody knows what became of them: all are reported, none is sent again.
    let mut back = peer.accept_authenticated("coluc.com").await;
    for n in 0..3 {
        let error = back.hear("</message>").await;
        assert_eq!(id(&error), n);
        assert!(error.contains("<recipient-unavailable "), "{error}");
    }
    assert!(sent.elapsed() >= SHORT.echo, "given up too early");
    let reason = lab.link(LinkState::Failed).await.reason.unwrap_or_default();
    assert!(reason.contains("echo of a ping"), "{reason}");
    bob.say(&message(3)).await;
    assert_eq!(id(&two.hear().await), 3);
}

#[tokio::test]
async fn a_silent_link_is_pinged_and_broken_when_nobody_answers() {
    let router = Router::new().await;
    let timing = Timing {
        quiet: Duration::from_millis(100),
        ..SHORT
    };
    let lab = Lab::start_with(live(config(&[], &[&router])), timing);
    let link = router.accept().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    lab.link(LinkState::Up).await;
    link.echo.store(false, Ordering::SeqCst);
    lab.link(LinkState::Failed).await;
    let _again = router.accept().await;
    lab.link(LinkState::Up).await;
}

#[tokio::test]
async fn an_error_as_answer_to_the_ping_is_a_proof_too() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let lab = Lab::start_with(live(config(&[&peer], &[&router])), SHORT);
    let mut link = router.accept_stream().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say(&message(0)).await;
    let ping = link.hear("</iq>").await;
    let proof = attribute(&ping, "iq", "id");
    link.say(&format!(
        "<iq type='error' id='{proof}' from='{COMPONENT}' to='{COMPONENT}'><error type='cancel'>\
         <service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
    ))
    .await;
    // The next one is not answered.
    bob.say(&message(1)).await;
    link.hear("</iq>").await;
    drop(link);
    let mut back = peer.accept_authenticated("coluc.com").await;
    assert_eq!(id(&back.hear("</message>").await), 1);
    assert!(back.is_silent(Duration::from_millis(200)).await);
}

#[tokio::test]
async fn what_no_link_takes_is_held_for_its_time_and_then_reported() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let config = config(&[&peer], &[&router]);
    drop(router);
    let timing = Timing {
        hold: Duration::from_secs(1),
        ..SHORT
    };
    let lab = Lab::start_with(live(config), timing);
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let sent = Instant::now();
    bob.say(&message(0)).await;
    bob.say("<message from='bob@vngtp.lab' to='alice@coluc.com' type='error' id='9'/>")
        .await;
    let mut back = peer.accept_authenticated("coluc.com").await;
    let error = back.hear("</message>").await;
    assert_eq!(id(&error), 0);
    assert!(error.contains("<recipient-unavailable "), "{error}");
    assert!(sent.elapsed() >= timing.hold, "given up too early");
    assert!(
        back.is_silent(Duration::from_millis(300)).await,
        "an error was answered"
    );
}

#[tokio::test]
async fn the_preferred_node_takes_again_when_it_is_back_without_losing_or_reordering() {
    let (lab, peer, [first, _second], [one, mut two]) = Lab::with_links(Timing::default()).await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    // Idle when it breaks: nothing is unproven.
    one.cut().await;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let writer = tokio::spawn(async move {
        let mut n = 0;
        while !stopped.load(Ordering::SeqCst) {
            let burst: String = (n..n + 50).map(message).collect();
            bob.say(&burst).await;
            n += 50;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        (bob, n)
    });
    // Under way over the second node before the first one is back.
    let mut order: Vec<_> = Vec::new();
    for _ in 0..500 {
        order.push(id(&two.hear().await));
    }
    let mut one = first.accept().await;
    let switched = id(&one.hear().await);
    // Whatever was sent before is processed there already: its echo was waited for.
    while let Ok(stanza) = two.heard.try_recv() {
        order.push(id(&stanza));
    }
    order.push(switched);
    for _ in 0..500 {
        order.push(id(&one.hear().await));
    }
    stop.store(true, Ordering::SeqCst);
    let (_bob, count) = writer.await.unwrap();
    while order.len() < count {
        order.push(id(&one.hear().await));
    }
    assert_eq!(order, (0..count).collect::<Vec<_>>());
    assert!(two.heard.try_recv().is_err(), "the second node still takes");
}

#[tokio::test]
async fn the_preferred_node_waits_for_the_proof_of_the_other_one_for_a_limited_time() {
    let peer = Peer::new("vngtp.lab").await;
    let (first, second) = (Router::new().await, Router::new().await);
    let timing = Timing {
        echo: Duration::from_mins(1),
        ..SHORT
    };
    let lab = Lab::start_with(live(config(&[&peer], &[&first, &second])), timing);
    let (one, mut two) = (first.accept().await, second.accept().await);
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    one.cut().await;
    two.echo.store(false, Ordering::SeqCst);
    bob.say(&message(0)).await;
    assert_eq!(id(&two.hear().await), 0);
    let mut one = first.accept().await;
    let back = Instant::now();
    bob.say(&message(1)).await;
    assert_eq!(id(&one.hear().await), 1);
    assert!(
        back.elapsed() >= timing.handover / 2,
        "it may have overtaken the message before it"
    );
}

#[tokio::test]
async fn a_node_that_a_reload_takes_away_under_traffic_costs_nothing() {
    const COUNT: usize = 3000;
    let peer = Peer::new("vngtp.lab").await;
    let (first, second) = (Router::new().await, Router::new().await);
    let mut config = config(&[&peer], &[&first, &second]);
    let lab = Lab::start(live(config.clone()));
    let (mut one, mut two) = (first.accept().await, second.accept().await);
    let bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let writer = tokio::spawn(bob.say_all((0..COUNT).map(message)));
    let mut delivered: Vec<usize> = Vec::new();
    for _ in 0..COUNT / 3 {
        delivered.push(id(&one.hear().await));
    }
    // The other node keeps its name, and with it its link.
    config.routers[0].endpoints.remove(0);
    lab.live.send(Arc::new(live(config))).unwrap();
    loop {
        match one.hear().await.as_str() {
            "</stream:stream>" => break,
            stanza => delivered.push(id(stanza)),
        }
    }
    while delivered.len() < COUNT {
        delivered.push(id(&two.hear().await));
    }
    assert_eq!(delivered, (0..COUNT).collect::<Vec<_>>());
    let _bob = writer.await.unwrap();
}

#[tokio::test]
async fn of_two_clusters_for_the_same_domains_the_one_with_a_link_takes_everything() {
    let peer = Peer::new("vngtp.lab").await;
    let (first, second) = (Router::new().await, Router::new().await);
    let mut both = config(&[&peer], &[&first]);
    let mut other = config(&[], &[&second]).routers.remove(0);
    other.name = "other".to_owned();
    both.routers.push(other);
    let mut live = live(both);
    live.router_secrets.push(live.router_secrets[0].clone());
    let lab = Lab::start(live);
    let (mut one, mut two) = (first.accept().await, second.accept().await);
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say(&message(0)).await;
    assert_eq!(id(&one.hear().await), 0);
    drop(first);
    tokio::time::sleep(Duration::from_millis(100)).await;
    one.cut().await;
    // Some may still be meant for the cluster whose link just went.
    let mut sent = 0;
    while two.heard.is_empty() {
        sent += 1;
        bob.say(&message(sent)).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(sent < 500, "nothing goes to the other cluster");
    }
    for n in 1..=sent {
        assert_eq!(id(&two.hear().await), n);
    }
    // From now on they go there at once, not by way of the other cluster's queue.
    let start = Instant::now();
    for n in sent + 1..sent + 20 {
        bob.say(&message(n)).await;
        assert_eq!(id(&two.hear().await), n);
    }
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// To a room of the chat alias instead of a user of the domain.
fn to_room(n: usize) -> String {
    message(n).replace("alice@coluc.com", "room@conf.coluc.com")
}

#[rstest]
// Each its own domain: what is for the one that is down goes to nobody else.
#[case::apart(&["coluc.com"], &["conf.coluc.com"], None)]
// The other one serves all: it takes what is for the one that is down.
#[case::peers(&[], &["conf.coluc.com"], Some(0))]
#[tokio::test]
async fn of_two_clusters_each_gets_its_domains_and_a_peer_takes_over(
    #[case] of_first: &[&str],
    #[case] of_second: &[&str],
    #[case] takes_over: Option<usize>,
) {
    let domains = |names: &[&str]| names.iter().map(|n| Domain::parse(n).unwrap()).collect();
    let peer = Peer::new("vngtp.lab").await;
    let (first, second) = (Router::new().await, Router::new().await);
    let mut both = config(&[&peer], &[&first]);
    let mut other = config(&[], &[&second]).routers.remove(0);
    other.name = "other".to_owned();
    other.domains = domains(of_second);
    both.routers[0].domains = domains(of_first);
    // The one that serves fewer domains first: of those that serve one, the first with a link takes it.
    both.routers.insert(0, other);
    let mut live = live(both);
    live.router_secrets.push(live.router_secrets[0].clone());
    let lab = Lab::start(live);
    let (mut one, mut two) = (first.accept().await, second.accept().await);
    let mut user = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let mut room = peer.open_authenticated(lab.s2s, "conf.coluc.com").await;
    for n in 0..3 {
        user.say(&message(n)).await;
        assert_eq!(id(&one.hear().await), n);
        room.say(&to_room(n)).await;
        assert_eq!(id(&two.hear().await), n);
    }
    drop(second);
    two.cut().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    room.say(&to_room(10)).await;
    if takes_over.is_some() {
        assert!(one.hear().await.contains("room@conf.coluc.com"));
    }
    user.say(&message(11)).await;
    let heard = one.hear().await;
    assert_eq!(id(&heard), 11, "{heard}");
}

#[tokio::test]
async fn more_reports_than_a_queue_takes_are_all_told() {
    // What may be in flight before anything is proven.
    const COUNT: usize = 3000;
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    link.echo.store(false, Ordering::SeqCst);
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let text: String = (0..COUNT).map(message).collect();
    bob.say(&text).await;
    ids(&mut link, COUNT).await;
    link.cut().await;
    // Many, of which each is an error of its own.
    let mut back = peer.accept_authenticated("coluc.com").await;
    for n in 0..COUNT {
        assert_eq!(id(&back.hear("</message>").await), n);
    }
}

#[tokio::test]
async fn a_router_that_sends_only_what_must_be_refused_is_served_and_stays_linked() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let body = "y".repeat(200);
    let refused = format!("<message from='alice@coluc.com' to='x@evil.example' id='0'><body>{body}</body></message>");
    // 9 MB at once, whose answers fill more than one window; this router reads nothing while it
    // writes.
    for _ in 0..30 {
        link.say(&refused.repeat(1000));
    }
    for _ in 0..30_000 {
        assert!(link.hear().await.contains("<not-allowed "));
    }
    lab.link(LinkState::Up).await;
    let _stream = link.opens(&peer, "good").await;
}

#[rstest]
#[case::larger_than_the_largest("<body>x</body>".repeat(30_000))]
#[case::a_megabyte("x".repeat(1_000_000))]
#[case::one_that_would_grow_beyond_reason(format!(
    "<c:x xmlns:c='jabber:component:accept' xmlns:p='{}'>{}</c:x>",
    "n".repeat(100_000),
    "<p:a/>".repeat(20_000)
))]
#[tokio::test]
async fn a_stanza_that_peers_may_not_get_is_answered_and_the_link_lives(#[case] inside: String) {
    let (_lab, peer, _router, mut link) = Lab::with_link().await;
    link.say(&format!(
        "<message from='alice@coluc.com' to='bob@vngtp.lab' id='large'>{inside}</message>"
    ));
    let error = link.hear().await;
    assert!(error.contains("<policy-violation "), "{error}");
    assert_eq!(attribute(&error, "message", "id"), "large");
    link.say(&to_bob("after"));
    let mut stream = peer.accept_authenticated("coluc.com").await;
    let heard = stream.hear("/>").await;
    assert!(heard.contains("id='after'"), "{heard}");
}

#[rstest]
#[case::deep(format!("{}{}", "<a>".repeat(200), "</a>".repeat(200)))]
#[case::wide(format!("<a{}/>", (0..200).map(|n| format!(" a{n}=''")).collect::<String>()))]
#[tokio::test]
async fn the_bounds_on_peers_are_not_put_on_the_router(#[case] inside: String) {
    let (_lab, peer, _router, link) = Lab::with_link().await;
    let stanza = format!("<message from='alice@coluc.com' to='bob@vngtp.lab' id='odd'>{inside}</message>");
    link.say(&stanza);
    let mut stream = peer.accept_authenticated("coluc.com").await;
    assert_eq!(stream.hear("</message>").await, stanza);
}
