//! The links into IM and Presence: one per XCP router, dialled by us (XEP-0114).
//!
//! Each cluster has one [`queue`]; the first link that is up takes from it, so what has not left
//! goes over another link when one breaks. A [`link`] proves by pings to our own component id
//! what the router has processed; what is unproven when it breaks is reported to its senders, and if
//! the router ended the link over a stanza, they are `suspects`. What
//! comes back although the link is up is counted by [`returned`].
//! With profile Xcp each stanza travels in an `envelope`, and a router's `announcement` of one of our
//! component ids, which only other links of ours see, says whether we are its gateway.

mod announcement;
mod aside;
mod envelope;
mod link;
mod serve;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use xmpp_federation_core::ComponentId;
use xmpp_federation_core::edge_config::{Endpoint, LinkProfile, Router};
use xmpp_federation_core::edge_status::{LinkState, LinkStatus};

use crate::bounce::Cause;
use crate::clusters::queue::Queue;
use crate::clusters::room::Room;
use crate::clusters::{Cluster, Clusters, peer_of};
use crate::observe::links::LinkEntry;
use crate::outbound::Outbound;
use crate::shared::Shared;

/// What links are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Be up.
    Run,
    /// Deliver what waits, close in an orderly way, stay down.
    Finish,
}

/// How long links wait for what. Not configurable: the defaults follow from what a router does;
/// tests shorten them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A router that does not answer our ping for so long processes nothing; 20 s.
    pub echo: Duration,
    /// A silent link is pinged this often, so that a router that is dead or cut off is noticed
    /// within half a minute; 5 s.
    pub quiet: Duration,
    /// How long a stanza may wait for a link; 30 s.
    pub hold: Duration,
    /// How long a link whose turn begins waits for the proof of what the last one wrote, so that
    /// the order within a pair is kept; 2 s.
    pub handover: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            echo: Duration::from_secs(20),
            quiet: Duration::from_secs(5),
            hold: Duration::from_secs(30),
            handover: Duration::from_secs(2),
        }
    }
}

/// All clusters and their links.
#[derive(Debug)]
pub(crate) struct Routers {
    shared: Arc<Shared>,
    clusters: Arc<Clusters>,
    /// Where stanzas of routers go on, and errors for remote senders.
    outbound: Arc<Outbound>,
    timing: Timing,
    mode: watch::Sender<Mode>,
    redial: watch::Sender<u64>,
    links: TaskTracker,
    /// Links that are up or closing.
    serving: AtomicUsize,
}

/// A link that is being kept up, and how to end it.
struct RunningLink {
    router: String,
    endpoint: Endpoint,
    component_id: ComponentId,
    profile: LinkProfile,
    entry: Arc<LinkEntry>,
    stop: CancellationToken,
}

impl Routers {
    /// No link yet.
    pub(crate) fn new(shared: Arc<Shared>, clusters: Arc<Clusters>, outbound: Arc<Outbound>, timing: Timing) -> Self {
        Self {
            shared,
            clusters,
            outbound,
            timing,
            mode: watch::Sender::new(Mode::Run),
            redial: watch::Sender::new(0),
            links: TaskTracker::new(),
            serving: AtomicUsize::new(0),
        }
    }

    /// Makes every link that waits dial at once.
    pub fn redial(&self) {
        self.redial.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Changes what links do.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Whether no link is up or closing.
    pub fn all_down(&self) -> bool {
        self.serving.load(Ordering::Acquire) == 0
    }

    /// Reports everything that waits for a link: an orderly stop cannot wait any longer.
    pub fn give_up(&self) {
        for cluster in self.clusters.all().iter() {
            for batch in cluster.queue.clear() {
                self.outbound.report(&batch.bytes, Cause::LinkDown);
            }
        }
    }

    /// Drops everything that waits for a link, when nobody can be told any more; gives the number
    /// of stanzas.
    pub fn abandon(&self) -> usize {
        let mut stanzas = 0;
        for cluster in self.clusters.all().iter() {
            for batch in cluster.queue.clear() {
                stanzas += batch.count;
            }
        }
        for _ in 0..stanzas {
            self.shared.metrics.dropped(Cause::LinkDown.as_str());
        }
        stanzas
    }

    /// What waits for a cluster without any link goes to one that has a link and serves at least
    /// the same domains (an intercluster peer).
    fn pass_on(&self, down: &Arc<Cluster>) {
        if down.queue.is_up() || (down.queue.is_empty() && down.queue.suspects() == (0, 0)) {
            return;
        }
        let (live, clusters) = (self.shared.live(), self.clusters.all());
        let peer = peer_of(&clusters, &live, &down.name);
        if let Some(peer) = peer {
            for batch in down.queue.move_to(&peer.queue) {
                self.outbound.report(&batch.bytes, Cause::LinkDown);
            }
        }
    }

    /// Keeps clusters and links as the configuration has them, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.shared.changes();
        let mut running: Vec<RunningLink> = Vec::new();
        self.reconcile(&mut running);
        let hold = self.timing.hold;
        let mut tick = tokio::time::interval((hold / 4).min(Duration::from_secs(1)));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                reloaded = changes.changed() => {
                    if reloaded.is_err() {
                        stop.cancelled().await;
                        break;
                    }
                    self.reconcile(&mut running);
                }
                now = tick.tick() => {
                    for cluster in self.clusters.all().iter() {
                        self.pass_on(cluster);
                        for batch in cluster.queue.expire(now, hold) {
                            self.outbound.report(&batch.bytes, Cause::LinkDown);
                        }
                        self.outbound.report_refused(&cluster.queue);
                    }
                }
            }
        }
        for link in running {
            link.stop.cancel();
        }
        self.links.close();
        self.links.wait().await;
    }

    fn reconcile(self: &Arc<Self>, running: &mut Vec<RunningLink>) {
        let live = self.shared.live();
        let old = self.clusters.all();
        let clusters: Arc<[_]> = live
            .config
            .routers
            .iter()
            .map(|router| {
                let known = old.iter().find(|cluster| cluster.name == router.name).cloned();
                known.unwrap_or_else(|| {
                    Arc::new(Cluster {
                        name: router.name.clone(),
                        queue: Queue::new(self.timing.handover),
                    })
                })
            })
            .collect();
        for gone in old.iter().filter(|old| !clusters.iter().any(|c| c.name == old.name)) {
            // Its links deliver what waits before they close; without a link nobody does.
            for batch in gone.queue.close() {
                self.outbound.report(&batch.bytes, Cause::LinkDown);
            }
        }
        let room = Room::of(live.budget.links, clusters.len());
        for cluster in clusters.iter() {
            cluster.queue.set_room(room);
        }
        self.clusters.replace(clusters.clone());

        let wanted: Vec<_> = live
            .config
            .routers
            .iter()
            .zip(clusters.iter())
            .filter_map(|(router, cluster)| {
                Some((router, cluster, router.component_ids.get(self.shared.index)?.clone()))
            })
            .collect();
        running.retain(|link| {
            let keep = wanted
                .iter()
                .any(|(router, _, id)| link.matches(router, id) && router.endpoints.contains(&link.endpoint));
            if !keep {
                link.stop.cancel();
            }
            keep
        });
        for (router, cluster, id) in wanted {
            for (rank, endpoint) in router.endpoints.iter().enumerate() {
                let known = running
                    .iter()
                    .find(|l| l.matches(router, &id) && l.endpoint == *endpoint);
                if let Some(known) = known {
                    known.entry.move_to(|place| place.rank = rank);
                    continue;
                }
                let stop = CancellationToken::new();
                let status = LinkStatus {
                    router: router.name.clone(),
                    node: endpoint.name.clone(),
                    address: endpoint.address.to_string(),
                    component_id: id.to_string(),
                    state: LinkState::Connecting.into(),
                    since: jiff::Timestamp::now().to_string(),
                    reason: None,
                    last_up: None,
                    returned: None,
                    open_seconds: None,
                    announced: None,
                    sightings: Vec::new(),
                };
                let entry = self.shared.registry.add_link(status);
                entry.move_to(|place| place.rank = rank);
                let link = link::Link::new(
                    self.clone(),
                    cluster.clone(),
                    endpoint.clone(),
                    (id.clone(), router.profile),
                    entry.clone(),
                );
                let (mode, redial) = (self.mode.subscribe(), self.redial.subscribe());
                self.links.spawn(link.run(mode, redial, stop.clone()));
                running.push(RunningLink {
                    router: router.name.clone(),
                    endpoint: endpoint.clone(),
                    component_id: id.clone(),
                    profile: router.profile,
                    entry,
                    stop,
                });
            }
        }
    }
}

impl RunningLink {
    fn matches(&self, router: &Router, id: &ComponentId) -> bool {
        self.router == router.name && self.component_id == *id && self.profile == router.profile
    }
}
