//! What the steps of all reconciles share: clients, settings and metrics.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};

use super::schedule::Schedule;
use super::validate::Settings;
use crate::api::XmppFederation;
use crate::edges;
use crate::runtime::metrics::Metrics;
use xmpp_federation_imp::Manager;

/// A resource, or what is wrong with an object that does not fit the schema of this release.
pub type Guarded = DeserializeGuard<XmppFederation>;

/// Shared by all steps.
pub struct Environment {
    pub client: Client,
    pub imp: Arc<Manager>,
    /// Calls to its clusters.
    pub schedule: Schedule,
    /// Client of the edges' admin ports.
    pub edges: edges::Client,
    pub metrics: Metrics,
    /// Settings of this operator.
    pub settings: Settings,
    /// Name of this pod, for events.
    pub instance: String,
    /// All resources, as the watch knows them.
    pub store: OnceLock<Store<Guarded>>,
}

impl Environment {
    /// All readable resources that the watch knows.
    pub fn resources(&self) -> Vec<XmppFederation> {
        let objects = self.store.get().map(Store::state).unwrap_or_default();
        objects
            .iter()
            .filter_map(|object| object.0.as_ref().ok().cloned())
            .collect()
    }

    /// UIDs of all readable resources.
    pub fn live_owners(&self) -> BTreeSet<String> {
        self.resources().iter().filter_map(ResourceExt::uid).collect()
    }
}
