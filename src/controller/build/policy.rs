//! Who may talk to the edge pods, and with whom they may talk.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::RouterAddresses;
use super::config::DIRECT_TLS_PORT;
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

/// The policy.
pub fn policy(valid: &ValidSpec, links: &RouterAddresses) -> Value {
    let mut egress = vec![
        // Name resolution; resolvers are often inside.
        json!({"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}),
        // An SRV record may name any port.
        json!({
            "to": [
                {"ipBlock": {"cidr": "0.0.0.0/0", "except": NOT_PUBLIC_V4}},
                {"ipBlock": {"cidr": "::/0", "except": NOT_PUBLIC_V6}},
            ],
        }),
    ];
    if !valid.allow_private.is_empty() {
        let blocks: Vec<Value> = valid
            .allow_private
            .iter()
            .map(|network| json!({"ipBlock": {"cidr": network.to_string()}}))
            .collect();
        egress.push(json!({"to": blocks}));
    }
    for imp in valid.imp.iter().filter(|_| valid.active) {
        let nodes = links.get(&imp.spec.name).into_iter().flatten();
        let routers: Vec<Value> = nodes.filter_map(|(_, address)| host_block(address)).collect();
        if !routers.is_empty() {
            egress.push(json!({
                "to": routers,
                "ports": [{"protocol": "TCP", "port": imp.router_port}],
            }));
        }
    }
    for route in &valid.static_routes {
        for address in &route.addresses {
            if let Some(block) = host_block(&address.host) {
                egress.push(json!({
                    "to": [block],
                    "ports": [{"protocol": "TCP", "port": address.port}],
                }));
            }
        }
    }
    let mut internet = vec![json!({"protocol": "TCP", "port": 5269})];
    if valid.direct_tls {
        internet.push(json!({"protocol": "TCP", "port": DIRECT_TLS_PORT}));
    }
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": valid.owner.metadata(&valid.owner.edge()),
        "spec": {
            "podSelector": {"matchLabels": valid.owner.pod_labels()},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                // The internet.
                {"ports": internet},
                // The operator and whoever collects metrics; the kubelet's probes always pass.
                {
                    "from": [{"namespaceSelector": {}}],
                    "ports": [{"protocol": "TCP", "port": ADMIN_PORT}],
                },
            ],
            "egress": egress,
        },
    })
}

fn host_block(address: &str) -> Option<Value> {
    let cidr = match address.parse::<IpAddr>().ok()? {
        IpAddr::V4(ip) => format!("{ip}/32"),
        IpAddr::V6(ip) => format!("{ip}/128"),
    };
    Some(json!({"ipBlock": {"cidr": cidr}}))
}
