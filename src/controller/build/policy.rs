//! The hosts that may connect to the edge pods, and those to which the pods may connect.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule as Egress, NetworkPolicyIngressRule as Ingress, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::RouterAddresses;
use super::config::DIRECT_TLS_PORT;
use crate::api::passed::Passed;
use crate::controller::names::ADMIN_PORT;
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

/// Label that Kubernetes gives every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

pub fn policy(valid: &ValidSpec, links: &RouterAddresses) -> NetworkPolicy {
    let mut egress = vec![
        // Name resolution; resolvers are often inside.
        Egress {
            ports: Some(vec![port("UDP", 53), port("TCP", 53)]),
            to: None,
        },
        // An SRV record may name any port.
        Egress {
            ports: None,
            to: Some(vec![
                network("0.0.0.0/0", &NOT_PUBLIC_V4),
                network("::/0", &NOT_PUBLIC_V6),
            ]),
        },
    ];
    if !valid.allow_private.is_empty() {
        let networks = valid.allow_private.iter();
        egress.push(Egress {
            ports: None,
            to: Some(networks.map(|cidr| network(&cidr.to_string(), &[])).collect()),
        });
    }
    let to_hosts = |hosts: Vec<NetworkPolicyPeer>, number| Egress {
        ports: Some(vec![port("TCP", number)]),
        to: Some(hosts),
    };
    for imp in valid.imp.iter().filter(|_| valid.active) {
        let nodes = links.get(&imp.spec.name).into_iter().flatten();
        let routers: Vec<NetworkPolicyPeer> = nodes.filter_map(|(_, address)| host(address)).collect();
        if !routers.is_empty() {
            egress.push(to_hosts(routers, imp.router.port));
        }
    }
    for target in valid.partners.iter().flat_map(|partner| &partner.route) {
        egress.extend(host(&target.host).map(|host| to_hosts(vec![host], target.port)));
    }
    let mut internet = vec![port("TCP", 5269)];
    if valid.direct_tls {
        internet.push(port("TCP", DIRECT_TLS_PORT));
    }
    let operator = BTreeMap::from([(NAMESPACE_NAME.to_owned(), valid.operator_namespace.clone())]);
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_labels: Some(operator),
            ..LabelSelector::default()
        }),
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

/// One address; a name is resolved by the pods alone.
fn host(address: &str) -> Option<NetworkPolicyPeer> {
    let cidr = match address.parse::<IpAddr>().ok()? {
        IpAddr::V4(ip) => format!("{ip}/32"),
        IpAddr::V6(ip) => format!("{ip}/128"),
    };
    Some(network(&cidr, &[]))
}
