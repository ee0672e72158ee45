//! A link that is up: one task writes what waits in batches, proves what the router has
//! processed, and takes what the router sends.

mod blame;
mod in_flight;
mod lanes;
mod stanzas;

use lanes::Lanes;
mod xcp;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use xmpp_federation_core::edge_config::LinkProfile;

use self::in_flight::InFlight;
use super::Mode;
use super::envelope::{self, Envelopes};
use super::link::Link;
use crate::bounce::Cause;
use crate::clusters::batch::Batch;
use crate::config::Live;
use crate::jid::DomainCache;
use crate::observe::links::LinkPlace;
use crate::observe::log_rate::Party;
use crate::observe::returned::RouterEvidence;
use crate::shared::Shared;
use crate::stream::established::{Driver, TaskFuture, drive};
use crate::stream::transport::{Delivery, Progress};
use crate::stream::{CLOSE_TIME, Failure, LONG_TURN, Wire};
use crate::words::Direction;
use xmpp_federation_xml::{Element, XmlWriter};

/// Bytes written at once.
const BATCH: usize = 256 * 1024;
/// State of one stay up.
#[allow(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
struct LiveLink<'a> {
    link: &'a Link,
    wire: Wire,
    wake: Arc<Notify>,
    window: VecDeque<Batch>,
    window_bytes: usize,
    in_flight: InFlight,
    /// Messages and requests in the window.
    unproven: usize,
    /// The only stanza in the window is a suspect's.
    alone: bool,
    ping: Option<Ping>,
    /// Unpredictable part of ping ids: only the router's own echo counts.
    nonce: u64,
    pings: u64,
    domains: DomainCache,
    lanes: Lanes,
    last_heard: Instant,
    /// The last turn took long: others have theirs first.
    long_turn: bool,
    /// What this turn's stanzas say about the router.
    heard: Option<RouterEvidence>,
    /// It is our turn, and the queue gives nothing before another link's proof or this time.
    turn_at: Option<Instant>,
    /// Another link takes what waits from now on; this one only proves what it wrote.
    stepped_down: bool,
    /// Its place among the links of the cluster.
    place: watch::Receiver<LinkPlace>,
    /// Profile Xcp.
    envelopes: Option<Envelopes>,
    /// Whether the router is read.
    reads: bool,
    /// Told to close, for now or for good.
    finish: bool,
    mode: &'a mut watch::Receiver<Mode>,
    stop: &'a CancellationToken,
}

/// What happens to a link besides what its router says.
enum LinkEvent {
    /// Something waits.
    Woken,
    /// The link has another place.
    Moved,
    /// The link may have to close.
    Told,
}

/// What the elements of one turn share, and what of them leaves.
struct LinkFrames {
    live: Arc<Live>,
    count: usize,
    size: usize,
}

/// The ping under way.
struct Ping {
    id: String,
    /// Batches and bytes before it.
    covers: usize,
    bytes: usize,
    sent: Instant,
    /// A router whose system acknowledges more is slow and not gone; when to look next.
    progress: Progress,
    look: Instant,
}

/// How often it is looked whether a router reads that does not answer a ping.
const LOOK: Duration = Duration::from_secs(1);

impl Link {
    /// Works until the link breaks (an error), or was told to close and did.
    pub(super) async fn serve(
        &self,
        wire: Wire,
        mode: &mut watch::Receiver<Mode>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let wake = Arc::new(Notify::new());
        self.routers.serving.fetch_add(1, Ordering::AcqRel);
        let mut place = self.entry.place();
        let now = *place.borrow_and_update();
        self.cluster.queue.link_up(now, &wake);
        let mut up = LiveLink {
            link: self,
            wire,
            wake: wake.clone(),
            window: VecDeque::new(),
            window_bytes: 0,
            in_flight: InFlight::default(),
            unproven: 0,
            alone: false,
            ping: None,
            nonce: rand::random(),
            pings: 0,
            domains: DomainCache::default(),
            lanes: Lanes::default(),
            last_heard: Instant::now(),
            long_turn: false,
            heard: None,
            turn_at: None,
            stepped_down: false,
            place,
            envelopes: (self.profile == LinkProfile::Xcp).then(Envelopes::default),
            reads: true,
            finish: false,
            mode,
            stop,
        };
        let mut end = Err(drive(&mut up).await);
        if matches!(end, Err(Failure::Io(_)))
            && let Some(said) = up.last_words().await
        {
            end = Err(said);
        }
        let cause = up.find_the_sender(&end);
        for batch in self.cluster.queue.link_down(&wake) {
            self.routers.outbound.report(&batch.bytes, Cause::LinkDown);
        }
        self.routers.pass_on(&self.cluster);
        if up.wire.closing.is_some() {
            end = Ok(());
        }
        let LiveLink { wire, window, .. } = up;
        if !window.is_empty() {
            let stanzas: usize = window.iter().map(|batch| batch.count).sum();
            tracing::warn!(
                router = self.cluster.name,
                node = self.endpoint.name,
                stanzas,
                "stanzas written to the link are not proven processed and are reported to their senders"
            );
            for batch in &window {
                self.routers.outbound.report(&batch.bytes, cause);
            }
        }
        // Counted only now: an orderly stop must see the reports as still waiting.
        self.cluster.queue.proven(window.len());
        self.routers.serving.fetch_sub(1, Ordering::AcqRel);
        let last = end.as_ref().err().unwrap_or(&Failure::Closed);
        if self.routers.shared.draining() {
            wire.hang_up(last, String::new).await;
        } else {
            let _ = timeout(Duration::from_secs(1), wire.hang_up(last, String::new)).await;
        }
        end
    }
}

impl Driver for LiveLink<'_> {
    type Taking = LinkFrames;
    type Event = LinkEvent;

    fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    async fn before_wait(&mut self) -> Result<Instant, Failure> {
        if std::mem::take(&mut self.long_turn) {
            tokio::task::yield_now().await;
        }
        if self.place.has_changed().unwrap_or(false) {
            self.moved();
        }
        let stopped = self.stop.is_cancelled();
        self.finish |= stopped || *self.mode.borrow() == Mode::Finish;
        if stopped && !self.stepped_down {
            self.stepped_down = self.link.cluster.queue.step_down(&self.wake);
        }
        self.write()?;
        if self.finish && self.wire.is_open() && self.may_close() {
            for batch in self.link.cluster.queue.link_down(&self.wake) {
                self.link.routers.outbound.report(&batch.bytes, Cause::LinkDown);
            }
            self.wire.close(None, String::new, CLOSE_TIME);
        }
        self.reads = self.may_read();
        let look = self.stuck_at().filter(|at| !self.reads && *at > Instant::now());
        let deadline = self.deadline();
        Ok(look.map_or(deadline, |look| look.min(deadline)))
    }

    fn wait(&mut self) -> (impl TaskFuture<Result<bool, Failure>>, impl TaskFuture<LinkEvent>) {
        let Self {
            wire,
            wake,
            place,
            mode,
            stop,
            finish,
            reads,
            ..
        } = self;
        let event = async {
            tokio::select! {
                biased;
                () = wake.notified() => LinkEvent::Woken,
                // The registry's entry lives as long as its link.
                _ = place.changed() => LinkEvent::Moved,
                _ = mode.changed(), if !*finish => LinkEvent::Told,
                () = stop.cancelled(), if !*finish => LinkEvent::Told,
            }
        };
        (wire.turn(*reads), event)
    }

    fn received(&mut self) -> Result<(), Failure> {
        self.last_heard = Instant::now();
        let mut taking = LinkFrames {
            live: self.shared().live(),
            count: 0,
            size: 0,
        };
        self.lanes.under(&taking.live);
        let taken = self.take_all(&mut taking);
        let LinkFrames { live, count, size } = taking;
        // Also when the link fails: what was accepted before leaves.
        self.hand_over(&live);
        if let Some(heard) = self.heard.take() {
            let entry = &self.link.entry;
            entry.returned(|returned| returned.heard(heard));
        }
        if count > 0 {
            self.shared().metrics.stanzas(Direction::Outbound, count, size);
        } else {
            self.wire.framer.shrink();
        }
        self.long_turn = self.last_heard.elapsed() >= LONG_TURN;
        taken
    }

    async fn happened(&mut self, event: LinkEvent) -> Result<(), Failure> {
        match event {
            // One pass of the scheduler: all tasks that are ready append first.
            LinkEvent::Woken => tokio::task::yield_now().await,
            LinkEvent::Moved => self.moved(),
            LinkEvent::Told => {}
        }
        Ok(())
    }

    fn timed_out(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        if self.wire.closing.is_some_and(|closing| now >= closing.end()) {
            return Err(Failure::Timeout("closing the stream"));
        }
        let (echo, quiet) = (self.timing().echo, self.timing().quiet);
        match &mut self.ping {
            Some(ping) => {
                if now >= ping.progress.look(&self.wire.transport) + echo {
                    return Err(Failure::Timeout("the echo of a ping to our own component id"));
                }
                ping.look = now + LOOK.min(echo / 4);
            }
            None if now >= self.last_heard + quiet && self.wire.is_open() => self.send_ping(),
            None => {}
        }
        Ok(())
    }

    fn take_element(&mut self, taking: &mut LinkFrames, element: &Element) -> Result<(), Failure> {
        if self.take_echo(element) {
            return Ok(());
        }
        let bytes = if self.envelopes.is_some() {
            self.take_xcp(&taking.live, element)
        } else {
            self.take_stanza(&taking.live, element);
            Some(element.bytes().len())
        };
        taking.size += bytes.unwrap_or(0);
        taking.count += usize::from(bytes.is_some());
        // What the stream's header adds to each stanza may make much of one turn.
        if self.lanes.text.len() >= BATCH {
            self.hand_over(&taking.live);
        }
        Ok(())
    }
}

impl LiveLink<'_> {
    fn shared(&self) -> &Shared {
        &self.link.routers.shared
    }

    /// A router that sends what it must not and does not take our answers would pile them up: it
    /// is read only as far as that lets us write more.
    fn may_read(&self) -> bool {
        let queue = &self.link.cluster.queue;
        let (answers, room) = (queue.answers(), queue.room());
        if !self.wire.is_open() || answers <= room.answers() {
            return true;
        }
        // The echo may be behind what it sends, or it may not read before it has written.
        let echo_blocks = self.room() == 0 && !self.wire.transport.needs_flush();
        let stuck = self.stuck_at().is_some_and(|at| Instant::now() >= at);
        answers <= room.many_answers() && (echo_blocks || stuck)
    }

    /// When the router will have left a ping without answer for suspiciously long.
    fn stuck_at(&self) -> Option<Instant> {
        self.ping.as_ref().map(|ping| ping.sent + self.timing().echo / 4)
    }

    /// Bytes that may be written before something more is proven.
    fn room(&self) -> usize {
        if self.alone {
            return 0;
        }
        let most = self.link.cluster.queue.room().window();
        self.in_flight.room(self.window_bytes, most).min(BATCH)
    }

    fn timing(&self) -> super::Timing {
        self.link.routers.timing
    }

    /// The configuration gave the link another place, or another link saw what our router
    /// announces.
    fn moved(&mut self) {
        let place = *self.place.borrow_and_update();
        self.link.cluster.queue.link_moved(place, &self.wake);
        self.link.announced(place.not_gateway);
    }

    /// Everything that waits for this link is written and proven.
    fn may_close(&self) -> bool {
        let nothing = self.stepped_down || self.link.cluster.queue.is_empty();
        self.window.is_empty() && nothing && !self.wire.transport.needs_flush()
    }

    fn deadline(&self) -> Instant {
        let alive = match &self.ping {
            Some(ping) => ping.look.min(ping.progress.since() + self.timing().echo),
            None => self.last_heard + self.timing().quiet,
        };
        let turn = self.turn_at.unwrap_or(alive);
        let closing = self.wire.closing.map_or(alive, |closing| closing.end());
        closing.min(alive).min(turn)
    }

    /// Hands the next batches to the socket once it has taken the last ones.
    fn write(&mut self) -> Result<(), Failure> {
        self.turn_at = None;
        if self.wire.transport.needs_flush() || !self.wire.is_open() {
            return Ok(());
        }
        let room = self.room();
        if room == 0 {
            self.in_flight.was_full();
        } else {
            let queue = &self.link.cluster.queue;
            let taken = queue.take(&self.wake, self.window.len(), room, Instant::now());
            self.turn_at = taken.again;
            self.alone = taken.alone;
            let (mut count, mut size) = (0, 0);
            for batch in &taken.batches {
                count += batch.count;
                self.unproven += batch.requests;
                size += batch.bytes.len();
            }
            // From here on they are reported, whatever becomes of the link.
            let first = self.window.len();
            self.window.extend(taken.batches);
            self.window_bytes += size;
            for batch in self.window.range(first..) {
                let bytes = match &mut self.envelopes {
                    None => batch.bytes.clone(),
                    Some(envelopes) => envelopes.wrap(&batch.bytes, self.link.id.as_str())?,
                };
                self.wire.transport.queue(bytes);
            }
            if count > 0 {
                self.shared().metrics.stanzas(Direction::Inbound, count, size);
            }
        }
        if self.ping.is_none() && !self.window.is_empty() {
            self.send_ping();
        }
        Ok(())
    }

    /// A ping to ourselves: the router processes in order, so its echo proves all before it.
    fn send_ping(&mut self) {
        self.pings += 1;
        let id = format!("proof-{:016x}-{}", self.nonce, self.pings);
        let own = self.link.id.as_str();
        let mut w = XmlWriter::new();
        w.start("iq")
            .attr("type", "get")
            .attr("id", &id)
            .attr("from", own)
            .attr("to", own);
        w.empty("ping", "urn:xmpp:ping").end();
        // Component ids and our numbers are always writable.
        let ping = w.finish().unwrap_or_default();
        self.wire.transport.queue(if self.envelopes.is_some() {
            // On the way of all stanzas: in order with them.
            envelope::around(own, own, &ping)
        } else {
            Bytes::from(ping)
        });
        let now = Instant::now();
        self.ping = Some(Ping {
            id,
            covers: self.window.len(),
            bytes: self.window_bytes,
            sent: now,
            progress: Progress::new(&self.wire.transport),
            look: now + LOOK.min(self.timing().echo / 4),
        });
    }

    /// Whether this is the echo of our ping; then what it covers is proven.
    fn take_echo(&mut self, element: &Element) -> bool {
        if element.name() != "iq" || element.to().as_deref() != Some(self.link.id.as_str()) {
            return false;
        }
        let id = element.id();
        let Some(ping) = self.ping.take_if(|ping| id.as_deref() == Some(&ping.id)) else {
            return id.is_some_and(|id| id.starts_with(&format!("proof-{:016x}-", self.nonce)));
        };
        let (proven, now) = (ping.covers.min(self.window.len()), Instant::now());
        let most = self.link.cluster.queue.room().window();
        self.in_flight.proven(ping.bytes, now - ping.sent, most);
        let mut requests = 0;
        for batch in self.window.drain(..proven) {
            self.window_bytes = self.window_bytes.saturating_sub(batch.bytes.len());
            requests += batch.requests;
        }
        if requests > 0 {
            self.unproven = self.unproven.saturating_sub(requests);
            let entry = &self.link.entry;
            entry.returned(|returned| returned.processed(now, requests));
        }
        if self.window.is_empty() {
            self.window = VecDeque::new();
            self.alone = false;
        }
        self.link.cluster.queue.processed(proven, now);
        true
    }

    /// Whether a line about what the router sends may be written.
    fn may_log(&self, about: &'static str) -> bool {
        self.shared().may_log(about, Party::Router)
    }
}
