//! The right to write, which ends by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, Request};
use kube::client::Body;
use tower::filter::FilterLayer;

/// Time since the start of the machine.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The clock that goes on while the machine is suspended: a leader that slept is a leader no more.
pub fn boot_clock() -> Clock {
    Arc::new(|| {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or_default());
        seconds + Duration::from_nanos(u64::try_from(now.tv_nsec).unwrap_or_default())
    })
}

/// Says until when this process leads. All clones are the same right.
#[derive(Clone)]
pub struct Leadership {
    clock: Clock,
    until_ms: Arc<AtomicU64>,
}

/// A request that would come after the end of leadership.
#[derive(Debug, thiserror::Error)]
#[error("this operator does not lead any more, so it writes nothing")]
pub struct NotLeading;

impl Leadership {
    /// A right that has not begun.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            until_ms: Arc::default(),
        }
    }

    /// Whether this process leads at this moment.
    pub fn still(&self) -> bool {
        (self.clock)() < self.deadline()
    }

    /// The same as a question that others may ask.
    pub fn asked(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let leadership = self.clone();
        move || leadership.still()
    }

    /// When leadership ends unless it is extended, by the clock of this right.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.until_ms.load(Ordering::Acquire))
    }

    /// What is left of it.
    pub fn left(&self) -> Duration {
        self.deadline().saturating_sub((self.clock)())
    }

    pub(super) fn extend(&self, until: Duration) {
        let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.until_ms.store(until, Ordering::Release);
    }

    pub(super) fn end(&self) {
        self.until_ms.store(0, Ordering::Release);
    }

    /// Refuses requests that change something once leadership has ended. It belongs below the layer that repeats
    /// requests, because each attempt counts.
    pub fn guard(&self) -> FilterLayer<impl FnMut(Request<Body>) -> Result<Request<Body>, NotLeading> + Clone + use<>> {
        let leadership = self.clone();
        FilterLayer::new(move |request: Request<Body>| {
            let reads = matches!(*request.method(), Method::GET | Method::HEAD);
            if reads || leadership.still() {
                Ok(request)
            } else {
                Err(NotLeading)
            }
        })
    }
}
