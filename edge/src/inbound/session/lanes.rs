//! Where stanzas of an inbound stream go, remembered from one turn to the next.

use super::Session;
use crate::bounce::Cause;
use crate::clusters::batch::{BatchBuilder, Source};
use crate::clusters::queue::Pause;
use crate::clusters::{Cluster, select};
use crate::config::Live;
use crate::inbound::Inbound;
use crate::inbound::rate::Rate;
use crate::jid::LastJudged;
use crate::stream::Failure;
use std::sync::Arc;
use std::task::Poll;
use xmpp_federation_core::Domain;

/// Ways of stanzas that a stream remembers from one turn to the next.
pub(super) const LANES: usize = 8;

/// The addresses of the last stanza: most stanzas are like the one before.
#[derive(Debug)]
pub(super) struct LastStanza {
    pub(super) addresses: LastJudged,
    /// Their domains, as they are written.
    pub(super) from: Box<str>,
    pub(super) to: Box<str>,
    /// What is written instead, if these are other spellings than the router's.
    pub(super) from_instead: Option<Box<str>>,
    pub(super) to_instead: Option<Box<str>>,
    /// Index into [`Session::lanes`].
    pub(super) lane: usize,
}

/// Where stanzas of one remote domain go, and on which terms.
#[derive(Debug)]
pub(super) struct DomainLane {
    pub(super) cluster: Arc<Cluster>,
    pub(super) remote: Arc<Domain>,
    pub(super) source: Source,
    pub(super) builder: BatchBuilder,
    pub(super) max_bytes: usize,
    pub(super) rate: Option<Arc<Rate>>,
}

impl DomainLane {
    /// Hands what was collected to the link; a pause if too much waits there now.
    pub(super) fn hand_over(&mut self, inbound: &Arc<Inbound>) -> Option<Pause> {
        let batch = self.builder.finish()?;
        let pause = match self.cluster.queue.push(&self.source, batch) {
            Ok(pause) => pause.or_else(|| self.cluster.queue.shut(&self.source)),
            // A reload took the cluster away just now.
            Err(batch) => {
                inbound.outbound.report(&batch.bytes, Cause::LinkDown);
                None
            }
        };
        inbound.outbound.report_refused(&self.cluster.queue);
        pause
    }
}

/// A turn that does not read while the queue of the routers is shut: too much waits for them, from all peers
/// together. That is looked at whenever the socket wakes the stream: thousands of idle ones must not bring a batch
/// each. `paused`: until when it is shut; absent if the turn does not read.
pub(super) async fn gated(
    lanes: &[DomainLane],
    paused: Option<&mut Option<Pause>>,
    turn: impl Future<Output = Result<bool, Failure>>,
) -> Result<bool, Failure> {
    let Some(paused) = paused else {
        return turn.await;
    };
    let mut turn = std::pin::pin!(turn);
    std::future::poll_fn(|cx| {
        *paused = lanes.iter().find_map(|lane| lane.cluster.queue.shut(&lane.source));
        match paused {
            Some(_) => Poll::Ready(Ok(false)),
            None => turn.as_mut().poll(cx),
        }
    })
    .await
}

impl Session {
    pub(super) fn lane_for(&mut self, live: &Live, local: &Domain, remote: &Domain) -> Option<usize> {
        let clusters = self.inbound.clusters.all();
        let cluster = select(&clusters, live, local)?;
        let known = self
            .lanes
            .iter()
            .position(|lane| Arc::ptr_eq(&lane.cluster, cluster) && *lane.remote == *remote);
        Some(known.unwrap_or_else(|| {
            let (remote, terms) = (Arc::new(remote.clone()), live.policy.peer(remote));
            self.lanes.push(DomainLane {
                cluster: cluster.clone(),
                source: Source::of(remote.clone(), live.policy.is_partner(&remote)),
                builder: BatchBuilder::default(),
                max_bytes: terms.max_stanza_bytes,
                rate: self.inbound.rates.of(&live.policy, &remote),
                remote,
            });
            self.lanes.len() - 1
        }))
    }

    pub(super) fn forget_lanes(&mut self) {
        self.lanes.clear();
        self.last = None;
    }

    /// Hands the batches of this turn to the links and pauses the peer if too much waits there.
    pub(super) fn deliver(&mut self) {
        let mut pause = None;
        for lane in &mut self.lanes {
            pause = lane.hand_over(&self.inbound).or(pause);
            // An idle stream holds no buffer.
            lane.builder.out = bytes::BytesMut::new();
        }
        self.pause(pause);
        if self.lanes.len() > LANES {
            self.forget_lanes();
        }
    }
}
