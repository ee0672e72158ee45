//! What the name servers of others are asked because of one domain.

use std::sync::Arc;

use rstest::rstest;
use tokio::net::TcpListener;
use xmpp_federation_core::edge_config::{EdgeConfig, PrivacyMode};
use xmpp_federation_edge::resolve::Resolver;

use crate::support::dns::Dns;
use crate::support::{Lab, Peer, Router, config, live, result};

/// Both services have records of as many priorities; of the hosts one of `_xmpp-server` has an address.
fn dns(each: u16, port: u16, there: u16) -> Arc<Dns> {
    let records = |dns: Dns, n: u16| {
        dns.plain(2 * n, port, &format!("h{n}.plain.victim.example.")).direct(
            2 * n + 1,
            port,
            &format!("h{n}.direct.victim.example."),
        )
    };
    let dns = (0..each).fold(Dns::default(), records);
    Arc::new(dns.host(&format!("h{there}.plain.victim.example."), &["127.0.0.1"]))
}

fn open_to_all(config: &mut EdgeConfig) {
    config.privacy.mode = PrivacyMode::AllowAll;
    config.dns.allow_private_targets = vec!["127.0.0.0/8".parse().unwrap()];
}

#[rstest]
#[case::a_host_of_the_third_priority_is_found(3, 1, true)]
#[case::of_many_priorities_a_few_are_looked_up(64, 63, false)]
#[tokio::test]
async fn hosts_of_one_domain_are_looked_up_sixteen_times_at_most(
    #[case] each: u16,
    #[case] there: u16,
    #[case] found: bool,
) {
    let dns = dns(each, 5333, there);
    let mut config = config(&[], &[]);
    open_to_all(&mut config);
    let resolver = Resolver::with_lookup(&config, dns.clone(), Arc::default());
    let domain = "evil.example".parse().unwrap();
    let resolved = resolver.resolve(&domain).await;
    let asked = dns.asked();
    assert_eq!(resolved.is_ok(), found, "{asked:?}");
    let services = asked.iter().filter(|name| name.starts_with('_')).count();
    assert_eq!(services, 2);
    // Each host is asked about for two kinds of addresses.
    let hosts = asked.len() - services;
    assert!(2 * hosts <= 16, "{hosts} hosts: {asked:?}");
    if let Err(error) = resolved {
        let text = error.to_string();
        assert_eq!(text.matches("at most 8 for each domain").count(), 1, "{text}");
        assert!(text.contains("no address"), "{text}");
    }
}

/// Also what is looked up later, when no connection came about.
#[tokio::test]
async fn priorities_that_are_tried_later_count_too() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let dns = dns(64, port, 0);
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    open_to_all(&mut config);
    let lab = Lab::start(dns.resolves(live(config)));
    let (mut bob, _) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(&result("evil.example", "coluc.com", "k")).await;
    let answer = bob.hear("</db:result>").await;
    assert!(answer.contains("<remote-connection-failed "), "{answer}");
    let asked = dns.asked();
    let of_it = |name: &&String| name.ends_with(".victim.example.");
    assert!(asked.iter().filter(of_it).count() <= 8, "{asked:?}");
}
