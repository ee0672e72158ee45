//! Profile Xcp: a router is in sync when it also announces the edge, over a link that is younger.

use xmpp_federation_operator::imp::report::{SlotSync, Status, reasons};

use crate::support::{Bench, quick};

#[tokio::test(flavor = "multi_thread")]
async fn routers_are_in_sync_when_they_announce_the_edge_as_their_gateway() {
    let mut bench = Bench::start(quick()).await;
    bench.desired.announces = true;
    let report = bench.until_ready(40).await;
    let said = &report.routers_in_sync.message;
    assert!(said.contains("announces the edge as its gateway"), "{said}");
    assert!(
        report
            .nodes
            .iter()
            .all(|node| node.in_sync && !node.announcement_unseen)
    );

    // No pod answers: nothing is lost, and nothing is claimed.
    bench.edges = false;
    let report = bench.once().await;
    let verdict = &report.routers_in_sync;
    assert_eq!(
        (verdict.status, verdict.reason),
        (Status::Unknown, reasons::ANNOUNCEMENT_UNSEEN)
    );
    assert!(report.nodes.iter().all(|node| node.announcement_unseen));
    // Or its pod would never come to show a link.
    assert!(
        report
            .slots
            .iter()
            .all(|slot| slot.sync == SlotSync::InSync)
    );

    // Accepted and not known: told, and nobody is restarted for it.
    (bench.edges, bench.ignorant) = (true, true);
    bench.keep_on(4.0).await;
    let report = bench.once().await;
    let verdict = &report.routers_in_sync;
    assert_eq!(
        (verdict.status, verdict.reason),
        (Status::False, reasons::NOT_ANNOUNCED)
    );
    assert!(
        verdict.message.contains("restart-routers"),
        "{}",
        verdict.message
    );
    assert!(report.nodes.iter().all(|node| !node.in_sync));
    assert!(
        report
            .slots
            .iter()
            .all(|slot| slot.sync == SlotSync::InSync)
    );
    let restarts = bench
        .sim
        .state()
        .nodes
        .iter()
        .map(|node| node.router.restarts.len())
        .sum::<usize>();
    assert_eq!(restarts, 2);
}
