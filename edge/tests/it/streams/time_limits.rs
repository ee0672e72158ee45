//! Each phase of a connection ends by itself, and an idle stream is closed.

use std::time::Duration;

use rstest::rstest;
use tokio::time::{Instant, sleep};

use crate::support::{KEY, Lab, STARTTLS, Speaker, features, header, to_alice, to_bob};

/// The beginning of a TLS record with a `ClientHello` of 512 bytes.
const HALF_HELLO: &[u8] = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03";

/// How far a connection gets before its peer falls silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stalls {
    AfterConnecting,
    InsideTheHeader,
    AfterTheHeader,
    BeforeTheHandshake,
    InsideTheHandshake,
    DirectAfterConnecting,
    DirectInsideTheHandshake,
    DirectAfterTheHandshake,
}

#[rstest]
#[case(Stalls::AfterConnecting)]
#[case(Stalls::InsideTheHeader)]
#[case(Stalls::AfterTheHeader)]
#[case(Stalls::BeforeTheHandshake)]
#[case(Stalls::InsideTheHandshake)]
#[case(Stalls::DirectAfterConnecting)]
#[case(Stalls::DirectInsideTheHandshake)]
#[case(Stalls::DirectAfterTheHandshake)]
#[tokio::test]
async fn a_negotiation_that_stalls_ends_in_time(#[case] stalls: Stalls) {
    let (lab, _peer, _link) = Lab::configured(|config| {
        config.limits.negotiation_timeout = "700ms".parse().unwrap();
    })
    .await;
    let began = Instant::now();
    let direct = format!("{stalls:?}").starts_with("Direct");
    let address = if direct { lab.direct_tls } else { lab.s2s };
    let mut peer = Speaker::connect(address).await;
    match stalls {
        Stalls::AfterConnecting | Stalls::DirectAfterConnecting => {}
        Stalls::InsideTheHeader => peer.say("<?xml version='1.0'?><stream:stre").await,
        Stalls::AfterTheHeader => peer.say(&header("vngtp.lab", "coluc.com", "")).await,
        Stalls::BeforeTheHandshake | Stalls::InsideTheHandshake => {
            peer.open(&header("vngtp.lab", "coluc.com", "")).await;
            peer.starttls().await;
            if stalls == Stalls::InsideTheHandshake {
                peer.try_say(HALF_HELLO).await.unwrap();
            }
        }
        Stalls::DirectInsideTheHandshake => peer.try_say(HALF_HELLO).await.unwrap(),
        Stalls::DirectAfterTheHandshake => peer.start_tls_as_client("coluc.com").await,
    }
    let end = peer.hear_end().await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(650), "too early: {took:?}");
    assert!(took < Duration::from_secs(5), "too late: {took:?}");
    // Where there is a stream to say it on, the reason is said.
    let speaks = !matches!(
        stalls,
        Stalls::BeforeTheHandshake
            | Stalls::InsideTheHandshake
            | Stalls::DirectAfterConnecting
            | Stalls::DirectInsideTheHandshake
    );
    assert_eq!(end.contains("<connection-timeout "), speaks, "{end}");
    drop(peer);
    lab.inbound(0).await;
}

#[rstest]
#[tokio::test]
async fn features_without_dialback_end_with_the_idle_time(#[values(false, true)] direct: bool) {
    let (lab, peer, _link) = Lab::configured(|config| {
        config.limits.idle_timeout = "1s".parse().unwrap();
    })
    .await;
    let (mut stream, _) = if direct {
        peer.open_direct(lab.direct_tls, "coluc.com").await
    } else {
        peer.open(lab.s2s, "coluc.com").await
    };
    let end = stream.hear("</stream:stream>").await;
    assert!(!end.contains("error"), "{end}");
    stream.say("</stream:stream>").await;
    stream.hear_end().await;
    drop(stream);
    lab.inbound(0).await;
}

#[tokio::test]
async fn a_key_that_the_authoritative_server_never_judges_is_answered_in_time() {
    let (lab, peer, _link) = Lab::configured(|config| {
        config.limits.dialback_timeout = "1s".parse().unwrap();
    })
    .await;
    let (mut bob, _) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(KEY).await;
    let _asked = peer.accept_question().await;
    let answer = bob.hear("</db:result>").await;
    assert!(answer.contains("<remote-server-timeout "), "{answer}");
}

#[rstest]
#[case::silent_after_tcp("")]
#[case::silent_after_the_header("header")]
#[case::silent_after_proceed("proceed")]
#[tokio::test]
async fn a_peer_that_stalls_while_we_open_a_stream_is_left_in_time(#[case] until: &str) {
    let (_lab, peer, mut link) = Lab::configured(|config| {
        config.limits.negotiation_timeout = "500ms".parse().unwrap();
        config.limits.dialback_timeout = "1s".parse().unwrap();
    })
    .await;
    link.say(&to_bob("m1"));
    let mut stalled = peer.accept_tcp().await;
    stalled.hear("version='1.0'>").await;
    if !until.is_empty() {
        stalled.say(&header("vngtp.lab", "coluc.com", "id")).await;
    }
    if until == "proceed" {
        stalled.say(&features(STARTTLS)).await;
        stalled.hear(STARTTLS).await;
        stalled.say("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
    }
    stalled.hear_end().await;
    let answer = link.hear().await;
    assert!(answer.contains("<remote-server-timeout "), "{answer}");
}

#[tokio::test]
async fn an_inbound_stream_is_closed_when_idle_and_not_while_it_carries_stanzas() {
    let (lab, peer, mut link) = Lab::configured(|config| {
        config.limits.idle_timeout = "2s".parse().unwrap();
    })
    .await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let began = Instant::now();
    let mut last = began;
    while began.elapsed() < Duration::from_secs(4) {
        bob.say(&to_alice("x")).await;
        link.hear().await;
        last = Instant::now();
        sleep(Duration::from_millis(500)).await;
    }
    let end = bob.hear("</stream:stream>").await;
    assert!(!end.contains("error"), "{end}");
    let idle = last.elapsed();
    assert!(idle >= Duration::from_millis(1900), "closed after {idle:?}");
    bob.say("</stream:stream>").await;
    bob.hear_end().await;
}

#[tokio::test]
async fn an_outbound_stream_is_closed_when_idle_and_opened_again_when_needed() {
    let (lab, peer, link) = Lab::configured(|config| {
        config.limits.idle_timeout = "2s".parse().unwrap();
    })
    .await;
    let message = "<message from='alice@coluc.com' to='bob@vngtp.lab' id='x'/>";
    link.say(message);
    let mut stream = peer.accept_authenticated("coluc.com").await;
    let began = Instant::now();
    let mut last = began;
    while began.elapsed() < Duration::from_secs(4) {
        stream.hear("id='x'").await;
        last = Instant::now();
        sleep(Duration::from_millis(500)).await;
        link.say(message);
    }
    stream.hear("id='x'").await;
    let end = stream.hear("</stream:stream>").await;
    assert!(!end.contains("error"), "{end}");
    assert!(last.elapsed() >= Duration::from_millis(1900));
    stream.say("</stream:stream>").await;
    stream.hear_end().await;
    drop(stream);
    lab.outbound(0).await;
    link.say(message);
    let mut again = peer.accept_authenticated("coluc.com").await;
    again.hear("id='x'").await;
}
