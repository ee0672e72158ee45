//! The lab: everything around the product that a test needs and nobody ships.
//!
//! - [`lab`]: network namespaces, Kubernetes, containerd, images, the "cloud" load balancer
//! - [`imp`]: the simulated Unified CM IM and Presence cluster
//! - [`dns`]: authoritative and recursive DNS of the lab
//! - [`partner`]: real XMPP servers as federation partners, and their users
//! - [`load`]: the benchmark of servers, the edge among them
//! - [`demo`]: the acceptance scenario, step by step
//!
//! Nothing here uses the protocol code of the edge or the operator.

pub mod demo;
pub mod dns;
pub mod imp;
pub mod lab;
pub mod load;
pub mod partner;

/// Any failure in the testkit: a sentence for the person who runs it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Milliseconds since 1970, as in every record that the lab's processes keep.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Completes when the process is asked to stop: SIGTERM or SIGINT.
pub async fn stop_asked() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        // Without the handler the signal's default action ends the process.
        Err(_) => std::future::pending().await,
    }
}
