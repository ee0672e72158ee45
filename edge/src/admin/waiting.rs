//! An edge whose configuration needs a later release: alive, not ready, and saying why, until it can read one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::time::sleep;
use xmpp_federation_core::Release;
use xmpp_federation_core::edge_config::{Doors, Head};
use xmpp_federation_core::edge_status::EdgeStatus;

use super::{METRICS, accept};
use crate::config::{Live, LoadError, Loader};
use crate::observe::metrics::Metrics;
use crate::observe::registry::Registry;
use crate::reload::Rejection;

/// How often the configuration is read again.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
struct Waiting {
    rejection: Arc<Rejection>,
    metrics: Arc<Metrics>,
}

/// Where a file opens doors, as far as it can be read.
pub fn doors(path: &Path) -> Doors {
    let head = std::fs::read_to_string(path).map(|text| Head::of(&text).unwrap_or_default());
    head.unwrap_or_default().listen
}

/// Serves health, metrics and status until the configuration can be loaded, and closes the port.
pub async fn until_loaded(loader: &Loader, refused: LoadError, port: TcpListener, metrics: &Arc<Metrics>) -> Live {
    let waiting = Waiting {
        rejection: Arc::default(),
        metrics: metrics.clone(),
    };
    let routes = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(unready))
        .route("/metrics", get(numbers))
        .route("/status", get(status))
        .with_state(waiting.clone());
    tokio::select! {
        never = accept(routes, port) => match never {},
        live = load(loader, refused, &waiting) => live,
    }
}

async fn load(loader: &Loader, mut refused: LoadError, waiting: &Waiting) -> Live {
    waiting.metrics.configuration_refused(true);
    loop {
        if waiting.rejection.refuse(&refused) {
            tracing::error!(
                reason = %refused,
                version = env!("CARGO_PKG_VERSION"),
                "the configuration is refused; the edge is not ready and reads it again every second"
            );
        }
        sleep(LOOK).await;
        match loader.load() {
            Ok(live) => {
                waiting.metrics.configuration_refused(false);
                return live;
            }
            Err(error) => refused = error,
        }
    }
}

async fn unready(State(waiting): State<Waiting>) -> impl IntoResponse {
    let reason = waiting.rejection.get().map(|rejected| rejected.reason + "\n");
    (StatusCode::SERVICE_UNAVAILABLE, reason.unwrap_or_default())
}

async fn numbers(State(waiting): State<Waiting>) -> impl IntoResponse {
    let text = waiting.metrics.render(&Registry::default());
    ([(header::CONTENT_TYPE, METRICS)], text)
}

async fn status(State(waiting): State<Waiting>) -> Json<EdgeStatus> {
    Json(EdgeStatus {
        version: Some(Release::own().to_string()),
        rejected: waiting.rejection.get(),
        ..EdgeStatus::default()
    })
}
