//! The table of component ids while others write it, reads are partial, and what is wanted changes.

use std::time::Duration;

use testkit_simulator::{FaultOptions, ImpConfig, Row};
use xmpp_federation_core::{Activation, ForeignComponents};
use xmpp_federation_imp::desired::RestartMode;
use xmpp_federation_imp::reasons::Reason;
use xmpp_federation_imp::report::{Progress, Report, SlotSync, Status};
use xmpp_federation_imp::store::LedgerStore as _;
use xmpp_federation_imp::timings::Timings;

use crate::support::{Bench, PUBLISHER, id, quick, quick_timings, says};

/// A cluster of one node: what is about rows alone needs no second one.
fn alone() -> ImpConfig {
    let mut config = ImpConfig {
        users: Vec::new(),
        ..quick()
    };
    config.nodes.truncate(1);
    config
}

/// Two slots, registered, and nobody restarts anything.
async fn registered_by_hand() -> Bench {
    let mut bench = Bench::start(alone()).await;
    bench.desired.component_ids = vec![id(0), id(1)];
    bench.desired.restart.mode = RestartMode::Manual;
    bench.until(10, "registered", registered).await;
    bench
}

fn registered(report: &Report) -> bool {
    report.components_registered.status == Status::True
}

/// Asks for a look.
fn refresh(bench: &mut Bench) {
    let count = bench.sim.calls(0).len();
    bench.desired.requests.refresh = Some(count.to_string());
}

fn ids(bench: &Bench) -> Vec<String> {
    let mut ids: Vec<String> = bench.rows().into_iter().map(|row| row.1).collect();
    ids.sort();
    ids
}

fn writes(bench: &Bench) -> usize {
    bench.calls("axl", "executeSQLUpdate").len()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_former_resource_left_are_for_the_next_one_that_is_active() {
    let mut bench = registered_by_hand().await;
    let names = bench.store.all().into_iter();
    let mut publishers = names.filter_map(|(name, _)| Some(name.strip_prefix("xmpp-federation-imp-")?.to_owned()));
    let publisher = publishers.find(|name| name != "logins").unwrap();
    let former = bench.desired.owner.uid.clone();
    let given_up = bench
        .operator
        .give_up(&former, &publisher, "kept", jiff::Timestamp::now());
    given_up.await.unwrap();
    let (rows, writes_before) = (bench.rows(), writes(&bench));

    bench.desired.owner.uid = "r-2".to_owned();
    bench.desired.live_owners = ["r-2"].into();
    bench.desired.activation = Activation::Prepared;
    let report = bench.until_rows(5, Reason::Prepared).await;
    says(&report.components_registered, &[id(0).as_str(), "former resource"]);
    assert_eq!((report.wants_to_act, report.registrations.len()), (false, 0));
    bench.keep_on(1.0).await;
    let removal = bench.operator.remove(&bench.desired).await;
    assert!(removal.done && removal.rows_left.is_empty(), "{removal:?}");
    assert_eq!((bench.rows(), writes(&bench)), (rows.clone(), writes_before));

    bench.desired.activation = Activation::Active;
    let report = bench.until_registered(5).await;
    assert_eq!(report.registrations.len(), 2);
    assert_eq!((bench.rows(), writes(&bench)), (rows, writes_before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_cannot_be_read_is_not_looked_at_again_and_again() {
    let mut bench = registered_by_hand().await;
    let is_ledger = |name: &str| name != "xmpp-federation-imp-logins";
    let mut texts = bench.store.all().into_iter();
    let (name, text) = texts.find(|(name, _)| is_ledger(name)).unwrap();
    let broken = bench.store.write(&name, "{".to_owned(), Some(&text.version)).await;
    let report = bench.until_rows(5, Reason::LedgerUnavailable).await;
    says(&report.components_registered, &[name.as_str(), "restore it"]);
    assert!(
        report.requeue_after > Duration::from_mins(1),
        "{:?}",
        report.requeue_after
    );
    let version = broken.unwrap().version;
    bench
        .store
        .write(&name, text.data.clone(), Some(&version))
        .await
        .unwrap();
    bench.until_registered(5).await;
    assert_eq!(writes(&bench), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_vanish_come_back_once_and_the_second_time_somebody_else_writes() {
    let mut bench = registered_by_hand().await;
    bench.sim.sql("DELETE FROM xmpps2snodes").unwrap();
    refresh(&mut bench);
    let report = bench.until_rows(5, Reason::RowsVanished).await;
    assert_eq!(report.components_registered.status, Status::Unknown);
    bench.keep_on(1.0).await;
    assert_eq!(writes(&bench), 2, "not before a second read");
    bench.until(10, "registered again", registered).await;
    assert_eq!(ids(&bench).len(), 2);
    assert_eq!(writes(&bench), 4);
    let told = bench
        .events
        .iter()
        .filter(|event| event.reason == Reason::RowsVanished && event.warning)
        .count();
    assert_eq!(told, 2, "an event for each row");

    bench.sim.sql("DELETE FROM xmpps2snodes").unwrap();
    refresh(&mut bench);
    let report = bench
        .until(10, "stopped", |r| {
            r.components_registered.reason == Reason::RowsVanished && r.components_registered.status == Status::False
        })
        .await;
    assert!(matches!(report.progress, Progress::Stalled(_)));
    assert!(report.components_registered.message.contains("refresh"));
    bench.keep_on(3.0).await;
    assert_eq!(writes(&bench), 4, "nothing is written against another writer");
    // A human has looked.
    refresh(&mut bench);
    bench.until(10, "registered once more", registered).await;
    assert_eq!(writes(&bench), 6);
    assert_eq!(bench.restarts(), [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_removes_rows_that_are_to_go_is_no_other_writer() {
    let mut bench = registered_by_hand().await;
    for _ in 0..2 {
        // Nothing is removed by the operator.
        bench.desired.maintenance = true;
        bench.desired.activation = Activation::Prepared;
        bench.once().await;
        bench.sim.sql("DELETE FROM xmpps2snodes").unwrap();
        refresh(&mut bench);
        let free = |report: &Report| report.components_registered.message.contains("none of ours is there");
        bench.until(10, "free", free).await;
        bench.desired.maintenance = false;
        bench.desired.activation = Activation::Active;
        bench.until(10, "registered again", registered).await;
    }
    assert!(!bench.events.iter().any(|event| event.reason == Reason::RowsVanished));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_read_of_rows_that_stand_changes_nothing() {
    for fault in ["axl-rows-missing", "axl-empty-return"] {
        let mut bench = registered_by_hand().await;
        let options = FaultOptions::default().once().of("SELECT xmpps2snodes");
        bench.fault(fault, options);
        refresh(&mut bench);
        bench
            .until(5, "missed", |r| r.components_registered.status == Status::Unknown)
            .await;
        let report = bench.until(10, "there again", registered).await;
        assert_eq!(report.registrations.len(), 2);
        assert_eq!(writes(&bench), 2, "{fault}");
        assert!(!bench.events.iter().any(|event| event.reason == Reason::RowsVanished));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identical_row_is_ours_only_when_a_human_says_so() {
    let foreign = Row {
        pkid: "00000000-0000-4000-8000-000000000001".into(),
        cp_id: id(0).to_string(),
    };
    let mut bench = Bench::start(ImpConfig {
        rows: vec![foreign.clone()],
        ..alone()
    })
    .await;
    bench.desired.foreign_components = ForeignComponents::Tolerate;
    let report = bench.until_rows(5, Reason::IdenticalForeignRow).await;
    says(
        &report.components_registered,
        &[&foreign.pkid, &foreign.cp_id, "adopt-rows"],
    );
    bench.keep_on(1.0).await;
    assert_eq!(writes(&bench), 0);
    bench.desired.requests.adopt_rows = Some("yes".into());
    let report = bench.until(5, "adopted", registered).await;
    assert_eq!(report.registrations[0].pkid.to_string(), foreign.pkid);
    bench.keep_on(2.0).await;
    assert_eq!(writes(&bench), 0, "it is taken as it stands");
    assert_eq!(bench.restarts(), [0], "and asks for no restart");
    // From now on it goes with the resource.
    bench.desired.activation = Activation::Prepared;
    bench.until_rows(5, Reason::Prepared).await;
    assert!(bench.rows().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_ours_that_was_changed_stops_everything() {
    let mut bench = registered_by_hand().await;
    bench
        .sim
        .sql(&format!(
            "UPDATE xmpps2snodes SET cp_id = 'cm-2_s2scp-1.somebody-else' WHERE cp_id = '{}'",
            id(0)
        ))
        .unwrap();
    refresh(&mut bench);
    let report = bench
        .until(5, "stopped", |r| {
            r.components_registered.message.contains("somebody-else")
        })
        .await;
    assert!(matches!(report.progress, Progress::Stalled(_)));
    bench.keep_on(3.0).await;
    assert_eq!(writes(&bench), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_wanted_again_while_it_is_being_deleted_stands_once_in_the_end() {
    let mut bench = registered_by_hand().await;
    // The DELETE of the first row is throttled; it stays, and its deletion is on record.
    let options = FaultOptions::default().of("DELETE");
    bench.fault("axl-503", options);
    bench.desired.activation = Activation::Prepared;
    bench.until_axl(5, Reason::Throttled).await;
    bench.desired.activation = Activation::Active;
    bench.sim.clear_fault("axl-503");
    refresh(&mut bench);
    bench
        .until(15, "in order", |r| {
            registered(r) && !matches!(r.progress, Progress::Reconciling(_))
        })
        .await;
    bench.keep_on(0.5).await;
    assert_eq!(ids(&bench), [id(1).to_string(), id(0).to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_rows_of_ours_with_one_id_one_goes() {
    let timings = Timings {
        call: Duration::from_secs(1),
        ..quick_timings()
    };
    let mut bench = Bench::timed(alone(), timings).await;
    bench.desired.restart.mode = RestartMode::Manual;
    // The INSERT is carried out 4 s after the operator gave it up.
    let options = FaultOptions {
        operation: Some("INSERT".into()),
        seconds: Some(4),
        count: Some(1),
        ..FaultOptions::default()
    };
    bench.fault("axl-late", options);
    bench.until_axl(5, Reason::Unreachable).await;
    // Meanwhile somebody writes the same row by hand, and wants it to be taken over.
    bench
        .sim
        .sql(&format!(
            "INSERT INTO xmpps2snodes (pkid, cp_id) VALUES (newid(), '{}')",
            id(0)
        ))
        .unwrap();
    bench.desired.requests.adopt_rows = Some("yes".into());
    refresh(&mut bench);
    bench.until(5, "adopted", registered).await;
    while bench.rows().len() < 2 {
        bench.keep_on(0.2).await;
    }
    refresh(&mut bench);
    bench.keep_on(1.0).await;
    bench.until(10, "in order", registered).await;
    assert_eq!(ids(&bench), [id(0).to_string()]);
    assert_eq!(writes(&bench), 2, "one INSERT, one DELETE");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_slots_ask_for_a_round_fewer_do_not() {
    let mut bench = Bench::start(alone()).await;
    bench.until_ready(40).await;
    assert_eq!(bench.restarts(), [1]);
    bench.desired.component_ids = (0..3).map(id).collect();
    bench
        .until(60, "three in sync", |r| {
            r.slots.iter().all(|slot| slot.sync == SlotSync::InSync)
        })
        .await;
    assert_eq!(ids(&bench).len(), 3);
    assert_eq!(bench.restarts(), [2], "one round for both");
    bench.desired.component_ids = vec![id(0)];
    bench
        .until(10, "one left", |r| {
            r.registrations.len() == 1 && matches!(r.progress, Progress::Done)
        })
        .await;
    bench.keep_on(2.0).await;
    assert_eq!(ids(&bench), [id(0).to_string()]);
    assert_eq!(bench.restarts(), [2], "removing asks for nothing");
    assert_eq!(bench.once().await.slots[0].sync, SlotSync::InSync);
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_holds_back_writes_and_restarts() {
    let mut bench = Bench::start(alone()).await;
    bench.desired.maintenance = true;
    let report = bench
        .until(5, "held back", |r| {
            r.components_registered.message.contains("imp[].maintenance")
        })
        .await;
    assert_eq!(report.components_registered.status, Status::False);
    assert!(matches!(report.progress, Progress::Stalled(_)));
    bench.keep_on(1.0).await;
    assert_eq!(writes(&bench), 0);
    assert!(bench.rows().is_empty());

    // Rows may be written; then an upgrade begins before the router was restarted.
    bench.desired.maintenance = false;
    bench.until(5, "registered", registered).await;
    bench.desired.maintenance = true;
    let report = bench.until_routers(10, Reason::Maintenance).await;
    assert!(report.routers_in_sync.message.contains(PUBLISHER));
    bench.desired.component_ids = vec![id(2)];
    bench.keep_on(3.0).await;
    assert_eq!(ids(&bench), [id(0).to_string()], "neither added nor removed");
    assert!(bench.restart_commands().is_empty());

    bench.desired.maintenance = false;
    bench.until_ready(60).await;
    bench
        .until(10, "the old row gone", |r| {
            r.registrations.len() == 1 && matches!(r.progress, Progress::Done)
        })
        .await;
    assert_eq!(ids(&bench), [id(2).to_string()]);
    assert_eq!(bench.restarts(), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn replication_slower_than_usual_is_waited_for() {
    let mut bench = Bench::start(ImpConfig {
        replication_s: 2.5,
        ..quick()
    })
    .await;
    bench.desired.restart.propagation_delay = Duration::from_secs(4);
    bench.until_ready(60).await;
    for node in bench.sim.state().nodes {
        assert!(node.router.loaded_ids.contains(id(0).as_str()), "{node:#?}");
    }
    assert_eq!(bench.restarts(), [1, 1]);
}
