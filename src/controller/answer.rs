//! What is written back: status, events, metrics.

use jiff::Timestamp;
use kube::Resource;
use kube::api::{ObjectMeta, Patch, PatchParams};
use serde_json::json;

use super::build::chains::ChainField;
use super::environment::Environment;
use super::events::{self, Note};
use super::kube::{call, resource_api};
use super::names::Owner;
use super::outcome::{Error, Next};
use super::requests::ServedRequests;
use super::status::Inputs;
use super::validate::Refusal;
use crate::api::conditions::{self, Findings};
use crate::api::reasons::Reason;
use crate::api::status::{OWN_AUTHORITY, XmppFederationStatus};
use crate::api::{STATUS_MANAGER, XmppFederation};
use crate::runtime::metrics::Resource as ResourceLabel;

/// Writes the status if it differs, and tells what changed.
pub async fn finish(
    env: &Environment,
    object: &XmppFederation,
    status: XmppFederationStatus,
    mut notes: Vec<Note>,
) -> Result<(), Error> {
    let none = XmppFederationStatus::default();
    let previous = object.status.as_ref().unwrap_or(&none);
    let status = status.bounded();
    let now = Timestamp::now();
    let mut written = Ok(());
    if status != *previous {
        written = write_status(env, &object.metadata, &status).await;
        if written.is_ok() {
            notes.extend(events::changes(&previous.conditions, &status.conditions, now));
        }
    }
    if let Some(owner) = Owner::of(object) {
        let value = |name: &'static str| {
            let condition = conditions::find(&status.conditions, name);
            let value = condition.map(|condition| match condition.status.as_str() {
                "True" => 1,
                "False" => 0,
                _ => -1,
            });
            (name, value)
        };
        env.metrics.conditions(&label(&owner), conditions::SUMMARY.map(value));
    }
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    let overdue = env.events.overdue(uid, &status.conditions, now).into_iter();
    notes.extend(overdue.filter(|note| !notes.contains(note)).collect::<Vec<_>>());
    // What was done is told also where the status cannot be written.
    env.events.publish(object, &notes).await;
    written
}

/// Writes the status of an object that may not fit the schema of this release.
pub async fn write_status(env: &Environment, of: &ObjectMeta, status: &XmppFederationStatus) -> Result<(), Error> {
    let (namespace, name) = (
        of.namespace.clone().unwrap_or_default(),
        of.name.clone().unwrap_or_default(),
    );
    let (namespace, name) = (namespace.as_str(), name.as_str());
    let api = resource_api(&env.client, namespace);
    let body = json!({
        "apiVersion": XmppFederation::api_version(&()),
        "kind": XmppFederation::kind(&()),
        // Not into another object of that name, nor over what somebody else has written since.
        "metadata": {"name": name, "uid": of.uid, "resourceVersion": of.resource_version},
        "status": status,
    });
    let params = PatchParams::apply(STATUS_MANAGER).force();
    let what = || format!("the status of XmppFederation {name} cannot be written");
    let lists = env.snapshots.resources.lists();
    match call(what, api.patch_status(name, &params, &Patch::Apply(&body))).await {
        Ok(answer) => {
            env.snapshots.resource_answered(answer, lists);
            Ok(())
        }
        Err(error) if error.code() == Some(404) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Says that nothing moves until a person acts.
pub async fn stalled(
    env: &Environment,
    object: &XmppFederation,
    reason: Reason,
    sentence: String,
) -> Result<(), Error> {
    let previous = object.status.clone().unwrap_or_default();
    let findings = Findings {
        stalled: Some((reason, sentence)),
        active: true,
        ..Findings::default()
    };
    let generation = object.metadata.generation;
    let conditions = conditions::assemble(&previous.conditions, generation, Timestamp::now(), &findings);
    let status = XmppFederationStatus {
        conditions,
        observed_generation: generation,
        ..previous
    };
    finish(env, object, status, Vec::new()).await
}

/// A spec that cannot be taken. Another resource may go away; a wrong value changes only with the object.
pub async fn refused(env: &Environment, object: &XmppFederation, refusal: Refusal) -> Result<Next, Error> {
    let (reason, next) = match &refusal {
        Refusal::Invalid(_) => (Reason::SpecInvalid, Next::OnChange),
        Refusal::UsedTwice(_) => (Reason::UsedTwice, Next::Retry),
    };
    stalled(env, object, reason, refusal.to_string()).await?;
    Ok(next)
}

/// A Secret or a ConfigMap that the API server refuses; it is tried again, and the resource is woken then.
pub async fn not_fetched(env: &Environment, object: &XmppFederation, sentence: String) -> Result<Next, Error> {
    stalled(env, object, Reason::ApiRefused, sentence).await?;
    Ok(Next::OnChange)
}

/// Nothing is done while `spec.paused` is true. The generation observed last stays the one that was worked on: Ready
/// says nothing of a later one.
pub async fn paused(env: &Environment, object: &XmppFederation) -> Result<Next, Error> {
    let previous = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation;
    let own = previous
        .certificate
        .as_ref()
        .filter(|shown| shown.source == OWN_AUTHORITY);
    let ends = own.map(|shown| shown.not_after.as_str());
    let conditions = conditions::paused(&previous.conditions, ends, generation, Timestamp::now());
    let status = XmppFederationStatus { conditions, ..previous };
    finish(env, object, status, Vec::new()).await?;
    Ok(Next::OnChange)
}

/// Tells that the own authority issued a certificate.
pub fn issued(owner: &Owner, why: &str) -> Note {
    let secret = owner.certificate();
    tracing::info!(
        namespace = owner.namespace,
        name = owner.name,
        secret,
        why,
        "a certificate is issued"
    );
    Note {
        warning: false,
        reason: Reason::CertificateIssued.to_string(),
        message: format!("The certificate in Secret {secret} is issued by the own authority, because {why}"),
    }
}

/// Writes status and events of a reconcile that came to its end.
pub async fn conclude(
    env: &Environment,
    object: &XmppFederation,
    inputs: &Inputs<'_>,
    served: &ServedRequests<'_>,
    mut next: XmppFederationStatus,
) -> Result<(), Error> {
    let mut notes = inputs.effects.notes.clone();
    notes.extend(served.note(object, &mut next));
    metrics(env, inputs);
    finish(env, object, next, notes).await
}

fn label(owner: &Owner) -> ResourceLabel {
    ResourceLabel {
        namespace: owner.namespace.clone(),
        name: owner.name.clone(),
    }
}

/// Figures of one resource.
fn metrics(env: &Environment, inputs: &Inputs<'_>) {
    let label = label(&inputs.valid.owner);
    for field in ChainField::ALL {
        let chain = inputs.material.chains.iter().find(|chain| chain.field == field);
        let end = chain.and_then(|chain| Some(chain.found.as_ref().ok()?.not_after.as_second()));
        env.metrics.certificate_ends(&label, field.as_str(), end);
    }
    let records = inputs.effects.records.found.iter();
    let verified = records
        .filter(|r| r.state == crate::records::RecordState::Verified)
        .count();
    env.metrics
        .srv_record_ready
        .get_or_create(&label)
        .set(i64::try_from(verified).unwrap_or(i64::MAX));
}
