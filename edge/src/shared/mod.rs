//! What all parts of one edge share. Nothing in it knows of streams, routes or links.

mod notes;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::bounce::Cause;
use crate::config::Live;
use crate::observe::log_rate::LogRate;
use crate::observe::metrics::Metrics;
use crate::observe::registry::Registry;
use crate::partners::Partners;
use crate::peer_memory::PeerMemory;
use crate::stream::incomplete::Incomplete;

/// The configuration in force, what can be seen, and what is remembered of peers.
#[derive(Debug)]
pub(crate) struct Shared {
    live: watch::Receiver<Arc<Live>>,
    /// Which of the component ids this process uses.
    pub(crate) index: usize,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Open streams, links, failing partners.
    pub(crate) registry: Arc<Registry>,
    pub(crate) memory: PeerMemory,
    pub(crate) partners: Partners,
    pub(crate) log_rate: LogRate,
    pub(crate) incomplete: Arc<Incomplete>,
    draining: AtomicBool,
}

impl Shared {
    pub(crate) fn new(
        live: watch::Receiver<Arc<Live>>,
        index: usize,
        metrics: Arc<Metrics>,
        registry: Arc<Registry>,
    ) -> Self {
        let budget = live.borrow().budget.clone();
        registry.follow(live.clone());
        Self {
            live,
            index,
            metrics,
            registry,
            memory: PeerMemory::new(budget.remembered),
            partners: Partners::new(2 * budget.remembered),
            log_rate: LogRate::default(),
            incomplete: Incomplete::new(budget.incomplete),
            draining: AtomicBool::new(false),
        }
    }

    /// The configuration in force now.
    pub(crate) fn live(&self) -> Arc<Live> {
        self.live.borrow().clone()
    }

    /// To be told of reloads from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Live>> {
        let mut changes = self.live.clone();
        changes.mark_unchanged();
        changes
    }

    /// Whether the edge was told to stop.
    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether this address belongs to a configured partner, before anything is proven.
    pub(crate) fn is_partners_address(&self, live: &Live, address: IpAddr) -> bool {
        self.partners.owns(&live.policy, address)
    }

    /// Counts a stanza that did not arrive; `told`: its sender gets an error.
    pub(crate) fn count_report(&self, told: bool, cause: Cause) {
        if told {
            self.metrics.bounced(cause.as_str());
        } else {
            self.metrics.dropped(cause.as_str());
        }
    }
}
