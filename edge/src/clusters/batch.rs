//! Stanzas on their way to a cluster, and whose they are.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use xmpp_federation_core::Domain;

/// The sender of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// The edge itself: errors for the router's own stanzas. Never paused.
    Edge,
    /// A remote domain of a configured partner.
    Peer(Arc<Domain>),
    /// Any other remote domain.
    Stranger(Arc<Domain>),
}

impl Source {
    /// A remote domain's.
    pub fn of(remote: Arc<Domain>, partner: bool) -> Self {
        if partner {
            Self::Peer(remote)
        } else {
            Self::Stranger(remote)
        }
    }
}

/// Stanzas one after the other, ready for a link's stream.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The stanzas' bytes in the content namespace of links.
    pub bytes: Bytes,
    /// Number of stanzas.
    pub count: usize,
    /// Of these, how many would come back as an error where nobody takes them.
    pub requests: usize,
    /// The edge's own, an error for one of the router's stanzas.
    pub(super) is_answer: bool,
    pub(super) at: Instant,
}

/// Collects the stanzas of one turn.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    /// Where stanzas are appended.
    pub out: BytesMut,
    /// Number of stanzas appended.
    pub count: usize,
    /// Of these, how many would come back as an error where nobody takes them.
    pub requests: usize,
}

impl BatchBuilder {
    /// What was collected; `None` if nothing was.
    pub fn finish(&mut self) -> Option<Batch> {
        let count = std::mem::take(&mut self.count);
        let requests = std::mem::take(&mut self.requests);
        (count > 0).then(|| Batch {
            bytes: self.out.split().freeze(),
            count,
            requests,
            is_answer: false,
            at: Instant::now(),
        })
    }
}

impl Batch {
    /// A single stanza that nobody answers, as an error.
    pub fn one(bytes: Bytes) -> Self {
        Self {
            bytes,
            count: 1,
            requests: 0,
            is_answer: true,
            at: Instant::now(),
        }
    }
}
