//! Component, server under test and peer, ready for any case.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::conn::{Conn, PATIENCE, Tls};
use super::message::message;
use super::peer::{Delivered, Peer, spawn};
use super::place::Place;
use super::pump::{self, Flow, Lane, Plan};
use super::server::{Candidate, Server};
use testkit_base::Error;

/// Domains of each peer that have an address: `l0000` and on for lanes, `f0000` and on to be used once.
pub const LANES: usize = 64;
/// See [`LANES`].
pub const FRESH: usize = 2000;

/// Which way messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the peer to the component.
    Inbound,
    /// From the component to the peer.
    Outbound,
}

/// A server under test between its component and its peer.
#[derive(Debug)]
pub struct Chain {
    /// The server's process.
    pub server: Server,
    place: Place,
    peer: Peer,
    link: Conn,
    fresh: AtomicUsize,
    inbound: Vec<Conn>,
    outbound: Vec<Conn>,
}

impl Chain {
    /// Starts the server and its peer.
    pub fn start(candidate: &Candidate, place: Place, tls: Option<&Tls>, dir: &Path) -> Result<Self, Error> {
        let at = |ip| std::net::SocketAddr::new(ip, 5269);
        let peer = Peer::start(at(place.peer), at(place.server), tls.cloned(), true)?;
        let (server, link) = Server::start(candidate, &place, tls.is_some(), dir)?;
        Ok(Self {
            server,
            place,
            peer,
            link,
            fresh: AtomicUsize::new(0),
            inbound: Vec::new(),
            outbound: Vec::new(),
        })
    }

    /// A domain of the peer that no stream was opened for yet.
    fn fresh(&self) -> Result<String, Error> {
        let n = self.fresh.fetch_add(1, Ordering::Relaxed);
        if n >= FRESH {
            return Err("all domains of the peer are used".into());
        }
        Ok(format!("f{n:04}.{}", self.place.zone))
    }

    fn lane_domain(&self, lane: usize) -> String {
        format!("l{lane:04}.{}", self.place.zone)
    }

    /// Answers pings on the link; to be called between cases that leave it alone.
    pub fn tend(&mut self) -> Result<(), Error> {
        pump::tend(&mut self.link)
    }

    /// Seconds until a stream from a domain that was never heard of is authenticated.
    pub fn set_up_inbound(&self) -> Result<f64, Error> {
        let domain = self.fresh()?;
        let start = Instant::now();
        let conn = self.peer.authenticated(&domain, &self.place.hosted)?;
        let took = start.elapsed().as_secs_f64();
        drop(conn);
        Ok(took)
    }

    /// Seconds until a message to a domain that was never heard of arrives there.
    pub fn set_up_outbound(&mut self) -> Result<f64, Error> {
        let domain = self.fresh()?;
        let start = Instant::now();
        self.link.say(&message(&self.place.hosted, &domain, 0))?;
        let delivered = self.peer.delivered(1, PATIENCE)?;
        let first = delivered.first().ok_or("no stream came")?;
        Ok(first.at.duration_since(start).as_secs_f64())
    }

    /// Sends a message to each of `count` domains at once; the streams that come, and the seconds until the
    /// last one brought its message.
    pub fn fan_out(&mut self, count: usize) -> Result<(Vec<Delivered>, f64), Error> {
        let mut all = String::new();
        for _ in 0..count {
            all.push_str(&message(&self.place.hosted, &self.fresh()?, 0));
        }
        let start = Instant::now();
        self.link.say(&all)?;
        let mut streams = Vec::new();
        while streams.len() < count {
            streams.extend(self.peer.delivered(1, Duration::from_secs(30))?);
        }
        let last = streams.iter().map(|stream| stream.at).max();
        let took = last.unwrap_or(start).duration_since(start).as_secs_f64();
        Ok((streams, took))
    }

    /// Opens streams of one pair until there are `count` or `time` is up; they stay idle while they are kept.
    pub fn idle_streams(&self, count: usize, time: Duration) -> Result<Vec<Conn>, Error> {
        let domain = self.fresh()?;
        let deadline = Instant::now() + time;
        let mut streams = Vec::new();
        while streams.len() < count && Instant::now() < deadline {
            streams.push(self.peer.authenticated(&domain, &self.place.hosted)?);
        }
        Ok(streams)
    }

    /// Opens streams up to TLS and drops them, for `time`; their number and the seconds it took.
    pub fn handshakes(&self, time: Duration) -> Result<(usize, f64), Error> {
        let domain = Arc::new(self.fresh()?);
        let start = Instant::now();
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let (peer, domain) = (self.peer.clone(), domain.clone());
                let hosted = self.place.hosted.clone();
                spawn(move || {
                    let mut done = 0;
                    while start.elapsed() < time {
                        peer.open(&domain, &hosted).map_err(|error| error.to_string())?;
                        done += 1;
                    }
                    Ok::<_, String>(done)
                })
            })
            .collect::<Result<_, _>>()?;
        let mut done = 0;
        for worker in workers {
            done += worker.join().map_err(|_| "a thread panicked")??;
        }
        Ok((done, start.elapsed().as_secs_f64()))
    }

    /// Runs messages through the server on `lanes` connections of the peer.
    pub fn flow(&mut self, direction: Direction, lanes: usize, plan: Plan) -> Result<Flow, Error> {
        match direction {
            Direction::Inbound => self.open_inbound(lanes)?,
            Direction::Outbound => self.open_outbound(lanes)?,
        }
        let hosted = self.place.hosted.clone();
        let mut planned: Vec<Lane> = (0..lanes)
            .map(|lane| {
                let domain = self.lane_domain(lane);
                match direction {
                    Direction::Inbound => Lane::new(lane + 1, &message(&domain, &hosted, lane)),
                    Direction::Outbound => Lane::new(0, &message(&hosted, &domain, lane)),
                }
            })
            .collect();
        let Self {
            server,
            link,
            inbound,
            outbound,
            ..
        } = self;
        let streams = match direction {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
        };
        let mut conns = vec![link];
        conns.extend(streams.iter_mut().take(lanes));
        let used = || server.usage().processor_time();
        pump::run(&mut conns, &mut planned, plan, &used)
    }

    fn open_inbound(&mut self, lanes: usize) -> Result<(), Error> {
        for lane in self.inbound.len()..lanes {
            let stream = self.peer.authenticated(&self.lane_domain(lane), &self.place.hosted)?;
            self.inbound.push(stream);
        }
        Ok(())
    }

    fn open_outbound(&mut self, lanes: usize) -> Result<(), Error> {
        // One by one, so that the streams are in the order of their lanes.
        for lane in self.outbound.len()..lanes {
            let first = message(&self.place.hosted, &self.lane_domain(lane), lane);
            self.link.say(&first)?;
            for delivered in self.peer.delivered(1, PATIENCE)? {
                self.outbound.push(delivered.conn);
            }
        }
        Ok(())
    }
}
