//! The bounds that follow from the memory that the process may use.

use crate::support::process::Process;
use crate::support::{Peer, Router};

fn number(status: &str, name: &str) -> u64 {
    let status: serde_json::Value = serde_json::from_str(status).unwrap();
    status["memory"][name].as_u64().unwrap()
}

#[tokio::test]
async fn the_bounds_are_told_with_their_sum_and_a_configured_one_counts() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let derived = Process::start(&peer, &router, "");
    let status = derived.get("/status").await;
    let limit = number(&status, "limitBytes");
    assert!(
        limit > 0 && number(&status, "sumBytes") <= limit / 10 * 6,
        "{status}"
    );
    assert!(number(&status, "connections") <= 10_000, "{status}");

    let configured = Process::start(&peer, &router, "limits: {maxConnections: 77}");
    let status = configured.get("/status").await;
    assert_eq!(number(&status, "connections"), 77, "{status}");
    assert_eq!(number(&status, "limitBytes"), limit, "{status}");
}
