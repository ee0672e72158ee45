//! The operator on an API server with nothing beside it: what managed fields, watches, admission and Leases of a real one
//! do, and no double of one.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rstest::rstest;
use serde_json::{Value, json};
use testkit_base::Error;
use testkit_bench::operator::audit::Audit;
use testkit_bench::operator::resource::{self, FIRST, names};
use testkit_bench::operator::stage::{self, Dns, NAMESPACES, OPERATOR, SYSTEM, Stage};
use testkit_lab::layout::{self, name_here};
use testkit_lab::{node, process};

/// The library tells there why it lists anew.
const LOG: &str = "info,kube_runtime::watcher=debug";
pub(super) const SOON: Duration = Duration::from_secs(20);
const OPERATOR_NAME: &str = "xmpp-federation-operator";

/// One process of the operator.
pub(super) struct Installation<'a> {
    stage: &'a Stage,
    name: &'a str,
    port: u16,
}

impl<'a> Installation<'a> {
    fn start(stage: &'a Stage, name: &'a str, port: u16, watched: &[&str]) -> Result<Self, Error> {
        Self::start_with(stage, name, port, watched, &[])
    }

    fn start_with(stage: &'a Stage, name: &'a str, port: u16, watched: &[&str], more: &[&str]) -> Result<Self, Error> {
        let binary = layout::binary("xmpp-federation-operator")?.display().to_string();
        let (watched, health) = (watched.join(","), format!("127.0.0.1:{port}"));
        let mut words = vec![binary.as_str(), "--namespace", SYSTEM, "--pod-name", name];
        words.extend(["--health-address", &health]);
        if !more.contains(&"--edge-image") {
            words.extend(["--edge-image", "localhost/none:lab"]);
        }
        words.extend(more);
        if !watched.is_empty() {
            words.extend(["--watch-namespaces", &watched]);
        }
        let file = stage.kubeconfig(OPERATOR).display().to_string();
        let environment = BTreeMap::from([("KUBECONFIG".to_owned(), file)]);
        stage.lab.spawn_in(None, name, &words, &environment)?;
        Ok(Self { stage, name, port })
    }

    pub(super) async fn leading(stage: &'a Stage, watched: &[&str]) -> Result<Self, Error> {
        let operator = Self::start(stage, OPERATOR, 8081, watched)?;
        operator.leads(SOON).await?;
        Ok(operator)
    }

    pub(super) async fn leading_with(stage: &'a Stage, more: &[&str]) -> Result<Self, Error> {
        let operator = Self::start_with(stage, OPERATOR, 8081, &[], more)?;
        operator.leads(SOON).await?;
        Ok(operator)
    }

    /// All metrics as text.
    pub(super) async fn metrics(&self) -> String {
        self.get("/metrics").await.unwrap_or_default().1
    }

    async fn get(&self, path: &str) -> Option<(u16, String)> {
        let answer = reqwest::get(format!("http://127.0.0.1:{}{path}", self.port))
            .await
            .ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// The sum of a metric over its labels; 0 while it does not answer.
    async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await.unwrap_or_default();
        let name = format!("xmpp_federation_{name}");
        let series = text
            .lines()
            .filter_map(|line| line.strip_prefix(&name)?.rsplit_once(' '));
        let counted = series.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'));
        counted.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
    }

    async fn leads(&self, within: Duration) -> Result<(), Error> {
        let what = format!("the leadership of {}", self.name);
        node::wait_until(&what, within, async || {
            self.stage.still_runs(self.name)?;
            Ok(self.metric("leader").await > 0.0)
        })
        .await
    }

    fn log(&self) -> String {
        fs::read_to_string(self.stage.lab.log(self.name)).unwrap_or_default()
    }

    fn runs(&self) -> bool {
        self.stage.still_runs(self.name).is_ok()
    }

    pub(super) async fn stop(&self) -> Result<(), Error> {
        process::stop(self.stage.lab.layout(), self.name, Duration::from_secs(10)).await
    }
}

/// kubectl in a namespace.
pub(super) async fn kubectl(stage: &Stage, namespace: &str, words: &[&str]) -> Result<String, Error> {
    stage.lab.kubectl(&[&["--namespace", namespace], words].concat()).await
}

pub(super) async fn read(stage: &Stage, namespace: &str, object: &str, path: &str) -> Result<String, Error> {
    let output = format!("-o=jsonpath={path}");
    kubectl(stage, namespace, &["get", "--ignore-not-found", object, &output]).await
}

/// Waits until a field of an object is as expected.
pub(super) async fn until(
    stage: &Stage,
    (namespace, object, path): (&str, &str, &str),
    within: Duration,
    expected: impl Fn(&str) -> bool,
) -> Result<String, Error> {
    let mut last = String::new();
    let what = format!("{path} of {object} in {namespace}");
    let outcome = node::wait_until(&what, within, async || {
        last = read(stage, namespace, object, path).await?;
        Ok(expected(&last))
    })
    .await;
    outcome.map_err(|error| format!("{error}; it is {last:?}"))?;
    Ok(last)
}

pub(super) async fn create(stage: &Stage, namespace: &str, name: &str) -> Result<(), Error> {
    stage
        .create(&resource::kind(), namespace, vec![resource::resource(name)])
        .await?;
    let set = format!("statefulset/{name}-edge");
    until(stage, (namespace, &set, "{.kind}"), SOON, |kind| !kind.is_empty()).await?;
    Ok(())
}

pub(super) fn message(kind: &str) -> String {
    format!("{{.status.conditions[?(@.type==\"{kind}\")].message}}")
}

/// Deletes the Service of the resource and waits until it is back.
async fn comes_back(stage: &Stage, namespace: &str, name: &str) -> Result<(), Error> {
    let service = format!("service/{name}-edge");
    let before = read(stage, namespace, &service, "{.metadata.uid}").await?;
    kubectl(stage, namespace, &["delete", &service]).await?;
    let uid = (namespace, service.as_str(), "{.metadata.uid}");
    until(stage, uid, SOON, |uid| !uid.is_empty() && uid != before).await?;
    Ok(())
}

/// Kind, type of the patch, the patch, and the path of the field that it adds; empty: all is taken back.
const EDITS: &[(&str, &str, &str, &str)] = &[
    (
        "statefulset",
        "strategic",
        r#"{"spec":{"template":{"spec":{"hostPID":true}}}}"#,
        "",
    ),
    ("statefulset", "merge", r#"{"spec":{"replicas":5}}"#, ""),
    ("service", "merge", r#"{"spec":{"externalIPs":["192.0.2.1"]}}"#, ""),
    ("service", "merge", r#"{"spec":{"selector":{"no":"such"}}}"#, ""),
    (
        "networkpolicy",
        "json",
        r#"[{"op":"add","path":"/spec/ingress/-","value":{}}]"#,
        "",
    ),
    (
        "networkpolicy",
        "json",
        r#"[{"op":"add","path":"/spec/egress/-","value":{}}]"#,
        "",
    ),
    (
        "networkpolicy",
        "merge",
        r#"{"spec":{"podSelector":{"matchLabels":{"no":"such"}}}}"#,
        "",
    ),
    (
        "poddisruptionbudget",
        "merge",
        r#"{"spec":{"selector":{"matchLabels":{"no":"such"}}}}"#,
        "",
    ),
    (
        "poddisruptionbudget",
        "merge",
        r#"{"spec":{"unhealthyPodEvictionPolicy":"IfHealthyBudget"}}"#,
        "",
    ),
    (
        "service",
        "strategic",
        r#"{"spec":{"ports":[{"name":"x","port":22,"protocol":"TCP"}]}}"#,
        "spec.ports[22,TCP]",
    ),
    (
        "statefulset",
        "strategic",
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"log","image":"localhost/none:lab"}]}}}}"#,
        "spec.template.spec.containers[log]",
    ),
    (
        "statefulset",
        "strategic",
        r#"{"spec":{"template":{"spec":{"hostNetwork":true}}}}"#,
        "",
    ),
];

/// Kind and path of fields that are removed: nobody manages them afterwards.
const REMOVALS: &[(&str, &str)] = &[
    ("networkpolicy", "/spec/egress"),
    ("networkpolicy", "/spec/egress/0"),
    ("networkpolicy", "/spec/ingress"),
    ("poddisruptionbudget", "/spec/unhealthyPodEvictionPolicy"),
    ("service", "/spec/selector"),
    ("service", "/metadata/labels"),
    ("statefulset", "/spec/template/spec/securityContext"),
    ("statefulset", "/spec/template/spec/automountServiceAccountToken"),
    ("statefulset", "/spec/template/spec/containers/0/livenessProbe"),
    ("statefulset", "/spec/template/spec/containers/0/ports/1"),
    (
        "statefulset",
        "/spec/template/spec/containers/0/securityContext/capabilities",
    ),
    ("configmap", "/data/edge.yaml"),
    ("serviceaccount", "/automountServiceAccountToken"),
];

async fn additions(stage: Stage) -> Result<(), Error> {
    let namespace = NAMESPACES[0];
    stage.install(&[]).await?;
    let operator = Installation::leading(&stage, &[]).await?;
    create(&stage, namespace, FIRST).await?;
    let edge = format!("{FIRST}-edge");
    let resource = format!("xfed/{FIRST}");
    let told = message("EdgeAvailable");
    let read_all = "{.spec}{.data}{.automountServiceAccountToken}{.metadata.labels}";
    for (kind, path) in REMOVALS {
        let object = format!("{kind}/{edge}");
        let before = read(&stage, namespace, &object, read_all).await?;
        let patch = format!(r#"[{{"op":"remove","path":"{path}"}}]"#);
        let changed = kubectl(&stage, namespace, &["patch", &object, "--type=json", "--patch", &patch]).await?;
        assert!(!changed.contains("no change"), "{path}: {changed}");
        let all = (namespace, object.as_str(), read_all);
        let back = until(&stage, all, SOON, |now| now == before).await;
        back.map_err(|error| format!("{kind} {path}: {error}"))?;
    }
    // Without its label no watch shows an object.
    let label = r"{.metadata.labels.app\.kubernetes\.io/managed-by}";
    let objects = [
        format!("service/{edge}"),
        format!("configmap/{edge}"),
        format!("secret/{FIRST}-dialback"),
        format!("secret/{FIRST}-ca"),
    ];
    for object in &objects {
        let data = read(&stage, namespace, object, "{.data}").await?;
        kubectl(&stage, namespace, &["label", object, "app.kubernetes.io/managed-by-"]).await?;
        until(&stage, (namespace, object, label), SOON, |now| now == OPERATOR_NAME).await?;
        assert_eq!(read(&stage, namespace, object, "{.data}").await?, data, "{object}");
    }

    for (kind, patch_type, patch, added) in EDITS {
        let object = format!("{kind}/{edge}");
        let before = read(&stage, namespace, &object, "{.spec}").await?;
        let patch = ["patch", &object, "--type", patch_type, "--patch", patch];
        kubectl(&stage, namespace, &patch).await?;
        if added.is_empty() {
            until(&stage, (namespace, &object, "{.spec}"), SOON, |now| now == before).await?;
        } else {
            let named = format!("{edge}: {added} by kubectl-patch");
            until(&stage, (namespace, &resource, &told), SOON, |now| now.contains(&named)).await?;
        }
    }

    // Scaled by its subresource.
    let set = format!("statefulset/{edge}");
    kubectl(&stage, namespace, &["scale", &set, "--replicas=4"]).await?;
    until(&stage, (namespace, &set, "{.spec.replicas}"), SOON, |now| now == "1").await?;

    // Labels and annotations are everybody's.
    kubectl(&stage, namespace, &["rollout", "restart", &set]).await?;
    kubectl(&stage, namespace, &["label", &set, "team=voice"]).await?;
    for kind in [
        "service",
        "statefulset",
        "poddisruptionbudget",
        "networkpolicy",
        "serviceaccount",
        "configmap",
    ] {
        let object = format!("{kind}/{edge}");
        if kind == "statefulset" {
            continue;
        }
        let before = read(&stage, namespace, &object, "{.metadata.uid}").await?;
        kubectl(&stage, namespace, &["delete", &object]).await?;
        let uid = (namespace, object.as_str(), "{.metadata.uid}");
        until(&stage, uid, SOON, |uid| !uid.is_empty() && uid != before).await?;
    }
    let restarted = r"{.spec.template.metadata.annotations.kubectl\.kubernetes\.io/restartedAt}";
    let restarted = read(&stage, namespace, &set, restarted).await?;
    let label = read(&stage, namespace, &set, "{.metadata.labels.team}").await?;
    let message = read(&stage, namespace, &resource, &told).await?;
    assert!(!restarted.is_empty() && label == "voice");
    assert!(!message.contains("metadata"), "{message}");

    // It is a fixed point.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut audit = Audit::new(stage.lab.layout().audit_log());
    audit.count()?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let requests = audit.count()?;
    assert!(requests.writes < 1.0, "{requests:?}");

    // Also for an operator that remembers nothing.
    operator.stop().await?;
    audit.count()?;
    let operator = Installation::leading(&stage, &[]).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let written = audit.events()?.into_iter().filter(|event| {
        let inside = event.request_uri.contains(&format!("/namespaces/{namespace}/"));
        event.writes() && inside && !event.of_event() && !event.request_uri.contains("/xmppfederations/")
    });
    let written: Vec<String> = written.map(|event| event.request_uri).collect();
    assert_eq!(written, Vec::<String>::new());
    operator.stop().await
}

async fn gap(stage: Stage) -> Result<(), Error> {
    stage.install(&NAMESPACES).await?;
    let operator = Installation::start_with(&stage, OPERATOR, 8081, &NAMESPACES, &["--log", LOG])?;
    operator.leads(SOON).await?;
    let resources = names(0..NAMESPACES.len());
    let mut before = Vec::new();
    for (name, namespace) in resources.iter().zip(NAMESPACES) {
        create(&stage, namespace, name).await?;
        let service = format!("service/{name}-edge");
        before.push(read(&stage, namespace, &service, "{.metadata.uid}").await?);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;

    let layout = stage.lab.layout();
    let server = "kube-apiserver";
    let record = process::find(layout, server)?.ok_or("no API server")?;
    process::stop(layout, server, Duration::ZERO).await?;
    // Deleted while nobody watches, and then nothing is left of what happened.
    let etcd = async |call: &str, body: Value| {
        let url = format!("http://127.0.0.1:2379/v3/kv/{call}");
        let answer = reqwest::Client::new().post(url).body(body.to_string()).send().await?;
        Ok::<Value, Error>(serde_json::from_str(&answer.error_for_status()?.text().await?)?)
    };
    let mut revision = Value::Null;
    for (name, namespace) in resources.iter().zip(NAMESPACES) {
        let key = format!("/registry/services/specs/{namespace}/{name}-edge");
        let key = data_encoding::BASE64.encode(key.as_bytes());
        let answer = etcd("deleterange", json!({"key": key})).await?;
        assert_eq!(answer.pointer("/deleted"), Some(&json!("1")), "{answer}");
        revision = answer.pointer("/header/revision").cloned().unwrap_or_default();
    }
    etcd("compaction", json!({"revision": revision, "physical": true})).await?;
    let words: Vec<&str> = record.command.iter().map(String::as_str).collect();
    stage.lab.spawn_in(None, server, &words, &BTreeMap::new())?;

    for ((name, namespace), before) in resources.iter().zip(NAMESPACES).zip(&before) {
        let service = format!("service/{name}-edge");
        let uid = async || {
            read(&stage, namespace, &service, "{.metadata.uid}")
                .await
                .unwrap_or_default()
        };
        node::wait_until(&service, Duration::from_secs(40), async || {
            stage.still_runs(OPERATOR)?;
            let uid = uid().await;
            Ok(!uid.is_empty() && uid != *before)
        })
        .await?;
    }
    // The same process, whose watches were told that their versions are too old.
    assert_eq!(operator.log().matches("leading").count(), 1, "{}", operator.log());
    let log = operator.log();
    let told = log
        .lines()
        .filter(|line| line.contains("watchevent error") && line.contains("code: 410"));
    assert!(told.count() >= NAMESPACES.len(), "{log}");
    let audit = Audit::new(stage.lab.layout().audit_log()).events()?;
    for namespace in NAMESPACES {
        let services = format!("/namespaces/{namespace}/services?");
        let lists = audit
            .iter()
            .filter(|event| event.verb == "list" && event.request_uri.contains(&services));
        assert!(lists.count() > 1, "{namespace} was listed once");
    }
    for (name, namespace) in resources.iter().zip(NAMESPACES) {
        comes_back(&stage, namespace, name).await?;
    }
    operator.stop().await
}

async fn webhook(stage: Stage) -> Result<(), Error> {
    let namespace = NAMESPACES[0];
    stage.install(&[]).await?;
    let hook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "nobody-there"},
        "webhooks": [{
            "name": "nobody.there.example", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Fail", "timeoutSeconds": 1,
            "clientConfig": {"service": {"namespace": "default", "name": "nobody-there"}},
            "rules": [{"apiGroups": ["policy"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                "resources": ["poddisruptionbudgets"]}],
        }],
    });
    stage.apply(&hook.to_string()).await?;
    let operator = Installation::leading(&stage, &[]).await?;
    create(&stage, namespace, FIRST).await?;
    let resource = format!("xfed/{FIRST}");
    let (edge, generation) = (format!("{FIRST}-edge"), "{.status.observedGeneration}");
    let words = "PodDisruptionBudget r-0000000-edge cannot be applied";
    let conditions = "{.status.conditions}";
    let told = until(&stage, (namespace, &resource, conditions), SOON, |now| {
        now.contains(words)
    })
    .await?;
    assert!(
        told.contains("failed calling webhook") && told.contains("nobody-there"),
        "{told}"
    );
    // All else is there, and IM and Presence was asked.
    for kind in ["networkpolicy", "statefulset", "service", "serviceaccount", "configmap"] {
        let name = read(&stage, namespace, &format!("{kind}/{edge}"), "{.metadata.name}").await?;
        assert_eq!(name, edge, "{kind}");
    }
    let imp = message("AxlAuthenticated");
    until(&stage, (namespace, &resource, &imp), SOON, |now| {
        now.contains("imp.r-0000000.example")
    })
    .await?;
    until(&stage, (namespace, &resource, generation), SOON, |now| now == "1").await?;
    let patch = r#"{"spec":{"edge":{"service":{"annotations":{"example.com/a":"b"}}}}}"#;
    kubectl(
        &stage,
        namespace,
        &["patch", &resource, "--type=merge", "--patch", patch],
    )
    .await?;
    until(&stage, (namespace, &resource, generation), SOON, |now| now == "2").await?;
    let annotation = r"{.metadata.annotations.example\.com/a}";
    let service = format!("service/{edge}");
    until(&stage, (namespace, &service, annotation), SOON, |now| now == "b").await?;
    assert_eq!(read(&stage, namespace, &format!("pdb/{edge}"), "{.kind}").await?, "");

    // The webhook goes: it is tried again after at most as long as it has been failing.
    stage
        .lab
        .kubectl(&["delete", "validatingwebhookconfiguration", "nobody-there"])
        .await?;
    let budget = format!("pdb/{edge}");
    until(
        &stage,
        (namespace, &budget, "{.kind}"),
        Duration::from_mins(1),
        |kind| !kind.is_empty(),
    )
    .await?;
    until(&stage, (namespace, &resource, conditions), SOON, |now| {
        !now.contains("webhook")
    })
    .await?;
    operator.stop().await
}

/// A kind cannot be listed: the operator is not ready, says so once in the log, and counts its tries.
async fn waits_for(operator: &Installation<'_>, kind: &str) -> Result<(), Error> {
    let not_ready = async || {
        let (code, text) = operator.get("/readyz").await.unwrap_or_default();
        Ok(code == 503 && text.ends_with(&format!(": {kind}\n")))
    };
    node::wait_until("503", SOON, not_ready).await?;
    // Long enough for many tries.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(not_ready().await?);
    assert!(operator.metric("watch_errors_total").await > 1.0);
    let log = operator.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"));
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(
        lines
            .iter()
            .all(|line| line.contains(kind) && !line.contains("Status {")),
        "{lines:?}"
    );
    Ok(())
}

async fn is_ready(operator: &Installation<'_>) -> Result<(), Error> {
    node::wait_until("200", Duration::from_mins(1), async || {
        Ok(operator.get("/readyz").await.is_some_and(|(code, _)| code == 200))
    })
    .await
}

async fn definition(stage: Stage) -> Result<(), Error> {
    stage.make_namespaces().await?;
    stage.apply_chart(&[], &["--set", "crds.enabled=false"]).await?;
    let operator = Installation::leading(&stage, &[]).await?;
    waits_for(&operator, "XmppFederation").await?;
    stage.apply_chart(&[], &[]).await?;
    is_ready(&operator).await?;
    create(&stage, NAMESPACES[0], FIRST).await?;
    operator.stop().await
}

async fn right(stage: Stage) -> Result<(), Error> {
    stage.install(&[]).await?;
    let role = ["get", "clusterrole", "xmpp-federation-operator", "-o=json"];
    let mut role: Value = serde_json::from_str(&stage.lab.kubectl(&role).await?)?;
    let metadata = role.pointer_mut("/metadata").and_then(Value::as_object_mut);
    metadata.ok_or("no metadata")?.remove("resourceVersion");
    let whole = role.to_string();
    let rules = role.pointer_mut("/rules").and_then(Value::as_array_mut);
    let is_of_policies = |rule: &Value| rule.to_string().contains("networkpolicies");
    rules.ok_or("no rules")?.retain(|rule| !is_of_policies(rule));
    let replace = async |role: &str| stage.lab.kubectl_with_input(&["replace", "-f", "-"], role).await;
    replace(&role.to_string()).await?;
    let operator = Installation::leading(&stage, &[]).await?;
    waits_for(&operator, "NetworkPolicy").await?;
    replace(&whole).await?;
    is_ready(&operator).await?;
    create(&stage, NAMESPACES[0], FIRST).await?;
    operator.stop().await
}

/// Watched namespaces of the first and of the second installation, and the one that leads when both run.
async fn overlapping(stage: Stage, first: &[&str], second: &[&str], second_wins: bool) -> Result<(), Error> {
    let namespace = NAMESPACES[1];
    // Together they have the rights of both.
    stage.install(&NAMESPACES).await?;
    stage.apply_chart(&[], &[]).await?;
    let one = Installation::start(&stage, "one", 8081, first)?;
    one.leads(SOON).await?;
    create(&stage, namespace, FIRST).await?;
    let two = Installation::start(&stage, "two", 8082, second)?;
    let (mut leader, mut standby) = (&one, &two);
    if second_wins {
        // The first one ends, as its pod does, and starts again.
        two.leads(Duration::from_secs(40)).await?;
        node::wait_until("the end of the first one", SOON, async || Ok(!one.runs())).await?;
        Installation::start(&stage, "one", 8081, first)?;
        (leader, standby) = (&two, &one);
    }
    // Of two looks in a row the first may have been right before a change.
    let both = async || {
        let twice = async || one.metric("leader").await + two.metric("leader").await > 1.0;
        twice().await && twice().await
    };
    let holder = format!("{SYSTEM}/{}", leader.name);
    node::wait_until("a standby that names the holder", SOON, async || {
        assert!(!both().await);
        let (code, text) = standby.get("/readyz").await.unwrap_or_default();
        Ok(code == 200 && text.contains(&holder))
    })
    .await?;
    assert!(standby.log().contains(&holder), "{}", standby.log());
    assert!(standby.metric("lease_held_by_other").await > 0.0);
    comes_back(&stage, namespace, FIRST).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!both().await && standby.metric("reconcile_total").await < 1.0);

    leader.stop().await?;
    standby.leads(Duration::from_secs(40)).await?;
    comes_back(&stage, namespace, FIRST).await?;
    standby.stop().await
}

async fn ledgers(stage: Stage) -> Result<(), Error> {
    let namespace = NAMESPACES[0];
    stage.install(&[]).await?;
    let operator = Installation::leading(&stage, &[]).await?;
    create(&stage, namespace, FIRST).await?;
    let object = format!("xmppfederation/{FIRST}");
    let rows_may_exist = r#"{"metadata":{"finalizers":["xmppfederation.io/registrations"]}}"#;
    kubectl(
        &stage,
        namespace,
        &["patch", &object, "--type=merge", "-p", rows_may_exist],
    )
    .await?;
    let (ledger, label) = (
        "xmpp-federation-imp-11111111-1111-4111-8111-111111111111",
        "xmppfederation.io/imp-ledger",
    );
    let labelled = format!("{label}=true");
    kubectl(
        &stage,
        SYSTEM,
        &["create", "configmap", ledger, "--from-literal=ledger.json={"],
    )
    .await?;
    let registered = message("ComponentsRegistered");
    let field = (namespace, object.as_str(), registered.as_str());
    for _ in 0..2 {
        kubectl(&stage, SYSTEM, &["label", "configmap", ledger, &labelled]).await?;
        until(&stage, field, SOON, |message| message.contains(ledger)).await?;
        // For the watch it is gone.
        kubectl(&stage, SYSTEM, &["label", "configmap", ledger, &format!("{label}-")]).await?;
        until(&stage, field, SOON, |message| !message.contains(ledger)).await?;
    }
    kubectl(&stage, SYSTEM, &["label", "configmap", ledger, &labelled]).await?;
    until(&stage, field, SOON, |message| message.contains(ledger)).await?;
    // Of another resource, as a later release may write it.
    let text = json!({"uid": "1", "ledger": {"schema": 99, "owner": {"uid": "another"}}}).to_string();
    let patch = json!({"data": {"ledger.json": text}}).to_string();
    kubectl(&stage, SYSTEM, &["patch", "configmap", ledger, "-p", &patch]).await?;
    until(&stage, field, SOON, |message| !message.contains(ledger)).await?;
    operator.stop().await
}

pub(super) fn lab(letter: char) -> String {
    name_here(&format!("op{letter}"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and set-up; `make test` runs it"]
async fn what_others_add_is_named_and_what_they_change_is_taken_back() {
    stage::on(&lab('a'), Dns::Answers, additions).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and set-up; `make test` runs it"]
async fn what_happened_before_the_oldest_version_that_can_be_watched_is_noticed_in_each_namespace() {
    stage::on(&lab('b'), Dns::Answers, gap).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and set-up; `make test` runs it"]
async fn a_webhook_that_nobody_answers_holds_up_its_own_kind_alone() {
    stage::on(&lab('c'), Dns::Answers, webhook).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and set-up; `make test` runs it"]
async fn an_operator_without_the_definition_waits_for_it() {
    stage::on(&lab('d'), Dns::Answers, definition).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and set-up; `make test` runs it"]
async fn an_operator_without_the_right_to_a_kind_waits_for_it() {
    stage::on(&lab('f'), Dns::Answers, right).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and set-up; `make test` runs it"]
async fn what_a_person_does_to_a_ledger_is_seen() {
    stage::on(&lab('g'), Dns::Answers, ledgers).await.unwrap();
}

#[rstest]
#[case::the_whole_cluster_and_some_namespaces(&[], &NAMESPACES[..2], false)]
#[case::some_namespaces_and_the_whole_cluster(&NAMESPACES[..2], &[], true)]
#[case::a_namespace_in_common(&NAMESPACES[..2], &NAMESPACES[1..], false)]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and set-up; `make test` runs it"]
async fn of_two_installations_one_leads_and_the_other_takes_over(
    #[case] first: &'static [&'static str],
    #[case] second: &'static [&'static str],
    #[case] second_wins: bool,
) {
    let work = async move |stage: Stage| overlapping(stage, first, second, second_wins).await;
    stage::on(&lab('e'), Dns::Answers, work).await.unwrap();
}
