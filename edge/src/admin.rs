//! The admin port: health, metrics and status over HTTP, for the cluster's network. Nothing
//! personal is told here; the control socket tells more.
//!
//! Connections on which nothing is asked cannot keep probes out: each connection is for
//! one request and a short time, and when there are too many, the oldest gives way to the newest.

pub mod waiting;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use xmpp_federation_core::edge_status::EdgeStatus;
use xmpp_federation_core::{Domain, Release};

use crate::reload::Rejection;
use crate::runtime::Edge;

/// Connections at once.
const MOST: usize = 64;
/// How long a request's header may take.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// How long a connection may last, request and answer.
const CONNECTION_TIME: Duration = Duration::from_secs(15);
/// The format of the metrics.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the answers are made from.
#[derive(Debug, Clone)]
pub struct Admin {
    edge: Arc<Edge>,
    rejection: Arc<Rejection>,
}

impl Admin {
    /// Tells about this edge.
    pub fn new(edge: Arc<Edge>, rejection: Arc<Rejection>) -> Self {
        Self { edge, rejection }
    }

    /// The edge it tells about.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// `/status`.
    pub fn status(&self) -> EdgeStatus {
        let live = self.edge.live();
        let mut failing_partners = self.edge.registry.failing_partners();
        failing_partners
            .retain(|failure| Domain::parse(&failure.domain).is_ok_and(|domain| live.policy.is_partner(&domain)));
        EdgeStatus {
            version: Some(Release::own().to_string()),
            written_by: live.config.written_by.as_ref().map(ToString::to_string),
            ignored_fields: live.ignored.clone(),
            config_hash: live.config_hash.clone(),
            rejected: self.rejection.get(),
            certificate_sha256: live.tls.leaf_sha256.clone(),
            dialback_secrets: live.dialback_fingerprints(),
            draining: self.edge.draining(),
            links: self.edge.registry.links(),
            failing_partners,
            streams: self.edge.registry.counts(),
            suspects: self.edge.suspects(),
            refused: self.edge.metrics.refused(),
            memory: Some(live.budget.status()),
        }
    }

    /// Serves until the process ends.
    pub async fn serve(self, listener: TcpListener) {
        let routes = Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .route("/status", get(async |State(admin): State<Admin>| Json(admin.status())))
            .with_state(self);
        accept(routes, listener).await;
    }
}

/// Answers at that port until the process ends.
async fn accept(routes: Router, mut listener: TcpListener) -> Infallible {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .keep_alive(false);
    let mut open: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        // Goes on after errors, such as too few descriptors.
        let (tcp, _) = Listener::accept(&mut listener).await;
        open.retain(|connection| !connection.is_finished());
        // A request is answered at once, so the oldest connection is most likely one without a request.
        if open.len() >= MOST
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let service = TowerToHyperService::new(routes.clone());
        let connection = http.serve_connection(TokioIo::new(tcp), service);
        open.push_back(tokio::spawn(async move {
            // A client that leaves or is too slow is its own affair.
            let _ = timeout(CONNECTION_TIME, connection).await;
        }));
    }
}

/// Ready means: give me new connections. Links and configuration errors do not count, because
/// another replica would not fare better.
async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    if admin.edge.draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    admin.edge.metrics.set_depths(&admin.edge.depths());
    (
        [(header::CONTENT_TYPE, METRICS)],
        admin.edge.metrics.render(&admin.edge.registry),
    )
}

#[cfg(test)]
mod tests;
