//! What was sent to a partner and not read there: it is told of or counted, its memory is bounded, and
//! what comes over the next stream does not overtake it.

use std::collections::BTreeSet;
use std::time::Duration;

use rstest::rstest;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Lab, Peer, Router, RouterLink, Speaker, answered, attribute, config, live};

const SIZE: usize = 1000;
const UNACCOUNTED: &str = "xmpp_edge_stanzas_unaccounted_total ";

fn message(to: &str, n: usize) -> String {
    let start = format!("<message from='alice@coluc.com' to='bob@{to}' id='s{n:06}'><body>");
    let end = "</body></message>";
    let body = "x".repeat(SIZE - start.len() - end.len());
    format!("{start}{body}{end}")
}

fn messages(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|n| message("vngtp.lab", n)).collect()
}

fn number(stanza: &str) -> usize {
    let at = stanza.find("id='s").unwrap() + 5;
    stanza[at..at + 6].parse().unwrap()
}

/// Hears messages until so many have come, or for a moment nothing comes.
async fn bounced(link: &mut RouterLink) -> BTreeSet<usize> {
    let mut numbers = BTreeSet::new();
    while let Ok(stanza) = timeout(Duration::from_secs(2), link.hear()).await {
        assert!(stanza.contains("type='error'"), "{stanza}");
        assert!(numbers.insert(number(&stanza)), "told twice: {stanza}");
    }
    numbers
}

/// The numbers of the whole messages in this text.
fn numbers(text: &str) -> Vec<usize> {
    let parts = text.split_inclusive("</message>");
    parts.filter(|part| part.ends_with("</message>")).map(number).collect()
}

/// As `ctl close` does.
fn close_outbound(lab: &Lab) {
    let streams = lab.edge.registry.streams(None);
    let id = streams.iter().find(|stream| stream.direction == "outbound").unwrap().id;
    assert!(lab.edge.registry.close(id));
}

/// The peer's system takes no more than this ahead of its program.
fn small_buffer(peer: &Peer) {
    socket2::SockRef::from(&peer.listener)
        .set_recv_buffer_size(16 * 1024)
        .unwrap();
}

/// An edge and a partner with a small buffer, which gets these messages over a stream of coluc.com.
async fn with_slow_partner(count: usize) -> (Lab, Peer, Router, RouterLink, Speaker) {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    small_buffer(&peer);
    let lab = Lab::start(live(config(&[&peer], &[&router])));
    let link = router.accept().await;
    link.say(&messages(0..count));
    let stream = peer.accept_authenticated("coluc.com").await;
    (lab, peer, router, link, stream)
}

async fn falls_behind(lab: &Lab) {
    lab.until("the partner is behind", |lab| lab.edge.depths().sent_bytes > 500_000)
        .await;
}

#[rstest]
#[case::an_ordinary_system(None, 0)]
#[case::one_that_takes_more_than_is_kept(Some(64 * 1024), 1)]
#[tokio::test]
async fn a_partner_that_dies_with_full_buffers_loses_nothing_in_silence(
    #[case] memory: Option<usize>,
    #[case] least: u64,
) {
    const COUNT: usize = 12_000;
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut live = live(config(&[&peer], &[&router]));
    if let Some(memory) = memory {
        live.budget.sent = memory;
    }
    let lab = Lab::start(live);
    let mut link = router.accept().await;
    link.say(&messages(0..COUNT));
    let mut stream = peer.accept_authenticated("coluc.com").await;
    let mut read = 0;
    while read < 100 {
        assert_eq!(number(&stream.hear("</message>").await), read);
        read += 1;
    }
    // Its program hangs; its system takes what it has room for.
    let mut before = 0;
    loop {
        sleep(Duration::from_millis(300)).await;
        let now = lab.edge.depths().outbound_stanzas;
        if now == before {
            break;
        }
        before = now;
    }
    assert!(before > 0, "everything was taken");
    drop(stream);
    let mut stream = peer.accept_authenticated("coluc.com").await;
    let mut arrived = BTreeSet::new();
    for _ in 0..before {
        let n = number(&stream.hear("</message>").await);
        assert!(arrived.last().is_none_or(|last| *last < n), "{n} out of order");
        arrived.insert(n);
    }
    assert_eq!(arrived.last(), Some(&(COUNT - 1)));
    let told = bounced(&mut link).await;
    let counted = lab.metric(UNACCOUNTED);
    assert!(counted >= least, "{counted}");
    let counted = usize::try_from(counted).unwrap();
    let silent = (read..COUNT)
        .filter(|n| !arrived.contains(n) && !told.contains(n))
        .count();
    // What was read of the last batch may be counted, too.
    assert!(
        silent <= counted,
        "{silent} in silence; {counted} counted, {} told",
        told.len()
    );
}

#[tokio::test]
async fn partners_that_read_nothing_share_their_part_of_the_memory_and_another_is_served() {
    const MEMORY: usize = 2 * 1024 * 1024;
    let (healthy, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut deaf = Vec::new();
    for letter in 'a'..='l' {
        let peer = Peer::new(format!("{letter}.example").leak()).await;
        small_buffer(&peer);
        deaf.push(peer);
    }
    let peers: Vec<&Peer> = deaf.iter().chain([&healthy]).collect();
    let mut live = live(config(&peers, &[&router]));
    live.budget.sent = MEMORY;
    let lab = Lab::start(live);
    let link = router.accept().await;
    let mut streams = Vec::new();
    for peer in &deaf {
        let all: String = (0..1000).map(|n| message(peer.domain, n)).collect();
        link.say(&all);
        streams.push(peer.accept_authenticated("coluc.com").await);
    }
    let sent = |lab: &Lab| lab.edge.depths().sent_bytes;
    lab.until("the memory is shared out", |lab| sent(lab) > MEMORY / 2)
        .await;
    link.say(&messages(0..2000));
    let mut stream = healthy.accept_authenticated("coluc.com").await;
    assert_eq!(number(&stream.hear("</message>").await), 0);
    let (began, mut most) = (Instant::now(), 0);
    for n in 1..2000 {
        assert_eq!(number(&stream.hear("</message>").await), n);
        most = most.max(sent(&lab));
    }
    println!("2000 stanzas took {:?}; {most} bytes were kept of all", began.elapsed());
    assert!(most <= MEMORY + 13 * 2 * 4096, "{most}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(streams);
}

/// How a partner's program ends a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It says its end and closes the connection.
    Close,
    /// The same, the connection a moment later.
    CloseLater,
}

#[rstest]
#[case::at_once(Ending::Close, 300, 10)]
#[case::later(Ending::CloseLater, 300, 10)]
#[case::much(Ending::Close, 1500, 200)]
#[case::all_was_read(Ending::Close, 50, 50)]
#[case::all_was_read_and_later(Ending::CloseLater, 50, 50)]
#[tokio::test]
async fn a_partner_that_ends_its_stream_without_reading_everything_loses_nothing_in_silence(
    #[case] ending: Ending,
    #[case] count: usize,
    #[case] read: usize,
) {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    link.say(&messages(0..count));
    let mut stream = peer.accept_authenticated("coluc.com").await;
    let mut last = 0;
    for n in 0..read {
        last = number(&stream.hear("</message>").await);
        assert_eq!(last, n);
    }
    assert_eq!(last + 1, read);
    lab.until("all is sent", |lab| lab.edge.depths().outbound_stanzas == 0)
        .await;
    sleep(Duration::from_millis(100)).await;
    let buffered = stream.heard_already().matches("</message>").count();
    stream.say("</stream:stream>").await;
    if ending == Ending::CloseLater {
        sleep(Duration::from_millis(300)).await;
    }
    drop(stream);
    let told = bounced(&mut link).await;
    let counted = usize::try_from(lab.metric(UNACCOUNTED)).unwrap();
    if read + buffered == count {
        assert_eq!((told.len(), counted), (0, 0));
    } else {
        // What its TLS library holds is read as far as its system knows.
        let silent = (read + buffered + 100..count).filter(|n| !told.contains(n)).count();
        assert!(
            silent <= counted,
            "{silent} in silence; {counted} counted, {} told",
            told.len()
        );
    }
}

#[tokio::test]
async fn a_reload_that_ends_a_stream_under_a_slow_reader_loses_nothing_and_keeps_the_order() {
    const COUNT: usize = 1500;
    let (lab, peer, _router, mut link, mut stream) = with_slow_partner(1).await;
    // Both pairs on one stream.
    assert_eq!(number(&stream.hear("</message>").await), 0);
    let other = message("vngtp.lab", 0).replace("alice@coluc.com", "carol@conf.coluc.com");
    link.say(&other);
    let asked = stream.hear("</db:result>").await;
    assert_eq!(attribute(&asked, "db:result", "from"), "conf.coluc.com");
    stream.say(&answered("vngtp.lab", "conf.coluc.com", "valid")).await;
    stream.hear("</message>").await;
    link.say(&messages(1..COUNT));
    falls_behind(&lab).await;
    let mut config = lab.live.borrow().config.clone();
    config.domains.retain(|domain| domain.as_str() != "conf.coluc.com");
    lab.live.send(std::sync::Arc::new(live(config))).unwrap();
    let text = read_slowly(&mut stream, Duration::from_millis(100)).await;
    assert!(text.contains("<host-gone "), "{}", &text[text.len() - 300..]);
    drop(stream);
    let arrived = numbers(&text);
    assert!(arrived.iter().copied().eq(1..=arrived.len()));
    let mut next = peer.accept_authenticated("coluc.com").await;
    for n in arrived.len() + 1..COUNT {
        assert_eq!(number(&next.hear("</message>").await), n);
    }
    link.stays_silent(Duration::from_millis(300)).await;
}

/// Reads to the end of the stream, a little at a time, and answers it; gives what it read.
async fn read_slowly(stream: &mut Speaker, pause: Duration) -> String {
    let mut text = String::new();
    loop {
        let some = stream.hear_some(16 * 1024).await;
        if some.is_empty() {
            return text;
        }
        text.push_str(&some);
        if text.contains("</stream:stream>") {
            stream.say("</stream:stream>").await;
            return text;
        }
        sleep(pause).await;
    }
}

#[tokio::test]
async fn a_stream_that_is_closed_under_a_slow_reader_is_not_overtaken_by_the_next_one() {
    const COUNT: usize = 3000;
    let (lab, peer, _router, mut link, mut stream) = with_slow_partner(1).await;
    assert_eq!(number(&stream.hear("</message>").await), 0);
    link.say(&messages(1..COUNT));
    falls_behind(&lab).await;
    close_outbound(&lab);
    link.say(&message("vngtp.lab", COUNT));
    let began = Instant::now();
    let numbers = numbers(&read_slowly(&mut stream, Duration::from_millis(200)).await);
    println!(
        "{} stanzas were read in {:?} after the close",
        numbers.len(),
        began.elapsed()
    );
    assert!(
        began.elapsed() > Duration::from_secs(6),
        "it was not slow: {:?}",
        began.elapsed()
    );
    assert!(numbers.iter().copied().eq(1..=numbers.len()));
    let mut next = peer.accept_authenticated("coluc.com").await;
    for n in numbers.len() + 1..=COUNT {
        assert_eq!(number(&next.hear("</message>").await), n);
    }
    link.stays_silent(Duration::from_millis(300)).await;
    lab.counts(UNACCOUNTED, 0);
}

#[tokio::test]
async fn what_was_reported_of_a_stream_that_nobody_reads_does_not_arrive_behind_the_next_one() {
    let (lab, peer, _router, mut link, mut stream) = with_slow_partner(8000).await;
    falls_behind(&lab).await;
    sleep(Duration::from_millis(500)).await;
    close_outbound(&lab);
    let mut next = peer.accept_authenticated("coluc.com").await;
    let first = number(&next.hear("</message>").await);
    // The program wakes up: its system has no more than it had taken.
    let text = stream.hear_end().await;
    let last = numbers(&text).into_iter().max();
    println!("the old stream ends with {last:?}, the new one begins with {first}");
    assert!(last.is_some_and(|last| last < first), "{last:?} {first}");
    let told = bounced(&mut link).await;
    assert!(
        (last.unwrap() + 1..first).all(|n| told.contains(&n)),
        "{last:?} {first} {}",
        told.len()
    );
}
