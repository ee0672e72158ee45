//! What every program of the lab shares: its error, the clock of its records, the signal to stop, inboxes, XML.

pub mod inbox;
pub mod xml;

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
