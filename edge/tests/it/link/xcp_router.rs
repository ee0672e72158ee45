//! What a real router of profile Xcp says on a link, by the facts of a public capture of Jabber
//! XCP 7.7: it never announces a component to itself, and says much that is no user's stanza.

use std::sync::Arc;

use xmpp_federation_core::edge_config::{EdgeConfig, LinkProfile};
use xmpp_federation_core::edge_status::{LinkState, LinkStatus};

use crate::support::{COMPONENT, Lab, Peer, Router, RouterLink, config, live};

/// Another replica's component id.
const SIBLING: &str = "cm-2_s2scp-1.eft-xwye-a-1-coluc-com";
const SCHEMA: &str = "http://www.jabber.com/schemas/component-presence.xsd";

fn xcp(peers: &[&Peer], routers: &[&Router]) -> EdgeConfig {
    let mut config = config(peers, routers);
    config.routers[0].profile = LinkProfile::Xcp;
    config.routers[0].component_ids.push(SIBLING.parse().unwrap());
    config
}

async fn links(lab: &Lab, what: &str, hold: impl Fn(&[LinkStatus]) -> bool) -> Vec<LinkStatus> {
    lab.until(what, |lab| hold(&lab.edge.registry.links())).await;
    lab.edge.registry.links()
}

/// A router's announcement of another component, as it stands in the capture's kind.
fn presence(of: &str, inside: &str) -> String {
    format!(
        "<presence from='{of}' to='presence@-internal' sequence='7:1203010001' \
         config-ns='config-manager' comp-id='{of}'><x xmlns='{SCHEMA}' protocol-version='1.1'>\
         <local-hosts><host>{of}</host></local-hosts>{inside}</x></presence>"
    )
}

fn wrapped(stanza: &str) -> String {
    format!("<route from='bob@vngtp.lab' to='alice@coluc.com' type='session'>{stanza}</route>")
}

#[tokio::test]
async fn after_the_conversation_of_a_real_router_the_link_is_up_and_carries_both_ways() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let lab = Lab::start(live(xcp(&[&peer], &[&router])));
    let mut speaker = router.accept_xcp_stream().await;
    // Those that are there already, before and after our own announcement; never ourselves.
    for of in ["config-1.jabber", "jsm-1.jabber", "cm-1.jabber"] {
        speaker.say(&presence(of, "")).await;
    }
    speaker
        .say(&format!(
            "<xdb from='config@-internal' to='{COMPONENT}' id='9' ns='config-manager' type='set' \
             sequence='8:1203010001'><config id='{COMPONENT}'/></xdb>"
        ))
        .await;
    speaker
        .say(&format!(
            "<route from='cm-3.jabber' to='{COMPONENT}' type='component-presence'>{}</route>",
            presence("cm-3.jabber", "<default-gateway/>")
        ))
        .await;
    let mut link = RouterLink::start(speaker);

    let links = links(&lab, "the link is up", |links| links[0].state == LinkState::Up).await;
    assert!(links[0].announced.is_none(), "{:?}", links[0]);
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let question = "<message from='bob@vngtp.lab' to='alice@coluc.com' id='1'><body>x</body></message>";
    bob.say(question).await;
    assert_eq!(link.hear().await, wrapped(question));
    let answer = "<message from='alice@coluc.com/r' to='bob@vngtp.lab' id='2'><body>y</body></message>";
    link.say(&format!(
        "<route from='alice@coluc.com/r' to='bob@vngtp.lab' type='session' sequence='9:1203010001'>{answer}</route>"
    ));
    let mut back = peer.accept_authenticated("coluc.com").await;
    assert_eq!(back.hear("</message>").await, answer);
    lab.counts("router_elements_dropped_total{element=\"announcement\"}", 4);
    lab.counts("router_elements_dropped_total{element=\"xdb\"}", 1);
}

#[tokio::test]
async fn others_that_are_announced_before_the_handshake_is_answered_disturb_nothing() {
    let router = Router::new().await;
    let lab = Lab::start(live(xcp(&[], &[&router])));
    let (tcp, _) = router.listener.accept().await.unwrap();
    let mut speaker = crate::support::Speaker::new(tcp);
    speaker.hear("version='1.0'>").await;
    let manager = presence("cm-1.jabber", "");
    speaker
        .say(&format!(
            "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' xmlns='jabber:component:accept' \
             from='{COMPONENT}' id='65f0c3a1'><stream:features/>{manager}"
        ))
        .await;
    speaker.hear("</handshake>").await;
    speaker.say(&format!("{manager}<handshake/>{manager}")).await;
    speaker.hear("</presence></route>").await;
    links(&lab, "the link is up", |links| links[0].state == LinkState::Up).await;
    lab.until("all are counted", |lab| {
        lab.metric("xmpp_edge_router_elements_dropped_total{element=\"announcement\"}") == 3
    })
    .await;
}

/// What the operator joins: each replica sees the others' announcements, over each node's link.
#[tokio::test]
async fn other_replicas_announcements_are_told_by_the_link_that_saw_them_and_end_with_it() {
    let (first, second) = (Router::new().await, Router::new().await);
    let lab = Lab::start(live(xcp(&[], &[&first, &second])));
    let (mut one, two) = (first.accept_xcp().await, second.accept_xcp().await);
    one.say(&presence(SIBLING, ""));
    two.say(&presence(SIBLING, "<default-gateway/>"));
    one.say(&presence("cm-9_s2scp-1.elsewhere", "<default-gateway/>"));
    let seen = links(&lab, "both are seen", |links| {
        links.iter().all(|link| link.sightings.len() == 1)
    })
    .await;
    for (link, gateway) in seen.iter().zip([false, true]) {
        assert_eq!(link.state, LinkState::Up, "{link:?}");
        assert!(link.announced.is_none() && link.open_seconds.is_some());
        let sighting = &link.sightings[0];
        assert_eq!(sighting.component_id.as_str(), SIBLING);
        assert_eq!(sighting.announced.gateway, gateway);
    }
    let status = serde_json::to_value(&seen[1]).unwrap();
    assert_eq!(status["sightings"][0]["componentId"], SIBLING);
    assert_eq!(status["sightings"][0]["gateway"], true);
    let _ = one.cut().await;
    one = first.accept_xcp().await;
    let again = links(&lab, "the link is back", |links| {
        links[0].state == LinkState::Up && links[0].sightings.is_empty()
    })
    .await;
    assert_eq!(again[1].sightings.len(), 1);
    drop(one);
}

#[tokio::test]
async fn with_three_nodes_what_is_passed_on_of_ourselves_is_told_and_held_against_nobody() {
    let routers = [Router::new().await, Router::new().await, Router::new().await];
    let lab = Lab::start(live(xcp(&[], &routers.each_ref())));
    let mut all = Vec::new();
    for router in &routers {
        all.push(router.accept_xcp().await);
    }
    all[2].say(&presence(COMPONENT, ""));
    let seen = links(&lab, "it is seen", |links| !links[2].sightings.is_empty()).await;
    assert!(seen.iter().all(|link| link.state == LinkState::Up));
    assert!(seen.iter().all(|link| link.announced.is_none()));
    assert_eq!(seen[2].sightings[0].component_id.as_str(), COMPONENT);
}

/// Review of the order: a reload decides which node is preferred, also among links that stand.
#[tokio::test]
async fn the_order_of_nodes_follows_a_reload_while_links_stand() {
    let peer = Peer::new("vngtp.lab").await;
    let (first, second) = (Router::new().await, Router::new().await);
    let third = Router::new().await;
    let before = config(&[&peer], &[&first, &second]);
    let mut after = before.clone();
    after.routers[0].endpoints.reverse();
    let lab = Lab::start(live(before.clone()));
    let (mut one, mut two) = (first.accept().await, second.accept().await);
    links(&lab, "both are up", |links| {
        links.iter().all(|link| link.state == LinkState::Up)
    })
    .await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let message = |n: usize| format!("<message from='bob@vngtp.lab' to='alice@coluc.com' id='{n}'/>");
    bob.say(&message(0)).await;
    assert_eq!(one.hear().await, message(0));
    lab.live.send(Arc::new(live(after))).unwrap();
    lab.until("the second node is preferred", |lab| {
        let links = lab.edge.registry.links();
        links[0].node == "node1" && links[1].node == "node0"
    })
    .await;
    bob.say(&message(1)).await;
    assert_eq!(two.hear().await, message(1));
    // One that is new and put first takes as soon as it is there.
    let mut newest = config(&[&peer], &[&third, &first, &second]);
    newest.routers[0].endpoints[0].name = "node9".to_owned();
    newest.routers[0].endpoints[1].name = "node0".to_owned();
    newest.routers[0].endpoints[2].name = "node1".to_owned();
    lab.live.send(Arc::new(live(newest))).unwrap();
    let mut three = third.accept().await;
    links(&lab, "all are up", |links| {
        links.len() == 3 && links.iter().all(|link| link.state == LinkState::Up)
    })
    .await;
    bob.say(&message(2)).await;
    assert_eq!(three.hear().await, message(2));
}
