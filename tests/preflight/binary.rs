//! The binary itself: exit codes, output, and nothing secret in it.

use std::process::{Command, Output};

use testkit_simulator::ImpConfig;

use crate::support::{Bench, PASSWORD, PUBLISHER};

/// Runs the subcommand without what a pod's environment has.
fn preflight(arguments: &[String], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xmpp-federation-operator"));
    for name in ["POD_NAMESPACE", "POD_NAME", "EDGE_IMAGE", "IMP_PASSWORD"] {
        command.env_remove(name);
    }
    command
        .arg("preflight")
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_binary_looks_and_tells_by_its_exit_code() {
    let bench = Bench::start(ImpConfig::default()).await;
    let mut all = bench.with_ca();
    all.extend(["--output".into(), "json".into(), "--log".into(), "info".into()]);
    let done = preflight(&all, &[]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let value: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(value["result"], "ok");
    assert_eq!(value["counts"]["failed"], 0);
    let log = String::from_utf8(done.stderr).unwrap();
    assert!(log.contains("executeSQLQuery"), "{log}");
    let text = String::from_utf8(done.stdout).unwrap() + &log;
    assert!(!text.contains(PASSWORD), "{text}");

    // The password of the environment, with what the file of a resource says of a pod beside it.
    let sample = std::fs::read_to_string(format!("{}/deploy/samples/coluc.yaml", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let pins: Vec<String> = bench
        .sim
        .nodes()
        .iter()
        .map(|node| node.certificate_sha256.clone())
        .collect();
    let yaml = sample
        .replace(
            "caSecretRef: {name: cups-ca, key: ca.crt}",
            &format!("pinnedSha256: [{}]", pins.join(", ")),
        )
        .replace("cups.ciscotac.net", PUBLISHER);
    let file = bench.folder.file("resource.yaml", &yaml);
    let mut all: Vec<String> = ["--from", &file, "--user", "axluser"].map(String::from).into();
    for (name, address) in &bench.nodes {
        all.extend(["--node".into(), format!("{name}={address}")]);
    }
    let pod = [("POD_NAMESPACE", "federation"), ("POD_NAME", "x"), ("EDGE_IMAGE", "x")];
    let mut environment = pod.to_vec();
    environment.push(("IMP_PASSWORD", PASSWORD));
    let done = preflight(&all, &environment);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(text.starts_with("VERDICT"), "{text}");
    assert!(done.stderr.is_empty());

    let mut environment = pod.to_vec();
    environment.push(("IMP_PASSWORD", "wrong-word"));
    let done = preflight(&all, &environment);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(text.contains("401") && !text.contains("wrong-word"), "{text}");
}

#[test]
fn wrong_use_ends_with_two_and_a_sentence() {
    let cases: [(&[&str], &str); 4] = [
        (&[], "give --publisher HOST"),
        (&["--publisher", "p", "--user", "u"], "choose one way"),
        (
            &["--publisher", "p", "--pin", "x", "--insecure-skip-verify"],
            "cannot be used with",
        ),
        (&["--from", "/no/such/file"], "/no/such/file cannot be read"),
    ];
    for (arguments, expected) in cases {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let done = preflight(&arguments, &[]);
        assert_eq!(done.status.code(), Some(2), "{done:?}");
        let text = String::from_utf8_lossy(&done.stderr);
        assert!(text.contains(expected), "{text}");
        assert!(done.stdout.is_empty());
    }
}

#[test]
fn without_the_subcommand_the_operator_is_as_before() {
    let done = Command::new(env!("CARGO_BIN_EXE_xmpp-federation-operator"))
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(2));
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(text.contains("--namespace"), "{text}");
}
