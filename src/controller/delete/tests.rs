//! Deletions against an API server that keeps one resource and its Secrets, and a simulated IM&P
//! cluster with our rows in its table.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use rstest::rstest;
use serde_json::{Value, json};
use testkit_simulator::{FaultOptions, ImpConfig, SimulatedImp};

use super::*;
use crate::api::status::{HandledRequest, ImpStatus, RegistrationStatus};
use crate::controller::context::Context;
use crate::controller::dereference;
use crate::controller::desired::desired;
use crate::controller::guard::ResourceGuard;
use crate::controller::kube::Kind;
use crate::controller::references::Secrets;
use crate::controller::rows::to_ledger;
use crate::controller::testing::{settings, spec};
use crate::edges;
use crate::runtime::metrics::Metrics;
use xmpp_federation_imp::desired::{Desired, Place};
use xmpp_federation_imp::store::{LedgerStore, MemoryStore};
use xmpp_federation_imp::{Manager, report};

/// What the API server holds and refuses.
#[allow(clippy::struct_excessive_bools, reason = "each is a trouble of its own")]
#[derive(Default)]
struct ApiServer {
    resource: Value,
    secrets: BTreeMap<String, Value>,
    /// The namespace is being deleted: nothing is created in it any more.
    terminating: bool,
    /// Statuses are refused.
    no_status: bool,
    /// So are deletions of Secrets.
    no_secret_is_deleted: bool,
    /// The answer to the change of finalizers has the version that was there before.
    answers_as_before: bool,
    /// So many changes of finalizers meet somebody else's change.
    conflicts: u32,
    events: Vec<(String, String)>,
    /// The finalizers were taken off.
    released: u32,
}

impl ApiServer {
    fn answer(&mut self, method: &Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let last = path.rsplit('/').next().unwrap_or_default().to_owned();
        let refuse = |code: StatusCode| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "refused", "code": code.as_u16(),
                "reason": if code == StatusCode::NOT_FOUND { "NotFound" } else { "" }});
            (code, status)
        };
        if path.contains("/secrets/") {
            if method == Method::DELETE {
                if self.no_secret_is_deleted {
                    return refuse(StatusCode::FORBIDDEN);
                }
                let known = self.secrets.get(&last).map(|secret| &secret["metadata"]["uid"]);
                if known != Some(&body["preconditions"]["uid"]) {
                    return refuse(StatusCode::CONFLICT);
                }
                self.secrets.remove(&last);
                return (
                    StatusCode::OK,
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
                );
            }
            return match self.secrets.get(&last) {
                Some(secret) => (StatusCode::OK, secret.clone()),
                None => refuse(StatusCode::NOT_FOUND),
            };
        }
        if path.contains("/events") {
            if self.terminating {
                return refuse(StatusCode::FORBIDDEN);
            }
            if method == Method::PATCH {
                return (StatusCode::OK, body.clone());
            }
            let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
            self.events.push((text("reason"), text("note")));
            return (StatusCode::CREATED, body.clone());
        }
        if method == Method::GET {
            return (StatusCode::OK, self.resource.clone());
        }
        if method == Method::PATCH && last == "status" {
            if self.no_status {
                return refuse(StatusCode::INTERNAL_SERVER_ERROR);
            }
            self.resource["status"] = body["status"].clone();
            self.touch();
            return (StatusCode::OK, self.resource.clone());
        }
        if method == Method::PATCH {
            if self.conflicts > 0 {
                self.conflicts -= 1;
                self.touch();
            }
            if body["metadata"]["resourceVersion"] != self.resource["metadata"]["resourceVersion"] {
                return refuse(StatusCode::CONFLICT);
            }
            self.resource["metadata"]["finalizers"] = body["metadata"]["finalizers"].clone();
            self.released += 1;
            if !self.answers_as_before {
                self.touch();
            }
        }
        let metadata = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
            "metadata": self.resource["metadata"]});
        (StatusCode::OK, metadata)
    }

    fn touch(&mut self) {
        let version: u64 = self.resource["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        self.resource["metadata"]["resourceVersion"] = json!((version + 1).to_string());
    }
}

fn client(server: &Arc<Mutex<ApiServer>>) -> Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let (code, answer) = server.lock().unwrap().answer(&parts.method, parts.uri.path(), &body);
            let response = Response::builder()
                .status(code)
                .body(Body::from(serde_json::to_vec(&answer).unwrap()));
            Ok::<_, kube::Error>(response.unwrap())
        }
    });
    Client::new(service, "federation")
}

/// A resource that is being deleted, with two rows in the table of a simulated cluster.
struct Bench {
    sim: SimulatedImp,
    server: Arc<Mutex<ApiServer>>,
    ledgers: Arc<MemoryStore>,
    context: Context,
    owner: Owner,
}

/// An account of the simulated cluster, as a Secret.
fn secret(name: &str, data: &[(&str, &str)]) -> (String, Value) {
    let data: serde_json::Map<String, Value> = data
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(STANDARD.encode(value))))
        .collect();
    let object = json!({"kind": "Secret", "apiVersion": "v1", "data": data, "metadata": {
        "name": name, "namespace": "federation", "uid": name, "resourceVersion": "1"}});
    (name.to_owned(), object)
}

fn names(object: &XmppFederation) -> Vec<String> {
    dereference::secret_names(&object.spec, [])
}

/// What the first entry is asked for.
fn wanted_of(context: &Context, object: &XmppFederation, owner: &Owner, secrets: &Secrets) -> Desired {
    let entry = &object.spec.imp[0];
    let cluster = validate::dropped_entry(entry).unwrap();
    let resource = resource(&context.environment, object, owner);
    let place = Place {
        reach: to_ledger(entry, secrets),
        ..Place::default()
    };
    desired(&resource, &cluster, place, secrets, &[]).unwrap()
}

impl Bench {
    async fn start() -> Self {
        let sim = SimulatedImp::start(ImpConfig::default()).await.unwrap();
        let mut spec = spec();
        spec["edge"]["replicas"] = json!(2);
        let imp = &mut spec["imp"][0];
        // Control Center of the second node is not needed to write rows.
        imp["nodes"] = json!([{"name": "cups.ciscotac.net", "address": "127.0.0.1"},
            {"name": "ecup10.coluc.com", "address": "127.0.0.1"},
            {"name": "ecup10s.coluc.com", "address": "127.0.0.1"}]);
        imp["axl"] = json!({"port": sim.nodes()[0].https.port()});
        imp["restart"] = json!({"mode": "Manual"});
        imp["deletionTimeout"] = json!("1s");
        let resource = json!({"kind": "XmppFederation", "apiVersion": "xmppfederation.io/v1alpha1", "spec": spec,
            "metadata": {"name": "coluc", "namespace": "federation", "uid": "uid-1", "generation": 1,
                "resourceVersion": "10",
                "finalizers": ["others.example/one", crate::api::FINALIZER, crate::api::KEYS_FINALIZER]}});
        let secrets = [
            secret("cups-axl", &[("username", "axluser"), ("password", "axlpassword")]),
            secret("cups-ca", &[("ca.crt", sim.ca_pem())]),
            secret("cups-router", &[("secret", "router-secret")]),
        ];
        let server = Arc::new(Mutex::new(ApiServer {
            resource,
            secrets: secrets.into_iter().collect(),
            ..ApiServer::default()
        }));
        let ledgers = Arc::new(MemoryStore::default());
        let context = Self::context(&server, &ledgers);
        let owner = crate::controller::testing::owner();
        let bench = Self {
            sim,
            server,
            ledgers,
            context,
            owner,
        };
        bench.register().await;
        bench.set("/metadata/deletionTimestamp", json!(Timestamp::now()));
        bench
    }

    fn context(server: &Arc<Mutex<ApiServer>>, ledgers: &Arc<MemoryStore>) -> Context {
        let ledgers = Arc::clone(ledgers) as Arc<dyn LedgerStore>;
        let context = Context::new(
            client(server),
            Manager::new(ledgers, Arc::new(ResourceGuard::new(client(server), || true))),
            edges::Client::new().unwrap(),
            Metrics::new(),
            settings(),
            "operator-1".to_owned(),
        );
        let env = &context.environment;
        let references = Arc::clone(&env.snapshots.references);
        tokio::spawn(references.fetch(env.client.clone(), Arc::clone(&env.queue), false));
        context
    }

    /// The Secrets that the resource refers to, once they are read.
    async fn secrets(&self, object: &XmppFederation) -> Secrets {
        let (references, names) = (&self.context.environment.snapshots.references, names(object));
        let referred = dereference::references(&self.owner, &object.spec, &names);
        references.refer(&self.owner.object_name(), &referred);
        loop {
            match references.secrets(&self.owner.namespace, &names) {
                Ok(secrets) => return secrets,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// As a living resource: its rows are written, and how that was done is remembered.
    async fn register(&self) {
        let object = self.object();
        for _ in 0..50 {
            let secrets = self.secrets(&object).await;
            let desired = Arc::new(wanted_of(&self.context, &object, &self.owner, &secrets));
            self.context.caches.rows.with(&self.owner.uid, |memory| {
                let last = memory.access.entry("main".to_owned()).or_default();
                last.see(Some(&desired), Timestamp::now());
            });
            let said = self.context.environment.imp.reconcile(&desired).await;
            if said.components_registered.status == report::Status::True {
                return;
            }
        }
        panic!("the rows are not written");
    }

    fn set(&self, pointer: &str, value: Value) {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let mut server = self.server.lock().unwrap();
        let parent = server.resource.pointer_mut(parent).unwrap();
        parent.as_object_mut().unwrap().insert(key.to_owned(), value);
    }

    fn object(&self) -> XmppFederation {
        serde_json::from_value(self.server.lock().unwrap().resource.clone()).unwrap()
    }

    /// Another process takes over.
    fn restart_operator(&mut self) {
        self.context = Self::context(&self.server, &self.ledgers);
    }

    /// Reconciles until the resource is released, and gives the time it took.
    async fn delete(&self) -> Duration {
        let began = Instant::now();
        while self.server.lock().unwrap().released == 0 {
            assert!(began.elapsed() < Duration::from_mins(1), "it hangs");
            if self.step().await == Next::Gone {
                break;
            }
            // The longest of the waits that are asked for ends with the deletion's.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        began.elapsed()
    }

    async fn step(&self) -> Next {
        let Context {
            environment, caches, ..
        } = &self.context;
        let object = self.object();
        self.secrets(&object).await;
        let dropped = Dropped::of(environment, &object);
        run(environment, &caches.rows, &object, &self.owner, &dropped)
            .await
            .unwrap()
    }

    fn rows(&self) -> Vec<String> {
        let rows = self.sim.state().nodes[0].rows.clone();
        rows.into_iter().map(|row| row.pkid).collect()
    }

    fn events(&self, reason: &str) -> Vec<String> {
        let server = self.server.lock().unwrap();
        let of = server.events.iter().filter(|(had, _)| had == reason);
        of.map(|(_, note)| note.clone()).collect()
    }

    fn abandoned(&self) -> u64 {
        self.context.environment.metrics.abandoned_rows.get()
    }
}

/// What is wrong while the resource is being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Nothing,
    Unreachable,
    Unauthorized,
    Throttled,
    SecretGoneEarlier,
    SecretGoneWithUs,
    SecretGoneAndNewProcess,
    SecretGoneAndAnotherPublisher,
    SecretWithoutPassword,
    AuthoritiesGone,
    Maintenance,
    Paused,
    SpecInvalid,
    NoStatus,
    Conflict,
    Retain,
    Abandon,
    AbandonWhilePaused,
}

impl Trouble {
    fn make(self, bench: &mut Bench) {
        let fault = |name: &str| {
            bench.sim.set_fault(name, FaultOptions::default()).unwrap();
        };
        let gone = |name: &str| {
            bench.server.lock().unwrap().secrets.remove(name);
            let (kind, name) = (Kind::Secret, bench.owner.sibling(name));
            bench.context.environment.snapshots.references.changed(kind, name);
        };
        match self {
            Self::Nothing => {}
            Self::Unreachable => bench.set("/spec/imp/0/axl", json!({"port": 1})),
            Self::Unauthorized => fault("axl-401"),
            Self::Throttled => fault("axl-503"),
            Self::SecretGoneEarlier => {
                gone("cups-axl");
                let long_ago = Timestamp::now() - Duration::from_secs(61);
                bench.context.caches.rows.with(&bench.owner.uid, |memory| {
                    memory.access.entry("main".to_owned()).or_default().see(None, long_ago);
                });
            }
            Self::SecretGoneWithUs => {
                gone("cups-axl");
                gone("cups-ca");
            }
            Self::SecretGoneAndNewProcess => {
                gone("cups-axl");
                bench.restart_operator();
            }
            Self::SecretGoneAndAnotherPublisher => {
                gone("cups-axl");
                bench.set("/spec/imp/0/publisher", json!("cups9.example.net"));
            }
            Self::SecretWithoutPassword => {
                let (name, mut object) = secret("cups-axl", &[("username", "axluser")]);
                object["metadata"]["resourceVersion"] = json!("2");
                bench.server.lock().unwrap().secrets.insert(name, object);
                let name = bench.owner.sibling("cups-axl");
                bench
                    .context
                    .environment
                    .snapshots
                    .references
                    .changed(Kind::Secret, name);
            }
            Self::AuthoritiesGone => gone("cups-ca"),
            Self::Maintenance => bench.set("/spec/imp/0/maintenance", json!(true)),
            Self::Paused => bench.set("/spec/paused", json!(true)),
            Self::SpecInvalid => bench.set("/spec/domains", json!(["bücher.example"])),
            Self::NoStatus => bench.server.lock().unwrap().no_status = true,
            Self::Conflict => bench.server.lock().unwrap().conflicts = 2,
            Self::Retain => bench.set("/spec/imp/0/onDelete", json!("Retain")),
            Self::Abandon | Self::AbandonWhilePaused => {
                let annotation = json!({request::ABANDON_ROWS: "yes"});
                bench.set("/metadata/annotations", annotation);
                bench.set("/spec/paused", json!(self == Self::AbandonWhilePaused));
            }
        }
    }
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// No row is left.
    Removed,
    /// Rows stay, because they are to.
    Retained,
    /// `deletionTimeout` is over; the event says these words.
    GivenUp(&'static str),
    /// Before `deletionTimeout`; the event says these words.
    GivenUpAtOnce(&'static str),
}

#[rstest]
#[case(Trouble::Nothing, Ends::Removed)]
#[case(
    Trouble::Unreachable,
    Ends::GivenUp("no connection to AXL at https://cups.ciscotac.net:1")
)]
#[case(Trouble::Unauthorized, Ends::GivenUp("401"))]
#[case(Trouble::Throttled, Ends::GivenUp("asks to slow down"))]
#[case(Trouble::SecretGoneEarlier, Ends::GivenUp("Secret cups-axl"))]
#[case(Trouble::SecretGoneWithUs, Ends::Removed)]
#[case(Trouble::SecretGoneAndNewProcess, Ends::GivenUp("Secret cups-axl"))]
#[case(Trouble::SecretWithoutPassword, Ends::GivenUp("has no key \"password\""))]
#[case(Trouble::AuthoritiesGone, Ends::Removed)]
#[case(Trouble::Maintenance, Ends::GivenUp("maintenance is true"))]
#[case(Trouble::Paused, Ends::GivenUp("spec.paused is true"))]
#[case(Trouble::SpecInvalid, Ends::Removed)]
#[case(Trouble::NoStatus, Ends::Removed)]
#[case(Trouble::Conflict, Ends::Removed)]
#[case(Trouble::Retain, Ends::Retained)]
#[case(Trouble::Abandon, Ends::GivenUpAtOnce(request::ABANDON_ROWS))]
#[case(Trouble::AbandonWhilePaused, Ends::GivenUpAtOnce(request::ABANDON_ROWS))]
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_ends(#[case] trouble: Trouble, #[case] ends: Ends, #[values(false, true)] terminating: bool) {
    let mut bench = Bench::start().await;
    let rows = bench.rows();
    assert_eq!(rows.len(), 2);
    trouble.make(&mut bench);
    bench.server.lock().unwrap().terminating = terminating;
    let calls = bench.sim.calls(0).len();

    let took = bench.delete().await;

    let finalizers = bench.object().finalizers().to_vec();
    assert_eq!(finalizers, ["others.example/one"], "only ours goes");
    let abandoned = bench.events("RowsAbandoned");
    match ends {
        Ends::Removed => {
            assert!(bench.rows().is_empty());
            assert_eq!((bench.abandoned(), abandoned.len()), (0, 0));
        }
        Ends::Retained => {
            assert_eq!(bench.rows(), rows);
            assert_eq!((bench.abandoned(), abandoned.len()), (0, 0));
            if !terminating {
                named(&bench.events("RowsRetained"), &rows, "Retain");
            }
        }
        Ends::GivenUp(words) | Ends::GivenUpAtOnce(words) => {
            assert_eq!(bench.rows(), rows);
            assert_eq!(bench.abandoned(), 2);
            if terminating {
                assert!(abandoned.is_empty(), "no event can be written");
            } else {
                named(&abandoned, &rows, words);
            }
            let at_once = matches!(ends, Ends::GivenUpAtOnce(_));
            assert_eq!(took < Duration::from_secs(1), at_once, "{took:?}");
        }
    }
    let bad: Vec<_> = bench
        .sim
        .calls(0)
        .into_iter()
        .skip(calls)
        .filter(|call| call.status == 401)
        .collect();
    let refused = usize::from(trouble == Trouble::Unauthorized);
    assert_eq!(bad.len(), refused, "one use of a refused account: {bad:#?}");
    let restarts: usize = bench
        .sim
        .state()
        .nodes
        .iter()
        .map(|node| node.router.restarts.len())
        .sum();
    assert_eq!(restarts, 0);
}

/// The events name the reason, and each row with the statement that removes it.
fn named(events: &[String], rows: &[String], words: &str) {
    // Events are short: what one does not hold goes on in the next.
    let told = events.join("\n");
    assert!(told.contains(words), "{events:#?}");
    for pkid in rows {
        let statement = format!("run sql delete from xmpps2snodes where pkid = '{pkid}'");
        assert!(told.contains(&statement), "{events:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_what_a_deletion_waits_for_and_how_long() {
    let mut bench = Bench::start().await;
    bench.set("/spec/imp/0/deletionTimeout", json!("10m"));
    Trouble::Unauthorized.make(&mut bench);
    let reports = |bench: &Bench| {
        let status = &bench.server.lock().unwrap().resource["status"];
        status.to_string().contains("401")
    };
    while !reports(&bench) {
        bench.step().await;
    }
    let status = bench.server.lock().unwrap().resource["status"].clone();
    let conditions = status["conditions"].as_array().unwrap();
    let said = conditions
        .iter()
        .find(|condition| condition["type"] == "Reconciling")
        .unwrap();
    assert_eq!(said["reason"], "Deleting");
    let message = said["message"].as_str().unwrap();
    for words in ["401", "given up at 20", "deletionTimeout", "abandon-rows"] {
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_removal_the_record_is_free_for_another_resource() {
    let bench = Bench::start().await;
    bench.delete().await;
    let mut texts = bench.ledgers.all().into_iter();
    let (_, text) = texts.find(|(_, text)| text.data.contains("DeleteRow")).unwrap();
    let ledger: Value = serde_json::from_str(&text.data).unwrap();
    assert_eq!(ledger["ledger"]["owner"], Value::Null, "{ledger:#}");
    assert_eq!(ledger["ledger"]["rows"], json!({}), "{ledger:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_of_another_publisher_is_not_used_where_the_secret_is_gone() {
    let mut bench = Bench::start().await;
    Trouble::SecretGoneAndAnotherPublisher.make(&mut bench);
    let (rows, calls) = (bench.rows(), bench.sim.calls(0).len());
    bench.delete().await;
    // Neither the new publisher is taken for done nor the former one asked.
    assert_eq!((bench.rows(), bench.sim.calls(0).len()), (rows.clone(), calls));
    let told = bench.events("RowsAbandoned");
    named(&told, &rows, "Secret cups-axl, ");
}

#[rstest]
#[case::by_the_ledger(false, &["main"], 2)]
#[case::by_the_status_where_the_ledger_is_lost(true, &["main"], 3)]
#[case::by_the_ledger_and_by_the_status_where_another_one_is_lost(false, &["main", "second (cups2.example.net)"], 5)]
#[case::the_entry_leads_to_a_cluster_whose_ledger_is_lost(false, &["main", "main (cups.ciscotac.net)"], 5)]
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_object_that_cannot_be_read_are_told_before_it_goes(
    #[case] lost: bool,
    #[case] clusters: &[&str],
    #[case] count: u64,
) {
    let mut bench = Bench::start().await;
    if lost {
        bench.ledgers.clear();
        bench.restart_operator();
    }
    bench.set("/spec/imp", json!("of another release"));
    let object = |bench: &Bench| serde_json::from_value(bench.server.lock().unwrap().resource.clone()).unwrap();
    let registered = |n: u8| RegistrationStatus {
        component_id: format!("cm-{n}"),
        pkid: n.to_string(),
    };
    let cluster = |name: &&str| ImpStatus {
        name: (*name).to_owned(),
        registrations: (0..3).map(registered).collect(),
        ..ImpStatus::default()
    };
    let mut status = XmppFederationStatus {
        imp: clusters.iter().map(cluster).collect(),
        handled_requests: vec![HandledRequest {
            annotation: request::ABANDON_ROWS.to_owned(),
            value: "served".to_owned(),
        }],
        ..XmppFederationStatus::default()
    };
    let env = &bench.context.environment;
    bench.set("/metadata/annotations", json!({request::ABANDON_ROWS: "served"}));
    let next = unreadable(env, &object(&bench), &status).await.unwrap();
    assert_eq!((next, bench.abandoned()), (Next::After(RETRY), 0));
    status.handled_requests.clear();
    let next = unreadable(env, &object(&bench), &status).await.unwrap();
    assert_eq!((next, bench.abandoned()), (Next::Gone, count));
    assert_eq!(bench.server.lock().unwrap().released, 1);
}

#[rstest]
#[case::whose_it_is_is_not_known("{", true)]
#[case::of_another_resource(r#"{"uid": "1", "ledger": {"schema": 99, "owner": {"uid": "uid-9"}}}"#, false)]
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_waits_for_a_ledger_that_may_hide_rows_and_names_it_at_its_end(
    #[case] text: &str,
    #[case] hides: bool,
) {
    let bench = Bench::start().await;
    let ledger = "xmpp-federation-imp-22222222-2222-4222-8222-222222222222";
    bench.ledgers.write(ledger, text.to_owned(), None).await.unwrap();
    let leaving = json!({"since": "2026-01-01T00:00:00Z", "message": "its publisher does not answer"});
    let left = json!({"name": "second (cups2.example.net)", "leaving": leaving});
    bench.set("/status", json!({"conditions": [], "imp": [left]}));
    bench.delete().await;
    assert!(bench.rows().is_empty());
    assert_eq!(bench.abandoned(), u64::from(hides));
    let told = bench.events("RowsAbandoned");
    assert_eq!(told.len(), usize::from(hides), "{told:#?}");
    for event in told {
        for part in [ledger, "restore it", "second (cups2.example.net)"] {
            assert!(event.contains(part), "{event}");
        }
    }
    // A finalizer of others still holds it, and nothing is told again.
    let statuses = bench.server.lock().unwrap().resource.clone();
    assert_eq!(bench.step().await, Next::Gone);
    assert_eq!(bench.abandoned(), u64::from(hides));
    assert_eq!(bench.server.lock().unwrap().resource, statuses);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_giving_up_the_next_resource_has_its_rows_without_writing_any() {
    let mut bench = Bench::start().await;
    let rows = bench.rows();
    Trouble::Abandon.make(&mut bench);
    bench.delete().await;
    // Applied again, it is another resource.
    let inserts = |bench: &Bench| {
        let calls = bench.sim.calls(0).into_iter();
        calls.filter(|c| c.detail.starts_with("INSERT")).count()
    };
    let before = inserts(&bench);
    assert_eq!(before, 2);
    bench.restart_operator();
    bench.owner.uid = "uid-2".to_owned();
    let object = bench.object();
    let secrets = bench.secrets(&object).await;
    let mut desired = wanted_of(&bench.context, &object, &bench.owner, &secrets);
    desired.live_owners = ["uid-2"].into();
    let mut said = bench.context.environment.imp.reconcile(&desired).await;
    for _ in 0..10 {
        if said.components_registered.status == report::Status::True {
            break;
        }
        said = bench.context.environment.imp.reconcile(&desired).await;
    }
    assert_eq!(said.components_registered.status, report::Status::True);
    // Nothing is written, and yet its deletion will have rows to remove.
    assert_eq!((said.wants_to_act, said.registrations.len()), (false, 2));
    assert_eq!((bench.rows(), inserts(&bench)), (rows, before));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_lost_record_does_not_show_are_told_and_stay() {
    let mut bench = Bench::start().await;
    let rows = bench.rows();
    bench.ledgers.clear();
    bench.restart_operator();
    bench.delete().await;
    assert_eq!(bench.rows(), rows);
    let told = bench.events("IdenticalForeignRow");
    assert_eq!(told.len(), 2, "{told:#?}");
    for pkid in &rows {
        assert!(told.iter().any(|note| note.contains(pkid)), "{told:#?}");
    }
}

/// A Secret at one of the names of dialback secret and authority.
fn key_secret(name: &str, marked: bool, owner: Option<(&str, &str)>) -> (String, Value) {
    let (name, mut secret) = secret(name, &[("current", "0123")]);
    if marked {
        secret["metadata"]["annotations"] = json!({crate::api::RESOURCE: "coluc"});
    }
    if let Some((kind, uid)) = owner {
        let owner = json!({"apiVersion": "xmppfederation.io/v1alpha1", "kind": kind, "name": "coluc", "uid": uid});
        secret["metadata"]["ownerReferences"] = json!([owner]);
    }
    (name, secret)
}

#[rstest]
#[case::removed("RemoveRows", true, None, false)]
#[case::retained("Retain", true, None, true)]
#[case::of_an_earlier_release("RemoveRows", true, Some(("XmppFederation", "uid-1")), false)]
#[case::restored_and_never_looked_at("RemoveRows", true, Some(("XmppFederation", "uid-0")), false)]
#[case::not_ours("RemoveRows", false, None, true)]
#[case::of_somebody_else("RemoveRows", true, Some(("Certificate", "uid-5")), true)]
#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_no_garbage_collector_takes_go_with_the_resource_unless_rows_stay(
    #[case] on_delete: &str,
    #[case] marked: bool,
    #[case] owner: Option<(&str, &str)>,
    #[case] stays: bool,
    #[values(false, true)] rows: bool,
) {
    let bench = Bench::start().await;
    bench.set("/spec/imp/0/onDelete", json!(on_delete));
    if !rows {
        // Prepared all its life: no row was ever written.
        bench.set("/metadata/finalizers", json!([crate::api::KEYS_FINALIZER]));
    }
    let keys = ["coluc-dialback", "coluc-ca"];
    let all = keys.map(|name| key_secret(name, marked, owner));
    bench.server.lock().unwrap().secrets.extend(all);
    let calls = bench.sim.calls(0).len();
    bench.delete().await;
    let held: Vec<String> = bench.server.lock().unwrap().secrets.keys().cloned().collect();
    for name in keys {
        assert_eq!(held.iter().any(|held| held == name), stays, "{name}");
    }
    // What is the user's stays in any case.
    assert!(held.iter().any(|held| held == "cups-axl"));
    let told = bench.events("SecretsRetained");
    assert_eq!(told.len(), usize::from(on_delete == "Retain"), "{told:?}");
    for name in keys {
        assert!(told.iter().all(|note| note.contains(name)), "{told:?}");
    }
    let finalizers = bench.object().finalizers().to_vec();
    assert_eq!(finalizers, if rows { vec!["others.example/one"] } else { Vec::new() });
    if !rows {
        assert_eq!(bench.sim.calls(0).len(), calls, "nothing is asked of IM&P");
    }
}

/// The watch tells of the Secrets' end before it tells of the object's.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_lost_its_last_finalizer_is_not_deleted_twice() {
    let bench = Bench::start().await;
    bench.set(
        "/metadata/finalizers",
        json!([crate::api::FINALIZER, crate::api::KEYS_FINALIZER]),
    );
    let object: kube::api::DynamicObject =
        serde_json::from_value(bench.server.lock().unwrap().resource.clone()).unwrap();
    let snapshots = &bench.context.environment.snapshots;
    assert!(snapshots.see_resource(object));
    assert!(snapshots.resources.get(&bench.owner.object_name()).is_some());
    bench.server.lock().unwrap().answers_as_before = true;
    bench.delete().await;
    assert!(snapshots.resources.get(&bench.owner.object_name()).is_none());
}

#[rstest]
#[case::until_the_time_is_over(None)]
#[case::until_a_person_gives_up(Some("yes"))]
#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_cannot_be_deleted_hold_a_deletion_until_its_end_and_are_named(#[case] abandon: Option<&str>) {
    let bench = Bench::start().await;
    if abandon.is_some() {
        bench.set("/spec/imp/0/deletionTimeout", json!("10m"));
    }
    let keys = ["coluc-dialback", "coluc-ca"].map(|name| key_secret(name, true, None));
    {
        let mut server = bench.server.lock().unwrap();
        server.secrets.extend(keys);
        server.no_secret_is_deleted = true;
    }
    while bench.object().status.is_none_or(|status| {
        let waits = |message: &str| message.contains("Secret coluc-dialback cannot be deleted");
        !status.conditions.iter().any(|condition| waits(&condition.message))
    }) {
        bench.step().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if let Some(value) = abandon {
        bench.set("/metadata/annotations", json!({request::ABANDON_ROWS: value}));
    }
    let took = bench.delete().await;
    assert!(took < Duration::from_secs(30), "{took:?}");
    let told = bench.events("SecretsRetained");
    assert!(
        told.iter()
            .any(|note| note.contains("Gave up deleting Secret coluc-dialback")),
        "{told:?}"
    );
    assert!(bench.rows().is_empty());
}

#[rstest]
#[case(None, "yes", true)]
#[case(Some("yes"), "yes", false)]
#[case(Some("yes"), "again", true)]
fn a_value_that_gave_up_a_former_cluster_does_not_give_up_the_resource(
    #[case] served: Option<&str>,
    #[case] value: &str,
    #[case] abandons: bool,
) {
    let mut object = XmppFederation::new("coluc", serde_json::from_value(spec()).unwrap());
    object
        .annotations_mut()
        .insert(request::ABANDON_ROWS.to_owned(), value.to_owned());
    let handled = served.map(|value| crate::api::status::HandledRequest {
        annotation: request::ABANDON_ROWS.to_owned(),
        value: value.to_owned(),
    });
    object.status = Some(XmppFederationStatus {
        handled_requests: handled.into_iter().collect(),
        ..XmppFederationStatus::default()
    });
    assert_eq!(requests::abandons(&object), abandons);
}
