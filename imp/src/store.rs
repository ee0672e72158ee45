//! Where ledgers live: named texts, every write preconditioned on the version that was read. What they are is known at
//! each moment without asking.

use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// It is there and is no ledger for this release: only a person can do something about it.
    #[error("{0}")]
    Unreadable(String),
    /// Anything else.
    #[error("{0}")]
    Unavailable(String),
}

/// Named texts with optimistic locking.
///
/// What [`LedgerStore::get`] and [`LedgerStore::all`] give is never older than what a write or a read of this process was
/// answered before. Until all texts are known they are errors, so that nobody takes "not seen yet" for "there is none".
pub trait LedgerStore: Send + Sync {
    /// One as it is known now; `None` where there is none.
    ///
    /// # Errors
    /// It is not known yet.
    fn get(&self, name: &str) -> Result<Option<Arc<StoredText>>, StoreError>;
    /// All that are known now, by name.
    ///
    /// # Errors
    /// They are not known yet.
    fn all(&self) -> Result<Vec<(String, Arc<StoredText>)>, StoreError>;
    /// Reads one anew; `None` where there is none.
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<StoredText>, StoreError>>;
    /// Creates one (`expected` is `None`) or replaces the version that is named.
    fn write<'a>(
        &'a self,
        name: &'a str,
        data: String,
        expected: Option<&'a str>,
    ) -> BoxFuture<'a, Result<StoredText, StoreError>>;
    /// A random key of this installation, made where there is none, and kept as a secret. It is asked for at each
    /// use, so the store remembers it.
    fn key(&self) -> BoxFuture<'_, Result<[u8; 32], StoreError>>;
}

/// Texts in memory, with versions and identities as an API server gives them.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Texts>);

#[derive(Debug, Default)]
struct Texts {
    by_name: BTreeMap<String, Arc<StoredText>>,
    last_version: u64,
}

impl MemoryStore {
    /// Removes all; an object that is made anew has another identity.
    pub fn clear(&self) {
        self.0.lock().by_name.clear();
    }
}

impl LedgerStore for MemoryStore {
    fn get(&self, name: &str) -> Result<Option<Arc<StoredText>>, StoreError> {
        Ok(self.0.lock().by_name.get(name).cloned())
    }

    fn all(&self) -> Result<Vec<(String, Arc<StoredText>)>, StoreError> {
        let texts = self.0.lock();
        Ok(texts
            .by_name
            .iter()
            .map(|(name, text)| (name.clone(), Arc::clone(text)))
            .collect())
    }

    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<StoredText>, StoreError>> {
        Box::pin(async move { Ok(self.get(name)?.map(|text| (*text).clone())) })
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
            texts.by_name.insert(name.to_owned(), Arc::new(stored.clone()));
            Ok(stored)
        })
    }

    fn key(&self) -> BoxFuture<'_, Result<[u8; 32], StoreError>> {
        // Nothing that it protects outlives the process.
        Box::pin(async { Ok([0; 32]) })
    }
}
