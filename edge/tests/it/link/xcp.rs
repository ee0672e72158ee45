//! Links of profile Xcp against a router written in bytes: handshake and announcement, envelopes
//! of every kind, and what is known of stanzas when such a link breaks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rstest::rstest;
use xmpp_federation_core::edge_config::{EdgeConfig, LinkProfile};
use xmpp_federation_core::edge_status::LinkState;
use xmpp_federation_edge::router::Timing;

use crate::support::{
    self, COMPONENT, GATEWAY, Lab, Peer, Router, RouterLink, announced, attribute, config_of, has, id, live, message,
};

fn config(peers: &[&Peer], routers: &[&Router]) -> EdgeConfig {
    config_of(LinkProfile::Xcp, peers, routers)
}

/// An edge with one peer and one router.
async fn with_link() -> (Lab, Peer, Router, RouterLink) {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let lab = Lab::start(live(config(&[&peer], &[&router])));
    let link = router.accept_xcp().await;
    lab.link(LinkState::Up).await;
    (lab, peer, router, link)
}

/// The envelope in which that message has to arrive.
fn wrapped(n: usize) -> String {
    format!(
        "<route from='bob@vngtp.lab' to='alice@coluc.com' type='session'>{}</route>",
        message(n)
    )
}

/// Another replica's component id.
const SIBLING: &str = "cm-2_s2scp-1.eft-xwye-a-1-coluc-com";

#[rstest]
#[case::wrapped(announced(SIBLING, GATEWAY))]
#[case::bare(format!("<presence from='{SIBLING}' to='presence@-internal'><x xmlns='urn:any'>{GATEWAY}</x></presence>"))]
#[case::bare_and_sparse(format!("<presence from='{SIBLING}' to='presence@-internal' sequence='3:1203010001' config-ns='config-manager'><default-gateway/></presence>"))]
#[case::from_another_schema(format!("<route from='presence@-internal' to='{COMPONENT}' type='component-presence'><presence from='{SIBLING}' to='cm-1.jabber'>{GATEWAY}</presence></route>"))]
#[case::others_before(announced("cm-1.jabber", "<local-hosts/>") + &announced(SIBLING, GATEWAY))]
#[case::not_yet_and_then(announced(SIBLING, "") + &announced(SIBLING, GATEWAY))]
#[case::gone_and_back(announced(SIBLING, "") + &format!("<presence from='{SIBLING}' to='presence@-internal' type='unavailable'/>") + &announced(SIBLING, GATEWAY))]
#[tokio::test]
async fn another_replicas_announcement_is_understood_in_each_form_and_stanzas_may_follow_at_once(
    #[case] announcement: String,
) {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    config.routers[0].component_ids.push(SIBLING.parse().unwrap());
    let lab = Lab::start(live(config));
    let mut speaker = router.accept_xcp_stream().await;
    let stanza = "<message from='alice@coluc.com' to='bob@vngtp.lab' id='first'/>";
    speaker
        .say(&format!("{announcement}<route type='session'>{stanza}</route>"))
        .await;
    let mut stream = peer.accept_authenticated("coluc.com").await;
    assert_eq!(stream.hear("/>").await, stanza);
    let link = lab.link(LinkState::Up).await;
    assert!(link.announced.is_none(), "{link:?}");
    let [sighting] = link.sightings.as_slice() else {
        panic!("{link:?}");
    };
    assert_eq!(sighting.component_id.as_str(), SIBLING);
    assert!(sighting.announced.gateway);
    speaker
        .say(&format!(
            "<presence from='{SIBLING}' to='presence@-internal' type='unavailable'/>"
        ))
        .await;
    lab.until("the other replica is gone", |lab| {
        lab.edge.registry.links()[0].sightings.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_router_of_the_other_profile_is_no_xcp_router() {
    let router = Router::new().await;
    let lab = Lab::start(live(config(&[], &[&router])));
    let mut speaker = router.accept_xcp_stream().await;
    speaker
        .say(
            "<stream:error><unsupported-stanza-type xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             </stream:error></stream:stream>",
        )
        .await;
    let reason = lab.link(LinkState::Failed).await.reason.unwrap();
    assert!(reason.contains("unsupported-stanza-type"), "{reason}");
}

/// What may become of a stanza from the router.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// The partner hears this.
    Leaves(&'static str),
    /// The router hears an error with this condition.
    Answered(&'static str),
    /// Nobody hears anything; it is logged.
    Dropped,
}
use Outcome::{Answered, Dropped, Leaves};

const PLAIN: &str = "<message from='alice@coluc.com' to='bob@vngtp.lab' id='1'/>";

#[rstest]
#[case::in_an_envelope(
    "<route from='alice@coluc.com' to='bob@vngtp.lab' type='session'><message from='alice@coluc.com' to='bob@vngtp.lab' id='1'/></route>",
    Leaves(PLAIN)
)]
#[case::of_another_type(
    "<route from='alice@coluc.com' to='bob@vngtp.lab' type='auth'><message from='alice@coluc.com' to='bob@vngtp.lab' id='1'/></route>",
    Leaves(PLAIN)
)]
#[case::to_the_component(
    "<route from='cm-1.jabber' to='cm-2_s2scp-1.eft-xwye-a-coluc-com' type='session'><message from='alice@coluc.com' to='bob@vngtp.lab' id='1'/></route>",
    Leaves(PLAIN)
)]
#[case::to_the_domain(
    "<route from='coluc.com' to='VNGTP.lab' type='session'><message from='alice@coluc.com' to='bob@vngtp.lab' id='1'/></route>",
    Leaves(PLAIN)
)]
#[case::without_addresses(
    "<route><message from='alice@coluc.com' to='bob@vngtp.lab' id='1'/></route>",
    Leaves(PLAIN)
)]
#[case::white_space_around(
    "<route type='session'>\n <message from='alice@coluc.com' to='bob@vngtp.lab' id='1'/>\t</route>",
    Leaves(PLAIN)
)]
#[case::not_in_an_envelope(PLAIN, Leaves(PLAIN))]
#[case::an_iq_without_envelope(
    "<iq from='alice@coluc.com/r' to='bob@vngtp.lab' type='get' id='1'><q xmlns='urn:q'/></iq>",
    Leaves("<iq from='alice@coluc.com/r' to='bob@vngtp.lab' type='get' id='1'><q xmlns='urn:q'/></iq>")
)]
#[case::presence(
    "<route type='session'><presence from='alice@coluc.com' to='bob@vngtp.lab'/></route>",
    Leaves("<presence from='alice@coluc.com' to='bob@vngtp.lab'/>")
)]
#[case::a_prefix_of_the_envelope(
    "<route xmlns:p='urn:p' type='session'><message from='alice@coluc.com' to='bob@vngtp.lab'><p:x/></message></route>",
    Leaves("<message xmlns:p='urn:p' from='alice@coluc.com' to='bob@vngtp.lab'><p:x/></message>")
)]
#[case::the_language_of_the_envelope(
    "<route xml:lang='de' type='session'><message from='alice@coluc.com' to='bob@vngtp.lab'/></route>",
    Leaves("<message xml:lang='de' from='alice@coluc.com' to='bob@vngtp.lab'/>")
)]
#[case::a_prefixed_envelope(
    "<c:route xmlns:c='jabber:component:accept' type='session'><c:message from='alice@coluc.com' to='bob@vngtp.lab'><body xmlns='jabber:component:accept'/></c:message></c:route>",
    Leaves("<message from='alice@coluc.com' to='bob@vngtp.lab'><body/></message>")
)]
#[case::an_error_of_a_user(
    "<route type='error'><message from='alice@coluc.com' to='bob@vngtp.lab' type='error' id='1'/></route>",
    Leaves("<message from='alice@coluc.com' to='bob@vngtp.lab' type='error' id='1'/>")
)]
#[case::to_somebody_else(
    "<route to='eve@evil.example' type='session'><message from='alice@coluc.com' to='bob@vngtp.lab' id='1'/></route>",
    Answered("service-unavailable")
)]
#[case::two_stanzas(
    "<route type='session'><message from='alice@coluc.com' to='bob@vngtp.lab' id='1'/><body/></route>",
    Answered("bad-request")
)]
#[case::text_beside(
    "<route type='session'>x<message from='alice@coluc.com' to='bob@vngtp.lab' id='1'/></route>",
    Dropped
)]
#[case::text_behind(
    "<route type='session'><message from='alice@coluc.com' to='bob@vngtp.lab' id='1'/>x</route>",
    Answered("bad-request")
)]
#[case::to_a_hosted_domain(
    "<route type='session'><message from='alice@coluc.com' to='x@conf.coluc.com' id='1'/></route>",
    Answered("service-unavailable")
)]
#[case::to_ourselves(
    "<route to='cm-2_s2scp-1.eft-xwye-a-coluc-com' type='session'><message from='alice@coluc.com' to='cm-2_s2scp-1.eft-xwye-a-coluc-com' id='1'/></route>",
    Answered("service-unavailable")
)]
#[case::to_a_denied_domain(
    "<route type='session'><message from='alice@coluc.com' to='x@evil.example' id='1'/></route>",
    Answered("not-allowed")
)]
#[case::without_to(
    "<route to='bob@vngtp.lab' type='session'><message from='alice@coluc.com' id='1'/></route>",
    Answered("jid-malformed")
)]
#[case::without_from(
    "<route from='alice@coluc.com' type='session'><message to='bob@vngtp.lab' id='1'/></route>",
    Dropped
)]
#[case::a_foreign_sender(
    "<route from='alice@coluc.com' type='session'><message from='alice@forgotten.example' to='bob@vngtp.lab' id='1'/></route>",
    Answered("not-authorized")
)]
#[case::an_error_of_a_foreign_sender(
    "<route type='session'><message from='alice@forgotten.example' to='bob@vngtp.lab' type='error' id='1'/></route>",
    Dropped
)]
#[case::from_and_to_inside(
    "<route type='session'><message from='jsm-1@-internal' to='presence@-internal' id='1'/></route>",
    Dropped
)]
#[case::from_inside(
    "<route type='session'><iq from='config@-internal' to='cm-2_s2scp-1.eft-xwye-a-coluc-com' type='get' id='1'/></route>",
    Dropped
)]
#[case::an_envelope_in_an_envelope(
    "<route type='session'><route type='session'><message from='alice@coluc.com' to='bob@vngtp.lab' id='1'/></route></route>",
    Dropped
)]
#[case::an_empty_envelope("<route from='alice@coluc.com' to='bob@vngtp.lab' type='session'/>", Dropped)]
#[case::an_envelope_of_another_namespace(
    "<route xmlns='urn:r'><message xmlns='jabber:component:accept' from='alice@coluc.com' to='bob@vngtp.lab'/></route>",
    Dropped
)]
#[case::a_stanza_of_another_namespace(
    "<route type='session'><message xmlns='jabber:client' from='alice@coluc.com' to='bob@vngtp.lab'/></route>",
    Dropped
)]
#[case::no_stanza("<route type='session'><body>x</body></route>", Dropped)]
#[case::an_xdb(
    "<xdb from='alice@coluc.com' to='bob@vngtp.lab' type='get' ns='config-manager'/>",
    Dropped
)]
#[case::an_xdb_in_an_envelope(
    "<route type='session'><xdb from='alice@coluc.com' to='bob@vngtp.lab' type='get'/></route>",
    Dropped
)]
#[tokio::test]
async fn what_an_envelope_holds_leaves_is_answered_or_dropped(#[case] text: &str, #[case] outcome: Outcome) {
    let (_lab, peer, _router, mut link) = with_link().await;
    link.say(text);
    link.say("<route><message from='alice@coluc.com' to='bob@vngtp.lab' id='after'/></route>");
    if let Answered(condition) = outcome {
        let error = link.hear().await;
        assert!(error.starts_with("<route from='"), "{error}");
        let sender = attribute(text, "message", "from");
        assert_eq!(attribute(&error, "route", "to"), sender);
        assert_eq!(attribute(&error, "message", "to"), sender);
        assert!(error.contains(&format!("<{condition} ")), "{error}");
    }
    let mut stream = peer.accept_authenticated("coluc.com").await;
    let heard = stream.hear("id='after'/>").await;
    let before = heard
        .split("<message from='alice@coluc.com' to='bob@vngtp.lab' id='after'")
        .next();
    let expected = if let Leaves(stanza) = outcome { stanza } else { "" };
    assert_eq!(before, Some(expected));
    // Nothing more for the router, and the link lives.
    link.stays_silent(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn what_the_router_gives_back_is_reported_to_its_sender() {
    let (lab, peer, _router, mut link) = with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say("<message from='bob@vngtp.lab' to='alice@coluc.com' id='7' xmlns:p='urn:p'><p:x/></message>")
        .await;
    let heard = link.hear().await;
    let stanza = heard.split_once('>').unwrap().1.strip_suffix("</route>").unwrap();
    let returned =
        |stanza: &str| format!("<route from='alice@coluc.com' to='bob@vngtp.lab' type='error'>{stanza}</route>");
    link.say(&returned(stanza));
    // An error is never answered.
    link.say(&returned(
        "<message from='bob@vngtp.lab' to='alice@coluc.com' type='error'/>",
    ));
    let mut back = peer.accept_authenticated("coluc.com").await;
    let error = back.hear("</message>").await;
    assert_eq!(id(&error), 7);
    assert_eq!(attribute(&error, "message", "to"), "bob@vngtp.lab");
    assert!(error.contains("<recipient-unavailable "), "{error}");
    assert!(back.is_silent(Duration::from_millis(100)).await);
    let (bounced, dropped) = ("xmpp_edge_stanzas_bounced_total", "xmpp_edge_stanzas_dropped_total");
    let cause = "{cause=\"router-refused\"}";
    assert_eq!(lab.metric(&format!("{bounced}{cause}")), 1);
    assert_eq!(lab.metric(&format!("{dropped}{cause}")), 1);
}

#[rstest]
#[case::as_it_went(
    "<route from='ID' to='ID' type='session'><iq type='get' id='PROOF' from='ID' to='ID'><ping xmlns='urn:xmpp:ping'/></iq></route>"
)]
#[case::without_envelope("<iq type='get' id='PROOF' from='ID' to='ID'><ping xmlns='urn:xmpp:ping'/></iq>")]
#[case::as_an_error("<route from='ID' to='ID' type='session'><iq type='error' id='PROOF' from='ID' to='ID'/></route>")]
#[case::given_back("<route from='ID' to='ID' type='error'><iq type='get' id='PROOF' from='ID' to='ID'/></route>")]
#[tokio::test]
async fn the_echo_proves_what_was_written_before_it_in_each_form(#[case] echo: &str) {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let lab = Lab::start(live(config(&[&peer], &[&router])));
    let mut link = router.accept_xcp_stream().await;
    link.say(&announced(COMPONENT, GATEWAY)).await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say(&message(0)).await;
    let heard = link.hear("</iq></route>").await;
    let ping = heard.strip_prefix(&wrapped(0)).unwrap();
    assert!(
        ping.starts_with(&format!(
            "<route from='{COMPONENT}' to='{COMPONENT}' type='session'><iq "
        )),
        "{ping}"
    );
    let proof = attribute(ping, "iq", "id");
    let echo = echo.replace("ID", COMPONENT).replace("PROOF", &proof);
    link.say(&echo).await;
    // The next one is not answered: only that one may be lost.
    bob.say(&message(1)).await;
    link.hear("</iq></route>").await;
    drop(link);
    let mut back = peer.accept_authenticated("coluc.com").await;
    assert_eq!(id(&back.hear("</message>").await), 1);
    assert!(back.is_silent(Duration::from_millis(200)).await);
}

#[tokio::test]
async fn when_a_link_breaks_what_is_unproven_is_reported_and_the_rest_goes_over_the_other_one() {
    const COUNT: usize = 1000;
    let peer = Peer::new("vngtp.lab").await;
    let (first, second) = (Router::new().await, Router::new().await);
    let lab = Lab::start(live(config(&[&peer], &[&first, &second])));
    let mut one = first.accept_xcp().await;
    let mut two = second.accept_xcp().await;
    lab.link(LinkState::Up).await;
    let bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let writer = tokio::spawn(bob.say_all((0..COUNT).map(message)));
    let mut seen = vec![0; COUNT];
    for _ in 0..COUNT / 4 {
        seen[id(&one.hear().await)] += 1;
    }
    for stanza in one.cut().await {
        seen[id(&stanza)] += 1;
    }
    let (tx, mut reported) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut back = peer.accept_authenticated("coluc.com").await;
        loop {
            let _ = tx.send(id(&back.hear("</message>").await));
        }
    });
    while seen.contains(&0) {
        tokio::select! {
            stanza = two.hear() => seen[id(&stanza)] += 1,
            Some(id) = reported.recv() => seen[id] += 1,
        }
    }
    let _bob = writer.await.unwrap();
}

#[tokio::test]
async fn a_node_without_a_way_to_us_by_what_the_other_one_passes_on_is_used_last() {
    let peer = Peer::new("vngtp.lab").await;
    let (first, second) = (Router::new().await, Router::new().await);
    let lab = Lab::start(live(config(&[&peer], &[&first, &second])));
    let mut one = first.accept_xcp().await;
    let mut two = second.accept_xcp().await;
    let states = async |expected: [LinkState; 2]| {
        lab.until(&format!("{expected:?}"), |lab| {
            let links = lab.edge.registry.links();
            links.len() == 2 && links.iter().map(|l| &l.state).eq(&expected)
        })
        .await;
        lab.edge.registry.links()
    };
    states([LinkState::Up, LinkState::Up]).await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say(&message(0)).await;
    assert_eq!(one.hear().await, wrapped(0));
    two.say(&announced(COMPONENT, "<local-hosts/>"));
    let links = states([LinkState::NotGateway, LinkState::Up]).await;
    let seen = links[0].announced.as_ref().unwrap();
    assert!(!seen.gateway && seen.local_hosts == 0, "{seen:?}");
    assert!(links[1].announced.is_none() && links[1].sightings.is_empty());
    let reason = links[0].reason.as_deref().unwrap();
    has(reason, ["without <default-gateway/>", "has not been restarted"]);
    lab.counts("links{state=\"not-gateway\"}", 1);
    bob.say(&message(1)).await;
    assert_eq!(two.hear().await, wrapped(1));
    // Seen as gateway, and by nobody any more: in both cases nothing speaks against it.
    for (n, word) in [
        (2, announced(COMPONENT, GATEWAY)),
        (
            4,
            format!("<presence from='{COMPONENT}' to='presence@-internal' type='unavailable'/>"),
        ),
    ] {
        two.say(&word);
        states([LinkState::Up, LinkState::Up]).await;
        bob.say(&message(n)).await;
        assert_eq!(one.hear().await, wrapped(n));
        two.say(&announced(COMPONENT, ""));
        states([LinkState::NotGateway, LinkState::Up]).await;
    }
    // Better than none: what comes back decides.
    let _ = two.cut().await;
    bob.say(&message(6)).await;
    assert_eq!(one.hear().await, wrapped(6));
}

#[tokio::test]
async fn a_silent_link_without_a_gateway_is_pinged_too() {
    let router = Router::new().await;
    let timing = Timing {
        echo: Duration::from_millis(500),
        quiet: Duration::from_millis(100),
        ..Timing::default()
    };
    let lab = Lab::start_with(live(config(&[], &[&router])), timing);
    let link = RouterLink::start(router.accept_xcp_stream().await);
    link.say(&announced(COMPONENT, ""));
    lab.link(LinkState::NotGateway).await;
    link.echo.store(false, Ordering::SeqCst);
    let reason = lab.link(LinkState::Failed).await.reason.unwrap();
    assert!(reason.contains("echo of a ping"), "{reason}");
    assert!(lab.edge.registry.links()[0].announced.is_none());
    let _again = router.accept_xcp().await;
    lab.link(LinkState::Up).await;
}

#[tokio::test]
async fn an_orderly_stop_does_not_wait_for_a_gateway() {
    let (mut lab, _peer, _router, mut link) = with_link().await;
    lab.begin_stop();
    assert_eq!(link.hear().await, "</stream:stream>");
    link.say("</stream:stream>");
    lab.stopped().await;

    let router = Router::new().await;
    let mut lab = Lab::start(live(config(&[], &[&router])));
    let mut link = RouterLink::start(router.accept_xcp_stream().await);
    link.say(&announced(COMPONENT, ""));
    lab.link(LinkState::NotGateway).await;
    let began = Instant::now();
    lab.begin_stop();
    assert_eq!(link.hear().await, "</stream:stream>");
    link.say("</stream:stream>");
    lab.stopped().await;
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn another_profile_after_a_reload_dials_anew() {
    let router = Router::new().await;
    let component = support::config(&[], &[&router]);
    let lab = Lab::start(live(component));
    let mut link = router.accept().await;
    lab.link(LinkState::Up).await;
    let xcp = config(&[], &[&router]);
    lab.live.send(Arc::new(live(xcp))).unwrap();
    assert_eq!(link.hear().await, "</stream:stream>");
    link.say("</stream:stream>");
    let _link = router.accept_xcp().await;
    lab.until("the new link is up", |lab| {
        let links = lab.edge.registry.links();
        links.len() == 1 && links[0].state == LinkState::Up
    })
    .await;
}

#[rstest]
#[case::larger_than_the_largest("<body>x</body>".repeat(30_000))]
#[case::one_that_would_grow_beyond_reason(format!(
    "<c:x xmlns:c='jabber:component:accept' xmlns:p='{}'>{}</c:x>",
    "n".repeat(100_000),
    "<p:a/>".repeat(20_000)
))]
#[tokio::test]
async fn a_stanza_that_peers_may_not_get_is_answered_in_its_envelope(#[case] inside: String) {
    let (_lab, peer, _router, mut link) = with_link().await;
    link.say(&format!(
        "<route type='session'><message from='alice@coluc.com' to='bob@vngtp.lab' id='large'>{inside}</message></route>"
    ));
    let error = link.hear().await;
    assert!(error.contains("<policy-violation "), "{error}");
    link.say("<route><message from='alice@coluc.com' to='bob@vngtp.lab' id='after'/></route>");
    let mut stream = peer.accept_authenticated("coluc.com").await;
    let heard = stream.hear("/>").await;
    assert!(heard.contains("id='after'"), "{heard}");
}
