//! What can be seen of a running edge, and by whom.
//!
//! - [`registry`], [`links`], [`failures`]: what is open, and what fails right now
//! - [`metrics`]: what is counted; [`returned`]: what came back over a link that is up
//! - [`trace`]: what is said on streams, to those who watch; [`log_rate`]: a peer fills no log

pub mod failures;
pub mod links;
pub(crate) mod log_rate;
pub mod metrics;
pub mod registry;
pub mod returned;
pub mod trace;
