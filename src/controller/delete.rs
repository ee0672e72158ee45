//! Deletion: our rows leave IM and Presence, no router is restarted, and nothing can hold the
//! resource for ever.

use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::kube::{Error, call};
use crate::api::spec::OnDelete;
use crate::api::{FINALIZER, XmppFederation, request};
use crate::imp::report::Removal;

/// What a deletion does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The finalizer goes: nothing of ours is left, or what is left is wanted so.
    Release,
    /// The finalizer goes although rows may be left; the sentence names them.
    GiveUp(String),
    /// Rows are removed.
    Remove,
    /// Nothing may be done now (paused); the sentence says until when.
    Wait(String),
}

/// Decides before anything is tried. Pure.
pub fn plan(object: &XmppFederation, now: Timestamp) -> Step {
    let Some(imp) = object.spec.imp.first() else {
        return Step::Release;
    };
    if !has_finalizer(object) || imp.on_delete == OnDelete::Retain {
        return Step::Release;
    }
    if object.annotations().contains_key(request::ABANDON_ROWS) {
        return Step::GiveUp(left_behind(
            object,
            &format!("the annotation {} asks for it", request::ABANDON_ROWS),
        ));
    }
    if object.spec.paused || imp.maintenance {
        let which = if object.spec.paused {
            "spec.paused"
        } else {
            "spec.imp[].maintenance"
        };
        if timed_out(object, now) {
            return Step::GiveUp(left_behind(
                object,
                &format!("{which} was true for all of deletionTimeout"),
            ));
        }
        return Step::Wait(format!(
            "{which} is true, so no row is removed; set it to false, or give the rows up by the annotation {}",
            request::ABANDON_ROWS
        ));
    }
    Step::Remove
}

/// Decides after a removal was tried and is not done. Pure.
pub fn after(object: &XmppFederation, outcome: &Result<Removal, String>, now: Timestamp) -> Step {
    match outcome {
        Ok(removal) if removal.done => Step::Release,
        _ if timed_out(object, now) => {
            let why = match outcome {
                Ok(removal) => removal.message.clone(),
                Err(sentence) => sentence.clone(),
            };
            let rows = match outcome {
                Ok(removal) if !removal.rows_left.is_empty() => {
                    format!(
                        "rows of ours may be left; remove them on the publisher: {}",
                        removal.rows_left.join("; ")
                    )
                }
                _ => return Step::GiveUp(left_behind(object, &why)),
            };
            Step::GiveUp(format!("{why}; {rows}"))
        }
        Ok(removal) => Step::Wait(removal.message.clone()),
        Err(sentence) => Step::Wait(format!(
            "rows cannot be removed: {sentence}; this is tried again until deletionTimeout, or until the annotation {} gives them up",
            request::ABANDON_ROWS
        )),
    }
}

/// Whether rows may exist.
pub fn has_finalizer(object: &XmppFederation) -> bool {
    object.finalizers().iter().any(|f| f == FINALIZER)
}

fn timed_out(object: &XmppFederation, now: Timestamp) -> bool {
    let timeout = object
        .spec
        .imp
        .first()
        .map_or(Duration::ZERO, |imp| imp.deletion_timeout.get());
    object
        .metadata
        .deletion_timestamp
        .as_ref()
        .is_some_and(|since| {
            Duration::try_from(now.duration_since(since.0)).is_ok_and(|elapsed| elapsed >= timeout)
        })
}

/// Names the rows of the last status with the SQL that removes them.
fn left_behind(object: &XmppFederation, why: &str) -> String {
    let Some(imp) = object.status.as_ref().and_then(|s| s.imp.first()) else {
        return format!("gave up: {why}; no row of ours is known");
    };
    if imp.registrations.is_empty() {
        return format!("gave up: {why}; no row of ours is known");
    }
    let table = imp.table.as_deref().unwrap_or("xmpps2snodes");
    let rows: Vec<String> = imp
        .registrations
        .iter()
        .map(|row| format!("run sql delete from {table} where pkid = '{}'", row.pkid))
        .collect();
    let ids: Vec<&str> = imp
        .registrations
        .iter()
        .map(|r| r.component_id.as_str())
        .collect();
    format!(
        "gave up: {why}; rows of {} may be left; on the IM and Presence publisher: {}",
        ids.join(", "),
        rows.join("; ")
    )
}

/// Adds the finalizer, right before the first write to IM and Presence.
pub async fn add_finalizer(client: &Client, object: &XmppFederation) -> Result<(), Error> {
    let mut finalizers = object.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    set(client, object, &finalizers).await
}

/// Removes it.
pub async fn release(client: &Client, object: &XmppFederation) -> Result<(), Error> {
    if !has_finalizer(object) {
        return Ok(());
    }
    let finalizers: Vec<String> = object
        .finalizers()
        .iter()
        .filter(|f| *f != FINALIZER)
        .cloned()
        .collect();
    set(client, object, &finalizers).await
}

/// Replaces the list, on exactly the version that was read.
async fn set(client: &Client, object: &XmppFederation, finalizers: &[String]) -> Result<(), Error> {
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<XmppFederation> = Api::namespaced(client.clone(), &namespace);
    let patch = json!({"metadata": {
        "resourceVersion": object.resource_version(),
        "finalizers": finalizers,
    }});
    let name = object.name_any();
    let what = || format!("the finalizers of {name} cannot be changed");
    match call(
        what,
        api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)),
    )
    .await
    {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(404) => Ok(()),
        Err(error) => Err(error),
    }
}
