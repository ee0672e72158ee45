//! One reconcile: dereference → validate → build → apply → effects → status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::Api;
use kube::runtime::controller::Action;
use kube::{Resource as _, ResourceExt};

use super::context::Context;
use super::effects::Outcome;
use super::environment::Guarded;
use super::kube::call;
use super::names::Owner;
use super::outcome::{Error, Next};
use super::requests::{self, ServedRequests};
use super::rows::{self, DroppedCluster};
use super::status::Inputs;
use super::{answer, apply, build, change_log, delete, dereference, effects, requeue, unreadable, validate};
use crate::api::{XmppFederation, request};
use crate::runtime::metrics::Word;

/// Entry point of the controller.
pub async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let result = match &object.0 {
        Err(invalid) => unreadable::run(&context.environment, invalid).await,
        Ok(seen) => Box::pin(fresh(&context, seen)).await,
    };
    let env = &context.environment;
    let word = if result.is_ok() { "ok" } else { "error" };
    env.metrics.reconciles.get_or_create(&Word { value: word }).inc();
    env.metrics.reconcile_duration.observe(started.elapsed().as_secs_f64());
    let next = result?;
    let uid = object.meta().uid.as_deref().unwrap_or_default();
    context.caches.failures.forget(uid);
    #[allow(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in f64")]
    env.metrics.last_reconcile.set(Timestamp::now().as_second() as f64);
    Ok(match next {
        Next::After(wait) => Action::requeue(wait),
        Next::OnChange => Action::await_change(),
        Next::Gone(uid) => {
            context.forget(&uid);
            Action::await_change()
        }
    })
}

/// Back-off after an error: doubled each time, spread by the resource's UID.
#[allow(clippy::needless_pass_by_value, reason = "the controller hands them over")]
pub fn on_error(object: Arc<Guarded>, error: &Error, context: Arc<Context>) -> Action {
    let category = error.category();
    let errors = &context.environment.metrics.reconcile_errors;
    errors.get_or_create(&Word { value: category }).inc();
    let uid = object.meta().uid.clone().unwrap_or_default();
    let failures = context.caches.failures.with(&uid, |failures| {
        *failures = failures.saturating_add(1);
        *failures
    });
    let wait = Duration::from_secs(1 << failures.min(8)) + requeue::jitter(&uid, Duration::from_secs(2));
    tracing::warn!(
        namespace = object.namespace().unwrap_or_default(),
        name = object.name_any(),
        category,
        retry_s = wait.as_secs(),
        %error,
        "reconcile failed"
    );
    Action::requeue(wait)
}

/// Reads the object anew, as the watch may lag behind our own writes.
async fn fresh(context: &Context, seen: &XmppFederation) -> Result<Next, Error> {
    let env = &context.environment;
    let (name, namespace) = (seen.name_any(), seen.namespace().ok_or(Error::Nameless)?);
    let api: Api<XmppFederation> = Api::namespaced(env.client.clone(), &namespace);
    let what = || format!("XmppFederation {name} cannot be read");
    let Some(object) = call(what, api.get_opt(&name)).await? else {
        context.edges_seen.forget(&(namespace, name));
        return Ok(Next::Gone(seen.uid().unwrap_or_default()));
    };
    let owner = Owner::of(&object).ok_or(Error::Nameless)?;
    let dropped = rows::dropped(env, &object).await;
    let known = dropped.as_deref().unwrap_or_default();
    let entries = known.iter().filter_map(|cluster| cluster.entry.as_ref());
    let secrets = dereference::secret_names(&object.spec, entries);
    context.refers(&namespace, &name, &secrets);
    let deleted = object.metadata.deletion_timestamp.is_some();
    if deleted || object.spec.paused {
        context.edges_seen.forget(&(namespace.clone(), name.clone()));
    }
    if deleted {
        return delete::run(env, &context.caches.rows, &object, &owner, &dropped).await;
    }
    if object.spec.paused {
        return answer::paused(env, &object).await;
    }
    // Only rows of dropped clusters depend on this; the next reconcile looks again.
    let dropped = dropped.unwrap_or_else(|error| {
        tracing::warn!(namespace, name, %error, "dropped clusters");
        Vec::new()
    });
    Box::pin(steps(context, &object, owner, secrets, &dropped)).await
}

async fn steps(
    context: &Context,
    object: &XmppFederation,
    owner: Owner,
    secrets: Vec<String>,
    dropped: &[DroppedCluster],
) -> Result<Next, Error> {
    let Context {
        environment: env,
        caches,
        ..
    } = context;
    let (now, uid) = (Timestamp::now(), owner.uid.clone());
    let observed = Box::pin(dereference::run(env, &owner, &object.spec, secrets)).await?;
    context.note_edges(&owner, &observed.pods);

    let claims = validate::claims(object, &env.resources());
    let valid = match validate::run(owner, &object.spec, &env.settings, &claims) {
        Ok(valid) => valid,
        Err(refusal) => return answer::refused(env, object, refusal).await,
    };

    let earlier = caches.observations.with(&uid, |observations| observations.clone());
    let topology = earlier.topology(&valid, &observed);
    let rotate = requests::unserved(object, request::ROTATE_DIALBACK);
    let built = match build::run(&valid, &observed, &topology, rotate.is_some(), now) {
        Ok(built) => built,
        Err(refusal) => return answer::refused(env, object, refusal).await,
    };
    change_log::accepted(&caches.accepted, object, &valid);

    let applied = match apply::run(env, &caches.sent, &valid.owner, &built.desired, &observed.existing).await {
        Ok(applied) => applied,
        Err(error) => return answer::not_applied(env, object, error).await,
    };
    let told = apply::notify_pods(env, &valid.owner, &built.desired, &observed.pods).await?;

    let effects = match effects::run(env, object, &valid, &observed, dropped, &earlier, &caches.rows).await? {
        Outcome::Again => return Ok(Next::After(Duration::ZERO)),
        Outcome::Done(effects) => effects,
    };
    let later = caches.observations.with(&uid, |earlier| earlier.note(&effects).clone());

    let inputs = Inputs {
        valid: &valid,
        observed: &observed,
        material: &built.material,
        desired: &built.desired,
        controller_changed: applied.changed_controller(),
        pods_allowed: topology.pods,
        effects: &effects,
        now,
    };
    let abandoned = requests::abandons(object) && dropped.iter().any(DroppedCluster::has_rows);
    let served = ServedRequests {
        rotate,
        rotated: observed.existing.dialback.is_none(),
        refreshed: effects.all_current(),
        abandoned,
    };
    let ready = answer::conclude(env, object, &inputs, &served).await?;
    if later.topology(&valid, &observed) != topology {
        return Ok(Next::After(Duration::ZERO));
    }
    Ok(Next::After(requeue::after(&inputs, ready, told)))
}
