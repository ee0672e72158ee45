//! What the tests of the pure steps start from.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::build;
use super::names::Owner;
use super::validate::{self, PodUsers, Refusal, Settings, ValidSpec};
use crate::api::slots::Slots;
use crate::api::spec::XmppFederationSpec;

/// The owner of all objects in tests.
pub fn owner() -> Owner {
    Owner {
        name: "coluc".to_owned(),
        namespace: "federation".to_owned(),
        uid: "uid-1".to_owned(),
    }
}

/// The operator's settings in tests.
pub fn settings() -> Settings {
    Settings {
        edge_image: "edge:1".to_owned(),
        edge_pull_secrets: Vec::new(),
        namespace: "xmpp-federation-system".to_owned(),
        labelled_secrets: false,
        cluster_networks: vec!["10.96.0.0/16".parse().unwrap()],
        pod_users: PodUsers::Fixed,
        upgrades_at_once: 1,
        upgrade_timeout: "10m".parse().unwrap(),
    }
}

/// The guide's resource.
pub fn spec() -> Value {
    json!({
        "domains": ["coluc.com"],
        "chatNodeAliases": ["conf.coluc.com"],
        "edge": {"hostname": "eft-xwye-a.coluc.com", "slots": 2},
        "privacy": {"domains": ["vngtp.lab"]},
        "imp": [{
            "name": "main",
            "publisher": "cups.ciscotac.net",
            "credentialsSecretRef": {"name": "cups-axl"},
            "tls": {"caSecretRef": {"name": "cups-ca", "key": "ca.crt"}},
            "router": {"secretRef": {"name": "cups-router", "key": "secret"}},
            "restart": {"mode": "Automatic"},
        }],
    })
}

/// The guide's resource with one field set; `path` is a JSON pointer whose parents exist.
pub fn spec_with(path: &str, value: Value) -> XmppFederationSpec {
    let mut spec = spec();
    if !path.is_empty() {
        let (parent, key) = path.rsplit_once('/').unwrap();
        let parent = if parent.is_empty() {
            &mut spec
        } else {
            spec.pointer_mut(parent).unwrap()
        };
        parent.as_object_mut().unwrap().insert(key.to_owned(), value);
    }
    serde_json::from_value(spec).unwrap()
}

/// A further entry of spec.imp, with Secrets of its own.
pub fn entry(name: &str, publisher: &str, domains: &[&str]) -> Value {
    json!({
        "name": name,
        "publisher": publisher,
        "domains": domains,
        "credentialsSecretRef": {"name": format!("{name}-axl")},
        "tls": {"insecureSkipVerify": true},
        "router": {"port": 7401, "secretRef": {"name": format!("{name}-router"), "key": "secret"}},
        "restart": {"mode": "Automatic"},
    })
}

/// The guide's resource with these entries of spec.imp behind its own, which serves those domains.
pub fn with_entries(own: &[&str], others: &[Value]) -> XmppFederationSpec {
    let mut spec = spec();
    let entries = spec.pointer_mut("/imp").unwrap().as_array_mut().unwrap();
    entries[0]["domains"] = json!(own);
    entries.extend(others.iter().cloned());
    serde_json::from_value(spec).unwrap()
}

/// Validates against nobody else's claims, and by the edge's rules.
pub fn validated(spec: &XmppFederationSpec) -> Result<ValidSpec, Refusal> {
    let valid = validate::run(owner(), spec, Slots::of(spec, None, None), &settings(), &[])?;
    build::accepted_by_the_edge(&build::edge_config(&valid, &build::RouterAddresses::new()))?;
    Ok(valid)
}
