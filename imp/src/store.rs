//! Where ledgers live: named texts, every write preconditioned on the version that was read.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use parking_lot::Mutex;

/// A stored text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredText {
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
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<StoredText>, StoreError>>;
    /// Creates one (`expected` is `None`) or replaces the version that is named.
    fn write<'a>(
        &'a self,
        name: &'a str,
        data: String,
        expected: Option<&'a str>,
    ) -> BoxFuture<'a, Result<StoredText, StoreError>>;
    /// The names of all.
    fn names(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>>;
    /// A random key of this installation, made where there is none, and kept as a secret. It is asked for at each
    /// use, so the store remembers it.
    fn key(&self) -> BoxFuture<'_, Result<[u8; 32], StoreError>>;
}

/// Texts in memory, with versions and identities as an API server gives them.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Texts>);

#[derive(Debug, Default)]
struct Texts {
    by_name: BTreeMap<String, StoredText>,
    last_version: u64,
}

impl MemoryStore {
    /// Removes all; an object that is made anew has another identity.
    pub fn clear(&self) {
        self.0.lock().by_name.clear();
    }
}

impl LedgerStore for MemoryStore {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<StoredText>, StoreError>> {
        Box::pin(async move { Ok(self.0.lock().by_name.get(name).cloned()) })
    }

    fn write<'a>(
        &'a self,
        name: &'a str,
        data: String,
        expected: Option<&'a str>,
    ) -> BoxFuture<'a, Result<StoredText, StoreError>> {
        Box::pin(async move {
            let mut texts = self.0.lock();
            let current = texts.by_name.get(name);
            if current.map(|stored| stored.version.as_str()) != expected {
                return Err(StoreError::Conflict);
            }
            let version = (texts.last_version + 1).to_string();
            let uid = current.map_or_else(|| format!("uid-{version}"), |stored| stored.uid.clone());
            let stored = StoredText { data, version, uid };
            texts.last_version += 1;
            texts.by_name.insert(name.to_owned(), stored.clone());
            Ok(stored)
        })
    }

    fn names(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(async move { Ok(self.0.lock().by_name.keys().cloned().collect()) })
    }

    fn key(&self) -> BoxFuture<'_, Result<[u8; 32], StoreError>> {
        // Nothing that it protects outlives the process.
        Box::pin(async { Ok([0; 32]) })
    }
}
