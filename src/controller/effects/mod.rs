//! Step five: what lies outside Kubernetes, as observers saw it last; they are told what is wanted now, and
//! look when it is due. At most one action per cluster of IM and Presence at a time, by the plan of
//! [`xmpp_federation_imp`]. Nothing is waited for.

mod observations;
mod records;
mod routers;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use xmpp_federation_core::edge_status::LinkState;

use observations::ClusterObservation;
pub use observations::Observations;
pub use records::Records;
pub use routers::RESOLVE_EVERY;
use routers::router_addresses;

use super::build::RouterAddresses;
use super::cache::Cache;
use super::dereference::{EdgePod, KubeView};
use super::desired::{Resource, desired, sibling};
use super::environment::Environment;
use super::events::Note;
use super::kube::Error;
use super::objects::{Content, NodeAddresses};
use super::observer::Observation;
use super::questions::{ClusterAnswer, ClusterQuestion};
use super::references::{SecretError, Secrets};
use super::rows::execute::{DroppedCleanups, PendingCleanup};
use super::rows::{self, Dropped, DroppedCluster};
use super::validate::{ImpCluster, ValidSpec};
use super::{finalizer, requests};
use crate::api::conditions::Verdict;
use crate::api::reasons::Reason;
use crate::api::{FINALIZER, XmppFederation};
use crate::records::{Reach, ServiceAddresses};
use xmpp_federation_imp::desired::{Desired, Place};
use xmpp_federation_imp::report::{Report, Status};

type Seen = Observation<ClusterAnswer>;

/// What one cluster of IM and Presence answered.
#[derive(Debug)]
pub struct ClusterResult {
    pub entry: String,
    /// Its state; or, for `AxlAuthenticated`, why it could not be asked.
    pub report: Result<Arc<Report>, Verdict>,
    /// After this it is asked again; `None`: it was not asked yet for what is wanted now.
    pub due: Option<Duration>,
    /// Its publisher does not answer and no link to it is up.
    pub failing: bool,
}

impl ClusterResult {
    /// Whether this process has not looked at it yet.
    fn is_unseen(&self) -> bool {
        matches!(&self.report, Err(why) if why.reason == Reason::NotLookedYet)
    }
}

/// Clusters that the spec names no more may be in ledgers that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiddenClusters {
    /// Which ledgers, and the remedy.
    pub sentence: String,
    /// Names in the status of clusters that are known all the same.
    pub known: Vec<String>,
}

/// How the step ends.
pub enum Outcome {
    /// The finalizer was added first: the reconcile starts again.
    Again,
    /// What was due is done.
    Done(Box<Effects>),
}

pub struct Effects {
    /// The clusters of IM and Presence, in the order of the spec.
    pub clusters: Vec<ClusterResult>,
    /// Clusters that the spec names no more and that may hold rows of ours.
    pub pending: Vec<PendingCleanup>,
    /// Where ledgers that cannot be read may hide such clusters.
    pub hidden: Option<HiddenClusters>,
    /// Public records.
    pub records: Records,
    /// Addresses of the routers.
    pub routers: RouterAddresses,
    /// How peers come to the edge.
    pub reach: Reach,
    pub notes: Vec<Note>,
}

impl Effects {
    /// Whether something was not looked at yet by this process.
    pub fn is_incomplete(&self) -> bool {
        self.clusters.iter().any(ClusterResult::is_unseen) || self.records.is_incomplete()
    }

    /// Whether all was read for what is wanted now.
    pub fn all_current(&self) -> bool {
        let mut clusters = self.clusters.iter();
        self.records.current && clusters.all(|cluster| cluster.report.is_ok() && cluster.due.is_some())
    }
}

pub async fn run(
    env: &Environment,
    object: &XmppFederation,
    valid: &ValidSpec,
    view: &KubeView,
    dropped: &Dropped,
    last: &Observations,
    memory: &Cache<rows::Memory>,
) -> Result<Outcome, Error> {
    let owner = &valid.owner;
    let requests = requests::to_clusters(object);
    let refresh = requests.refresh.clone();
    let resource = Resource {
        owner,
        component_ids: Cow::Borrowed(&valid.component_ids),
        slots: valid.slots,
        active: valid.active,
        live_owners: env.snapshots.live_owners(),
        generation: object.metadata.generation,
        requests,
    };
    // Without the finalizer nothing is written: a deletion would leave rows behind.
    let hold_acts = !finalizer::is_on(object);
    let (mut due, missing) = requests_of(valid, view, &resource, hold_acts, memory);
    let mut cleanups = DroppedCleanups::new(env, memory, object, resource, dropped);
    due.extend(cleanups.requests(&view.secrets));
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let keys: Vec<String> = due.iter().map(|(key, _)| key.clone()).collect();
    for (key, question) in due {
        if let Some(observation) = env.ask_cluster(owner, &key, &question) {
            seen.insert(key, observation);
        }
    }
    let asked: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut notes = env.cluster_notes(owner, valid.imp.len() > 1);
    env.observers.clusters.keep(&owner.uid, &asked);
    let binds = |seen: &Seen| matches!(&*seen.answer, ClusterAnswer::Reconcile(report) if may_leave_rows(report));
    if hold_acts && seen.values().any(binds) {
        finalizer::add(env, object, FINALIZER).await?;
        env.events.publish(object, &notes).await;
        return Ok(Outcome::Again);
    }
    let mut entries = valid.imp.iter().map(|cluster| &cluster.spec.name);
    let answered = |entry: &String| seen.get(entry).is_some_and(|seen| seen.current);
    let all_looked_at = entries.all(|entry| missing.contains_key(entry) || answered(entry));
    let pending = cleanups.conclude(object, &seen, all_looked_at, &mut notes).await;
    let result = |cluster: &ImpCluster| {
        let entry = &cluster.spec.name;
        let last = last.clusters.get(entry);
        result_of(cluster, seen.get(entry), missing.get(entry), last, &view.pods)
    };
    let clusters: Vec<ClusterResult> = valid.imp.iter().map(result).collect();
    let routers = addresses_of_routers(env, valid, &clusters, &last.routers(valid, view));
    let reach = reach(valid, view);
    let records = records::look(env, valid, &reach, refresh.as_ref(), object.status.as_ref());
    Ok(Outcome::Done(Box::new(Effects {
        clusters,
        pending,
        hidden: dropped.unknown().map(|sentence| HiddenClusters {
            sentence,
            known: dropped.clusters.iter().map(DroppedCluster::name).collect(),
        }),
        records,
        routers,
        reach,
        notes,
    })))
}

/// What each cluster is asked for, and the Secrets for want of which others cannot be asked.
fn requests_of(
    valid: &ValidSpec,
    view: &KubeView,
    resource: &Resource<'_>,
    hold_acts: bool,
    memory: &Cache<rows::Memory>,
) -> (Vec<(String, ClusterQuestion)>, BTreeMap<String, SecretError>) {
    let now = Timestamp::now();
    let mut due = Vec::new();
    let mut missing = BTreeMap::new();
    for (index, cluster) in valid.imp.iter().enumerate() {
        let entry = cluster.spec.name.clone();
        let place = place_of(valid, index, &view.secrets);
        let wanted = desired(resource, cluster, place, &view.secrets, &view.pods);
        let wanted = memory.with(&valid.owner.uid, |memory| {
            let last = memory.access.entry(entry.clone()).or_default();
            let wanted = wanted.map(|wanted| last.once(Desired { hold_acts, ..wanted }));
            last.see(wanted.as_ref().ok(), now);
            wanted
        });
        match wanted {
            Err(error) => {
                missing.insert(entry, error);
            }
            Ok(desired) => due.push((entry, ClusterQuestion::Reconcile(desired))),
        }
    }
    (due, missing)
}

/// Addresses of the routers to which links are wanted.
fn addresses_of_routers(
    env: &Environment,
    valid: &ValidSpec,
    clusters: &[ClusterResult],
    known: &RouterAddresses,
) -> RouterAddresses {
    let mut routers = RouterAddresses::new();
    for (cluster, result) in valid.imp.iter().zip(clusters) {
        let entry = &cluster.spec.name;
        let before = known.get(entry);
        let addresses = match &result.report {
            Ok(report) if report.barred => NodeAddresses::new(),
            Ok(report) => router_addresses(env, &valid.owner, cluster, &nodes_of(report, before), before),
            // Nobody looks without the Secret, so that the ledger does not come with an answer.
            Err(why) if is_without_secret(why) && before.is_none_or(Vec::is_empty) => {
                let nodes = env.imp.recorded_nodes(&valid.owner.uid, &sibling(&cluster.spec));
                router_addresses(env, &valid.owner, cluster, &nodes, None)
            }
            Err(_) => before.cloned().unwrap_or_default(),
        };
        routers.insert(entry.clone(), addresses);
    }
    routers
}

/// Whether a cluster is not asked for want of a Secret.
fn is_without_secret(why: &Verdict) -> bool {
    matches!(why.reason, Reason::SecretMissing | Reason::SecretNotAllowed)
}

/// The nodes of a cluster: as it lists them; until then those in use, and where none is, those of the ledger.
fn nodes_of(report: &Report, in_use: Option<&NodeAddresses>) -> Vec<String> {
    if !report.nodes.is_empty() {
        return report.nodes.iter().map(|node| node.name.clone()).collect();
    }
    match in_use.filter(|nodes| !nodes.is_empty()) {
        Some(nodes) => nodes.iter().map(|(name, _)| name.clone()).collect(),
        None => report.recorded_nodes.clone(),
    }
}

/// The place of an entry among the others.
fn place_of(valid: &ValidSpec, index: usize, secrets: &Secrets) -> Place {
    let before = valid.imp.get(..index).unwrap_or_default();
    Place {
        earlier: before.iter().map(|cluster| sibling(&cluster.spec)).collect(),
        reach: valid
            .imp
            .get(index)
            .and_then(|cluster| rows::to_ledger(&cluster.spec, secrets)),
        only: None,
    }
}

/// What is known of a cluster now.
fn result_of(
    cluster: &ImpCluster,
    seen: Option<&Seen>,
    missing: Option<&SecretError>,
    last: Option<&ClusterObservation>,
    pods: &[EdgePod],
) -> ClusterResult {
    let entry = &cluster.spec.name;
    let mut due = None;
    let report = match (missing, seen.map(|seen| (&*seen.answer, seen))) {
        (Some(error), _) => Err(Verdict::no(error.reason(), error.to_string())),
        (None, Some((ClusterAnswer::Reconcile(report), seen))) => {
            due = seen.current.then(|| report.requeue_after.saturating_sub(seen.age));
            Ok(Arc::clone(report))
        }
        // What it said last holds until it answers.
        (None, _) => match last.and_then(|last| last.report.clone()) {
            Some(report) => Ok(report),
            None => Err(Verdict::unknown(
                Reason::NotLookedYet,
                format!("{} has not answered yet", cluster.publisher()),
            )),
        },
    };
    let answers = matches!(&report, Ok(report) if report.axl_authenticated.status != Status::False);
    let linked = pods
        .iter()
        .filter(|pod| !pod.stopping)
        .filter_map(|pod| pod.status.as_ref().ok())
        .flat_map(|status| &status.links)
        .any(|link| link.router == *entry && link.state == LinkState::Up);
    ClusterResult {
        entry: entry.clone(),
        report,
        due,
        failing: !answers && !linked,
    }
}

/// Whether a deletion has something to remove: a write is due, or rows are ours already, as those
/// that a former resource gave up or retained.
fn may_leave_rows(report: &Report) -> bool {
    report.wants_to_act || !report.registrations.is_empty()
}

/// Given by hand, or what the Service shows.
fn reach(valid: &ValidSpec, view: &KubeView) -> Reach {
    let service = match view.existing.service.as_ref().map(|service| &service.content) {
        Some(Content::Service(addresses)) => addresses.clone(),
        _ => ServiceAddresses::default(),
    };
    Reach {
        given: valid.public_addresses.clone(),
        service_type: valid.service.type_,
        service,
    }
}
