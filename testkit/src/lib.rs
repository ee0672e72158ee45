//! The lab: everything around the product that a test needs and nobody ships.
//!
//! - [`lab`]: network namespaces, Kubernetes, containerd, images, the "cloud" load balancer
//! - [`imp`]: the simulated Unified CM IM and Presence cluster
//! - [`dns`]: authoritative and recursive DNS of the lab
//! - [`partner`]: real XMPP servers as federation partners, and their users
//! - [`demo`]: the acceptance scenario, step by step
//!
//! Nothing here uses the protocol code of the edge or the operator.

pub mod demo;
pub mod dns;
pub mod imp;
pub mod lab;
pub mod partner;

/// Any failure in the testkit: a sentence for the person who runs it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
