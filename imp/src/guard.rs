//! Whether something may still be done to IM&P.

use futures::future::BoxFuture;

use crate::desired::Desired;

/// Asked right before each INSERT, DELETE, adoption and restart, because the resource may have changed since it was read.
pub trait Guard: Send + Sync {
    /// Why it must not be done, as a sentence.
    fn ask<'a>(&'a self, desired: &'a Desired, restart: bool) -> BoxFuture<'a, Result<(), String>>;
}
