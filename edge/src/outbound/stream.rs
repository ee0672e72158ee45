//! One stream to a remote domain: dialback for each pair (initiating role), then stanzas.
//!
//! It belongs to the pair of its header. Others may come as guests; one that is refused leaves for
//! a stream of its own.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::TlsMode;

use super::Outbound;
use super::connect::Opened;
use super::keep_alone;
use super::queue::Taken;
use super::route::{Opening, Route, Takes};
use super::send_log::SendLog;
use crate::bounce::Cause;
use crate::config::Live;
use crate::dialback::elements::{Answer, Kind, Received, result_request};
use crate::jid::DomainCache;
use crate::jid::{Labels, Side};
use crate::observe::failures::Attempt;
use crate::observe::log_rate::Party;
use crate::observe::registry::PairInfo;
use crate::refusal::Check;
use crate::stream::transport::{Delivery, Progress, Turn};
use crate::stream::{CLOSE_TIME, Failure};
use crate::terms;
use crate::tls::Kept;
use crate::words::Stage;
use crate::words::{Mechanism, Role};
use xmpp_federation_xml::split;
use xmpp_federation_xml::{Element, Frame, STREAM_END, StreamErrorCondition, ns};

/// How long a guest waits for the answer to its `db:result`, and which part of the time that it may
/// wait in all: enough is left for a stream of its own.
const GUEST: Duration = Duration::from_secs(10);
const GUEST_PART: u32 = 3;
/// How long a stanza waits while the peer reads at all.
const READING: Duration = Duration::from_mins(10);

/// First and longest time until it is looked again whether there is room for more.
const AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(250));
/// How long a peer that has ended its stream may take to close the connection before it gets our end, and how
/// long in all: one that leaves it open delays what waits.
const CLOSE_ALONE: Duration = Duration::from_millis(500);
const CLOSE_CONNECTION: Duration = Duration::from_secs(2);
/// How often it is looked what the peer's system has taken at the end.
const TAKEN: Duration = Duration::from_millis(20);

/// How a stream ended.
#[derive(Debug)]
pub enum End {
    /// It carried a pair.
    Used,
    /// No pair was authenticated on it, for this reason.
    Useless(String),
    /// The peer did not believe our key, or could not verify it.
    Refused(Cause),
    /// The pair of its header has gone on without it.
    HandedOver,
}

/// After our side was closed.
#[derive(Debug, Clone, Copy)]
struct Closing {
    /// The peer's end is waited for until then.
    until: Instant,
    /// However long the peer takes to read.
    at_most: Instant,
    /// It was still reading when it was looked last.
    reads: bool,
}

/// What is known about one hosted domain on this stream.
#[derive(Debug, Clone, Copy)]
enum PairState {
    /// `db:result` was sent then.
    Pending(Instant),
    /// Authenticated.
    Valid,
    /// Not on this stream any more.
    Gone,
}

#[allow(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
struct Stream<'a> {
    outbound: &'a Arc<Outbound>,
    route: &'a Arc<Route>,
    /// The hosted domain of the header.
    local: &'a Domain,
    /// Others wait for this stream.
    opening: &'a mut Option<Opening>,
    /// Its number while it takes guests.
    host: Option<u64>,
    opened: Opened,
    pairs: BTreeMap<Domain, PairState>,
    /// What became of its own pair: valid at any time, and why it was refused.
    used: bool,
    refused: Option<Cause>,
    /// Something of an authenticated pair waits.
    waiting: bool,
    /// Something that was written is not with the network yet.
    writing: bool,
    /// What the peer may not have read.
    log: SendLog,
    /// Bytes that all streams together may keep of that.
    most: usize,
    /// There was no room in it for what waits.
    held_back: bool,
    /// After how long to look for room then; grows while there is none.
    again: Duration,
    /// The pair that has the first turn.
    first: Option<Domain>,
    last_use: Instant,
    /// When to look what is late; while anything may be.
    look_at: Option<Instant>,
    closing: Option<Closing>,
    /// Why our side was closed, if not because nobody needs the stream.
    reason: Option<Failure>,
    /// The writing direction has ended.
    finished: bool,
    /// Its own pair goes on without it.
    handed_over: bool,
    /// The edge stops and waits no longer.
    gave_up: bool,
}

/// Uses a stream until it ends.
pub(super) async fn run(
    outbound: &Arc<Outbound>,
    route: &Arc<Route>,
    local: &Domain,
    opened: Opened,
    opening: &mut Option<Opening>,
) -> End {
    outbound.open.fetch_add(1, Ordering::AcqRel);
    let mut stream = Stream {
        outbound,
        route,
        local,
        opening,
        host: None,
        log: SendLog::new(outbound.sent.clone(), &opened.wire.transport),
        most: outbound.shared.live().budget.sent,
        held_back: false,
        again: AGAIN.0,
        first: None,
        opened,
        pairs: BTreeMap::new(),
        used: false,
        refused: None,
        waiting: false,
        writing: false,
        last_use: Instant::now(),
        look_at: None,
        closing: None,
        reason: None,
        finished: false,
        handed_over: false,
        gave_up: false,
    };
    if let Some(local) = stream.opened.external.take() {
        stream.valid(&local, Mechanism::External);
    }
    let failure = stream.run().await;
    let read = match failure {
        Failure::Closed => stream.is_read().await,
        Failure::Ended if stream.closing.is_some() => stream.is_read().await,
        _ => false,
    };
    let failure = stream.reason.take().unwrap_or(failure);
    stream.end(failure, read)
}

/// How long a guest waits for the answer to its `db:result`.
fn hold_of_guests(hold: Duration) -> Duration {
    GUEST.min(hold / GUEST_PART)
}

/// Waits for a reload; gives back what to wait with for the next one.
async fn next_change(mut changes: watch::Receiver<Arc<Live>>) -> watch::Receiver<Arc<Live>> {
    if changes.changed().await.is_err() {
        // Nobody reloads any more.
        std::future::pending::<()>().await;
    }
    changes
}

impl Stream<'_> {
    async fn run(&mut self) -> Failure {
        let (outbound, route) = (self.outbound, self.route);
        // What happens rarely is registered once and not anew in each turn.
        let entry = self.opened.guard.entry.clone();
        let closed = entry.close.cancelled();
        let stopped = outbound.close.cancelled();
        let gave_up = outbound.give_up.cancelled();
        let hung_up = outbound.hang_up.cancelled();
        let changed = next_change(outbound.shared.changes());
        let wake = route.wake(self.local);
        let timer = sleep_until(self.deadline());
        tokio::pin!(closed, stopped, gave_up, hung_up, changed, timer);
        // It was opened under the configuration of a while ago.
        if let Err(failure) = self.check_lists() {
            return failure;
        }
        if self.pairs.is_empty() {
            let local = self.local.clone();
            if let Err(failure) = self.ask(&local) {
                return failure;
            }
        }
        self.take_guests();
        // What came right behind the features is in the framer already.
        if let Err(failure) = self.take_frames() {
            return failure;
        }
        loop {
            if let Err(failure) = self.step() {
                return failure;
            }
            let writing = self.opened.wire.transport.needs_flush();
            route.set_writing(&mut self.writing, writing);
            let deadline = self.deadline();
            // It may wake early: the deadline moves with every turn, and moving a timer costs.
            if timer.is_elapsed() || deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            let (open, waits) = (self.closing.is_none(), !self.gave_up);
            let wire = &mut self.opened.wire;
            let step = tokio::select! {
                        // Much traffic keeps nothing waiting that happens rarely.
                        biased;
                        next = &mut changed, if open => {
                            changed.set(next_change(next));
                            if let Err(failure) = self.check_lists() {
                                self.close_because(failure);
                            }
                            Ok(())
                        }
                        () = &mut stopped, if open => {
                            self.close();
                            Ok(())
                        }
                        () = &mut closed, if open => {
                            self.close();
                            Ok(())
                        }
                        () = &mut gave_up, if waits => self.give_up(),
            () = &mut hung_up, if !open => {
                Err(Failure::Timeout("closing the stream"))
            }
                        () = &mut timer => {
                            if Instant::now() >= deadline {
                                self.timed_out()
                            } else {
                                Ok(())
                            }
                        }
                        turn = wire.transport.turn(true, wire.framer.buffer()) => match turn {
                            Ok(Turn::Read) => self.take_frames(),
                            Ok(Turn::Flushed) => Ok(()),
                            Ok(Turn::End) => Err(Failure::Ended),
                            Err(error) => Err(error.into()),
                        },
                        () = wake.notified(), if open => {
                            // One pass of the scheduler: tasks that are ready append first.
                            tokio::task::yield_now().await;
                            Ok(())
                        }
                    };
            if let Err(failure) = step {
                return failure;
            }
        }
    }

    fn may_log(&self, about: &'static str) -> bool {
        let address = self.opened.address.ip();
        let party = Party::Called(&self.route.remote, Some(address));
        self.outbound.shared.may_log(about, party)
    }

    /// Starts dialback for new guests and writes what may be written.
    fn step(&mut self) -> Result<(), Failure> {
        if self.closing.is_some() {
            return Ok(());
        }
        if let Some(host) = self.host {
            for guest in self.route.joining(host) {
                self.ask(&guest)?;
            }
        }
        if self.opened.wire.transport.needs_flush() {
            return Ok(());
        }
        let pairs = std::mem::take(&mut self.pairs);
        (self.waiting, self.held_back) = (false, false);
        let before = self.last_use;
        // Where there is no room for all, they take turns.
        let first = self.first.take();
        let first = first.as_ref().unwrap_or(self.local);
        let later = pairs.range::<Domain, _>(..first);
        for (local, state) in pairs.range::<Domain, _>(first..).chain(later) {
            match state {
                PairState::Pending(_) if self.gave_up => {
                    let (outbound, now) = (self.outbound, Duration::ZERO);
                    self.route.report_older(outbound, now, local, Cause::Stopping);
                }
                PairState::Valid => self.send(local),
                PairState::Pending(_) | PairState::Gone => {}
            }
        }
        self.pairs = pairs;
        let waits = self.held_back && self.last_use == before;
        self.again = if waits { AGAIN.1.min(2 * self.again) } else { AGAIN.0 };
        Ok(())
    }

    /// Writes stanzas of an authenticated pair.
    fn send(&mut self, local: &Domain) {
        let largest = self.opened.limits.max_bytes;
        let transport = &self.opened.wire.transport;
        self.log.forget(Instant::now(), transport);
        let (log, most) = (&mut self.log, self.most);
        let (taken, more) = self
            .route
            .take(local, largest, |wanted| log.room(most, wanted, transport));
        self.waiting |= more;
        let Taken {
            bytes,
            count,
            too_large,
            held_back,
        } = taken;
        if held_back && !self.held_back {
            (self.held_back, self.first) = (true, Some(local.clone()));
        }
        for stanza in too_large {
            let bytes = stanza.len();
            let most = largest.unwrap_or_default();
            let cause = Cause::TooLarge { bytes, most };
            self.outbound.clusters.report(&stanza, cause);
        }
        if count == 0 {
            return;
        }
        let bytes = self.respelled(bytes);
        let (now, transport) = (Instant::now(), &mut self.opened.wire.transport);
        self.log.push(now, bytes.clone(), count, transport.is_tls());
        transport.queue(bytes);
        self.last_use = now;
        self.opened.guard.update(|detail| detail.stanzas += count as u64);
    }

    /// Stanzas as this stream's header spells the remote domain: they may have been queued before it was
    /// known how.
    fn respelled(&mut self, stanzas: Bytes) -> Bytes {
        if Labels::of(&self.opened.written, &self.route.remote).is_none() {
            return stanzas;
        }
        let side = Side::Peer(&self.outbound.shared.memory.labels);
        let (mut bytes, mut domains) = (BytesMut::new(), DomainCache::default());
        for stanza in split(&stanzas, ns::SERVER) {
            bytes.extend_from_slice(side.respell(&stanza, &mut domains).bytes());
        }
        bytes.freeze()
    }

    /// Step 1 of dialback.
    fn ask(&mut self, local: &Domain) -> Result<(), Failure> {
        let live = self.outbound.shared.live();
        let remote = &self.route.remote;
        let key = live.dialback.key(remote, local, &self.opened.id);
        let from = Side::Peer(&self.outbound.shared.memory.labels).spelling(local);
        let xml = result_request(&from, &self.opened.written, &key).map_err(|_| {
            Failure::fault(
                StreamErrorCondition::ImproperAddressing,
                "a domain with characters that XML does not allow",
            )
        })?;
        self.opened.wire.transport.queue(Bytes::from(xml));
        self.pairs.insert(local.clone(), PairState::Pending(Instant::now()));
        if self.may_log("db:result sent") {
            tracing::info!(
                role = Role::Initiating.as_str(), %local, %remote,
                address = %self.opened.address, stream_id = %self.opened.id,
                "db:result sent"
            );
            tracing::info!(
                role = Role::Initiating.as_str(), %local, %remote,
                seconds = live.config.limits.dialback_timeout.0.as_secs(),
                "dialback timer started"
            );
        }
        Ok(())
    }

    fn take_frames(&mut self) -> Result<(), Failure> {
        loop {
            let frame = self.opened.wire.take_frame()?;
            match frame {
                None => break,
                Some(Frame::End) => return Err(Failure::Closed),
                Some(Frame::Header(_)) => {}
                Some(Frame::Element(element)) => self.take_element(&element)?,
            }
        }
        self.opened.wire.framer.shrink();
        Ok(())
    }

    fn take_element(&mut self, element: &Element) -> Result<(), Failure> {
        if element.is(ns::STREAMS, "error") {
            return Err(self.opened.wire.peer_error(element));
        }
        if element.is(ns::STREAMS, "features") {
            return Ok(());
        }
        // Streams are one-way: nothing but answers to our db:result may come back.
        if Received::kind_of(element) != Some(Kind::Result) {
            return Err(Failure::fault(
                StreamErrorCondition::UnsupportedStanzaType,
                "only answers to db:result are expected on this stream",
            ));
        }
        let received = Received::parse(element, Kind::Result)
            .map_err(|error| Failure::fault(StreamErrorCondition::ImproperAddressing, error.to_string()))?;
        let unasked = || {
            Failure::violation(
                Check::Protocol,
                "an answer to a db:result that was not sent on this stream",
            )
        };
        let Some(answer) = received.answer else {
            return Err(unasked());
        };
        let local = received.to_domain;
        if received.from_domain != self.route.remote {
            return Err(unasked());
        }
        let since = match self.pairs.get(&local) {
            Some(PairState::Pending(since)) => *since,
            // After its time-out or a refusal an answer comes too late to count.
            Some(PairState::Gone) => return Ok(()),
            // A valid pair may be told that it is not any more, never anything else.
            Some(PairState::Valid) if answer == Answer::Invalid => Instant::now(),
            Some(PairState::Valid) | None => return Err(unasked()),
        };
        self.answered(&local, &answer, since)
    }

    fn answered(&mut self, local: &Domain, answer: &Answer, since: Instant) -> Result<(), Failure> {
        let remote = &self.route.remote;
        let took = since.elapsed();
        let role = Role::Initiating;
        match answer {
            Answer::Valid => {
                self.valid(local, Mechanism::Dialback);
                self.outbound.shared.metrics.dialback(role, "valid", took);
                if self.may_log("db:result came back") {
                    tracing::info!(
                        role = role.as_str(), %local, %remote, from = "PENDING", to = "CONNECTED",
                        ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                        "state of the pair changed"
                    );
                }
                Ok(())
            }
            Answer::Invalid => {
                self.outbound.shared.metrics.dialback(role, "invalid", took);
                let cause = Cause::DialbackInvalid;
                self.refuse(local, cause, "refused", "the peer says our key is invalid")
            }
            Answer::Error(condition) => {
                self.outbound.shared.metrics.dialback(role, "error", took);
                let condition = condition.as_deref().unwrap_or("no condition");
                let reason = format!("the peer reports {condition}");
                self.refuse(local, Cause::DialbackFailed, "refused", &reason)
            }
            Answer::Unknown => Err(Failure::fault(
                StreamErrorCondition::InvalidXml,
                "an answer to db:result of unknown type",
            )),
        }
    }

    /// From now on stanzas of this pair are sent.
    fn valid(&mut self, local: &Domain, mechanism: Mechanism) {
        let remote = &self.route.remote;
        self.pairs.insert(local.clone(), PairState::Valid);
        self.last_use = Instant::now();
        let live = self.outbound.shared.live();
        let limits = crate::stream::stanza_limits(&live.config.limits);
        self.opened.wire.framer.set_limits(limits);
        self.opened.guard.update(|detail| {
            detail.pairs.push(PairInfo {
                local: local.clone(),
                remote: remote.clone(),
                mechanism: mechanism.as_str(),
            });
        });
        self.outbound.shared.registry.partner_works(remote, local);
        let address = self.opened.address.ip();
        self.outbound
            .shared
            .partners
            .authenticated(&live.policy, remote, address);
        if let Some(labels) = Labels::of(&self.opened.written, remote) {
            let partner = live.policy.is_partner(remote);
            self.outbound.shared.memory.labels.note(remote, partner, labels);
        }
        let tls = self.opened.wire.transport.is_tls();
        if tls && live.policy.peer(remote).tls_mode == TlsMode::Optional {
            self.outbound
                .shared
                .memory
                .used_tls
                .note(remote, live.policy.is_partner(remote), ());
        }
        if mechanism == Mechanism::External && self.may_log("SASL EXTERNAL") {
            tracing::info!(
                mechanism = mechanism.as_str(), %local, %remote, address = %self.opened.address,
                from = "PENDING", to = "CONNECTED",
                "state of the pair changed"
            );
        }
        self.used |= local == self.local;
    }

    /// Other hosted domains may use the stream, too: if the peer answers dialback with errors
    /// instead of closing (XEP-0220 section 2.6), and if our certificate, should it matter, names
    /// them.
    fn take_guests(&mut self) {
        let outbound = self.outbound;
        let live = outbound.shared.live();
        let alone = &outbound.shared.memory.alone;
        let alone = alone.holds(&(self.route.remote.clone(), None), &());
        if self.opened.errors && !alone && self.closing.is_none() {
            let shown = self.opened.shown.take();
            let takes = shown.map_or(Takes::Any, Takes::Named);
            let most = live.config.limits.max_pairs_per_stream.saturating_sub(1);
            self.host = Some(self.route.host(self.local, takes, most));
        }
        // Pairs that waited for this stream decide again.
        *self.opening = None;
    }

    /// The stream takes no more guests.
    fn unhost(&mut self) {
        if let Some(host) = self.host.take() {
            for guest in self.route.unhost(host) {
                self.route.leave(self.outbound, host, &guest, false);
            }
        }
    }

    /// The pair is not used on this stream. What waits of the stream's own pair is reported, a
    /// guest tries again on a stream of its own.
    fn refuse(&mut self, local: &Domain, cause: Cause, kind: &'static str, reason: &str) -> Result<(), Failure> {
        let (outbound, route) = (self.outbound, self.route);
        let remote = &route.remote;
        self.pairs.insert(local.clone(), PairState::Gone);
        self.opened
            .guard
            .update(|detail| detail.pairs.retain(|pair| pair.local != *local));
        let message = format!("dialback from {local} to {remote} failed: {reason}");
        let attempt = Attempt::outbound(Stage::Dialback, Some(self.opened.address), message.clone()).of(local);
        outbound.shared.attempt_failed(remote, attempt);
        if self.may_log("our key refused") {
            tracing::warn!(
                role = Role::Initiating.as_str(), %local, %remote, from = "PENDING", to = "FAILED", reason,
                "state of the pair changed"
            );
        }
        let mut others = self.pairs.values();
        let alive = others.any(|state| !matches!(state, PairState::Gone));
        if local == self.local {
            self.refused = Some(cause);
            route.report_older(outbound, Duration::ZERO, local, cause);
            outbound
                .shared
                .registry
                .partner_failed(remote, Some(local), message.clone());
            if alive {
                // The stream goes on for its guests, and the pair without it.
                self.handed_over = true;
                route.hand_over(outbound, local, cause, message);
            }
        } else {
            let whose = Some(local).filter(|_| kind == "refused");
            keep_alone(&outbound.shared, remote, whose, kind);
            route.leave(outbound, self.host.unwrap_or(0), local, true);
        }
        if alive {
            return Ok(());
        }
        // Nothing can be lost.
        self.close();
        Err(Failure::Closed)
    }

    /// How long the stream may carry nothing.
    fn idle_timeout(&self) -> Duration {
        let own = self.outbound.shared.live().config.limits.idle_timeout.0;
        self.opened.limits.idle_timeout(own)
    }

    /// When to call [`Self::timed_out`]. Turns do not put it off: traffic of one pair must not keep
    /// what is late of another from being noticed.
    fn deadline(&mut self) -> Instant {
        let now = Instant::now();
        if let Some(closing) = self.closing {
            return closing.until;
        }
        let busy = !self.log.is_empty()
            || self.waiting
            || self.opened.wire.transport.needs_flush()
            || self.pairs.values().any(|state| matches!(state, PairState::Pending(_)));
        let idle = self.last_use + self.idle_timeout();
        if !busy {
            self.look_at = None;
            return idle;
        }
        let look = now
            + if self.held_back {
                self.again
            } else {
                Duration::from_secs(1)
            };
        let look = self.look_at.map_or(look, |at| at.min(look));
        self.look_at = Some(look);
        if idle > now { idle.min(look) } else { look }
    }

    fn timed_out(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        self.look_at = None;
        if let Some(closing) = self.closing {
            return self.close_later(closing, now);
        }
        let live = self.outbound.shared.live();
        let limits = &live.config.limits;
        let hold = limits.dialback_timeout.0;
        let late: Vec<_> = self
            .pairs
            .iter()
            .filter(|(local, state)| {
                let hold = if *local == self.local {
                    hold
                } else {
                    hold_of_guests(hold)
                };
                matches!(state, PairState::Pending(since) if now >= *since + hold)
            })
            .map(|(local, _)| local.clone())
            .collect();
        for local in late {
            self.outbound.shared.metrics.dialback(Role::Initiating, "timeout", hold);
            let reason = "no answer to db:result in time";
            self.refuse(&local, Cause::DialbackFailed, "unanswered", reason)?;
        }
        // A stanza waits for its stream, and then as long as the peer reads.
        let transport = &self.opened.wire.transport;
        let reads = now < self.log.progress(now, transport) + hold;
        for (local, state) in &self.pairs {
            let most = match state {
                PairState::Valid if reads => hold.max(READING),
                PairState::Pending(_) | PairState::Valid => hold,
                PairState::Gone => continue,
            };
            self.route.report_older(self.outbound, most, local, Cause::Unreachable);
        }
        self.log.forget(now, &self.opened.wire.transport);
        let pending = |state: &PairState| matches!(state, PairState::Pending(_));
        let idle = now >= self.last_use + self.idle_timeout();
        let busy = self.waiting || self.opened.wire.transport.needs_flush();
        if idle && !busy && !self.pairs.values().any(pending) {
            self.close();
        }
        Ok(())
    }

    /// The stop of the edge waits no longer; a peer that does not read has lost its chance.
    fn give_up(&mut self) -> Result<(), Failure> {
        self.gave_up = true;
        if self.opened.wire.transport.needs_flush() {
            return Err(Failure::Timeout("the peer reading the stanzas on this stream"));
        }
        Ok(())
    }

    /// A reload may have taken a domain away.
    fn check_lists(&mut self) -> Result<(), Failure> {
        let live = self.outbound.shared.live();
        if live.policy.check(&self.route.remote).is_err() {
            return Err(Failure::violation(
                Check::Policy,
                "federation with this domain is not allowed any more",
            ));
        }
        let shown = self.opened.wire.transport.shown();
        let (memory, kept) = (&self.outbound.shared.memory, Kept::default());
        if let Err(refusal) = terms::check(&live, memory, shown, &kept, &self.route.remote) {
            let (entry, remote) = (&self.opened.guard.entry, Some(&self.route.remote));
            self.outbound
                .shared
                .refused(entry, Stage::Stream, None, remote, &refusal);
            return Err(refusal.into());
        }
        let mut pairs = self.pairs.iter();
        let gone = |state: &PairState| matches!(state, PairState::Gone);
        if pairs.any(|(local, state)| !gone(state) && !live.hosted.contains(local)) {
            return Err(Failure::fault(
                StreamErrorCondition::HostGone,
                "a domain of this stream is not hosted here any more",
            ));
        }
        Ok(())
    }

    /// Closes our side; the peer gets time to read and to close its own.
    fn close(&mut self) {
        if self.closing.is_none() {
            self.opened
                .wire
                .transport
                .queue(Bytes::from_static(STREAM_END.as_bytes()));
            self.await_end();
        }
    }

    /// The same, and tells the peer why.
    fn close_because(&mut self, failure: Failure) {
        if let (None, Some((condition, text))) = (self.closing, failure.to_send()) {
            self.opened.wire.queue_error(condition, &text, String::new);
            self.await_end();
            self.reason = Some(failure);
        }
    }

    fn await_end(&mut self) {
        self.unhost();
        self.opened.guard.update(|detail| detail.phase = "closing");
        let (now, hold) = (
            Instant::now(),
            self.outbound.shared.live().config.limits.dialback_timeout.0,
        );
        // From now on it counts what the peer takes.
        self.log.progress(now, &self.opened.wire.transport);
        self.closing = Some(Closing {
            until: now + CLOSE_TIME,
            at_most: now + hold.max(CLOSE_TIME),
            reads: false,
        });
    }

    /// A peer that still reads gets more time: what the next stream carries must not come before what it
    /// has not read.
    fn close_later(&mut self, closing: Closing, now: Instant) -> Result<(), Failure> {
        let transport = &self.opened.wire.transport;
        let taken = self.log.progress(now, transport);
        let reads = !transport.is_acknowledged() && now < taken + CLOSE_TIME;
        if now >= closing.at_most || !(reads || closing.reads) {
            return Err(Failure::Timeout("closing the stream"));
        }
        let more = if reads { Duration::from_secs(1) } else { CLOSE_TIME };
        self.closing = Some(Closing {
            until: closing.at_most.min(now + more),
            reads,
            ..closing
        });
        Ok(())
    }

    /// The peer has closed its side and may still read, down to our own end: waits until its system has
    /// taken everything, or nothing for a while.
    async fn write_out(&mut self) -> io::Result<()> {
        let (outbound, transport) = (self.outbound, &mut self.opened.wire.transport);
        let deadline = Instant::now() + outbound.shared.live().config.limits.dialback_timeout.0;
        let taken = async {
            let mut progress = Progress::new(transport);
            loop {
                if let Ok(flushed) = timeout(TAKEN, transport.flush()).await {
                    flushed?;
                }
                if transport.is_acknowledged() || progress.look(transport).elapsed() >= CLOSE_TIME {
                    return Ok(());
                }
                match timeout(TAKEN, transport.closed()).await {
                    Ok(closed) => closed?,
                    Err(_) => continue,
                }
                sleep(TAKEN).await;
            }
        };
        tokio::select! {
            taken = taken => taken,
            () = sleep_until(deadline) => Ok(()),
            () = outbound.hang_up.cancelled() => Ok(()),
        }
    }

    /// After the peer's end: whether it has read what was sent before. That end says so only if it answers ours,
    /// which it may have crossed. But a system whose program closes a connection before it has read everything
    /// resets that (RFC 1122 section 4.2.2.13). So a peer that does not wait for our end is not sent one, which it
    /// would not read either.
    async fn is_read(&mut self) -> bool {
        if self.log.is_settled() {
            return true;
        }
        let broken = self.write_out().await.is_err();
        let transport = &mut self.opened.wire.transport;
        self.log.forget(Instant::now(), transport);
        if broken || !self.log.is_taken(transport) {
            return false;
        }
        self.finished = true;
        let ours = self.closing.is_some();
        let closed = async {
            if !ours {
                if let Ok(closed) = timeout(CLOSE_ALONE, transport.closed()).await {
                    return closed;
                }
                transport.queue(Bytes::from_static(STREAM_END.as_bytes()));
            }
            transport.finish_writing().await?;
            transport.closed().await
        };
        tokio::select! {
            // A connection that is left open says nothing against the peer's word.
            closed = timeout(CLOSE_CONNECTION, closed) => !matches!(closed, Ok(Err(_))),
            () = self.outbound.hang_up.cancelled() => false,
        }
    }

    /// `read`: everything that was sent.
    fn end(mut self, failure: Failure, read: bool) -> End {
        if !read {
            // It may have arrived; silence would be worse than telling twice.
            let (kept, unkept) = self.log.drain();
            for bytes in kept {
                self.outbound.clusters.report(&bytes, Cause::StreamLost);
            }
            self.report_unkept(unkept);
        }
        // What was reported must not arrive behind what comes over the next stream.
        let cut = !read && !self.opened.wire.transport.is_acknowledged();
        self.outbound.open.fetch_sub(1, Ordering::AcqRel);
        self.route.set_writing(&mut self.writing, false);
        self.guests_leave(&failure);
        let locals = self.pairs.keys().map(ToString::to_string);
        let local = locals.collect::<Vec<_>>().join(" ");
        if self.may_log("outbound stream ended") {
            tracing::info!(
                local, remote = %self.route.remote, address = %self.opened.address, reason = %failure,
                "outbound stream ended"
            );
        }
        let (remote, local, address) = (&self.route.remote, self.local, self.opened.address);
        let asked = matches!(self.pairs.get(local), Some(PairState::Pending(_)));
        let stage = if asked { Stage::Dialback } else { Stage::Stream };
        let reason = if asked && failure.is_hang_up() {
            format!(
                "{remote} at {address} ended the stream instead of answering our db:result for {local} ({failure}); ask its administrator whether {local} may federate there"
            )
        } else {
            format!("the stream to {remote} at {address} ended: {failure}")
        };
        if !self.used && self.refused.is_none() && self.closing.is_none() {
            let attempt = Attempt::outbound(failure.stage(stage), Some(address), reason.clone());
            self.outbound.shared.attempt_failed(remote, attempt.of(local));
        }
        let Opened { wire, guard, .. } = self.opened;
        let (closed, finished) = (self.closing.is_some(), self.finished);
        let goodbye = async move {
            if cut {
                wire.transport.reset();
            } else if finished {
                drop(wire);
            } else if closed {
                wire.finish().await;
            } else {
                wire.hang_up(&failure, String::new).await;
            }
            drop(guard);
        };
        // While the edge stops, the process must not end before the peer has read everything.
        self.outbound.tasks.spawn(goodbye);
        match (self.used, self.refused) {
            _ if self.handed_over => End::HandedOver,
            (_, Some(cause)) => End::Refused(cause),
            (true, None) => End::Used,
            (false, None) => End::Useless(reason),
        }
    }

    /// Nobody can be told of stanzas that are not kept, so the log names their number.
    fn report_unkept(&self, stanzas: usize) {
        if stanzas == 0 {
            return;
        }
        self.outbound.shared.metrics.stanzas_unaccounted(stanzas);
        if self.may_log("stanzas unaccounted for") {
            tracing::warn!(
                remote = %self.route.remote, address = %self.opened.address, stanzas,
                "the stream was lost, and its peer may not have read stanzas that its system had taken, at most this many; they were too many to be kept, so their senders are not told"
            );
        }
    }

    /// At the end: what waits of guests goes over other streams.
    fn guests_leave(&mut self, failure: &Failure) {
        let (outbound, route) = (self.outbound, self.route);
        let host = self.host.unwrap_or(0);
        self.unhost();
        // A question that came in between may be the cause.
        let by_peer = match failure {
            Failure::Peer { .. } | Failure::Ended | Failure::Closed => self.closing.is_none(),
            _ => false,
        };
        for (local, state) in &self.pairs {
            if local == self.local || matches!(state, PairState::Gone) {
                continue;
            }
            let asked = by_peer && self.used && matches!(state, PairState::Pending(_));
            if asked {
                keep_alone(&outbound.shared, &route.remote, None, "ended");
            }
            route.leave(outbound, host, local, asked);
        }
    }
}
