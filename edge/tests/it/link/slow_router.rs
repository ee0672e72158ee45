//! A router that is slow and not gone: its link stays, and one partner's burst delays that partner.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use xmpp_federation_edge::router::Timing;

use crate::support::{Lab, Peer, Router, RouterLink, config, live};

const BURST: usize = 4000;
const PER_SECOND: f64 = 1000.0;

fn message(n: usize) -> String {
    let body = "x".repeat(160);
    format!("<message from='bob@vngtp.lab' to='alice@coluc.com' id='b{n:05}'><body>{body}</body></message>")
}

#[tokio::test]
async fn a_burst_to_a_slow_router_ends_no_link_loses_nothing_and_delays_only_its_own_partner() {
    let (peer, other, router) = (
        Peer::new("vngtp.lab").await,
        Peer::new("other.example").await,
        Router::new().await,
    );
    // All of the burst takes four seconds.
    let timing = Timing {
        echo: Duration::from_secs(2),
        hold: Duration::from_secs(2),
        ..Timing::default()
    };
    let lab = Lab::start_with(live(config(&[&peer, &other], &[&router])), timing);
    let mut link = RouterLink::start_at(router.accept_stream().await, PER_SECOND);
    let mut bursting = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let mut quiet = other.open_authenticated(lab.s2s, "coluc.com").await;

    let all: String = (0..BURST).map(message).collect();
    let began = Instant::now();
    let writing = tokio::spawn(async move {
        bursting.say(&all).await;
        bursting
    });
    let asking = tokio::spawn(async move {
        let mut said = Vec::new();
        for n in 0..20 {
            quiet
                .say(&format!(
                    "<message from='q@other.example' to='alice@coluc.com' id='q{n}'/>"
                ))
                .await;
            said.push(Instant::now());
            sleep(Duration::from_millis(150)).await;
        }
        (quiet, said)
    });
    let (mut next, mut heard) = (0, Vec::new());
    while next < BURST || heard.len() < 20 {
        let stanza = link.hear().await;
        if stanza.contains("id='q") {
            assert!(stanza.contains(&format!("id='q{}'", heard.len())), "{stanza}");
            heard.push(Instant::now());
        } else {
            assert!(stanza.contains(&format!("id='b{next:05}'")), "{next}: {stanza}");
            next += 1;
        }
    }
    assert!(began.elapsed() > Duration::from_secs(3), "the router was not slow");
    let (mut quiet, said) = asking.await.unwrap();
    let waited = heard.iter().zip(&said).map(|(heard, said)| *heard - *said);
    let longest = waited.max().unwrap();
    println!("the other partner's stanzas took {longest:?} at most");
    assert!(longest < Duration::from_millis(2500), "{longest:?}");
    let mut bursting = writing.await.unwrap();
    for stream in [&mut quiet, &mut bursting] {
        assert!(stream.is_silent(Duration::from_millis(50)).await, "a bounce");
    }
    let cut = tokio::time::timeout(Duration::from_millis(50), router.listener.accept());
    assert!(cut.await.is_err(), "the link was given up");
}
