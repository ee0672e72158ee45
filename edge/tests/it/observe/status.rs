//! What can be seen of a running edge: open streams, failures by stage, refused peers, metrics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rstest::rstest;
use strum::VariantNames as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use xmpp_federation_core::Domain;
use xmpp_federation_edge::admin::Admin;
use xmpp_federation_edge::observe::failures::DomainFailures;
use xmpp_federation_edge::observe::trace::Filter;
use xmpp_federation_edge::refusal::Check;
use xmpp_federation_edge::words::{Direction, Stage};

use crate::support::pki::{Pki, client};
use crate::support::{
    self, Lab, PATIENCE, Peer, Router, STARTTLS, VALID, answered, config, has, header, live, to_alice, to_bob, verified,
};

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

/// Waits until something is as expected.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn failures(lab: &Lab, remote: &str) -> Option<DomainFailures> {
    lab.edge.registry.failures(Some(&domain(remote))).pop()
}

async fn admin(lab: &Lab) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Admin::new(lab.edge.clone(), Arc::default()).serve(listener));
    address
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn open_streams_are_shown_with_what_was_agreed_on_and_what_they_carried() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say(&to_alice("1")).await;
    link.hear().await;
    let _stream = link.opens(&peer, "2").await;
    let shown = until("a stanza each way", || {
        let streams = lab.edge.registry.streams(Some(&domain("vngtp.lab")));
        let carried = |stream: &&_| {
            let stream: &xmpp_federation_edge::observe::registry::StreamInfo = stream;
            stream.stanzas_received + stream.stanzas_sent == 1
        };
        (streams.iter().filter(carried).count() == 2).then_some(streams)
    })
    .await;
    let value = serde_json::to_value(&shown).unwrap();
    let of = |direction: &str, purpose: &str| {
        value
            .as_array()
            .unwrap()
            .iter()
            .find(|stream| stream["direction"] == direction && stream["purpose"] == purpose)
            .unwrap_or_else(|| panic!("no {direction} stream for {purpose} in {value:#}"))
            .clone()
    };
    let inbound = of("inbound", "stanzas");
    assert_eq!(inbound["phase"], "established");
    assert_eq!(inbound["tls"]["version"], "TLSv1_3");
    assert!(inbound["tls"]["cipher"].as_str().unwrap().starts_with("TLS13_"));
    assert_eq!(inbound["certificate"], "missing");
    assert_eq!(inbound["pairs"][0]["mechanism"], "dialback");
    assert_eq!(
        (inbound["stanzasReceived"].as_u64(), inbound["stanzasSent"].as_u64()),
        (Some(1), Some(0))
    );
    let outbound = of("outbound", "stanzas");
    assert_eq!(
        (outbound["stanzasReceived"].as_u64(), outbound["stanzasSent"].as_u64()),
        (Some(0), Some(1))
    );
    assert_eq!(outbound["certificate"], "no trusted authority issued it");
    for stream in [&inbound, &outbound] {
        assert!(stream["bytesReceived"].as_u64().unwrap() > 500, "{stream}");
        assert!(stream["bytesSent"].as_u64().unwrap() > 500, "{stream}");
        assert!(stream["ageSeconds"].as_u64().unwrap() >= stream["idleSeconds"].as_u64().unwrap());
    }
    assert!(lab.edge.registry.streams(Some(&domain("other.example"))).is_empty());
}

#[tokio::test]
async fn a_stream_that_only_asks_about_keys_is_shown_as_such() {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let (mut asking, _) = peer.open(lab.s2s, "coluc.com").await;
    asking
        .say("<db:verify from='vngtp.lab' to='coluc.com' id='x'>nonsense</db:verify>")
        .await;
    asking.hear("type='invalid'/>").await;
    let shown = lab.edge.registry.streams(None);
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0].purpose, "dialback only");
    assert!(lab.edge.registry.close(shown[0].id));
    asking.hear("</stream:stream>").await;
}

#[tokio::test]
async fn each_way_that_fails_is_remembered_by_its_stage_also_after_success() {
    let (lab, peer, _router, link) = Lab::with_link().await;
    link.say(&to_bob("1"));
    // No TLS there, although it is required.
    let mut stream = peer.accept_tcp().await;
    stream.hear("version='1.0'>").await;
    stream.say(&header("vngtp.lab", "coluc.com", "x")).await;
    stream.say("<stream:features/>").await;
    let found = until("the failure", || {
        failures(&lab, "vngtp.lab").filter(|found| found.failing)
    })
    .await;
    assert!(found.configured);
    assert_eq!(found.attempts[0].attempt.stage, Stage::Tls);
    assert_eq!(
        found.attempts[0].attempt.address,
        Some(peer.listener.local_addr().unwrap())
    );
    has(&found.attempts[0].attempt.reason, ["TLS is required of vngtp.lab"]);
    lab.edge.retry(Some(&domain("vngtp.lab")));
    link.say(&to_bob("2"));
    let mut stream = peer.accept("dialback-fails").await;
    stream.hear("</db:result>").await;
    stream.say(&answered("vngtp.lab", "coluc.com", "invalid")).await;
    let found = until("the second failure", || {
        failures(&lab, "vngtp.lab").filter(|found| found.attempts.len() > 1)
    })
    .await;
    assert_eq!(found.attempts[0].attempt.stage, Stage::Dialback);
    lab.edge.retry(Some(&domain("vngtp.lab")));
    let _stream = link.opens(&peer, "3").await;
    let found = until("the success", || {
        failures(&lab, "vngtp.lab").filter(|found| !found.failing)
    })
    .await;
    assert_eq!(found.attempts.len(), 2);
    assert!(found.last_success.is_some());
    assert!(lab.edge.registry.failing_partners().is_empty());
}

#[rstest]
#[case::not_on_the_list("stranger.example", "coluc.com", "policy", Stage::Policy)]
#[case::not_hosted("vngtp.lab", "other.example", "hosted", Stage::Policy)]
#[tokio::test]
async fn a_peer_that_is_refused_is_counted_by_check_and_remembered(
    #[case] from: &str,
    #[case] to: &str,
    #[case] check: &str,
    #[case] stage: Stage,
) {
    let (lab, _peer, _router, _link) = Lab::with_link().await;
    let admin = admin(&lab).await;
    let mut stream = support::Speaker::connect(lab.s2s).await;
    stream.say(&header(from, to, "")).await;
    stream.hear_end().await;
    let found = until("the refusal", || failures(&lab, from)).await;
    assert!(!found.failing, "it says nothing about our own attempts");
    assert_eq!(found.configured, from == "vngtp.lab");
    assert_eq!(
        (found.attempts[0].attempt.direction, found.attempts[0].attempt.stage),
        (Direction::Inbound, stage)
    );
    let metrics = get(admin, "/metrics").await;
    for line in [
        format!("xmpp_edge_peers_refused_total{{check=\"{check}\"}} 1"),
        format!(
            "xmpp_edge_attempts_failed_total{{direction=\"inbound\",stage=\"{}\"}} 1",
            stage.as_str()
        ),
    ] {
        assert!(metrics.contains(&line), "{line} is missing in\n{metrics}");
    }
    // Who is not configured stays behind the control socket, and so does what came in.
    let status = get(admin, "/status").await;
    assert!(status.contains("\"failingPartners\":[]"), "{status}");
}

/// What a peer says before TLS, behind it, or once its pair is authenticated.
enum Said {
    InClear(String),
    Secured(String),
    Authenticated(String),
}

fn element(bytes: usize) -> String {
    let body = "x".repeat(bytes);
    format!("<message from='a@vngtp.lab' to='b@coluc.com'><body>{body}</body></message>")
}

fn attributes(many: usize) -> String {
    let all: Vec<_> = (0..many).map(|n| format!("a{n}=''")).collect();
    format!("<message {}/>", all.join(" "))
}

const UNASKED: &str = "<db:result from='vngtp.lab' to='coluc.com' type='valid'/>";
const QUESTION: &str = "<db:verify from='vngtp.lab' to='coluc.com' id='1'>k</db:verify>";

#[rstest]
#[case::element_before_a_proof(Said::Secured(element(20_000)), "size")]
#[case::depth(Said::Secured("<message>".repeat(200)), "size")]
#[case::attributes(Said::Secured(attributes(80)), "size")]
#[case::stanza_of_a_pair(Said::Authenticated(element(300_000)), "size")]
#[case::header(Said::InClear(header("vngtp.lab", "coluc.com", &"x".repeat(20_000))), "size")]
#[case::unasked_answer(Said::Secured(UNASKED.to_owned()), "protocol")]
#[case::unasked_answer_in_clear(Said::InClear(header("vngtp.lab", "coluc.com", "") + UNASKED), "protocol")]
#[case::bytes_behind_starttls(Said::InClear(header("vngtp.lab", "coluc.com", "") + STARTTLS + "<x/>"), "protocol")]
#[case::stanza_before_tls(Said::InClear(header("vngtp.lab", "coluc.com", "") + "<message/>"), "tls-required")]
#[tokio::test]
async fn a_rule_of_the_stream_that_a_peer_breaks_is_counted_by_its_own_check(#[case] said: Said, #[case] check: &str) {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let (mut stream, text) = match said {
        Said::InClear(text) => (support::Speaker::connect(lab.s2s).await, text),
        Said::Secured(text) => (peer.open(lab.s2s, "coluc.com").await.0, text),
        Said::Authenticated(text) => (peer.open_authenticated(lab.s2s, "coluc.com").await, text),
    };
    // The edge may end the connection before it has read everything.
    let _ = stream.try_say(text.as_bytes()).await;
    stream.hear_end().await;
    assert_eq!(refused_by(&lab).await, check);
}

/// The check of the first refusal that is counted.
async fn refused_by(lab: &Lab) -> &'static str {
    until("a refusal", || {
        Check::VARIANTS.iter().copied().find(|check| {
            let name = "xmpp_edge_peers_refused_total";
            lab.metric(&format!("{name}{{check=\"{check}\"}}")) > 0
        })
    })
    .await
}

#[tokio::test]
async fn a_stream_without_a_proof_in_time_is_counted_by_the_check_of_time() {
    let (lab, peer, _link) = Lab::configured(|config| {
        // Twice as long is the time for a proof.
        config.limits.idle_timeout = "700ms".parse().unwrap();
    })
    .await;
    let (mut stream, _) = peer.open(lab.s2s, "coluc.com").await;
    let ended = "xmpp_edge_unproven_connections_ended_total{reason=\"time\"}";
    let began = Instant::now();
    while lab.metric(ended) == 0 {
        assert!(began.elapsed() < PATIENCE, "it is still served");
        let _ = stream.try_say(QUESTION.as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(refused_by(&lab).await, "time");
}

#[tokio::test]
async fn a_key_that_is_not_confirmed_is_remembered_and_makes_nobody_failing() {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    bob.say("<db:result from='vngtp.lab' to='coluc.com'>wrong</db:result>")
        .await;
    let mut verifying = peer.accept_question().await;
    verifying.say(&verified("vngtp.lab", "coluc.com", &id, "invalid")).await;
    bob.hear("type='invalid'/>").await;
    let found = until("the refusal", || failures(&lab, "vngtp.lab")).await;
    assert_eq!(found.attempts[0].attempt.stage, Stage::Dialback);
    has(&found.attempts[0].attempt.reason, ["is not one of vngtp.lab"]);
    assert!(!found.failing);
}

#[tokio::test]
async fn a_stream_of_sasl_external_is_shown_traced_and_counted_as_such() {
    let pki = Pki::new();
    let identity = pki.issue(&["vngtp.lab"], |_| {});
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let lab = Lab::start(pki.live(config(&[&peer], &[&router])));
    let admin = admin(&lab).await;
    let filter = Filter::parse("vngtp.lab").unwrap();
    let mut watching = lab.edge.registry.tracers.watch(filter, false).unwrap();
    let mut stream = support::Speaker::connect(lab.s2s).await;
    let open = header("vngtp.lab", "coluc.com", "");
    stream.open(&open).await;
    stream.starttls().await;
    let shown = client(Some(&identity));
    stream.tls_client(shown, "coluc.com").await.unwrap();
    stream.open(&open).await;
    for (authzid, answer) in [
        ("ZXZpbC5leGFtcGxl", "</failure>"),
        ("=", "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"),
    ] {
        stream
            .say(&format!(
                "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>{authzid}</auth>"
            ))
            .await;
        stream.hear(answer).await;
    }
    stream.open(&open).await;
    let shown = until("the pair", || {
        let streams = lab.edge.registry.streams(Some(&domain("vngtp.lab")));
        streams.into_iter().find(|stream| !stream.detail.pairs.is_empty())
    })
    .await;
    assert_eq!(shown.detail.pairs[0].mechanism, "external");
    assert_eq!(shown.detail.certificate.as_deref(), Some("valid"));
    let metrics = get(admin, "/metrics").await;
    for line in [
        "xmpp_edge_sasl_total{direction=\"inbound\",outcome=\"success\"} 1",
        "xmpp_edge_sasl_total{direction=\"inbound\",outcome=\"invalid-authzid\"} 1",
        "xmpp_edge_peers_refused_total{check=\"certificate\"} 1",
        "xmpp_edge_authenticated_streams{direction=\"inbound\",mechanism=\"external\"} 1",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} is missing in\n{metrics}"
        );
    }
    let mut told = Vec::new();
    while !told.iter().any(|text: &String| text.contains("<success")) {
        let line = tokio::time::timeout(PATIENCE, watching.next()).await;
        told.push(line.expect("no line came").unwrap().text);
    }
    let told = told.join("\n");
    for text in [
        "certificate 0: ",
        "the peer's certificate for vngtp.lab: valid",
        "mechanism='EXTERNAL'>ZXZpbC5leGFtcGxl</auth>",
        "<invalid-authzid/>",
        "mechanism='EXTERNAL'>=</auth>",
    ] {
        assert!(told.contains(text), "{text:?} is missing in\n{told}");
    }
}

#[tokio::test]
async fn metrics_show_queues_links_by_node_and_authenticated_streams() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let lab = Lab::start(live(config(&[&peer], &[&router])));
    let admin = admin(&lab).await;
    let expect = async |lines: &[&str]| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = get(admin, "/metrics").await;
            let missing = lines.iter().find(|line| !text.lines().any(|found| found == **line));
            let Some(missing) = missing else { return };
            assert!(Instant::now() < deadline, "{missing} is missing in\n{text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    expect(&[
        "xmpp_edge_link_queue_stanzas{router=\"main\"} 0",
        "xmpp_edge_link_state{router=\"main\",node=\"node0\",state=\"connecting\"} 1",
        concat!("xmpp_edge_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ])
    .await;
    let mut link = router.accept().await;
    link.say(&to_bob("1"));
    let mut stream = peer.accept("slow").await;
    stream.hear("</db:result>").await;
    expect(&[
        "xmpp_edge_link_state{router=\"main\",node=\"node0\",state=\"up\"} 1",
        "xmpp_edge_outbound_queue_stanzas 1",
        "xmpp_edge_outbound_domains 1",
        "xmpp_edge_authenticated_streams{direction=\"outbound\",mechanism=\"dialback\"} 0",
    ])
    .await;
    stream.say(VALID).await;
    stream.hear("id='1'/>").await;
    expect(&[
        "xmpp_edge_outbound_queue_stanzas 0",
        "xmpp_edge_outbound_queue_bytes 0",
        "xmpp_edge_authenticated_streams{direction=\"outbound\",mechanism=\"dialback\"} 1",
    ])
    .await;
    link.say("<message from='alice@coluc.com' to='bob@stranger.example' id='2'><body>x</body></message>");
    assert!(link.hear().await.contains("<not-allowed "));
    expect(&[
        "xmpp_edge_stanzas_bounced_total{cause=\"denied\"} 1",
        "xmpp_edge_stanza_errors_total{condition=\"not-allowed\"} 1",
    ])
    .await;
}
