//! What a user received, in order, with waiting for more.

use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// One received stanza.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Received {
    /// Counts from 1.
    pub seq: u64,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// The stanza as XML.
    pub stanza: String,
}

/// A list that only grows.
#[derive(Debug)]
pub struct Inbox {
    entries: Mutex<Vec<Received>>,
    newest: watch::Sender<u64>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            newest: watch::Sender::new(0),
        }
    }
}

impl Inbox {
    /// Adds a stanza and wakes those who wait.
    pub fn push(&self, stanza: String) {
        let mut entries = self.entries.lock();
        let seq = entries.len() as u64 + 1;
        entries.push(Received {
            seq,
            at_ms: crate::now_ms(),
            stanza,
        });
        self.newest.send_replace(seq);
    }

    /// Everything after `seq`; waits up to `wait` for the first of it.
    pub async fn after(&self, seq: u64, wait: Duration) -> Vec<Received> {
        let mut newest = self.newest.subscribe();
        // A time-out is an answer too: nothing came.
        let _ = tokio::time::timeout(wait, newest.wait_for(|newest| *newest > seq)).await;
        let entries = self.entries.lock();
        let skip = usize::try_from(seq).unwrap_or(usize::MAX);
        entries.iter().skip(skip).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_waiting_reader_gets_what_comes_and_nothing_older() {
        let inbox = Arc::new(Inbox::default());
        inbox.push("<a/>".into());
        let waiting = tokio::spawn({
            let inbox = Arc::clone(&inbox);
            async move { inbox.after(1, Duration::from_secs(10)).await }
        });
        tokio::task::yield_now().await;
        inbox.push("<b/>".into());
        let came = waiting.await.expect("the reader ends");
        assert_eq!(came.len(), 1);
        assert_eq!((came[0].seq, came[0].stanza.as_str()), (2, "<b/>"));
        assert_eq!(inbox.after(0, Duration::ZERO).await.len(), 2);
        assert!(inbox.after(2, Duration::from_millis(5)).await.is_empty());
    }
}
