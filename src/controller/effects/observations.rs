//! What earlier reconciles saw outside Kubernetes, and what follows from it for the objects.

use std::collections::BTreeMap;

use super::{ClusterResult, Effects, routers};
use crate::controller::build::{ClusterSlots, RouterAddresses, Topology, pods_to_run};
use crate::controller::dereference::KubeView;
use crate::controller::objects::Content;
use crate::controller::validate::ValidSpec;
use xmpp_federation_imp::report::Report;

/// What earlier reconciles saw outside Kubernetes.
#[derive(Debug, Clone, Default)]
pub struct Observations {
    /// The clusters of IM and Presence, by entry of the spec.
    pub clusters: BTreeMap<String, ClusterObservation>,
    /// Addresses of the routers.
    pub routers: Option<RouterAddresses>,
}

impl Observations {
    /// Where the routers are; for an operator that has just started, by the configuration that exists.
    pub fn routers(&self, view: &KubeView) -> RouterAddresses {
        let routers = self.routers.clone();
        routers.unwrap_or_else(|| routers::addresses_written(view))
    }

    /// Takes in what one reconcile saw.
    pub fn note(&mut self, effects: &Effects) -> &Self {
        self.clusters = effects
            .clusters
            .iter()
            .map(|result| (result.entry.clone(), observation_of(result, &self.clusters)))
            .collect();
        self.routers = Some(effects.routers.clone());
        self
    }

    /// What they tell of routers and pods.
    pub fn topology(&self, valid: &ValidSpec, view: &KubeView) -> Topology {
        let others = |report: &Report| report.served_by_others() || report.was_prepared();
        let mut routers = self.routers(view);
        routers.retain(|entry, _| {
            let last = self.clusters.get(entry).and_then(|last| last.report.as_ref());
            !last.is_some_and(others)
        });
        let running = match view.existing.stateful_set.as_ref().map(|set| &set.content) {
            Some(Content::StatefulSet(rollout)) => rollout.replicas,
            _ => None,
        };
        let clusters: Vec<ClusterSlots<'_>> = valid
            .imp
            .iter()
            .map(|cluster| {
                let last = self.clusters.get(&cluster.spec.name);
                let report = last.and_then(|last| last.report.as_ref());
                ClusterSlots {
                    domains: &cluster.domains,
                    failing: last.is_some_and(|last| last.failing),
                    slots: report.map_or(&[], |report| report.slots.as_slice()),
                }
            })
            .collect();
        // Prepared: without rows there is nothing to be in sync with.
        let pods = if valid.active {
            pods_to_run(valid.replicas, &valid.hosted, &clusters, running)
        } else {
            valid.replicas
        };
        Topology { routers, pods }
    }
}

/// One cluster as it was looked at last.
#[derive(Debug, Clone, Default)]
pub struct ClusterObservation {
    /// Its last answer.
    pub report: Option<Report>,
    /// It fails as a whole: its publisher does not answer and no link to it is up.
    pub failing: bool,
}

/// What is kept of a result: not its events, which are published once.
fn observation_of(result: &ClusterResult, before: &BTreeMap<String, ClusterObservation>) -> ClusterObservation {
    let report = match &result.report {
        Ok(report) => Some(Report {
            events: Vec::new(),
            ..report.clone()
        }),
        Err(_) => before.get(&result.entry).and_then(|last| last.report.clone()),
    };
    ClusterObservation {
        report,
        failing: result.failing,
    }
}
