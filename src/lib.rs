//! Kubernetes operator for XMPP federation of Unified CM IM and Presence.

pub mod edges;
pub mod imp;
pub mod records;
pub mod runtime;
pub mod secrets;
pub mod tls;
