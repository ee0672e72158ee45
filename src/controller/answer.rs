//! What is written back: status, events, metrics.

use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::build::material::Certificate;
use super::environment::Environment;
use super::events::{self, Note};
use super::kube::call;
use super::outcome::Error;
use super::status::Found;
use crate::api::conditions::{self, Findings};
use crate::api::reasons::Reason;
use crate::api::status::XmppFederationStatus;
use crate::api::{STATUS_MANAGER, XmppFederation};
use crate::runtime::metrics::Resource as ResourceLabel;

/// Writes the status if it differs, and tells what changed.
pub async fn finish(
    env: &Environment,
    object: &XmppFederation,
    status: XmppFederationStatus,
    mut notes: Vec<Note>,
) -> Result<(), Error> {
    let previous = object.status.clone().unwrap_or_default();
    if status != previous {
        let namespace = object.namespace().unwrap_or_default();
        write_status(env, &namespace, &object.name_any(), &status).await?;
        notes.extend(events::changes(&previous.conditions, &status.conditions));
    }
    events::publish(&env.client, object, &env.instance, &notes).await;
    Ok(())
}

/// Writes the status of an object that may not fit the schema of this release.
pub async fn write_status(
    env: &Environment,
    namespace: &str,
    name: &str,
    status: &XmppFederationStatus,
) -> Result<(), Error> {
    let api: Api<XmppFederation> = Api::namespaced(env.client.clone(), namespace);
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

/// Figures of one resource.
pub fn metrics(env: &Environment, found: &Found<'_>) {
    let label = ResourceLabel {
        namespace: found.valid.owner.namespace.clone(),
        name: found.valid.owner.name.clone(),
    };
    if let Ok(info) = found
        .material
        .certificate
        .as_ref()
        .map_err(String::clone)
        .and_then(Certificate::inspect)
    {
        env.metrics
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
        env.metrics
            .srv_record_ready
            .get_or_create(&label)
            .set(i64::try_from(verified).unwrap_or(i64::MAX));
    }
}
