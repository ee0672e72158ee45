//! `/livez`, `/readyz` and `/metrics` on a port of their own.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;

/// Whether this operator can do its work or take over at any moment, what it waits for, and for whom it stands by.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    waits_for: Option<String>,
    standby: Option<String>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            waits_for: Some("the Kubernetes API has not answered yet".to_owned()),
            standby: None,
        }
    }
}

impl Readiness {
    /// The operator can do its work, or take over at any moment.
    pub fn set_ready(&self) {
        self.0.lock().waits_for = None;
    }

    /// It cannot yet, for that reason.
    pub fn wait_for(&self, sentence: String) {
        self.0.lock().waits_for = Some(sentence);
    }

    /// Says who leads instead; a standby is ready.
    pub fn set_standby(&self, sentence: Option<String>) {
        self.0.lock().standby = sentence;
    }
}

#[derive(Clone)]
struct Shared {
    readiness: Readiness,
    metrics: Metrics,
}

/// Serves until `stop` is cancelled. Fails if the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    readiness: Readiness,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), std::io::Error> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    serve_on(listener, readiness, metrics, stop).await
}

async fn serve_on(
    listener: tokio::net::TcpListener,
    readiness: Readiness,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), std::io::Error> {
    let app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(exposition))
        .with_state(Shared { readiness, metrics });
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn readyz(extract::State(shared): extract::State<Shared>) -> impl IntoResponse {
    let State { waits_for, standby } = &*shared.readiness.0.lock();
    if let Some(sentence) = waits_for {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{sentence}\n"));
    }
    let text = standby.as_ref().map(|sentence| format!("ok; {sentence}\n"));
    (StatusCode::OK, text.unwrap_or_else(|| "ok\n".to_owned()))
}

async fn exposition(extract::State(shared): extract::State<Shared>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match shared.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the metrics could not be written: {error}\n"),
        )
            .into_response(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn readiness_follows_the_caches_and_liveness_does_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (readiness, stop) = (Readiness::default(), CancellationToken::new());
        let server = tokio::spawn(serve_on(listener, readiness.clone(), Metrics::new(), stop.clone()));
        let get = |path: &str| reqwest::get(format!("{base}{path}"));
        assert_eq!(get("/livez").await.unwrap().status(), 200);
        assert_eq!(get("/readyz").await.unwrap().status(), 503);
        readiness.set_ready();
        assert_eq!(get("/readyz").await.unwrap().status(), 200);
        readiness.set_standby(Some("standing by".to_owned()));
        let standby = get("/readyz").await.unwrap();
        assert_eq!(standby.status(), 200);
        assert_eq!(standby.text().await.unwrap(), "ok; standing by\n");
        let metrics = get("/metrics").await.unwrap().text().await.unwrap();
        assert!(metrics.contains("xmpp_federation_build_info"), "{metrics}");
        stop.cancel();
        server.await.unwrap().unwrap();
    }
}
