//! What starts a reconcile: one watch per kind, metadata only where that is enough.

use std::future::Future;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::controller::{Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Predicate as _, PredicateConfig, WatchStreamExt as _, predicates, reflector, watcher};
use kube::{Resource, ResourceExt};

use super::context::Context;
use super::environment::{Environment, Guarded};
use super::reconcile;
use crate::api::{INSTANCE_LABEL, MANAGED_BY};

/// Reconciles under way at once.
const CONCURRENCY: u16 = 4;

/// The namespaces to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    Cluster,
    /// These.
    Namespaces(Vec<String>),
}

fn apis<K>(env: &Environment, scope: &Scope) -> Vec<Api<K>>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    match scope {
        Scope::Cluster => vec![Api::all(env.client.clone())],
        Scope::Namespaces(names) => names
            .iter()
            .map(|name| Api::namespaced(env.client.clone(), name))
            .collect(),
    }
}

/// Metadata of the objects of one kind, without what no mapping reads.
fn metadata<K>(
    env: &Environment,
    scope: &Scope,
    config: &watcher::Config,
) -> impl futures::Stream<Item = Result<PartialObjectMeta<K>, watcher::Error>> + Send + 'static
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Send
        + Sync
        + serde::de::DeserializeOwned
        + 'static,
{
    // The client asks for metadata alone when the type holds nothing else.
    let streams = apis::<PartialObjectMeta<K>>(env, scope)
        .into_iter()
        .map(|api| watcher(api, config.clone()).default_backoff().touched_objects().boxed());
    futures::stream::select_all(streams)
}

/// Runs until `stop` is done; reconciles under way are finished.
pub async fn run(context: Arc<Context>, scope: Scope, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let ours = watcher::Config::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
    let all = watcher::Config::default();
    let env = &context.environment;

    let (reader, writer) = reflector::store();
    if env.store.set(reader.clone()).is_err() {
        tracing::error!("the controller was started twice");
        return;
    }
    let resources = apis::<Guarded>(env, &scope)
        .into_iter()
        .map(|api| watcher(api, all.clone()).boxed());
    let resources = futures::stream::select_all(resources)
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .touched_objects()
        // Our own status writes start nothing.
        .predicate_filter(
            predicates::generation
                .combine(predicates::annotations)
                .combine(predicates::finalizers),
            PredicateConfig::default(),
        );

    let finishing = Arc::clone(&context);
    let referrers = Arc::clone(&context.referrers);
    let by_reference = move |secret: PartialObjectMeta<Secret>| {
        let namespace = secret.namespace().unwrap_or_default();
        let names = referrers
            .lock()
            .get(&(namespace.clone(), secret.name_any()))
            .cloned()
            .unwrap_or_default();
        let mut references: Vec<ObjectRef<Guarded>> = names
            .into_iter()
            .map(|name| ObjectRef::new(&name).within(&namespace))
            .collect();
        references.extend(by_label(secret));
        references
    };

    let edges = Arc::clone(&context.edges_seen)
        .news(env.edges.clone())
        .map(|(namespace, name)| ObjectRef::<Guarded>::new(&name).within(&namespace));

    Controller::for_stream(resources, reader)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .reconcile_on(edges)
        .watches_stream(metadata::<StatefulSet>(env, &scope, &ours), by_label)
        .watches_stream(metadata::<Service>(env, &scope, &ours), by_label)
        .watches_stream(metadata::<ConfigMap>(env, &scope, &ours), by_label)
        .watches_stream(metadata::<Pod>(env, &scope, &ours), by_label)
        .watches_stream(metadata::<Secret>(env, &scope, &all), by_reference)
        .graceful_shutdown_on(stop)
        .run(reconcile::reconcile, reconcile::on_error, Arc::clone(&context))
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "reconcile");
            }
        })
        .await;
    // A call that a reconcile did not wait for may still write.
    finishing.environment.schedule.finish().await;
}

/// The resource that an object's label names.
#[allow(clippy::needless_pass_by_value, reason = "the controller hands objects over")]
fn by_label<K>(object: PartialObjectMeta<K>) -> Option<ObjectRef<Guarded>>
where
    K: Resource<DynamicType = ()>,
{
    let name = object.labels().get(INSTANCE_LABEL)?;
    Some(ObjectRef::<Guarded>::new(name).within(&object.namespace()?))
}
