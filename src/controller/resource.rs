//! Resources as they are stored: such as this release can read, and such as it cannot.

use kube::api::{DynamicObject, ObjectMeta};
use serde_json::{Value, json};

use super::validate::{Claim, claim};
use crate::api::status::XmppFederationStatus;
use crate::api::{XmppFederation, XmppFederationSpec};

/// An object of kind `XmppFederation`.
#[derive(Debug)]
pub struct StoredResource {
    pub object: StoredObject,
    /// The names it holds. Of an object that cannot be read: what can be understood of it.
    pub claim: Claim,
}

#[derive(Debug)]
pub enum StoredObject {
    Readable(Box<XmppFederation>),
    /// It does not fit the schema of this release, as one that a later release stored.
    Unreadable(Box<DynamicObject>),
}

impl StoredResource {
    /// Reads an object.
    pub fn new(mut object: DynamicObject) -> Self {
        object.metadata.managed_fields = None;
        let read = serde_json::to_value(&object).and_then(serde_json::from_value::<XmppFederation>);
        let object = match read {
            Ok(resource) => StoredObject::Readable(Box::new(resource)),
            Err(_) => StoredObject::Unreadable(Box::new(object)),
        };
        let claim = object.claim();
        Self { object, claim }
    }

    pub fn metadata(&self) -> &ObjectMeta {
        self.object.metadata()
    }
}

impl StoredObject {
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
            Self::Readable(object) => claim(resource, &object.spec),
            Self::Unreadable(object) => {
                let spec = object.data.get("spec").unwrap_or(&Value::Null);
                let names = |field: &str| {
                    let names = spec.get(field).and_then(Value::as_array).into_iter().flatten();
                    names.filter_map(Value::as_str).map(str::to_ascii_lowercase)
                };
                let domains = names("domains").chain(names("chatNodeAliases")).collect();
                let edge = |field: &str| spec.pointer(&format!("/edge/{field}"));
                let slots = edge("slots").or_else(|| edge("replicas")).cloned().unwrap_or(json!(2));
                let reduced = json!({"domains": [], "privacy": {}, "imp": [],
                    "edge": {"hostname": edge("hostname"), "slots": slots}});
                let reduced: Option<XmppFederationSpec> = serde_json::from_value(reduced).ok();
                let ids = reduced.map(|spec| claim(String::new(), &spec).component_ids);
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
        let of = |metadata: &ObjectMeta| {
            let ObjectMeta {
                uid,
                generation,
                annotations,
                finalizers,
                deletion_timestamp,
                ..
            } = metadata.clone();
            (uid, generation, annotations, finalizers, deletion_timestamp)
        };
        of(self.metadata()) == of(other.metadata()) && self.object.status() == other.object.status()
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
        assert!(matches!(readable.object, StoredObject::Readable(_)));
        assert!(matches!(unreadable.object, StoredObject::Unreadable(_)));
        assert_eq!(readable.claim, unreadable.claim);
        assert!(!unreadable.claim.component_ids.is_empty());
        // Where not even the host name can be read, its domains count.
        let odd = stored(|object| object["spec"]["edge"]["hostname"] = json!({"new": "form"}));
        assert_eq!(odd.claim.domains, readable.claim.domains);
    }
}
