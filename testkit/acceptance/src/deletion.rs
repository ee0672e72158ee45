//! Deletions when something is in the way: IM&P, its account, the Secret, the spec, or the whole namespace going.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::imp::{Row, State};
use super::install::{apply_object, operator_pods, operator_runs};
use super::object::{list, text};
use super::registration::restart_counts;
use super::report::{Talk, ensure};
use super::resource::{Account, Sample};
use super::world::World;
use testkit_base::Error;
use testkit_lab::hosts;

/// `deletionTimeout` of the resources here, in seconds.
const TIMEOUT: u64 = 5;
/// A deletion that takes longer hangs.
const GONE: Duration = Duration::from_mins(1);
/// Rows are written within this time.
const WRITTEN: Duration = Duration::from_secs(40);
/// Where no host is.
const NOBODY: &str = "10.244.200.99";
/// Namespace that is deleted.
const NAMESPACE: &str = "federation-going";

/// What is in the way of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Unreachable,
    Unauthorized,
    SecretGone,
    Maintenance,
    Paused,
}

impl Way {
    const ALL: [Self; 5] = [
        Self::Unreachable,
        Self::Unauthorized,
        Self::SecretGone,
        Self::Maintenance,
        Self::Paused,
    ];

    /// What the Event has to say about it.
    const fn words(self) -> &'static str {
        match self {
            Self::Unreachable => "AXL at https://cups.ciscotac.net:8443",
            Self::Unauthorized => "401",
            Self::SecretGone => "Secret cups-axl",
            Self::Maintenance => "maintenance is true",
            Self::Paused => "xmppfederation.io/abandon-rows",
        }
    }

    async fn stand(self, talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
        let imp = |field: &str, value: Value| json!({"spec": {"imp": [short_lived(sample, field, &value)]}});
        match self {
            Self::Unreachable => {
                let nodes = json!([{"name": "cups.ciscotac.net", "address": NOBODY}]);
                sample.patch(world, &imp("nodes", nodes)).await
            }
            Self::Unauthorized => world.imp.set_password("changed").await,
            Self::SecretGone => {
                let name = sample.credentials_name();
                let arguments = ["-n", &sample.namespace, "delete", "secret", name];
                world.lab.kubectl(&arguments).await?;
                // Another process remembers nothing of what was in it.
                another_operator(talk, world).await
            }
            Self::Maintenance => sample.patch(world, &imp("maintenance", json!(true))).await,
            Self::Paused => sample.patch(world, &json!({"spec": {"paused": true}})).await,
        }
    }

    async fn leave(self, world: &World, sample: &Sample, account: &mut Account) -> Result<(), Error> {
        // An account that was refused rests; a new password makes it another one.
        if self == Self::Unauthorized {
            account.password = format!("new-{:x}", rand::random::<u64>());
            world.imp.set_password(&account.password).await?;
        }
        apply_object(world, &sample.credentials(account)).await
    }
}

/// Ends the operator's process and waits for the next one.
async fn another_operator(talk: Talk, world: &World) -> Result<(), Error> {
    let pods = operator_pods(world).await?;
    let (namespace, pod) = pods.first().ok_or("there is no operator")?;
    world
        .lab
        .kubectl(&["-n", namespace, "delete", "pod", &pod.name])
        .await?;
    talk.wait("another operator", WRITTEN, async || operator_runs(world).await)
        .await
}

/// The sample's cluster, with restarts left to people and a short timeout, and one field more.
fn short_lived(sample: &Sample, field: &str, value: &Value) -> Value {
    let mut imp = sample.imp_with("deletionTimeout", &json!(format!("{TIMEOUT}s")));
    if let Some(imp) = imp.as_object_mut() {
        let mode = json!({"mode": "Manual", "propagationDelay": "2s"});
        imp.insert("restart".to_owned(), mode);
        imp.insert(field.to_owned(), value.clone());
    }
    imp
}

/// Applies the sample, for a short life, without pods to wait for.
async fn apply(world: &World, sample: &Sample) -> Result<(), Error> {
    let mut resource = sample.resource.clone();
    for (pointer, value) in [
        ("/spec/imp", json!([short_lived(sample, "name", &json!("main"))])),
        ("/metadata/namespace", json!(sample.namespace)),
        // Pods are not what is looked at here.
        ("/spec/edge/replicas", json!(1)),
        ("/spec/edge/slots", json!(2)),
        ("/spec/edge/drainDelay", json!("0s")),
    ] {
        let (parent, key) = pointer.rsplit_once('/').unwrap_or_default();
        if let Some(parent) = resource.pointer_mut(parent).and_then(Value::as_object_mut) {
            parent.insert(key.to_owned(), value);
        }
    }
    apply_object(world, &resource).await
}

/// Waits until the resource has two rows in the table and knows it.
async fn written(talk: Talk, world: &World, sample: &Sample) -> Result<State, Error> {
    talk.wait("two rows of ours", WRITTEN, async || {
        let resource = sample.now(world).await?;
        let known = list(&resource, "/status/imp/0/registrations").len();
        ensure(known == 2, || format!("the status knows of {known}"))?;
        let finalizers = list(&resource, "/metadata/finalizers").len();
        ensure(finalizers == 1, || format!("{finalizers} finalizers"))?;
        let state = world.imp.state().await?;
        let rows = rows(&state).len();
        ensure(rows == 2, || format!("the table has {rows}"))?;
        Ok(state)
    })
    .await
}

fn rows(state: &State) -> Vec<Row> {
    state.nodes.first().map(|node| node.rows.clone()).unwrap_or_default()
}

/// Waits until an object is gone; how long it took.
async fn gone(talk: Talk, world: &World, arguments: &[&str], began: Instant) -> Result<Duration, Error> {
    talk.wait(&arguments.join(" "), GONE, async || {
        let mut words = vec!["get", "--ignore-not-found", "-o", "name"];
        words.extend_from_slice(arguments);
        let left = world.lab.kubectl(&words).await?;
        ensure(left.trim().is_empty(), || "it is still there".to_owned())
    })
    .await?;
    Ok(began.elapsed())
}

/// Step 20: one deletion after the other; each finds the rows that the one before gave up.
pub async fn give_up(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    delete(world, sample).await?;
    let mut account = sample.account(world).await?;
    let restarts = restart_counts(&world.imp.state().await?);
    for way in Way::ALL {
        let outcome = gives_up(talk, world, sample, way).await;
        way.leave(world, sample, &mut account).await?;
        outcome.map_err(|error| format!("{way:?}: {error}"))?;
    }
    // Nothing is in the way any more.
    apply(world, sample).await?;
    written(talk, world, sample).await?;
    delete(world, sample).await?;
    let left = rows(&world.imp.state().await?);
    ensure(left.is_empty(), || format!("rows are left: {left:?}"))?;
    talk.fact("afterwards", "the rows that were given up leave with the next resource");
    ensure(restart_counts(&world.imp.state().await?) == restarts, || {
        "a router was restarted".to_owned()
    })
}

/// Deletes the resource, with nothing in the way.
async fn delete(world: &World, sample: &Sample) -> Result<(), Error> {
    let reference = sample.reference();
    let arguments = ["-n", &sample.namespace, "delete", &reference];
    let arguments = [&arguments[..], &["--ignore-not-found", "--timeout=60s"]].concat();
    world.lab.kubectl(&arguments).await?;
    Ok(())
}

async fn gives_up(talk: Talk, world: &World, sample: &Sample, way: Way) -> Result<(), Error> {
    apply(world, sample).await?;
    let before = written(talk, world, sample).await?;
    let call = world.imp.last_call().await?;
    way.stand(talk, world, sample).await?;
    let counted = abandoned(world).await?;
    let resource = sample.reference();
    let namespace = sample.namespace.as_str();
    let uid = text(&sample.now(world).await?, "/metadata/uid").to_owned();
    let began = Instant::now();
    world
        .lab
        .kubectl(&["-n", namespace, "delete", &resource, "--wait=false"])
        .await?;
    if way == Way::Paused {
        sample.annotate(world, "abandon-rows").await?;
    }
    let took = gone(talk, world, &["-n", namespace, &resource], began).await?;
    let at_once = way == Way::Paused;
    ensure((took.as_secs() < TIMEOUT) == at_once, || {
        format!("it took {:.1} s", took.as_secs_f64())
    })?;
    let told = sample.event_of(world, "RowsAbandoned", &uid).await?;
    talk.fact(&format!("{way:?}, gave up after {:.1} s", took.as_secs_f64()), &told);
    ensure(told.contains(way.words()), || {
        format!("the Event does not say {:?}", way.words())
    })?;
    let log = operator_log(world).await?;
    for row in rows(&before) {
        let sql = format!("run sql delete from xmpps2snodes where pkid = '{}'", row.pkid);
        ensure(told.contains(&sql) && told.contains(&row.cp_id), || {
            format!("the Event does not tell how to remove {}", row.cp_id)
        })?;
        let logged = log
            .lines()
            .any(|line| line.contains("the deletion gives up") && line.contains(&sql));
        ensure(logged, || format!("the log does not tell of {}", row.cp_id))?;
    }
    let now = abandoned(world).await?;
    ensure(now == counted + 2, || {
        format!("the metric went from {counted} to {now}")
    })?;
    let after = rows(&world.imp.state().await?);
    ensure(after == rows(&before), || format!("the table has {after:?}"))?;
    let calls = world.imp.calls(call).await?;
    let bad = calls.iter().filter(|call| call.auth == "bad").count();
    ensure(bad == usize::from(way == Way::Unauthorized), || {
        format!("{bad} refused logins")
    })
}

async fn operator_log(world: &World) -> Result<String, Error> {
    let pods = operator_pods(world).await?;
    let (namespace, pod) = pods.first().ok_or("there is no operator")?;
    world.lab.kubectl(&["-n", namespace, "logs", &pod.name]).await
}

/// Rows given up, as the operator counts them.
async fn abandoned(world: &World) -> Result<u64, Error> {
    let pods = operator_pods(world).await?;
    let (_, pod) = pods.first().ok_or("there is no operator")?;
    let metrics = world.page(&format!("http://{}:8081/metrics", pod.address)).await?;
    let value = metrics
        .lines()
        .find_map(|line| line.split_once("abandoned_rows_total "));
    let (_, value) = value.ok_or("the operator's metrics have no abandoned_rows")?;
    Ok(value.parse()?)
}

/// Step 21: Secrets, objects, pods and the resource go at once, in any order.
pub async fn namespace(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    delete(world, sample).await?;
    let account = sample.account(world).await?;
    let mut sample = sample.clone();
    NAMESPACE.clone_into(&mut sample.namespace);
    let sample = &sample;
    let restarts = restart_counts(&world.imp.state().await?);
    let ca = std::fs::read_to_string(world.imp_ca())?;
    let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    // Once all is in order, once nothing may be done to IM&P.
    for paused in [false, true] {
        apply_object(world, &made).await?;
        for object in sample.prerequisites(&account, &ca, hosts::ROUTER_SECRET) {
            if text(&object, "/kind") != "Namespace" {
                apply_object(world, &object).await?;
            }
        }
        apply(world, sample).await?;
        let before = written(talk, world, sample).await?;
        let counted = abandoned(world).await?;
        if paused {
            sample.patch(world, &json!({"spec": {"paused": true}})).await?;
        }
        let began = Instant::now();
        world
            .lab
            .kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"])
            .await?;
        let took = gone(talk, world, &["xfed", "-n", NAMESPACE], began).await?;
        gone(talk, world, &["namespace", NAMESPACE], began).await?;
        let left = rows(&world.imp.state().await?);
        let now = abandoned(world).await?;
        if paused {
            ensure(left == rows(&before) && now == counted + 2, || {
                format!("{now} rows counted, the table has {left:?}")
            })?;
            let log = operator_log(world).await?;
            for row in &left {
                let told = log.lines().any(|line| {
                    line.contains("the deletion gives up") && line.contains(NAMESPACE) && line.contains(&row.pkid)
                });
                ensure(told, || format!("the log does not tell of {}", row.pkid))?;
            }
        } else {
            ensure(left.is_empty() && now == counted, || format!("rows are left: {left:?}"))?;
        }
        talk.fact(
            if paused { "paused" } else { "in order" },
            format_args!(
                "the resource went after {:.1} s, the namespace after {:.1} s; {} rows left, {} named in log and metric",
                took.as_secs_f64(),
                began.elapsed().as_secs_f64(),
                left.len(),
                now - counted
            ),
        );
    }
    ensure(restart_counts(&world.imp.state().await?) == restarts, || {
        "a router was restarted".to_owned()
    })
}
