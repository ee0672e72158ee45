//! Streams that peers open: the receiving and the authoritative server.
//!
//! [`run`] accepts and bounds connections, [`negotiate`] brings one to the point where dialback
//! may begin, [`session`] serves it to its end; [`external`] and [`dialback`] authenticate on it.

mod dialback;
mod external;
mod negotiate;
mod per_address;
mod session;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::edge::Edge;
use crate::metrics::Direction;
use per_address::{PerAddress, Use};

/// Inbound streams and their bounds.
#[derive(Debug, Default)]
pub struct Inbound {
    tasks: TaskTracker,
    connections: Arc<PerAddress>,
    /// Keys being verified.
    verifications: Arc<PerAddress>,
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

    fn admit(edge: &Edge, address: IpAddr) -> Result<Use, &'static str> {
        let live = edge.live();
        let limits = &live.config.limits;
        if edge.inbound.tasks.len() >= limits.max_connections {
            return Err("total");
        }
        let admitted = edge
            .inbound
            .connections
            .admit(address, limits.max_connections_per_address);
        admitted.ok_or("per-address")
    }
}

/// Accepts until `stop`.
pub async fn run(edge: Arc<Edge>, listener: TcpListener, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => accept(&edge, tcp, peer),
            Err(error) => {
                // Out of descriptors as a rule: give others time to close.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn accept(edge: &Arc<Edge>, tcp: TcpStream, peer: SocketAddr) {
    let address = peer.ip().to_canonical();
    match Inbound::admit(edge, address) {
        Ok(counted) => {
            if let Err(error) = crate::resolve::connect::tune(&tcp) {
                tracing::debug!(%peer, %error, "the connection is gone already");
                return;
            }
            let edge = edge.clone();
            edge.inbound.tasks.clone().spawn(async move {
                let peer = SocketAddr::new(address, peer.port());
                let guard = edge.registry.open(Direction::Inbound, peer);
                session::serve(edge.clone(), tcp, guard).await;
                drop(counted);
            });
        }
        // Closed without a word: an answer would cost what the bound is to save.
        Err(reason) => edge.metrics.connection_refused(reason),
    }
}
