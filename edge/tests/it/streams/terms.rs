//! The terms of single remote domains (rates, sizes), XEP-0478 both ways, and that one peer's
//! flood is not another peer's problem.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use xmpp_federation_core::edge_config::EdgeConfig;
use xmpp_federation_edge::router::Timing;

use crate::support::{
    KEY, Lab, PATIENCE, Peer, Router, RouterLink, Speaker, VALID, attribute, config, give_terms, header, live, terms,
    to_bob, verified,
};

fn message(from: &str, id: &str, body: usize) -> String {
    let body = "x".repeat(body);
    format!("<message from='u@{from}' to='alice@coluc.com' id='{id}'><body>{body}</body></message>")
}

async fn heard(link: &mut RouterLink, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(attribute(&link.hear().await, "message", "id"));
    }
    ids
}

async fn two_peers(change: impl FnOnce(&mut EdgeConfig)) -> (Lab, Peer, Peer, RouterLink) {
    let (peer, other) = (Peer::new("vngtp.lab").await, Peer::new("other.example").await);
    let router = Router::new().await;
    let mut config = config(&[&peer, &other], &[&router]);
    change(&mut config);
    let lab = Lab::start(live(config));
    let link = router.accept().await;
    (lab, peer, other, link)
}

#[tokio::test]
async fn a_peer_above_its_rate_is_read_no_faster_and_nothing_is_lost() {
    let (lab, peer, other, mut link) = two_peers(|config| {
        give_terms(config, terms("vngtp.lab", "limits: {messagesPerSecond: 50}"));
    })
    .await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let mut eve = other.open_authenticated(lab.s2s, "coluc.com").await;
    let start = Instant::now();
    let text: String = (0..100).map(|n| message("vngtp.lab", &n.to_string(), 10)).collect();
    bob.say(&text).await;
    let mut ids = heard(&mut link, 50).await;
    eve.say(&message("other.example", "other", 10)).await;
    ids.extend(heard(&mut link, 51).await);
    // A burst of one second at once, the other half within the second after it.
    assert!(start.elapsed() >= Duration::from_millis(950));
    assert_ne!(ids.last().unwrap(), "other", "others wait for nobody");
    ids.retain(|id| id != "other");
    assert_eq!(ids, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn all_streams_of_a_peer_share_its_rate_in_bytes() {
    let (lab, peer, _other, mut link) = two_peers(|config| {
        give_terms(config, terms("vngtp.lab", "limits: {bytesPerSecond: 20000}"));
    })
    .await;
    let mut one = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let (mut two, id) = peer.open(lab.s2s, "coluc.com").await;
    two.say(KEY).await;
    let mut verifying = peer.accept_question().await;
    verifying.say(&verified("vngtp.lab", "coluc.com", &id, "valid")).await;
    two.hear("type='valid'/>").await;
    let start = Instant::now();
    for n in 0..20 {
        let text = message("vngtp.lab", &n.to_string(), 900);
        one.say(&text).await;
        two.say(&text).await;
    }
    heard(&mut link, 40).await;
    // 40 kB: one second's worth at once, the rest in another second.
    assert!(start.elapsed() >= Duration::from_millis(900));
}

#[tokio::test]
async fn what_a_slow_peer_has_sent_is_delivered_when_the_edge_stops() {
    let (mut lab, peer, _other, mut link) = two_peers(|config| {
        give_terms(config, terms("vngtp.lab", "limits: {messagesPerSecond: 1}"));
    })
    .await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let text: String = (0..100).map(|n| message("vngtp.lab", &n.to_string(), 10)).collect();
    bob.say(&text).await;
    heard(&mut link, 1).await;
    lab.begin_stop();
    heard(&mut link, 99).await;
    let goodbye = bob.hear("</stream:stream>").await;
    assert!(goodbye.contains("<system-shutdown "), "{goodbye}");
    bob.say("</stream:stream>").await;
    link.ends().await;
    lab.stopped().await;
}

#[tokio::test]
async fn each_domain_of_a_shared_stream_has_its_own_largest_stanza() {
    let (lab, peer, other, mut link) = two_peers(|config| {
        config.limits.max_stanza_bytes = 50_000;
        give_terms(config, terms("vngtp.lab", "limits: {maxStanzaBytes: 20000}"));
        give_terms(config, terms("other.example", "limits: {maxStanzaBytes: 100000}"));
    })
    .await;
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    peer.authenticate(&mut bob, &id, "coluc.com").await;
    other.authenticate(&mut bob, &id, "coluc.com").await;
    bob.say(&message("other.example", "large", 99_000)).await;
    bob.say(&message("vngtp.lab", "small", 19_000)).await;
    let mut ids = heard(&mut link, 2).await;
    ids.sort();
    assert_eq!(ids, ["large", "small"]);
    bob.say(&message("vngtp.lab", "too-large", 20_000)).await;
    let end = bob.hear("</stream:stream>").await;
    assert!(end.contains("<policy-violation "), "{end}");

    // Alone, its limit is the framer's: nothing larger is even read to its end.
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    bob.say("<db:result from='vngtp.lab' to='coluc.com'>some-key</db:result>")
        .await;
    let mut verifying = peer.accept_question().await;
    verifying.say(&verified("vngtp.lab", "coluc.com", &id, "valid")).await;
    bob.hear("type='valid'/>").await;
    let endless = message("vngtp.lab", "endless", 21_000);
    bob.say(&endless[..20_500]).await;
    let end = bob.hear("</stream:stream>").await;
    assert!(end.contains("<policy-violation "), "{end}");
}

#[tokio::test]
async fn a_limit_that_a_reload_lowers_holds_for_the_streams_that_are_open() {
    let (lab, peer, _other, mut link) = two_peers(|_| {}).await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say(&message("vngtp.lab", "before", 30_000)).await;
    heard(&mut link, 1).await;
    let mut after = lab.live.borrow().config.clone();
    give_terms(&mut after, terms("vngtp.lab", "limits: {maxStanzaBytes: 20000}"));
    lab.live.send(Arc::new(live(after))).unwrap();
    bob.say(&message("vngtp.lab", "small", 19_000)).await;
    heard(&mut link, 1).await;
    bob.say(&message("vngtp.lab", "after", 30_000)).await;
    let end = bob.hear("</stream:stream>").await;
    assert!(end.contains("<policy-violation "), "{end}");
}

#[tokio::test]
async fn our_limits_are_announced_before_and_after_tls_with_the_peers_own() {
    let (lab, _peer, _other, _link) = two_peers(|config| {
        config.limits.max_stanza_bytes = 50_000;
        config.limits.idle_timeout = "5m".parse().unwrap();
        give_terms(config, terms("vngtp.lab", "limits: {maxStanzaBytes: 20000}"));
    })
    .await;
    for (from, most) in [("vngtp.lab", 20_000), ("other.example", 50_000)] {
        let expected = format!(
            "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>{most}</max-bytes><idle-seconds>300</idle-seconds></limits>"
        );
        let mut bob = Speaker::connect(lab.s2s).await;
        let before = bob.open(&header(from, "coluc.com", "")).await;
        assert!(before.contains(&expected), "{before}");
        bob.starttls().await;
        bob.start_tls_as_client("coluc.com").await;
        let after = bob.open(&header(from, "coluc.com", "")).await;
        assert!(after.contains(&expected), "{after}");
    }
}

async fn accept_with_limits(peer: &Peer, limits: &str) -> Speaker {
    let mut stream = peer.accept_tls_with("limited").await;
    stream
        .say(&format!(
            "<stream:features><dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>\
             <limits xmlns='urn:xmpp:stream-limits:0'>{limits}</limits></stream:features>"
        ))
        .await;
    stream.hear("</db:result>").await;
    stream.say(VALID).await;
    stream
}

#[tokio::test]
async fn a_stanza_larger_than_the_peer_takes_is_answered_and_the_stream_goes_on() {
    let (_lab, peer, _router, mut link) = Lab::with_link().await;
    let to_bob = |id: &str, size: usize| {
        let start = format!("<message from='alice@coluc.com' to='bob@vngtp.lab' id='{id}'><body>");
        let end = "</body></message>";
        let body = "x".repeat(size - start.len() - end.len());
        format!("{start}{body}{end}")
    };
    for (id, size) in [("1", 300), ("2", 10_001), ("3", 10_000), ("4", 50_000), ("5", 300)] {
        link.say(&to_bob(id, size));
    }
    let limits = "<max-bytes>10000</max-bytes>";
    let mut stream = accept_with_limits(&peer, limits).await;
    for id in ["1", "3", "5"] {
        let message = stream.hear("</message>").await;
        assert_eq!(attribute(&message, "message", "id"), id);
    }
    for (id, size) in [("2", 10_001), ("4", 50_000)] {
        let error = link.hear().await;
        assert_eq!(attribute(&error, "message", "id"), id);
        assert_eq!(attribute(&error, "message", "to"), "alice@coluc.com");
        assert_eq!(attribute(&error, "error", "type"), "modify");
        assert!(error.contains("<policy-violation "), "{error}");
        let says = format!("{size} bytes, at most 10000");
        assert!(error.contains(&says), "{error}");
    }
    link.say(&to_bob("6", 300));
    assert!(stream.hear("</message>").await.contains("id='6'"));
}

#[tokio::test]
async fn an_idle_stream_is_closed_before_the_peer_would_do_it() {
    let (_lab, peer, _router, link) = Lab::with_link().await;
    link.say(&to_bob("1"));
    let mut stream = accept_with_limits(&peer, "<idle-seconds>3</idle-seconds>").await;
    stream.hear("id='1'/>").await;
    let start = Instant::now();
    assert_eq!(stream.hear("</stream:stream>").await, "</stream:stream>");
    assert!(start.elapsed() >= Duration::from_secs(2), "closed at once");
}

/// The numbers of stanzas that the edge has taken on all inbound streams.
fn stanzas(lab: &Lab) -> Vec<u64> {
    let streams = lab.edge.registry.streams(None);
    streams.iter().map(|stream| stream.detail.stanzas).collect()
}

#[tokio::test]
async fn one_message_of_each_quiet_peer_overtakes_what_a_flooding_peer_has_waiting() {
    const QUIET: usize = 20;
    let flood = Peer::new("vngtp.lab").await;
    let mut quiet = Vec::new();
    for n in 0..QUIET {
        let name: &'static str = Box::leak(format!("q{n}.example").into_boxed_str());
        quiet.push(Peer::new(name).await);
    }
    let router = Router::new().await;
    let peers: Vec<_> = std::iter::once(&flood).chain(&quiet).collect();
    // The router does not read for a while, which is no fault here.
    let patient = Timing {
        echo: Duration::from_mins(5),
        ..Timing::default()
    };
    let lab = Lab::start_with(live(config(&peers, &[&router])), patient);
    let stalled = router.accept_stream().await;

    let mut speakers = Vec::new();
    for peer in &quiet {
        speakers.push(peer.open_authenticated(lab.s2s, "coluc.com").await);
    }
    let mut bob = flood.open_authenticated(lab.s2s, "coluc.com").await;
    let written = Arc::new(AtomicUsize::new(0));
    let counter = written.clone();
    let writer = tokio::spawn(async move {
        loop {
            let n = counter.load(Ordering::SeqCst);
            let text = message("vngtp.lab", &n.to_string(), 1000);
            if bob.try_say(text.as_bytes()).await.is_err() {
                return;
            }
            counter.store(n + 1, Ordering::SeqCst);
        }
    });
    // It is paused when it gets no further.
    tokio::time::timeout(Duration::from_mins(1), async {
        loop {
            let before = written.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(500)).await;
            if before > 0 && written.load(Ordering::SeqCst) == before {
                break;
            }
        }
    })
    .await
    .expect("a flooding peer is never paused");
    let taken = usize::try_from(stanzas(&lab).into_iter().max().unwrap()).unwrap();

    for (peer, speaker) in quiet.iter().zip(&mut speakers) {
        speaker.say(&message(peer.domain, "quiet", 10)).await;
    }
    tokio::time::timeout(PATIENCE, async {
        while stanzas(&lab).iter().filter(|n| **n == 1).count() < QUIET {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("quiet peers are paused with the flooding one");

    let mut link = RouterLink::start(stalled);
    let (mut flooded, mut quiet) = (0, 0);
    while quiet < QUIET {
        match attribute(&link.hear().await, "message", "id").as_str() {
            "quiet" => quiet += 1,
            n => {
                assert_eq!(n, flooded.to_string(), "out of order");
                flooded += 1;
            }
        }
    }
    // Some megabytes of the flood had left before and could not be overtaken.
    assert!(
        flooded + 2000 < taken,
        "{flooded} of {taken} messages of the flood came first"
    );
    writer.abort();
}
