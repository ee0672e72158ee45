//! Names, keys, labels and owner of the objects that belong to one resource.

use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::api::{INSTANCE_LABEL, MANAGED_BY, XmppFederation};

/// Port of the edge's admin interface.
pub const ADMIN_PORT: u16 = 8080;

/// Key of the dialback secret in its Secret, and name of the file in the pod.
pub const DIALBACK_KEY: &str = "current";

/// Key in the Secret, and name of the file in the pod, with the secret of a cluster's routers.
pub fn router_file(entry: &str) -> String {
    format!("router-{entry}")
}

/// Who owns the objects of one reconcile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name of the resource; all names below start with it.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
}

impl Owner {
    /// The owner that this object is; `None` before the API server gave it name and UID.
    pub fn of(object: &XmppFederation) -> Option<Self> {
        Some(Self {
            name: object.name_any(),
            namespace: object.namespace()?,
            uid: object.uid()?,
        })
    }

    /// StatefulSet, LoadBalancer Service, ConfigMap, PDB, NetworkPolicy and ServiceAccount.
    pub fn edge(&self) -> String {
        format!("{}-edge", self.name)
    }
    /// Headless Service.
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
        format!(
            "app.kubernetes.io/name=xmpp-federation-edge,{INSTANCE_LABEL}={}",
            self.name
        )
    }

    /// Labels that select the pods.
    pub fn pod_labels(&self) -> Value {
        json!({"app.kubernetes.io/name": "xmpp-federation-edge", INSTANCE_LABEL: self.name})
    }

    /// Labels of every object.
    pub fn labels(&self) -> Value {
        json!({
            "app.kubernetes.io/name": "xmpp-federation-edge",
            INSTANCE_LABEL: self.name,
            MANAGED_BY.0: MANAGED_BY.1,
        })
    }

    /// Metadata of an object of this name.
    pub fn metadata(&self, name: &str) -> Value {
        json!({
            "name": name,
            "namespace": self.namespace,
            "labels": self.labels(),
            "ownerReferences": [{
                "apiVersion": XmppFederation::api_version(&()),
                "kind": XmppFederation::kind(&()),
                "name": self.name,
                "uid": self.uid,
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        })
    }
}
