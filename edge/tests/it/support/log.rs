//! What is logged on the thread of a test, where the tasks of its edge run too.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::Level;
use tracing::subscriber::DefaultGuard;

use super::PATIENCE;

#[derive(Clone, Default)]
struct Writer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log of this thread for as long as it is held.
pub struct Log {
    written: Writer,
    _guard: DefaultGuard,
}

impl Log {
    pub fn start(level: Level) -> Self {
        let written = Writer::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_max_level(level)
            .with_ansi(false)
            .finish();
        Self {
            written,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.written.0.lock().unwrap().clone()).unwrap()
    }

    pub fn lines_with(&self, text: &str) -> usize {
        self.text().lines().filter(|line| line.contains(text)).count()
    }

    /// The first refusal of this peer: the check and the reason.
    pub async fn refusal(&self, peer: SocketAddr) -> (String, String) {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let text = self.text();
            let peer = format!(" peer={peer} ");
            let about = |line: &&str| line.contains("peer refused") && line.contains(&peer);
            if let Some(line) = text.lines().find(about) {
                let check = line.split("check=\"").nth(1).unwrap();
                let check = check.split('"').next().unwrap().to_owned();
                let reason = line.split("reason=").nth(1).unwrap().to_owned();
                return (check, reason);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no refusal of {peer} in the log");
    }
}
