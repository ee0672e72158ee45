#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use rstest::rstest;

use crate::controller::context::Context;
use crate::controller::guard::ResourceGuard;
use crate::controller::pods::PodState;
use crate::controller::status::testing::world;
use crate::controller::testing::settings;
use crate::edges;
use crate::runtime::metrics::Metrics;
use xmpp_federation_imp::Manager;
use xmpp_federation_imp::store::MemoryStore;

/// One pod and the time; the annotation is written as it is asked for.
struct Bench {
    told: NotifiedPods,
    pod: EdgePod,
    now: Instant,
    writes: Vec<u64>,
    /// The annotation does not come to the pod.
    refused: bool,
}

impl Bench {
    fn new() -> Self {
        Self {
            told: NotifiedPods::default(),
            pod: world("", Value::Null).pods.remove(0),
            now: Instant::now(),
            writes: Vec::new(),
            refused: false,
        }
    }

    /// A reconcile in each 100 ms of that time; when the pod was written, in ms from its start.
    fn run(&mut self, hash: &str, config_hash: &str, time: Duration) -> Vec<u64> {
        let start = self.now;
        self.writes.clear();
        while self.now < start + time {
            if let Some((value, turn)) = self.told.next(&self.pod, hash, config_hash, self.now) {
                let mut pod = PodState::clone(&self.pod.pod);
                if !self.refused {
                    pod.notified = Some(value);
                }
                self.pod.pod = Arc::new(pod);
                self.told.0.insert(self.pod.uid.clone(), turn);
                let at = self.now.duration_since(start).as_millis();
                self.writes.push(u64::try_from(at).unwrap());
            }
            self.now += Duration::from_millis(100);
        }
        std::mem::take(&mut self.writes)
    }
}

#[test]
fn a_pod_that_cannot_load_a_configuration_is_told_ever_later_and_of_another_one_at_once() {
    let mut bench = Bench::new();
    let hour = Duration::from_hours(1);
    let writes = bench.run("mounted", "wanted", hour);
    assert_eq!(writes.get(..6).unwrap(), [0, 500, 1500, 3500, 7500, 15_500]);
    let pauses: Vec<u64> = writes
        .windows(2)
        .map(|pair| pair.last().unwrap() - pair.first().unwrap())
        .collect();
    assert!(pauses.iter().all(|pause| *pause <= 300_000), "{pauses:?}");
    assert!((18..=24).contains(&writes.len()), "{}", writes.len());
    // Something else that it mounts: at once, and from the shortest pause again.
    assert_eq!(bench.run("other", "wanted", Duration::from_secs(1)), [0, 500]);
}

#[test]
fn a_pod_that_cannot_be_told_is_tried_ever_later_and_told_of_another_configuration_at_once() {
    let mut bench = Bench::new();
    bench.refused = true;
    let writes = bench.run("mounted", "wanted", Duration::from_hours(1));
    assert_eq!(writes.get(..6).unwrap(), [0, 500, 1500, 3500, 7500, 15_500]);
    assert!((18..=24).contains(&writes.len()), "{}", writes.len());
    assert_eq!(bench.run("other", "wanted", Duration::from_secs(1)), [0, 500]);
    // It can be told again, and loads what it is told of.
    bench.refused = false;
    let loaded = bench.pod.status.as_ref().unwrap().config_hash.clone();
    assert_eq!(bench.run("other", &loaded, Duration::from_hours(1)), [500]);
    assert!(bench.told.0.is_empty());
}

#[test]
fn a_pod_that_loaded_its_configuration_or_refuses_it_is_not_told_again() {
    let mut bench = Bench::new();
    let loaded = bench.pod.status.as_ref().unwrap().config_hash.clone();
    assert_eq!(bench.run("mounted", &loaded, Duration::from_hours(1)), [0]);
    assert!(bench.told.0.is_empty());
    let status = bench.pod.status.as_mut().unwrap();
    status.rejected = Some(xmpp_federation_core::edge_status::RejectedConfig {
        config_hash: "wanted".to_owned(),
        reason: "line 3".to_owned(),
    });
    assert_eq!(bench.run("mounted", "wanted", Duration::from_hours(1)), [0_u64; 0]);
}

/// Changed just now, generation, seen generation, newest revision of pods.
#[rstest]
#[case::changed_just_now(true, 2, 2, "b", false)]
#[case::not_seen(false, 3, 2, "b", false)]
#[case::pods_of_an_earlier_template(false, 2, 2, "c", false)]
#[case::rolled_out(false, 2, 2, "b", true)]
fn what_pods_of_an_earlier_template_mount_stays_until_they_are_replaced(
    #[case] changed: bool,
    #[case] generation: i64,
    #[case] seen: i64,
    #[case] newest: &str,
    #[case] expected: bool,
) {
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "coluc-edge", "generation": generation}, "spec": {"replicas": 1},
        "status": {"observedGeneration": seen, "updatedReplicas": 0, "currentRevision": "b", "updateRevision": newest}});
    let set = ExistingObject::new(Kind::StatefulSet, serde_json::from_value(set).unwrap(), None);
    assert_eq!(is_rolled_out(set.rollout(), changed), expected);
    assert!(is_rolled_out(None, changed));
}

/// Its API server writes what it is sent; how often it wrote the object at that path.
pub(super) fn context(watched: &'static str) -> (Context, Arc<AtomicUsize>) {
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&writes);
    let service = tower::service_fn(move |request: Request<Body>| {
        let counted = Arc::clone(&counted);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            let mut object: Value = serde_json::from_slice(&body).unwrap_or_default();
            let code = if parts.method == Method::GET {
                object = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "not found", "reason": "NotFound", "code": 404});
                StatusCode::NOT_FOUND
            } else {
                merge(&mut object, json!({"metadata": {"uid": "o-1", "resourceVersion": "2"}}));
                StatusCode::OK
            };
            if parts.uri.path().ends_with(watched) && parts.method == Method::PATCH {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            let response = Response::builder().status(code);
            Ok::<_, kube::Error>(response.body(Body::from(object.to_string().into_bytes())).unwrap())
        }
    });
    (context_with(service), writes)
}

/// Its API server is that service.
pub(super) fn context_with<S, F>(service: S) -> Context
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = kube::Error, Future = F> + Send + 'static,
    F: Future<Output = Result<Response<Body>, kube::Error>> + Send + 'static,
{
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = kube::Client::new(service, "federation");
    let guard = ResourceGuard::new(client.clone(), || true);
    Context::new(
        client,
        Manager::new(Arc::new(MemoryStore::default()), Arc::new(guard)),
        edges::Client::new().unwrap(),
        Metrics::new(),
        settings(),
        "operator-1".to_owned(),
    )
}

#[rstest]
#[case::by_a_platform(
    Kind::Service,
    "/services/coluc-edge",
    json!({"manager": "platform", "fieldsV1": {"f:spec": {"f:type": {}}}}),
    "(spec.type by platform) after the operator wrote it; stop that writer"
)]
#[case::by_an_autoscaler(
    Kind::StatefulSet,
    "/statefulsets/coluc-edge",
    json!({"manager": "kube-controller-manager", "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}}),
    "(spec.replicas by kube-controller-manager) after the operator wrote it; let it scale the XmppFederation instead"
)]
#[tokio::test]
async fn an_object_that_somebody_changes_back_each_time_is_written_ever_later_and_named(
    #[case] kind: Kind,
    #[case] path: &'static str,
    #[case] mut by: Value,
    #[case] says: &str,
) {
    let (context, writes) = context(path);
    let (mut world, env) = (world("", Value::Null), &context.environment);
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "coluc-edge"},
        "spec": {"replicas": 1, "selector": {}, "template": {}}});
    world.desired.stateful_set = DesiredObject::Present(serde_json::from_value(set).unwrap());
    let wanted = match (&world.desired.stateful_set, kind) {
        (DesiredObject::Present(set), Kind::StatefulSet) => serde_json::to_value(set).unwrap(),
        _ => serde_json::to_value(&world.desired.service).unwrap(),
    };
    let hash = crate::controller::build::sha256(wanted.to_string().as_bytes());
    merge(&mut by, json!({"operation": "Update"}));
    let ours = json!({"manager": OBJECTS_MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {"f:ports": {}}}});
    let spoilt = json!({"apiVersion": wanted.get("apiVersion"), "kind": kind.as_str(), "spec": {}, "metadata": {
        "name": "coluc-edge", "uid": "o-1", "annotations": {APPLIED: hash},
        "ownerReferences": [{"apiVersion": "v1", "kind": "XmppFederation", "name": "coluc", "uid": "uid-1"}],
        "managedFields": [ours, by]}});
    let spoilt = Some(Arc::new(ExistingObject::new(
        kind,
        serde_json::from_value(spoilt).unwrap(),
        None,
    )));
    let mut live = ExistingObjects::default();
    match kind {
        Kind::StatefulSet => live.stateful_set = spoilt,
        _ => live.service = spoilt,
    }
    let mut told = Vec::new();
    for _ in 0..40 {
        let applied = run(
            env,
            &context.caches.sent,
            &world.valid.owner,
            &world.desired,
            &live,
            false,
        )
        .await;
        let failed = applied.failed.iter().map(ToString::to_string);
        told.push(
            failed
                .filter(|error| error.starts_with(&format!("{} coluc-edge ", kind.as_str())))
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(writes.load(Ordering::Relaxed), 16);
    assert!(told.iter().take(15).all(Vec::is_empty), "{told:?}");
    for errors in told.iter().skip(15) {
        assert_eq!(errors.len(), 1, "{told:?}");
        assert!(errors.iter().all(|error| error.contains(says)), "{errors:?}");
    }
}
