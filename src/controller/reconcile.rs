//! One reconcile, from the resource to its status.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::apply::{self, ApplyError};
use super::build::{self, Known, pods_to_run};
use super::context::{Context, Guarded, Memory};
use super::delete::{self, Step};
use super::effects::{self, Asked};
use super::events::{self, Note};
use super::kube::{Error as KubeError, call};
use super::names::Owner;
use super::status::{self, Found};
use super::validate::{self, Claim, Refusal, Validated};
use super::{dereference, material, watch};
use crate::api::conditions::{self, Findings};
use crate::api::reasons::Reason;
use crate::api::status::{HandledRequest, XmppFederationStatus};
use crate::api::{STATUS_MANAGER, XmppFederation, request};
use crate::imp::report::{Report, SlotSync};
use crate::runtime::metrics::{Resource as ResourceLabel, Word};

/// While something is on its way.
const SOON: Duration = Duration::from_secs(1);
/// While something fails that we can only look at again.
const LATER: Duration = Duration::from_secs(5);
/// While everything is as wanted: the edges are asked this often.
const STEADY: Duration = Duration::from_secs(15);

/// A reconcile that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Kubernetes API.
    #[error("{}", .0.sentence())]
    Kube(#[from] KubeError),
    /// The API server gave an object without name, namespace or UID.
    #[error("the object has no name, namespace or UID")]
    Nameless,
}

impl Error {
    /// Bounded word for metrics and back-off.
    const fn category(&self) -> &'static str {
        match self {
            Self::Kube(KubeError::Api { .. }) => "api",
            Self::Kube(KubeError::Timeout { .. }) => "timeout",
            Self::Nameless => "nameless",
        }
    }
}

/// Entry point of the controller.
pub async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let result = match &object.0 {
        Err(invalid) => unreadable(&context, invalid).await,
        Ok(seen) => fresh(&context, seen).await,
    };
    let word = if result.is_ok() { "ok" } else { "error" };
    context
        .metrics
        .reconciles
        .get_or_create(&Word { value: word })
        .inc();
    context
        .metrics
        .reconcile_duration
        .observe(started.elapsed().as_secs_f64());
    if result.is_ok() {
        if let Some(uid) = object.meta().uid.as_deref() {
            context.remember(uid, |memory| memory.failures = 0);
        }
        #[allow(
            clippy::cast_precision_loss,
            reason = "seconds since 1970 are exact in f64"
        )]
        context
            .metrics
            .last_reconcile
            .set(Timestamp::now().as_second() as f64);
    }
    result
}

/// Back-off after an error: doubled each time, spread by the resource's UID.
pub fn on_error(object: Arc<Guarded>, error: &Error, context: Arc<Context>) -> Action {
    context
        .metrics
        .reconcile_errors
        .get_or_create(&Word {
            value: error.category(),
        })
        .inc();
    let uid = object.meta().uid.clone().unwrap_or_default();
    let mut failures = 0;
    context.remember(&uid, |memory| {
        memory.failures = memory.failures.saturating_add(1);
        failures = memory.failures;
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
    let sum = uid.bytes().fold(0_u32, |sum, b| {
        sum.wrapping_mul(31).wrapping_add(u32::from(b))
    });
    most.mul_f64(f64::from(sum % 1000) / 1000.0)
}

/// An object that does not fit the schema of this release: said so in its status, nothing else.
async fn unreadable(context: &Context, invalid: &InvalidObject) -> Result<Action, Error> {
    let name = invalid.metadata.name.clone().ok_or(Error::Nameless)?;
    let namespace = invalid.metadata.namespace.clone().ok_or(Error::Nameless)?;
    let resource = kube::api::ApiResource::erase::<XmppFederation>(&());
    let api: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), &namespace, &resource);
    let what = || format!("XmppFederation {name} cannot be read");
    let Some(live) = call(what, api.get_opt(&name)).await? else {
        return Ok(Action::await_change());
    };
    let previous: XmppFederationStatus = live
        .data
        .get("status")
        .and_then(|status| serde_json::from_value(status.clone()).ok())
        .unwrap_or_default();
    let findings = Findings {
        stalled: Some((
            Reason::SpecUnreadable.as_str(),
            format!(
                "the object does not fit the schema of this release: {}; correct that field",
                invalid.error
            ),
        )),
        active: true,
        ..Findings::default()
    };
    let generation = live.metadata.generation;
    let conditions = conditions::assemble(
        &previous.conditions,
        generation,
        Timestamp::now(),
        &findings,
    );
    let status = XmppFederationStatus {
        conditions,
        observed_generation: generation,
        ..previous.clone()
    };
    if status != previous {
        write_status(context, &namespace, &name, &status).await?;
    }
    Ok(Action::await_change())
}

/// Reads the object anew, as the watch may lag behind our own writes.
async fn fresh(context: &Context, seen: &XmppFederation) -> Result<Action, Error> {
    let (name, namespace) = (seen.name_any(), seen.namespace().ok_or(Error::Nameless)?);
    let api: Api<XmppFederation> = Api::namespaced(context.client.clone(), &namespace);
    let what = || format!("XmppFederation {name} cannot be read");
    let Some(object) = call(what, api.get_opt(&name)).await? else {
        context.forget(&seen.uid().unwrap_or_default());
        return Ok(Action::await_change());
    };
    let owner = Owner::of(&object).ok_or(Error::Nameless)?;
    context.refers(&namespace, &name, &dereference::secret_names(&object.spec));
    if object.metadata.deletion_timestamp.is_some() {
        return deleted(context, &object, &owner).await;
    }
    if object.spec.paused {
        let previous = object.status.clone().unwrap_or_default();
        let conditions = conditions::paused(
            &previous.conditions,
            object.metadata.generation,
            Timestamp::now(),
        );
        let status = XmppFederationStatus {
            conditions,
            observed_generation: object.metadata.generation,
            ..previous
        };
        finish(context, &object, status, Vec::new()).await?;
        return Ok(Action::await_change());
    }
    work(context, &object, owner).await
}

/// Names that older resources hold; the newcomer waits, so that no running federation is disturbed.
fn claims(context: &Context, object: &XmppFederation) -> Vec<Claim> {
    let age = |o: &XmppFederation| (o.creation_timestamp().map(|t| t.0), o.uid());
    watch::known(context)
        .iter()
        .filter(|other| other.uid() != object.uid() && age(other) < age(object))
        .map(|other| {
            let resource = format!(
                "{}/{}",
                other.namespace().unwrap_or_default(),
                other.name_any()
            );
            validate::claim(resource, &other.spec)
        })
        .collect()
}

fn refused(refusal: Refusal) -> (Reason, String) {
    match refusal {
        Refusal::Invalid(sentences) => (Reason::SpecInvalid, sentences.join("; ")),
        Refusal::UsedTwice(sentence) => (Reason::UsedTwice, sentence),
    }
}

/// Annotation values that were not served yet.
fn asked(object: &XmppFederation) -> Asked {
    let value = |name: &str| object.annotations().get(name).cloned();
    Asked {
        refresh: value(request::REFRESH),
        restart_routers: value(request::RESTART_ROUTERS),
        adopt_rows: value(request::ADOPT_ROWS),
    }
}

fn handled<'a>(status: &'a XmppFederationStatus, annotation: &str) -> Option<&'a str> {
    status
        .handled_requests
        .iter()
        .find(|h| h.annotation == annotation)
        .map(|h| h.value.as_str())
}

fn set_handled(status: &mut XmppFederationStatus, annotation: &str, value: &str) {
    status
        .handled_requests
        .retain(|h| h.annotation != annotation);
    status.handled_requests.push(HandledRequest {
        annotation: annotation.to_owned(),
        value: value.to_owned(),
    });
    status
        .handled_requests
        .sort_by(|a, b| a.annotation.cmp(&b.annotation));
}

async fn stalled(
    context: &Context,
    object: &XmppFederation,
    reason: Reason,
    sentence: String,
) -> Result<(), Error> {
    let previous = object.status.clone().unwrap_or_default();
    let findings = Findings {
        stalled: Some((reason.as_str(), sentence)),
        active: true,
        ..Findings::default()
    };
    let generation = object.metadata.generation;
    let conditions = conditions::assemble(
        &previous.conditions,
        generation,
        Timestamp::now(),
        &findings,
    );
    let status = XmppFederationStatus {
        conditions,
        observed_generation: generation,
        ..previous
    };
    finish(context, object, status, Vec::new()).await
}

/// The five steps.
async fn work(context: &Context, object: &XmppFederation, owner: Owner) -> Result<Action, Error> {
    let now = Timestamp::now();
    let memory = context.recall(&owner.uid);
    let previous = object.status.clone().unwrap_or_default();
    let mut notes = Vec::new();

    let observed = dereference::run(&context.client, &context.edges, &owner, &object.spec).await?;
    let valid = match validate::run(
        owner,
        &object.spec,
        &context.settings,
        &claims(context, object),
    ) {
        Ok(valid) => valid,
        Err(refusal) => {
            let (reason, sentence) = refused(refusal);
            stalled(context, object, reason, sentence).await?;
            // Another resource may go away; a wrong value changes only with the object.
            return Ok(match reason {
                Reason::UsedTwice => Action::requeue(LATER),
                _ => Action::await_change(),
            });
        }
    };
    accepted(context, object, &valid, &memory);
    let rotate = object.annotations().get(request::ROTATE_DIALBACK);
    let rotate =
        rotate.filter(|v| handled(&previous, request::ROTATE_DIALBACK) != Some(v.as_str()));
    let lost = observed.live.dialback.is_none();
    let material = material::run(&valid, &observed, rotate.is_some() && lost, now);
    let known = known(&valid, &observed, &memory);
    let desired = build::all(&valid, &material, &known);

    match apply::run(
        &context.client,
        &context.sent,
        &valid.owner,
        &desired,
        &observed.live,
    )
    .await
    {
        Ok(written) if written.is_empty() => {}
        Ok(written) => tracing::info!(
            namespace = valid.owner.namespace,
            name = valid.owner.name,
            objects = written.join(", "),
            "applied"
        ),
        Err(error) => return not_applied(context, object, error).await,
    }
    let told = apply::tell_pods(
        &context.client,
        &valid.owner,
        &desired.mounted_hash,
        &desired.config_hash,
        &observed.pods,
    )
    .await?;

    let imp = imp(context, object, &valid, &observed, &mut notes).await?;
    let links = match &imp {
        Ok(Looked {
            report: Some(report),
            ..
        }) if !report.nodes.is_empty() => {
            effects::router_addresses(&valid, &report.nodes, &known.links).await
        }
        _ => known.links.clone(),
    };
    let addresses = public_addresses(&valid, &observed);
    let asked = asked(object);
    let records = effects::records(
        &valid,
        addresses.clone(),
        asked.refresh.as_ref(),
        memory.records.clone(),
    )
    .await;

    let (report, again) = match imp {
        Ok(Looked {
            report: Some(report),
            again,
        }) => (Ok(report), again),
        Ok(Looked {
            report: None,
            again,
        }) => {
            return Ok(Action::requeue(again.unwrap_or(Duration::ZERO)));
        }
        Err(sentence) => (Err(sentence), None),
    };
    context.remember(&valid.owner.uid, |memory| {
        if let Ok(report) = &report {
            memory.report = Some(Report {
                events: Vec::new(),
                ..report.clone()
            });
        }
        memory.links = Some(links.clone());
        memory.records = records.as_ref().ok().cloned();
    });

    let found = Found {
        valid: &valid,
        observed: &observed,
        material: &material,
        desired: &desired,
        pods_allowed: known.pods,
        imp: &report,
        records: &records,
        addresses: &addresses,
        now,
    };
    let findings = status::findings(&found);
    let mut next = status::details(&found, &previous);
    if let Some(value) = rotate {
        if !lost {
            notes.push(Note {
                warning: true,
                reason: Reason::SpecInvalid.to_string(),
                message: format!(
                    "{} = {value:?} was not served: rotation of the dialback secret is not available in this release; remove the annotation",
                    request::ROTATE_DIALBACK
                ),
            });
        }
        set_handled(&mut next, request::ROTATE_DIALBACK, value);
    }
    if let Some(value) = &asked.refresh {
        if records.is_ok() && report.is_ok() {
            set_handled(&mut next, request::REFRESH, value);
        }
    }
    next.observed_generation = object.metadata.generation;
    next.conditions = conditions::assemble(
        &previous.conditions,
        object.metadata.generation,
        now,
        &findings,
    );
    metrics(context, &valid, &found);
    let ready = next
        .conditions
        .iter()
        .any(|c| c.type_ == "Ready" && c.status == "True");
    finish(context, object, next, notes).await?;

    // What this reconcile learned changes what is to be built: at once.
    let after = context.recall(&valid.owner.uid);
    if self::known(&valid, &observed, &after) != known {
        return Ok(Action::requeue(Duration::ZERO));
    }
    Ok(Action::requeue(wait(&found, again, ready, told)))
}

/// When to look again.
fn wait(found: &Found<'_>, again: Option<Duration>, ready: bool, told: bool) -> Duration {
    let mut wait = if ready && !told { STEADY } else { LATER };
    let pods_settle = found.observed.pods.len() != usize::from(found.pods_allowed)
        || found.observed.pods.iter().any(|pod| {
            !matches!(&pod.status, Ok(s) if s.config_hash == found.desired.config_hash
                && s.links.iter().all(|l| l.state == xmpp_federation_core::edge_status::LinkState::Up))
                || pod.stopping
        });
    if told || (pods_settle && !ready) {
        wait = SOON;
    }
    if let Some(again) = again {
        wait = wait.min(again.max(Duration::from_millis(100)));
    }
    if let Ok(records) = found.records {
        wait = wait.min(records.due_in().max(SOON));
    }
    if wait == STEADY {
        wait += jitter(&found.valid.owner.uid, Duration::from_secs(3));
    }
    wait
}

/// Logs an accepted generation with the fields that changed.
fn accepted(context: &Context, object: &XmppFederation, valid: &Validated, memory: &Memory) {
    let generation = object.metadata.generation;
    if memory
        .accepted
        .as_ref()
        .is_some_and(|(g, _)| *g == generation)
    {
        return;
    }
    let spec = serde_json::to_value(&object.spec).unwrap_or_default();
    let mut changes = Vec::new();
    match &memory.accepted {
        Some((_, before)) => differences("spec", before, &spec, &mut changes),
        None => changes.push("first look by this operator".to_owned()),
    }
    tracing::info!(
        namespace = valid.owner.namespace,
        name = valid.owner.name,
        generation = generation.unwrap_or_default(),
        changed = changes.join("; "),
        "generation accepted"
    );
    context.remember(&valid.owner.uid, |memory| {
        memory.accepted = Some((generation, spec))
    });
}

/// Fields that differ, in the words of Expressway's change log.
fn differences(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let null = Value::Null;
                let (old, new) = (old.get(key).unwrap_or(&null), new.get(key).unwrap_or(&null));
                differences(&format!("{path}.{key}"), old, new, found);
            }
        }
        (old, new) if old != new => found.push(format!("{path} - changed from: {old} to: {new}")),
        _ => {}
    }
}

/// What earlier looks at the world tell.
fn known(valid: &Validated, observed: &dereference::Observed, memory: &Memory) -> Known {
    let links = memory
        .links
        .clone()
        .unwrap_or_else(|| effects::addresses_written(observed));
    let running = observed
        .live
        .stateful_set
        .as_ref()
        .and_then(|s| s.data.pointer("/spec/replicas"))
        .and_then(Value::as_u64)
        .and_then(|n| u16::try_from(n).ok());
    let slots = memory
        .report
        .as_ref()
        .map(|r| r.slots.as_slice())
        .unwrap_or_default();
    // Without rows there is nothing to be in sync with.
    let pods = if valid.active
        && slots
            .iter()
            .all(|s| s.sync != SlotSync::InSync || s.registered)
    {
        pods_to_run(valid.replicas, slots, running)
    } else {
        valid.replicas
    };
    Known { links, pods }
}

/// One look at IM and Presence.
struct Looked {
    /// Its report; `None`: the finalizer was added first, and the reconcile starts again.
    report: Option<Report>,
    /// When to look again.
    again: Option<Duration>,
}

async fn imp(
    context: &Context,
    object: &XmppFederation,
    valid: &Validated,
    observed: &dereference::Observed,
    notes: &mut Vec<Note>,
) -> Result<Result<Looked, String>, Error> {
    let live_owners = watch::known(context)
        .iter()
        .filter_map(ResourceExt::uid)
        .collect();
    let mut desired = match effects::desired(
        valid,
        &observed.secrets,
        &observed.pods,
        &asked(object),
        live_owners,
    ) {
        Ok(desired) => desired,
        Err(sentence) => return Ok(Err(sentence)),
    };
    // Without the finalizer nothing is written: a deletion would leave rows behind.
    let may_write = delete::has_finalizer(object) || !valid.active;
    desired.maintenance |= !may_write;
    let report = context.imp.reconcile(&desired).await;
    notes.extend(report.events.iter().map(|event| Note {
        warning: event.warning,
        reason: event.reason.to_owned(),
        message: event.message.clone(),
    }));
    if !may_write
        && !valid.imp.spec.maintenance
        && report.axl_authenticated.status == crate::imp::report::Status::True
        && report.table.is_some()
    {
        delete::add_finalizer(&context.client, object).await?;
        return Ok(Ok(Looked {
            report: None,
            again: None,
        }));
    }
    let again = Some(report.requeue_after);
    Ok(Ok(Looked {
        report: Some(report),
        again,
    }))
}

/// Given by hand, or what the Service shows.
fn public_addresses(valid: &Validated, observed: &dereference::Observed) -> Vec<IpAddr> {
    if !valid.public_addresses.is_empty() {
        return valid.public_addresses.clone();
    }
    observed
        .live
        .service
        .as_ref()
        .and_then(|s| s.data.pointer("/status/loadBalancer/ingress"))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|ingress| ingress.get("ip")?.as_str()?.parse().ok())
        .collect()
}

async fn not_applied(
    context: &Context,
    object: &XmppFederation,
    error: ApplyError,
) -> Result<Action, Error> {
    let (reason, wait) = match &error {
        ApplyError::Foreign { .. } => (Reason::ForeignObject, LATER),
        ApplyError::Former { .. } => (Reason::FormerObject, SOON),
        // A value that only the API server can judge, such as a pod's affinity.
        ApplyError::Kube(kube) if matches!(kube.code(), Some(400 | 403 | 422)) => {
            (Reason::ApiRefused, Duration::from_secs(60))
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
    stalled(context, object, reason, sentence).await?;
    Ok(Action::requeue(wait))
}

/// Writes the status if it differs, and tells what changed.
async fn finish(
    context: &Context,
    object: &XmppFederation,
    status: XmppFederationStatus,
    mut notes: Vec<Note>,
) -> Result<(), Error> {
    let previous = object.status.clone().unwrap_or_default();
    if status != previous {
        let namespace = object.namespace().unwrap_or_default();
        write_status(context, &namespace, &object.name_any(), &status).await?;
        notes.extend(events::changes(&previous.conditions, &status.conditions));
    }
    events::publish(&context.client, object, &context.instance, &notes).await;
    Ok(())
}

async fn write_status(
    context: &Context,
    namespace: &str,
    name: &str,
    status: &XmppFederationStatus,
) -> Result<(), Error> {
    let api: Api<XmppFederation> = Api::namespaced(context.client.clone(), namespace);
    let body = json!({
        "apiVersion": XmppFederation::api_version(&()),
        "kind": XmppFederation::kind(&()),
        "metadata": {"name": name},
        "status": status,
    });
    let params = PatchParams::apply(STATUS_MANAGER).force();
    let what = || format!("the status of XmppFederation {name} cannot be written");
    match call(what, api.patch_status(name, &params, &Patch::Apply(&body))).await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(404) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn metrics(context: &Context, valid: &Validated, found: &Found<'_>) {
    let label = ResourceLabel {
        namespace: valid.owner.namespace.clone(),
        name: valid.owner.name.clone(),
    };
    if let Ok(info) = found
        .material
        .certificate
        .as_ref()
        .map_err(String::clone)
        .and_then(|c| c.inspect())
    {
        context
            .metrics
            .certificate_not_after
            .get_or_create(&label)
            .set(info.not_after.as_second());
    }
    if let Ok(records) = found.records {
        let verified = records
            .found
            .iter()
            .filter(|r| r.state == crate::records::RecordState::Verified)
            .count();
        context
            .metrics
            .srv_record_ready
            .get_or_create(&label)
            .set(i64::try_from(verified).unwrap_or(i64::MAX));
    }
}

/// The resource is going.
async fn deleted(
    context: &Context,
    object: &XmppFederation,
    owner: &Owner,
) -> Result<Action, Error> {
    let now = Timestamp::now();
    let mut notes = Vec::new();
    let mut again = LATER;
    let mut step = delete::plan(object, now);
    if step == Step::Remove {
        let outcome = remove(context, object, owner).await?;
        if let Ok(removal) = &outcome {
            notes.extend(removal.events.iter().map(|event| Note {
                warning: event.warning,
                reason: event.reason.to_owned(),
                message: event.message.clone(),
            }));
            again = removal.requeue_after.max(Duration::from_millis(100));
        }
        step = delete::after(object, &outcome, now);
    }
    match step {
        Step::Release => {
            events::publish(&context.client, object, &context.instance, &notes).await;
            delete::release(&context.client, object).await?;
            context.forget(&owner.uid);
            context.sent.forget(owner);
            tracing::info!(namespace = owner.namespace, name = owner.name, "released");
            Ok(Action::await_change())
        }
        Step::GiveUp(sentence) => {
            tracing::warn!(
                namespace = owner.namespace,
                name = owner.name,
                sentence,
                "deletion gives up rows"
            );
            context.metrics.abandoned_rows.inc();
            notes.push(Note {
                warning: true,
                reason: "RowsAbandoned".to_owned(),
                message: sentence,
            });
            events::publish(&context.client, object, &context.instance, &notes).await;
            delete::release(&context.client, object).await?;
            context.forget(&owner.uid);
            context.sent.forget(owner);
            Ok(Action::await_change())
        }
        Step::Remove => Ok(Action::requeue(again)),
        Step::Wait(sentence) => {
            let previous = object.status.clone().unwrap_or_default();
            let findings = Findings {
                reconciling: Some((Reason::Deleting.as_str(), sentence)),
                active: true,
                ..Findings::default()
            };
            let generation = object.metadata.generation;
            let conditions = conditions::assemble(&previous.conditions, generation, now, &findings);
            let status = XmppFederationStatus {
                conditions,
                observed_generation: generation,
                ..previous
            };
            finish(context, object, status, notes).await?;
            Ok(Action::requeue(again))
        }
    }
}

/// One step of removing rows, or why it cannot be tried.
async fn remove(
    context: &Context,
    object: &XmppFederation,
    owner: &Owner,
) -> Result<Result<crate::imp::report::Removal, String>, Error> {
    let secrets = dereference::secrets(&context.client, owner, &object.spec).await?;
    let valid = match validate::run(owner.clone(), &object.spec, &context.settings, &[]) {
        Ok(valid) => valid,
        Err(refusal) => return Ok(Err(refused(refusal).1)),
    };
    let live_owners = watch::known(context)
        .iter()
        .filter_map(ResourceExt::uid)
        .collect();
    Ok(
        match effects::desired(&valid, &secrets, &[], &Asked::default(), live_owners) {
            Ok(desired) => Ok(context.imp.remove(&desired).await),
            Err(sentence) => Err(sentence),
        },
    )
}
