//! The two ways to install the operator give the same objects: the chart and `deploy/`.
//!
//! Needs helm and kubectl, which `make setup` builds; `make test` runs it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize as _;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn tool(name: &str) -> PathBuf {
    let path = root().join("target/lab-bin").join(name);
    assert!(path.exists(), "{} is missing: run `make setup`", path.display());
    path
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn chart(settings: &[&str]) -> String {
    let mut command = Command::new(tool("helm"));
    command
        .args(["template", "xmpp-federation-operator"])
        .arg(root().join("charts/xmpp-federation-operator"))
        .args(["--namespace", "xmpp-federation-system"]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    run(&mut command)
}

/// Objects by kind, namespace and name, without labels, which differ by design.
fn objects(yaml: &str) -> BTreeMap<String, Value> {
    let mut objects = BTreeMap::new();
    for document in serde_yaml::Deserializer::from_str(yaml) {
        let mut object = Value::deserialize(document).unwrap();
        if object.is_null() {
            continue;
        }
        strip_labels(&mut object);
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("-");
        let key = format!("{} {}", text("/kind"), text("/metadata/name"));
        assert!(objects.insert(key.clone(), object).is_none(), "{key} is there twice");
    }
    objects
}

fn strip_labels(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("labels");
            map.remove("matchLabels");
            map.values_mut().for_each(strip_labels);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_labels),
        _ => {}
    }
}

#[test]
#[ignore = "needs helm and kubectl; make test runs it"]
fn the_chart_and_the_kustomization_install_the_same_objects() {
    let kustomized = run(Command::new(tool("kubectl"))
        .arg("kustomize")
        .arg(root().join("deploy")));
    let mut deploy = objects(&kustomized);
    // Helm creates namespaces by a flag of its own.
    deploy.retain(|key, _| !key.starts_with("Namespace "));
    let chart = objects(&chart(&[
        "crds.enabled=false",
        "image.repository=localhost/xmpp-federation-operator",
        "image.tag=dev",
        "edgeImage.repository=localhost/xmpp-federation-edge",
        "edgeImage.tag=dev",
    ]));
    assert_eq!(chart.keys().collect::<Vec<_>>(), deploy.keys().collect::<Vec<_>>());
    for (key, object) in &deploy {
        assert_eq!(&chart[key], object, "{key} differs");
    }
}

#[test]
#[ignore = "needs helm and kubectl; make test runs it"]
fn the_charts_definition_is_the_generated_one_and_outlives_the_release() {
    let plain = std::fs::read_to_string(root().join("crds/xmppfederations.yaml")).unwrap();
    let plain = objects(&plain);
    let mut rendered = objects(&chart(&[]));
    rendered.retain(|key, _| plain.contains_key(key));
    assert_eq!(rendered.len(), 1);
    for (key, mut object) in rendered {
        let kept = object["metadata"]["annotations"]["helm.sh/resource-policy"].take();
        assert_eq!(kept, "keep");
        assert_eq!(object["spec"], plain[&key]["spec"]);
    }
    assert!(!chart(&["crds.enabled=false"]).contains("CustomResourceDefinition"));
}

#[test]
#[ignore = "needs helm and kubectl; make test runs it"]
fn named_namespaces_take_roles_instead_of_a_cluster_wide_one() {
    let objects = objects(&chart(&["crds.enabled=false", "watchNamespaces={federation}"]));
    let mine = |key: &str| objects.contains_key(key);
    assert!(mine("Role xmpp-federation-operator-federations"));
    assert!(!mine("ClusterRole xmpp-federation-operator"));
    let deployment = &objects["Deployment xmpp-federation-operator"];
    assert!(deployment.to_string().contains("WATCH_NAMESPACES"));
}
