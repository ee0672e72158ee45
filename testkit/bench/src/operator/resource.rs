//! The resources of the bench: Prepared, an authority of their own, a publisher whose name nobody resolves.

use kube::core::ApiResource;
use serde_json::{Value, json};
use testkit_lab::network::DNS_LAN;

use super::stage;

/// The one whose writes are recorded; as long as all [`names`].
pub const FIRST: &str = "r-0000000";

/// The kind.
pub fn kind() -> ApiResource {
    stage::kind("xmppfederation.io", "v1alpha1", "XmppFederation")
}

/// Names by number.
pub fn names(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("r-{number:07}")).collect()
}

/// A resource.
pub fn resource(name: &str) -> Value {
    json!({
        "apiVersion": "xmppfederation.io/v1alpha1", "kind": "XmppFederation", "metadata": {"name": name},
        "spec": {
            "activation": "Prepared",
            "domains": [format!("{name}.example")],
            "chatNodeAliases": [format!("conference.{name}.example")],
            "edge": {"hostname": format!("xmpp.{name}.example"), "replicas": 1, "slots": 1},
            "privacy": {"mode": "AllowList", "domains": ["partner.example"]},
            "dns": {"resolvers": [DNS_LAN.to_string()]},
            "imp": [{
                "name": "main", "publisher": format!("imp.{name}.example"),
                "credentialsSecretRef": {"name": "axl"},
                "tls": {"caSecretRef": {"name": "imp-ca", "key": "ca.crt"}},
                "router": {"secretRef": {"name": "router", "key": "secret"}},
                "restart": {"mode": "Manual"},
            }],
        },
    })
}

/// Resources by number.
pub fn resources(numbers: std::ops::Range<usize>) -> Vec<Value> {
    names(numbers).iter().map(|name| resource(name)).collect()
}
