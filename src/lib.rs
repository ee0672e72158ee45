//! Kubernetes operator for XMPP federation of Cisco Unified CM IM and Presence.
//!
//! - [`api`]: the resource, its status, conditions, reasons and CRD
//! - [`controller`]: one reconcile: dereference, validate, build, apply, effects, status, delete
//! - [`secrets`], [`tls`]: dialback secret; own authority and what any certificate says
//! - [`records`]: public DNS records as a stranger sees them
//! - [`edges`]: what is asked of running edge pods
//! - [`backoff`]: waits that grow
//! - [`runtime`]: lease, health, metrics, logging

pub mod api;
mod backoff;
pub mod controller;
pub mod edges;
mod records;
pub mod runtime;
mod secrets;
mod tls;
