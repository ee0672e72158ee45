//! A link that is up: one task writes what waits in batches, proves what the router has
//! processed, and takes what the router sends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::link::Link;
use super::queue::{Batch, Source};
use super::{Mode, select};
use crate::bounce::{Cause, bounce};
use crate::config::Live;
use crate::metrics::Direction;
use crate::stanza::{DomainCache, domain_part, is_stanza};
use crate::stream::transport::Turn;
use crate::stream::{CLOSE_TIME, Failure, Wire};
use crate::xml::{Element, Frame, Reroot, STREAM_END, XmlWriter, ns};

/// Bytes written at once.
const BATCH: usize = 256 * 1024;
/// Bytes written and not proven, at most: what a broken link may have to report.
const WINDOW: usize = 4 * 1024 * 1024;
/// Bytes of answers to the router that may wait before it is read with care.
const ANSWERS: usize = 8 * 1024 * 1024;
/// Bytes of them at which it is not read at all.
const MANY_ANSWERS: usize = 4 * ANSWERS;

/// State of one stay up.
struct Up<'a> {
    link: &'a Link,
    wire: Wire,
    wake: Arc<Notify>,
    window: VecDeque<Batch>,
    window_bytes: usize,
    ping: Option<Ping>,
    /// Unpredictable part of ping ids: only the router's own echo counts.
    nonce: u64,
    pings: u64,
    domains: DomainCache,
    scratch: BytesMut,
    last_heard: Instant,
    /// It is our turn, and the queue gives nothing before another link's proof or this time.
    turn_at: Option<Instant>,
    /// Another link takes what waits from now on; this one only proves what it wrote.
    stepped_down: bool,
    /// We have closed our side.
    closing: Option<Instant>,
}

/// The ping under way.
struct Ping {
    id: String,
    covers: usize,
    sent: Instant,
}

impl Link {
    /// Works until the link breaks (an error), or was told to close and did.
    pub(super) async fn serve(
        &self,
        wire: Wire,
        mode: &mut watch::Receiver<Mode>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let wake = Arc::new(Notify::new());
        self.edge.routers.serving.fetch_add(1, Ordering::AcqRel);
        self.cluster.queue.link_up(self.rank, &wake);
        let mut up = Up {
            link: self,
            wire,
            wake: wake.clone(),
            window: VecDeque::new(),
            window_bytes: 0,
            ping: None,
            nonce: rand::random(),
            pings: 0,
            domains: DomainCache::default(),
            scratch: BytesMut::new(),
            last_heard: Instant::now(),
            turn_at: None,
            stepped_down: false,
            closing: None,
        };
        let mut end = up.run(mode, stop).await;
        for batch in self.cluster.queue.link_down(&wake) {
            self.edge.report(&batch.bytes, Cause::LinkDown);
        }
        self.edge.routers.pass_on(&self.edge, &self.cluster);
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
                self.edge.report(&batch.bytes, Cause::LinkLost);
            }
        }
        // Counted only now: an orderly stop must see the reports as still waiting.
        self.cluster.queue.proven(window.len());
        self.edge.routers.serving.fetch_sub(1, Ordering::AcqRel);
        let last = end.as_ref().err().unwrap_or(&Failure::Closed);
        if self.edge.draining() {
            wire.hang_up(last, String::new).await;
        } else {
            let _ = timeout(Duration::from_secs(1), wire.hang_up(last, String::new)).await;
        }
        end
    }
}

impl Up<'_> {
    async fn run(
        &mut self,
        mode: &mut watch::Receiver<Mode>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let mut finish = false;
        // What came right behind the handshake's answer is in the framer already.
        self.take_frames()?;
        loop {
            finish |= stop.is_cancelled() || *mode.borrow() == Mode::Finish;
            if stop.is_cancelled() && !self.stepped_down {
                self.stepped_down = self.link.cluster.queue.step_down(&self.wake);
            }
            self.write();
            if finish && self.closing.is_none() && self.may_close() {
                for batch in self.link.cluster.queue.link_down(&self.wake) {
                    self.link.edge.report(&batch.bytes, Cause::LinkDown);
                }
                self.wire
                    .transport
                    .queue(Bytes::from_static(STREAM_END.as_bytes()));
                self.closing = Some(Instant::now() + CLOSE_TIME);
            }
            let read = self.may_read();
            let look = self.stuck_at().filter(|at| !read && *at > Instant::now());
            let deadline = self.deadline().min(look.unwrap_or_else(|| self.deadline()));
            tokio::select! {
                turn = self.wire.transport.turn(read, self.wire.framer.buffer()) => match turn? {
                    Turn::Read => {
                        self.last_heard = Instant::now();
                        self.take_frames()?;
                    }
                    Turn::Flushed => {}
                    Turn::End => return Err(Failure::Ended),
                },
                () = self.wake.notified() => {
                    // One pass of the scheduler: all tasks that are ready append first.
                    tokio::task::yield_now().await;
                }
                () = sleep_until(deadline) => self.timed_out()?,
                _ = mode.changed(), if !finish => {}
                () = stop.cancelled(), if !finish => {}
            }
        }
    }

    /// A router that sends what it must not and does not take our answers would pile them up: it
    /// is read only as far as that lets us write more.
    fn may_read(&self) -> bool {
        let answers = self.link.cluster.queue.answers();
        if self.closing.is_some() || answers <= ANSWERS {
            return true;
        }
        // The echo may be behind what it sends, or it may not read before it has written.
        let echo_blocks = self.room() == 0 && !self.wire.transport.needs_flush();
        let stuck = self.stuck_at().is_some_and(|at| Instant::now() >= at);
        answers <= MANY_ANSWERS && (echo_blocks || stuck)
    }

    /// When the router will have left a ping without answer for suspiciously long.
    fn stuck_at(&self) -> Option<Instant> {
        self.ping
            .as_ref()
            .map(|ping| ping.sent + self.timing().echo / 4)
    }

    /// Bytes that may be written before something more is proven.
    fn room(&self) -> usize {
        WINDOW.saturating_sub(self.window_bytes).min(BATCH)
    }

    fn timing(&self) -> super::Timing {
        self.link.edge.routers.timing
    }

    /// Everything that waits for this link is written and proven.
    fn may_close(&self) -> bool {
        let nothing = self.stepped_down || self.link.cluster.queue.is_empty();
        self.window.is_empty() && nothing && !self.wire.transport.needs_flush()
    }

    fn deadline(&self) -> Instant {
        let alive = match &self.ping {
            Some(ping) => ping.sent + self.timing().echo,
            None => self.last_heard + self.timing().quiet,
        };
        let turn = self.turn_at.unwrap_or(alive);
        self.closing.unwrap_or(alive).min(alive).min(turn)
    }

    fn timed_out(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        if self.closing.is_some_and(|closing| now >= closing) {
            return Err(Failure::Timeout("closing the stream"));
        }
        match &self.ping {
            Some(ping) if now >= ping.sent + self.timing().echo => {
                return Err(Failure::Timeout(
                    "the echo of a ping to our own component id",
                ));
            }
            None if now >= self.last_heard + self.timing().quiet && self.closing.is_none() => {
                self.send_ping();
            }
            _ => {}
        }
        Ok(())
    }

    /// Hands the next batches to the socket once it has taken the last ones.
    fn write(&mut self) {
        self.turn_at = None;
        if self.wire.transport.needs_flush() || self.closing.is_some() {
            return;
        }
        let room = self.room();
        if room > 0 {
            let queue = &self.link.cluster.queue;
            let taken = queue.take(&self.wake, self.window.len(), room, Instant::now());
            self.turn_at = taken.again;
            let batches = taken.batches;
            let (mut count, mut size) = (0, 0);
            for batch in &batches {
                count += batch.count;
                size += batch.bytes.len();
                self.wire.transport.queue(batch.bytes.clone());
            }
            if count > 0 {
                self.link
                    .edge
                    .metrics
                    .stanzas(Direction::Inbound, count, size);
            }
            self.window_bytes += size;
            self.window.extend(batches);
        }
        if self.ping.is_none() && !self.window.is_empty() {
            self.send_ping();
        }
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
        self.wire
            .transport
            .queue(Bytes::from(w.finish().unwrap_or_default()));
        self.ping = Some(Ping {
            id,
            covers: self.window.len(),
            sent: Instant::now(),
        });
    }

    fn take_frames(&mut self) -> Result<(), Failure> {
        let live = self.link.edge.live();
        let mut count = 0;
        let mut size = 0;
        loop {
            match self.wire.framer.next_frame()? {
                None => break,
                Some(Frame::End) => return Err(Failure::Closed),
                Some(Frame::Header(_)) => {}
                Some(Frame::Element(element)) => {
                    if element.is(ns::STREAMS, "error") {
                        return Err(self.wire.peer_error(&element));
                    }
                    if self.take_echo(&element) {
                        continue;
                    }
                    size += element.bytes().len();
                    count += 1;
                    self.take_stanza(&live, &element);
                }
            }
        }
        if count > 0 {
            self.link
                .edge
                .metrics
                .stanzas(Direction::Outbound, count, size);
        } else {
            self.wire.framer.shrink();
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
        let proven = ping.covers.min(self.window.len());
        for batch in self.window.drain(..proven) {
            self.window_bytes = self.window_bytes.saturating_sub(batch.bytes.len());
        }
        if self.window.is_empty() {
            self.window = VecDeque::new();
        }
        self.link.cluster.queue.proven(proven);
        true
    }

    /// The trust rules of the link: hosted sender, foreign recipient, stanzas only.
    fn take_stanza(&mut self, live: &Arc<Live>, element: &Element) {
        if !is_stanza(element, ns::COMPONENT) {
            tracing::warn!(
                router = self.link.cluster.name,
                node = self.link.endpoint.name,
                element = element.name(),
                namespace = element.ns(),
                "the XCP router sent something that is no stanza; it is dropped"
            );
            return;
        }
        let sender = element
            .from()
            .and_then(|from| self.domains.domain_of(&from));
        let Some(local) = sender.filter(|local| live.hosted.contains(local)) else {
            self.refuse(live, element, Cause::ForeignSender);
            return;
        };
        let served = select(&self.link.edge.routers.clusters(), live, &local).is_some();
        let Some(to) = element.to().filter(|_| served) else {
            self.refuse(live, element, Cause::Malformed);
            return;
        };
        if domain_part(&to) == self.link.id.as_str() {
            self.refuse(live, element, Cause::NotForUs);
            return;
        }
        let Some(remote) = self.domains.domain_of(&to) else {
            self.refuse(live, element, Cause::Malformed);
            return;
        };
        if live.hosted.contains(&remote) {
            self.refuse(live, element, Cause::NotForUs);
            return;
        }
        let limits = &live.config.limits;
        let (bytes, most) = (element.bytes().len(), limits.max_stanza_bytes);
        // One user's stanza must not break the link for all.
        let moved = element.reroot_into(Reroot::TO_SERVER, &mut self.scratch);
        let stanza = self.scratch.split().freeze();
        if bytes > most || moved.is_err() {
            self.refuse(live, element, Cause::TooLarge { bytes, most });
            return;
        }
        let pushed = self
            .link
            .edge
            .outbound
            .push(&self.link.edge, live, &local, &remote, stanza);
        if let Err(cause) = pushed {
            self.refuse(live, element, cause);
        }
    }

    /// Answers the router's stanza on this cluster's links.
    fn refuse(&mut self, live: &Live, element: &Element, cause: Cause) {
        let edge = &self.link.edge;
        if cause == Cause::ForeignSender || cause == Cause::NotForUs {
            tracing::warn!(
                router = self.link.cluster.name,
                node = self.link.endpoint.name,
                from_domain = element.from().map(|a| domain_part(&a).to_owned()),
                to_domain = element.to().map(|a| domain_part(&a).to_owned()),
                cause = cause.as_str(),
                "the XCP router sent a stanza that may not leave"
            );
        }
        // Nothing may go to a router that is not for a hosted domain: others are only logged.
        let hosted = element
            .from()
            .and_then(|from| self.domains.domain_of(&from))
            .filter(|domain| live.hosted.contains(domain));
        let told = match (bounce(element, cause), hosted) {
            (Some(answer), Some(hosted)) => {
                let queue = &self.link.cluster.queue;
                // A cluster that is not configured any more takes nothing; another one may.
                match queue.push(&Source::Edge, Batch::one(answer)) {
                    Ok(_) => true,
                    Err(batch) => edge.routers.send(live, &hosted, batch.bytes),
                }
            }
            _ => false,
        };
        if told {
            edge.metrics.bounced(cause.as_str());
        } else {
            edge.metrics.dropped(cause.as_str());
        }
    }
}
