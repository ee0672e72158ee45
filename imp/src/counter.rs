//! Counts for metrics.

use crate::records::{ActionKind, Outcome};

/// Counts what is done to IM&P; words come from small fixed sets.
pub trait Counter: Send + Sync {
    /// A call, with its operation and its outcome (`ok`, or a word of [`CallErrorKind::word`]).
    fn called(&self, operation: &'static str, outcome: &'static str);
    /// A restart was commanded on a node, for this cause.
    fn restarted(&self, node: &str, cause: &'static str);
    /// Something was done.
    fn acted(&self, action: ActionKind, outcome: Outcome);
}

impl Counter for Uncounted {
    fn called(&self, _: &'static str, _: &'static str) {}
    fn restarted(&self, _: &str, _: &'static str) {}
    fn acted(&self, _: ActionKind, _: Outcome) {}
}

/// Counts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Uncounted;
