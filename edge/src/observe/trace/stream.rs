//! One stream and those who watch it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::telling::{self, LONGEST, printable};
use super::{Line, LineKind, MAX_EARLY, Tracer, now};
use crate::observe::registry::StreamEntry;
use crate::words::Direction;
use xmpp_federation_xml::Frame;

/// Lines of one stream kept until it says whose it is.
const EARLY: usize = 4;

/// What a connection tells to those who watch it.
#[derive(Debug)]
pub struct StreamTrace {
    entry: Arc<StreamEntry>,
    /// For which generation of tracers and names of the stream the rest holds.
    known: (u64, u32),
    watching: Vec<Arc<Tracer>>,
    /// Somebody watches a domain, and the stream has not said its own.
    undecided: bool,
    early: Vec<Line>,
}

impl StreamTrace {
    /// Tells that the connection is open.
    pub fn new(entry: Arc<StreamEntry>) -> Self {
        let mut trace = Self {
            entry,
            known: (0, 0),
            watching: Vec::new(),
            undecided: false,
            early: Vec::new(),
        };
        trace.event(|| "connection open".to_owned());
        trace
    }

    /// The stream's place in the registry.
    pub fn entry(&self) -> &Arc<StreamEntry> {
        &self.entry
    }

    /// Something happened.
    #[inline]
    pub fn event(&mut self, text: impl FnOnce() -> String) {
        if self.entry.tracers.generation() != 0 {
            self.tell_event(&text());
        }
    }

    /// The peer said something.
    #[inline]
    pub fn received(&mut self, frame: &Frame) {
        if self.entry.tracers.generation() != 0 && self.is_watched() {
            self.tell(LineKind::Received, |bodies| telling::frame(frame, bodies));
        }
    }

    /// We say something: complete elements, perhaps with a header before or the end behind.
    #[inline]
    pub fn sent(&mut self, bytes: &[u8]) {
        if self.entry.tracers.generation() != 0 && self.is_watched() {
            for frame in telling::frames(bytes) {
                self.tell(LineKind::Sent, |bodies| telling::frame(&frame, bodies));
            }
        }
    }

    #[cold]
    fn tell_event(&mut self, text: &str) {
        if self.is_watched() {
            self.tell(LineKind::Event, |_| text.to_owned());
        }
    }

    /// Finds out who watches this stream, if anything changed; whether anybody does or may.
    fn is_watched(&mut self) -> bool {
        let now = (self.entry.tracers.generation(), self.entry.names());
        if self.known != now {
            self.known = now;
            self.undecided = false;
            let before = std::mem::take(&mut self.watching);
            for tracer in self.entry.tracers.list.lock().iter() {
                match tracer.filter.matches(&self.entry) {
                    Some(true) => self.watching.push(tracer.clone()),
                    Some(false) => {}
                    None => self.undecided = true,
                }
            }
            if !self.undecided {
                let early = std::mem::take(&mut self.early);
                self.entry.tracers.early.fetch_sub(early.len(), Ordering::Relaxed);
                let new = |tracer: &&Arc<Tracer>| !before.iter().any(|b| Arc::ptr_eq(b, tracer));
                for tracer in self.watching.iter().filter(new) {
                    for line in &early {
                        tracer.tell(line.clone());
                    }
                }
            }
        }
        self.undecided || !self.watching.is_empty()
    }

    /// `text` gets whether bodies are wanted.
    fn tell(&mut self, way: LineKind, text: impl Fn(bool) -> String) {
        let line = |bodies| Line {
            time: now(),
            stream: Some(self.entry.id),
            direction: Some(self.entry.direction.as_str().to_owned()),
            peer: Some(self.entry.peer),
            way,
            text: printable(&text(bodies), LONGEST),
        };
        let (mut plain, mut full) = (None, None);
        for tracer in &self.watching {
            let made = if tracer.bodies { &mut full } else { &mut plain };
            tracer.tell(made.get_or_insert_with(|| line(tracer.bodies)).clone());
        }
        let budget = &self.entry.tracers.early;
        if self.undecided && self.early.len() < EARLY && budget.fetch_add(1, Ordering::Relaxed) < MAX_EARLY {
            self.early.push(line(false));
        } else if self.undecided && self.early.len() < EARLY {
            budget.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts what the network took from us or brought.
    #[inline]
    pub fn moved(&self, way: Direction, bytes: usize) {
        self.entry.moved(way, bytes);
    }
}

impl Drop for StreamTrace {
    fn drop(&mut self) {
        self.event(|| "connection closed".to_owned());
        let early = self.early.len();
        self.entry.tracers.early.fetch_sub(early, Ordering::Relaxed);
    }
}
