//! What it costs IM&P, counted at the simulator; time is the operator's own, moved by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use xmpp_federation_imp::Manager;
use xmpp_federation_imp::clock::{Clock, Stamp, SystemClock};
use xmpp_federation_imp::desired::RestartMode;
use xmpp_federation_imp::report::Status;
use xmpp_federation_imp::store::LedgerStore;
use xmpp_federation_imp::testing::Unguarded;
use xmpp_federation_imp::timings::Timings;

use crate::support::{Bench, id, quick};

/// The system's clock, and how far it was moved.
#[derive(Debug, Default)]
pub struct MovedClock(AtomicU64);

impl MovedClock {
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap();
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for MovedClock {
    fn now(&self) -> Stamp {
        SystemClock
            .now()
            .plus(Duration::from_millis(self.0.load(Ordering::SeqCst)))
    }
}

/// An operator with a clock of its own and the waits of production, beside a cluster in order.
async fn in_order() -> (Bench, Arc<MovedClock>) {
    let mut bench = Bench::start(quick()).await;
    bench.desired.component_ids = vec![id(0), id(1)];
    bench.until_ready(100).await;
    let clock = Arc::new(MovedClock::default());
    let store = Arc::clone(&bench.store) as Arc<dyn LedgerStore>;
    bench.operator =
        Manager::with(store, Arc::new(Unguarded), Arc::clone(&clock) as Arc<dyn Clock>).timed(Timings::default());
    let report = bench.until_ready(5).await;
    assert!(report.events.iter().all(|event| !event.warning));
    (bench, clock)
}

/// Lets time pass, here and at the cluster.
fn pass(bench: &Bench, clock: &MovedClock, by: Duration) {
    clock.advance(by);
    bench.sim.age(by);
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_slots_cost_four_reads_and_a_write_per_row() {
    let mut bench = Bench::start(quick()).await;
    bench.desired.component_ids = (0..8).map(id).collect();
    bench.desired.restart.mode = RestartMode::Manual;
    // The version is known: stepping costs once per process.
    bench.desired.target.axl_version = Some("14.0".parse().unwrap());
    bench.until_registered(10).await;
    let reads = bench.calls("axl", "executeSQLQuery");
    assert!(reads.len() <= 4, "{reads:#?}");
    let writes = bench.calls("axl", "executeSQLUpdate");
    assert_eq!(writes.len(), 8);
    assert_eq!(bench.rows().len(), 8);
    // Eight more, later: what is known need not be read again, but for the rows.
    let before = bench.calls("axl", "executeSQLQuery").len();
    bench.desired.component_ids = (0..16).map(id).collect();
    bench
        .until(10, "registered", |r| {
            r.components_registered.status == Status::True && r.registrations.len() == 16
        })
        .await;
    let reads = bench.calls("axl", "executeSQLQuery").len() - before;
    assert!(reads <= 2, "{reads} reads");
    assert_eq!(bench.calls("axl", "executeSQLUpdate").len(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_in_order_is_asked_once_in_five_minutes() {
    let (mut bench, clock) = in_order().await;
    let poll = bench.desired.poll_interval;
    assert_eq!(poll, Duration::from_mins(5));
    let ledger = bench.store.ledger_writes();
    let (mut reads, mut looks) = (Vec::new(), Vec::new());
    let first = bench.sim.calls(0).len();
    let mut seen = first;
    // Two hours, called back whenever the operator asks for it and each minute besides.
    let mut passed = Duration::ZERO;
    while passed < Duration::from_hours(2) {
        let report = bench.once().await;
        let calls = bench.sim.calls(u64::try_from(seen).unwrap());
        seen += calls.len();
        for call in calls {
            match &*call.service {
                "axl" => reads.push(passed),
                _ => looks.push((call.node, passed)),
            }
        }
        let step = report
            .requeue_after
            .clamp(Duration::from_millis(100), Duration::from_mins(1));
        pass(&bench, &clock, step);
        passed += step;
    }
    assert!(reads.len() >= 20, "it goes on looking: {reads:?}");
    let slack = Duration::from_secs(1);
    for pair in reads.windows(2) {
        assert!(pair[1] + slack >= pair[0] + poll, "{reads:?}");
    }
    for node in ["ecup10.coluc.com", "ecup10s.coluc.com"] {
        let looks: Vec<_> = looks.iter().filter(|look| look.0 == node).collect();
        assert!(looks.len() >= 20);
        for pair in looks.windows(2) {
            assert!(pair[1].1 + slack >= pair[0].1 + poll, "{looks:?}");
        }
    }
    assert_eq!(bench.calls("axl", "executeSQLUpdate").len(), 2, "no writes");
    assert_eq!(bench.restarts(), [1, 1]);
    assert_eq!(bench.store.ledger_writes(), ledger, "nor into the ledger");
}

#[tokio::test(flavor = "multi_thread")]
async fn control_center_is_called_less_than_twelve_times_a_minute_over_all_resources() {
    let (mut bench, clock) = in_order().await;
    // Three resources, two names, and all of them want to look each second.
    bench.desired.poll_interval = Duration::from_secs(1);
    let mut others = Vec::new();
    for (uid, publisher) in [("r-2", "ecup10.coluc.com"), ("r-3", "cups.ciscotac.net")] {
        let mut other = bench.desired.clone();
        other.target.publisher = publisher.to_owned();
        other.owner.uid = uid.into();
        other.owner.name = uid.into();
        bench.desired.live_owners.insert(uid);
        others.push(other);
    }
    let mut times = Vec::new();
    let mut seen = bench.sim.calls(0).len();
    let mut passed = Duration::ZERO;
    while passed < Duration::from_mins(5) {
        for turn in 0..3 {
            if turn == 0 {
                bench.once().await;
            } else {
                others[turn - 1].live_owners.clone_from(&bench.desired.live_owners);
                bench.operator.reconcile(&others[turn - 1]).await;
            }
            let calls = bench.sim.calls(u64::try_from(seen).unwrap());
            seen += calls.len();
            let looks = calls.iter().filter(|call| call.service == "control-center").count();
            let now = Duration::from_millis(clock.now().mono_ms);
            times.extend(std::iter::repeat_n(now, looks));
        }
        pass(&bench, &clock, Duration::from_secs(1));
        passed += Duration::from_secs(1);
    }
    assert!(times.len() >= 40, "the budget is used: {times:?}");
    for (at, from) in times.iter().enumerate() {
        // Noted when the answer was there, a little after it was counted.
        let until = *from + Duration::from_secs(59);
        let within = times[at..].iter().filter(|time| **time < until).count();
        assert!(within < 12, "{within} calls in a minute: {times:?}");
    }
    assert_eq!(bench.restarts(), [1, 1]);
}
