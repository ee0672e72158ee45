//! What a stream's header puts in scope goes along with every stanza: how much that may be.

use std::time::Duration;

use rstest::rstest;
use xmpp_federation_core::edge_config::LinkProfile;

use crate::support::process::Process;
use crate::support::{
    COMPONENT, Lab, Peer, Router, RouterLink, Speaker, VALID, attribute, config, give_terms, header, live, scene,
    terms, to_bob,
};

/// A header from vngtp.lab to coluc.com with more attributes.
fn header_with(more: &str) -> String {
    with(&header("vngtp.lab", "coluc.com", ""), more)
}

fn with(header: &str, more: &str) -> String {
    header.replace(" version='1.0'>", &format!(" {more} version='1.0'>"))
}

/// Says that header in clear and over TLS, authenticates the pair. An error is the condition of the
/// stream error.
async fn open(peer: &Peer, edge: std::net::SocketAddr, opening: &str) -> Result<Speaker, String> {
    let mut bob = Speaker::connect(edge).await;
    bob.say(opening).await;
    bob.features_or_condition().await?;
    bob.starttls().await;
    bob.start_tls_as_client("coluc.com").await;
    bob.say(opening).await;
    let features = bob.features_or_condition().await?;
    let id = attribute(&features, "stream:stream", "id");
    peer.authenticate(&mut bob, &id, "coluc.com").await;
    Ok(bob)
}

/// As many bytes as the names of that many prefixes have together, those of the usual header
/// included.
fn prefixes(bytes: usize, character: &str) -> String {
    let usual = "stream".len() + "http://etherx.jabber.org/streams".len();
    let usual = usual + "db".len() + "jabber:server:dialback".len();
    let name = character.repeat(bytes - usual - "p".len());
    format!("xmlns:p=\"{name}\"")
}

#[rstest]
#[case::languages_of_cisco("xml:lang='en-US.UTF-8'", true)]
#[case::no_language("xml:lang=''", true)]
#[case::longest_language(&format!("xml:lang='{}'", "l".repeat(64)), true)]
#[case::longer_language(&format!("xml:lang='{}'", "l".repeat(65)), false)]
#[case::language_that_grows(&format!("xml:lang=\"{}\"", "'".repeat(65)), false)]
#[case::most_prefixes(&prefixes(2048, "u"), true)]
#[case::more_prefixes(&prefixes(2049, "u"), false)]
#[case::prefixes_that_grow(&prefixes(1000, "'"), false)]
#[case::many_prefixes(&[0; 20].iter().enumerate().map(|(n, _)| format!("xmlns:p{n}='{}'", "u".repeat(100))).collect::<Vec<_>>().join(" "), false)]
#[tokio::test]
async fn what_a_header_may_put_in_scope_is_bounded(#[case] more: &str, #[case] taken: bool) {
    let (lab, peer, mut link, mut bystander) = scene().await;
    match open(&peer, lab.s2s, &header_with(more)).await {
        Ok(mut bob) => {
            assert!(taken, "{more}");
            let user = if more.contains("xmlns:p=") { "p:a='' " } else { "" };
            bob.say(&format!("<message {user}from='bob@vngtp.lab' to='alice@coluc.com'/>"))
                .await;
            let heard = link.hear().await;
            assert!(heard.contains(more.trim()) || heard.contains(&more.replace('"', "'")));
        }
        Err(condition) => {
            assert!(!taken, "{more}: {condition}");
            assert_eq!(condition, "policy-violation");
        }
    }
    assert!(bystander.exchange(&mut link).await.is_empty());
}

/// The same on the streams that the edge opens: the header of a partner, and that of a router.
#[tokio::test]
async fn a_server_that_is_called_is_bound_too() {
    let (lab, peer, _router, link) = Lab::with_link().await;
    link.say(&to_bob("1"));
    let mut called = peer.accept_tcp().await;
    called.hear("version='1.0'>").await;
    let long = format!("xml:lang='{}'", "l".repeat(65));
    called.say(&with(&header("vngtp.lab", "coluc.com", "1"), &long)).await;
    assert_eq!(called.condition().await, "policy-violation");

    let router = Router::new().await;
    let _lab = Lab::start(live(config(&[], &[&router])));
    let mut dialled = router.accept_tcp().await;
    dialled.hear("accept'").await;
    dialled
        .say(&format!(
            "<stream:stream xmlns='jabber:component:accept' {long} \
             xmlns:stream='http://etherx.jabber.org/streams' from='{COMPONENT}' id='1'>"
        ))
        .await;
    dialled.hear("</stream:stream>").await;
    drop(lab);
}

/// What an attack cost.
struct Cost {
    sent: usize,
    received: usize,
    /// Kilobytes.
    memory: u64,
}

/// Streams with that header each say many of the smallest stanzas at once; the router reads
/// nothing, and then everything.
async fn attack(opening: &str, stanza: &str, streams: usize) -> Result<Cost, String> {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let edge = Process::start(&peer, &router, "");
    let link = router.accept_stream().await;
    let mut open_streams = Vec::new();
    for _ in 0..streams {
        open_streams.push(open(&peer, edge.s2s, opening).await?);
    }
    let before = edge.most();
    let text = stanza.repeat(61_000 / stanza.len());
    for bob in &mut open_streams {
        bob.say(&text).await;
    }
    // Everything that the edge will read while nobody takes it.
    let mut last = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = edge.resident();
        if now.abs_diff(last) < 64 {
            break;
        }
        last = now;
    }
    let memory = edge.most() - before;
    // Then everything.
    let mut link = RouterLink::start(link);
    let mut received = 0;
    for _ in 0..streams * (text.len() / stanza.len()) {
        received += link.hear().await.len();
    }
    Ok(Cost {
        sent: text.len() * streams,
        received,
        memory: memory.max(edge.most() - before),
    })
}

#[tokio::test]
async fn a_language_of_16_kb_is_not_written_to_the_router_with_every_stanza() {
    let opening = header_with(&format!("xml:lang=\"{}\"", "'".repeat(16_200)));
    let stanza = "<iq from='bob@vngtp.lab' to='alice@coluc.com'/>";
    let cost = attack(&opening, stanza, 1).await;
    if let Ok(Cost { sent, received, memory }) = cost {
        panic!("{sent} bytes sent, {received} written to the router, {memory} kB of memory");
    }
    assert_eq!(cost.err().unwrap(), "policy-violation");
}

#[tokio::test]
async fn the_largest_header_costs_what_its_stanzas_have_when_written() {
    let lang = format!("xml:lang=\"{}\" ", "'".repeat(64));
    let opening = header_with(&(lang + &prefixes(2048, "u")));
    let stanza = "<iq p:a='' from='vngtp.lab' to='coluc.com'/>";
    let Cost { sent, received, memory } = attack(&opening, stanza, 8).await.unwrap();
    println!("{sent} bytes sent, {received} written to the router, {memory} kB of memory");
    // Everything arrives, each stanza with what its header put in scope,
    assert!(received > sent / stanza.len() * 2048);
    // and what waits was bounded by its written size: a share of 4 MiB and a piece of each stream.
    assert!(memory < 24 * 1024, "{memory} kB");
}

/// Prefixes and language of an envelope are bounded like those of a header.
#[tokio::test]
async fn an_envelope_adds_no_more_than_a_header() {
    let (lab, peer, mut link) = Lab::linked(LinkProfile::Xcp).await;
    let envelope = |prefix: &str, id: &str| {
        format!(
            "<route from='alice@coluc.com' to='bob@vngtp.lab' type='session' {prefix}>\
             <message p:a='' from='alice@coluc.com' to='bob@vngtp.lab' id='{id}'/></route>"
        )
    };
    link.say(&envelope(&format!("xmlns:p=\"{}\"", "'".repeat(100_000)), "large"));
    let error = link.hear().await;
    assert!(error.contains("id='large'"), "{error}");
    assert!(error.contains("<policy-violation "), "{error}");
    link.say(&envelope("xmlns:p='urn:p'", "small"));
    let mut stream = peer.accept_authenticated("coluc.com").await;
    let heard = stream.hear("id='small'/>").await;
    assert!(!heard.contains("id='large'"), "{heard}");
    drop(lab);
}

/// An envelope repeats the addresses of its stanza as they are written, whatever they hold.
#[tokio::test]
async fn an_envelope_is_no_larger_than_its_stanzas_addresses() {
    let (lab, peer, mut link) = Lab::linked(LinkProfile::Xcp).await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let stanza = format!(
        "<message from=\"bob@vngtp.lab/{0}\" to='alice@coluc.com/&amp;{1}' id='1'/>",
        "'".repeat(1000),
        "\"".repeat(1000)
    );
    bob.say(&stanza).await;
    let heard = link.hear().await;
    assert!(heard.contains(&stanza), "{heard}");
    assert!(heard.len() < 2 * stanza.len() + 50, "{}", heard.len());
}

/// Our own maximum is for what a peer sends, the peer's for what is written to it.
#[tokio::test]
async fn each_maximum_is_for_the_bytes_on_that_stream() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    config.limits.max_stanza_bytes = 10_000;
    let lab = Lab::start(live(config));
    let mut link = router.accept().await;
    let stanza = |bytes: usize, from: &str, to: &str| {
        let start = format!("<message from='{from}' to='{to}' id='m'><body>");
        let end = "</body></message>";
        format!("{start}{}{end}", "x".repeat(bytes - start.len() - end.len()))
    };
    let (alice, bob) = ("alice@coluc.com", "bob@vngtp.lab");
    // With the language of the header it is written with more than 10 000 bytes.
    let mut inward = open(&peer, lab.s2s, &header_with("xml:lang='de'")).await.unwrap();
    inward.say(&stanza(10_000, bob, alice)).await;
    assert_eq!(link.hear().await.len(), 10_000 + " xml:lang='de'".len());
    inward.say(&stanza(10_001, bob, alice)).await;
    assert_eq!(inward.condition().await, "policy-violation");

    // The router's language makes a stanza larger than the partner takes.
    let router = Router::new().await;
    let mut config = crate::support::config(&[&peer], &[&router]);
    config.limits.max_stanza_bytes = 20_000;
    let _lab = Lab::start(live(config));
    let mut dialled = router.accept_tcp().await;
    dialled.hear("accept'").await;
    dialled.hear(">").await;
    dialled
        .say(&format!(
            "<stream:stream xmlns='jabber:component:accept' xml:lang='de' \
             xmlns:stream='http://etherx.jabber.org/streams' from='{COMPONENT}' id='router-stream'>"
        ))
        .await;
    dialled.hear("</handshake>").await;
    dialled.say("<handshake/>").await;
    let mut link = RouterLink::start(dialled);
    let most = 10_000 - " xml:lang='de'".len();
    link.say(&stanza(most + 1, alice, bob).replace("'m'", "'l'"));
    link.say(&stanza(most, alice, bob));
    let mut outward = peer.accept_tls_with("limits").await;
    outward
        .say(
            "<stream:features><dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>\
             <limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>10000</max-bytes></limits></stream:features>",
        )
        .await;
    outward.hear("</db:result>").await;
    outward.say(VALID).await;
    let heard = outward.hear("</message>").await;
    assert_eq!(heard.len(), 10_000);
    assert_eq!(attribute(&heard, "message", "id"), "m");
    let error = link.hear().await;
    assert_eq!(attribute(&error, "message", "id"), "l");
    assert!(error.contains("10001 bytes, at most 10000"), "{error}");
}

/// A rate counts what is written to the router.
#[tokio::test]
async fn a_rate_counts_written_bytes() {
    let (lab, peer, mut link) = Lab::configured(|config| {
        give_terms(config, terms("vngtp.lab", "limits: {bytesPerSecond: 20000}"));
    })
    .await;
    let opening = header_with(&prefixes(2000, "u"));
    let mut bob = open(&peer, lab.s2s, &opening).await.unwrap();
    let stanza = "<iq p:a='' from='vngtp.lab' to='coluc.com'/>";
    // 2 kB as they arrive, 100 kB as they are written: three seconds at this rate.
    let started = std::time::Instant::now();
    bob.say(&stanza.repeat(50)).await;
    for _ in 0..50 {
        link.hear().await;
    }
    assert!(started.elapsed() > Duration::from_secs(2), "{:?}", started.elapsed());
}
