//! Faults that tests switch on: which exist, where they apply, and how often.

use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Every fault by name.
///
/// | name | what happens |
/// |---|---|
/// | `…-401`, `…-403`, `…-404`, `…-500`, `…-503`, `axl-599` | that HTTP status with an HTML page; nothing is executed. `seconds` of a 503: its `Retry-After` |
/// | `…-fault` | a SOAP fault with `code`, `message` and, for AXL, the [`FaultForm`]; nothing is executed |
/// | `cc-rate` | the fault of an exceeded rate |
/// | `…-timeout` | no answer, and nothing is executed |
/// | `…-late` | no answer, and what was asked for is executed after `seconds` |
/// | `…-reply-lost` | executed, and the connection closes without an answer |
/// | `…-reset` | executed, and the connection breaks in the middle of the answer |
/// | `…-drip` | executed, and the answer comes a byte at a time, five a second |
/// | `…-huge` | executed, and the answer is 100 MB long |
/// | `…-html`, `…-truncated`, `…-dtd` | executed, and the answer is a web page, ends early, has a DTD with an entity |
/// | `…-namespaces`, `…-prefixes` | executed, and the answer has other namespaces, other prefixes and CDATA sections |
/// | `axl-empty-return`, `axl-rows-missing` | the answer has no rows, or lacks its last one |
/// | `axl-columns`, `axl-names` | rows have further columns; the last row's `name` is `message` |
/// | `axl-rows-updated` | executed, and `rowsUpdated` says `code` |
/// | `axl-other-table` | the component table has the other of its two names |
/// | `cc-up-time` | every `UpTime` is `message` |
/// | `restart-refused`, `restart-hangs`, `router-down` | at the XCP router |
/// | `tcp-closed` | connections close before anything is said |
/// | `tls-old` | TLS 1.0 only |
/// | `tls-expired`, `tls-other-name`, `tls-self-signed` | a certificate that has expired, that is another host's, that is its own CA and has a common name only |
pub const NAMES: [&str; 51] = [
    "axl-401",
    "axl-403",
    "axl-404",
    "axl-500",
    "axl-503",
    "axl-599",
    "axl-fault",
    "axl-timeout",
    "axl-late",
    "axl-reply-lost",
    "axl-reset",
    "axl-drip",
    "axl-huge",
    "axl-html",
    "axl-truncated",
    "axl-dtd",
    "axl-namespaces",
    "axl-prefixes",
    "axl-empty-return",
    "axl-rows-missing",
    "axl-columns",
    "axl-names",
    "axl-rows-updated",
    "axl-other-table",
    "cc-401",
    "cc-403",
    "cc-404",
    "cc-500",
    "cc-503",
    "cc-fault",
    "cc-rate",
    "cc-timeout",
    "cc-late",
    "cc-reply-lost",
    "cc-reset",
    "cc-drip",
    "cc-huge",
    "cc-html",
    "cc-truncated",
    "cc-dtd",
    "cc-namespaces",
    "cc-prefixes",
    "cc-up-time",
    "restart-refused",
    "restart-hangs",
    "router-down",
    "tcp-closed",
    "tls-old",
    "tls-expired",
    "tls-other-name",
    "tls-self-signed",
];

/// Where and how often a fault applies.
#[derive(Debug, Clone, Default)]
pub struct FaultOptions {
    /// Only at this node; absent: at all.
    pub node: Option<String>,
    /// How many times; absent: until removed.
    pub count: Option<u64>,
    /// How many requests that it applies to are let pass first.
    pub after: u64,
    /// Only for this operation: its name (`executeSQLUpdate`), the first word of the SQL (`INSERT`), that word and the
    /// table (`SELECT processnode`), or the control type (`Restart`); absent: for all.
    pub operation: Option<String>,
    /// For `axl-fault` and `restart-refused`: the code to answer with; for `axl-rows-updated`: the number.
    pub code: Option<i64>,
    /// For `axl-fault` and `cc-fault`: the text to answer with; for `axl-names` and `cc-up-time`: the value.
    pub message: Option<String>,
    /// For `axl-fault`.
    pub form: FaultForm,
    /// For `…-503`: its `Retry-After`; for `…-late`: the delay. Absent: none, and one second.
    pub seconds: Option<u64>,
}

impl FaultOptions {
    /// The next time only.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.count = Some(1);
        self
    }

    /// Only for this operation.
    #[must_use]
    pub fn of(mut self, operation: &str) -> Self {
        self.operation = Some(operation.to_owned());
        self
    }

    /// Only at this node.
    #[must_use]
    pub fn at(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }
}

/// The forms that AXL's faults have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FaultForm {
    /// `axlError` without a namespace.
    #[default]
    Unqualified,
    /// `axlError` and its children in AXL's namespace.
    Qualified,
    /// No detail at all.
    Bare,
}

/// The faults switched on.
#[derive(Debug, Default)]
pub struct Faults(
    Mutex<BTreeMap<String, FaultOptions>>,
    /// How often each of them struck.
    Mutex<BTreeMap<String, u64>>,
);

impl Faults {
    /// Switches one on, replacing what was set before under that name.
    pub fn set(&self, name: &str, options: FaultOptions) -> Result<(), String> {
        if !NAMES.contains(&name) {
            return Err(format!("there is no fault `{name}`; there are {}", NAMES.join(", ")));
        }
        self.0.lock().insert(name.into(), options);
        Ok(())
    }

    /// Switches one off; tells whether it was on.
    pub fn remove(&self, name: &str) -> bool {
        self.0.lock().remove(name).is_some()
    }

    /// Whether the fault strikes here and now; counts it down when it does.
    pub fn strike(&self, name: &str, node: &str, operations: &[&str]) -> Option<FaultOptions> {
        let mut faults = self.0.lock();
        let options = faults.get_mut(name)?;
        if options.node.as_deref().is_some_and(|only| only != node) {
            return None;
        }
        if let Some(only) = &options.operation
            && !operations.iter().any(|operation| operation.eq_ignore_ascii_case(only))
        {
            return None;
        }
        if options.after > 0 {
            options.after -= 1;
            return None;
        }
        match &mut options.count {
            Some(0) => return None,
            Some(count) => *count -= 1,
            None => {}
        }
        let options = options.clone();
        drop(faults);
        let mut struck = self.1.lock();
        *struck.entry(name.into()).or_default() += 1;
        Some(options)
    }

    /// How often that fault struck.
    pub fn struck(&self, name: &str) -> u64 {
        let struck = self.1.lock();
        struck.get(name).copied().unwrap_or_default()
    }

    /// Whether the fault is on at this node, without counting it down.
    pub fn is_on(&self, name: &str, node: &str) -> bool {
        self.0
            .lock()
            .get(name)
            .is_some_and(|options| options.node.as_deref().is_none_or(|only| only == node))
    }
}
