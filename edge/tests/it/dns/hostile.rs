//! Zones that change, grow or point inwards: what their owner can make the edge connect to, and
//! how often.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rstest::rstest;
use tokio::net::TcpListener;
use xmpp_federation_core::edge_config::{EdgeConfig, PrivacyMode};
use xmpp_federation_edge::resolve::{Lookup, LookupError, Resolver, SrvRecord};

use crate::support::{PATIENCE, Scene, attribute, result, scene_with};

/// Records of partner.example; what a host's addresses are may change with each question.
#[derive(Default)]
struct Zone {
    srv: Vec<(u16, u16, String)>,
    direct: Vec<(u16, u16, String)>,
    /// The answers to the first, second, … question for a host's addresses; the last one stays.
    addresses: HashMap<&'static str, Vec<Vec<IpAddr>>>,
    /// The answer for every other host of the zone.
    others: Vec<IpAddr>,
    delay: Duration,
    asked: Mutex<HashMap<String, usize>>,
    total: AtomicUsize,
}

type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<Vec<T>, LookupError>> + Send + 'a>>;

impl Zone {
    /// How often this was asked before.
    fn count(&self, name: &str) -> usize {
        self.total.fetch_add(1, Ordering::SeqCst);
        let mut asked = self.asked.lock().unwrap();
        let count = asked.entry(name.to_owned()).or_default();
        *count += 1;
        *count - 1
    }
}

impl Lookup for Zone {
    fn srv<'a>(&'a self, name: &'a str) -> Answer<'a, SrvRecord> {
        self.count(name);
        let records = match name {
            "_xmpp-server._tcp.partner.example." => &self.srv[..],
            "_xmpps-server._tcp.partner.example." => &self.direct[..],
            _ => &[],
        };
        let records = records
            .iter()
            .map(|(priority, port, target)| SrvRecord {
                priority: *priority,
                weight: 0,
                port: *port,
                target: target.clone(),
            })
            .collect();
        Box::pin(async move {
            tokio::time::sleep(self.delay).await;
            Ok(records)
        })
    }

    fn addresses<'a>(&'a self, name: &'a str) -> Answer<'a, IpAddr> {
        let before = self.count(name);
        let found = match self.addresses.get(name) {
            Some(answers) => answers[before.min(answers.len() - 1)].clone(),
            None if name.ends_with("partner.example.") => self.others.clone(),
            None => Vec::new(),
        };
        Box::pin(async move {
            tokio::time::sleep(self.delay).await;
            Ok(found)
        })
    }
}

async fn scene(zone: &Arc<Zone>, change: impl FnOnce(&mut EdgeConfig)) -> Scene {
    scene_with(
        |config| {
            config.privacy.mode = PrivacyMode::AllowAll;
            change(config);
        },
        |live| {
            live.resolver = Arc::new(Resolver::with_lookup(&live.config, zone.clone(), Arc::default()));
        },
    )
    .await
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const MESSAGE: &str = "<message from='alice@coluc.com' to='x@partner.example' id='m1'/>";

/// First the zone leads to a server of its owner's, later to one inside.
#[tokio::test]
async fn an_address_that_changes_to_one_inside_is_not_connected_to() {
    let outside = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = outside.local_addr().unwrap().port();
    let inside = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let host = "x.partner.example.";
    let zone = Arc::new(Zone {
        srv: vec![(0, port, host.to_owned())],
        addresses: HashMap::from([(
            host,
            vec![
                vec![ip("127.0.0.2")],
                vec![ip("127.0.0.1"), ip("::1"), ip("169.254.169.254")],
            ],
        )]),
        ..Zone::default()
    });
    let (_lab, _peer, mut link, mut bystander) = scene(&zone, |config| {
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
    assert!(zone.asked.lock().unwrap()[host] > 1, "asked once only");
    let touched = tokio::time::timeout(Duration::from_millis(200), inside.accept()).await;
    assert!(touched.is_err(), "the edge connected to an address inside");
    assert!(bystander.exchange(&mut link).await.is_empty());
}

/// A hundred targets with twenty addresses each, where something takes each connection and drops it.
#[rstest]
#[case::of_one_priority(0)]
#[case::of_a_hundred_priorities(1)]
#[tokio::test]
async fn a_hundred_targets_with_twenty_addresses_cost_eight_connections(#[case] step: u16) {
    let taking = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = taking.local_addr().unwrap().port();
    let zone = Arc::new(Zone {
        srv: (0..100)
            .map(|n| (n * step, port, format!("h{n}.partner.example.")))
            .collect(),
        others: (1..=20).map(|n| ip(&format!("127.0.9.{n}"))).collect(),
        ..Zone::default()
    });
    let (_lab, _peer, mut link, mut bystander) = scene(&zone, |config| {
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
    let asked = zone.total.load(Ordering::SeqCst);
    assert!(asked <= 2 * (2 + 8), "{asked} look-ups");
    counting.abort();
    assert!(bystander.exchange(&mut link).await.is_empty());
}

#[tokio::test]
async fn a_hundred_priorities_without_usable_address_end_in_time() {
    let zone = Arc::new(Zone {
        srv: (0..100).map(|n| (n, 5269, format!("h{n}.partner.example."))).collect(),
        others: vec![
            ip("10.0.0.1"),
            ip("fd00::1"),
            ip("::ffff:192.168.0.1"),
            ip("64:ff9b::a00:1"),
        ],
        ..Zone::default()
    });
    let (lab, peer, mut link, mut bystander) = scene(&zone, |_| {}).await;
    let (mut hostile, _) = peer.open(lab.s2s, "coluc.com").await;
    let start = Instant::now();
    hostile.say(&result("partner.example", "coluc.com", "k")).await;
    let answer = hostile.hear("</db:result>").await;
    assert!(answer.contains("<remote-server-not-found "), "{answer}");
    assert!(start.elapsed() < PATIENCE);
    // One more asks whether the resolver makes NAT64 addresses.
    assert!(zone.total.load(Ordering::SeqCst) <= 2 + 64 + 1);
    assert!(bystander.exchange(&mut link).await.is_empty());
}

#[rstest]
#[case::neither_service(vec![(0, 0, ".".into())], vec![(0, 0, ".".into())])]
#[case::not_this_service(vec![(0, 0, ".".into())], vec![])]
#[case::disabled_beside_others(vec![(0, 0, ".".into()), (1, 0, ".".into())], vec![])]
#[case::routers_port_of_a_single_label(vec![(0, 7400, "router.".into())], vec![])]
#[case::address_literal(vec![(0, 5269, "198.51.100.1.".into())], vec![])]
#[case::port_zero(vec![(0, 0, "x.partner.example.".into())], vec![])]
#[tokio::test]
async fn records_that_lead_nowhere_forbid_the_domains_own_address(
    #[case] srv: Vec<(u16, u16, String)>,
    #[case] direct: Vec<(u16, u16, String)>,
) {
    let zone = Arc::new(Zone {
        srv,
        direct,
        others: vec![ip("127.0.0.2")],
        ..Zone::default()
    });
    let (lab, peer, mut link, mut bystander) = scene(&zone, |config| {
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
    assert!(!zone.asked.lock().unwrap().contains_key("partner.example."));
    assert!(bystander.exchange(&mut link).await.is_empty());
}

#[tokio::test]
async fn ten_thousand_domains_on_one_stream_cost_a_bounded_number_of_look_ups() {
    const DOMAINS: usize = 10_000;
    let zone = Arc::new(Zone {
        delay: Duration::from_hours(1),
        ..Zone::default()
    });
    let (lab, peer, mut link, mut bystander) = scene(&zone, |config| {
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
    let asked = zone.total.load(Ordering::SeqCst);
    assert!(asked <= 2 * 5, "{asked} look-ups");
}

/// DNS that answers after the time that a verification has.
#[tokio::test]
async fn slow_dns_is_given_up_in_time_and_not_asked_again_at_once() {
    let zone = Arc::new(Zone {
        delay: Duration::from_mins(1),
        ..Zone::default()
    });
    let (lab, peer, mut link, mut bystander) = scene(&zone, |config| {
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
    let before = zone.total.load(Ordering::SeqCst);
    hostile.say(claim).await;
    let answer = hostile.hear("</db:result>").await;
    assert!(answer.contains("<remote-connection-failed "), "{answer}");
    assert_eq!(zone.total.load(Ordering::SeqCst), before, "looked up again");
}
