//! What one test logs. All tests of this binary share one subscriber, which is there before the first line: with one for each
//! thread, `tracing` would remember for all threads that the first thread to pass a line had nobody to read it.

use std::cell::RefCell;
use std::io::Write;
use std::sync::{Arc, Mutex, Once};

use serde_json::Value;

thread_local! {
    static OF_THIS_THREAD: RefCell<Option<Log>> = const { RefCell::new(None) };
}

/// The log of the thread that starts it, where the tasks of a test run too, until that thread ends.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn start() -> Self {
        static SUBSCRIBER: Once = Once::new();
        SUBSCRIBER.call_once(|| {
            tracing_subscriber::fmt()
                .json()
                .flatten_event(true)
                .with_env_filter("info,network=trace,xmpp_federation_operator=trace")
                .with_writer(|| ThisThread)
                .init();
            // For a line that another thread passed while the subscriber was made.
            tracing::callsite::rebuild_interest_cache();
        });
        let log = Self::default();
        OF_THIS_THREAD.set(Some(log.clone()));
        log
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    pub fn lines(&self) -> Vec<Value> {
        let text = self.text();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Writes to the log of the thread that writes.
struct ThisThread;

impl Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        OF_THIS_THREAD.with_borrow(|log| {
            if let Some(log) = log {
                log.0.lock().unwrap().extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_line_is_kept_that_a_thread_without_a_log_was_the_first_to_pass() {
    fn line() {
        tracing::info!("a line");
    }
    let log = Log::start();
    std::thread::spawn(line).join().unwrap();
    line();
    assert_eq!(log.lines().len(), 1, "{}", log.text());
}
