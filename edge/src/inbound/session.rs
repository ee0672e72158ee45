//! One inbound stream: stanzas of authenticated pairs go to the links in batches, dialback is
//! answered, anything else closes it.

mod opening;
use opening::open;
mod lanes;
mod stanzas;

use lanes::{GatedTurn, Lane, Last, gated};

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use xmpp_federation_core::{Domain, StreamId};

use super::Inbound;
use super::dialback::{ShownKey, VerifiedKey};
use super::external::External;
use super::negotiate::{self};
use super::table::Place;
use crate::clusters::queue::Pause;
use crate::config::Live;
use crate::dialback::elements::Received;
use crate::jid::DomainCache;
use crate::observe::log_rate::Party;
use crate::observe::metrics::Bound;
use crate::observe::registry::StreamGuard;
use crate::refusal::Check;
use crate::stanza::is_stanza;
use crate::stream::pace::Low;
use crate::stream::transport::Delivery;
use crate::stream::{CLOSE_TIME, Failure, LONG_TURN, Wire, stanza_limits};
use crate::terms;
use crate::words::{Mechanism, Service, Stage};
use xmpp_federation_xml::{Element, Frame, Limits, STREAM_END, StreamErrorCondition, ns};

/// A stream on which nobody is authenticated may be silent this long, or as long as any other.
const UNAUTHENTICATED: Duration = Duration::from_mins(1);
/// Once our side is closed, a peer may go on for so long as long as it sends: what it has under way
/// may have to wait for a slow router.
const FINISH: Duration = Duration::from_secs(15);
/// How long the end of a stream is waited for that was cut.
const CUT_TIME: Duration = Duration::from_secs(1);
/// A pair of domains that was authenticated on this stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) local: Domain,
    pub(super) remote: Domain,
    pub(super) mechanism: Mechanism,
}

/// Keys that are being verified; takes no memory while there are none.
#[derive(Default)]
pub(super) struct Verifications(Option<Box<FuturesUnordered<BoxFuture<'static, VerifiedKey>>>>);

impl Verifications {
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |all| all.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn push(&mut self, verification: BoxFuture<'static, VerifiedKey>) {
        self.0.get_or_insert_default().push(verification);
    }

    async fn next(&mut self) -> Option<VerifiedKey> {
        let verified = self.0.as_mut()?.next().await;
        self.0.take_if(|all| all.is_empty());
        verified
    }
}

/// One established stream.
pub(super) struct Session {
    pub(super) inbound: Arc<Inbound>,
    pub(super) wire: Wire,
    pub(super) guard: StreamGuard,
    place: Place,
    /// When a stream on which nothing was ever proven ends; `None`: something was.
    unproven_until: Option<Instant>,
    /// The id of our latest header.
    pub(super) id: StreamId,
    pub(super) pairs: Vec<Pair>,
    /// Keys that are being verified.
    pub(super) pending: Verifications,
    /// The same, to know which.
    pub(super) shown: Vec<ShownKey>,
    pub(super) last_use: Instant,
    pub(super) external: External,
    domains: DomainCache,
    lanes: Vec<Lane>,
    last: Option<Last>,
    /// Set while too much of the peer's waits for the routers: it is not read.
    paused: Option<Pause>,
    /// Its rate is used up until then: what was read stays in the framer, and it is not read.
    throttled: Option<Instant>,
    /// When this turn began to take what was read.
    turn_began: Instant,
    /// It took long: others have their turns first.
    long_turn: bool,
    /// Our side is closed.
    pub(super) closing: Option<Closing>,
}

/// How long a peer may finish after our side is closed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closing {
    /// Until then if nothing more comes.
    silent: Instant,
    /// Until then whatever comes.
    end: Instant,
}

impl Closing {
    /// From now on; `finish`: however much it sends.
    fn begin(finish: Duration) -> Self {
        let now = Instant::now();
        Self {
            silent: now + CLOSE_TIME,
            end: now + finish,
        }
    }

    /// Something came, or what came before went on.
    fn lives(&mut self) {
        self.silent = Instant::now() + CLOSE_TIME;
    }
}

/// Serves one connection from its first byte to its end.
pub(super) async fn serve(
    inbound: Arc<Inbound>,
    tcp: TcpStream,
    guard: StreamGuard,
    place: Place,
    service: Service,
    deadline: Instant,
) {
    // What only the beginning needs is in a box that goes before the stream's long life begins:
    // as a part of this task it would take its memory to the end.
    if let Some((session, first)) = Box::pin(open(inbound, tcp, guard, place, service, deadline)).await {
        session.run(first).await;
    }
}

fn shutdown() -> Failure {
    Failure::fault(StreamErrorCondition::SystemShutdown, "this gateway is stopping")
}

/// The connection is closed without a word: another one has its place.
fn gave_way() -> Failure {
    std::io::Error::other("closed for a newer connection: this one was the oldest without a proof").into()
}

/// A stream on which nothing was proven had more than its part of something.
fn count_excess(inbound: &Inbound, failure: &Failure, unproven: bool) {
    let of = match failure {
        Failure::Io(error) if error.kind() == ErrorKind::QuotaExceeded => Bound::Bytes,
        Failure::Io(error) if error.kind() == ErrorKind::OutOfMemory => Bound::Incomplete,
        Failure::Fault { condition, .. } if *condition == StreamErrorCondition::ResourceConstraint => Bound::Incomplete,
        _ => return,
    };
    if unproven {
        inbound.shared.metrics.unproven_ended(of);
    }
}

impl Session {
    /// Something was proven on this stream. `partner`: the name of a configured partner.
    pub(super) fn proven(&mut self, partner: bool) {
        if self.unproven_until.take().is_some() || partner {
            self.place.proven(partner);
            let low = (!partner).then(|| Low::new(self.inbound.low_turns.clone()));
            self.wire.transport.proven(low);
        }
    }

    /// `first`: what the peer said already.
    async fn run(mut self: Box<Self>, first: Option<Box<Element>>) {
        let inbound = self.inbound.clone();
        let mut changes = inbound.shared.changes();
        // What came right behind the negotiation is in the framer already.
        let mut step = match first {
            Some(first) => self.take_element(&inbound.shared.live(), &first, &mut 0),
            None => Ok(()),
        };
        step = step.and_then(|()| self.take_frames());
        let failure = loop {
            if let Err(failure) = step {
                break failure;
            }
            if std::mem::take(&mut self.long_turn) {
                tokio::task::yield_now().await;
                // It may have ended in the middle of what was read.
                step = self.take_frames();
                continue;
            }
            let deadline = self.deadline();
            let held = self.wire.framer.buffered();
            let Self {
                wire,
                pending,
                paused,
                closing,
                guard,
                lanes,
                throttled,
                place,
                ..
            } = &mut *self;
            let open = closing.is_none();
            let waits = paused.is_some();
            // A peer that does not read our answers is not read either, so they cannot pile up.
            let read = !waits && throttled.is_none() && (!open || !wire.transport.needs_flush());
            let go_on = throttled.filter(|_| !waits);
            // One timer for both: it is a good part of what an idle stream takes.
            let timer = sleep_until(go_on.map_or(deadline, |at| at.min(deadline)));
            step = tokio::select! {
                turn = gated(lanes, read, wire.turn(read)) => match turn {
                    GatedTurn::Shut(pause) => {
                        self.paused = Some(pause);
                        Ok(())
                    }
                    GatedTurn::Turn(Ok(true)) => {
                        self.lives_on();
                        let came = self.wire.framer.buffered() > held;
                        let taken = self.take_frames();
                        // White space is traffic too, as XEP-0478 counts it, once a pair counts; a
                        // stanza that does not get any further is not.
                        if came && !self.pairs.is_empty() && self.wire.framer.buffered() == 0 {
                            self.last_use = Instant::now();
                        }
                        taken
                    }
                    GatedTurn::Turn(Ok(false)) => Ok(()),
                    GatedTurn::Turn(Err(failure)) => Err(failure),
                },
                Some(verified) = pending.next(), if !pending.is_empty() => self.verified(verified),
                () = room(paused) => {
                    self.paused = None;
                    self.lives_on();
                    // It was paused in the middle of what was read.
                    self.take_frames()
                }
                () = timer => {
                    if go_on.is_some_and(|at| Instant::now() >= at) {
                        self.throttled = None;
                        self.lives_on();
                        self.take_frames()
                    } else {
                        self.timed_out()
                    }
                }
                () = inbound.close.cancelled(), if open => {
                    self.close(Some(&shutdown()));
                    self.take_frames()
                }
                () = guard.entry.close.cancelled(), if open => {
                    self.close(None);
                    self.take_frames()
                }
                Ok(()) = changes.changed(), if open => self.check_lists(),
                () = place.give_way.cancelled() => Err(gave_way()),
            };
        };
        self.deliver();
        // In a box for the same reason as the beginning.
        Box::pin(self.end(failure)).await;
    }

    async fn end(mut self: Box<Self>, failure: Failure) {
        let cut = self.closing.is_some() && matches!(failure, Failure::Timeout(_));
        if cut {
            self.name_unread();
        }
        if self.closing.is_none() {
            self.inbound.shared.stream_refused(&self.guard.entry, &failure);
        }
        count_excess(&self.inbound, &failure, self.unproven_until.is_some());
        let (peer, claimed) = (self.guard.entry.peer, self.guard.entry.claimed());
        let party = Party::Caller(peer.ip(), claimed.as_ref());
        if self.inbound.shared.may_log("inbound stream ended", party) {
            tracing::info!(
                %peer,
                remote = self.pairs.first().map(|pair| pair.remote.to_string()),
                reason = %failure,
                "inbound stream ended"
            );
        }
        let Self {
            inbound,
            wire,
            closing,
            guard,
            ..
        } = *self;
        if cut {
            let _ = timeout(CUT_TIME, wire.finish()).await;
        } else if closing.is_some() {
            wire.finish().await;
        } else {
            let live = inbound.shared.live();
            wire.hang_up(&failure, || negotiate::header_for_error(&live)).await;
        }
        drop(guard);
    }

    /// The stream is cut although the peer was not at its end: it may believe that all arrived.
    fn name_unread(&mut self) {
        let Wire { transport, framer, .. } = &mut self.wire;
        // What is in the socket: one look is enough to know that there is something.
        let _ = transport.read_on(framer.buffer()).now_or_never();
        let bytes = framer.buffered();
        if bytes == 0 {
            return;
        }
        self.inbound.shared.metrics.stream_cut();
        tracing::warn!(
            peer = %self.guard.entry.peer,
            remote = self.pairs.first().map(|pair| pair.remote.to_string()),
            at_least_bytes = bytes,
            "an inbound stream was not read to its end in time: its peer was still sending after our side was closed, and what it sent last is lost"
        );
    }

    /// The peer goes on after our side was closed.
    fn lives_on(&mut self) {
        if let Some(closing) = &mut self.closing {
            closing.lives();
        }
    }

    /// Closes our side; what the peer has under way is still read and delivered.
    pub(super) fn close(&mut self, failure: Option<&Failure>) {
        if self.closing.is_some() {
            return;
        }
        // Without a pair no stanza is under way.
        let proven = !self.pairs.is_empty();
        self.closing = Some(Closing::begin(if proven { FINISH } else { CLOSE_TIME }));
        // What it has under way would not arrive in time at its rate.
        self.throttled = None;
        self.guard.update(|detail| detail.phase = "closing");
        match failure.and_then(Failure::to_send) {
            Some((condition, text)) => {
                let live = self.inbound.shared.live();
                let header = || negotiate::header_for_error(&live);
                self.wire.queue_error(condition, &text, header);
            }
            None => self.wire.transport.queue(Bytes::from_static(STREAM_END.as_bytes())),
        }
    }

    fn deadline(&self) -> Instant {
        let idle = self.last_use + self.patience();
        let end = self.unproven_until.map_or(idle, |until| until.min(idle));
        match self.closing {
            // It cannot go on before the routers do.
            Some(Closing { end, .. }) if self.paused.is_some() => end,
            Some(Closing { silent, end }) => silent.min(end),
            None => end,
        }
    }

    fn patience(&self) -> Duration {
        let idle = self.inbound.shared.live().config.limits.idle_timeout.0;
        if self.pairs.is_empty() {
            UNAUTHENTICATED.min(idle)
        } else {
            idle
        }
    }

    fn timed_out(&mut self) -> Result<(), Failure> {
        if self.closing.is_some() {
            return Err(Failure::Timeout("closing the stream"));
        }
        if self.unproven_until.is_some_and(|until| Instant::now() >= until) {
            self.inbound.shared.metrics.unproven_ended(Bound::Time);
            let text = "no pair of domains was authenticated on this stream in time";
            return Err(Failure::violation(Check::Time, text));
        }
        if self.pending.is_empty() && self.paused.is_none() && self.throttled.is_none() {
            self.close(None);
        } else {
            self.last_use = Instant::now();
        }
        Ok(())
    }

    fn take_frames(&mut self) -> Result<(), Failure> {
        self.turn_began = Instant::now();
        self.long_turn = false;
        let live = self.inbound.shared.live();
        // Another cluster may have a link that is up.
        if self.lanes.iter().any(|lane| !lane.cluster.queue.is_up()) {
            self.forget_lanes();
        }
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
        self.look_at_time();
        taken
    }

    fn take_all(&mut self, live: &Arc<Live>, stanzas: &mut u64) -> Result<(), Failure> {
        while self.may_take() {
            match self.wire.take_frame()? {
                None => return Ok(()),
                Some(Frame::End) => return Err(Failure::Closed),
                Some(Frame::Header(header)) if self.external.restarting => {
                    self.restarted(live, &header)?;
                }
                Some(Frame::Header(_)) => {
                    return Err(Failure::fault(
                        StreamErrorCondition::BadFormat,
                        "a second stream header",
                    ));
                }
                Some(Frame::Element(element)) => self.take_element(live, &element, stanzas)?,
            }
        }
        Ok(())
    }

    /// Whether what was read may go on to the routers. Our side closed: nothing may stay behind.
    fn may_take(&self) -> bool {
        !self.long_turn && self.throttled.is_none() && (self.paused.is_none() || self.closing.is_some())
    }

    fn take_element(&mut self, live: &Arc<Live>, element: &Element, stanzas: &mut u64) -> Result<(), Failure> {
        if is_stanza(element, ns::SERVER) {
            self.take_stanza(live, element)?;
            *stanzas += 1;
            Ok(())
        } else if let Some(kind) = Received::kind_of(element) {
            self.take_dialback(live, element, kind)
        } else if element.is(ns::STREAMS, "error") {
            Err(self.wire.peer_error(element))
        } else if element.ns() == ns::SASL {
            self.take_sasl(live, element)
        } else {
            Err(Failure::fault(
                StreamErrorCondition::UnsupportedStanzaType,
                "neither a stanza nor dialback",
            ))
        }
    }

    /// Whether others have their turns before what else was read.
    fn look_at_time(&mut self) {
        self.long_turn = self.turn_began.elapsed() >= LONG_TURN;
    }

    /// The stream is not read until then.
    fn throttle(&mut self, until: Option<Instant>, reason: &'static str) {
        if until.is_some() && self.throttled.is_none() {
            self.inbound.shared.metrics.paused(reason);
        }
        self.throttled = self.throttled.max(until);
    }

    fn pause(&mut self, pause: Option<Pause>) {
        if pause.is_some() {
            if self.paused.is_none() {
                self.inbound.shared.metrics.paused("link-queue");
            }
            self.paused = pause;
        }
    }

    /// The framer's limits: the largest stanza that any domain of this stream may send.
    pub(super) fn limits(&self, live: &Live) -> Limits {
        let largest = self
            .pairs
            .iter()
            .map(|pair| live.policy.peer(&pair.remote).max_stanza_bytes)
            .max();
        Limits {
            max_stanza_bytes: largest.unwrap_or(live.config.limits.max_unauthenticated_bytes),
            ..stanza_limits(&live.config.limits)
        }
    }

    /// A key shown anew was not the remote domain's: the pair no longer counts.
    pub(super) fn forget_pair(&mut self, local: &Domain, remote: &Domain) {
        self.pairs.retain(|pair| pair.local != *local || pair.remote != *remote);
        self.guard.update(|detail| {
            detail
                .pairs
                .retain(|pair| pair.local != *local || pair.remote != *remote);
        });
        self.last = None;
        if !self.pairs.is_empty() {
            let limits = self.limits(&self.inbound.shared.live());
            self.wire.framer.set_limits(limits);
        }
    }

    /// A reload may have taken a domain away.
    fn check_lists(&mut self) -> Result<(), Failure> {
        let live = self.inbound.shared.live();
        self.forget_lanes();
        self.domains.shrink();
        if !self.pairs.is_empty() {
            self.wire.framer.set_limits(self.limits(&live));
        }
        let (pairs, remotes) = (self.pairs.iter(), self.pairs.iter().map(|pair| &pair.remote));
        terms::still(&live, pairs.map(|pair| &pair.local), remotes)?;
        for pair in &self.pairs {
            if let Err(refusal) = self.still_counts(&live, pair) {
                let (local, remote) = (Some(&pair.local), Some(&pair.remote));
                self.inbound
                    .shared
                    .refused(&self.guard.entry, Stage::Stream, local, remote, &refusal);
                return Err(refusal.into());
            }
        }
        // Its rate may have changed.
        self.throttled = None;
        self.take_frames()
    }
}

/// Waits until there is room for the peer's stanzas again; never, if there was.
async fn room(paused: &mut Option<Pause>) {
    match paused {
        Some(pause) => pause.over().await,
        None => std::future::pending().await,
    }
}
