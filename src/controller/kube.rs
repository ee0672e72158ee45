//! Calls to the Kubernetes API: each bounded in time, objects as JSON.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};

use crate::api::XmppFederation;

/// The client retries 429, 503 and 504 by itself for minutes; no reconcile waits that long.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server's answer.
    #[error("{what}: {}", answer(source))]
    Api { what: String, source: Box<kube::Error> },
    /// No answer.
    #[error("{what}: no answer from the Kubernetes API within 20 s")]
    Timeout { what: String },
}

impl Error {
    /// HTTP status of the answer, if there was one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Timeout { .. } => None,
        }
    }
}

/// The API server's own sentence, or the client's.
fn answer(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Bounds a call and names it.
pub async fn call<T>(
    what: impl FnOnce() -> String,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(Error::Api {
            what: what(),
            source: Box::new(source),
        }),
        Err(_) => Err(Error::Timeout { what: what() }),
    }
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

/// Access to resources of a namespace, also to such as this release cannot read.
pub fn resource_api(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<XmppFederation>(&());
    Api::namespaced_with(client.clone(), namespace, &resource)
}
