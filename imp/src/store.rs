//! Where ledgers live: named texts, every write preconditioned on the version that was read.

use futures::future::BoxFuture;

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
