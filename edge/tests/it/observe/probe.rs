//! `probe`: each step's finding, against scripted peers, made-up DNS and another edge.

use std::sync::Arc;

use rstest::rstest;
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::{EdgeConfig, Partner, PrivacyMode};
use xmpp_federation_edge::probe::{Finding, Plan, Rating, Report};
use xmpp_federation_edge::resolve::Lookup;

use crate::support::dns::Dns;
use crate::support::{Lab, Peer, Router, VALID, attribute, config, header, live, route_host};

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn plan(config: EdgeConfig, remote: &str, dns: Option<Dns>) -> Plan {
    let lookup = dns.map(|dns| Arc::new(dns) as Arc<dyn Lookup>);
    Plan::with_live(domain(remote), None, Arc::new(live(config)), lookup).unwrap()
}

/// Probes vngtp.lab, which is played by `script`.
async fn probe_of(peer: Peer, script: impl AsyncFnOnce(&Peer)) -> Report {
    let mut config = config(&[&peer], &[]);
    config.limits.dialback_timeout = "3s".parse().unwrap();
    let plan = plan(config, "vngtp.lab", None);
    let (report, ()) = tokio::join!(plan.run(), script(&peer));
    report
}

fn finding<'a>(report: &'a Report, check: &str) -> &'a Finding {
    let found = report.findings.iter().rfind(|finding| finding.check == check);
    found.unwrap_or_else(|| panic!("nothing about {check} in\n{report}"))
}

fn assert_finding(report: &Report, check: &str, verdict: Rating, says: &str) {
    let found = finding(report, check);
    assert_eq!(found.verdict, verdict, "{check} in\n{report}");
    assert!(found.detail.contains(says), "{says:?} in {check} of\n{report}");
    let has_remedy = found.verdict != Rating::Bad || found.remedy.is_some();
    assert!(has_remedy, "{report}");
}

#[rstest]
#[case("type='valid'/>", Rating::Good, "they confirmed our key")]
#[case("type='invalid'/>", Rating::Bad, "they do not know our key")]
#[case(
    "type='error'><error type='cancel'><remote-server-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></db:result>",
    Rating::Bad,
    "the peer found no server for our domain"
)]
#[case("", Rating::Bad, "no answer within 3 s")]
#[tokio::test]
async fn what_the_peer_answers_to_our_key_is_told_in_words(
    #[case] answer: &str,
    #[case] verdict: Rating,
    #[case] says: &str,
) {
    let report = probe_of(Peer::new("vngtp.lab").await, async |peer| {
        let mut stream = peer.accept("id-of-the-peer").await;
        let asked = stream.hear("</db:result>").await;
        assert_eq!(attribute(&asked, "db:result", "from"), "coluc.com");
        if !answer.is_empty() {
            stream
                .say(&format!("<db:result from='vngtp.lab' to='coluc.com' {answer}"))
                .await;
        }
        stream.hear_end().await;
    })
    .await;
    assert_finding(&report, "dialback", verdict, says);
    assert_eq!(report.good, verdict == Rating::Good, "{report}");
    assert_finding(&report, "policy", Rating::Good, "may federate");
    assert_finding(&report, "dns", Rating::Good, "static route to 127.0.0.1:");
    assert_finding(&report, "connect", Rating::Good, "TCP connection");
    assert_finding(&report, "tls", Rating::Good, "TLSv1_3 TLS13_");
    assert_finding(
        &report,
        "certificate",
        Rating::Warning,
        "no trusted authority issued it",
    );
    assert_finding(&report, "features", Rating::Good, "no SASL, dialback with errors");
    let shown = report.to_string();
    let key = "37c69b1c";
    assert!(!shown.contains(key), "{shown}");
}

#[tokio::test]
async fn a_peer_that_closes_instead_of_answering_is_quoted() {
    let report = probe_of(Peer::new("vngtp.lab").await, async |peer| {
        let mut stream = peer.accept("x").await;
        stream.hear("</db:result>").await;
        stream.say("<stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>go\u{9b} away</text></stream:error></stream:stream>").await;
        stream.hear_end().await;
    })
    .await;
    assert_finding(&report, "dialback", Rating::Bad, "the peer reported policy-violation");
    assert!(!report.to_string().contains('\u{9b}'));
}

#[tokio::test]
async fn external_is_tried_where_it_is_offered() {
    let report = probe_of(Peer::new("vngtp.lab").await, async |peer| {
        let offer = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms><limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>10000</max-bytes></limits></stream:features>";
        let mut stream = peer.accept_tls_with("one").await;
        stream.say(offer).await;
        stream.hear("</db:result>").await;
        stream
            .say(VALID)
            .await;
        stream.hear_end().await;
        let mut stream = peer.accept_tls_with("two").await;
        stream.say(offer).await;
        stream.hear("mechanism='EXTERNAL'>Y29sdWMuY29t</auth>").await;
        stream
            .say("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>")
            .await;
        stream.hear_end().await;
    })
    .await;
    assert_finding(
        &report,
        "features",
        Rating::Good,
        "SASL EXTERNAL, dialback not announced, at most 10000 bytes a stanza",
    );
    assert_finding(&report, "dialback", Rating::Good, "valid");
    assert_finding(
        &report,
        "external",
        Rating::Warning,
        "refuses our certificate: not-authorized",
    );
    assert!(report.good, "{report}");
}

#[tokio::test]
async fn a_peer_without_tls_is_bad_where_tls_is_required() {
    let report = probe_of(Peer::new("vngtp.lab").await, async |peer| {
        let mut stream = peer.accept_tcp().await;
        stream.hear("version='1.0'>").await;
        stream.say(&header("vngtp.lab", "coluc.com", "x")).await;
        stream.say("<stream:features/>").await;
        stream.hear_end().await;
    })
    .await;
    assert_finding(&report, "tls", Rating::Bad, "STARTTLS is not offered");
    assert!(!report.good);
}

#[tokio::test]
async fn a_server_that_does_not_know_the_domain_is_bad() {
    let report = probe_of(Peer::new("vngtp.lab").await, async |peer| {
        let mut stream = peer.accept_tcp().await;
        stream.hear("version='1.0'>").await;
        stream.say(&header("vngtp.lab", "coluc.com", "x")).await;
        stream.say("<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>").await;
        stream.hear_end().await;
    })
    .await;
    assert_finding(&report, "features", Rating::Bad, "host-unknown");
    let remedy = finding(&report, "features").remedy.clone().unwrap();
    assert!(remedy.contains("does not serve the domain"), "{remedy}");
}

#[tokio::test]
async fn direct_tls_is_looked_at_like_the_other_service() {
    let peer = Peer::new("partner.example").await;
    let port = peer.listener.local_addr().unwrap().port();
    let dns = Dns::default().plain(0, 0, ".").direct(0, port, "x.partner.example.");
    let dns = dns.others(&["127.0.0.1"]);
    let mut config = config(&[], &[]);
    config.privacy.mode = PrivacyMode::AllowAll;
    config.dns.allow_private_targets = vec!["127.0.0.0/8".parse().unwrap()];
    let plan = plan(config, "partner.example", Some(dns));
    let script = async {
        let mut stream = peer.accept_tcp().await;
        stream.start_tls_as_server().await;
        stream.hear("version='1.0'>").await;
        stream.say(&header("partner.example", "coluc.com", "direct")).await;
        stream.say("<stream:features/>").await;
        stream.hear("</db:result>").await;
        stream
            .say("<db:result from='partner.example' to='coluc.com' type='valid'/></stream:stream>")
            .await;
        stream.hear_end().await;
    };
    let (report, ()) = tokio::join!(plan.run(), script);
    let tls = finding(&report, "tls");
    assert_eq!(tls.subject, format!("127.0.0.1:{port} (direct TLS)"));
    assert_finding(&report, "tls", Rating::Good, "TLSv1_3");
    assert_finding(&report, "dialback", Rating::Good, "valid");
    assert!(report.good, "{report}");
}

#[tokio::test]
async fn white_space_behind_proceed_is_no_fault() {
    let report = probe_of(Peer::new("vngtp.lab").await, async |peer| {
        let mut stream = peer.accept_starttls().await;
        stream.say("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>\n").await;
        // In a packet of its own.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        stream.say("\r\n").await;
        stream.start_tls_as_server().await;
        stream.hear("version='1.0'>").await;
        stream.say(&header("vngtp.lab", "coluc.com", "secure")).await;
        stream.say("<stream:features/>").await;
        stream.hear("</db:result>").await;
        stream
            .say("<db:result from='vngtp.lab' to='coluc.com' type='valid'/></stream:stream>")
            .await;
        stream.hear_end().await;
    })
    .await;
    assert_finding(&report, "dialback", Rating::Good, "valid");
}

#[tokio::test]
async fn nobody_listening_is_bad_at_connect() {
    let peer = Peer::new("vngtp.lab").await;
    let config = config(&[&peer], &[]);
    drop(peer);
    let report = plan(config, "vngtp.lab", None).run().await;
    assert_finding(&report, "connect", Rating::Bad, "connection refused");
    assert_finding(&report, "dialback", Rating::Skipped, "no address took a stream");
    assert!(!report.good);
}

#[rstest]
#[case::denied(Dns::default(), "policy", Rating::Bad, "it is not on the allow list")]
#[case::absent(Dns::default(), "address", Rating::Bad, "has no address in DNS")]
#[case::broken(Dns::default().broken(), "dns", Rating::Bad, "SERVFAIL")]
#[case::does_not_federate(Dns::default().plain(0, 0, "."), "dns", Rating::Bad, "does not federate")]
#[case::private(
    Dns::default().plain(5, 5269, "x.partner.example.").others(&["10.0.0.1"]),
    "address", Rating::Bad, "10.0.0.1 is refused because it is a private address"
)]
#[case::address_as_target(
    Dns::default().direct(0, 5270, "192.0.2.1."),
    "address", Rating::Bad, "names an address instead of a host"
)]
#[case::single_label(Dns::default().plain(0, 5269, "localhost."), "address", Rating::Bad, "names a single label")]
#[tokio::test]
async fn dns_that_leads_nowhere_is_bad_and_nothing_is_connected_to(
    #[case] dns: Dns,
    #[case] check: &str,
    #[case] verdict: Rating,
    #[case] says: &str,
) {
    let report = plan(config(&[], &[]), "partner.example", Some(dns)).run().await;
    assert_finding(&report, check, verdict, says);
    assert!(
        report.findings.iter().all(|finding| finding.check != "connect"),
        "{report}"
    );
    assert!(!report.good);
}

/// An edge for these domains that federates with everybody, by these routes.
fn other_edge(domains: &[&str], router: &Router, ways: &[(&str, std::net::SocketAddr)]) -> EdgeConfig {
    let mut config = config(&[], &[router]);
    config.domains = domains.iter().map(|text| domain(text)).collect();
    config.privacy.mode = PrivacyMode::AllowAll;
    let route = |(remote, address): &(&str, std::net::SocketAddr)| Partner {
        route: vec![route_host(*address)],
        ..Partner::new(domain(remote))
    };
    config.partners = ways.iter().map(route).collect();
    config
}

#[tokio::test]
async fn another_edge_confirms_our_key_with_our_own_running_edge() {
    let (ours_router, their_router) = (Router::new().await, Router::new().await);
    let ours = Lab::start(live(other_edge(&["coluc.com"], &ours_router, &[])));
    let theirs = other_edge(&["vngtp.lab"], &their_router, &[("coluc.com", ours.s2s)]);
    let theirs = Lab::start(live(theirs));
    let config = other_edge(&["coluc.com"], &ours_router, &[("vngtp.lab", theirs.s2s)]);
    let report = plan(config.clone(), "vngtp.lab", None).run().await;
    assert_finding(&report, "dialback", Rating::Good, "they confirmed our key");
    assert_finding(
        &report,
        "features",
        Rating::Good,
        "dialback with errors, at most 262144 bytes a stanza",
    );
    assert!(report.good, "{report}");
    // With another secret than the running edge has.
    let mut other = live(config);
    other.dialback = xmpp_federation_edge::dialback::DialbackSecrets::new(
        xmpp_federation_core::SecretBytes::new(b"another".to_vec()),
        vec![],
    );
    let plan = Plan::with_live(domain("vngtp.lab"), None, Arc::new(other), None).unwrap();
    let report = plan.run().await;
    assert_finding(&report, "dialback", Rating::Bad, "they do not know our key");
    assert!(!report.good);
}

#[tokio::test]
async fn without_a_configuration_dialback_is_skipped_and_the_rest_is_looked_at() {
    // Nothing answers there; what counts is that nothing of a configuration is needed.
    let plan = Plan::new("vngtp.lab", Some("coluc.com"), None, &["127.0.0.1:1".to_owned()]).unwrap();
    let report = plan.run().await;
    assert_finding(&report, "dns", Rating::Bad, "failed");
    assert_eq!(report.from, Some(domain("coluc.com")));
}
