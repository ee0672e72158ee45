//! What is written back: status, events, metrics.

use jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::build::material::Certificate;
use super::context::Context;
use super::delete;
use super::events::{self, Note};
use super::kube::call;
use super::reconcile::Error;
use super::status::Found;
use crate::api::conditions::{self, Findings};
use crate::api::reasons::Reason;
use crate::api::status::XmppFederationStatus;
use crate::api::{STATUS_MANAGER, XmppFederation, XmppFederationSpec};
use crate::runtime::metrics::Resource as ResourceLabel;

/// Writes the status if it differs, and tells what changed.
pub async fn finish(
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

/// Says that nothing moves until a person acts.
pub async fn stalled(
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
    let conditions = conditions::assemble(&previous.conditions, generation, Timestamp::now(), &findings);
    let status = XmppFederationStatus {
        conditions,
        observed_generation: generation,
        ..previous
    };
    finish(context, object, status, Vec::new()).await
}

/// An object that does not fit the schema of this release: said so in its status, nothing else.
pub async fn unreadable(context: &Context, invalid: &InvalidObject) -> Result<Action, Error> {
    let name = invalid.metadata.name.clone().ok_or(Error::Nameless)?;
    let namespace = invalid.metadata.namespace.clone().ok_or(Error::Nameless)?;
    let resource = kube::api::ApiResource::erase::<XmppFederation>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &namespace, &resource);
    let what = || format!("XmppFederation {name} cannot be read");
    let Some(live) = call(what, api.get_opt(&name)).await? else {
        return Ok(Action::await_change());
    };
    let previous: XmppFederationStatus = live
        .data
        .get("status")
        .and_then(|status| serde_json::from_value(status.clone()).ok())
        .unwrap_or_default();
    if live.metadata.deletion_timestamp.is_some() {
        return delete::unreadable(context, &live, &previous).await;
    }
    let findings = Findings {
        stalled: Some((
            Reason::SpecUnreadable.as_str(),
            format!(
                "the object does not fit the schema of this release: {}; correct that field",
                misfit(&live, invalid)
            ),
        )),
        active: true,
        ..Findings::default()
    };
    let generation = live.metadata.generation;
    let conditions = conditions::assemble(&previous.conditions, generation, Timestamp::now(), &findings);
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

/// What does not fit, with the field's path; the watch tells the reason only.
fn misfit(live: &DynamicObject, invalid: &InvalidObject) -> String {
    let spec = live.data.get("spec").cloned().unwrap_or_default();
    let read: Result<XmppFederationSpec, _> = serde_path_to_error::deserialize(spec);
    match read {
        Err(error) if error.path().iter().next().is_some() => {
            format!("spec.{}: {}", error.path(), error.inner())
        }
        Err(error) => format!("spec: {}", error.inner()),
        // It fits by now, or something besides the spec does not.
        Ok(_) => invalid.error.clone(),
    }
}

/// Figures of one resource.
pub fn metrics(context: &Context, found: &Found<'_>) {
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
