//! What all reconciles share: the environment of the steps, and what this process remembers between
//! two of them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use kube::Client;
use parking_lot::Mutex;

use super::cache::Cache;
use super::dereference::EdgePod;
use super::environment::Environment;
use super::names::{ADMIN_PORT, Owner};
use super::schedule::Schedule;
use super::validate::Settings;
use super::{apply, change_log, effects, rows};
use crate::edges;
use crate::runtime::metrics::Metrics;
use xmpp_federation_imp::Manager;

/// Namespace and name of a Secret → names of the resources that refer to it.
pub type Referrers = HashMap<(String, String), HashSet<String>>;

/// Shared by all reconciles.
pub struct Context {
    /// Shared by their steps.
    pub environment: Environment,
    /// What edge pods said last.
    pub edges_seen: Arc<edges::watch::Watch>,
    /// Which resources refer to a Secret.
    pub referrers: Arc<Mutex<Referrers>>,
    /// What the steps remember.
    pub caches: Caches,
}

/// What is remembered of each resource. Each module has the type of its own cache.
#[derive(Default)]
pub struct Caches {
    /// Failures in a row.
    pub failures: Cache<u32>,
    /// What was accepted last.
    pub accepted: Cache<change_log::AcceptedSpec>,
    /// What was sent to the API server.
    pub sent: Cache<apply::SentObjects>,
    /// What was seen outside Kubernetes.
    pub observations: Cache<effects::Observations>,
    /// What the removal of its rows needs.
    pub rows: Cache<rows::Memory>,
}

impl Caches {
    fn forget(&self, uid: &str) {
        let Self {
            failures,
            accepted,
            sent,
            observations,
            rows,
        } = self;
        failures.forget(uid);
        accepted.forget(uid);
        sent.forget(uid);
        observations.forget(uid);
        rows.forget(uid);
    }
}

impl Context {
    /// A context that remembers nothing yet.
    pub fn new(
        client: Client,
        imp: Manager,
        edges: edges::Client,
        metrics: Metrics,
        settings: Settings,
        instance: String,
    ) -> Self {
        let imp = Arc::new(imp);
        Self {
            environment: Environment {
                client,
                schedule: Schedule::new(Arc::clone(&imp)),
                imp,
                edges,
                metrics,
                settings,
                instance,
                store: OnceLock::new(),
            },
            edges_seen: Arc::new(edges::watch::Watch::new(ADMIN_PORT)),
            referrers: Arc::default(),
            caches: Caches::default(),
        }
    }

    /// The pods whose status is asked for between reconciles.
    pub fn note_edges(&self, owner: &Owner, pods: &[EdgePod]) {
        let running = pods.iter().filter(|pod| !pod.stopping);
        self.edges_seen.saw(
            (owner.namespace.clone(), owner.name.clone()),
            running.filter_map(|pod| Some((pod.ip?, pod.status.as_ref().ok()))),
        );
    }

    /// Forgets a resource that is gone.
    pub fn forget(&self, uid: &str) {
        self.environment.imp.forget(uid);
        self.caches.forget(uid);
    }

    /// Notes which Secrets a resource refers to, before they are read: a Secret that appears right
    /// after is then seen.
    pub fn refers(&self, namespace: &str, name: &str, secrets: &[String]) {
        let mut map = self.referrers.lock();
        map.retain(|(ns, secret), names| {
            if ns == namespace && !secrets.contains(secret) {
                names.remove(name);
            }
            !names.is_empty()
        });
        for secret in secrets {
            map.entry((namespace.to_owned(), secret.clone()))
                .or_default()
                .insert(name.to_owned());
        }
    }
}
