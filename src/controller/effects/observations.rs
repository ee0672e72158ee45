//! What earlier reconciles saw outside Kubernetes, and what follows from it for the objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ClusterResult, Effects, routers};
use crate::controller::build::{ClusterSlots, RouterAddresses, Topology, pods_to_run};
use crate::controller::dereference::KubeView;
use crate::controller::objects::Content;
use crate::controller::validate::{ImpCluster, ValidSpec};
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
    /// Where the routers are; for an operator that has just started, where links are now.
    pub fn routers(&self, view: &KubeView) -> RouterAddresses {
        let routers = self.routers.clone();
        routers.unwrap_or_else(|| routers::addresses_in_use(view))
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
            let last = self.clusters.get(entry).and_then(|last| last.report.as_deref());
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
                let report = last.and_then(|last| last.report.as_deref());
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
        let unseen = |cluster: &ImpCluster| {
            let name = &cluster.spec.name;
            routers.get(name).is_none_or(Vec::is_empty) && self.clusters.get(name).is_none_or(|last| last.unseen)
        };
        let kept = view.existing.config.is_none() && view.existing.stateful_set.is_some();
        Topology {
            unsure: kept && valid.active && valid.imp.iter().any(unseen),
            routers,
            pods,
        }
    }
}

/// One cluster as it was looked at last.
#[derive(Debug, Clone, Default)]
pub struct ClusterObservation {
    /// Its last answer.
    pub report: Option<Arc<Report>>,
    /// It was not looked at yet.
    pub unseen: bool,
    /// It fails as a whole: its publisher does not answer and no link to it is up.
    pub failing: bool,
}

/// What is kept of a result.
fn observation_of(result: &ClusterResult, before: &BTreeMap<String, ClusterObservation>) -> ClusterObservation {
    let report = match &result.report {
        Ok(report) => Some(Arc::clone(report)),
        Err(_) => before.get(&result.entry).and_then(|last| last.report.clone()),
    };
    ClusterObservation {
        report,
        unseen: result.is_unseen(),
        failing: result.failing,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;

    use super::*;
    use crate::controller::dereference::ExistingObjects;
    use crate::controller::kube::Kind;
    use crate::controller::objects::ExistingObject;
    use crate::controller::references::Secrets;
    use crate::controller::status::testing::{link, status, world};
    use rstest::rstest;
    use serde_json::{Value, json};
    use xmpp_federation_core::edge_status::LinkState;

    fn existing(kind: Kind, data: &Value) -> Arc<ExistingObject> {
        let object =
            json!({"apiVersion": "v1", "kind": kind.as_str(), "metadata": {"name": "coluc-edge"}, "data": data});
        let object = serde_json::from_value(object).unwrap();
        Arc::new(ExistingObject::new(kind, object, None))
    }

    const WRITTEN: &str = "routers:\n- name: main\n  endpoints:\n  - {name: cups, address: '10.0.0.1:7400'}\n";

    #[rstest]
    #[case::a_new_resource(None, false, None, "Active", &[], false)]
    #[case::the_configuration_tells(Some(WRITTEN), true, None, "Active", &["cups 10.0.0.1"], false)]
    #[case::it_is_gone_and_pods_tell(None, true, Some("[fd00::1]:7400"), "Active", &["ecup10.coluc.com fd00::1"], false)]
    #[case::nothing_tells(None, true, None, "Active", &[], true)]
    #[case::no_link_is_wanted(None, true, None, "Prepared", &[], false)]
    fn an_operator_that_has_just_started_goes_on_with_the_addresses_in_use(
        #[case] written: Option<&str>,
        #[case] runs: bool,
        #[case] dialled: Option<&str>,
        #[case] activation: &str,
        #[case] expected: &[&str],
        #[case] unsure: bool,
    ) {
        let mut world = world("/activation", json!(activation));
        status(&mut world).links = Vec::new();
        if let Some(address) = dialled {
            let mut link = link(LinkState::Up);
            address.clone_into(&mut link.address);
            status(&mut world).links = vec![link.clone(), link];
        }
        let config = written.map(|text| existing(Kind::ConfigMap, &json!({"edge.yaml": text})));
        let view = KubeView {
            secrets: Secrets::default(),
            revocation_lists: None,
            existing: ExistingObjects {
                config,
                stateful_set: runs.then(|| existing(Kind::StatefulSet, &json!({}))),
                ..ExistingObjects::default()
            },
            pods: world.pods.clone(),
        };
        let topology = Observations::default().topology(&world.valid, &view);
        let nodes = topology.routers.values().flatten();
        let nodes: Vec<String> = nodes.map(|(name, address)| format!("{name} {address}")).collect();
        assert_eq!(
            (nodes.as_slice(), topology.unsure),
            (
                &expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..],
                unsure
            )
        );
    }
}
