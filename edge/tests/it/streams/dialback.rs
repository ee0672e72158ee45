//! Server dialback in all roles: what is coalesced and capped, what each error does, rotation of
//! the secret, and replicas that answer for each other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rstest::rstest;
use xmpp_federation_core::SecretBytes;
use xmpp_federation_edge::config::Live;
use xmpp_federation_edge::dialback::DialbackSecrets;

use crate::support::{
    KEY, Lab, Peer, Router, RouterLink, VALID, attribute, config, live, result, to_alice, to_bob, verified,
};

#[tokio::test]
async fn a_key_shown_twice_is_verified_once_and_answered_twice() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(KEY).await;
    bob.say(&result("VNGTP.lab", "coluc.com", "k")).await;
    let mut verifying = peer.accept_question().await;
    assert!(verifying.is_silent(Duration::from_millis(200)).await, "asked twice");
    verifying.say(&verified("vngtp.lab", "coluc.com", &id, "valid")).await;
    for to in ["vngtp.lab", "VNGTP.lab"] {
        let answer = bob.hear("/>").await;
        assert_eq!(attribute(&answer, "db:result", "type"), "valid");
        assert_eq!(attribute(&answer, "db:result", "to"), to);
    }
    bob.say(&to_alice("1")).await;
    assert!(link.hear().await.contains("id='1'"));
}

#[tokio::test]
async fn another_key_for_a_pair_that_is_being_verified_is_refused_alone() {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(&result("vngtp.lab", "coluc.com", "right")).await;
    bob.say(&result("vngtp.lab", "coluc.com", "wrong")).await;
    let refused = bob.hear("</db:result>").await;
    assert!(refused.contains("<conflict "), "{refused}");
    let mut verifying = peer.accept("v").await;
    let asked = verifying.hear("</db:verify>").await;
    assert!(asked.contains(">right<"), "{asked}");
    verifying.say(&verified("vngtp.lab", "coluc.com", &id, "valid")).await;
    bob.hear("type='valid'/>").await;
}

#[tokio::test]
async fn keys_of_one_stream_are_bounded_by_its_pairs_and_the_others_are_answered_at_once() {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let mut config = lab.live.borrow().config.clone();
    config
        .domains
        .extend((0..40).map(|n| format!("d{n}.coluc.com").parse().unwrap()));
    config.limits.max_pairs_per_stream = 17;
    lab.live.send(Arc::new(live(config))).unwrap();
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    for n in 0..20 {
        bob.say(&result("vngtp.lab", &format!("d{n}.coluc.com"), "k")).await;
    }
    for n in 17..20 {
        let answer = bob.hear("</db:result>").await;
        assert!(answer.contains("<resource-constraint "), "{answer}");
        assert_eq!(attribute(&answer, "db:result", "from"), format!("d{n}.coluc.com"));
    }
    // All questions go over one stream; a key that makes no pair leaves room for another.
    let mut verifying = peer.accept("v").await;
    for _ in 0..17 {
        verifying.hear("</db:verify>").await;
    }
    verifying
        .say(&verified("vngtp.lab", "d3.coluc.com", &id, "valid"))
        .await;
    let answer = bob.hear("type='valid'/>").await;
    assert_eq!(attribute(&answer, "db:result", "from"), "d3.coluc.com");
    verifying
        .say(&verified("vngtp.lab", "d4.coluc.com", &id, "invalid"))
        .await;
    bob.hear("type='invalid'/>").await;
    bob.say(&result("vngtp.lab", "d30.coluc.com", "k")).await;
    let asked = verifying.hear("</db:verify>").await;
    assert_eq!(attribute(&asked, "db:verify", "from"), "d30.coluc.com");
}

#[tokio::test]
async fn one_address_of_a_partner_gets_half_of_all_verifications_and_the_next_key_waits() {
    let (lab, peer, _link) = Lab::configured(|config| config.limits.max_verifications = Some(4)).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let (mut bob, _) = peer.open(lab.s2s, "coluc.com").await;
        bob.say(KEY).await;
        streams.push(bob);
    }
    let mut verifying = peer.accept("v").await;
    let first = verifying.hear("</db:verify>").await;
    verifying.hear("</db:verify>").await;
    // The third waits for its turn.
    lab.until("the third key waits", |lab| lab.edge.verifications() == (2, 1))
        .await;
    let id = attribute(&first, "db:verify", "id");
    verifying.say(&verified("vngtp.lab", "coluc.com", &id, "valid")).await;
    verifying.hear("</db:verify>").await;
}

#[tokio::test]
async fn questions_on_one_stream_of_ours_are_bounded_and_the_others_wait() {
    const STREAMS: usize = 9;
    let (lab, peer, _link) = Lab::configured(|config| {
        config.limits.max_verifications = Some(10_000);
        config
            .domains
            .extend((0..16).map(|n| format!("d{n}.coluc.com").parse().unwrap()));
    })
    .await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let (mut bob, _) = peer.open(lab.s2s, "coluc.com").await;
        for n in 0..16 {
            bob.say(&result("vngtp.lab", &format!("d{n}.coluc.com"), "k")).await;
        }
        streams.push(bob);
    }
    let mut verifying = peer.accept("v").await;
    let first = verifying.hear("</db:verify>").await;
    for _ in 1..64 {
        verifying.hear("</db:verify>").await;
    }
    lab.until("all are under way", |lab| lab.edge.verifications() == (STREAMS * 16, 0))
        .await;
    let [to, id] = ["from", "id"].map(|name| attribute(&first, "db:verify", name));
    verifying.say(&verified("vngtp.lab", &to, &id, "valid")).await;
    verifying.hear("</db:verify>").await;
    assert!(verifying.is_silent(Duration::from_millis(200)).await);
}

#[tokio::test]
async fn another_bound_on_verifications_holds_after_a_reload_for_the_keys_that_wait_too() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    config
        .domains
        .extend((0..4).map(|n| format!("d{n}.coluc.com").parse().unwrap()));
    config.limits.max_verifications = Some(2);
    let lab = Lab::start(live(config.clone()));
    let (mut bob, _) = peer.open(lab.s2s, "coluc.com").await;
    for n in 0..4 {
        bob.say(&result("vngtp.lab", &format!("d{n}.coluc.com"), "k")).await;
    }
    // One network of a partner has half of them.
    let counts = async |counts| {
        lab.until("the keys are verified and wait as the bound says", |lab| {
            lab.edge.verifications() == counts
        })
        .await;
    };
    counts((1, 3)).await;
    config.limits.max_verifications = Some(6);
    lab.live.send(Arc::new(live(config.clone()))).unwrap();
    counts((3, 1)).await;
    // A lower one ends nothing.
    config.limits.max_verifications = Some(2);
    lab.live.send(Arc::new(live(config))).unwrap();
    let mut verifying = peer.accept("v").await;
    for left in [(2, 1), (1, 1), (1, 0), (0, 0)] {
        let asked = verifying.hear("</db:verify>").await;
        let [from, id] = ["from", "id"].map(|name| attribute(&asked, "db:verify", name));
        verifying.say(&verified("vngtp.lab", &from, &id, "valid")).await;
        counts(left).await;
    }
}

#[tokio::test]
async fn a_domain_that_could_not_be_asked_is_not_called_again_at_once_unless_somebody_says_so() {
    let (peer, gone, router) = (
        Peer::new("vngtp.lab").await,
        Peer::new("gone.example").await,
        Router::new().await,
    );
    let lab = Lab::start(live(config(&[&peer, &gone], &[&router])));
    let (mut bob, _) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(&result("gone.example", "coluc.com", "k")).await;
    drop(gone.accept_tcp().await);
    let answer = bob.hear("</db:result>").await;
    assert!(answer.contains("<remote-connection-failed "), "{answer}");
    bob.say(&result("gone.example", "coluc.com", "k")).await;
    let answer = bob.hear("</db:result>").await;
    assert!(answer.contains("<remote-connection-failed "), "{answer}");
    let called = tokio::time::timeout(Duration::from_millis(200), gone.listener.accept()).await;
    assert!(called.is_err(), "called again");
    lab.edge.retry(Some(&"gone.example".parse().unwrap()));
    bob.say(&result("gone.example", "coluc.com", "k")).await;
    drop(gone.accept_tcp().await);
    bob.hear("</db:result>").await;
}

#[tokio::test]
async fn connecting_and_asking_together_take_no_longer_than_the_dialback_time() {
    let (lab, peer, _link) = Lab::configured(|config| config.limits.dialback_timeout = "2s".parse().unwrap()).await;
    let (mut bob, _) = peer.open(lab.s2s, "coluc.com").await;
    let start = Instant::now();
    bob.say(KEY).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let _slow = peer.accept_question().await;
    let answer = bob.hear("</db:result>").await;
    assert!(answer.contains("<remote-server-timeout "), "{answer}");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    assert!(took < Duration::from_millis(3100), "{took:?}");
}

#[rstest]
#[case::item_not_found("item-not-found")]
#[case::timeout("remote-server-timeout")]
#[tokio::test]
async fn an_error_from_the_authoritative_server_is_one_for_the_peer_and_the_stream_lives(#[case] condition: &str) {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(KEY).await;
    let mut verifying = peer.accept_question().await;
    verifying
        .say(&format!(
            "<db:verify from='vngtp.lab' to='coluc.com' id='{id}' type='error'><error type='cancel'>\
             <{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></db:verify>"
        ))
        .await;
    let answer = bob.hear("</db:result>").await;
    assert!(answer.contains("<remote-server-not-found "), "{answer}");
    // Once it works, the same stream will do.
    bob.say(KEY).await;
    verifying.hear("</db:verify>").await;
    verifying.say(&verified("vngtp.lab", "coluc.com", &id, "valid")).await;
    bob.hear("type='valid'/>").await;
    bob.say(&to_alice("1")).await;
    assert!(link.hear().await.contains("id='1'"));
}

#[tokio::test]
async fn an_answer_for_a_stream_that_is_gone_is_dropped_and_the_next_question_still_works() {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let (mut gone, first) = peer.open(lab.s2s, "coluc.com").await;
    gone.say(KEY).await;
    let mut verifying = peer.accept_question().await;
    drop(gone);
    tokio::time::sleep(Duration::from_millis(50)).await;
    verifying
        .say(&verified("vngtp.lab", "coluc.com", &first, "valid"))
        .await;
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(KEY).await;
    verifying.hear("</db:verify>").await;
    verifying.say(&verified("vngtp.lab", "coluc.com", &id, "valid")).await;
    bob.hear("type='valid'/>").await;
}

#[tokio::test]
async fn an_error_for_one_pair_leaves_the_stream_to_the_others_and_is_told_to_its_senders() {
    let (_lab, peer, _router, mut link) = Lab::with_link().await;
    let say = |link: &RouterLink, from: &str, id: &str| {
        link.say(&format!("<message from='a@{from}' to='bob@vngtp.lab' id='{id}'/>"));
    };
    say(&link, "coluc.com", "1");
    let mut stream = peer.accept("id").await;
    stream.hear("</db:result>").await;
    say(&link, "conf.coluc.com", "2");
    stream.hear("</db:result>").await;
    stream
        .say(
            "<db:result from='vngtp.lab' to='coluc.com' type='error'><error type='cancel'>\
             <remote-server-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></db:result>\
             <db:result from='vngtp.lab' to='conf.coluc.com' type='valid'/>",
        )
        .await;
    stream.hear("id='2'/>").await;
    // What was sent before the refusal and what is sent after it has the same cause.
    for id in ["1", "3"] {
        if id == "3" {
            say(&link, "coluc.com", "3");
        }
        let error = link.hear().await;
        assert_eq!(attribute(&error, "message", "id"), id);
        assert!(error.contains("<remote-server-timeout "), "{error}");
    }
    say(&link, "conf.coluc.com", "4");
    stream.hear("id='4'/>").await;
}

#[tokio::test]
async fn a_valid_pair_that_becomes_invalid_is_not_used_again_on_that_stream() {
    let (_lab, peer, _router, mut link) = Lab::with_link().await;
    let mut stream = link.opens(&peer, "1").await;
    link.say("<message from='room@conf.coluc.com' to='bob@vngtp.lab' id='2'/>");
    stream.hear("</db:result>").await;
    stream
        .say(
            "<db:result from='vngtp.lab' to='conf.coluc.com' type='valid'/>\
             <db:result from='vngtp.lab' to='coluc.com' type='invalid'/>",
        )
        .await;
    stream.hear("id='2'/>").await;
    link.say(&to_bob("3"));
    let error = link.hear().await;
    assert_eq!(attribute(&error, "message", "id"), "3");
    assert!(error.contains("<internal-server-error "), "{error}");
    link.say("<message from='room@conf.coluc.com' to='bob@vngtp.lab' id='4'/>");
    let next = stream.hear("/>").await;
    assert!(next.contains("id='4'"), "{next}");
}

#[tokio::test]
async fn a_key_that_nobody_answers_is_given_up_after_the_dialback_time() {
    let (_lab, peer, mut link) =
        Lab::configured(|config| config.limits.dialback_timeout = "500ms".parse().unwrap()).await;
    link.say(&to_bob("1"));
    let mut stream = peer.accept("id").await;
    stream.hear("</db:result>").await;
    let error = link.hear().await;
    assert_eq!(attribute(&error, "message", "id"), "1");
    assert!(error.contains("<remote-server-timeout "), "{error}");
    // Too late to count; the stream served no pair and is closed.
    let _ = stream
        .try_say(b"<db:result from='vngtp.lab' to='coluc.com' type='valid'/>")
        .await;
    assert_eq!(stream.hear("</stream:stream>").await, "</stream:stream>");
}

#[tokio::test]
async fn traffic_of_one_pair_does_not_put_off_the_dialback_time_of_another() {
    let (_lab, peer, mut link) = Lab::configured(|config| config.limits.dialback_timeout = "1s".parse().unwrap()).await;
    let busy = "<message from='alice@coluc.com' to='bob@vngtp.lab' id='busy'/>";
    link.say(busy);
    let mut stream = peer.accept_authenticated("coluc.com").await;
    stream.hear("id='busy'/>").await;
    link.say("<message from='room@conf.coluc.com' to='bob@vngtp.lab' id='late'/>");
    stream.hear("</db:result>").await;
    let say = link.sayer();
    let traffic = async {
        loop {
            say(busy);
            stream.hear("id='busy'/>").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let error = tokio::select! {
        error = link.hear() => error,
        () = traffic => unreachable!(),
    };
    assert_eq!(attribute(&error, "message", "id"), "late");
    assert!(error.contains("<remote-server-timeout "), "{error}");
}

#[tokio::test]
async fn what_waits_from_a_domain_that_a_reload_took_away_shows_no_key() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let before = config(&[&peer], &[&router]);
    let lab = Lab::start(live(before.clone()));
    let link = router.accept().await;
    link.say("<message from='room@conf.coluc.com' to='bob@vngtp.lab' id='gone'/>");
    // The edge has connected and waits for our header.
    let mut clear = peer.accept_tcp().await;
    clear.hear("version='1.0'>").await;
    let mut after = before;
    after.domains.pop();
    lab.live.send(Arc::new(live(after))).unwrap();
    drop(clear);
    link.say(&to_bob("stays"));
    let mut stream = peer.accept("id").await;
    let result = stream.hear("</db:result>").await;
    assert_eq!(attribute(&result, "db:result", "from"), "coluc.com");
    stream.say(VALID).await;
    let next = stream.hear("/>").await;
    assert!(next.contains("id='stays'"), "{next}");
}

/// The secrets at each stage of a rotation from the old to the new one.
fn at_stage(live: Live, stage: usize) -> Live {
    let (old, new) = (
        SecretBytes::new(b"old-secret-old-secret-old-secret-1".to_vec()),
        SecretBytes::new(b"new-secret-new-secret-new-secret-2".to_vec()),
    );
    let dialback = match stage {
        1 => DialbackSecrets::new(old, vec![]),
        2 => DialbackSecrets::new(old, vec![new]),
        3 => DialbackSecrets::new(new, vec![old]),
        4 => DialbackSecrets::new(new, vec![]),
        _ => panic!("there are four stages"),
    };
    Live { dialback, ..live }
}

/// The key that a replica shows to the peer on a stream with this id.
async fn key_shown(peer: &Peer, link: &RouterLink, id: &str) -> String {
    link.say("<message from='alice@coluc.com' to='bob@vngtp.lab'/>");
    let mut stream = peer.accept(id).await;
    let shown = stream.hear("</db:result>").await;
    let key = shown.rsplit_once("</").unwrap().0;
    let key = key.rsplit_once('>').unwrap().1.to_owned();
    // Nobody waits for the answer any more.
    drop(stream);
    key
}

/// What a replica says about a key of its own domain.
async fn asked(peer: &Peer, lab: &Lab, id: &str, key: &str) -> String {
    let (mut asking, _) = peer.open(lab.s2s, "coluc.com").await;
    asking
        .say(&format!(
            "<db:verify from='vngtp.lab' to='coluc.com' id='{id}'>{key}</db:verify>"
        ))
        .await;
    let answer = asking.hear("/>").await;
    assert_eq!(attribute(&answer, "db:verify", "id"), id);
    attribute(&answer, "db:verify", "type")
}

#[rstest]
#[case::before(1, 1, "valid")]
#[case::one_accepts_already(1, 2, "valid")]
#[case::one_accepts_not_yet(2, 1, "valid")]
#[case::all_accept(2, 2, "valid")]
#[case::one_signs_already(3, 2, "valid")]
#[case::one_signs_not_yet(2, 3, "valid")]
#[case::all_sign(3, 3, "valid")]
#[case::one_dropped_already(3, 4, "valid")]
#[case::one_dropped_not_yet(4, 3, "valid")]
#[case::after(4, 4, "valid")]
// Why no stage may be skipped.
#[case::signing_before_all_accept(3, 1, "invalid")]
#[case::dropping_before_all_sign(2, 4, "invalid")]
#[tokio::test]
async fn any_replica_answers_for_a_key_of_another_one_at_neighbouring_stages(
    #[case] shows: usize,
    #[case] answers: usize,
    #[case] expected: &str,
) {
    let (peer, one, two) = (Peer::new("vngtp.lab").await, Router::new().await, Router::new().await);
    let shower = Lab::start(at_stage(live(config(&[&peer], &[&one])), shows));
    let answerer = Lab::start(at_stage(live(config(&[&peer], &[&two])), answers));
    let link = one.accept().await;
    let key = key_shown(&peer, &link, "stream-of-the-peer").await;
    assert_eq!(key.len(), 64, "{key}");
    let answer = asked(&peer, &answerer, "stream-of-the-peer", &key).await;
    assert_eq!(answer, expected);
    let other = asked(&peer, &answerer, "another-stream", &key).await;
    assert_eq!(other, "invalid");
    drop(shower);
}

#[tokio::test]
async fn a_key_in_flight_while_the_secret_changes_stays_valid_until_its_secret_is_dropped() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let config = config(&[&peer], &[&router]);
    let lab = Lab::start(at_stage(live(config.clone()), 2));
    let link = router.accept().await;
    let key = key_shown(&peer, &link, "in-flight").await;
    for (stage, expected) in [(2, "valid"), (3, "valid"), (4, "invalid")] {
        lab.live.send(Arc::new(at_stage(live(config.clone()), stage))).unwrap();
        let answer = asked(&peer, &lab, "in-flight", &key).await;
        assert_eq!(answer, expected, "stage {stage}");
    }
}
