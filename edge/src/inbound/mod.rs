//! Streams that peers open: the receiving and the authoritative server.
//!
//! [`run`] accepts connections, [`table`] bounds them, [`proxy`] finds out whose a relayed one is,
//! [`negotiate`] brings one to the point where authentication may begin, [`session`] serves it to
//! its end; [`external`] and [`dialback`] authenticate on it.

mod dialback;
mod external;
mod negotiate;
mod proofs;
pub mod proxy;
mod rate;
mod session;
mod table;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clusters::Clusters;
use crate::config::Live;
use crate::observe::log_rate::Party;
use crate::observe::metrics::Bound;
use crate::outbound::Outbound;
use crate::outbound::verify::Verifier;
use crate::shared::Shared;
use crate::stream::pace::{LowTurns, Pace};
use crate::words::{Direction, Service};
use proxy::{Header, HeaderError, Origin};
use table::{Admission, ConnectionBounds, Networks, Place, Table, WaitingTurn};

/// How often a waiting connection looks whether its address is known as a partner's by now.
const LOOK: Duration = Duration::from_millis(200);
/// How often it is said that connections cannot be accepted.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Inbound streams and their bounds.
#[derive(Debug)]
pub(crate) struct Inbound {
    shared: Arc<Shared>,
    /// Where stanzas go on.
    clusters: Arc<Clusters>,
    /// Where errors for remote senders go.
    outbound: Arc<Outbound>,
    verifier: Arc<Verifier>,
    tasks: TaskTracker,
    connections: Arc<Table>,
    rates: rate::Rates,
    proofs: proofs::Proofs,
    /// Turns of connections on which nothing is proven.
    pace: Arc<Pace>,
    /// Turns of strangers' streams on which something is.
    low_turns: Arc<LowTurns>,
    /// Cancelled when the edge stops: streams are closed with `system-shutdown`.
    close: CancellationToken,
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Inbound {
    /// No stream yet.
    pub(crate) fn new(
        shared: Arc<Shared>,
        clusters: Arc<Clusters>,
        outbound: Arc<Outbound>,
        verifier: Arc<Verifier>,
    ) -> Self {
        Self {
            shared,
            clusters,
            outbound,
            verifier,
            tasks: TaskTracker::new(),
            connections: Arc::default(),
            rates: rate::Rates::default(),
            proofs: proofs::Proofs::default(),
            pace: Arc::default(),
            low_turns: Arc::new(LowTurns::new(cores())),
            close: CancellationToken::new(),
        }
    }

    /// Gives turns to strangers' connections; never ends.
    pub(crate) async fn give_turns(&self) {
        let per_second = || cores() * table::turns_per_second(&self.shared.live().config.limits);
        tokio::join!(self.pace.run(per_second), self.low_turns.run());
    }

    /// Closes all streams in an orderly way; returns when what they brought is delivered.
    pub async fn close(&self) {
        self.close.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The bounds for a connection from this address.
fn bounds(inbound: &Inbound, live: &Live, peer: SocketAddr) -> ConnectionBounds {
    let partner = inbound.shared.is_partners_address(live, peer.ip());
    ConnectionBounds::new(&live.config.limits, live.budget.connections, partner)
}

/// A connection is closed before any stream: counted, and shown in traces.
fn refuse(inbound: &Inbound, peer: SocketAddr, bound: Bound) {
    inbound.shared.metrics.connection_refused(bound);
    let reason = bound.as_str();
    let tracers = &inbound.shared.registry.tracers;
    tracers.about_address(peer, || format!("connection refused: {reason}"));
    if inbound
        .shared
        .may_log("connection refused", Party::Caller(peer.ip(), None))
    {
        tracing::warn!(%peer, reason, "connection refused");
    }
}

/// Others gave way for a connection of this peer.
fn count_gone(inbound: &Inbound, gave_way: &[Bound]) {
    for bound in gave_way {
        inbound.shared.metrics.unproven_ended(*bound);
    }
}

/// Accepts until `stop`.
pub(crate) async fn run(inbound: Arc<Inbound>, listener: TcpListener, service: Service, stop: CancellationToken) {
    let mut told: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => accept(&inbound, tcp, peer, service),
            Err(error) => {
                // Out of descriptors as a rule: give others time to close.
                if told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
                    tracing::warn!(%error, "a connection could not be accepted; the edge tries again; if too many files are open, raise the limit of file descriptors");
                    told = Some(Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// A refused connection is closed without an answer, which would cost what the bound is to save.
fn accept(inbound: &Arc<Inbound>, mut tcp: TcpStream, peer: SocketAddr, service: Service) {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let live = inbound.shared.live();
    let limits = &live.config.limits;
    let trusted = &live.config.proxy_protocol.trusted_sources;
    let relayed = trusted.iter().any(|network| network.contains(peer.ip()));
    let own = bounds(inbound, &live, peer);
    if inbound.tasks.len() >= live.budget.connections.saturating_add(own.room()) {
        refuse(inbound, peer, Bound::Total);
        return;
    }
    // A balancer's own address has no share: its clients have.
    let begun = if relayed {
        let admitted = inbound.connections.admit(Networks::default(), &own);
        admitted.map(|admitted| Entrance::Relayed(placed(inbound, admitted)))
    } else {
        enter(inbound, peer, &own, limits.negotiation_timeout.0)
    };
    let begun = match begun {
        Ok(begun) => begun,
        Err(reason) => return refuse(inbound, peer, reason),
    };
    if let Err(error) = crate::resolve::connect::tune(&tcp) {
        tracing::debug!(%peer, %error, "the connection is gone already");
        return;
    }
    let time = limits.negotiation_timeout.0;
    let inbound = inbound.clone();
    inbound.tasks.clone().spawn(async move {
        // Boxed: what most connections never need must not make all of them bigger.
        let mut deadline = Instant::now() + time;
        let counted = match begun {
            Entrance::Placed(place) => Some((peer, place)),
            Entrance::Waits(turn) => Box::pin(wait(&inbound, peer, turn, &mut deadline)).await,
            Entrance::Relayed(place) => Box::pin(behind_balancer(&inbound, &mut tcp, peer, place, &mut deadline)).await,
        };
        let Some((peer, place)) = counted else {
            return;
        };
        let guard = inbound.shared.registry.open(Direction::Inbound, peer);
        session::serve(inbound.clone(), tcp, guard, place, service, deadline).await;
    });
}

/// How a connection begins.
enum Entrance {
    /// It is served.
    Placed(Place),
    /// It is one of too many that came at once.
    Waits(WaitingTurn),
    /// It has a place, and a PROXY header says whose it is.
    Relayed(Place),
}

/// A place, or a turn to wait for, for a connection from this address.
fn enter(inbound: &Inbound, peer: SocketAddr, bounds: &ConnectionBounds, longest: Duration) -> Result<Entrance, Bound> {
    let (table, networks) = (&inbound.connections, Networks::of(peer.ip()));
    match table.turn(networks, bounds, longest, Instant::now())? {
        Some(turn) => Ok(Entrance::Waits(turn)),
        None => table
            .admit(networks, bounds)
            .map(|admitted| Entrance::Placed(placed(inbound, admitted))),
    }
}

fn placed(inbound: &Inbound, admitted: Admission) -> Place {
    count_gone(inbound, &admitted.gave_way);
    admitted.place
}

/// Waits until it is the connection's turn, or until its address turns out to be a partner's. Its
/// negotiation has as much time as if it had come only then.
async fn wait(
    inbound: &Inbound,
    peer: SocketAddr,
    turn: WaitingTurn,
    deadline: &mut Instant,
) -> Option<(SocketAddr, Place)> {
    let began = Instant::now();
    loop {
        let now = Instant::now();
        let live = inbound.shared.live();
        let bounds = bounds(inbound, &live, peer);
        if now >= turn.due || bounds.is_partners() {
            drop(turn);
            *deadline += began.elapsed();
            let networks = Networks::of(peer.ip());
            return match inbound.connections.admit(networks, &bounds) {
                Ok(admitted) => Some((peer, placed(inbound, admitted))),
                Err(reason) => {
                    refuse(inbound, peer, reason);
                    None
                }
            };
        }
        drop(live);
        tokio::select! {
            () = sleep_until(turn.due.min(now + LOOK)) => {}
            () = inbound.close.cancelled() => return None,
        }
    }
}

/// Whose connection a trusted balancer relays, counted; `None` if it is of no use.
async fn behind_balancer(
    inbound: &Inbound,
    tcp: &mut TcpStream,
    balancer: SocketAddr,
    place: Place,
    deadline: &mut Instant,
) -> Option<(SocketAddr, Place)> {
    let header = tokio::select! {
        header = timeout_at(*deadline, proxy::read_header(tcp)) => {
            header.unwrap_or(Err(HeaderError::Late))
        }
        () = inbound.close.cancelled() => return None,
        () = place.give_way.cancelled() => return None,
    };
    let peer = match header {
        Ok(Header { origin, outcome }) => {
            inbound.shared.metrics.proxy_header(outcome);
            match origin {
                Origin::Client(client) => {
                    inbound
                        .shared
                        .registry
                        .tracers
                        .about_address(client, || format!("relayed by {balancer}, PROXY {outcome}"));
                    client
                }
                Origin::Balancer => balancer,
            }
        }
        Err(reason) => {
            tracing::debug!(%balancer, %reason, "a connection without a usable PROXY header");
            if let Some(outcome) = reason.outcome() {
                inbound.shared.metrics.proxy_header(outcome);
                refuse(inbound, balancer, Bound::ProxyHeader);
            }
            return None;
        }
    };
    tracing::debug!(%balancer, %peer, "a connection that a balancer relays");
    let own = bounds(inbound, &inbound.shared.live(), peer);
    let networks = Networks::of(peer.ip());
    let (table, now) = (&inbound.connections, Instant::now());
    match table.turn(networks, &own, deadline.saturating_duration_since(now), now) {
        Ok(None) => {}
        Ok(Some(turn)) => {
            // It waits without the place, like any other.
            drop(place);
            return wait(inbound, peer, turn, deadline).await;
        }
        Err(reason) => {
            refuse(inbound, peer, reason);
            return None;
        }
    }
    match place.belongs_to(networks, &own) {
        Ok(gave_way) => {
            count_gone(inbound, &gave_way);
            Some((peer, place))
        }
        Err(reason) => {
            refuse(inbound, peer, reason);
            None
        }
    }
}
