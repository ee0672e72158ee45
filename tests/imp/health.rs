//! Nodes: their services and redundancy groups, before and after a restart.

use testkit_simulator::{FaultOptions, ImpConfig};
use xmpp_federation_imp::reasons::Reason;
use xmpp_federation_imp::report::{Progress, Status};

use crate::support::{Bench, PUBLISHER, SUBSCRIBER, id, quick, says};

const CHAT: &str = "Cisco XCP Text Conference Manager";

#[tokio::test(flavor = "multi_thread")]
async fn the_second_router_waits_for_the_first_nodes_services_to_settle() {
    let mut bench = Bench::start(ImpConfig {
        services_lag_s: 3.0,
        not_activated: vec!["Cisco XCP Directory Service".into()],
        ..quick()
    })
    .await;
    bench.until_ready(60).await;
    let first = bench.node(PUBLISHER).router.restarts[0].started_at_ms.unwrap();
    let second = bench.node(SUBSCRIBER).router.restarts[0].requested_at_ms;
    // A second less, as up times are whole seconds.
    assert!(second >= first + 3_000 + 1_000, "{}", second - first);
    assert_eq!(bench.restarts(), [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_service_is_named_and_waited_for_until_a_human_decides() {
    let mut bench = Bench::start(quick()).await;
    bench.sim.switch_service(SUBSCRIBER, CHAT, false).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let report = bench.until_routers(15, Reason::NodeNotHealthy).await;
    says(
        &report.routers_in_sync,
        &[
            SUBSCRIBER,
            CHAT,
            "Stopped",
            "Control Center - Feature Services",
            "restart-routers",
        ],
    );
    assert!(matches!(report.progress, Progress::Stalled(_)), "{report:?}");
    bench.keep_on(3.0).await;
    assert_eq!(bench.restarts(), [0, 0]);
    bench.desired.requests.restart_routers = Some("all the same".into());
    bench.until_ready(60).await;
    assert_eq!(bench.restarts(), [1, 1]);
}

/// As a release may answer that does not have it.
#[tokio::test(flavor = "multi_thread")]
async fn for_a_service_that_never_runs_a_person_is_asked_once() {
    const FILES: &str = "Cisco XCP File Transfer Manager";
    let mut bench = Bench::start(ImpConfig {
        absent_as_stopped: vec![FILES.into()],
        ..quick()
    })
    .await;
    let report = bench.until_routers(15, Reason::NodeNotHealthy).await;
    let told = [
        FILES,
        "Stopped",
        "Where the release has no such service",
        "restart-routers once",
    ];
    says(&report.routers_in_sync, &told);
    assert!(matches!(report.progress, Progress::Stalled(_)), "{report:?}");
    bench.desired.requests.restart_routers = Some("this release has none".into());
    bench.until_ready(60).await;
    assert_eq!(bench.restarts(), [1, 1]);
    // Another row needs another restart, and no person.
    bench.desired.component_ids.push(id(1));
    bench.until_routers(30, Reason::Restarting).await;
    bench.until_ready(60).await;
    assert_eq!(bench.restarts(), [2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_runs_for_the_other_one_is_not_restarted() {
    let mut bench = Bench::start(ImpConfig {
        redundancy: true,
        failover_s: 0.5,
        ..quick()
    })
    .await;
    let report = bench
        .until(30, "failed over", |r| {
            r.routers_in_sync.reason == Reason::NodeNotHealthy && matches!(r.progress, Progress::Stalled(_))
        })
        .await;
    says(
        &report.routers_in_sync,
        &["ecup10s", "tkhaserverstate is 4", "Presence Redundancy Groups"],
    );
    assert_eq!(bench.restarts(), [1, 0]);
    bench.sim.sql("UPDATE enterprisenode SET tkhaserverstate = 3").unwrap();
    // The next look is a minute away; a new process looks at once.
    bench.restart_operator();
    // That one fails over too, which nothing waits for any more.
    bench.until_ready(60).await;
    assert_eq!(bench.restarts(), [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_release_does_not_show_blocks_nothing_and_is_asked_for_once() {
    let mut bench = Bench::start(quick()).await;
    // A release that does not know one of the names.
    bench.fault("cc-fault", FaultOptions::default().once().at(SUBSCRIBER));
    let report = bench.until_ready(60).await;
    assert_eq!(report.axl_authenticated.status, Status::True);
    assert_eq!(bench.restarts(), [1, 1]);
    let asked = bench.calls("axl", "executeSQLQuery");
    let asked = asked.iter().filter(|call| call.detail.contains("enterprisenode"));
    assert_eq!(asked.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_in_sync_that_returns_everything_is_told_from_one_that_is_not() {
    let mut bench = Bench::start(quick()).await;
    bench.bouncing = Some("remote-server-not-found".into());
    let report = bench.until_routers(60, Reason::StillBouncingAfterRestart).await;
    says(
        &report.routers_in_sync,
        &[
            PUBLISHER,
            "remote-server-not-found",
            "run sql select * from xmpps2snodes",
            "reboot",
            "never does",
        ],
    );
    assert!(matches!(report.progress, Progress::Stalled(_)));
    bench.keep_on(2.0).await;
    assert_eq!(bench.restarts(), [1, 1], "nothing is restarted for it");
    bench.bouncing = None;
    bench.until_ready(10).await;
}
