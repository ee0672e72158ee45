//! The client itself: versions, certificates, back-off, one request at a time, and what it logs.

use std::time::Duration;

use testkit_simulator::{FaultOptions, ImpConfig};
use xmpp_federation_imp::access::ServerTrust;
use xmpp_federation_imp::desired::RestartMode;
use xmpp_federation_imp::reasons::Reason;
use xmpp_federation_imp::report::{Report, Status};
use xmpp_federation_imp::timings::Timings;

use crate::log::Log;
use crate::support::{Bench, quick, quick_timings, says};

fn alone() -> ImpConfig {
    let mut config = ImpConfig {
        users: Vec::new(),
        ..quick()
    };
    config.nodes.truncate(1);
    config
}

async fn by_hand(config: ImpConfig, timings: Timings) -> Bench {
    let mut bench = Bench::timed(config, timings).await;
    bench.desired.restart.mode = RestartMode::Manual;
    bench
}

fn registered(report: &Report) -> bool {
    report.components_registered.status == Status::True
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_upgrade_the_version_is_found_anew() {
    let mut bench = by_hand(alone(), quick_timings()).await;
    let report = bench.until(5, "registered", registered).await;
    assert_eq!(report.axl_version.as_deref(), Some("14.0"));
    bench.sim.change(|settings| settings.axl_versions = vec!["15.0".into()]);
    let before = bench.sim.calls(0).len();
    bench.desired.requests.refresh = Some("1".into());
    let report = bench.once().await;
    assert_eq!(report.axl_version.as_deref(), Some("15.0"));
    assert_eq!(report.axl_authenticated.status, Status::True);
    let unsupported = |bench: &Bench, from: usize| {
        let calls = bench.sim.calls(u64::try_from(from).unwrap());
        calls.iter().filter(|call| call.status == 599).count()
    };
    assert_eq!(unsupported(&bench, before), 1, "the old one once");
    let before = bench.sim.calls(0).len();
    bench.desired.requests.refresh = Some("2".into());
    bench.once().await;
    assert_eq!(unsupported(&bench, before), 0, "it is remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_set_is_the_only_one_that_is_tried() {
    let mut bench = by_hand(alone(), quick_timings()).await;
    bench.desired.target.axl_version = Some("10.5".parse().unwrap());
    let report = bench.until_axl(5, Reason::AxlVersionUnsupported).await;
    let message = &report.axl_authenticated.message;
    assert!(message.contains("imp[].axl.version"), "{message}");
    bench.keep_on(1.0).await;
    assert_eq!(bench.sim.calls(0).len(), 1);
    bench.desired.target.axl_version = Some("12.5".parse().unwrap());
    let report = bench.until(5, "registered", registered).await;
    assert_eq!(report.axl_version.as_deref(), Some("12.5"));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_fail_are_tried_less_and_less_often() {
    let timings = Timings {
        back_off_unit: Duration::from_millis(100),
        ..quick_timings()
    };
    let mut bench = by_hand(alone(), timings).await;
    let options = FaultOptions {
        operation: Some("INSERT".into()),
        message: Some("Locked".into()),
        ..FaultOptions::default()
    };
    bench.fault("axl-fault", options);
    // 0.5, 1, 2 and 4 s apart.
    bench.keep_on(8.5).await;
    let tries: Vec<u64> = bench
        .calls("axl", "executeSQLUpdate")
        .iter()
        .map(|call| call.at_ms)
        .collect();
    let gaps: Vec<u64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((3..=4).contains(&gaps.len()), "{gaps:?}");
    for (gap, least) in gaps.iter().zip([450, 950, 1_950, 3_950]) {
        assert!(*gap >= least, "{gaps:?}");
    }
    bench.sim.clear_fault("axl-fault");
    bench.until(15, "registered", registered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_tomcat_made_itself_can_be_pinned_and_not_trusted_as_its_authority() {
    let mut bench = by_hand(alone(), quick_timings()).await;
    bench.fault("tls-self-signed", FaultOptions::default());
    let node = bench.sim.nodes()[0].clone();
    bench.desired.target.tls = ServerTrust::Ca {
        pem: node.self_signed_pem.clone().into_bytes(),
        source: "Secret imp-ca, key ca.crt".into(),
    };
    let report = bench.until_axl(5, Reason::CertificateRefused).await;
    says(&report.axl_authenticated, &["CA:true", "pinnedSha256"]);
    bench.desired.target.tls = ServerTrust::Pinned(vec![node.self_signed_sha256.parse().unwrap()]);
    bench.until(5, "registered", registered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_has_one_request_at_a_time_over_all_resources() {
    let mut bench = by_hand(quick(), quick_timings()).await;
    bench.until(5, "registered", registered).await;
    bench.sim.change(|settings| settings.think = Duration::from_millis(100));
    let mut resources = vec![bench.desired.clone()];
    for number in 2..5 {
        let mut other = bench.desired.clone();
        other.owner.uid = format!("r-{number}");
        if number % 2 == 0 {
            other.target.publisher = "ecup10.coluc.com".into();
        }
        resources.push(other);
    }
    let live = resources.iter().map(|r| r.owner.uid.clone()).into();
    for resource in &mut resources {
        resource.live_owners.clone_from(&live);
        resource.requests.refresh = Some("all at once".into());
    }
    // Their own first looks, which find out that the two names are one.
    let first = &bench.operator;
    for resource in &resources {
        first.reconcile(resource).await;
    }
    let before = bench.sim.calls(0).len();
    for resource in &mut resources {
        resource.requests.refresh = Some("once more".into());
    }
    futures::future::join_all(resources.iter().map(|r| bench.operator.reconcile(r))).await;
    assert!(bench.sim.calls(0).len() >= before + resources.len());
    assert_eq!(bench.sim.most_in_flight(), 1);
}

#[tokio::test]
async fn each_call_is_one_line_in_the_log_without_a_secret() {
    let log = Log::start();
    let mut bench = by_hand(quick(), quick_timings()).await;
    let ports: Vec<String> = bench
        .sim
        .nodes()
        .iter()
        .map(|node| format!(":{}/", node.https.port()))
        .collect();
    bench.until(10, "registered", registered).await;
    for fault in ["axl-fault", "axl-403"] {
        bench.fault(fault, FaultOptions::default());
        bench.desired.requests.refresh = Some(fault.into());
        bench.once().await;
        bench.sim.clear_fault(fault);
    }
    bench.sim.set_password("anotherpassword");
    bench.desired.requests.refresh = Some("401".into());
    bench.once().await;

    let text = log.text();
    // `axluser:axlpassword` and its two parts.
    for secret in ["axlpassword", "YXhsdXNlcjpheGxwYXNzd29yZA", "anotherpassword"] {
        assert!(!text.contains(secret), "{secret} is in the log");
    }
    let told: Vec<_> = log
        .lines()
        .into_iter()
        .filter(|line| matches!(line["target"].as_str(), Some("network.axl" | "network.control_center")))
        .filter(|line| {
            let url = line["url"].as_str().unwrap();
            ports.iter().any(|port| url.contains(port))
        })
        .collect();
    // What is not sent because the account rests is told too, without a status.
    let (told, held): (Vec<_>, Vec<_>) = told.into_iter().partition(|line| line["status"] != 0);
    for line in &held {
        let reason = line["reason"].as_str().unwrap();
        assert!(reason.contains("not asked before"), "{line}");
    }
    let calls = bench.sim.calls(0);
    assert_eq!(told.len(), calls.len(), "one line per call");
    for (line, call) in told.iter().zip(&calls) {
        let (module, path) = match &*call.service {
            "axl" => ("network.axl", "/axl/"),
            _ => (
                "network.control_center",
                "/controlcenterservice2/services/ControlCenterServices",
            ),
        };
        assert_eq!(line["module"], module, "{line}");
        let url = line["url"].as_str().unwrap();
        assert!(url.starts_with("https://") && url.ends_with(path), "{line}");
        assert_eq!(line["function"], call.operation.as_str(), "{line}");
        assert_eq!(line["status"], call.status, "{line}");
        let reason = line["reason"].as_str().unwrap();
        assert_eq!(reason == "None", call.status == 200, "{line}");
        assert!(line["duration_ms"].is_u64(), "{line}");
    }
    for status in [200, 401, 403, 500, 599] {
        assert!(told.iter().any(|line| line["status"] == status), "{status}");
    }
}
