//! The initiating server: what waits for remote domains, the streams that carry it, and the
//! streams that ask authoritative servers.
//!
//! Each remote domain has one [`route`] with a bounded [`queue`] for each hosted domain that sends;
//! each of these pairs has a task ([`pair`]) that opens a [`stream`] when there is something to
//! send. [`verify`] serves the receiving role.

pub(crate) mod acquaint;
mod answers;
pub mod connect;
pub mod limits;
mod opening;
mod pair;
mod queue;
mod route;
mod send_log;
mod stream;
pub mod turns;
pub mod verify;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use xmpp_federation_core::Domain;

use crate::bounce::{Cause, bounce};
use crate::budget::Pool;
use crate::clusters::Clusters;
use crate::clusters::queue::Queue as ClusterQueue;
use crate::config::Live;
use crate::jid::{DomainCache, Side};
use crate::observe::log_rate::Party;
use crate::peer_memory::PeerMemory;
use crate::shared::Shared;
pub(crate) use opening::external_auth;
use queue::QueueBounds;
use route::Route;
use xmpp_federation_xml::{ns, split};

/// Part of all routes that only configured partners get.
const RESERVED: usize = 8;

/// Whether there may be one more route beside `routes`.
fn has_room(routes: usize, live: &Live, remote: &Domain) -> bool {
    let most = live.budget.routes;
    let partner = live.policy.is_partner(remote);
    routes < if partner { most } else { most - most / RESERVED }
}

/// All routes.
#[derive(Debug)]
pub(crate) struct Outbound {
    shared: Arc<Shared>,
    /// Where errors for hosted senders go.
    clusters: Arc<Clusters>,
    routes: Mutex<HashMap<Domain, Arc<Route>>>,
    /// Bytes waiting for all remote domains together.
    waiting: Arc<AtomicUsize>,
    /// What all streams have sent and may have to report.
    sent: Arc<Pool>,
    tasks: TaskTracker,
    /// Streams of which it is not known yet what must be reported.
    open: AtomicUsize,
    /// Cancelled when an orderly stop has nothing left to send: streams close.
    close: CancellationToken,
    /// Cancelled when an orderly stop cannot wait any longer: what waits is reported.
    give_up: CancellationToken,
    /// Cancelled when peers' ends are not waited for any longer: what they did not confirm is
    /// reported.
    hang_up: CancellationToken,
}

impl Outbound {
    /// No route yet.
    pub(crate) fn new(shared: Arc<Shared>, clusters: Arc<Clusters>) -> Self {
        Self {
            shared,
            clusters,
            routes: Mutex::default(),
            waiting: Arc::default(),
            sent: Arc::default(),
            tasks: TaskTracker::new(),
            open: AtomicUsize::new(0),
            close: CancellationToken::new(),
            give_up: CancellationToken::new(),
            hang_up: CancellationToken::new(),
        }
    }

    /// Queues a stanza, written for the content namespace of server streams. The lists are
    /// applied here, before any look-up. An error is what its sender must be told.
    pub fn push(self: &Arc<Self>, live: &Live, local: &Domain, remote: &Domain, stanza: &Bytes) -> Result<(), Cause> {
        let all = 0..stanza.len();
        self.push_all(live, local, remote, stanza, &mut vec![all])
    }

    /// The same for several stanzas between the same domains, parts of `text`: one lock and one
    /// wake-up for all. Takes what is queued out of `stanzas`; the senders of what is left must be
    /// told the error.
    pub fn push_all(
        self: &Arc<Self>,
        live: &Live,
        local: &Domain,
        remote: &Domain,
        text: &[u8],
        stanzas: &mut Vec<Range<usize>>,
    ) -> Result<(), Cause> {
        let bounds = QueueBounds {
            domain: live.config.limits.max_queued_bytes,
            total: most_waiting(live),
        };
        self.queue(live, (local, remote), text, stanzas, bounds)
    }

    /// Tells the remote senders of stanzas, written for links, that they did not arrive.
    pub(crate) fn report(self: &Arc<Self>, stanzas: &[u8], cause: Cause) {
        let live = self.shared.live();
        let mut domains = DomainCache::default();
        for stanza in split(stanzas, ns::COMPONENT) {
            let stanza = Side::Peer(&self.shared.memory.labels).respell(&stanza, &mut domains);
            let local = stanza.to().and_then(|to| domains.domain_of(&to));
            let remote = stanza.from().and_then(|from| domains.domain_of(&from));
            let told = match (bounce(&stanza, cause), local, remote) {
                (Some(error), Some(local), Some(remote)) => self.push_error(&live, &local, &remote, &error).is_ok(),
                _ => false,
            };
            self.shared.count_report(told, cause);
        }
    }

    /// Tells the senders of what a cluster's queue did not take.
    pub(crate) fn report_refused(self: &Arc<Self>, queue: &ClusterQueue) {
        for (batch, cause) in queue.refused() {
            self.report(&batch.bytes, cause);
        }
    }

    /// Queues an error for a remote sender whose stanza did not arrive. Nobody could be told that
    /// the error did not fit, so only the bound over all domains holds; how many there are is
    /// bounded by what links hold.
    fn push_error(self: &Arc<Self>, live: &Live, local: &Domain, remote: &Domain, error: &Bytes) -> Result<(), Cause> {
        let (all, bounds) = (0..error.len(), QueueBounds::of_reports(most_waiting(live)));
        self.queue(live, (local, remote), error, &mut vec![all], bounds)
    }

    fn queue(
        self: &Arc<Self>,
        live: &Live,
        (local, remote): (&Domain, &Domain),
        text: &[u8],
        stanzas: &mut Vec<Range<usize>>,
        bounds: QueueBounds,
    ) -> Result<(), Cause> {
        if live.policy.check(remote).is_err() {
            return Err(Cause::Denied);
        }
        let mut routes = self.routes.lock();
        if let Some(route) = routes.get(remote) {
            if route.push(bounds, local, text, stanzas) {
                route.spawn(self, local.clone());
            }
        } else if has_room(routes.len(), live, remote) {
            let route = Arc::new(Route::new(remote.clone(), self.waiting.clone()));
            if route.push(bounds, local, text, stanzas) {
                routes.insert(remote.clone(), route.clone());
                route.spawn(self, local.clone());
            }
        } else {
            self.shared.metrics.route_refused();
        }
        if stanzas.is_empty() {
            Ok(())
        } else {
            Err(Cause::QueueFull)
        }
    }

    /// A stream from this domain was authenticated: it lives, so the pair's back-off is void.
    pub fn heard_from(&self, remote: &Domain, local: &Domain) {
        if let Some(route) = self.routes.lock().get(remote) {
            route.retry(Some(local));
        }
    }

    /// Voids the back-off of all pairs of a remote domain, or of all domains.
    pub fn retry(&self, remote: Option<&Domain>) {
        let routes = self.routes.lock();
        match remote {
            Some(remote) => {
                if let Some(route) = routes.get(remote) {
                    route.retry(None);
                }
            }
            None => routes.values().for_each(|route| route.retry(None)),
        }
    }

    /// Stanzas and bytes that wait for a remote domain; `local`: of one pair.
    pub fn waiting(&self, remote: &Domain, local: Option<&Domain>) -> (usize, usize) {
        let routes = self.routes.lock();
        let route = routes.get(remote);
        route.map_or((0, 0), |route| route.depth(local))
    }

    /// Whether nothing waits for any remote domain and everything written was taken by the
    /// network.
    pub fn is_settled(&self) -> bool {
        self.routes.lock().values().all(|route| route.is_settled())
    }

    /// Remote domains, and the stanzas and bytes that wait for them.
    pub fn depth(&self) -> (usize, usize, usize) {
        let routes = self.routes.lock();
        let stanzas = routes.values().map(|route| route.depth(None).0).sum();
        (routes.len(), stanzas, self.waiting.load(Ordering::Relaxed))
    }

    /// Bytes of stanzas that were sent and may not have been read.
    pub fn sent(&self) -> usize {
        self.sent.held()
    }

    /// Reports everything that still waits, and what comes from now on.
    pub fn give_up(&self) {
        self.give_up.cancel();
    }

    /// Closes all streams in an orderly way.
    pub fn close(&self) {
        self.close.cancel();
        self.tasks.close();
    }

    /// Ends the streams that still wait for their peers' ends.
    pub fn hang_up(&self) {
        self.hang_up.cancel();
    }

    /// Whether all streams have ended and what their peers did not confirm is reported.
    pub fn all_ended(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }

    /// After [`Self::close`]: returns when all connections are closed, too.
    pub async fn closed(&self) {
        self.tasks.wait().await;
    }
}

/// Bytes that may wait for all remote domains together: many that are down must not use up the
/// memory.
fn most_waiting(live: &Live) -> usize {
    live.budget.outbound_waiting
}

/// Whether a pair opens its own stream and is nobody's guest.
fn is_alone(memory: &PeerMemory, remote: &Domain, local: &Domain) -> bool {
    let holds = |local| memory.alone.holds(&(remote.clone(), local), &());
    holds(None) || holds(Some(local.clone()))
}

/// From now on a pair, or each pair of the remote domain, has a stream of its own, for this reason.
fn keep_alone(shared: &Shared, remote: &Domain, local: Option<&Domain>, reason: &'static str) {
    let key = (remote.clone(), local.cloned());
    if !shared.memory.alone.holds(&key, &()) {
        shared.metrics.pair_kept_alone(reason);
        if shared.may_log("streams apart", Party::Called(remote, None)) {
            tracing::info!(
                %remote, local = local.map_or("all", Domain::as_str), reason,
                "{} gets streams of its own to the remote domain",
                if local.is_some() { "the hosted domain" } else { "each hosted domain" }
            );
        }
    }
    let partner = shared.live().policy.is_partner(remote);
    shared.memory.alone.note(&key, partner, ());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use xmpp_federation_core::Domain;

    use super::{RESERVED, has_room};
    use crate::config::Loader;
    use crate::config::fixture::good;

    #[test]
    fn configured_partners_have_routes_that_strangers_do_not_get() {
        let folder = good();
        let live = Loader::new(folder.path().join("edge.yaml"), 0).load();
        let live = live.unwrap();
        let most = live.budget.routes;
        let domain = |name: &str| Domain::parse(name).unwrap();
        let (partner, stranger) = (domain("vngtp.lab"), domain("stranger.example"));
        let part = most - most / RESERVED;
        assert!(has_room(part - 1, &live, &stranger) && !has_room(part, &live, &stranger));
        assert!(has_room(most - 1, &live, &partner) && !has_room(most, &live, &partner));
    }
}
