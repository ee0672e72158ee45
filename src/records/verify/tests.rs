#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::records::ServiceAddresses;
use crate::records::lookup::Srv;
use rstest::rstest;

/// Answers for the service, no record of the other one, and the addresses.
struct Fixed(SrvAnswer, Addresses);

impl Lookup for Fixed {
    async fn srv(&self, service: Service, _: &Domain) -> SrvAnswer {
        match service {
            Service::Server => self.0.clone(),
            Service::DirectTls => SrvAnswer::Absent,
        }
    }
    async fn addresses(&self, _: &str) -> Addresses {
        self.1.clone()
    }
}

fn srv(target: &str, port: u16) -> SrvAnswer {
    SrvAnswer::Found(vec![Srv {
        priority: 10,
        weight: 0,
        port,
        target: target.to_owned(),
    }])
}

/// Two records of direct TLS.
fn both(one: &str, other: &str) -> SrvAnswer {
    let of = |target: &str| match srv(target, 5270) {
        SrvAnswer::Found(records) => records,
        _ => Vec::new(),
    };
    SrvAnswer::Found([of(one), of(other)].concat())
}

fn ip(text: &str) -> Addresses {
    Addresses::Found {
        addresses: vec![text.parse().unwrap()],
        alias: None,
    }
}

fn alias() -> Addresses {
    Addresses::Found {
        addresses: vec!["203.0.113.10".parse().unwrap()],
        alias: Some("lb.example".to_owned()),
    }
}

const HOST: &str = "eft-xwye-a.coluc.com";

fn balanced() -> Reach {
    Reach {
        service: ServiceAddresses {
            addresses: vec!["203.0.113.10".parse().unwrap()],
            ..ServiceAddresses::default()
        },
        ..Reach::default()
    }
}

#[rstest]
#[case(srv(HOST, 5269), ip("203.0.113.10"), RecordState::Verified, "203.0.113.10")]
#[case(
    srv(HOST, 5270),
    ip("203.0.113.10"),
    RecordState::Wrong,
    "its port is 5270, not 5269"
)]
#[case(
    srv("old.coluc.com", 5269),
    ip("203.0.113.10"),
    RecordState::Wrong,
    "its target is old.coluc.com"
)]
#[case(srv("", 5269), ip("203.0.113.10"), RecordState::Wrong, "not offered")]
#[case(
    srv(HOST, 5269),
    ip("203.0.113.99"),
    RecordState::Wrong,
    "the Service has 203.0.113.10"
)]
#[case(srv(HOST, 5269), alias(), RecordState::Wrong, "CNAME")]
#[case(srv(HOST, 5269), Addresses::Absent, RecordState::Wrong, "publish an A or AAAA")]
#[case(
    SrvAnswer::Absent,
    ip("203.0.113.10"),
    RecordState::Absent,
    "SRV 10 0 5269 eft-xwye-a.coluc.com."
)]
#[case(SrvAnswer::Failed("timed out".to_owned()), ip("203.0.113.10"), RecordState::Unknown, "timed out")]
#[tokio::test]
async fn each_fault_of_a_record_is_named_with_its_remedy(
    #[case] srv: SrvAnswer,
    #[case] addresses: Addresses,
    #[case] state: RecordState,
    #[case] says: &str,
) {
    let wanted = Wanted {
        domains: vec![Domain::parse("coluc.com").unwrap()],
        direct_tls: false,
        hostname: Domain::parse(HOST).unwrap(),
        reach: balanced(),
        partners: Vec::new(),
    };
    let found = verify(&Fixed(srv, addresses), &wanted, &[]).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].name, "_xmpp-server._tcp.coluc.com");
    assert_eq!(found[0].state, state, "{found:?}");
    assert!(found[0].message.contains(says), "{found:?}");
}

/// STARTTLS is as it should be; this is the answer for direct TLS.
struct Direct(SrvAnswer);

impl Lookup for Direct {
    async fn srv(&self, service: Service, _: &Domain) -> SrvAnswer {
        match service {
            Service::Server => srv(HOST, 5269),
            Service::DirectTls => self.0.clone(),
        }
    }
    async fn addresses(&self, _: &str) -> Addresses {
        ip("203.0.113.10")
    }
}

#[rstest]
#[case::as_it_should_be(true, srv(HOST, 5270), Some((RecordState::Verified, "port 5270, 203.0.113.10")))]
#[case::the_other_port(true, srv(HOST, 5269), Some((RecordState::Wrong, "its port is 5269, not 5270")))]
#[case::another_host(true, srv("old.coluc.com", 5270), Some((RecordState::Wrong, "its target is old.coluc.com")))]
#[case::said_not_to_be_offered(true, srv("", 0), Some((RecordState::Wrong, "not offered")))]
#[case::not_published(true, SrvAnswer::Absent, Some((RecordState::Absent, "publish `_xmpps-server._tcp.coluc.com. SRV 10 0 5270 eft-xwye-a.coluc.com.`")))]
#[case::no_answer(true, SrvAnswer::Failed("timed out".to_owned()), Some((RecordState::Unknown, "timed out")))]
#[case::off_and_not_published(false, SrvAnswer::Absent, None)]
#[case::off_and_said_so(false, srv("", 0), None)]
#[case::off_and_no_answer(false, SrvAnswer::Failed("timed out".to_owned()), None)]
#[case::off_and_published(false, srv(HOST, 5270), Some((RecordState::Wrong, "set spec.edge.directTls.enabled, or remove")))]
#[case::off_and_elsewhere(false, srv("old.coluc.com", 5270), Some((RecordState::FurtherSite, "old.coluc.com port 5270 is published too, with priority 10; the edge does not offer direct TLS")))]
#[case::off_and_here_and_elsewhere(false, both("old.coluc.com", HOST), Some((RecordState::Wrong, "to eft-xwye-a.coluc.com port 5270, and the edge does not offer it; set spec.edge.directTls.enabled, or remove the record")))]
#[tokio::test]
async fn direct_tls_has_a_record_of_its_own(
    #[case] direct_tls: bool,
    #[case] answer: SrvAnswer,
    #[case] expected: Option<(RecordState, &str)>,
) {
    let wanted = Wanted {
        domains: vec![Domain::parse("coluc.com").unwrap()],
        direct_tls,
        hostname: Domain::parse(HOST).unwrap(),
        reach: balanced(),
        partners: Vec::new(),
    };
    let found = verify(&Direct(answer), &wanted, &[]).await;
    assert_eq!(found[0].state, RecordState::Verified, "{found:?}");
    assert_eq!(found.len(), 1 + usize::from(expected.is_some()), "{found:?}");
    if let Some((state, says)) = expected {
        assert_eq!(found[1].name, "_xmpps-server._tcp.coluc.com");
        assert_eq!(found[1].state, state, "{found:?}");
        assert!(found[1].message.contains(says), "{found:?}");
    }
}

#[tokio::test]
async fn partners_are_looked_up_and_never_blamed_on_us() {
    let wanted = Wanted {
        domains: Vec::new(),
        direct_tls: false,
        hostname: Domain::parse(HOST).unwrap(),
        reach: Reach::default(),
        partners: vec![Domain::parse("vngtp.lab").unwrap()],
    };
    let found = verify(&Fixed(srv("xmpp.vngtp.lab", 5269), Addresses::Absent), &wanted, &[]).await;
    assert_eq!(found[0].state, RecordState::PartnerFound);
    assert_eq!(found[0].message, "xmpp.vngtp.lab port 5269");
    let found = verify(&Fixed(SrvAnswer::Absent, Addresses::Absent), &wanted, &[]).await;
    assert_eq!(found[0].state, RecordState::PartnerMissing);
    let failed = || "timed out".to_owned();
    for silent in [
        Fixed(SrvAnswer::Failed(failed()), Addresses::Absent),
        Fixed(SrvAnswer::Absent, Addresses::Failed(failed())),
    ] {
        let found = verify(&silent, &wanted, &[]).await;
        assert_eq!(found[0].state, RecordState::PartnerUnknown);
    }
}

/// Never answers for domains that begin so.
struct Silent(&'static str);

impl Lookup for Silent {
    async fn srv(&self, _: Service, domain: &Domain) -> SrvAnswer {
        if domain.as_str().starts_with(self.0) {
            std::future::pending::<()>().await;
        }
        srv("xmpp.vngtp.lab", 5269)
    }
    async fn addresses(&self, _: &str) -> Addresses {
        Addresses::Absent
    }
}

#[tokio::test]
async fn partners_that_never_answer_cost_no_other_its_answer() {
    let domain = |n: usize| {
        let name = if n.is_multiple_of(2) { "dead" } else { "well" };
        Domain::parse(&format!("{name}-{n}.example")).unwrap()
    };
    let wanted = Wanted {
        domains: Vec::new(),
        direct_tls: false,
        hostname: Domain::parse(HOST).unwrap(),
        reach: Reach::default(),
        partners: (0..100).map(domain).collect(),
    };
    let found = verify_within(Duration::from_millis(20), &Silent("dead"), &wanted, &[]).await;
    assert_eq!(found.len(), 100);
    for (n, record) in found.iter().enumerate() {
        assert_eq!(record.name, Service::Server.record(&domain(n)));
        let expected = if n.is_multiple_of(2) {
            RecordState::PartnerUnknown
        } else {
            RecordState::PartnerFound
        };
        assert_eq!(record.state, expected, "{record:?}");
    }
}

// Each look: second, what DNS says (`+` found, `-` absent, else why it failed), and what is told.
#[rstest]
#[case::back(&[(0, "+", "Found a"), (1, "dead", "Found a; since :01 it could not be looked up (dead)"), (2, "+", "Found a")])]
#[case::without_flapping(&[(0, "+", "Found a"), (1, "x", "Found a; since :01 it could not be looked up (x)"), (2, "y", "Found a; since :01 it could not be looked up (x)")])]
#[case::never_answered(&[(0, "x", "Unknown could not be looked up (x)"), (1, "y", "Unknown could not be looked up (x)"), (2, "+", "Found a")])]
#[case::proven_absence(&[(0, "+", "Found a"), (1, "-", "Missing gone"), (2, "x", "Unknown could not be looked up (x)")])]
#[case::again(&[(0, "+", "Found a"), (1, "x", "Found a; since :01 it could not be looked up (x)"), (2, "+", "Found a"), (3, "x", "Found a; since :03 it could not be looked up (x)")])]
fn the_last_answer_of_a_partner_stands_while_dns_gives_none(#[case] looks: &[(i64, &str, &str)]) {
    let mut before = Vec::new();
    for (second, answer, told) in looks {
        let now = Timestamp::from_second(1_800_000_000 + second).unwrap();
        let (state, message) = match *answer {
            "+" => (RecordState::PartnerFound, "a".to_owned()),
            "-" => (RecordState::PartnerMissing, "gone".to_owned()),
            why => (RecordState::PartnerUnknown, format!("could not be looked up ({why})")),
        };
        let other = RecordStatus::new("other".to_owned(), RecordState::PartnerFound, "b".to_owned());
        let found = RecordStatus::new("partner".to_owned(), state, message);
        let held = hold(&before, vec![other, found], now);
        let word: &str = held[1].state.into();
        let word = word.trim_start_matches("Partner");
        let message = held[1].message.replace("2027-01-15T08:00", "").replace("Z it", " it");
        assert_eq!(format!("{word} {message}"), *told);
        assert_eq!(held[0].message, "b");
        before = held;
    }
}
