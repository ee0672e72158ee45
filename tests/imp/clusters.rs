//! One resource and several clusters of IM and Presence: the whole reconcile against simulated
//! clusters and an API server in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit_simulator::{Call, ImpConfig, NodeConfig, SimulatedImp};
use xmpp_federation_imp::Manager;
use xmpp_federation_operator::controller::ledger_store::KubeStore;
use xmpp_federation_operator::controller::{Context, PodUsers, ResourceGuard, Settings, watch};
use xmpp_federation_operator::edges;
use xmpp_federation_operator::runtime::health::Readiness;
use xmpp_federation_operator::runtime::metrics::Metrics;

use crate::apiserver::ApiServer;
use crate::support::{quick, quick_timings};

const RESOURCE: &str = "/apis/xmppfederation.io/v1alpha1/namespaces/federation/xmppfederations";

fn secret(name: &str) -> String {
    format!("/api/v1/namespaces/federation/secrets/{name}")
}

/// A DNS server that knows no name, and says so at once.
async fn nameless_dns() -> String {
    use rand::Rng as _;
    let address = format!(
        "127.77.{}.{}",
        rand::rng().random::<u8>(),
        rand::rng().random_range(1..255_u8)
    );
    let socket = tokio::net::UdpSocket::bind((address.as_str(), 53))
        .await
        .expect("port 53 of a loopback address");
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let mut answer = query[..length].to_vec();
            // A response, recursion available, NXDOMAIN; only the question.
            answer[2] |= 0x80;
            answer[3] = 0x83;
            answer[6..12].fill(0);
            let question = 12 + answer[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
            answer.truncate(question);
            let _ = socket.send_to(&answer, from).await;
        }
    });
    address
}

/// A cluster of one node.
async fn cluster(name: &str) -> SimulatedImp {
    let node = NodeConfig {
        name: format!("{name}.example.net"),
        aliases: vec![format!("{name}-again.example.net")],
        ..NodeConfig::default()
    };
    SimulatedImp::start(ImpConfig {
        nodes: vec![node],
        users: Vec::new(),
        ..quick()
    })
    .await
    .unwrap()
}

/// An entry of spec.imp whose publisher has that name and answers at that port.
fn entry(name: &str, publisher: &str, port: u16, mode: &str) -> Value {
    json!({
        "name": name,
        "publisher": publisher,
        "nodes": [{"name": publisher, "address": "127.0.0.1"}],
        "axl": {"port": port},
        "credentialsSecretRef": {"name": format!("{name}-axl")},
        "tls": {"insecureSkipVerify": true},
        "router": {"secretRef": {"name": "routers", "key": "secret"}},
        "restart": {"mode": mode, "propagationDelay": "1s", "minInterval": "0s"},
    })
}

fn of(sim: &SimulatedImp, name: &str, mode: &str) -> Value {
    let port = sim.nodes()[0].https.port();
    let mut entry = entry(name, &format!("{name}.example.net"), port, mode);
    let node = json!({"name": sim.nodes()[0].name, "address": "127.0.0.1"});
    let nodes = entry["nodes"].as_array_mut().unwrap();
    if !nodes.contains(&node) {
        nodes.push(node);
    }
    entry
}

/// An operator and its resources.
struct World {
    api: ApiServer,
    operator: Operator,
    dns: String,
}

/// One process.
struct Operator {
    metrics: Metrics,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Operator {
    fn start(api: &ApiServer) -> Self {
        let client = api.client();
        let ledgers = Arc::new(KubeStore::new(client.clone(), "xmpp-federation-system"));
        let metrics = Metrics::new();
        let context = Context::new(
            client,
            Manager::new(
                Arc::clone(&ledgers) as Arc<_>,
                Arc::new(ResourceGuard::new(api.client(), || true)),
            )
            .timed(quick_timings()),
            edges::Client::new().unwrap(),
            metrics.clone(),
            Settings {
                edge_image: "edge:1".to_owned(),
                edge_pull_secrets: Vec::new(),
                namespace: "xmpp-federation-system".to_owned(),
                labelled_secrets: false,
                cluster_networks: Vec::new(),
                pod_users: PodUsers::Fixed,
                upgrades_at_once: 1,
                upgrade_timeout: "10m".parse().unwrap(),
            },
            "operator-0".to_owned(),
        );
        let namespaces = vec!["federation".to_owned()];
        let run = watch::run(
            Arc::new(context),
            ledgers,
            namespaces,
            Readiness::default(),
            std::future::pending(),
        );
        Self {
            metrics,
            task: tokio::spawn(run),
        }
    }

    fn reconciles(&self) -> u64 {
        let text = self.metrics.encode().unwrap();
        let counts = text
            .lines()
            .filter_map(|line| line.strip_prefix("xmpp_federation_reconcile_total{"));
        counts
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }
}

impl World {
    async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let api = ApiServer::default();
        api.put(
            &secret("routers"),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "routers", "namespace": "federation"},
                "data": {"secret": "c2VjcmV0"}}),
        );
        let operator = Operator::start(&api);
        let dns = nameless_dns().await;
        Self { api, operator, dns }
    }

    /// The process ends.
    async fn stop(&mut self) {
        self.operator.task.abort();
        let _ = (&mut self.operator.task).await;
    }

    /// The process ends and another one starts.
    async fn restart(&mut self) {
        self.stop().await;
        self.operator = Operator::start(&self.api);
    }

    fn account(&self, name: &str, password: &str) {
        use base64::Engine as _;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        self.api.put(
            &secret(name),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "federation"},
                "data": {"username": encode("axluser"), "password": encode(password)}}),
        );
    }

    fn resource(&self, name: &str, domain: &str, entries: &[Value]) {
        for entry in entries {
            let secret_name = entry["credentialsSecretRef"]["name"].as_str().unwrap();
            if self.api.get(&secret(secret_name)).is_none() {
                self.account(secret_name, "axlpassword");
            }
        }
        self.api.put(
            &format!("{RESOURCE}/{name}"),
            json!({
                "apiVersion": "xmppfederation.io/v1alpha1",
                "kind": "XmppFederation",
                "metadata": {"name": name, "namespace": "federation", "generation": 1,
                    "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {
                    "domains": [domain],
                    "edge": {"hostname": format!("edge.{domain}"), "replicas": 1, "slots": 1,
                        "publicAddresses": ["203.0.113.10"]},
                    "dns": {"resolvers": [self.dns]},
                    "privacy": {"domains": ["vngtp.lab"]},
                    "imp": entries,
                },
            }),
        );
    }

    /// The path of the ledger of the publisher with that name.
    fn ledger_with(&self, publisher: &str) -> String {
        let mut paths = self.api.paths().into_iter();
        let is_it = |path: &String| {
            let text = self.api.get(path).unwrap().to_string();
            path.contains("/configmaps/xmpp-federation-imp-") && !path.ends_with("-logins") && text.contains(publisher)
        };
        paths.find(is_it).unwrap()
    }

    fn set_entries(&self, name: &str, entries: &[Value]) {
        self.api.edit(&format!("{RESOURCE}/{name}"), |object| {
            object["spec"]["imp"] = json!(entries);
            let generation = object["metadata"]["generation"].as_i64().unwrap() + 1;
            object["metadata"]["generation"] = json!(generation);
        });
    }

    fn object(&self, name: &str) -> Option<Value> {
        self.api.get(&format!("{RESOURCE}/{name}"))
    }

    /// A person asks for a reconcile; how long it took.
    async fn once(&self, name: &str) -> Duration {
        let (started, before) = (Instant::now(), self.operator.reconciles());
        self.api.edit(&format!("{RESOURCE}/{name}"), |object| {
            object["metadata"]["annotations"]["example.net/look"] = json!(format!("{before} {started:?}"));
        });
        while self.operator.reconciles() == before {
            assert!(started.elapsed() < Duration::from_mins(1), "no reconcile");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        started.elapsed()
    }

    /// Waits until the resource is as expected (`None`: it is gone).
    async fn until(&self, name: &str, what: &str, done: impl Fn(Option<&Reading>) -> bool) -> Reading {
        let started = Instant::now();
        loop {
            let seen = self.object(name).map(Reading);
            if done(seen.as_ref()) {
                return seen.unwrap_or(Reading(Value::Null));
            }
            assert!(
                started.elapsed() < Duration::from_mins(1),
                "not {what}: {:#}",
                seen.map_or(Value::Null, |seen| seen.0["status"].clone())
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Until an event has that start and that part: events are posted beside the status, and may come after it.
    async fn until_told(&self, start: &str, part: &str) {
        let told = |event: &String| event.starts_with(start) && event.contains(part);
        self.until("coluc", start, |_| self.api.events().iter().any(told)).await;
    }
}

/// The resource as it is stored.
struct Reading(Value);

impl Reading {
    /// Status and message of a condition; empty where there is none.
    fn condition(&self, kind: &str) -> (String, String) {
        let conditions = self.0["status"]["conditions"].as_array();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == kind)
            .map(|found| (text(&found["status"]), text(&found["message"])))
            .unwrap_or_default()
    }

    fn cluster(&self, name: &str) -> Option<&Value> {
        let clusters = self.0["status"]["imp"].as_array()?;
        clusters.iter().find(|cluster| cluster["name"] == name)
    }

    fn in_sync(&self, name: &str) -> bool {
        self.cluster(name)
            .is_some_and(|cluster| cluster["nodes"][0]["router"] == "InSync")
    }

    fn rows(&self, name: &str) -> usize {
        self.cluster(name)
            .and_then(|cluster| cluster["registrations"].as_array())
            .map_or(0, Vec::len)
    }
}

fn rows(sim: &SimulatedImp) -> usize {
    sim.state().nodes[0].rows.len()
}

fn restarts(sim: &SimulatedImp) -> usize {
    sim.state().nodes[0].router.restarts.len()
}

fn calls(sim: &SimulatedImp, service: &str) -> Vec<Call> {
    let calls = sim.calls(0).into_iter();
    calls.filter(|call| call.service == service).collect()
}

/// A host that takes connections and never says a word.
async fn silent() -> (u16, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut taken = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            taken.push(stream);
        }
    });
    (port, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_cluster_goes_its_own_way_and_none_waits_for_another() {
    let world = World::new().await;
    let (good, locked, manual) = tokio::join!(cluster("good"), cluster("locked"), cluster("manual"));
    let (port, _silent) = silent().await;
    world.account("locked-axl", "wrong");
    world.resource(
        "coluc",
        "coluc.com",
        &[
            entry("silent", "silent.example.net", port, "Automatic"),
            of(&good, "good", "Automatic"),
            of(&locked, "locked", "Automatic"),
            of(&manual, "manual", "Manual"),
        ],
    );
    let started = Instant::now();
    let seen = world
        .until("coluc", "in sync where it can be", |seen| {
            let seen = seen.unwrap();
            seen.in_sync("good") && seen.condition("RoutersInSync").1.contains("manual: ")
        })
        .await;
    // The silent one costs a time-out each time that it is tried again.
    assert!(started.elapsed() < Duration::from_secs(19), "{:?}", started.elapsed());
    assert_eq!((rows(&good), restarts(&good)), (1, 1));
    assert_eq!((rows(&manual), restarts(&manual)), (1, 0));
    assert_eq!(rows(&locked), 0);
    assert_eq!(locked.calls(0).len(), 1, "one 401 and no more");

    let (status, message) = seen.condition("AxlAuthenticated");
    assert_eq!(status, "False");
    assert!(message.contains("locked: AXL") && message.contains("401"), "{message}");
    let (status, message) = seen.condition("RoutersInSync");
    assert_eq!(status, "False");
    assert!(message.contains("manual.example.net"), "{message}");
    assert!(!message.contains("good: "), "{message}");
    let (status, message) = seen.condition("Stalled");
    assert_eq!(status, "True");
    assert!(message.starts_with("manual: "), "{message}");

    // What one is asked for again does not hold the others up either.
    for _ in 0..5 {
        let took = world.once("coluc").await;
        assert!(took < Duration::from_secs(4), "{took:?}");
    }

    // Deletion: what can be removed is, and what cannot keeps the resource until it is given up.
    world.api.edit(&format!("{RESOURCE}/coluc"), |object| {
        object["metadata"]["deletionTimestamp"] = json!(jiff::Timestamp::now().to_string());
    });
    let seen = world
        .until("coluc", "without rows", |_| rows(&good) == 0 && rows(&manual) == 0)
        .await;
    let (_, message) = seen.condition("Reconciling");
    assert!(message.contains("silent: no connection"), "{message}");
    world.api.edit(&format!("{RESOURCE}/coluc"), |object| {
        object["metadata"]["annotations"] = json!({"xmppfederation.io/abandon-rows": "yes"});
    });
    world.until("coluc", "gone", |seen| seen.is_none()).await;
    assert_eq!((restarts(&good), restarts(&manual)), (1, 0));
    assert_eq!(locked.calls(0).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_leaves_the_spec_takes_its_rows_along() {
    let mut world = World::new().await;
    let (first, second) = tokio::join!(cluster("first"), cluster("second"));
    let entries = [of(&first, "first", "Automatic"), of(&second, "second", "Automatic")];
    world.resource("coluc", "coluc.com", &entries);
    world
        .until("coluc", "in sync", |seen| {
            seen.is_some_and(|seen| seen.in_sync("first") && seen.in_sync("second"))
        })
        .await;

    // Nobody who saw the entry is there any more; its Secret is missing for a while.
    world.api.delete(&secret("second-axl"));
    world
        .until("coluc", "told of the missing Secret", |seen| {
            seen.is_some_and(|seen| seen.condition("AxlAuthenticated").1.contains("Secret second-axl"))
        })
        .await;
    world.set_entries("coluc", &entries[..1]);
    world.restart().await;
    let seen = world
        .until("coluc", "told of what left", |seen| {
            seen.is_some_and(|seen| seen.cluster("second (second.example.net)").is_some())
        })
        .await;
    let (status, message) = seen.condition("ComponentsRegistered");
    assert_eq!(status, "False");
    for part in [
        "second (second.example.net): it is not in spec.imp any more",
        "Secret second-axl",
        "run sql delete from xmpps2snodes where pkid = '",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(seen.in_sync("first"));
    assert_eq!(rows(&second), 1);

    world.account("second-axl", "axlpassword");
    let seen = world
        .until("coluc", "without what left", |seen| {
            seen.is_some_and(|seen| seen.cluster("second (second.example.net)").is_none())
        })
        .await;
    assert_eq!(seen.condition("ComponentsRegistered").0, "True");
    assert_eq!((rows(&first), restarts(&first)), (1, 1));
    assert_eq!((rows(&second), restarts(&second)), (0, 1));
    world.until_told("RestartWouldClean: ", "").await;

    // It comes back, as if it had never been there.
    world.set_entries("coluc", &entries);
    world
        .until("coluc", "in sync again", |seen| {
            seen.is_some_and(|seen| seen.in_sync("second"))
        })
        .await;
    assert_eq!((rows(&second), restarts(&second)), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_does_to_a_ledger_is_seen_at_once() {
    let world = World::new().await;
    let first = cluster("first").await;
    world.resource("coluc", "coluc.com", &[of(&first, "first", "Automatic")]);
    let in_sync = |seen: Option<&Reading>| seen.is_some_and(|seen| seen.in_sync("first"));
    world.until("coluc", "in sync", in_sync).await;
    let path = world.ledger_with("first.example.net");
    let text = |world: &World| world.api.get(&path).map(|map| map["data"].clone());
    let before = text(&world).unwrap();

    // Long before the cluster is looked at again.
    world.api.delete(&path);
    let made = |_: Option<&Reading>| text(&world).is_some_and(|text| text.to_string().contains("first.example.net"));
    world.until("coluc", "made again", made).await;
    let made = text(&world).unwrap();
    world.api.edit(&path, |map| map["data"]["ledger.json"] = json!("{"));
    let unreadable = |seen: Option<&Reading>| {
        let (status, message) = seen.unwrap().condition("ComponentsRegistered");
        status == "Unknown" && message.contains("is not readable")
    };
    world.until("coluc", "told of the ledger", unreadable).await;
    world.api.edit(&path, |map| map["data"] = made.clone());
    let registered = |seen: Option<&Reading>| seen.unwrap().condition("ComponentsRegistered").0 == "True";
    world.until("coluc", "registered", registered).await;
    assert_ne!(before, made, "another object");
    // Deleted while it is not readable, as the sentence says, it is unknown.
    world.api.edit(&path, |map| map["data"]["ledger.json"] = json!("{"));
    world.until("coluc", "told of the ledger", unreadable).await;
    world.api.delete(&path);
    let foreign = |seen: Option<&Reading>| {
        let (status, message) = seen.unwrap().condition("ComponentsRegistered");
        status == "False" && message.contains("adopt-rows")
    };
    world.until("coluc", "without a record", foreign).await;
    assert_eq!((rows(&first), restarts(&first)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_cannot_be_read_hides_no_cluster_that_leaves_the_spec() {
    let mut world = World::new().await;
    let (first, second) = tokio::join!(cluster("first"), cluster("second"));
    let entries = [of(&first, "first", "Automatic"), of(&second, "second", "Manual")];
    world.resource("coluc", "coluc.com", &entries);
    world
        .until("coluc", "registered", |seen| {
            seen.is_some_and(|seen| seen.in_sync("first") && seen.rows("second") == 1)
        })
        .await;
    world.api.delete(&secret("second-axl"));
    world.set_entries("coluc", &entries[..1]);
    let left = "second (second.example.net)";
    let leaving = |seen: &Reading| seen.cluster(left).map(|cluster| cluster["leaving"]["since"].clone());
    let seen = world
        .until("coluc", "leaving", |seen| leaving(seen.unwrap()).is_some())
        .await;
    let since = leaving(&seen);

    let path = world.ledger_with("second.example.net");
    let text = world.api.get(&path).unwrap()["data"].clone();
    world.api.edit(&path, |map| map["data"]["ledger.json"] = json!("{"));
    let name = path.rsplit('/').next().unwrap();
    for _ in 0..2 {
        let told = |seen: Option<&Reading>| {
            let (status, message) = seen.unwrap().condition("ComponentsRegistered");
            status == "Unknown" && message.contains(name) && message.contains("restore it")
        };
        let seen = world.until("coluc", "told of the ledger", told).await;
        assert_eq!(leaving(&seen), since);
        world.restart().await;
        world.once("coluc").await;
    }
    assert_eq!(rows(&second), 1);

    world.account("second-axl", "axlpassword");
    world.api.edit(&path, |map| map["data"] = text);
    let seen = world
        .until("coluc", "without what left", |seen| leaving(seen.unwrap()).is_none())
        .await;
    assert_eq!(
        (rows(&second), seen.condition("ComponentsRegistered").0.as_str()),
        (0, "True")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_cluster_that_cannot_be_reached_is_given_up_with_its_sql() {
    let world = World::new().await;
    let (first, second) = tokio::join!(cluster("first"), cluster("second"));
    let mut entries = [of(&first, "first", "Automatic"), of(&second, "second", "Manual")];
    entries[1]["deletionTimeout"] = json!("3s");
    world.resource("coluc", "coluc.com", &entries);
    world
        .until("coluc", "registered", |seen| {
            seen.is_some_and(|seen| seen.in_sync("first") && seen.rows("second") == 1)
        })
        .await;
    let pkid = second.state().nodes[0].rows[0].pkid.clone();
    drop(second);
    world.set_entries("coluc", &entries[..1]);
    world
        .until("coluc", "removing", |seen| {
            seen.is_some_and(|seen| seen.cluster("second (second.example.net)").is_some())
        })
        .await;
    let seen = world
        .until("coluc", "given up", |seen| {
            seen.is_some_and(|seen| seen.cluster("second (second.example.net)").is_none())
        })
        .await;
    assert_eq!(seen.condition("ComponentsRegistered").0, "True");
    let sql = format!("run sql delete from xmpps2snodes where pkid = '{pkid}'");
    world.until_told("RowsAbandoned: ", &sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_is_told_although_the_status_cannot_be_written() {
    let world = World::new().await;
    let (first, second) = tokio::join!(cluster("first"), cluster("second"));
    let mut entries = [of(&first, "first", "Manual"), of(&second, "second", "Manual")];
    entries[1]["onDelete"] = json!("Retain");
    world.resource("coluc", "coluc.com", &entries);
    world
        .until("coluc", "registered", |seen| {
            seen.is_some_and(|seen| seen.rows("first") == 1 && seen.rows("second") == 1)
        })
        .await;
    let pkid = second.state().nodes[0].rows[0].pkid.clone();
    let code = http::StatusCode::INTERNAL_SERVER_ERROR;
    world.api.refuse("/coluc/status", code, "InternalError", "no");
    world.set_entries("coluc", &entries[..1]);
    world.until_told("RowsRetained: ", &pkid).await;
    assert_eq!(rows(&second), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_takes_care_of_rows_where_the_name_of_their_publisher_led_before() {
    for answers in [true, false] {
        let mut world = World::new().await;
        let (former, new) = tokio::join!(cluster("first"), cluster("first"));
        let with_timeout = |sim: &SimulatedImp| {
            let mut entry = of(sim, "first", "Manual");
            entry["deletionTimeout"] = json!("3s");
            entry
        };
        world.resource("coluc", "coluc.com", &[with_timeout(&former)]);
        let registered = |seen: Option<&Reading>| seen.is_some_and(|seen| seen.rows("first") == 1);
        world.until("coluc", "registered", registered).await;
        let pkid = former.state().nodes[0].rows[0].pkid.clone();
        // IM&P was installed anew under that name while the operator was away.
        world.operator.task.abort();
        let _ = (&mut world.operator.task).await;
        world.set_entries("coluc", &[with_timeout(&new)]);
        world.api.edit(&format!("{RESOURCE}/coluc"), |object| {
            object["metadata"]["deletionTimestamp"] = json!(jiff::Timestamp::now().to_string());
        });
        let former = answers.then_some(former);
        world.operator = Operator::start(&world.api);
        world.until("coluc", "gone", |seen| seen.is_none()).await;
        assert_eq!((former.as_ref().map_or(0, rows), rows(&new)), (0, 0));
        let told = world.api.events();
        let abandoned = |event: &String| event.starts_with("RowsAbandoned: ") && event.contains(&pkid);
        assert_eq!(told.iter().any(abandoned), !answers, "{told:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_publisher_in_an_entry_moves_the_rows_and_another_name_of_the_same_does_not() {
    let mut world = World::new().await;
    let (first, second) = tokio::join!(cluster("first"), cluster("second"));
    let mut entry = of(&first, "first", "Automatic");
    world.resource("coluc", "coluc.com", &[entry.clone()]);
    let in_sync = |seen: Option<&Reading>| seen.is_some_and(|seen| seen.in_sync("first"));
    world.until("coluc", "in sync", in_sync).await;

    // The same machine by another name: nothing is removed, nothing restarted.
    entry["publisher"] = json!("first-again.example.net");
    entry["nodes"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "first-again.example.net", "address": "127.0.0.1"}));
    world.set_entries("coluc", &[entry.clone()]);
    world.restart().await;
    for _ in 0..10 {
        let seen = world.until("coluc", "in sync", in_sync).await;
        assert_eq!(seen.0["status"]["imp"].as_array().unwrap().len(), 1);
    }
    assert_eq!((rows(&first), restarts(&first)), (1, 1));

    // Another machine.
    let moved = json!({
        "publisher": "second.example.net",
        "nodes": [{"name": "second.example.net", "address": "127.0.0.1"}],
        "axl": {"port": second.nodes()[0].https.port()},
    });
    for (key, value) in moved.as_object().unwrap() {
        entry[key] = value.clone();
    }
    world.set_entries("coluc", &[entry]);
    world
        .until("coluc", "moved", |_| rows(&first) == 0 && restarts(&second) == 1)
        .await;
    world.until("coluc", "in sync", in_sync).await;
    assert_eq!((rows(&second), restarts(&second)), (1, 1));
    assert_eq!((rows(&first), restarts(&first)), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_names_of_one_cluster_are_told_and_work_once() {
    let mut world = World::new().await;
    let sim = cluster("first").await;
    let port = sim.nodes()[0].https.port();
    let mut again = entry("again", "first-again.example.net", port, "Automatic");
    again["nodes"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "first.example.net", "address": "127.0.0.1"}));
    world.resource("coluc", "coluc.com", &[of(&sim, "first", "Manual"), again]);
    for _ in 0..2 {
        let seen = world
            .until("coluc", "told", |seen| {
                seen.is_some_and(|seen| {
                    seen.rows("first") == 1 && seen.condition("ComponentsRegistered").1.contains("again: ")
                })
            })
            .await;
        let (status, message) = seen.condition("ComponentsRegistered");
        assert_eq!(status, "False");
        assert!(message.contains("spec.imp[first]"), "{message}");
        assert_eq!(seen.condition("Stalled").0, "True");
        for _ in 0..20 {
            world.once("coluc").await;
        }
        // The first entry is Manual, and so is the cluster.
        assert_eq!((rows(&sim), restarts(&sim)), (1, 0));
        world.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_in_the_second_entry_of_another_resource_is_taken() {
    let world = World::new().await;
    let (first, second) = tokio::join!(cluster("first"), cluster("second"));
    let entries = [of(&first, "first", "Automatic"), of(&second, "second", "Automatic")];
    world.resource("coluc", "coluc.com", &entries);
    world
        .until("coluc", "in sync", |seen| {
            seen.is_some_and(|seen| seen.in_sync("first") && seen.in_sync("second"))
        })
        .await;
    world.resource("other", "other.example", &entries[1..]);
    let seen = world
        .until("other", "stalled", |seen| {
            seen.is_some_and(|seen| seen.condition("Stalled").0 == "True")
        })
        .await;
    let (_, message) = seen.condition("Stalled");
    assert!(message.contains("federation/coluc"), "{message}");
    let before = second.calls(0).len();
    for _ in 0..20 {
        world.once("other").await;
    }
    assert_eq!(second.calls(0).len(), before, "it is not read twice");
    assert_eq!(
        calls(&second, "control-center").len(),
        calls(&first, "control-center").len()
    );

    // As soon as the cluster is free it is the other one's.
    world.set_entries("coluc", &entries[..1]);
    world.until("coluc", "released", |_| rows(&second) == 0).await;
    world.once("coluc").await;
    world
        .until("other", "in sync", |seen| {
            seen.is_some_and(|seen| seen.in_sync("second"))
        })
        .await;
    assert_eq!((rows(&second), restarts(&second)), (1, 2));
}

/// Nodes in the edge's configuration.
fn endpoints(config: &Value) -> Vec<String> {
    let text = config["data"]["edge.yaml"].as_str().unwrap();
    let lines = text.lines().map(str::trim);
    let addresses = lines.filter_map(|line| line.strip_prefix("address: "));
    addresses.map(|address| address.trim_matches('\'').to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_starts_without_a_configuration_and_without_im_and_presence_takes_nodes_from_the_ledger() {
    const CONFIG: &str = "/api/v1/namespaces/federation/configmaps/coluc-edge";
    let mut world = World::new().await;
    let sim = cluster("main").await;
    world.resource("coluc", "coluc.com", &[of(&sim, "main", "Automatic")]);
    let linked = |config: Option<Value>| config.is_some_and(|config| endpoints(&config) == ["127.0.0.1:7400"]);
    world
        .until("coluc", "in sync with its link", |seen| {
            seen.is_some_and(|seen| seen.in_sync("main")) && linked(world.api.get(CONFIG))
        })
        .await;
    world.stop().await;
    drop(sim);
    world.api.delete(CONFIG);
    let mut changes = world.api.changes();
    world.operator = Operator::start(&world.api);
    world
        .until("coluc", "linked again", |_| world.api.get(CONFIG).is_some())
        .await;
    world
        .until("coluc", "told that AXL is down", |seen| {
            seen.is_some_and(|seen| seen.condition("AxlAuthenticated").1.contains("no connection"))
        })
        .await;
    assert!(linked(world.api.get(CONFIG)));
    while let Ok((path, change)) = changes.try_recv() {
        assert!(path != CONFIG || endpoints(&change["object"]).len() == 1, "{change}");
    }
}

/// Changes spec.edge, as a person does.
fn set_edge(world: &World, name: &str, fields: &Value) {
    world.api.edit(&format!("{RESOURCE}/{name}"), |object| {
        let edge = object["spec"]["edge"].as_object_mut().unwrap();
        edge.extend(fields.as_object().unwrap().clone());
        edge.retain(|_, value| !value.is_null());
        let generation = object["metadata"]["generation"].as_i64().unwrap() + 1;
        object["metadata"]["generation"] = json!(generation);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_rise_only_where_the_spec_asks_for_more() {
    let mut world = World::new().await;
    world.stop().await;
    let sim = cluster("main").await;
    world.resource("coluc", "coluc.com", &[of(&sim, "main", "Automatic")]);
    set_edge(&world, "coluc", &json!({"replicas": 2, "slots": 2}));
    world.operator = Operator::start(&world.api);
    let registered = async |world: &World, slots: usize, restarted: usize| {
        let done = |seen: Option<&Reading>| {
            let seen = seen.unwrap();
            let current = seen.0["status"]["observedGeneration"] == seen.0["metadata"]["generation"];
            let recorded = seen.0["status"]["edge"]["slots"] == json!(slots);
            let restarted = restarts(&sim) == restarted;
            current && recorded && restarted && seen.condition("ComponentsRegistered").0 == "True"
        };
        world.until("coluc", "registered", done).await;
        for _ in 0..2 {
            world.once("coluc").await;
        }
        assert_eq!((rows(&sim), restarts(&sim)), (slots, restarted));
    };
    registered(&world, 2, 1).await;
    set_edge(&world, "coluc", &json!({"slots": null}));
    registered(&world, 2, 1).await;

    // The status is lost, as after a restore.
    world.stop().await;
    world
        .api
        .edit(&format!("{RESOURCE}/coluc"), |object| object["status"] = Value::Null);
    world.operator = Operator::start(&world.api);
    registered(&world, 2, 1).await;

    // What the API server refuses by its rules was stored before there were any.
    set_edge(&world, "coluc", &json!({"replicas": 3}));
    let refused = |seen: Option<&Reading>| seen.unwrap().condition("Stalled").1.contains("2, as recorded");
    world.until("coluc", "refused", refused).await;
    assert_eq!((rows(&sim), restarts(&sim)), (2, 1));
    set_edge(&world, "coluc", &json!({"slots": 3}));
    registered(&world, 3, 2).await;
    set_edge(&world, "coluc", &json!({"slots": null}));
    registered(&world, 3, 2).await;

    // The ledger is lost, and then both are.
    for (both, answer) in [(false, "1"), (true, "2")] {
        world.stop().await;
        world.api.delete(&world.ledger_with("main.example.net"));
        world.api.edit(&format!("{RESOURCE}/coluc"), |object| {
            object["metadata"]["annotations"] = json!({});
            if both {
                object["status"] = Value::Null;
            }
        });
        world.operator = Operator::start(&world.api);
        let asked = |seen: Option<&Reading>| {
            let (status, message) = seen.unwrap().condition("ComponentsRegistered");
            status == "False" && message.contains("adopt-rows")
        };
        world.until("coluc", "asked about rows with our ids", asked).await;
        world.api.edit(&format!("{RESOURCE}/coluc"), |object| {
            object["metadata"]["annotations"]["xmppfederation.io/adopt-rows"] = json!(answer);
        });
        registered(&world, 3, 2).await;
    }
}
