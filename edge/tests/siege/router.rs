//! A router that reads as fast as a router can: it echoes pings, and tells when the partner's
//! stanzas come.

use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{PATIENCE, Speaker};

/// The id of the partner's stanzas; as long as the beginning of a ping's.
pub const MARK: &[u8] = b"id='marks'";
const PING: &[u8] = b"id='proof-";

/// The router's end of a link.
pub struct Sink {
    marks: mpsc::UnboundedReceiver<()>,
    bytes: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Sink {
    pub fn start(link: Speaker) -> Self {
        let (mut io, heard) = link.into_parts();
        assert_eq!(heard, "");
        let (tell, marks) = mpsc::unbounded_channel();
        let bytes = std::sync::Arc::<std::sync::atomic::AtomicU64>::default();
        let count = bytes.clone();
        tokio::spawn(async move {
            let mut held = vec![0; 256 * 1024];
            let mut filled = 0;
            while let Ok(read) = io.read(&mut held[filled..]).await
                && read > 0
            {
                filled += read;
                count.fetch_add(read as u64, std::sync::atomic::Ordering::Relaxed);
                // What has begun and not ended waits for the rest.
                let begun = memchr::memrchr(b'<', &held[..filled]).unwrap_or(0);
                let mut keep = if held[filled - 1] == b'>' { filled } else { begun };
                let text = &held[..keep];
                for _ in memmem::find_iter(text, MARK) {
                    let _ = tell.send(());
                }
                for at in memmem::find_iter(text, PING) {
                    let start = memmem::rfind(&text[..at], b"<iq").unwrap();
                    let Some(end) = memmem::find(&text[at..], b"</iq>") else {
                        keep = start;
                        break;
                    };
                    let ping = &text[start..at + end + b"</iq>".len()];
                    if io.write_all(ping).await.is_err() {
                        return;
                    }
                }
                held.copy_within(keep..filled, 0);
                filled -= keep;
            }
        });
        Self { marks, bytes }
    }

    /// The partner's next stanza.
    pub async fn hear_mark(&mut self) {
        let mark = timeout(6 * PATIENCE, self.marks.recv()).await;
        mark.expect("the partner's stanza did not come")
            .expect("the link ended");
    }

    /// Bytes that it read so far.
    pub fn read(&self) -> u64 {
        self.bytes.load(std::sync::atomic::Ordering::Relaxed)
    }
}
