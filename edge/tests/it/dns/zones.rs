//! What a remote domain's DNS can do to the edge: nothing but make that domain unreachable.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rstest::rstest;
use tokio::net::TcpListener;
use tokio::time::timeout;
use xmpp_federation_core::edge_config::{EdgeConfig, PrivacyMode};
use xmpp_federation_edge::resolve::{Lookup, LookupError, Resolver, SrvRecord};

use crate::support::{Lab, PATIENCE, Peer, Router, RouterLink, attribute, config, live, result, to_alice};

/// What partner.example's zone says; everything else does not exist.
#[derive(Default)]
struct Zone {
    srv: Mutex<Vec<(u16, &'static str)>>,
    direct: Vec<(u16, &'static str)>,
    addresses: Vec<IpAddr>,
    broken: bool,
    silent: bool,
    asked: AtomicUsize,
    names: Mutex<Vec<String>>,
}

type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<Vec<T>, LookupError>> + Send + 'a>>;

impl Zone {
    async fn answer<T>(&self, name: &str, records: Vec<T>) -> Result<Vec<T>, LookupError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.names.lock().unwrap().push(name.to_owned());
        if self.silent {
            std::future::pending::<()>().await;
        }
        if self.broken {
            return Err(LookupError(format!("SERVFAIL for {name}")));
        }
        Ok(records)
    }
}

impl Lookup for Zone {
    fn srv<'a>(&'a self, name: &'a str) -> Answer<'a, SrvRecord> {
        let records = match name {
            "_xmpp-server._tcp.partner.example." => self.srv.lock().unwrap().clone(),
            "_xmpps-server._tcp.partner.example." => self.direct.clone(),
            _ => Vec::new(),
        };
        let record = |(port, target): &(u16, &str)| SrvRecord {
            priority: 0,
            weight: 0,
            port: *port,
            target: (*target).to_owned(),
        };
        Box::pin(self.answer(name, records.iter().map(record).collect()))
    }
    fn addresses<'a>(&'a self, name: &'a str) -> Answer<'a, IpAddr> {
        let known = name.ends_with("partner.example.");
        let addresses = if known { self.addresses.clone() } else { Vec::new() };
        Box::pin(self.answer(name, addresses))
    }
}

/// An edge that federates with everybody, vngtp.lab by route, the rest by this zone.
async fn start(zone: &Arc<Zone>, change: impl FnOnce(&mut EdgeConfig)) -> (Lab, Peer, RouterLink) {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    config.privacy.mode = PrivacyMode::AllowAll;
    change(&mut config);
    let mut live = live(config);
    live.resolver = Arc::new(Resolver::with_lookup(&live.config, zone.clone(), Arc::default()));
    let lab = Lab::start(live);
    let link = router.accept().await;
    (lab, peer, link)
}

fn srv(record: (u16, &'static str)) -> Mutex<Vec<(u16, &'static str)>> {
    Mutex::new(vec![record])
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
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
#[case::does_not_exist(Zone::default(), "remote-server-not-found")]
#[case::does_not_federate(
    Zone { srv: srv((0, ".")), addresses: vec![ip("198.51.100.99")], ..Zone::default() },
    "remote-server-not-found"
)]
#[case::direct_tls_to_loopback(
    Zone { direct: vec![(5270, "x.partner.example.")], addresses: vec![ip("127.0.0.1")], ..Zone::default() },
    "remote-server-not-found"
)]
#[case::direct_tls_switched_off(
    Zone { direct: vec![(0, ".")], addresses: vec![ip("198.51.100.99")], ..Zone::default() },
    "remote-server-not-found"
)]
#[case::loopback(Zone { addresses: vec![ip("127.0.0.1"), ip("::1")], ..Zone::default() }, "remote-server-not-found")]
#[case::mapped_loopback(Zone { addresses: vec![ip("::ffff:127.0.0.1")], ..Zone::default() }, "remote-server-not-found")]
#[case::metadata_service(
    Zone { srv: srv((80, "x.partner.example.")), addresses: vec![ip("169.254.169.254")], ..Zone::default() },
    "remote-server-not-found"
)]
#[case::cluster_service(Zone { addresses: vec![ip("10.96.0.1")], ..Zone::default() }, "remote-server-not-found")]
#[case::single_label(Zone { srv: srv((5269, "kubernetes.")), ..Zone::default() }, "remote-server-not-found")]
#[case::address_as_target(Zone { srv: srv((5269, "127.0.0.1.")), ..Zone::default() }, "remote-server-not-found")]
#[case::broken(Zone { broken: true, ..Zone::default() }, "remote-connection-failed")]
#[tokio::test]
async fn a_domain_without_usable_addresses_is_answered_by_cause(#[case] zone: Zone, #[case] expected: &str) {
    let zone = Arc::new(zone);
    let (lab, peer, _link) = start(&zone, |_| {}).await;
    assert_eq!(claim(&lab, &peer).await, expected);
    let names = zone.names.lock().unwrap().clone();
    assert!(
        names.iter().all(|name| name.ends_with('.')),
        "absolute names only: {names:?}"
    );
}

#[rstest]
#[case(Zone::default(), "remote-server-not-found", "cancel")]
#[case(Zone { srv: srv((0, ".")), ..Zone::default() }, "remote-server-not-found", "cancel")]
#[case(Zone { broken: true, ..Zone::default() }, "remote-server-timeout", "wait")]
#[tokio::test]
async fn a_message_to_such_a_domain_comes_back_with_its_cause(
    #[case] zone: Zone,
    #[case] expected: &str,
    #[case] class: &str,
) {
    // What may pass by itself is waited for, this long.
    let (lab, _peer, mut link) = start(&Arc::new(zone), |config| {
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
    let zone = Arc::new(Zone {
        addresses: vec![ip("127.0.0.1")],
        ..Zone::default()
    });
    let (lab, peer, _link) = start(&zone, |config| {
        config.dns.allow_private_targets = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let config = &lab.edge.live().config;
    let port = if to_router {
        config.routers.first().unwrap().endpoints.first().unwrap().address.port
    } else {
        config.listen.s2s.port()
    };
    zone.srv.lock().unwrap().push((port, "x.partner.example."));
    assert_eq!(claim(&lab, &peer).await, "remote-server-not-found");
}

#[tokio::test]
async fn nothing_is_sent_to_a_private_address() {
    let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let zone = Arc::new(Zone {
        srv: srv((inside.local_addr().unwrap().port(), "x.partner.example.")),
        addresses: vec![ip("127.0.0.1")],
        ..Zone::default()
    });
    let (lab, peer, mut link) = start(&zone, |_| {}).await;
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
    let zone = Arc::new(Zone {
        srv: srv((port, "x.partner.example.")),
        addresses: vec![ip("127.0.0.2"), ip("127.0.0.1")],
        ..Zone::default()
    });
    let (_lab, _peer, mut link) = start(&zone, |config| {
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
    let zone = Arc::new(Zone {
        silent: true,
        ..Zone::default()
    });
    let (lab, peer, mut link) = start(&zone, |config| {
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
    let zone = Arc::new(Zone {
        silent: true,
        ..Zone::default()
    });
    let (lab, peer, _link) = start(&zone, |config| {
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
    let asked = zone.asked.load(Ordering::SeqCst);
    assert!(asked <= 2 * 20, "{asked} look-ups");
}
