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
use tokio::time::{Instant, sleep_until, timeout};
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
use crate::observe::links::Place;
use crate::observe::log_rate::Party;
use crate::observe::returned::Heard;
use crate::stream::transport::{Delivery, Progress};
use crate::stream::{CLOSE_TIME, Failure, LONG_TURN, Wire};
use crate::words::Direction;
use xmpp_federation_xml::{Element, STREAM_END, XmlWriter, ns};

/// Bytes written at once.
const BATCH: usize = 256 * 1024;
/// State of one stay up.
struct Up<'a> {
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
    /// What this turn's stanzas say about the router.
    heard: Option<Heard>,
    /// It is our turn, and the queue gives nothing before another link's proof or this time.
    turn_at: Option<Instant>,
    /// Another link takes what waits from now on; this one only proves what it wrote.
    stepped_down: bool,
    /// Its place among the links of the cluster.
    place: watch::Receiver<Place>,
    /// Profile Xcp.
    envelopes: Option<Envelopes>,
    /// We have closed our side.
    closing: Option<Instant>,
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
        let mut up = Up {
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
            heard: None,
            turn_at: None,
            stepped_down: false,
            place,
            envelopes: (self.profile == LinkProfile::Xcp).then(Envelopes::default),
            closing: None,
        };
        let mut end = up.run(mode, stop).await;
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
        if up.closing.is_some() {
            end = Ok(());
        }
        let Up { wire, window, .. } = up;
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

impl Up<'_> {
    async fn run(&mut self, mode: &mut watch::Receiver<Mode>, stop: &CancellationToken) -> Result<(), Failure> {
        let mut finish = false;
        // What came right behind the handshake's answer is in the framer already.
        self.take_frames()?;
        loop {
            finish |= stop.is_cancelled() || *mode.borrow() == Mode::Finish;
            if stop.is_cancelled() && !self.stepped_down {
                self.stepped_down = self.link.cluster.queue.step_down(&self.wake);
            }
            self.write()?;
            if finish && self.closing.is_none() && self.may_close() {
                for batch in self.link.cluster.queue.link_down(&self.wake) {
                    self.link.routers.outbound.report(&batch.bytes, Cause::LinkDown);
                }
                self.wire.transport.queue(Bytes::from_static(STREAM_END.as_bytes()));
                self.closing = Some(Instant::now() + CLOSE_TIME);
            }
            let read = self.may_read();
            let look = self.stuck_at().filter(|at| !read && *at > Instant::now());
            let deadline = self.deadline().min(look.unwrap_or_else(|| self.deadline()));
            tokio::select! {
                // What a turn does not bring is looked at after it: to register for all of it
                // anew each time would cost more than the turn.
                biased;
                read = self.wire.turn(read) => {
                    if read? {
                        self.last_heard = Instant::now();
                        self.take_frames()?;
                        if self.last_heard.elapsed() >= LONG_TURN {
                            tokio::task::yield_now().await;
                        }
                        if self.last_heard >= deadline {
                            self.timed_out()?;
                        }
                    }
                }
                () = self.wake.notified() => {
                    // One pass of the scheduler: all tasks that are ready append first.
                    tokio::task::yield_now().await;
                }
                () = sleep_until(deadline) => self.timed_out()?,
                // The registry's entry lives as long as its link.
                _ = self.place.changed() => self.moved(),
                _ = mode.changed(), if !finish => {}
                () = stop.cancelled(), if !finish => {}
            }
            if self.place.has_changed().unwrap_or(false) {
                self.moved();
            }
        }
    }

    /// A router that sends what it must not and does not take our answers would pile them up: it
    /// is read only as far as that lets us write more.
    fn may_read(&self) -> bool {
        let queue = &self.link.cluster.queue;
        let (answers, room) = (queue.answers(), queue.room());
        if self.closing.is_some() || answers <= room.answers() {
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
        let closing = self.closing.unwrap_or(alive);
        closing.min(alive).min(turn)
    }

    fn timed_out(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        if self.closing.is_some_and(|closing| now >= closing) {
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
            None if now >= self.last_heard + quiet && self.closing.is_none() => {
                self.send_ping();
            }
            None => {}
        }
        Ok(())
    }

    /// Hands the next batches to the socket once it has taken the last ones.
    fn write(&mut self) -> Result<(), Failure> {
        self.turn_at = None;
        if self.wire.transport.needs_flush() || self.closing.is_some() {
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
                self.link
                    .routers
                    .shared
                    .metrics
                    .stanzas(Direction::Inbound, count, size);
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

    fn take_frames(&mut self) -> Result<(), Failure> {
        let live = self.link.routers.shared.live();
        self.lanes.under(&live);
        let (mut count, mut size) = (0, 0);
        let taken = self.take_all(&live, &mut count, &mut size);
        // Also when the link fails: what was accepted before leaves.
        self.hand_over(&live);
        if let Some(heard) = self.heard.take() {
            let entry = &self.link.entry;
            entry.returned(|returned| returned.heard(heard));
        }
        if count > 0 {
            self.link
                .routers
                .shared
                .metrics
                .stanzas(Direction::Outbound, count, size);
        } else {
            self.wire.framer.shrink();
        }
        taken
    }

    fn take_all(&mut self, live: &Arc<Live>, count: &mut usize, size: &mut usize) -> Result<(), Failure> {
        while let Some(element) = self.wire.take_element()? {
            if element.is(ns::STREAMS, "error") {
                return Err(self.wire.peer_error(&element));
            }
            if self.take_echo(&element) {
                continue;
            }
            let bytes = if self.envelopes.is_some() {
                self.take_xcp(live, &element)
            } else {
                self.take_stanza(live, &element);
                Some(element.bytes().len())
            };
            *size += bytes.unwrap_or(0);
            *count += usize::from(bytes.is_some());
            // What the stream's header adds to each stanza may make much of one turn.
            if self.lanes.text.len() >= BATCH {
                self.hand_over(live);
            }
        }
        Ok(())
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
        self.link.routers.shared.may_log(about, Party::Router)
    }
}
