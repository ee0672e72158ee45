//! The initiating server: what waits for remote domains, the streams that carry it, and the
//! streams that ask authoritative servers.
//!
//! Each remote domain has one [`route`]: bounded queues, one per hosted domain that sends, and a
//! task that opens a stream when there is something to send. [`verify`] serves the receiving role.

pub mod connect;
pub mod limits;
mod opening;
mod route;
mod stream;
pub mod verify;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use xmpp_federation_core::Domain;

use crate::bounce::Cause;
use crate::config::Live;
use crate::edge::Edge;
use route::{Room, Route};

/// Remote domains with something waiting or a stream open, at most.
const MAX_ROUTES: usize = 16_384;

/// All routes.
#[derive(Debug, Default)]
pub struct Outbound {
    routes: Mutex<HashMap<Domain, Arc<Route>>>,
    /// Bytes waiting for all remote domains together.
    waiting: Arc<AtomicUsize>,
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
    fn lock(&self) -> MutexGuard<'_, HashMap<Domain, Arc<Route>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a stanza, written for the content namespace of server streams. The lists are
    /// applied here, before any look-up. An error is what its sender must be told.
    pub fn push(
        &self,
        edge: &Arc<Edge>,
        live: &Live,
        local: &Domain,
        remote: &Domain,
        stanza: Bytes,
    ) -> Result<(), Cause> {
        self.push_all(edge, live, local, remote, &mut vec![stanza])
    }

    /// The same for several stanzas between the same domains: one lock and one wake-up for all. Takes
    /// what is queued out of `stanzas`; the senders of what is left must be told the error.
    pub fn push_all(
        &self,
        edge: &Arc<Edge>,
        live: &Live,
        local: &Domain,
        remote: &Domain,
        stanzas: &mut Vec<Bytes>,
    ) -> Result<(), Cause> {
        let limits = &live.config.limits;
        let room = Room {
            stanzas: limits.max_queued_stanzas,
            bytes: limits.max_queued_bytes,
        };
        self.queue(edge, live, local, remote, stanzas, room)
    }

    /// Queues an error for a remote sender whose stanza did not arrive. Nobody could be told that
    /// the error did not fit, so only the bound over all domains holds; how many there are is
    /// bounded by what links hold.
    pub fn report(
        &self,
        edge: &Arc<Edge>,
        live: &Live,
        local: &Domain,
        remote: &Domain,
        error: Bytes,
    ) -> Result<(), Cause> {
        self.queue(edge, live, local, remote, &mut vec![error], Room::ANY)
    }

    fn queue(
        &self,
        edge: &Arc<Edge>,
        live: &Live,
        local: &Domain,
        remote: &Domain,
        stanzas: &mut Vec<Bytes>,
        room: Room,
    ) -> Result<(), Cause> {
        if live.policy.check(remote).is_err() {
            return Err(Cause::Denied);
        }
        let mut routes = self.lock();
        if let Some(route) = routes.get(remote) {
            return route.push_all(room, local, stanzas);
        }
        if routes.len() >= MAX_ROUTES {
            return Err(Cause::QueueFull);
        }
        let route = Arc::new(Route::new(remote.clone(), self.waiting.clone()));
        let pushed = route.push_all(room, local, stanzas);
        if !route.is_empty() {
            routes.insert(remote.clone(), route.clone());
            self.tasks.spawn(route.run(edge.clone()));
        }
        pushed
    }

    /// A stream from this domain was authenticated: it lives, so its back-off is void.
    pub fn heard_from(&self, remote: &Domain) {
        if let Some(route) = self.lock().get(remote) {
            route.retry();
        }
    }

    /// Voids the back-off of all domains.
    pub fn retry_all(&self) {
        for route in self.lock().values() {
            route.retry();
        }
    }

    /// Whether nothing waits for any remote domain and everything written was taken by the
    /// network.
    pub fn is_settled(&self) -> bool {
        self.lock().values().all(|route| route.is_settled())
    }

    /// Remote domains, and the stanzas and bytes that wait for them.
    pub fn depth(&self) -> (usize, usize, usize) {
        let routes = self.lock();
        let stanzas = routes.values().map(|route| route.len()).sum();
        (routes.len(), stanzas, self.waiting.load(Ordering::Relaxed))
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
