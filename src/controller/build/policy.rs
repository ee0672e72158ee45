//! The hosts that may connect to the edge pods, and those to which the pods may connect.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule as Egress, NetworkPolicyIngressRule as Ingress, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use xmpp_federation_core::edge_config::Cidr;

use super::RouterAddresses;
use super::config::DIRECT_TLS_PORT;
use crate::api::passed::Passed;
use crate::controller::names::{ADMIN_PORT, EDGE_LABEL};
use crate::controller::validate::ValidSpec;

/// Private, shared and link-local networks: public DNS must not lead a pod there.
const NOT_PUBLIC_V4: [&str; 6] = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
];
const NOT_PUBLIC_V6: [&str; 2] = ["fc00::/7", "fe80::/10"];

/// DNS. Behind a Service the pods of a resolver may listen on another port, as those of OpenShift do, and many network
/// plugins judge a connection after its translation.
const DNS_PORTS: [u16; 2] = [53, 5353];
/// Ports of XMPP between servers, at pods.
const S2S_PORTS: [u16; 2] = [5269, DIRECT_TLS_PORT];

/// Label that Kubernetes gives every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

pub fn policy(valid: &ValidSpec, links: &RouterAddresses) -> NetworkPolicy {
    let dns = ["UDP", "TCP"].map(|protocol| DNS_PORTS.map(|number| port(protocol, number)));
    let mut egress = vec![
        // Name resolution; resolvers are often inside.
        Egress {
            ports: Some(dns.concat()),
            to: None,
        },
        // An SRV record may name any port.
        Egress {
            ports: None,
            to: Some(public(&valid.deny)),
        },
        // Another federation of this cluster: its public address is translated to those of its pods.
        Egress {
            ports: Some(S2S_PORTS.map(|number| port("TCP", number)).to_vec()),
            to: Some(vec![NetworkPolicyPeer {
                namespace_selector: Some(LabelSelector::default()),
                pod_selector: Some(labelled(EDGE_LABEL)),
                ..NetworkPolicyPeer::default()
            }]),
        },
    ];
    if !valid.allow_private.is_empty() {
        let networks = valid.allow_private.iter();
        egress.push(Egress {
            ports: None,
            to: Some(networks.map(|cidr| network(&cidr.to_string(), &[])).collect()),
        });
    }
    let mut hosts = HostsByPort::default();
    for imp in valid.imp.iter().filter(|_| valid.active) {
        for (_, address) in links.get(&imp.spec.name).into_iter().flatten() {
            hosts.admit(address, imp.router.port);
        }
    }
    for target in valid.partners.iter().flat_map(|partner| &partner.route) {
        hosts.admit(&target.host, target.port);
    }
    egress.extend(hosts.rules());
    let mut internet = vec![port("TCP", 5269)];
    if valid.direct_tls {
        internet.push(port("TCP", DIRECT_TLS_PORT));
    }
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(labelled((NAMESPACE_NAME, &valid.operator_namespace))),
        ..NetworkPolicyPeer::default()
    };
    let spec = &valid.network_policy;
    let admin = [operator].into_iter().chain(inner(&spec.metrics_from));
    let mut ingress = vec![
        // The internet.
        Ingress {
            from: None,
            ports: Some(internet),
        },
        // The kubelet's probes always pass.
        Ingress {
            from: Some(admin.collect()),
            ports: Some(vec![port("TCP", ADMIN_PORT)]),
        },
    ];
    ingress.extend(inner(&spec.extra_ingress));
    egress.extend(inner(&spec.extra_egress));
    NetworkPolicy {
        metadata: valid.owner.metadata(&valid.owner.edge()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(valid.owner.pod_selector()),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(ingress),
            egress: Some(egress),
        }),
    }
}

/// As Kubernetes has them.
fn inner<T: Clone>(parts: &[Passed<T>]) -> impl Iterator<Item = T> {
    parts.iter().cloned().map(Passed::into_inner)
}

fn port(protocol: &str, number: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        end_port: None,
        port: Some(IntOrString::Int(number.into())),
        protocol: Some(protocol.to_owned()),
    }
}

fn network(cidr: &str, except: &[&str]) -> NetworkPolicyPeer {
    let except: Vec<String> = except.iter().map(ToString::to_string).collect();
    NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr: cidr.to_owned(),
            except: (!except.is_empty()).then_some(except),
        }),
        ..NetworkPolicyPeer::default()
    }
}

/// All addresses but those that public DNS must not lead to.
fn public(deny: &[Cidr]) -> Vec<NetworkPolicyPeer> {
    let (v4, v6): (Vec<&Cidr>, Vec<&Cidr>) = deny.iter().partition(|cidr| cidr.net().addr().is_ipv4());
    let all_but = |all: &str, except: &[&str], deny: &[&Cidr]| {
        let deny: Vec<String> = deny.iter().map(|cidr| cidr.net().trunc().to_string()).collect();
        let except: Vec<&str> = except.iter().copied().chain(deny.iter().map(String::as_str)).collect();
        network(all, &except)
    };
    vec![
        all_but("0.0.0.0/0", &NOT_PUBLIC_V4, &v4),
        all_but("::/0", &NOT_PUBLIC_V6, &v6),
    ]
}

fn labelled((label, value): (&str, &str)) -> LabelSelector {
    LabelSelector {
        match_labels: Some(BTreeMap::from([(label.to_owned(), value.to_owned())])),
        ..LabelSelector::default()
    }
}

/// Single hosts that are connected to, by port: one rule for each port, however many hosts.
#[derive(Default)]
struct HostsByPort(BTreeMap<u16, Hosts>);

enum Hosts {
    Addresses(BTreeSet<IpAddr>),
    /// One of them is a name, and a policy knows addresses only: what the name leads to is decided by the edge, and may
    /// change at any time.
    Any,
}

impl HostsByPort {
    /// A host, as an address or a name.
    fn admit(&mut self, host: &str, port: u16) {
        let hosts = self.0.entry(port).or_insert_with(|| Hosts::Addresses(BTreeSet::new()));
        match (host.parse(), hosts) {
            (Ok(address), Hosts::Addresses(known)) => {
                known.insert(address);
            }
            (Ok(_), Hosts::Any) => {}
            (Err(_), hosts) => *hosts = Hosts::Any,
        }
    }

    fn rules(self) -> impl Iterator<Item = Egress> {
        self.0.into_iter().map(|(number, hosts)| Egress {
            ports: Some(vec![port("TCP", number)]),
            to: match hosts {
                Hosts::Addresses(addresses) => Some(addresses.into_iter().map(host).collect()),
                Hosts::Any => None,
            },
        })
    }
}

fn host(address: IpAddr) -> NetworkPolicyPeer {
    network(&format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }), &[])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::controller::testing::{entry, spec_with, validated};
    use rstest::rstest;
    use serde_json::{Value, json};

    /// Rules for single ports: the port, and to which networks; `*` is every address. Routers have `entry address`.
    fn to_hosts(path: &str, value: Value, routers: &[&str]) -> Vec<String> {
        let valid = validated(&spec_with(path, value)).unwrap();
        let mut links = RouterAddresses::new();
        for router in routers {
            let (entry, address) = router.split_once(' ').unwrap();
            let nodes = links.entry(entry.to_owned()).or_default();
            nodes.push((format!("node-{address}"), address.to_owned()));
        }
        let policy = json!(policy(&valid, &links));
        let rules = policy.pointer("/spec/egress").unwrap().as_array().unwrap();
        let mut shown = Vec::new();
        // DNS, the internet and other federations stand before them.
        for rule in rules.get(3..).unwrap() {
            let port = rule.pointer("/ports/0/port").unwrap();
            let to = rule.get("to").and_then(Value::as_array);
            let networks = to
                .into_iter()
                .flatten()
                .filter_map(|peer| peer.pointer("/ipBlock/cidr")?.as_str());
            let networks: Vec<&str> = networks.collect();
            let to = if to.is_none() {
                "*".to_owned()
            } else {
                networks.join(" ")
            };
            shown.push(format!("{port} {to}"));
        }
        shown
    }

    #[rstest]
    #[case::none("", Value::Null, &[], &[])]
    #[case::routers("", Value::Null, &["main 10.1.0.10", "main 10.1.0.11"], &["7400 10.1.0.10/32 10.1.0.11/32"])]
    #[case::a_router_by_name("", Value::Null, &["main 10.1.0.10", "main ecup10s.coluc.com"], &["7400 *"])]
    #[case::prepared("/activation", json!("Prepared"), &["main 10.1.0.10"], &[])]
    #[case::two_clusters(
        "/imp",
        json!([entry("first", "cups.example", &["coluc.com"]), entry("second", "cups2.example", &["conf.coluc.com"])]),
        &["first 10.1.0.10", "second 10.3.0.10"],
        &["7401 10.1.0.10/32 10.3.0.10/32"],
    )]
    #[case::routes_of_one_port(
        "/partners",
        json!([
            {"domain": "a.example", "route": [{"host": "10.2.0.1"}, {"host": "fd00::1"}]},
            {"domain": "b.example", "route": [{"host": "10.2.0.2"}, {"host": "10.2.0.1", "port": 5271}]},
        ]),
        &["main 10.1.0.10"],
        &["5269 10.2.0.1/32 10.2.0.2/32 fd00::1/128", "5271 10.2.0.1/32", "7400 10.1.0.10/32"],
    )]
    #[case::a_route_by_name(
        "/partners",
        json!([{"domain": "a.example", "route": [{"host": "xmpp.inside.lab"}, {"host": "10.2.0.1"}]}]),
        &[],
        &["5269 *"],
    )]
    fn single_hosts_have_one_rule_for_each_port(
        #[case] path: &str,
        #[case] value: Value,
        #[case] routers: &[&str],
        #[case] expected: &[&str],
    ) {
        assert_eq!(to_hosts(path, value, routers), expected);
    }

    #[test]
    fn networks_of_the_cluster_are_not_the_internet() {
        let mut valid = validated(&spec_with("", Value::Null)).unwrap();
        valid.deny = ["203.0.113.0/24", "2001:db8:1::/48"]
            .map(|net| net.parse().unwrap())
            .to_vec();
        let policy = json!(policy(&valid, &RouterAddresses::new()));
        let except = |peer: usize| {
            let except = policy.pointer(&format!("/spec/egress/1/to/{peer}/ipBlock/except"));
            except.unwrap().as_array().unwrap().last().unwrap().clone()
        };
        assert_eq!([except(0), except(1)], ["203.0.113.0/24", "2001:db8:1::/48"]);
    }
}
