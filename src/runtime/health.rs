//! `/livez`, `/readyz` and `/metrics` on a port of their own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
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
) -> Result<(), io::Error> {
    let listener = TcpListener::from_std(with_fallback(address, bind)?)?;
    serve_on(listener, readiness, metrics, stop).await
}

/// Binds; where the system has no IPv6, IPv4's wildcard takes the place of IPv6's.
fn with_fallback<T>(address: SocketAddr, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match bind(address) {
        Err(error)
            if address.is_ipv6() && address.ip().is_unspecified() && error.kind() != io::ErrorKind::AddrInUse =>
        {
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        bound => bound,
    }
}

/// An IPv6 wildcard takes IPv4 too, whatever `net.ipv6.bindv6only` says.
fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

async fn serve_on(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), io::Error> {
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
    use rstest::rstest;

    #[rstest]
    #[case::no_ipv6("[::]:8081", io::ErrorKind::Unsupported, Ok("0.0.0.0:8081"))]
    #[case::ipv6_switched_off("[::]:8081", io::ErrorKind::AddrNotAvailable, Ok("0.0.0.0:8081"))]
    #[case::another_program_has_the_port("[::]:8081", io::ErrorKind::AddrInUse, Err(io::ErrorKind::AddrInUse))]
    #[case::an_address_that_was_meant("[fd00::1]:8081", io::ErrorKind::Unsupported, Err(io::ErrorKind::Unsupported))]
    fn without_ipv6_the_probes_find_the_server_at_ipv4(
        #[case] address: &str,
        #[case] refusal: io::ErrorKind,
        #[case] expected: Result<&str, io::ErrorKind>,
    ) {
        let bind = |address: SocketAddr| {
            if address.is_ipv6() {
                Err(refusal.into())
            } else {
                Ok(address.to_string())
            }
        };
        let bound = with_fallback(address.parse().unwrap(), bind);
        assert_eq!(bound.map_err(|error| error.kind()), expected.map(str::to_owned));
    }

    #[tokio::test]
    async fn the_wildcard_takes_both_families() {
        let listener = TcpListener::from_std(with_fallback("[::]:0".parse().unwrap(), bind).unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = serve_on(listener, Readiness::default(), Metrics::new(), CancellationToken::new());
        let server = tokio::spawn(server);
        let answer = reqwest::get(format!("http://127.0.0.1:{port}/livez")).await.unwrap();
        assert_eq!(answer.status(), 200);
        server.abort();
    }

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
