//! Step five: what lies outside Kubernetes. At most one action per cluster of IM and Presence, by
//! the plan of [`xmpp_federation_imp`]; public records looked at when they are due. Nothing sleeps.

mod observations;
mod records;
mod routers;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use xmpp_federation_core::edge_status::LinkState;

use observations::ClusterObservation;
pub use observations::Observations;
pub use records::{Records, RecordsError};
use routers::router_addresses;

use super::build::{NodeAddresses, RouterAddresses};
use super::cache::Cache;
use super::dereference::{EdgePod, SecretError, Snapshot};
use super::desired::{Resource, desired};
use super::environment::Environment;
use super::events::{self, Note};
use super::kube::Error;
use super::rows::execute::{DroppedCleanups, PendingCleanup};
use super::rows::{self, DroppedCluster};
use super::schedule::{ClusterAnswer, ClusterCall, ClusterRequest};
use super::validate::{ImpCluster, ValidSpec};
use super::{finalizer, requests};
use crate::api::XmppFederation;
use crate::api::conditions::Verdict;
use crate::api::reasons::Reason;
use xmpp_federation_imp::desired::{Place, Sibling};
use xmpp_federation_imp::report::{Event, Report, Status};

/// A resolver that says nothing holds nothing up for longer.
const DNS_TIMEOUT: Duration = Duration::from_secs(10);

/// What one cluster of IM and Presence answered.
#[derive(Debug)]
pub struct ClusterResult {
    pub entry: String,
    /// Its state; or, for `AxlAuthenticated`, why it could not be asked.
    pub report: Result<Report, Verdict>,
    /// It was asked in this reconcile, with what is wanted now.
    pub current: bool,
    /// Its publisher does not answer and no link to it is up.
    pub failing: bool,
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
    /// Public records, or why they could not be looked at.
    pub records: Result<Records, RecordsError>,
    /// Addresses of the routers.
    pub routers: RouterAddresses,
    /// Public addresses of the edge.
    pub addresses: Vec<IpAddr>,
    pub notes: Vec<Note>,
}

impl Effects {
    /// Whether all was read in this reconcile.
    pub fn all_current(&self) -> bool {
        let mut clusters = self.clusters.iter();
        self.records.is_ok() && clusters.all(|cluster| cluster.report.is_ok() && cluster.current)
    }
}

pub async fn run(
    env: &Environment,
    object: &XmppFederation,
    valid: &ValidSpec,
    observed: &Snapshot,
    dropped: &[DroppedCluster],
    last: &Observations,
    memory: &Cache<rows::Memory>,
) -> Result<Outcome, Error> {
    let requests = requests::to_clusters(object);
    let refresh = requests.refresh.clone();
    let resource = Resource {
        owner: &valid.owner,
        component_ids: Cow::Borrowed(&valid.component_ids),
        active: valid.active,
        live_owners: std::sync::Arc::new(env.live_owners()),
        requests,
    };
    // A call that was asked for with an earlier spec may still write where rows are to go.
    let busy = env.schedule.busy(&valid.owner.uid);
    // Without the finalizer nothing is written: a deletion would leave rows behind.
    let hold_acts = !finalizer::is_on(object);
    let (mut due, missing) = requests_of(valid, observed, &resource, hold_acts, memory);
    let mut cleanups = DroppedCleanups::new(env, memory, object, resource, dropped);
    due.extend(cleanups.requests(&observed.secrets, busy));
    let mut calls = env.schedule.take(&valid.owner.uid, due).await;
    let mut notes = Vec::new();
    for call in &calls {
        if let Some(ClusterAnswer::Reconcile(report)) = &call.answer {
            notes.extend(report.events.iter().map(|event| note(valid, &call.key, event)));
        }
    }
    let binds =
        |call: &ClusterCall| matches!(&call.answer, Some(ClusterAnswer::Reconcile(report)) if may_leave_rows(report));
    if hold_acts && calls.iter().any(binds) {
        finalizer::add(&env.client, object).await?;
        events::publish(&env.client, object, &env.instance, &notes).await;
        return Ok(Outcome::Again);
    }
    let pending = cleanups.conclude(object, &mut calls, &mut notes).await;
    let result = |cluster: &ImpCluster| {
        let entry = &cluster.spec.name;
        let call = calls.iter_mut().find(|call| call.key == *entry);
        result_of(
            cluster,
            call,
            missing.get(entry),
            last.clusters.get(entry),
            &observed.pods,
        )
    };
    let clusters: Vec<ClusterResult> = valid.imp.iter().map(result).collect();
    let routers = addresses_of_routers(valid, &clusters, &last.routers(observed)).await;
    let addresses = public_addresses(valid, observed);
    let records = records::look(valid, addresses.clone(), refresh.as_ref(), last.records.clone()).await;
    Ok(Outcome::Done(Box::new(Effects {
        clusters,
        pending,
        records,
        routers,
        addresses,
        notes,
    })))
}

/// What each cluster is asked for, and the Secrets for want of which others cannot be asked.
fn requests_of(
    valid: &ValidSpec,
    observed: &Snapshot,
    resource: &Resource<'_>,
    hold_acts: bool,
    memory: &Cache<rows::Memory>,
) -> (Vec<(String, ClusterRequest)>, BTreeMap<String, SecretError>) {
    let now = Timestamp::now();
    let mut due = Vec::new();
    let mut missing = BTreeMap::new();
    for (index, cluster) in valid.imp.iter().enumerate() {
        let entry = cluster.spec.name.clone();
        let place = place_of(valid, index);
        let wanted = desired(resource, cluster, place, &observed.secrets, &observed.pods);
        memory.with(&valid.owner.uid, |memory| {
            let last = memory.access.entry(entry.clone()).or_default();
            last.see(wanted.as_ref().ok(), now);
        });
        match wanted {
            Err(error) => {
                missing.insert(entry, error);
            }
            Ok(mut desired) => {
                desired.hold_acts = hold_acts;
                due.push((entry, ClusterRequest::Reconcile(Box::new(desired))));
            }
        }
    }
    (due, missing)
}

/// Addresses of the routers to which links are wanted.
async fn addresses_of_routers(
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
            Ok(report) if !report.nodes.is_empty() => router_addresses(cluster, &report.nodes, before).await,
            _ => before.cloned().unwrap_or_default(),
        };
        routers.insert(entry.clone(), addresses);
    }
    routers
}

/// An event, with the entry where there are several.
fn note(valid: &ValidSpec, entry: &str, event: &Event) -> Note {
    let mut note = Note::of(event);
    if valid.imp.len() > 1 {
        note.message = format!("{entry}: {}", note.message);
    }
    note
}

/// The place of an entry among the others.
fn place_of(valid: &ValidSpec, index: usize) -> Place {
    let before = valid.imp.get(..index).unwrap_or_default();
    Place {
        earlier: before
            .iter()
            .map(|cluster| Sibling {
                entry: cluster.spec.name.clone(),
                publisher: cluster.publisher(),
            })
            .collect(),
        reach: valid.imp.get(index).and_then(|cluster| rows::to_ledger(&cluster.spec)),
        only: None,
    }
}

/// What is known of a cluster now.
fn result_of(
    cluster: &ImpCluster,
    call: Option<&mut ClusterCall>,
    missing: Option<&SecretError>,
    last: Option<&ClusterObservation>,
    pods: &[EdgePod],
) -> ClusterResult {
    let entry = &cluster.spec.name;
    let current = call.as_ref().is_some_and(|call| call.current);
    let answer = call.and_then(|call| call.answer.take());
    let report = match (missing, answer) {
        (Some(error), _) => Err(Verdict::no(Reason::SecretMissing, error.to_string())),
        (None, Some(ClusterAnswer::Reconcile(report))) => Ok(*report),
        // It keeps others waiting no longer; what it said last holds until it answers.
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
        current,
        failing: !answers && !linked,
    }
}

/// Whether a deletion has something to remove: a write is due, or rows are ours already, as those
/// that a former resource gave up or retained.
fn may_leave_rows(report: &Report) -> bool {
    report.wants_to_act || !report.registrations.is_empty()
}

/// Given by hand, or what the Service shows.
fn public_addresses(valid: &ValidSpec, observed: &Snapshot) -> Vec<IpAddr> {
    if !valid.public_addresses.is_empty() {
        return valid.public_addresses.clone();
    }
    observed
        .existing
        .service
        .as_ref()
        .and_then(|s| s.data.pointer("/status/loadBalancer/ingress"))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|ingress| ingress.get("ip")?.as_str()?.parse().ok())
        .collect()
}
