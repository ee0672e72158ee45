//! How long a stream on which nothing but white space comes is kept (XEP-0478, RFC 6120 section
//! 4.6.1).

use std::time::Duration;

use rstest::rstest;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Lab, PATIENCE, Peer, Router, Speaker, VALID, config, live, to_alice};

const IDLE: Duration = Duration::from_secs(2);

async fn lab() -> (Lab, Peer, Router) {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    config.limits.idle_timeout = "2s".parse().unwrap();
    (Lab::start(live(config)), peer, router)
}

/// Sends this twice a second; gives the time until the edge says something.
async fn drip(stream: &mut Speaker, what: &[u8], most: Duration) -> Option<Duration> {
    let began = Instant::now();
    while began.elapsed() < most {
        stream.try_say(what).await.unwrap();
        if !stream.is_silent(Duration::from_millis(500)).await {
            return Some(began.elapsed());
        }
    }
    None
}

#[rstest]
#[case::a_space(b" ")]
#[case::a_line_end(b"\r\n")]
#[tokio::test]
async fn white_space_keeps_an_authenticated_stream_for_the_time_we_announce(#[case] what: &[u8]) {
    let (lab, peer, router) = lab().await;
    let mut link = router.accept().await;
    let (mut bob, id) = {
        let (tcp, id) = peer.open(lab.s2s, "coluc.com").await;
        (tcp, id)
    };
    peer.authenticate(&mut bob, &id, "coluc.com").await;
    assert_eq!(drip(&mut bob, what, 2 * IDLE).await, None, "closed");
    // It is still a stream.
    bob.say(&to_alice("after")).await;
    assert!(link.hear().await.contains("id='after'"));
    // And it is closed when nothing comes.
    let last = Instant::now();
    assert_eq!(bob.hear("</stream:stream>").await, "</stream:stream>");
    assert!(last.elapsed() + Duration::from_millis(100) > IDLE);
}

#[tokio::test]
async fn white_space_before_authentication_keeps_nothing() {
    let (lab, peer, router) = lab().await;
    let _link = router.accept().await;
    let (mut stranger, _) = peer.open(lab.s2s, "coluc.com").await;
    let closed = drip(&mut stranger, b" ", 3 * IDLE).await;
    let closed = closed.expect("still open");
    assert!(closed < 2 * IDLE, "closed after {closed:?}");
}

#[tokio::test]
async fn what_is_announced_is_the_time_that_holds() {
    let (lab, _peer, router) = lab().await;
    let _link = router.accept().await;
    let mut stream = Speaker::connect(lab.s2s).await;
    stream.say(&crate::support::header("vngtp.lab", "coluc.com", "")).await;
    let features = stream.hear("</stream:features>").await;
    let told = "<idle-seconds>2</idle-seconds>";
    assert!(features.contains(told), "{features}");
}

/// The partner's own time, the smallest ever seen.
#[tokio::test]
async fn a_partner_that_closes_after_three_seconds_is_left_before_and_called_again() {
    let (_lab, peer, _router, link) = Lab::with_link().await;
    let message = "<message from='alice@coluc.com' to='bob@vngtp.lab' id='x'/>";
    for _ in 0..2 {
        link.say(message);
        let mut stream = peer.accept_tls_with("short").await;
        stream
            .say(
                "<stream:features><dialback xmlns='urn:xmpp:features:dialback'/>\
                 <limits xmlns='urn:xmpp:stream-limits:0'><idle-seconds>3</idle-seconds></limits>\
                 </stream:features>",
            )
            .await;
        stream.hear("</db:result>").await;
        stream.say(VALID).await;
        stream.hear("id='x'").await;
        let last = Instant::now();
        let end = timeout(PATIENCE, stream.hear("</stream:stream>")).await;
        let idle = last.elapsed();
        assert!(end.is_ok() && idle < Duration::from_secs(3), "{idle:?}");
        stream.say("</stream:stream>").await;
        stream.hear_end().await;
        sleep(Duration::from_millis(50)).await;
    }
}
