//! One inbound stream: stanzas of authenticated pairs go to the links in batches, dialback is
//! answered, anything else closes it.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use xmpp_federation_core::{Domain, StreamId};

use super::Inbound;
use super::dialback::{Shown, Verified};
use super::external::External;
use super::negotiate::{self, Negotiation};
use super::rate::{Payer, Rate};
use super::table::Place;
use crate::bounce::{Cause, bounce};
use crate::clusters::batch::{BatchBuilder, Source};
use crate::clusters::queue::Pause;
use crate::clusters::{Cluster, select};
use crate::config::Live;
use crate::dialback::elements::Received;
use crate::jid::{DomainCache, domain_part};
use crate::jid::{JidFault, LastJudged, Side, is_known_good, judge, readdressed, shown};
use crate::network::network_of;
use crate::observe::log_rate::Party;
use crate::observe::metrics::Bound;
use crate::observe::registry::StreamGuard;
use crate::refusal::{Check, Refusal};
use crate::stanza::{is_stanza, wants_answer};
use crate::stream::pace::{Low, Paced};
use crate::stream::transport::{Delivery, Transport};
use crate::stream::{CLOSE_TIME, Failure, LONG_TURN, Wire, negotiation_limits, stanza_limits};
use crate::words::Service;
use crate::words::Stage;
use crate::words::{Direction, Mechanism};
use xmpp_federation_xml::{Element, Frame, Limits, Reroot, STREAM_END, StreamErrorCondition, ns};

/// A stream on which nobody is authenticated may be silent this long, or as long as any other.
const UNAUTHENTICATED: Duration = Duration::from_mins(1);
/// A stream on which nothing was ever proven ends after this time whatever it sends, or after twice the
/// idle time.
const UNPROVEN: Duration = Duration::from_mins(2);
/// Bytes received on a connection until something is proven, at most: a long chain of certificates and
/// a key for each pair that one stream may have.
const UNPROVEN_BYTES: u64 = 192 * 1024;
/// Once our side is closed, a peer may go on for so long as long as it sends: what it has under way
/// may have to wait for a slow router.
const FINISH: Duration = Duration::from_secs(15);
/// How long the end of a stream is waited for that was cut.
const CUT_TIME: Duration = Duration::from_secs(1);
/// What the metric of dropped stanzas calls those that are refused beyond their sender's rate.
const BEYOND: &str = "refused-rate";
/// Ways of stanzas that a stream remembers from one turn to the next.
const LANES: usize = 8;
/// Bytes of stanzas, as they are written, that are handed to a link at once: a turn brings more
/// when the stream's header adds to each of them.
const PIECE: usize = 64 * 1024;

/// A pair of domains that was authenticated on this stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) local: Domain,
    pub(super) remote: Domain,
    pub(super) mechanism: Mechanism,
}

/// The addresses of the last stanza: most stanzas are like the one before.
#[derive(Debug)]
struct Last {
    addresses: LastJudged,
    /// Their domains, as they are written.
    from: Box<str>,
    to: Box<str>,
    /// What is written instead, if these are other spellings than the router's.
    from_instead: Option<Box<str>>,
    to_instead: Option<Box<str>>,
    /// Index into [`Session::lanes`].
    lane: usize,
}

/// Where stanzas of one remote domain go, and on which terms.
#[derive(Debug)]
struct Lane {
    cluster: Arc<Cluster>,
    remote: Arc<Domain>,
    source: Source,
    builder: BatchBuilder,
    max_bytes: usize,
    rate: Option<Arc<Rate>>,
}

impl Lane {
    /// Hands what was collected to the link; a pause if too much waits there now.
    fn hand_over(&mut self, inbound: &Arc<Inbound>) -> Option<Pause> {
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

/// Keys that are being verified; takes no memory while there are none.
#[derive(Default)]
pub(super) struct Verifications(Option<Box<FuturesUnordered<BoxFuture<'static, Verified>>>>);

impl Verifications {
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |all| all.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn push(&mut self, verification: BoxFuture<'static, Verified>) {
        self.0.get_or_insert_default().push(verification);
    }

    async fn next(&mut self) -> Option<Verified> {
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
    pub(super) shown: Vec<Shown>,
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

/// A stream that was negotiated, and what the peer said already.
type Begun = (Box<Session>, Option<Box<Element>>);

/// Negotiates; tells the peer why if that fails.
async fn open(
    inbound: Arc<Inbound>,
    tcp: TcpStream,
    guard: StreamGuard,
    place: Place,
    service: Service,
    deadline: Instant,
) -> Option<Begun> {
    let began = Instant::now();
    let live = inbound.shared.live();
    let limits = &live.config.limits;
    let peer = guard.entry.peer;
    let partner = inbound.shared.is_partners_address(&live, peer.ip());
    let paced = (!partner).then(|| Paced::new(inbound.pace.clone()));
    let mut wire = Wire::new(
        Transport::new(tcp)
            .of(&guard.entry)
            .counted(inbound.shared.incomplete.part(partner))
            .unproven(UNPROVEN_BYTES, paced),
        negotiation_limits(limits),
        Direction::Inbound,
        inbound.shared.metrics.clone(),
    );
    let negotiated = tokio::select! {
        negotiated = timeout_at(deadline, Negotiation::new(&inbound.shared, &mut wire, &guard.entry).run(service)) => {
            negotiated.unwrap_or(Err(Failure::Timeout("the negotiation of the stream")))
        }
        () = inbound.close.cancelled() => Err(shutdown()),
        () = guard.entry.close.cancelled() => Err(Failure::Closed),
        () = place.give_way.cancelled() => Err(gave_way()),
    };
    let unproven = UNPROVEN.min(2 * limits.idle_timeout.0);
    drop(live);
    match negotiated {
        Ok(negotiated) => {
            guard.update(|detail| detail.phase = "established");
            tracing::debug!(
                %peer, from = negotiated.addresses.from.as_ref().map(Domain::as_str), stream_id = %negotiated.id,
                "inbound stream negotiated"
            );
            let session = Box::new(Session {
                inbound,
                wire,
                guard,
                place,
                unproven_until: Some(began + unproven),
                id: negotiated.id,
                pairs: Vec::new(),
                pending: Verifications::default(),
                shown: Vec::new(),
                last_use: Instant::now(),
                external: External::new(negotiated.addresses),
                domains: DomainCache::default(),
                lanes: Vec::new(),
                last: None,
                paused: None,
                throttled: None,
                turn_began: Instant::now(),
                long_turn: false,
                closing: None,
            });
            Some((session, negotiated.first.map(Box::new)))
        }
        // Load balancers look whether somebody listens, and leave.
        Err(Failure::Io(_) | Failure::Ended) if !wire.transport.has_received() => {
            tracing::debug!(%peer, "a connection was closed before its first byte");
            None
        }
        Err(failure) => {
            let claimed = guard.entry.claimed();
            if inbound
                .shared
                .may_log("inbound stream failed", Party::Caller(peer.ip(), claimed.as_ref()))
            {
                let stage = failure.stage(guard.entry.stage()).as_str();
                tracing::info!(%peer, stage, reason = %failure, "inbound stream failed during its negotiation");
            }
            inbound.shared.stream_refused(&guard.entry, &failure);
            count_excess(&inbound, &failure, true);
            let live = inbound.shared.live();
            wire.hang_up(&failure, || negotiate::header_for_error(&live)).await;
            None
        }
    }
}

/// An address without its resource: one user's.
fn bare(address: &str) -> &str {
    address.split_once('/').map_or(address, |(bare, _)| bare)
}

fn addressing() -> Failure {
    Failure::fault(
        StreamErrorCondition::ImproperAddressing,
        "from and to of a stanza must be addresses",
    )
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
                    Gated::Shut(pause) => {
                        self.paused = Some(pause);
                        Ok(())
                    }
                    Gated::Turn(Ok(true)) => {
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
                    Gated::Turn(Ok(false)) => Ok(()),
                    Gated::Turn(Err(failure)) => Err(failure),
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

    /// A stanza counts only between the domains of an authenticated pair.
    fn take_stanza(&mut self, live: &Arc<Live>, element: &Element) -> Result<(), Failure> {
        let from = element.from().ok_or_else(addressing)?;
        let to = element.to().ok_or_else(addressing)?;
        let again = |last: &Last| last.addresses.are(&from, &to);
        if !self.last.as_ref().is_some_and(again) && !self.find_way(live, element, &from, &to)? {
            return Ok(());
        }
        let Some(last) = &self.last else {
            return Ok(());
        };
        let received = element.bytes().len();
        let unportable = element.unportable();
        let other;
        let moved = if last.from_instead.is_none() && last.to_instead.is_none() {
            element
        } else {
            let (from, to) = (last.from_instead.as_deref(), last.to_instead.as_deref());
            other = readdressed(element, from, to);
            &other
        };
        let Some(lane) = self.lanes.get_mut(last.lane) else {
            return Ok(());
        };
        // The framer has the largest limit of all domains on this stream.
        if received > lane.max_bytes {
            return Err(Failure::violation(Check::Size, "stanza too large"));
        }
        let before = lane.builder.out.len();
        if unportable.is_none() {
            moved.reroot_into(Reroot::TO_LINK, &mut lane.builder.out)?;
            lane.builder.count += 1;
            lane.builder.requests += usize::from(wants_answer(moved));
        }
        let written = lane.builder.out.len() - before;
        let rate = lane.rate.as_ref().filter(|_| self.closing.is_none());
        let until = rate.and_then(|rate| rate.spend(written.max(received), Instant::now()));
        if lane.builder.out.len() >= PIECE {
            let pause = lane.hand_over(&self.inbound);
            self.pause(pause);
        }
        self.throttle(until, "rate");
        if let Some(name) = unportable {
            let mut domain = |address| self.domains.domain_of(address);
            let domains = domain(&from).zip(domain(&to));
            let (remote, local) = domains.ok_or_else(addressing)?;
            if self.is_over(&from) {
                self.drop_refused();
            } else {
                self.refuse_name(live, element, &local, &remote, name);
                self.pay_refusal(live, &remote, Some(&from));
            }
        }
        Ok(())
    }

    /// Sets [`Session::last`] for these addresses; false if the stanza goes nowhere.
    fn find_way(&mut self, live: &Arc<Live>, element: &Element, from: &str, to: &str) -> Result<bool, Failure> {
        let (of_from, of_to) = (domain_part(from), domain_part(to));
        let last = self.last.as_ref();
        if !last.is_some_and(|last| *last.from == *of_from && *last.to == *of_to) {
            let remote = self.domains.domain(of_from).ok_or_else(addressing)?;
            let local = self.domains.domain(of_to).ok_or_else(addressing)?;
            self.check_pair(live, &local, &remote)?;
            let Some(lane) = self.lane_for(live, &local, &remote) else {
                // That is no fault of the sender's: nothing is dropped, but the domain waits.
                self.refuse(live, element, (&local, &remote), Cause::LinkDown);
                self.pay_refusal(live, &remote, None);
                self.count_refused(live, &remote, element);
                return Ok(false);
            };
            self.last = Some(Last {
                addresses: LastJudged::default(),
                from: of_from.into(),
                to: of_to.into(),
                from_instead: Side::Link.instead(of_from, &remote),
                to_instead: Side::Link.instead(of_to, &local),
                lane,
            });
        }
        if !is_known_good(from, &self.domains) || !is_known_good(to, &self.domains) {
            // To judge addresses takes longer than all else.
            if self.is_over(from) {
                self.drop_refused();
                if let Some(remote) = self.domains.domain(of_from) {
                    self.count_refused(live, &remote, element);
                }
                return Ok(false);
            }
            let faults = (judge(from, &mut self.domains), judge(to, &mut self.domains));
            self.look_at_time();
            if faults.0.is_err() || faults.1.is_err() {
                self.malformed(live, element, faults.0.err());
                return Ok(false);
            }
        }
        if let Some(last) = &mut self.last {
            last.addresses.note(from, to);
        }
        Ok(true)
    }

    /// One user's stanza must not break the links for all.
    fn refuse_name(&mut self, live: &Live, element: &Element, local: &Domain, remote: &Domain, name: &str) {
        let reason = format!("not every XML parser accepts the name {name:?}; the stanza is refused");
        let refusal = Refusal::new(Check::Xml, reason);
        let entry = &self.guard.entry;
        self.inbound
            .shared
            .refused(entry, Stage::Stream, Some(local), Some(remote), &refusal);
        self.refuse(live, element, (local, remote), Cause::Unportable);
    }

    /// A stanza of an authenticated pair whose addresses are good only in their domains.
    fn malformed(&mut self, live: &Arc<Live>, element: &Element, of_from: Option<JidFault>) {
        let mut domain = |address: Option<Cow<'_, str>>| address.and_then(|address| self.domains.domain_of(&address));
        let (Some(remote), Some(local)) = (domain(element.from()), domain(element.to())) else {
            return;
        };
        self.count_refused(live, &remote, element);
        let from = element.from().unwrap_or_default();
        self.pay_refusal(live, &remote, Some(&from));
        let Some(fault) = of_from else {
            self.refuse(live, element, (&local, &remote), Cause::Malformed);
            return;
        };
        // Nobody could be told.
        let reason = format!("a stanza from {} was dropped: {fault}", shown(&from));
        let refusal = Refusal::new(Check::Addressing, reason);
        let (local, remote) = (Some(&local), Some(&remote));
        self.inbound
            .shared
            .refused(&self.guard.entry, Stage::Stream, local, remote, &refusal);
        self.inbound.shared.metrics.dropped(Cause::Malformed.as_str());
    }

    /// A stanza that goes no further counts for the domain's rate like any other.
    fn count_refused(&mut self, live: &Live, remote: &Domain, element: &Element) {
        if self.closing.is_none() {
            let rate = self.inbound.rates.of(&live.policy, remote);
            let until = rate.and_then(|rate| rate.spend(element.bytes().len(), Instant::now()));
            self.throttle(until, "rate");
        }
        self.look_at_time();
    }

    /// Whether stanzas of this sender were refused so often that others are only dropped.
    fn is_over(&self, from: &str) -> bool {
        self.inbound.rates.is_over(bare(from), Instant::now())
    }

    /// A stanza is refused beyond its sender's rate: to judge and to answer it would be too much work.
    fn drop_refused(&mut self) {
        self.inbound.shared.metrics.dropped(BEYOND);
        self.look_at_time();
    }

    /// A stanza was refused: nothing else stops a stream that sends many.
    ///
    /// `from`: the sender, if it is at fault.
    fn pay_refusal(&mut self, live: &Live, remote: &Domain, from: Option<&str>) {
        let payer = if live.policy.is_partner(remote) {
            Payer::Partner(remote.clone())
        } else {
            Payer::Network(network_of(self.guard.entry.peer.ip()))
        };
        let now = Instant::now();
        let paid = self.inbound.rates.refused(payer, from.map(bare), now);
        self.throttle(paid.until, "refused");
        let peer = self.guard.entry.peer;
        let party = Party::Caller(peer.ip(), Some(remote));
        if let Some(sender) = paid.user_is_over.then_some(from).flatten()
            && self.inbound.shared.may_log("refused stanzas of one sender", party)
        {
            tracing::warn!(
                %peer, %remote, sender = %shown(bare(sender)),
                "the edge refuses too many stanzas of this sender; it drops further ones without an answer until fewer come"
            );
        }
        self.look_at_time();
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

    fn check_pair(&self, live: &Live, local: &Domain, remote: &Domain) -> Result<(), Failure> {
        let known = |pair: &Pair| pair.local == *local && pair.remote == *remote;
        if self.pairs.iter().any(known) {
            return Ok(());
        }
        let (condition, text) = if self.pairs.is_empty() {
            (StreamErrorCondition::NotAuthorized, "no stanza before dialback")
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

    fn lane_for(&mut self, live: &Live, local: &Domain, remote: &Domain) -> Option<usize> {
        let clusters = self.inbound.clusters.all();
        let cluster = select(&clusters, live, local)?;
        let known = self
            .lanes
            .iter()
            .position(|lane| Arc::ptr_eq(&lane.cluster, cluster) && *lane.remote == *remote);
        Some(known.unwrap_or_else(|| {
            let (remote, terms) = (Arc::new(remote.clone()), live.policy.peer(remote));
            self.lanes.push(Lane {
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

    fn forget_lanes(&mut self) {
        self.lanes.clear();
        self.last = None;
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

    /// Answers a stanza that goes no further; its sender is of the pair's second domain.
    fn refuse(&mut self, live: &Live, element: &Element, pair: (&Domain, &Domain), cause: Cause) {
        let (local, remote) = pair;
        let side = Side::Peer(&self.inbound.shared.memory.labels);
        let element = side.respell(element, &mut self.domains);
        let told = bounce(&element, cause)
            .is_some_and(|error| self.inbound.outbound.push(live, local, remote, &error).is_ok());
        self.inbound.shared.count_report(told, cause);
    }

    /// Hands the batches of this turn to the links and pauses the peer if too much waits there.
    fn deliver(&mut self) {
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
        if self.pairs.iter().any(|pair| !live.hosted.contains(&pair.local)) {
            return Err(Failure::fault(
                StreamErrorCondition::HostGone,
                "a domain of this stream is not hosted here any more",
            ));
        }
        if self.pairs.iter().any(|pair| live.policy.check(&pair.remote).is_err()) {
            return Err(Failure::violation(
                Check::Policy,
                "federation with this domain is not allowed any more",
            ));
        }
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

/// How a turn at the socket came out.
enum Gated {
    /// It was not read: too much waits for the routers, from all peers together.
    Shut(Pause),
    Turn(Result<bool, Failure>),
}

/// A turn that does not read while the queue of the routers is shut. That is looked at whenever
/// the socket wakes the stream: thousands of idle ones must not bring a batch each.
async fn gated(lanes: &[Lane], read: bool, turn: impl Future<Output = Result<bool, Failure>>) -> Gated {
    let mut turn = std::pin::pin!(turn);
    std::future::poll_fn(|cx| {
        let shut = || lanes.iter().find_map(|lane| lane.cluster.queue.shut(&lane.source));
        match read.then(shut).flatten() {
            Some(pause) => Poll::Ready(Gated::Shut(pause)),
            None => turn.as_mut().poll(cx).map(Gated::Turn),
        }
    })
    .await
}
