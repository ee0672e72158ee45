//! One running edge: its parts are made and wired together here, and stopped in order ([`drain`]).

mod drain;

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_status::SuspectCounts;

use crate::clusters::Clusters;
use crate::config::Live;
use crate::inbound::Inbound;
use crate::observe::failures::DomainFailures;
use crate::observe::metrics::{Depths, Metrics};
use crate::observe::registry::{Registry, StreamInfo, WaitingStanzas};
use crate::outbound::Outbound;
use crate::outbound::verify::Verifier;
use crate::router::{Routers, Timing};
use crate::shared::Shared;
use crate::stream::listen::Listeners;
use crate::words::Direction;

/// One edge: its parts, and what can be asked of all of them.
#[derive(Debug)]
pub struct Edge {
    shared: Arc<Shared>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Open streams, links, failing partners.
    pub registry: Arc<Registry>,
    clusters: Arc<Clusters>,
    outbound: Arc<Outbound>,
    verifier: Arc<Verifier>,
    routers: Arc<Routers>,
    inbound: Arc<Inbound>,
}

impl Edge {
    /// An edge that is not running yet.
    pub fn new(
        live: watch::Receiver<Arc<Live>>,
        index: usize,
        metrics: Arc<Metrics>,
        registry: Arc<Registry>,
    ) -> Arc<Self> {
        Self::with_timing(live, index, metrics, registry, Timing::default())
    }

    /// The same with other times on the links than a router deserves; for tests.
    pub fn with_timing(
        live: watch::Receiver<Arc<Live>>,
        index: usize,
        metrics: Arc<Metrics>,
        registry: Arc<Registry>,
        timing: Timing,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared::new(live, index, metrics.clone(), registry.clone()));
        let clusters = Arc::new(Clusters::new(shared.clone()));
        let outbound = Arc::new(Outbound::new(shared.clone(), clusters.clone()));
        let verifier = Arc::new(Verifier::new(shared.clone()));
        let routers = Routers::new(shared.clone(), clusters.clone(), outbound.clone(), timing);
        let inbound = Inbound::new(shared.clone(), clusters.clone(), outbound.clone(), verifier.clone());
        Arc::new(Self {
            shared,
            metrics,
            registry,
            clusters,
            outbound,
            verifier,
            routers: Arc::new(routers),
            inbound: Arc::new(inbound),
        })
    }

    /// The configuration in force now.
    pub fn live(&self) -> Arc<Live> {
        self.shared.live()
    }

    /// Whether it has been told to stop: `/readyz` is 503 from then on.
    pub fn draining(&self) -> bool {
        self.shared.draining()
    }

    /// The open streams, of all remote domains or of one, with what waits for ours.
    pub fn streams(&self, only: Option<&Domain>) -> Vec<StreamInfo> {
        let mut streams = self.registry.streams(only);
        for stream in &mut streams {
            let detail = &stream.detail;
            if stream.direction != Direction::Outbound.as_str() || detail.verifies {
                continue;
            }
            let pairs = detail.pairs.iter();
            let of_pairs = pairs.map(|pair| self.waiting(&pair.remote, Some(&pair.local)));
            let mut waiting = of_pairs.fold(WaitingStanzas::default(), |sum, one| WaitingStanzas {
                stanzas_waiting: sum.stanzas_waiting + one.stanzas_waiting,
                bytes_waiting: sum.bytes_waiting + one.bytes_waiting,
            });
            if let (true, Some(remote)) = (detail.pairs.is_empty(), &detail.remote) {
                waiting = self.waiting(remote, None);
            }
            stream.waiting = waiting;
        }
        streams
    }

    /// The last attempts that failed, of all remote domains or of one, with what waits for them.
    pub fn failures(&self, only: Option<&Domain>) -> Vec<DomainFailures> {
        let mut failures = self.registry.failures(only);
        for failure in &mut failures {
            failure.waiting = self.waiting(&failure.domain, None);
        }
        failures
    }

    fn waiting(&self, remote: &Domain, local: Option<&Domain>) -> WaitingStanzas {
        let (stanzas_waiting, bytes_waiting) = self.outbound.waiting(remote, local);
        WaitingStanzas {
            stanzas_waiting,
            bytes_waiting,
        }
    }

    /// What waits now.
    pub fn depths(&self) -> Depths {
        let (outbound_domains, outbound_stanzas, outbound_bytes) = self.outbound.depth();
        let clusters = self.clusters.all();
        let links = clusters.iter().map(|cluster| {
            let (stanzas, bytes) = cluster.queue.depth();
            (cluster.name.clone(), stanzas, bytes)
        });
        let suspects = clusters.iter().map(|cluster| {
            let (suspected, refused) = cluster.queue.suspects();
            (cluster.name.clone(), suspected, refused)
        });
        Depths {
            links: links.collect(),
            suspects: suspects.collect(),
            outbound_stanzas,
            outbound_bytes,
            outbound_domains,
            verifications: self.verifier.counts(),
            sent_bytes: self.outbound.sent(),
            incomplete_bytes: self.shared.incomplete.held(),
        }
    }

    /// Whether this address belongs to a configured partner, before anything is proven.
    pub fn is_partners_address(&self, live: &Live, address: IpAddr) -> bool {
        self.shared.is_partners_address(live, address)
    }

    /// Senders over whose stanzas routers may have ended links.
    pub fn suspects(&self) -> SuspectCounts {
        let mut counts = SuspectCounts::default();
        for cluster in self.clusters.all().iter() {
            let (suspected, refused) = cluster.queue.suspects();
            counts.suspected += suspected;
            counts.refused += refused;
        }
        counts
    }

    /// How many keys of peers are being verified, and how many wait for their turn.
    pub fn verifications(&self) -> (usize, usize) {
        let counts = self.verifier.counts();
        (counts.running, counts.waiting)
    }

    /// Forgets the back-off of a remote domain, or of all, and lets links dial at once.
    pub fn retry(&self, remote: Option<&Domain>) {
        let memory = &self.shared.memory;
        let of = |domain: &Domain| remote.is_none_or(|remote| remote == domain);
        memory.external.forget(|(remote, _)| of(remote));
        memory.alone.forget(|(remote, _)| of(remote));
        self.outbound.retry(remote);
        if remote.is_none() {
            self.routers.redial();
        }
        self.verifier.retry(remote);
        memory.labels.forget(of);
        memory.failed_tls.forget(of);
    }

    /// Serves until `stop` completes, then drains; returns when everything was delivered or
    /// reported, at the latest `drainDelay` and
    /// [`xmpp_federation_core::edge_config::FINISH_AT_MOST`] after `stop`.
    pub async fn run(self: Arc<Self>, listeners: impl Into<Listeners>, stop: impl Future<Output = ()> + Send) {
        drain::run(self, listeners.into(), stop).await;
    }
}
