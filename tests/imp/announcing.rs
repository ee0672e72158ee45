//! Profile Xcp: a router takes the link of any component, and announces each to all others. What
//! another link of ours sees counts; where none sees it, what comes back decides.

use xmpp_federation_imp::reasons::Reason;
use xmpp_federation_imp::report::{Progress, SlotSync, Status};

use crate::support::{Bench, PUBLISHER, id, quick};

/// Restart commands that the routers took, in the order of the nodes.
fn restarts(bench: &Bench) -> Vec<usize> {
    let nodes = bench.sim.state().nodes;
    nodes.iter().map(|node| node.router.restarts.len()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_are_in_sync_when_another_replica_sees_the_edge_announced_as_gateway() {
    let mut bench = Bench::start(quick()).await;
    bench.desired.announces = true;
    bench.desired.component_ids = vec![id(0), id(1)];
    let report = bench.until_ready(40).await;
    let said = &report.routers_in_sync.message;
    assert!(said.contains("announces the edge as its gateway"), "{said}");
    assert!(report.nodes.iter().all(|node| node.in_sync));

    // Accepted, and announced without the way to foreign domains: told, and nobody is restarted.
    bench.ignorant = true;
    bench.keep_on(4.0).await;
    let report = bench.once().await;
    let verdict = &report.routers_in_sync;
    assert_eq!(
        (verdict.status, verdict.reason),
        (Status::False, Reason::NotAnnouncedAsGateway)
    );
    for part in ["restart-routers", "default-gateway", id(0).as_str()] {
        assert!(verdict.message.contains(part), "{}", verdict.message);
    }
    assert!(matches!(report.progress, Progress::Stalled(_)));
    assert!(report.nodes.iter().all(|node| !node.in_sync));
    // Or its pod would never be announced.
    let in_sync = |slot: &SlotSync| *slot == SlotSync::InSync;
    assert!(report.slots.iter().all(|slot| in_sync(&slot.sync)));
    assert_eq!(restarts(&bench), [1, 1]);

    bench.ignorant = false;
    let report = bench.once().await;
    assert_eq!(report.routers_in_sync.status, Status::True);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_replica_that_nobody_can_see_is_in_sync_unless_everything_comes_back() {
    let mut bench = Bench::start(quick()).await;
    bench.desired.announces = true;
    let report = bench.until_ready(40).await;
    let verdict = &report.routers_in_sync;
    assert_eq!(verdict.reason, Reason::InSync);
    assert!(
        verdict.message.contains("no other link of the edge sees"),
        "{}",
        verdict.message
    );
    assert!(report.nodes.iter().all(|node| node.in_sync));

    bench.bouncing = Some("remote-server-not-found".to_owned());
    let report = bench.once().await;
    let verdict = &report.routers_in_sync;
    assert_eq!(
        (verdict.status, verdict.reason),
        (Status::False, Reason::StillBouncingAfterRestart)
    );
    assert!(matches!(report.progress, Progress::Stalled(_)));

    // No pod answers: as with profile Component, the proven start is what is known.
    (bench.edges, bench.bouncing) = (false, None);
    let report = bench.once().await;
    assert_eq!(report.routers_in_sync.status, Status::True);
    assert_eq!(restarts(&bench), [1, 1]);
}

/// An accepted link proves nothing about the row, neither before the first restart nor after it.
#[tokio::test(flavor = "multi_thread")]
async fn the_second_node_waits_until_the_first_one_is_seen_to_work() {
    let mut bench = Bench::start(quick()).await;
    bench.desired.announces = true;
    bench.desired.component_ids = vec![id(0), id(1)];
    bench.ignorant = true;
    let report = bench.until_routers(20, Reason::WaitingForFirstLink).await;
    let said = &report.routers_in_sync.message;
    assert!(said.contains(PUBLISHER), "{said}");
    bench.keep_on(3.0).await;
    assert_eq!(restarts(&bench), [1, 0]);

    // Announced, but nothing is taken.
    (bench.ignorant, bench.bouncing) = (false, Some("service-unavailable".to_owned()));
    bench.keep_on(3.0).await;
    assert_eq!(restarts(&bench), [1, 0]);

    bench.bouncing = None;
    bench.until_ready(20).await;
    assert_eq!(restarts(&bench), [1, 1]);
}
