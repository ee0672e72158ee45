//! The sample resource, and what Kubernetes says about it, its pods and its operator.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::{ByteString, NamespaceResourceScope};
use kube::api::{ApiResource, DeleteParams, ListParams, LogParams, ObjectMeta, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::pod::Pod;
use super::report::{Talk, ensure};
use testkit_base::Error;
use testkit_lab::{Lab, hosts, layout};

/// The Secret with IM&P's account, as the sample names it.
pub const CREDENTIALS: &str = "cups-axl";
/// All Secrets that the sample refers to.
pub const SECRETS: [&str; 3] = [CREDENTIALS, "cups-ca", "cups-router"];
/// Where `deploy/` puts the operator, and the name of its Deployment.
pub const OPERATOR: (&str, &str) = ("xmpp-federation-system", "xmpp-federation-operator");

/// The sample that the demo applies, as a file of the repository.
pub fn sample_file() -> PathBuf {
    layout::repository().join("deploy/samples/coluc.yaml")
}

/// The resource: its spec as it is written, and what steps read of its status.
pub type Federation = kube::core::Object<Value, Status>;

fn kind() -> ApiResource {
    ApiResource {
        group: "xmppfederation.io".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "xmppfederation.io/v1alpha1".to_owned(),
        kind: "XmppFederation".to_owned(),
        plural: "xmppfederations".to_owned(),
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    observed_generation: Option<i64>,
    pub conditions: Vec<Condition>,
    pub edge: EdgeStatus,
    pub certificate: CertificateStatus,
    pub records: Vec<RecordStatus>,
    pub imp: Vec<ImpStatus>,
    handled_requests: Vec<HandledRequest>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EdgeStatus {
    #[serde(default)]
    selector: String,
    #[serde(default)]
    pub addresses: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CertificateStatus {
    pub secret_name: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordStatus {
    pub name: String,
    pub state: String,
    #[serde(default)]
    pub message: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ImpStatus {
    pub registrations: Vec<Value>,
    pub recent_actions: Vec<ActionStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActionStatus {
    pub action: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HandledRequest {
    pub value: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.status, self.reason, self.message)
    }
}

impl Status {
    /// An error unless the request with that value was served.
    pub fn served(&self, value: &str) -> Result<(), Error> {
        let served = self.handled_requests.iter().any(|request| request.value == value);
        ensure(served, || "the request is not served yet")
    }

    /// The condition of that type when it has the wanted status; otherwise an error with what it says.
    pub fn expect(&self, kind: &str, status: &str) -> Result<Condition, Error> {
        match self.conditions.iter().find(|condition| condition.kind == kind) {
            Some(found) if found.status == status => Ok(found.clone()),
            Some(found) => Err(format!("{kind} is {found}").into()),
            None => Err(format!("there is no condition {kind} yet").into()),
        }
    }

    /// What the status says of the first IM&P cluster.
    pub fn cluster(&self) -> ImpStatus {
        self.imp.first().cloned().unwrap_or_default()
    }
}

/// An application user of IM&P.
#[derive(Clone)]
pub struct Account {
    pub user: String,
    pub password: String,
}

/// Makes an object what is written here.
async fn apply<K>(api: &Api<K>, name: &str, object: &K) -> Result<(), Error>
where
    K: Clone + DeserializeOwned + Debug + Serialize,
{
    api.patch(name, &PatchParams::apply("demo").force(), &Patch::Apply(object))
        .await?;
    Ok(())
}

/// Waits until an object is gone.
pub async fn gone<K>(api: Api<K>, name: &str, uid: &str, limit: Duration) -> Result<(), Error>
where
    K: Clone + Debug + Send + DeserializeOwned + Resource + 'static,
{
    tokio::time::timeout(limit, await_condition(api, name, conditions::is_deleted(uid)))
        .await
        .map_err(|_| format!("{name} is still there after {} s", limit.as_secs()))??;
    Ok(())
}

/// The resource of the sample's file in a cluster.
#[derive(Clone)]
pub struct Sample {
    pub kube: Client,
    pub namespace: String,
    pub name: String,
    /// As the file has it.
    pub resource: Federation,
}

impl Sample {
    /// Use it only inside the lab's network: see [`Lab::inside`].
    pub async fn of(lab: &Lab) -> Result<Self, Error> {
        let kubeconfig = Kubeconfig::read_from(lab.kubeconfig())?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.proxy_url = None;
        let resource: Federation = serde_yaml::from_str(&std::fs::read_to_string(sample_file())?)?;
        let named = resource.metadata.namespace.clone().zip(resource.metadata.name.clone());
        let (namespace, name) = named.ok_or("the sample has no namespace or no name")?;
        Ok(Self {
            kube: Client::try_from(config)?,
            namespace,
            name,
            resource,
        })
    }

    /// Objects of a kind beside the resource.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.kube.clone(), &self.namespace)
    }

    /// Objects of the resource's kind.
    pub fn resources(&self) -> Api<Federation> {
        Api::namespaced_with(self.kube.clone(), &self.namespace, &kind())
    }

    /// Makes the namespace, and the Secrets that an administrator makes beforehand.
    pub async fn prepare(&self, account: &Account, ca: &str) -> Result<(), Error> {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(self.namespace.clone());
        let enforce = ("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned());
        namespace.metadata.labels = Some([enforce].into());
        apply(&Api::all(self.kube.clone()), &self.namespace, &namespace).await?;
        let [_, authority, router] = SECRETS;
        self.apply_secret(authority, None, &[("ca.crt", ca)]).await?;
        self.apply_secret(router, None, &[("secret", hosts::ROUTER_SECRET)])
            .await?;
        self.apply_credentials(account).await
    }

    /// Makes the Secret with IM&P's account.
    pub async fn apply_credentials(&self, account: &Account) -> Result<(), Error> {
        let data = [("username", &*account.user), ("password", &account.password)];
        self.apply_secret(CREDENTIALS, None, &data).await
    }

    /// Makes a Secret, `Opaque` if no type is given.
    pub async fn apply_secret(&self, name: &str, kind: Option<&str>, data: &[(&str, &str)]) -> Result<(), Error> {
        let data = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            type_: kind.map(str::to_owned),
            data: Some(data.collect()),
            ..Secret::default()
        };
        apply(&self.api(), name, &secret).await
    }

    /// Makes the resource what the file says, with a patch on top.
    pub async fn apply_with(&self, patch: Value) -> Result<(), Error> {
        let mut resource = self.resource.clone();
        resource.metadata.namespace = Some(self.namespace.clone());
        merge(&mut resource.spec, patch);
        apply(&self.resources(), &self.name, &resource).await
    }

    /// The resource as it is now.
    pub async fn now(&self) -> Result<Federation, Error> {
        Ok(self.resources().get(&self.name).await?)
    }

    /// Its status as it is now.
    pub async fn status(&self) -> Result<Status, Error> {
        Ok(self.now().await?.status.unwrap_or_default())
    }

    /// A condition with that status, said about the resource as it is now.
    pub async fn observed(&self, kind: &str, status: &str) -> Result<Condition, Error> {
        let resource = self.now().await?;
        let said = resource.status.unwrap_or_default();
        let (seen, current) = (said.observed_generation, resource.metadata.generation);
        ensure(seen.is_some() && seen == current, || {
            format!("generation {current:?}, observed {seen:?}")
        })?;
        said.expect(kind, status)
    }

    /// Waits for a condition, whatever generation it is about.
    pub async fn becomes(&self, talk: Talk, kind: &str, status: &str, limit: Duration) -> Result<Condition, Error> {
        talk.wait(&format!("{kind}={status}"), limit, async || {
            self.status().await?.expect(kind, status)
        })
        .await
    }

    /// The edge pods as they are now, terminating ones included.
    pub async fn pods(&self) -> Result<Vec<Pod>, Error> {
        let selector = self.status().await?.edge.selector;
        ensure(!selector.is_empty(), || "the status names no pods yet".to_owned())?;
        let pods = self.api::<k8s_openapi::api::core::v1::Pod>();
        let pods = pods.list(&ListParams::default().labels(&selector)).await?;
        Ok(pods.into_iter().map(Pod::from).collect())
    }

    /// The operator's pods.
    pub async fn operators(&self) -> Result<Vec<Pod>, Error> {
        let (namespace, name) = OPERATOR;
        let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(self.kube.clone(), namespace);
        let label = format!("app.kubernetes.io/name={name}");
        let pods = pods.list(&ListParams::default().labels(&label)).await?;
        Ok(pods.into_iter().map(Pod::from).collect())
    }

    /// One of them.
    pub async fn operator(&self) -> Result<Pod, Error> {
        let first = self.operators().await?.into_iter().next();
        first.ok_or_else(|| "there is no operator".into())
    }

    /// Sets how many of them there are to be.
    pub async fn scale_operator(&self, replicas: i32) -> Result<(), Error> {
        let (namespace, name) = OPERATOR;
        let deployments: Api<k8s_openapi::api::apps::v1::Deployment> = Api::namespaced(self.kube.clone(), namespace);
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        deployments.patch_scale(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    fn pods_beside(&self, pod: &Pod) -> Api<k8s_openapi::api::core::v1::Pod> {
        Api::namespaced(self.kube.clone(), &pod.namespace)
    }

    /// The log of a pod.
    pub async fn log(&self, pod: &Pod) -> Result<String, Error> {
        Ok(self.pods_beside(pod).logs(&pod.name, &LogParams::default()).await?)
    }

    /// Deletes a pod, without waiting for its end.
    pub async fn delete_pod(&self, pod: &Pod, parameters: &DeleteParams) -> Result<(), Error> {
        self.pods_beside(pod).delete(&pod.name, parameters).await?;
        Ok(())
    }

    /// Deletes the resource, if there is one, and waits until it is gone.
    pub async fn delete(&self, limit: Duration) -> Result<(), Error> {
        let resources = self.resources();
        let Some(now) = resources.get_opt(&self.name).await? else {
            return Ok(());
        };
        resources.delete(&self.name, &DeleteParams::default()).await?;
        gone(resources, &self.name, &now.metadata.uid.unwrap_or_default(), limit).await
    }

    /// Merges into the resource.
    pub async fn patch(&self, patch: Value) -> Result<(), Error> {
        let patch = Patch::Merge(patch);
        self.resources()
            .patch(&self.name, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// Asks for something by annotation, with a value that was never there; that value.
    pub async fn annotate(&self, request: &str) -> Result<String, Error> {
        let value = format!("{:x}", rand::random::<u64>());
        let annotation = format!("xmppfederation.io/{request}");
        self.patch(json!({"metadata": {"annotations": {annotation: value}}}))
            .await?;
        Ok(value)
    }

    /// Names of the Secrets with the dialback secret and the authority.
    pub fn keys(&self) -> [String; 2] {
        [format!("{}-dialback", self.name), format!("{}-ca", self.name)]
    }

    /// Asks the operator for a look at the resource, and waits until it had one.
    pub async fn looked_at(&self, talk: Talk, limit: Duration) -> Result<(), Error> {
        let value = self.annotate("refresh").await?;
        let what = format!("a look at the resource in {}", self.namespace);
        talk.wait(&what, limit, async || self.status().await?.served(&value))
            .await
    }

    /// The file's description of the IM&P cluster with some fields more, or other.
    pub fn imp_with(&self, patch: Value) -> Value {
        let mut imp = self.resource.spec.pointer("/imp/0").cloned().unwrap_or_default();
        merge(&mut imp, patch);
        imp
    }

    /// The note of the newest Event about the resource of this name that fits; `uid`: only about this one of those that
    /// had the name.
    pub async fn event(&self, uid: Option<&str>, fits: impl Fn(&Event) -> bool) -> Result<String, Error> {
        let mut events = self.api::<Event>().list(&ListParams::default()).await?.items;
        events.sort_by(|one, other| other.metadata.creation_timestamp.cmp(&one.metadata.creation_timestamp));
        let found = events.into_iter().find(|event| {
            let about = event.regarding.as_ref().is_some_and(|object| {
                object.kind.as_deref() == Some("XmppFederation")
                    && object.name.as_deref() == Some(&self.name)
                    && (uid.is_none() || object.uid.as_deref() == uid)
            });
            about && fits(event)
        });
        let found = found.ok_or("there is no such Event")?;
        Ok(found.note.unwrap_or_default())
    }

    /// The same for an Event with that reason.
    pub async fn event_with(&self, reason: &str, uid: Option<&str>) -> Result<String, Error> {
        let note = self.event(uid, |event| event.reason.as_deref() == Some(reason)).await;
        note.map_err(|error| format!("{reason}: {error}").into())
    }

    /// IM&P's account as the Secret has it.
    pub async fn account(&self) -> Result<Account, Error> {
        let data = self.api::<Secret>().get(CREDENTIALS).await?.data.unwrap_or_default();
        let field = |name: &str| -> Result<String, Error> {
            let value = data
                .get(name)
                .ok_or_else(|| format!("Secret {CREDENTIALS} has no {name}"))?;
            Ok(String::from_utf8(value.0.clone())?)
        };
        Ok(Account {
            user: field("username")?,
            password: field("password")?,
        })
    }
}

/// A JSON merge patch (RFC 7396) without removals.
pub fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (name, value) in patch {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}
