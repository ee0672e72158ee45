//! What is measured on each stage.

use std::ops::Range;
use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use serde_json::json;
use testkit_base::Error;
use testkit_lab::node::wait_until;
use tokio::time::sleep;

use super::Sizes;
use super::audit::Requests;
use super::replay::{replay, writes};
use super::resource::{self, names, resources};
use super::stage::{self, NAMESPACES, OPERATOR, Stage, metric};

/// Until the operator has said all that it has to say of a resource.
const SETTLE: Duration = Duration::from_secs(10);
/// Parallel requests that are tried.
const PARALLEL: [usize; 4] = [4, 8, 16, 32];

fn secrets() -> ApiResource {
    stage::kind("", "v1", "Secret")
}

fn stateful_sets() -> ApiResource {
    stage::kind("apps", "v1", "StatefulSet")
}

/// Objects of resources that were created at once.
#[derive(Debug, Clone, Copy)]
pub struct Creation {
    /// The certificates (`NAME-tls`).
    pub certificates: stage::Arrived,
    /// The `StatefulSets`, which are written last.
    pub stateful_sets: stage::Arrived,
    /// Requests meanwhile.
    pub requests: Requests,
}

/// What [`one`] finds.
#[derive(Debug, Clone, Copy)]
pub struct One {
    /// Writes for one resource, its creation included.
    pub writes: f64,
    /// Writes per second at best, sent raw.
    pub rate: f64,
    /// So many requests at once were best.
    pub parallel: usize,
    /// With a pod whose image cannot be pulled: requests per second.
    pub pull: Requests,
}

/// One resource: its pod's image cannot be pulled; then what the operator wrote for it is sent raw for others.
pub async fn one(mut stage: Stage, sizes: Sizes) -> Result<One, Error> {
    let [origin, others, _] = NAMESPACES;
    stage.install(&[]).await?;
    stage.start_operator(&sizes.operator, &[]).await?;
    stage.audit.count()?;
    let sets = stage.arrivals(&stateful_sets(), "-edge", 1, sizes.limit);
    stage.create(&resource::kind(), origin, resources(0..1)).await?;
    if sets.await.count < 1 {
        return Err(format!("no StatefulSet for one resource: {}", stage.lab.tail(OPERATOR)).into());
    }
    sleep(SETTLE.min(sizes.idle)).await;
    let writes = writes(stage.audit.events()?);
    failing_pod(&stage).await?;
    sleep(SETTLE.min(sizes.idle)).await;
    let window = sizes.idle.min(Duration::from_mins(1));
    stage.audit.count()?;
    sleep(window).await;
    let pull = stage.audit.count()?.per(window.as_secs_f64());
    stage.stop_operator().await?;
    let operator = stage::client(stage.kubeconfig(OPERATOR)).await?;
    let api = stage.api(&resource::kind(), others);
    let mut best = (0.0, 0);
    let part = sizes.resources.div_ceil(PARALLEL.len());
    for (n, parallel) in PARALLEL.into_iter().enumerate() {
        let names = names(n * part + 1..(n + 1) * part + 1);
        let time = replay(&api, &operator, &writes, names, parallel).await?;
        let rate = count(part * (writes.len() + 1)) / time.as_secs_f64();
        if rate > best.0 {
            best = (rate, parallel);
        }
    }
    Ok(One {
        writes: count(writes.len() + 1),
        rate: best.0,
        parallel: best.1,
        pull,
    })
}

/// The pod that a controller would make, with the status that a kubelet would write.
async fn failing_pod(stage: &Stage) -> Result<(), Error> {
    let [origin, ..] = NAMESPACES;
    let set = stage
        .api(&stateful_sets(), origin)
        .get(&format!("{}-edge", resource::FIRST))
        .await?;
    let mut pod = set.data.pointer("/spec/template").cloned().unwrap_or_default();
    let name = format!("{}-0", set.name_any());
    let image = pod.pointer("/spec/containers/0/image").cloned();
    let metadata = pod
        .get_mut("metadata")
        .and_then(|it| it.as_object_mut())
        .ok_or("a StatefulSet without template")?;
    metadata.insert("name".to_owned(), json!(name));
    metadata.insert("ownerReferences".to_owned(), json!([{
        "apiVersion": "apps/v1", "kind": "StatefulSet", "name": set.name_any(), "uid": set.uid(), "controller": true,
    }]));
    if let Some(spec) = pod.get_mut("spec").and_then(|it| it.as_object_mut()) {
        spec.insert("nodeName".to_owned(), json!("node1"));
        spec.insert("hostname".to_owned(), json!(name));
    }
    if let Some(labels) = pod.pointer_mut("/metadata/labels").and_then(|it| it.as_object_mut()) {
        labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), json!(name));
    }
    let api = stage.api(&stage::kind("", "v1", "Pod"), origin);
    let object: DynamicObject = serde_json::from_value(pod)?;
    api.create(&PostParams::default(), &object).await?;
    let waiting =
        json!({"reason": "ErrImagePull", "message": format!("failed to pull and unpack image {image:?}: not found")});
    let status = json!({"status": {
        "phase": "Pending",
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
        ],
        "containerStatuses": [{
            "name": object.data.pointer("/spec/containers/0/name"), "image": image, "imageID": "", "ready": false,
            "restartCount": 0, "started": false, "state": {"waiting": waiting},
        }],
    }});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    Ok(())
}

/// Creates resources at once and waits for their objects.
pub async fn create(stage: &mut Stage, numbers: Range<usize>, limit: Duration) -> Result<Creation, Error> {
    let wanted = numbers.end;
    stage.audit.count()?;
    let certificates = stage.arrivals(&secrets(), "-tls", wanted, limit);
    let sets = stage.arrivals(&stateful_sets(), "-edge", wanted, limit);
    stage
        .create(&resource::kind(), NAMESPACES[1], resources(numbers))
        .await?;
    let (certificates, stateful_sets) = (certificates.await, sets.await);
    stage.still_runs(OPERATOR)?;
    let requests = stage.audit.count()?;
    Ok(Creation {
        certificates,
        stateful_sets,
        requests,
    })
}

/// What [`many`] finds.
#[derive(Debug, Clone, Copy)]
pub struct Many {
    /// The first resources.
    pub creation: Creation,
    /// Requests while nothing changes.
    pub idle: Requests,
    /// The same as the operator counts them, its Lease included.
    pub counted: f64,
    /// Processor time meanwhile, in seconds.
    pub processor: f64,
    /// Resources that stand in the end.
    pub standing: usize,
    /// Most and last resident memory, in kB.
    pub memory: (u64, u64),
    /// After a new start.
    pub restart: Restart,
}

/// What a new start needs.
#[derive(Debug, Clone, Copy)]
pub struct Restart {
    /// Requests.
    pub requests: Requests,
    /// The time until all are reconciled.
    pub time: Option<Duration>,
    /// Most resident memory, in kB.
    pub memory: u64,
}

/// Many resources: created at once, left alone, more of them, and the operator started anew.
pub async fn many(mut stage: Stage, sizes: Sizes) -> Result<Many, Error> {
    stage.install(&[]).await?;
    let operator = stage.start_operator(&sizes.operator, &[]).await?;
    let creation = create(&mut stage, 0..sizes.resources, sizes.limit).await?;
    sleep(SETTLE.min(sizes.idle)).await;
    let (processor, counted) = (operator.processor_time()?, metric("api_requests_total").await?);
    stage.audit.count()?;
    sleep(sizes.idle).await;
    let idle = stage.audit.count()?;
    let counted = metric("api_requests_total").await? - counted;
    let processor = operator.processor_time()? - processor;
    if sizes.most > sizes.resources {
        create(&mut stage, sizes.resources..sizes.most, sizes.limit).await?;
    }
    sleep(sizes.rest).await;
    stage.still_runs(OPERATOR)?;
    let memory = (operator.highest_memory()?, operator.memory()?);
    let standing = stage
        .api(&secrets(), NAMESPACES[1])
        .list_metadata(&ListParams::default())
        .await?;
    let standing = standing
        .iter()
        .filter(|secret| secret.name_any().ends_with("-tls"))
        .count();
    stage.stop_operator().await?;
    stage.audit.count()?;
    let restart = restart(&mut stage, &sizes).await?;
    Ok(Many {
        creation,
        idle,
        counted,
        processor,
        standing,
        memory,
        restart,
    })
}

/// Starts the operator on resources that are as they should be.
async fn restart(stage: &mut Stage, sizes: &Sizes) -> Result<Restart, Error> {
    let began = Instant::now();
    let operator = stage.start_operator(&sizes.operator, &[]).await?;
    let wanted = count(sizes.most.max(sizes.resources));
    let all = wait_until("all reconciles", sizes.limit, async || {
        Ok(metric("reconcile_total").await? >= wanted)
    })
    .await;
    let time = all.is_ok().then(|| began.elapsed());
    // A write that follows from the first look counts.
    sleep(SETTLE.min(sizes.idle)).await;
    Ok(Restart {
        requests: stage.audit.count()?,
        time,
        memory: operator.highest_memory()?,
    })
}

/// Resources whose resolver is dead.
pub async fn dead(mut stage: Stage, sizes: Sizes) -> Result<Creation, Error> {
    stage.install(&[]).await?;
    stage.start_operator(&sizes.operator, &[]).await?;
    create(&mut stage, 0..sizes.resources, sizes.limit).await
}

/// What [`namespaces`] finds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Namespaces {
    /// Services that were deleted.
    pub deleted: usize,
    /// Those that came back.
    pub back: usize,
    /// The longest time that one took.
    pub slowest: Duration,
}

/// Three watched namespaces, with the chart's Roles: a Service deleted in each comes back, after each of several starts.
pub async fn namespaces(stage: Stage, sizes: Sizes) -> Result<Namespaces, Error> {
    stage.install(&NAMESPACES).await?;
    let mut found = Namespaces::default();
    let names = names(0..NAMESPACES.len());
    for (name, namespace) in names.iter().zip(NAMESPACES) {
        stage
            .create(&resource::kind(), namespace, vec![resource::resource(name)])
            .await?;
    }
    for _ in 0..sizes.starts {
        stage.start_operator(&sizes.operator, &NAMESPACES).await?;
        stage
            .arrivals(&stateful_sets(), "-edge", NAMESPACES.len(), sizes.limit)
            .await;
        sleep(SETTLE.min(sizes.idle)).await;
        for (name, namespace) in names.iter().zip(NAMESPACES) {
            let api = stage.api(&stage::kind("", "v1", "Service"), namespace);
            let service = format!("{name}-edge");
            let began = Instant::now();
            // One that did not come back in the last round is deleted already.
            let _ = api.delete(&service, &DeleteParams::default()).await;
            found.deleted += 1;
            let back = wait_until("the Service", SETTLE, async || {
                Ok(api.get_opt(&service).await?.is_some())
            })
            .await;
            if back.is_ok() {
                found.back += 1;
                found.slowest = found.slowest.max(began.elapsed());
            }
        }
        stage.stop_operator().await?;
    }
    Ok(found)
}

/// A number of things.
pub fn count(of: usize) -> f64 {
    u32::try_from(of).map_or(f64::INFINITY, f64::from)
}
