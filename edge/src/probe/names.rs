//! Where the domain is reached: routes of the configuration, or SRV records of both services and
//! addresses, each with the verdict of the address rules.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::{Plan, Report};
use crate::resolve::{LookupError, S2S_PORT, SrvRecord};

/// Records and addresses that are looked at.
const MOST: usize = 16;

/// An address to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProbeTarget {
    /// The address.
    pub(super) address: SocketAddr,
    /// TLS from the first byte.
    pub(super) direct: bool,
}

impl ProbeTarget {
    /// As the table shows it.
    pub(super) fn subject(&self) -> String {
        let direct = if self.direct { " (direct TLS)" } else { "" };
        format!("{}{direct}", self.address)
    }
}

impl Plan {
    /// The addresses that an edge would try, best ones first.
    pub(super) async fn find(&self, report: &mut Report) -> Vec<ProbeTarget> {
        let live = self.live.as_ref();
        if let Some(route) = live.and_then(|live| live.policy.route(&self.domain)) {
            let mut targets = Vec::new();
            for target in route {
                report.good(
                    "dns",
                    self.domain.as_str(),
                    format!("static route to {target}; DNS is not asked"),
                );
                // Routes are trusted: the address rules are for what DNS says.
                let found = self.addresses(&target.host, target.port, false, true, report).await;
                targets.extend(found);
            }
            return targets;
        }
        let plain_name = format!("_xmpp-server._tcp.{}", self.domain);
        let direct_name = format!("_xmpps-server._tcp.{}", self.domain);
        let Ok(plain) = self.srv(&plain_name, false, report).await else {
            return Vec::new();
        };
        // Direct TLS is one more way: without knowing, an edge goes on where it can.
        let optional = plain.is_empty() || !plain.iter().all(is_none);
        let direct = match self.srv(&direct_name, optional, report).await {
            Ok(direct) => direct,
            Err(_) if optional => Vec::new(),
            Err(_) => return Vec::new(),
        };
        if plain.is_empty() && direct.is_empty() {
            report.warn(
                "dns",
                self.domain.as_str(),
                format!("no SRV records; its own addresses and port {S2S_PORT} count"),
                None,
            );
            return self
                .addresses(self.domain.as_str(), S2S_PORT, false, false, report)
                .await;
        }
        let tagged = |records: Vec<SrvRecord>, direct: bool| {
            let usable = records.into_iter().filter(|record| !is_none(record));
            usable.map(move |record| (record, direct))
        };
        let mut records: Vec<_> = tagged(plain, false).chain(tagged(direct, true)).collect();
        if records.is_empty() {
            report.bad(
                "dns",
                self.domain.as_str(),
                "its SRV records (target \".\") say that it does not federate",
                "nothing can be done from here; ask its administrators",
            );
        }
        records.sort_by_key(|(record, _)| (record.priority, std::cmp::Reverse(record.weight)));
        let mut targets = Vec::new();
        for (record, direct) in records {
            let host = record.target.trim_end_matches('.').to_ascii_lowercase();
            let found = self.addresses(&host, record.port, direct, false, report).await;
            for target in found {
                if !targets.contains(&target) {
                    targets.push(target);
                }
            }
        }
        targets
    }

    /// `optional`: whether an edge can do without the answer.
    async fn srv(&self, name: &str, optional: bool, report: &mut Report) -> Result<Vec<SrvRecord>, LookupError> {
        let started = Instant::now();
        let answer = self.lookup.srv(&format!("{name}.")).await;
        let ms = started.elapsed().as_millis();
        match &answer {
            Err(error) if optional => report.warn(
                "dns",
                name,
                error.to_string(),
                Some("the domain's name servers must answer that there is no such record; an edge goes on without"),
            ),
            Err(error) => report.bad(
                "dns",
                name,
                error.to_string(),
                "check the resolvers (--dns, dns.resolvers) and the domain's name servers; an edge waits and tries again",
            ),
            Ok(records) if records.is_empty() => {
                report.skip("dns", name, format!("no records, {ms} ms"));
            }
            Ok(records) => {
                let mut shown: Vec<_> = records.iter().take(MOST).map(show).collect();
                if records.len() > MOST {
                    shown.push(format!("and {} more", records.len() - MOST));
                }
                report.good("dns", name, format!("{}, {ms} ms", shown.join("; ")));
            }
        }
        answer.map(|mut records| {
            records.truncate(MOST);
            records
        })
    }

    async fn addresses(
        &self,
        host: &str,
        port: u16,
        direct: bool,
        trusted: bool,
        report: &mut Report,
    ) -> Vec<ProbeTarget> {
        let found = match host.parse() {
            Ok(address) if trusted => Ok(vec![address]),
            Ok(_) => Err((
                "an SRV record names an address instead of a host".to_owned(),
                "its target must be a host name (RFC 2782)",
            )),
            Err(_) if !host.contains('.') => Err((
                "an SRV record names a single label, which means another host everywhere".to_owned(),
                "its target must be a full host name",
            )),
            Err(_) => self.lookup.addresses(&format!("{host}.")).await.map_err(|error| {
                let remedy = "check the resolvers and the name servers of this host name";
                (error.to_string(), remedy)
            }),
        };
        let addresses = match found {
            Ok(addresses) => addresses,
            Err((detail, remedy)) => {
                report.bad("address", host, detail, remedy);
                return Vec::new();
            }
        };
        if addresses.is_empty() {
            let remedy = "the domain's administrators must publish A or AAAA records for it";
            report.bad("address", host, "has no address in DNS", remedy);
        }
        if addresses.iter().any(IpAddr::is_ipv6) {
            self.rules.learn_nat64(&*self.lookup).await;
        }
        let mut targets = Vec::new();
        for ip in addresses.into_iter().take(MOST) {
            let address = SocketAddr::new(ip, port);
            match self.rules.check(address) {
                Err(refused) if !trusted => report.bad(
                    "address",
                    host,
                    format!("{ip} is refused because {}", refused.cause()),
                    &format!("if this address is intended, {}", refused.remedy()),
                ),
                _ => {
                    report.good("address", host, ip.to_string());
                    targets.push(ProbeTarget { address, direct });
                }
            }
        }
        targets
    }
}

/// "Not here": target `.` (RFC 2782).
fn is_none(record: &SrvRecord) -> bool {
    record.target.trim_end_matches('.').is_empty() || record.port == 0
}

fn show(record: &SrvRecord) -> String {
    if is_none(record) {
        return "not offered (target \".\")".to_owned();
    }
    format!(
        "priority {} weight {} {}:{}",
        record.priority,
        record.weight,
        record.target.trim_end_matches('.'),
        record.port
    )
}
