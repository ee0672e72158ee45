//! The admin port asked over HTTP.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

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
    let live = Arc::new(
        Loader::new(folder.path().join("edge.yaml"), 0)
            .load()
            .unwrap(),
    );
    let (_sender, receiver) = watch::channel(live.clone());
    let edge = Edge::new(receiver, 0, Arc::default(), Arc::default());
    let domain = |text: &str| xmpp_federation_core::Domain::parse(text).unwrap();
    edge.registry
        .partner_failed(&domain("vngtp.lab"), "no answer".to_owned());
    edge.registry
        .partner_failed(&domain("stranger.example"), "no answer".to_owned());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Admin::new(edge, Arc::default()).serve(listener));

    for path in ["/livez", "/readyz"] {
        assert!(
            get_path(address, path).await.0.starts_with("HTTP/1.1 200"),
            "{path}"
        );
    }
    assert!(
        get_path(address, "/connections")
            .await
            .0
            .starts_with("HTTP/1.1 404")
    );
    let (head, body) = get_path(address, "/metrics").await;
    assert!(head.contains("application/openmetrics-text"), "{head}");
    assert!(body.contains("xmpp_edge_failing_partners 2"), "{body}");
    let (_, body) = get_path(address, "/status").await;
    let status: EdgeStatus = serde_json::from_str(&body).unwrap();
    assert_eq!(status.config_hash, live.config_hash);
    assert_eq!(status.certificate_sha256, live.tls.leaf_sha256);
    assert_eq!(status.dialback_secrets, live.dialback_fingerprints());
    // Who else failed is for the control socket only.
    assert_eq!(status.failing_partners.len(), 1);
    assert!(!body.contains("stranger.example"), "{body}");
}
