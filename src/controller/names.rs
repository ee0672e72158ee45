//! Names, keys, labels and owner of the objects that belong to one resource.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

use crate::api::{INSTANCE_LABEL, MANAGED_BY, RESOURCE, XmppFederation};

/// Label of all edge pods, of whatever resource.
pub const EDGE_LABEL: (&str, &str) = ("app.kubernetes.io/name", "xmpp-federation-edge");

/// Port of the edge's admin interface.
pub const ADMIN_PORT: u16 = 8080;

/// Key of the dialback secret in its Secret, and name of the file in the pod.
pub const DIALBACK_KEY: &str = "current";

/// Key of the edge's configuration in its ConfigMap, and name of the file in the pod.
pub const EDGE_CONFIG: &str = "edge.yaml";

/// Key in the Secret, and name of the file in the pod, with the secret of a cluster's routers.
pub fn router_file(entry: &str) -> String {
    format!("router-{entry}")
}

/// Namespace and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

impl ObjectName {
    /// `None`: the object has no name or no namespace.
    pub fn of(object: &impl ResourceExt) -> Option<Self> {
        Some(Self {
            namespace: object.namespace()?,
            name: object.meta().name.clone()?,
        })
    }
}

/// The owner of the objects of one reconcile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name of the resource; all names below start with it.
    pub name: String,
    pub namespace: String,
    pub uid: String,
}

impl Owner {
    /// The owner that this object is; `None` before the API server gave it name and UID.
    pub fn of(object: &impl ResourceExt) -> Option<Self> {
        Some(Self {
            name: object.name_any(),
            namespace: object.namespace()?,
            uid: object.uid()?,
        })
    }

    /// Its namespace and name.
    pub fn object_name(&self) -> ObjectName {
        self.sibling(&self.name)
    }
    /// An object of that name in the same namespace.
    pub fn sibling(&self, name: &str) -> ObjectName {
        ObjectName {
            namespace: self.namespace.clone(),
            name: name.to_owned(),
        }
    }

    /// StatefulSet, LoadBalancer Service, ConfigMap, PDB, NetworkPolicy and ServiceAccount.
    pub fn edge(&self) -> String {
        format!("{}-edge", self.name)
    }
    pub fn pods(&self) -> String {
        format!("{}-edge-pods", self.name)
    }
    /// Secret with the dialback secret.
    pub fn dialback(&self) -> String {
        format!("{}-dialback", self.name)
    }
    /// Secret with the operator's own authority.
    pub fn authority(&self) -> String {
        format!("{}-ca", self.name)
    }
    /// Secret with the leaf certificate of that authority.
    pub fn certificate(&self) -> String {
        format!("{}-tls", self.name)
    }
    /// Secret with copies of the routers' secrets.
    pub fn router(&self) -> String {
        format!("{}-router", self.name)
    }

    /// Label selector of the pods.
    pub fn selector(&self) -> String {
        format!("{}={},{INSTANCE_LABEL}={}", EDGE_LABEL.0, EDGE_LABEL.1, self.name)
    }

    /// Labels that select the pods.
    pub fn pod_labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (EDGE_LABEL.0.to_owned(), EDGE_LABEL.1.to_owned()),
            (INSTANCE_LABEL.to_owned(), self.name.clone()),
        ])
    }

    /// The same as a selector.
    pub fn pod_selector(&self) -> LabelSelector {
        LabelSelector {
            match_labels: Some(self.pod_labels()),
            ..LabelSelector::default()
        }
    }

    /// Labels of every object.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.pod_labels();
        labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
        labels
    }

    /// Metadata of an object of this name.
    pub fn metadata(&self, name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.labels()),
            owner_references: Some(vec![OwnerReference {
                api_version: XmppFederation::api_version(&()).into_owned(),
                kind: XmppFederation::kind(&()).into_owned(),
                name: self.name.clone(),
                uid: self.uid.clone(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        }
    }

    /// Metadata of a Secret of this name that outlives the resource's object: without an owner, so that no garbage
    /// collector takes it where the resource is restored with another UID.
    pub fn kept_metadata(&self, name: &str) -> ObjectMeta {
        ObjectMeta {
            annotations: Some(BTreeMap::from([(RESOURCE.to_owned(), self.name.clone())])),
            owner_references: None,
            ..self.metadata(name)
        }
    }
}
