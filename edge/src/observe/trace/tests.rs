#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;

use rstest::rstest;

use super::stream::StreamTrace;
use super::*;
use crate::observe::registry::Registry;
use crate::words::Direction;
use xmpp_federation_xml::Frame;

fn peer() -> SocketAddr {
    "198.51.100.7:41234".parse().unwrap()
}

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn told(bytes: &str, bodies: bool) -> Vec<String> {
    let frames = telling::frames(bytes.as_bytes());
    frames.iter().map(|f| telling::frame(f, bodies)).collect()
}

#[rstest]
#[case("vngtp.lab", Filter::Domain(domain("vngtp.lab")))]
#[case("VNGTP.lab.", Filter::Domain(domain("vngtp.lab")))]
#[case("198.51.100.7", Filter::Address("198.51.100.7".parse().unwrap()))]
#[case("::ffff:198.51.100.7", Filter::Address("198.51.100.7".parse().unwrap()))]
#[case("198.51.100.7:5269", Filter::Socket("198.51.100.7:5269".parse().unwrap()))]
#[case("[2001:db8::7]:5269", Filter::Socket("[2001:db8::7]:5269".parse().unwrap()))]
fn a_filter_is_a_domain_or_an_address(#[case] text: &str, #[case] expected: Filter) {
    assert_eq!(Filter::parse(text), Ok(expected));
}

#[test]
fn what_is_neither_is_refused_with_both_forms() {
    let error = Filter::parse("no domain").unwrap_err().to_string();
    assert!(error.contains("neither a remote domain nor an address"), "{error}");
}

const KEY: &str = "37c69b1cf07a3f67c04a5ef5902fa5114f2c76fe4a2686482ba5b89323075643";

#[rstest]
#[case(
    format!("<db:result from='coluc.com' to='vngtp.lab'>{KEY}</db:result>"),
    "<db:result from='coluc.com' to='vngtp.lab'>[key of 64 characters]</db:result>"
)]
#[case(
    format!("<db:verify from='a.example' to='b.example' id='x'> {KEY}\n</db:verify>"),
    "<db:verify from='a.example' to='b.example' id='x'>[key of 64 characters]</db:verify>"
)]
#[case(
    "<db:result from='a.example' to='b.example' type='error'><error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></db:result>".to_owned(),
    "<db:result from='a.example' to='b.example' type='error'>error item-not-found</db:result>"
)]
#[case(
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>Y29sdWMuY29t</auth>".to_owned(),
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>Y29sdWMuY29t</auth>"
)]
#[case(
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>c2VjcmV0</auth>".to_owned(),
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>[not shown]</auth>"
)]
#[case(
    "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>c2VjcmV0</response>".to_owned(),
    "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>[not shown]</response>"
)]
fn keys_and_credentials_are_never_shown(#[case] xml: String, #[case] expected: &str) {
    for bodies in [false, true] {
        assert_eq!(told(&xml, bodies), [expected], "bodies: {bodies}");
    }
}

#[test]
fn of_a_stanza_the_head_is_shown_and_the_rest_on_request() {
    let xml = "<message from='bob@vngtp.lab/x' to='alice@coluc.com' id='1&apos;2' type='chat'><body>secret words</body><active xmlns='http://jabber.org/protocol/chatstates' node='private'/></message>";
    assert_eq!(
        told(xml, false),
        [format!(
            "<message from='bob@vngtp.lab/x' to='alice@coluc.com' id='1&apos;2' type='chat'> with body, {{http://jabber.org/protocol/chatstates}}active, {} bytes",
            xml.len()
        )]
    );
    assert_eq!(told(xml, true), [xml]);
}

#[test]
fn of_an_error_its_condition_is_shown() {
    let xml = "<iq from='a@a.example' to='b@b.example' id='1' type='error'><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>";
    let shown = &told(xml, false)[0];
    assert!(
        shown.contains("type='error'> error service-unavailable with error, "),
        "{shown}"
    );
}

#[test]
fn header_error_and_end_in_one_write_are_three_lines() {
    let xml = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:db='jabber:server:dialback' xmlns:stream='http://etherx.jabber.org/streams' from='coluc.com' id='x' version='1.0'><stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>";
    let lines = told(xml, false);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(
        lines[0],
        "<stream:stream from='coluc.com' id='x' version='1.0' (knows dialback)>"
    );
    assert!(lines[1].contains("<host-unknown"));
    assert_eq!(lines[2], "</stream:stream>");
}

#[test]
fn a_line_is_one_line_harmless_to_terminals_and_bounded() {
    assert_eq!(
        printable("a\nb\u{1b}[2J\u{9b}\u{202e}c", 100),
        "a\\nb\\u{1b}[2J\\u{9b}\\u{202e}c"
    );
    let long = printable(&"x".repeat(10_000), telling::LONGEST);
    assert!(long.ends_with("… 5904 bytes more"), "{}", &long[4090..]);
}

fn header(from: &str) -> Frame {
    let xml = format!(
        "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' from='{from}' to='coluc.com' version='1.0'>"
    );
    telling::frames(xml.as_bytes()).remove(0)
}

#[tokio::test]
async fn what_came_before_a_stream_named_its_domain_is_told_afterwards_to_whom_it_concerns() {
    let registry = Arc::new(Registry::default());
    let watch = |text: &str| {
        let filter = Filter::parse(text).unwrap();
        registry.tracers.watch(filter, false).unwrap()
    };
    let (mut its, mut other, mut by_address) = (watch("vngtp.lab"), watch("other.example"), watch("198.51.100.7"));
    let guard = registry.open(Direction::Inbound, peer());
    let mut trace = StreamTrace::new(guard.entry.clone());
    guard.entry.claims(&domain("vngtp.lab"));
    trace.received(&header("vngtp.lab"));
    drop(trace);
    for watching in [&mut its, &mut by_address] {
        let mut texts = Vec::new();
        for _ in 0..3 {
            let line = watching.next().await.unwrap();
            assert_eq!((line.stream, line.peer), (Some(0), Some(peer())));
            texts.push(line.text);
        }
        assert_eq!(texts[0], "connection open");
        assert!(texts[1].starts_with("<stream:stream from='vngtp.lab'"), "{texts:?}");
        assert_eq!(texts[2], "connection closed");
    }
    assert!(other.lines.try_recv().is_err());
    assert_eq!(registry.tracers.early.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn streams_that_never_name_themselves_keep_a_bounded_number_of_lines() {
    let registry = Arc::new(Registry::default());
    let watching = registry.tracers.watch(Filter::Domain(domain("vngtp.lab")), false);
    let mut traces = Vec::new();
    for _ in 0..2 * MAX_EARLY {
        let guard = registry.open(Direction::Inbound, peer());
        traces.push(StreamTrace::new(guard.entry.clone()));
    }
    assert_eq!(registry.tracers.early.load(Ordering::Relaxed), MAX_EARLY);
    drop((traces, watching));
    assert_eq!(registry.tracers.early.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn who_reads_too_slowly_is_told_how_many_lines_are_missing() {
    let registry = Arc::new(Registry::default());
    let mut watching = registry.tracers.watch(Filter::Address(peer().ip()), false).unwrap();
    let guard = registry.open(Direction::Inbound, peer());
    let mut trace = StreamTrace::new(guard.entry.clone());
    for n in 0..QUEUE + 99 {
        trace.event(|| n.to_string());
    }
    let mut texts = Vec::new();
    for _ in 0..=QUEUE {
        texts.push(watching.next().await.unwrap().text);
    }
    assert_eq!(texts[0], "connection open");
    let dropped = "100 lines dropped; they came faster than they were read";
    assert_eq!(texts.iter().filter(|text| *text == dropped).count(), 1);
    assert_eq!(
        texts.iter().filter(|text| text.parse::<usize>().is_ok()).count(),
        QUEUE - 1
    );
}

#[test]
fn nobody_watches_once_all_have_gone_and_only_so_many_may() {
    let tracers = Arc::new(Tracers::default());
    assert_eq!(tracers.generation(), 0);
    let filter = Filter::Domain(domain("vngtp.lab"));
    let all: Vec<_> = (0..MAX_TRACERS)
        .map(|_| tracers.watch(filter.clone(), false).unwrap())
        .collect();
    assert!(tracers.watch(filter, false).is_none());
    assert_ne!(tracers.generation(), 0);
    drop(all);
    assert_eq!(tracers.generation(), 0);
}
