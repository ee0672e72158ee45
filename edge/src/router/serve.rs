//! A link that is up: one task writes what waits in batches, proves what the router has
//! processed, and takes what the router sends.

mod blame;
mod in_flight;
mod xcp;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::LinkProfile;

use self::in_flight::InFlight;
use super::envelope::{self, Envelopes};
use super::link::Link;
use super::{Mode, aside};
use crate::bounce::{Cause, bounce};
use crate::clusters::batch::{Batch, Source};
use crate::clusters::select;
use crate::config::Live;
use crate::jid::{DomainCache, LONGEST, domain_part};
use crate::jid::{JidFault, LastJudged, Side, judge, readdressed, shown};
use crate::observe::links::Place;
use crate::observe::log_rate::Party;
use crate::observe::returned::{Heard, condition};
use crate::stanza::is_stanza;
use crate::stream::transport::{Delivery, Progress};
use crate::stream::{CLOSE_TIME, Failure, LONG_TURN, Wire};
use crate::words::Direction;
use xmpp_federation_xml::split;
use xmpp_federation_xml::{Element, Reroot, STREAM_END, XmlWriter, ns};

/// Bytes written at once.
const BATCH: usize = 256 * 1024;
/// Ways of stanzas that a link remembers; a router that uses more only loses the saving.
const LANES: usize = 1024;

/// A way of stanzas that was checked: hosted sender, foreign recipient.
struct Lane {
    from: Box<str>,
    to: Box<str>,
    local: Domain,
    remote: Domain,
    /// What is written instead, if these are other spellings than those of our streams' headers.
    from_instead: Option<Box<str>>,
    to_instead: Option<Box<str>>,
    /// Those of this turn, as parts of its text.
    stanzas: Vec<Range<usize>>,
}

/// Places for stanzas that a lane keeps between turns.
const SPARE: usize = 16;

/// The ways that the router's stanzas take under one configuration.
#[derive(Default)]
struct Lanes {
    live: Option<Arc<Live>>,
    all: Vec<Lane>,
    /// By the domain parts of `from` and `to` as written, with a separator that neither can have.
    known: HashMap<Box<str>, usize>,
    /// The last stanza's: most are like the one before.
    last: usize,
    /// The last addresses that were found good, and their lane.
    judged: (LastJudged, usize),
    key: String,
    /// Those with stanzas.
    used: Vec<usize>,
    /// This turn's stanzas, as they leave.
    text: BytesMut,
}

impl Lanes {
    /// What was checked under another configuration does not count.
    fn under(&mut self, live: &Arc<Live>) {
        let same = self.live.as_ref().is_some_and(|own| Arc::ptr_eq(own, live));
        if !same || self.all.len() > LANES {
            self.known = HashMap::new();
            self.all = Vec::new();
            self.judged.0.forget();
            self.live = Some(live.clone());
        }
    }

    fn find(&mut self, from: &str, to: &str) -> Option<usize> {
        let last = self.all.get(self.last);
        if last.is_some_and(|lane| *lane.from == *from && *lane.to == *to) {
            return Some(self.last);
        }
        if from.len().max(to.len()) > LONGEST {
            return None;
        }
        self.write_key(from, to);
        self.last = *self.known.get(self.key.as_str())?;
        Some(self.last)
    }

    fn add(&mut self, (from, to): (&str, &str), local: Domain, remote: Domain, side: Side<'_>) -> usize {
        self.write_key(from, to);
        self.last = self.all.len();
        self.known.insert(self.key.as_str().into(), self.last);
        self.all.push(Lane {
            from: from.into(),
            to: to.into(),
            from_instead: side.instead(from, &local),
            to_instead: side.instead(to, &remote),
            local,
            remote,
            stanzas: Vec::new(),
        });
        self.last
    }

    fn write_key(&mut self, from: &str, to: &str) {
        self.key.clear();
        self.key.push_str(from);
        self.key.push('\0');
        self.key.push_str(to);
    }

    /// What is behind `start` in the text is a stanza of this lane.
    fn append(&mut self, lane: usize, start: usize) {
        if let Some(found) = self.all.get_mut(lane) {
            if found.stanzas.is_empty() {
                self.used.push(lane);
            }
            found.stanzas.push(start..self.text.len());
        }
    }
}

/// Why a stanza has no lane.
enum NoLane {
    /// It may not leave.
    Check(Cause),
    /// Its sender's address is none.
    From(JidFault),
    /// Its recipient's address is none.
    To,
}

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

    /// Hands the stanzas of this turn to the streams of their recipients' domains.
    fn hand_over(&mut self, live: &Arc<Live>) {
        let routers = &self.link.routers;
        let mut used = std::mem::take(&mut self.lanes.used);
        let mut text = std::mem::take(&mut self.lanes.text);
        for lane in used.drain(..) {
            let Some(lane) = self.lanes.all.get_mut(lane) else {
                continue;
            };
            let mut stanzas = std::mem::take(&mut lane.stanzas);
            let (local, remote) = (&lane.local, &lane.remote);
            let pushed = routers.outbound.push_all(live, local, remote, &text, &mut stanzas);
            // An idle lane holds little memory.
            if pushed.is_ok() && stanzas.capacity() <= SPARE {
                lane.stanzas = stanzas;
                continue;
            }
            for stanza in stanzas {
                let stanza = text.get(stanza).unwrap_or_default();
                for element in split(stanza, ns::SERVER) {
                    self.refuse(live, &element, pushed.err().unwrap_or(Cause::QueueFull));
                }
            }
        }
        self.lanes.used = used;
        if text.capacity() <= BATCH {
            text.clear();
            self.lanes.text = text;
        }
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

    /// The trust rules of the link: hosted sender, foreign recipient, stanzas only.
    fn take_stanza(&mut self, live: &Arc<Live>, element: &Element) {
        if !is_stanza(element, ns::COMPONENT) {
            return self.aside(element, aside::of(element));
        }
        let (from, to) = (element.from(), element.to());
        let lane = match self.find_lane(live, from.as_deref(), to.as_deref()) {
            Ok(lane) => lane,
            Err(NoLane::Check(cause)) => {
                return match aside::of_stanza(element) {
                    Some(word) => self.aside(element, word),
                    None => self.refuse(live, element, cause),
                };
            }
            Err(NoLane::From(fault)) => {
                return self.malformed_sender(from.as_deref().unwrap_or_default(), fault);
            }
            Err(NoLane::To) => return self.refuse(live, element, Cause::Malformed),
        };
        if element.unportable().is_some() {
            return self.refuse(live, element, Cause::Unportable);
        }
        self.hear(element);
        let limits = &live.config.limits;
        let (bytes, most) = (element.bytes().len(), limits.max_stanza_bytes);
        let other;
        let element = match self.lanes.all.get(lane) {
            Some(Lane {
                from_instead: from,
                to_instead: to,
                ..
            }) if from.is_some() || to.is_some() => {
                other = readdressed(element, from.as_deref(), to.as_deref());
                &other
            }
            _ => element,
        };
        // One user's stanza must not break the link for all.
        let text = &mut self.lanes.text;
        let start = text.len();
        if bytes > most || element.reroot_into(Reroot::TO_SERVER, text).is_err() {
            text.truncate(start);
            return self.refuse(live, element, Cause::TooLarge { bytes, most });
        }
        self.lanes.append(lane, start);
    }

    /// The lane of a stanza whose addresses are good.
    fn find_lane(&mut self, live: &Live, from: Option<&str>, to: Option<&str>) -> Result<usize, NoLane> {
        let both = from.zip(to);
        let (last, lane) = &self.lanes.judged;
        if both.is_some_and(|(from, to)| last.are(from, to)) {
            return Ok(*lane);
        }
        let known = both.and_then(|(from, to)| self.lanes.find(domain_part(from), domain_part(to)));
        let lane = match known {
            Some(lane) => lane,
            None => self.check(live, from, to).map_err(NoLane::Check)?,
        };
        let (from, to) = both.unwrap_or_default();
        judge(from, &mut self.domains).map_err(NoLane::From)?;
        judge(to, &mut self.domains).map_err(|_| NoLane::To)?;
        self.lanes.judged.0.note(from, to);
        self.lanes.judged.1 = lane;
        Ok(lane)
    }

    /// A stanza whose sender has no address that an answer could go to.
    fn malformed_sender(&self, from: &str, fault: JidFault) {
        let routers = &self.link.routers;
        routers.shared.metrics.dropped(Cause::Malformed.as_str());
        if routers.shared.may_log("malformed senders of routers", Party::Router) {
            tracing::warn!(
                router = self.link.cluster.name,
                node = self.link.endpoint.name,
                from = shown(from),
                reason = %fault,
                "the XCP router sent a stanza with an invalid sender address; it is dropped"
            );
        }
    }

    /// What a stanza of a hosted user says about the router that passes it on.
    fn hear(&mut self, element: &Element) {
        let heard = Heard::of(element);
        if heard != Heard::Returned {
            self.heard = self.heard.max(Some(heard));
            return;
        }
        self.came_back(condition(element), element.from().as_deref());
    }

    /// A message or request for that address came back.
    fn came_back(&self, condition: &'static str, from: Option<&str>) {
        let (now, unproven) = (Instant::now(), self.unproven);
        let entry = &self.link.entry;
        let news = entry.returned(|returned| {
            let from = from.unwrap_or_default();
            returned.came_back(now, condition, from, unproven)
        });
        self.link.routers.shared.metrics.returned(condition);
        if news {
            tracing::warn!(
                router = self.link.cluster.name,
                node = self.link.endpoint.name,
                condition,
                "the XCP router accepts the link but returns every message and request"
            );
        }
    }

    /// Whether a stanza may go from one address to the other; then it has a lane from now on.
    fn check(&mut self, live: &Live, from: Option<&str>, to: Option<&str>) -> Result<usize, Cause> {
        let sender = from.and_then(|from| self.domains.domain_of(from));
        let local = sender
            .filter(|local| live.hosted.contains(local))
            .ok_or(Cause::ForeignSender)?;
        let served = select(&self.link.routers.clusters.all(), live, &local).is_some();
        let to = to.filter(|_| served).ok_or(Cause::Malformed)?;
        if domain_part(to) == self.link.id.as_str() {
            return Err(Cause::NotForUs);
        }
        let remote = self.domains.domain_of(to).ok_or(Cause::Malformed)?;
        if live.hosted.contains(&remote) {
            return Err(Cause::NotForUs);
        }
        if live.policy.check(&remote).is_err() {
            return Err(Cause::Denied);
        }
        let from = domain_part(from.unwrap_or_default());
        let side = Side::Peer(&self.link.routers.shared.memory.labels);
        Ok(self.lanes.add((from, domain_part(to)), local, remote, side))
    }

    /// Whether a line about what the router sends may be written.
    fn may_log(&self, about: &'static str) -> bool {
        self.link.routers.shared.may_log(about, Party::Router)
    }

    /// Drops what the router says besides stanzas; `word`: its name.
    fn aside(&self, element: &Element, word: &'static str) {
        let link = self.link;
        link.routers.shared.metrics.router_element_dropped(word);
        if word != aside::OTHER {
            tracing::debug!(
                router = link.cluster.name,
                node = link.endpoint.name,
                from = element.from().as_deref(),
                word,
                "the XCP router sent an element that is not a user's stanza; it is dropped"
            );
        } else if self.may_log("router-element") {
            tracing::warn!(
                router = link.cluster.name,
                node = link.endpoint.name,
                element = element.name(),
                namespace = element.ns(),
                "the XCP router sent an element that is not a stanza; it is dropped"
            );
        }
    }

    /// Answers the router's stanza on this cluster's links.
    fn refuse(&mut self, live: &Live, element: &Element, cause: Cause) {
        let link = self.link;
        let [from, to] = [element.from(), element.to()].map(|address| {
            let address = address?;
            self.domains.domain_of(&address)
        });
        let is_hosted = |domain: &Option<Domain>| {
            let domain = domain.as_ref();
            domain.is_some_and(|domain| live.hosted.contains(domain))
        };
        let to_hosted = is_hosted(&to);
        if cause == Cause::ForeignSender
            && to_hosted
            && from.as_ref().is_some_and(|from| live.policy.check(from).is_ok())
        {
            // It went to the router from outside and came back as it was: its sender is told.
            return self.give_back(element);
        }
        if matches!(cause, Cause::ForeignSender | Cause::NotForUs | Cause::BadEnvelope) {
            self.warn_of(element, cause);
        }
        if cause == Cause::Unportable && self.may_log("unportable") {
            tracing::warn!(
                router = link.cluster.name,
                node = link.endpoint.name,
                from_domain = element.from().map(|a| domain_part(&a).to_owned()),
                to_domain = element.to().map(|a| domain_part(&a).to_owned()),
                name = element.unportable(),
                "a hosted user's stanza has a name that not every XML parser accepts; it is refused with not-acceptable"
            );
        }
        let answered = Side::Link.respell(element, &mut self.domains);
        // A router that serves a domain that is not hosted here is answered, too, but never in the
        // name of a hosted domain. Errors are not answered, so no answer comes back for another one.
        let own = from.filter(|from| live.hosted.contains(from));
        let mut is_address = |address: Option<std::borrow::Cow<'_, str>>| {
            address.is_some_and(|address| judge(&address, &mut self.domains).is_ok())
        };
        let may_answer = own.is_some() || (!to_hosted && is_address(element.from()) && is_address(element.to()));
        let answer = bounce(&answered, cause).filter(|_| may_answer);
        let told = answer.is_some_and(|answer| {
            let queue = &link.cluster.queue;
            // A cluster that is not configured any more takes nothing; another one may, if it
            // serves the domain.
            match (queue.push(&Source::Edge, Batch::one(answer)), own) {
                (Ok(_), _) => true,
                (Err(batch), Some(own)) => link.routers.clusters.send(live, &own, batch.bytes),
                (Err(_), None) => false,
            }
        });
        link.routers.shared.count_report(told, cause);
    }

    /// Names a stanza of the router that may not leave.
    fn warn_of(&self, element: &Element, cause: Cause) {
        let link = self.link;
        let domain =
            |address: Option<std::borrow::Cow<'_, str>>| address.map(|address| domain_part(&address).to_owned());
        let (from, to) = (domain(element.from()), domain(element.to()));
        let is_error = element.type_().as_deref() == Some("error");
        if cause != Cause::ForeignSender || is_error {
            if self.may_log("router-stanza") {
                tracing::warn!(
                    router = link.cluster.name,
                    node = link.endpoint.name,
                    from_domain = from,
                    to_domain = to,
                    cause = cause.as_str(),
                    "the XCP router sent a stanza that the edge does not forward"
                );
            }
        } else if self.may_log("router-sender") {
            tracing::warn!(
                router = link.cluster.name,
                node = link.endpoint.name,
                from_domain = from,
                to_domain = to,
                cause = cause.as_str(),
                "the XCP router sent a stanza of the domain {}, which is not among the hosted domains; if it is a domain of yours, add it to `domains` (spec.domains of the resource), else remove it from IM and Presence",
                from.as_deref().unwrap_or("(none)")
            );
        }
    }
}
