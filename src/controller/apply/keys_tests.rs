//! What an object at one of our names is, and what becomes of it, against an API server that keeps one Secret.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use rstest::rstest;
use serde_json::{Value, json};

use super::tests::context_with;
use super::*;
use crate::api::RESOURCE;
use crate::controller::build::DesiredObject;
use crate::controller::names::ObjectName;
use crate::controller::objects::Standing;
use crate::controller::status::testing::world;

/// Which Secret of the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Dialback,
    Authority,
    Leaf,
}

/// Who owns it, for Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnedBy {
    Us,
    Former,
    Nobody,
    Other,
    /// A resource of another name.
    Sibling,
}

/// What shows that the operator made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marks {
    Labels,
    Annotation,
    /// Of a resource of another name.
    OfAnother,
    None,
}

impl Which {
    const ALL: [Self; 3] = [Self::Dialback, Self::Authority, Self::Leaf];

    const fn name(self) -> &'static str {
        match self {
            Self::Dialback => "coluc-dialback",
            Self::Authority => "coluc-ca",
            Self::Leaf => "coluc-tls",
        }
    }
}

fn secret(name: &str, owned_by: OwnedBy, marks: Marks, deleting: bool) -> Value {
    let owner = |kind: &str, name: &str, uid: &str| json!([{"apiVersion": "xmppfederation.io/v1alpha1", "kind": kind, "name": name, "uid": uid, "controller": true}]);
    let mut metadata = json!({"name": name, "namespace": "federation", "uid": "s-1", "resourceVersion": "5"});
    match owned_by {
        OwnedBy::Us => metadata["ownerReferences"] = owner("XmppFederation", "coluc", "uid-1"),
        OwnedBy::Former => metadata["ownerReferences"] = owner("XmppFederation", "coluc", "uid-0"),
        OwnedBy::Sibling => metadata["ownerReferences"] = owner("XmppFederation", "vngtp", "uid-7"),
        OwnedBy::Other => metadata["ownerReferences"] = owner("Certificate", "coluc", "uid-8"),
        OwnedBy::Nobody => {}
    }
    let labels = |instance: &str| {
        json!({"app.kubernetes.io/managed-by": "xmpp-federation-operator", "app.kubernetes.io/instance": instance,
            "app.kubernetes.io/name": "xmpp-federation-edge"})
    };
    match marks {
        Marks::Labels => metadata["labels"] = labels("coluc"),
        Marks::Annotation => metadata["annotations"] = json!({RESOURCE: "coluc"}),
        Marks::OfAnother => {
            metadata["labels"] = labels("vngtp");
            metadata["annotations"] = json!({RESOURCE: "vngtp"});
        }
        Marks::None => {}
    }
    if deleting {
        metadata["deletionTimestamp"] = json!("2026-11-22T00:00:00Z");
    }
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"current": "c2VjcmV0"}})
}

/// Keeps one Secret; writes to it.
struct Server {
    secret: Value,
    writes: Vec<Value>,
}

impl Server {
    fn answer(&mut self, method: &Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let status = |code: StatusCode, reason: &str| {
            (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": reason, "reason": reason, "code": code.as_u16()}),
            )
        };
        let name = self.secret["metadata"]["name"].as_str().unwrap();
        let created = body["metadata"]["name"] == name;
        if !(path.ends_with(&format!("/secrets/{name}")) || path.ends_with("/secrets") && created) {
            let mut object = body.clone();
            merge(&mut object, json!({"metadata": {"uid": "o-1", "resourceVersion": "2"}}));
            return match *method {
                Method::GET => status(StatusCode::NOT_FOUND, "NotFound"),
                _ => (StatusCode::OK, object),
            };
        }
        match *method {
            Method::GET => (StatusCode::OK, self.secret.clone()),
            Method::POST => status(StatusCode::CONFLICT, "AlreadyExists"),
            Method::PATCH => {
                self.writes.push(body.clone());
                let metadata = &mut self.secret["metadata"];
                if body["metadata"]["uid"] != metadata["uid"] {
                    return status(StatusCode::CONFLICT, "Conflict");
                }
                // As a strategic merge does it.
                let gone: Vec<&Value> = body["metadata"]["ownerReferences"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|of| of["$patch"] == "delete")
                    .map(|of| &of["uid"])
                    .collect();
                if let Some(owners) = metadata["ownerReferences"].as_array_mut() {
                    owners.retain(|of| !gone.contains(&&of["uid"]));
                }
                merge(
                    metadata,
                    json!({"labels": body["metadata"]["labels"], "resourceVersion": "6",
                    "annotations": body["metadata"]["annotations"]}),
                );
                (StatusCode::OK, self.secret.clone())
            }
            _ => status(StatusCode::METHOD_NOT_ALLOWED, "not expected"),
        }
    }
}

/// The Secret, one of them; what was written to it in three reconciles, and what the last one says of it.
async fn reconciled(which: Which, found: Value, adopt: bool) -> (Value, usize, Option<String>) {
    let server = Arc::new(Mutex::new(Server {
        secret: found,
        writes: Vec::new(),
    }));
    let of_service = Arc::clone(&server);
    let context = context_with(tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&of_service);
        async move {
            let (parts, body) = request.into_parts();
            let body = serde_json::from_slice(&body.collect_bytes().await?).unwrap_or_default();
            let (code, answer) = server.lock().unwrap().answer(&parts.method, parts.uri.path(), &body);
            let response = Response::builder().status(code);
            Ok::<_, kube::Error>(response.body(Body::from(answer.to_string().into_bytes())).unwrap())
        }
    }));
    let (mut world, env) = (world("", Value::Null), &context.environment);
    world.desired.certificate = match which {
        Which::Leaf => {
            let metadata = world.valid.owner.metadata(which.name());
            DesiredObject::Present(k8s_openapi::api::core::v1::Secret {
                metadata,
                ..Default::default()
            })
        }
        _ => DesiredObject::Unchanged,
    };
    world.desired.stateful_set = DesiredObject::Unchanged;
    let name = ObjectName {
        namespace: "federation".to_owned(),
        name: which.name().to_owned(),
    };
    let mut told = None;
    for _ in 0..3 {
        // The watch shows what has the operator's label.
        let now = server.lock().unwrap().secret.clone();
        if now["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "xmpp-federation-operator" {
            env.snapshots.see(Kind::Secret, serde_json::from_value(now).unwrap());
        }
        let seen = env.snapshots.object(Kind::Secret, &name);
        let mut live = ExistingObjects::default();
        match which {
            Which::Dialback => live.dialback = seen,
            Which::Authority => live.authority = seen,
            Which::Leaf => live.certificate = seen,
        }
        let applied = run(
            env,
            &context.caches.sent,
            &world.valid.owner,
            &world.desired,
            &live,
            adopt,
        )
        .await;
        let about = |error: &&ApplyError| error.to_string().contains(&format!("Secret {} ", which.name()));
        told = applied.failed.iter().find(about).map(ToString::to_string);
        assert_eq!(applied.has_keys, told.is_none() || which == Which::Leaf, "{told:?}");
    }
    let server = server.lock().unwrap();
    (server.secret.clone(), server.writes.len(), told)
}

const STAYS: (usize, &str) = (0, "");
const TAKEN: (usize, &str) = (1, "");
const GARBAGE: (usize, &str) = (0, "waiting for the garbage collector");
const ASKS: (usize, &str) = (0, "set the annotation xmppfederation.io/adopt-secrets");
const FOREIGN: (usize, &str) = (0, "delete or rename it");

/// Writes and sentence: of the dialback secret and the authority as they are found, and asked for; and of the leaf, which
/// a person does not have to ask for and cannot.
#[rstest]
// Made now, kept by `onDelete: Retain`, or restored.
#[case::ours(OwnedBy::Nobody, Marks::Labels, STAYS, STAYS, TAKEN)]
// A label was removed.
#[case::ours_by_annotation(OwnedBy::Nobody, Marks::Annotation, TAKEN, TAKEN, TAKEN)]
// Made by an earlier release.
#[case::owned(OwnedBy::Us, Marks::Labels, TAKEN, TAKEN, TAKEN)]
#[case::owned_without_labels(OwnedBy::Us, Marks::None, TAKEN, TAKEN, TAKEN)]
// Restored with the owner that it had.
#[case::restored(OwnedBy::Former, Marks::Labels, TAKEN, TAKEN, GARBAGE)]
#[case::restored_without_labels(OwnedBy::Former, Marks::None, GARBAGE, TAKEN, GARBAGE)]
// Written by hand.
#[case::by_hand(OwnedBy::Nobody, Marks::None, ASKS, TAKEN, FOREIGN)]
// Copied from a resource of another name.
#[case::of_another_resource(OwnedBy::Nobody, Marks::OfAnother, ASKS, TAKEN, FOREIGN)]
#[case::of_a_sibling(OwnedBy::Sibling, Marks::Labels, FOREIGN, FOREIGN, FOREIGN)]
#[case::of_another_controller(OwnedBy::Other, Marks::Labels, FOREIGN, FOREIGN, FOREIGN)]
#[case::of_another_controller_unmarked(OwnedBy::Other, Marks::None, FOREIGN, FOREIGN, FOREIGN)]
#[tokio::test]
async fn a_secret_at_a_name_of_ours_is_taken_where_it_is_the_resources_and_left_otherwise(
    #[case] owned_by: OwnedBy,
    #[case] marks: Marks,
    #[case] found: (usize, &str),
    #[case] asked_for: (usize, &str),
    #[case] leaf: (usize, &str),
) {
    for which in Which::ALL {
        for adopt in [false, true] {
            let (writes, says) = match (which, adopt) {
                (Which::Leaf, _) => leaf,
                (_, false) => found,
                (_, true) => asked_for,
            };
            let before = secret(which.name(), owned_by, marks, false);
            let (after, written, told) = Box::pin(reconciled(which, before.clone(), adopt)).await;
            let at = format!("{which:?}, {adopt}: {told:?}");
            assert_eq!((written.min(1), told.is_none()), (writes, says.is_empty()), "{at}");
            assert!(told.unwrap_or_default().contains(says), "{at}");
            assert_eq!(after["data"], before["data"], "{at}");
            if which == Which::Leaf {
                continue;
            }
            assert_eq!(written, writes, "{at}: once and never again");
            if says.is_empty() {
                assert_eq!(
                    after["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len),
                    0,
                    "{at}"
                );
            } else {
                assert_eq!(after, before, "{at}");
            }
        }
    }
}

#[rstest]
#[case(OwnedBy::Us)]
#[case(OwnedBy::Former)]
#[case(OwnedBy::Nobody)]
#[tokio::test]
async fn a_secret_that_is_being_deleted_is_waited_for(#[case] owned_by: OwnedBy) {
    for which in Which::ALL {
        let before = secret(which.name(), owned_by, Marks::Labels, true);
        let (after, written, told) = Box::pin(reconciled(which, before.clone(), true)).await;
        assert_eq!((after, written), (before, 0), "{which:?}");
        assert!(told.unwrap_or_default().contains("is still being deleted"), "{which:?}");
    }
}

#[test]
fn a_former_owner_beside_another_one_makes_it_the_other_ones() {
    let mut found = secret("coluc-ca", OwnedBy::Former, Marks::Labels, false);
    let other = json!({"apiVersion": "v1", "kind": "Vault", "name": "keys", "uid": "uid-9"});
    found["metadata"]["ownerReferences"].as_array_mut().unwrap().push(other);
    let found = ExistingObject::new(Kind::Secret, serde_json::from_value(found).unwrap(), None);
    let owner = crate::controller::testing::owner();
    assert_eq!(found.standing(&owner), Standing::Foreign("Vault keys".to_owned()));
}

#[tokio::test]
async fn no_first_pod_is_made_with_a_secret_that_is_not_the_resources() {
    for (marks, made) in [(Marks::Labels, true), (Marks::None, false)] {
        let found = secret("coluc-dialback", OwnedBy::Nobody, marks, false);
        let found = ExistingObject::new(Kind::Secret, serde_json::from_value(found).unwrap(), None);
        let (context, _) = super::tests::context("/none");
        let (mut world, env) = (world("", Value::Null), &context.environment);
        let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "coluc-edge"},
            "spec": {"replicas": 1, "selector": {}, "template": {}}});
        world.desired.stateful_set = DesiredObject::Present(serde_json::from_value(set).unwrap());
        let live = ExistingObjects {
            dialback: Some(Arc::new(found)),
            ..ExistingObjects::default()
        };
        let applied = run(
            env,
            &context.caches.sent,
            &world.valid.owner,
            &world.desired,
            &live,
            false,
        )
        .await;
        let wrote = |written: &ObjectWrite| written.kind == Kind::StatefulSet;
        assert_eq!(applied.written.iter().any(wrote), made, "{:?}", applied.failed);
    }
}
