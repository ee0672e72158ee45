//! One reconcile: dereference → validate → build → apply → effects → status.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::build::material::Certificate;
use super::context::Context;
use super::dereference::ExistingObjects;
use super::effects::Outcome;
use super::names::{ObjectName, Owner};
use super::objects::Rollout;
use super::outcome::{Error, Next};
use super::references::NotFetched;
use super::requests::{self, ServedRequests};
use super::resource::{StoredObject, StoredResource};
use super::rows::{Dropped, DroppedCluster};
use super::status::Inputs;
use super::turns::{Report, Wait};
use super::upgrade::{Progress, Question};
use super::validate::Refusal;
use super::{
    answer, apply, build, change_log, delete, dereference, effects, finalizer, renewal, requeue, status, unreadable,
    upgrade, validate,
};
use crate::api::slots::Slots;
use crate::api::status::XmppFederationStatus;
use crate::api::{KEYS_FINALIZER, XmppFederation, request};
use crate::runtime::metrics::{ByCategory, ByResult};

/// Reconciles the resource of that name as the snapshots show it; when to come again without news.
pub async fn reconcile(context: &Context, name: &ObjectName) -> Option<Duration> {
    let started = Instant::now();
    let env = &context.environment;
    let stored = env.snapshots.resources.get(name);
    let uid = stored.as_ref().and_then(|stored| stored.uid.clone());
    context.is_now(name, uid.as_deref());
    let (stored, uid) = (stored?, uid?);
    let result = match stored.object()? {
        StoredObject::Unreadable(object) => {
            env.report_turn(name, Report::Idle);
            unreadable::run(env, &object).await
        }
        StoredObject::Readable(object) => Box::pin(work(context, &stored, &object)).await,
    };
    let troubles = &context.caches.troubles;
    let retry = || troubles.with(&uid, |trouble| trouble.again(Instant::now()));
    let word = if result.is_ok() { "ok" } else { "error" };
    env.metrics.reconciles.get_or_create(&ByResult { result: word }).inc();
    env.metrics.reconcile_duration.observe(started.elapsed().as_secs_f64());
    #[allow(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in f64")]
    env.metrics.last_reconcile.set(Timestamp::now().as_second() as f64);
    match result {
        Ok(Next::After(wait)) => Some(wait),
        Ok(Next::OnChange) => None,
        Ok(Next::Retry) => Some(retry()),
        Ok(Next::Gone) => {
            context.is_now(name, None);
            None
        }
        Err(error) if error.is_conflict() => {
            tracing::debug!(namespace = name.namespace, name = name.name, %error, "reconcile meets another write");
            Some(retry())
        }
        Err(error) => {
            let wait = retry();
            let category = error.category();
            env.metrics
                .reconcile_errors
                .get_or_create(&ByCategory { category })
                .inc();
            tracing::warn!(
                namespace = name.namespace,
                name = name.name,
                category,
                retry_s = wait.as_secs(),
                %error,
                "reconcile failed"
            );
            Some(wait)
        }
    }
}

async fn work(context: &Context, stored: &Arc<StoredResource>, object: &XmppFederation) -> Result<Next, Error> {
    let env = &context.environment;
    let owner = Owner::of(object).ok_or(Error::Nameless)?;
    let dropped = Dropped::of(env, object);
    let entries = dropped.clusters.iter().filter_map(|cluster| cluster.entry.as_ref());
    let secrets = dereference::secret_names(&object.spec, entries);
    let references = dereference::references(&owner, &object.spec, &secrets);
    env.snapshots.references.refer(&owner.object_name(), &references);
    let deleted = object.metadata.deletion_timestamp.is_some();
    if deleted || object.spec.paused {
        env.observers
            .edges
            .forget(&(owner.namespace.clone(), owner.name.clone()));
    }
    let goes_on = requests::unserved(object, request::CONTINUE_UPGRADE).is_some();
    if deleted {
        env.report_turn(&owner.object_name(), Report::Gone);
        return delete::run(env, &context.caches.rows, object, &owner, &dropped).await;
    }
    if object.spec.paused {
        let report = if goes_on { Report::Gone } else { Report::Idle };
        env.report_turn(&owner.object_name(), report);
        return answer::paused(env, object).await;
    }
    Box::pin(steps(context, (stored, object), owner, &secrets, &dropped)).await
}

/// The spec cannot be taken.
async fn refused(
    context: &Context,
    object: &XmppFederation,
    owner: &Owner,
    existing: &ExistingObjects,
    refusal: Refusal,
) -> Result<Next, Error> {
    let env = &context.environment;
    env.report_turn(&owner.object_name(), Report::Idle);
    let look = renewal::run(env, &context.caches.sent, owner, existing, Timestamp::now()).await;
    let next = answer::refused(env, object, refusal).await?;
    Ok(renewal::with(next, look))
}

/// What decides whose template the pods get.
fn question<'a>(
    Context {
        environment: env,
        caches,
        ..
    }: &Context,
    object: &XmppFederation,
    owner: &Owner,
    goes_on: bool,
    rollout: Option<&'a Rollout>,
    now: Timestamp,
) -> Question<'a> {
    let conditions = object.status.as_ref().map(|status| status.conditions.as_slice());
    let held = upgrade::held(conditions.unwrap_or_default());
    let turn = rollout.and_then(|rollout| rollout.template.turn.as_ref());
    Question {
        rollout,
        accepted: upgrade::was_accepted(object),
        permission: env.turns.lock().permission(&owner.object_name(), &held, now),
        at_once: env.settings.upgrades_at_once,
        patience: env.settings.upgrade_timeout.0,
        over: turn.and_then(|_| caches.turns.with(&owner.uid, |over| over.clone())),
        goes_on,
        now,
    }
}

async fn steps(
    context: &Context,
    (stored, object): (&Arc<StoredResource>, &XmppFederation),
    owner: Owner,
    secrets: &[String],
    dropped: &Dropped,
) -> Result<Next, Error> {
    let Context {
        environment: env,
        caches,
        ..
    } = context;
    let (now, uid, name) = (Timestamp::now(), owner.uid.clone(), owner.object_name());
    let view = match dereference::run(&env.snapshots, &env.observers.edges, &owner, &object.spec, secrets) {
        Ok(view) => view,
        Err(NotFetched::Pending) => return Ok(Next::OnChange),
        Err(NotFetched::Failed(sentence)) => {
            env.report_turn(&name, Report::Idle);
            return answer::not_fetched(env, object, sentence).await;
        }
    };

    let older = env.snapshots.older_than(object);
    let claims = older.iter().map(|other| &other.claim);
    let recorded = env.imp.recorded_slots(&uid);
    let slots = Slots::of(&object.spec, object.status.as_ref(), recorded);
    let valid = match validate::run(owner.clone(), &object.spec, slots, &env.settings, claims) {
        Ok(valid) => valid,
        Err(refusal) => return refused(context, object, &owner, &view.existing, refusal).await,
    };

    let earlier = caches.observations.with(&uid, |observations| observations.clone());
    let topology = earlier.topology(&valid, &view);
    let rotate = requests::unserved(object, request::ROTATE_DIALBACK);
    let mut built = match build::run(&valid, &view, &topology, rotate.is_some(), now) {
        Ok(built) => built,
        Err(refusal) => return refused(context, object, &valid.owner, &view.existing, refusal).await,
    };
    change_log::accepted(&caches.accepted, stored, object, &valid);

    // What is made from here on may outlive the object.
    if !finalizer::has_keys(object) {
        finalizer::add(env, object, KEYS_FINALIZER).await?;
        return Ok(Next::After(Duration::ZERO));
    }
    let rollout = view.existing.rollout();
    let goes_on = requests::unserved(object, request::CONTINUE_UPGRADE);
    let question = question(context, object, &valid.owner, goes_on.is_some(), rollout, now);
    let progress = upgrade::plan(&mut built.desired, &question);

    let adopt = requests::unserved(object, request::ADOPT_SECRETS);
    let (desired, live) = (&built.desired, &view.existing);
    let mut applied = apply::run(env, &caches.sent, &valid.owner, desired, live, adopt.is_some()).await;
    let failed = &mut applied.failed;
    let tell = apply::notify_pods(env, &caches.sent, &valid.owner, &built.desired, &view.pods, failed).await;

    let mut effects = match effects::run(env, object, &valid, &view, dropped, &earlier, &caches.rows).await? {
        Outcome::Again => return Ok(Next::After(Duration::ZERO)),
        Outcome::Done(effects) => effects,
    };
    let issued = built.material.certificate.as_ref().ok().and_then(Certificate::issued);
    let issued = issued.filter(|_| applied.changed_secret(&valid.owner.certificate()));
    effects
        .notes
        .extend(issued.map(|why| answer::issued(&valid.owner, why)));
    let later = caches.observations.with(&uid, |earlier| earlier.note(&effects).clone());

    let inputs = Inputs {
        valid: &valid,
        view: &view,
        material: &built.material,
        desired: &built.desired,
        applied: &applied,
        pods_allowed: topology.pods,
        effects: &effects,
        progress: &progress,
        now,
    };
    let abandons = requests::abandons(object) && dropped.clusters.iter().any(DroppedCluster::has_rows);
    let served = ServedRequests {
        rotate,
        rotated: view.existing.dialback.is_none(),
        adopted: adopt.filter(|_| applied.has_keys),
        refreshed: effects.all_current(),
        abandoned: abandons && effects.pending.is_empty() && !effects.is_incomplete(),
        continued: goes_on.filter(|_| !applied.controller_failed),
    };
    let (none, generation) = (XmppFederationStatus::default(), object.metadata.generation);
    let previous = object.status.as_ref().unwrap_or(&none);
    let status = status::run(&inputs, previous, generation);
    // An operator that has just started does not take back what another one found, before it has looked itself.
    let told = object.status.is_some() && previous.observed_generation == generation;
    let quiet = applied.failed.is_empty() && effects.notes.is_empty();
    let incomplete = effects.is_incomplete();
    if !incomplete && !applied.controller_failed {
        let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
        env.report_turn(&name, upgrade::report(&progress, created, &status.conditions, now));
    }
    if !(told && quiet && (incomplete || progress == Progress::Waits(Wait::Starting))) {
        let over = upgrade::over(&progress, rollout, &status.conditions, now);
        answer::conclude(env, object, &inputs, &served, status).await?;
        if let Some(turn) = over {
            caches.turns.with(&uid, |over| over.replace(turn));
            return Ok(Next::After(Duration::ZERO));
        }
    }
    if later.topology(&valid, &view) != topology {
        return Ok(Next::After(Duration::ZERO));
    }
    Ok(Next::After(again(context, &inputs, tell)))
}

/// When the resource is looked at again without news.
fn again(
    Context {
        environment: env,
        caches,
        ..
    }: &Context,
    inputs: &Inputs<'_>,
    tell: Option<Duration>,
) -> Duration {
    let (owner, now) = (&inputs.valid.owner, inputs.now);
    let trouble = !inputs.applied.failed.is_empty() || !inputs.effects.pending.is_empty();
    let retry = |found: &mut requeue::Trouble| found.is_now(trouble, Instant::now());
    let again = requeue::after(inputs, tell, caches.troubles.with(&owner.uid, retry));
    let due = env.turns.lock().due(&owner.object_name(), now);
    let due = due.filter(|_| *inputs.progress != Progress::Current);
    let turn = due.and_then(|due| Duration::try_from(due.duration_since(now)).ok());
    turn.map_or(again, |turn| again.min(turn + Duration::from_millis(100)))
}
