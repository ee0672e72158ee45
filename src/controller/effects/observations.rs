//! What earlier reconciles saw outside Kubernetes, and what follows from it for the objects.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ClusterResult, Effects, routers};
use crate::controller::build::{ClusterSlots, RouterAddresses, Topology, pods_to_run};
use crate::controller::dereference::{EdgePod, KubeView, PodStatusError};
use crate::controller::objects::NodeAddresses;
use crate::controller::validate::ValidSpec;
use xmpp_federation_imp::report::Report;

/// An operator that has just started writes a configuration after this time, even if nothing told where links are.
const SILENCE: Duration = Duration::from_mins(10);

/// What earlier reconciles saw outside Kubernetes.
#[derive(Debug, Clone, Default)]
pub struct Observations {
    /// The clusters of IM and Presence, by entry of the spec.
    pub clusters: HashMap<String, ClusterObservation>,
    /// Addresses of the routers.
    pub routers: Option<RouterAddresses>,
    /// When the first of them ended.
    since: Option<Instant>,
}

impl Observations {
    /// Where the routers of each entry are: as known, else as the configuration says, else where pods have links now.
    pub fn routers(&self, valid: &ValidSpec, view: &KubeView) -> RouterAddresses {
        let dialled = routers::addresses_dialled(view);
        let known = self.routers.as_ref();
        let routers = valid.imp.iter().map(|cluster| {
            let entry = &cluster.spec.name;
            let told = [
                known.and_then(|known| known.get(entry)),
                routers::addresses_written(view, entry),
            ];
            let mut nodes = told.into_iter().chain([dialled.get(entry)]).flatten();
            let nodes = nodes.find(|nodes| !nodes.is_empty());
            (entry.clone(), nodes.cloned().unwrap_or_default())
        });
        routers.collect()
    }

    /// Takes in what one reconcile saw.
    pub fn note(&mut self, effects: &Effects) -> &Self {
        self.clusters = effects
            .clusters
            .iter()
            .map(|result| (result.entry.clone(), observation_of(result, &self.clusters)))
            .collect();
        self.routers = Some(effects.routers.clone());
        self.since.get_or_insert_with(Instant::now);
        self
    }

    /// What they tell of routers and pods.
    pub fn topology(&self, valid: &ValidSpec, view: &KubeView) -> Topology {
        let unwanted = |report: &Report| report.barred || report.served_by_others() || report.was_prepared();
        let mut routers = self.routers(valid, view);
        routers.retain(|entry, _| {
            let last = self.clusters.get(entry).and_then(|last| last.report.as_deref());
            !last.is_some_and(unwanted)
        });
        let running = view.existing.rollout().and_then(|rollout| rollout.replicas);
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
        let runs = view.existing.stateful_set.is_some();
        let silent = view.pods.iter().any(may_hide_links);
        let unsure = |entry: &String, nodes: &NodeAddresses| {
            let unseen = self.clusters.get(entry).is_none_or(|last| last.unseen);
            nodes.is_empty()
                && routers::addresses_written(view, entry).is_none()
                && !self.is_new(entry)
                && (unseen || silent)
        };
        let patient = self.since.is_none_or(|since| since.elapsed() < SILENCE);
        Topology {
            unsure: runs && valid.active && patient && routers.iter().any(|(entry, nodes)| unsure(entry, nodes)),
            routers,
            pods,
        }
    }

    /// Whether the last reconcile was without this entry: no pod has links for it.
    fn is_new(&self, entry: &str) -> bool {
        self.routers.as_ref().is_some_and(|known| !known.contains_key(entry))
    }
}

/// Whether a pod that does not answer may have links: it runs.
fn may_hide_links(pod: &EdgePod) -> bool {
    matches!(&pod.status, Err(PodStatusError::Edge(_))) && !pod.stopping && pod.trouble.is_none()
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
fn observation_of(result: &ClusterResult, before: &HashMap<String, ClusterObservation>) -> ClusterObservation {
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
    use crate::controller::status::testing::{World, link, report, status, world};
    use rstest::rstest;
    use serde_json::{Value, json};
    use xmpp_federation_core::edge_status::LinkState;
    use xmpp_federation_imp::reasons::Reason as ImpReason;
    use xmpp_federation_imp::report as imp;

    fn existing(kind: Kind, data: &Value) -> Arc<ExistingObject> {
        let object =
            json!({"apiVersion": "v1", "kind": kind.as_str(), "metadata": {"name": "coluc-edge"}, "data": data});
        let object = serde_json::from_value(object).unwrap();
        Arc::new(ExistingObject::new(kind, object, None))
    }

    const WRITTEN: &str = "routers:\n- name: main\n  endpoints:\n  - {name: cups, address: '10.0.0.1:7400'}\n";

    /// As another release may write it.
    const FOREIGN: &str =
        "routers:\n- name: main\n  endpoints:\n  - {name: cups, target: {host: 10.0.0.1, port: 7400}}\n";

    #[rstest]
    #[case::a_new_resource(None, false, None, "Active", &[], false)]
    #[case::the_configuration_tells(Some(WRITTEN), true, None, "Active", &["cups 10.0.0.1"], false)]
    #[case::it_is_gone_and_pods_tell(None, true, Some("[fd00::1]:7400"), "Active", &["ecup10.coluc.com fd00::1"], false)]
    #[case::nothing_tells(None, true, None, "Active", &[], true)]
    #[case::it_is_unusable_and_pods_tell(Some(FOREIGN), true, Some("10.0.0.1:7400"), "Active", &["ecup10.coluc.com 10.0.0.1"], false)]
    #[case::it_is_unusable_and_nothing_tells(Some(FOREIGN), true, None, "Active", &[], true)]
    #[case::it_is_damaged(Some("routers: ["), true, None, "Active", &[], true)]
    #[case::it_says_that_there_is_none(Some("routers:\n- {name: main, endpoints: []}\n"), true, None, "Active", &[], false)]
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
        let view = view_of(&world, written, runs);
        let topology = Observations::default().topology(&world.valid, &view);
        let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        assert_eq!((nodes(&topology), topology.unsure), (expected, unsure));
    }

    /// What a reconcile found out about a cluster that told of no node.
    #[derive(Clone, Copy)]
    enum Answer {
        NoSecret,
        NoNode,
        Others,
        Barred,
    }

    #[derive(Clone, Copy)]
    enum Pod {
        Silent,
        Starting,
        Dials,
        HasNoLink,
    }

    #[rstest]
    #[case::the_secret_is_missing(Answer::NoSecret, Pod::Silent, 0, 0, true)]
    #[case::no_node_is_known(Answer::NoNode, Pod::Silent, 0, 0, true)]
    #[case::a_pod_tells_later(Answer::NoSecret, Pod::Dials, 0, 1, false)]
    #[case::it_tells_later_of_a_cluster_without_nodes(Answer::NoNode, Pod::Dials, 0, 1, false)]
    #[case::all_pods_are_without_links(Answer::NoSecret, Pod::HasNoLink, 0, 0, false)]
    #[case::a_pod_does_not_run_yet(Answer::NoSecret, Pod::Starting, 0, 0, false)]
    #[case::others_serve_the_domain(Answer::Others, Pod::Silent, 0, 0, false)]
    #[case::another_entry_has_the_cluster(Answer::Barred, Pod::Dials, 0, 0, false)]
    #[case::nothing_told_for_long(Answer::NoSecret, Pod::Silent, 11, 0, false)]
    fn links_that_a_silent_pod_may_have_are_kept(
        #[case] answer: Answer,
        #[case] pod: Pod,
        #[case] minutes: u64,
        #[case] expected: usize,
        #[case] unsure: bool,
    ) {
        let mut world = world("/activation", json!("Active"));
        let first = world.pods.first_mut().unwrap();
        match pod {
            Pod::Silent => first.status = Err(PodStatusError::Edge(Arc::new(silence()))),
            Pod::Starting => first.status = Err(PodStatusError::NoAddress),
            Pod::Dials => {}
            Pod::HasNoLink => status(&mut world).links = Vec::new(),
        }
        let found = || {
            let mut report = report(false, false, imp::Verdict::unknown(ImpReason::Unreachable, "no answer"));
            report.nodes = Vec::new();
            report
        };
        let report = match answer {
            Answer::NoSecret => None,
            Answer::NoNode => Some(found()),
            Answer::Others => Some(Report {
                components_registered: imp::Verdict::no(ImpReason::ForeignComponents, "rows of others"),
                ..found()
            }),
            Answer::Barred => Some(Report {
                barred: true,
                ..found()
            }),
        };
        let last = ClusterObservation {
            report: report.map(Arc::new),
            unseen: false,
            failing: true,
        };
        let observations = Observations {
            clusters: HashMap::from([("main".to_owned(), last)]),
            routers: Some(RouterAddresses::from([("main".to_owned(), Vec::new())])),
            since: Instant::now().checked_sub(Duration::from_mins(minutes)),
        };
        let topology = observations.topology(&world.valid, &view_of(&world, None, true));
        assert_eq!((nodes(&topology).len(), topology.unsure), (expected, unsure));
    }

    #[test]
    fn a_new_entry_waits_for_nothing() {
        let mut world = world("/activation", json!("Active"));
        world.pods.first_mut().unwrap().status = Err(PodStatusError::Edge(Arc::new(silence())));
        let observations = Observations {
            routers: Some(RouterAddresses::new()),
            ..Observations::default()
        };
        assert!(!observations.topology(&world.valid, &view_of(&world, None, true)).unsure);
    }

    fn silence() -> crate::edges::Error {
        crate::edges::Error::Unexpected {
            address: "10.0.0.9:8080".parse().unwrap(),
            what: "HTTP 503".to_owned(),
        }
    }

    fn nodes(topology: &Topology) -> Vec<String> {
        let nodes = topology.routers.values().flatten();
        nodes.map(|(name, address)| format!("{name} {address}")).collect()
    }

    fn view_of(world: &World, written: Option<&str>, runs: bool) -> KubeView {
        let config = written.map(|text| existing(Kind::ConfigMap, &json!({"edge.yaml": text})));
        KubeView {
            secrets: Secrets::default(),
            revocation_lists: None,
            existing: ExistingObjects {
                config,
                stateful_set: runs.then(|| existing(Kind::StatefulSet, &json!({}))),
                ..ExistingObjects::default()
            },
            pods: world.pods.clone(),
            refusals: Vec::new(),
        }
    }
}
