//! Zones that change, grow or point inwards: what their owner can make the edge connect to, and
//! how often.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rstest::rstest;
use tokio::net::TcpListener;
use xmpp_federation_core::edge_config::{EdgeConfig, PrivacyMode};

use crate::support::dns::Dns;
use crate::support::{PATIENCE, Scene, attribute, result, scene_with};

async fn scene(dns: &Arc<Dns>, change: impl FnOnce(&mut EdgeConfig)) -> Scene {
    scene_with(
        |config| {
            config.privacy.mode = PrivacyMode::AllowAll;
            change(config);
        },
        |live| dns.resolves(live),
    )
    .await
}

const MESSAGE: &str = "<message from='alice@coluc.com' to='x@partner.example' id='m1'/>";

/// First the zone leads to a server of its owner's, later to one inside.
#[tokio::test]
async fn an_address_that_changes_to_one_inside_is_not_connected_to() {
    // Another test may have this port at the other address.
    let (outside, inside) = loop {
        let outside = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = outside.local_addr().unwrap().port();
        if let Ok(inside) = TcpListener::bind(("127.0.0.1", port)).await {
            break (outside, inside);
        }
    };
    let port = outside.local_addr().unwrap().port();
    let host = "x.partner.example.";
    let dns = Dns::default().plain(0, port, host).host(host, &["127.0.0.2"]);
    let dns = Arc::new(dns.host(host, &["127.0.0.1", "::1", "169.254.169.254"]));
    let (_lab, _peer, mut link, mut bystander) = scene(&dns, |config| {
        // Stands for the internet: 127.0.0.2 is outside, everything else of this host inside.
        config.dns.allow_private_targets = vec!["127.0.0.2/32".parse().unwrap()];
        config.limits.dialback_timeout = "9s".parse().unwrap();
    })
    .await;
    link.say(MESSAGE);
    let first = tokio::time::timeout(PATIENCE, outside.accept()).await.unwrap();
    drop(first);
    let error = link.hear().await;
    assert!(error.contains("<remote-server-not-found "), "{error}");
    assert!(dns.count(host) > 1, "asked once only");
    let touched = tokio::time::timeout(Duration::from_millis(200), inside.accept()).await;
    assert!(touched.is_err(), "the edge connected to an address inside");
    assert!(bystander.exchange(&mut link).await.is_empty());
}

/// A hundred targets, each with these addresses and as many steps of priority from the next.
fn hundred(step: u16, port: u16, addresses: &[&str]) -> Arc<Dns> {
    let target = |dns: Dns, n: u16| dns.plain(n * step, port, &format!("h{n}.partner.example."));
    Arc::new((0..100).fold(Dns::default(), target).others(addresses))
}

/// A hundred targets with twenty addresses each, where something takes each connection and drops it.
#[rstest]
#[case::of_one_priority(0)]
#[case::of_a_hundred_priorities(1)]
#[tokio::test]
async fn a_hundred_targets_with_twenty_addresses_cost_eight_connections(#[case] step: u16) {
    let taking = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = taking.local_addr().unwrap().port();
    let addresses: Vec<_> = (1..=20).map(|n| format!("127.0.9.{n}")).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let dns = hundred(step, port, &addresses);
    let (_lab, _peer, mut link, mut bystander) = scene(&dns, |config| {
        config.dns.allow_private_targets = vec!["127.0.9.0/24".parse().unwrap()];
        // One attempt, answered before a second one.
        config.limits.dialback_timeout = "1s".parse().unwrap();
    })
    .await;
    let counted = Arc::new(AtomicUsize::new(0));
    let counter = counted.clone();
    let counting = tokio::spawn(async move {
        loop {
            drop(taking.accept().await.unwrap());
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    link.say(MESSAGE);
    let error = link.hear().await;
    assert!(error.contains("<remote-server-timeout "), "{error}");
    let connections = counted.load(Ordering::SeqCst);
    // A second attempt may begin just before the message is given back.
    assert!((1..=16).contains(&connections), "{connections} connections");
    let asked = dns.asked().len();
    assert!(asked <= 2 * (2 + 8), "{asked} look-ups");
    counting.abort();
    assert!(bystander.exchange(&mut link).await.is_empty());
}

#[tokio::test]
async fn a_hundred_priorities_without_usable_address_end_in_time() {
    let inside = ["10.0.0.1", "fd00::1", "::ffff:192.168.0.1", "64:ff9b::a00:1"];
    let dns = hundred(1, 5269, &inside);
    let (lab, peer, mut link, mut bystander) = scene(&dns, |_| {}).await;
    let (mut hostile, _) = peer.open(lab.s2s, "coluc.com").await;
    let start = Instant::now();
    hostile.say(&result("partner.example", "coluc.com", "k")).await;
    let answer = hostile.hear("</db:result>").await;
    assert!(answer.contains("<remote-server-not-found "), "{answer}");
    assert!(start.elapsed() < PATIENCE);
    // One more asks whether the resolver makes NAT64 addresses.
    assert!(dns.asked().len() <= 2 + 64 + 1);
    assert!(bystander.exchange(&mut link).await.is_empty());
}

#[rstest]
#[case::neither_service(&[(0, 0, ".")], &[(0, 0, ".")])]
#[case::not_this_service(&[(0, 0, ".")], &[])]
#[case::disabled_beside_others(&[(0, 0, "."), (1, 0, ".")], &[])]
#[case::routers_port_of_a_single_label(&[(0, 7400, "router.")], &[])]
#[case::address_literal(&[(0, 5269, "198.51.100.1.")], &[])]
#[case::port_zero(&[(0, 0, "x.partner.example.")], &[])]
#[tokio::test]
async fn records_that_lead_nowhere_forbid_the_domains_own_address(
    #[case] plain: &[(u16, u16, &str)],
    #[case] direct: &[(u16, u16, &str)],
) {
    let all = |dns: Dns, (priority, port, target): &(u16, u16, &str)| dns.plain(*priority, *port, target);
    let dns = plain.iter().fold(Dns::default().others(&["127.0.0.2"]), all);
    let all = |dns: Dns, (priority, port, target): &(u16, u16, &str)| dns.direct(*priority, *port, target);
    let dns = Arc::new(direct.iter().fold(dns, all));
    let (lab, peer, mut link, mut bystander) = scene(&dns, |config| {
        config.dns.allow_private_targets = vec!["127.0.0.2/32".parse().unwrap()];
    })
    .await;
    let (mut hostile, _) = peer.open(lab.s2s, "coluc.com").await;
    hostile.say(&result("partner.example", "coluc.com", "k")).await;
    let answer = hostile.hear("</db:result>").await;
    assert!(answer.contains("<remote-server-not-found "), "{answer}");
    link.say(MESSAGE);
    let error = link.hear().await;
    assert!(error.contains("<remote-server-not-found "), "{error}");
    assert_eq!(attribute(&error, "error", "type"), "cancel");
    assert!(dns.count("partner.example.") == 0);
    assert!(bystander.exchange(&mut link).await.is_empty());
}

#[tokio::test]
async fn ten_thousand_domains_on_one_stream_cost_a_bounded_number_of_look_ups() {
    const DOMAINS: usize = 10_000;
    let dns = Arc::new(Dns::default().slow(Duration::from_hours(1)));
    let (lab, peer, mut link, mut bystander) = scene(&dns, |config| {
        config.limits.max_pairs_per_stream = DOMAINS + 1;
        config.limits.max_verifications = Some(20);
        config.limits.dialback_timeout = "10m".parse().unwrap();
    })
    .await;
    // Where nothing is proven, so many keys are too many bytes.
    let mut hostile = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let attack = async {
        for n in 0..DOMAINS {
            let domain = format!("d{n}.example");
            hostile
                .say(&format!("<db:result from='{domain}' to='coluc.com'>k</db:result>"))
                .await;
            // A quarter of what is allowed in all is under way, and 20 wait for their turns.
            if n >= 5 + 20 {
                let answer = hostile.hear("</db:result>").await;
                assert!(answer.contains("<resource-constraint "), "{answer}");
                assert_eq!(attribute(&answer, "db:result", "to"), domain);
            }
        }
    };
    let ((), others) = bystander.during(&mut link, attack).await;
    assert!(others.is_empty(), "{others:?}");
    let asked = dns.asked().len();
    assert!(asked <= 2 * 5, "{asked} look-ups");
}

/// DNS that answers after the time that a verification has.
#[tokio::test]
async fn slow_dns_is_given_up_in_time_and_not_asked_again_at_once() {
    let dns = Arc::new(Dns::default().slow(Duration::from_mins(1)));
    let (lab, peer, mut link, mut bystander) = scene(&dns, |config| {
        config.limits.dialback_timeout = "2s".parse().unwrap();
    })
    .await;
    let (mut hostile, _) = peer.open(lab.s2s, "coluc.com").await;
    let claim = "<db:result from='partner.example' to='coluc.com'>k</db:result>";
    hostile.say(claim).await;
    link.say(MESSAGE);
    let (answer, others) = bystander
        .during(&mut link, async {
            let answer = hostile.hear("</db:result>").await;
            // Until the message is given back too.
            tokio::time::sleep(Duration::from_secs(2)).await;
            answer
        })
        .await;
    assert!(answer.contains("<remote-connection-failed "), "{answer}");
    assert_eq!(others.len(), 1, "{others:?}");
    assert!(others[0].contains("<remote-server-timeout "), "{others:?}");
    let before = dns.asked().len();
    hostile.say(claim).await;
    let answer = hostile.hear("</db:result>").await;
    assert!(answer.contains("<remote-connection-failed "), "{answer}");
    assert_eq!(dns.asked().len(), before, "looked up again");
}
