//! Faults that tests switch on: which exist, where they apply, and how often.

use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// Every fault by name.
pub const NAMES: [&str; 16] = [
    "axl-401",
    "axl-403",
    "axl-503",
    "axl-599",
    "axl-fault",
    "axl-timeout",
    "axl-reply-lost",
    "cc-401",
    "cc-403",
    "cc-fault",
    "cc-rate",
    "cc-timeout",
    "cc-reply-lost",
    "restart-refused",
    "restart-hangs",
    "router-down",
];

/// Where and how often a fault applies.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultOptions {
    /// Only at this node; absent: at all.
    pub node: Option<String>,
    /// How many times; absent: until removed.
    pub count: Option<u64>,
    /// Only for this operation: its name (`executeSQLUpdate`), the first word of the SQL (`INSERT`) or the control
    /// type (`Restart`); absent: for all.
    pub operation: Option<String>,
    /// For `axl-fault` and `restart-refused`: the code to answer with.
    pub code: Option<i64>,
    /// For `axl-fault` and `cc-fault`: the text to answer with.
    pub message: Option<String>,
}

/// The faults switched on.
#[derive(Debug, Default)]
pub struct Faults(Mutex<BTreeMap<String, FaultOptions>>);

impl Faults {
    /// Switches one on, replacing what was set before under that name.
    pub fn set(&self, name: &str, options: FaultOptions) -> Result<(), String> {
        if !NAMES.contains(&name) {
            return Err(format!(
                "there is no fault `{name}`; there are {}",
                NAMES.join(", ")
            ));
        }
        self.lock().insert(name.into(), options);
        Ok(())
    }

    /// Switches one off; tells whether it was on.
    pub fn remove(&self, name: &str) -> bool {
        self.lock().remove(name).is_some()
    }

    /// What is on.
    pub fn list(&self) -> BTreeMap<String, FaultOptions> {
        self.lock().clone()
    }

    /// Whether the fault strikes here and now; counts it down when it does.
    pub fn strike(&self, name: &str, node: &str, operations: &[&str]) -> Option<FaultOptions> {
        let mut faults = self.lock();
        let options = faults.get_mut(name)?;
        if options.node.as_deref().is_some_and(|only| only != node) {
            return None;
        }
        if let Some(only) = &options.operation
            && !operations
                .iter()
                .any(|operation| operation.eq_ignore_ascii_case(only))
        {
            return None;
        }
        match &mut options.count {
            Some(0) => return None,
            Some(count) => *count -= 1,
            None => {}
        }
        Some(options.clone())
    }

    /// Whether the fault is on at this node, without counting it down.
    pub fn is_on(&self, name: &str, node: &str) -> bool {
        self.lock()
            .get(name)
            .is_some_and(|options| options.node.as_deref().is_none_or(|only| only == node))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, FaultOptions>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
