//! What a remote domain's DNS can do to the edge: nothing but make that domain unreachable.

use std::sync::Arc;
use std::time::Duration;

use rstest::rstest;
use tokio::net::TcpListener;
use tokio::time::timeout;
use xmpp_federation_core::edge_config::{EdgeConfig, PrivacyMode};

use crate::support::dns::Dns;
use crate::support::{Lab, PATIENCE, Peer, Router, RouterLink, attribute, config, live, result, to_alice};

/// An edge that federates with everybody, vngtp.lab by route, the rest by this zone.
async fn start(dns: &Arc<Dns>, change: impl FnOnce(&mut EdgeConfig)) -> (Lab, Peer, RouterLink) {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    config.privacy.mode = PrivacyMode::AllowAll;
    change(&mut config);
    let lab = Lab::start(dns.resolves(live(config)));
    let link = router.accept().await;
    (lab, peer, link)
}

/// A DNS with these records, port and target, and addresses of every host.
fn dns(plain: &[(u16, &str)], direct: &[(u16, &str)], addresses: &[&str]) -> Arc<Dns> {
    let dns = plain
        .iter()
        .fold(Dns::default(), |dns, (port, target)| dns.plain(0, *port, target));
    let dns = direct
        .iter()
        .fold(dns, |dns, (port, target)| dns.direct(0, *port, target));
    Arc::new(dns.others(addresses))
}

fn broken() -> Arc<Dns> {
    Arc::new(Dns::default().broken())
}

fn silent() -> Arc<Dns> {
    Arc::new(Dns::default().slow(Duration::from_hours(1)))
}

/// Shows a key in the name of partner.example; gives the condition of the answer.
async fn claim(lab: &Lab, peer: &Peer) -> String {
    let (mut hostile, _) = peer.open(lab.s2s, "coluc.com").await;
    hostile.say(&result("partner.example", "coluc.com", "k")).await;
    let answer = hostile.hear("</db:result>").await;
    assert_eq!(attribute(&answer, "db:result", "type"), "error");
    let rest = answer.split("<error").nth(1).unwrap().split('<').nth(1).unwrap();
    rest.split([' ', '/', '>']).next().unwrap().to_owned()
}

#[rstest]
#[case::does_not_exist(dns(&[], &[], &[]), "remote-server-not-found")]
#[case::does_not_federate(dns(&[(0, ".")], &[], &["198.51.100.99"]), "remote-server-not-found")]
#[case::direct_tls_to_loopback(dns(&[], &[(5270, "x.partner.example.")], &["127.0.0.1"]), "remote-server-not-found")]
#[case::direct_tls_switched_off(dns(&[], &[(0, ".")], &["198.51.100.99"]), "remote-server-not-found")]
#[case::loopback(dns(&[], &[], &["127.0.0.1", "::1"]), "remote-server-not-found")]
#[case::mapped_loopback(dns(&[], &[], &["::ffff:127.0.0.1"]), "remote-server-not-found")]
#[case::metadata_service(dns(&[(80, "x.partner.example.")], &[], &["169.254.169.254"]), "remote-server-not-found")]
#[case::cluster_service(dns(&[], &[], &["10.96.0.1"]), "remote-server-not-found")]
#[case::single_label(dns(&[(5269, "kubernetes.")], &[], &[]), "remote-server-not-found")]
#[case::address_as_target(dns(&[(5269, "127.0.0.1.")], &[], &[]), "remote-server-not-found")]
#[case::broken(broken(), "remote-connection-failed")]
#[tokio::test]
async fn a_domain_without_usable_addresses_is_answered_by_cause(#[case] dns: Arc<Dns>, #[case] expected: &str) {
    let (lab, peer, _link) = start(&dns, |_| {}).await;
    assert_eq!(claim(&lab, &peer).await, expected);
    let names = dns.asked();
    assert!(
        names.iter().all(|name| name.ends_with('.')),
        "absolute names only: {names:?}"
    );
}

#[rstest]
#[case(dns(&[], &[], &[]), "remote-server-not-found", "cancel")]
#[case(dns(&[(0, ".")], &[], &[]), "remote-server-not-found", "cancel")]
#[case(broken(), "remote-server-timeout", "wait")]
#[tokio::test]
async fn a_message_to_such_a_domain_comes_back_with_its_cause(
    #[case] dns: Arc<Dns>,
    #[case] expected: &str,
    #[case] class: &str,
) {
    // What may pass by itself is waited for, this long.
    let (lab, _peer, mut link) = start(&dns, |config| {
        config.limits.dialback_timeout = "1s".parse().unwrap();
    })
    .await;
    link.say("<message from='alice@coluc.com/pc' to='x@partner.example' id='m1'><body>x</body></message>");
    let answer = link.hear().await;
    assert!(answer.contains(&format!("<{expected} ")), "{answer}");
    assert_eq!(attribute(&answer, "error", "type"), class);
    assert_eq!(attribute(&answer, "message", "to"), "alice@coluc.com/pc");
    let failing = lab.edge.registry.failing_partners();
    assert!(
        failing.iter().any(|f| f.domain.as_str() == "partner.example"),
        "{failing:?}"
    );
}

#[rstest]
#[case::to_a_router(true)]
#[case::to_the_edge_itself(false)]
#[tokio::test]
async fn srv_records_to_ourselves_are_not_followed_even_where_loopback_is_allowed(#[case] to_router: bool) {
    let dns = dns(&[], &[], &["127.0.0.1"]);
    let (lab, peer, _link) = start(&dns, |config| {
        config.dns.allow_private_targets = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let config = &lab.edge.live().config;
    let port = if to_router {
        config.routers.first().unwrap().endpoints.first().unwrap().address.port
    } else {
        config.listen.s2s.port()
    };
    dns.add_plain(0, port, "x.partner.example.");
    assert_eq!(claim(&lab, &peer).await, "remote-server-not-found");
}

#[tokio::test]
async fn nothing_is_sent_to_a_private_address() {
    let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dns = dns(
        &[(inside.local_addr().unwrap().port(), "x.partner.example.")],
        &[],
        &["127.0.0.1"],
    );
    let (lab, peer, mut link) = start(&dns, |_| {}).await;
    claim(&lab, &peer).await;
    link.say("<message from='alice@coluc.com' to='x@partner.example' id='m1'/>");
    assert!(link.hear().await.contains("remote-server-not-found"));
    let touched = timeout(Duration::from_millis(200), inside.accept()).await;
    assert!(touched.is_err(), "the edge connected to an address inside");
}

#[tokio::test]
async fn an_allowed_private_network_is_reached_and_a_dead_address_passed_over() {
    // The peer listens on 127.0.0.1; nobody does on 127.0.0.2 at the same port.
    let zone_port = Peer::new("partner.example").await;
    let port = zone_port.listener.local_addr().unwrap().port();
    let dns = dns(&[(port, "x.partner.example.")], &[], &["127.0.0.2", "127.0.0.1"]);
    let (_lab, _peer, mut link) = start(&dns, |config| {
        config.dns.allow_private_targets = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    link.say("<message from='alice@coluc.com' to='x@partner.example' id='m1'><body>x</body></message>");
    let mut stream = zone_port.accept_authenticated("coluc.com").await;
    assert!(stream.hear("</message>").await.contains("id='m1'"));
    link.stays_silent(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn silent_dns_costs_its_own_domain_only() {
    let dns = silent();
    let (lab, peer, mut link) = start(&dns, |config| {
        config.limits.dialback_timeout = "2s".parse().unwrap();
    })
    .await;
    // One peer claims the mute domain, another goes on working meanwhile.
    let (mut claimant, _) = peer.open(lab.s2s, "coluc.com").await;
    claimant.say(&result("partner.example", "coluc.com", "k")).await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say(&to_alice("meanwhile")).await;
    assert!(link.hear().await.contains("meanwhile"));
    let answer = timeout(PATIENCE, claimant.hear("</db:result>")).await.unwrap();
    assert!(answer.contains("<remote-connection-failed "), "{answer}");
}

#[tokio::test]
async fn a_thousand_domains_on_one_stream_cost_a_bounded_number_of_look_ups() {
    let dns = silent();
    let (lab, peer, _link) = start(&dns, |config| {
        config.limits.max_pairs_per_stream = 10_000;
        config.limits.max_verifications = Some(20);
    })
    .await;
    let (mut hostile, _) = peer.open(lab.s2s, "coluc.com").await;
    for n in 0..1000 {
        hostile
            .say(&format!("<db:result from='d{n}.example' to='coluc.com'>k</db:result>"))
            .await;
    }
    hostile.hear("'d999.example'").await;
    let answer = hostile.hear("</db:result>").await;
    assert!(answer.contains("<resource-constraint "), "{answer}");
    // Two services are asked for each verification under way.
    let asked = dns.asked().len();
    assert!(asked <= 2 * 20, "{asked} look-ups");
}
