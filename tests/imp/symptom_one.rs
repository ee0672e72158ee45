//! Symptom one of Cisco's guide: an account is refused. Both interfaces, both directions.

use std::time::{Duration, Instant};

use rstest::rstest;
use testkit_simulator::FaultOptions;
use xmpp_federation_imp::desired::RestartMode;
use xmpp_federation_imp::reasons::Reason;
use xmpp_federation_imp::report::Status;

use crate::support::{Bench, quick, secret};

/// With the production's poll of 5 min: what shows sooner shows because the Secret changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_broken_or_mended_shows_at_once() {
    let mut bench = Bench::start(quick()).await;
    bench.until_ready(40).await;
    for (version, (password, expected)) in (2..).zip([("wrong", Status::False), ("axlpassword", Status::True)]) {
        let version: u32 = version;
        bench.desired.target.axl = secret(&version.to_string(), password);
        let changed = Instant::now();
        let report = bench
            .until(10, "told", |r| r.axl_authenticated.status == expected)
            .await;
        assert!(changed.elapsed() < Duration::from_secs(10));
        // Federation goes on: nothing that was proven is doubted.
        assert_eq!(report.routers_in_sync.status, Status::True);
    }
    let bad = bench.sim.calls(0);
    assert_eq!(bad.iter().filter(|call| call.auth == "bad").count(), 1);
    assert_eq!(bench.restarts(), [1, 1]);
}

#[rstest]
#[case::axl_401("axl-401", "AXL", Reason::Unauthorized, &["answered 401", "one way only", "/axl", "has locked"])]
#[case::axl_403("axl-403", "AXL", Reason::Forbidden, &["answered 403", "Standard AXL API Access", "Name and password are right"])]
#[case::control_center_401("cc-401", "Control Center", Reason::Unauthorized, &["answered 401", "AXL accepted the same account before", "neither restarts routers"])]
#[case::control_center_403("cc-403", "Control Center", Reason::Forbidden, &["answered 403", "serviceability role", "Name and password are right"])]
#[tokio::test(flavor = "multi_thread")]
async fn each_interface_and_status_has_its_own_sentence(
    #[case] fault: &str,
    #[case] interface: &str,
    #[case] reason: Reason,
    #[case] parts: &[&str],
) {
    let mut bench = Bench::start(quick()).await;
    bench.desired.restart.mode = RestartMode::Manual;
    bench.until_registered(15).await;
    bench.fault(fault, FaultOptions::default());
    bench.desired.requests.refresh = Some("1".into());
    let report = bench
        .until(10, "refused", |r| r.axl_authenticated.status == Status::False)
        .await;
    let verdict = &report.axl_authenticated;
    assert_eq!(verdict.reason, reason);
    assert!(verdict.message.contains(interface), "{}", verdict.message);
    for part in parts
        .iter()
        .chain(&["federation/cups-axl", "keys username and password"])
    {
        assert!(verdict.message.contains(part), "{part:?} is not in {}", verdict.message);
    }
}

/// The password changes at IM&P and comes back: the same version of the Secret is right again, and
/// only a new one says so within the hour.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_of_the_secret_ends_the_rest() {
    let mut bench = Bench::start(quick()).await;
    bench.until_ready(40).await;
    let change = |bench: &Bench, password: &str| {
        bench.sim.set_password(password);
    };
    change(&bench, "other");
    bench.desired.requests.refresh = Some("1".into());
    bench
        .until(10, "refused", |r| r.axl_authenticated.status == Status::False)
        .await;
    bench.desired.target.axl = secret("2", "other");
    bench
        .until(10, "accepted", |r| r.axl_authenticated.status == Status::True)
        .await;
}
