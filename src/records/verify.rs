//! Compares public records with what federation needs.

use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use xmpp_federation_core::Domain;

use super::lookup::{Addresses, Lookup, Service, Srv, SrvAnswer};
use super::reach::{Comparison, NameAddresses, Reach, of_another_site};

/// Questions under way at once.
const PARALLEL: usize = 16;
/// One record is not waited for longer, so dead name servers of one domain delay no other domain.
const LIMIT: Duration = Duration::from_secs(10);
/// Addresses that a load balancer's name does not have are told after this time: both answers may be old ones.
const SETTLES: Duration = Duration::from_mins(5);

/// What the records should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Federated domains and chat aliases: each needs its own SRV record.
    pub domains: Vec<Domain>,
    /// Whether TLS from the first byte is offered: each domain then needs that record too.
    pub direct_tls: bool,
    /// The public name that the SRV records point to.
    pub hostname: Domain,
    /// How peers come to the edge.
    pub reach: Reach,
    /// Partners whose records are looked at too; what is wrong there is theirs to mend.
    pub partners: Vec<Domain>,
}

/// Verdict about one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString)]
pub enum RecordState {
    /// As wanted.
    Verified,
    /// Present, but peers will not reach us by it.
    Wrong,
    /// Not there.
    Absent,
    /// DNS gave no answer that proves anything.
    Unknown,
    /// Not wanted, and it leads to further sites alone.
    FurtherSite,
    /// A partner's record, found.
    PartnerFound,
    /// A partner's record, absent: their domain cannot be reached by DNS.
    PartnerMissing,
    /// A partner's record of which DNS never gave an answer.
    PartnerUnknown,
}

impl RecordState {
    /// Whether it is that of a partner's record.
    pub const fn is_of_a_partner(self) -> bool {
        matches!(self, Self::PartnerFound | Self::PartnerMissing | Self::PartnerUnknown)
    }
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
    /// What a verified record says besides.
    pub note: Option<String>,
    /// Since when DNS gives no answer, where that of an earlier look stands.
    pub unanswered_since: Option<Timestamp>,
    /// Since when the addresses are not those of the load balancer's name.
    pub disputed_since: Option<Timestamp>,
}

impl RecordStatus {
    fn new(name: String, state: RecordState, mut message: String) -> Self {
        message.shrink_to_fit();
        Self {
            name,
            state,
            message,
            note: None,
            unanswered_since: None,
            disputed_since: None,
        }
    }

    /// Lets the last verdict stand until addresses have been other ones for long enough.
    fn settle(&mut self, before: Option<&Self>, now: Timestamp) {
        let since = before.and_then(|before| before.disputed_since).unwrap_or(now);
        self.disputed_since = Some(since);
        if now.duration_since(since).unsigned_abs() >= SETTLES {
            return;
        }
        match before {
            Some(before) if before.state == RecordState::Verified => {
                *self = Self {
                    disputed_since: Some(since),
                    ..before.clone()
                };
            }
            Some(before) if matches!(before.state, RecordState::Wrong | RecordState::Absent) => {}
            _ => self.state = RecordState::Unknown,
        }
    }
}

/// Lets the last answers stand of partners that cannot be looked up now, and those of our own while addresses move. What
/// is told does not change while that lasts.
pub fn hold(before: &[RecordStatus], mut found: Vec<RecordStatus>, now: Timestamp) -> Vec<RecordStatus> {
    for record in &mut found {
        let old = before.iter().find(|old| old.name == record.name);
        if record.disputed_since.is_some() {
            record.settle(old, now);
        }
        let Some(old) = old.filter(|_| record.state == RecordState::PartnerUnknown) else {
            continue;
        };
        let lasts = old.state == RecordState::PartnerUnknown || old.unanswered_since.is_some();
        *record = match old.state {
            _ if lasts => old.clone(),
            RecordState::PartnerFound => RecordStatus {
                message: format!("{}; since {now:.0} it {}", old.message, record.message),
                unanswered_since: Some(now),
                ..old.clone()
            },
            _ => continue,
        };
    }
    found
}

/// What is looked at: ours by service, or a partner's.
#[derive(Clone)]
enum Question {
    Own(Service, Domain),
    Partner(Domain),
}

/// Looks all records up, given what the names of load balancers lead to; the order of the answer is that of the question.
pub async fn verify(dns: &(impl Lookup + Sync), wanted: &Wanted, names: &[NameAddresses]) -> Vec<RecordStatus> {
    verify_within(LIMIT, dns, wanted, names).await
}

async fn verify_within(
    limit: Duration,
    dns: &(impl Lookup + Sync),
    wanted: &Wanted,
    names: &[NameAddresses],
) -> Vec<RecordStatus> {
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
    let mut found: Vec<(usize, RecordStatus)> = futures::stream::iter(questions.into_iter().enumerate())
        .map(|(place, question)| async move {
            // The limit is that of the answer: a place may take longer, and says nothing of the domain.
            let _place = match dns.room() {
                Some(room) => room.acquire().await.ok(),
                None => None,
            };
            // In a box: what waits for a place is small.
            let answer = Box::pin(tokio::time::timeout(limit, look(dns, &question, wanted, names))).await;
            let record = answer.unwrap_or_else(|_| {
                let reason = format!("no answer within {} s", limit.as_secs());
                question.needs_an_answer(wanted).then(|| question.unanswered(&reason))
            });
            Some((place, record?))
        })
        .buffer_unordered(PARALLEL)
        .filter_map(std::future::ready)
        .collect()
        .await;
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, record)| record).collect()
}

async fn look(
    dns: &(impl Lookup + Sync),
    question: &Question,
    wanted: &Wanted,
    names: &[NameAddresses],
) -> Option<RecordStatus> {
    match question {
        Question::Own(Service::DirectTls, domain) if !wanted.direct_tls => not_offered(dns, domain, wanted).await,
        Question::Own(service, domain) => Some(own_record(dns, *service, domain, wanted, names).await),
        Question::Partner(domain) => Some(partner_record(dns, domain).await),
    }
}

impl Question {
    /// What is told where DNS gave no answer that proves anything.
    fn unanswered(&self, reason: &str) -> RecordStatus {
        let failed = format!("could not be looked up ({reason})");
        match self {
            Self::Own(service, domain) => RecordStatus::new(
                service.record(domain),
                RecordState::Unknown,
                format!("{failed}; check that the resolvers answer for {domain}"),
            ),
            Self::Partner(domain) => RecordStatus::new(
                Service::Server.record(domain),
                RecordState::PartnerUnknown,
                format!(
                    "{failed}; the DNS servers of {domain} may be down, or the resolvers (spec.dns.resolvers) not answer"
                ),
            ),
        }
    }

    /// Whether a record has to be there.
    fn needs_an_answer(&self, wanted: &Wanted) -> bool {
        wanted.direct_tls || !matches!(self, Self::Own(Service::DirectTls, _))
    }
}

/// Direct TLS is not offered, so no record may lead there: a peer that prefers it would come to a closed port. Records
/// that lead to other hosts are those of further sites, as XEP-0368 makes one set of both services. No answer is no such
/// record.
async fn not_offered(dns: &(impl Lookup + Sync), domain: &Domain, wanted: &Wanted) -> Option<RecordStatus> {
    let service = Service::DirectTls;
    let SrvAnswer::Found(records) = dns.srv(service, domain).await else {
        return None;
    };
    let name = service.record(domain);
    let (ours, others): (Vec<&Srv>, Vec<&Srv>) = records
        .iter()
        .filter(|record| !record.target.is_empty())
        .partition(|record| record.target == wanted.hostname.as_str());
    if let Some(record) = ours.first() {
        let message = format!(
            "it leads peers that prefer direct TLS to {} port {}, and the edge does not offer it; set spec.edge.directTls.enabled, or remove the record",
            record.target, record.port
        );
        return Some(RecordStatus::new(name, RecordState::Wrong, message));
    }
    let notes: Vec<String> = others.into_iter().map(of_another_site).collect();
    (!notes.is_empty()).then(|| {
        let note = format!("{}; the edge does not offer direct TLS", notes.join(", "));
        RecordStatus {
            note: Some(note.clone()),
            ..RecordStatus::new(name, RecordState::FurtherSite, note)
        }
    })
}

async fn own_record(
    dns: &(impl Lookup + Sync),
    service: Service,
    domain: &Domain,
    wanted: &Wanted,
    names: &[NameAddresses],
) -> RecordStatus {
    let name = service.record(domain);
    let (reach, host) = (&wanted.reach, &wanted.hostname);
    let should = format!("{name}. SRV 10 0 {} {host}.", reach.port(service));
    let status = |state, message| RecordStatus::new(name.clone(), state, message);
    let wrong = |message| status(RecordState::Wrong, message);
    let records = match dns.srv(service, domain).await {
        SrvAnswer::Found(records) => records,
        SrvAnswer::Absent => return status(RecordState::Absent, format!("not found; publish `{should}`")),
        SrvAnswer::Failed(reason) => return Question::Own(service, domain.clone()).unanswered(&reason),
    };
    let (port, notes) = match reach.judge(&records, service, host) {
        Ok(judged) => judged,
        Err(problem) => return wrong(format!("{problem}; publish `{should}`")),
    };
    let (addresses, alias) = match dns.addresses(host.as_str()).await {
        Addresses::Found { addresses, alias } => (addresses, alias),
        Addresses::Absent => {
            let remedy = reach.by_name(host);
            let remedy = remedy.unwrap_or_else(|| "publish an A or AAAA record for it".to_owned());
            return wrong(format!("its target {host} has no address; {remedy}"));
        }
        Addresses::Failed(reason) => {
            return status(
                RecordState::Unknown,
                format!(
                    "the address of its target {host} could not be looked up ({reason}); check that the resolvers answer for it"
                ),
            );
        }
    };
    if let Some(alias) = alias {
        let remedy = reach.by_name(host);
        let remedy = remedy.unwrap_or_else(|| format!("publish A or AAAA records for {host} itself"));
        return wrong(format!(
            "its target {host} is an alias (CNAME) for {alias}, which RFC 2782 forbids; {remedy}"
        ));
    }
    match reach.compare(&addresses, host, names) {
        Comparison::Unknown(message) => status(RecordState::Unknown, message),
        Comparison::Foreign(message) => RecordStatus {
            disputed_since: (!reach.names().is_empty()).then(Timestamp::now),
            ..wrong(message)
        },
        Comparison::Same(addresses) => {
            let message = format!("{host} port {port}, {addresses}");
            let note = (!notes.is_empty()).then(|| notes.join(", "));
            let message = match &note {
                Some(note) => format!("{message}; note: {note}"),
                None => message,
            };
            RecordStatus {
                note,
                ..status(RecordState::Verified, message)
            }
        }
    }
}

async fn partner_record(dns: &(impl Lookup + Sync), domain: &Domain) -> RecordStatus {
    let service = Service::Server;
    let unanswered = |reason: &str| Question::Partner(domain.clone()).unanswered(reason);
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
            Addresses::Failed(reason) => return unanswered(&reason),
            Addresses::Absent => (
                RecordState::PartnerMissing,
                format!(
                    "neither an SRV record nor an address was found; ask the administrator of {domain} to publish one, or give it a route in spec.partners"
                ),
            ),
        },
        SrvAnswer::Failed(reason) => return unanswered(&reason),
    };
    RecordStatus::new(service.record(domain), state, message)
}

pub(super) fn join(addresses: &[IpAddr]) -> String {
    let mut texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    // DNS rotates its answers; a status that moves by itself would never be a fixed point.
    texts.sort();
    texts.join(", ")
}

#[cfg(test)]
mod tests;
