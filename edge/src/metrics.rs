//! What is counted. Labels come from small fixed sets only, never from peers.

use std::time::Duration;

use crate::resolve::Method;

/// Who opened a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The peer.
    Inbound,
    /// This edge.
    Outbound,
}

impl Direction {
    /// The word used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// The role played in one dialback (XEP-0220 section 1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Sends `db:result` with a key.
    Initiating,
    /// Takes that key and has it verified.
    Receiving,
    /// Says whether the key is its own.
    Authoritative,
}

impl Role {
    /// The word used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initiating => "initiating",
            Self::Receiving => "receiving",
            Self::Authoritative => "authoritative",
        }
    }
}

/// The counters of one edge. Numbers of streams, links and queue lengths are gauges that are
/// read from [`crate::registry::Registry`] when asked for.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// A connection was turned away before any stream: `total`, `per-address`, `draining`.
    pub fn connection_refused(&self, _reason: &'static str) {}

    /// A TLS handshake ended well; version and suite as rustls names them.
    pub fn tls_established(&self, _direction: Direction, _version: &str, _suite: &str) {}

    /// A TLS handshake failed.
    pub fn tls_failed(&self, _direction: Direction) {}

    /// A peer's certificate was judged: `valid`, `missing`, `invalid`.
    pub fn certificate_judged(&self, _direction: Direction, _verdict: &'static str) {}

    /// One dialback ended: `valid`, `invalid`, `error`, `timeout`.
    pub fn dialback(&self, _role: Role, _outcome: &'static str, _took: Duration) {}

    /// Stanzas went through, in one batch: inbound ones to a link, outbound ones to a peer.
    pub fn stanzas(&self, _direction: Direction, _count: usize, _bytes: usize) {}

    /// A stanza error was made; `cause` is a name of the bounce table.
    pub fn bounced(&self, _cause: &'static str) {}

    /// A stanza was dropped because nobody may be told (errors, results): a name of the bounce
    /// table.
    pub fn dropped(&self, _cause: &'static str) {}

    /// A stream ended with an error; `sent` by us, else received; condition of RFC 6120.
    pub fn stream_error(&self, _direction: Direction, _sent: bool, _condition: &'static str) {}

    /// A look-up ended: `ok`, `not-found`, `disabled`, `refused`, `temporary`.
    pub fn resolved(&self, _method: Option<Method>, _outcome: &'static str, _took: Duration) {}

    /// A link attempt ended badly or a link broke; a [`xmpp_federation_core::edge_status::LinkState`] in words.
    pub fn link_failed(&self, _state: &'static str) {}
}
