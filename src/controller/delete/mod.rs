//! Deletion: our rows leave IM and Presence, no router is restarted, and nothing can hold the
//! resource for ever.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DynamicObject;

use super::cache::Cache;
use super::dereference::Secrets;
use super::desired::{Resource, desired};
use super::environment::Environment;
use super::events::{self, Note};
use super::names::Owner;
use super::outcome::{Error, Next};
use super::rows::plan::{self, Age, Step};
use super::rows::{Former, Memory, farewell, lasted, left};
use super::{answer, dereference, finalizer, requests, validate};
use crate::api::conditions::{self, Findings};
use crate::api::reasons::Reason;
use crate::api::spec::ImpSpec;
use crate::api::status::XmppFederationStatus;
use crate::api::{XmppFederation, request};
use xmpp_federation_imp::desired::{Desired, Place, Requests};
use xmpp_federation_imp::report::Removal;

/// An object that this release cannot read is looked at again after this.
const RETRY: Duration = Duration::from_secs(5);

/// An object that cannot be read says no deletionTimeout; this is its default.
const UNREADABLE_TIMEOUT: Duration = Duration::from_mins(10);

/// One cluster's part of a deletion.
struct Part {
    name: String,
    imp: ImpSpec,
    /// Where the spec does not name it any more.
    former: Option<Former>,
    step: Step,
    removal: Option<Removal>,
}

/// The end of one cluster's part: what is told of it.
struct End {
    reason: Reason,
    why: String,
    rows: Vec<String>,
}

/// The resource is going: one step.
pub async fn run(
    env: &Environment,
    memory: &Cache<Memory>,
    object: &XmppFederation,
    owner: &Owner,
    former: &Result<Vec<Former>, String>,
) -> Result<Next, Error> {
    // What a turn still inserts would be left behind.
    env.turns.settle(&owner.uid).await;
    let age = age(memory, object, owner);
    let mut notes = Vec::new();
    let mut ends = Vec::new();
    let mut waits = Vec::new();
    let mut again = Duration::MAX;
    let mut parts = parts(object, former.as_deref().unwrap_or_default(), age);
    if parts.iter().any(|part| part.step == Step::Remove) {
        say(env, object, None, age.now).await;
        // All at once: the time-outs of one cluster are nobody else's.
        let tries = parts
            .iter_mut()
            .filter(|part| part.step == Step::Remove)
            .map(|part| async move {
                let outcome = remove(env, memory, object, owner, part, age.asked).await;
                part.step = plan::after(&part.imp, &outcome, age);
                part.removal = outcome.ok();
            });
        futures::future::join_all(tries).await;
    }
    let several = parts.len() > 1;
    for part in parts {
        let mut wanted = Duration::MAX;
        if let Some(removal) = &part.removal {
            notes.extend(removal.events.iter().map(Note::of));
            wanted = removal.requeue_after;
        }
        let named = |sentence: String| {
            if several {
                format!("{}: {sentence}", part.name)
            } else {
                sentence
            }
        };
        let (reason, why) = match part.step {
            Step::Release | Step::Remove => continue,
            Step::Wait(sentence) => {
                waits.push(named(sentence));
                again = again.min(age.again(&part.imp, wanted));
                continue;
            }
            Step::GiveUp(why) => (Reason::RowsAbandoned, named(why)),
            Step::Retain => (Reason::RowsRetained, named("onDelete is Retain".to_owned())),
        };
        let rows = match part.former {
            Some(former) => former.left.rows,
            None => left::rows(env, object, owner, &part.imp, part.removal).await,
        };
        ends.push(End { reason, why, rows });
    }
    for former in former.iter().flatten().filter(|f| f.entry.is_none()) {
        if former.has_rows() {
            let why = format!("{}: how it was reached is not recorded", former.name());
            let rows = former.left.rows.clone();
            let reason = Reason::RowsAbandoned;
            ends.push(End { reason, why, rows });
        }
    }
    if let Err(sentence) = former {
        // Read again while there is time: rows may stand in clusters that nobody names.
        let mut left = object.spec.imp.iter().map(|imp| age.left(imp));
        let time = left.any(|left| !left.is_zero());
        if time && finalizer::is_on(object) && !requests::abandons(object) {
            waits.push(sentence.clone());
            again = again.min(RETRY);
        }
    }
    if !waits.is_empty() {
        events::publish(&env.client, object, &env.instance, &notes).await;
        say(env, object, Some(waits.join("; ")), age.now).await;
        return Ok(Next::After(again));
    }
    for end in &ends {
        notes.extend(left::tell(owner, end.reason, &end.why, &end.rows));
    }
    events::publish(&env.client, object, &env.instance, &notes).await;
    finalizer::release(&env.client, object).await?;
    for end in ends.iter().filter(|end| end.reason == Reason::RowsAbandoned) {
        left::count(env, &end.rows);
    }
    tracing::info!(namespace = owner.namespace, name = owner.name, "released");
    Ok(Next::Gone)
}

/// What is done about each cluster: those of the spec, then those that it names no more.
fn parts(object: &XmppFederation, former: &[Former], age: Age) -> Vec<Part> {
    let named = object.spec.imp.iter().map(|imp| Part {
        name: imp.name.clone(),
        imp: imp.clone(),
        former: None,
        step: plan::plan(object, imp, age),
        removal: None,
    });
    let former = former.iter().filter(|former| former.has_rows());
    let others = former.filter_map(|former| {
        let imp = former.entry.clone()?;
        Some(Part {
            name: former.name(),
            step: plan::plan(object, &imp, age),
            imp,
            former: Some(former.clone()),
            removal: None,
        })
    });
    named.chain(others).collect()
}

/// How long the deletion goes on; notes when this process began with it.
fn age(memory: &Cache<Memory>, object: &XmppFederation, owner: &Owner) -> Age {
    let now = Timestamp::now();
    let began = memory.with(&owner.uid, |memory| {
        *memory.deleting_since.get_or_insert_with(Instant::now)
    });
    Age {
        asked: object.metadata.deletion_timestamp.as_ref().map_or(now, |time| time.0),
        now,
        at_it: began.elapsed(),
    }
}

/// Says in the status what the deletion waits for, unless it says so already. That it cannot be
/// said holds nothing up.
///
/// `None`: rows are being removed; more is not known yet.
async fn say(env: &Environment, object: &XmppFederation, sentence: Option<String>, now: Timestamp) {
    let previous = object.status.clone().unwrap_or_default();
    let waits = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
        c.type_ == "Reconciling" && c.reason == Reason::Deleting.as_str()
    };
    // The first step announces itself; later ones replace it only when they have more to say.
    let announced = previous.conditions.iter().any(waits);
    if announced && sentence.is_none() {
        return;
    }
    let sentence = sentence.unwrap_or_else(|| "rows are being removed from IM and Presence".to_owned());
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
    if let Err(error) = answer::finish(env, object, status, Vec::new()).await {
        tracing::warn!(name = object.name_any(), %error, "the status of a deletion is not written");
    }
}

/// One step of removing rows, or why it cannot be tried.
async fn remove(
    env: &Environment,
    memory: &Cache<Memory>,
    object: &XmppFederation,
    owner: &Owner,
    part: &Part,
    asked: Timestamp,
) -> Result<Removal, String> {
    let names = dereference::secret_names_of([&part.imp]);
    let secrets = dereference::secrets(&env.client, owner, names)
        .await
        .map_err(|error| error.sentence());
    let resource = resource(env, object, owner);
    let found = secrets.and_then(|secrets| match &part.former {
        None => wanted(&resource, &part.imp, &secrets),
        Some(former) => farewell::removal(&resource, former, &secrets),
    });
    let mut desired = match found {
        Ok(desired) => desired,
        Err(sentence) => {
            let last = memory.with(&owner.uid, |memory| {
                let last = memory.reach.get(&part.name)?.as_ref()?;
                last.usable(asked).cloned()
            });
            let Some(last) = last.filter(|_| part.former.is_none()) else {
                return Err(sentence);
            };
            tracing::info!(
                namespace = owner.namespace,
                name = owner.name,
                sentence,
                "rows are removed with what was read before the deletion"
            );
            last
        }
    };
    desired.maintenance = part.imp.maintenance;
    desired.hold_acts = false;
    Ok(env.imp.remove(&desired).await)
}

/// On whose behalf rows are removed.
fn resource<'a>(env: &Environment, object: &XmppFederation, owner: &'a Owner) -> Resource<'a> {
    Resource {
        owner,
        component_ids: Cow::Owned(validate::component_ids(&object.spec)),
        active: true,
        live_owners: env.live_owners(),
        requests: Requests::default(),
    }
}

/// How IM and Presence is reached, by what the API server has now.
fn wanted(resource: &Resource<'_>, imp: &ImpSpec, secrets: &Secrets) -> Result<Desired, String> {
    let cluster = validate::former(imp)?;
    desired(resource, &cluster, Place::default(), secrets, &[])
}

/// An object that this release cannot read is going: its rows cannot be removed, and it cannot
/// be held for ever either.
pub async fn unreadable(
    env: &Environment,
    object: &DynamicObject,
    status: &XmppFederationStatus,
) -> Result<Next, Error> {
    if !finalizer::is_on(object) {
        return Ok(Next::OnChange);
    }
    let now = Timestamp::now();
    let asked = object.metadata.deletion_timestamp.as_ref();
    let waited = asked.map_or(Duration::ZERO, |asked| lasted(asked.0, now));
    let abandoned = object.annotations().contains_key(request::ABANDON_ROWS);
    if waited < UNREADABLE_TIMEOUT && !abandoned {
        return Ok(Next::After(RETRY));
    }
    let owner = Owner {
        name: object.name_any(),
        namespace: object.namespace().unwrap_or_default(),
        uid: object.uid().unwrap_or_default(),
    };
    let rows: Vec<String> = status.imp.iter().flat_map(left::of_status).collect();
    // The object does not fit the type that events are written for: the log has to do.
    let why = "the object does not fit the schema of this release";
    left::tell(&owner, Reason::RowsAbandoned, why, &rows);
    finalizer::release(&env.client, object).await?;
    left::count(env, &rows);
    Ok(Next::Gone)
}
