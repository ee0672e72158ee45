//! The end of an outbound stream: what the peer has read, and who is told of the rest.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use xmpp_federation_xml::STREAM_END;

use super::Stream;
use super::pairs::PairState;
use crate::bounce::Cause;
use crate::observe::failures::Attempt;
use crate::outbound::connect::OpenStream;
use crate::stream::transport::{Delivery, Progress};
use crate::stream::{CLOSE_TIME, Closing, Failure};
use crate::words::Stage;

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

impl Stream<'_> {
    /// Closes our side, and tells the peer why; it gets time to read and to close its own.
    pub(super) fn close(&mut self, because: Option<Failure>) {
        if !self.opened.wire.is_open() {
            return;
        }
        let hold = self.shared().live().config.limits.dialback_timeout.0;
        let wire = &mut self.opened.wire;
        wire.close(because.as_ref(), String::new, hold.max(CLOSE_TIME));
        // From now on it counts what the peer takes.
        self.log.progress(Instant::now(), &wire.transport);
        self.reason = because;
        self.unhost();
        self.opened.guard.update(|detail| detail.phase = "closing");
    }

    /// A peer that still reads gets more time: what the next stream carries must not come before what it
    /// has not read.
    pub(super) fn close_later(&mut self, mut closing: Closing) -> Result<(), Failure> {
        let (now, transport) = (Instant::now(), &self.opened.wire.transport);
        let taken = self.log.progress(now, transport);
        let reads = !transport.is_acknowledged() && now < taken + CLOSE_TIME;
        if now >= closing.end() || !(reads || self.reads_on) {
            return Err(Failure::Timeout("closing the stream"));
        }
        closing.extend(if reads { Duration::from_secs(1) } else { CLOSE_TIME });
        self.opened.wire.closing = Some(closing);
        self.reads_on = reads;
        Ok(())
    }

    /// The peer has closed its side and may still read, down to our own end: waits until its system has
    /// taken everything, or nothing for a while.
    pub(super) async fn write_out(&mut self) -> io::Result<()> {
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
    pub(super) async fn is_read(&mut self) -> bool {
        if self.log.is_settled() {
            return true;
        }
        let ours = !self.opened.wire.is_open();
        let broken = self.write_out().await.is_err();
        let transport = &mut self.opened.wire.transport;
        self.log.forget(Instant::now(), transport);
        if broken || !self.log.is_taken(transport) {
            return false;
        }
        self.finished = true;
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
    pub(super) fn end(mut self, failure: Failure, read: bool) -> End {
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
        if !self.used && self.refused.is_none() && self.opened.wire.is_open() {
            let attempt = Attempt::outbound(failure.stage(stage), Some(address), reason.clone());
            self.shared().attempt_failed(remote, attempt.of(local));
        }
        let OpenStream { wire, guard, .. } = self.opened;
        let finished = self.finished;
        let goodbye = async move {
            if cut {
                wire.transport.reset();
            } else if finished {
                drop(wire);
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
    pub(super) fn report_unkept(&self, stanzas: usize) {
        if stanzas == 0 {
            return;
        }
        self.shared().metrics.stanzas_unaccounted(stanzas);
        if self.may_log("stanzas unaccounted for") {
            tracing::warn!(
                remote = %self.route.remote, address = %self.opened.address, stanzas,
                "the stream was lost, and its peer may not have read stanzas that its system had taken, at most this many; they were too many to be kept, so their senders are not told"
            );
        }
    }
}
