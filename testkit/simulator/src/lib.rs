//! The simulated Unified CM IM and Presence (IM&P) cluster: AXL and Control Center on HTTPS 8443, the XCP router on
//! TCP 7400, the users behind it, and a control port (HTTP 8080) for tests.
//!
//! In tests: [`SimulatedImp::start`] with an [`ImpConfig`] (all defaults: two nodes on loopback, any free ports).
//! As a process: `testkit imp --config FILE [--ca-out FILE]`, one process for the whole cluster. The first file is YAML with
//! the fields of [`ImpConfig`] in kebab-case. The second one, the CA of the nodes, is written before the process says
//! `imp: ready` on its standard output; all ports are open then.
//!
//! # What it is true to
//!
//! Nobody of this project has a real cluster at hand: the simulator keeps to what is published, and where that is
//! silent, it is stricter than the real one may be.
//!
//! | published | simulated as |
//! |---|---|
//! | AXL at `/axl/`, SOAP 1.1, quoted `SOAPAction` with the version, the same version in the namespace; 599 with an HTML page for other versions; 401 and 403 without SOAP; 404 for a stale session cookie; 503 as throttle; faults with `axlError` | so |
//! | Informix SQL, one row per statement, writes on the publisher only | `SQLite` behind a parser for the forms that are needed ([`sql`]), with Informix' error numbers |
//! | accounts are locked after three failures, one account for all interfaces | so, on all nodes together |
//! | rows reach the subscriber by replication; Config Manager then writes the router's configuration; the router reads it when it starts | two settable delays; ids are taken at the start of the new process |
//! | Control Center acts on its own node; restarts are asynchronous; `UpTime` in seconds; reason codes; a request limit | so; a request for another node is a fault; `UpTime` counts from the start of the process and is -1 until it is fully up |
//! | a restart of the router takes all XCP services with it; stop and start leaves them down | so |
//! | XCP router: XEP-0114 handshake with the shared secret; ids that are not in its configuration get no traffic | `host-unknown` on the stream header, `not-authorized` for a wrong secret, `conflict` for an id that is linked already |
//! | a capture of a Jabber XCP 7.7 router: header with realm, features, handshake for whoever has the secret, `xdb` requests to the config manager, announcements with `<default-gateway/>` by the router's configuration, stanzas in `<route/>` | `router-profile: xcp`: so; its module says what is decided beyond the capture |
//! | without a federation component, stanzas to foreign domains bounce | `remote-server-not-found` to the sender, counted |
//!
//! Invented, because nothing is published: the texts of faults and of reason codes; `ReturnCode` 1 for a refused
//! command; code -797 for a write at a subscriber; the 415 for another content type; that a second link of one id is refused; that a router which
//! stops gives back what it had not written yet (the real one may lose it); spreading over components; traffic of one
//! node's users over the other node's component; the shape of the notice. Writes through `executeSQLQuery` are
//! refused here, though Cisco's own log suggests that the real one takes them.

mod auth;
mod axl;
mod calls;
mod cluster;
mod config;
mod control;
mod control_center;
mod database;
mod distort;
mod faults;
mod http;
mod listen;
mod message;
mod refused;
mod router;
mod soap;
pub mod sql;
mod tls;
mod users;

pub use auth::AccountState;
pub use calls::{Call, RecordedRequest, fingerprint};
pub use cluster::Settings;
pub use config::{Account, Federation, ImpConfig, NodeConfig, Profile, Row, Spread, UserConfig};
pub use control::{ClusterState, NodeState, SqlResult};
pub use faults::{FaultForm, FaultOptions, NAMES as FAULT_NAMES};
pub use refused::Refused;
pub use router::{LinkState, Restart, RouterState, Status};
pub use testkit_base::inbox::Received;

use cluster::{Cluster, Node};
use data_encoding::HEXLOWER;
use listen::listen;
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A running cluster. All clones are the same one; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct SimulatedImp {
    cluster: Arc<Cluster>,
    ca_pem: Arc<str>,
    places: Arc<[NodeHandle]>,
    /// The cluster ends when the last one is dropped.
    guard: Option<Arc<DropGuard>>,
}

/// Where a node can be reached.
#[derive(Debug, Clone)]
pub struct NodeHandle {
    /// Name in `processnode`.
    pub name: String,
    /// AXL and Control Center.
    pub https: SocketAddr,
    /// The XCP router.
    pub xcp: SocketAddr,
    /// The lab's control port.
    pub control: SocketAddr,
    /// SHA-256 of the node's certificate (DER), lower-case hex.
    pub certificate_sha256: String,
    /// The certificate that the node shows under the fault `tls-self-signed`, PEM.
    pub self_signed_pem: String,
    /// SHA-256 of it (DER), lower-case hex.
    pub self_signed_sha256: String,
}

impl SimulatedImp {
    /// Opens all ports and starts the cluster.
    pub async fn start(config: ImpConfig) -> Result<Self, testkit_base::Error> {
        let authority = tls::Authority::new()?;
        let mut nodes: Vec<Arc<Node>> = Vec::new();
        let mut sockets = Vec::new();
        let mut places = Vec::new();
        let mut snapshot = None;
        for place in &config.nodes {
            let mut place = place.clone();
            let open = |port| listen(SocketAddr::new(place.address, port), place.netns.clone());
            let (https, xcp, control) = (
                open(place.https_port).await?,
                open(place.xcp_port).await?,
                open(place.control_port).await?,
            );
            place.https_port = https.local_addr()?.port();
            place.xcp_port = xcp.local_addr()?.port();
            place.control_port = control.local_addr()?.port();
            let identity = authority.identity(&place)?;
            places.push(NodeHandle {
                name: place.name.clone(),
                https: https.local_addr()?,
                xcp: xcp.local_addr()?,
                control: control.local_addr()?,
                certificate_sha256: HEXLOWER.encode(&Sha256::digest(&identity.certificate)),
                self_signed_pem: identity.self_signed_pem.clone(),
                self_signed_sha256: HEXLOWER.encode(&Sha256::digest(&identity.self_signed_der)),
            });
            // Subscribers begin as copies, also in what was drawn by lot (pkids).
            let node = Node::new(&config, place, nodes.is_empty(), snapshot.as_ref())?;
            if nodes.is_empty() {
                snapshot = Some(node.database.snapshot()?);
            }
            nodes.push(Arc::new(node));
            sockets.push((https, xcp, control, identity));
        }
        let cluster = Arc::new(Cluster::new(&config, nodes)?);
        let mut imp = Self {
            ca_pem: authority.pem().into(),
            places: places.into(),
            guard: None,
            cluster: cluster.clone(),
        };
        for (node, (https, xcp, control, identity)) in cluster.nodes.iter().zip(sockets) {
            tokio::spawn(http::serve(cluster.clone(), node.clone(), https, identity));
            cluster.run_router(node, xcp);
            let routes = control::routes(imp.clone());
            let ended = cluster.ended.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = ended.cancelled() => {}
                    outcome = axum::serve(control, routes).into_future() => {
                        tracing::warn!(?outcome, "control port");
                    }
                }
            });
        }
        // The tasks' own clones do not keep the cluster alive.
        imp.guard = Some(Arc::new(CancellationToken::drop_guard(cluster.ended.clone())));
        Ok(imp)
    }

    /// The CA of the nodes' certificates, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Where the nodes are, publisher first.
    pub fn nodes(&self) -> &[NodeHandle] {
        &self.places
    }
}

/// Arguments of `testkit imp`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// YAML file with the fields of `ImpConfig`.
    #[arg(long)]
    config: PathBuf,
    /// Where to write the CA certificate of the nodes (PEM).
    #[arg(long)]
    ca_out: Option<PathBuf>,
}

/// Runs `testkit imp`: until the process is ended.
pub async fn run(args: Args) -> Result<(), testkit_base::Error> {
    let path = args.config;
    let text = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let config = serde_yaml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let imp = SimulatedImp::start(config).await?;
    if let Some(path) = args.ca_out {
        std::fs::write(&path, imp.ca_pem()).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    for node in imp.nodes() {
        println!(
            "imp: {} https={} xcp={} control={} sha256={}",
            node.name, node.https, node.xcp, node.control, node.certificate_sha256
        );
    }
    println!("imp: ready");
    testkit_base::stop_asked().await;
    Ok(())
}

#[cfg(test)]
mod tests;
