//! All that the operator knows of the Kubernetes API's objects, one snapshot per kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;
use kube::api::DynamicObject;
use parking_lot::Mutex;
use strum::IntoEnumIterator as _;

use super::kube::Kind;
use super::names::ObjectName;
use super::objects::ExistingObject;
use super::pods::PodState;
use super::references::References;
use super::refusals::PodRefusal;
use super::resource::StoredResource;
use super::snapshot::Snapshot;
use xmpp_federation_imp::desired::LiveOwners;

/// The snapshots.
pub struct Snapshots {
    pub resources: Snapshot<StoredResource>,
    /// Objects with the operator's label, and such as stand where one should.
    objects: BTreeMap<Kind, Snapshot<ExistingObject>>,
    pub pods: Snapshot<PodState>,
    /// Pods that were not created, by name of the event that tells it.
    pub refusals: Snapshot<PodRefusal>,
    pub references: Arc<References>,
    /// UIDs of all resources, at a count of the changes of their snapshot.
    owners: Mutex<(u64, LiveOwners)>,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self {
            resources: Snapshot::default(),
            objects: Kind::iter().map(|kind| (kind, Snapshot::default())).collect(),
            pods: Snapshot::default(),
            refusals: Snapshot::default(),
            references: Arc::default(),
            owners: Mutex::default(),
        }
    }
}

impl Snapshots {
    /// Objects of that kind.
    pub fn objects(&self, kind: Kind) -> Option<&Snapshot<ExistingObject>> {
        self.objects.get(&kind)
    }

    /// The count of lists of that kind, to be asked before a write.
    pub fn lists(&self, kind: Kind) -> u64 {
        self.objects(kind).map_or(0, Snapshot::lists)
    }

    /// An object that a resource owns.
    pub fn object(&self, kind: Kind, name: &ObjectName) -> Option<Arc<ExistingObject>> {
        self.objects(kind)?.get(name)
    }

    /// Takes in the answer to a write of an object that was sent at that count of lists; what is read of it.
    pub fn answered<R>(
        &self,
        kind: Kind,
        object: DynamicObject,
        lists: u64,
        read: impl FnOnce(&ExistingObject) -> R,
    ) -> R {
        let name = ObjectName::of(&object);
        let version = object.resource_version().unwrap_or_default();
        let written = ExistingObject::new(kind, object, None);
        let read = read(&written);
        if let (Some(name), Some(snapshot)) = (name, self.objects(kind)) {
            snapshot.answered(&name, &version, written, lists);
        }
        read
    }

    /// Takes in an object from a list or a watch; whether that is news.
    pub fn see(&self, kind: Kind, object: DynamicObject) -> bool {
        let (Some(name), Some(snapshot)) = (ObjectName::of(&object), self.objects(kind)) else {
            return false;
        };
        let version = object.resource_version().unwrap_or_default();
        let before = snapshot.get(&name);
        snapshot.see(&name, &version, ExistingObject::new(kind, object, before.as_deref()))
    }

    /// Takes in a pod from a list or a watch; whether that is news.
    pub fn see_pod(&self, pod: &Pod) -> bool {
        let Some(name) = ObjectName::of(pod) else {
            return false;
        };
        let version = pod.resource_version().unwrap_or_default();
        let Some(state) = PodState::new(pod, self.pods.get(&name).as_deref()) else {
            return false;
        };
        let created = pod.creation_timestamp().map(|time| time.0);
        self.refusals.drop_where(|event, refusal| {
            event.namespace == name.namespace && created.is_some_and(|created| refusal.is_over(&state, created))
        });
        self.pods.see(&name, &version, state)
    }

    /// Takes in an event about a pod that was not created; whether that is news.
    pub fn see_refusal(&self, event: &Event) -> bool {
        let (Some(name), Some(refusal)) = (ObjectName::of(event), PodRefusal::new(event)) else {
            return false;
        };
        let version = event.resource_version().unwrap_or_default();
        self.refusals.see(&name, &version, refusal)
    }

    /// Takes in the answer to a write of a resource that was sent at that count of lists.
    pub fn resource_answered(&self, object: DynamicObject, lists: u64) {
        if let Some(name) = ObjectName::of(&object) {
            let version = object.resource_version().unwrap_or_default();
            self.resources
                .answered(&name, &version, StoredResource::new(object), lists);
        }
    }

    /// Takes in a resource from a list or a watch; whether that is news.
    pub fn see_resource(&self, object: DynamicObject) -> bool {
        let Some(name) = ObjectName::of(&object) else {
            return false;
        };
        let version = object.resource_version().unwrap_or_default();
        self.resources.see(&name, &version, StoredResource::new(object))
    }

    /// Those in these namespaces alone are watched; none: in all.
    pub fn watch_only(&self, namespaces: &[String]) {
        self.owners.lock().1.see_only(namespaces);
    }

    /// UIDs of all resources, such as cannot be read included.
    pub fn live_owners(&self) -> LiveOwners {
        let (changes, mut owners) = (self.resources.changes(), self.owners.lock());
        if owners.0 != changes {
            let resources = self.resources.all();
            let uids = resources.iter().filter_map(|resource| resource.uid.clone());
            owners.1.set(uids.collect());
            owners.0 = changes;
        }
        owners.1.clone()
    }

    /// Older resources: their names are theirs and the newcomer waits, so that no running federation is disturbed.
    pub fn older_than(&self, object: &impl ResourceExt) -> Vec<Arc<StoredResource>> {
        let created = object.meta().creation_timestamp.as_ref().map(|time| time.0);
        let own = (created, object.meta().uid.as_deref());
        let mut resources = self.resources.all();
        resources.retain(|other| (other.created, other.uid.as_deref()) < own);
        resources
    }
}
