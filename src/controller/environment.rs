//! What the steps of all reconciles share: clients, settings, metrics, and what is known of the world.

use std::sync::Arc;

use jiff::Timestamp;
use kube::Client;
use parking_lot::Mutex;

use super::events::{Note, Recorder};
use super::kube::Kind;
use super::names::{ObjectName, Owner};
use super::observer::{Observation, Observer};
use super::questions::{ClusterAnswer, ClusterQuestion, RecordsAnswer, RecordsQuestion, RoutersQuestion};
use super::queue::Queue;
use super::snapshot::Snapshot;
use super::snapshots::Snapshots;
use super::turns::{Report as TurnReport, Roster};
use super::validate::Settings;
use crate::edges::watch::Watch;
use crate::records::RecordResolvers;
use crate::runtime::metrics::Metrics;
use xmpp_federation_imp::Manager;
use xmpp_federation_imp::reasons::Reason;
use xmpp_federation_imp::report::{Event, Report};

/// Shared by all steps.
pub struct Environment {
    pub client: Client,
    /// What the API server holds.
    pub snapshots: Snapshots,
    /// Resources to be reconciled.
    pub queue: Arc<Queue>,
    pub imp: Arc<Manager>,
    pub observers: Observers,
    pub metrics: Metrics,
    /// Settings of this operator.
    pub settings: Settings,
    /// What is told about resources.
    pub events: Recorder,
    /// Whose edge pods are replaced because of the release.
    pub turns: Mutex<Roster>,
}

/// What is outside Kubernetes, as it was seen last.
pub struct Observers {
    /// Running edge pods.
    pub edges: Arc<Watch>,
    /// Clusters of IM and Presence, by entry of the spec.
    pub clusters: Observer<ClusterQuestion, ClusterAnswer>,
    /// Public records: our own, and partners'.
    pub records: Observer<RecordsQuestion, RecordsAnswer>,
    /// What asks for them.
    pub resolvers: Arc<RecordResolvers>,
    /// Addresses of routers, by entry of the spec and name of the node.
    pub routers: Observer<RoutersQuestion, Vec<(String, Option<String>)>>,
}

impl Observers {
    /// Forgets a resource that is gone.
    pub fn forget(&self, uid: &str) {
        let Self {
            edges: _,
            resolvers: _,
            clusters,
            records,
            routers,
        } = self;
        clusters.forget(uid);
        records.forget(uid);
        routers.forget(uid);
    }
}

impl Environment {
    /// Every kind is listed: turns that began are on the `StatefulSets`.
    pub fn begin_turns(&self) {
        let resources = self.snapshots.resources.named().into_iter().map(|(name, _)| name);
        let sets = self.snapshots.objects(Kind::StatefulSet).map(Snapshot::named);
        let turns = sets.into_iter().flatten().filter_map(|(of, set)| {
            let turn = set.rollout()?.template.turn.clone()?;
            let name = set.instance.as_deref()?.to_owned();
            Some((ObjectName { name, ..of }, turn))
        });
        self.turns.lock().begin(resources, turns, Timestamp::now());
    }

    /// Tells the others how far a federation is with the release.
    pub fn report_turn(&self, name: &ObjectName, report: TurnReport) {
        let now = Timestamp::now();
        let (wake, count) = {
            let mut turns = self.turns.lock();
            (turns.report(name, report, now), turns.count(now))
        };
        self.metrics.upgrades(count.waiting, count.rolling, count.halted);
        for name in wake {
            self.queue.wake(name);
        }
    }

    /// A cluster may be free now: resources that wait for one ask again.
    pub fn cluster_freed(&self) {
        self.observers.clusters.ask_again(|answer| {
            let waits = |report: &Report| report.components_registered.reason == Reason::ClaimedByAnother;
            matches!(answer, ClusterAnswer::Reconcile(report) if waits(report))
        });
    }

    /// What clusters did and found since the last reconcile, as notes; `several`: each with the entry's name.
    pub fn cluster_notes(&self, owner: &Owner, several: bool) -> Vec<Note> {
        let note = |name: &str, event: &Event| {
            let mut note = Note::of(event);
            if several && !name.contains(' ') {
                note.message = format!("{name}: {}", note.message);
            }
            note
        };
        let news = self.observers.clusters.take_news(&owner.uid);
        let freed = |answer: &ClusterAnswer| matches!(answer, ClusterAnswer::Remove(removal) if removal.done);
        if news.iter().any(|(_, answer)| freed(answer)) {
            self.cluster_freed();
        }
        let notes = news.iter().flat_map(|(name, answer)| {
            let events = match &**answer {
                ClusterAnswer::Reconcile(report) => &report.events,
                ClusterAnswer::Remove(removal) => &removal.events,
            };
            events.iter().map(|event| note(name, event))
        });
        notes.collect()
    }

    /// What a cluster of IM and Presence answered last, by the caller's name for it: nothing before its first answer, and
    /// the answer to an earlier question until `current`. This call may start the next look, one step of the cluster's work,
    /// if the question changed or the last answer is due again. That look's own answer wakes the resource, and the next call
    /// returns it.
    pub fn ask_cluster(
        &self,
        owner: &Owner,
        name: &str,
        question: &ClusterQuestion,
    ) -> Option<Observation<ClusterAnswer>> {
        let (imp, asked) = (Arc::clone(&self.imp), question.clone());
        let due = |answer: &ClusterAnswer, age| match answer {
            ClusterAnswer::Reconcile(report) => age >= report.requeue_after,
            ClusterAnswer::Remove(removal) => !removal.done && age >= removal.requeue_after,
        };
        let clusters = &self.observers.clusters;
        clusters.look(owner, name, question, due, |_| async move {
            // In boxes: hundreds that are due at once wait for their turn, and a task that waits for it is small.
            match asked {
                ClusterQuestion::Reconcile(desired) => {
                    ClusterAnswer::Reconcile(Arc::new(Box::pin(imp.reconcile(&desired)).await))
                }
                ClusterQuestion::Remove(desired) => {
                    ClusterAnswer::Remove(Box::new(Box::pin(imp.remove(&desired)).await))
                }
            }
        })
    }
}
