//! An object that does not fit the schema of this release, as one that a later release stored.

use jiff::Timestamp;
use kube::api::DynamicObject;

use super::environment::Environment;
use super::outcome::{Error, Next};
use super::{answer, delete};
use crate::api::XmppFederationSpec;
use crate::api::conditions::{self, Findings};
use crate::api::reasons::Reason;
use crate::api::status::XmppFederationStatus;

/// Says so in its status, and does nothing else.
pub async fn run(env: &Environment, live: &DynamicObject) -> Result<Next, Error> {
    let previous: XmppFederationStatus = live
        .data
        .get("status")
        .and_then(|status| serde_json::from_value(status.clone()).ok())
        .unwrap_or_default();
    if live.metadata.deletion_timestamp.is_some() {
        return delete::unreadable(env, live, &previous).await;
    }
    let findings = Findings {
        stalled: Some((
            Reason::SpecUnreadable,
            format!(
                "the object does not fit the schema of this release: {}; correct that field",
                misfit(live)
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
        answer::write_status(env, &live.metadata, &status).await?;
    }
    Ok(Next::OnChange)
}

/// What does not fit, with the field's path.
fn misfit(live: &DynamicObject) -> String {
    let spec = live.data.get("spec").cloned().unwrap_or_default();
    let read: Result<XmppFederationSpec, _> = serde_path_to_error::deserialize(spec);
    match read {
        Err(error) if error.path().iter().next().is_some() => {
            format!("spec.{}: {}", error.path(), error.inner())
        }
        Err(error) => format!("spec: {}", error.inner()),
        Ok(_) => "its metadata or status".to_owned(),
    }
}
