//! Reloads while messages flow both ways: nothing is lost or doubled, and what is not allowed any
//! more ends.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rstest::rstest;
use xmpp_federation_core::SecretBytes;
use xmpp_federation_core::edge_config::{EdgeConfig, PrivacyMode};
use xmpp_federation_edge::config::Live;
use xmpp_federation_edge::dialback::DialbackSecrets;

use crate::support::{Lab, Peer, Router, attribute, config, live, terms, to_alice, to_bob};

/// The configuration of one reload; `n` counts them.
type Change = fn(EdgeConfig, usize) -> Live;

/// A new certificate comes with every reload, since the lab makes one each time.
fn certificate(config: EdgeConfig, _: usize) -> Live {
    live(config)
}

fn secrets(config: EdgeConfig, n: usize) -> Live {
    let secret = |n: usize| SecretBytes::new(format!("secret-{n}-{}", "x".repeat(32)).into_bytes());
    Live {
        dialback: DialbackSecrets::new(secret(n), vec![secret(n + 1)]),
        router_secrets: vec![secret(n)],
        ..live(config)
    }
}

fn lists(mut config: EdgeConfig, n: usize) -> Live {
    config.privacy.mode = match n % 3 {
        0 => PrivacyMode::AllowList,
        1 => PrivacyMode::AllowAll,
        _ => PrivacyMode::DenyList,
    };
    config.privacy.domains = vec![format!("d{n}.example").parse().unwrap()];
    live(config)
}

fn routes(mut config: EdgeConfig, n: usize) -> Live {
    // Streams that are open stay where they are.
    config.partners[0].route[0].host = format!("192.0.2.{}", n % 250);
    config
        .partners
        .push(terms(&format!("r{n}.example"), "route: [{host: 192.0.2.1}]"));
    live(config)
}

fn domains(mut config: EdgeConfig, n: usize) -> Live {
    config.domains.retain(|domain| domain.as_str() == "coluc.com");
    config.domains.push(format!("new{n}.coluc.com").parse().unwrap());
    live(config)
}

/// Twenty messages in a millisecond; `prefix`: how their ids begin.
async fn alice_writes(said: impl Fn(&str), count: usize, prefix: &str) {
    for n in 0..count {
        said(&format!(
            "<message from='alice@coluc.com' to='bob@vngtp.lab' id='{prefix}{n}'><body>x</body></message>"
        ));
        if n % 20 == 19 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[rstest]
#[case::certificate(certificate)]
#[case::secrets(secrets)]
#[case::lists(lists)]
#[case::routes(routes)]
#[case::domains(domains)]
#[tokio::test]
async fn no_stanza_is_lost_or_doubled_when_something_is_reloaded_under_traffic(#[case] change: Change) {
    const COUNT: usize = 4000;
    const RELOADS: usize = 20;
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let start = config(&[&peer], &[&router]);
    let lab = Lab::start(live(start.clone()));
    let mut link = router.accept().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let mut inward = link.opens(&peer, "first").await;

    let alice = tokio::spawn(alice_writes(link.sayer(), COUNT, ""));
    let writing = tokio::spawn(async move {
        for n in 0..COUNT {
            bob.say(&format!(
                "<message from='bob@vngtp.lab' to='alice@coluc.com' id='{n}'><body>x</body></message>"
            ))
            .await;
            if n % 20 == 19 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        bob
    });
    let ids = |n: usize| n.to_string();
    let mut reloads = 0;
    for n in 0..COUNT {
        assert_eq!(attribute(&link.hear().await, "message", "id"), ids(n));
        let message = inward.hear("</message>").await;
        assert_eq!(attribute(&message, "message", "id"), ids(n));
        if n % (COUNT / RELOADS) == COUNT / RELOADS / 2 {
            lab.live.send(Arc::new(change(start.clone(), reloads))).unwrap();
            reloads += 1;
        }
    }
    assert_eq!(reloads, RELOADS);
    alice.await.unwrap();
    let mut bob = writing.await.unwrap();
    // Nothing more came, and the streams and the link live.
    bob.say(&to_alice("last")).await;
    assert!(link.hear().await.contains("id='last'"));
    link.say(&to_bob("last"));
    assert!(inward.hear("/>").await.contains("id='last'"));
    let counts = lab.edge.registry.counts();
    assert_eq!((counts.inbound, counts.outbound), (1, 1));
}

#[tokio::test]
async fn when_a_domain_is_denied_under_traffic_what_is_in_flight_is_delivered_or_reported() {
    const COUNT: usize = 3000;
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let allowed = config(&[&peer], &[&router]);
    let lab = Lab::start(live(allowed.clone()));
    let mut link = router.accept().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let mut inward = link.opens(&peer, "first").await;
    let alice = tokio::spawn(alice_writes(link.sayer(), COUNT, "a"));
    let writing = tokio::spawn(async move {
        for n in 0..COUNT {
            let text = format!("<message from='bob@vngtp.lab' to='alice@coluc.com' id='b{n}'><body>x</body></message>");
            if bob.try_say(text.as_bytes()).await.is_err() {
                break;
            }
            if n % 20 == 19 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        bob
    });
    // What alice's messages became: taken by bob's server, or answered.
    let reading = tokio::spawn(async move {
        let mut text = String::new();
        for _ in 0..COUNT / 3 {
            text += &inward.hear("</message>").await;
        }
        (text, inward)
    });
    let (text, mut inward) = reading.await.unwrap();
    let mut denied = allowed;
    denied.partners.clear();
    lab.live.send(Arc::new(live(denied))).unwrap();
    let rest = inward.hear_end().await;
    assert!(
        rest.contains("<policy-violation "),
        "the stream is closed with a reason"
    );
    let taken: HashSet<_> = (text + &rest)
        .split("</message>")
        .filter(|piece| piece.contains("<message "))
        .map(|piece| attribute(piece, "message", "id"))
        .collect();
    let (mut delivered, mut answered) = (Vec::new(), HashSet::new());
    tokio::time::timeout(Duration::from_secs(30), async {
        while (0..COUNT).any(|n| {
            let id = format!("a{n}");
            !taken.contains(&id) && !answered.contains(&id)
        }) {
            let stanza = link.hear().await;
            let id = attribute(&stanza, "message", "id");
            if attribute(&stanza, "message", "from").starts_with("bob@") && id.starts_with('b') {
                delivered.push(id);
            } else {
                assert!(stanza.contains("type='error'"), "{stanza}");
                answered.insert(id);
            }
        }
    })
    .await
    .expect("a message of alice's vanished");
    alice.await.unwrap();
    let mut bob = writing.await.unwrap();
    assert!(bob.hear_end().await.contains("<policy-violation "));
    // Of bob's, everything up to the end of his stream was taken, and nothing behind it.
    while let Ok(stanza) = link.heard.try_recv() {
        let id = attribute(&stanza, "message", "id");
        if id.starts_with('b') {
            delivered.push(id);
        }
    }
    let expected: Vec<_> = (0..delivered.len()).map(|n| format!("b{n}")).collect();
    assert_eq!(delivered, expected);
}

#[tokio::test]
async fn a_cluster_that_a_reload_takes_away_delivers_what_it_has_and_reports_the_rest() {
    const COUNT: usize = 3000;
    let (peer, first, second) = (Peer::new("vngtp.lab").await, Router::new().await, Router::new().await);
    let before = config(&[&peer], &[&first]);
    let lab = Lab::start(live(before));
    let mut one = first.accept().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let writer = tokio::spawn(async move {
        for n in 0..COUNT {
            bob.say(&to_alice(n)).await;
        }
        bob
    });
    let mut seen = HashSet::new();
    for _ in 0..COUNT / 3 {
        seen.insert(attribute(&one.hear().await, "message", "id"));
    }
    let mut after = config(&[&peer], &[&second]);
    after.routers[0].name = "other".to_owned();
    lab.live.send(Arc::new(live(after))).unwrap();
    let mut two = second.accept().await;
    let (tx, mut reported) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut back = peer.accept_authenticated("coluc.com").await;
        loop {
            let _ = tx.send(attribute(&back.hear("/>").await, "message", "id"));
        }
    });
    let mut closed = false;
    tokio::time::timeout(Duration::from_secs(20), async {
        while seen.len() < COUNT {
            tokio::select! {
                Some(stanza) = one.heard.recv(), if !closed => {
                    if stanza == "</stream:stream>" {
                        closed = true;
                    } else {
                        seen.insert(attribute(&stanza, "message", "id"));
                    }
                }
                Some(stanza) = two.heard.recv() => {
                    seen.insert(attribute(&stanza, "message", "id"));
                }
                Some(id) = reported.recv() => { seen.insert(id); }
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{} messages vanished", COUNT - seen.len()));
    let _bob = writer.await.unwrap();
}
