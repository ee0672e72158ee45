//! The admin port: health, metrics and status over HTTP, for the cluster's network. Nothing
//! personal is told here; the control socket tells more.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use xmpp_federation_core::edge_status::EdgeStatus;

use crate::edge::Edge;
use crate::reload::Rejection;

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
        failing_partners.retain(|failure| live.policy.is_partner(&failure.domain));
        EdgeStatus {
            config_hash: live.config_hash.clone(),
            rejected: self.rejection.get(),
            certificate_sha256: live.tls.leaf_sha256.clone(),
            dialback_secrets: live.dialback_fingerprints(),
            draining: self.edge.draining(),
            links: self.edge.registry.links(),
            failing_partners,
            streams: self.edge.registry.counts(),
        }
    }

    /// Serves until the process ends.
    pub async fn serve(self, listener: TcpListener) {
        let routes = Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .route(
                "/status",
                get(async |State(admin): State<Admin>| Json(admin.status())),
            )
            .with_state(self);
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(reason = %error, "the admin port stopped");
        }
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
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (
        [(header::CONTENT_TYPE, kind)],
        admin.edge.metrics.render(&admin.edge.registry),
    )
}

#[cfg(test)]
mod tests;
