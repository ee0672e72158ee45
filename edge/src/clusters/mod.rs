//! What waits for the IM and Presence clusters: one [`queue`] each, from which the links take ([`crate::router`]).
//!
//! Senders over whose stanzas routers ended links wait apart ([`suspects`]).

pub mod batch;
mod class;
pub mod queue;
pub mod room;
pub(crate) mod suspects;

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use xmpp_federation_core::Domain;
use xmpp_federation_xml::{ns, split};

use crate::bounce::{Cause, bounce};
use crate::config::Live;
use crate::jid::{DomainCache, Side};
use crate::shared::Shared;
use batch::{Batch, Source};
use queue::Queue;

/// One IM and Presence cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its name in the configuration.
    pub name: String,
    /// What waits for its routers.
    pub queue: Queue,
}

/// All clusters of the configuration in force.
#[derive(Debug)]
pub(crate) struct Clusters {
    shared: Arc<Shared>,
    all: Mutex<Arc<[Arc<Cluster>]>>,
}

impl Clusters {
    /// None yet.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            all: Mutex::new(Arc::new([])),
        }
    }

    /// The clusters as they are now; cheap, taken once per turn.
    pub(crate) fn all(&self) -> Arc<[Arc<Cluster>]> {
        self.all.lock().clone()
    }

    /// Others from now on.
    pub(crate) fn replace(&self, clusters: Arc<[Arc<Cluster>]>) {
        *self.all.lock() = clusters;
    }

    /// Whether nothing waits for any router and everything written is proven or reported.
    pub(crate) fn is_settled(&self) -> bool {
        self.all().iter().all(|cluster| cluster.queue.is_settled())
    }

    /// Sends an answer to the cluster that serves this hosted domain; `false` if none does.
    pub(crate) fn send(&self, live: &Live, domain: &Domain, stanza: Bytes) -> bool {
        select(&self.all(), live, domain)
            .is_some_and(|cluster| cluster.queue.push(&Source::Edge, Batch::one(stanza)).is_ok())
    }

    /// Tells the hosted senders of stanzas, written for server streams, that they did not arrive.
    pub(crate) fn report(&self, stanzas: &[u8], cause: Cause) {
        let live = self.shared.live();
        let mut domains = DomainCache::default();
        for stanza in split(stanzas, ns::SERVER) {
            let stanza = Side::Link.respell(&stanza, &mut domains);
            let local = stanza.from().and_then(|from| domains.domain_of(&from));
            let told = match (bounce(&stanza, cause), local) {
                (Some(error), Some(local)) => self.send(&live, &local, error),
                _ => false,
            };
            self.shared.count_report(told, cause);
        }
    }
}

/// The cluster that gets stanzas for a hosted domain: among those that serve it, the first with a
/// link that is up, if possible to a router that has a way back to us; else the first.
pub fn select<'a>(clusters: &'a [Arc<Cluster>], live: &Live, domain: &Domain) -> Option<&'a Arc<Cluster>> {
    let serving = || {
        live.config
            .routers
            .iter()
            .filter(|router| router.domains.is_empty() || router.domains.contains(domain))
            .filter_map(|router| clusters.iter().find(|cluster| cluster.name == router.name))
    };
    serving()
        .find(|cluster| cluster.queue.is_well())
        .or_else(|| serving().find(|cluster| cluster.queue.is_up()))
        .or_else(|| serving().next())
}

/// The cluster that gets what waits for one without any link: the first with a link that is up among those that serve at
/// least the same domains (an intercluster peer).
pub fn peer_of<'a>(clusters: &'a [Arc<Cluster>], live: &Live, down: &str) -> Option<&'a Arc<Cluster>> {
    let routers = &live.config.routers;
    let domains = &routers.iter().find(|router| router.name == down)?.domains;
    routers
        .iter()
        .filter(|router| {
            router.domains.is_empty() || (!domains.is_empty() && domains.iter().all(|d| router.domains.contains(d)))
        })
        .filter_map(|router| clusters.iter().find(|cluster| cluster.name == router.name))
        .find(|cluster| cluster.queue.is_up())
}
