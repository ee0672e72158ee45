//! The links into IM and Presence: one per XCP router, dialled by us (XEP-0114).
//!
//! Each cluster has one [`queue`]; the first link that is up takes from it, so what has not left
//! goes over another link when one breaks. A [`link`] proves by pings to our own component id
//! what the router has processed; what is unproven when it breaks is reported to its senders.

pub mod link;
pub mod queue;
mod serve;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use xmpp_federation_core::edge_config::{Endpoint, Router};
use xmpp_federation_core::edge_status::{LinkState, LinkStatus};
use xmpp_federation_core::{ComponentId, Domain};

use crate::bounce::Cause;
use crate::config::Live;
use crate::edge::Edge;
use queue::{Batch, Queue};

/// What links are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Be up.
    Run,
    /// Deliver what waits, close in an orderly way, stay down.
    Finish,
}

/// One IM and Presence cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its name in the configuration.
    pub name: String,
    /// What waits for its routers.
    pub queue: Queue,
}

/// All clusters and their links.
#[derive(Debug)]
pub struct Routers {
    clusters: Mutex<Arc<[Arc<Cluster>]>>,
    mode: watch::Sender<Mode>,
    redial: watch::Sender<u64>,
    links: TaskTracker,
    /// Links that are up or closing.
    serving: AtomicUsize,
}

impl Default for Routers {
    fn default() -> Self {
        Self {
            clusters: Mutex::new(Arc::new([])),
            mode: watch::Sender::new(Mode::Run),
            redial: watch::Sender::new(0),
            links: TaskTracker::new(),
            serving: AtomicUsize::new(0),
        }
    }
}

/// A link that is being kept up, and how to end it.
struct Running {
    router: String,
    endpoint: Endpoint,
    component_id: ComponentId,
    stop: CancellationToken,
}

impl Routers {
    /// The clusters as they are now; cheap, taken once per turn.
    pub fn clusters(&self) -> Arc<[Arc<Cluster>]> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Arc<[Arc<Cluster>]>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every link that waits dial at once.
    pub fn redial(&self) {
        self.redial.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Changes what links do.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Whether nothing waits for any router and everything written is proven or reported.
    pub fn is_settled(&self) -> bool {
        self.clusters()
            .iter()
            .all(|cluster| cluster.queue.is_settled())
    }

    /// Whether no link is up or closing.
    pub fn all_down(&self) -> bool {
        self.serving.load(Ordering::Acquire) == 0
    }

    /// Reports everything that waits for a link: an orderly stop cannot wait any longer.
    pub fn give_up(&self, edge: &Arc<Edge>) {
        for cluster in self.clusters().iter() {
            for batch in cluster.queue.clear() {
                edge.report(&batch.bytes, Cause::LinkDown);
            }
        }
    }

    /// Sends a stanza to the cluster that serves this hosted domain; `false` if none does.
    pub fn send(&self, live: &Live, domain: &Domain, stanza: bytes::Bytes) -> bool {
        match select(&self.clusters(), live, domain) {
            Some(cluster) => {
                cluster.queue.push(Batch::one(stanza));
                true
            }
            None => false,
        }
    }

    /// Keeps clusters and links as the configuration has them, until `stop`.
    pub async fn run(edge: Arc<Edge>, stop: CancellationToken) {
        let this = &edge.routers;
        let mut changes = edge.changes();
        let mut running: Vec<Running> = Vec::new();
        this.reconcile(&edge, &mut running);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                reloaded = changes.changed() => {
                    if reloaded.is_err() {
                        stop.cancelled().await;
                        break;
                    }
                    this.reconcile(&edge, &mut running);
                }
                now = tick.tick() => {
                    for cluster in this.clusters().iter() {
                        for batch in cluster.queue.expire(now) {
                            edge.report(&batch.bytes, Cause::LinkDown);
                        }
                    }
                }
            }
        }
        for link in running {
            link.stop.cancel();
        }
        this.links.close();
        this.links.wait().await;
    }

    fn reconcile(&self, edge: &Arc<Edge>, running: &mut Vec<Running>) {
        let live = edge.live();
        let old = self.clusters();
        let clusters: Arc<[_]> = live
            .config
            .routers
            .iter()
            .map(|router| {
                let known = old
                    .iter()
                    .find(|cluster| cluster.name == router.name)
                    .cloned();
                known.unwrap_or_else(|| {
                    Arc::new(Cluster {
                        name: router.name.clone(),
                        queue: Queue::default(),
                    })
                })
            })
            .collect();
        for gone in old
            .iter()
            .filter(|old| !clusters.iter().any(|c| c.name == old.name))
        {
            for batch in gone.queue.clear() {
                edge.report(&batch.bytes, Cause::LinkDown);
            }
        }
        *self.lock() = clusters.clone();

        let wanted: Vec<_> = live
            .config
            .routers
            .iter()
            .zip(clusters.iter())
            .filter_map(|(router, cluster)| {
                Some((
                    router,
                    cluster,
                    router.component_ids.get(edge.index)?.clone(),
                ))
            })
            .collect();
        running.retain(|link| {
            let keep = wanted.iter().any(|(router, _, id)| {
                link.matches(router, id) && router.endpoints.contains(&link.endpoint)
            });
            if !keep {
                link.stop.cancel();
            }
            keep
        });
        for (router, cluster, id) in wanted {
            for (rank, endpoint) in router.endpoints.iter().enumerate() {
                if running
                    .iter()
                    .any(|l| l.matches(router, &id) && l.endpoint == *endpoint)
                {
                    continue;
                }
                let stop = CancellationToken::new();
                let status = LinkStatus {
                    router: router.name.clone(),
                    node: endpoint.name.clone(),
                    address: endpoint.address.to_string(),
                    component_id: id.clone(),
                    state: LinkState::Connecting,
                    since: jiff::Timestamp::now().to_string(),
                    reason: None,
                };
                let link = link::Link::new(
                    edge.clone(),
                    cluster.clone(),
                    rank,
                    endpoint.clone(),
                    id.clone(),
                    edge.registry.add_link(status),
                );
                let (mode, redial) = (self.mode.subscribe(), self.redial.subscribe());
                self.links.spawn(link.run(mode, redial, stop.clone()));
                running.push(Running {
                    router: router.name.clone(),
                    endpoint: endpoint.clone(),
                    component_id: id.clone(),
                    stop,
                });
            }
        }
    }
}

impl Running {
    fn matches(&self, router: &Router, id: &ComponentId) -> bool {
        self.router == router.name && self.component_id == *id
    }
}

/// The cluster that gets stanzas for a hosted domain: among those that serve it, the first with a
/// link that is up, else the first.
pub fn select<'a>(
    clusters: &'a [Arc<Cluster>],
    live: &Live,
    domain: &Domain,
) -> Option<&'a Arc<Cluster>> {
    let serving = || {
        live.config
            .routers
            .iter()
            .filter(|router| router.domains.is_empty() || router.domains.contains(domain))
            .filter_map(|router| clusters.iter().find(|cluster| cluster.name == router.name))
    };
    serving()
        .find(|cluster| cluster.queue.is_up())
        .or_else(|| serving().next())
}
