//! What was done is told four times: event, log line, recent action, count.

use std::sync::Arc;

use testkit_simulator::FaultOptions;
use xmpp_federation_core::Activation;
use xmpp_federation_imp::Manager;

use xmpp_federation_imp::reasons::Reason;
use xmpp_federation_imp::records::ActionKind;
use xmpp_federation_imp::report::Report;
use xmpp_federation_imp::store::LedgerStore;
use xmpp_federation_imp::testing::Unguarded;
use xmpp_federation_operator::runtime::metrics::Metrics;

use crate::log::Log;
use crate::support::{Bench, PUBLISHER, SUBSCRIBER, id, quick, quick_timings};

/// The lines of that action: subject, reason, outcome.
fn actions(log: &Log, action: &str) -> Vec<(String, String, String)> {
    log.lines()
        .into_iter()
        .filter(|line| line["message"] == "IM&P action" && line["action"] == action)
        .map(|line| {
            let field = |name: &str| line[name].as_str().unwrap().to_owned();
            (field("subject"), field("reason"), field("outcome"))
        })
        .collect()
}

/// Counts what the operator of the bench does.
fn counted(bench: &mut Bench) -> Metrics {
    let metrics = Metrics::new();
    bench.operator = Manager::new(Arc::clone(&bench.store) as Arc<dyn LedgerStore>, Arc::new(Unguarded))
        .timed(quick_timings())
        .counted_by(Arc::new(metrics.clone()));
    metrics
}

fn count(metrics: &Metrics, action: &str, outcome: &str) -> u64 {
    let start = format!("xmpp_federation_imp_actions_total{{action=\"{action}\",outcome=\"{outcome}\"}} ");
    let text = metrics.encode().unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix(&start))
        .map_or(0, |number| number.parse().unwrap())
}

/// That an action was told everywhere, each time with the same words, and nowhere else.
#[track_caller]
fn told(bench: &Bench, report: &Report, log: &Log, (action, reason): (&str, Reason), subject: &str, words: &[&str]) {
    let all = |text: &str| words.iter().all(|word| text.contains(word));
    let events: Vec<_> = bench
        .events
        .iter()
        .filter(|event| event.reason == reason && event.message.contains(subject))
        .collect();
    assert_eq!(events.len(), 1, "{action}: {events:#?}");
    assert!(all(&events[0].message), "{action}: {events:#?}");
    let recent: Vec<_> = report
        .recent_actions
        .iter()
        .filter(|done| done.action.to_string() == action && done.subject.contains(subject))
        .collect();
    assert_eq!(recent.len(), 1, "{action}: {:#?}", report.recent_actions);
    let one = format!("{}: {}", recent[0].reason, recent[0].outcome);
    assert!(all(&one), "{action}: {recent:#?}");
    let lines: Vec<_> = actions(log, action)
        .into_iter()
        .filter(|(about, _, _)| about.contains(subject))
        .collect();
    assert_eq!(
        lines,
        [(
            recent[0].subject.clone(),
            recent[0].reason.clone(),
            recent[0].outcome.clone()
        )],
        "{action}"
    );
}

#[tokio::test]
async fn rows_and_restarts_are_told_with_reason_before_and_after() {
    let log = Log::start();
    let mut bench = Bench::start(quick()).await;
    let metrics = counted(&mut bench);
    bench.until_ready(60).await;
    let report = bench.once().await;
    let id = id(0).to_string();

    told(
        &bench,
        &report,
        &log,
        ("InsertRow", Reason::RowInserted),
        &id,
        &[
            "federation/coluc has a slot for it",
            "the table had 0 rows of ours, has 1",
        ],
    );
    let unread = format!("its router has not read the new row of {id}");
    for node in [PUBLISHER, SUBSCRIBER] {
        told(
            &bench,
            &report,
            &log,
            ("RestartRouter", Reason::RouterRestart),
            node,
            &[&unread, "accepted; up time 864", " s before"],
        );
        told(
            &bench,
            &report,
            &log,
            ("RouterBack", Reason::RouterBack),
            node,
            &[&unread, "up time 864", " before the command of ", " s after"],
        );
        let line = format!("xmpp_federation_router_restarts_total{{node=\"{node}\",reason=\"rows\"}} 1\n");
        let text = metrics.encode().unwrap();
        assert!(text.contains(&line), "{text}");
    }
    assert_eq!(count(&metrics, "InsertRow", "done"), 1);
    assert_eq!(count(&metrics, "RestartRouter", "done"), 2);
    assert_eq!(count(&metrics, "RouterBack", "done"), 2);

    bench.desired.activation = Activation::Prepared;
    let report = bench
        .until(20, "removed", |r| {
            r.components_registered.reason == Reason::Prepared && r.registrations.is_empty()
        })
        .await;
    told(
        &bench,
        &report,
        &log,
        ("DeleteRow", Reason::RowDeleted),
        &id,
        &["it is not wanted any more", "the table had 1 rows of ours, has 0"],
    );
    assert_eq!(count(&metrics, "DeleteRow", "done"), 1);
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_told_twice_unknown_then_done() {
    let log = Log::start();
    let mut bench = Bench::start(quick()).await;
    let metrics = counted(&mut bench);
    bench.fault("axl-reply-lost", FaultOptions::default().once().of("INSERT"));
    let report = bench.until(20, "registered", |r| !r.registrations.is_empty()).await;
    let lines = actions(&log, "InsertRow");
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].2.contains("had 0 rows of ours; the connection"));
    assert!(lines[1].2.contains("the table shows the row"));
    let inserted: Vec<_> = bench
        .events
        .iter()
        .filter(|event| event.reason == Reason::RowInserted)
        .map(|event| event.warning)
        .collect();
    assert_eq!(inserted, [true, false]);
    let recent = report.recent_actions.iter();
    assert_eq!(recent.filter(|done| done.action == ActionKind::InsertRow).count(), 2);
    assert_eq!(count(&metrics, "InsertRow", "unknown"), 1);
    assert_eq!(count(&metrics, "InsertRow", "done"), 1);
    assert_eq!(bench.rows().len(), 1);
}

#[tokio::test]
async fn a_refused_restart_is_told_as_not_done() {
    let log = Log::start();
    let mut bench = Bench::start(quick()).await;
    let metrics = counted(&mut bench);
    bench.fault("restart-refused", FaultOptions::default());
    let report = bench.until_routers(30, Reason::RestartRefused).await;
    // A refusal is no reason not to ask the other node.
    let lines = actions(&log, "RestartRouter");
    let subject = lines[0].0.clone();
    told(
        &bench,
        &report,
        &log,
        ("RestartRouter", Reason::RouterRestart),
        &subject,
        &["refused (reason code -1045", "up time 864"],
    );
    let counted = count(&metrics, "RestartRouter", "not-done");
    assert_eq!(usize::try_from(counted).unwrap(), lines.len());
    assert_eq!(bench.restart_commands().len(), lines.len());
}

#[tokio::test]
async fn an_adoption_is_told() {
    let log = Log::start();
    let mut config = quick();
    config.rows = vec![testkit_simulator::Row {
        pkid: "00000000-0000-4000-8000-000000000001".into(),
        cp_id: id(0).to_string(),
    }];
    let mut bench = Bench::start(config).await;
    let metrics = counted(&mut bench);
    bench.desired.requests.adopt_rows = Some("1".into());
    let report = bench.until(10, "adopted", |r| !r.registrations.is_empty()).await;
    told(
        &bench,
        &report,
        &log,
        ("AdoptRow", Reason::RowAdopted),
        id(0).as_str(),
        &["xmppfederation.io/adopt-rows", "nothing was written"],
    );
    assert_eq!(count(&metrics, "AdoptRow", "done"), 1);
    assert!(bench.calls("axl", "executeSQLUpdate").is_empty());
}
