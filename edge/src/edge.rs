//! One running edge: the state all tasks share, and how stanzas that did not arrive are reported.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_status::SuspectCounts;

use crate::bounce::{Cause, bounce};
use crate::clusters::queue::Queue;
use crate::config::Live;
use crate::inbound::Inbound;
use crate::jid::DomainCache;
use crate::jid::Side;
use crate::observe::failures::DomainFailures;
use crate::observe::log_rate::LogRate;
use crate::observe::metrics::{Depths, Metrics};
use crate::observe::registry::{Registry, StreamInfo, Waiting};
use crate::outbound::Outbound;
use crate::outbound::verify::Verifier;
use crate::partners::Partners;
use crate::peer_memory::PeerMemory;
use crate::router::{Routers, Timing};
use crate::stream::incomplete::Incomplete;
use crate::stream::listen::Listeners;
use crate::words::Direction;
use xmpp_federation_xml::ns;
use xmpp_federation_xml::split;

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
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
    pub(crate) verifier: Verifier,
    pub(crate) routers: Routers,
    pub(crate) memory: PeerMemory,
    pub(crate) partners: Partners,
    pub(crate) log_rate: LogRate,
    pub(crate) incomplete: Arc<Incomplete>,
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
        let budget = live.borrow().budget.clone();
        registry.follow(live.clone());
        Arc::new(Self {
            live,
            index,
            metrics,
            registry,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            verifier: Verifier::new(budget.verifications, budget.remembered),
            routers: Routers::new(timing),
            memory: PeerMemory::new(budget.remembered),
            partners: Partners::new(2 * budget.remembered),
            log_rate: LogRate::default(),
            incomplete: Incomplete::new(budget.incomplete),
            draining: AtomicBool::new(false),
        })
    }

    /// The configuration in force now.
    pub fn live(&self) -> Arc<Live> {
        self.live.borrow().clone()
    }

    /// To be told of reloads from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Live>> {
        let mut changes = self.live.clone();
        changes.mark_unchanged();
        changes
    }

    /// Whether it has been told to stop: `/readyz` is 503 from then on.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
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
            let mut waiting = of_pairs.fold(Waiting::default(), |sum, one| Waiting {
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

    fn waiting(&self, remote: &Domain, local: Option<&Domain>) -> Waiting {
        let (stanzas_waiting, bytes_waiting) = self.outbound.waiting(remote, local);
        Waiting {
            stanzas_waiting,
            bytes_waiting,
        }
    }

    /// What waits now.
    pub fn depths(&self) -> Depths {
        let (outbound_domains, outbound_stanzas, outbound_bytes) = self.outbound.depth();
        let clusters = self.routers.clusters();
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
            incomplete_bytes: self.incomplete.held(),
        }
    }

    /// Whether this address belongs to a configured partner, before anything is proven.
    pub fn is_partners_address(&self, live: &Live, address: IpAddr) -> bool {
        self.partners.owns(&live.policy, address)
    }

    /// Senders over whose stanzas routers may have ended links.
    pub fn suspects(&self) -> SuspectCounts {
        let mut counts = SuspectCounts::default();
        for cluster in self.routers.clusters().iter() {
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
        let of = |domain: &Domain| remote.is_none_or(|remote| remote == domain);
        self.memory.external.forget(|(remote, _)| of(remote));
        self.memory.alone.forget(|(remote, _)| of(remote));
        self.outbound.retry(remote);
        if remote.is_none() {
            self.routers.redial();
        }
        self.verifier.retry(remote);
        self.memory.labels.forget(of);
        self.memory.failed_tls.forget(of);
    }

    /// Serves until `stop` completes, then drains; returns when everything was delivered or
    /// reported, at the latest `drainDelay` and
    /// [`xmpp_federation_core::edge_config::FINISH_AT_MOST`] after `stop`.
    pub async fn run(self: Arc<Self>, listeners: impl Into<Listeners>, stop: impl Future<Output = ()> + Send) {
        crate::drain::run(self, listeners.into(), stop).await;
    }

    /// Tells the remote senders of stanzas, written for links, that they did not arrive.
    pub(crate) fn report(self: &Arc<Self>, stanzas: &[u8], cause: Cause) {
        let live = self.live();
        let mut domains = DomainCache::default();
        for stanza in split(stanzas, ns::COMPONENT) {
            let stanza = Side::Peer(&self.memory.labels).respell(&stanza, &mut domains);
            let local = stanza.to().and_then(|to| domains.domain_of(&to));
            let remote = stanza.from().and_then(|from| domains.domain_of(&from));
            let told = match (bounce(&stanza, cause), local, remote) {
                (Some(error), Some(local), Some(remote)) => {
                    self.outbound.report(self, &live, &local, &remote, &error).is_ok()
                }
                _ => false,
            };
            self.count_report(told, cause);
        }
    }

    /// Tells the senders of what a cluster's queue did not take.
    pub(crate) fn report_refused(self: &Arc<Self>, queue: &Queue) {
        for (batch, cause) in queue.refused() {
            self.report(&batch.bytes, cause);
        }
    }

    /// Tells the hosted senders of stanzas, written for server streams, that they did not arrive.
    pub(crate) fn report_to_router(&self, stanzas: &[u8], cause: Cause) {
        let live = self.live();
        let mut domains = DomainCache::default();
        for stanza in split(stanzas, ns::SERVER) {
            let stanza = Side::Link.respell(&stanza, &mut domains);
            let local = stanza.from().and_then(|from| domains.domain_of(&from));
            let told = match (bounce(&stanza, cause), local) {
                (Some(error), Some(local)) => self.routers.send(&live, &local, error),
                _ => false,
            };
            self.count_report(told, cause);
        }
    }

    fn count_report(&self, told: bool, cause: Cause) {
        if told {
            self.metrics.bounced(cause.as_str());
        } else {
            self.metrics.dropped(cause.as_str());
        }
    }
}
