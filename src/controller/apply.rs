//! Step four: makes the cluster have the desired objects. Server-side apply, forced only on what
//! is the resource's own; nothing is sent when nothing changed. [`keys`]: Secrets that are made once.

mod keys;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::build::{DesiredObject, DesiredObjects};
use super::cache::Cache;
use super::dereference::{EdgePod, ExistingObjects};
use super::environment::Environment;
use super::fields::ForeignField;
use super::kube::{Error, Kind, call, delete};
use super::names::Owner;
use super::objects::{APPLIED, ExistingObject, Rollout, Standing};
use super::repairs::Repairs;
use crate::api::{CONFIG_HASH, OBJECTS_MANAGER, request};
use crate::backoff::doubled;

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
    /// A Secret that only a person can tell to be the resource's.
    #[error(
        "Secret {0} exists, and nothing shows that the operator made it for this resource; if it holds what the resource had before, as after a restore, set the annotation {annotation}, otherwise delete or rename it",
        annotation = request::ADOPT_SECRETS
    )]
    Unmarked(String),
    #[error(transparent)]
    Kube(#[from] Error),
    /// Somebody undoes each write.
    #[error(
        "{kind} {name} is changed back again and again ({by}) after the operator wrote it; {remedy}. The operator writes ever later, every 5 min at the longest"
    )]
    Undone {
        kind: &'static str,
        name: String,
        by: String,
        remedy: &'static str,
    },
    /// A pod that cannot be told: until it is tried again.
    #[error(transparent)]
    Untold(Arc<Error>),
    /// An object that is no JSON.
    #[error("an object cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Remembers which content of an object is as wanted by which hash, so that an object from which a policy takes the
/// annotation or the managed fields is not sent again and again.
#[derive(Debug, Default)]
pub struct SentObjects {
    objects: HashMap<(Kind, String), (String, [u8; 32])>,
    /// All objects were there once.
    whole: bool,
    repairs: Repairs,
    told: NotifiedPods,
}

/// An object that was written.
#[derive(Debug)]
struct ObjectWrite {
    kind: Kind,
    name: String,
    deleted: bool,
    /// Its controller has to act: more changed than labels and annotations.
    unseen: bool,
}

impl ObjectWrite {
    fn new(kind: Kind, name: &str, deleted: bool) -> Self {
        let (name, unseen) = (name.to_owned(), false);
        Self {
            kind,
            name,
            deleted,
            unseen,
        }
    }
}

impl fmt::Display for ObjectWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deleted = if self.deleted { " (deleted)" } else { "" };
        write!(f, "{} {}{deleted}", self.kind.as_str(), self.name)
    }
}

/// What became of the objects.
#[derive(Debug, Default)]
pub struct AppliedObjects {
    written: Vec<ObjectWrite>,
    /// Why some are not as wanted; the others are.
    pub failed: Vec<ApplyError>,
    /// Fields that others have added to them.
    pub added: Vec<String>,
    /// The pods' controller is not as wanted.
    pub controller_failed: bool,
    /// Dialback secret and authority are the resource's, as far as they are needed.
    pub has_keys: bool,
}

impl AppliedObjects {
    /// Whether the pods' controller was written, and has to act.
    pub fn changed_controller(&self) -> bool {
        self.written.iter().any(|written| written.unseen)
    }

    /// Whether that Secret was written.
    pub fn changed_secret(&self, name: &str) -> bool {
        let is_it = |written: &ObjectWrite| written.kind == Kind::Secret && written.name == name;
        self.written.iter().any(is_it)
    }
}

/// Each object for itself: one that cannot be written stops no other. But no pod is made for the first time, and no leaf
/// is issued, with secrets that are not the resource's.
///
/// `adopt`: a person takes Secrets without the operator's marks for the resource's.
pub async fn run(
    env: &Environment,
    sent: &Cache<SentObjects>,
    owner: &Owner,
    desired: &DesiredObjects,
    live: &ExistingObjects,
    adopt: bool,
) -> AppliedObjects {
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
        template_inputs: _,
        config_hash: _,
        mounted_hash: _,
    } = desired;
    let to = Target {
        env,
        sent,
        owner,
        adopt,
    };
    let mut applied = AppliedObjects::default();
    // Secrets first: a pod that starts without them would only wait.
    applied.take(
        to.keep(&owner.dialback(), dialback.as_ref(), live.dialback.as_ref())
            .await,
    );
    let failed = applied.failed.len();
    let has_owner = live.authority.as_ref().is_some_and(|found| found.is_kept_by(owner));
    if has_owner || !matches!(certificate, DesiredObject::Absent) {
        applied.take(
            to.keep(&owner.authority(), authority.as_ref(), live.authority.as_ref())
                .await,
        );
    }
    // A leaf of a new authority that was not stored fits none.
    let unstored = authority.is_some() && applied.failed.len() > failed;
    let certificate = if unstored {
        &DesiredObject::Unchanged
    } else {
        certificate
    };
    applied.has_keys = applied.failed.is_empty();
    let first_pods = live.stateful_set.is_none() && !applied.has_keys;
    let stateful_set = if first_pods {
        &DesiredObject::Unchanged
    } else {
        stateful_set
    };
    let edge = owner.edge();
    // The Secret of a certificate in whose place another one was brought.
    let mut unmounted = None;
    for (kind, name, wanted, found) in [
        (Kind::Secret, owner.certificate(), state(certificate), &live.certificate),
        (Kind::Secret, owner.router(), state(router), &live.router),
        (Kind::ConfigMap, edge.clone(), state(config), &live.config),
        (Kind::ServiceAccount, edge.clone(), present(account), &live.account),
        (Kind::Service, owner.pods(), present(pods_service), &live.pods_service),
        (Kind::Service, edge.clone(), present(service), &live.service),
        (Kind::PodDisruptionBudget, edge.clone(), present(budget), &live.budget),
        (Kind::NetworkPolicy, edge.clone(), state(policy), &live.policy),
        (Kind::StatefulSet, edge, state(stateful_set), &live.stateful_set),
    ] {
        let found = found.as_ref();
        if let (Ok(DesiredObject::Present(value)), Some(found)) = (&wanted, found) {
            let added = found.added(value);
            let name = |field: &ForeignField| format!("{} {name}: {field}", kind.as_str());
            applied.added.extend(added.map(name));
        }
        let result = match wanted {
            Ok(DesiredObject::Present(value)) => to.apply(kind, &name, &value, found).await,
            Ok(DesiredObject::Absent) if kind == Kind::Secret => {
                unmounted = found;
                Ok(None)
            }
            Ok(DesiredObject::Absent) => to.delete(kind, &name, found).await,
            Ok(DesiredObject::Unchanged) => Ok(None),
            Err(error) => Err(error),
        };
        applied.controller_failed |= kind == Kind::StatefulSet && result.is_err();
        applied.take(result);
    }
    if unmounted.is_some() && is_rolled_out(live.rollout(), applied.changed_controller()) {
        applied.take(to.delete(Kind::Secret, &owner.certificate(), unmounted).await);
    }
    if applied.written.is_empty() {
        sent.with(&owner.uid, |sent| sent.whole |= applied.failed.is_empty());
    } else {
        let objects: Vec<String> = applied.written.iter().map(ToString::to_string).collect();
        tracing::info!(
            namespace = owner.namespace,
            name = owner.name,
            objects = objects.join(", "),
            "applied"
        );
    }
    applied
}

/// One Secret that exists, for itself.
pub async fn secret(
    env: &Environment,
    sent: &Cache<SentObjects>,
    owner: &Owner,
    wanted: &Secret,
    found: &Arc<ExistingObject>,
) -> Result<(), ApplyError> {
    let name = wanted.metadata.name.as_deref().unwrap_or_default();
    let wanted = serde_json::to_value(wanted)?;
    let to = Target {
        env,
        sent,
        owner,
        adopt: false,
    };
    to.apply(Kind::Secret, name, &wanted, Some(found)).await.map(drop)
}

/// Whether no pod of an earlier template is left, which could not be started again without what that one mounts.
/// `changed`: its controller was written just now.
pub fn is_rolled_out(rollout: Option<&Rollout>, changed: bool) -> bool {
    rollout.is_none_or(|rollout| !changed && rollout.is_over())
}

impl AppliedObjects {
    fn take(&mut self, result: Result<Option<ObjectWrite>, ApplyError>) {
        match result {
            Ok(written) => self.written.extend(written),
            Err(error) => self.failed.push(error),
        }
    }
}

struct Target<'a> {
    env: &'a Environment,
    sent: &'a Cache<SentObjects>,
    owner: &'a Owner,
    /// A person takes Secrets without the operator's marks for the resource's.
    adopt: bool,
}

impl Target<'_> {
    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        kind.api(&self.env.client, &self.owner.namespace)
    }

    /// The object of that name, where the snapshot shows none: it holds only what has our label.
    async fn unlabelled(&self, kind: Kind, name: &str) -> Result<Option<Arc<ExistingObject>>, ApplyError> {
        let what = || format!("{} {name} cannot be read", kind.as_str());
        let Some(object) = call(what, self.api(kind).get_opt(name)).await? else {
            return Ok(None);
        };
        Ok(Some(Arc::new(ExistingObject::new(kind, object, None))))
    }

    async fn apply(
        &self,
        kind: Kind,
        name: &str,
        desired: &Value,
        found: Option<&Arc<ExistingObject>>,
    ) -> Result<Option<ObjectWrite>, ApplyError> {
        let hash = super::build::sha256(desired.to_string().as_bytes());
        let mut body = desired.clone();
        merge(&mut body, json!({"metadata": {"annotations": {APPLIED: hash}}}));
        let key = (kind, name.to_owned());
        let uid = &self.owner.uid;
        let unlabelled = match found {
            Some(_) => None,
            None => self.unlabelled(kind, name).await?,
        };
        let found = found.or(unlabelled.as_ref());
        // Nothing else is wanted than what was written.
        let again = match found {
            Some(found) => found.was_applied(&hash),
            None => self.sent.with(uid, |sent| sent.whole),
        };
        if let Some(found) = found {
            self.check(kind, name, found)?;
            let same = (hash.clone(), found.digest);
            let known = self.sent.with(uid, |sent| sent.objects.get(&key) == Some(&same));
            if known || found.has(&body, &hash) {
                return Ok(None);
            }
            // Refused if the object was deleted and made anew by somebody else since.
            merge(&mut body, json!({"metadata": {"uid": found.uid}}));
        }
        let undone = || {
            let taken = found.and_then(|found| found.taken(desired));
            let scaled = taken.is_some_and(|field| field.is_at(&["spec", "replicas"]));
            let by = taken.map(ToString::to_string);
            let by = by.unwrap_or_else(|| "it is deleted, or fields are removed".to_owned());
            // A HorizontalPodAutoscaler, as a rule.
            let remedy = if kind == Kind::StatefulSet && scaled {
                "let it scale the XmppFederation instead"
            } else {
                "stop that writer"
            };
            let (kind, name) = (kind.as_str(), name.to_owned());
            ApplyError::Undone { kind, name, by, remedy }
        };
        if again && !self.sent.with(uid, |sent| sent.repairs.are_due(&key, Instant::now())) {
            return Err(undone());
        }
        let mut params = PatchParams::apply(OBJECTS_MANAGER);
        params.force = found.is_some();
        let what = || format!("{} {name} cannot be applied", kind.as_str());
        let lists = self.env.snapshots.lists(kind);
        let answer = call(what, self.api(kind).patch(name, &params, &Patch::Apply(&body))).await?;
        let unseen = |written: &ExistingObject| written.rollout().is_some_and(|rollout| !rollout.seen);
        let read = |written: &ExistingObject| (written.digest, written.has(&body, &hash), unseen(written));
        let (digest, whole, unseen) = self.env.snapshots.answered(kind, answer, lists, read);
        let changed = found.is_none_or(|found| found.digest != digest);
        let fights = again && self.sent.with(uid, |sent| sent.repairs.note(&key, Instant::now()));
        self.sent.with(uid, |sent| {
            // An object that has all says so itself.
            if whole {
                sent.objects.remove(&key);
            } else {
                sent.objects.insert(key, (hash, digest));
            }
        });
        if fights {
            return Err(undone());
        }
        Ok(changed.then(|| ObjectWrite {
            unseen,
            ..ObjectWrite::new(kind, name, false)
        }))
    }

    async fn delete(
        &self,
        kind: Kind,
        name: &str,
        found: Option<&Arc<ExistingObject>>,
    ) -> Result<Option<ObjectWrite>, ApplyError> {
        // The object is not wanted, so another object of that name does no harm; a Secret may be one that is brought.
        let Some(found) = found.filter(|found| found.is_kept_by(self.owner)) else {
            return Ok(None);
        };
        let what = || format!("{} {name} cannot be deleted", kind.as_str());
        match delete(what, &self.api(kind), name, &found.uid).await {
            Ok(()) => Ok(Some(ObjectWrite::new(kind, name, true))),
            // The watch tells of it soon.
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The resource's own, or an error that says whose it is.
    fn check(&self, kind: Kind, name: &str, found: &ExistingObject) -> Result<(), ApplyError> {
        let (kind, name) = (kind.as_str(), name.to_owned());
        match found.standing(self.owner) {
            Standing::Own if !found.deleting => Ok(()),
            // Its replacement has to wait until it is gone.
            Standing::Own | Standing::Former => Err(ApplyError::Predecessor { kind, name }),
            Standing::Unmarked => {
                let owner = "nobody we know".to_owned();
                Err(ApplyError::Foreign { kind, name, owner })
            }
            Standing::Foreign(owner) => Err(ApplyError::Foreign { kind, name, owner }),
        }
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

/// A pod that was told and has not loaded what it was told of is told again after this, …
const TELL_AGAIN: Duration = Duration::from_millis(500);
/// … and twice as long each time, up to this.
const TELL_SELDOM: Duration = Duration::from_mins(5);

/// Tells pods that something they mount has changed: the kubelet refreshes a volume at once when
/// its pod changes, and only after a minute or more otherwise. Returns when a pod that goes on with what it
/// had is told again.
pub async fn notify_pods(
    env: &Environment,
    sent: &Cache<SentObjects>,
    owner: &Owner,
    desired: &DesiredObjects,
    pods: &[EdgePod],
    failed: &mut Vec<ApplyError>,
) -> Option<Duration> {
    let DesiredObjects {
        mounted_hash: hash,
        config_hash,
        config,
        ..
    } = desired;
    if matches!(config, DesiredObject::Unchanged) {
        return None;
    }
    let api: Api<Pod> = Api::namespaced(env.client.clone(), &owner.namespace);
    let mut told = sent.with(&owner.uid, |sent| std::mem::take(&mut sent.told));
    told.0
        .retain(|uid, _| pods.iter().any(|pod| pod.uid == *uid && !pod.stopping));
    for pod in pods.iter().filter(|pod| !pod.stopping) {
        let Some((value, mut turn)) = told.next(pod, hash, config_hash, Instant::now()) else {
            let refused = told.0.get(&pod.uid).and_then(|turn| turn.refused.clone());
            failed.extend(refused.map(ApplyError::Untold));
            continue;
        };
        let patch = json!({"metadata": {"uid": pod.uid, "annotations": {CONFIG_HASH: value}}});
        let what = || format!("pod {} cannot be told of the new configuration", pod.name);
        let params = PatchParams::default();
        match call(what, api.patch_metadata(&pod.name, &params, &Patch::Merge(&patch))).await {
            // Gone or replaced meanwhile: its successor reads the new configuration anyway.
            Err(error) if matches!(error.code(), Some(404 | 409)) => {
                told.0.remove(&pod.uid);
                continue;
            }
            Err(error) => {
                let refused = turn.refused.insert(Arc::new(error));
                failed.push(ApplyError::Untold(Arc::clone(refused)));
            }
            Ok(_) => {}
        }
        told.0.insert(pod.uid.clone(), turn);
    }
    let again = told.0.values().map(|turn| turn.left(Instant::now())).min();
    sent.with(&owner.uid, |sent| sent.told = told);
    again
}

/// Pods that were told of a configuration, or could not be, and have not loaded it, by UID.
#[derive(Debug, Default)]
struct NotifiedPods(HashMap<String, Turn>);

impl NotifiedPods {
    /// The annotation that the pod needs now, and the turn that it is then in; `None`: nothing is due.
    fn next(&mut self, pod: &EdgePod, hash: &str, config_hash: &str, now: Instant) -> Option<(String, Turn)> {
        let mut parts = pod.notified.as_deref().unwrap_or_default().split('.');
        let told = parts.next() == Some(hash);
        let stale = pod.status.as_ref().is_ok_and(|status| {
            let refused = status.rejected.as_ref().is_some_and(|r| r.config_hash == *config_hash);
            status.config_hash != *config_hash && !refused
        });
        if told && !stale {
            self.0.remove(&pod.uid);
            return None;
        }
        let turn = |times| Turn {
            hash: hash.to_owned(),
            at: now,
            times,
            refused: None,
        };
        let times = match self.0.get(&pod.uid).filter(|last| last.hash == hash) {
            Some(last) if !last.left(now).is_zero() => return None,
            Some(last) => last.times.saturating_add(1),
            None if told => {
                self.0.insert(pod.uid.clone(), turn(0));
                return None;
            }
            None => 0,
        };
        if !told {
            // Or the write was refused, or a webhook takes the annotation away.
            return Some((hash.to_owned(), turn(times)));
        }
        // It missed it: the kubelet may have refreshed the volume from an older object, or cannot. Another
        // value of the annotation wakes it again.
        let count: u32 = parts.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        Some((format!("{hash}.{}", (count + 1) % 1000), turn(times)))
    }
}

/// When a pod was told of what, and how often.
#[derive(Debug)]
struct Turn {
    hash: String,
    at: Instant,
    /// Times that it was told again.
    times: u32,
    /// Why it could not be told.
    refused: Option<Arc<Error>>,
}

impl Turn {
    fn left(&self, now: Instant) -> Duration {
        doubled(TELL_AGAIN, self.times, TELL_SELDOM).saturating_sub(now.duration_since(self.at))
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
mod keys_tests;
#[cfg(test)]
mod tests;
