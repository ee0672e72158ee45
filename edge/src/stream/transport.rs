//! The bytes of one connection: TCP, and TLS over it once it is started.
//!
//! One task owns a transport. Reads go through scratch memory shared by the thread straight into
//! the framer's buffer, so an idle connection holds no buffers of its own.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use rustls::CommonState;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::incomplete::Part;
use super::pace::{LowPriority, PacedTurns};
use super::tls::TlsSession;
use crate::observe::registry::{StreamEntry, TlsInfo};
use crate::observe::trace::stream::StreamTrace;
use crate::tls::PeerCertificates;
use crate::words::Direction;

/// Bytes taken from the socket at once: big enough that a busy stream costs few system calls.
const SCRATCH: usize = 64 * 1024;
/// The same where nothing is proven yet: what comes at once takes little time.
const UNPROVEN_READ: usize = 4 * 1024;
/// Slices given to one vectored write.
const SLICES: usize = 32;

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// What one turn at the socket did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Bytes came in; with TLS they may not add up to content yet.
    Read,
    /// The peer will send no more.
    End,
    /// Everything that was queued has been written.
    Flushed,
}

/// How far what was sent has come.
pub trait Delivery {
    /// Whether something that was queued has not been written yet.
    fn needs_flush(&self) -> bool;

    /// Bytes given to the system so far, TLS's own included.
    fn written(&self) -> u64;

    /// How many of them the peer's system has acknowledged.
    fn acknowledged(&self) -> u64;

    /// Whether the peer's system has acknowledged everything that was queued.
    fn is_acknowledged(&self) -> bool {
        !self.needs_flush() && self.acknowledged() == self.written()
    }
}

/// What the peer's system had acknowledged when it was looked last, and since when.
#[derive(Debug)]
pub struct Progress {
    acknowledged: u64,
    since: Instant,
}

impl Progress {
    /// As it is now.
    pub fn new(transport: &impl Delivery) -> Self {
        Self {
            acknowledged: transport.acknowledged(),
            since: Instant::now(),
        }
    }

    /// Looks again; gives since when nothing more was acknowledged.
    pub fn look(&mut self, transport: &impl Delivery) -> Instant {
        let acknowledged = transport.acknowledged();
        if acknowledged != self.acknowledged {
            *self = Self {
                acknowledged,
                since: Instant::now(),
            };
        }
        self.since
    }

    /// Since when nothing more was acknowledged, when it was looked last.
    pub fn since(&self) -> Instant {
        self.since
    }
}

/// One connection.
#[derive(Debug)]
pub struct Transport {
    tcp: TcpStream,
    tls: Option<Box<TlsSession>>,
    clear: VecDeque<Bytes>,
    received: bool,
    written: u64,
    ended: bool,
    /// What holds for strangers; absent: everything may be received at any time.
    stranger: Option<Box<Stranger>>,
    /// What was read and is not taken yet; absent on links.
    incomplete: Option<Part>,
    /// Absent on links.
    trace: Option<Box<StreamTrace>>,
}

/// A connection that is no configured partner's.
#[derive(Debug)]
enum Stranger {
    /// Nothing is proven on it.
    Unproven(UnprovenState),
    /// Its domain is proven.
    Proven(LowPriority),
}

/// A connection on which nothing is proven.
#[derive(Debug)]
struct UnprovenState {
    /// Bytes that may still be received.
    allowed: u64,
    /// Absent: it need not wait for its turns.
    paced: Option<PacedTurns>,
}

impl Transport {
    /// A connection in clear.
    pub fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            tls: None,
            clear: VecDeque::new(),
            received: false,
            written: 0,
            ended: false,
            stranger: None,
            incomplete: None,
            trace: None,
        }
    }

    /// Counts for this entry of the registry, and tells those who watch it what is said.
    #[must_use]
    pub fn of(mut self, entry: &Arc<StreamEntry>) -> Self {
        self.trace = Some(Box::new(StreamTrace::new(entry.clone())));
        self
    }

    /// What was read and is not taken yet counts among all that peers have begun.
    #[must_use]
    pub fn counted(mut self, part: Part) -> Self {
        self.incomplete = Some(part);
        self
    }

    /// Ends with an error when more than this is received before [`Self::proven`]; until then it
    /// shares its turns with others, if it is paced.
    #[must_use]
    pub fn unproven(mut self, allowed: u64, paced: Option<PacedTurns>) -> Self {
        let unproven = Stranger::Unproven(UnprovenState { allowed, paced });
        self.stranger = Some(Box::new(unproven));
        self
    }

    /// From now on any number of bytes may be received; at any time, unless it was paced and `low` is
    /// given: then in turns of that kind. `None`: it is with a configured partner.
    pub fn proven(&mut self, low: Option<LowPriority>) {
        if let (None, Some(part)) = (&low, &mut self.incomplete) {
            part.of_partner();
        }
        let paced = |stranger: &Stranger| match stranger {
            Stranger::Unproven(unproven) => unproven.paced.is_some(),
            Stranger::Proven(_) => true,
        };
        let low = low.filter(|_| self.stranger.as_deref().is_some_and(paced));
        self.stranger = low.map(|low| Box::new(Stranger::Proven(low)));
    }

    /// What was received took as much work as this many turns, beyond its own.
    pub fn charge(&self, turns: usize) {
        if let Some(Stranger::Unproven(UnprovenState { paced: Some(paced), .. })) = self.stranger.as_deref() {
            paced.charge(turns);
        }
    }

    /// What was read before is worked off.
    fn end_turn(&mut self) {
        if let Some(Stranger::Proven(low)) = self.stranger.as_deref_mut() {
            low.end_turn();
        }
    }

    /// Where to tell what happens on the connection; `None` on links.
    pub fn trace(&mut self) -> Option<&mut StreamTrace> {
        self.trace.as_deref_mut()
    }

    /// The connection's place in the registry; `None` on links.
    pub fn entry(&self) -> Option<&Arc<StreamEntry>> {
        self.trace.as_deref().map(StreamTrace::entry)
    }

    /// Whether TLS was started.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The TLS session, for its parameters.
    pub fn tls(&self) -> Option<&CommonState> {
        self.tls.as_deref().map(TlsSession::state)
    }

    /// What the peer showed, if TLS was started.
    pub fn shown(&self) -> Option<PeerCertificates<'_>> {
        self.tls.as_deref().map(TlsSession::shown)
    }

    /// Whether the peer ever sent anything.
    pub fn has_received(&self) -> bool {
        self.received
    }

    /// Queues bytes for writing. Callers flush before they queue much more.
    pub fn queue(&mut self, bytes: Bytes) {
        if let Some(trace) = &mut self.trace {
            trace.sent(&bytes);
        }
        match &mut self.tls {
            Some(tls) => tls.send(&bytes),
            None if bytes.is_empty() => {}
            None => self.clear.push_back(bytes),
        }
    }

    /// One turn: writes what is queued and, if `read`, reads once, appending content to `into`.
    /// Never completes when there is nothing to do. May be dropped and called again.
    pub async fn turn(&mut self, read: bool, into: &mut BytesMut) -> io::Result<Turn> {
        self.count(into.len(), read)?;
        std::future::poll_fn(|cx| {
            self.end_turn();
            if self.needs_flush()
                && let Poll::Ready(done) = self.poll_flush(cx)
            {
                return Poll::Ready(done.map(|()| Turn::Flushed));
            }
            match (read, self.ended) {
                (true, true) => Poll::Ready(Ok(Turn::End)),
                (true, false) => self.poll_read(cx, into),
                (false, _) => Poll::Pending,
            }
        })
        .await
    }

    /// What was read and is not taken: an error if there is no room for it. Where the peer is not
    /// read, it waits for its turn, which is not its fault.
    #[inline]
    fn count(&mut self, content: usize, read: bool) -> io::Result<()> {
        let Some(part) = &mut self.incomplete else {
            return Ok(());
        };
        let records = self.tls.as_deref().map_or(0, TlsSession::kept);
        part.set(content + records)
            .or_else(|full| if read { Err(full) } else { Ok(()) })
    }

    /// Reads once although nothing can be written any more; otherwise as [`Self::turn`].
    pub async fn read_on(&mut self, into: &mut BytesMut) -> io::Result<Turn> {
        if self.ended {
            return Ok(Turn::End);
        }
        std::future::poll_fn(|cx| self.poll_read(cx, into)).await
    }

    /// Writes everything that is queued.
    pub async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end_turn();
        while !self.clear.is_empty() {
            let mut slices = [io::IoSlice::new(&[]); SLICES];
            let mut used = 0;
            for (slice, bytes) in slices.iter_mut().zip(&self.clear) {
                *slice = io::IoSlice::new(bytes);
                used += 1;
            }
            let slices = slices.get(..used).unwrap_or_default();
            let mut written = ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, slices))?;
            self.written += written as u64;
            if let Some(trace) = &self.trace {
                trace.moved(Direction::Outbound, written);
            }
            while let Some(first) = self.clear.front_mut() {
                if written < first.len() {
                    first.advance(written);
                    break;
                }
                written -= first.len();
                self.clear.pop_front();
            }
        }
        let Some(tls) = &mut self.tls else {
            return Poll::Ready(Ok(()));
        };
        while !tls.outgoing().is_empty() {
            let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, tls.outgoing()))?;
            tls.written(written);
            self.written += written as u64;
            if let Some(trace) = &self.trace {
                trace.moved(Direction::Outbound, written);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<Turn>> {
        let most = match self.stranger.as_deref_mut() {
            None => SCRATCH,
            Some(Stranger::Proven(low)) => {
                ready!(self.tcp.poll_read_ready(cx))?;
                ready!(low.poll_turn(cx))
            }
            Some(Stranger::Unproven(unproven)) => {
                if let Some(paced) = &mut unproven.paced {
                    ready!(self.tcp.poll_read_ready(cx))?;
                    ready!(paced.poll_turn(cx));
                }
                UNPROVEN_READ
            }
        };
        READ.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch.get_mut(..most).unwrap_or_default());
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut buffer))?;
            let received = buffer.filled().len();
            if let Some(trace) = &mut self.trace {
                if received == 0 {
                    trace.event(|| "the peer ended the connection".to_owned());
                } else {
                    trace.moved(Direction::Inbound, received);
                }
            }
            if received == 0 {
                self.ended = true;
                return Poll::Ready(Ok(Turn::End));
            }
            self.received = true;
            if let Some(Stranger::Unproven(unproven)) = self.stranger.as_deref_mut() {
                unproven.received(received)?;
            }
            let filled = scratch.get_mut(..received).unwrap_or_default();
            let Some(tls) = &mut self.tls else {
                into.extend_from_slice(filled);
                return Poll::Ready(Ok(Turn::Read));
            };
            let before = into.len();
            if let Err(error) = tls.receive(filled, into) {
                // Best effort: the alert that tells the peer why.
                if !tls.outgoing().is_empty() {
                    let _ = Pin::new(&mut self.tcp).poll_write(cx, tls.outgoing());
                }
                return Poll::Ready(Err(match error {
                    // A sentence of ours.
                    rustls::Error::General(reason) => io::Error::new(io::ErrorKind::InvalidData, reason),
                    other => io::Error::new(io::ErrorKind::InvalidData, other),
                }));
            }
            self.ended = tls.ended();
            let nothing = into.len() == before;
            Poll::Ready(Ok(if self.ended && nothing { Turn::End } else { Turn::Read }))
        })
    }

    /// Starts TLS and completes the handshake; content that came right behind it goes to `into`.
    pub async fn start_tls(&mut self, mut tls: TlsSession, into: &mut BytesMut) -> io::Result<()> {
        self.flush().await?;
        if self.received {
            tls.follow_clear_text();
        }
        tls.start().map_err(io::Error::other)?;
        self.tls = Some(Box::new(tls));
        let done = self.handshake(into).await;
        if let (Ok(()), Some(entry), Some(tls)) = (&done, self.entry(), self.tls()) {
            entry.update(|detail| detail.tls = Some(TlsInfo::of(tls)));
        }
        let tls = self.tls.as_deref();
        if let Some(trace) = &mut self.trace {
            trace.event(|| match &done {
                Ok(()) => tls.map(TlsSession::described).unwrap_or_default(),
                Err(error) => format!("the TLS handshake failed: {error}"),
            });
        }
        done
    }

    async fn handshake(&mut self, into: &mut BytesMut) -> io::Result<()> {
        while self.needs_flush() || self.tls().is_some_and(CommonState::is_handshaking) {
            if self.turn(true, into).await? == Turn::End {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Waits until the peer has closed the connection; an error if its system says that it did not read
    /// everything. TLS's own end says nothing about that.
    pub async fn closed(&mut self) -> io::Result<()> {
        let mut dropped = [0; 1024];
        while self.tcp.read(&mut dropped).await? > 0 {}
        Ok(())
    }

    /// Ends the connection at once: what the peer's system has not acknowledged is lost.
    pub fn reset(self) {
        // Without it the system would go on sending; there is nobody to tell of a failure.
        let _ = self.tcp.set_zero_linger();
    }

    /// Ends the writing direction: what is queued, TLS's own end, then TCP's.
    pub async fn finish_writing(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_end();
        }
        self.flush().await?;
        self.tcp.shutdown().await
    }
}

impl Delivery for Transport {
    fn needs_flush(&self) -> bool {
        !self.clear.is_empty() || self.tls.as_ref().is_some_and(|tls| !tls.outgoing().is_empty())
    }

    fn written(&self) -> u64 {
        self.written
    }

    fn acknowledged(&self) -> u64 {
        self.written.saturating_sub(unacknowledged(&self.tcp))
    }
}

impl UnprovenState {
    fn received(&mut self, bytes: usize) -> io::Result<()> {
        let left = self.allowed.checked_sub(bytes as u64);
        self.allowed = left.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "the peer sent too many bytes before a pair of domains was authenticated",
            )
        })?;
        if let Some(paced) = &self.paced {
            paced.charge(bytes / 1024);
        }
        Ok(())
    }
}

/// The length of the socket's send queue; 0 if the system does not say.
#[allow(unsafe_code, reason = "no safe wrapper of this request is known")]
fn unacknowledged(tcp: &TcpStream) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as `tcp` is borrowed, and TIOCOUTQ (SIOCOUTQ, see
    // tcp(7)) writes one int, for which `bytes` has room.
    let done = unsafe { libc::ioctl(tcp.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done == 0 {
        u64::try_from(bytes).unwrap_or(0)
    } else {
        0
    }
}
