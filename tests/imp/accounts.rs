//! Logins and certificates.

use std::time::{Duration, Instant};

use testkit_simulator::{FaultOptions, fingerprint};
use xmpp_federation_core::Fingerprint;
use xmpp_federation_imp::access::ServerTrust;
use xmpp_federation_imp::desired::RestartMode;
use xmpp_federation_imp::reasons::Reason;
use xmpp_federation_imp::report::{SlotSync, Status};

use crate::support::{Bench, quick, says, secret};

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_is_tried_once_over_all_ports() {
    let mut bench = Bench::start(quick()).await;
    bench.until_ready(40).await;
    bench.sim.set_password("changed");
    bench.desired.requests.refresh = Some("1".into());
    let report = bench.until_axl(5, Reason::Unauthorized).await;
    says(
        &report.axl_authenticated,
        &[
            "401",
            "federation/cups-axl (resourceVersion 1)",
            "https://cups.ciscotac.net:",
            "/axl",
        ],
    );
    // What is proven stays proven: no pod has to stop.
    assert_eq!(report.slots[0].sync, SlotSync::InSync);
    assert_eq!(report.routers_in_sync.status, Status::True);

    // Refreshes and a new process do not change that.
    bench.desired.requests.refresh = Some("2".into());
    bench.keep_on(1.0).await;
    bench.restart_operator();
    bench.desired.requests.refresh = Some("3".into());
    bench.keep_on(1.0).await;
    let report = bench.once().await;
    assert_eq!(report.axl_authenticated.reason, Reason::Unauthorized);
    assert_eq!(report.slots[0].sync, SlotSync::InSync, "found without IM&P");
    let bad = bench.bad_logins();
    assert_eq!(bad.len(), 1, "{bad:#?}");
    assert_eq!(
        bad[0].credential.as_deref(),
        Some(fingerprint("axluser", "axlpassword").as_str())
    );

    // The right Secret.
    bench.desired.target.axl = secret("2", "changed");
    let started = Instant::now();
    bench.until_ready(30).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(bench.restarts(), [1, 1]);
    let text = bench.store.text();
    assert!(!text.contains("axlpassword") && !text.contains("changed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_from_the_start_is_tried_once() {
    let mut bench = Bench::start(quick()).await;
    bench.desired.target.axl = secret("1", "wrong");
    bench.until_axl(5, Reason::Unauthorized).await;
    bench.keep_on(2.0).await;
    assert_eq!(bench.sim.calls(0).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_secrets_with_one_account_count_as_one() {
    let mut bench = Bench::start(quick()).await;
    bench.desired.restart.mode = RestartMode::Manual;
    let mut other = secret("1", "axlpassword");
    other.secret.name = "cups-control-center".into();
    other.secret.uid = "u-2".into();
    bench.desired.target.control_center = Some(other);
    bench.until_registered(10).await;
    bench.sim.set_password("changed");
    bench.desired.requests.refresh = Some("1".into());
    bench.until_axl(5, Reason::Unauthorized).await;
    bench.desired.requests.refresh = Some("2".into());
    bench.keep_on(1.0).await;
    bench.restart_operator();
    bench.keep_on(1.0).await;
    let bad = bench.bad_logins();
    assert_eq!(bad.len(), 1, "{bad:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_role_is_told_apart_by_interface() {
    for (fault, interface, role) in [
        ("axl-403", "AXL", "Standard AXL API Access"),
        ("cc-403", "Control Center", "serviceability"),
    ] {
        let mut bench = Bench::start(quick()).await;
        bench.fault(fault, FaultOptions::default());
        let report = bench.until_axl(5, Reason::Forbidden).await;
        let message = &report.axl_authenticated.message;
        assert!(message.starts_with(interface) && message.contains(role), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_judged_in_exactly_the_way_that_is_set() {
    let mut bench = Bench::start(quick()).await;
    bench.desired.restart.mode = RestartMode::Manual;
    // The CA of another cluster.
    let other = Bench::start(quick()).await;
    bench.desired.target.tls = other.desired.target.tls.clone();
    let report = bench.until_axl(5, Reason::CertificateRefused).await;
    says(&report.axl_authenticated, &["caSecretRef"]);
    assert!(bench.sim.calls(0).is_empty());
    // Something that is no CA.
    bench.desired.target.tls = ServerTrust::Ca {
        pem: b"x".to_vec(),
        source: "Secret imp-ca, key ca.crt".into(),
    };
    says(&bench.once().await.axl_authenticated, &["Secret imp-ca"]);
    // The wrong fingerprint, then the right ones.
    bench.desired.target.tls = ServerTrust::Pinned(vec![Fingerprint::of(b"another certificate")]);
    says(&bench.once().await.axl_authenticated, &["pinned"]);
    let pins = bench
        .sim
        .nodes()
        .iter()
        .map(|node| node.certificate_sha256.parse().unwrap())
        .collect();
    bench.desired.target.tls = ServerTrust::Pinned(pins);
    bench
        .until(5, "accepted", |r| r.axl_authenticated.status == Status::True)
        .await;
    // The opt-out is said aloud.
    bench.desired.target.tls = ServerTrust::Insecure;
    says(&bench.once().await.axl_authenticated, &["insecureSkipVerify"]);
}
