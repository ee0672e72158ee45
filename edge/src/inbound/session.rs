//! One inbound stream: stanzas of authenticated pairs go to the links in batches, dialback is
//! answered, anything else closes it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use xmpp_federation_core::{Domain, StreamId};

use super::dialback::Verified;
use super::negotiate;
use crate::bounce::{Cause, bounce};
use crate::config::Live;
use crate::dialback::elements::Received;
use crate::edge::Edge;
use crate::metrics::Direction;
use crate::outbound::connect::describe_tls;
use crate::registry::StreamGuard;
use crate::router::queue::BatchBuilder;
use crate::router::{Cluster, select};
use crate::stanza::{DomainCache, domain_part, is_stanza};
use crate::stream::transport::{Transport, Turn};
use crate::stream::{CLOSE_TIME, Failure, Wire, negotiation_limits};
use crate::xml::{Element, Frame, Reroot, STREAM_END, StreamErrorCondition, ns};

/// A stream on which nobody is authenticated may be silent this long.
const UNAUTHENTICATED: Duration = Duration::from_mins(1);

/// A pair of domains that was authenticated on this stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) local: Domain,
    pub(super) remote: Domain,
}

/// The addresses of the last stanza: most stanzas are like the one before.
#[derive(Debug)]
struct Last {
    from: Box<str>,
    to: Box<str>,
    /// Index into [`Session::batches`].
    batch: usize,
}

/// One established stream.
pub(super) struct Session {
    pub(super) edge: Arc<Edge>,
    pub(super) wire: Wire,
    pub(super) guard: StreamGuard,
    /// The id of our latest header.
    pub(super) id: StreamId,
    pub(super) pairs: Vec<Pair>,
    /// Keys that are being verified.
    pub(super) pending: FuturesUnordered<BoxFuture<'static, Verified>>,
    pub(super) last_use: Instant,
    domains: DomainCache,
    batches: Vec<(Arc<Cluster>, BatchBuilder)>,
    last: Option<Last>,
    /// Set while the routers' queue is full: the peer is not read.
    paused: Option<watch::Receiver<bool>>,
    /// Our side is closed; until then the peer may finish.
    pub(super) closing: Option<Instant>,
}

/// Serves one connection from its first byte to its end.
pub(super) async fn serve(edge: Arc<Edge>, tcp: TcpStream, guard: StreamGuard) {
    // What only the beginning needs is in a box that goes before the stream's long life begins:
    // as a part of this task it would take its memory to the end.
    if let Some(session) = Box::pin(open(edge, tcp, guard)).await {
        session.run().await;
    }
}

/// Negotiates; tells the peer why if that fails.
async fn open(edge: Arc<Edge>, tcp: TcpStream, guard: StreamGuard) -> Option<Box<Session>> {
    let live = edge.live();
    let limits = &live.config.limits;
    let peer = guard.entry.peer;
    let mut wire = Wire::new(
        Transport::new(tcp),
        negotiation_limits(limits),
        Direction::Inbound,
        edge.metrics.clone(),
    );
    let negotiated = tokio::select! {
        negotiated = timeout(limits.negotiation_timeout.0, negotiate::negotiate(&edge, &mut wire)) => {
            negotiated.unwrap_or(Err(Failure::Timeout("the negotiation of the stream")))
        }
        () = edge.inbound.close.cancelled() => Err(shutdown()),
        () = guard.entry.close.cancelled() => Err(Failure::Closed),
    };
    drop(live);
    match negotiated {
        Ok(negotiated) => {
            guard.update(|detail| {
                detail.tls = describe_tls(&wire);
                detail.phase = "established";
            });
            tracing::debug!(
                %peer, from = negotiated.from.map(|d| d.to_string()), stream_id = %negotiated.id,
                "inbound stream negotiated"
            );
            Some(Box::new(Session {
                edge,
                wire,
                guard,
                id: negotiated.id,
                pairs: Vec::new(),
                pending: FuturesUnordered::new(),
                last_use: Instant::now(),
                domains: DomainCache::default(),
                batches: Vec::new(),
                last: None,
                paused: None,
                closing: None,
            }))
        }
        Err(failure) => {
            tracing::info!(%peer, reason = %failure, "inbound stream failed during its negotiation");
            let live = edge.live();
            wire.hang_up(&failure, || negotiate::header_for_error(&live))
                .await;
            None
        }
    }
}

fn shutdown() -> Failure {
    Failure::fault(
        StreamErrorCondition::SystemShutdown,
        "this gateway is stopping",
    )
}

impl Session {
    async fn run(mut self: Box<Self>) {
        let edge = self.edge.clone();
        let mut changes = edge.changes();
        // What came right behind the TLS handshake is in the framer already.
        let mut step = self.take_frames();
        let failure = loop {
            if let Err(failure) = step {
                break failure;
            }
            let deadline = self.deadline();
            let Self {
                wire,
                pending,
                paused,
                closing,
                guard,
                ..
            } = &mut *self;
            let open = closing.is_none();
            // Who does not read our answers is not read either, so they cannot pile up.
            let read = paused.is_none() && (!open || !wire.transport.needs_flush());
            step = tokio::select! {
                turn = wire.transport.turn(read, wire.framer.buffer()) => match turn {
                    Ok(Turn::Read) => self.take_frames(),
                    Ok(Turn::Flushed) => Ok(()),
                    Ok(Turn::End) => Err(Failure::Ended),
                    Err(error) => Err(error.into()),
                },
                Some(verified) = pending.next(), if !pending.is_empty() => self.verified(verified),
                () = room(paused) => {
                    self.paused = None;
                    Ok(())
                }
                () = sleep_until(deadline) => self.timed_out(),
                () = edge.inbound.close.cancelled(), if open => {
                    self.close(Some(&shutdown()));
                    Ok(())
                }
                () = guard.entry.close.cancelled(), if open => {
                    self.close(None);
                    Ok(())
                }
                Ok(()) = changes.changed(), if open => self.check_lists(),
            };
        };
        self.deliver();
        // In a box for the same reason as the beginning.
        Box::pin(self.end(failure)).await;
    }

    async fn end(self: Box<Self>, failure: Failure) {
        tracing::info!(
            peer = %self.guard.entry.peer,
            remote = self.pairs.first().map(|pair| pair.remote.to_string()),
            reason = %failure,
            "inbound stream ended"
        );
        let Self {
            wire,
            closing,
            guard,
            ..
        } = *self;
        if closing.is_some() {
            wire.finish().await;
        } else {
            wire.hang_up(&failure, String::new).await;
        }
        drop(guard);
    }

    /// Closes our side; what the peer has under way is still read and delivered.
    pub(super) fn close(&mut self, failure: Option<&Failure>) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some(Instant::now() + CLOSE_TIME);
        self.guard.update(|detail| detail.phase = "closing");
        match failure.and_then(Failure::to_send) {
            Some((condition, text)) => self.wire.queue_error(condition, &text, String::new),
            None => self
                .wire
                .transport
                .queue(Bytes::from_static(STREAM_END.as_bytes())),
        }
    }

    fn deadline(&self) -> Instant {
        self.closing
            .unwrap_or_else(|| self.last_use + self.patience())
    }

    fn patience(&self) -> Duration {
        if self.pairs.is_empty() {
            UNAUTHENTICATED
        } else {
            self.edge.live().config.limits.idle_timeout.0
        }
    }

    fn timed_out(&mut self) -> Result<(), Failure> {
        if self.closing.is_some() {
            return Err(Failure::Timeout("closing the stream"));
        }
        if self.pending.is_empty() && self.paused.is_none() {
            self.close(None);
        } else {
            self.last_use = Instant::now();
        }
        Ok(())
    }

    fn take_frames(&mut self) -> Result<(), Failure> {
        let live = self.edge.live();
        let mut stanzas = 0;
        let taken = self.take_all(&live, &mut stanzas);
        // Also when the stream fails: what was accepted before is delivered.
        self.deliver();
        if stanzas > 0 {
            self.last_use = Instant::now();
            self.guard.update(|detail| detail.stanzas += stanzas);
        }
        if self.wire.framer.buffered() == 0 {
            self.wire.framer.shrink();
        }
        taken
    }

    fn take_all(&mut self, live: &Arc<Live>, stanzas: &mut u64) -> Result<(), Failure> {
        loop {
            match self.wire.framer.next_frame()? {
                None => return Ok(()),
                Some(Frame::End) => return Err(Failure::Closed),
                Some(Frame::Header(_)) => {
                    return Err(Failure::fault(
                        StreamErrorCondition::BadFormat,
                        "a second stream header",
                    ));
                }
                Some(Frame::Element(element)) => {
                    if is_stanza(&element, ns::SERVER) {
                        self.take_stanza(live, &element)?;
                        *stanzas += 1;
                    } else if let Some(kind) = Received::kind_of(&element) {
                        self.take_dialback(live, &element, kind)?;
                    } else if element.is(ns::STREAMS, "error") {
                        return Err(self.wire.peer_error(&element));
                    } else {
                        return Err(Failure::fault(
                            StreamErrorCondition::UnsupportedStanzaType,
                            "neither a stanza nor dialback",
                        ));
                    }
                }
            }
        }
    }

    /// A stanza counts only between the domains of an authenticated pair.
    fn take_stanza(&mut self, live: &Arc<Live>, element: &Element) -> Result<(), Failure> {
        let addressing = || {
            Failure::fault(
                StreamErrorCondition::ImproperAddressing,
                "from and to of a stanza must be addresses",
            )
        };
        let from = element.from().ok_or_else(addressing)?;
        let to = element.to().ok_or_else(addressing)?;
        let (from, to) = (domain_part(&from), domain_part(&to));
        let batch = match &self.last {
            Some(last) if *last.from == *from && *last.to == *to => last.batch,
            _ => {
                let remote = self.domains.domain_of(from).ok_or_else(addressing)?;
                let local = self.domains.domain_of(to).ok_or_else(addressing)?;
                self.check_pair(live, &local, &remote)?;
                let Some(batch) = self.batch_for(live, &local) else {
                    self.refuse(live, element, &local, &remote);
                    return Ok(());
                };
                self.last = Some(Last {
                    from: from.into(),
                    to: to.into(),
                    batch,
                });
                batch
            }
        };
        if let Some((_, builder)) = self.batches.get_mut(batch) {
            element.reroot_into(Reroot::TO_LINK, &mut builder.out)?;
            builder.count += 1;
        }
        Ok(())
    }

    fn check_pair(&self, live: &Live, local: &Domain, remote: &Domain) -> Result<(), Failure> {
        let known = |pair: &Pair| pair.local == *local && pair.remote == *remote;
        if self.pairs.iter().any(known) {
            return Ok(());
        }
        let (condition, text) = if self.pairs.is_empty() {
            (
                StreamErrorCondition::NotAuthorized,
                "no stanza before dialback",
            )
        } else if !self.pairs.iter().any(|pair| pair.remote == *remote) {
            (
                StreamErrorCondition::InvalidFrom,
                "the sender's domain is not authenticated here",
            )
        } else if live.hosted.contains(local) {
            (
                StreamErrorCondition::InvalidFrom,
                "this pair of domains is not authenticated here",
            )
        } else {
            (
                StreamErrorCondition::HostUnknown,
                "the recipient's domain is not hosted here",
            )
        };
        Err(Failure::fault(condition, text))
    }

    fn batch_for(&mut self, live: &Live, local: &Domain) -> Option<usize> {
        let clusters = self.edge.routers.clusters();
        let cluster = select(&clusters, live, local)?;
        let known = self
            .batches
            .iter()
            .position(|(known, _)| Arc::ptr_eq(known, cluster));
        Some(known.unwrap_or_else(|| {
            self.batches
                .push((cluster.clone(), BatchBuilder::default()));
            self.batches.len() - 1
        }))
    }

    /// No cluster serves the domain any more.
    fn refuse(&self, live: &Live, element: &Element, local: &Domain, remote: &Domain) {
        let cause = Cause::LinkDown;
        let told = bounce(element, cause).is_some_and(|error| {
            self.edge
                .outbound
                .push(&self.edge, live, local, remote, error)
                .is_ok()
        });
        if told {
            self.edge.metrics.bounced(cause.as_str());
        } else {
            self.edge.metrics.dropped(cause.as_str());
        }
    }

    /// Hands the batches of this turn to the links and pauses the peer if too much waits there.
    fn deliver(&mut self) {
        for (cluster, builder) in &mut self.batches {
            if let Some(batch) = builder.finish() {
                cluster.queue.push(batch);
            }
            let full = cluster.queue.full();
            if *full.borrow() {
                self.paused = Some(full);
            }
            // An idle stream holds no buffer.
            builder.out = bytes::BytesMut::new();
        }
        // Which cluster gets the next stanza depends on which links are up then.
        if self.batches.len() > 1 {
            self.batches.clear();
            self.last = None;
        }
    }

    /// A key shown anew was not the remote domain's: the pair no longer counts.
    pub(super) fn forget_pair(&mut self, local: &Domain, remote: &Domain) {
        self.pairs
            .retain(|pair| pair.local != *local || pair.remote != *remote);
        self.guard.update(|detail| {
            detail
                .pairs
                .retain(|pair| pair.local != *local || pair.remote != *remote);
        });
        self.last = None;
    }

    /// A reload may have taken a domain away.
    fn check_lists(&mut self) -> Result<(), Failure> {
        let live = self.edge.live();
        self.batches.clear();
        self.last = None;
        self.domains.shrink();
        if self
            .pairs
            .iter()
            .any(|pair| !live.hosted.contains(&pair.local))
        {
            return Err(Failure::fault(
                StreamErrorCondition::HostGone,
                "a domain of this stream is not hosted here any more",
            ));
        }
        if self
            .pairs
            .iter()
            .any(|pair| live.policy.check(&pair.remote).is_err())
        {
            return Err(Failure::fault(
                StreamErrorCondition::PolicyViolation,
                "federation with this domain is not allowed any more",
            ));
        }
        Ok(())
    }
}

/// Waits until the routers' queue has room again; never, if it was not full.
async fn room(paused: &mut Option<watch::Receiver<bool>>) {
    match paused {
        // A queue that is gone stops nobody.
        Some(full) => drop(full.wait_for(|full| !full).await),
        None => std::future::pending().await,
    }
}
