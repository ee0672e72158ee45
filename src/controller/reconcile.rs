//! One reconcile, from the resource to its status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::Api;
use kube::runtime::controller::Action;
use kube::{Resource as _, ResourceExt};
use serde_json::Value;

use super::apply::{self, ApplyError};
use super::build::{self, ClusterSlots, Known, material, pods_to_run};
use super::context::Context;
use super::effects::{LastLook, Looked, Observations, Outcome};
use super::environment::{Environment, Guarded};
use super::events::Note;
use super::kube::{Kind, call};
use super::names::Owner;
use super::outcome::{Error, Next};
use super::rows::{self, DroppedCluster};
use super::status::{self, Found};
use super::validate::{self, Claim, Refusal, Validated};
use super::{answer, change_log, delete, dereference, effects, requests, unreadable};
use crate::api::conditions::{self, Status};
use crate::api::reasons::Reason;
use crate::api::status::XmppFederationStatus;
use crate::api::{XmppFederation, request};
use crate::runtime::metrics::Word;
use xmpp_federation_imp::report::Report;

/// While something is on its way.
const SOON: Duration = Duration::from_secs(1);
/// While something fails that we can only look at again.
const LATER: Duration = Duration::from_secs(5);
/// While everything is as wanted. What changes starts a reconcile by itself, edges included (see
/// [`crate::edges::watch`]); this is for what a watch may have missed.
const STEADY: Duration = Duration::from_mins(2);
/// While something is used that no watch tells of: users' ConfigMaps.
const UNWATCHED: Duration = Duration::from_secs(15);

/// Entry point of the controller.
pub async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let result = match &object.0 {
        Err(invalid) => unreadable::run(&context.environment, invalid).await,
        Ok(seen) => Box::pin(fresh(&context, seen)).await,
    };
    let env = &context.environment;
    let word = if result.is_ok() { "ok" } else { "error" };
    env.metrics.reconciles.get_or_create(&Word { value: word }).inc();
    env.metrics.reconcile_duration.observe(started.elapsed().as_secs_f64());
    let next = result?;
    let uid = object.meta().uid.as_deref().unwrap_or_default();
    context.caches.failures.forget(uid);
    #[allow(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in f64")]
    env.metrics.last_reconcile.set(Timestamp::now().as_second() as f64);
    Ok(match next {
        Next::After(wait) => Action::requeue(wait),
        Next::OnChange => Action::await_change(),
        Next::Gone => {
            context.forget(uid);
            Action::await_change()
        }
    })
}

/// Back-off after an error: doubled each time, spread by the resource's UID.
#[allow(clippy::needless_pass_by_value, reason = "the controller hands them over")]
pub fn on_error(object: Arc<Guarded>, error: &Error, context: Arc<Context>) -> Action {
    context
        .environment
        .metrics
        .reconcile_errors
        .get_or_create(&Word {
            value: error.category(),
        })
        .inc();
    let uid = object.meta().uid.clone().unwrap_or_default();
    let failures = context.caches.failures.with(&uid, |failures| {
        *failures = failures.saturating_add(1);
        *failures
    });
    let wait = Duration::from_secs(1 << failures.min(8)) + jitter(&uid, Duration::from_secs(2));
    tracing::warn!(
        namespace = object.namespace().unwrap_or_default(),
        name = object.name_any(),
        category = error.category(),
        retry_s = wait.as_secs(),
        %error,
        "reconcile failed"
    );
    Action::requeue(wait)
}

/// A part of `most` that depends on the UID alone, so that resources do not march in step.
fn jitter(uid: &str, most: Duration) -> Duration {
    let sum = uid
        .bytes()
        .fold(0_u32, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(b)));
    most.mul_f64(f64::from(sum % 1000) / 1000.0)
}

/// Reads the object anew, as the watch may lag behind our own writes.
async fn fresh(context: &Context, seen: &XmppFederation) -> Result<Next, Error> {
    let (name, namespace) = (seen.name_any(), seen.namespace().ok_or(Error::Nameless)?);
    let env = &context.environment;
    let api: Api<XmppFederation> = Api::namespaced(env.client.clone(), &namespace);
    let what = || format!("XmppFederation {name} cannot be read");
    let Some(object) = call(what, api.get_opt(&name)).await? else {
        context.edges_seen.forget(&(namespace, name));
        return Ok(Next::Gone);
    };
    let owner = Owner::of(&object).ok_or(Error::Nameless)?;
    let former = rows::dropped(env, &object).await;
    let known = former.as_deref().unwrap_or_default();
    let secrets = dereference::secret_names(&object.spec, known.iter().filter_map(|former| former.entry.as_ref()));
    context.refers(&namespace, &name, &secrets);
    if object.metadata.deletion_timestamp.is_some() {
        context.edges_seen.forget(&(namespace, name));
        return delete::run(env, &context.caches.rows, &object, &owner, &former).await;
    }
    if object.spec.paused {
        context.edges_seen.forget(&(namespace, name));
        let previous = object.status.clone().unwrap_or_default();
        let conditions = conditions::paused(&previous.conditions, object.metadata.generation, Timestamp::now());
        let status = XmppFederationStatus {
            conditions,
            observed_generation: object.metadata.generation,
            ..previous
        };
        answer::finish(env, &object, status, Vec::new()).await?;
        return Ok(Next::OnChange);
    }
    // Nothing hangs on them but rows of former clusters, which are looked for again.
    let former = former.unwrap_or_else(|error| {
        tracing::warn!(namespace, name, %error, "former clusters");
        Vec::new()
    });
    Box::pin(work(context, &object, owner, secrets, &former)).await
}

/// Names that older resources hold; the newcomer waits, so that no running federation is disturbed.
fn claims(env: &Environment, object: &XmppFederation) -> Vec<Claim> {
    let age = |o: &XmppFederation| (o.creation_timestamp().map(|t| t.0), o.uid());
    env.resources()
        .iter()
        .filter(|other| other.uid() != object.uid() && age(other) < age(object))
        .map(|other| {
            let resource = format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any());
            validate::claim(resource, &other.spec)
        })
        .collect()
}

/// The five steps.
async fn work(
    context: &Context,
    object: &XmppFederation,
    owner: Owner,
    secrets: Vec<String>,
    former: &[DroppedCluster],
) -> Result<Next, Error> {
    let now = Timestamp::now();
    let env = &context.environment;
    let observations = context.caches.observations.with(&owner.uid, |last| last.clone());
    let observed = Box::pin(dereference::run(&env.client, &env.edges, &owner, &object.spec, secrets)).await?;
    note_edges(context, &owner, &observed);
    let valid = match validate::run(owner, &object.spec, &env.settings, &claims(env, object)) {
        Ok(valid) => valid,
        Err(refusal) => return refused(env, object, refusal).await,
    };
    let rotate = requests::unserved(object, request::ROTATE_DIALBACK);
    let lost = observed.live.dialback.is_none();
    let material = material::run(&valid, &observed, rotate.is_some() && lost, now);
    let known = known(&valid, &observed, &observations);
    let desired = match build::all(&valid, &material, &known) {
        Ok(desired) => desired,
        Err(refusal) => return refused(env, object, refusal).await,
    };
    change_log::accepted(&context.caches.accepted, object, &valid);

    let written = match apply::run(
        &env.client,
        &context.caches.sent,
        &valid.owner,
        &desired,
        &observed.live,
    )
    .await
    {
        Ok(written) => written,
        Err(error) => return not_applied(env, object, error).await,
    };
    note_written(&valid.owner, &written);
    let controller_changed = written.iter().any(|object| object.kind == Kind::StatefulSet);
    let told = apply::tell_pods(
        &env.client,
        &valid.owner,
        &desired.mounted_hash,
        &desired.config_hash,
        &observed.pods,
    )
    .await?;

    let effects = effects::run(
        env,
        object,
        &valid,
        &observed,
        former,
        &observations,
        &context.caches.rows,
    )
    .await?;
    let Some(outcome) = effects else {
        return Ok(Next::After(Duration::ZERO));
    };
    let uid = valid.owner.uid.clone();
    let cache = &context.caches.observations;
    cache.with(&uid, |last| note_outcome(last, &outcome));

    let found = Found {
        valid: &valid,
        observed: &observed,
        material: &material,
        desired: &desired,
        controller_changed,
        pods_allowed: known.pods,
        imp: &outcome.imp,
        leaving: &outcome.leaving,
        records: &outcome.records,
        addresses: &outcome.addresses,
        links: &outcome.links,
        now,
    };
    let abandoned = requests::abandons(object) && former.iter().any(DroppedCluster::has_rows);
    let served = Served {
        rotate,
        lost,
        abandoned,
    };
    let ready = conclude(env, object, &found, outcome.notes, &served).await?;

    // What this reconcile learned changes what is to be built: at once.
    let after = cache.with(&uid, |last| last.clone());
    if self::known(&valid, &observed, &after) != known {
        return Ok(Next::After(Duration::ZERO));
    }
    Ok(Next::After(wait(&found, ready, told)))
}

/// Another resource may go away; a wrong value changes only with the object.
async fn refused(env: &Environment, object: &XmppFederation, refusal: Refusal) -> Result<Next, Error> {
    let (reason, sentence, action) = match refusal {
        Refusal::Invalid(sentences) => (Reason::SpecInvalid, sentences.join("; "), Next::OnChange),
        Refusal::UsedTwice(sentence) => (Reason::UsedTwice, sentence, Next::After(LATER)),
    };
    answer::stalled(env, object, reason, sentence).await?;
    Ok(action)
}

/// The pods whose status is asked for between reconciles.
fn note_edges(context: &Context, owner: &Owner, observed: &dereference::Observed) {
    context.edges_seen.saw(
        (owner.namespace.clone(), owner.name.clone()),
        observed
            .pods
            .iter()
            .filter(|pod| !pod.stopping)
            .filter_map(|pod| Some((pod.ip?, pod.status.as_ref().ok()))),
    );
}

fn note_written(owner: &Owner, written: &[apply::Written]) {
    if !written.is_empty() {
        let objects: Vec<String> = written.iter().map(ToString::to_string).collect();
        tracing::info!(
            namespace = owner.namespace,
            name = owner.name,
            objects = objects.join(", "),
            "applied"
        );
    }
}

/// What was learned about the world outside, for the next reconcile.
fn note_outcome(last: &mut Observations, outcome: &Outcome) {
    last.clusters = outcome
        .imp
        .iter()
        .map(|looked| (looked.entry.clone(), remembered(looked, &last.clusters)))
        .collect();
    last.links = Some(outcome.links.clone());
    last.records = outcome.records.as_ref().ok().cloned();
}

/// A look at one cluster without what is told once.
fn remembered(looked: &Looked, before: &BTreeMap<String, LastLook>) -> LastLook {
    let report = match &looked.report {
        Ok(report) => Some(Report {
            events: Vec::new(),
            ..report.clone()
        }),
        Err(_) => before.get(&looked.entry).and_then(|last| last.report.clone()),
    };
    LastLook {
        report,
        failing: looked.failing,
    }
}

/// Requests by annotation of which this reconcile took care.
struct Served<'a> {
    /// A rotation that is asked for.
    rotate: Option<&'a String>,
    /// The dialback secret had been lost.
    lost: bool,
    /// Rows of former clusters were given up.
    abandoned: bool,
}

/// Writes status and events; whether the resource is ready.
async fn conclude(
    env: &Environment,
    object: &XmppFederation,
    found: &Found<'_>,
    mut notes: Vec<Note>,
    served: &Served<'_>,
) -> Result<bool, Error> {
    let previous = object.status.clone().unwrap_or_default();
    let findings = status::findings(found);
    let mut next = status::details(found, &previous);
    if let Some(value) = served.rotate {
        if !served.lost {
            notes.push(Note {
                warning: true,
                reason: Reason::SpecInvalid.to_string(),
                message: format!(
                    "{} = {value:?} was not served: rotation of the dialback secret is not available in this release; remove the annotation",
                    request::ROTATE_DIALBACK
                ),
            });
        }
        requests::set_handled(&mut next, request::ROTATE_DIALBACK, value);
    }
    let refresh = object.annotations().get(request::REFRESH);
    let looked = found.imp.iter().all(|l| l.report.is_ok() && l.current);
    if let Some(value) = refresh.filter(|_| found.records.is_ok() && looked) {
        requests::set_handled(&mut next, request::REFRESH, value);
    }
    let abandon = object.annotations().get(request::ABANDON_ROWS);
    if let Some(value) = abandon.filter(|_| served.abandoned) {
        requests::set_handled(&mut next, request::ABANDON_ROWS, value);
    }
    let generation = object.metadata.generation;
    next.observed_generation = generation;
    next.conditions = conditions::assemble(&previous.conditions, generation, found.now, &findings);
    answer::metrics(env, found);
    let ready = next.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    answer::finish(env, object, next, notes).await?;
    Ok(ready)
}

/// When to look again.
fn wait(found: &Found<'_>, ready: bool, told: bool) -> Duration {
    let mut wait = match (ready && !told, &found.observed.revocation_lists) {
        (true, None) => STEADY,
        (true, Some(_)) => UNWATCHED,
        (false, _) => LATER,
    };
    let pods_settle = found.observed.pods.len() != usize::from(found.pods_allowed)
        || found.observed.pods.iter().any(|pod| {
            // Links are looked at all the time, see [`crate::edges::watch`].
            !matches!(&pod.status, Ok(s) if s.config_hash == found.desired.config_hash) || pod.stopping
        });
    if told || (pods_settle && !ready) {
        wait = SOON;
    }
    for looked in found.imp {
        match &looked.report {
            Ok(report) if looked.current => {
                wait = wait.min(report.requeue_after.max(Duration::from_millis(100)));
            }
            // Its answer is on its way, or one to an earlier question has just come.
            Ok(_) => wait = wait.min(SOON),
            Err(verdict) if verdict.status == Status::Unknown => wait = wait.min(SOON),
            Err(_) => {}
        }
    }
    if !found.leaving.is_empty() {
        wait = wait.min(SOON);
    }
    if let Ok(records) = found.records {
        wait = wait.min(records.due_in().max(SOON));
    }
    if wait >= UNWATCHED {
        wait += jitter(&found.valid.owner.uid, Duration::from_secs(3));
    }
    wait
}

/// What earlier looks at the world tell.
fn known(valid: &Validated, observed: &dereference::Observed, last: &Observations) -> Known {
    let others = |report: &Report| report.served_by_others() || report.was_prepared();
    let mut links = last.routers(observed);
    links.retain(|entry, _| {
        let last = last.clusters.get(entry).and_then(|last| last.report.as_ref());
        !last.is_some_and(others)
    });
    let running = observed
        .live
        .stateful_set
        .as_ref()
        .and_then(|s| s.data.pointer("/spec/replicas"))
        .and_then(Value::as_u64)
        .and_then(|n| u16::try_from(n).ok());
    let clusters: Vec<ClusterSlots<'_>> = valid
        .imp
        .iter()
        .map(|cluster| {
            let last = last.clusters.get(&cluster.spec.name);
            let report = last.and_then(|last| last.report.as_ref());
            ClusterSlots {
                domains: &cluster.domains,
                failing: last.is_some_and(|last| last.failing),
                slots: report.map_or(&[], |report| report.slots.as_slice()),
            }
        })
        .collect();
    // Prepared: without rows there is nothing to be in sync with.
    let pods = if valid.active {
        pods_to_run(valid.replicas, &valid.hosted, &clusters, running)
    } else {
        valid.replicas
    };
    Known { links, pods }
}

async fn not_applied(env: &Environment, object: &XmppFederation, error: ApplyError) -> Result<Next, Error> {
    let (reason, wait) = match &error {
        ApplyError::Foreign { .. } => (Reason::ForeignObject, LATER),
        ApplyError::Former { .. } => (Reason::FormerObject, SOON),
        // A value that only the API server can judge, such as a pod's affinity.
        ApplyError::Kube(kube) if matches!(kube.code(), Some(400 | 403 | 422)) => {
            (Reason::ApiRefused, Duration::from_mins(1))
        }
        ApplyError::Kube(_) => {
            let ApplyError::Kube(error) = error else {
                return Err(Error::Nameless);
            };
            return Err(error.into());
        }
    };
    let sentence = match &error {
        ApplyError::Kube(kube) => kube.sentence(),
        other => other.to_string(),
    };
    answer::stalled(env, object, reason, sentence).await?;
    Ok(Next::After(wait))
}
