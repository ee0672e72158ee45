//! Calls to the Kubernetes API: each bounded in time, objects as JSON.

use std::future::Future;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Preconditions};

use crate::api::XmppFederation;
use crate::runtime::api_error::{ApiError, bounded};

/// A call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct Error {
    what: String,
    pub source: Box<ApiError>,
}

impl Error {
    /// HTTP status of the answer, if there was one.
    pub fn code(&self) -> Option<u16> {
        self.source.code()
    }
}

/// Bounds a call and names it.
pub async fn call<T>(
    what: impl FnOnce() -> String,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    let named = |source| Error {
        what: what(),
        source: Box::new(source),
    };
    bounded(call).await.map_err(named)
}

/// The kinds of objects that a resource owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, strum::IntoStaticStr, strum::EnumIter)]
pub enum Kind {
    /// core/v1
    Secret,
    /// core/v1
    ConfigMap,
    /// core/v1
    Service,
    /// core/v1
    ServiceAccount,
    /// apps/v1
    StatefulSet,
    /// policy/v1
    PodDisruptionBudget,
    /// networking.k8s.io/v1
    NetworkPolicy,
}

impl Kind {
    /// Kind and group of the API.
    pub fn resource(self) -> ApiResource {
        match self {
            Self::Secret => ApiResource::erase::<Secret>(&()),
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
            Self::NetworkPolicy => ApiResource::erase::<NetworkPolicy>(&()),
        }
    }

    /// Access to objects of this kind in a namespace.
    pub fn api(self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), namespace, &self.resource())
    }

    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Deletes the object of that UID, and no other of its name.
pub async fn delete(
    what: impl FnOnce() -> String,
    api: &Api<DynamicObject>,
    name: &str,
    uid: &str,
) -> Result<(), Error> {
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    call(what, api.delete(name, &params)).await.map(drop)
}

/// Access to resources of a namespace, also to such as this release cannot read.
pub fn resource_api(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<XmppFederation>(&());
    Api::namespaced_with(client.clone(), namespace, &resource)
}
