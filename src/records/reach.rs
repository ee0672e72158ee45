//! How peers come to the edge, and what load balancers' names lead to.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use xmpp_federation_core::Domain;

use super::lookup::{Addresses, Lookup, Service, Srv};
use super::verify::join;
use crate::api::spec::ServiceType;

/// A name is not waited for longer.
const LIMIT: Duration = Duration::from_secs(10);
/// An address counts this long after its name had it last: answers change in turns, and resolvers keep old ones.
const COUNTS: Duration = Duration::from_mins(10);

/// Where a Service says that it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceAddresses {
    /// IP addresses of load balancers, in order.
    pub addresses: Vec<IpAddr>,
    /// Host names of load balancers, in order.
    pub names: Vec<String>,
    /// Ports with the node ports that lead to them.
    pub node_ports: Vec<(u16, u16)>,
}

/// How peers come to the edge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reach {
    /// `spec.edge.publicAddresses`: if there are any, no others count.
    pub given: Vec<IpAddr>,
    pub service_type: ServiceType,
    pub service: ServiceAddresses,
}

impl Reach {
    /// As the status shows them: addresses and host names, as the Service does. What a name leads to is not told, as it
    /// may change all the time.
    pub fn shown(&self) -> Vec<String> {
        if !self.given.is_empty() {
            return self.given.iter().map(ToString::to_string).collect();
        }
        let addresses = self.service.addresses.iter().map(ToString::to_string);
        addresses.chain(self.service.names.iter().cloned()).collect()
    }

    /// The names that count.
    pub fn names(&self) -> &[String] {
        if self.given.is_empty() {
            &self.service.names
        } else {
            &[]
        }
    }

    /// The addresses that count, those of names included.
    fn addresses(&self, names: &[NameAddresses]) -> Vec<IpAddr> {
        if !self.given.is_empty() {
            return self.given.clone();
        }
        let seen = names.iter().flat_map(|name| &name.seen);
        let seen = seen.map(|(address, _)| *address);
        self.service.addresses.iter().copied().chain(seen).collect()
    }

    /// Whether a load balancer is all that is in front, so that no port leads to the edge but its own.
    fn has_own_ports_only(&self) -> bool {
        self.service_type == ServiceType::LoadBalancer && self.given.is_empty()
    }

    /// The port to publish.
    pub fn port(&self, service: Service) -> u16 {
        let own = service.port();
        let node_port = self.service.node_ports.iter().find(|(port, _)| *port == own);
        match node_port.filter(|_| self.service_type == ServiceType::NodePort) {
            Some((_, node_port)) => *node_port,
            None => own,
        }
    }

    /// The port of the records that lead to that host, and what else they say; or what is wrong with all of them.
    pub fn judge(&self, records: &[Srv], service: Service, host: &Domain) -> Result<(u16, Vec<String>), String> {
        if records.iter().any(|record| record.target.is_empty()) {
            return Err("its target is `.`, which says that the service is not offered".to_owned());
        }
        let (ours, others): (Vec<&Srv>, Vec<&Srv>) = records.iter().partition(|r| r.target == host.as_str());
        let is_right = |record: &&&Srv| [self.port(service), service.port()].contains(&record.port);
        let Some(first) = ours.iter().find(is_right).or(ours.first()) else {
            let targets: Vec<&str> = others.iter().map(|record| record.target.as_str()).collect();
            return Err(format!("its target is {}, not {host}", targets.join(", ")));
        };
        let mut notes = Vec::new();
        for record in ours.iter().filter(|record| !is_right(record)) {
            let (port, wanted) = (record.port, self.port(service));
            if !self.has_own_ports_only() {
                notes.push(format!(
                    "port {port} of {host} must be led to port {} of the Service",
                    service.port()
                ));
            } else if is_right(&first) {
                notes.push(format!("the Service does not have port {port}, which is published too"));
            } else {
                return Err(format!("its port is {port}, not {wanted}"));
            }
        }
        notes.extend(others.into_iter().map(of_another_site));
        Ok((first.port, notes))
    }

    /// What the addresses of the host are to the edge: good ones in words, or what is wrong.
    pub fn compare(&self, found: &[IpAddr], host: &Domain, names: &[NameAddresses]) -> Comparison {
        let known = self.addresses(names);
        if known.is_empty() {
            return Comparison::Unknown(self.nothing_to_compare_with(found, host, names));
        }
        let foreign: Vec<IpAddr> = found.iter().copied().filter(|a| !known.contains(a)).collect();
        if !foreign.is_empty() {
            return Comparison::Foreign(self.foreign(&foreign, host));
        }
        if self.names().is_empty() || found.iter().all(|a| self.service.addresses.contains(a)) {
            return Comparison::Same(join(found));
        }
        let unanswered = names.iter().find_map(|name| Some((&name.name, name.unanswered_since?)));
        let unanswered = unanswered.map(|(name, since)| format!("; since {since:.0} {name} gives no answer"));
        let names = self.names().join(", ");
        Comparison::Same(format!("the addresses of {names}{}", unanswered.unwrap_or_default()))
    }

    fn nothing_to_compare_with(&self, found: &[IpAddr], host: &Domain, names: &[NameAddresses]) -> String {
        let found = join(found);
        match (self.service_type, names.first()) {
            (_, Some(name)) => format!(
                "points to {host} ({found}), but {}, the name of the Service's load balancer, {}; wait for the load balancer, or set spec.edge.publicAddresses",
                name.name,
                name.trouble.as_deref().unwrap_or("has no address"),
            ),
            (ServiceType::LoadBalancer, None) => format!(
                "points to {host} ({found}), but the Service has no address yet to compare with; wait for the load balancer or set edge.publicAddresses"
            ),
            (ServiceType::NodePort | ServiceType::ClusterIP, None) => format!(
                "points to {host} ({found}), but a Service of type {:?} shows no address to compare with; set spec.edge.publicAddresses to the addresses that lead to the edge, as {found}",
                self.service_type
            ),
        }
    }

    fn foreign(&self, foreign: &[IpAddr], host: &Domain) -> String {
        let has = format!("its target {host} has the address {}", join(foreign));
        if let Some(name) = self.names().first() {
            return format!(
                "{has}, which {} does not have; {}",
                self.names().join(", "),
                alias(host, name)
            );
        }
        if self.given.is_empty() {
            return format!(
                "{has}, but the Service has {}; correct the A or AAAA record, or set edge.publicAddresses if NAT is in between",
                join(&self.service.addresses)
            );
        }
        let given = join(&self.given);
        let (own, others): (Vec<IpAddr>, Vec<IpAddr>) =
            foreign.iter().partition(|a| self.service.addresses.contains(a));
        let add = |addresses: &[IpAddr], why| {
            let add = format!("add {} to it, {why}", join(addresses));
            (!addresses.is_empty()).then_some(add)
        };
        let remedies = [
            add(&own, "since the Service has that address"),
            add(&others, "if that leads to the edge, or remove the A or AAAA record"),
        ];
        let remedies: Vec<String> = remedies.into_iter().flatten().collect();
        format!(
            "{has}, but spec.edge.publicAddresses is {given}; {}",
            remedies.join("; ")
        )
    }

    /// How to give the host the addresses of a load balancer's name, if there is one.
    pub fn by_name(&self, host: &Domain) -> Option<String> {
        self.names().first().map(|name| alias(host, name))
    }
}

/// A record that leads to another host than the edge's, as a second site's does.
pub fn of_another_site(record: &Srv) -> String {
    let Srv {
        target, port, priority, ..
    } = record;
    format!("{target} port {port} is published too, with priority {priority}")
}

fn alias(host: &Domain, name: &str) -> String {
    format!(
        "at your DNS provider lead {host} to {name} by an ALIAS (ANAME) record, which answers with addresses; or give the load balancer static addresses, publish those, and list them in spec.edge.publicAddresses"
    )
}

/// What a host's addresses are to the edge.
pub enum Comparison {
    /// They lead to it.
    Same(String),
    /// Some are not its own.
    Foreign(String),
    /// Nothing tells.
    Unknown(String),
}

/// What the name of a load balancer leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameAddresses {
    pub name: String,
    /// Each with the time at which it was seen last.
    pub seen: Vec<(IpAddr, Timestamp)>,
    /// Why there is none now.
    trouble: Option<String>,
    /// Since when DNS gives no answer.
    unanswered_since: Option<Timestamp>,
}

/// Looks the names up; while one gives no answer, its last one stays.
pub async fn follow(
    dns: &(impl Lookup + Sync),
    names: &[String],
    before: &[NameAddresses],
    now: Timestamp,
) -> Vec<NameAddresses> {
    let answers = names.iter().map(|name| async move {
        let _place = match dns.room() {
            Some(room) => room.acquire().await.ok(),
            None => None,
        };
        let answer = tokio::time::timeout(LIMIT, dns.addresses(name)).await;
        answer.unwrap_or_else(|_| Addresses::Failed(format!("no answer within {} s", LIMIT.as_secs())))
    });
    let answers = futures::future::join_all(answers).await;
    let known = |name: &String| before.iter().find(|known| known.name == *name);
    let looks = names.iter().zip(answers);
    looks
        .map(|(name, answer)| take(name, answer, known(name), now))
        .collect()
}

fn take(name: &str, answer: Addresses, before: Option<&NameAddresses>, now: Timestamp) -> NameAddresses {
    let mut of = NameAddresses {
        name: name.to_owned(),
        seen: before.map(|before| before.seen.clone()).unwrap_or_default(),
        trouble: None,
        unanswered_since: None,
    };
    let found = match answer {
        Addresses::Failed(reason) => {
            of.trouble = Some(format!("could not be looked up ({reason})"));
            of.unanswered_since = Some(before.and_then(|before| before.unanswered_since).unwrap_or(now));
            return of;
        }
        Addresses::Found { addresses, .. } => addresses,
        Addresses::Absent => Vec::new(),
    };
    of.seen.retain(|(address, seen)| {
        let young = now.duration_since(*seen).unsigned_abs() < COUNTS;
        young && !found.contains(address)
    });
    of.seen.extend(found.into_iter().map(|address| (address, now)));
    of
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::records::lookup::SrvAnswer;
    use crate::records::{RecordState, RecordStatus, Wanted, hold, verify};
    use rstest::rstest;
    use std::collections::BTreeMap;

    const HOST: &str = "edge.coluc.com";
    const NAME: &str = "edge-1.elb.example";

    /// Host names with their answers: addresses, `-` for none, `=` before a name for an alias, else a failure.
    #[derive(Default)]
    struct Script {
        srv: Vec<Srv>,
        hosts: BTreeMap<&'static str, &'static str>,
    }

    impl Lookup for Script {
        async fn srv(&self, service: Service, _: &Domain) -> SrvAnswer {
            match service {
                Service::Server if !self.srv.is_empty() => SrvAnswer::Found(self.srv.clone()),
                _ => SrvAnswer::Absent,
            }
        }
        async fn addresses(&self, host: &str) -> Addresses {
            let answer = self.hosts.get(host).copied().unwrap_or("-");
            let addresses: Result<Vec<IpAddr>, _> = answer.split(' ').map(str::parse).collect();
            match (addresses, answer.strip_prefix('=')) {
                (Ok(addresses), _) => Addresses::Found { addresses, alias: None },
                (_, Some(name)) => Addresses::Found {
                    addresses: vec!["192.0.2.1".parse().unwrap()],
                    alias: Some(name.to_owned()),
                },
                _ if answer == "-" => Addresses::Absent,
                _ => Addresses::Failed(answer.to_owned()),
            }
        }
    }

    /// `priority port host`, separated by commas.
    fn records(text: &str) -> Vec<Srv> {
        let record = |text: &str| {
            let words: Vec<&str> = text.trim().split(' ').collect();
            let [priority, port, target] = *words else {
                unreachable!("{text}")
            };
            Srv {
                priority: priority.parse().unwrap(),
                weight: 0,
                port: port.parse().unwrap(),
                target: target.to_owned(),
            }
        };
        text.split(',').filter(|text| !text.is_empty()).map(record).collect()
    }

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
    }

    fn reach(service_type: ServiceType, given: &str, shown: &str, names: &str) -> Reach {
        Reach {
            given: ips(given),
            service_type,
            service: ServiceAddresses {
                addresses: ips(shown),
                names: names.split_whitespace().map(str::to_owned).collect(),
                node_ports: vec![(5269, 31269), (5270, 31270)],
            },
        }
    }

    async fn look(script: &Script, reach: &Reach, seen: &mut Seen, now: Timestamp) -> RecordStatus {
        let wanted = Wanted {
            domains: vec![Domain::parse("coluc.com").unwrap()],
            direct_tls: false,
            hostname: Domain::parse(HOST).unwrap(),
            reach: reach.clone(),
            partners: Vec::new(),
        };
        seen.names = follow(script, reach.names(), &seen.names, now).await;
        let found = verify(script, &wanted, &seen.names).await;
        seen.found = hold(&seen.found, found, now);
        seen.found.first().unwrap().clone()
    }

    #[derive(Default)]
    struct Seen {
        names: Vec<NameAddresses>,
        found: Vec<RecordStatus>,
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    use ServiceType::{ClusterIP, LoadBalancer, NodePort};

    #[rstest]
    // One's own ports and targets: type, publicAddresses, records, verdict and words.
    #[case::as_published(
        LoadBalancer,
        "",
        "10 5269 edge.coluc.com",
        "Verified",
        "edge.coluc.com port 5269, 192.0.2.1"
    )]
    #[case::a_port_that_the_balancer_lacks(
        LoadBalancer,
        "",
        "10 5299 edge.coluc.com",
        "Wrong",
        "its port is 5299, not 5269"
    )]
    #[case::such_a_port_besides(
        LoadBalancer,
        "",
        "10 5299 edge.coluc.com,20 5269 edge.coluc.com",
        "Verified",
        "port 5269, 192.0.2.1; note: the Service does not have port 5299"
    )]
    #[case::a_port_of_nat(
        LoadBalancer,
        "192.0.2.1",
        "10 5299 edge.coluc.com",
        "Verified",
        "note: port 5299 of edge.coluc.com must be led to port 5269 of the Service"
    )]
    #[case::the_node_port(NodePort, "192.0.2.1", "0 31269 edge.coluc.com", "Verified", "port 31269, 192.0.2.1")]
    #[case::a_forwarded_port(NodePort, "192.0.2.1", "0 5269 edge.coluc.com", "Verified", "port 5269, 192.0.2.1")]
    #[case::another_port(
        NodePort,
        "192.0.2.1",
        "0 7000 edge.coluc.com",
        "Verified",
        "note: port 7000 of edge.coluc.com must be led"
    )]
    #[case::no_record(
        NodePort,
        "192.0.2.1",
        "",
        "Absent",
        "publish `_xmpp-server._tcp.coluc.com. SRV 10 0 31269 edge.coluc.com.`"
    )]
    #[case::a_second_site(
        LoadBalancer,
        "",
        "0 5269 edge.coluc.com,10 5269 vcse.coluc.com",
        "Verified",
        "note: vcse.coluc.com port 5269 is published too, with priority 10"
    )]
    #[case::the_other_site_alone(
        LoadBalancer,
        "",
        "0 5269 vcse.coluc.com",
        "Wrong",
        "its target is vcse.coluc.com, not edge.coluc.com; publish `"
    )]
    #[case::other_sites_alone(
        LoadBalancer,
        "",
        "0 5269 a.coluc.com,0 5269 b.coluc.com",
        "Wrong",
        "its target is a.coluc.com, b.coluc.com, not"
    )]
    #[case::a_second_site_and_a_wrong_port(
        LoadBalancer,
        "",
        "0 5269 vcse.coluc.com,0 5299 edge.coluc.com",
        "Wrong",
        "its port is 5299"
    )]
    #[tokio::test]
    async fn further_records_and_ports_of_ones_own_are_a_note(
        #[case] service_type: ServiceType,
        #[case] given: &str,
        #[case] published: &str,
        #[case] state: &str,
        #[case] says: &str,
    ) {
        let script = Script {
            srv: records(published),
            hosts: BTreeMap::from([(HOST, "192.0.2.1")]),
        };
        let reach = reach(service_type, given, "192.0.2.1", "");
        let record = look(&script, &reach, &mut Seen::default(), at(0)).await;
        assert_eq!(<&str>::from(record.state), state, "{record:?}");
        assert!(record.message.contains(says), "{record:?}");
        assert_eq!(record.note.is_some(), says.contains("note: "), "{record:?}");
    }

    #[rstest]
    // Type, publicAddresses and what the Service shows; the host's own addresses, what the name leads to, verdict and words.
    #[case::a_name((LoadBalancer, "", "", NAME), "192.0.2.1", "192.0.2.2 192.0.2.1", "Verified", "port 5269, the addresses of edge-1.elb.example")]
    #[case::both((LoadBalancer, "", "192.0.2.1", NAME), "192.0.2.1", "2001:db8::1", "Verified", "port 5269, 192.0.2.1")]
    #[case::both_published((LoadBalancer, "", "192.0.2.1", NAME), "192.0.2.1 2001:db8::1", "2001:db8::1", "Verified", "the addresses of")]
    #[case::several_nodes((LoadBalancer, "", "192.0.2.1 192.0.2.2", ""), "192.0.2.2 192.0.2.1", "", "Verified", "192.0.2.1, 192.0.2.2")]
    #[case::no_address((LoadBalancer, "", "", NAME), "-", "192.0.2.1", "Wrong", "has no address; at your DNS provider lead edge.coluc.com to edge-1.elb.example by an ALIAS (ANAME) record")]
    #[case::an_alias((LoadBalancer, "", "", NAME), "=edge-1.elb.example", "192.0.2.1", "Wrong", "alias (CNAME) for edge-1.elb.example, which RFC 2782 forbids; at your DNS provider")]
    #[case::no_name_any_more((LoadBalancer, "", "", NAME), "192.0.2.1", "-", "Unknown", "edge-1.elb.example, the name of the Service's load balancer, has no address; wait")]
    #[case::no_answer((LoadBalancer, "", "", NAME), "192.0.2.1", "timed out", "Unknown", "could not be looked up (timed out)")]
    #[case::given_hides_the_name((LoadBalancer, "192.0.2.1", "", NAME), "192.0.2.1", "192.0.2.9", "Verified", "port 5269, 192.0.2.1")]
    #[case::native_beside_nat((LoadBalancer, "198.51.100.1", "10.0.0.1 2001:db8::1", ""), "198.51.100.1 2001:db8::1", "", "Wrong", "has the address 2001:db8::1, but spec.edge.publicAddresses is 198.51.100.1; add 2001:db8::1 to it, since the Service has that address")]
    #[case::another_beside_nat((NodePort, "198.51.100.1", "", ""), "198.51.100.1 2001:db8::1", "", "Wrong", "add 2001:db8::1 to it, if that leads to the edge, or remove the A or AAAA record")]
    #[case::nothing_to_compare_with((NodePort, "", "", ""), "192.0.2.1", "", "Unknown", "a Service of type NodePort shows no address to compare with; set spec.edge.publicAddresses to the addresses that lead to the edge, as 192.0.2.1")]
    #[case::inside((ClusterIP, "", "", ""), "192.0.2.1", "", "Unknown", "type ClusterIP")]
    #[tokio::test]
    async fn addresses_are_compared_with_all_that_leads_to_the_edge(
        #[case] (service_type, given, shown, names): (ServiceType, &str, &str, &str),
        #[case] published: &'static str,
        #[case] name: &'static str,
        #[case] state: &str,
        #[case] says: &str,
    ) {
        let port = if service_type == NodePort { 31269 } else { 5269 };
        let script = Script {
            srv: records(&format!("0 {port} {HOST}")),
            hosts: BTreeMap::from([(HOST, published), (NAME, name)]),
        };
        let reach = reach(service_type, given, shown, names);
        let record = look(&script, &reach, &mut Seen::default(), at(0)).await;
        assert_eq!(<&str>::from(record.state), state, "{record:?}");
        assert!(record.message.contains(says), "{record:?}");
    }

    const GOOD: &str = "Verified edge.coluc.com port 5269, the addresses of edge-1.elb.example";

    // Each look: second, the host's addresses, those of the name, and what is told.
    #[rstest]
    #[case::it_moves(&[(0, "192.0.2.1", "192.0.2.1", GOOD), (300, "192.0.2.2", "192.0.2.2", GOOD), (360, "192.0.2.1", "192.0.2.2", GOOD)])]
    #[case::in_turns(&[(0, "192.0.2.1", "192.0.2.1", GOOD), (60, "192.0.2.1", "192.0.2.2", GOOD), (120, "192.0.2.2", "192.0.2.3", GOOD)])]
    #[case::the_host_is_ahead(&[(0, "192.0.2.1", "192.0.2.1", GOOD), (300, "192.0.2.2", "192.0.2.1", GOOD), (320, "192.0.2.2", "192.0.2.2", GOOD)])]
    #[case::left_behind(&[(0, "192.0.2.1", "192.0.2.1", GOOD), (300, "192.0.2.1", "192.0.2.2", GOOD), (700, "192.0.2.1", "192.0.2.2", GOOD), (1010, "192.0.2.1", "192.0.2.2", "Wrong its target edge.coluc.com has the address 192.0.2.1, which edge-1.elb.example does not have")])]
    #[case::never_right(&[(0, "192.0.2.9", "192.0.2.1", "Unknown its target edge.coluc.com has the address 192.0.2.9, which"), (310, "192.0.2.9", "192.0.2.1", "Wrong its target"), (320, "192.0.2.1", "192.0.2.1", GOOD)])]
    #[case::mended_by_half(&[(0, "-", "192.0.2.1", "Wrong its target edge.coluc.com has no address"), (10, "192.0.2.9", "192.0.2.1", "Wrong its target edge.coluc.com has the address 192.0.2.9")])]
    #[case::no_answer(&[(0, "192.0.2.1", "192.0.2.1", GOOD), (1000, "192.0.2.1", "dead", "Verified edge.coluc.com port 5269, the addresses of edge-1.elb.example; since 2027-01-15T08:16:40Z edge-1.elb.example gives no answer"), (2000, "192.0.2.1", "late", "Verified edge.coluc.com port 5269, the addresses of edge-1.elb.example; since 2027-01-15T08:16:40Z edge-1.elb.example gives no answer"), (2010, "192.0.2.1", "192.0.2.1", GOOD)])]
    #[tokio::test]
    async fn a_name_is_followed_without_flapping(#[case] looks: &[(i64, &'static str, &'static str, &str)]) {
        let mut seen = Seen::default();
        let reach = reach(LoadBalancer, "", "", NAME);
        for (second, host, name, told) in looks {
            let script = Script {
                srv: records("0 5269 edge.coluc.com"),
                hosts: BTreeMap::from([(HOST, *host), (NAME, *name)]),
            };
            let record = look(&script, &reach, &mut seen, at(*second)).await;
            let found = format!("{} {}", <&str>::from(record.state), record.message);
            assert!(found.starts_with(told), "{second}: {found}");
            assert!(*told != GOOD || found == *told, "{second}: {found}");
            assert_eq!(record.state == RecordState::Verified, told.starts_with("Verified"));
        }
    }
}
