//! TCP connections to a resolved domain, raced across its addresses (RFC 8305).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{Candidate, LookupFailures, MOST_FAILURES, Resolution, Service};

/// Bounds of the attempts to reach one domain.
#[derive(Debug, Clone, Copy)]
pub struct AttemptBounds {
    /// TCP connections started at most.
    pub attempts: usize,
    /// Time for all attempts, TLS and stream negotiation included.
    pub total: Duration,
    /// Time for one TCP connection, and for the negotiation on it while others are left.
    pub each: Duration,
    /// Head start of one address over the next (RFC 8305 section 5).
    pub stagger: Duration,
}

impl Default for AttemptBounds {
    fn default() -> Self {
        Self {
            attempts: 8,
            total: Duration::from_secs(30),
            each: Duration::from_secs(10),
            stagger: Duration::from_millis(250),
        }
    }
}

/// A connection, and what is spoken on it.
#[derive(Debug)]
pub struct Connection {
    /// The connection.
    pub tcp: TcpStream,
    /// The peer's address.
    pub address: SocketAddr,
    /// Whether TLS begins at once.
    pub service: Service,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The time for all attempts is over.
    #[error("no connection within {seconds} s in all; {attempts} attempts were made")]
    Late {
        /// The time for all.
        seconds: u64,
        /// Connections that were started.
        attempts: usize,
    },
    /// One group of addresses failed, for these reasons.
    #[error("{}", .0.join("; "))]
    Group(Vec<String>),
    /// One address failed.
    #[error("{0}: {1}")]
    Address(SocketAddr, io::Error),
}

/// The connection attempts of one resolution, at most 8 and 30 s in all.
#[derive(Debug)]
pub struct Attempts {
    resolution: Resolution,
    pub(super) started: usize,
    pub(super) deadline: Instant,
    over: bool,
}

impl Attempts {
    /// Starts with the most preferred group; the clock runs from now.
    pub fn new(resolution: Resolution) -> Self {
        let deadline = Instant::now() + resolution.resolver.bounds.total;
        Self {
            resolution,
            started: 0,
            deadline,
            over: false,
        }
    }

    /// When all attempts together end; TLS and stream negotiation must keep to it too.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Time that the negotiation on one connection may take: all that is left on the last one, less
    /// while there are others that may do better.
    pub fn share(&self) -> Duration {
        let bounds = self.resolution.resolver.bounds;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let more = !self.resolution.queue.is_empty() || !self.resolution.later.is_empty();
        if more && self.started < bounds.attempts {
            left.min(bounds.each)
        } else {
            left
        }
    }

    /// The next connection: addresses of one group are raced 250 ms apart, families taking turns.
    /// Called again when TLS or the stream failed on the previous one. `None` when nothing is
    /// left; an error is one group's failure, and further calls may still succeed.
    pub async fn next(&mut self) -> Option<Result<Connection, ConnectError>> {
        if self.over {
            return None;
        }
        let deadline = self.deadline;
        timeout_at(deadline, self.next_in_time()).await.unwrap_or_else(|_| {
            self.over = true;
            Some(Err(ConnectError::Late {
                seconds: self.resolution.resolver.bounds.total.as_secs(),
                attempts: self.started,
            }))
        })
    }

    async fn next_in_time(&mut self) -> Option<Result<Connection, ConnectError>> {
        let bounds = self.resolution.resolver.bounds;
        let mut failures = Vec::new();
        if self.resolution.queue.is_empty() && self.started < bounds.attempts {
            let group = self.resolution.later.pop_front()?;
            let resolver = self.resolution.resolver.clone();
            let mut found = LookupFailures::default();
            self.resolution.queue = resolver
                .look_up(self.resolution.method, group, &mut self.resolution.hosts, &mut found)
                .await;
            failures = [found.temporary, found.refused, found.not_found].concat();
        }
        if self.started >= bounds.attempts {
            return None;
        }
        match self.race(&mut failures).await {
            Some(connected) => Some(Ok(connected)),
            None if failures.is_empty() => None,
            None => {
                failures.truncate(MOST_FAILURES);
                Some(Err(ConnectError::Group(failures)))
            }
        }
    }

    /// Races the queued addresses; those still under way when one wins go back to the front.
    async fn race(&mut self, failures: &mut Vec<String>) -> Option<Connection> {
        let bounds = self.resolution.resolver.bounds;
        let mut running = FuturesUnordered::new();
        let mut under_way: Vec<Candidate> = Vec::new();
        loop {
            if let Some(candidate) = self.next_candidate() {
                self.started += 1;
                under_way.push(candidate.clone());
                running.push(async move {
                    let result = timeout(bounds.each, open(candidate.address)).await;
                    let result = result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                    (candidate, result)
                });
            } else if running.is_empty() {
                return None;
            }
            let head_start = Instant::now() + bounds.stagger;
            let more = !self.resolution.queue.is_empty() && self.started < bounds.attempts;
            let (candidate, result) = tokio::select! {
                Some(finished) = running.next() => finished,
                () = sleep_until(head_start), if more => continue,
            };
            under_way.retain(|other| *other != candidate);
            match result {
                Ok(tcp) => {
                    under_way
                        .into_iter()
                        .rev()
                        .for_each(|other| self.resolution.queue.push_front(other));
                    return Some(Connection {
                        tcp,
                        address: candidate.address,
                        service: candidate.target.service,
                    });
                }
                Err(error) => failures.push(format!(
                    "no connection to {} ({}): {}",
                    candidate.target,
                    candidate.address,
                    plainly(&error)
                )),
            }
        }
    }

    fn next_candidate(&mut self) -> Option<Candidate> {
        if self.started < self.resolution.resolver.bounds.attempts {
            self.resolution.queue.pop_front()
        } else {
            None
        }
    }
}

/// The system's words without its error numbers.
fn plainly(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "no answer".to_owned(),
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        _ => error.to_string(),
    }
}

/// Opens and tunes a connection.
pub async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    let stream = socket.connect(address).await?;
    tune(&stream)?;
    Ok(stream)
}

/// Sets what every long-lived connection of the edge needs: writes leave at once (they are
/// batched already), and a dead peer is noticed within a minute, idle or not.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(50)))
}
