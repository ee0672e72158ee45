//! What is open and what fails right now; read by the admin port and the control socket.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_status::{LinkState, LinkStatus, PartnerFailure, StreamCounts};

use crate::metrics::Direction;

/// Most remote domains that failures are remembered of; more are not recorded.
const MAX_FAILURES: usize = 1024;

/// Open streams, links and failing partners of one edge.
#[derive(Debug, Default)]
pub struct Registry {
    next: AtomicU64,
    streams: Mutex<HashMap<u64, Arc<StreamEntry>>>,
    links: Mutex<Vec<Arc<LinkEntry>>>,
    failures: Mutex<BTreeMap<Domain, (String, jiff::Timestamp)>>,
}

/// A poisoned lock guards plain data that is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One open stream to or from a peer.
#[derive(Debug)]
pub struct StreamEntry {
    /// Number of the stream in this process.
    pub id: u64,
    /// Who opened it.
    pub direction: Direction,
    /// The peer's address.
    pub peer: SocketAddr,
    /// When it was opened.
    pub since: jiff::Timestamp,
    /// Cancelled to have the stream closed in an orderly way.
    pub close: CancellationToken,
    /// What is known by now.
    pub detail: Mutex<StreamDetail>,
}

/// What is learned while a stream lives.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamDetail {
    /// What it is doing: `negotiating`, `established`, `closing`.
    pub phase: &'static str,
    /// TLS version and cipher suite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// Authenticated pairs.
    pub pairs: Vec<PairInfo>,
    /// Stanzas carried.
    pub stanzas: u64,
}

/// A pair of domains that may exchange stanzas on a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PairInfo {
    /// The hosted domain.
    pub local: Domain,
    /// The peer's.
    pub remote: Domain,
    /// `dialback` or `external`.
    pub mechanism: &'static str,
}

/// A stream as the control socket shows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamInfo {
    /// Number of the stream in this process.
    pub id: u64,
    /// `inbound` or `outbound`.
    pub direction: &'static str,
    /// The peer's address.
    pub peer: SocketAddr,
    /// RFC 3339 time.
    pub since: String,
    /// The rest.
    #[serde(flatten)]
    pub detail: StreamDetail,
}

/// Removes its stream from the registry when dropped.
#[derive(Debug)]
pub struct StreamGuard {
    registry: Arc<Registry>,
    /// The stream.
    pub entry: Arc<StreamEntry>,
}

impl StreamGuard {
    /// Changes what is known about the stream.
    pub fn update(&self, change: impl FnOnce(&mut StreamDetail)) {
        change(&mut lock(&self.entry.detail));
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        lock(&self.registry.streams).remove(&self.entry.id);
    }
}

/// One link to an XCP router, up or not.
#[derive(Debug)]
pub struct LinkEntry {
    status: Mutex<LinkStatus>,
}

impl LinkEntry {
    /// Records a change of state; `reason` is kept until the link is up.
    pub fn set(&self, state: LinkState, reason: Option<String>) {
        let mut status = lock(&self.status);
        if status.state != state {
            status.state = state;
            status.since = jiff::Timestamp::now().to_string();
        }
        if reason.is_some() || state == LinkState::Up {
            status.reason = reason;
        }
    }

    /// The link as it is now.
    pub fn status(&self) -> LinkStatus {
        lock(&self.status).clone()
    }
}

impl Registry {
    /// Records a stream for as long as the guard lives.
    pub fn open(self: &Arc<Self>, direction: Direction, peer: SocketAddr) -> StreamGuard {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(StreamEntry {
            id,
            direction,
            peer,
            since: jiff::Timestamp::now(),
            close: CancellationToken::new(),
            detail: Mutex::new(StreamDetail {
                phase: "negotiating",
                ..StreamDetail::default()
            }),
        });
        lock(&self.streams).insert(id, entry.clone());
        StreamGuard {
            registry: self.clone(),
            entry,
        }
    }

    /// Numbers of open streams.
    pub fn counts(&self) -> StreamCounts {
        let streams = lock(&self.streams);
        let inbound = streams
            .values()
            .filter(|s| s.direction == Direction::Inbound)
            .count();
        StreamCounts {
            inbound,
            outbound: streams.len() - inbound,
        }
    }

    /// All open streams by number.
    pub fn streams(&self) -> Vec<StreamInfo> {
        let entries: Vec<_> = lock(&self.streams).values().cloned().collect();
        let mut infos: Vec<_> = entries
            .iter()
            .map(|entry| StreamInfo {
                id: entry.id,
                direction: entry.direction.as_str(),
                peer: entry.peer,
                since: entry.since.to_string(),
                detail: lock(&entry.detail).clone(),
            })
            .collect();
        infos.sort_by_key(|info| info.id);
        infos
    }

    /// Has one stream closed in an orderly way; whether it was there.
    pub fn close(&self, id: u64) -> bool {
        lock(&self.streams).get(&id).is_some_and(|entry| {
            entry.close.cancel();
            true
        })
    }

    /// Adds a link, which stays for the life of the process or until [`Self::remove_link`].
    pub fn add_link(&self, status: LinkStatus) -> Arc<LinkEntry> {
        let entry = Arc::new(LinkEntry {
            status: Mutex::new(status),
        });
        lock(&self.links).push(entry.clone());
        entry
    }

    /// Forgets a link that is no longer configured.
    pub fn remove_link(&self, link: &Arc<LinkEntry>) {
        lock(&self.links).retain(|entry| !Arc::ptr_eq(entry, link));
    }

    /// The links, in the order of the configuration.
    pub fn links(&self) -> Vec<LinkStatus> {
        lock(&self.links)
            .iter()
            .map(|entry| entry.status())
            .collect()
    }

    /// Records that a remote domain could not be reached or authenticated.
    pub fn partner_failed(&self, remote: &Domain, reason: String) {
        let mut failures = lock(&self.failures);
        if let Some(known) = failures.get_mut(remote) {
            known.0 = reason;
        } else if failures.len() < MAX_FAILURES {
            failures.insert(remote.clone(), (reason, jiff::Timestamp::now()));
        }
    }

    /// Records that a remote domain works.
    pub fn partner_works(&self, remote: &Domain) {
        lock(&self.failures).remove(remote);
    }

    /// All remote domains whose last attempt failed; the admin port shows only configured ones.
    pub fn failing_partners(&self) -> Vec<PartnerFailure> {
        lock(&self.failures)
            .iter()
            .map(|(domain, (reason, since))| PartnerFailure {
                domain: domain.clone(),
                reason: reason.clone(),
                since: since.to_string(),
            })
            .collect()
    }
}
