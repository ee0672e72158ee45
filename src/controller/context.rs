//! What all reconciles share: the environment of the steps, and what this process remembers between
//! two of them.

use std::collections::HashMap;
use std::sync::Arc;

use kube::Client;
use parking_lot::Mutex;

use super::cache::Cache;
use super::environment::{Environment, Observers};
use super::events::Recorder;
use super::names::{ADMIN_PORT, ObjectName};
use super::observer::Observer;
use super::queue::Queue;
use super::record::Turn;
use super::snapshots::Snapshots;
use super::turns::{Report, Roster};
use super::validate::Settings;
use super::{apply, change_log, effects, requeue, rows};
use crate::edges;
use crate::runtime::metrics::{Metrics, Resource as ResourceLabel};
use xmpp_federation_imp::Manager;

/// Shared by all reconciles.
pub struct Context {
    /// Shared by their steps.
    pub environment: Environment,
    /// What the steps remember.
    pub caches: Caches,
    /// UIDs of the resources that were reconciled.
    uids: Mutex<HashMap<ObjectName, String>>,
}

/// What is remembered of each resource. Each module has the type of its own cache.
#[derive(Default)]
pub struct Caches {
    /// Since when something fails.
    pub troubles: Cache<requeue::Trouble>,
    /// What was accepted last.
    pub accepted: Cache<change_log::AcceptedSpec>,
    /// What was sent to the API server.
    pub sent: Cache<apply::SentObjects>,
    /// What was seen outside Kubernetes.
    pub observations: Cache<effects::Observations>,
    /// What the removal of its rows needs.
    pub rows: Cache<rows::Memory>,
    /// The turn that is over.
    pub turns: Cache<Option<Turn>>,
}

impl Caches {
    fn forget(&self, uid: &str) {
        let Self {
            troubles,
            accepted,
            sent,
            observations,
            rows,
            turns,
        } = self;
        troubles.forget(uid);
        accepted.forget(uid);
        sent.forget(uid);
        observations.forget(uid);
        rows.forget(uid);
        turns.forget(uid);
    }
}

impl Context {
    /// A context that knows nothing yet.
    pub fn new(
        client: Client,
        imp: Manager,
        edges: edges::Client,
        metrics: Metrics,
        settings: Settings,
        instance: String,
    ) -> Self {
        let queue = Arc::new(Queue::default());
        let wake = Arc::clone(&queue);
        let edges = edges::watch::Watch::new(edges, ADMIN_PORT, move |(namespace, name)| {
            wake.wake(ObjectName { namespace, name });
        });
        Self {
            environment: Environment {
                events: Recorder::new(client.clone(), instance),
                client,
                snapshots: Snapshots::default(),
                imp: Arc::new(imp),
                observers: Observers {
                    edges,
                    resolvers: Arc::default(),
                    clusters: Observer::new(Arc::clone(&queue)),
                    records: Observer::new(Arc::clone(&queue)),
                    routers: Observer::new(Arc::clone(&queue)),
                },
                queue,
                metrics,
                turns: Mutex::new(Roster::new(
                    settings.upgrades_at_once.into(),
                    settings.upgrade_timeout.0,
                )),
                settings,
            },
            caches: Caches::default(),
            uids: Mutex::default(),
        }
    }

    /// The resource of that name has that UID now, or is gone: what was known of another one is forgotten.
    pub fn is_now(&self, name: &ObjectName, uid: Option<&str>) {
        let before = {
            let mut uids = self.uids.lock();
            match uid {
                Some(uid) => uids.insert(name.clone(), uid.to_owned()),
                None => uids.remove(name),
            }
        };
        let Some(before) = before.filter(|before| Some(before.as_str()) != uid) else {
            return;
        };
        let env = &self.environment;
        env.imp.forget(&before);
        env.events.forget(&before);
        env.metrics.forget(&ResourceLabel {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
        });
        env.observers.forget(&before);
        env.observers.edges.forget(&(name.namespace.clone(), name.name.clone()));
        env.snapshots.references.refer(name, &[]);
        env.cluster_freed();
        env.report_turn(name, Report::Gone);
        self.caches.forget(&before);
    }
}
