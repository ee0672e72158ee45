//! The operator in clusters of other kinds: a load balancer that has a name, and an API server that refuses pods.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};
use testkit_base::Error;
use testkit_bench::operator::resource::{self, FIRST};
use testkit_bench::operator::stage::{self, Dns, NAMESPACES, Stage};
use testkit_dns::{QueryRecord, RecordSpec};
use testkit_lab::{layout, node};

use super::operator::{Installation, SOON, create, kubectl, lab, message, read, until};

/// The server of the names of the resource and of the load balancer.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 244, 200, 54);
const BALANCER: &str = "edge-1.elb.example";

fn record(name: &str, kind: &str, values: &[&str]) -> RecordSpec {
    RecordSpec {
        name: name.to_owned(),
        record_type: kind.to_owned(),
        ttl: 1,
        values: values.iter().map(|value| (*value).to_owned()).collect(),
    }
}

/// DNS whose records can be changed.
struct Names(String);

impl Names {
    async fn start(stage: &Stage) -> Result<Self, Error> {
        let zone = |name: &str| record(name, "SOA", &["ns.example. host.example. 1 3600 600 86400 1"]);
        let file = stage.lab.dir().join("names.yaml");
        let zones = [zone(&format!("{FIRST}.example")), zone("elb.example")];
        fs::write(&file, serde_json::to_string(&zones)?)?;
        stage.lab.add_host("names", &[SERVER]).await?;
        let (address, control, file) = (SERVER.to_string(), format!("{SERVER}:8080"), file.display().to_string());
        let words = ["dns", "--bind", &address, "--control", &control, "--records", &file];
        stage.lab.spawn_testkit(Some("names"), "names", &words)?;
        let names = Self(format!("http://{control}"));
        node::wait_until("the names", SOON, async || Ok(names.seen("").await.is_ok())).await?;
        Ok(names)
    }

    async fn set(&self, name: &str, kind: &str, values: &[&str]) -> Result<(), Error> {
        let record = serde_json::to_string(&record(name, kind, values))?;
        let request = reqwest::Client::new().put(format!("{}/records", self.0));
        let request = request.header("content-type", "application/json").body(record);
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// Questions for a name up to now.
    async fn seen(&self, name: &str) -> Result<usize, Error> {
        let text = reqwest::get(format!("{}/queries", self.0)).await?.text().await?;
        let queries: Vec<QueryRecord> = serde_json::from_str(&text)?;
        let asked = queries.iter().map(|query| query.name.trim_end_matches('.'));
        Ok(asked.filter(|asked| *asked == name).count())
    }
}

async fn named_balancer(stage: Stage) -> Result<(), Error> {
    let (namespace, host) = (NAMESPACES[0], format!("xmpp.{FIRST}.example"));
    stage.install(&[]).await?;
    let names = Names::start(&stage).await?;
    let operator = Installation::leading(&stage, &[]).await?;
    let mut object = resource::resource(FIRST);
    let resolvers = object.pointer_mut("/spec/dns/resolvers").ok_or("no resolvers")?;
    *resolvers = json!([SERVER.to_string()]);
    stage.create(&resource::kind(), namespace, vec![object]).await?;
    let (resource, edge) = (format!("xfed/{FIRST}"), format!("{FIRST}-edge"));
    let service = format!("service/{edge}");
    until(&stage, (namespace, &service, "{.kind}"), SOON, |kind| !kind.is_empty()).await?;
    let shown = json!({"status": {"loadBalancer": {"ingress": [{"hostname": BALANCER}]}}}).to_string();
    let patch = [
        "patch",
        &service,
        "--subresource=status",
        "--type=merge",
        "--patch",
        &shown,
    ];
    kubectl(&stage, namespace, &patch).await?;
    let addresses = (namespace, resource.as_str(), "{.status.edge.addresses}");
    until(&stage, addresses, SOON, |now| now == format!("[{BALANCER:?}]")).await?;

    // Each look is asked for, and told by the questions that it makes.
    let mut looks = 0;
    let mut look = async || {
        looks += 1;
        let before = names.seen(BALANCER).await?;
        let refresh = format!("xmppfederation.io/refresh={looks}");
        kubectl(&stage, namespace, &["annotate", "--overwrite", &resource, &refresh]).await?;
        let asked = async || Ok(names.seen(BALANCER).await? > before);
        node::wait_until("a look at the records", SOON, asked).await
    };
    let told = message("RecordsVerified");
    let told = (namespace, resource.as_str(), told.as_str());
    let records = [format!("{FIRST}.example"), format!("conference.{FIRST}.example")]
        .map(|domain| format!("_xmpp-server._tcp.{domain}"));
    for record in &records {
        names.set(record, "SRV", &[&format!("10 0 5269 {host}.")]).await?;
    }
    names.set(BALANCER, "A", &["192.0.2.1"]).await?;
    look().await?;
    let remedy =
        format!("its target {host} has no address; at your DNS provider lead {host} to {BALANCER} by an ALIAS");
    until(&stage, told, SOON, |now| now.contains(&remedy)).await?;
    names.set(&host, "CNAME", &[&format!("{BALANCER}.")]).await?;
    look().await?;
    until(&stage, told, SOON, |now| {
        now.contains("an alias (CNAME) for edge-1.elb.example, which RFC 2782 forbids")
    })
    .await?;
    names.set(&host, "CNAME", &[]).await?;
    names.set(&host, "A", &["192.0.2.1"]).await?;
    look().await?;
    until(&stage, told, SOON, |now| now == format!("2 SRV records lead to {host}")).await?;

    // It moves, one behind the other, and nothing is written.
    let verified = r#"{.status.conditions[?(@.type=="RecordsVerified")]}{.status.records}"#;
    let before = read(&stage, namespace, &resource, verified).await?;
    for (host_has, name_has) in [
        ("192.0.2.1", "192.0.2.2"),
        ("192.0.2.3", "192.0.2.2"),
        ("192.0.2.3", "192.0.2.3"),
    ] {
        names.set(&host, "A", &[host_has]).await?;
        names.set(BALANCER, "A", &[name_has]).await?;
        look().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = read(&stage, namespace, &resource, verified).await?;
        assert_eq!(now, before, "{host_has} {name_has}");
    }
    names
        .set(
            &records[0],
            "SRV",
            &[&format!("10 0 5269 {host}."), "20 0 5269 vcse.example."],
        )
        .await?;
    look().await?;
    let note = "note: _xmpp-server._tcp.r-0000000.example: vcse.example port 5269 is published too, with priority 20";
    until(&stage, told, SOON, |now| now.contains(note)).await?;
    let status = r#"{.status.conditions[?(@.type=="RecordsVerified")].status}"#;
    assert_eq!(read(&stage, namespace, &resource, status).await?, "True");
    operator.stop().await
}

/// The real controllers of `StatefulSets` and quotas.
fn start_controllers(stage: &Stage) -> Result<(), Error> {
    let kube = layout::tool("kube")?.display().to_string();
    let kubeconfig = format!("--kubeconfig={}", stage.kubeconfig("admin").display());
    let words = [
        &kube,
        "kube-controller-manager",
        &kubeconfig,
        "--leader-elect=false",
        "--secure-port=0",
        "--controllers=statefulset-controller,resourcequota-controller",
    ];
    stage
        .lab
        .spawn_in(None, "kube-controller-manager", &words, &BTreeMap::new())
        .map(drop)
}

async fn refused_pods(stage: Stage) -> Result<(), Error> {
    let namespace = NAMESPACES[0];
    stage.install(&[]).await?;
    start_controllers(&stage)?;
    let quota = ["create", "quota", "cpu", "--hard=limits.cpu=4"];
    kubectl(&stage, namespace, &quota).await?;
    until(&stage, (namespace, "quota/cpu", "{.status.hard}"), SOON, |hard| {
        !hard.is_empty()
    })
    .await?;
    let operator = Installation::leading(&stage, &[]).await?;
    create(&stage, namespace, FIRST).await?;
    let resource = format!("xfed/{FIRST}");
    let told = format!(
        "{}{}",
        message("EdgeAvailable"),
        r#" {.status.conditions[?(@.type=="EdgeAvailable")].reason}"#
    );
    let told = (namespace, resource.as_str(), told.as_str());
    let refused = async |words: &str, remedy: &str| {
        let pod = format!("pod {FIRST}-edge-0 is not created: pods \"{FIRST}-edge-0\" is forbidden: ");
        let all = |now: &str| {
            now.contains(&pod) && now.contains(words) && now.contains(remedy) && now.ends_with("PodsNotCreated")
        };
        until(&stage, told, SOON, all).await
    };
    let set_pod = async |pod: Value| {
        let patch = json!({"spec": {"edge": {"pod": pod}}}).to_string();
        kubectl(
            &stage,
            namespace,
            &["patch", &resource, "--type=merge", "--patch", &patch],
        )
        .await
    };
    let comes = async || {
        until(&stage, told, SOON, |now| {
            now.contains("kubectl describe pod") && now.ends_with("PodsNotReady")
        })
        .await
    };
    let written = refused(
        "failed quota: cpu: must specify limits.cpu for: edge",
        "spec.edge.pod.resources",
    )
    .await?;
    // Repetitions are no news.
    let version = read(&stage, namespace, &resource, "{.metadata.resourceVersion}").await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        read(&stage, namespace, &resource, "{.metadata.resourceVersion}").await?,
        version,
        "{written}"
    );

    set_pod(json!({"resources": {"requests": {"memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}}})).await?;
    comes().await?;
    set_pod(json!({"priorityClassName": "nosuch"})).await?;
    refused(
        "no PriorityClass with name nosuch was found",
        "correct spec.edge.pod.priorityClassName",
    )
    .await?;
    let limits = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small", "namespace": namespace},
        "spec": {"limits": [{"type": "Container", "max": {"memory": "128Mi"}}]}});
    stage.apply(&limits.to_string()).await?;
    set_pod(json!({"priorityClassName": null})).await?;
    refused(
        "maximum memory usage per Container is 128Mi, but limit is 256Mi",
        "the LimitRange of the namespace",
    )
    .await?;
    kubectl(&stage, namespace, &["delete", "limitrange", "small"]).await?;
    let restart = ["rollout", "restart", &format!("statefulset/{FIRST}-edge")];
    kubectl(&stage, namespace, &restart).await?;
    comes().await?;
    operator.stop().await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and set-up; `make test` runs it"]
async fn a_load_balancers_name_is_followed() {
    stage::on(&lab('h'), Dns::Answers, named_balancer).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and set-up; `make test` runs it"]
async fn why_a_pod_is_not_created_is_told_until_it_comes() {
    stage::on(&lab('i'), Dns::Answers, refused_pods).await.unwrap();
}
