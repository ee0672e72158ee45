//! The orderly stop: whatever is under way is delivered or reported.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use xmpp_federation_core::edge_config::FINISH_AT_MOST;

use crate::support::{self, Lab, Peer, Router, attribute, config, live, to_alice, to_bob};

#[tokio::test]
async fn every_message_of_both_sides_is_delivered_or_reported_while_both_write() {
    const COUNT: usize = 500;
    let (mut lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let mut inward = link.opens(&peer, "first").await;

    let (sent, mut stop) = tokio::sync::mpsc::unbounded_channel();
    let writing = tokio::spawn(async move {
        for n in 0..COUNT {
            bob.say(&to_alice(format!("b{n}"))).await;
            let _ = sent.send(());
            if n % 50 == 49 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        // Prosody answers the end of a stream with its own, after what it had queued.
        bob.hear("<system-shutdown ").await;
        bob.hear("</stream:stream>").await;
        bob.say("</stream:stream>").await;
        bob.hear_end().await;
    });
    for n in 0..COUNT {
        link.say(&to_bob(format!("a{n}")));
    }
    for _ in 0..COUNT / 2 {
        stop.recv().await;
    }
    lab.begin_stop();
    let (mut to_alice, mut to_bob) = (HashSet::new(), HashSet::new());
    let router_side = async {
        loop {
            let stanza = link.hear().await;
            if stanza.starts_with("</stream:stream") {
                link.say("</stream:stream>");
                link.say("");
                return;
            }
            to_alice.insert(attribute(&stanza, "message", "id"));
        }
    };
    let bob_side = async {
        while to_bob.len() < COUNT {
            to_bob.insert(attribute(&inward.hear("/>").await, "message", "id"));
        }
        inward.hear("</stream:stream>").await;
        inward.say("</stream:stream>").await;
    };
    tokio::join!(router_side, bob_side);
    writing.await.unwrap();
    lab.stopped().await;
    assert_eq!(to_alice.len(), COUNT, "delivered to alice");
    assert_eq!(to_bob.len(), COUNT, "delivered to bob");
}

#[tokio::test]
async fn errors_that_come_up_after_the_links_were_closed_reach_the_router_over_a_new_link() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let config = config(&[&peer], &[&router]);
    drop(peer);
    let mut lab = Lab::start(live(config));
    let mut link = router.accept().await;
    link.say(&to_bob("lost"));
    tokio::time::timeout(support::PATIENCE, async {
        while lab.edge.registry.failing_partners().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    lab.begin_stop();
    link.ends().await;
    let (tcp, _) = tokio::time::timeout(Duration::from_secs(25), router.listener.accept())
        .await
        .expect("no new link for the error")
        .unwrap();
    let mut again = support::Speaker::new(tcp);
    again.hear("to='").await;
    again.say("<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' from='x' id='y'>").await;
    again.hear("</handshake>").await;
    again.say("<handshake/>").await;
    let error = again.hear("</message>").await;
    assert_eq!(attribute(&error, "message", "id"), "lost");
    assert!(error.contains("type='error'"), "{error}");
    let ping = again.hear("</iq>").await;
    again.say(&ping).await;
    again.hear("</stream:stream>").await;
    again.say("</stream:stream>").await;
    again.hear_end().await;
    drop(again);
    lab.stopped().await;
}

#[tokio::test]
async fn an_idle_edge_stops_at_once() {
    let (mut lab, _peer, _router, mut link) = Lab::with_link().await;
    assert!(!lab.edge.draining());
    lab.begin_stop();
    assert_eq!(link.hear().await, "</stream:stream>");
    assert!(lab.edge.draining());
    link.say("</stream:stream>");
    link.say("");
    tokio::time::timeout(Duration::from_secs(5), lab.stopped())
        .await
        .unwrap();
}

/// A message that a peer took and of which it does not say, when its stream is closed, that it read
/// it; the link is closed by then.
async fn unconfirmed(lab: &mut Lab, peer: &Peer, mut link: support::RouterLink) -> support::Speaker {
    let mut bob = link.opens(peer, "unread").await;
    lab.begin_stop();
    link.ends().await;
    bob.hear("</stream:stream>").await;
    bob
}

#[tokio::test]
async fn what_a_peer_does_not_confirm_at_the_very_end_is_reported_over_a_new_link() {
    let (mut lab, peer, router, link) = Lab::with_link().await;
    let _silent = unconfirmed(&mut lab, &peer, link).await;
    let mut again = router.accept_stream().await;
    let error = again.hear("</message>").await;
    assert_eq!(attribute(&error, "message", "id"), "unread");
    assert!(error.contains("type='error'"), "{error}");
    assert!(error.contains("may have arrived"), "{error}");
    let ping = again.hear("</iq>").await;
    // What a router says now finds no stream any more, and its sender is told.
    again.say(&to_bob("late")).await;
    let late = again.hear("</message>").await;
    assert_eq!(attribute(&late, "message", "id"), "late");
    assert!(late.contains("type='error'"), "{late}");
    again.say(&ping).await;
    let ping = again.hear("</iq>").await;
    again.say(&ping).await;
    again.hear("</stream:stream>").await;
    again.say("</stream:stream>").await;
    again.hear_end().await;
    drop(again);
    lab.stopped().await;
}

#[tokio::test]
async fn what_nobody_can_be_told_any_more_is_counted_as_dropped() {
    let (mut lab, peer, router, link) = Lab::with_link().await;
    let edge = lab.edge.clone();
    let _silent = unconfirmed(&mut lab, &peer, link).await;
    drop(router);
    lab.stopped().await;
    let text = edge.metrics.render(&edge.registry);
    let dropped = "xmpp_edge_stanzas_dropped_total{cause=\"link-down\"} 1";
    assert!(text.contains(dropped), "{text}");
}

#[tokio::test]
async fn a_router_that_never_closes_its_link_does_not_hold_up_the_end() {
    let (mut lab, peer, router, link) = Lab::with_link().await;
    let began = Instant::now();
    let _silent = unconfirmed(&mut lab, &peer, link).await;
    let _again = router.accept_stream().await;
    lab.stopped().await;
    // A busy machine may be late.
    let most = FINISH_AT_MOST + Duration::from_secs(1);
    assert!(began.elapsed() < most, "{:?}", began.elapsed());
}
