//! One inbound stream: stanzas of authenticated pairs go to the links in batches, dialback is
//! answered, anything else closes it.

mod opening;
use opening::open;
mod lanes;
mod stanzas;

use lanes::{DomainLane, LastStanza, gated};

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use xmpp_federation_core::{Domain, StreamId};

use super::Inbound;
use super::dialback::{ShownKey, VerifiedKey};
use super::external::External;
use super::negotiate::{self};
use super::table::Place;
use crate::clusters::queue::Pause;
use crate::config::Live;
use crate::dialback::elements::DialbackElement;
use crate::jid::DomainCache;
use crate::observe::log_rate::Party;
use crate::observe::metrics::Bound;
use crate::observe::registry::StreamGuard;
use crate::refusal::{Check, Refusal};
use crate::shared::Shared;
use crate::stanza::is_stanza;
use crate::stream::established::{Driver, TaskFuture, drive};
use crate::stream::pace::LowPriority;
use crate::stream::transport::Delivery;
use crate::stream::{CLOSE_TIME, Failure, LONG_TURN, Wire, stanza_limits};
use crate::terms;
use crate::words::{Mechanism, Service, Stage};
use xmpp_federation_xml::{Element, Limits, StreamErrorCondition, StreamHeader, ns};

/// A stream on which nobody is authenticated may be silent this long, or as long as any other.
const UNAUTHENTICATED: Duration = Duration::from_mins(1);
/// Once our side is closed, a peer may go on for so long as long as it sends: what it has under way
/// may have to wait for a slow router.
const FINISH: Duration = Duration::from_secs(15);
/// How long the end of a stream is waited for that was cut.
const CUT_TIME: Duration = Duration::from_secs(1);
/// A pair of domains that was authenticated on this stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AuthenticatedPair {
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
    pub(super) pairs: Vec<AuthenticatedPair>,
    /// Keys that are being verified.
    pub(super) pending: Verifications,
    /// The same, to know which.
    pub(super) shown: Vec<ShownKey>,
    pub(super) last_use: Instant,
    pub(super) external: External,
    domains: DomainCache,
    lanes: Vec<DomainLane>,
    last: Option<LastStanza>,
    /// Set while too much of the peer's waits for the routers: it is not read.
    paused: Option<Pause>,
    /// Its rate is used up until then: what was read stays in the framer, and it is not read.
    throttled: Option<Instant>,
    /// When this turn began to take what was read.
    turn_began: Instant,
    /// It took long: others have their turns first.
    long_turn: bool,
    /// Bytes that were held before the turn at the socket.
    held: usize,
    changes: watch::Receiver<Arc<Live>>,
}

/// What the frames of one turn share.
pub(super) struct StreamFrames {
    live: Arc<Live>,
    /// How many of them were stanzas.
    stanzas: u64,
}

/// What happens to a stream besides what its peer says.
pub(super) enum SessionEvent {
    Verified(VerifiedKey),
    /// The routers' queues have room for the peer's stanzas again.
    Room,
    /// The edge stops.
    Stopped,
    /// An administrator closes the stream.
    Closed,
    /// The configuration is another one.
    Reloaded,
    /// Another connection has its place.
    GaveWay,
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

impl Driver for Session {
    type Taking = StreamFrames;
    type Event = SessionEvent;

    fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    async fn before_wait(&mut self) -> Result<Instant, Failure> {
        while std::mem::take(&mut self.long_turn) {
            tokio::task::yield_now().await;
            // It may have ended in the middle of what was read.
            self.take_frames()?;
        }
        self.held = self.wire.framer.buffered();
        let deadline = self.deadline();
        // One timer for both: it is a good part of what an idle stream takes.
        Ok(self.goes_on().map_or(deadline, |at| at.min(deadline)))
    }

    fn wait(&mut self) -> (impl TaskFuture<Result<bool, Failure>>, impl TaskFuture<SessionEvent>) {
        let open = self.wire.is_open();
        let waits = self.paused.is_some();
        // A peer that does not read our answers is not read either, so they cannot pile up.
        let read = !waits && self.throttled.is_none() && (!open || !self.wire.transport.needs_flush());
        let Self {
            inbound,
            wire,
            pending,
            paused,
            guard,
            lanes,
            place,
            changes,
            ..
        } = self;
        let (paused, shut) = match paused {
            Some(paused) => (Some(paused), None),
            none => (None, Some(none)),
        };
        let event = async move {
            tokio::select! {
                Some(verified) = pending.next(), if !pending.is_empty() => SessionEvent::Verified(verified),
                () = room(paused) => SessionEvent::Room,
                () = inbound.close.cancelled(), if open => SessionEvent::Stopped,
                () = guard.entry.close.cancelled(), if open => SessionEvent::Closed,
                Ok(()) = changes.changed(), if open => SessionEvent::Reloaded,
                () = place.give_way.cancelled() => SessionEvent::GaveWay,
            }
        };
        (gated(lanes, shut.filter(|_| read), wire.turn(read)), event)
    }

    fn received(&mut self) -> Result<(), Failure> {
        self.lives_on();
        let came = self.wire.framer.buffered() > self.held;
        let taken = self.take_frames();
        // White space is traffic too, as XEP-0478 counts it, once a pair counts; a stanza that does not get any
        // further is not.
        if came && !self.pairs.is_empty() && self.wire.framer.buffered() == 0 {
            self.last_use = Instant::now();
        }
        taken
    }

    async fn happened(&mut self, event: SessionEvent) -> Result<(), Failure> {
        match event {
            SessionEvent::Verified(verified) => return self.verified(verified),
            SessionEvent::Room => {
                self.paused = None;
                self.lives_on();
            }
            SessionEvent::Stopped => self.close(Some(&shutdown())),
            SessionEvent::Closed => self.close(None),
            SessionEvent::Reloaded => self.check_lists()?,
            SessionEvent::GaveWay => return Err(gave_way()),
        }
        // It may have been paused or throttled in the middle of what was read.
        self.take_frames()
    }

    fn timed_out(&mut self) -> Result<(), Failure> {
        if self.goes_on().is_none_or(|at| Instant::now() < at) {
            return self.end_idle();
        }
        self.throttled = None;
        self.lives_on();
        self.take_frames()
    }

    /// Whether what was read may go on to the routers. Our side closed: nothing may stay behind.
    fn may_take(&self) -> bool {
        !self.long_turn && self.throttled.is_none() && (self.paused.is_none() || !self.wire.is_open())
    }

    fn take_header(&mut self, taking: &mut StreamFrames, header: &StreamHeader) -> Result<(), Failure> {
        if self.external.restarting {
            return self.restarted(&taking.live, header);
        }
        Err(Failure::bad_format("a second stream header"))
    }

    fn take_element(&mut self, taking: &mut StreamFrames, element: &Element) -> Result<(), Failure> {
        let live = &taking.live;
        if is_stanza(element, ns::SERVER) {
            self.take_stanza(live, element)?;
            taking.stanzas += 1;
            Ok(())
        } else if let Some(kind) = DialbackElement::kind_of(element) {
            self.take_dialback(live, element, kind)
        } else if element.ns() == ns::SASL {
            self.take_sasl(live, element)
        } else {
            Err(Failure::unsupported_stanza_type("neither a stanza nor dialback"))
        }
    }
}

impl Session {
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.inbound.shared
    }

    /// Whether a line about what the peer does may be written; `remote`: in whose name.
    pub(super) fn may_log(&self, about: &'static str, remote: Option<&Domain>) -> bool {
        self.shared().may_log(about, self.guard.entry.party(remote))
    }

    /// Something was proven on this stream. `partner`: the name of a configured partner.
    pub(super) fn proven(&mut self, partner: bool) {
        if self.unproven_until.take().is_some() || partner {
            self.place.proven(partner);
            let low = (!partner).then(|| LowPriority::new(self.inbound.low_turns.clone()));
            self.wire.transport.proven(low);
        }
    }

    /// `first`: what the peer said already.
    async fn run(mut self: Box<Self>, first: Option<Box<Element>>) {
        let begun = first.map_or(Ok(()), |first| self.take_element(&mut self.taking(), &first));
        let failure = match begun {
            Ok(()) => drive(&mut *self).await,
            Err(failure) => failure,
        };
        self.deliver();
        // In a box for the same reason as the beginning.
        Box::pin(self.end(failure)).await;
    }

    fn taking(&self) -> StreamFrames {
        StreamFrames {
            live: self.shared().live(),
            stanzas: 0,
        }
    }

    async fn end(mut self: Box<Self>, failure: Failure) {
        let cut = !self.wire.is_open() && matches!(failure, Failure::Timeout(_));
        if cut {
            self.name_unread();
        }
        if self.wire.is_open() {
            self.shared().stream_refused(&self.guard.entry, &failure);
        }
        count_excess(&self.inbound, &failure, self.unproven_until.is_some());
        let (peer, claimed) = (self.guard.entry.peer, self.guard.entry.claimed());
        let party = Party::Caller(peer.ip(), claimed.as_ref());
        if self.shared().may_log("inbound stream ended", party) {
            tracing::info!(
                %peer,
                remote = self.pairs.first().map(|pair| pair.remote.to_string()),
                reason = %failure,
                "inbound stream ended"
            );
        }
        let Self {
            inbound, wire, guard, ..
        } = *self;
        let live = inbound.shared.live();
        let farewell = wire.hang_up(&failure, || negotiate::header_for_error(&live));
        if cut {
            let _ = timeout(CUT_TIME, farewell).await;
        } else {
            farewell.await;
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
        self.shared().metrics.stream_cut();
        tracing::warn!(
            peer = %self.guard.entry.peer,
            remote = self.pairs.first().map(|pair| pair.remote.to_string()),
            at_least_bytes = bytes,
            "an inbound stream was not read to its end in time: its peer was still sending after our side was closed, and what it sent last is lost"
        );
    }

    /// The peer goes on after our side was closed.
    fn lives_on(&mut self) {
        if let Some(closing) = &mut self.wire.closing {
            closing.extend(CLOSE_TIME);
        }
    }

    /// Closes our side; what the peer has under way is still read and delivered.
    pub(super) fn close(&mut self, failure: Option<&Failure>) {
        if !self.wire.is_open() {
            return;
        }
        // What it has under way would not arrive in time at its rate.
        self.throttled = None;
        self.guard.update(|detail| detail.phase = "closing");
        // Without a pair no stanza is under way.
        let proven = !self.pairs.is_empty();
        let live = self.shared().live();
        let header = || negotiate::header_for_error(&live);
        self.wire
            .close(failure, header, if proven { FINISH } else { CLOSE_TIME });
    }

    fn deadline(&self) -> Instant {
        let idle = self.last_use + self.patience();
        let end = self.unproven_until.map_or(idle, |until| until.min(idle));
        match self.wire.closing {
            // It cannot go on before the routers do.
            Some(closing) if self.paused.is_some() => closing.end(),
            Some(closing) => closing.deadline(),
            None => end,
        }
    }

    /// When a throttled stream is read again, if the routers let it.
    fn goes_on(&self) -> Option<Instant> {
        self.throttled.filter(|_| self.paused.is_none())
    }

    fn patience(&self) -> Duration {
        let idle = self.shared().live().config.limits.idle_timeout.0;
        if self.pairs.is_empty() {
            UNAUTHENTICATED.min(idle)
        } else {
            idle
        }
    }

    /// Nothing came for too long, or nothing was proven.
    fn end_idle(&mut self) -> Result<(), Failure> {
        if !self.wire.is_open() {
            return Err(Failure::Timeout("closing the stream"));
        }
        if self.unproven_until.is_some_and(|until| Instant::now() >= until) {
            self.shared().metrics.unproven_ended(Bound::Time);
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
        // Another cluster may have a link that is up.
        if self.lanes.iter().any(|lane| !lane.cluster.queue.is_up()) {
            self.forget_lanes();
        }
        let mut taking = self.taking();
        let taken = self.take_all(&mut taking);
        // Also when the stream fails: what was accepted before is delivered.
        self.deliver();
        if taking.stanzas > 0 {
            self.last_use = Instant::now();
            self.guard.update(|detail| detail.stanzas += taking.stanzas);
        }
        if self.wire.framer.buffered() == 0 {
            self.wire.framer.shrink();
        }
        self.look_at_time();
        taken
    }

    /// Whether others have their turns before what else was read.
    fn look_at_time(&mut self) {
        self.long_turn = self.turn_began.elapsed() >= LONG_TURN;
    }

    /// The stream is not read until then.
    fn throttle(&mut self, until: Option<Instant>, reason: &'static str) {
        if until.is_some() && self.throttled.is_none() {
            self.shared().metrics.paused(reason);
        }
        self.throttled = self.throttled.max(until);
    }

    fn pause(&mut self, pause: Option<Pause>) {
        if pause.is_some() {
            if self.paused.is_none() {
                self.shared().metrics.paused("link-queue");
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
            let limits = self.limits(&self.shared().live());
            self.wire.framer.set_limits(limits);
        }
    }

    /// Whether this stream may carry a remote domain.
    pub(super) fn terms(&self, live: &Live, remote: &Domain) -> Result<(), Refusal> {
        let shown = self.wire.transport.shown();
        let kept = &self.external.certificate;
        terms::check(live, &self.shared().memory, shown, kept, remote)
    }

    /// Whether a pair that was authenticated may go on after a reload.
    fn still_counts(&self, live: &Live, pair: &AuthenticatedPair) -> Result<(), Refusal> {
        let shown = self.wire.transport.shown();
        match (pair.mechanism, shown) {
            (Mechanism::External, Some(shown)) => {
                terms::certificate(live, shown, &self.external.certificate, &pair.remote)
            }
            _ => self.terms(live, &pair.remote),
        }
    }

    /// A reload may have taken a domain away.
    fn check_lists(&mut self) -> Result<(), Failure> {
        let live = self.shared().live();
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
                self.shared()
                    .refused(&self.guard.entry, Stage::Stream, local, remote, &refusal);
                return Err(refusal.into());
            }
        }
        // Its rate may have changed.
        self.throttled = None;
        Ok(())
    }
}

/// Waits until there is room for the peer's stanzas again; never, if there was.
async fn room(paused: Option<&mut Pause>) {
    match paused {
        Some(pause) => pause.over().await,
        None => std::future::pending().await,
    }
}
