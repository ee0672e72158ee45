//! Resources as they are stored: such as this release can read, and such as it cannot.

use jiff::Timestamp;
use kube::api::{DynamicObject, ObjectMeta};
use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::decompress_to_vec;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::validate::{Claim, claim};
use crate::api::status::XmppFederationStatus;
use crate::api::{Reason, XmppFederation, XmppFederationSpec};

/// An object of kind `XmppFederation`, as it is kept: most of it are sentences for people.
#[derive(Debug)]
pub struct StoredResource {
    /// JSON, deflated.
    text: Box<[u8]>,
    /// SHA-256 of what a reconcile reads.
    digest: [u8; 32],
    pub uid: Option<String>,
    pub created: Option<Timestamp>,
    /// The names it holds. Of an object that cannot be read: what can be understood of it.
    pub claim: Claim,
    /// It is stalled because another one has a name of it.
    pub waits_for_a_name: bool,
}

/// The object itself.
#[derive(Debug)]
pub enum StoredObject {
    Readable(Box<XmppFederation>),
    /// It does not fit the schema of this release, as one that a later release stored.
    Unreadable(Box<DynamicObject>),
}

impl StoredResource {
    /// Takes an object in.
    pub fn new(mut object: DynamicObject) -> Self {
        object.metadata.managed_fields = None;
        // Requests are ours; kubectl keeps a copy of the spec there.
        if let Some(annotations) = &mut object.metadata.annotations {
            annotations.retain(|name, _| name.starts_with("xmppfederation.io/"));
        }
        let text = serde_json::to_string(&object).unwrap_or_default();
        let object = StoredObject::of(text.as_bytes()).unwrap_or(StoredObject::Unreadable(Box::new(object)));
        let status = object.status();
        let metadata = object.metadata();
        Self {
            digest: digest(metadata, status.as_ref()),
            uid: metadata.uid.clone(),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            claim: object.claim(),
            waits_for_a_name: status.is_some_and(|status| waits_for_a_name(&status)),
            text: compress_to_vec(text.as_bytes(), 1).into_boxed_slice(),
        }
    }

    /// The object.
    pub fn object(&self) -> Option<StoredObject> {
        let text = decompress_to_vec(&self.text).ok()?;
        let unreadable = || serde_json::from_slice(&text).ok().map(StoredObject::Unreadable);
        StoredObject::of(&text).or_else(unreadable)
    }
}

/// Whether two say the same shows by this.
fn digest(metadata: &ObjectMeta, status: Option<&XmppFederationStatus>) -> [u8; 32] {
    let ObjectMeta {
        uid,
        generation,
        annotations,
        finalizers,
        deletion_timestamp,
        ..
    } = metadata;
    let read = json!([uid, generation, annotations, finalizers, deletion_timestamp, status]);
    Sha256::digest(read.to_string()).into()
}

fn waits_for_a_name(status: &XmppFederationStatus) -> bool {
    let mut stalled = status
        .conditions
        .iter()
        .filter(|condition| condition.type_ == "Stalled");
    stalled.any(|condition| condition.reason == Reason::UsedTwice.as_str())
}

impl StoredObject {
    /// `None`: it cannot be read.
    fn of(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok().map(Self::Readable)
    }

    fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Readable(resource) => &resource.metadata,
            Self::Unreadable(object) => &object.metadata,
        }
    }

    fn claim(&self) -> Claim {
        let metadata = self.metadata();
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        let resource = format!("{}/{}", name(&metadata.namespace), name(&metadata.name));
        match self {
            Self::Readable(object) => claim(resource, &object.spec, object.status.as_ref()),
            Self::Unreadable(object) => {
                let spec = object.data.get("spec").unwrap_or(&Value::Null);
                let names = |field: &str| {
                    let names = spec.get(field).and_then(Value::as_array).into_iter().flatten();
                    names.filter_map(Value::as_str).map(str::to_ascii_lowercase)
                };
                let domains = names("domains").chain(names("chatNodeAliases")).collect();
                let edge = |field: &str| spec.pointer(&format!("/edge/{field}"));
                let reduced = json!({"domains": [], "privacy": {}, "imp": [],
                    "edge": {"hostname": edge("hostname"), "slots": edge("slots")}});
                let reduced: Option<XmppFederationSpec> = serde_json::from_value(reduced).ok();
                let ids = reduced.map(|spec| claim(String::new(), &spec, self.status().as_ref()).component_ids);
                Claim {
                    resource,
                    domains,
                    component_ids: ids.unwrap_or_default(),
                }
            }
        }
    }

    fn status(&self) -> Option<XmppFederationStatus> {
        match self {
            Self::Readable(object) => object.status.clone(),
            Self::Unreadable(object) => serde_json::from_value(object.data.get("status")?.clone()).ok(),
        }
    }
}

impl PartialEq for StoredResource {
    /// Whether a reconcile would find the same.
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::controller::testing::spec;

    fn stored(change: impl FnOnce(&mut Value)) -> StoredResource {
        let mut object = json!({"apiVersion": "xmppfederation.io/v1alpha1", "kind": "XmppFederation", "spec": spec(),
            "metadata": {"name": "coluc", "namespace": "federation", "uid": "uid-1", "generation": 1}});
        change(&mut object);
        StoredResource::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn what_a_later_release_stored_holds_its_names_all_the_same() {
        let readable = stored(|_| {});
        let unreadable = stored(|object| object["spec"]["privacy"]["mode"] = json!("SomethingNew"));
        assert!(matches!(readable.object(), Some(StoredObject::Readable(_))));
        assert!(matches!(unreadable.object(), Some(StoredObject::Unreadable(_))));
        assert_eq!(readable.claim, unreadable.claim);
        assert!(!unreadable.claim.component_ids.is_empty());
        // Also as many component ids as its status tells.
        let edge = json!({"edge": {"replicas": 2, "readyReplicas": 2, "selector": "", "slots": 3}});
        for mode in ["AllowList", "SomethingNew"] {
            let open = stored(|object| {
                object["spec"]["privacy"]["mode"] = json!(mode);
                object["spec"]["edge"]["slots"] = Value::Null;
                object["status"] = edge.clone();
            });
            assert_eq!(open.claim.component_ids.len(), 3, "{mode}");
        }
        // Where not even the host name can be read, its domains count.
        let odd = stored(|object| object["spec"]["edge"]["hostname"] = json!({"new": "form"}));
        assert_eq!(odd.claim.domains, readable.claim.domains);
    }
}
