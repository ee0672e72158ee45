//! Which resource is reconciled next: each waits once, at the earliest time it was asked for, and is in no
//! two reconciles at once.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::names::ObjectName;

/// The queue; news from anywhere wake a resource through it.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    due: HashMap<ObjectName, Instant>,
    order: BTreeSet<(Instant, ObjectName)>,
    /// In a reconcile, and when asked for again meanwhile.
    running: HashMap<ObjectName, Option<Instant>>,
    closed: bool,
}

impl Waiting {
    fn add(&mut self, name: ObjectName, at: Instant) {
        if let Some(again) = self.running.get_mut(&name) {
            *again = Some(again.map_or(at, |earlier| earlier.min(at)));
        } else if self.due.get(&name).is_none_or(|earlier| at < *earlier) {
            if let Some(later) = self.due.insert(name.clone(), at) {
                self.order.remove(&(later, name.clone()));
            }
            self.order.insert((at, name));
        }
    }

    fn done(&mut self, name: &ObjectName, again: Option<Instant>) {
        let news = self.running.remove(name).flatten();
        if let Some(at) = news.into_iter().chain(again).min() {
            self.add(name.clone(), at);
        }
    }

    /// The resource that is due, or when the next one is.
    fn take(&mut self, now: Instant) -> Result<ObjectName, Option<Instant>> {
        match self.order.first() {
            Some((at, _)) if *at <= now => {}
            first => return Err(first.map(|(at, _)| *at)),
        }
        let Some((_, name)) = self.order.pop_first() else {
            return Err(None);
        };
        self.due.remove(&name);
        self.running.insert(name.clone(), None);
        Ok(name)
    }
}

impl Queue {
    /// There are news for the resource.
    pub fn wake(&self, name: ObjectName) {
        self.waiting.lock().add(name, Instant::now());
        self.changed.notify_one();
    }

    /// The next resource that is due; the caller ends it by [`Queue::done`]. `None`: the queue is closed.
    pub async fn next(&self) -> Option<ObjectName> {
        loop {
            let changed = self.changed.notified();
            let next = {
                let mut waiting = self.waiting.lock();
                if waiting.closed {
                    self.changed.notify_one();
                    return None;
                }
                waiting.take(Instant::now())
            };
            match next {
                Ok(name) => {
                    // Others may be due too.
                    self.changed.notify_one();
                    return Some(name);
                }
                Err(None) => changed.await,
                Err(Some(at)) => {
                    let _ = timeout_at(at, changed).await;
                }
            }
        }
    }

    /// A reconcile is over; the resource comes again after that time, or earlier where there were news.
    pub fn done(&self, name: &ObjectName, again: Option<Duration>) {
        let again = again.and_then(|again| Instant::now().checked_add(again));
        self.waiting.lock().done(name, again);
        self.changed.notify_one();
    }

    /// Nothing is taken from it any more.
    pub fn close(&self) {
        self.waiting.lock().closed = true;
        self.changed.notify_one();
    }

    /// Resources that are due or in a reconcile.
    pub fn depth(&self) -> usize {
        let (waiting, now) = (self.waiting.lock(), Instant::now());
        let due = waiting.order.iter().take_while(|(at, _)| *at <= now).count();
        due + waiting.running.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::controller::testing::owner;
    use tokio::time::timeout;

    fn name(name: &str) -> ObjectName {
        owner().sibling(name)
    }

    /// What is due at that second, by name.
    fn take(waiting: &mut Waiting, start: Instant, second: u64) -> Option<String> {
        let taken = waiting.take(start + Duration::from_secs(second));
        taken.ok().map(|name| name.name)
    }

    #[test]
    fn a_resource_waits_once_and_news_come_before_its_time() {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        for resource in ["a", "a", "b"] {
            waiting.add(name(resource), start);
        }
        assert_eq!(take(&mut waiting, start, 0).as_deref(), Some("a"));
        assert_eq!(take(&mut waiting, start, 0).as_deref(), Some("b"));
        assert_eq!(waiting.take(at(1000)), Err(None));
        waiting.done(&name("a"), Some(at(60)));
        waiting.done(&name("b"), None);
        assert_eq!(waiting.take(at(59)), Err(Some(at(60))));
        waiting.add(name("a"), at(59));
        assert_eq!(take(&mut waiting, start, 59).as_deref(), Some("a"));
        waiting.done(&name("a"), Some(at(120)));
        assert_eq!(take(&mut waiting, start, 120).as_deref(), Some("a"));
    }

    #[test]
    fn news_during_a_reconcile_start_the_next_one_at_its_end_and_not_before() {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        waiting.add(name("a"), start);
        assert_eq!(take(&mut waiting, start, 0).as_deref(), Some("a"));
        waiting.add(name("a"), start);
        assert_eq!(take(&mut waiting, start, 1000), None);
        waiting.done(&name("a"), Some(start + Duration::from_mins(10)));
        assert_eq!(take(&mut waiting, start, 0).as_deref(), Some("a"));
        waiting.done(&name("a"), None);
        assert_eq!(take(&mut waiting, start, 1000), None);
    }

    #[tokio::test]
    async fn every_worker_gets_one() {
        let queue = std::sync::Arc::new(Queue::default());
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = std::sync::Arc::clone(&queue);
                tokio::spawn(async move { queue.next().await })
            })
            .collect();
        tokio::task::yield_now().await;
        for resource in ["a", "b", "c"] {
            queue.wake(name(resource));
        }
        for worker in workers {
            assert!(
                timeout(Duration::from_secs(1), worker)
                    .await
                    .unwrap()
                    .unwrap()
                    .is_some()
            );
        }
        queue.close();
        assert_eq!(queue.next().await, None);
    }
}
