//! Ledgers as ConfigMaps in the operator's namespace, every write preconditioned on the resourceVersion
//! that was read.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use xmpp_federation_imp::store::{LedgerStore, StoreError, StoredText};

/// The ConfigMap's key.
const KEY: &str = "ledger.json";
/// The Secret with this installation's key, and its key.
const KEY_SECRET: &str = "xmpp-federation-imp-accounts";
const KEY_FIELD: &str = "key";
/// Marks the ConfigMaps that are ledgers.
const LABEL: &str = "xmppfederation.io/imp-ledger";

/// ConfigMaps in one namespace.
#[derive(Clone)]
pub struct KubeStore {
    api: Api<ConfigMap>,
    secrets: Api<Secret>,
}

impl KubeStore {
    /// Uses that namespace, which is the operator's.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client.clone(), namespace),
            secrets: Api::namespaced(client, namespace),
        }
    }
}

fn unavailable(error: &kube::Error) -> StoreError {
    match error {
        kube::Error::Api(status) if status.code == 409 => StoreError::Conflict,
        other => StoreError::Unavailable(format!("the ledger's ConfigMap: {other}")),
    }
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
            let map = self.api.get_opt(name).await.map_err(|error| unavailable(&error))?;
            Ok(map.map(stored))
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
                None => self.api.create(&params, &map).await,
                Some(_) => self.api.replace(name, &params, &map).await,
            };
            written.map(stored).map_err(|error| unavailable(&error))
        })
    }

    fn names(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(async move {
            let maps = self
                .api
                .list_metadata(&ListParams::default().labels(LABEL))
                .await
                .map_err(|error| unavailable(&error))?;
            Ok(maps.items.into_iter().filter_map(|map| map.metadata.name).collect())
        })
    }

    fn key(&self) -> BoxFuture<'_, Result<[u8; 32], StoreError>> {
        Box::pin(self.read_key())
    }
}

impl KubeStore {
    /// Reads the key; makes it where there is none.
    async fn read_key(&self) -> Result<[u8; 32], StoreError> {
        let failed = |what: &dyn std::fmt::Display| StoreError::Unavailable(format!("Secret {KEY_SECRET}: {what}"));
        // A second round finds what somebody else made meanwhile.
        for _ in 0..2 {
            let found = self.secrets.get_opt(KEY_SECRET).await;
            if let Some(secret) = found.map_err(|error| failed(&error))? {
                return secret
                    .data
                    .and_then(|mut data| data.remove(KEY_FIELD))
                    .and_then(|bytes| bytes.0.try_into().ok())
                    .ok_or_else(|| failed(&"it holds no key of 32 bytes; delete it"));
            }
            let key: [u8; 32] = rand::random();
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
            match self.secrets.create(&PostParams::default(), &secret).await {
                Ok(_) => return Ok(key),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        Err(StoreError::Conflict)
    }
}
