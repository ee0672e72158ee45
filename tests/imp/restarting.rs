//! Routers: when, in which order, how often.

use std::time::{Duration, Instant};

use testkit_simulator::{FaultOptions, ImpConfig};
use xmpp_federation_imp::desired::RestartMode;
use xmpp_federation_imp::reasons::Reason;
use xmpp_federation_imp::report::{Progress, SlotSync, Status};
use xmpp_federation_imp::timings::Timings;
use xmpp_federation_imp::window::Window;

use crate::support::{Bench, PUBLISHER, SUBSCRIBER, id, quick, says};

#[tokio::test(flavor = "multi_thread")]
async fn ready_in_thirty_seconds_each_router_restarted_once_one_after_the_other() {
    // With the waits of production.
    let mut bench = Bench::timed(
        ImpConfig {
            restart_s: 5.0,
            replication_s: 1.0,
            ..ImpConfig::default()
        },
        Timings::default(),
    )
    .await;
    bench.desired.component_ids = vec![id(0), id(1)];
    bench.desired.restart.propagation_delay = Duration::from_secs(2);
    bench.desired.restart.min_interval = Duration::from_hours(24);
    let started = Instant::now();
    let report = bench.until_ready(40).await;
    let took = started.elapsed();
    assert!(took <= Duration::from_secs(30), "{took:?}");
    assert_eq!(bench.restarts(), [1, 1]);
    assert!(report.slots.iter().all(|slot| slot.sync == SlotSync::InSync));
    assert!(matches!(report.progress, Progress::Done));

    let (first, second) = (
        &bench.node(PUBLISHER).router.restarts[0],
        &bench.node(SUBSCRIBER).router.restarts[0],
    );
    assert!(second.requested_at_ms >= first.started_at_ms.unwrap(), "one at a time");
    let written = bench
        .calls("axl", "executeSQLUpdate")
        .iter()
        .map(|call| call.at_ms)
        .max()
        .unwrap();
    assert!(
        first.requested_at_ms >= written + 2_000,
        "not before the propagation delay"
    );
    for node in bench.sim.state().nodes {
        for slot in 0..2 {
            assert!(node.router.loaded_ids.contains(id(slot).as_str()), "{node:#?}");
        }
    }

    // The budget: under 12 Control Center calls in any minute, and no two looks at one restarting
    // node within 5 s of each other or of the command.
    let calls: Vec<_> = bench
        .sim
        .calls(0)
        .into_iter()
        .filter(|call| call.service == "control-center")
        .collect();
    assert!(calls.len() < 12, "{calls:#?}");
    for command in bench.restart_commands() {
        let looks: Vec<u64> = calls
            .iter()
            .filter(|call| call.node == command.node && call.at_ms >= command.at_ms)
            .map(|call| call.at_ms)
            .collect();
        assert!(looks.windows(2).all(|pair| pair[1] - pair[0] >= 5_000), "{looks:?}");
    }

    // In order: nothing is written or called any more, when the outcome of the last call is written.
    bench.operator.finish().await;
    let (writes, calls) = (bench.store.writes(), bench.sim.calls(0).len());
    bench.keep_on(2.0).await;
    assert_eq!((bench.store.writes(), bench.sim.calls(0).len()), (writes, calls));

    // Another process finds everything proven: reads, but neither writes nor restarts.
    bench.restart_operator();
    let report = bench.until_ready(5).await;
    bench.keep_on(2.0).await;
    assert!(matches!(report.progress, Progress::Done));
    assert_eq!(bench.restarts(), [1, 1]);
    assert_eq!(bench.calls("axl", "executeSQLUpdate").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_node_waits_for_the_first_ones_link() {
    let mut bench = Bench::start(quick()).await;
    bench.edges = false;
    let report = bench.until_routers(20, Reason::WaitingForFirstLink).await;
    assert!(report.routers_in_sync.message.contains(PUBLISHER));
    assert!(report.routers_in_sync.message.contains(SUBSCRIBER));
    bench.keep_on(3.0).await;
    assert_eq!(bench.restarts(), [1, 0]);
    bench.edges = true;
    bench.until_ready(20).await;
    assert_eq!(bench.restarts(), [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn manual_names_the_nodes_and_how_and_believes_only_proof() {
    let mut bench = Bench::start(quick()).await;
    bench.desired.restart.mode = RestartMode::Manual;
    // No edge announces anything here, so a restart by hand is seen at the next poll.
    bench.desired.poll_interval = Duration::from_secs(10);
    let report = bench.until_routers(10, Reason::RestartByHand).await;
    says(
        &report.routers_in_sync,
        &[
            PUBLISHER,
            SUBSCRIBER,
            "Control Center - Network Services",
            "utils service restart Cisco XCP Router",
        ],
    );
    assert!(matches!(report.progress, Progress::Stalled(_)));
    assert_eq!(report.slots[0].sync, SlotSync::NotInSync);
    bench.sim.restart_router(PUBLISHER).unwrap();
    let report = bench
        .until(90, "one node in sync", |r| r.nodes.iter().any(|node| node.in_sync))
        .await;
    assert_eq!(report.routers_in_sync.status, Status::False);
    assert!(
        !report.routers_in_sync.message.contains("on ecup10.coluc.com"),
        "{}",
        report.routers_in_sync.message
    );
    bench.sim.restart_router(SUBSCRIBER).unwrap();
    bench.until_ready(90).await;
    assert!(bench.restart_commands().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn min_interval_holds_back_and_the_annotation_overrides_it_once() {
    let mut bench = Bench::start(quick()).await;
    bench.desired.restart.min_interval = Duration::from_hours(24);
    bench.until_ready(40).await;
    bench.desired.component_ids.push(id(1));
    let report = bench.until_routers(15, Reason::MinInterval).await;
    says(&report.routers_in_sync, &["restart-routers"]);
    assert_eq!(report.slots[0].sync, SlotSync::InSync);
    assert_eq!(report.slots[1].sync, SlotSync::NotInSync);
    bench.keep_on(2.0).await;
    assert_eq!(bench.restarts(), [1, 1]);
    bench.desired.requests.restart_routers = Some("now".into());
    // Two rounds in one minute go beyond the budget of calls.
    let report = bench.until_ready(100).await;
    assert_eq!(report.handled_restart_token.as_deref(), Some("now"));
    bench.keep_on(2.0).await;
    assert_eq!(bench.restarts(), [2, 2], "once per token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_restart_asks_for_hands_and_is_not_repeated() {
    let mut bench = Bench::start(quick()).await;
    bench.fault("restart-refused", FaultOptions::default());
    let report = bench.until_routers(15, Reason::RestartRefused).await;
    says(
        &report.routers_in_sync,
        &["-1045", PUBLISHER, "utils service restart Cisco XCP Router"],
    );
    let report = bench
        .until(15, "refused twice", |r| r.routers_in_sync.message.contains(SUBSCRIBER))
        .await;
    assert!(matches!(report.progress, Progress::Stalled(_)));
    bench.keep_on(3.0).await;
    assert_eq!(bench.restart_commands().len(), 2, "each node was asked once");
    bench.sim.clear_fault("restart-refused");
    bench.sim.restart_router(PUBLISHER).unwrap();
    bench.sim.restart_router(SUBSCRIBER).unwrap();
    bench.until_ready(60).await;
    assert_eq!(bench.restart_commands().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_names_of_one_cluster_have_one_budget() {
    const WINDOW_MS: u64 = 6_000;
    let mut bench = Bench::start(quick()).await;
    bench.desired.restart.mode = RestartMode::Manual;
    bench.desired.poll_interval = Duration::from_millis(100);
    let mut second = bench.desired.clone();
    second.target.publisher = PUBLISHER.to_owned();
    second.owner.uid = "r-2".into();
    second.owner.name = "second".into();
    bench.desired.live_owners.insert("r-2");
    second.live_owners.clone_from(&bench.desired.live_owners);
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(2 * WINDOW_MS) {
        bench.once().await;
        bench.operator.reconcile(&second).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let calls: Vec<u64> = bench
        .sim
        .calls(0)
        .into_iter()
        .filter(|call| call.service == "control-center")
        .map(|call| call.at_ms)
        .collect();
    assert!(calls.len() >= 20, "the budget is used: {calls:?}");
    // A call arrives a little later than it was counted.
    let window = WINDOW_MS - 500;
    for (first, from) in calls.iter().enumerate() {
        let within = calls[first..].iter().filter(|at| **at < from + window).count();
        assert!(within < 12, "{within} calls: {calls:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_the_window_nothing_is_restarted_unless_a_human_asks() {
    let mut bench = Bench::start(quick()).await;
    // It opens in about twelve hours.
    let hour = (jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).hour() + 12) % 24;
    let window = Window::new(&format!("0 {hour} * * *"), Duration::from_hours(1), None).unwrap();
    bench.desired.restart.mode = RestartMode::Window(Box::new(window));
    let report = bench.until_routers(15, Reason::WaitingForWindow).await;
    says(
        &report.routers_in_sync,
        &[PUBLISHER, SUBSCRIBER, &format!("{hour:02}:00 UTC"), "restart-routers"],
    );
    assert!(
        matches!(&report.progress, Progress::Reconciling(said) if said.contains("window")),
        "{:?}",
        report.progress
    );
    let calls = bench.sim.calls(0).len();
    bench.keep_on(3.0).await;
    assert_eq!(bench.restarts(), [0, 0]);
    assert_eq!(bench.sim.calls(0).len(), calls, "waiting needs no calls");
    bench.desired.requests.restart_routers = Some("now".into());
    bench.until_ready(60).await;
    assert_eq!(bench.restarts(), [1, 1]);
}
