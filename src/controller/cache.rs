//! What this process remembers of each resource between two reconciles. Nothing in a cache is needed
//! for correctness: an operator that has just started reads it anew.

use std::collections::HashMap;

use parking_lot::Mutex;

/// What one module remembers, by the UID of the resource.
#[derive(Debug, Default)]
pub struct Cache<T>(Mutex<HashMap<String, T>>);

impl<T: Default> Cache<T> {
    /// Reads or changes what is remembered of a resource.
    pub fn with<R>(&self, uid: &str, change: impl FnOnce(&mut T) -> R) -> R {
        change(self.0.lock().entry(uid.to_owned()).or_default())
    }

    /// Forgets a resource that is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}
