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
/// What [`LedgerStore::get`] gives is never older than what a write or a read of this process was
/// answered before. Until all texts are known they are errors, so that nobody takes "not seen yet" for "there is none".
pub trait LedgerStore: Send + Sync {
    /// One as it is known now; `None` where there is none.
    ///
    /// # Errors
    /// It is not known yet.
    fn get(&self, name: &str) -> Result<Option<Arc<StoredText>>, StoreError>;
    /// How many changes of texts there were, and the names of those that were made, changed or deleted after the first
    /// `since` of them: all that ever were where that is 0.
    ///
    /// # Errors
    /// They are not known yet.
    fn changed(&self, since: u64) -> Result<(u64, Vec<Arc<str>>), StoreError>;
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

/// The order in which texts changed, each by its last change.
#[derive(Debug, Default)]
pub struct ChangeOrder {
    count: u64,
    by_name: BTreeMap<Arc<str>, u64>,
    by_count: BTreeMap<u64, Arc<str>>,
}

impl ChangeOrder {
    /// The text of that name changed.
    pub fn note(&mut self, name: &str) {
        self.count += 1;
        let name = match self.by_name.remove_entry(name) {
            Some((name, before)) => {
                self.by_count.remove(&before);
                name
            }
            None => Arc::from(name),
        };
        self.by_name.insert(Arc::clone(&name), self.count);
        self.by_count.insert(self.count, name);
    }

    /// The answer to [`LedgerStore::changed`].
    pub fn since(&self, count: u64) -> (u64, Vec<Arc<str>>) {
        let newer = self.by_count.range(count.saturating_add(1)..);
        (self.count, newer.map(|(_, name)| Arc::clone(name)).collect())
    }
}

/// Texts in memory, with versions and identities as an API server gives them.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Texts>);

#[derive(Debug, Default)]
struct Texts {
    by_name: BTreeMap<String, Arc<StoredText>>,
    last_version: u64,
    changes: ChangeOrder,
}

impl MemoryStore {
    /// Removes all; an object that is made anew has another identity.
    pub fn clear(&self) {
        let texts = &mut *self.0.lock();
        for name in std::mem::take(&mut texts.by_name).keys() {
            texts.changes.note(name);
        }
    }

    /// Removes that one.
    pub fn remove(&self, name: &str) {
        let texts = &mut *self.0.lock();
        texts.by_name.remove(name);
        texts.changes.note(name);
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<(String, Arc<StoredText>)> {
        let texts = self.0.lock();
        let all = texts.by_name.iter();
        all.map(|(name, text)| (name.clone(), Arc::clone(text))).collect()
    }
}

impl LedgerStore for MemoryStore {
    fn get(&self, name: &str) -> Result<Option<Arc<StoredText>>, StoreError> {
        Ok(self.0.lock().by_name.get(name).cloned())
    }

    fn changed(&self, since: u64) -> Result<(u64, Vec<Arc<str>>), StoreError> {
        Ok(self.0.lock().changes.since(since))
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
            texts.changes.note(name);
            texts.by_name.insert(name.to_owned(), Arc::new(stored.clone()));
            Ok(stored)
        })
    }

    fn key(&self) -> BoxFuture<'_, Result<[u8; 32], StoreError>> {
        // Nothing that it protects outlives the process.
        Box::pin(async { Ok([0; 32]) })
    }
}
