//! Objects that a resource owns, or that stand where one of its own should, as the snapshots keep them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::ResourceExt;
use kube::api::DynamicObject;
use parking_lot::Mutex;
use serde_json::{Value, json};
use xmpp_federation_core::SecretBytes;
use xmpp_federation_core::edge_config::HostPort;

use super::fields::{self, ForeignField};
use super::kube::Kind;
use super::names::EDGE_CONFIG;
use crate::api::{INSTANCE_LABEL, MANAGED_BY, OBJECTS_MANAGER};

/// One object.
pub struct ExistingObject {
    pub uid: String,
    pub owners: Vec<ObjectOwner>,
    /// It has the operator's label.
    pub labelled: bool,
    /// The resource that its label names.
    pub instance: Option<String>,
    pub deleting: bool,
    /// SHA-256 of all that people and operators write: not of the status.
    pub digest: [u8; 32],
    /// What is read of it.
    pub content: Content,
    /// The hash of what was applied to it last; `None`: nothing was.
    applied: Option<String>,
    /// Where somebody else has written a field of it since: the whole, until it was compared with what is wanted.
    unread: Mutex<Option<Box<str>>>,
    /// Nobody else has written a field of it.
    pub only_ours: bool,
    /// Fields that others have set.
    foreign: Vec<ForeignField>,
}

/// Annotation with the hash of what was sent, so that a removed field is noticed.
pub const APPLIED: &str = "xmppfederation.io/applied";

/// Who owns an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectOwner {
    pub kind: String,
    pub name: String,
    pub uid: String,
}

/// What is read of an object, by its kind.
#[derive(Debug, Clone)]
pub enum Content {
    /// Keys and decoded values.
    Secret(Box<[(String, SecretBytes)]>),
    /// The routers in the edge's configuration: entry, then nodes with their addresses.
    ConfigMap(BTreeMap<String, Vec<(String, String)>>),
    /// The addresses that the Service shows.
    Service(Vec<IpAddr>),
    StatefulSet(Rollout),
    Other,
}

/// How far the pods' controller is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rollout {
    pub replicas: Option<u16>,
    /// Its status is of this version of the spec.
    pub seen: bool,
    /// Pods of an earlier template run.
    pub behind: bool,
}

impl fmt::Debug for ExistingObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExistingObject")
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}

impl PartialEq for ExistingObject {
    /// Whether the same is read of both.
    fn eq(&self, other: &Self) -> bool {
        self.uid == other.uid
            && self.deleting == other.deleting
            && self.digest == other.digest
            // Of other kinds nothing is read that the digest does not cover.
            && match (&self.content, &other.content) {
                (Content::Service(a), Content::Service(b)) => a == b,
                (Content::StatefulSet(a), Content::StatefulSet(b)) => a == b,
                _ => true,
            }
    }
}

impl ExistingObject {
    /// Takes an object apart; `before`: as it was known.
    pub fn new(kind: Kind, mut object: DynamicObject, before: Option<&Self>) -> Self {
        let content = content_of(kind, &object);
        let owners = object.owner_references().iter().map(|owner| ObjectOwner {
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        });
        let (owners, uid) = (owners.collect(), object.uid().unwrap_or_default());
        let labelled = object.labels().get(MANAGED_BY.0).is_some_and(|v| v == MANAGED_BY.1);
        let instance = object.labels().get(INSTANCE_LABEL).cloned();
        let deleting = object.metadata.deletion_timestamp.is_some();
        let (applied, only_ours) = (object.annotations().get(APPLIED).cloned(), only_ours(&object));
        let foreign = if only_ours {
            Vec::new()
        } else {
            fields::foreign(&object)
        };
        let metadata = &mut object.metadata;
        (metadata.managed_fields, metadata.resource_version, metadata.generation) = (None, None, None);
        if let Some(data) = object.data.as_object_mut() {
            data.remove("status");
        }
        let text = serde_json::to_string(&object).unwrap_or_default();
        let digest = digest(&text);
        let compared = applied.is_none()
            || only_ours
            || before.is_some_and(|before| before.digest == digest && before.unread.lock().is_none());
        Self {
            uid,
            owners,
            labelled,
            instance,
            deleting,
            digest,
            content,
            applied,
            only_ours,
            foreign,
            unread: Mutex::new((!compared).then(|| text.into_boxed_str())),
        }
    }

    /// Whether it has all of `wanted`, which has that hash; `None`: not to be told any more, as it was
    /// compared before and has not changed since.
    pub fn has(&self, wanted: &Value, hash: &str) -> Option<bool> {
        let Some(applied) = &self.applied else {
            return Some(false);
        };
        if self.only_ours {
            return Some(applied == hash);
        }
        // Somebody else has taken a field over: a comparison does not see what was added inside of it.
        if self.foreign.iter().any(|field| field.is_in(wanted)) {
            return Some(false);
        }
        let mut unread = self.unread.lock();
        let live: Value = serde_json::from_str(unread.as_deref()?).unwrap_or_default();
        let same = is_subset(wanted, &live);
        if same {
            *unread = None;
        }
        Some(same)
    }

    /// Fields that others have added.
    pub fn added<'a>(&'a self, wanted: &Value) -> impl Iterator<Item = &'a ForeignField> {
        self.foreign.iter().filter(|field| !field.is_in(wanted))
    }

    /// An object as it was answered to a write of ours, which has all that is wanted.
    pub fn written(kind: Kind, object: DynamicObject) -> Self {
        let written = Self::new(kind, object, None);
        *written.unread.lock() = None;
        written
    }

    /// A key of a Secret, decoded.
    pub fn secret(&self, key: &str) -> Option<&SecretBytes> {
        let Content::Secret(data) = &self.content else {
            return None;
        };
        data.iter().find(|(of, _)| of == key).map(|(_, bytes)| bytes)
    }
}

/// Whether every field that somebody manages is the operator's, but for those of a status.
fn only_ours(object: &DynamicObject) -> bool {
    let mut entries = object
        .managed_fields()
        .iter()
        .filter(|entry| entry.subresource.as_deref() != Some("status"))
        .peekable();
    entries.peek().is_some()
        && entries.all(|entry| {
            entry.manager.as_deref() == Some(OBJECTS_MANAGER) && entry.operation.as_deref() == Some("Apply")
        })
}

fn digest(text: &str) -> [u8; 32] {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(text.as_bytes()).into()
}

fn content_of(kind: Kind, object: &DynamicObject) -> Content {
    match kind {
        Kind::Secret => Content::Secret(secret_data(object).collect()),
        Kind::ConfigMap => {
            let text = object.data.pointer("/data").and_then(|data| data.get(EDGE_CONFIG));
            Content::ConfigMap(text.and_then(Value::as_str).map(routers_written).unwrap_or_default())
        }
        Kind::Service => {
            let ingress = object
                .data
                .pointer("/status/loadBalancer/ingress")
                .and_then(Value::as_array);
            let addresses = ingress.into_iter().flatten();
            Content::Service(
                addresses
                    .filter_map(|ingress| ingress.get("ip")?.as_str()?.parse().ok())
                    .collect(),
            )
        }
        Kind::StatefulSet => Content::StatefulSet(rollout(object)),
        Kind::ServiceAccount | Kind::PodDisruptionBudget | Kind::NetworkPolicy => Content::Other,
    }
}

/// The decoded data of a Secret.
pub fn secret_data(object: &DynamicObject) -> impl Iterator<Item = (String, SecretBytes)> {
    let data = object.data.get("data").and_then(Value::as_object);
    data.into_iter().flatten().filter_map(|(key, value)| {
        let bytes = STANDARD.decode(value.as_str()?).ok()?;
        Some((key.clone(), SecretBytes::new(bytes)))
    })
}

fn rollout(object: &DynamicObject) -> Rollout {
    let number = |pointer: &str| object.data.pointer(pointer).and_then(Value::as_i64);
    let text = |pointer: &str| object.data.pointer(pointer).and_then(Value::as_str);
    let replicas = number("/spec/replicas");
    let updated = number("/status/updatedReplicas").unwrap_or(0);
    Rollout {
        replicas: replicas.and_then(|n| u16::try_from(n).ok()),
        seen: object.metadata.generation <= number("/status/observedGeneration"),
        behind: text("/status/updateRevision") != text("/status/currentRevision") && updated < replicas.unwrap_or(0),
    }
}

/// The routers of a configuration of any release: only what this one understands of it, as it may have been
/// written by a later or an earlier one. A router of whose endpoints nothing is understood is left out.
fn routers_written(text: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let config: Value = serde_yaml::from_str(text).unwrap_or_default();
    let node = |endpoint: &Value| {
        let address: HostPort = serde_json::from_value(endpoint.get("address")?.clone()).ok()?;
        Some((endpoint.get("name")?.as_str()?.to_owned(), address.host))
    };
    let router = |router: &Value| {
        let endpoints = router.get("endpoints")?.as_array()?;
        let nodes: Vec<_> = endpoints.iter().filter_map(node).collect();
        let understood = endpoints.is_empty() || !nodes.is_empty();
        understood.then_some((router.get("name")?.as_str()?.to_owned(), nodes))
    };
    let routers = config.get("routers").and_then(Value::as_array);
    routers.into_iter().flatten().filter_map(router).collect()
}

/// Whether `live` contains all of `wanted`; lists must agree in length and order. What is empty or false
/// may be absent: the API server leaves it out.
fn is_subset(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => wanted.iter().all(|(key, value)| {
            let absent = || *value == json!(false) || *value == json!([]);
            live.get(key).map_or_else(absent, |found| is_subset(value, found))
        }),
        (Value::Array(wanted), Value::Array(live)) => {
            wanted.len() == live.len() && wanted.iter().zip(live).all(|(w, l)| is_subset(w, l))
        }
        (wanted, live) => wanted == live,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(json!({"a": 1}), json!({"a": 1, "b": 2}), true)]
    #[case(json!({"a": 1}), json!({"a": 2}), false)]
    #[case(json!({"a": [{"b": 1}]}), json!({"a": [{"b": 1, "default": 2}]}), true)]
    #[case(json!({"a": [1]}), json!({"a": [1, 2]}), false)]
    #[case(json!({"a": {}}), json!({}), false)]
    #[case(json!({"hostNetwork": false, "externalIPs": []}), json!({}), true)]
    #[case(json!({"hostNetwork": false}), json!({"hostNetwork": true}), false)]
    fn what_the_api_server_adds_is_no_difference(#[case] wanted: Value, #[case] live: Value, #[case] same: bool) {
        assert_eq!(is_subset(&wanted, &live), same);
    }

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    fn service(annotation: &str, ip: &str, version: &str) -> DynamicObject {
        object(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "coluc-edge", "uid": "u", "resourceVersion": version,
                "annotations": {"a": annotation, APPLIED: "hash"}},
            "spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": ip}]}}}))
    }

    #[test]
    fn an_object_is_compared_once_and_again_when_somebody_wrote() {
        let wanted = json!({"metadata": {"annotations": {"a": "1"}}});
        let first = ExistingObject::new(Kind::Service, service("1", "192.0.2.1", "1"), None);
        assert_eq!(first.has(&wanted, ""), Some(true));
        assert_eq!(first.has(&wanted, ""), None);
        // A status is no change of what is compared, and is read.
        let second = ExistingObject::new(Kind::Service, service("1", "192.0.2.2", "2"), Some(&first));
        assert_eq!(second.has(&wanted, ""), None);
        assert!(second != first);
        let third = ExistingObject::new(Kind::Service, service("2", "192.0.2.2", "3"), Some(&second));
        assert_eq!(third.has(&wanted, ""), Some(false));
        assert_eq!(third.has(&wanted, ""), Some(false));
    }

    #[rstest]
    #[case::nobody_else(json!([]), Some(true), &[])]
    #[case::a_status(json!([["status", {"f:spec": {"f:replicas": {}}}]]), Some(true), &[])]
    #[case::scaled_by_hand(json!([["scale", {"f:spec": {"f:replicas": {}}}]]), Some(false), &[])]
    #[case::added(json!([["", {"f:spec": {"f:ordinals": {}}}]]), Some(true), &["spec.ordinals by kubectl"])]
    fn what_others_wrote_is_taken_back_where_it_is_ours_and_named_elsewhere(
        #[case] others: Value,
        #[case] same: Option<bool>,
        #[case] added: &[&str],
    ) {
        let wanted = json!({"spec": {"replicas": 2}});
        let mut managed =
            vec![json!({"manager": OBJECTS_MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {"f:x": {}}}})];
        managed.extend(others.as_array().unwrap().iter().map(|other| {
            json!({"manager": "kubectl", "operation": "Update", "fieldsV1": other[1],
                "subresource": Some(&other[0]).filter(|name| **name != json!(""))})
        }));
        let set = object(
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {"replicas": 2},
            "metadata": {"name": "coluc-edge", "annotations": {APPLIED: "hash"}, "managedFields": managed}}),
        );
        let found = ExistingObject::new(Kind::StatefulSet, set, None);
        assert_eq!(found.has(&wanted, "hash"), same);
        let named: Vec<String> = found.added(&wanted).map(ToString::to_string).collect();
        assert_eq!(named, added);
    }

    #[rstest]
    #[case::of_this_release(
        "routers:\n- name: main\n  endpoints:\n  - {name: cups, address: '10.0.0.1:7400'}\n",
        "10.0.0.1"
    )]
    #[case::of_a_later_one(
        "writtenBy: 9.0.0\nrouters:\n- name: main\n  news: [1]\n  endpoints:\n  - {name: cups, address: '10.0.0.1:7400', weight: 3}\n",
        "10.0.0.1"
    )]
    fn addresses_are_read_from_the_configuration_of_any_release(#[case] text: &str, #[case] address: &str) {
        let routers = routers_written(text);
        assert_eq!(routers.get("main").unwrap(), &[("cups".to_owned(), address.to_owned())]);
    }

    #[rstest]
    #[case::none("routers:\n- {name: main, endpoints: []}\n", true)]
    #[case::without_endpoints("routers:\n- {name: main}\n", false)]
    #[case::of_another_shape("routers:\n- {name: main, endpoints: [{name: cups, target: a}]}\n", false)]
    fn endpoints_that_are_not_understood_are_not_none(#[case] text: &str, #[case] told: bool) {
        assert_eq!(routers_written(text).contains_key("main"), told);
    }
}
