//! Deletion: our rows leave IM and Presence, no router is restarted, and nothing can hold the
//! resource for ever.

use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::{Client, ResourceExt};
use serde_json::json;

use super::context::Context;
use super::effects::{self, Asked, Resource, farewell};
use super::events::{self, Note};
use super::kube::{Error, call};
use super::left::Former;
use super::names::Owner;
use super::{answer, dereference, reconcile, validate, watch};
use crate::api::conditions::{self, Findings};
use crate::api::reasons::Reason;
use crate::api::spec::{ImpSpec, OnDelete};
use crate::api::status::{ImpStatus, XmppFederationStatus};
use crate::api::{FINALIZER, XmppFederation, request};
use crate::imp::desired::{Desired, Place};
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

/// Decides for one cluster before anything is tried. Pure.
pub fn plan(object: &XmppFederation, imp: &ImpSpec, now: Timestamp) -> Step {
    if !has_finalizer(object) || imp.on_delete == OnDelete::Retain {
        return Step::Release;
    }
    if abandons(object) {
        return Step::GiveUp(left_behind(
            object.status.as_ref(),
            &imp.name,
            &format!("the annotation {} asks for it", request::ABANDON_ROWS),
        ));
    }
    if object.spec.paused || imp.maintenance {
        let which = if object.spec.paused {
            "spec.paused"
        } else {
            "spec.imp[].maintenance"
        };
        if timed_out(object, imp, now) {
            return Step::GiveUp(left_behind(
                object.status.as_ref(),
                &imp.name,
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

/// Decides for one cluster after a removal was tried and is not done. Pure.
pub fn after(
    object: &XmppFederation,
    imp: &ImpSpec,
    outcome: &Result<Removal, String>,
    now: Timestamp,
) -> Step {
    match outcome {
        Ok(removal) if removal.done => Step::Release,
        _ if timed_out(object, imp, now) => {
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
                _ => {
                    return Step::GiveUp(left_behind(object.status.as_ref(), &imp.name, &why));
                }
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

/// What all clusters together mean: one that waits keeps the resource, until its own time is over,
/// and none keeps the rows of another. Pure.
pub fn all(steps: Vec<(String, Step)>) -> Step {
    let several = steps.len() > 1;
    let named = |name: String, sentence: String| {
        if several {
            format!("{name}: {sentence}")
        } else {
            sentence
        }
    };
    let (mut waits, mut given_up) = (Vec::new(), Vec::new());
    for (name, step) in steps {
        match step {
            Step::Release => {}
            Step::GiveUp(sentence) => given_up.push(named(name, sentence)),
            Step::Wait(sentence) => waits.push(named(name, sentence)),
            Step::Remove => return Step::Remove,
        }
    }
    if !waits.is_empty() {
        Step::Wait(waits.join("; "))
    } else if given_up.is_empty() {
        Step::Release
    } else {
        Step::GiveUp(given_up.join("; "))
    }
}

/// Whether a person gives rows up. A value that gave up those of a cluster that left the spec is
/// served.
pub fn abandons(object: &XmppFederation) -> bool {
    let value = object.annotations().get(request::ABANDON_ROWS);
    let served = |value: &String| {
        let status = object.status.as_ref();
        let mut handled = status.into_iter().flat_map(|s| &s.handled_requests);
        handled.any(|h| h.annotation == request::ABANDON_ROWS && h.value == *value)
    };
    value.is_some_and(|value| !served(value))
}

/// Whether rows may exist.
pub fn has_finalizer(object: &XmppFederation) -> bool {
    object.finalizers().iter().any(|f| f == FINALIZER)
}

fn timed_out(object: &XmppFederation, imp: &ImpSpec, now: Timestamp) -> bool {
    let timeout = imp.deletion_timeout.get();
    object
        .metadata
        .deletion_timestamp
        .as_ref()
        .is_some_and(|since| {
            Duration::try_from(now.duration_since(since.0)).is_ok_and(|elapsed| elapsed >= timeout)
        })
}

/// Names the rows of an entry in the last status, with the SQL that removes them.
fn left_behind(status: Option<&XmppFederationStatus>, entry: &str, why: &str) -> String {
    let known = status.and_then(|s| s.imp.iter().find(|imp| imp.name == entry));
    match known {
        Some(imp) if !imp.registrations.is_empty() => {
            format!("gave up: {why}; {}", rows_of(imp))
        }
        _ => format!("gave up: {why}; no row of ours is known"),
    }
}

fn rows_of(imp: &ImpStatus) -> String {
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
        "rows of {} may be left; on the IM and Presence publisher: {}",
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
    let rows: Vec<String> = status
        .imp
        .iter()
        .filter(|imp| !imp.registrations.is_empty())
        .map(|imp| format!("{}: {}", imp.name, rows_of(imp)))
        .collect();
    let rows = if rows.is_empty() {
        "no row of ours is known".to_owned()
    } else {
        rows.join("; ")
    };
    let sentence = format!("gave up: the object does not fit the schema of this release; {rows}");
    tracing::warn!(name = object.name_any(), sentence, "deletion gives up rows");
    context.metrics.abandoned_rows.inc();
    set_without_ours(&context.client, object).await?;
    Ok(Action::await_change())
}

/// The resource is going: one step, at all its clusters at once.
pub async fn run(
    context: &Context,
    object: &XmppFederation,
    owner: &Owner,
    former: &Result<Vec<Former>, String>,
) -> Result<Action, reconcile::Error> {
    let now = Timestamp::now();
    // What a turn still inserts would be left behind.
    context.turns.settle(&owner.uid).await;
    let mut notes = Vec::new();
    let mut again = RETRY;
    let mut steps = plans(object, former, now);
    if steps.iter().any(|(_, step)| *step == Step::Remove) {
        let sentence = "rows are being removed from IM and Presence";
        answer_deleting(context, object, sentence.to_owned(), now).await?;
        let former = former.as_deref().unwrap_or_default();
        let outcomes = remove(context, object, owner, former, &steps).await?;
        for (outcome, (_, step)) in outcomes.into_iter().zip(&mut steps) {
            let Some((imp, outcome)) = outcome else {
                continue;
            };
            if let Ok(removal) = &outcome {
                notes.extend(removal.events.iter().map(Note::of));
                if !removal.done {
                    again = again.min(removal.requeue_after.max(Duration::from_millis(100)));
                }
            }
            *step = after(object, &imp, &outcome, now);
        }
    }
    let step = all(steps);
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
    context.imp.forget(&owner.uid);
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

/// What is done about each cluster, in the order of the spec, then those that it names no more.
fn plans(
    object: &XmppFederation,
    former: &Result<Vec<Former>, String>,
    now: Timestamp,
) -> Vec<(String, Step)> {
    let entries = object.spec.imp.iter();
    let mut steps: Vec<(String, Step)> = entries
        .map(|imp| (imp.name.clone(), plan(object, imp, now)))
        .collect();
    match former {
        Ok(former) => steps.extend(former.iter().map(|former| {
            let step = match &former.entry {
                _ if former.left.rows.is_empty() => Step::Release,
                Some(imp) => match plan(object, imp, now) {
                    // The status may know it by another name.
                    Step::GiveUp(_) => Step::GiveUp(former.rows_by_hand("its rows were given up")),
                    step => step,
                },
                None => Step::GiveUp(former.rows_by_hand("how it was reached is not recorded")),
            };
            (former.name(), step)
        })),
        // Rows may be left in clusters that nobody names: it is read again while there is time.
        Err(sentence) => {
            let waits = object.spec.imp.iter().any(|imp| {
                has_finalizer(object) && !abandons(object) && !timed_out(object, imp, now)
            });
            if waits {
                steps.push(("ledgers".to_owned(), Step::Wait(sentence.clone())));
            }
        }
    }
    steps
}

/// One cluster's entry, and a step of removing its rows there or why that cannot be tried.
type Tried = (ImpSpec, Result<Removal, String>);

/// Removes where it is planned, everywhere at once; in the order of the plans.
async fn remove(
    context: &Context,
    object: &XmppFederation,
    owner: &Owner,
    former: &[Former],
    steps: &[(String, Step)],
) -> Result<Vec<Option<Tried>>, reconcile::Error> {
    let names = dereference::secret_names(&object.spec, former);
    let secrets = dereference::secrets(&context.client, owner, names).await?;
    let resource = Resource {
        owner,
        component_ids: &[],
        active: false,
        live_owners: watch::known(context)
            .iter()
            .filter_map(ResourceExt::uid)
            .collect(),
        asked: Asked::default(),
    };
    let wanted = |imp: &ImpSpec| -> Result<Desired, String> {
        let cluster = validate::former(imp)?;
        effects::desired(&resource, &cluster, Place::default(), &secrets, &[])
    };
    let named = object.spec.imp.iter().map(|imp| Some((imp, wanted(imp))));
    let others = former.iter().map(|former| {
        let entry = former.entry.as_ref()?;
        Some((entry, farewell::removal(&resource, former, &secrets)))
    });
    let tries = named
        .chain(others)
        .zip(steps)
        .map(|(one, (_, step))| async move {
            let (imp, desired) = one.filter(|_| *step == Step::Remove)?;
            let outcome = match desired {
                Ok(desired) => Ok(context.imp.remove(&desired).await),
                Err(sentence) => Err(sentence),
            };
            Some((imp.clone(), outcome))
        });
    Ok(futures::future::join_all(tries).await)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::super::testing::spec_with;
    use super::*;
    use crate::api::status::{HandledRequest, ImpStatus, RegistrationStatus};
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

    fn entry(object: &XmppFederation) -> &ImpSpec {
        object.spec.imp.first().unwrap()
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
        let object = object(path, value, since);
        assert_eq!(kind(&plan(&object, entry(&object), now())), expected);
    }

    #[test]
    fn the_annotation_gives_up_at_once_naming_the_rows_and_their_sql() {
        let mut object = object("", Value::Null, 0);
        object
            .annotations_mut()
            .insert(request::ABANDON_ROWS.to_owned(), "yes".to_owned());
        let Step::GiveUp(sentence) = plan(&object, entry(&object), now()) else {
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
        let object = object("", Value::Null, since);
        assert_eq!(
            kind(&after(&object, entry(&object), &outcome, now())),
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
        let object = object("", Value::Null, since);
        assert_eq!(
            kind(&after(&object, entry(&object), &outcome, now())),
            expected
        );
    }

    #[test]
    fn without_the_finalizer_nothing_can_be_left() {
        let mut object = object("", Value::Null, 0);
        object.metadata.finalizers = None;
        assert_eq!(plan(&object, entry(&object), now()), Step::Release);
    }

    #[rstest]
    // One that waits keeps the resource, whatever the others say; given up is told with its name.
    #[case(&[("a", Step::Release), ("b", Step::Release)], &Step::Release)]
    #[case(&[("a", Step::Release), ("b", Step::Wait("no answer".to_owned()))], &Step::Wait("b: no answer".to_owned()))]
    #[case(&[("a", Step::GiveUp("rows".to_owned())), ("b", Step::Wait("no answer".to_owned()))], &Step::Wait("b: no answer".to_owned()))]
    #[case(&[("a", Step::GiveUp("rows".to_owned())), ("b", Step::Release)], &Step::GiveUp("a: rows".to_owned()))]
    #[case(&[("a", Step::Wait("no answer".to_owned()))], &Step::Wait("no answer".to_owned()))]
    fn of_several_clusters_the_last_one_releases_the_resource(
        #[case] steps: &[(&str, Step)],
        #[case] expected: &Step,
    ) {
        let steps = steps
            .iter()
            .map(|(name, step)| ((*name).to_owned(), step.clone()))
            .collect();
        assert_eq!(all(steps), *expected);
    }

    #[test]
    fn a_value_that_gave_up_a_cluster_before_does_not_give_up_the_resource() {
        let mut object = object("", Value::Null, 0);
        object
            .annotations_mut()
            .insert(request::ABANDON_ROWS.to_owned(), "yes".to_owned());
        assert!(abandons(&object));
        let handled = HandledRequest {
            annotation: request::ABANDON_ROWS.to_owned(),
            value: "yes".to_owned(),
        };
        object
            .status
            .as_mut()
            .unwrap()
            .handled_requests
            .push(handled);
        assert!(!abandons(&object));
    }
}
