//! What is logged on the thread of a test, where the tasks of its edge run too. All tests share one subscriber: with one for
//! each thread, `tracing` would remember for all threads that the first thread to pass a line had nobody to read it.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, dynamic_filter_fn};
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::PATIENCE;

thread_local! {
    static OF_THIS_THREAD: RefCell<Option<Log>> = const { RefCell::new(None) };
}

/// The log of the thread that starts it, until that thread ends or starts another one.
#[derive(Clone)]
pub struct Log {
    level: Level,
    written: Arc<Mutex<Vec<u8>>>,
}

/// Writes to the log of the thread that writes.
struct ThisThread;

impl io::Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        OF_THIS_THREAD.with_borrow(|log| {
            if let Some(log) = log {
                log.written.lock().unwrap().extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From now on, logs of threads are written, and what `RUST_LOG` asks for is printed.
pub fn subscribe() {
    static SUBSCRIBER: Once = Once::new();
    SUBSCRIBER.call_once(|| {
        let asked = dynamic_filter_fn(|line, _| {
            OF_THIS_THREAD.with_borrow(|log| log.as_ref().is_some_and(|log| *line.level() <= log.level))
        });
        let of_threads = layer().with_ansi(false).with_writer(|| ThisThread);
        let printed = layer().with_test_writer();
        tracing_subscriber::registry()
            .with(of_threads.with_filter(asked.with_max_level_hint(LevelFilter::INFO)))
            .with(printed.with_filter(EnvFilter::from_default_env()))
            .init();
        // For a line that another thread passed while the subscriber was made.
        tracing::callsite::rebuild_interest_cache();
    });
}

impl Log {
    /// With lines up to that level, which is INFO at most.
    pub fn start(level: Level) -> Self {
        subscribe();
        let log = Self {
            level,
            written: Arc::default(),
        };
        OF_THIS_THREAD.set(Some(log.clone()));
        log
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.written.lock().unwrap().clone()).unwrap()
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

#[test]
fn a_line_is_kept_that_a_thread_without_a_log_was_the_first_to_pass() {
    fn line() {
        tracing::info!("a line");
    }
    let log = Log::start(Level::INFO);
    std::thread::spawn(line).join().unwrap();
    line();
    assert_eq!(log.lines_with("a line"), 1, "{}", log.text());
}
