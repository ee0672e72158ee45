//! One stream to a remote domain: dialback for each pair (initiating role), then stanzas.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};
use xmpp_federation_core::Domain;

use super::connect::Opened;
use super::route::Route;
use crate::bounce::Cause;
use crate::dialback::elements::{Answer, Kind, Received, result_request};
use crate::edge::Edge;
use crate::metrics::{Mechanism, Role};
use crate::registry::PairInfo;
use crate::stream::transport::Turn;
use crate::stream::{CLOSE_TIME, Failure};
use crate::xml::{Element, Frame, STREAM_END, StreamErrorCondition, ns};

/// Bytes written at once.
const BATCH: usize = 64 * 1024;
/// What was written within this time and not answered by an orderly end may be lost with the
/// stream; it is reported then.
const RECENT: Duration = Duration::from_secs(5);
/// Bytes of it that are remembered.
const RECENT_BYTES: usize = 1024 * 1024;

/// How long a refused pair is answered on behalf of the peer before a new stream is tried.
const REFUSED: Duration = Duration::from_secs(30);

/// How a stream ended.
#[derive(Debug)]
pub enum End {
    /// It carried a pair.
    Used,
    /// No pair was authenticated on it, for this reason.
    Useless(String),
    /// The peer did not believe any of our keys.
    Refused,
}

/// What is known about one hosted domain on this stream.
#[derive(Debug, Clone, Copy)]
enum PairState {
    /// `db:result` was sent then.
    Pending(Instant),
    /// Authenticated.
    Valid,
    /// Not on this stream, since then.
    Refused(Instant),
}

struct Stream<'a> {
    edge: &'a Arc<Edge>,
    route: &'a Route,
    opened: Opened,
    pairs: HashMap<Domain, PairState>,
    /// Whether any pair was valid at any time.
    used: bool,
    recent: VecDeque<(Instant, Bytes)>,
    recent_bytes: usize,
    last_use: Instant,
    closing: Option<Instant>,
    /// The edge stops and waits no longer.
    gave_up: bool,
}

/// Uses a stream until it ends.
pub(super) async fn run(edge: &Arc<Edge>, route: &Route, opened: Opened) -> End {
    let mut stream = Stream {
        edge,
        route,
        opened,
        pairs: HashMap::new(),
        used: false,
        recent: VecDeque::new(),
        recent_bytes: 0,
        last_use: Instant::now(),
        closing: None,
        gave_up: false,
    };
    let failure = stream.run().await;
    // In a box: as a part of the task it would take its memory while the stream is idle.
    Box::pin(stream.end(failure)).await
}

impl Stream<'_> {
    async fn run(&mut self) -> Failure {
        let (edge, route) = (self.edge, self.route);
        let mut changes = edge.changes();
        // What happens rarely is registered once and not anew in each turn.
        let entry = self.opened.guard.entry.clone();
        let closed = entry.close.cancelled();
        let stopped = edge.outbound.close.cancelled();
        let gave_up = edge.outbound.give_up.cancelled();
        let timer = sleep_until(self.deadline());
        tokio::pin!(closed, stopped, gave_up, timer);
        // What came right behind the features is in the framer already.
        if let Err(failure) = self.take_frames() {
            return failure;
        }
        loop {
            if let Err(failure) = self.step() {
                return failure;
            }
            let idle = !self.opened.wire.transport.needs_flush();
            route.writing.store(!idle, Ordering::Release);
            let deadline = self.deadline();
            // It may wake early: the deadline moves with every turn, and moving a timer costs.
            if timer.is_elapsed() || deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            let (open, waits) = (self.closing.is_none(), !self.gave_up);
            let wire = &mut self.opened.wire;
            let step = tokio::select! {
                // Much traffic must not keep a reload waiting.
                biased;
                () = std::future::ready(()), if open && changes.has_changed().unwrap_or(false) => {
                    changes.mark_unchanged();
                    self.check_lists()
                }
                turn = wire.transport.turn(true, wire.framer.buffer()) => match turn {
                    Ok(Turn::Read) => self.take_frames(),
                    Ok(Turn::Flushed) => Ok(()),
                    Ok(Turn::End) => Err(Failure::Ended),
                    Err(error) => Err(error.into()),
                },
                () = &mut stopped, if open => {
                    self.close();
                    Ok(())
                }
                () = &mut closed, if open => {
                    self.close();
                    Ok(())
                }
                () = &mut gave_up, if waits => self.give_up(),
                () = route.wake.notified(), if open => {
                    // One pass of the scheduler: whoever is ready appends first.
                    tokio::task::yield_now().await;
                    Ok(())
                }
                () = &mut timer => {
                    if Instant::now() >= deadline {
                        self.timed_out()
                    } else {
                        Ok(())
                    }
                }
                Ok(()) = changes.changed(), if open => self.check_lists(),
            };
            if let Err(failure) = step {
                return failure;
            }
        }
    }

    /// Starts dialback for new pairs and writes what may be written.
    fn step(&mut self) -> Result<(), Failure> {
        if self.closing.is_some() || self.opened.wire.transport.needs_flush() {
            return Ok(());
        }
        for local in self.route.waiting() {
            match self.pairs.get(&local) {
                None | Some(PairState::Pending(_)) if self.gave_up => {
                    let (edge, now) = (self.edge, Duration::ZERO);
                    self.route
                        .report_older(edge, now, Some(&local), Cause::Stopping);
                }
                None => self.ask(&local)?,
                Some(PairState::Valid) => {
                    let (bytes, count) = self.route.take(&local, BATCH);
                    if count == 0 {
                        continue;
                    }
                    self.remember(bytes.clone());
                    self.opened.wire.transport.queue(bytes);
                    self.last_use = Instant::now();
                    self.opened
                        .guard
                        .update(|detail| detail.stanzas += count as u64);
                }
                // A refused pair needs a new stream, once it is likely to fare better.
                Some(PairState::Refused(since)) if since.elapsed() >= REFUSED => {
                    self.close();
                    return Ok(());
                }
                Some(PairState::Refused(_)) => {
                    self.route.report_older(
                        self.edge,
                        Duration::ZERO,
                        Some(&local),
                        Cause::DialbackInvalid,
                    );
                }
                Some(PairState::Pending(_)) => {}
            }
        }
        Ok(())
    }

    /// Step 1 of dialback.
    fn ask(&mut self, local: &Domain) -> Result<(), Failure> {
        let live = self.edge.live();
        if self.pairs.len() >= live.config.limits.max_pairs_per_stream {
            self.close();
            return Ok(());
        }
        let remote = &self.route.remote;
        let key = live.dialback.key(remote, local, &self.opened.id);
        let xml =
            result_request(&local.to_unicode(), &remote.to_unicode(), &key).map_err(|_| {
                Failure::fault(
                    StreamErrorCondition::ImproperAddressing,
                    "a domain XML cannot express",
                )
            })?;
        self.opened.wire.transport.queue(Bytes::from(xml));
        self.pairs
            .insert(local.clone(), PairState::Pending(Instant::now()));
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
        Ok(())
    }

    fn take_frames(&mut self) -> Result<(), Failure> {
        loop {
            let frame = self.opened.wire.framer.next_frame()?;
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
        let received = Received::parse(element, Kind::Result).map_err(|error| {
            Failure::fault(StreamErrorCondition::ImproperAddressing, error.to_string())
        })?;
        let unasked = || {
            Failure::fault(
                StreamErrorCondition::PolicyViolation,
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
            Some(PairState::Refused(_)) => return Ok(()),
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
                self.pairs.insert(local.clone(), PairState::Valid);
                self.used = true;
                self.last_use = Instant::now();
                let limits = crate::stream::stanza_limits(&self.edge.live().config.limits);
                self.opened.wire.framer.set_limits(limits);
                self.opened.guard.update(|detail| {
                    detail.pairs.push(PairInfo {
                        local: local.clone(),
                        remote: remote.clone(),
                        mechanism: Mechanism::Dialback.as_str(),
                    });
                });
                self.edge.registry.partner_works(remote);
                self.edge.metrics.dialback(role, "valid", took);
                tracing::info!(
                    role = role.as_str(), %local, %remote, from = "PENDING", to = "CONNECTED",
                    ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                    "state of the pair changed"
                );
                return Ok(());
            }
            Answer::Invalid => {
                self.edge.metrics.dialback(role, "invalid", took);
                self.refuse(
                    local,
                    Cause::DialbackInvalid,
                    "the peer says our key is invalid",
                );
            }
            Answer::Error(condition) => {
                self.edge.metrics.dialback(role, "error", took);
                let condition = condition.as_deref().unwrap_or("no condition");
                self.refuse(
                    local,
                    Cause::DialbackFailed,
                    &format!("the peer reports {condition}"),
                );
            }
            Answer::Unknown => {
                return Err(Failure::fault(
                    StreamErrorCondition::InvalidXml,
                    "an answer to db:result of unknown type",
                ));
            }
        }
        let valid = self
            .pairs
            .values()
            .any(|state| matches!(state, PairState::Valid));
        if !valid && matches!(answer, Answer::Invalid) {
            self.close();
        }
        Ok(())
    }

    /// The pair is not used on this stream; what waits is reported.
    fn refuse(&mut self, local: &Domain, cause: Cause, reason: &str) {
        let remote = &self.route.remote;
        self.pairs
            .insert(local.clone(), PairState::Refused(Instant::now()));
        self.opened
            .guard
            .update(|detail| detail.pairs.retain(|pair| pair.local != *local));
        self.route
            .report_older(self.edge, Duration::ZERO, Some(local), cause);
        let message = format!("dialback from {local} to {remote} failed: {reason}");
        self.edge.registry.partner_failed(remote, message);
        tracing::warn!(
            role = Role::Initiating.as_str(), %local, %remote, from = "PENDING", to = "FAILED", reason,
            "state of the pair changed"
        );
    }

    fn deadline(&self) -> Instant {
        let now = Instant::now();
        if let Some(closing) = self.closing {
            return closing;
        }
        let limits = &self.edge.live().config.limits;
        let busy = !self.recent.is_empty()
            || !self.route.is_empty()
            || self
                .pairs
                .values()
                .any(|state| matches!(state, PairState::Pending(_)));
        let idle = self.last_use + limits.idle_timeout.0;
        if busy {
            idle.min(now + Duration::from_secs(1))
        } else {
            idle
        }
    }

    fn timed_out(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        if self.closing.is_some() {
            return Err(Failure::Timeout("closing the stream"));
        }
        let live = self.edge.live();
        let limits = &live.config.limits;
        let hold = limits.dialback_timeout.0;
        let late: Vec<_> = self
            .pairs
            .iter()
            .filter(|(_, state)| matches!(state, PairState::Pending(since) if now >= *since + hold))
            .map(|(local, _)| local.clone())
            .collect();
        for local in late {
            self.edge
                .metrics
                .dialback(Role::Initiating, "timeout", hold);
            self.refuse(
                &local,
                Cause::DialbackFailed,
                "no answer to db:result in time",
            );
        }
        self.route
            .report_older(self.edge, hold, None, Cause::Unreachable);
        self.forget(now);
        let pending = self
            .pairs
            .values()
            .any(|state| matches!(state, PairState::Pending(_)));
        let valid = self
            .pairs
            .values()
            .any(|state| matches!(state, PairState::Valid));
        let idle = now >= self.last_use + limits.idle_timeout.0;
        // A stream that serves no pair is half open and is not kept.
        if (idle && self.route.is_empty()) || (!valid && !pending && !self.pairs.is_empty()) {
            self.close();
        }
        Ok(())
    }

    /// The stop of the edge waits no longer; a peer that does not read has lost its chance.
    fn give_up(&mut self) -> Result<(), Failure> {
        self.gave_up = true;
        if self.opened.wire.transport.needs_flush() {
            return Err(Failure::Timeout("reading what was sent"));
        }
        Ok(())
    }

    /// A reload may have taken a domain away.
    fn check_lists(&mut self) -> Result<(), Failure> {
        let live = self.edge.live();
        if live.policy.check(&self.route.remote).is_err() {
            return Err(Failure::fault(
                StreamErrorCondition::PolicyViolation,
                "federation with this domain is not allowed any more",
            ));
        }
        if self.pairs.keys().any(|local| !live.hosted.contains(local)) {
            return Err(Failure::fault(
                StreamErrorCondition::HostGone,
                "a domain of this stream is not hosted here any more",
            ));
        }
        Ok(())
    }

    fn remember(&mut self, bytes: Bytes) {
        let now = Instant::now();
        self.recent_bytes += bytes.len();
        self.recent.push_back((now, bytes));
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        if self.opened.wire.transport.needs_flush() {
            return;
        }
        while let Some((at, bytes)) = self.recent.front()
            && (now.duration_since(*at) >= RECENT || self.recent_bytes > RECENT_BYTES)
        {
            self.recent_bytes = self.recent_bytes.saturating_sub(bytes.len());
            self.recent.pop_front();
        }
        if self.recent.is_empty() {
            self.recent = VecDeque::new();
        }
    }

    /// Closes our side; the peer gets time to read and to close its own.
    fn close(&mut self) {
        if self.closing.is_none() {
            self.opened.guard.update(|detail| detail.phase = "closing");
            self.opened
                .wire
                .transport
                .queue(Bytes::from_static(STREAM_END.as_bytes()));
            self.closing = Some(Instant::now() + CLOSE_TIME);
        }
    }

    async fn end(mut self, failure: Failure) -> End {
        let orderly = self.closing.is_some() || matches!(failure, Failure::Closed);
        let took_all = !self.opened.wire.transport.needs_flush();
        if !(orderly && took_all) {
            // It may have arrived; silence would be worse than telling twice.
            for (_, bytes) in self.recent.drain(..) {
                self.edge.report_to_router(&bytes, Cause::StreamLost);
            }
        }
        self.route.writing.store(false, Ordering::Release);
        let (local, refused) = (
            self.pairs
                .keys()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" "),
            self.pairs
                .values()
                .any(|state| matches!(state, PairState::Refused(_))),
        );
        tracing::info!(
            local, remote = %self.route.remote, address = %self.opened.address, reason = %failure,
            "outbound stream ended"
        );
        let reason = format!(
            "the stream to {} at {} ended: {failure}",
            self.route.remote, self.opened.address
        );
        let Opened { wire, guard, .. } = self.opened;
        let closed = self.closing.is_some();
        let goodbye = async move {
            if closed {
                wire.finish().await;
            } else {
                wire.hang_up(&failure, String::new).await;
            }
            drop(guard);
        };
        // While the edge stops, the process must not end before the peer has read everything.
        if self.edge.draining() {
            goodbye.await;
        } else {
            tokio::spawn(goodbye);
        }
        match (self.used, refused) {
            (true, _) => End::Used,
            (false, true) => End::Refused,
            (false, false) => End::Useless(reason),
        }
    }
}
