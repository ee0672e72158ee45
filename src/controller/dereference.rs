//! Step one: reads what the resource refers to and what exists of its own objects. Only reads;
//! straight from the API server, so no stale cache is acted on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::{try_join, try_join_all};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams};
use kube::{Client, ResourceExt};
use xmpp_federation_core::SecretBytes;
use xmpp_federation_core::edge_status::EdgeStatus;

use super::environment::Environment;
use super::kube::{Error, Kind, call};
use super::names::{ADMIN_PORT, Owner};
use crate::api::spec::{ImpSpec, XmppFederationSpec};
use crate::edges;
use xmpp_federation_imp::access::SecretVersion;
use xmpp_federation_imp::clock::{Clock as _, Stamp, SystemClock};

/// A Secret as it was read.
#[derive(Debug, Clone)]
pub struct SecretContent {
    /// Which one, in which version.
    pub version: SecretVersion,
    pub data: BTreeMap<String, SecretBytes>,
}

/// A Secret that is needed cannot be used. The first value is its name, the second the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It does not exist; the second value is its purpose.
    #[error("Secret {0}, {1}, does not exist in this namespace; create it")]
    Absent(String, String),
    /// It lacks the key, and has these.
    #[error("Secret {0} has no key {1:?}; add it (it has: {list})", list = .2.join(", "))]
    NoKey(String, String, Vec<String>),
    /// The key holds nothing.
    #[error("key {1:?} of Secret {0} is empty; fill it")]
    Empty(String, String),
    /// The key does not hold this kind of text.
    #[error("key {1:?} of Secret {0} is not {2} text; correct it")]
    NotText(String, &'static str, &'static str),
}

impl SecretContent {
    /// The bytes of a key.
    pub fn key(&self, key: &str) -> Result<&SecretBytes, SecretError> {
        let (name, wanted) = (self.version.name.clone(), key.to_owned());
        match self.data.get(key) {
            Some(bytes) if !bytes.is_empty() => Ok(bytes),
            Some(_) => Err(SecretError::Empty(name, wanted)),
            None => Err(SecretError::NoKey(name, wanted, self.data.keys().cloned().collect())),
        }
    }
}

/// A pod does not tell its status.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PodStatusError {
    /// It cannot be asked.
    #[error("it has no address yet")]
    NoAddress,
    /// It was asked in vain.
    #[error(transparent)]
    Edge(#[from] Arc<edges::Error>),
}

/// Secrets that users brought, by name; `None`: does not exist.
#[derive(Debug, Clone, Default)]
pub struct Secrets(pub BTreeMap<String, Option<SecretContent>>);

impl Secrets {
    /// The Secret, which is there for that purpose.
    pub fn get(&self, name: &str, purpose: &str) -> Result<&SecretContent, SecretError> {
        self.0
            .get(name)
            .and_then(Option::as_ref)
            .ok_or_else(|| SecretError::Absent(name.to_owned(), purpose.to_owned()))
    }

    /// One key of one Secret.
    pub fn key(&self, name: &str, key: &str, purpose: &str) -> Result<&SecretBytes, SecretError> {
        self.get(name, purpose)?.key(key)
    }
}

/// The objects of this resource's names as they exist, ours or not.
#[derive(Debug, Clone, Default)]
pub struct ExistingObjects {
    pub dialback: Option<DynamicObject>,
    pub authority: Option<DynamicObject>,
    pub certificate: Option<DynamicObject>,
    pub router: Option<DynamicObject>,
    pub config: Option<DynamicObject>,
    pub account: Option<DynamicObject>,
    pub pods_service: Option<DynamicObject>,
    pub service: Option<DynamicObject>,
    pub budget: Option<DynamicObject>,
    pub policy: Option<DynamicObject>,
    pub stateful_set: Option<DynamicObject>,
}

/// One running edge pod.
#[derive(Debug, Clone)]
pub struct EdgePod {
    pub name: String,
    pub uid: String,
    /// Its slot.
    pub index: u16,
    /// Its address, once it has one.
    pub ip: Option<IpAddr>,
    /// Whether Kubernetes calls it ready.
    pub ready: bool,
    /// Whether it is being deleted.
    pub stopping: bool,
    /// The hash of the configuration that its annotation asks it to load.
    pub notified: Option<String>,
    /// Why it does not run, as Kubernetes says.
    pub trouble: Option<String>,
    /// When it was asked, or would have been.
    pub asked: Stamp,
    /// What it says of itself.
    pub status: Result<EdgeStatus, PodStatusError>,
}

/// All that was read.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub secrets: Secrets,
    /// The text of spec.tls.revocationLists; `None`: not asked for, or it does not exist.
    pub revocation_lists: Option<String>,
    pub existing: ExistingObjects,
    /// Own pods, by name.
    pub pods: Vec<EdgePod>,
}

/// Names of the Secrets that a spec refers to, and those of the entries of clusters that left it.
pub fn secret_names<'a>(spec: &'a XmppFederationSpec, left: impl IntoIterator<Item = &'a ImpSpec>) -> Vec<String> {
    let clusters = secret_names_of(spec.imp.iter().chain(left));
    let mut names: Vec<String> = clusters
        .into_iter()
        .map(Some)
        .chain([
            spec.tls
                .certificate
                .as_ref()
                .and_then(|c| c.secret_ref.as_ref())
                .map(|r| r.name.clone()),
            spec.tls
                .client_certificate
                .as_ref()
                .and_then(|c| c.secret_ref.as_ref())
                .map(|r| r.name.clone()),
            spec.tls.trust_anchors.secret_ref.as_ref().map(|r| r.name.clone()),
        ])
        .flatten()
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Names of the Secrets that entries of spec.imp refer to.
pub fn secret_names_of<'a>(entries: impl IntoIterator<Item = &'a ImpSpec>) -> Vec<String> {
    entries
        .into_iter()
        .flat_map(|imp| {
            [
                Some(imp.credentials_secret_ref.name.clone()),
                imp.control_center_credentials_secret_ref
                    .as_ref()
                    .map(|r| r.name.clone()),
                imp.tls.ca_secret_ref.as_ref().map(|r| r.name.clone()),
                Some(imp.router.secret_ref.name.clone()),
            ]
        })
        .flatten()
        .collect()
}

pub async fn run(
    env: &Environment,
    owner: &Owner,
    spec: &XmppFederationSpec,
    secret_names: Vec<String>,
) -> Result<Snapshot, Error> {
    let Environment { client, edges, .. } = env;
    let ((secrets, revocation_lists), (existing, pods)) = try_join(
        try_join(
            secrets(client, owner, secret_names),
            revocation_lists(client, owner, spec),
        ),
        try_join(Box::pin(existing(client, owner)), Box::pin(pods(client, edges, owner))),
    )
    .await?;
    Ok(Snapshot {
        secrets,
        revocation_lists,
        existing,
        pods,
    })
}

async fn get(client: &Client, kind: Kind, owner: &Owner, name: &str) -> Result<Option<DynamicObject>, Error> {
    let what = || format!("{} {name} cannot be read", kind.as_str());
    call(what, kind.api(client, &owner.namespace).get_opt(name)).await
}

/// The Secrets of these names.
pub async fn secrets(client: &Client, owner: &Owner, names: Vec<String>) -> Result<Secrets, Error> {
    let reads = names.into_iter().map(|name| async move {
        let found = get(client, Kind::Secret, owner, &name).await?;
        let read = found.map(|object| SecretContent {
            version: SecretVersion {
                namespace: owner.namespace.clone(),
                name: name.clone(),
                uid: object.uid().unwrap_or_default(),
                resource_version: object.resource_version().unwrap_or_default(),
            },
            data: secret_data(&object),
        });
        Ok((name, read))
    });
    Ok(Secrets(try_join_all(reads).await?.into_iter().collect()))
}

async fn revocation_lists(client: &Client, owner: &Owner, spec: &XmppFederationSpec) -> Result<Option<String>, Error> {
    let Some(lists) = &spec.tls.revocation_lists else {
        return Ok(None);
    };
    let reference = &lists.config_map_ref;
    let found = get(client, Kind::ConfigMap, owner, &reference.name).await?;
    let text = found.and_then(|object| {
        let data = object.data.get("data")?.get(&reference.key)?;
        Some(data.as_str()?.to_owned())
    });
    Ok(text)
}

async fn existing(client: &Client, owner: &Owner) -> Result<ExistingObjects, Error> {
    let (edge, pods) = (owner.edge(), owner.pods());
    let (dialback, authority, certificate, router) =
        (owner.dialback(), owner.authority(), owner.certificate(), owner.router());
    let get = |kind, name| get(client, kind, owner, name);
    let (dialback, authority, certificate, router, config, account) = futures::try_join!(
        get(Kind::Secret, &dialback),
        get(Kind::Secret, &authority),
        get(Kind::Secret, &certificate),
        get(Kind::Secret, &router),
        get(Kind::ConfigMap, &edge),
        get(Kind::ServiceAccount, &edge),
    )?;
    let (pods_service, service, budget, policy, stateful_set) = futures::try_join!(
        get(Kind::Service, &pods),
        get(Kind::Service, &edge),
        get(Kind::PodDisruptionBudget, &edge),
        get(Kind::NetworkPolicy, &edge),
        get(Kind::StatefulSet, &edge),
    )?;
    Ok(ExistingObjects {
        dialback,
        authority,
        certificate,
        router,
        config,
        account,
        pods_service,
        service,
        budget,
        policy,
        stateful_set,
    })
}

async fn pods(client: &Client, edges: &edges::Client, owner: &Owner) -> Result<Vec<EdgePod>, Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &owner.namespace);
    let params = ListParams::default().labels(&owner.selector());
    let list = call(|| "the edge pods cannot be listed".to_owned(), api.list(&params)).await?;
    let edge = owner.edge();
    let asked = list.items.into_iter().filter(|pod| {
        pod.owner_references()
            .iter()
            .any(|o| o.kind == "StatefulSet" && o.name == edge)
    });
    let mut pods = futures::future::join_all(asked.map(|pod| ask(edges, pod))).await;
    pods.sort_by_key(|pod| pod.index);
    Ok(pods)
}

async fn ask(edges: &edges::Client, pod: Pod) -> EdgePod {
    let name = pod.name_any();
    let status = pod.status.as_ref();
    let ready = status
        .and_then(|s| s.conditions.as_ref())
        .is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    let containers = status.and_then(|s| s.container_statuses.as_ref());
    let waiting = containers.and_then(|c| {
        c.iter().find_map(|c| {
            let waiting = c.state.as_ref()?.waiting.as_ref()?;
            let reason = waiting.reason.clone()?;
            Some(match &waiting.message {
                Some(message) => format!("{reason}: {message}"),
                None => reason,
            })
        })
    });
    let unscheduled = status.and_then(|s| s.conditions.as_ref()).and_then(|c| {
        c.iter()
            .find(|c| c.type_ == "PodScheduled" && c.status == "False")
            .and_then(|c| c.message.clone())
    });
    let ip: Option<IpAddr> = status.and_then(|s| s.pod_ip.as_ref()).and_then(|ip| ip.parse().ok());
    let asked = SystemClock.now();
    let answer = match ip {
        Some(ip) => edges::fetch_status(edges, ip, ADMIN_PORT)
            .await
            .map_err(|error| Arc::new(error).into()),
        None => Err(PodStatusError::NoAddress),
    };
    EdgePod {
        index: name.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0),
        uid: pod.uid().unwrap_or_default(),
        ip,
        ready,
        stopping: pod.metadata.deletion_timestamp.is_some(),
        notified: pod.annotations().get(crate::api::CONFIG_HASH).cloned(),
        trouble: waiting.or(unscheduled),
        asked,
        status: answer,
        name,
    }
}

/// The decoded data of a Secret.
pub fn secret_data(object: &DynamicObject) -> BTreeMap<String, SecretBytes> {
    let Some(data) = object.data.get("data").and_then(|d| d.as_object()) else {
        return BTreeMap::new();
    };
    data.iter()
        .filter_map(|(key, value)| {
            let bytes = STANDARD.decode(value.as_str()?).ok()?;
            Some((key.clone(), SecretBytes::new(bytes)))
        })
        .collect()
}
