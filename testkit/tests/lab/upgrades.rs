//! A new release of the operator and its federations. The API server is real; the test plays the controller of
//! `StatefulSets`, the kubelet, and the edges' admin ports.

use std::net::Ipv4Addr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use testkit_base::Error;
use testkit_bench::operator::audit::Audit;
use testkit_bench::operator::resource::{self, names};
use testkit_bench::operator::stage::{self, Dns, NAMESPACES, OPERATOR, Stage};

use super::operator::{Installation, SOON, kubectl, lab, message, read, until};

const OLD: &str = "localhost/edge:old";
const NEW: &str = "localhost/edge:new";
/// Above the time that the pod takes to end, and the operator's own second.
const HALTED: Duration = Duration::from_mins(1);

/// One federation with its pod.
struct Federation<'a> {
    stage: &'a Stage,
    namespace: &'static str,
    name: String,
    address: Ipv4Addr,
}

impl<'a> Federation<'a> {
    /// Makes the resource, and plays its pod, which is ready.
    async fn new(stage: &'a Stage, number: u8, namespace: &'static str, name: &str) -> Result<Self, Error> {
        let federation = Self {
            stage,
            namespace,
            name: name.to_owned(),
            address: Ipv4Addr::new(127, 0, 1, number),
        };
        let mut object = resource::resource(name);
        let edge = object.pointer_mut("/spec/edge").ok_or("no edge")?;
        edge["publicAddresses"] = json!(["203.0.113.10"]);
        edge["minReady"] = json!("0s");
        edge["drainDelay"] = json!("0s");
        stage.create(&resource::kind(), namespace, vec![object]).await?;
        federation
            .until("statefulset", "{.kind}", |kind| !kind.is_empty())
            .await?;
        federation.serve_status().await?;
        let uid = read(stage, namespace, &federation.set(), "{.metadata.uid}").await?;
        let labels = json!({"app.kubernetes.io/instance": name, "app.kubernetes.io/name": "xmpp-federation-edge",
            "app.kubernetes.io/managed-by": "xmpp-federation-operator"});
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": format!("{name}-edge"), "uid": uid}]);
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": federation.pod(), "namespace": namespace, "labels": labels, "ownerReferences": owner},
            "spec": {"serviceAccountName": format!("{name}-edge"), "automountServiceAccountToken": false,
                "containers": [{"name": "edge", "image": OLD}]}});
        stage.apply(&pod.to_string()).await?;
        federation.rolls(true).await?;
        let told = |reason: &str| reason == "AsWanted";
        federation.until("xfed", REASON, told).await?;
        Ok(federation)
    }

    fn set(&self) -> String {
        format!("statefulset/{}-edge", self.name)
    }

    fn pod(&self) -> String {
        format!("{}-edge-0", self.name)
    }

    /// The edge's answer, which has always loaded the newest configuration.
    async fn serve_status(&self) -> Result<(), Error> {
        let maps = self.stage.api(&stage::kind("", "v1", "ConfigMap"), self.namespace);
        let map = format!("{}-edge", self.name);
        let answer = async move || {
            let map = maps.get(&map).await.ok();
            let text = map.and_then(|map| Some(map.data.pointer("/data/edge.yaml")?.as_str()?.to_owned()));
            let hash = Sha256::digest(text.unwrap_or_default().as_bytes());
            let hash = data_encoding::HEXLOWER.encode(&hash);
            json!({"version": "0.0.9", "configHash": hash, "dialbackSecrets": [], "draining": false, "links": [],
                "failingPartners": [], "streams": {"inbound": 0, "outbound": 0}})
            .to_string()
        };
        let listener = tokio::net::TcpListener::bind((self.address, 8080)).await?;
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/status", get(answer))).await });
        Ok(())
    }

    async fn patch_status(&self, object: &str, status: Value) -> Result<(), Error> {
        let patch = json!({"status": status}).to_string();
        let words = [
            "patch",
            object,
            "--subresource=status",
            "--type=merge",
            "--patch",
            &patch,
        ];
        kubectl(self.stage, self.namespace, &words).await.map(drop)
    }

    /// The pods are of the newest template, and are ready or not.
    async fn rolls(&self, ready: bool) -> Result<(), Error> {
        let (status, available) = if ready { ("True", 1) } else { ("False", 0) };
        let conditions = ["Ready", "ContainersReady"].map(|kind| json!({"type": kind, "status": status}));
        let pod = json!({"phase": "Running", "podIP": self.address.to_string(), "conditions": conditions,
            "podIPs": [{"ip": self.address.to_string()}]});
        self.patch_status(&format!("pod/{}", self.pod()), pod).await?;
        let generation = read(self.stage, self.namespace, &self.set(), "{.metadata.generation}").await?;
        let revision = format!("revision-{generation}");
        let set = json!({"observedGeneration": generation.parse::<i64>()?, "replicas": 1, "updatedReplicas": 1,
            "readyReplicas": available, "availableReplicas": available, "currentRevision": revision,
            "updateRevision": revision});
        self.patch_status(&self.set(), set).await
    }

    /// Its conditions are as they are for an hour.
    async fn settle(&self) -> Result<(), Error> {
        let object = format!("xfed/{}", self.name);
        let text = kubectl(self.stage, self.namespace, &["get", &object, "-o=json"]).await?;
        let mut conditions = serde_json::from_str::<Value>(&text)?["status"]["conditions"].take();
        for condition in conditions.as_array_mut().into_iter().flatten() {
            condition["lastTransitionTime"] = json!("2024-01-01T00:00:00Z");
        }
        self.patch_status(&object, json!({"conditions": conditions})).await
    }

    async fn until(&self, kind: &str, path: &str, expected: impl Fn(&str) -> bool) -> Result<String, Error> {
        let suffix = if kind == "xfed" { "" } else { "-edge" };
        let object = format!("{kind}/{}{suffix}", self.name);
        until(self.stage, (self.namespace, &object, path), SOON, expected).await
    }

    async fn has(&self, image: &str) -> Result<(), Error> {
        self.until("statefulset", IMAGE, |now| now == image).await.map(drop)
    }

    async fn still_has(&self, image: &str) -> Result<(), Error> {
        assert_eq!(
            read(self.stage, self.namespace, &self.set(), IMAGE).await?,
            image,
            "{}",
            self.name
        );
        Ok(())
    }

    /// What `kubectl get -o wide` shows of the upgrade.
    async fn shows(&self, word: &str) -> Result<(), Error> {
        let column = "{.status.edge.upgrade}";
        self.until("xfed", column, |now| now == word).await.map(drop)
    }
}

const IMAGE: &str = "{.spec.template.spec.containers[0].image}";
const REASON: &str = r#"{.status.conditions[?(@.type=="EdgeAvailable")].reason}"#;

async fn release<'a>(stage: &'a Stage, image: &str) -> Result<Installation<'a>, Error> {
    let more = ["--edge-image", image, "--upgrade-timeout", "1s"];
    Installation::leading_with(stage, &more).await
}

#[allow(clippy::too_many_lines, reason = "one story from the first release to the last")]
async fn upgrade(stage: Stage) -> Result<(), Error> {
    stage.install(&[]).await?;
    let operator = release(&stage, OLD).await?;
    let mut federations = Vec::new();
    let places = [NAMESPACES[0], NAMESPACES[1], NAMESPACES[0], NAMESPACES[2]];
    for ((name, namespace), number) in names(0..places.len()).iter().zip(places).zip(1..) {
        federations.push(Federation::new(&stage, number, namespace, name).await?);
        // Ages are whole seconds.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let [first, second, third, fourth] = &federations[..] else {
        return Err("four federations".into());
    };
    operator.stop().await?;
    for federation in &federations {
        federation.settle().await?;
    }

    // The oldest one is first, and alone.
    let operator = release(&stage, NEW).await?;
    first.has(NEW).await?;
    first.shows("Rolling").await?;
    let ahead = "bench-a/r-0000000 has its turn first; 1 are ahead, and 3 wait";
    let told = message("EdgeAvailable");
    third.until("xfed", &told, |now| now.contains(ahead)).await?;
    third.until("xfed", REASON, |now| now == "UpgradeWaits").await?;
    for waiting in [second, third, fourth] {
        waiting.still_has(OLD).await?;
        waiting.shows("Waiting").await?;
    }
    // What is not of the template does not wait.
    let scale = r#"{"spec":{"edge":{"replicas":0}}}"#;
    kubectl(
        &stage,
        fourth.namespace,
        &["patch", &format!("xfed/{}", fourth.name), "--type=merge", "-p", scale],
    )
    .await?;
    fourth
        .until("statefulset", "{.spec.replicas}", |now| now == "0")
        .await?;
    fourth.still_has(OLD).await?;
    let scale = scale.replace(":0", ":1");
    kubectl(
        &stage,
        fourth.namespace,
        &["patch", &format!("xfed/{}", fourth.name), "--type=merge", "-p", &scale],
    )
    .await?;
    fourth
        .until("statefulset", "{.spec.replicas}", |now| now == "1")
        .await?;
    fourth.rolls(true).await?;
    fourth.until("xfed", REASON, |now| now == "UpgradeWaits").await?;

    // It is ready: the next one.
    first.rolls(true).await?;
    second.has(NEW).await?;
    first.shows("Current").await?;
    third.still_has(OLD).await?;

    // The third one asks for something else itself.
    let labels = r#"{"spec":{"edge":{"pod":{"labels":{"team":"voice"}}}}}"#;
    kubectl(
        &stage,
        third.namespace,
        &["patch", &format!("xfed/{}", third.name), "--type=merge", "-p", labels],
    )
    .await?;
    third.has(NEW).await?;
    third.rolls(true).await?;
    third.shows("Current").await?;
    second.shows("Rolling").await?;

    // In the middle another operator takes over.
    second.rolls(false).await?;
    operator.stop().await?;
    fourth.settle().await?;
    let operator = release(&stage, NEW).await?;
    fourth.until("xfed", REASON, |now| now.starts_with("Upgrade")).await?;
    fourth.still_has(OLD).await?;

    // The second one does not come back.
    let halted = (
        second.namespace,
        "xfed/r-0000001",
        r#"{.status.conditions[?(@.type=="Stalled")].reason}"#,
    );
    until(&stage, halted, HALTED, |now| now == "UpgradeHalted").await?;
    second.shows("Halted").await?;
    fourth.until("xfed", REASON, |now| now == "UpgradeHalted").await?;
    fourth
        .until("xfed", &told, |now| {
            now.contains("because bench-b/r-0000001 is not Ready again")
        })
        .await?;
    fourth.still_has(OLD).await?;
    let events = "{.items[?(@.reason==\"Stalled\")].note}";
    let events = ["get", "events.events.k8s.io", &format!("-o=jsonpath={events}")];
    let note = kubectl(&stage, second.namespace, &events).await?;
    assert!(note.contains("EdgeAvailable was True and is not True again"), "{note}");
    let series = "xmpp_federation_upgrade_federations{state=\"halted\"} 1";
    let metrics = operator.metrics().await;
    assert!(metrics.contains(series), "{metrics}");

    // A person goes on without it.
    let go_on = "xmppfederation.io/continue-upgrade=1";
    kubectl(&stage, second.namespace, &["annotate", "xfed/r-0000001", go_on]).await?;
    fourth.has(NEW).await?;
    fourth.rolls(true).await?;
    fourth.shows("Current").await?;
    let handled = "{.status.handledRequests[*].annotation}";
    second
        .until("xfed", handled, |now| now.contains("continue-upgrade"))
        .await?;
    until(&stage, halted, SOON, |now| now != "UpgradeHalted").await?;

    // Nothing is left to do, also for an operator that remembers nothing.
    operator.stop().await?;
    let mut audit = Audit::new(stage.lab.layout().audit_log());
    audit.count()?;
    let operator = release(&stage, NEW).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let written = audit
        .events()?
        .into_iter()
        .filter(|event| event.writes() && event.request_uri.contains("/statefulsets/"));
    let written: Vec<String> = written.map(|event| event.request_uri).collect();
    assert_eq!(written, Vec::<String>::new());
    stage.still_runs(OPERATOR)?;
    operator.stop().await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and set-up; `make test` runs it"]
async fn a_new_release_replaces_the_pods_of_one_federation_after_the_other() {
    stage::on(&lab('u'), Dns::Answers, upgrade).await.unwrap();
}
