//! The two ways to install the operator give the same objects: the chart and `deploy/`.
//!
//! Needs helm and kubectl, which `make setup` builds; `make test` runs it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
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

fn kustomization() -> String {
    run(Command::new(tool("kubectl"))
        .arg("kustomize")
        .arg(root().join("deploy")))
}

/// All objects, without labels, which differ by design.
fn documents(yaml: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(yaml).map(|document| Value::deserialize(document).unwrap());
    let mut objects: Vec<Value> = documents.filter(|object| !object.is_null()).collect();
    objects.iter_mut().for_each(strip_labels);
    objects
}

/// Objects by kind and name.
fn objects(yaml: &str) -> BTreeMap<String, Value> {
    let mut objects = BTreeMap::new();
    for object in documents(yaml) {
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
    let mut deploy = objects(&kustomization());
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
fn the_operators_policy_is_the_same_in_both() {
    let policy = "NetworkPolicy xmpp-federation-operator";
    let deploy = std::fs::read_to_string(root().join("deploy/network-policy.yaml")).unwrap();
    let chart_of = |settings: &[&str]| objects(&chart(settings)).remove(policy);
    assert_eq!(chart_of(&[]), None);
    assert_eq!(
        chart_of(&["networkPolicy.enabled=true"]),
        objects(&deploy).remove(policy)
    );
    let extended = chart_of(&[
        "networkPolicy.enabled=true",
        "networkPolicy.impPorts={8443,8444}",
        "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus",
        "networkPolicy.extraEgress[0].ports[0].port=9",
    ]);
    let extended = extended.unwrap();
    let at = |pointer: &str| extended.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(at("/spec/ingress/0/ports/0/port"), 8081);
    assert_eq!(at("/spec/egress/2/ports/1/port"), 8444);
    assert_eq!(at("/spec/egress/4/ports/0/port"), 9);
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
fn what_a_platform_adds_comes_through() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let (image, edge) = (format!("image.digest={digest}"), format!("edgeImage.digest={digest}"));
    let objects = objects(&chart(&[
        "crds.enabled=false",
        &image,
        &edge,
        "edgeImage.pullSecrets={mirror,other}",
        "extraArgs={--log=debug}",
        "extraEnv[0].name=HEALTH_ADDRESS",
        "extraEnv[0].value=0.0.0.0:8081",
        "dnsPolicy=None",
        "dnsConfig.nameservers={192.0.2.53}",
        "hostAliases[0].ip=192.0.2.10",
        "hostAliases[0].hostnames={cups.example}",
        "podDisruptionBudget.enabled=true",
        "metricsService.enabled=true",
    ]));
    let pod = &objects["Deployment xmpp-federation-operator"]["spec"]["template"]["spec"];
    assert_eq!(pod["dnsPolicy"], "None");
    assert_eq!(pod["dnsConfig"]["nameservers"][0], "192.0.2.53");
    assert_eq!(pod["hostAliases"][0]["ip"], "192.0.2.10");
    let container = &pod["containers"][0];
    assert_eq!(container["image"], format!("xmpp-federation-operator@{digest}"));
    assert_eq!(container["args"][0], "--log=debug");
    let variables = container["env"].as_array().unwrap();
    let of = |name: &str| variables.iter().find(|variable| variable["name"] == name).unwrap()["value"].clone();
    assert_eq!(of("EDGE_IMAGE"), format!("xmpp-federation-edge@{digest}"));
    assert_eq!(of("EDGE_IMAGE_PULL_SECRETS"), "mirror,other");
    assert_eq!(of("HEALTH_ADDRESS"), "0.0.0.0:8081");
    let budget = &objects["PodDisruptionBudget xmpp-federation-operator"];
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    let service = &objects["Service xmpp-federation-operator-metrics"];
    assert_eq!(service["spec"]["ports"][0]["targetPort"], "health");
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

#[test]
#[ignore = "needs helm and kubectl; make test runs it"]
fn two_releases_have_no_object_in_common_but_the_definition() {
    let names = |settings: &[&str]| -> BTreeSet<String> {
        let settings = [&["crds.enabled=false", "watchNamespaces={one}"], settings].concat();
        objects(&chart(&settings)).into_keys().collect()
    };
    let (first, second) = (names(&[]), names(&["fullnameOverride=another"]));
    assert_eq!(first.intersection(&second).collect::<Vec<_>>(), Vec::<&String>::new());
    let without = names(&["userRoles.create=false"]);
    assert!(!without.iter().any(|key| key.starts_with("ClusterRole")), "{without:?}");
    assert!(
        first.contains("ClusterRole xmpp-federation-operator-editor"),
        "{first:?}"
    );
}

#[test]
#[ignore = "needs helm and kubectl; make test runs it"]
fn the_chart_turns_the_label_on_secrets_on() {
    let environment = |settings: &[&str]| chart(settings).contains("REQUIRE_LABELLED_SECRETS");
    assert!(!environment(&[]));
    assert!(environment(&["requireLabelledSecrets=true"]));
}

/// API group, resource and verbs that the operator uses in the namespaces of the resources.
const USED: &[(&str, &str, &str)] = &[
    ("xmppfederation.io", "xmppfederations", "get list watch patch"),
    ("xmppfederation.io", "xmppfederations/status", "patch"),
    ("xmppfederation.io", "xmppfederations/finalizers", "update"),
    ("", "secrets", "get list watch create patch delete"),
    ("", "configmaps", "get list watch create patch"),
    ("", "services", "get list watch create patch"),
    ("", "serviceaccounts", "get list watch create patch"),
    ("", "pods", "list watch patch"),
    ("", "events", "list watch"),
    ("apps", "statefulsets", "get list watch create patch"),
    ("policy", "poddisruptionbudgets", "get list watch create patch"),
    (
        "networking.k8s.io",
        "networkpolicies",
        "get list watch create patch delete",
    ),
    ("events.k8s.io", "events", "create patch"),
];
/// The same in its own namespace.
const USED_AT_HOME: &[(&str, &str, &str)] = &[
    ("", "configmaps", "get list watch create update"),
    ("", "secrets", "get create"),
];

/// Beside that, cluster-wide: leadership of the cluster, in the namespace of its Lease and in all others.
const LEADS_ALL: &[(&str, &str, &str)] = &[
    ("coordination.k8s.io", "leases xmpp-federation-operator", "get update"),
    ("coordination.k8s.io", "leases", "create"),
];
const LOOKS_FOR_LEADERS: (&str, &str, &str) = ("coordination.k8s.io", "leases", "list");
/// With named namespaces: leadership of each, and a look at that of the cluster.
const LEADS_ONE: (&str, &str, &str) = ("coordination.k8s.io", "leases", "get create update");
const ASKS_WHO_LEADS_ALL: &[(&str, &str, &str)] = &[("coordination.k8s.io", "leases xmpp-federation-operator", "get")];

/// Verbs by API group and resource, with the names of objects where only some are meant.
type Verbs = BTreeMap<(String, String), BTreeSet<String>>;

fn verbs(used: &[(&str, &str, &str)]) -> Verbs {
    used.iter()
        .map(|(group, resource, verbs)| {
            let verbs = verbs.split(' ').map(str::to_owned).collect();
            (((*group).to_owned(), (*resource).to_owned()), verbs)
        })
        .collect()
}

/// What a role that is bound to the operator grants, by namespace; `*` is every namespace.
fn granted(yaml: &str) -> BTreeMap<String, Verbs> {
    let documents = documents(yaml);
    let text = |object: &Value, pointer: &str| -> String {
        let found = object.pointer(pointer).and_then(Value::as_str);
        found.unwrap_or("*").to_owned()
    };
    let texts = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
    let mut granted: BTreeMap<String, Verbs> = BTreeMap::new();
    for binding in &documents {
        if !text(binding, "/kind").ends_with("RoleBinding") {
            continue;
        }
        assert_eq!(text(binding, "/subjects/0/name"), "xmpp-federation-operator");
        assert_eq!(text(binding, "/subjects/0/namespace"), "xmpp-federation-system");
        let namespace = text(binding, "/metadata/namespace");
        let bound = |role: &&Value| {
            text(role, "/kind") == text(binding, "/roleRef/kind")
                && text(role, "/metadata/name") == text(binding, "/roleRef/name")
                && text(role, "/metadata/namespace") == namespace
        };
        let role = documents.iter().find(bound).unwrap();
        let verbs_here = granted.entry(namespace).or_default();
        for rule in role["rules"].as_array().unwrap() {
            for group in texts(&rule["apiGroups"]) {
                for mut resource in texts(&rule["resources"]) {
                    for name in rule.get("resourceNames").map(&texts).unwrap_or_default() {
                        resource = format!("{resource} {name}");
                    }
                    let verbs = verbs_here.entry((group.clone(), resource)).or_default();
                    verbs.extend(texts(&rule["verbs"]));
                }
            }
        }
    }
    granted
}

#[test]
#[ignore = "needs helm and kubectl; make test runs it"]
fn the_operator_may_do_what_it_does_and_nothing_else() {
    let home = ("xmpp-federation-system".to_owned(), verbs(USED_AT_HOME));
    let leases = |used: &[_]| ("kube-system".to_owned(), verbs(used));
    let all = verbs(&[USED, &[LOOKS_FOR_LEADERS]].concat());
    let one = verbs(&[USED, &[LEADS_ONE]].concat());
    let everywhere = [("*".to_owned(), all), home.clone(), leases(LEADS_ALL)];
    let three = ["one", "two", "three"].map(|name| (name.to_owned(), one.clone()));
    assert_eq!(granted(&kustomization()), BTreeMap::from(everywhere.clone()));
    assert_eq!(granted(&chart(&["crds.enabled=false"])), BTreeMap::from(everywhere));
    assert_eq!(
        granted(&chart(&["crds.enabled=false", "watchNamespaces={one,two,three}"])),
        three.into_iter().chain([home, leases(ASKS_WHO_LEADS_ALL)]).collect()
    );
}
