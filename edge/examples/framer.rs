//! Nanoseconds per 243-byte message: the framer, and two general parsers beside it.
//!
//! `cargo run --release -p xmpp-federation-edge --example framer`. An example and not a bench, so that it is
//! built with what the release is built with. Each line is the best of several rounds; a plain loop is
//! precise enough here. A name given as argument (`-- framer`) runs that line alone.
//!
//! The framer and rxml get the same 16 kB reads. quick-xml gets everything in one piece, and checks
//! neither UTF-8 nor characters nor references: what it is given is to its advantage.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a measurement, not product code"
)]

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use rxml::Parse;
use xmpp_federation_edge::observe::registry::Registry;
use xmpp_federation_edge::observe::trace::stream::StreamTrace;
use xmpp_federation_edge::words::Direction;
use xmpp_federation_xml::{Frame, Framer, Limits, Reroot};

const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' \
    xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback' \
    from='vngtp.lab' to='coluc.com' version='1.0'>";
const HEADER_WITH_LANG: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' \
    xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback' \
    from='vngtp.lab' to='coluc.com' version='1.0' xml:lang='en'>";
const MESSAGE: &str = "<message from='bob@vngtp.lab/laptop.7fQ2' to='alice@coluc.com/desk' \
    id='a1b2c3d4-0000-4000-8017' type='chat'><body>Lunch at twelve? The place on the corner has \
    soup today.</body><active xmlns='http://jabber.org/protocol/chatstates'/></message>";
const MESSAGES: usize = 20_000;
const READ: usize = 16 * 1024;
const ROUNDS: usize = 15;

fn main() {
    println!("{} bytes per message, reads of {READ} bytes", MESSAGE.len());
    assert_eq!(MESSAGE.len(), 243);
    let plain = format!("{HEADER}{}", MESSAGE.repeat(MESSAGES));
    let lang = format!("{HEADER_WITH_LANG}{}", MESSAGE.repeat(MESSAGES));
    let cyrillic = "Обед в двенадцать? На углу суп.";
    let utf8 = plain.replace("Lunch at twelve? The place on the corner has soup today.", cyrillic);
    report("framer", ROUNDS, || framer(plain.as_bytes(), READ));
    report("framer, addresses read", ROUNDS, || framer_addresses(plain.as_bytes()));
    report("framer, re-rooted into one buffer", ROUNDS, || {
        framer_rerooted(plain.as_bytes())
    });
    report("framer, re-rooted, xml:lang added", ROUNDS, || {
        framer_rerooted(lang.as_bytes())
    });
    report("framer, a stream that nobody watches", ROUNDS, || {
        framer_unwatched(plain.as_bytes())
    });
    report("framer, Cyrillic body", ROUNDS, || framer(utf8.as_bytes(), READ));
    report("framer, 64 bytes per read", ROUNDS, || framer(plain.as_bytes(), 64));
    report("framer, 1 byte per read", ROUNDS, || framer(plain.as_bytes(), 1));
    report("quick-xml NsReader, duplicates checked", ROUNDS, || {
        quick(plain.as_bytes())
    });
    report("rxml", 3, || strict(plain.as_bytes()));
}

fn report(name: &str, rounds: usize, mut run: impl FnMut() -> usize) {
    let mut filters = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    if filters.next().is_some_and(|filter| name != filter) {
        return;
    }
    let best = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            assert_eq!(black_box(run()), MESSAGES);
            start.elapsed()
        })
        .min()
        .unwrap_or_default();
    println!("{:8.1} ns  {name}", best.as_nanos() as f64 / MESSAGES as f64);
}

fn each_frame(input: &[u8], read: usize, mut seen: impl FnMut(Frame)) {
    let mut framer = Framer::new(Limits::stanzas(256 * 1024));
    for piece in input.chunks(read) {
        framer.feed(piece);
        while let Some(frame) = framer.next_frame().unwrap() {
            seen(frame);
        }
    }
}

fn framer(input: &[u8], read: usize) -> usize {
    let mut count = 0;
    each_frame(input, read, |frame| {
        count += usize::from(matches!(black_box(frame), Frame::Element(_)));
    });
    count
}

fn framer_addresses(input: &[u8]) -> usize {
    let mut count = 0;
    each_frame(input, READ, |frame| {
        if let Frame::Element(e) = frame {
            black_box((e.name(), e.ns(), e.from(), e.to()));
            count += 1;
        }
    });
    count
}

/// What `ctl trace` costs while it does not run: compare with the line "framer".
fn framer_unwatched(input: &[u8]) -> usize {
    let registry = Arc::new(Registry::default());
    let guard = registry.open(Direction::Inbound, SocketAddr::from(([192, 0, 2, 1], 5269)));
    let mut trace = StreamTrace::new(guard.entry.clone());
    let mut count = 0;
    each_frame(input, READ, |frame| {
        trace.received(&frame);
        count += usize::from(matches!(black_box(frame), Frame::Element(_)));
    });
    count
}

fn framer_rerooted(input: &[u8]) -> usize {
    let mut count = 0;
    let mut out = BytesMut::with_capacity(64 * 1024);
    each_frame(input, READ, |frame| {
        if let Frame::Element(e) = frame {
            e.reroot_into(Reroot::TO_LINK, &mut out).unwrap();
            count += 1;
            if out.len() > 32 * 1024 {
                black_box(&out);
                out.clear();
            }
        }
    });
    count
}

fn quick(input: &[u8]) -> usize {
    use quick_xml::NsReader;
    use quick_xml::events::Event;
    let mut reader = NsReader::from_reader(input);
    let (mut depth, mut count) = (0, 0);
    loop {
        match reader.read_resolved_event() {
            Ok((ns, Event::Start(start))) => {
                black_box(ns);
                for attr in start.attributes().with_checks(true) {
                    black_box(attr.unwrap());
                }
                depth += 1;
            }
            Ok((_, Event::Empty(start))) => {
                for attr in start.attributes().with_checks(true) {
                    black_box(attr.unwrap());
                }
            }
            Ok((_, Event::End(_))) => {
                depth -= 1;
                count += usize::from(depth == 1);
            }
            // The stream is not closed: the end of the input is an error or the end.
            Ok((_, Event::Eof)) | Err(_) => return count,
            Ok(other) => {
                black_box(other);
            }
        }
    }
}

fn strict(input: &[u8]) -> usize {
    let mut parser = rxml::Parser::new();
    let (mut depth, mut count) = (0, 0);
    for mut piece in input.chunks(READ) {
        while let Ok(Some(event)) = parser.parse(&mut piece, false) {
            match black_box(event) {
                rxml::Event::StartElement(..) => depth += 1,
                rxml::Event::EndElement(_) => {
                    depth -= 1;
                    count += usize::from(depth == 1);
                }
                _ => {}
            }
        }
    }
    count
}
