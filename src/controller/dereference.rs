//! Step one: what the resource refers to and what exists of its own objects, from the snapshots.

use std::net::IpAddr;
use std::sync::Arc;

use xmpp_federation_core::edge_status::EdgeStatus;

use super::kube::Kind;
use super::names::Owner;
use super::objects::{ExistingObject, Rollout};
use super::pods::PodState;
use super::references::{Data, NotFetched, Reference, Secrets};
use super::refusals::PodRefusal;
use super::snapshots::Snapshots;
use crate::api::spec::{ImpSpec, XmppFederationSpec};
use crate::edges;
use xmpp_federation_imp::clock::{Clock as _, Stamp, SystemClock};

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

/// The objects of this resource's names as they exist, ours or not.
#[derive(Debug, Clone, Default)]
pub struct ExistingObjects {
    pub dialback: Option<Arc<ExistingObject>>,
    pub authority: Option<Arc<ExistingObject>>,
    pub certificate: Option<Arc<ExistingObject>>,
    pub router: Option<Arc<ExistingObject>>,
    pub config: Option<Arc<ExistingObject>>,
    pub account: Option<Arc<ExistingObject>>,
    pub pods_service: Option<Arc<ExistingObject>>,
    pub service: Option<Arc<ExistingObject>>,
    pub budget: Option<Arc<ExistingObject>>,
    pub policy: Option<Arc<ExistingObject>>,
    pub stateful_set: Option<Arc<ExistingObject>>,
}

impl ExistingObjects {
    /// How far the pods' controller is; `None`: there is none.
    pub fn rollout(&self) -> Option<&Rollout> {
        self.stateful_set.as_ref()?.rollout()
    }
}

/// One running edge pod.
#[derive(Debug, Clone)]
pub struct EdgePod {
    /// As Kubernetes shows it.
    pub pod: Arc<PodState>,
    /// When it was asked.
    pub asked: Stamp,
    /// What it says of itself.
    pub status: Result<EdgeStatus, PodStatusError>,
}

impl std::ops::Deref for EdgePod {
    type Target = PodState;
    fn deref(&self) -> &PodState {
        &self.pod
    }
}

/// All that is known.
#[derive(Debug, Clone)]
pub struct KubeView {
    pub secrets: Secrets,
    /// The text of spec.tls.revocationLists; `None`: not asked for, or it does not exist.
    pub revocation_lists: Option<String>,
    pub existing: ExistingObjects,
    /// Own pods, by name.
    pub pods: Vec<EdgePod>,
    /// Pods that were not created.
    pub refusals: Vec<Arc<PodRefusal>>,
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
                imp.router.secret_ref.as_ref().map(|r| r.name.clone()),
            ]
        })
        .flatten()
        .collect()
}

/// All that a resource refers to.
pub fn references(owner: &Owner, spec: &XmppFederationSpec, secrets: &[String]) -> Vec<Reference> {
    let secrets = secrets.iter().map(|name| (Kind::Secret, owner.sibling(name)));
    let lists = spec.tls.revocation_lists.iter();
    let lists = lists.map(|lists| (Kind::ConfigMap, owner.sibling(&lists.config_map_ref.name)));
    secrets.chain(lists).collect()
}

/// What is known now.
///
/// # Errors
/// Something was not fetched yet, or cannot be: the resource is woken when it was.
pub fn run(
    snapshots: &Snapshots,
    edges: &Arc<edges::watch::Watch>,
    owner: &Owner,
    spec: &XmppFederationSpec,
    secrets: &[String],
) -> Result<KubeView, NotFetched> {
    Ok(KubeView {
        secrets: snapshots.references.secrets(&owner.namespace, secrets)?,
        revocation_lists: revocation_lists(snapshots, owner, spec)?,
        existing: existing(snapshots, owner),
        pods: pods(snapshots, edges, owner)?,
        // Names of events begin with that of their object.
        refusals: snapshots
            .refusals
            .beginning_with(&owner.sibling(&format!("{}.", owner.edge()))),
    })
}

fn revocation_lists(
    snapshots: &Snapshots,
    owner: &Owner,
    spec: &XmppFederationSpec,
) -> Result<Option<String>, NotFetched> {
    let Some(lists) = &spec.tls.revocation_lists else {
        return Ok(None);
    };
    let reference = &lists.config_map_ref;
    let found = snapshots
        .references
        .get(Kind::ConfigMap, &owner.sibling(&reference.name))?;
    Ok(found.and_then(|data| match &*data {
        Data::ConfigMap(data) => data.get(&reference.key).cloned(),
        Data::Secret(_) | Data::NotAllowed => None,
    }))
}

fn existing(snapshots: &Snapshots, owner: &Owner) -> ExistingObjects {
    let get = |kind, name: String| snapshots.object(kind, &owner.sibling(&name));
    ExistingObjects {
        dialback: get(Kind::Secret, owner.dialback()),
        authority: get(Kind::Secret, owner.authority()),
        certificate: get(Kind::Secret, owner.certificate()),
        router: get(Kind::Secret, owner.router()),
        config: get(Kind::ConfigMap, owner.edge()),
        account: get(Kind::ServiceAccount, owner.edge()),
        pods_service: get(Kind::Service, owner.pods()),
        service: get(Kind::Service, owner.edge()),
        budget: get(Kind::PodDisruptionBudget, owner.edge()),
        policy: get(Kind::NetworkPolicy, owner.edge()),
        stateful_set: get(Kind::StatefulSet, owner.edge()),
    }
}

/// The pods with what they say of themselves.
fn pods(snapshots: &Snapshots, edges: &Arc<edges::watch::Watch>, owner: &Owner) -> Result<Vec<EdgePod>, NotFetched> {
    let (key, edge) = ((owner.namespace.clone(), owner.name.clone()), owner.edge());
    let mut pods = snapshots.pods.beginning_with(&owner.sibling(&format!("{edge}-")));
    pods.retain(|pod| pod.instance == owner.name && pod.controller == edge);
    pods.sort_by_key(|pod| pod.index);
    let addresses: Vec<IpAddr> = pods.iter().filter_map(|pod| pod.ip).collect();
    edges.watch(&key, &addresses);
    let asked = pods.into_iter().map(|pod| {
        let (asked, status) = match pod.ip {
            Some(ip) => {
                let last = edges.last(&key, ip).ok_or(NotFetched::Pending)?;
                let status = last.status.map(|status| (*status).clone());
                (last.asked, status.map_err(PodStatusError::from))
            }
            None => (SystemClock.now(), Err(PodStatusError::NoAddress)),
        };
        Ok(EdgePod { pod, asked, status })
    });
    asked.collect()
}
