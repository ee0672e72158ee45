//! Step four: makes the cluster have the desired objects. Server-side apply, forced only on what
//! is ours by UID; nothing is sent when nothing changed.

use std::collections::HashMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};

use super::build::{DesiredObject, DesiredObjects};
use super::cache::Cache;
use super::dereference::{EdgePod, ExistingObjects};
use super::environment::Environment;
use super::kube::{Error, Kind, call};
use super::names::Owner;
use crate::api::{CONFIG_HASH, MANAGED_BY, OBJECTS_MANAGER};

/// Why the desired objects are not all there.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Somebody else's object has a name that is needed.
    #[error(
        "{kind} {name} exists and belongs to {owner}; delete or rename it, or give the XmppFederation another name"
    )]
    Foreign {
        kind: &'static str,
        name: String,
        owner: String,
    },
    /// An object of an earlier resource of this name.
    #[error(
        "{kind} {name} of a former XmppFederation of this name is still being deleted; waiting for the garbage collector"
    )]
    Predecessor { kind: &'static str, name: String },
    #[error(transparent)]
    Kube(#[from] Error),
    /// An object that is no JSON.
    #[error("an object cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Remembers which answer belongs to which request, so that an object that the API server writes
/// differently (1000m as 1) is not sent again and again.
#[derive(Debug, Default)]
pub struct SentObjects(HashMap<(Kind, String), (String, String)>);

/// Annotation with the hash of what was sent, so that a removed field is noticed.
const APPLIED: &str = "xmppfederation.io/applied";

/// An object that was written.
#[derive(Debug)]
struct ObjectWrite {
    kind: Kind,
    name: String,
    deleted: bool,
}

impl ObjectWrite {
    fn new(kind: Kind, name: &str, deleted: bool) -> Self {
        let name = name.to_owned();
        Self { kind, name, deleted }
    }
}

impl fmt::Display for ObjectWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deleted = if self.deleted { " (deleted)" } else { "" };
        write!(f, "{} {}{deleted}", self.kind.as_str(), self.name)
    }
}

/// The objects that were written.
#[derive(Debug)]
pub struct AppliedObjects(Vec<ObjectWrite>);

impl AppliedObjects {
    /// Whether the pods' controller is one of them.
    pub fn changed_controller(&self) -> bool {
        self.0.iter().any(|written| written.kind == Kind::StatefulSet)
    }
}

pub async fn run(
    env: &Environment,
    sent: &Cache<SentObjects>,
    owner: &Owner,
    desired: &DesiredObjects,
    live: &ExistingObjects,
) -> Result<AppliedObjects, ApplyError> {
    let DesiredObjects {
        dialback,
        authority,
        certificate,
        router,
        config,
        account,
        pods_service,
        service,
        budget,
        policy,
        stateful_set,
        config_hash: _,
        mounted_hash: _,
    } = desired;
    let client = &env.client;
    let to = Target { client, sent, owner };
    let mut written = Vec::new();
    // Secrets first: a pod that starts without them would only wait.
    to.create_once(
        Kind::Secret,
        &owner.dialback(),
        dialback.as_ref(),
        live.dialback.as_ref(),
        &mut written,
    )
    .await?;
    to.create_once(
        Kind::Secret,
        &owner.authority(),
        authority.as_ref(),
        live.authority.as_ref(),
        &mut written,
    )
    .await?;
    let edge = owner.edge();
    for (kind, name, wanted, found) in [
        (
            Kind::Secret,
            owner.certificate(),
            state(certificate)?,
            &live.certificate,
        ),
        (Kind::Secret, owner.router(), state(router)?, &live.router),
        (Kind::ConfigMap, edge.clone(), present(config)?, &live.config),
        (Kind::ServiceAccount, edge.clone(), present(account)?, &live.account),
        (Kind::Service, owner.pods(), present(pods_service)?, &live.pods_service),
        (Kind::Service, edge.clone(), present(service)?, &live.service),
        (Kind::PodDisruptionBudget, edge.clone(), present(budget)?, &live.budget),
        (Kind::NetworkPolicy, edge.clone(), present(policy)?, &live.policy),
        (Kind::StatefulSet, edge, state(stateful_set)?, &live.stateful_set),
    ] {
        match wanted {
            DesiredObject::Present(value) => {
                to.apply(kind, &name, &value, found.as_ref(), &mut written).await?;
            }
            DesiredObject::Absent => to.delete(kind, &name, found.as_ref(), &mut written).await?,
            DesiredObject::Unchanged => {}
        }
    }
    if !written.is_empty() {
        let objects: Vec<String> = written.iter().map(ToString::to_string).collect();
        tracing::info!(
            namespace = owner.namespace,
            name = owner.name,
            objects = objects.join(", "),
            "applied"
        );
    }
    Ok(AppliedObjects(written))
}

struct Target<'a> {
    client: &'a Client,
    sent: &'a Cache<SentObjects>,
    owner: &'a Owner,
}

impl Target<'_> {
    /// Creates an object that is never changed, by POST: a race ends in 409, not in an
    /// overwritten secret.
    async fn create_once(
        &self,
        kind: Kind,
        name: &str,
        desired: Option<&Secret>,
        found: Option<&DynamicObject>,
        written: &mut Vec<ObjectWrite>,
    ) -> Result<(), ApplyError> {
        if let Some(found) = found {
            return self.check(kind, name, found);
        }
        let Some(desired) = desired else {
            return Ok(());
        };
        let what = || format!("{} {name} cannot be created", kind.as_str());
        let object: DynamicObject = serde_json::from_value(serde_json::to_value(desired)?)?;
        let params = PostParams {
            field_manager: Some(OBJECTS_MANAGER.to_owned()),
            ..PostParams::default()
        };
        call(
            what,
            kind.api(self.client, &self.owner.namespace).create(&params, &object),
        )
        .await?;
        written.push(ObjectWrite::new(kind, name, false));
        Ok(())
    }

    async fn apply(
        &self,
        kind: Kind,
        name: &str,
        desired: &Value,
        found: Option<&DynamicObject>,
        written: &mut Vec<ObjectWrite>,
    ) -> Result<(), ApplyError> {
        let hash = super::build::sha256(desired.to_string().as_bytes());
        let mut body = desired.clone();
        merge(&mut body, json!({"metadata": {"annotations": {APPLIED: hash}}}));
        let key = (kind, name.to_owned());
        let uid = &self.owner.uid;
        if let Some(found) = found {
            self.check(kind, name, found)?;
            let version = found.resource_version().unwrap_or_default();
            let live = serde_json::to_value(found).unwrap_or_default();
            let request = (hash.clone(), version);
            let sent = self
                .sent
                .with(uid, |SentObjects(sent)| sent.get(&key) == Some(&request));
            if sent || is_subset(&body, &live) {
                return Ok(());
            }
            // Refused if the object was deleted and made anew by somebody else since.
            merge(&mut body, json!({"metadata": {"uid": found.uid()}}));
        }
        let mut params = PatchParams::apply(OBJECTS_MANAGER);
        params.force = found.is_some();
        let api = kind.api(self.client, &self.owner.namespace);
        let what = || format!("{} {name} cannot be applied", kind.as_str());
        let answer = call(what, api.patch(name, &params, &Patch::Apply(&body))).await?;
        let version = answer.resource_version().unwrap_or_default();
        if found.is_none_or(|found| found.resource_version().as_ref() != Some(&version)) {
            written.push(ObjectWrite::new(kind, name, false));
        }
        self.sent
            .with(uid, |SentObjects(sent)| sent.insert(key, (hash, version)));
        Ok(())
    }

    async fn delete(
        &self,
        kind: Kind,
        name: &str,
        found: Option<&DynamicObject>,
        written: &mut Vec<ObjectWrite>,
    ) -> Result<(), ApplyError> {
        let Some(found) = found else { return Ok(()) };
        // The object is not wanted, so a foreign object of that name does no harm.
        if self.check(kind, name, found).is_err() || found.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: found.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let what = || format!("{} {name} cannot be deleted", kind.as_str());
        call(what, kind.api(self.client, &self.owner.namespace).delete(name, &params)).await?;
        written.push(ObjectWrite::new(kind, name, true));
        Ok(())
    }

    /// Ours by UID, or an error that says whose it is.
    fn check(&self, kind: Kind, name: &str, found: &DynamicObject) -> Result<(), ApplyError> {
        let kind = kind.as_str();
        let owners = found.owner_references();
        if owners.iter().any(|o| o.uid == self.owner.uid) {
            // Its replacement has to wait until it is gone.
            return if found.metadata.deletion_timestamp.is_some() {
                Err(ApplyError::Predecessor {
                    kind,
                    name: name.to_owned(),
                })
            } else {
                Ok(())
            };
        }
        let labelled = found.labels().get(MANAGED_BY.0).is_some_and(|v| v == MANAGED_BY.1);
        let former = labelled
            && owners
                .iter()
                .any(|o| o.kind == "XmppFederation" && o.name == self.owner.name);
        if former {
            return Err(ApplyError::Predecessor {
                kind,
                name: name.to_owned(),
            });
        }
        let owner = owners
            .first()
            .map_or_else(|| "nobody we know".to_owned(), |o| format!("{} {}", o.kind, o.name));
        Err(ApplyError::Foreign {
            kind,
            name: name.to_owned(),
            owner,
        })
    }
}

/// From here on objects are JSON: what is compared and hashed is what is sent.
fn present(object: &impl Serialize) -> Result<DesiredObject<Value>, ApplyError> {
    Ok(DesiredObject::Present(serde_json::to_value(object)?))
}

fn state(object: &DesiredObject<impl Serialize>) -> Result<DesiredObject<Value>, ApplyError> {
    match object {
        DesiredObject::Present(object) => present(object),
        DesiredObject::Absent => Ok(DesiredObject::Absent),
        DesiredObject::Unchanged => Ok(DesiredObject::Unchanged),
    }
}

/// Tells pods that something they mount has changed: the kubelet refreshes a volume at once when
/// its pod changes, and only after a minute or more otherwise. Returns whether any pod was notified.
pub async fn notify_pods(
    env: &Environment,
    owner: &Owner,
    desired: &DesiredObjects,
    pods: &[EdgePod],
) -> Result<bool, Error> {
    let DesiredObjects {
        mounted_hash: hash,
        config_hash,
        ..
    } = desired;
    let api: Api<Pod> = Api::namespaced(env.client.clone(), &owner.namespace);
    let mut told = false;
    for pod in pods.iter().filter(|pod| !pod.stopping) {
        let loaded = pod.status.as_ref().map(|s| s.config_hash == *config_hash);
        let refused = pod
            .status
            .as_ref()
            .is_ok_and(|s| s.rejected.as_ref().is_some_and(|r| r.config_hash == *config_hash));
        let base = pod.notified.as_deref().and_then(|t| t.split('.').next());
        // A pod that was notified and is still stale missed it: the kubelet may have refreshed the
        // volume from an older object. Another value of the annotation wakes it again.
        let value = match (base == Some(hash.as_str()), loaded) {
            (true, Ok(false)) if !refused => {
                let again = pod.notified.as_deref().and_then(|t| t.split('.').nth(1));
                let count: u32 = again.and_then(|n| n.parse().ok()).unwrap_or(0);
                format!("{hash}.{}", (count + 1) % 1000)
            }
            (true, _) => continue,
            (false, _) => hash.to_owned(),
        };
        let patch = json!({"metadata": {"uid": pod.uid, "annotations": {CONFIG_HASH: value}}});
        let what = || format!("pod {} cannot be told of the new configuration", pod.name);
        let answer = call(
            what,
            api.patch_metadata(&pod.name, &PatchParams::default(), &Patch::Merge(&patch)),
        )
        .await;
        match answer {
            Ok(_) => told = true,
            // Gone or replaced meanwhile: its successor reads the new configuration anyway.
            Err(error) if matches!(error.code(), Some(404 | 409)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(told)
}

/// Whether `live` contains all of `wanted`; lists must agree in length and order.
fn is_subset(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => wanted
            .iter()
            .all(|(key, value)| live.get(key).is_some_and(|found| is_subset(value, found))),
        (Value::Array(wanted), Value::Array(live)) => {
            wanted.len() == live.len() && wanted.iter().zip(live).all(|(w, l)| is_subset(w, l))
        }
        (wanted, live) => wanted == live,
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(json!({"a": 1}), json!({"a": 1, "b": 2}), true)]
    #[case(json!({"a": 1}), json!({"a": 2}), false)]
    #[case(json!({"a": [{"b": 1}]}), json!({"a": [{"b": 1, "default": 2}]}), true)]
    #[case(json!({"a": [1]}), json!({"a": [1, 2]}), false)]
    #[case(json!({"a": {}}), json!({}), false)]
    fn what_the_api_server_adds_is_no_difference(#[case] wanted: Value, #[case] live: Value, #[case] same: bool) {
        assert_eq!(is_subset(&wanted, &live), same);
    }
}
