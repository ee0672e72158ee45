//! The bounds that follow from the memory that the process may use.

use crate::support::process::Process;
use crate::support::{Lab, Peer, Router, Speaker, config, header, live};

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
    assert!(limit > 0 && number(&status, "sumBytes") <= limit / 10 * 6, "{status}");
    assert!(number(&status, "connections") <= 10_000, "{status}");

    let configured = Process::start(&peer, &router, "limits: {maxConnections: 77}");
    let status = configured.get("/status").await;
    assert_eq!(number(&status, "connections"), 77, "{status}");
    assert_eq!(number(&status, "limitBytes"), limit, "{status}");
}

const KIB: usize = 1024;

/// The beginning of an element, as long as an unauthenticated peer may send it.
fn beginning() -> String {
    format!("<db:result from='vngtp.lab' to='coluc.com'>{}", "a".repeat(15 * KIB))
}

#[tokio::test]
async fn what_strangers_begin_leaves_memory_for_partners_and_for_those_who_come() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut live = live(config(&[&peer], &[&router]));
    live.budget.incomplete = 512 * KIB;
    let lab = Lab::start(live);
    let mut link = router.accept().await;
    let mut partner = peer.open_authenticated(lab.s2s, "coluc.com").await;

    let mut strangers = Vec::new();
    for _ in 0..60 {
        let mut stranger = Speaker::connect_from([127, 0, 0, 9], lab.s2s).await;
        stranger.say(&header("vngtp.lab", "coluc.com", "")).await;
        // However much others hold.
        stranger.hear("</stream:features>").await;
        let _ = stranger.try_say(beginning().as_bytes()).await;
        strangers.push(stranger);
    }
    lab.until("strangers are ended", |lab| {
        lab.metric("xmpp_edge_unproven_connections_ended_total{reason=\"incomplete\"}") > 20
    })
    .await;
    let last = strangers.last_mut().unwrap();
    assert_eq!(last.condition().await, "resource-constraint");
    // A stanza that comes in parts, each of which is more than a stranger would get.
    let body = "x".repeat(60 * KIB);
    partner
        .say(&format!("<message from='b@vngtp.lab' to='a@coluc.com'><body>{body}"))
        .await;
    tokio::task::yield_now().await;
    partner.say(&format!("{body}</body></message>")).await;
    assert!(link.hear().await.contains(&body));
    // What the first ones hold is theirs until their time is over.
    assert!(strangers[0].is_silent(std::time::Duration::from_millis(50)).await);
    drop(strangers);
    lab.inbound(1).await;
    let mut another = Speaker::connect_from([127, 0, 0, 9], lab.s2s).await;
    another.open(&header("vngtp.lab", "coluc.com", "")).await;
    another.say(&beginning()).await;
    assert!(another.is_silent(std::time::Duration::from_millis(100)).await);
}
