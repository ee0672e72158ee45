//! Counts for metrics.

/// Counts what is done to IM&P; words come from small fixed sets.
pub trait Counter: Send + Sync {
    /// A call, with its operation and its outcome (`ok`, or a word of [`CallErrorKind::word`]).
    fn called(&self, operation: &'static str, outcome: &'static str);
    /// A restart was commanded on a node, for this cause.
    fn restarted(&self, node: &str, cause: &'static str);
    /// Something was done, with the words of [`super::audit`].
    fn acted(&self, action: &'static str, outcome: &'static str);
}

impl Counter for Uncounted {
    fn called(&self, _: &'static str, _: &'static str) {}
    fn restarted(&self, _: &str, _: &'static str) {}
    fn acted(&self, _: &'static str, _: &'static str) {}
}

/// Counts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Uncounted;
