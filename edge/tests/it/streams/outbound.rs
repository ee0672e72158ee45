//! The initiating server towards peers that do not play along.

use rstest::rstest;

use crate::support::{
    KEY, Lab, PLAIN_DIALBACK, Peer, Router, attribute, config, features, header, live, route_host, to_alice, to_bob,
    verified,
};

const MESSAGE: &str = "<message from='alice@coluc.com/pc' to='bob@vngtp.lab' id='m1'><body>x</body></message>";

fn is_error(answer: &str, condition: &str) {
    assert!(answer.contains(&format!("<{condition} ")), "{answer}");
    assert_eq!(attribute(answer, "message", "type"), "error");
    assert_eq!(attribute(answer, "message", "id"), "m1");
    assert_eq!(attribute(answer, "message", "to"), "alice@coluc.com/pc");
    assert_eq!(attribute(answer, "message", "from"), "bob@vngtp.lab");
}

#[rstest]
#[case(
    "<db:result from='vngtp.lab' to='coluc.com' type='invalid'/>",
    "internal-server-error",
    true
)]
#[case(
    "<db:result from='vngtp.lab' to='coluc.com' type='error'><error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></db:result>",
    "remote-server-timeout",
    false
)]
#[tokio::test]
async fn what_waits_is_answered_when_dialback_fails(
    #[case] answer: &str,
    #[case] expected: &str,
    #[case] closes: bool,
) {
    let (_lab, peer, _router, mut link) = Lab::with_link().await;
    link.say(MESSAGE);
    let mut stream = peer.accept("id").await;
    stream.hear("</db:result>").await;
    stream.say(answer).await;
    is_error(&link.hear().await, expected);
    if closes {
        stream.hear("</stream:stream>").await;
    }
}

#[rstest]
#[case::other_pair("<db:result from='vngtp.lab' to='conf.coluc.com' type='valid'/>")]
#[case::other_sender("<db:result from='evil.example' to='coluc.com' type='valid'/>")]
#[case::verify("<db:verify from='vngtp.lab' to='coluc.com' id='1' type='valid'/>")]
#[case::untyped("<db:result from='vngtp.lab' to='coluc.com'>k</db:result>")]
#[case::stanza("<message from='bob@vngtp.lab' to='alice@coluc.com'/>")]
#[tokio::test]
async fn nothing_but_the_answer_asked_for_may_come_back(#[case] text: &str) {
    let (_lab, peer, _router, mut link) = Lab::with_link().await;
    link.say(MESSAGE);
    let mut stream = peer.accept("id").await;
    stream.hear("</db:result>").await;
    stream.say(text).await;
    let end = stream.hear("</stream:stream>").await;
    assert!(end.contains("<stream:error>"), "{end}");
    assert!(!end.contains("<message"), "{end}");
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(100), link.hear()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn a_peer_without_tls_gets_nothing() {
    let (_lab, peer, _router, mut link) = Lab::with_link().await;
    link.say(MESSAGE);
    let mut clear = peer.accept_tcp().await;
    clear.hear("version='1.0'>").await;
    clear.say(&header("vngtp.lab", "coluc.com", "id")).await;
    clear.say(&features(PLAIN_DIALBACK)).await;
    let end = clear.hear("</stream:stream>").await;
    assert!(end.contains("<policy-violation "), "{end}");
    is_error(&link.hear().await, "remote-server-not-found");
}

#[tokio::test]
async fn a_pre_1_0_peer_gets_nothing() {
    let (_lab, peer, _router, mut link) = Lab::with_link().await;
    link.say(MESSAGE);
    let mut old = peer.accept_tcp().await;
    old.hear("version='1.0'>").await;
    old.say(&header("vngtp.lab", "coluc.com", "id").replace(" version='1.0'>", ">"))
        .await;
    let end = old.hear("</stream:stream>").await;
    assert!(end.contains("<policy-violation "), "{end}");
    is_error(&link.hear().await, "remote-server-not-found");
}

#[tokio::test]
async fn bytes_behind_proceed_are_never_taken_for_what_tls_protects() {
    let (_lab, peer, _router, link) = Lab::with_link().await;
    link.say(MESSAGE);
    let mut clear = peer.accept_starttls().await;
    let injected = header("vngtp.lab", "coluc.com", "injected");
    clear
        .say(&format!("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>{injected}"))
        .await;
    let end = clear.hear_end().await;
    assert!(!end.contains("db:result"), "{end}");
}

#[tokio::test]
async fn the_next_address_is_tried_when_the_first_answers_host_unknown() {
    let (first, second) = (Peer::new("vngtp.lab").await, Peer::new("vngtp.lab").await);
    let router = Router::new().await;
    let mut config = config(&[&first], &[&router]);
    let address = second.listener.local_addr().unwrap();
    config.partners[0].route.push(route_host(address));
    let _lab = Lab::start(live(config));
    let link = router.accept().await;
    link.say(MESSAGE);
    // They are equal: either may be the first.
    let (mut refusing, second) = tokio::select! {
        refusing = first.accept_tcp() => (refusing, &second),
        refusing = second.accept_tcp() => (refusing, &first),
    };
    refusing.hear("version='1.0'>").await;
    refusing.say(&header("vngtp.lab", "coluc.com", "id")).await;
    refusing
        .say("<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>")
        .await;
    let mut stream = second.accept_authenticated("coluc.com").await;
    stream.hear("id='m1'").await;
}

#[tokio::test]
async fn a_full_queue_is_answered_and_stops_nobody_else() {
    let (peer, other, router) = (
        Peer::new("vngtp.lab").await,
        Peer::new("other.example").await,
        Router::new().await,
    );
    let mut config = config(&[&peer, &other], &[&router]);
    config.limits.max_queued_bytes = 3 * MESSAGE.len();
    let _lab = Lab::start(live(config));
    let mut link = router.accept().await;
    for _ in 0..4 {
        link.say(MESSAGE);
    }
    is_error(&link.hear().await, "resource-constraint");
    link.say("<message from='alice@coluc.com' to='x@other.example' id='free'/>");
    let mut stream = other.accept_authenticated("coluc.com").await;
    stream.hear("id='free'").await;
}

#[tokio::test]
async fn what_was_written_to_a_stream_that_breaks_is_reported() {
    let (_lab, peer, _router, mut link) = Lab::with_link().await;
    link.say(MESSAGE);
    let mut stream = peer.accept_authenticated("coluc.com").await;
    stream.hear("</message>").await;
    drop(stream);
    is_error(&link.hear().await, "remote-server-timeout");
}

#[tokio::test]
async fn an_orderly_end_reports_nothing_and_the_next_message_opens_a_new_stream() {
    let (_lab, peer, _router, mut link) = Lab::with_link().await;
    link.say(MESSAGE);
    let mut stream = peer.accept_authenticated("coluc.com").await;
    stream.hear("</message>").await;
    stream.say("</stream:stream>").await;
    stream.hear("</stream:stream>").await;
    link.say(&to_bob("m2"));
    let mut stream = peer.accept_authenticated("coluc.com").await;
    stream.hear("id='m2'").await;
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(100), link.hear()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn streams_of_a_hosted_domain_that_was_removed_are_closed_and_others_live() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let before = config(&[&peer], &[&router]);
    let lab = Lab::start(live(before.clone()));
    let mut link = router.accept().await;
    let mut gone = peer.open_authenticated(lab.s2s, "conf.coluc.com").await;
    let (mut stays, id) = peer.open(lab.s2s, "coluc.com").await;
    stays.say(KEY).await;
    let mut verifying = peer.accept_question().await;
    verifying.say(&verified("vngtp.lab", "coluc.com", &id, "valid")).await;
    stays.hear("type='valid'/>").await;
    let mut after = before;
    after.domains.pop();
    lab.live.send(std::sync::Arc::new(live(after))).unwrap();
    assert!(gone.hear("</stream:stream>").await.contains("<host-gone "));
    stays.say(&to_alice("still")).await;
    assert!(link.hear().await.contains("still"));
}

#[tokio::test]
async fn a_stream_of_a_domain_that_is_denied_now_is_closed() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let allowed = config(&[&peer], &[&router]);
    let lab = Lab::start(live(allowed.clone()));
    let link = router.accept().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    link.say(MESSAGE);
    let mut stream = peer.accept_authenticated("coluc.com").await;
    stream.hear("</message>").await;
    let mut denied = allowed;
    denied.partners.clear();
    lab.live.send(std::sync::Arc::new(live(denied))).unwrap();
    assert!(bob.hear("</stream:stream>").await.contains("<policy-violation "));
    assert!(stream.hear("</stream:stream>").await.contains("<policy-violation "));
    let _ = link;
}
