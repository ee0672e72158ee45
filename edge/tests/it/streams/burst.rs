//! More at once than a partner reads at once: bytes are the bound, and nobody else notices.

use std::time::Duration;

use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::support::process::Process;
use crate::support::{Lab, Peer, Router, Speaker, config, configured_scene, live};

const SIZE: usize = 243;

/// A message of [`SIZE`] bytes.
fn message(n: usize) -> String {
    let start = format!("<message from='alice@coluc.com' to='bob@vngtp.lab' id='b{n:06}'><body>");
    let end = "</body></message>";
    let body = "x".repeat(SIZE - start.len() - end.len());
    format!("{start}{body}{end}")
}

async fn metric(edge: &Process, name: &str) -> usize {
    let mut tcp = TcpStream::connect(edge.admin).await.unwrap();
    tcp.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    tcp.read_to_string(&mut text).await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value
        .unwrap_or_else(|| panic!("no {name} in {text}"))
        .trim()
        .parse()
        .unwrap()
}

/// Hears messages with these numbers in order, at a pace; gives how long it took.
async fn hear_slowly(stream: &mut Speaker, count: usize, per_second: f64) -> Duration {
    let start = Instant::now();
    for n in 0..count {
        let heard = stream.hear("</message>").await;
        assert!(heard.contains(&format!("id='b{n:06}'")), "{n}: {heard}");
        let due = start + Duration::from_secs_f64(f64::from(u32::try_from(n).unwrap()) / per_second);
        if due > Instant::now() + Duration::from_millis(5) {
            tokio::time::sleep_until(due).await;
        }
    }
    start.elapsed()
}

/// The time that a stanza may wait for a stream is less than what it takes the partner to read all.
#[rstest]
#[case::as_it_is_shipped("", 3000.0)]
#[case::faster_with_less_time("limits: {dialbackTimeout: 2s}", 20_000.0)]
#[tokio::test]
async fn a_hundred_thousand_stanzas_in_one_write_arrive_at_a_partner_that_reads_slowly(
    #[case] hold: &str,
    #[case] per_second: f64,
) {
    const COUNT: usize = 100_000;
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let edge = Process::start(&peer, &router, hold);
    let mut link = router.accept().await;
    let mut stream = link.opens(&peer, "open").await;
    let idle = edge.resident();
    let all: String = (0..COUNT).map(message).collect();
    assert_eq!(all.len(), COUNT * SIZE);
    link.say(&all);
    let mut waiting = 0;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1800) && waiting < COUNT * SIZE * 7 / 10 {
        sleep(Duration::from_millis(50)).await;
        waiting = metric(&edge, "xmpp_edge_outbound_queue_bytes ").await;
    }
    let grown = usize::try_from(edge.resident() - idle).unwrap() * 1024;
    println!("{waiting} bytes wait, {grown} more are resident");
    assert!(waiting > COUNT * SIZE / 2, "{waiting}");
    assert!(grown <= waiting / 2 * 3, "{grown} for {waiting}");
    let took = hear_slowly(&mut stream, COUNT, per_second).await;
    assert!(took > Duration::from_secs_f64(98_000.0 / per_second), "{took:?}");
    assert_eq!(metric(&edge, "xmpp_edge_outbound_queue_bytes ").await, 0);
    link.stays_silent(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn a_partner_that_reads_nothing_is_told_of_in_time_and_disturbs_nobody() {
    let (lab, peer, mut link, mut bystander) =
        configured_scene(|config| config.limits.dialback_timeout.0 = Duration::from_secs(2)).await;
    let deaf = link.opens(&peer, "open").await;
    let all: String = (0..80_000).map(message).collect();
    link.say(&all);
    let waits = |lab: &Lab| {
        let streams = lab.edge.streams(Some(&"vngtp.lab".parse().unwrap()));
        streams.iter().map(|stream| stream.waiting.bytes_waiting).sum::<usize>()
    };
    lab.until("much waits", |lab| waits(lab) > 10_000_000).await;
    for _ in 0..20 {
        let start = Instant::now();
        for other in bystander.exchange(&mut link).await {
            assert!(other.contains("<remote-server-timeout "), "{other}");
        }
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
    // Two seconds without a byte: what waits is told of, the link takes all answers.
    lab.until("nothing waits", |lab| waits(lab) == 0).await;
    let told = "xmpp_edge_stanzas_bounced_total{cause=\"unreachable\"}";
    lab.until("all are told", |lab| lab.metric(told) > 40_000).await;
    bystander.exchange(&mut link).await;
    drop(deaf);
}

#[tokio::test]
async fn what_is_beyond_the_bytes_of_one_domain_is_answered_and_another_is_free() {
    let (peer, other, router) = (
        Peer::new("vngtp.lab").await,
        Peer::new("other.example").await,
        Router::new().await,
    );
    let mut config = config(&[&peer, &other], &[&router]);
    config.limits.max_queued_bytes = 1000 * SIZE;
    let _lab = Lab::start(live(config));
    let mut link = router.accept().await;
    let all: String = (0..1010).map(message).collect();
    link.say(&all);
    for n in 1000..1010 {
        let answer = link.hear().await;
        assert!(answer.contains("<resource-constraint "), "{answer}");
        assert!(answer.contains(&format!("id='b{n:06}'")), "{answer}");
    }
    link.say("<message from='alice@coluc.com' to='x@other.example' id='free'/>");
    let mut stream = other.accept_authenticated("coluc.com").await;
    stream.hear("id='free'/>").await;
    let mut stream = peer.accept_authenticated("coluc.com").await;
    hear_slowly(&mut stream, 1000, 1e9).await;
}

#[tokio::test]
async fn a_partner_that_closes_its_side_and_reads_on_gets_everything_once() {
    const COUNT: usize = 20_000;
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut stream = link.opens(&peer, "open").await;
    let all: String = (0..COUNT).map(message).collect();
    link.say(&all);
    // The first ones are there, the others on the way.
    stream.hear("id='b000010'").await;
    stream.say("</stream:stream>").await;
    let mut next = 11;
    while let Ok(heard) = stream.hear_or_end("</message>").await {
        if heard.contains("</stream:stream>") {
            break;
        }
        if heard.contains("id='b000010'") || !heard.contains("<message") {
            continue;
        }
        assert!(heard.contains(&format!("id='b{next:06}'")), "{next}: {heard}");
        next += 1;
    }
    drop(stream);
    // What had not been written goes over the next stream.
    let mut second = None;
    while next < COUNT {
        let heard = peer.accepted(&mut second).await.hear("</message>").await;
        let expected = format!("id='b{next:06}'");
        assert!(heard.contains(&expected), "{next}: {heard}");
        next += 1;
    }
    link.stays_silent(Duration::from_millis(200)).await;
    drop((lab, second));
}
