//! Answers that do not come, come late or are none.

use testkit_simulator::FaultOptions;
use xmpp_federation_imp::desired::RestartMode;
use xmpp_federation_imp::reasons::Reason;
use xmpp_federation_imp::report::Status;
use xmpp_federation_imp::timings::Timings;

use crate::support::{Bench, PUBLISHER, id, quick, quick_timings, says};

fn only(operation: &str, count: u64) -> FaultOptions {
    FaultOptions {
        operation: Some(operation.into()),
        count: Some(count),
        ..FaultOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_whose_answer_is_lost_leaves_one_row() {
    let mut bench = Bench::start(quick()).await;
    bench.desired.restart.mode = RestartMode::Manual;
    bench.desired.component_ids = vec![id(0), id(1)];
    bench.fault("axl-reply-lost", only("INSERT", 1));
    bench.until_registered(20).await;
    assert_eq!(bench.rows().len(), 2);
    assert_eq!(bench.calls("axl", "executeSQLUpdate").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_whose_answer_is_lost_is_observed_and_not_repeated() {
    let mut bench = Bench::start(quick()).await;
    bench.fault("cc-reply-lost", only("Restart", 1));
    bench.until_ready(40).await;
    assert_eq!(bench.restarts(), [1, 1]);
    assert_eq!(bench.restart_commands().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_dies_after_the_command_does_not_send_it_again() {
    let mut bench = Bench::start(quick()).await;
    while bench.restart_commands().is_empty() {
        bench.once().await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    bench.restart_operator();
    bench.until_ready(40).await;
    assert_eq!(bench.restarts(), [1, 1]);
    assert_eq!(bench.restart_commands().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_was_held_up_does_not_send_the_command_any_more() {
    let timings = Timings {
        send_within: std::time::Duration::ZERO,
        ..quick_timings()
    };
    let mut bench = Bench::timed(quick(), timings).await;
    let report = bench
        .until(15, "held up", |r| r.routers_in_sync.message.contains("held up"))
        .await;
    assert_eq!(report.routers_in_sync.status, Status::False);
    assert!(bench.restart_commands().is_empty());
    // The next one is on time.
    bench.set_timings(quick_timings());
    bench.until_ready(40).await;
    assert_eq!(bench.restarts(), [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_and_faults_are_waited_out() {
    for (fault, reason) in [("axl-503", Reason::Throttled), ("axl-fault", Reason::Throttled)] {
        let mut bench = Bench::start(quick()).await;
        bench.desired.restart.mode = RestartMode::Manual;
        bench.fault(fault, FaultOptions::default().once());
        bench
            .until(5, "throttled", |r| r.axl_authenticated.reason == reason)
            .await;
        let calls = bench.sim.calls(0).len();
        bench.keep_on(3.0).await;
        assert_eq!(bench.sim.calls(0).len(), calls, "{fault}: no storm");
        bench.until_registered(15).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_version_that_is_answered_is_named() {
    let mut bench = Bench::start(quick()).await;
    bench.fault("axl-599", FaultOptions::default());
    let report = bench.until_axl(5, Reason::AxlVersionUnsupported).await;
    assert!(report.axl_authenticated.message.contains("15.0 to 9.1"));
    bench.keep_on(1.0).await;
    assert_eq!(bench.sim.calls(0).len(), 9, "every version once");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_router_is_restarted_while_another_is_down() {
    let mut bench = Bench::start(quick()).await;
    bench.fault("router-down", FaultOptions::default().at("ecup10s.coluc.com"));
    let report = bench.until_routers(15, Reason::NodeNotHealthy).await;
    assert!(report.routers_in_sync.message.contains("ecup10s.coluc.com"));
    bench.keep_on(2.0).await;
    assert!(bench.restart_commands().is_empty());
    assert!(bench.node(PUBLISHER).router.restarts.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_cluster_is_named_with_the_capture_command() {
    let mut bench = Bench::start(quick()).await;
    for address in bench.desired.target.addresses.values_mut() {
        address.port = Some(1);
    }
    let report = bench.until_axl(5, Reason::Unreachable).await;
    says(&report.axl_authenticated, &["utils network capture"]);
}
