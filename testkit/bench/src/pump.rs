//! The data phase: one thread, one epoll, thousands of messages in flight.
//!
//! Each lane may have a fixed number of messages under way; an arriving one allows the next. What may be
//! written to one connection in one turn is written together, unless the case asks for one write each. Nothing
//! is parsed: the ends of bodies are searched for, and the digits in front of them name the lane.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use memchr::memmem::Finder;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::conn::Conn;
use super::message::{LANE_DIGITS, SIZE};
use testkit_base::Error;

/// Bytes read at once.
const READ: usize = 256 * 1024;
/// Copies of a message that can be written without a second piece.
const COPIES: usize = 128;
/// Without any message for so long, those under way are lost.
const LOST: Duration = Duration::from_secs(8);

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// What there is to write in one turn, together.
    Together,
    /// Together, but with a TLS record for each message.
    RecordEach,
    /// A write for each message, as servers do that flush after each stanza.
    Each,
}

/// A sender and its recipient.
#[derive(Debug)]
pub struct Lane {
    source: usize,
    block: Vec<u8>,
    credits: usize,
}

impl Lane {
    /// Writes `message` to the connection of that index.
    pub fn new(source: usize, message: &str) -> Self {
        Self {
            source,
            block: message.as_bytes().repeat(COPIES),
            credits: 0,
        }
    }
}

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Messages under way per lane, at most.
    pub window: usize,
    /// How they are written.
    pub writes: Writes,
    /// Time before anything is counted.
    pub warm_up: Duration,
    /// Time that is counted.
    pub measured: Duration,
}

/// What was seen in the measured time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Flow {
    /// Messages that arrived.
    pub messages: u64,
    /// Seconds.
    pub seconds: f64,
    /// Seconds of processor time of the server under test.
    pub server: f64,
    /// The same of the generator.
    pub own: f64,
}

/// Everything that has arrived, behind what was left over; `false` when the peer is gone.
fn read(conn: &mut Conn, scratch: &mut [u8]) -> io::Result<bool> {
    loop {
        match conn.read(scratch) {
            Ok(0) => return Ok(false),
            // With a short read the socket is empty, and the next byte wakes again.
            Ok(read) if read < scratch.len() => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}

/// Finds what matters in the bytes that arrive.
struct Scan {
    body: Finder<'static>,
    iq: Finder<'static>,
    iq_end: Finder<'static>,
}

impl Scan {
    fn new() -> Self {
        Self {
            body: Finder::new(b"</body>"),
            iq: Finder::new(b"<iq "),
            iq_end: Finder::new(b"</iq>"),
        }
    }

    /// Counts messages by lane, collects iq stanzas, and leaves what is incomplete.
    fn run(&self, heard: &mut Vec<u8>, mut lane: impl FnMut(usize), mut iq: impl FnMut(&[u8])) {
        let mut done = 0;
        for end in self.body.find_iter(heard) {
            let digits = heard.get(end.saturating_sub(LANE_DIGITS)..end);
            let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            if let Some(number) = number {
                lane(number);
            }
            done = end + b"</body>".len();
        }
        let mut at = 0;
        while let Some(start) = self.iq.find(heard.get(at..).unwrap_or_default()) {
            let start = at + start;
            let rest = heard.get(start..).unwrap_or_default();
            let Some(end) = self.iq_end.find(rest) else {
                break;
            };
            let end = end + b"</iq>".len();
            iq(rest.get(..end).unwrap_or_default());
            at = start + end;
            done = done.max(at);
        }
        heard.drain(..done);
    }
}

/// Answers what came on a link that is not pumped just now; without waiting.
pub fn tend(link: &mut Conn) -> Result<(), Error> {
    link.tcp.set_nonblocking(true)?;
    let alive = read(link, &mut vec![0; 16 * 1024])?;
    let mut echo = Vec::new();
    Scan::new().run(&mut link.heard, |_| {}, |iq| echo.extend_from_slice(iq));
    link.tcp.set_nonblocking(false)?;
    if !alive {
        return Err("the server closed its link".into());
    }
    link.say(std::str::from_utf8(&echo)?)?;
    Ok(())
}

/// Runs messages through the server under test. `conns`: sources and sinks alike; an iq stanza that arrives is
/// sent back as it is, which is how a router delivers the edge's pings to itself. `server` gives the
/// processor time that the server has used, in seconds.
pub fn run(
    conns: &mut [&mut Conn],
    lanes: &mut [Lane],
    plan: Plan,
    server: &dyn Fn() -> Result<f64, Error>,
) -> Result<Flow, Error> {
    let poll = Poll::new()?;
    for (i, conn) in conns.iter().enumerate() {
        conn.tcp.set_nonblocking(true)?;
        poll.registry().register(
            &mut SourceFd(&conn.tcp.as_raw_fd()),
            Token(i),
            Interest::READABLE | Interest::WRITABLE,
        )?;
    }
    let flow = Pump {
        poll,
        conns,
        lanes,
        plan,
        scan: Scan::new(),
        scratch: vec![0; READ],
        sent: 0,
        arrived: 0,
    }
    .run(server);
    for conn in conns {
        conn.tcp.set_nonblocking(false)?;
    }
    flow
}

struct Pump<'a, 'b> {
    poll: Poll,
    conns: &'a mut [&'b mut Conn],
    lanes: &'a mut [Lane],
    plan: Plan,
    scan: Scan,
    scratch: Vec<u8>,
    sent: u64,
    arrived: u64,
}

impl Pump<'_, '_> {
    fn run(mut self, server: &dyn Fn() -> Result<f64, Error>) -> Result<Flow, Error> {
        let mut events = Events::with_capacity(256);
        for lane in &mut *self.lanes {
            lane.credits = self.plan.window;
        }
        for i in 0..self.conns.len() {
            if let Some(conn) = self.conns.get_mut(i) {
                conn.decrypted();
            }
            self.take(i)?;
        }
        let start = Instant::now();
        let (from, to) = (
            start + self.plan.warm_up,
            start + self.plan.warm_up + self.plan.measured,
        );
        let mut before = None;
        let mut after = None;
        let mut last_arrival = start;
        loop {
            let now = Instant::now();
            if before.is_none() && now >= from {
                before = Some((now, self.arrived, server()?, own()?));
            }
            if after.is_none() && now >= to {
                after = Some((now, self.arrived, server()?, own()?));
            }
            if after.is_some() && self.arrived == self.sent {
                break;
            }
            if now.duration_since(last_arrival) > LOST {
                return Err(self.lost());
            }
            if after.is_none() {
                self.send()?;
            }
            let arrived = self.arrived;
            self.poll.poll(&mut events, Some(Duration::from_millis(50)))?;
            for event in &events {
                let Token(i) = event.token();
                if event.is_writable()
                    && let Some(conn) = self.conns.get_mut(i).filter(|conn| conn.blocked)
                {
                    conn.flush()?;
                }
                if event.is_readable() {
                    let alive = match self.conns.get_mut(i) {
                        Some(conn) => read(conn, &mut self.scratch)?,
                        None => true,
                    };
                    self.take(i)?;
                    if !alive {
                        return Err(format!("the server closed a connection; {}", self.lost()).into());
                    }
                }
            }
            if self.arrived > arrived {
                last_arrival = Instant::now();
            }
        }
        let (Some(before), Some(after)) = (before, after) else {
            return Err("the measured time is empty".into());
        };
        Ok(Flow {
            messages: after.1 - before.1,
            seconds: after.0.duration_since(before.0).as_secs_f64(),
            server: after.2 - before.2,
            own: after.3 - before.3,
        })
    }

    fn lost(&self) -> Error {
        let said = self.conns.iter().find(|conn| !conn.heard.is_empty());
        let said = said.map(|conn| String::from_utf8_lossy(&conn.heard).chars().take(600).collect());
        let said: String = said.unwrap_or_default();
        format!(
            "{} of {} messages did not arrive; the server said: {said}",
            self.sent - self.arrived,
            self.sent
        )
        .into()
    }

    /// Counts what has arrived on one connection.
    fn take(&mut self, i: usize) -> Result<(), Error> {
        let Some(conn) = self.conns.get_mut(i) else {
            return Ok(());
        };
        let mut echo = Vec::new();
        let (lanes, arrived) = (&mut *self.lanes, &mut self.arrived);
        self.scan.run(
            &mut conn.heard,
            |number| {
                if let Some(lane) = lanes.get_mut(number) {
                    lane.credits += 1;
                    *arrived += 1;
                }
            },
            |iq| echo.extend_from_slice(iq),
        );
        if !echo.is_empty() {
            conn.append(&echo)?;
            conn.flush()?;
        }
        Ok(())
    }

    /// Writes what may be under way.
    fn send(&mut self) -> Result<(), Error> {
        for lane in &mut *self.lanes {
            let Some(conn) = self.conns.get_mut(lane.source) else {
                continue;
            };
            while lane.credits > 0 && !conn.blocked {
                let count = match self.plan.writes {
                    Writes::Together => lane.credits.min(COPIES),
                    Writes::RecordEach | Writes::Each => 1,
                };
                let bytes = lane.block.get(..count * SIZE).unwrap_or_default();
                conn.append(bytes)?;
                lane.credits -= count;
                self.sent += count as u64;
                if self.plan.writes == Writes::Each {
                    conn.flush()?;
                }
            }
        }
        if self.plan.writes != Writes::Each {
            for conn in self.conns.iter_mut().filter(|conn| !conn.blocked) {
                conn.flush()?;
            }
        }
        Ok(())
    }
}

/// Processor time of this thread, in seconds.
fn own() -> Result<f64, Error> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: f64 = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(nanoseconds / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::message;

    #[test]
    fn bodies_are_counted_by_lane_and_iqs_given_back_however_they_are_cut() {
        let stream = format!(
            "{}<iq id='1'><ping/></iq>{}{}",
            message("a.lab", "b.lab", 3),
            message("a.lab", "b.lab", 12),
            message("a.lab", "b.lab", 3)
        );
        for size in [1, 7, 100, stream.len()] {
            let (mut heard, mut lanes, mut iqs) = (Vec::new(), Vec::new(), Vec::new());
            for part in stream.as_bytes().chunks(size) {
                heard.extend_from_slice(part);
                Scan::new().run(&mut heard, |lane| lanes.push(lane), |iq| iqs.push(iq.to_vec()));
            }
            assert_eq!(lanes, [3, 12, 3], "{size}");
            assert_eq!(iqs, [b"<iq id='1'><ping/></iq>"], "{size}");
        }
    }
}
