//! Ledgers as ConfigMaps in the operator's namespace, every write preconditioned on the resourceVersion
//! that was read. One that somebody deleted is a conflict: whoever writes it makes it again. A watch and the answers to
//! reads and writes feed a snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;

use super::names::ObjectName;
use super::snapshot::{Scope, Snapshot};
use crate::runtime::api_error::{ApiError, bounded};
use xmpp_federation_imp::store::{ChangeOrder, LedgerStore, StoreError, StoredText};

/// The ConfigMap's key.
const KEY: &str = "ledger.json";
/// The Secret with this installation's key, and its key.
const KEY_SECRET: &str = "xmpp-federation-imp-accounts";
const KEY_FIELD: &str = "key";
/// Marks the ConfigMaps that are ledgers.
const LABEL: &str = "xmppfederation.io/imp-ledger";

/// How long the key is used before the Secret is read again: a deleted one is made again with the same key.
const READ_KEY_AGAIN: Duration = Duration::from_mins(10);

/// How often an object is read while lists come between.
const READS: usize = 5;

/// ConfigMaps in one namespace.
pub struct KubeStore {
    namespace: String,
    /// All of them.
    scope: Scope,
    api: Api<ConfigMap>,
    texts: Snapshot<StoredText>,
    /// Held while a change is taken in, so that whoever is told of it finds it.
    changes: Mutex<ChangeOrder>,
    secrets: Api<Secret>,
    /// The key, and when its Secret was read.
    key: Mutex<Option<([u8; 32], Instant)>>,
    read_key_again: Duration,
}

impl KubeStore {
    /// Uses that namespace, which is the operator's.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            scope: Some(namespace.to_owned()),
            api: Api::namespaced(client.clone(), namespace),
            texts: Snapshot::default(),
            changes: Mutex::default(),
            secrets: Api::namespaced(client, namespace),
            key: Mutex::default(),
            read_key_again: READ_KEY_AGAIN,
        }
    }

    /// The same with another time after which the key's Secret is read again.
    #[must_use]
    pub fn reading_key_after(mut self, time: Duration) -> Self {
        self.read_key_again = time;
        self
    }

    /// What a watch has to follow; its events are for [`KubeStore::take`].
    pub fn watched(&self) -> (Api<ConfigMap>, Config) {
        (self.api.clone(), Config::default().labels(LABEL))
    }

    /// Takes in an event; the names of the texts that changed.
    pub fn take(&self, event: Event<ConfigMap>) -> Vec<String> {
        let mut changes = self.changes.lock();
        let names = self.changed_by(event);
        for name in &names {
            changes.note(name);
        }
        names
    }

    fn changed_by(&self, event: Event<ConfigMap>) -> Vec<String> {
        match event {
            Event::Init => self.texts.list_begins(&self.scope),
            Event::InitApply(map) | Event::Apply(map) => {
                let (name, stored) = (self.object(&map.name_any()), stored(map));
                if self.texts.see(&name, &stored.version.clone(), stored) {
                    return vec![name.name];
                }
            }
            Event::Delete(map) => {
                let name = self.object(&map.name_any());
                if self.texts.gone(&name, &map.resource_version().unwrap_or_default()) {
                    return vec![name.name];
                }
            }
            Event::InitDone => {
                let gone = self.texts.list_ends(&self.scope).into_iter();
                return gone.map(|(name, _)| name.name).collect();
            }
        }
        Vec::new()
    }

    /// Whether all were listed once.
    pub fn is_listed(&self) -> bool {
        self.texts.is_complete(std::slice::from_ref(&self.scope))
    }

    fn object(&self, name: &str) -> ObjectName {
        ObjectName {
            namespace: self.namespace.clone(),
            name: name.to_owned(),
        }
    }

    fn listed(&self) -> Result<(), StoreError> {
        let error = || StoreError::Unavailable("the ConfigMaps with ledgers are not listed yet".to_owned());
        self.is_listed().then_some(()).ok_or_else(error)
    }

    /// Takes in the answer to a request that was sent at that count of lists; whether it counts from now on.
    fn answered(&self, name: &str, stored: &StoredText, lists: u64) -> bool {
        let mut changes = self.changes.lock();
        changes.note(name);
        let object = self.object(name);
        self.texts.answered(&object, &stored.version, stored.clone(), lists)
    }
}

fn unavailable(what: &str, error: &ApiError) -> StoreError {
    StoreError::Unavailable(format!("{what}: {error}"))
}

fn stored(map: ConfigMap) -> StoredText {
    StoredText {
        data: map.data.and_then(|mut data| data.remove(KEY)).unwrap_or_default(),
        version: map.metadata.resource_version.unwrap_or_default(),
        uid: map.metadata.uid.unwrap_or_default(),
    }
}

impl LedgerStore for KubeStore {
    fn get(&self, name: &str) -> Result<Option<Arc<StoredText>>, StoreError> {
        self.listed()?;
        Ok(self.texts.get(&self.object(name)))
    }

    fn changed(&self, since: u64) -> Result<(u64, Vec<Arc<str>>), StoreError> {
        self.listed()?;
        Ok(self.changes.lock().since(since))
    }

    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<StoredText>, StoreError>> {
        Box::pin(async move {
            for _ in 0..READS {
                let lists = self.texts.lists();
                let map = bounded(self.api.get_opt(name)).await;
                let failed = |error| unavailable(&format!("ConfigMap {name} cannot be read"), &error);
                let Some(found) = map.map_err(failed)?.map(stored) else {
                    return Ok(None);
                };
                if self.answered(name, &found, lists) {
                    return Ok(Some(found));
                }
            }
            Err(StoreError::Unavailable(format!(
                "ConfigMap {name} is not read, because the ConfigMaps are listed again and again"
            )))
        })
    }

    fn write<'a>(
        &'a self,
        name: &'a str,
        data: String,
        expected: Option<&'a str>,
    ) -> BoxFuture<'a, Result<StoredText, StoreError>> {
        Box::pin(async move {
            let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    resource_version: expected.map(str::to_owned),
                    labels: Some(BTreeMap::from([
                        label(LABEL, "true"),
                        label("app.kubernetes.io/managed-by", "xmpp-federation-operator"),
                    ])),
                    ..ObjectMeta::default()
                },
                data: Some(BTreeMap::from([(KEY.to_owned(), data)])),
                ..ConfigMap::default()
            };
            let params = PostParams::default();
            let lists = self.texts.lists();
            let written = match expected {
                None => bounded(self.api.create(&params, &map)).await,
                Some(_) => bounded(self.api.replace(name, &params, &map)).await,
            };
            let written = written.map(stored).map_err(|error| match error.code() {
                Some(409) => StoreError::Conflict,
                // The version that was read is gone, and so is the object.
                Some(404) if expected.is_some() => StoreError::Conflict,
                _ => unavailable(&format!("ConfigMap {name} cannot be written"), &error),
            })?;
            // A list that came between may have shown what was there before: only what is read after it counts.
            if !self.answered(name, &written, lists) {
                self.read(name).await?;
            }
            Ok(written)
        })
    }

    fn key(&self) -> BoxFuture<'_, Result<[u8; 32], StoreError>> {
        Box::pin(async {
            let known = *self.key.lock();
            match known {
                Some((key, read)) if read.elapsed() < self.read_key_again => Ok(key),
                Some((key, _)) => {
                    let read = self.read_key(Some(key)).await.unwrap_or(key);
                    *self.key.lock() = Some((read, Instant::now()));
                    Ok(read)
                }
                None => {
                    let key = self.read_key(None).await?;
                    *self.key.lock() = Some((key, Instant::now()));
                    Ok(key)
                }
            }
        })
    }
}

impl KubeStore {
    /// Reads the key; makes it where there is none, as the one that is known.
    async fn read_key(&self, known: Option<[u8; 32]>) -> Result<[u8; 32], StoreError> {
        let failed = |what: &dyn std::fmt::Display| StoreError::Unavailable(format!("Secret {KEY_SECRET}: {what}"));
        // A second round finds what somebody else made meanwhile.
        for _ in 0..2 {
            let found = bounded(self.secrets.get_opt(KEY_SECRET)).await;
            if let Some(secret) = found.map_err(|error| failed(&error))? {
                return secret
                    .data
                    .and_then(|mut data| data.remove(KEY_FIELD))
                    .and_then(|bytes| bytes.0.try_into().ok())
                    .ok_or_else(|| failed(&"it holds no key of 32 bytes; delete it"));
            }
            let key = known.unwrap_or_else(rand::random);
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(KEY_SECRET.to_owned()),
                    labels: Some(BTreeMap::from([(
                        "app.kubernetes.io/managed-by".to_owned(),
                        "xmpp-federation-operator".to_owned(),
                    )])),
                    ..ObjectMeta::default()
                },
                immutable: Some(true),
                data: Some(BTreeMap::from([(KEY_FIELD.to_owned(), ByteString(key.to_vec()))])),
                ..Secret::default()
            };
            match bounded(self.secrets.create(&PostParams::default(), &secret)).await {
                Ok(_) => return Ok(key),
                Err(error) if error.code() == Some(409) => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        Err(StoreError::Conflict)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, OnceLock};

    use http::{Method, Request, Response, StatusCode};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    const NAME: &str = "xmpp-federation-imp-1";

    fn map(version: u32) -> ConfigMap {
        let object = json!({"metadata": {"name": NAME, "namespace": "operator", "uid": "1",
            "resourceVersion": version.to_string()}, "data": {KEY: format!("text {version}")}});
        serde_json::from_value(object).unwrap()
    }

    /// Its API server writes 6 over 5. While it answers the first requests, however many, a new list comes, which was
    /// made before the write.
    fn store(lists: u32) -> Arc<KubeStore> {
        let store: Arc<OnceLock<Arc<KubeStore>>> = Arc::default();
        let (of_server, left) = (Arc::clone(&store), Arc::new(AtomicU32::new(lists)));
        let service = tower::service_fn(move |request: Request<Body>| {
            let store = Arc::clone(of_server.get().unwrap());
            let step = |left: u32| left.checked_sub(1);
            if left.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).is_ok() {
                list(&store, &[5]);
            }
            let found = matches!(*request.method(), Method::GET | Method::PUT);
            let code = if found { StatusCode::OK } else { StatusCode::CREATED };
            let body = Body::from(serde_json::to_vec(&map(6)).unwrap());
            let response = Response::builder().status(code).body(body).unwrap();
            async { Ok::<_, std::convert::Infallible>(response) }
        });
        let kube = KubeStore::new(Client::new(service, "operator"), "operator");
        Arc::clone(store.get_or_init(|| Arc::new(kube)))
    }

    fn list(store: &KubeStore, versions: &[u32]) {
        store.take(Event::Init);
        for version in versions {
            store.take(Event::InitApply(map(*version)));
        }
        store.take(Event::InitDone);
    }

    fn known(store: &KubeStore) -> Option<String> {
        store.get(NAME).unwrap().map(|text| text.data.clone())
    }

    #[tokio::test]
    async fn nothing_is_known_before_the_first_list_is_complete() {
        let store = store(0);
        store.take(Event::Init);
        store.take(Event::InitApply(map(5)));
        assert!(store.get(NAME).is_err() && store.changed(0).is_err() && !store.is_listed());
        store.take(Event::InitDone);
        assert_eq!(known(&store).as_deref(), Some("text 5"));
        assert_eq!(store.changed(0).unwrap().1, [NAME.into()]);
    }

    #[tokio::test]
    async fn what_was_written_is_known_at_once_whatever_list_comes_between() {
        for lists in [0, 1, 2] {
            let store = store(lists);
            list(&store, &[5]);
            let written = store.write(NAME, "text 6".to_owned(), Some("5")).await.unwrap();
            assert_eq!(written.version, "6");
            assert_eq!(known(&store).as_deref(), Some("text 6"), "{lists} lists");
            // The watch comes behind it.
            assert_eq!(store.take(Event::Apply(map(5))), [""; 0]);
            assert_eq!(store.take(Event::Apply(map(6))), [""; 0]);
            assert_eq!(store.take(Event::Apply(map(7))), [NAME]);
            assert_eq!(known(&store).as_deref(), Some("text 7"));
        }
        // Where lists come again and again the write counts as one without an answer.
        let store = store(u32::MAX);
        list(&store, &[5]);
        assert!(store.write(NAME, "text 6".to_owned(), Some("5")).await.is_err());
    }

    #[tokio::test]
    async fn a_deletion_is_told_once_by_the_watch_or_by_a_list() {
        let store = store(0);
        list(&store, &[5]);
        assert_eq!(store.take(Event::Delete(map(6))), [NAME]);
        assert_eq!(known(&store), None);
        list(&store, &[7]);
        store.take(Event::Init);
        assert_eq!(store.take(Event::InitDone), [NAME]);
        assert_eq!(known(&store), None);
    }
}
