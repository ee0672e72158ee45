//! Deletion: our rows leave IM and Presence, no router is restarted, and nothing can hold the
//! resource for ever.

use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::{Client, ResourceExt};
use serde_json::json;

use super::context::Context;
use super::effects::{self, Asked};
use super::events::{self, Note};
use super::kube::{Error, call};
use super::names::Owner;
use super::{answer, dereference, reconcile, validate, watch};
use crate::api::conditions::{self, Findings};
use crate::api::reasons::Reason;
use crate::api::spec::OnDelete;
use crate::api::status::XmppFederationStatus;
use crate::api::{FINALIZER, XmppFederation, request};
use crate::imp::report::Removal;

/// A removal that failed is tried again after this.
const RETRY: Duration = Duration::from_secs(5);

/// An object that cannot be read says no deletionTimeout; this is its default.
const UNREADABLE_TIMEOUT: Duration = Duration::from_mins(10);

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
            object.status.as_ref(),
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
                object.status.as_ref(),
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
                _ => return Step::GiveUp(left_behind(object.status.as_ref(), &why)),
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
fn left_behind(status: Option<&XmppFederationStatus>, why: &str) -> String {
    let Some(imp) = status.and_then(|s| s.imp.first()) else {
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
    set_without_ours(client, object).await
}

async fn set_without_ours(client: &Client, object: &impl ResourceExt) -> Result<(), Error> {
    let others = object.finalizers().iter().filter(|f| *f != FINALIZER);
    set(client, object, &others.cloned().collect::<Vec<_>>()).await
}

/// Replaces the list, on exactly the version that was read.
async fn set(
    client: &Client,
    object: &impl ResourceExt,
    finalizers: &[String],
) -> Result<(), Error> {
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<XmppFederation> = Api::namespaced(client.clone(), &namespace);
    let patch = json!({"metadata": {
        "resourceVersion": object.resource_version(),
        "finalizers": finalizers,
    }});
    let name = object.name_any();
    let what = || format!("the finalizers of {name} cannot be changed");
    // Metadata alone comes back, so that an object that this release cannot read is no obstacle.
    let params = PatchParams::default();
    match call(
        what,
        api.patch_metadata(&name, &params, &Patch::Merge(&patch)),
    )
    .await
    {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(404) => Ok(()),
        Err(error) => Err(error),
    }
}

/// An object that this release cannot read is going: its rows cannot be removed, and it cannot
/// be held for ever either.
pub async fn unreadable(
    context: &Context,
    object: &DynamicObject,
    status: &XmppFederationStatus,
) -> Result<Action, reconcile::Error> {
    if !object.finalizers().iter().any(|f| f == FINALIZER) {
        return Ok(Action::await_change());
    }
    let waited = object
        .metadata
        .deletion_timestamp
        .as_ref()
        .is_some_and(|since| {
            let elapsed = Duration::try_from(Timestamp::now().duration_since(since.0));
            elapsed.is_ok_and(|elapsed| elapsed >= UNREADABLE_TIMEOUT)
        });
    if !waited && !object.annotations().contains_key(request::ABANDON_ROWS) {
        return Ok(Action::requeue(RETRY));
    }
    let sentence = left_behind(
        Some(status),
        "the object does not fit the schema of this release",
    );
    tracing::warn!(name = object.name_any(), sentence, "deletion gives up rows");
    context.metrics.abandoned_rows.inc();
    set_without_ours(&context.client, object).await?;
    Ok(Action::await_change())
}

/// The resource is going: one step.
pub async fn run(
    context: &Context,
    object: &XmppFederation,
    owner: &Owner,
) -> Result<Action, reconcile::Error> {
    let now = Timestamp::now();
    let mut notes = Vec::new();
    let mut again = RETRY;
    let mut step = plan(object, now);
    if step == Step::Remove {
        let sentence = "rows are being removed from IM and Presence";
        answer_deleting(context, object, sentence.to_owned(), now).await?;
        let outcome = remove(context, object, owner).await?;
        if let Ok(removal) = &outcome {
            notes.extend(removal.events.iter().map(Note::of));
            again = removal.requeue_after.max(Duration::from_millis(100));
        }
        step = after(object, &outcome, now);
    }
    match step {
        Step::Release => {}
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
        }
        Step::Remove => return Ok(Action::requeue(again)),
        Step::Wait(sentence) => {
            events::publish(&context.client, object, &context.instance, &notes).await;
            answer_deleting(context, object, sentence, now).await?;
            return Ok(Action::requeue(again));
        }
    }
    events::publish(&context.client, object, &context.instance, &notes).await;
    release(&context.client, object).await?;
    context.forget(&owner.uid);
    context.sent.forget(owner);
    tracing::info!(namespace = owner.namespace, name = owner.name, "released");
    Ok(Action::await_change())
}

/// Says in the status what the deletion waits for, unless it says so already.
async fn answer_deleting(
    context: &Context,
    object: &XmppFederation,
    sentence: String,
    now: Timestamp,
) -> Result<(), reconcile::Error> {
    let previous = object.status.clone().unwrap_or_default();
    let waits = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
        c.type_ == "Reconciling" && c.reason == Reason::Deleting.as_str()
    };
    // The first step announces itself; later ones replace it only when they have more to say.
    let announced = previous.conditions.iter().any(waits);
    if announced && sentence.starts_with("rows are being removed") {
        return Ok(());
    }
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
    answer::finish(context, object, status, Vec::new()).await
}

/// One step of removing rows, or why it cannot be tried.
async fn remove(
    context: &Context,
    object: &XmppFederation,
    owner: &Owner,
) -> Result<Result<Removal, String>, reconcile::Error> {
    let secrets = dereference::secrets(&context.client, owner, &object.spec).await?;
    let valid = match validate::run(owner.clone(), &object.spec, &context.settings, &[]) {
        Ok(valid) => valid,
        Err(refusal) => return Ok(Err(reconcile::refused(refusal).1)),
    };
    let live = watch::known(context)
        .iter()
        .filter_map(ResourceExt::uid)
        .collect();
    Ok(
        match effects::desired(&valid, &secrets, &[], &Asked::default(), live) {
            Ok(desired) => Ok(context.imp.remove(&desired).await),
            Err(sentence) => Err(sentence),
        },
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::super::testing::spec_with;
    use super::*;
    use crate::api::status::{ImpStatus, RegistrationStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    /// A resource whose deletion was asked for so long ago, with one row in its status.
    fn object(path: &str, value: Value, since: i64) -> XmppFederation {
        let mut object = XmppFederation::new("coluc", spec_with(path, value));
        object.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        let asked = Timestamp::from_second(1_700_000_000 - since).unwrap();
        object.metadata.deletion_timestamp = Some(Time(asked));
        object.status = Some(XmppFederationStatus {
            imp: vec![ImpStatus {
                name: "main".to_owned(),
                registrations: vec![RegistrationStatus {
                    component_id: "cm-2_s2scp-1.eft-xwye-a-coluc-com".to_owned(),
                    pkid: "055c13d9-943d-459d-a3c6-af1d1176936d".to_owned(),
                }],
                ..ImpStatus::default()
            }],
            ..XmppFederationStatus::default()
        });
        object
    }

    fn kind(step: &Step) -> &'static str {
        match step {
            Step::Release => "release",
            Step::GiveUp(_) => "give up",
            Step::Remove => "remove",
            Step::Wait(_) => "wait",
        }
    }

    #[rstest]
    #[case("", Value::Null, 0, "remove")]
    #[case("", Value::Null, 10_000, "remove")]
    #[case("/imp/0/onDelete", json!("Retain"), 0, "release")]
    #[case("/paused", json!(true), 0, "wait")]
    #[case("/paused", json!(true), 600, "give up")]
    #[case("/imp/0/maintenance", json!(true), 599, "wait")]
    #[case("/imp/0/maintenance", json!(true), 600, "give up")]
    fn a_deletion_begins_with(
        #[case] path: &str,
        #[case] value: Value,
        #[case] since: i64,
        #[case] expected: &str,
    ) {
        assert_eq!(kind(&plan(&object(path, value, since), now())), expected);
    }

    #[test]
    fn the_annotation_gives_up_at_once_naming_the_rows_and_their_sql() {
        let mut object = object("", Value::Null, 0);
        object
            .annotations_mut()
            .insert(request::ABANDON_ROWS.to_owned(), "yes".to_owned());
        let Step::GiveUp(sentence) = plan(&object, now()) else {
            panic!("did not give up")
        };
        assert!(
            sentence.contains("cm-2_s2scp-1.eft-xwye-a-coluc-com"),
            "{sentence}"
        );
        assert!(
            sentence.contains("run sql delete from xmpps2snodes where pkid = '055c13d9-943d-459d-a3c6-af1d1176936d'"),
            "{sentence}"
        );
    }

    #[rstest]
    #[case(true, 10_000, "release")]
    #[case(false, 599, "wait")]
    #[case(false, 600, "give up")]
    fn a_removal_is_tried_until_it_is_done_or_the_time_is_over(
        #[case] done: bool,
        #[case] since: i64,
        #[case] expected: &str,
    ) {
        let outcome = Ok(Removal {
            done,
            message: "no answer".to_owned(),
            rows_left: Vec::new(),
            events: Vec::new(),
            requeue_after: Duration::ZERO,
        });
        assert_eq!(
            kind(&after(&object("", Value::Null, since), &outcome, now())),
            expected
        );
    }

    #[rstest]
    #[case(0, "wait")]
    #[case(600, "give up")]
    fn a_secret_that_is_gone_already_holds_nothing_for_ever(
        #[case] since: i64,
        #[case] expected: &str,
    ) {
        let outcome = Err("Secret cups-axl does not exist".to_owned());
        assert_eq!(
            kind(&after(&object("", Value::Null, since), &outcome, now())),
            expected
        );
    }

    #[test]
    fn without_the_finalizer_nothing_can_be_left() {
        let mut object = object("", Value::Null, 0);
        object.metadata.finalizers = None;
        assert_eq!(plan(&object, now()), Step::Release);
    }
}
