//! What the operator asks of running edge pods: their status, over the admin port; [`watch`] asks
//! by itself.

pub mod watch;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use xmpp_federation_core::edge_status::EdgeStatus;

/// A pod answers from memory; longer means that it is not there.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A status of hundreds of partners stays far below.
const MAX_ANSWER: usize = 1024 * 1024;

/// Why a pod's status could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The HTTP client could not be made.
    #[error("the HTTP client cannot be set up: {0}")]
    Setup(reqwest::Error),
    /// No answer within 2 s, or no connection.
    #[error(
        "no answer from the admin port at {address}: {source}; check that a NetworkPolicy lets the operator reach it"
    )]
    Unreachable {
        /// Pod address and admin port.
        address: SocketAddr,
        /// The client's reason.
        source: reqwest::Error,
    },
    /// An answer that is no status.
    #[error(
        "the admin port at {address} answered {what}, which is no edge status; is another program listening there?"
    )]
    Unexpected {
        /// Pod address and admin port.
        address: SocketAddr,
        /// HTTP status or parse error.
        what: String,
    },
}

/// Asks edge pods; connections are reused.
#[derive(Debug, Clone)]
pub struct Client(reqwest::Client);

impl Client {
    /// Sets the client up; nothing is sent yet.
    pub fn new() -> Result<Self, Error> {
        // Plain HTTP only; without this the client wants the system's authorities, and an image
        // made from nothing has none.
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(1)
            // Pods are addressed directly; a proxy of the environment knows no pod network.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(Error::Setup)?;
        Ok(Self(client))
    }
}

/// Reads `/status` of the edge at this pod address.
pub async fn fetch_status(client: &Client, pod: IpAddr, port: u16) -> Result<EdgeStatus, Error> {
    let address = SocketAddr::new(pod, port);
    let unreachable = |source| Error::Unreachable { address, source };
    let unexpected = |what: String| Error::Unexpected { address, what };
    let mut response = client
        .0
        .get(format!("http://{address}/status"))
        .send()
        .await
        .map_err(unreachable)?;
    if !response.status().is_success() {
        return Err(unexpected(format!("HTTP {}", response.status())));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return Err(unexpected(format!("more than {MAX_ANSWER} bytes")));
        }
    }
    serde_json::from_slice(&body).map_err(|error| unexpected(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use axum::{Router, routing::get};

    async fn serve(answer: String) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/status", get(move || async move { answer }));
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }

    async fn ask(answer: &str) -> Result<EdgeStatus, Error> {
        let address = serve(answer.to_owned()).await;
        fetch_status(&Client::new().unwrap(), address.ip(), address.port()).await
    }

    #[tokio::test]
    async fn a_status_is_read_and_anything_else_is_named() {
        let good = r#"{"configHash":"ab","dialbackSecrets":[],"draining":false,"links":[],"failingPartners":[],"streams":{"inbound":1,"outbound":2}}"#;
        assert_eq!(ask(good).await.unwrap().streams.outbound, 2);
        let later = ask(include_str!("../../core/tests/fixtures/later/status.json"))
            .await
            .unwrap();
        assert_eq!(later.links.len(), 2, "a later edge is read, too");
        assert!(ask("<html>").await.unwrap_err().to_string().contains("no edge status"));
        let endless = ask(&"x".repeat(MAX_ANSWER + 1)).await.unwrap_err().to_string();
        assert!(endless.contains("more than"), "{endless}");
    }
}
