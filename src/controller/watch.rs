//! Fills the snapshots and runs the reconciles: one watch per kind and namespace, and workers at the queue.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Event as KubeEvent, Pod, Secret};
use kube::api::{Api, ApiResource, DynamicObject, PartialObjectMeta};
use kube::core::NamespaceResourceScope;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_objects};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use strum::IntoEnumIterator as _;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::context::Context;
use super::environment::Environment;
use super::kube::Kind;
use super::ledger_store::KubeStore;
use super::names::ObjectName;
use super::reconcile::reconcile;
use super::refusals::{self, PodRefusal};
use super::snapshot::{Scope, Snapshot};
use crate::api::{INSTANCE_LABEL, MANAGED_BY, XmppFederation};
use crate::runtime::api_error::sentence;
use crate::runtime::health::Readiness;
use crate::runtime::metrics::ByKind;

/// Reconciles under way at once: each waits for nothing but its own writes.
const WORKERS: usize = 16;

/// Objects in one answer of a list.
const PAGE: u32 = 50;

/// A watch that goes on failing is told this often, …
const TELL_EVERY: Duration = Duration::from_mins(5);
/// … and all that fail together: they do when the API server goes.
const TELL_TOGETHER: Duration = Duration::from_mins(1);

/// Events only explain what other objects show, so nothing waits for a watch of them that fails.
const EVENT: &str = "Event";

/// Watches that failed.
#[derive(Debug, Default)]
struct FailedWatches {
    told: Option<Instant>,
    /// When each was told; `None`: it is not told yet.
    each: BTreeMap<String, Option<Instant>>,
}

impl FailedWatches {
    /// One fails; those that are told now.
    fn failed(&mut self, watch: String, now: Instant) -> Option<String> {
        let lately = |told: Option<Instant>, pause| told.is_some_and(|told| now.duration_since(told) < pause);
        let told = self.each.entry(watch).or_default();
        if lately(*told, TELL_EVERY) {
            return None;
        }
        *told = None;
        if lately(self.told, TELL_TOGETHER) {
            return None;
        }
        self.told = Some(now);
        let untold = self.each.iter_mut().filter(|(_, told)| told.is_none());
        let names = untold.map(|(name, told)| {
            *told = Some(now);
            name.as_str()
        });
        Some(names.collect::<Vec<_>>().join(", "))
    }
}

/// Runs until `stop` is done, in these namespaces (none: in all); reconciles under way are finished.
pub async fn run(
    context: Arc<Context>,
    ledgers: Arc<KubeStore>,
    namespaces: Vec<String>,
    readiness: Readiness,
    stop: impl Future<Output = ()> + Send,
) {
    context.environment.snapshots.watch_only(&namespaces);
    let scopes: Vec<Scope> = if namespaces.is_empty() {
        vec![None]
    } else {
        namespaces.into_iter().map(Some).collect()
    };
    let listed = Arc::new(Notify::new());
    let mut watches = JoinSet::new();
    let feed = Feed {
        context: Arc::clone(&context),
        scope: None,
        listed: Arc::clone(&listed),
        failed: Arc::default(),
    };
    for scope in scopes.iter().cloned() {
        start(&mut watches, &Feed { scope, ..feed.clone() });
    }
    follow_ledgers(&mut watches, feed, &ledgers);
    let env = &context.environment;
    let references = Arc::clone(&env.snapshots.references);
    watches.spawn(references.fetch(
        env.client.clone(),
        Arc::clone(&env.queue),
        env.settings.labelled_secrets,
    ));

    let mut workers = JoinSet::new();
    let work = async {
        complete(env, &ledgers, &scopes, &readiness, &listed).await;
        env.begin_turns();
        for _ in 0..WORKERS {
            workers.spawn(work(Arc::clone(&context)));
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = work => {}
        () = stop => {}
    }
    env.queue.close();
    while workers.join_next().await.is_some() {}
    // A call that a reconcile did not wait for may still write.
    env.observers.clusters.finish().await;
}

/// Waits until every kind was listed in every namespace: before that, what is missing may exist.
async fn complete(env: &Environment, ledgers: &KubeStore, scopes: &[Scope], readiness: &Readiness, listed: &Notify) {
    loop {
        let again = listed.notified();
        let missing = missing(env, ledgers, scopes);
        if missing.is_empty() {
            readiness.set_ready();
            return;
        }
        readiness.wait_for(format!("the API server has not listed yet: {}", missing.join(", ")));
        again.await;
    }
}

fn missing(env: &Environment, ledgers: &KubeStore, scopes: &[Scope]) -> Vec<&'static str> {
    let snapshots = &env.snapshots;
    let kinds = Kind::iter().filter(|kind| snapshots.objects(*kind).is_some_and(|of| !of.is_complete(scopes)));
    let resources = (!snapshots.resources.is_complete(scopes)).then_some("XmppFederation");
    let pods = (!snapshots.pods.is_complete(scopes)).then_some("Pod");
    let refusals = (!snapshots.refusals.is_complete(scopes)).then_some(EVENT);
    let ledgers = (!ledgers.is_listed()).then_some("ConfigMap with a ledger");
    resources
        .into_iter()
        .chain(pods)
        .chain(refusals)
        .chain(ledgers)
        .chain(kinds.map(Kind::as_str))
        .collect()
}

async fn work(context: Arc<Context>) {
    let queue = &context.environment.queue;
    while let Some(name) = queue.next().await {
        let again = reconcile(&context, &name).await;
        queue.done(&name, again);
        // Looks that began come to their end before others begin, each with its memory.
        tokio::task::yield_now().await;
    }
}

/// Starts all watches of one scope.
fn start(watches: &mut JoinSet<()>, feed: &Feed) {
    let env = &feed.context.environment;
    let ours = watcher::Config::default()
        .labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1))
        .page_size(PAGE);
    let all = watcher::Config::default().page_size(PAGE);
    let namespace = feed.scope.as_deref();
    let dynamic = |resource: &ApiResource| match namespace {
        Some(namespace) => Api::namespaced_with(env.client.clone(), namespace, resource),
        None => Api::all_with(env.client.clone(), resource),
    };
    let api = dynamic(&ApiResource::erase::<XmppFederation>(&()));
    watches.spawn(feed.clone().follow("XmppFederation", api, all.clone(), Feed::resource));
    for kind in Kind::iter() {
        let api = dynamic(&kind.resource());
        let take = move |feed: &Feed, event| feed.object(kind, event);
        watches.spawn(feed.clone().follow(kind.as_str(), api, ours.clone(), take));
    }
    watches.spawn(
        feed.clone()
            .follow("Pod", typed::<Pod>(env, namespace), ours, Feed::pod),
    );
    let refusals = watcher::Config::default().fields(refusals::SELECTOR).page_size(PAGE);
    let events = typed::<KubeEvent>(env, namespace);
    watches.spawn(feed.clone().follow(EVENT, events, refusals, Feed::refusal));
    // The client asks for metadata alone when the type holds nothing else.
    let secrets = typed::<PartialObjectMeta<Secret>>(env, namespace);
    let take = |feed: &Feed, event| feed.reference(Kind::Secret, event);
    watches.spawn(feed.clone().follow("Secret", secrets, all.clone(), take));
    let maps = typed::<PartialObjectMeta<ConfigMap>>(env, namespace);
    let take = |feed: &Feed, event| feed.reference(Kind::ConfigMap, event);
    watches.spawn(feed.clone().follow("ConfigMap", maps, all, take));
}

/// Starts the watch of the operator's own ConfigMaps.
fn follow_ledgers(watches: &mut JoinSet<()>, feed: Feed, ledgers: &Arc<KubeStore>) {
    let (api, config) = ledgers.watched();
    let scope = api.namespace().map(ToOwned::to_owned);
    let feed = Feed { scope, ..feed };
    let ledgers = Arc::clone(ledgers);
    let take = move |feed: &Feed, event| feed.ledger(&ledgers, event);
    watches.spawn(feed.follow("ConfigMap", api, config.page_size(PAGE), take));
}

fn typed<K>(env: &Environment, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(env.client.clone(), namespace),
        None => Api::all(env.client.clone()),
    }
}

/// Takes the events of one watch into the snapshots, and wakes whom they concern.
#[derive(Clone)]
struct Feed {
    context: Arc<Context>,
    scope: Scope,
    listed: Arc<Notify>,
    failed: Arc<Mutex<FailedWatches>>,
}

impl Feed {
    /// Follows one watch for ever.
    async fn follow<K>(
        self,
        kind: &'static str,
        api: Api<K>,
        config: watcher::Config,
        take: impl Fn(&Self, Event<K>) + Send,
    ) where
        K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    {
        let env = &self.context.environment;
        let mut events = Box::pin(watch_objects(api, config).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => take(&self, event),
                // Told after a pause that was too long: the library lists anew.
                Err(watcher::Error::WatchError(status)) if status.code == 410 => {}
                Err(error) => {
                    env.metrics.watch_errors.get_or_create(&ByKind { kind }).inc();
                    if kind == EVENT {
                        env.snapshots.refusals.list_fails(&self.scope);
                        self.listed.notify_one();
                    }
                    let namespace = self.scope.as_deref().unwrap_or("all namespaces");
                    let failed = self
                        .failed
                        .lock()
                        .failed(format!("{kind} in {namespace}"), Instant::now());
                    if let Some(watches) = failed {
                        tracing::warn!(
                            watches,
                            error = sentence_of(&error),
                            "watches fail and are tried again; check that the definition is installed and the role grants list and watch"
                        );
                    }
                }
            }
        }
    }

    fn wake(&self, names: impl IntoIterator<Item = ObjectName>) {
        for name in names {
            self.context.environment.queue.wake(name);
        }
    }

    fn resource(&self, event: Event<DynamicObject>) {
        let env = &self.context.environment;
        let snapshot = &env.snapshots.resources;
        match event {
            Event::Init => snapshot.list_begins(&self.scope),
            Event::InitApply(object) | Event::Apply(object) => {
                let name = ObjectName::of(&object);
                if env.snapshots.see_resource(object) {
                    self.wake(name);
                    self.wake_who_waits();
                }
            }
            Event::Delete(object) => {
                if let Some(name) = ObjectName::of(&object) {
                    snapshot.gone(&name, &object.resource_version().unwrap_or_default());
                    self.wake([name]);
                    self.wake_who_waits();
                }
            }
            Event::InitDone => {
                self.wake(snapshot.list_ends(&self.scope).into_iter().map(|(name, _)| name));
                self.wake_who_waits();
                self.listed.notify_one();
            }
        }
    }

    /// Resources that wait for a name that another one has.
    fn wake_who_waits(&self) {
        self.wake(
            self.context
                .environment
                .snapshots
                .resources
                .names_of(|resource| resource.waits_for_a_name),
        );
    }

    fn object(&self, kind: Kind, event: Event<DynamicObject>) {
        let snapshots = &self.context.environment.snapshots;
        if let Some(snapshot) = snapshots.objects(kind) {
            let see = |object| snapshots.see(kind, object);
            self.owned(snapshot, event, instance, see, |object| {
                object.instance.as_deref().map(ToOwned::to_owned)
            });
        }
    }

    fn pod(&self, event: Event<Pod>) {
        let snapshots = &self.context.environment.snapshots;
        let see = |pod| snapshots.see_pod(&pod);
        self.owned(&snapshots.pods, event, instance, see, |pod| Some(pod.instance.clone()));
    }

    fn refusal(&self, event: Event<KubeEvent>) {
        let snapshots = &self.context.environment.snapshots;
        let see = |event| snapshots.see_refusal(&event);
        let of = |refusal: &PodRefusal| Some(refusal.instance.clone());
        self.owned(&snapshots.refusals, event, refusals::instance, see, of);
    }

    /// Takes in an event about objects of one kind that tell a resource's name, and wakes that resource.
    fn owned<K: ResourceExt, T: PartialEq>(
        &self,
        snapshot: &Snapshot<T>,
        event: Event<K>,
        instance: impl Fn(&K) -> Option<ObjectName>,
        see: impl FnOnce(K) -> bool,
        instance_of: impl Fn(&T) -> Option<String>,
    ) {
        match event {
            Event::Init => snapshot.list_begins(&self.scope),
            Event::InitApply(object) | Event::Apply(object) => {
                let instance = instance(&object);
                if see(object) {
                    self.wake(instance);
                }
            }
            Event::Delete(object) => {
                let version = object.resource_version().unwrap_or_default();
                if ObjectName::of(&object).is_some_and(|name| snapshot.gone(&name, &version)) {
                    self.wake(instance(&object));
                }
            }
            Event::InitDone => {
                let gone = snapshot.list_ends(&self.scope).into_iter();
                self.wake(gone.filter_map(|(ObjectName { namespace, .. }, object)| {
                    let name = instance_of(&object)?;
                    Some(ObjectName { namespace, name })
                }));
                self.listed.notify_one();
            }
        }
    }

    fn ledger(&self, ledgers: &KubeStore, event: Event<ConfigMap>) {
        let listed = matches!(event, Event::InitDone);
        let env = &self.context.environment;
        for change in ledgers
            .take(event)
            .iter()
            .filter_map(|name| env.imp.ledger_changed(name))
        {
            let owners = change.owners.iter();
            self.wake(owners.map(|owner| ObjectName {
                namespace: owner.namespace.clone(),
                name: owner.name.clone(),
            }));
            if change.unreadable {
                // Whose it is may not be known.
                let resources = env.snapshots.resources.named().into_iter();
                self.wake(resources.map(|(name, _)| name));
            }
            if change.freed {
                env.cluster_freed();
            }
            env.observers.clusters.outdate(|question| {
                let desired = question.desired();
                change.unreadable
                    || change.owners.iter().any(|owner| owner.uid == desired.owner.uid)
                    || change.known_as.contains(&desired.target.publisher)
            });
        }
        if listed {
            self.listed.notify_one();
        }
    }

    fn reference<K: ResourceExt>(&self, kind: Kind, event: Event<K>) {
        let references = &self.context.environment.snapshots.references;
        match event {
            Event::Init | Event::InitApply(_) => {}
            Event::Apply(object) | Event::Delete(object) => {
                if let Some(name) = ObjectName::of(&object) {
                    references.changed(kind, name);
                }
            }
            Event::InitDone => references.listed(kind),
        }
    }
}

fn sentence_of(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => sentence(error),
        watcher::Error::WatchError(status) => sentence(&kube::Error::Api(status.clone())),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}

/// The resource that an object's label names.
fn instance(object: &impl ResourceExt) -> Option<ObjectName> {
    Some(ObjectName {
        namespace: object.namespace()?,
        name: object.labels().get(INSTANCE_LABEL)?.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_that_fail_together_are_one_line_in_a_minute_and_each_is_told_every_five() {
        let (mut failed, start) = (FailedWatches::default(), Instant::now());
        let mut told = Vec::new();
        // All but Pod are well after two minutes.
        for second in 0..660_u64 {
            for watch in ["Pod", "Secret", "Service"] {
                if second < 120 || watch == "Pod" {
                    let now = start + Duration::from_secs(second);
                    told.extend(failed.failed(watch.to_owned(), now).map(|watches| (second, watches)));
                }
            }
        }
        let told: Vec<(u64, &str)> = told
            .iter()
            .map(|(second, watches)| (*second, watches.as_str()))
            .collect();
        assert_eq!(told, [(0, "Pod"), (60, "Secret, Service"), (300, "Pod"), (600, "Pod")]);
    }
}
