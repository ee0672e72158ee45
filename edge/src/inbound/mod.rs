//! Streams that peers open: the receiving and the authoritative server.
//!
//! [`run`] accepts and bounds connections, [`proxy`] finds out whose a relayed one is,
//! [`negotiate`] brings one to the point where authentication may begin, [`session`] serves it to
//! its end; [`external`] and [`dialback`] authenticate on it.

mod dialback;
mod external;
mod negotiate;
mod per_address;
pub mod proxy;
mod rate;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::edge::Edge;
use crate::metrics::Direction;
use crate::stream::direct_tls::Service;
pub(crate) use per_address::network_of;
use per_address::{PerAddress, Use};
use proxy::{Header, HeaderError, Origin};

/// How often it is said that connections cannot be accepted.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Inbound streams and their bounds.
#[derive(Debug, Default)]
pub struct Inbound {
    tasks: TaskTracker,
    connections: Arc<PerAddress>,
    /// Keys being verified.
    verifications: Arc<PerAddress>,
    rates: rate::Rates,
    /// Cancelled when the edge stops: streams are closed with `system-shutdown`.
    close: CancellationToken,
}

impl Inbound {
    /// Closes all streams in an orderly way; returns when what they brought is delivered.
    pub async fn close(&self) {
        self.close.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Counts a connection of this address; `None`, and counted as refused, if it has enough.
    fn admit(edge: &Edge, peer: SocketAddr) -> Option<Use> {
        let most = edge.live().config.limits.max_connections_per_address;
        let admitted = edge.inbound.connections.admit(peer.ip(), most);
        if admitted.is_none() {
            refuse(edge, peer, "per-address");
        }
        admitted
    }
}

/// A connection is closed before any stream: counted, and told to whoever traces it.
fn refuse(edge: &Edge, peer: SocketAddr, reason: &'static str) {
    edge.metrics.connection_refused(reason);
    let tracers = &edge.registry.tracers;
    tracers.about_address(peer, || format!("connection refused: {reason}"));
}

/// Accepts until `stop`.
pub async fn run(
    edge: Arc<Edge>,
    listener: TcpListener,
    service: Service,
    stop: CancellationToken,
) {
    let mut told: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => accept(&edge, tcp, peer, service),
            Err(error) => {
                // Out of descriptors as a rule: give others time to close.
                if told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
                    tracing::warn!(%error, "a connection could not be accepted; trying on");
                    told = Some(Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Whoever is refused is closed without a word: an answer would cost what the bound is to save.
fn accept(edge: &Arc<Edge>, mut tcp: TcpStream, peer: SocketAddr, service: Service) {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let live = edge.live();
    let limits = &live.config.limits;
    if edge.inbound.tasks.len() >= live.budget.connections {
        refuse(edge, peer, "total");
        return;
    }
    let trusted = &live.config.proxy_protocol.trusted_sources;
    let relayed = trusted.iter().any(|network| network.contains(peer.ip()));
    // A balancer's own address has no share: its clients have.
    let counted = if relayed {
        None
    } else if let Some(counted) = Inbound::admit(edge, peer) {
        Some((peer, counted))
    } else {
        return;
    };
    if let Err(error) = crate::resolve::connect::tune(&tcp) {
        tracing::debug!(%peer, %error, "the connection is gone already");
        return;
    }
    let deadline = Instant::now() + limits.negotiation_timeout.0;
    let edge = edge.clone();
    edge.inbound.tasks.clone().spawn(async move {
        let counted = match counted {
            Some(counted) => Some(counted),
            // Boxed: what most connections never need must not make all of them bigger.
            None => Box::pin(behind_balancer(&edge, &mut tcp, peer, deadline)).await,
        };
        let Some((peer, counted)) = counted else {
            return;
        };
        let guard = edge.registry.open(Direction::Inbound, peer);
        session::serve(edge.clone(), tcp, guard, service, deadline).await;
        drop(counted);
    });
}

/// Whose connection a trusted balancer relays, counted; `None` if it is of no use.
async fn behind_balancer(
    edge: &Edge,
    tcp: &mut TcpStream,
    balancer: SocketAddr,
    deadline: Instant,
) -> Option<(SocketAddr, Use)> {
    let header = tokio::select! {
        header = timeout_at(deadline, proxy::read_header(tcp)) => {
            header.unwrap_or(Err(HeaderError::Late))
        }
        () = edge.inbound.close.cancelled() => return None,
    };
    let peer = match header {
        Ok(Header { origin, outcome }) => {
            edge.metrics.proxy_header(outcome);
            match origin {
                Origin::Client(client) => {
                    edge.registry.tracers.about_address(client, || {
                        format!("relayed by {balancer}, PROXY {outcome}")
                    });
                    client
                }
                Origin::Balancer => balancer,
            }
        }
        Err(reason) => {
            tracing::debug!(%balancer, %reason, "a connection without a usable PROXY header");
            if let Some(outcome) = reason.outcome() {
                edge.metrics.proxy_header(outcome);
                refuse(edge, balancer, "proxy-header");
            }
            return None;
        }
    };
    tracing::debug!(%balancer, %peer, "a connection that a balancer relays");
    Inbound::admit(edge, peer).map(|counted| (peer, counted))
}
