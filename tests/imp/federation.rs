//! IM&P's own federation: blocks the first registration, is named later, and the administrator's
//! own check where its services prove nothing.

use std::time::Duration;

use testkit_simulator::{FaultOptions, Federation, ImpConfig};
use xmpp_federation_imp::desired::{FederationCheck, RestartMode};
use xmpp_federation_imp::reasons::Reason;
use xmpp_federation_imp::report::Status;

use crate::support::{Bench, PUBLISHER, SUBSCRIBER, quick};

/// Stands for the row that an administrator has found: it answers the publisher's name.
const QUERY: &str = "SELECT name FROM processnode WHERE tkprocessnoderole = 2 AND tknodeusage = 0";

fn check(off_value: &str) -> FederationCheck {
    FederationCheck {
        query: QUERY.to_owned(),
        off_value: off_value.to_owned(),
    }
}

async fn bench(federation: Federation, check: Option<FederationCheck>) -> Bench {
    let config = ImpConfig { federation, ..quick() };
    let mut bench = Bench::start(config).await;
    bench.desired.federation_check = check;
    bench
}

fn asked(bench: &Bench) -> usize {
    let calls = bench.calls("axl", "executeSQLQuery");
    let checks = calls.iter().filter(|call| call.detail.contains("SELECT name"));
    checks.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_proves_off_where_a_stopped_service_does_not() {
    let mut bench = bench(Federation::Unknown, Some(check(PUBLISHER))).await;
    let report = bench.until_ready(40).await;
    let message = &report.imp_federation_off.message;
    assert!(message.contains("imp[].federationCheck"), "{message}");
    assert_eq!(bench.restarts(), [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_blocks_the_first_registration_when_it_says_on() {
    let mut bench = bench(Federation::Unknown, Some(check("off"))).await;
    let report = bench.until_rows(10, Reason::FederationOn).await;
    assert_eq!(report.imp_federation_off.status, Status::False);
    for part in [
        PUBLISHER,
        SUBSCRIBER,
        "imp[].federationCheck answered",
        "Presence > Inter-Domain Federation > XMPP Federation > Settings",
    ] {
        let message = &report.imp_federation_off.message;
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    bench.keep_on(1.0).await;
    assert!(bench.rows().is_empty());
    // The administrator turns it off; a refresh shows it at once.
    bench.desired.restart.mode = RestartMode::Manual;
    bench.desired.federation_check = Some(check(PUBLISHER));
    bench.until_registered(10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_cannot_be_read_proves_nothing_and_stops_nothing() {
    for (query, says) in [
        ("SELECT nothing FROM nowhere", "fault"),
        ("SELECT name FROM processnode", "rows instead of one"),
        (
            "SELECT name, nodeid FROM processnode WHERE tkprocessnoderole = 2 AND tknodeusage = 0",
            "2 columns instead of one",
        ),
    ] {
        let mut unreadable = check("off");
        query.clone_into(&mut unreadable.query);
        let mut bench = bench(Federation::Unknown, Some(unreadable)).await;
        bench.desired.restart.mode = RestartMode::Manual;
        let report = bench.until_registered(10).await;
        let verdict = &report.imp_federation_off;
        assert_eq!(verdict.status, Status::Unknown, "{verdict:?}");
        for part in [says, "correct or remove it", "reason code -1068"] {
            assert!(verdict.message.contains(part), "{part:?}: {verdict:?}");
        }
        assert_eq!(report.axl_authenticated.status, Status::True);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_is_asked_while_services_prove_nothing_and_in_place_of_rows() {
    for (federation, wanted) in [
        (Federation::Unknown, true),
        (Federation::Off, false),
        (Federation::On, false),
    ] {
        let mut bench = bench(federation, Some(check(PUBLISHER))).await;
        bench.desired.restart.mode = RestartMode::Manual;
        bench.desired.poll_interval = Duration::from_secs(2);
        bench.keep_on(4.0).await;
        let reads = bench.calls("axl", "executeSQLQuery").len();
        let checks = asked(&bench);
        bench.keep_on(12.0).await;
        let reads = bench.calls("axl", "executeSQLQuery").len() - reads;
        assert!(reads <= 7, "{federation:?}: {reads} AXL reads in 6 polls");
        let checks = asked(&bench) - checks;
        if wanted {
            assert!((1..=4).contains(&checks), "{checks} of {reads}");
        } else {
            assert_eq!(asked(&bench), 0, "{federation:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_federation_that_is_turned_on_later_is_named_and_its_end_asks_for_a_round() {
    let mut bench = bench(Federation::Off, None).await;
    bench.until_ready(40).await;
    assert_eq!(bench.restarts(), [1, 1]);
    let turn = |bench: &mut Bench, federation, token: &str| {
        bench.sim.change(|settings| settings.federation = federation);
        bench.desired.requests.refresh = Some(token.to_owned());
    };
    turn(&mut bench, Federation::On, "1");
    let report = bench
        .until(10, "named", |r| r.imp_federation_off.reason == Reason::FederationOn)
        .await;
    assert_eq!(report.imp_federation_off.status, Status::False);
    assert_eq!(report.components_registered.status, Status::True);
    bench.keep_on(1.0).await;
    assert_eq!(bench.restarts(), [1, 1]);
    // A stopped service does not prove the end of it.
    turn(&mut bench, Federation::Unknown, "2");
    let report = bench
        .until(10, "unknown", |r| r.imp_federation_off.status == Status::Unknown)
        .await;
    assert!(report.imp_federation_off.message.contains("-1068"));
    bench.keep_on(1.0).await;
    assert_eq!(bench.restarts(), [1, 1]);
    turn(&mut bench, Federation::Off, "3");
    bench
        .until(40, "a round", |r| {
            r.imp_federation_off.status == Status::True && r.routers_in_sync.status != Status::True
        })
        .await;
    bench.until_ready(40).await;
    assert_eq!(bench.restarts(), [2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_services_prove_counts_more_than_the_check() {
    // The check says off, and the service runs.
    let mut bench = bench(Federation::On, Some(check(PUBLISHER))).await;
    let report = bench.until_rows(10, Reason::FederationOn).await;
    assert_eq!(report.imp_federation_off.status, Status::False);
    // A Control Center that does not answer leaves it open, and nothing is read as Off.
    let mut bench = self::bench(Federation::Off, None).await;
    bench.fault("cc-fault", FaultOptions::default());
    bench.keep_on(2.0).await;
    let report = bench.once().await;
    assert_eq!(report.imp_federation_off.status, Status::Unknown);
}
