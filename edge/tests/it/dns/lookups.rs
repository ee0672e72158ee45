//! What the name servers of others are asked because of one domain.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use rstest::rstest;
use tokio::net::TcpListener;
use xmpp_federation_core::edge_config::{EdgeConfig, PrivacyMode};
use xmpp_federation_edge::resolve::{Lookup, LookupError, Resolver, SrvRecord};

use crate::support::{Lab, Peer, Router, config, live, result};

type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<Vec<T>, LookupError>> + Send + 'a>>;

/// Both services of every domain have records of as many priorities.
struct Zone {
    each: u16,
    port: u16,
    /// The one host that has an address, of those of `_xmpp-server._tcp`.
    there: u16,
    asked: Mutex<Vec<String>>,
}

impl Lookup for Zone {
    fn srv<'a>(&'a self, name: &'a str) -> Answer<'a, SrvRecord> {
        self.asked.lock().unwrap().push(name.to_owned());
        let direct = name.starts_with("_xmpps");
        let kind = if direct { "direct" } else { "plain" };
        let record = |n| SrvRecord {
            priority: 2 * n + u16::from(direct),
            weight: 0,
            port: self.port,
            target: format!("h{n}.{kind}.victim.example."),
        };
        let records = (0..self.each).map(record).collect();
        Box::pin(async move { Ok(records) })
    }

    fn addresses<'a>(&'a self, name: &'a str) -> Answer<'a, IpAddr> {
        self.asked.lock().unwrap().push(name.to_owned());
        let there = name == format!("h{}.plain.victim.example.", self.there);
        let found = there.then(|| [127, 0, 0, 1].into());
        Box::pin(async move { Ok(found.into_iter().collect()) })
    }
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
    let zone = Arc::new(Zone {
        each,
        port: 5333,
        there,
        asked: Mutex::default(),
    });
    let mut config = config(&[], &[]);
    open_to_all(&mut config);
    let resolver = Resolver::with_lookup(&config, zone.clone(), Arc::default());
    let domain = "evil.example".parse().unwrap();
    let resolved = resolver.resolve(&domain).await;
    let asked = zone.asked.lock().unwrap().clone();
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
    let zone = Arc::new(Zone {
        each: 64,
        port,
        there: 0,
        asked: Mutex::default(),
    });
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    open_to_all(&mut config);
    let mut live = live(config);
    let resolver = Resolver::with_lookup(&live.config, zone.clone(), Arc::default());
    live.resolver = Arc::new(resolver);
    let lab = Lab::start(live);
    let (mut bob, _) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(&result("evil.example", "coluc.com", "k")).await;
    let answer = bob.hear("</db:result>").await;
    assert!(answer.contains("<remote-connection-failed "), "{answer}");
    let asked = zone.asked.lock().unwrap().clone();
    let of_it = |name: &&String| name.ends_with(".victim.example.");
    assert!(asked.iter().filter(of_it).count() <= 8, "{asked:?}");
}
