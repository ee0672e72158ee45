//! Where ledgers live: ConfigMaps in the operator's namespace, every write preconditioned on the
//! resourceVersion that was read.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};

use super::{Ledger, SCHEMA};

/// The ConfigMap's key.
const KEY: &str = "ledger.json";
/// The Secret with this installation's key, and its key.
const KEY_SECRET: &str = "xmpp-federation-imp-accounts";
const KEY_FIELD: &str = "key";
/// Marks the ConfigMaps that are ledgers.
const LABEL: &str = "xmppfederation.io/imp-ledger";

/// A stored text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The text; empty where the object has none.
    pub data: String,
    /// The version to name when writing.
    pub version: String,
    /// Identity of the object: one that was restored has another.
    pub uid: String,
}

/// Why a text could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote since.
    #[error("it was changed by somebody else meanwhile; it is read again")]
    Conflict,
    /// Anything else.
    #[error("{0}")]
    Unavailable(String),
}

/// Named texts with optimistic locking.
pub trait LedgerStore: Send + Sync {
    /// Reads one; `None` where there is none.
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Stored>, StoreError>>;
    /// Creates one (`expected` is `None`) or replaces the version that is named.
    fn write<'a>(
        &'a self,
        name: &'a str,
        data: String,
        expected: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Stored, StoreError>>;
    /// The names of all.
    fn names(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>>;
    /// A random key of this installation, made where there is none, and kept as a secret.
    fn key(&self) -> BoxFuture<'_, Result<[u8; 32], StoreError>>;
}

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

fn stored(map: ConfigMap) -> Stored {
    Stored {
        data: map.data.and_then(|mut data| data.remove(KEY)).unwrap_or_default(),
        version: map.metadata.resource_version.unwrap_or_default(),
        uid: map.metadata.uid.unwrap_or_default(),
    }
}

impl LedgerStore for KubeStore {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Stored>, StoreError>> {
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
    ) -> BoxFuture<'a, Result<Stored, StoreError>> {
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

/// A ledger with what is needed to write it back.
#[derive(Debug, Clone)]
pub struct LedgerFile {
    /// The ledger as it was read or written last.
    pub ledger: Ledger,
    name: String,
    stored: Option<Stored>,
}

/// The text: a ledger knows the object it was written into.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wrapped {
    uid: String,
    ledger: Ledger,
}

/// What the names of ledgers start with.
const PREFIX: &str = "xmpp-federation-imp-";

/// Name of a publisher's ledger.
pub fn ledger_name(publisher: &str) -> String {
    format!("{PREFIX}{publisher}")
}

/// The publisher's pkid in a ledger's name.
pub fn publisher_of(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
        .filter(|rest| rest.parse::<crate::imp::pkid::Pkid>().is_ok())
}

impl LedgerFile {
    /// Reads the ledger of the publisher with that pkid. One that is absent is unknown; one that
    /// was restored into another object keeps its rows and proves nothing.
    pub async fn load(store: &dyn LedgerStore, publisher: &str) -> Result<Self, StoreError> {
        let name = ledger_name(publisher);
        let stored = store.read(&name).await?;
        let ledger = match &stored {
            Some(stored) if !stored.data.is_empty() => parse(&name, stored)?,
            _ => Ledger::unknown(publisher),
        };
        Ok(Self { ledger, name, stored })
    }

    /// Whether both are the same version of the same object.
    pub fn is_version_of(&self, other: &Self) -> bool {
        let version = |file: &Self| {
            let stored = file.stored.as_ref();
            stored.map(|stored| (stored.uid.clone(), stored.version.clone()))
        };
        self.name == other.name && version(self) == version(other)
    }

    /// Writes a changed ledger; on success it is the one in here.
    pub async fn save(&mut self, store: &dyn LedgerStore, ledger: Ledger) -> Result<(), StoreError> {
        let at = match &self.stored {
            Some(stored) => stored.clone(),
            // First the object, for its uid.
            None => store.write(&self.name, String::new(), None).await?,
        };
        self.stored = Some(at.clone());
        let wrapped = Wrapped { uid: at.uid, ledger };
        let text = serde_json::to_string(&wrapped).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        self.stored = Some(store.write(&self.name, text, Some(&at.version)).await?);
        self.ledger = wrapped.ledger;
        Ok(())
    }
}

fn parse(name: &str, stored: &Stored) -> Result<Ledger, StoreError> {
    #[derive(Deserialize)]
    struct SchemaOnly {
        ledger: Schema,
    }
    #[derive(Deserialize)]
    struct Schema {
        schema: u32,
    }
    let unreadable = |error: &serde_json::Error| {
        StoreError::Unavailable(format!(
            "ConfigMap {name} is not readable ({error}); restore it, or delete it: rows in IM&P are then foreign and have to be adopted by annotation"
        ))
    };
    let schema: SchemaOnly = serde_json::from_str(&stored.data).map_err(|error| unreadable(&error))?;
    if schema.ledger.schema > SCHEMA {
        return Err(StoreError::Unavailable(format!(
            "ConfigMap {name} was written by a newer release (schema {}, this one knows {SCHEMA}); run that release",
            schema.ledger.schema
        )));
    }
    let wrapped: Wrapped = serde_json::from_str(&stored.data).map_err(|error| unreadable(&error))?;
    let mut ledger = wrapped.ledger;
    if wrapped.uid != stored.uid {
        ledger.distrust();
    }
    Ok(ledger)
}
