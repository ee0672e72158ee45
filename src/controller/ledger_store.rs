//! Ledgers as ConfigMaps in the operator's namespace, every write preconditioned on the resourceVersion
//! that was read. One that somebody deleted is a conflict: whoever writes it makes it again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::runtime::api_error::{ApiError, bounded};
use xmpp_federation_imp::store::{LedgerStore, StoreError, StoredText};

/// The ConfigMap's key.
const KEY: &str = "ledger.json";
/// The Secret with this installation's key, and its key.
const KEY_SECRET: &str = "xmpp-federation-imp-accounts";
const KEY_FIELD: &str = "key";
/// Marks the ConfigMaps that are ledgers.
const LABEL: &str = "xmppfederation.io/imp-ledger";

/// How long the key is used before the Secret is read again: a deleted one is made again with the same key.
const READ_KEY_AGAIN: Duration = Duration::from_mins(10);

/// ConfigMaps in one namespace.
pub struct KubeStore {
    api: Api<ConfigMap>,
    secrets: Api<Secret>,
    /// The key, and when its Secret was read.
    key: Mutex<Option<([u8; 32], Instant)>>,
    read_key_again: Duration,
}

impl KubeStore {
    /// Uses that namespace, which is the operator's.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client.clone(), namespace),
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
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<StoredText>, StoreError>> {
        Box::pin(async move {
            let map = bounded(self.api.get_opt(name)).await;
            let failed = |error| unavailable(&format!("ConfigMap {name} cannot be read"), &error);
            Ok(map.map_err(failed)?.map(stored))
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
            let written = match expected {
                None => bounded(self.api.create(&params, &map)).await,
                Some(_) => bounded(self.api.replace(name, &params, &map)).await,
            };
            written.map(stored).map_err(|error| match error.code() {
                Some(409) => StoreError::Conflict,
                // The version that was read is gone, and so is the object.
                Some(404) if expected.is_some() => StoreError::Conflict,
                _ => unavailable(&format!("ConfigMap {name} cannot be written"), &error),
            })
        })
    }

    fn names(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(async move {
            let params = ListParams::default().labels(LABEL);
            let maps = bounded(self.api.list_metadata(&params)).await;
            let maps = maps.map_err(|error| unavailable("the ConfigMaps with ledgers cannot be listed", &error))?;
            Ok(maps.items.into_iter().filter_map(|map| map.metadata.name).collect())
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
