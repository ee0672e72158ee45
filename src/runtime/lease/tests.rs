//! Candidates against an API server that keeps Leases, on a clock that is moved by hand.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rstest::rstest;
use serde_json::{Value, json};

use super::*;

const HOME: &str = "kube-system";

/// What happens at a request, before the server answers it; an answer stands in for the server's.
type Interruption = Box<dyn FnMut(&mut Server, &Method, &str) -> Option<StatusCode> + Send>;

#[derive(Default)]
struct Server {
    /// By path.
    leases: BTreeMap<String, Value>,
    version: u64,
}

impl Server {
    fn store(&mut self, path: &str, mut lease: Value) -> Value {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        lease["metadata"]["namespace"] = json!(path.split('/').nth(5).unwrap());
        self.leases.insert(path.to_owned(), lease.clone());
        lease
    }

    fn answer(&mut self, method: &Method, path: &str, query: &str, body: Value) -> (StatusCode, Value) {
        let refuse = |code: StatusCode| (code, failure(code));
        match *method {
            Method::GET if path.ends_with("/leases") => {
                assert_eq!(query, "&labelSelector=xmppfederation.io%2Flease%3Dnamespace");
                let ours = |lease: &&Value| lease["metadata"]["labels"][SCOPE.0] == SCOPE.1;
                let items: Vec<&Value> = self.leases.values().filter(ours).collect();
                let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items});
                (StatusCode::OK, list)
            }
            Method::GET => match self.leases.get(path) {
                Some(lease) => (StatusCode::OK, lease.clone()),
                None => refuse(StatusCode::NOT_FOUND),
            },
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.leases.contains_key(&path) {
                    return refuse(StatusCode::CONFLICT);
                }
                (StatusCode::CREATED, self.store(&path, body))
            }
            Method::PUT => match self.leases.get(path) {
                None => refuse(StatusCode::NOT_FOUND),
                Some(old) if old["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] => {
                    refuse(StatusCode::CONFLICT)
                }
                Some(_) => (StatusCode::OK, self.store(path, body)),
            },
            _ => panic!("{method} {path}"),
        }
    }
}

/// An API server and a clock.
#[derive(Clone, Default)]
struct World {
    server: Arc<Mutex<Server>>,
    now_ms: Arc<AtomicU64>,
}

impl World {
    fn clock(&self) -> Clock {
        let now = Arc::clone(&self.now_ms);
        Arc::new(move || Duration::from_millis(now.load(Ordering::SeqCst)))
    }

    fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    fn client(&self, interrupt: Interruption) -> Client {
        let server = Arc::clone(&self.server);
        let interrupt = Arc::new(Mutex::new(interrupt));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (server, interrupt) = (Arc::clone(&server), Arc::clone(&interrupt));
            async move {
                // Others get their turn between any two requests.
                tokio::task::yield_now().await;
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
                let (code, answer) = {
                    let mut server = server.lock().unwrap();
                    let stands_in = (interrupt.lock().unwrap())(&mut server, &parts.method, path);
                    match stands_in {
                        // The request was carried out, and its answer was lost.
                        Some(StatusCode::GATEWAY_TIMEOUT) => {
                            server.answer(&parts.method, path, query, body);
                            (StatusCode::GATEWAY_TIMEOUT, failure(StatusCode::GATEWAY_TIMEOUT))
                        }
                        Some(code) => (code, failure(code)),
                        None => server.answer(&parts.method, path, query, body),
                    }
                };
                tokio::task::yield_now().await;
                let bytes = serde_json::to_vec(&answer).unwrap();
                let response = Response::builder().status(code).body(Body::from(bytes));
                Ok::<_, kube::Error>(response.unwrap())
            }
        });
        Client::new(service, "default")
    }

    /// A candidate, for the whole cluster if no namespace is given.
    fn candidate(&self, identity: &str, namespaces: &[&str]) -> Election {
        self.interrupted(identity, namespaces, Box::new(|_, _, _| None))
    }

    fn interrupted(&self, identity: &str, namespaces: &[&str], interrupt: Interruption) -> Election {
        let namespaces: Vec<String> = namespaces.iter().map(|name| (*name).to_owned()).collect();
        Election::new(&self.client(interrupt), HOME, &namespaces, identity, self.clock())
    }
}

fn failure(code: StatusCode) -> Value {
    // The client tells a missing object by the reason.
    let reason = if code == StatusCode::NOT_FOUND { "NotFound" } else { "" };
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": "no", "reason": reason, "code": code.as_u16()})
}

fn path(namespace: &str, name: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}")
}

fn standby(round: Round) -> String {
    match round {
        Round::Standby(held) => held.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The Lease of the whole cluster that a candidate for namespaces yields to; its own are given back.
async fn yields(election: &mut Election) -> String {
    match election.round().await.unwrap() {
        Round::Yield(held) => {
            election.release().await;
            held.to_string()
        }
        other => panic!("{other:?}"),
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn the_deadline_counts_from_before_the_request() {
    let world = World::default();
    world.pass(seconds(100));
    let slow = world.clone();
    let interrupt: Interruption = Box::new(move |_, method, _| {
        if method != Method::GET {
            slow.pass(seconds(3));
        }
        None
    });
    let mut one = world.interrupted("one", &[], interrupt);
    assert_eq!(one.round().await.unwrap(), Round::Leading(seconds(110)));
    // It is second 103 now.
    assert_eq!(one.round().await.unwrap(), Round::Leading(seconds(113)));
}

#[rstest]
#[case::a_person_annotates_it(|server: &mut Server, path: &str| {
    let mut lease = server.leases[path].clone();
    lease["metadata"]["annotations"] = json!({"note": "hello"});
    server.store(path, lease);
    None
})]
#[case::the_client_repeats_a_write(|_: &mut Server, _: &str| Some(StatusCode::GATEWAY_TIMEOUT))]
#[case::a_person_deletes_it(|server: &mut Server, path: &str| {
    server.leases.remove(path);
    None
})]
#[case::a_person_clears_the_holder(|server: &mut Server, path: &str| {
    let mut lease = server.leases[path].clone();
    lease["spec"]["holderIdentity"] = json!("");
    server.store(path, lease);
    None
})]
#[tokio::test]
async fn only_another_holder_ends_leadership(
    #[case] meddle: fn(&mut Server, &str) -> Option<StatusCode>,
    #[values(Method::GET, Method::PUT)] at: Method,
) {
    let world = World::default();
    let mut armed = 0;
    let interrupt: Interruption = Box::new(move |server, method, path| {
        armed += usize::from(*method == at && server.leases.contains_key(path));
        if armed == 2 {
            armed += 1;
            return meddle(server, path);
        }
        None
    });
    let mut one = world.interrupted("one", &[], interrupt);
    let leadership = Leadership::new(world.clock());
    let mut renewed = 0;
    for _ in 0..6 {
        match one.round().await {
            Ok(Round::Leading(until)) => {
                leadership.extend(until);
                renewed += 1;
            }
            Ok(round) => panic!("{round:?}"),
            Err(_) => {}
        }
        world.pass(RETRY_PERIOD);
        assert!(leadership.still());
    }
    assert!(renewed >= 5, "{renewed}");

    // Somebody takes it by force.
    let lease = path(HOME, CLUSTER_LEASE);
    let mut object = world.server.lock().unwrap().leases[&lease].clone();
    object["spec"]["holderIdentity"] = json!("ns/two");
    world.server.lock().unwrap().store(&lease, object);
    assert_eq!(
        standby(one.round().await.unwrap()),
        "Lease xmpp-federation-operator in namespace kube-system is held by ns/two"
    );
}

#[tokio::test]
async fn a_silent_holder_is_succeeded_after_the_lease_duration_and_not_before() {
    let world = World::default();
    let (mut one, mut two) = (world.candidate("one", &[]), world.candidate("two", &[]));
    assert!(matches!(one.round().await.unwrap(), Round::Leading(_)));
    for second in 0..14 {
        let held = standby(two.round().await.unwrap());
        assert!(held.ends_with("is held by one"), "{second}: {held}");
        world.pass(seconds(1));
    }
    // It renews once more.
    one.round().await.unwrap();
    for second in 0..15 {
        let held = standby(two.round().await.unwrap());
        assert!(held.ends_with("is held by one"), "{second}: {held}");
        world.pass(seconds(1));
    }
    assert!(matches!(two.round().await.unwrap(), Round::Leading(_)));
    // And a Lease that is given back is taken at once.
    two.release().await;
    assert!(matches!(one.round().await.unwrap(), Round::Leading(_)));
}

#[tokio::test]
async fn an_installation_for_namespaces_needs_the_lease_of_each() {
    let world = World::default();
    let mut one = world.candidate("one", &["b", "a"]);
    let mut two = world.candidate("two", &["b", "c"]);
    let mut three = world.candidate("three", &["d"]);
    assert!(matches!(two.round().await.unwrap(), Round::Leading(_)));
    assert_eq!(
        standby(one.round().await.unwrap()),
        "Lease xmpp-federation-operator-namespace in namespace b is held by two"
    );
    assert!(matches!(three.round().await.unwrap(), Round::Leading(_)));
    two.release().await;
    assert!(matches!(one.round().await.unwrap(), Round::Leading(_)));
}

#[tokio::test]
async fn an_installation_for_the_whole_cluster_comes_first() {
    let world = World::default();
    let mut few = world.candidate("few", &["a"]);
    let mut hung = world.candidate("hung", &["b"]);
    let mut all = world.candidate("all", &[]);
    for leader in [&mut few, &mut hung] {
        assert!(matches!(leader.round().await.unwrap(), Round::Leading(_)));
    }
    // The leader of a namespace may not have seen it yet.
    let held = standby(all.round().await.unwrap());
    assert_eq!(
        held,
        "Lease xmpp-federation-operator-namespace in namespace a is held by few"
    );
    assert_eq!(
        yields(&mut few).await,
        "Lease xmpp-federation-operator in namespace kube-system is held by all"
    );
    for _ in 0..7 {
        world.pass(RETRY_PERIOD);
        assert!(standby(all.round().await.unwrap()).ends_with("in namespace b is held by hung"));
    }
    world.pass(seconds(1));
    assert!(matches!(all.round().await.unwrap(), Round::Leading(_)));
    // The next pod of the same installation takes over; the namespace is not led meanwhile.
    all.release().await;
    yields(&mut few).await;
    yields(&mut hung).await;
    let mut next = world.candidate("next", &[]);
    assert!(
        matches!(next.round().await.unwrap(), Round::Leading(_)),
        "nobody to wait for"
    );
    // It is uninstalled.
    next.release().await;
    yields(&mut few).await;
    world.pass(LEASE_DURATION);
    assert!(matches!(few.round().await.unwrap(), Round::Leading(_)));
}

#[tokio::test]
async fn a_leader_that_was_not_scheduled_for_long_looks_for_others_again() {
    let world = World::default();
    let mut all = world.candidate("all", &[]);
    assert!(matches!(all.round().await.unwrap(), Round::Leading(_)));
    let mut few = world.candidate("few", &["a"]);
    yields(&mut few).await;
    world.pass(seconds(20));
    assert!(matches!(few.round().await.unwrap(), Round::Leading(_)));
    assert!(standby(all.round().await.unwrap()).ends_with("in namespace a is held by few"));
    yields(&mut few).await;
    assert!(matches!(all.round().await.unwrap(), Round::Leading(_)));
}

#[tokio::test]
async fn a_lease_that_was_released_long_ago_holds_nobody_up() {
    let world = World::default();
    let lease = json!({"metadata": {"name": CLUSTER_LEASE}, "spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}});
    world.server.lock().unwrap().store(&path(HOME, CLUSTER_LEASE), lease);
    let mut few = world.candidate("few", &["a"]);
    assert!(matches!(few.round().await.unwrap(), Round::Leading(_)));
}

/// One process: a candidate until it leads, then a leader until it does not, and so on.
async fn process(mut election: Election, leadership: Leadership, world: World, seed: u64, led: Arc<AtomicU64>) {
    let mut random = SmallRng::seed_from_u64(seed);
    while world.now_ms.load(Ordering::SeqCst) < 300_000 {
        let was = leadership.still();
        match election.round().await {
            Ok(Round::Leading(until)) => {
                leadership.extend(until);
                led.fetch_add(u64::from(leadership.still()), Ordering::SeqCst);
            }
            Ok(Round::Standby(_)) => leadership.end(),
            Ok(Round::Yield(_)) => {
                leadership.end();
                election.release().await;
            }
            Err(_) => {}
        }
        if was && !leadership.still() {
            // The process ends, and another one of that name starts.
            leadership.end();
        }
        if random.random_ratio(1, 40) {
            leadership.end();
            election.release().await;
        }
        // Sometimes it is not scheduled for long.
        let pause = if random.random_ratio(1, 20) {
            random.random_range(0..40_000)
        } else {
            2_000
        };
        let until = (world.now_ms.load(Ordering::SeqCst) + pause).min(300_000);
        while world.now_ms.load(Ordering::SeqCst) < until {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn two_overlapping_installations_never_lead_at_the_same_time() {
    const INSTALLATIONS: [(&str, &[&str]); 5] = [
        ("all-1", &[]),
        ("all-2", &[]),
        ("ab", &["a", "b"]),
        ("bc", &["b", "c"]),
        ("c", &["c"]),
    ];
    let overlap = |one: &[&str], other: &[&str]| {
        one.is_empty() || other.is_empty() || one.iter().any(|name| other.contains(name))
    };
    for seed in 0..2 {
        let world = World::default();
        let leaderships = INSTALLATIONS.map(|_| Leadership::new(world.clock()));
        let led = INSTALLATIONS.map(|_| Arc::new(AtomicU64::new(0)));
        let processes = INSTALLATIONS.iter().zip(&leaderships).zip(&led).enumerate();
        let processes = processes.map(|(index, (((name, namespaces), leadership), led))| {
            let mut random = SmallRng::seed_from_u64(seed * 100 + index as u64);
            let clock = world.clone();
            let interrupt: Interruption = Box::new(move |_, _, _| {
                // A request may take a while, fail, or be carried out without an answer.
                if random.random_ratio(1, 30) {
                    clock.pass(Duration::from_millis(random.random_range(0..4_000)));
                }
                match random.random_range(0..60) {
                    0 => Some(StatusCode::GATEWAY_TIMEOUT),
                    1 => Some(StatusCode::INTERNAL_SERVER_ERROR),
                    _ => None,
                }
            });
            let election = world.interrupted(name, namespaces, interrupt);
            process(
                election,
                leadership.clone(),
                world.clone(),
                seed * 7 + index as u64,
                Arc::clone(led),
            )
        });
        let processes = futures::future::join_all(processes);
        let time = async {
            while world.now_ms.load(Ordering::SeqCst) < 300_000 {
                for (one, (name, mine)) in INSTALLATIONS.iter().enumerate() {
                    for (other, (second, theirs)) in INSTALLATIONS.iter().enumerate().skip(one + 1) {
                        let both = leaderships[one].still() && leaderships[other].still();
                        assert!(!both || !overlap(mine, theirs), "seed {seed}: {name} and {second}");
                    }
                }
                world.pass(Duration::from_millis(100));
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(processes, time);
        let total: u64 = led.iter().map(|led| led.load(Ordering::SeqCst)).sum();
        assert!(total > 20, "seed {seed}: {led:?}");
    }
}
