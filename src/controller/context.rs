//! What all reconciles share: clients, and what this process remembers between two of them.
//! Nothing in the memory is needed for correctness: an operator that has just started reads it anew.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use kube::Client;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use parking_lot::Mutex;
use serde_json::Value;

use super::apply::Sent;
use super::build::Links;
use super::delete::LastReach;
use super::effects::Records;
use super::names::ADMIN_PORT;
use super::turns::Turns;
use super::validate::Settings;
use crate::api::XmppFederation;
use crate::edges;
use crate::runtime::metrics::Metrics;
use xmpp_federation_imp::Imp;
use xmpp_federation_imp::report::Report;

/// A resource, or what is wrong with an object that does not fit the schema of this release.
pub type Guarded = DeserializeGuard<XmppFederation>;

/// Namespace and name of a Secret → names of the resources that refer to it.
pub type Referrers = HashMap<(String, String), HashSet<String>>;

/// Shared by all reconciles.
pub struct Context {
    /// Kubernetes.
    pub client: Client,
    /// IM and Presence.
    pub imp: Arc<Imp>,
    /// What is asked of it now.
    pub turns: Turns,
    /// Edge pods.
    pub edges: edges::Client,
    /// What they said last.
    pub edges_seen: Arc<edges::watch::Watch>,
    /// Metrics.
    pub metrics: Metrics,
    /// Settings of this operator.
    pub settings: Settings,
    /// Name of this pod, for events.
    pub instance: String,
    /// All resources, as the watch knows them.
    pub store: OnceLock<Store<Guarded>>,
    /// Which resources refer to a Secret.
    pub referrers: Arc<Mutex<Referrers>>,
    /// What was sent to the API server.
    pub sent: Sent,
    /// Memory by UID.
    memory: Mutex<HashMap<String, Memory>>,
}

/// What is remembered of one resource.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// The clusters of IM and Presence, by entry of the spec.
    pub imp: BTreeMap<String, LastLook>,
    /// Addresses of the routers.
    pub links: Option<Links>,
    /// Public records.
    pub records: Option<Records>,
    /// Generation and spec that were accepted last.
    pub accepted: Option<(Option<i64>, Value)>,
    /// Failures in a row.
    pub failures: u32,
    /// How IM and Presence was reached last, for a deletion that finds the Secret gone.
    /// By entry of the spec.
    pub reach: BTreeMap<String, Option<LastReach>>,
    /// When this process began with the deletion.
    pub deleting_since: Option<Instant>,
}

/// One cluster as it was looked at last.
#[derive(Debug, Clone, Default)]
pub struct LastLook {
    /// Its last answer.
    pub report: Option<Report>,
    /// It fails as a whole: neither its publisher answers nor any link to it stands.
    pub failing: bool,
}

impl Context {
    /// A context that remembers nothing yet.
    pub fn new(
        client: Client,
        imp: Imp,
        edges: edges::Client,
        metrics: Metrics,
        settings: Settings,
        instance: String,
    ) -> Self {
        let imp = Arc::new(imp);
        Self {
            client,
            turns: Turns::new(Arc::clone(&imp)),
            imp,
            edges,
            edges_seen: Arc::new(edges::watch::Watch::new(ADMIN_PORT)),
            metrics,
            settings,
            instance,
            store: OnceLock::new(),
            referrers: Arc::default(),
            sent: Sent::default(),
            memory: Mutex::default(),
        }
    }

    /// A copy of what is remembered of a resource.
    pub fn recall(&self, uid: &str) -> Memory {
        self.memory.lock().get(uid).cloned().unwrap_or_default()
    }

    /// Changes what is remembered.
    pub fn remember(&self, uid: &str, change: impl FnOnce(&mut Memory)) {
        change(self.memory.lock().entry(uid.to_owned()).or_default());
    }

    /// Forgets a resource that is gone.
    pub fn forget(&self, uid: &str) {
        self.imp.forget(uid);
        self.memory.lock().remove(uid);
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
