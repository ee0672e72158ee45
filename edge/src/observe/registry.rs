//! What is open and what fails right now; read by the admin port and the control socket.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use rustls::CommonState;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use xmpp_federation_core::edge_status::{LinkStatus, PartnerFailure, RouterAnnouncement, StreamCounts};
use xmpp_federation_core::{ComponentId, Domain};

use super::links::LinkEntry;
use crate::config::Live;
use crate::observe::failures::{Attempt, DomainFailures, Failures};
use crate::observe::log_rate::Party;
use crate::observe::trace::Tracers;
use crate::observe::trace::tls::{cipher, version};
use crate::words::{Direction, Stage};

/// Open streams, links and failing partners of one edge.
#[derive(Debug, Default)]
pub struct Registry {
    next: AtomicU64,
    streams: Mutex<HashMap<u64, Arc<StreamEntry>>>,
    links: Mutex<Vec<Arc<LinkEntry>>>,
    failures: Mutex<Failures>,
    /// Says who is configured; absent in tests of single parts: then nobody is.
    live: OnceLock<watch::Receiver<Arc<Live>>>,
    /// Who watches what is said on streams.
    pub tracers: Arc<Tracers>,
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
    opened: Instant,
    /// Cancelled to have the stream closed in an orderly way.
    pub close: CancellationToken,
    /// What is known by now.
    pub detail: Mutex<StreamDetail>,
    /// Who watches.
    pub(crate) tracers: Arc<Tracers>,
    /// Changes with the domains that the stream belongs to.
    names: AtomicU32,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    /// Milliseconds from `opened` to the last byte either way.
    last_byte: AtomicU64,
}

impl StreamEntry {
    /// Changes what is known about the stream.
    pub fn update(&self, change: impl FnOnce(&mut StreamDetail)) {
        let mut detail = self.detail.lock();
        let before = (detail.pairs.len(), detail.remote.is_some());
        change(&mut detail);
        if before != (detail.pairs.len(), detail.remote.is_some()) {
            self.names.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes in whose name the peer speaks; nothing is proven by that.
    pub fn claims(&self, remote: &Domain) {
        self.update(|detail| {
            if detail.remote.is_none() {
                detail.remote = Some(remote.clone());
            }
        });
    }

    /// Because of whom a line about the stream is written; `remote`: the domain that it is about.
    pub(crate) fn party<'a>(&self, remote: Option<&'a Domain>) -> Party<'a> {
        match (self.direction, remote) {
            (Direction::Outbound, Some(remote)) => Party::Called(remote, Some(self.peer.ip())),
            _ => Party::Caller(self.peer.ip(), remote),
        }
    }

    /// From now on a failure belongs to this stage.
    pub(crate) fn comes_to(&self, stage: Stage) {
        self.detail.lock().stage = stage;
    }

    /// Whether the peer leaves behind nothing that is noted: no pair, no question, no refusal.
    pub(crate) fn came_to_nothing(&self) -> bool {
        let detail = self.detail.lock();
        !detail.refused && !detail.verifies && detail.stage != Stage::Stream && !self.close.is_cancelled()
    }

    /// Where the stream has come to.
    pub(crate) fn stage(&self) -> Stage {
        self.detail.lock().stage
    }

    /// Notes what the peer's certificate proves: `valid`, `missing`, or why it proves nothing.
    pub(crate) fn judged(&self, remote: &Domain, verdict: &str) {
        self.update(|detail| detail.certificate = Some(verdict.to_owned()));
        self.tracers
            .about_stream(self, || format!("the peer's certificate for {remote}: {verdict}"));
    }

    /// The remote domain that the stream is about, as far as it has shown.
    pub(crate) fn claimed(&self) -> Option<Domain> {
        let detail = self.detail.lock();
        let proven = detail.pairs.first().map(|pair| pair.remote.clone());
        proven.or_else(|| detail.remote.clone())
    }

    /// Another number whenever the domains may have changed.
    pub(crate) fn names(&self) -> u32 {
        self.names.load(Ordering::Relaxed)
    }

    /// Whether the stream belongs to this remote domain; `None` while it has not said whose it is.
    pub(crate) fn is_of(&self, remote: &Domain) -> Option<bool> {
        let detail = self.detail.lock();
        if detail.remote.is_none() && detail.pairs.is_empty() {
            return None;
        }
        Some(detail.remote.as_ref() == Some(remote) || detail.pairs.iter().any(|p| p.remote == *remote))
    }

    /// Counts what came from or went to the network, TLS included.
    pub(crate) fn moved(&self, way: Direction, bytes: usize) {
        let counter = match way {
            Direction::Inbound => &self.bytes_received,
            Direction::Outbound => &self.bytes_sent,
        };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_byte.store(now, Ordering::Relaxed);
    }

    fn info(&self) -> StreamInfo {
        let detail = self.detail.lock().clone();
        let age = self.opened.elapsed();
        let last = Duration::from_millis(self.last_byte.load(Ordering::Relaxed));
        let inbound = self.direction == Direction::Inbound;
        let carried = |ours: bool| if ours { detail.stanzas } else { 0 };
        StreamInfo {
            id: self.id,
            direction: self.direction.as_str(),
            peer: self.peer,
            since: self.since.to_string(),
            age_seconds: age.as_secs(),
            idle_seconds: age.saturating_sub(last).as_secs(),
            purpose: detail.purpose(),
            stanzas_received: carried(inbound),
            stanzas_sent: carried(!inbound),
            bytes_received: self.bytes_received.load(Ordering::Relaxed),
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            waiting: WaitingStanzas::default(),
            detail,
        }
    }
}

/// TLS as it was agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TlsInfo {
    /// As rustls writes it: `TLSv1_3`.
    pub version: String,
    /// The cipher suite: `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
}

impl TlsInfo {
    /// What a completed handshake agreed on.
    pub fn of(tls: &CommonState) -> Self {
        Self {
            version: version(tls).to_owned(),
            cipher: cipher(tls).to_owned(),
        }
    }
}

/// What is learned while a stream lives.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamDetail {
    /// What it is doing: `negotiating`, `established`, `closing`.
    pub phase: &'static str,
    /// Version and cipher suite; absent: in clear, or in clear so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsInfo>,
    /// What the peer's certificate proves about its domain: `valid`, `missing`, or why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The domain that the peer names as its own, or that we wanted to reach; not authenticated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<Domain>,
    /// Authenticated pairs.
    pub pairs: Vec<PairInfo>,
    /// Keys that the peer showed and that are not answered yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyInfo>,
    /// Stanzas carried; streams are one-way.
    #[serde(skip)]
    pub stanzas: u64,
    /// It asks or answers `db:verify`.
    #[serde(skip)]
    pub verifies: bool,
    /// Where an inbound stream has come to.
    #[serde(skip)]
    pub stage: Stage,
    /// Something on it was refused, and noted.
    #[serde(skip)]
    pub refused: bool,
}

impl StreamDetail {
    /// What the stream is for, as far as it has shown.
    fn purpose(&self) -> &'static str {
        match (self.pairs.is_empty(), self.verifies) {
            (false, _) => "stanzas",
            (true, true) => "dialback only",
            (true, false) => "not yet known",
        }
    }
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

/// A key that waits for its answer.
#[derive(Debug, Clone, Serialize)]
pub struct KeyInfo {
    /// The hosted domain.
    pub local: Domain,
    /// The domain in whose name it was shown.
    pub remote: Domain,
    /// `waiting` for its turn, or `asking` its authoritative server.
    pub state: &'static str,
    /// Since when.
    #[serde(rename = "seconds", serialize_with = "seconds_since")]
    pub since: Instant,
}

impl KeyInfo {
    /// One that was shown just now.
    pub fn new(local: Domain, remote: Domain) -> Self {
        let (state, since) = ("waiting", Instant::now());
        Self {
            local,
            remote,
            state,
            since,
        }
    }

    /// It is its turn.
    pub fn asking(&mut self) {
        (self.state, self.since) = ("asking", Instant::now());
    }
}

fn seconds_since<S: serde::Serializer>(since: &Instant, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(since.elapsed().as_secs())
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
    /// Seconds since then.
    pub age_seconds: u64,
    /// Seconds since the last byte either way.
    pub idle_seconds: u64,
    /// `stanzas`, `dialback only` or `not yet known`.
    pub purpose: &'static str,
    /// Stanzas from the peer.
    pub stanzas_received: u64,
    /// Stanzas to the peer.
    pub stanzas_sent: u64,
    /// Bytes from the peer, TLS included.
    pub bytes_received: u64,
    /// Bytes to the peer, TLS included.
    pub bytes_sent: u64,
    /// What waits for a stream of ours.
    #[serde(flatten)]
    pub waiting: WaitingStanzas,
    /// The rest.
    #[serde(flatten)]
    pub detail: StreamDetail,
}

/// Stanzas that wait for a remote domain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitingStanzas {
    /// Their number.
    pub stanzas_waiting: usize,
    /// Their bytes.
    pub bytes_waiting: usize,
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
        self.entry.update(change);
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.registry.streams.lock().remove(&self.entry.id);
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
            opened: Instant::now(),
            close: CancellationToken::new(),
            detail: Mutex::new(StreamDetail {
                phase: "negotiating",
                ..StreamDetail::default()
            }),
            tracers: self.tracers.clone(),
            names: AtomicU32::new(0),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            last_byte: AtomicU64::new(0),
        });
        self.streams.lock().insert(id, entry.clone());
        StreamGuard {
            registry: self.clone(),
            entry,
        }
    }

    /// Numbers of open streams.
    pub fn counts(&self) -> StreamCounts {
        let streams = self.streams.lock();
        let inbound = streams.values().filter(|s| s.direction == Direction::Inbound).count();
        StreamCounts {
            inbound,
            outbound: streams.len() - inbound,
        }
    }

    /// The open streams by number; `only`: those that belong to this remote domain.
    pub fn streams(&self, only: Option<&Domain>) -> Vec<StreamInfo> {
        let entries: Vec<_> = self.streams.lock().values().cloned().collect();
        let mut infos: Vec<_> = entries
            .iter()
            .filter(|entry| only.is_none_or(|only| entry.is_of(only) == Some(true)))
            .map(|entry| entry.info())
            .collect();
        infos.sort_by_key(|info| info.id);
        infos
    }

    /// Numbers of streams with an authenticated pair, by direction and the mechanism of the first.
    pub fn authenticated(&self) -> HashMap<(Direction, &'static str), usize> {
        let entries: Vec<_> = self.streams.lock().values().cloned().collect();
        let mut counts = HashMap::new();
        for entry in entries {
            if let Some(first) = entry.detail.lock().pairs.first() {
                *counts.entry((entry.direction, first.mechanism)).or_default() += 1;
            }
        }
        counts
    }

    /// Has one stream closed in an orderly way; whether it was there.
    pub fn close(&self, id: u64) -> bool {
        self.streams.lock().get(&id).is_some_and(|entry| {
            entry.close.cancel();
            true
        })
    }

    /// Adds a link, which stays for the life of the process or until [`Self::remove_link`].
    pub fn add_link(&self, status: LinkStatus) -> Arc<LinkEntry> {
        let entry = Arc::new(LinkEntry::new(status));
        self.links.lock().push(entry.clone());
        entry
    }

    /// Forgets a link that is no longer configured.
    pub fn remove_link(&self, link: &Arc<LinkEntry>) {
        self.links.lock().retain(|entry| !Arc::ptr_eq(entry, link));
    }

    /// A router announced one of our component ids over the link `over`; `None`: it is gone.
    ///
    /// A router never announces a component to itself. So what comes over a link about the very
    /// component that is linked there is another node's announcement, passed on: with two nodes
    /// that of the other one. With more nobody can tell whose it is. The only node that there is
    /// can only speak of itself.
    pub(crate) fn announced(
        &self,
        over: &Arc<LinkEntry>,
        component_id: &ComponentId,
        announced: Option<RouterAnnouncement>,
    ) {
        let (router, own) = {
            let status = over.status.lock();
            (status.router.clone(), status.component_id == component_id.as_str())
        };
        let nodes: Vec<_> = self
            .links
            .lock()
            .iter()
            .filter(|link| {
                let status = link.status.lock();
                status.router == router && status.component_id == component_id.as_str()
            })
            .cloned()
            .collect();
        let of = match nodes.as_slice() {
            [only] => Some(only),
            [one, two] if Arc::ptr_eq(one, over) => Some(two),
            [one, _] => Some(one),
            _ => None,
        };
        match of {
            Some(link) if own && link.is_open() => link.announce(announced),
            Some(_) if own => {}
            _ => over.sight(component_id, announced),
        }
    }

    /// The links, in the order of the configuration.
    pub fn links(&self) -> Vec<LinkStatus> {
        let mut links = self.links.lock().clone();
        let router = |link: &Arc<LinkEntry>| link.status.lock().router.clone();
        let clusters: Vec<_> = links.iter().map(router).collect();
        // A reload adds links behind the others.
        links.sort_by_cached_key(|link| {
            let router = router(link);
            let cluster = clusters.iter().position(|known| *known == router);
            (cluster, link.place().borrow().rank)
        });
        links.iter().map(|link| link.status()).collect()
    }

    /// From now on the configuration says whose failures have a place of their own.
    pub(crate) fn follow(&self, live: watch::Receiver<Arc<Live>>) {
        // A second edge on one registry would follow the same configuration.
        let _ = self.live.set(live);
    }

    fn is_partner(&self, remote: &Domain) -> bool {
        self.live
            .get()
            .is_some_and(|live| live.borrow().policy.is_partner(remote))
    }

    /// Records an attempt that failed: one way to a remote domain, or somebody who came in its
    /// name and was refused.
    pub fn attempt_failed(&self, remote: &Domain, attempt: Attempt) {
        let configured = self.is_partner(remote);
        self.failures.lock().record(remote, configured, attempt);
    }

    /// Records that stanzas for a remote domain wait in vain: it could not be reached; `local`: it was
    /// reached, and does not take stanzas of this hosted domain.
    pub fn partner_failed(&self, remote: &Domain, local: Option<&Domain>, reason: String) {
        let configured = self.is_partner(remote);
        self.failures.lock().failed(remote, local, configured, true, reason);
    }

    /// Records that a remote domain, in whose name somebody came, could not be asked about the key;
    /// `local`: not in the name of this hosted domain.
    pub fn partner_not_asked(&self, remote: &Domain, local: Option<&Domain>, reason: String) {
        let configured = self.is_partner(remote);
        self.failures.lock().failed(remote, local, configured, false, reason);
    }

    /// Records that stanzas of a hosted domain to a remote domain may flow.
    pub fn partner_works(&self, remote: &Domain, local: &Domain) {
        self.failures.lock().works(remote, local);
    }

    /// Records that a stream to a remote domain could be opened in the name of a hosted domain.
    pub fn partner_reached(&self, remote: &Domain, local: &Domain) {
        self.failures.lock().reached(remote, local);
    }

    /// After a reload: domains that are not configured any more lose their own place, and those that are not
    /// hosted any more do not fail.
    pub fn partners_changed(&self) {
        let hosted = |local: &Domain| {
            let live = self.live.get();
            live.is_none_or(|live| live.borrow().hosted.contains(local))
        };
        self.failures.lock().retain(|domain| self.is_partner(domain), hosted);
    }

    /// All remote domains and pairs whose last attempt failed; the admin port shows only configured ones.
    pub fn failing_partners(&self) -> Vec<PartnerFailure> {
        self.failures.lock().failing()
    }

    /// How many they are.
    pub fn failing_count(&self) -> usize {
        self.failures.lock().failing_count()
    }

    /// The last attempts that failed, of all domains or of one.
    pub fn failures(&self, only: Option<&Domain>) -> Vec<DomainFailures> {
        self.failures.lock().list(only)
    }
}
