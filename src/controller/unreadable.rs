//! An object that does not fit the schema of this release, as one that a later release stored.

use jiff::Timestamp;
use kube::api::{Api, DynamicObject};
use kube::core::error_boundary::InvalidObject;

use super::environment::Environment;
use super::kube::call;
use super::outcome::{Error, Next};
use super::{answer, delete};
use crate::api::conditions::{self, Findings};
use crate::api::reasons::Reason;
use crate::api::status::XmppFederationStatus;
use crate::api::{XmppFederation, XmppFederationSpec};

/// Says so in its status, and does nothing else.
pub async fn run(env: &Environment, invalid: &InvalidObject) -> Result<Next, Error> {
    let name = invalid.metadata.name.clone().ok_or(Error::Nameless)?;
    let namespace = invalid.metadata.namespace.clone().ok_or(Error::Nameless)?;
    let resource = kube::api::ApiResource::erase::<XmppFederation>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(env.client.clone(), &namespace, &resource);
    let what = || format!("XmppFederation {name} cannot be read");
    let Some(live) = call(what, api.get_opt(&name)).await? else {
        return Ok(Next::OnChange);
    };
    let previous: XmppFederationStatus = live
        .data
        .get("status")
        .and_then(|status| serde_json::from_value(status.clone()).ok())
        .unwrap_or_default();
    if live.metadata.deletion_timestamp.is_some() {
        return delete::unreadable(env, &live, &previous).await;
    }
    let findings = Findings {
        stalled: Some((
            Reason::SpecUnreadable,
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
        answer::write_status(env, &namespace, &name, &status).await?;
    }
    Ok(Next::OnChange)
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
