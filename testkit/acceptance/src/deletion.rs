//! Deletions when something is in the way: IM&P, its account, the Secret, the spec, or the whole namespace going.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Api;
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::{Value, json};

use super::report::{Talk, ensure};
use super::resource::{Account, CREDENTIALS, Sample, gone};
use super::world::World;
use testkit_base::Error;
use testkit_simulator::Row;

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
        let imp = |patch: Value| json!({"spec": {"imp": [short_lived(sample, patch)]}});
        match self {
            Self::Unreachable => {
                let nodes = json!([{"name": "cups.ciscotac.net", "address": NOBODY}]);
                sample.patch(imp(json!({"nodes": nodes}))).await
            }
            Self::Unauthorized => world.imp.set_password("changed").await,
            Self::SecretGone => {
                sample
                    .api::<Secret>()
                    .delete(CREDENTIALS, &DeleteParams::default())
                    .await?;
                // Another process remembers nothing of what was in it.
                another_operator(talk, sample).await
            }
            Self::Maintenance => sample.patch(imp(json!({"maintenance": true}))).await,
            Self::Paused => sample.patch(json!({"spec": {"paused": true}})).await,
        }
    }

    async fn leave(self, world: &World, sample: &Sample, account: &mut Account) -> Result<(), Error> {
        // An account that was refused rests; a new password makes it another one.
        if self == Self::Unauthorized {
            account.password = format!("new-{:x}", rand::random::<u64>());
            world.imp.set_password(&account.password).await?;
        }
        sample.apply_credentials(account).await
    }
}

/// Ends the operator's process and waits for the next one.
pub async fn another_operator(talk: Talk, sample: &Sample) -> Result<(), Error> {
    let ended = sample.operator().await?;
    sample.delete_pod(&ended, &DeleteParams::default()).await?;
    talk.wait("another operator", WRITTEN, async || {
        let pods = sample.operators().await?;
        ensure(
            pods.iter().all(|pod| pod.uid != ended.uid) && pods.iter().any(|pod| pod.ready),
            || "it is not ready yet",
        )
    })
    .await
}

/// Ends the operator and waits until none is left.
pub async fn no_operator(talk: Talk, sample: &Sample) -> Result<(), Error> {
    sample.scale_operator(0).await?;
    talk.wait("no operator", GONE, async || {
        let left = sample.operators().await?.len();
        ensure(left == 0, || format!("{left} pods are left"))
    })
    .await
}

/// The sample's cluster, with restarts left to people and a short timeout, and a patch on top.
fn short_lived(sample: &Sample, patch: Value) -> Value {
    let mut imp = sample.imp_with(patch);
    if let Some(imp) = imp.as_object_mut() {
        imp.insert("deletionTimeout".to_owned(), json!(format!("{TIMEOUT}s")));
        imp.insert(
            "restart".to_owned(),
            json!({"mode": "Manual", "propagationDelay": "2s"}),
        );
    }
    imp
}

/// Applies the sample, for a short life, without pods to wait for.
async fn apply(sample: &Sample) -> Result<(), Error> {
    let edge = json!({"replicas": 1, "slots": 2, "drainDelay": "0s"});
    let imp = short_lived(sample, json!({}));
    sample.apply_with(json!({"edge": edge, "imp": [imp]})).await
}

/// Waits until the resource has two rows in the table and knows it.
async fn written(talk: Talk, world: &World, sample: &Sample) -> Result<Vec<Row>, Error> {
    talk.wait("two rows of ours", WRITTEN, async || {
        let known = sample.status().await?.cluster().registrations.len();
        ensure(known == 2, || format!("the status knows of {known}"))?;
        let finalizers = sample.now().await?.metadata.finalizers.map_or(0, |names| names.len());
        ensure(finalizers == 2, || format!("{finalizers} finalizers"))?;
        let rows = world.imp.rows().await?;
        ensure(rows.len() == 2, || format!("the table has {}", rows.len()))?;
        Ok(rows)
    })
    .await
}

/// Step 20: one deletion after the other; each finds the rows that the one before gave up.
pub async fn give_up(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    sample.delete(GONE).await?;
    let mut account = sample.account().await?;
    let restarts = world.imp.restarts().await?;
    for way in Way::ALL {
        let outcome = gives_up(talk, world, sample, way).await;
        way.leave(world, sample, &mut account).await?;
        outcome.map_err(|error| format!("{way:?}: {error}"))?;
    }
    // Nothing is in the way any more.
    apply(sample).await?;
    written(talk, world, sample).await?;
    sample.delete(GONE).await?;
    let left = world.imp.rows().await?;
    ensure(left.is_empty(), || format!("rows are left: {left:?}"))?;
    talk.fact("afterwards", "the rows that were given up leave with the next resource");
    world.imp.no_restart_since(&restarts, "a router was restarted").await
}

async fn gives_up(talk: Talk, world: &World, sample: &Sample, way: Way) -> Result<(), Error> {
    apply(sample).await?;
    let before = written(talk, world, sample).await?;
    let call = world.imp.last_call().await?;
    way.stand(talk, world, sample).await?;
    let counted = abandoned(world, sample).await?;
    let uid = sample.now().await?.metadata.uid.unwrap_or_default();
    let began = Instant::now();
    sample
        .resources()
        .delete(&sample.name, &DeleteParams::default())
        .await?;
    if way == Way::Paused {
        sample.annotate("abandon-rows").await?;
    }
    gone(sample.resources(), &sample.name, &uid, GONE).await?;
    let took = began.elapsed();
    let at_once = way == Way::Paused;
    ensure((took.as_secs() < TIMEOUT) == at_once, || {
        format!("it took {:.1} s", took.as_secs_f64())
    })?;
    let told = sample.event_with("RowsAbandoned", Some(&uid)).await?;
    talk.fact(&format!("{way:?}, gave up after {:.1} s", took.as_secs_f64()), &told);
    ensure(told.contains(way.words()), || {
        format!("the Event does not say {:?}", way.words())
    })?;
    let log = sample.log(&sample.operator().await?).await?;
    for row in &before {
        let sql = format!("run sql delete from xmpps2snodes where pkid = '{}'", row.pkid);
        ensure(told.contains(&sql) && told.contains(&row.cp_id), || {
            format!("the Event does not tell how to remove {}", row.cp_id)
        })?;
        let logged = names_as_given_up(&log, sample, &sql);
        ensure(logged, || format!("the log does not tell of {}", row.cp_id))?;
    }
    let now = abandoned(world, sample).await?;
    ensure(now == counted + 2, || {
        format!("the metric went from {counted} to {now}")
    })?;
    let after = world.imp.rows().await?;
    ensure(after == before, || format!("the table has {after:?}"))?;
    let calls = world.imp.calls(call).await?;
    let bad = calls.iter().filter(|call| call.auth == "bad").count();
    ensure(bad == usize::from(way == Way::Unauthorized), || {
        format!("{bad} refused logins")
    })
}

/// An entry of the operator's log about the end of a resource. A warning is one that gives rows up.
#[derive(Deserialize)]
struct Ended {
    level: String,
    namespace: String,
    name: String,
    rows: String,
}

/// Whether the operator's log says by its fields that this resource's deletion gave a row up.
fn names_as_given_up(log: &str, sample: &Sample, row: &str) -> bool {
    let mut entries = log.lines().filter_map(|line| serde_json::from_str::<Ended>(line).ok());
    entries.any(|entry| {
        let ours = entry.namespace == sample.namespace && entry.name == sample.name;
        ours && entry.level == "WARN" && entry.rows.contains(row)
    })
}

/// Rows given up, as the operator counts them.
async fn abandoned(world: &World, sample: &Sample) -> Result<u64, Error> {
    let operator = sample.operator().await?;
    let metrics = world
        .page(&format!(
            "http://{}/metrics",
            SocketAddr::new(operator.address()?, 8081)
        ))
        .await?;
    let value = metrics
        .lines()
        .find_map(|line| line.split_once("abandoned_rows_total "));
    let (_, value) = value.ok_or("the operator's metrics have no abandoned_rows")?;
    Ok(value.parse()?)
}

/// Step 21: Secrets, objects, pods and the resource go at once, in any order.
pub async fn namespace(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    sample.delete(GONE).await?;
    let account = sample.account().await?;
    let mut sample = sample.clone();
    NAMESPACE.clone_into(&mut sample.namespace);
    let sample = &sample;
    let restarts = world.imp.restarts().await?;
    let ca = std::fs::read_to_string(world.imp_ca())?;
    let namespaces: Api<Namespace> = Api::all(sample.kube.clone());
    // Once all is in order, once nothing may be done to IM&P.
    for paused in [false, true] {
        sample.prepare(&account, &ca).await?;
        apply(sample).await?;
        let before = written(talk, world, sample).await?;
        let counted = abandoned(world, sample).await?;
        if paused {
            sample.patch(json!({"spec": {"paused": true}})).await?;
        }
        let uid = sample.now().await?.metadata.uid.unwrap_or_default();
        let namespace = namespaces.get(NAMESPACE).await?.metadata.uid.unwrap_or_default();
        let began = Instant::now();
        namespaces.delete(NAMESPACE, &DeleteParams::default()).await?;
        gone(sample.resources(), &sample.name, &uid, GONE).await?;
        let took = began.elapsed();
        gone(namespaces.clone(), NAMESPACE, &namespace, GONE).await?;
        let left = world.imp.rows().await?;
        let now = abandoned(world, sample).await?;
        if paused {
            ensure(left == before && now == counted + 2, || {
                format!("{now} rows counted, the table has {left:?}")
            })?;
            let log = sample.log(&sample.operator().await?).await?;
            for row in &left {
                let told = names_as_given_up(&log, sample, &row.pkid);
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
    world.imp.no_restart_since(&restarts, "a router was restarted").await
}
