//! Stanzas that the edge refuses, and keys that prove nothing anew: they cost their sender, and
//! nobody else notices.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rstest::rstest;
use tokio::time::{sleep, timeout};
use xmpp_federation_core::Domain;
use xmpp_federation_edge::budget::{Budget, MemoryLimit};

use crate::support::process::Process;
use crate::support::{Lab, Peer, Router, Speaker, attribute, config, give_terms, live, scene, terms, to_alice, to_bob};

/// What a partner sends without end. Nobody is told of it.
#[derive(Debug, Clone, Copy)]
enum Flood {
    Good,
    /// Each to another address, which takes long to judge.
    GoodAnew,
    /// Its recipient's local part is written in both directions, so that no reading takes it.
    Malformed,
    /// The same, each another one.
    MalformedAnew,
    /// It holds a name that not every XML parser takes.
    Unportable,
}

impl Flood {
    /// About 60 kB of it.
    fn text(self, first: usize) -> String {
        let stanzas = (first..first + 50).map(|n| {
            let (to, inside) = match self {
                Self::Good => ("a".repeat(1000), ""),
                Self::GoodAnew => {
                    // No digits among letters that are written from the right.
                    let digits = format!("{n:08}");
                    let letters = digits
                        .bytes()
                        .map(|digit| char::from_u32(0x5d0 - 0x30 + u32::from(digit)).unwrap());
                    ("\u{5d0}".repeat(490) + &letters.collect::<String>(), "")
                }
                Self::Malformed => ("\u{5d0}a".repeat(330), ""),
                Self::MalformedAnew => (format!("{n}{}", "\u{5d0}a".repeat(330)), ""),
                Self::Unportable => ("a".repeat(1000), "<\u{218}/>"),
            };
            format!("<message from='bob@vngtp.lab' to='{to}@coluc.com' type='error'>{inside}</message>")
        });
        stanzas.collect()
    }

    /// Sends it until that is aborted or the stream ends.
    fn send(self, mut stream: Speaker) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            let mut first = 0;
            while stream.try_say(self.text(first).as_bytes()).await.is_ok() {
                first += 50;
            }
        })
    }

    /// The longest that a message of another partner, and the admin port, took while two streams
    /// of `vngtp.lab` sent it.
    async fn delays(self) -> [Duration; 2] {
        let (peer, other) = (Peer::new("vngtp.lab").await, Peer::new("other.example").await);
        let router = Router::new().await;
        let edge = Process::start_among(&[&peer, &other], &router);
        let mut link = router.accept().await;
        let mut quiet = other.open_authenticated(edge.s2s, "coluc.com").await;
        let mut floods = Vec::new();
        for _ in 0..2 {
            let stream = peer.open_authenticated(edge.s2s, "coluc.com").await;
            floods.push(self.send(stream));
        }
        let began = Instant::now();
        let mut worst = [Duration::ZERO; 2];
        while began.elapsed() < Duration::from_secs(1) {
            let before = Instant::now();
            quiet
                .say("<message from='carol@other.example' to='alice@coluc.com' id='quiet'/>")
                .await;
            while !link.hear().await.contains("id='quiet'") {}
            worst[0] = worst[0].max(before.elapsed());
            let before = Instant::now();
            edge.get("/livez").await;
            worst[1] = worst[1].max(before.elapsed());
            sleep(Duration::from_millis(10)).await;
        }
        for flood in floods {
            flood.abort();
        }
        worst
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_send_what_is_refused_delay_nobody_more_than_good_ones() {
    let good = Flood::Good.delays().await;
    let others = [
        Flood::GoodAnew,
        Flood::Malformed,
        Flood::MalformedAnew,
        Flood::Unportable,
    ];
    for flood in others {
        let worst = flood.delays().await;
        println!("{flood:?}: {worst:?}, good stanzas {good:?}");
        for (worst, good) in worst.into_iter().zip(good) {
            let bound = Duration::from_millis(200).max(2 * good);
            assert!(worst <= bound, "{flood:?}: {worst:?} over {bound:?}");
        }
    }
}

/// The longest that a message of `carol` took while `bob` sent this on the same stream.
async fn delay_beside(flood: Flood) -> Duration {
    const MESSAGES: usize = 100;
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let edge = Process::start_among(&[&peer], &router);
    let mut link = router.accept().await;
    let mut stream = peer.open_authenticated(edge.s2s, "coluc.com").await;
    let (tell, mut sent) = tokio::sync::mpsc::unbounded_channel();
    let writing = tokio::spawn(async move {
        for n in 0..MESSAGES {
            let began = Instant::now();
            stream.say(&flood.text(50 * n)).await;
            stream
                .say(&format!(
                    "<message from='carol@vngtp.lab' to='alice@coluc.com' id='carol{n}'/>"
                ))
                .await;
            tell.send(began).unwrap();
        }
        stream
    });
    let mut worst = Duration::ZERO;
    for n in 0..MESSAGES {
        let began = sent.recv().await.unwrap();
        while !link.hear().await.contains(&format!("id='carol{n}'")) {}
        worst = worst.max(began.elapsed());
    }
    writing.await.unwrap();
    worst
}

#[rstest]
#[case::of_one_address(Flood::Malformed)]
#[case::of_many_addresses(Flood::MalformedAnew)]
#[case::of_names(Flood::Unportable)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_whose_stanzas_are_refused_delays_no_other_user_of_the_same_server(#[case] flood: Flood) {
    let worst = delay_beside(flood).await;
    assert!(worst <= Duration::from_millis(500), "{flood:?}: {worst:?}");
}

/// A stanza that is refused in silence, by cause.
fn refused(cause: &str) -> &'static str {
    match cause {
        "unportable" => "<message from='bob@vngtp.lab' to='alice@coluc.com' type='error'><\u{218}/></message>",
        "malformed" => "<message from='bob@vngtp.lab' to='a b@coluc.com' type='error'/>",
        // No router serves this domain.
        _ => "<message from='bob@vngtp.lab' to='alice@conf.coluc.com' type='error'/>",
    }
}

/// How many stanzas are refused and not only dropped in about 1.5 seconds while two streams send nothing
/// else, in the name of so many users; with the time.
async fn refused_meanwhile(cause: &str, rate: Option<u32>, users: usize) -> (u64, Duration, Lab) {
    let (lab, peer, _link) = Lab::configured(|config| {
        if let Some(rate) = rate {
            let rate = format!("limits: {{messagesPerSecond: {rate}}}");
            give_terms(config, terms("vngtp.lab", &rate));
        }
        config.routers[0].domains = vec![Domain::parse("coluc.com").unwrap()];
    })
    .await;
    let to = if cause == "link-down" {
        "conf.coluc.com"
    } else {
        "coluc.com"
    };
    let began = Instant::now();
    let mut floods = Vec::new();
    for _ in 0..2 {
        let mut stream = peer.open_authenticated(lab.s2s, to).await;
        let of_user = |n: usize| refused(cause).replace("bob@", &format!("bob{}@", n % users));
        let text: String = (0..500).map(of_user).collect();
        floods.push(tokio::spawn(async move {
            while stream.try_say(text.as_bytes()).await.is_ok() {}
        }));
    }
    sleep(Duration::from_millis(1500)).await;
    let metric = format!("xmpp_edge_stanzas_dropped_total{{cause=\"{cause}\"}}");
    let (count, time) = (lab.metric(&metric), began.elapsed());
    for flood in floods {
        flood.abort();
    }
    (count, time, lab)
}

/// What so many in a second may have come to, one more for each stream.
fn most(at_once: f64, per_second: f64, time: Duration) -> f64 {
    at_once + per_second * time.as_secs_f64() + 2.0
}

#[rstest]
#[case::malformed("malformed")]
#[case::unportable("unportable")]
#[case::no_router("link-down")]
#[tokio::test]
async fn the_rate_of_a_domain_holds_for_what_is_refused(#[case] cause: &str) {
    let (count, time, lab) = refused_meanwhile(cause, Some(10), 1).await;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let counted = count as f64;
    assert!(counted <= most(10.0, 10.0, time), "{count} in {time:?}");
    assert!(count >= 10, "{count} in {time:?}");
    let pauses = lab.metric("xmpp_edge_pauses_total{reason=\"rate\"}");
    assert!(pauses > 0);
}

#[rstest]
#[case::malformed("malformed")]
#[case::unportable("unportable")]
#[tokio::test]
async fn what_is_refused_has_a_rate_for_each_sender(#[case] cause: &str) {
    let (count, time, lab) = refused_meanwhile(cause, None, 1).await;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let counted = count as f64;
    assert!(counted <= most(25.0, 50.0, time), "{count} in {time:?}");
    assert!(count >= 50, "{count} in {time:?}");
    lab.counts("pauses_total{reason=\"refused\"}", 0);
    let beyond = lab.metric("xmpp_edge_stanzas_dropped_total{cause=\"refused-rate\"}");
    assert!(beyond > 1000, "{beyond}");
}

#[rstest]
#[case::malformed("malformed", 100)]
#[case::unportable("unportable", 100)]
#[case::no_router_which_is_no_fault_of_a_sender("link-down", 1)]
#[tokio::test]
async fn what_many_senders_cause_has_a_rate_for_all_of_them(#[case] cause: &str, #[case] users: usize) {
    let (count, time, lab) = refused_meanwhile(cause, None, users).await;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let counted = count as f64;
    assert!(counted <= most(50.0, 200.0, time), "{count} in {time:?}");
    assert!(count >= 50, "{count} in {time:?}");
    let pauses = lab.metric("xmpp_edge_pauses_total{reason=\"refused\"}");
    assert!(pauses > 0);
    let dropped = lab.metric("xmpp_edge_stanzas_dropped_total{cause=\"refused-rate\"}");
    assert_eq!(dropped, 0);
}

#[tokio::test]
async fn a_router_that_sends_bad_addresses_without_end_delays_no_stanza() {
    let (_lab, _peer, mut link, mut bystander) = scene().await;
    let bad = "\u{5d0}a".repeat(330);
    let text = format!("<message from='alice@coluc.com' to='{bad}@vngtp.lab' type='error'/>");
    let say = link.sayer();
    let flood = async move {
        for _ in 0..100 {
            say(&text.repeat(20));
            sleep(Duration::from_millis(5)).await;
        }
    };
    let began = Instant::now();
    let ((), others) = bystander.during(&mut link, flood).await;
    assert!(others.is_empty(), "{others:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn empty_addresses_of_a_peer_end_its_stream_also_behind_a_malformed_stanza() {
    let (lab, peer, mut link) = Lab::configured(|_| {}).await;
    for before in ["", refused("malformed")] {
        let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
        bob.say(&format!("{before}<message from='' to='' id='none'/>")).await;
        assert_eq!(bob.condition().await, "improper-addressing");
        let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
        bob.say(&to_alice("good")).await;
        assert_eq!(attribute(&link.hear().await, "message", "id"), "good");
    }
}

#[rstest]
#[case::both("from='' to=''")]
#[case::no_domain("from='alice@' to='bob@'")]
#[case::only_a_resource("from='/x' to='/x'")]
#[tokio::test]
async fn a_stanza_of_a_router_without_addresses_is_dropped_without_an_answer(#[case] addresses: &str) {
    let (lab, _peer, mut link) = Lab::configured(|_| {}).await;
    link.say(&format!("<message {addresses} id='none'/>"));
    link.say("<message from='alice@coluc.com' to='a b@vngtp.lab' id='answered'/>");
    let answer = link.hear().await;
    assert_eq!(attribute(&answer, "message", "id"), "answered", "{answer}");
    let dropped = lab.metric("xmpp_edge_stanzas_dropped_total{cause=\"foreign-sender\"}");
    assert_eq!(dropped, 1);
}

#[tokio::test]
async fn an_error_for_a_stanza_to_nobody_has_no_empty_sender() {
    let (_lab, _peer, mut link) = Lab::configured(|_| {}).await;
    link.say("<message from='alice@coluc.com' to='' id='nobody'/>");
    let answer = link.hear().await;
    assert_eq!(attribute(&answer, "message", "id"), "nobody", "{answer}");
    assert!(!answer.contains(" from="), "{answer}");
}

#[tokio::test]
async fn a_request_without_an_id_is_dropped_and_counted_both_ways() {
    let (lab, peer, mut link) = Lab::configured(|_| {}).await;
    let dropped = "xmpp_edge_stanzas_dropped_total{cause=\"malformed\"}";
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say(
        "<iq from='bob@vngtp.lab' to='a b@coluc.com' type='get'/>\
         <iq from='bob@vngtp.lab' to='a b@coluc.com' type='get' id='answered'/>",
    )
    .await;
    let mut answers = peer.accept_authenticated("coluc.com").await;
    let answer = answers.hear("</iq>").await;
    assert_eq!(attribute(&answer, "iq", "id"), "answered", "{answer}");
    lab.counts(dropped, 1);
    link.say(
        "<iq from='alice@coluc.com' to='a b@vngtp.lab' type='set'/>\
         <iq from='alice@coluc.com' to='a b@vngtp.lab' type='set' id='answered'/>",
    );
    let answer = link.hear().await;
    assert_eq!(attribute(&answer, "iq", "id"), "answered", "{answer}");
    lab.counts(dropped, 2);
}

/// Takes from a link at this speed, answers pings, until the edge closes it; how many messages.
async fn read_slowly(mut link: Speaker, bytes_per_second: usize) -> usize {
    const AT_ONCE: usize = 32 * 1024;
    let pause = Duration::from_secs(1) * u32::try_from(AT_ONCE).unwrap() / u32::try_from(bytes_per_second).unwrap();
    let (mut count, mut text) = (0, String::new());
    let mut next = Instant::now();
    loop {
        text += &link.hear_some(AT_ONCE).await;
        // Only whole elements are looked at.
        while let Some(end) = text.find("</message>").map(|at| at + "</message>".len()) {
            let rest = text.split_off(end);
            let before = std::mem::replace(&mut text, rest);
            if let Some(at) = before.find("<iq ") {
                let ping = before[at..].split_inclusive("</iq>").next().unwrap();
                link.say(ping).await;
            }
            count += 1;
        }
        if let Some(at) = text.find("</iq>") {
            let rest = text.split_off(at + "</iq>".len());
            link.say(&std::mem::replace(&mut text, rest)).await;
        }
        if text.contains("</stream:stream>") {
            link.say("</stream:stream>").await;
            return count;
        }
        next += pause;
        sleep(next.saturating_duration_since(Instant::now())).await;
    }
}

#[tokio::test]
async fn what_a_partner_had_under_way_is_delivered_through_a_slow_router_when_the_edge_stops() {
    const COUNT: usize = 500;
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut live = live(config(&[&peer], &[&router]));
    // Its queues hold little, so that most waits in the sockets.
    let limit = MemoryLimit {
        bytes: 64 * 1024 * 1024,
        source: "this test".to_owned(),
    };
    live.budget = Budget::new(limit, &live.config.limits);
    let mut lab = Lab::start(live);
    let link = router.accept_stream().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let (tell, first) = tokio::sync::oneshot::channel();
    let writing = tokio::spawn(async move {
        let body = "x".repeat(10_000);
        let mut tell = Some(tell);
        for n in 0..COUNT {
            bob.say(&format!(
                "<message from='bob@vngtp.lab' to='alice@coluc.com' id='{n}'><body>{body}</body></message>"
            ))
            .await;
            if n == 30 {
                let _ = tell.take().unwrap().send(());
            }
        }
        bob.hear("</stream:stream>").await;
        bob.say("</stream:stream>").await;
        bob.hear_end().await;
    });
    first.await.unwrap();
    let reading = tokio::spawn(read_slowly(link, 500_000));
    lab.begin_stop();
    let (edge, began) = (lab.edge.clone(), Instant::now());
    let delivered = timeout(Duration::from_secs(25), reading).await;
    assert_eq!(delivered.expect("the link is not closed").unwrap(), COUNT);
    assert!(began.elapsed() > Duration::from_secs(6), "it was not slow");
    writing.await.unwrap();
    lab.stopped().await;
    let text = edge.metrics.render(&edge.registry);
    assert!(text.contains("xmpp_edge_streams_cut_total 0"), "{text}");
}

#[tokio::test]
async fn what_a_stream_that_is_cut_had_under_way_is_named_and_counted() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut edge = Process::start_writing(&peer, &router, "", Stdio::piped());
    let _link = router.accept().await;
    let mut bob = peer.open_authenticated(edge.s2s, "coluc.com").await;
    bob.say("<message from='bob@vngtp.lab' to='alice@coluc.com'><body>half of it")
        .await;
    let stopping = tokio::task::spawn_blocking(move || {
        let stopped = edge.stops_within(Duration::from_secs(20));
        let log = std::io::read_to_string(edge.log().unwrap()).unwrap();
        (stopped, log)
    });
    bob.hear("</stream:stream>").await;
    let (stopped, log) = stopping.await.unwrap();
    assert!(stopped);
    let line = log.lines().find(|line| line.contains("was not read to its end"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("\"WARN\"") && line.contains("vngtp.lab"), "{line}");
}

#[tokio::test]
async fn one_key_of_ours_proves_one_connection() {
    let (lab, peer, link) = Lab::configured(|config| config.limits.max_connections_per_address = 4).await;
    link.say(&to_bob("first"));
    let mut stream = peer.accept("our-id").await;
    let shown = stream.hear("</db:result>").await;
    let key = shown.split(['>', '<']).rev().nth(2).unwrap().to_owned();
    let verify = format!("<db:verify from='vngtp.lab' to='coluc.com' id='our-id'>{key}</db:verify>");
    let open = async || {
        // The partner's own address is another one.
        let speaker = Speaker::connect_from([127, 0, 0, 9], lab.s2s).await;
        let (mut speaker, _) = peer.open_on(speaker, "coluc.com").await;
        speaker.say(&verify).await;
        speaker.hear("type='valid'/>").await;
        speaker
    };
    let mut first = open().await;
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(open().await);
    }
    // The oldest of those behind the first gave way.
    assert_eq!(others[0].hear_end().await, "");
    assert!(first.is_silent(Duration::from_millis(100)).await);
    lab.counts("unproven_connections_ended_total{reason=\"per-address\"}", 2);
    lab.counts("connections_refused_total{reason=\"per-address\"}", 0);
}

#[tokio::test]
async fn tls_is_shown_as_soon_as_it_stands() {
    let (lab, peer, link) = Lab::configured(|_| {}).await;
    let shown = |lab: &Lab, direction: &str| {
        let streams = lab.edge.streams(None);
        let streams = streams.iter().filter(|one| one.direction == direction);
        streams
            .map(|one| (one.detail.phase, one.detail.tls.is_some()))
            .collect::<Vec<_>>()
    };
    let mut bob = Speaker::connect(lab.s2s).await;
    bob.say(&crate::support::header("vngtp.lab", "coluc.com", "")).await;
    bob.hear("</stream:features>").await;
    assert_eq!(shown(&lab, "inbound"), [("negotiating", false)]);
    bob.starttls().await;
    bob.start_tls_as_client("coluc.com").await;
    lab.until("TLS of an inbound stream", |lab| {
        shown(lab, "inbound") == [("negotiating", true)]
    })
    .await;
    link.say(&to_bob("first"));
    let (_silent, _) = peer.accept_tls().await;
    assert_eq!(shown(&lab, "outbound"), [("negotiating", true)]);
}
