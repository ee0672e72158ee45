//! Compares public records with what federation needs.

use std::net::IpAddr;

use futures::StreamExt as _;
use xmpp_federation_core::Domain;

use super::lookup::{Addresses, Lookup, Srv, SrvAnswer};

/// Public S2S port.
const PORT: u16 = 5269;
/// Questions under way at once.
const PARALLEL: usize = 8;

/// What the records should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Federated domains and chat aliases: each needs its own SRV record.
    pub domains: Vec<Domain>,
    /// The public name that the SRV records point to.
    pub hostname: Domain,
    /// The addresses under which the Service is reached; empty while it has none.
    pub addresses: Vec<IpAddr>,
    /// Partners whose records are looked at too; what is wrong there is theirs to mend.
    pub partners: Vec<Domain>,
}

/// Verdict about one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Looks all records up; the order of the answer is that of the question.
pub async fn verify(dns: &(impl Lookup + Sync), wanted: &Wanted) -> Vec<RecordStatus> {
    // Owned questions: a stream over borrowed ones is not Send for all lifetimes.
    let ours = wanted.domains.iter().map(|domain| (domain.clone(), false));
    let partners = wanted.partners.iter().map(|domain| (domain.clone(), true));
    let questions: Vec<(Domain, bool)> = ours.chain(partners).collect();
    futures::stream::iter(questions)
        .map(|(domain, partner)| async move {
            if partner {
                partner_record(dns, &domain).await
            } else {
                own_record(dns, &domain, wanted).await
            }
        })
        .buffered(PARALLEL)
        .collect()
        .await
}

fn record_name(domain: &Domain) -> String {
    format!("_xmpp-server._tcp.{domain}")
}

async fn own_record(dns: &(impl Lookup + Sync), domain: &Domain, wanted: &Wanted) -> RecordStatus {
    let name = record_name(domain);
    let should = format!("{name}. SRV 10 0 {PORT} {}.", wanted.hostname);
    let status = |state, message| RecordStatus {
        name: name.clone(),
        state,
        message,
    };
    let records = match dns.srv(domain).await {
        SrvAnswer::Found(records) => records,
        SrvAnswer::Absent => {
            return status(
                RecordState::Absent,
                format!("not found; publish `{should}`"),
            );
        }
        SrvAnswer::Failed(reason) => {
            return status(
                RecordState::Unknown,
                format!(
                    "could not be looked up ({reason}); check that the resolvers answer for {domain}"
                ),
            );
        }
    };
    if let Some(problem) = wrong_record(&records, wanted) {
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
        Addresses::Found {
            alias: Some(alias), ..
        } => status(
            RecordState::Wrong,
            format!(
                "its target {host} is an alias (CNAME) for {alias}, which RFC 2782 forbids; publish A or AAAA records for {host} itself"
            ),
        ),
        Addresses::Found {
            addresses,
            alias: None,
        } => compare(&addresses, wanted, status),
    }
}

fn compare(
    found: &[IpAddr],
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
        return status(
            RecordState::Verified,
            format!("{host} port {PORT}, {}", join(found)),
        );
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
fn wrong_record(records: &[Srv], wanted: &Wanted) -> Option<String> {
    records.iter().find_map(|record| {
        if record.target.is_empty() {
            Some("its target is `.`, which says that the service is not offered".to_owned())
        } else if record.target != wanted.hostname.as_str() {
            Some(format!(
                "its target is {}, not {}",
                record.target, wanted.hostname
            ))
        } else if record.port != PORT {
            Some(format!("its port is {}, not {PORT}", record.port))
        } else {
            None
        }
    })
}

async fn partner_record(dns: &(impl Lookup + Sync), domain: &Domain) -> RecordStatus {
    let (state, message) = match dns.srv(domain).await {
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
                    "no SRV record; its address {} is used with port {PORT}",
                    join(&addresses)
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
        name: record_name(domain),
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

    struct Fixed(SrvAnswer, Addresses);

    impl Lookup for Fixed {
        async fn srv(&self, _: &Domain) -> SrvAnswer {
            self.0.clone()
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
    #[case(
        srv(HOST, 5269),
        ip("203.0.113.10"),
        RecordState::Verified,
        "203.0.113.10"
    )]
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
    #[case(
        srv(HOST, 5269),
        Addresses::Absent,
        RecordState::Wrong,
        "publish an A or AAAA"
    )]
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
            hostname: Domain::parse(HOST).unwrap(),
            addresses: vec!["203.0.113.10".parse().unwrap()],
            partners: Vec::new(),
        };
        let found = verify(&Fixed(srv, addresses), &wanted).await;
        assert_eq!(found[0].name, "_xmpp-server._tcp.coluc.com");
        assert_eq!(found[0].state, state, "{found:?}");
        assert!(found[0].message.contains(says), "{found:?}");
    }

    #[tokio::test]
    async fn partners_are_looked_up_and_never_blamed_on_us() {
        let wanted = Wanted {
            domains: Vec::new(),
            hostname: Domain::parse(HOST).unwrap(),
            addresses: Vec::new(),
            partners: vec![Domain::parse("vngtp.lab").unwrap()],
        };
        let found = verify(
            &Fixed(srv("xmpp.vngtp.lab", 5269), Addresses::Absent),
            &wanted,
        )
        .await;
        assert_eq!(found[0].state, RecordState::PartnerFound);
        assert_eq!(found[0].message, "xmpp.vngtp.lab port 5269");
        let found = verify(&Fixed(SrvAnswer::Absent, Addresses::Absent), &wanted).await;
        assert_eq!(found[0].state, RecordState::PartnerMissing);
    }
}
