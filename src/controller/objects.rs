//! Objects that a resource owns, or that stand where one of its own should, as the snapshots keep them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::DynamicObject;
use kube::{Resource as _, ResourceExt};
use parking_lot::Mutex;
use serde_json::Value;
use xmpp_federation_core::SecretBytes;
use xmpp_federation_core::edge_config::HostPort;

use super::fields::{self, ForeignField, OwnFields};
use super::kube::Kind;
use super::names::{EDGE_CONFIG, Owner};
use super::record::{TEMPLATE, TemplateInForce};
use crate::api::{INSTANCE_LABEL, MANAGED_BY, RESOURCE, XmppFederation};
use crate::records::ServiceAddresses;

/// One object.
pub struct ExistingObject {
    pub uid: String,
    pub owners: Box<[ObjectOwner]>,
    /// It has the operator's label.
    pub labelled: bool,
    /// The resource that its label names.
    pub instance: Option<Box<str>>,
    /// The resource that its annotation names.
    resource: Option<Box<str>>,
    pub deleting: bool,
    /// SHA-256 of all that people and operators write: not of the status.
    pub digest: [u8; 32],
    /// What is read of it.
    pub content: Content,
    /// The digest of the hash of what was applied to it last; `None`: nothing was.
    applied: Option<[u8; 32]>,
    /// What is left of that, until it was compared with what is wanted.
    own: Mutex<Option<OwnFields>>,
    /// Fields that others have set.
    foreign: Vec<ForeignField>,
}

/// Fields of others that are told of one object.
const TOLD: usize = 20;

/// Annotation with the hash of what was sent, so that a field that is not wanted any more is noticed.
pub const APPLIED: &str = "xmppfederation.io/applied";

/// Who owns an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectOwner {
    pub kind: Cow<'static, str>,
    pub name: Box<str>,
    pub uid: Box<str>,
}

impl ObjectOwner {
    /// Whether it is, or was, the resource of that name.
    pub fn is_resource(&self, name: &str) -> bool {
        self.kind == XmppFederation::kind(&()) && *self.name == *name
    }
}

/// What an object at a name of ours is to a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its own: by UID, or nobody's with the operator's marks, as one that was kept or restored.
    Own,
    /// Of a former resource of its name. Kubernetes' garbage collector takes such an object.
    Former,
    /// Nobody's, and nothing shows that the operator made it.
    Unmarked,
    /// Of this owner.
    Foreign(String),
}

/// Nearly all owners are of this kind.
fn kind_of(owner: &OwnerReference) -> Cow<'static, str> {
    let usual = XmppFederation::kind(&());
    if owner.kind == usual {
        usual
    } else {
        Cow::Owned(owner.kind.clone())
    }
}

/// Node names and addresses of one cluster, publisher first.
pub type NodeAddresses = Vec<(String, String)>;

/// What is read of an object, by its kind.
#[derive(Debug, Clone)]
pub enum Content {
    /// Keys and decoded values.
    Secret(Box<[(String, SecretBytes)]>),
    /// The routers in the edge's configuration: entry, then nodes with their addresses.
    ConfigMap(Box<[(String, NodeAddresses)]>),
    /// Where the Service says that it is reached.
    Service(ServiceAddresses),
    StatefulSet(Box<Rollout>),
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
    /// All pods have been ready for as long as they have to be.
    pub available: bool,
    pub template: TemplateInForce,
}

impl Rollout {
    /// Whether no pod of an earlier template is left.
    pub fn is_over(&self) -> bool {
        self.seen && !self.behind
    }
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
            kind: kind_of(owner),
            name: owner.name.as_str().into(),
            uid: owner.uid.as_str().into(),
        });
        let (owners, uid) = (owners.collect(), object.uid().unwrap_or_default());
        let labelled = object.labels().get(MANAGED_BY.0).is_some_and(|v| v == MANAGED_BY.1);
        let instance = object.labels().get(INSTANCE_LABEL).map(|name| name.as_str().into());
        let resource = object.annotations().get(RESOURCE).map(|name| name.as_str().into());
        let deleting = object.metadata.deletion_timestamp.is_some();
        let applied = object.annotations().get(APPLIED).map(|hash| digest(hash));
        let (own, foreign) = (
            applied.is_some().then(|| OwnFields::of(&object)),
            fields::foreign(&object),
        );
        let metadata = &mut object.metadata;
        (metadata.managed_fields, metadata.resource_version, metadata.generation) = (None, None, None);
        if let Some(data) = object.data.as_object_mut() {
            data.remove("status");
        }
        let digest = digest(&serde_json::to_string(&object).unwrap_or_default());
        let compared = before.is_some_and(|before| before.digest == digest && before.own.lock().is_none());
        Self {
            uid,
            owners,
            labelled,
            instance,
            resource,
            deleting,
            digest,
            content,
            applied,
            foreign,
            own: Mutex::new(own.filter(|_| !compared)),
        }
    }

    /// What it is to that resource.
    pub fn standing(&self, owner: &Owner) -> Standing {
        if self.is_owned_by(owner) {
            Standing::Own
        } else if let Some(other) = self.owners.iter().find(|of| !of.is_resource(&owner.name)) {
            Standing::Foreign(format!("{} {}", other.kind, other.name))
        } else if !self.owners.is_empty() {
            Standing::Former
        } else if self.is_marked(owner) {
            Standing::Own
        } else {
            Standing::Unmarked
        }
    }

    /// Whether Kubernetes knows that resource as its owner.
    pub fn is_owned_by(&self, owner: &Owner) -> bool {
        self.owners.iter().any(|of| *of.uid == *owner.uid)
    }

    /// The same, and it is not being deleted.
    pub fn is_kept_by(&self, owner: &Owner) -> bool {
        self.is_owned_by(owner) && !self.deleting
    }

    /// Whether its labels or its annotation say that the operator made it for the resource of that name.
    pub fn is_marked(&self, owner: &Owner) -> bool {
        let names = |name: &Option<Box<str>>| name.as_deref() == Some(&owner.name);
        names(&self.resource) || (self.labelled && names(&self.instance))
    }

    /// How far it is, if it is the pods' controller.
    pub fn rollout(&self) -> Option<&Rollout> {
        match &self.content {
            Content::StatefulSet(rollout) => Some(rollout),
            _ => None,
        }
    }

    /// Whether it has all of `wanted`, which has that hash: nobody has changed or removed a field of it since it was
    /// applied.
    pub fn has(&self, wanted: &Value, hash: &str) -> bool {
        // An empty list is of nobody, so what others put into it takes nothing away.
        if !self.was_applied(hash) || self.taken(wanted).is_some() {
            return false;
        }
        let mut own = self.own.lock();
        if own.as_ref().is_some_and(|own| !own.cover(wanted)) {
            return false;
        }
        *own = None;
        true
    }

    /// Fields that others have added, as many as are told.
    pub fn added<'a>(&'a self, wanted: &Value) -> impl Iterator<Item = &'a ForeignField> {
        let added = self.foreign.iter().filter(|field| !field.is_in(wanted));
        added.take(TOLD)
    }

    /// A field that is wanted and that somebody else has taken.
    pub fn taken<'a>(&'a self, wanted: &Value) -> Option<&'a ForeignField> {
        self.foreign.iter().find(|field| field.is_in(wanted))
    }

    /// Whether what has that hash was applied to it last.
    pub fn was_applied(&self, hash: &str) -> bool {
        self.applied == Some(digest(hash))
    }

    /// A key of a Secret, decoded.
    pub fn secret(&self, key: &str) -> Option<&SecretBytes> {
        let Content::Secret(data) = &self.content else {
            return None;
        };
        data.iter().find(|(of, _)| of == key).map(|(_, bytes)| bytes)
    }

    /// A certificate and its key, both PEM text.
    pub fn key_pair(&self) -> Option<(String, SecretBytes)> {
        let text = |key: &str| String::from_utf8(self.secret(key)?.expose().to_vec()).ok();
        text("tls.key")?;
        Some((text("tls.crt")?, self.secret("tls.key")?.clone()))
    }
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
        Kind::Service => Content::Service(service_addresses(object)),
        Kind::StatefulSet => Content::StatefulSet(Box::new(rollout(object))),
        Kind::ServiceAccount | Kind::PodDisruptionBudget | Kind::NetworkPolicy => Content::Other,
    }
}

/// Sorted: their order says nothing, and some load balancers change it.
fn service_addresses(object: &DynamicObject) -> ServiceAddresses {
    let list = |pointer: &str| object.data.pointer(pointer).and_then(Value::as_array);
    let ingress = || list("/status/loadBalancer/ingress").into_iter().flatten();
    let field = |name: &'static str| ingress().filter_map(move |ingress| ingress.get(name)?.as_str());
    let addresses: BTreeSet<IpAddr> = field("ip").filter_map(|ip| ip.parse().ok()).collect();
    let name = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
    let names: BTreeSet<String> = field("hostname").map(name).filter(|name| !name.is_empty()).collect();
    let port = |port: &Value, field: &str| u16::try_from(port.get(field)?.as_u64()?).ok();
    let ports = list("/spec/ports").into_iter().flatten();
    ServiceAddresses {
        addresses: addresses.into_iter().collect(),
        names: names.into_iter().collect(),
        node_ports: ports
            .filter_map(|of| Some((port(of, "port")?, port(of, "nodePort")?)))
            .collect(),
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
        available: number("/status/availableReplicas").unwrap_or(0) >= replicas.unwrap_or(0),
        template: TemplateInForce::new(
            object.annotations().get(TEMPLATE).map(String::as_str),
            object.data.pointer("/spec/template"),
        ),
    }
}

/// The routers of a configuration of any release: only what this one understands of it, as it may have been
/// written by a later or an earlier one. A router of whose endpoints nothing is understood is left out.
fn routers_written(text: &str) -> Box<[(String, NodeAddresses)]> {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::api::OBJECTS_MANAGER;
    use rstest::rstest;
    use serde_json::json;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    /// `kept`: whether the operator still manages an annotation that it wants.
    fn service(kept: bool, ip: &str, version: &str) -> DynamicObject {
        let (mut annotations, mut fields) = (json!({APPLIED: "hash"}), json!({format!("f:{APPLIED}"): {}}));
        if kept {
            (annotations["a"], fields["f:a"]) = (json!("1"), json!({}));
        }
        object(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "coluc-edge", "uid": "u", "resourceVersion": version, "annotations": annotations,
                "managedFields": [{"manager": OBJECTS_MANAGER, "operation": "Apply",
                    "fieldsV1": {"f:metadata": {"f:annotations": fields}}}]},
            "spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": ip}]}}}))
    }

    #[test]
    fn an_object_is_compared_once_and_again_when_somebody_removed_something() {
        let wanted = json!({"metadata": {"annotations": {"a": "1", APPLIED: "hash"}}});
        let first = ExistingObject::new(Kind::Service, service(true, "192.0.2.1", "1"), None);
        assert!(first.has(&wanted, "hash"));
        assert!(first.own.lock().is_none(), "nothing is kept");
        assert!(first.has(&wanted, "hash"));
        assert!(!first.has(&wanted, "of something else"));
        // A status is no change of what is compared, and is read.
        let second = ExistingObject::new(Kind::Service, service(true, "192.0.2.2", "2"), Some(&first));
        assert!(second.own.lock().is_none(), "not compared again");
        assert!(second.has(&wanted, "hash"));
        assert!(second != first);
        let third = ExistingObject::new(Kind::Service, service(false, "192.0.2.2", "3"), Some(&second));
        assert!(!third.has(&wanted, "hash"));
        let fourth = ExistingObject::new(Kind::Service, service(false, "192.0.2.3", "4"), Some(&third));
        assert!(!fourth.has(&wanted, "hash"));
    }

    #[rstest]
    #[case::nobody_else(json!([]), true, &[])]
    #[case::a_status(json!([["status", {"f:spec": {"f:replicas": {}}}]]), true, &[])]
    #[case::scaled_by_hand(json!([["scale", {"f:spec": {"f:replicas": {}}}]]), false, &[])]
    #[case::an_empty_list(json!([["", {"f:spec": {"f:externalIPs": {}}}]]), false, &[])]
    #[case::added(json!([["", {"f:spec": {"f:ordinals": {}}}]]), true, &["spec.ordinals by kubectl"])]
    fn what_others_wrote_is_taken_back_where_it_is_ours_and_named_elsewhere(
        #[case] others: Value,
        #[case] same: bool,
        #[case] added: &[&str],
    ) {
        let wanted = json!({"spec": {"replicas": 2, "externalIPs": []}});
        // Who scales gets the field.
        let scaled = others.to_string().contains("scale");
        let ours = if scaled { "f:x" } else { "f:replicas" };
        let mut managed =
            vec![json!({"manager": OBJECTS_MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {ours: {}}}})];
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

    #[test]
    fn a_field_that_is_taken_is_found_behind_many_that_are_added() {
        let mut theirs: serde_json::Map<String, Value> =
            (0..30).map(|n| (format!("f:added{n:02}"), json!({}))).collect();
        theirs.insert("f:externalIPs".to_owned(), json!({}));
        let managed = json!([
            {"manager": OBJECTS_MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {"f:type": {}}}},
            {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": theirs}}]);
        let service = object(
            json!({"apiVersion": "v1", "kind": "Service", "spec": {"type": "ClusterIP"},
            "metadata": {"name": "coluc-edge", "annotations": {APPLIED: "hash"}, "managedFields": managed}}),
        );
        let found = ExistingObject::new(Kind::Service, service, None);
        let wanted = json!({"spec": {"type": "ClusterIP", "externalIPs": []}});
        assert!(!found.has(&wanted, "hash"));
        assert_eq!(found.added(&wanted).count(), TOLD);
    }

    #[rstest]
    #[case::none(json!(null), "", "")]
    #[case::an_address(json!([{"ip": "203.0.113.10", "ipMode": "VIP", "ports": [{"port": 5269, "protocol": "TCP"}]}]), "203.0.113.10", "")]
    #[case::a_name(json!([{"hostname": "Edge-1.elb.example."}]), "", "edge-1.elb.example")]
    #[case::both(json!([{"ip": "203.0.113.10", "hostname": "edge-1.elb.example"}]), "203.0.113.10", "edge-1.elb.example")]
    #[case::several_nodes(json!([{"ip": "203.0.113.12"}, {"ip": "203.0.113.10"}]), "203.0.113.10 203.0.113.12", "")]
    #[case::one_of_each(json!([{"hostname": "b.example"}, {"ip": "2001:db8::1"}, {"hostname": "a.example"}, {"ip": ""}]), "2001:db8::1", "a.example b.example")]
    fn what_a_service_shows_is_read_in_one_order(#[case] ingress: Value, #[case] ips: &str, #[case] names: &str) {
        let shown = |mut entries: Value| {
            if let Some(entries) = entries.as_array_mut() {
                entries.reverse();
            }
            let service = object(
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "coluc-edge"},
                "spec": {"ports": [{"port": 5269, "nodePort": 31269}, {"port": 5270}]},
                "status": {"loadBalancer": {"ingress": entries}}}),
            );
            ExistingObject::new(Kind::Service, service, None)
        };
        let found = shown(ingress.clone());
        let Content::Service(addresses) = &found.content else {
            unreachable!("a Service")
        };
        let texts: Vec<String> = addresses.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(
            (texts.join(" "), addresses.names.join(" ")),
            (ips.to_owned(), names.to_owned())
        );
        assert_eq!(addresses.node_ports, [(5269, 31269)]);
        let mut again = ingress;
        if let Some(entries) = again.as_array_mut() {
            entries.reverse();
        }
        assert!(shown(again) == found, "another order is no news");
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
        assert_eq!(
            *routers,
            [("main".to_owned(), vec![("cups".to_owned(), address.to_owned())])]
        );
    }

    #[rstest]
    #[case::none("routers:\n- {name: main, endpoints: []}\n", true)]
    #[case::without_endpoints("routers:\n- {name: main}\n", false)]
    #[case::of_another_shape("routers:\n- {name: main, endpoints: [{name: cups, target: a}]}\n", false)]
    fn endpoints_that_are_not_understood_are_not_none(#[case] text: &str, #[case] told: bool) {
        assert_eq!(routers_written(text).iter().any(|(name, _)| name == "main"), told);
    }
}
