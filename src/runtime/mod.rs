//! What surrounds the reconcile: leadership, health, metrics, logging.

pub mod api_error;
pub mod health;
pub mod leadership;
pub mod lease;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod platform;
pub mod preflight_file;
