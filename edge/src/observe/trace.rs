//! Watching what is said on streams, for `ctl trace`.
//!
//! While nobody watches, a frame costs one relaxed load. A trace has a queue of
//! [`QUEUE`] lines; what does not fit is counted and told as dropped, so a slow reader slows
//! nobody down. [`stream`] follows one stream, [`telling`] puts frames into words and leaves out
//! what is secret (keys, always) or personal (bodies, unless asked for).

pub mod stream;
mod telling;
pub mod tls;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use xmpp_federation_core::{Domain, DomainError};

use crate::observe::registry::StreamEntry;
pub use telling::printable;

/// Lines that may wait for one reader; at most about 4 kB each.
pub const QUEUE: usize = 512;
/// Watching at once.
pub const MAX_TRACERS: usize = 8;
/// Lines kept, over all streams, until a stream says whose it is.
const MAX_EARLY: usize = 4096;

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Streams of a remote domain: that it claims, or that is authenticated.
    Domain(Domain),
    /// Streams with an address.
    Address(IpAddr),
    /// One connection.
    Socket(SocketAddr),
}

/// A text that names no streams.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither a remote domain nor an address (198.51.100.7, or with port 198.51.100.7:5269): {error}")]
pub struct FilterError {
    text: String,
    error: DomainError,
}

impl Filter {
    /// Reads a domain, an IP address, or an address with port.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self::Socket(SocketAddr::new(socket.ip().to_canonical(), socket.port())));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        Domain::parse(text).map(Self::Domain).map_err(|error| FilterError {
            text: text.to_owned(),
            error,
        })
    }

    /// Whether a stream is meant; `None`: it has not said yet whose it is.
    pub(crate) fn matches(&self, entry: &StreamEntry) -> Option<bool> {
        match self {
            Self::Domain(domain) => entry.is_of(domain),
            Self::Address(_) | Self::Socket(_) => Some(self.matches_address(entry.peer)),
        }
    }

    fn matches_address(&self, peer: SocketAddr) -> bool {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        match self {
            Self::Domain(_) => false,
            Self::Address(address) => *address == peer.ip(),
            Self::Socket(socket) => *socket == peer,
        }
    }
}

/// Which way something went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LineKind {
    /// The peer said it.
    Received,
    /// We said it.
    Sent,
    /// It happened.
    Event,
}

/// One line of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// RFC 3339 time.
    pub time: String,
    /// Number of the stream in `connections`; absent before there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<u64>,
    /// `inbound` or `outbound`; absent before there is a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// The peer's address, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// Which way.
    pub way: LineKind,
    /// What was said or happened, on one line.
    pub text: String,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.time)?;
        if let (Some(stream), Some(direction)) = (self.stream, &self.direction) {
            write!(f, " #{stream} {direction}")?;
        }
        if let Some(peer) = self.peer {
            write!(f, " {peer}")?;
        }
        let way = match self.way {
            LineKind::Received => "<<",
            LineKind::Sent => ">>",
            LineKind::Event => "--",
        };
        // It came through a socket that somebody else may serve.
        write!(f, " {way} {}", printable(&self.text, usize::MAX))
    }
}

/// Everybody who watches.
#[derive(Debug, Default)]
pub struct Tracers {
    /// 0 while nobody watches; else another number after each change.
    generation: AtomicU64,
    changes: AtomicU64,
    list: Mutex<Vec<Arc<Tracer>>>,
    early: AtomicUsize,
}

/// Somebody who watches.
#[derive(Debug)]
pub(crate) struct Tracer {
    filter: Filter,
    bodies: bool,
    lines: mpsc::Sender<Line>,
    dropped: AtomicU64,
}

impl Tracer {
    /// Never waits. What did not fit is told where it is missing.
    fn tell(&self, line: Line) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let mut lost = 0;
        if dropped > 0 && self.lines.try_send(missing(dropped)).is_err() {
            lost = dropped;
        }
        if lost > 0 || self.lines.try_send(line).is_err() {
            lost += 1;
        }
        self.dropped.fetch_add(lost, Ordering::Relaxed);
    }
}

fn missing(lines: u64) -> Line {
    Line {
        time: now(),
        stream: None,
        direction: None,
        peer: None,
        way: LineKind::Event,
        text: format!("{lines} lines dropped; they came faster than they were read"),
    }
}

/// A place among those who watch; ends when dropped.
#[derive(Debug)]
pub struct Subscription {
    tracers: Arc<Tracers>,
    tracer: Arc<Tracer>,
    lines: mpsc::Receiver<Line>,
}

impl Subscription {
    /// The next line. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Line> {
        if let Ok(line) = self.lines.try_recv() {
            return Some(line);
        }
        // Nothing came behind them that could have told it.
        match self.tracer.dropped.swap(0, Ordering::Relaxed) {
            0 => self.lines.recv().await,
            dropped => Some(missing(dropped)),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut list = self.tracers.list.lock();
        list.retain(|tracer| !Arc::ptr_eq(tracer, &self.tracer));
        self.tracers.changed(&list);
    }
}

fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

impl Tracers {
    fn changed(&self, list: &[Arc<Tracer>]) {
        let change = self.changes.fetch_add(1, Ordering::Relaxed) + 1;
        let generation = if list.is_empty() { 0 } else { change };
        self.generation.store(generation, Ordering::Relaxed);
    }

    /// 0: nobody watches.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Watches from now on; `None` if too many do already.
    pub fn watch(self: &Arc<Self>, filter: Filter, bodies: bool) -> Option<Subscription> {
        let (sender, lines) = mpsc::channel(QUEUE);
        let tracer = Arc::new(Tracer {
            filter,
            bodies,
            lines: sender,
            dropped: AtomicU64::new(0),
        });
        let mut list = self.list.lock();
        if list.len() >= MAX_TRACERS {
            return None;
        }
        list.push(tracer.clone());
        self.changed(&list);
        drop(list);
        Some(Subscription {
            tracers: self.clone(),
            tracer,
            lines,
        })
    }

    /// Tells what happened about a remote domain before there is a stream.
    pub(crate) fn about(&self, remote: &Domain, text: impl FnOnce() -> String) {
        self.happened(
            None,
            None,
            text,
            |filter| matches!(filter, Filter::Domain(domain) if domain == remote),
        );
    }

    /// Tells what happened to a connection on which no stream begins.
    pub(crate) fn about_address(&self, peer: SocketAddr, text: impl FnOnce() -> String) {
        self.happened(None, Some(peer), text, |filter| filter.matches_address(peer));
    }

    /// Tells what was found out about a stream apart from its wire.
    pub(crate) fn about_stream(&self, entry: &StreamEntry, text: impl FnOnce() -> String) {
        self.happened(Some(entry), None, text, |filter| filter.matches(entry) == Some(true));
    }

    fn happened(
        &self,
        stream: Option<&StreamEntry>,
        peer: Option<SocketAddr>,
        text: impl FnOnce() -> String,
        meant: impl Fn(&Filter) -> bool,
    ) {
        if self.generation() == 0 {
            return;
        }
        let list = self.list.lock().clone();
        let mut meant = list.iter().filter(|tracer| meant(&tracer.filter)).peekable();
        if meant.peek().is_none() {
            return;
        }
        let line = Line {
            time: now(),
            stream: stream.map(|entry| entry.id),
            direction: stream.map(|entry| entry.direction.as_str().to_owned()),
            peer: peer.or(stream.map(|entry| entry.peer)),
            way: LineKind::Event,
            text: printable(&text(), telling::LONGEST),
        };
        for tracer in meant {
            tracer.tell(line.clone());
        }
    }
}

#[cfg(test)]
mod tests;
