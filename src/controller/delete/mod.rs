//! Deletion: the operator removes its rows from IM and Presence and restarts no router; then it deletes the Secrets that no
//! garbage collector takes ([`keys`]). Nothing can hold the resource for ever.

mod keys;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DynamicObject;

use super::cache::Cache;
use super::desired::Resource;
use super::environment::Environment;
use super::names::Owner;
use super::outcome::{Error, Next};
use super::questions::ClusterQuestion;
use super::rows::execute::{self, LeftoverRows};
use super::rows::plan::{CleanupStep, Deadline};
use super::rows::{Cleanup, Dropped, DroppedCluster, Memory};
use super::{answer, finalizer, requests, validate};
use crate::api::conditions::{self, Findings};
use crate::api::reasons::Reason;
use crate::api::slots::Slots;
use crate::api::status::{ImpStatus, XmppFederationStatus};
use crate::api::{XmppFederation, request};
use xmpp_federation_imp::desired::Requests;
use xmpp_federation_imp::dropped::DroppedRecords;

/// An object that this release cannot read is looked at again after this.
const RETRY: Duration = Duration::from_secs(5);

/// A Secret that cannot be deleted is tried again after this.
const KEYS_RETRY: Duration = Duration::from_secs(5);

/// The resource is going: one step.
pub async fn run(
    env: &Environment,
    memory: &Cache<Memory>,
    object: &XmppFederation,
    owner: &Owner,
    dropped: &Dropped,
) -> Result<Next, Error> {
    // Released, or never written for. A finalizer of others may hold it.
    if !finalizer::is_any_on(object) {
        return Ok(Next::Gone);
    }
    let now = Timestamp::now();
    let mut cleanups = Cleanup::all_of(object, owner, &dropped.clusters, memory, now);
    if cleanups.iter().any(|cleanup| cleanup.step == CleanupStep::Remove) {
        announce(env, object, None, now).await;
    }
    // A row that a call inserts after the removal would be left behind; its end wakes the resource.
    if dropped.busy {
        return Ok(Next::OnChange);
    }
    let resource = resource(env, object, owner);
    for cleanup in cleanups
        .iter_mut()
        .filter(|cleanup| cleanup.step == CleanupStep::Remove)
    {
        cleanup.remove(env, memory, &resource);
    }
    let mut notes = env.cluster_notes(owner, false);
    let several = cleanups.len() > 1;
    let mut waits = Vec::new();
    let mut again = Duration::MAX;
    let mut asking = false;
    for cleanup in &cleanups {
        if cleanup.step == CleanupStep::Remove {
            // Its answer wakes the resource; what never answers is given up in time.
            asking = true;
            again = again.min(cleanup.deadline.again(Duration::MAX));
        }
        if let CleanupStep::Wait(sentence) = &cleanup.step {
            waits.push(if several {
                format!("{}: {sentence}", cleanup.name)
            } else {
                sentence.clone()
            });
            let wanted = cleanup
                .removal
                .as_ref()
                .map_or(Duration::MAX, |removal| removal.requeue_after);
            again = again.min(cleanup.deadline.again(wanted));
        }
    }
    let unknown = dropped.unknown();
    if let Some(unknown) = &unknown {
        // What makes the ledger readable wakes the resource.
        let mut open = cleanups.iter().filter(|cleanup| !cleanup.deadline.is_over());
        if !requests::abandons(object)
            && let Some(cleanup) = open.next()
        {
            waits.push(unknown.clone());
            again = again.min(cleanup.deadline.again(Duration::MAX));
        }
    }
    if asking || !waits.is_empty() {
        env.events.publish(object, &notes).await;
        announce(env, object, (!waits.is_empty()).then(|| waits.join("; ")), now).await;
        return Ok(Next::After(again));
    }
    // What a removal wrote down last may show a cluster that was not known of at the beginning.
    let is_new = |cluster: &DroppedCluster| !dropped.clusters.iter().any(|known| known.is_same(cluster));
    let mut more = Dropped::of(env, object).clusters.into_iter().filter(is_new);
    if more.any(|cluster| cluster.has_rows()) && !requests::abandons(object) {
        return Ok(Next::After(Duration::ZERO));
    }
    match keys::leave(env, object, owner).await {
        Ok(note) => notes.extend(note),
        Err(error) => {
            let asked = object.metadata.deletion_timestamp.as_ref().map_or(now, |time| time.0);
            let deadline = Deadline::new(asked, now, Duration::MAX).with_timeout_of(object.spec.imp.first());
            if !deadline.is_over() && !requests::abandons(object) {
                let sentence = format!("{error}; it is tried until deletionTimeout is over");
                announce(env, object, Some(sentence), now).await;
                return Ok(Next::After(deadline.again(KEYS_RETRY)));
            }
            notes.push(keys::give_up(owner, &error));
        }
    }
    let mut left = Vec::new();
    for cleanup in &cleanups {
        left.extend(LeftoverRows::of(env, object, owner, cleanup, several));
    }
    left.extend(unknown.map(|unknown| LeftoverRows::not_known(&unknown, object.status.as_ref())));
    notes.extend(left.iter().flat_map(|left| left.report(owner)));
    env.events.publish(object, &notes).await;
    finalizer::release(env, object).await?;
    for left in &left {
        left.count(env);
    }
    tracing::info!(namespace = owner.namespace, name = owner.name, "released");
    Ok(Next::Gone)
}

/// Writes into the status what the deletion waits for, unless the status says so already. A status that
/// cannot be written delays nothing.
///
/// `None`: rows are being removed; more is not known yet.
async fn announce(env: &Environment, object: &XmppFederation, sentence: Option<String>, now: Timestamp) {
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
        reconciling: Some((Reason::Deleting, sentence)),
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

/// On whose behalf rows are removed.
fn resource<'a>(env: &Environment, object: &XmppFederation, owner: &'a Owner) -> Resource<'a> {
    let recorded = env.imp.recorded_slots(&owner.uid);
    let slots = Slots::of(&object.spec, object.status.as_ref(), recorded);
    Resource {
        owner,
        component_ids: Cow::Owned(validate::component_ids(&object.spec, slots)),
        slots: slots.source,
        active: true,
        live_owners: env.snapshots.live_owners(),
        generation: object.metadata.generation,
        requests: Requests::default(),
    }
}

/// An object that this release cannot read is going: its rows cannot be removed, and it cannot
/// be held for ever either.
pub async fn unreadable(
    env: &Environment,
    object: &DynamicObject,
    status: &XmppFederationStatus,
) -> Result<Next, Error> {
    if !finalizer::is_any_on(object) {
        return Ok(Next::OnChange);
    }
    let uid = object.uid().unwrap_or_default();
    // What a call writes after the ledgers are read would not be told.
    let asking = |question: &ClusterQuestion| matches!(question, ClusterQuestion::Reconcile(_));
    if env.observers.clusters.is_asking(&uid, asking) {
        return Ok(Next::OnChange);
    }
    let now = Timestamp::now();
    let asked = object.metadata.deletion_timestamp.as_ref().map_or(now, |time| time.0);
    // Nothing is tried, so a process that has just started gives up as soon as any other.
    let deadline = Deadline::new(asked, now, Duration::MAX);
    let abandoned = requests::unserved_by(Some(status), object, request::ABANDON_ROWS).is_some();
    let rows_may_exist = finalizer::is_on(object);
    if rows_may_exist && !deadline.is_over() && !abandoned {
        return Ok(Next::After(RETRY));
    }
    let owner = Owner {
        name: object.name_any(),
        namespace: object.namespace().unwrap_or_default(),
        uid,
    };
    // Whether they are to stay cannot be read, so they do.
    if finalizer::has_keys(object) {
        let secrets = format!("{}, {}", owner.dialback(), owner.authority());
        tracing::warn!(namespace = owner.namespace, name = owner.name, secrets, "secrets stay");
    }
    if !rows_may_exist {
        finalizer::release(env, object).await?;
        return Ok(Next::Gone);
    }
    // Whatever its spec names, all that it has.
    let DroppedRecords { known, unreadable } = env.imp.left_by(&owner.uid, &[]);
    let mut why = vec!["the object does not fit the schema of this release".to_owned()];
    why.extend(unreadable);
    let known = known.into_iter();
    let known: Vec<_> = known.map(|record| DroppedCluster::new(record, Some(status))).collect();
    // The status remembers those whose ledgers are lost.
    let told: Vec<&ImpStatus> = known.iter().filter_map(|cluster| cluster.told_in(status)).collect();
    let is_lost = |imp: &&ImpStatus| !told.iter().any(|told| std::ptr::eq(*told, *imp));
    let lost = status.imp.iter().filter(is_lost).flat_map(execute::of_status);
    let left = LeftoverRows {
        abandoned: true,
        why: why.join("; "),
        rows: known
            .iter()
            .flat_map(|cluster| cluster.rows.clone())
            .chain(lost)
            .collect(),
    };
    // The object does not fit the type that events are written for: the log has to do.
    left.report(&owner);
    finalizer::release(env, object).await?;
    left.count(env);
    Ok(Next::Gone)
}
