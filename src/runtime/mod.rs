//! What surrounds the reconcile: leadership, health, metrics, logging.

pub mod health;
pub mod lease;
pub mod logging;
pub mod metrics;
