//! The memory of the process while peers send what has no end or what grows.

use crate::support::process::Process;
use crate::support::{Peer, Router, Speaker};

const STREAMS: usize = 24;
const START: &str = "<message from='bob@vngtp.lab' to='alice@coluc.com'><body>";

async fn streams(edge: &Process, peer: &Peer) -> Vec<Speaker> {
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(peer.open_authenticated(edge.s2s, "coluc.com").await);
    }
    streams
}

async fn all_say(streams: &mut [Speaker], text: &str) {
    // The edge may end a stream before everything is written.
    futures::future::join_all(streams.iter_mut().map(|one| one.try_say(text.as_bytes()))).await;
}

#[tokio::test]
async fn memory_stays_within_what_the_limits_add_up_to() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let edge = Process::start(&peer, &router, "");
    let mut link = router.accept().await;
    let idle = edge.most();

    // Just less than a stanza, and no end of it.
    let mut held = streams(&edge, &peer).await;
    all_say(&mut held, &(START.to_owned() + &"x".repeat(262_000))).await;
    // More than a stanza.
    let mut cut = streams(&edge, &peer).await;
    all_say(&mut cut, &(START.to_owned() + &"x".repeat(4_000_000))).await;
    for one in &mut cut {
        assert_eq!(one.condition().await, "policy-violation");
    }
    // A namespace bound once and used often: gigabytes if it were written out.
    let mut growing = streams(&edge, &peer).await;
    let grows = format!(
        "<s:message xmlns:s='jabber:server' from='bob@vngtp.lab' to='alice@coluc.com' xmlns:p='{}'>{}</s:message>",
        "n".repeat(120_000),
        "<p:a/>".repeat(20_000)
    );
    all_say(&mut growing, &grows).await;
    for one in &mut growing {
        assert_eq!(one.condition().await, "policy-violation");
    }
    for one in &mut held {
        one.say("</body></message>").await;
        assert!(link.hear().await.len() > 262_000);
    }
    let most = edge.most();
    println!("{idle} kB idle, {most} kB at most with {STREAMS} streams of each kind");
    assert!(most < 96 * 1024, "{most} kB");
}
