//! What `ctl trace` shows of real streams: everything that was said, no key, no body unless asked.

use std::time::Duration;

use tokio::time::timeout;
use xmpp_federation_edge::observe::trace::LineKind::{self, Event, Received, Sent};
use xmpp_federation_edge::observe::trace::{Filter, Line, QUEUE, Subscription};

use crate::support::{self, Lab, PATIENCE, Peer, config, live, to_alice, to_bob};

fn watch(lab: &Lab, peer: &str, bodies: bool) -> Subscription {
    let filter = Filter::parse(peer).unwrap();
    let tracers = &lab.edge.registry.tracers;
    tracers.watch(filter, bodies).unwrap()
}

async fn next(watching: &mut Subscription) -> Line {
    timeout(PATIENCE, watching.next()).await.expect("no line came").unwrap()
}

/// The lines up to and including one with this text.
async fn lines_until(watching: &mut Subscription, text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    loop {
        let line = next(watching).await;
        let last = line.text.contains(text);
        lines.push(line);
        if last {
            return lines;
        }
    }
}

/// Whether these texts come in this order, each said this way.
fn assert_order(lines: &[Line], expected: &[(LineKind, &str)]) {
    let mut rest = lines.iter();
    for (way, text) in expected {
        assert!(
            rest.any(|line| line.way == *way && line.text.contains(text)),
            "{way:?} {text:?} is missing or out of order in\n{}",
            lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        );
    }
}

#[tokio::test]
async fn a_stream_is_told_from_its_first_byte_to_its_end_without_keys_and_bodies() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut watching = watch(&lab, "vngtp.lab", false);
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say(
        "<message from='bob@vngtp.lab/x' to='alice@coluc.com' id='m1' type='chat'><body>secret words</body></message>",
    )
    .await;
    link.hear().await;
    bob.say("</stream:stream>").await;
    bob.hear("</stream:stream>").await;
    drop(bob);
    let mut lines = lines_until(&mut watching, "id='m1'").await;
    lines.extend(lines_until(&mut watching, "connection closed").await);

    let inbound: Vec<_> = lines
        .iter()
        .filter(|line| line.direction.as_deref() == Some("inbound"))
        .cloned()
        .collect();
    assert_order(
        &inbound,
        &[
            (Event, "connection open"),
            (Received, "<stream:stream from='vngtp.lab' to='coluc.com' version='1.0'"),
            (Sent, "<stream:stream from='coluc.com' to='vngtp.lab' id='"),
            (Sent, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/>"),
            (Received, "<starttls"),
            (Sent, "<proceed"),
            (Event, "TLS established: TLSv1_3 TLS13_"),
            (Received, "<stream:stream from='vngtp.lab'"),
            (Event, "the peer's certificate for vngtp.lab: missing"),
            (Sent, "<dialback xmlns='urn:xmpp:features:dialback'>"),
            (
                Received,
                "<db:result from='vngtp.lab' to='coluc.com'>[key of 8 characters]</db:result>",
            ),
            (Sent, "<db:result from='coluc.com' to='vngtp.lab' type='valid'/>"),
            (
                Received,
                "<message from='bob@vngtp.lab/x' to='alice@coluc.com' id='m1' type='chat'> with body, 108 bytes",
            ),
            (Received, "</stream:stream>"),
            (Event, "the stream ends: the peer closed the stream"),
        ],
    );
    let outbound: Vec<_> = lines
        .iter()
        .filter(|line| line.direction.as_deref() == Some("outbound"))
        .cloned()
        .collect();
    assert_order(
        &outbound,
        &[
            (Event, "connection open"),
            (Sent, "<stream:stream from='coluc.com' to='vngtp.lab'"),
            (Event, "certificate 0: CN=rcgen self signed cert issued by"),
            (
                Event,
                "the peer's certificate for vngtp.lab: no trusted authority issued it",
            ),
            (Sent, "[key of 8 characters]</db:verify>"),
            (Received, "<db:verify from='vngtp.lab' to='coluc.com'"),
        ],
    );
    let before_streams: Vec<_> = lines.iter().filter(|l| l.stream.is_none()).cloned().collect();
    assert_order(&before_streams, &[(Event, "resolved by static-route: 127.0.0.1:")]);
    let all = lines.iter().map(ToString::to_string).collect::<Vec<_>>();
    let all = all.join("\n");
    assert!(!all.contains("some-key"), "{all}");
    assert!(!all.contains("secret words"), "{all}");
}

#[tokio::test]
async fn bodies_are_told_to_who_asks_for_them_and_only_to_them() {
    let (lab, peer, _router, link) = Lab::with_link().await;
    let mut with = watch(&lab, "vngtp.lab", true);
    let mut without = watch(&lab, "vngtp.lab", false);
    link.say("<message from='alice@coluc.com' to='bob@vngtp.lab' id='m2'><body>our words</body></message>");
    let mut stream = peer.accept_authenticated("coluc.com").await;
    stream.hear("</message>").await;
    let lines = lines_until(&mut with, "id='m2'").await;
    assert!(lines.last().unwrap().text.ends_with("<body>our words</body></message>"));
    assert!(lines.iter().any(|line| line.text.contains("[key of 64 characters]")));
    let lines = lines_until(&mut without, "id='m2'").await;
    assert!(
        lines.last().unwrap().text.ends_with(" with body, 91 bytes"),
        "{lines:?}"
    );
}

#[tokio::test]
async fn an_address_is_watched_before_any_domain_is_known_and_others_are_not() {
    let (lab, _peer, _router, _link) = Lab::with_link().await;
    let mut its = watch(&lab, "127.0.0.1", false);
    let mut other = watch(&lab, "127.0.0.2", false);
    let mut domain = watch(&lab, "vngtp.lab", false);
    let mut nobody = support::Speaker::connect(lab.s2s).await;
    nobody.say("<html>").await;
    nobody.hear_end().await;
    let lines = lines_until(&mut its, "connection closed").await;
    assert_order(
        &lines,
        &[
            (LineKind::Event, "connection open"),
            (LineKind::Event, "the stream ends: "),
            (LineKind::Sent, "<stream:error>"),
        ],
    );
    assert!(timeout(Duration::from_millis(100), other.next()).await.is_err());
    assert!(timeout(Duration::from_millis(100), domain.next()).await.is_err());
}

#[tokio::test]
async fn a_watcher_that_does_not_read_slows_nobody_and_hears_how_much_is_missing() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut watching = watch(&lab, "vngtp.lab", false);
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let count = 4 * QUEUE;
    for n in 0..count {
        bob.say(&to_alice(n)).await;
    }
    for n in 0..count {
        assert!(link.hear().await.contains(&format!("id='{n}'")));
    }
    let lines = lines_until(&mut watching, " lines dropped").await;
    assert!(lines.len() > QUEUE, "{}", lines.len());
    bob.say("<presence from='bob@vngtp.lab' to='alice@coluc.com' id='after'/>")
        .await;
    lines_until(&mut watching, "id='after'").await;
}

#[tokio::test]
async fn a_partner_that_cannot_be_reached_is_told_of_too() {
    let peer = Peer::new("vngtp.lab").await;
    let router = support::Router::new().await;
    let config = config(&[&peer], &[&router]);
    drop(peer);
    let lab = Lab::start(live(config));
    let link = router.accept().await;
    let mut watching = watch(&lab, "vngtp.lab", false);
    link.say(&to_bob("m3"));
    let lines = lines_until(&mut watching, "connection refused").await;
    assert_order(
        &lines,
        &[
            (LineKind::Event, "resolved by static-route"),
            (LineKind::Event, "no connection to 127.0.0.1:"),
        ],
    );
}
