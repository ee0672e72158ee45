//! What waits for the IM and Presence clusters: one [`queue`] each, from which the links take ([`crate::router`]).
//!
//! Senders over whose stanzas routers ended links wait apart ([`suspects`]).

pub mod batch;
pub mod queue;
pub mod room;
pub(crate) mod suspects;

use std::sync::Arc;

use xmpp_federation_core::Domain;

use crate::config::Live;
use queue::Queue;

/// One IM and Presence cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its name in the configuration.
    pub name: String,
    /// What waits for its routers.
    pub queue: Queue,
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
