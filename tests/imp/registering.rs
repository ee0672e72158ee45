//! Rows: ours, others', twice, gone.

use std::collections::BTreeMap;
use std::time::Duration;

use testkit_simulator::{Federation, ImpConfig, Row};
use xmpp_federation_core::{Activation, ForeignComponents};
use xmpp_federation_imp::desired::RestartMode;
use xmpp_federation_imp::reasons::Reason;
use xmpp_federation_imp::report::{Progress, SlotSync, Status};

use crate::support::{Bench, PUBLISHER, SUBSCRIBER, id, quick, says};

#[tokio::test(flavor = "multi_thread")]
async fn a_row_per_slot_with_few_calls() {
    let mut bench = Bench::start(quick()).await;
    bench.desired.component_ids = (0..8).map(id).collect();
    bench.desired.restart.mode = RestartMode::Manual;
    bench.until_registered(10).await;
    let rows: BTreeMap<String, String> = bench.rows().into_iter().collect();
    assert_eq!(rows.len(), 8);
    let reads: Vec<_> = bench.calls("axl", "executeSQLQuery");
    let stepping = reads.iter().filter(|call| call.status == 599).count();
    assert!(reads.len() - stepping <= 4, "{reads:#?}");
    assert_eq!(bench.calls("axl", "executeSQLUpdate").len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_table_name_and_the_oldest_release() {
    let mut bench = Bench::start(ImpConfig {
        table: "xmpp2snodes".into(),
        axl_versions: vec!["9.1".into()],
        role_column: false,
        ..quick()
    })
    .await;
    bench.desired.restart.mode = RestartMode::Manual;
    let report = bench.until_registered(10).await;
    assert_eq!(report.axl_version.as_deref(), Some("9.1"));
    assert_eq!(report.table.as_deref(), Some("xmpp2snodes"));
    assert_eq!(bench.rows().len(), 1);
    let stepping = |bench: &Bench| bench.sim.calls(0).iter().filter(|call| call.status == 599).count();
    let before = stepping(&bench);
    bench.desired.requests.refresh = Some("again".into());
    bench.once().await;
    assert_eq!(stepping(&bench), before, "the version is remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_others_refuse_the_registration_and_are_never_touched() {
    let foreign = Row {
        pkid: "00000000-0000-4000-8000-000000000001".into(),
        cp_id: "cm-2_s2scp-1.expressway-coluc-com".into(),
    };
    let mut bench = Bench::start(ImpConfig {
        rows: vec![foreign.clone()],
        ..quick()
    })
    .await;
    let report = bench.until_rows(5, Reason::ForeignComponents).await;
    assert!(report.components_registered.message.contains("expressway-coluc-com"));
    assert!(matches!(report.progress, Progress::Stalled(_)));
    assert!(bench.calls("axl", "executeSQLUpdate").is_empty());
    assert!(report.served_by_others(), "no link takes a part of it");

    bench.desired.foreign_components = ForeignComponents::Tolerate;
    bench.desired.restart.mode = RestartMode::Manual;
    bench.until_registered(10).await;
    // A federation that works is not cut off because another one comes up beside it.
    bench.desired.foreign_components = ForeignComponents::Refuse;
    let report = bench.until_rows(5, Reason::ForeignComponents).await;
    assert!(!report.served_by_others() && !report.was_prepared());
    bench.desired.activation = Activation::Prepared;
    let report = bench.until_rows(10, Reason::Prepared).await;
    assert!(report.was_prepared());
    assert_eq!(bench.rows(), [(foreign.pkid, foreign.cp_id)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_ledger_adopts_by_annotation_only_and_restarts_nothing() {
    let mut bench = Bench::start(quick()).await;
    bench.until_ready(40).await;
    let restarts = bench.restarts();
    let rows = bench.rows();
    bench.store.lose();
    bench.restart_operator();
    let report = bench.until_rows(5, Reason::IdenticalForeignRow).await;
    assert!(report.components_registered.message.contains("adopt-rows"));
    bench.desired.requests.adopt_rows = Some("yes".into());
    let report = bench.until_registered(10).await;
    assert_eq!(report.slots[0].sync, SlotSync::Unknown);
    bench.keep_on(3.0).await;
    let report = bench.once().await;
    assert_eq!(report.routers_in_sync.status, Status::Unknown);
    assert_eq!(bench.rows(), rows);
    assert_eq!(bench.restarts(), restarts, "a lost ledger restarts nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_resource_leaves_no_row_and_restarts_nothing() {
    let mut bench = Bench::start(quick()).await;
    bench.desired.component_ids = vec![id(0), id(1)];
    bench.until_ready(40).await;
    let restarts = bench.restarts();
    let mut events = Vec::new();
    let removal = loop {
        let removal = bench.operator.remove(&bench.desired).await;
        events.extend(removal.events.clone());
        if removal.done {
            break removal;
        }
        tokio::time::sleep(removal.requeue_after.min(Duration::from_millis(200))).await;
    };
    assert!(
        removal.message.contains("no router was restarted"),
        "{}",
        removal.message
    );
    assert!(events.iter().any(|event| event.reason == Reason::RestartWouldClean));
    assert!(bench.rows().is_empty());
    assert_eq!(bench.restarts(), restarts);

    // Applied again, by another resource: the cluster is free, and everything is done once more.
    // Two rounds in one minute go beyond the budget of calls.
    bench.desired.owner.uid = "r-2".into();
    bench.desired.live_owners = ["r-2"].into();
    bench.until_ready(100).await;
    assert_eq!(bench.restarts(), [restarts[0] + 1, restarts[1] + 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn imps_own_federation_blocks_the_first_registration() {
    let mut bench = Bench::start(ImpConfig {
        federation: Federation::On,
        ..quick()
    })
    .await;
    let report = bench.until_rows(5, Reason::FederationOn).await;
    assert_eq!(report.imp_federation_off.status, Status::False);
    for part in [PUBLISHER, SUBSCRIBER, "Inter-Domain Federation > XMPP Federation"] {
        assert!(report.imp_federation_off.message.contains(part), "{report:#?}");
    }
    assert!(bench.rows().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_federation_service_proves_nothing() {
    let mut bench = Bench::start(ImpConfig {
        federation: Federation::Unknown,
        ..quick()
    })
    .await;
    bench.desired.restart.mode = RestartMode::Manual;
    let report = bench.until_registered(10).await;
    assert_eq!(report.imp_federation_off.status, Status::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_active_resource_on_the_cluster_is_stalled() {
    let mut bench = Bench::start(quick()).await;
    bench.desired.restart.mode = RestartMode::Manual;
    bench.until_registered(10).await;
    let writes = bench.calls("axl", "executeSQLUpdate").len();
    bench.desired.owner.uid = "r-2".into();
    bench.desired.owner.name = "second".into();
    bench.desired.live_owners = ["r-1", "r-2"].into();
    bench.desired.component_ids = vec![id(5)];
    let report = bench.once().await;
    assert_eq!(report.components_registered.reason, Reason::ClaimedByAnother);
    assert!(report.components_registered.message.contains("federation/coluc"));
    assert!(matches!(report.progress, Progress::Stalled(_)));

    // Whether the other one exists is not seen any more: a person says so.
    bench.desired.live_owners = ["r-2"].into();
    bench.desired.live_owners.see_only(&["elsewhere".to_owned()]);
    let report = bench.once().await;
    assert_eq!(report.components_registered.reason, Reason::ClaimedByAnother);
    says(
        &report.components_registered,
        &["namespace federation is not watched", "adopt-rows to federation/coluc"],
    );
    assert_eq!(bench.calls("axl", "executeSQLUpdate").len(), writes);
    bench.desired.requests.adopt_rows = Some("federation/coluc".to_owned());
    let report = bench.until_registered(10).await;
    assert_eq!(report.registrations.len(), 1);
    assert_eq!(bench.rows().len(), 1, "the row of the former resource went");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_host_name_adds_before_it_removes_in_one_round() {
    let mut bench = Bench::start(quick()).await;
    bench.until_ready(40).await;
    bench.desired.component_ids = vec![id(3)];
    bench.until(10, "two rows", |_| true).await;
    assert_eq!(bench.rows().len(), 2, "the new row comes before the old one goes");
    // Two rounds in one minute go beyond the budget of calls.
    bench
        .until(100, "in sync again", |r| {
            r.slots[0].sync == SlotSync::InSync && matches!(r.progress, Progress::Done)
        })
        .await;
    assert_eq!(bench.rows().len(), 1);
    assert_eq!(bench.rows()[0].1, id(3).as_str());
    assert_eq!(bench.restarts(), [2, 2], "one round for each of the two host names");
}
