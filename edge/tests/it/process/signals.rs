//! Signals that do not stop the edge.

use std::process::Command;

use crate::support::process::Process;
use crate::support::{Peer, Router};

#[tokio::test]
async fn a_hangup_reads_the_configuration_again_and_ends_nothing() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let edge = Process::start(&peer, &router, "");
    let mut link = router.accept().await;
    let mut stream = peer.open_authenticated(edge.s2s, "coluc.com").await;
    let before = edge.get("/status").await;
    for n in 0..3 {
        let id = edge.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
        stream
            .say(&format!("<message from='b@vngtp.lab' to='a@coluc.com' id='h{n}'/>"))
            .await;
        assert!(link.hear().await.contains(&format!("id='h{n}'")));
    }
    let hash = |status: &str| {
        let status: serde_json::Value = serde_json::from_str(status).unwrap();
        status["configHash"].clone()
    };
    assert_eq!(hash(&edge.get("/status").await), hash(&before));
}
