//! The API server's audit log: every request of the operator, counted by the server itself.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use testkit_base::Error;

/// The log, and how far it was read.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    read: u64,
}

/// A request that was answered.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// `get`, `list`, `watch`, `create`, `patch` …
    pub verb: String,
    /// Path and query.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    #[serde(default)]
    object_ref: ObjectRef,
    /// The body, where the policy keeps it.
    #[serde(default)]
    pub request_object: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ObjectRef {
    resource: String,
}

impl Event {
    /// Whether this keeps the leadership.
    pub fn of_lease(&self) -> bool {
        self.object_ref.resource == "leases"
    }

    /// Whether this reports an Event.
    pub fn of_event(&self) -> bool {
        self.object_ref.resource == "events"
    }

    /// Whether this changes something.
    pub fn writes(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// How many requests there were, besides watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Requests {
    /// Of the Lease.
    pub lease: f64,
    /// Other reads.
    pub reads: f64,
    /// Other writes.
    pub writes: f64,
}

impl Requests {
    /// Reads and writes.
    pub fn all(self) -> f64 {
        self.reads + self.writes
    }

    /// Divides each number.
    #[must_use]
    pub fn per(self, of: f64) -> Self {
        Self {
            lease: self.lease / of,
            reads: self.reads / of,
            writes: self.writes / of,
        }
    }
}

impl Audit {
    /// The log at `path`, from its beginning.
    pub fn new(path: PathBuf) -> Self {
        Self { path, read: 0 }
    }

    /// The requests since the last call.
    pub fn events(&mut self) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        self.each(|event| events.push(event))?;
        Ok(events)
    }

    /// Counts the requests since the last call.
    pub fn count(&mut self) -> Result<Requests, Error> {
        let mut requests = Requests::default();
        self.each(|event| match &event {
            event if event.of_lease() => requests.lease += 1.0,
            event if event.writes() => requests.writes += 1.0,
            event if event.verb == "watch" => {}
            _ => requests.reads += 1.0,
        })?;
        Ok(requests)
    }

    fn each(&mut self, mut seen: impl FnMut(Event)) -> Result<(), Error> {
        let mut file = BufReader::new(File::open(&self.path)?);
        file.seek(SeekFrom::Start(self.read))?;
        let mut line = String::new();
        loop {
            line.clear();
            let length = file.read_line(&mut line)?;
            // The end, or a line that is just being written.
            if !line.ends_with('\n') {
                return Ok(());
            }
            self.read += u64::try_from(length)?;
            seen(serde_json::from_str(&line)?);
        }
    }
}
