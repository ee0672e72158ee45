//! What comes back from an XCP router although it accepts the link, as `/status` tells it.

use std::time::Duration;

use xmpp_federation_core::edge_status::{LinkState, LinkStatus, ReturnedStanzas};

use crate::support::{Lab, RouterLink, attribute};

const ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";

fn link_of(lab: &Lab) -> LinkStatus {
    lab.edge.registry.links().pop().expect("one link")
}

fn returned(lab: &Lab) -> Option<ReturnedStanzas> {
    link_of(lab).returned
}

fn message(to: &str, n: u32) -> String {
    format!("<message from='bob@vngtp.lab' to='{to}' id='{n}'><body>x</body></message>")
}

/// The router returns the next message.
async fn bounce(link: &mut RouterLink, condition: &str) {
    let stanza = link.hear().await;
    let (from, to) = (
        attribute(&stanza, "message", "from"),
        attribute(&stanza, "message", "to"),
    );
    link.say(&format!(
        "<message type='error' from='{to}' to='{from}'><body>x</body><error type='cancel'><{condition} xmlns='{ERRORS}'/></error></message>"
    ));
}

#[tokio::test]
async fn a_router_that_returns_everything_shows_and_a_new_link_begins_anew() {
    let (lab, peer, router, mut link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    assert_eq!(returned(&lab), None);
    for n in 0..5 {
        bob.say(&message("alice@coluc.com", n)).await;
        bounce(&mut link, "remote-server-not-found").await;
    }
    lab.until("all five came back", |lab| {
        returned(lab).is_some_and(|told| told.returned == 5)
    })
    .await;
    let early = returned(&lab).unwrap();
    assert!(!early.everything, "too soon to tell: {early:?}");
    tokio::time::sleep(Duration::from_secs(4)).await;
    lab.until("everything", |lab| returned(lab).is_some_and(|told| told.everything))
        .await;
    let told = returned(&lab).unwrap();
    assert_eq!((told.sent, told.returned), (5, 5));
    assert_eq!(told.condition, "remote-server-not-found");
    assert_eq!(link_of(&lab).state, LinkState::Up);
    lab.counts("stanzas_returned_total{condition=\"remote-server-not-found\"}", 5);
    let gauge = "xmpp_edge_link_returns_everything{router=\"main\",node=\"node0\"}";
    lab.counts(gauge, 1);

    // The router is restarted.
    let since = link_of(&lab).since;
    link.cut().await;
    lab.until("the link is down", |lab| link_of(lab).state != LinkState::Up)
        .await;
    let last_up = link_of(&lab).last_up.expect("it was up");
    assert_eq!(last_up.from, since);
    assert!(last_up.until > last_up.from);
    let _link = router.accept().await;
    lab.until("the link is up", |lab| link_of(lab).state == LinkState::Up)
        .await;
    let now = link_of(&lab);
    assert_eq!((now.returned, now.last_up), (None, None));
    lab.counts(gauge, 0);
}

#[tokio::test]
async fn users_who_are_away_are_not_the_router() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    for n in 0..20 {
        bob.say(&message("alice@coluc.com", n)).await;
        bounce(&mut link, "service-unavailable").await;
    }
    lab.until("all came back", |lab| {
        returned(lab).is_some_and(|told| told.returned == 20)
    })
    .await;
    // One user only, however often and long.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let told = returned(&lab).unwrap();
    assert!(!told.everything, "{told:?}");
    // Somebody else gets a message: it is not said any more that nothing was taken.
    bob.say(&message("carol@coluc.com", 1)).await;
    link.hear().await;
    lab.until("something was taken", |lab| returned(lab).is_none()).await;
}

#[tokio::test]
async fn an_answered_request_ends_it_at_once() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say(&message("alice@coluc.com", 1)).await;
    bounce(&mut link, "internal-server-error").await;
    lab.until("it came back", |lab| returned(lab).is_some()).await;
    bob.say("<iq type='get' from='bob@vngtp.lab/x' to='coluc.com' id='v'><query xmlns='jabber:iq:version'/></iq>")
        .await;
    link.hear().await;
    link.say("<iq type='result' from='coluc.com' to='bob@vngtp.lab/x' id='v'/>");
    lab.until("something was taken", |lab| returned(lab).is_none()).await;
    // Presence is dropped in silence by many servers, so it counts neither way.
    bob.say("<presence from='bob@vngtp.lab/x' to='alice@coluc.com'/>").await;
    link.hear().await;
    link.say(&format!("<presence type='error' from='alice@coluc.com' to='bob@vngtp.lab/x'><error type='cancel'><item-not-found xmlns='{ERRORS}'/></error></presence>"));
    bob.say(&message("alice@coluc.com", 2)).await;
    bounce(&mut link, "internal-server-error").await;
    lab.until("it came back", |lab| returned(lab).is_some()).await;
    assert_eq!(returned(&lab).unwrap().returned, 1);
}
