//! Compares public records with what federation needs.

use std::net::IpAddr;

use futures::StreamExt as _;
use xmpp_federation_core::Domain;

use super::lookup::{Addresses, Lookup, Service, Srv, SrvAnswer};

/// Questions under way at once.
const PARALLEL: usize = 8;

/// What the records should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Federated domains and chat aliases: each needs its own SRV record.
    pub domains: Vec<Domain>,
    /// Whether TLS from the first byte is offered: each domain then needs that record too.
    pub direct_tls: bool,
    /// The public name that the SRV records point to.
    pub hostname: Domain,
    /// The addresses under which the Service is reached; empty while it has none.
    pub addresses: Vec<IpAddr>,
    /// Partners whose records are looked at too; what is wrong there is theirs to mend.
    pub partners: Vec<Domain>,
}

/// Verdict about one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
pub enum RecordState {
    /// As wanted.
    Verified,
    /// Present, but peers will not reach us by it.
    Wrong,
    /// Not there.
    Absent,
    /// DNS gave no answer that proves anything.
    Unknown,
    /// A partner's record, found.
    PartnerFound,
    /// A partner's record, absent or failing: their domain cannot be reached by DNS.
    PartnerMissing,
}

/// One record and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordStatus {
    /// The record's name, as `_xmpp-server._tcp.coluc.com`.
    pub name: String,
    /// The verdict.
    pub state: RecordState,
    /// What was found, and the remedy where one is needed.
    pub message: String,
}

/// What is looked at: ours by service, or a partner's.
#[derive(Clone)]
enum Question {
    Own(Service, Domain),
    Partner(Domain),
}

/// Looks all records up; the order of the answer is that of the question.
pub async fn verify(dns: &(impl Lookup + Sync), wanted: &Wanted) -> Vec<RecordStatus> {
    // Owned questions: a stream over borrowed ones is not Send for all lifetimes.
    let own = |service| {
        let domains = wanted.domains.iter().cloned();
        domains.map(move |domain| Question::Own(service, domain))
    };
    let partners = wanted.partners.iter().cloned().map(Question::Partner);
    let questions: Vec<Question> = own(Service::Server)
        .chain(own(Service::DirectTls))
        .chain(partners)
        .collect();
    futures::stream::iter(questions)
        .map(|question| async move {
            match question {
                Question::Own(Service::DirectTls, domain) if !wanted.direct_tls => {
                    not_offered(dns, &domain, wanted).await
                }
                Question::Own(service, domain) => Some(own_record(dns, service, &domain, wanted).await),
                Question::Partner(domain) => Some(partner_record(dns, &domain).await),
            }
        })
        .buffered(PARALLEL)
        .filter_map(std::future::ready)
        .collect()
        .await
}

/// Direct TLS is not offered, so no record may say that it is: a peer that prefers it would come
/// to a closed port, or to another server. No answer is no such record.
async fn not_offered(dns: &(impl Lookup + Sync), domain: &Domain, wanted: &Wanted) -> Option<RecordStatus> {
    let service = Service::DirectTls;
    let SrvAnswer::Found(records) = dns.srv(service, domain).await else {
        return None;
    };
    let record = records.iter().find(|record| !record.target.is_empty())?;
    let remedy = if record.target == wanted.hostname.as_str() {
        "set spec.edge.directTls.enabled, or remove the record"
    } else {
        "remove the record, or point it to the edge and set spec.edge.directTls.enabled"
    };
    Some(RecordStatus {
        name: service.record(domain),
        state: RecordState::Wrong,
        message: format!(
            "it leads peers that prefer direct TLS to {} port {}, and the edge does not offer it; {remedy}",
            record.target, record.port
        ),
    })
}

async fn own_record(dns: &(impl Lookup + Sync), service: Service, domain: &Domain, wanted: &Wanted) -> RecordStatus {
    let name = service.record(domain);
    let port = service.port();
    let should = format!("{name}. SRV 10 0 {port} {}.", wanted.hostname);
    let status = |state, message| RecordStatus {
        name: name.clone(),
        state,
        message,
    };
    let records = match dns.srv(service, domain).await {
        SrvAnswer::Found(records) => records,
        SrvAnswer::Absent => {
            return status(RecordState::Absent, format!("not found; publish `{should}`"));
        }
        SrvAnswer::Failed(reason) => {
            return status(
                RecordState::Unknown,
                format!("could not be looked up ({reason}); check that the resolvers answer for {domain}"),
            );
        }
    };
    if let Some(problem) = wrong_record(&records, port, wanted) {
        return status(RecordState::Wrong, format!("{problem}; publish `{should}`"));
    }
    let host = wanted.hostname.as_str();
    match dns.addresses(host).await {
        Addresses::Absent => status(
            RecordState::Wrong,
            format!("its target {host} has no address; publish an A or AAAA record for it"),
        ),
        Addresses::Failed(reason) => status(
            RecordState::Unknown,
            format!(
                "the address of its target {host} could not be looked up ({reason}); check that the resolvers answer for it"
            ),
        ),
        Addresses::Found { alias: Some(alias), .. } => status(
            RecordState::Wrong,
            format!(
                "its target {host} is an alias (CNAME) for {alias}, which RFC 2782 forbids; publish A or AAAA records for {host} itself"
            ),
        ),
        Addresses::Found { addresses, alias: None } => compare(&addresses, port, wanted, status),
    }
}

fn compare(
    found: &[IpAddr],
    port: u16,
    wanted: &Wanted,
    status: impl Fn(RecordState, String) -> RecordStatus,
) -> RecordStatus {
    let host = &wanted.hostname;
    if wanted.addresses.is_empty() {
        return status(
            RecordState::Unknown,
            format!(
                "points to {host} ({}), but the Service has no address yet to compare with; wait for the load balancer or set edge.publicAddresses",
                join(found)
            ),
        );
    }
    let foreign: Vec<IpAddr> = found
        .iter()
        .copied()
        .filter(|a| !wanted.addresses.contains(a))
        .collect();
    if foreign.is_empty() {
        return status(RecordState::Verified, format!("{host} port {port}, {}", join(found)));
    }
    status(
        RecordState::Wrong,
        format!(
            "its target {host} has the address {}, but the Service has {}; correct the A or AAAA record, or set edge.publicAddresses if NAT is in between",
            join(&foreign),
            join(&wanted.addresses),
        ),
    )
}

/// What is wrong with a set of SRV records: every one must lead to us.
fn wrong_record(records: &[Srv], port: u16, wanted: &Wanted) -> Option<String> {
    records.iter().find_map(|record| {
        if record.target.is_empty() {
            Some("its target is `.`, which says that the service is not offered".to_owned())
        } else if record.target != wanted.hostname.as_str() {
            Some(format!("its target is {}, not {}", record.target, wanted.hostname))
        } else if record.port != port {
            Some(format!("its port is {}, not {port}", record.port))
        } else {
            None
        }
    })
}

async fn partner_record(dns: &(impl Lookup + Sync), domain: &Domain) -> RecordStatus {
    let service = Service::Server;
    let (state, message) = match dns.srv(service, domain).await {
        SrvAnswer::Found(records) => {
            let list: Vec<String> = records
                .iter()
                .map(|r| format!("{} port {}", r.target, r.port))
                .collect();
            (RecordState::PartnerFound, list.join(", "))
        }
        SrvAnswer::Absent => match dns.addresses(domain.as_str()).await {
            Addresses::Found { addresses, .. } => (
                RecordState::PartnerFound,
                format!(
                    "no SRV record; its address {} is used with port {}",
                    join(&addresses),
                    service.port()
                ),
            ),
            _ => (
                RecordState::PartnerMissing,
                format!(
                    "neither an SRV record nor an address was found; ask the administrator of {domain} to publish one, or add a static route"
                ),
            ),
        },
        SrvAnswer::Failed(reason) => (
            RecordState::PartnerMissing,
            format!("could not be looked up ({reason}); the DNS servers of {domain} may be down"),
        ),
    };
    RecordStatus {
        name: service.record(domain),
        state,
        message,
    }
}

fn join(addresses: &[IpAddr]) -> String {
    let mut texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    // DNS rotates its answers; a status that moves by itself would never be a fixed point.
    texts.sort();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
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
            addresses: vec!["203.0.113.10".parse().unwrap()],
            partners: Vec::new(),
        };
        let found = verify(&Fixed(srv, addresses), &wanted).await;
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
    #[case::off_and_elsewhere(false, srv("old.coluc.com", 5270), Some((RecordState::Wrong, "old.coluc.com port 5270")))]
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
            addresses: vec!["203.0.113.10".parse().unwrap()],
            partners: Vec::new(),
        };
        let found = verify(&Direct(answer), &wanted).await;
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
            addresses: Vec::new(),
            partners: vec![Domain::parse("vngtp.lab").unwrap()],
        };
        let found = verify(&Fixed(srv("xmpp.vngtp.lab", 5269), Addresses::Absent), &wanted).await;
        assert_eq!(found[0].state, RecordState::PartnerFound);
        assert_eq!(found[0].message, "xmpp.vngtp.lab port 5269");
        let found = verify(&Fixed(SrvAnswer::Absent, Addresses::Absent), &wanted).await;
        assert_eq!(found[0].state, RecordState::PartnerMissing);
    }
}
