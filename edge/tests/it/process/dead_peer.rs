//! A peer whose packets stop coming, without a word, is noticed within a minute.
//!
//! Runs in a network namespace of its own, where a packet filter plays the cut cable: needs root,
//! and takes a minute, so `make test` runs it (with `--ignored`), a plain `cargo test` does not.

use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Lab, Peer, Router, config, live};

const NAME: &str = "process::dead_peer::a_dead_peer_is_noticed_within_a_minute_idle_or_not";
const INSIDE: &str = "EDGE_TEST_INSIDE_NAMESPACE";

fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status();
    assert!(status.unwrap().success(), "{command}");
}

#[test]
#[ignore = "needs root and a minute; make test runs it"]
fn a_dead_peer_is_noticed_within_a_minute_idle_or_not() {
    if std::env::var_os(INSIDE).is_none() {
        let inside = Command::new("unshare")
            .args(["--net", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", NAME])
            .env(INSIDE, "1")
            .status();
        assert!(inside.unwrap().success());
        return;
    }
    run("ip link set lo up");
    run("nft add table inet cut");
    run("nft add chain inet cut out { type filter hook output priority 0 ; }");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(cut_all_streams());
}

/// Drops what leaves this port, or goes to it.
fn cut(what: &str, port: u16) {
    run(&format!("nft add rule inet cut out tcp {what} {port} counter drop"));
}

async fn cut_all_streams() {
    let (idle, busy, router) = (
        Peer::new("vngtp.lab").await,
        Peer::new("busy.example").await,
        Router::new().await,
    );
    let lab = Lab::start(live(config(&[&idle, &busy], &[&router])));
    let mut link = router.accept().await;
    let message = |to: &str, id: &str| format!("<message from='alice@coluc.com' to='x@{to}' id='{id}'/>");

    // Two streams each way; on one of them something is on its way when the cable is cut.
    link.say(&message("vngtp.lab", "1"));
    let mut idle_out = idle.accept_authenticated("coluc.com").await;
    idle_out.hear("id='1'/>").await;
    link.say(&message("busy.example", "2"));
    let mut busy_out = busy.accept_authenticated("coluc.com").await;
    busy_out.hear("id='2'/>").await;
    let idle_in = idle.open_authenticated(lab.s2s, "coluc.com").await;
    let mut busy_in = busy.open_authenticated(lab.s2s, "coluc.com").await;
    // Streams that were used for verification end by themselves.
    lab.until("four streams", |lab| lab.edge.registry.streams(None).len() == 4)
        .await;
    // The network must be silent on the idle ones, so that keepalive alone finds out; and what the peer's system
    // took five seconds ago counts as read.
    tokio::time::sleep(Duration::from_secs(6)).await;

    // What the edge says first, so that its answer to a question is what gets lost.
    cut("sport", lab.s2s.port());
    busy_in
        .say("<db:verify from='busy.example' to='coluc.com' id='x'>00</db:verify>")
        .await;
    let answered = "xmpp_edge_dialback_seconds_count{role=\"authoritative\",outcome=\"invalid\"}";
    lab.until("the question is answered", |lab| lab.metric(answered) == 1)
        .await;
    for port in [
        idle.listener.local_addr().unwrap().port(),
        busy.listener.local_addr().unwrap().port(),
    ] {
        cut("sport", port);
        cut("dport", port);
    }
    cut("dport", lab.s2s.port());
    let began = Instant::now();
    link.say(&message("busy.example", "3"));

    let mut left = lab.edge.registry.streams(None);
    while !left.is_empty() {
        assert!(began.elapsed() < Duration::from_mins(1), "still open: {left:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = lab.edge.registry.streams(None);
        for gone in left
            .iter()
            .filter(|stream| now.iter().all(|other| other.id != stream.id))
        {
            println!(
                "{} with {} noticed after {:.1} s",
                gone.direction,
                gone.detail.pairs[0].remote,
                began.elapsed().as_secs_f32()
            );
        }
        left = now;
    }
    // What was on its way is reported, and nothing else: all before it had been read.
    let answer = link.hear().await;
    assert!(answer.contains("<remote-server-timeout "), "{answer}");
    assert!(answer.contains("id='3'"), "{answer}");
    link.stays_silent(Duration::from_millis(200)).await;
    drop((idle_out, busy_out, idle_in, busy_in));
}
