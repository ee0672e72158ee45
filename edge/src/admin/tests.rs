//! The admin port asked over HTTP.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use std::net::SocketAddr;

use super::*;
use crate::config::Loader;
use crate::config::fixture::good;

async fn get_path(address: std::net::SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn health_metrics_and_status_are_told() {
    let folder = good();
    let live = Arc::new(Loader::new(folder.path().join("edge.yaml"), 0).load().unwrap());
    let (_sender, receiver) = watch::channel(live.clone());
    let edge = Edge::new(receiver, 0, Arc::default(), Arc::default());
    let domain = |text: &str| xmpp_federation_core::Domain::parse(text).unwrap();
    edge.registry
        .partner_failed(&domain("vngtp.lab"), None, "no answer".to_owned());
    edge.registry
        .partner_failed(&domain("stranger.example"), None, "no answer".to_owned());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Admin::new(edge, Arc::default()).serve(listener));

    for path in ["/livez", "/readyz"] {
        assert!(get_path(address, path).await.0.starts_with("HTTP/1.1 200"), "{path}");
    }
    assert!(get_path(address, "/connections").await.0.starts_with("HTTP/1.1 404"));
    let (head, body) = get_path(address, "/metrics").await;
    assert!(head.contains("application/openmetrics-text"), "{head}");
    assert!(body.contains("xmpp_edge_failing_partners 1"), "{body}");
    let (_, body) = get_path(address, "/status").await;
    let status: EdgeStatus = serde_json::from_str(&body).unwrap();
    assert_eq!(status.version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(status.written_by, None, "a person wrote the file");
    assert_eq!(status.config_hash, live.config_hash);
    assert_eq!(status.certificate_sha256, live.tls.leaf_sha256);
    assert_eq!(status.dialback_secrets, live.dialback_fingerprints());
    // Who else failed is for the control socket only.
    assert_eq!(status.failing_partners.len(), 1);
    assert!(!body.contains("stranger.example"), "{body}");
}

/// An admin port that is served.
async fn serving(edge: Arc<Edge>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Admin::new(edge, Arc::default()).serve(listener));
    address
}

fn edge() -> Arc<Edge> {
    let folder = good();
    let loader = Loader::new(folder.path().join("edge.yaml"), 0);
    let (_sender, receiver) = watch::channel(Arc::new(loader.load().unwrap()));
    Edge::new(receiver, 0, Arc::default(), Arc::default())
}

#[tokio::test]
async fn probes_are_answered_at_once_while_many_hold_connections_and_ask_nothing() {
    let address = serving(edge()).await;
    let mut stalled = Vec::new();
    for n in 0..2 * MOST {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if n % 2 == 0 {
            stream.write_all(b"GET /livez HTTP/1.1\r\nhost: e").await.unwrap();
        }
        stalled.push(stream);
        if n % 8 == 0 {
            // Less than any stalled connection may take.
            let answer = timeout(HEADER_TIME / 2, get_path(address, "/readyz")).await;
            assert!(answer.unwrap().0.starts_with("HTTP/1.1 200"), "{n}");
        }
    }
    // The first of them were given up for those that came later.
    let mut closed = 0;
    for stream in &mut stalled {
        let end = timeout(Duration::from_millis(20), stream.read(&mut [0])).await;
        closed += usize::from(matches!(end, Ok(Ok(0) | Err(_))));
    }
    assert!(closed >= MOST, "only {closed} closed");
}

#[tokio::test]
async fn a_header_that_does_not_end_in_time_ends_its_connection() {
    let address = serving(edge()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    let slow = async {
        // A line a second, for as long as it is let.
        while stream.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    assert!(timeout(4 * HEADER_TIME, slow).await.is_ok());
}
