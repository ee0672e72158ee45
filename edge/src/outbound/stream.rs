//! One stream to a remote domain: dialback for each pair (initiating role), then stanzas.
//!
//! It belongs to the pair of its header. Others may come as guests; one that is refused leaves for
//! a stream of its own.

mod ending;
mod pairs;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, SelectAll};
use futures::{FutureExt, StreamExt};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use xmpp_federation_core::Domain;

use super::Outbound;
use super::connect::OpenStream;
use super::queue::Portion;
use super::route::{OpeningTurn, Route};
use super::send_log::SendLog;
use crate::bounce::Cause;
use crate::jid::{DomainCache, Labels, Side};
use crate::observe::registry::StreamEntry;
use crate::shared::Shared;
use crate::stream::established::{Driver, TaskFuture, drive};
use crate::stream::transport::Delivery;
use crate::stream::{Failure, Wire};
use crate::terms;
use crate::tls::JudgementCache;
use crate::words::{Mechanism, Role, Stage};
pub use ending::End;
use pairs::{PairState, hold_of_guests};
use xmpp_federation_xml::{Element, ns, split};

/// How long a stanza waits while the peer reads at all.
const READING: Duration = Duration::from_mins(10);

/// First and longest time until it is looked again whether there is room for more.
const AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(250));
#[allow(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
struct Stream<'a> {
    outbound: &'a Arc<Outbound>,
    route: &'a Arc<Route>,
    /// The hosted domain of the header.
    local: &'a Domain,
    /// Others wait for this stream.
    opening: &'a mut Option<OpeningTurn>,
    /// Its number while it takes guests.
    host: Option<u64>,
    opened: OpenStream,
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
    /// After our side was closed: the peer was still reading when it was looked last.
    reads_on: bool,
    /// Why our side was closed, if not because nobody needs the stream.
    reason: Option<Failure>,
    /// The writing direction has ended.
    finished: bool,
    /// Its own pair goes on without it.
    handed_over: bool,
    /// The edge stops and waits no longer.
    gave_up: bool,
    /// Wakes it when something waits.
    wake: Arc<Notify>,
    rare: SelectAll<BoxStream<'static, StreamEvent>>,
}

/// Uses a stream until it ends.
pub(super) async fn run(
    outbound: &Arc<Outbound>,
    route: &Arc<Route>,
    local: &Domain,
    opened: OpenStream,
    opening: &mut Option<OpeningTurn>,
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
        rare: rare_events(outbound, &opened.guard.entry),
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
        reads_on: false,
        reason: None,
        finished: false,
        handed_over: false,
        gave_up: false,
        wake: route.wake(local),
    };
    if let Some(local) = stream.opened.external.take() {
        stream.valid(&local, Mechanism::External);
    }
    let failure = stream.run().await;
    let read = match failure {
        Failure::Closed => stream.is_read().await,
        Failure::Ended if !stream.opened.wire.is_open() => stream.is_read().await,
        _ => false,
    };
    let failure = stream.reason.take().unwrap_or(failure);
    stream.end(failure, read)
}

/// What happens to a stream besides what its peer does.
#[derive(Debug, Clone, Copy)]
enum StreamEvent {
    /// Something waits.
    Woken,
    /// The configuration is another one.
    Reloaded,
    /// The stream is to end.
    Stopped,
    /// The edge stops and waits no longer for the peer.
    GaveUp,
    /// Nor for the end of the stream.
    HungUp,
}

/// What happens rarely is registered once and not anew at each wait.
fn rare_events(outbound: &Outbound, entry: &StreamEntry) -> SelectAll<BoxStream<'static, StreamEvent>> {
    let when = |token: &CancellationToken, event| {
        let cancelled = token.clone().cancelled_owned();
        cancelled.map(move |()| event).into_stream().boxed()
    };
    let reloads = stream::unfold(outbound.shared.changes(), |mut changes| async {
        changes.changed().await.ok().map(|()| (StreamEvent::Reloaded, changes))
    });
    stream::select_all([
        reloads.boxed(),
        when(&outbound.close, StreamEvent::Stopped),
        when(&entry.close, StreamEvent::Stopped),
        when(&outbound.give_up, StreamEvent::GaveUp),
        when(&outbound.hang_up, StreamEvent::HungUp),
    ])
}

impl Driver for Stream<'_> {
    type Taking = ();
    type Event = StreamEvent;

    fn wire(&mut self) -> &mut Wire {
        &mut self.opened.wire
    }

    async fn before_wait(&mut self) -> Result<Instant, Failure> {
        self.write()?;
        let writing = self.opened.wire.transport.needs_flush();
        self.route.set_writing(&mut self.writing, writing);
        Ok(self.deadline())
    }

    fn wait(&mut self) -> (impl TaskFuture<Result<bool, Failure>>, impl TaskFuture<StreamEvent>) {
        let open = self.opened.wire.is_open();
        let (rare, wake) = (&mut self.rare, &self.wake);
        let event = async move {
            tokio::select! {
                biased;
                Some(event) = rare.next() => event,
                () = wake.notified(), if open => StreamEvent::Woken,
                else => std::future::pending().await,
            }
        };
        (self.opened.wire.turn(true), event)
    }

    fn received(&mut self) -> Result<(), Failure> {
        self.take_all(&mut ())?;
        self.opened.wire.framer.shrink();
        Ok(())
    }

    async fn happened(&mut self, event: StreamEvent) -> Result<(), Failure> {
        match event {
            // One pass of the scheduler: tasks that are ready append first.
            StreamEvent::Woken => tokio::task::yield_now().await,
            StreamEvent::Reloaded if self.opened.wire.is_open() => {
                if let Err(failure) = self.check_lists() {
                    self.close(Some(failure));
                }
            }
            StreamEvent::Reloaded => {}
            StreamEvent::Stopped => self.close(None),
            StreamEvent::GaveUp => return self.give_up(),
            StreamEvent::HungUp => return Err(Failure::Timeout("closing the stream")),
        }
        Ok(())
    }

    fn timed_out(&mut self) -> Result<(), Failure> {
        self.look_at = None;
        if let Some(closing) = self.opened.wire.closing {
            self.close_later(closing)
        } else {
            self.look_for_late()
        }
    }

    fn take_element(&mut self, (): &mut (), element: &Element) -> Result<(), Failure> {
        self.take_answer(element)
    }
}

impl<'a> Stream<'a> {
    async fn run(&mut self) -> Failure {
        match self.begin() {
            Ok(()) => drive(self).await,
            Err(failure) => failure,
        }
    }

    fn begin(&mut self) -> Result<(), Failure> {
        // It was opened under the configuration of a while ago.
        self.check_lists()?;
        if self.pairs.is_empty() {
            let local = self.local.clone();
            self.ask(&local)?;
        }
        self.take_guests();
        Ok(())
    }

    fn shared(&self) -> &'a Shared {
        &self.outbound.shared
    }

    fn may_log(&self, about: &'static str) -> bool {
        let party = self.opened.guard.entry.party(Some(&self.route.remote));
        self.shared().may_log(about, party)
    }

    /// Starts dialback for new guests and writes what may be written.
    fn write(&mut self) -> Result<(), Failure> {
        if !self.opened.wire.is_open() {
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
        let Portion {
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
        let side = Side::Peer(&self.shared().memory.labels);
        let (mut bytes, mut domains) = (BytesMut::new(), DomainCache::default());
        for stanza in split(&stanzas, ns::SERVER) {
            bytes.extend_from_slice(side.respell(&stanza, &mut domains).bytes());
        }
        bytes.freeze()
    }

    /// How long the stream may carry nothing.
    fn idle_timeout(&self) -> Duration {
        let own = self.shared().live().config.limits.idle_timeout.0;
        self.opened.limits.idle_timeout(own)
    }

    /// When to call [`Self::timed_out`]. Turns do not put it off: traffic of one pair must not keep
    /// what is late of another from being noticed.
    fn deadline(&mut self) -> Instant {
        let now = Instant::now();
        if let Some(closing) = self.opened.wire.closing {
            return closing.deadline();
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

    /// Refuses and reports what has waited too long.
    fn look_for_late(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        let live = self.shared().live();
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
            self.shared().metrics.dialback(Role::Initiating, "timeout", hold);
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
            self.close(None);
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
        let live = self.shared().live();
        let remote = &self.route.remote;
        let pairs = self.pairs.iter();
        let locals = pairs.filter(|(_, state)| !matches!(state, PairState::Gone));
        terms::still(&live, locals.map(|(local, _)| local), [remote])?;
        let shown = self.opened.wire.transport.shown();
        let (memory, kept) = (&self.shared().memory, JudgementCache::default());
        if let Err(refusal) = terms::check(&live, memory, shown, &kept, &self.route.remote) {
            let (entry, remote) = (&self.opened.guard.entry, Some(&self.route.remote));
            self.shared().refused(entry, Stage::Stream, None, remote, &refusal);
            return Err(refusal.into());
        }
        Ok(())
    }
}
