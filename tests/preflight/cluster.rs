//! The simulated cluster, well and not.

use std::time::{Duration, Instant};

use rstest::rstest;
use testkit_simulator::{Account, FaultOptions, Federation, ImpConfig, Row as TableRow};
use xmpp_federation_imp::preflight::report::{Check, CheckResult, PreflightReport};

use crate::support::{Bench, PASSWORD, PUBLISHER, SUBSCRIBER, expect, expect_failures, look, rows};

fn golden(name: &str, report: &PreflightReport, bench: &Bench) {
    let path = format!("{}/tests/fixtures/preflight/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    // What changes from run to run has another text of the same length.
    let mut report = report.clone();
    for row in &mut report.rows {
        for node in bench.sim.nodes() {
            let zeros = "0".repeat(64);
            row.found = row.found.replace(&node.certificate_sha256, &zeros);
        }
        for (at, (_, address)) in bench.nodes.iter().enumerate() {
            row.found = row.found.replace(&address.to_string(), &format!("192.0.2.{}", at + 1));
        }
        let words = row.found.split(' ').map(|word| {
            let seconds: Option<u64> = word.parse().ok();
            if seconds.is_some_and(|s| (86_400..86_500).contains(&s)) {
                "86400"
            } else {
                word
            }
        });
        row.found = words.collect::<Vec<_>>().join(" ");
    }
    let text = report.table();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "UPDATE_REFERENCE=1 writes {path} anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_in_order_is_told_as_a_table() {
    let bench = Bench::start(ImpConfig::default()).await;
    let report = bench.look(&[]).await;
    expect_failures(&report, &[]);
    golden("all-well", &report, &bench);
    bench.assert_untouched();
    // Table (stepped from 15.0 to 14.0), rows, nodes; services of two nodes, the list of one.
    let logins = bench.logins();
    assert_eq!(logins.len(), 7, "{logins:#?}");
    assert!(logins.iter().all(|call| call.auth == "ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_used_once_in_all() {
    let mut bench = Bench::start(ImpConfig::default()).await;
    let wrong = bench.folder.file("wrong", "another\n");
    bench.arguments.extend(["--password-file".into(), wrong]);
    bench.arguments.drain(4..6);
    let report = bench.look(&[]).await;
    expect_failures(&report, &[(Check::AxlLogin, PUBLISHER)]);
    expect(
        &report,
        Check::AxlLogin,
        PUBLISHER,
        CheckResult::Failed,
        &["401", "https://ecup10.coluc.com:8443/axl"],
    );
    for node in [PUBLISHER, SUBSCRIBER] {
        expect(
            &report,
            Check::ControlCenter,
            node,
            CheckResult::Skipped,
            &["is not used again"],
        );
    }
    let logins = bench.logins();
    assert_eq!(logins.len(), 1, "{logins:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_of_the_other_account_is_used_once_over_all_nodes() {
    let bench = Bench::start(ImpConfig {
        accounts: accounts(&[("axluser", true, false), ("ccuser", false, true)]),
        ..ImpConfig::default()
    })
    .await;
    let wrong = bench.folder.file("wrong", "another\n");
    let report = bench
        .look(&[
            "--control-center-user",
            "ccuser",
            "--control-center-password-file",
            &wrong,
        ])
        .await;
    expect_failures(&report, &[(Check::ControlCenter, PUBLISHER)]);
    expect(
        &report,
        Check::ControlCenter,
        SUBSCRIBER,
        CheckResult::Skipped,
        &["401"],
    );
    let bad: Vec<_> = bench.logins().into_iter().filter(|call| call.auth == "bad").collect();
    assert_eq!(bad.len(), 1, "{bad:#?}");
}

fn accounts(all: &[(&str, bool, bool)]) -> Vec<Account> {
    all.iter()
        .map(|(username, axl, control_center)| Account {
            username: (*username).into(),
            password: PASSWORD.into(),
            axl: *axl,
            control_center: *control_center,
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_accounts_are_used_each_for_its_own() {
    let bench = Bench::start(ImpConfig {
        accounts: accounts(&[("axluser", true, false), ("ccuser", false, true)]),
        ..ImpConfig::default()
    })
    .await;
    let password = bench.folder.file("cc", PASSWORD);
    let report = bench
        .look(&[
            "--control-center-user",
            "ccuser",
            "--control-center-password-file",
            &password,
        ])
        .await;
    expect_failures(&report, &[]);
}

#[rstest]
#[case::axl(false, true, Check::AxlRole, &["403", "Standard AXL API Access"])]
#[case::control_center(true, false, Check::ControlCenter, &["403", "SERVICEABILITY"])]
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_role_is_named(
    #[case] axl: bool,
    #[case] control_center: bool,
    #[case] check: Check,
    #[case] words: &[&str],
) {
    let bench = Bench::start(ImpConfig {
        accounts: accounts(&[("axluser", axl, control_center)]),
        ..ImpConfig::default()
    })
    .await;
    let report = bench.look(&[]).await;
    expect(&report, check, PUBLISHER, CheckResult::Failed, words);
    expect(&report, Check::AxlLogin, PUBLISHER, CheckResult::Ok, &["axluser"]);
    if control_center {
        // The nodes that the command line names are looked at without IM&P's own list.
        for node in [PUBLISHER, SUBSCRIBER] {
            expect(&report, Check::ControlCenter, node, CheckResult::Ok, &[]);
            expect(&report, Check::Router, node, CheckResult::Ok, &["up for 864"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_address_is_named_and_no_password_is_sent() {
    let bench = Bench::start(ImpConfig::default()).await;
    let mut all = bench.with_ca();
    all[1] = "no-such-host.invalid".into();
    let report = look(&all).await;
    let host = "no-such-host.invalid";
    expect(
        &report,
        Check::Name,
        host,
        CheckResult::Failed,
        &["does not resolve", "--node no-such-host.invalid=ADDRESS"],
    );
    expect(&report, Check::AxlLogin, host, CheckResult::Skipped, &["no password"]);
    // The nodes given with an address are looked at all the same.
    expect(&report, Check::Router, SUBSCRIBER, CheckResult::Ok, &[]);
}

#[rstest]
#[case("localhost", CheckResult::Ok, ", the addresses of localhost, as given")]
#[case(
    "no-such-host.invalid",
    CheckResult::Failed,
    "no-such-host.invalid, which is given for it, does not resolve"
)]
#[tokio::test(flavor = "multi_thread")]
async fn another_name_of_a_node_is_looked_up(#[case] name: &str, #[case] result: CheckResult, #[case] says: &str) {
    let mut bench = Bench::start(ImpConfig::default()).await;
    let given = bench
        .arguments
        .iter_mut()
        .find(|argument| argument.starts_with(SUBSCRIBER));
    *given.unwrap() = format!("{SUBSCRIBER}={name}");
    let report = bench.look(&[]).await;
    expect(&report, Check::Name, SUBSCRIBER, result, &[says]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_resolve_is_named() {
    let mut bench = Bench::start(ImpConfig::default()).await;
    let given = bench
        .arguments
        .iter()
        .position(|argument| argument.starts_with(SUBSCRIBER))
        .unwrap();
    bench.arguments.drain(given - 1..=given);
    let report = bench.look(&[]).await;
    expect_failures(&report, &[(Check::Name, SUBSCRIBER)]);
    expect(&report, Check::RouterPort, SUBSCRIBER, CheckResult::Skipped, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authority_is_refused_before_a_password_is_sent() {
    let bench = Bench::start(ImpConfig::default()).await;
    let other = Bench::start(ImpConfig::default()).await;
    let ca = bench.folder.file("other.pem", other.sim.ca_pem());
    let mut all = bench.arguments.clone();
    all.extend(["--ca".into(), ca]);
    let report = look(&all).await;
    expect_failures(
        &report,
        &[(Check::Certificate, PUBLISHER), (Check::Certificate, SUBSCRIBER)],
    );
    let pin = bench.sim.nodes()[0].certificate_sha256.clone();
    expect(
        &report,
        Check::Certificate,
        PUBLISHER,
        CheckResult::Failed,
        &["not issued by one of the given CAs", &pin, "No password was sent"],
    );
    assert!(bench.logins().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_fingerprint_is_refused_and_the_right_ones_are_told() {
    let bench = Bench::start(ImpConfig::default()).await;
    let mut all = bench.arguments.clone();
    all.extend(["--pin".into(), "00".repeat(32)]);
    let report = look(&all).await;
    let nodes = bench.sim.nodes();
    for node in nodes {
        expect(
            &report,
            Check::Certificate,
            &node.name,
            CheckResult::Failed,
            &["none of the pinned ones", &node.certificate_sha256],
        );
    }
    assert!(bench.logins().is_empty());

    let mut all = bench.arguments.clone();
    for node in nodes {
        all.extend(["--pin".into(), node.certificate_sha256.to_uppercase()]);
    }
    expect_failures(&look(&all).await, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchecked_certificate_is_a_warning_and_none_is_judged_without_an_account() {
    let bench = Bench::start(ImpConfig::default()).await;
    let mut all = bench.arguments.clone();
    all.push("--insecure-skip-verify".into());
    let report = look(&all).await;
    expect_failures(&report, &[]);
    expect(
        &report,
        Check::Certificate,
        PUBLISHER,
        CheckResult::Warning,
        &["not checked at all"],
    );

    let before = bench.logins().len();
    let all: Vec<String> = ["--publisher", PUBLISHER, "--certificates-only"]
        .map(String::from)
        .into_iter()
        .chain(bench.arguments[6..].iter().cloned())
        .collect();
    let report = look(&all).await;
    expect_failures(&report, &[]);
    for node in bench.sim.nodes() {
        expect(
            &report,
            Check::Certificate,
            &node.name,
            CheckResult::Unproven,
            &[&node.certificate_sha256, "Simulated IM&P CA", "--pin"],
        );
    }
    assert_eq!(bench.logins().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_router_port_is_named() {
    let bench = Bench::start(ImpConfig::default()).await;
    let report = bench.look(&["--router-port", "7401"]).await;
    expect_failures(
        &report,
        &[(Check::RouterPort, PUBLISHER), (Check::RouterPort, SUBSCRIBER)],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_hears_no_handshake() {
    let bench = Bench::start(ImpConfig::default()).await;
    bench.look(&[]).await;
    // Both ports were connected to; nothing was said there.
    let xcp: Vec<_> = bench.calls().into_iter().filter(|call| call.service == "xcp").collect();
    assert!(
        xcp.iter().all(|call| call.detail.is_empty() && call.outcome != "ok"),
        "{xcp:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_others_are_listed_and_an_expressways_is_named() {
    let row = |last: u8, cp_id: &str| TableRow {
        pkid: format!("00000000-0000-4000-8000-00000000000{last}"),
        cp_id: cp_id.into(),
    };
    let bench = Bench::start(ImpConfig {
        rows: vec![
            row(1, "cm-2_s2scp-1.expressway-coluc-com"),
            row(2, "something.else"),
            row(3, "cm-2_s2scp-1.eft-xwye-a-coluc-com"),
        ],
        ..ImpConfig::default()
    })
    .await;
    let sample = format!("{}/deploy/samples/coluc.yaml", env!("CARGO_MANIFEST_DIR"));
    let report = bench.look(&["--from", &sample]).await;
    expect_failures(&report, &[]);
    expect(
        &report,
        Check::Rows,
        PUBLISHER,
        CheckResult::Warning,
        &[
            "3 stand there",
            "as an Expressway-E of the name expressway-coluc-com registers itself",
            "something.else (00000000-0000-4000-8000-000000000002)",
            "which this resource wants",
            "foreignComponents",
        ],
    );
    assert_eq!(bench.sim.state().nodes[0].rows.len(), 3);
}

#[rstest]
#[case::on(
    Federation::On,
    CheckResult::Failed,
    "Inter-Domain Federation > XMPP Federation > Settings"
)]
#[case::unknown(Federation::Unknown, CheckResult::Unproven, "proves neither")]
#[tokio::test(flavor = "multi_thread")]
async fn imps_own_federation(#[case] state: Federation, #[case] verdict: CheckResult, #[case] words: &str) {
    let bench = Bench::start(ImpConfig {
        federation: state,
        ..ImpConfig::default()
    })
    .await;
    let report = bench.look(&[]).await;
    for node in [PUBLISHER, SUBSCRIBER] {
        expect(&report, Check::Federation, node, verdict, &[words]);
    }
}

#[rstest]
#[case::the_oldest(&["9.1"], &[], CheckResult::Ok, "9.1; 15.0, 14.0, 12.5, 12.0, 11.5, 11.0, 10.5, 10.0 answered HTTP 599")]
#[case::the_newest(&["15.0"], &[], CheckResult::Ok, "15.0, the first one tried")]
#[case::as_given(&["12.5"], &["--axl-version", "12.5"], CheckResult::Ok, "12.5, as given")]
#[case::another_one_than_given(&["12.5"], &["--axl-version", "14.0"], CheckResult::Failed, "HTTP 599: version 14.0")]
#[case::none(&[], &[], CheckResult::Failed, "HTTP 599 to every version")]
#[tokio::test(flavor = "multi_thread")]
async fn versions(#[case] answered: &[&str], #[case] more: &[&str], #[case] verdict: CheckResult, #[case] words: &str) {
    let bench = Bench::start(ImpConfig {
        axl_versions: answered.iter().map(ToString::to_string).collect(),
        ..ImpConfig::default()
    })
    .await;
    let report = bench.look(more).await;
    expect(&report, Check::AxlVersion, PUBLISHER, verdict, &[words]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_table_of_an_old_release_is_found() {
    let bench = Bench::start(ImpConfig {
        table: "xmpp2snodes".into(),
        axl_versions: vec!["9.1".into()],
        role_column: false,
        ..ImpConfig::default()
    })
    .await;
    let report = bench.look(&[]).await;
    expect_failures(&report, &[]);
    expect(&report, Check::Table, PUBLISHER, CheckResult::Ok, &["xmpp2snodes"]);
    expect(
        &report,
        Check::Nodes,
        PUBLISHER,
        CheckResult::Ok,
        &["2: ecup10.coluc.com (publisher), ecup10s.coluc.com (subscriber)"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_proven_by_one_statement_that_changes_nothing() {
    let row = TableRow {
        pkid: "00000000-0000-4000-8000-000000000001".into(),
        cp_id: "cm-2_s2scp-1.expressway-coluc-com".into(),
    };
    let bench = Bench::start(ImpConfig {
        rows: vec![row.clone()],
        ..ImpConfig::default()
    })
    .await;
    let report = bench.look(&["--prove-write"]).await;
    expect(&report, Check::AxlWrite, PUBLISHER, CheckResult::Ok, &["0 rows"]);
    let writes: Vec<_> = bench
        .calls()
        .into_iter()
        .filter(|call| call.operation == "executeSQLUpdate")
        .collect();
    assert_eq!(writes.len(), 1, "{writes:#?}");
    assert!(writes[0].detail.starts_with("DELETE FROM xmpps2snodes WHERE pkid = '"));
    assert_eq!(bench.sim.state().nodes[0].rows, [row]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_refused_is_named() {
    let bench = Bench::start(ImpConfig::default()).await;
    let options = FaultOptions {
        operation: Some("DELETE".into()),
        message: Some("No such operation".into()),
        ..FaultOptions::default()
    };
    bench.sim.set_fault("axl-fault", options).unwrap();
    let report = bench.look(&["--prove-write"]).await;
    expect_failures(&report, &[(Check::AxlWrite, PUBLISHER)]);
    expect(
        &report,
        Check::AxlWrite,
        PUBLISHER,
        CheckResult::Failed,
        &["executeSQLUpdate was not taken", "No such operation"],
    );
    // The rest is looked at all the same.
    expect(&report, Check::ControlCenter, SUBSCRIBER, CheckResult::Ok, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_is_not_deployable_is_a_warning_with_the_way_by_hand() {
    let bench = Bench::start(ImpConfig::default()).await;
    bench.sim.set_fault("restart-refused", FaultOptions::default()).unwrap();
    let report = bench.look(&[]).await;
    expect_failures(&report, &[]);
    expect(
        &report,
        Check::Restart,
        PUBLISHER,
        CheckResult::Warning,
        &["not deployable", "Manual", "utils service restart Cisco XCP Router"],
    );
    bench.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_whose_only_answer_is_lost_is_not_used_again() {
    let bench = Bench::start(ImpConfig::default()).await;
    bench.sim.set_fault("axl-timeout", FaultOptions::default()).unwrap();
    let started = Instant::now();
    let report = bench.look(&["--call-timeout", "1"]).await;
    assert!(started.elapsed() < Duration::from_secs(20));
    expect(
        &report,
        Check::AxlLogin,
        PUBLISHER,
        CheckResult::Failed,
        &["no answer within 1 s"],
    );
    for node in [PUBLISHER, SUBSCRIBER] {
        expect(
            &report,
            Check::ControlCenter,
            node,
            CheckResult::Skipped,
            &["may have been 401"],
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_has_its_time() {
    let bench = Bench::start(ImpConfig::default()).await;
    bench.sim.set_fault("cc-timeout", FaultOptions::default()).unwrap();
    let started = Instant::now();
    let report = bench.look(&["--call-timeout", "20", "--timeout", "4"]).await;
    assert!(started.elapsed() < Duration::from_secs(15));
    expect(
        &report,
        Check::Time,
        PUBLISHER,
        CheckResult::Failed,
        &["4 s were over", "--timeout"],
    );
    // What was found before is told.
    assert_eq!(rows(&report, Check::Nodes, PUBLISHER).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_cluster_is_asked_no_more_than_imp_allows() {
    let node = |number: usize| testkit_simulator::NodeConfig {
        name: format!("node{number:02}.coluc.com"),
        ..testkit_simulator::NodeConfig::default()
    };
    let mut config = ImpConfig::default();
    config.nodes.extend((0..10).map(node));
    let bench = Bench::start(config).await;
    let report = bench.look(&[]).await;
    expect_failures(&report, &[]);
    let asked = bench
        .calls()
        .into_iter()
        .filter(|call| call.service == "control-center")
        .count();
    assert_eq!(asked, 11);
    let skipped = report
        .rows
        .iter()
        .filter(|row| row.verdict == CheckResult::Skipped)
        .count();
    assert_eq!(skipped, 2, "{}", report.table());
}
