//! Looks at what is outside Kubernetes: one task per thing and look, so that a thing that does not answer
//! delays nothing else. A reconcile takes what was seen last and is woken by what is seen next.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::names::{ObjectName, Owner};
use super::queue::Queue;

/// By UID of the resource, then by its name for the thing.
type Things<Q, A> = HashMap<String, BTreeMap<String, Box<Thing<Q, A>>>>;

/// Things of one kind: each is asked a question `Q` and gives an answer `A`.
pub struct Observer<Q, A> {
    things: Arc<Mutex<Things<Q, A>>>,
    tasks: TaskTracker,
    queue: Arc<Queue>,
}

struct Thing<Q, A> {
    /// The resource that is woken.
    object: ObjectName,
    /// The question under way.
    asked: Option<Q>,
    /// The answer to it may be older than what happened since.
    outdated: bool,
    /// Nobody acts on its answer any more.
    dropped: bool,
    /// Answers of which only what was done is still to be told.
    untold: Vec<Arc<A>>,
    last: Option<Last<Q, A>>,
}

struct Last<Q, A> {
    question: Q,
    answer: Arc<A>,
    at: Instant,
    taken: bool,
    /// It is asked again, however young the answer is.
    expired: bool,
}

/// What was seen last.
#[derive(Debug)]
pub struct Observation<A> {
    pub answer: Arc<A>,
    /// It answers the question that is asked now.
    pub current: bool,
    pub age: Duration,
}

impl<Q: Clone + PartialEq + Send + 'static, A: Send + Sync + 'static> Observer<Q, A> {
    /// Nothing was looked at; news wake the resource in that queue.
    pub fn new(queue: Arc<Queue>) -> Self {
        Self {
            things: Arc::default(),
            tasks: TaskTracker::new(),
            queue,
        }
    }

    /// What was seen last. Where the question is another one, or `due` says so of the last answer and its age, and
    /// nothing is under way, the thing is asked; `ask` gets the last answer.
    pub fn look<F: Future<Output = A> + Send + 'static>(
        &self,
        owner: &Owner,
        name: &str,
        question: &Q,
        due: impl FnOnce(&A, Duration) -> bool,
        ask: impl FnOnce(Option<Arc<A>>) -> F,
    ) -> Option<Observation<A>> {
        let mut things = self.things.lock();
        let mine = things.entry(owner.uid.clone()).or_default();
        let thing = mine.entry(name.to_owned()).or_insert_with(|| {
            Box::new(Thing {
                object: owner.object_name(),
                asked: None,
                outdated: false,
                dropped: false,
                untold: Vec::new(),
                last: None,
            })
        });
        let expired = thing.last.as_ref().is_some_and(|last| last.expired);
        let observation = thing.last.as_ref().map(|last| Observation {
            answer: Arc::clone(&last.answer),
            current: last.question == *question,
            age: last.at.elapsed(),
        });
        let wanted = observation
            .as_ref()
            .is_none_or(|seen| expired || !seen.current || due(&seen.answer, seen.age));
        if wanted && thing.asked.is_none() && !self.tasks.is_closed() {
            thing.asked = Some(question.clone());
            let before = observation.as_ref().map(|seen| Arc::clone(&seen.answer));
            let (things, queue) = (Arc::clone(&self.things), Arc::clone(&self.queue));
            let (answer, object) = (ask(before), thing.object.clone());
            let (uid, name) = (owner.uid.clone(), name.to_owned());
            self.tasks.spawn(async move {
                let answer = Arc::new(answer.await);
                if let Some(thing) = things.lock().get_mut(&uid).and_then(|mine| mine.get_mut(&name))
                    && let Some(question) = thing.asked.take()
                {
                    let expired = std::mem::take(&mut thing.outdated);
                    if std::mem::take(&mut thing.dropped) {
                        thing.untold.push(answer);
                    } else {
                        thing.last = Some(Last {
                            question,
                            answer,
                            at: Instant::now(),
                            taken: false,
                            expired,
                        });
                    }
                }
                queue.wake(object);
            });
        }
        observation
    }

    /// The answers that came since this was asked last, by name, also of things that are asked no more.
    pub fn take_news(&self, uid: &str) -> Vec<(String, Arc<A>)> {
        let mut news = Vec::new();
        for (name, thing) in self.things.lock().get_mut(uid).into_iter().flatten() {
            news.extend(thing.untold.drain(..).map(|answer| (name.clone(), answer)));
            if let Some(last) = thing.last.as_mut().filter(|last| !last.taken) {
                last.taken = true;
                news.push((name.clone(), Arc::clone(&last.answer)));
            }
        }
        news
    }

    /// Things that gave such an answer are asked again, and their resources woken.
    pub fn ask_again(&self, which: impl Fn(&A) -> bool) {
        for thing in self.things.lock().values_mut().flat_map(BTreeMap::values_mut) {
            if let Some(last) = thing.last.as_mut().filter(|last| which(&last.answer)) {
                last.expired = true;
                self.queue.wake(thing.object.clone());
            }
        }
    }

    /// Things that are asked such a question are asked again, and their resources woken: something happened that the
    /// answer may not have seen.
    pub fn outdate(&self, which: impl Fn(&Q) -> bool) {
        for thing in self.things.lock().values_mut().flat_map(BTreeMap::values_mut) {
            thing.outdated |= thing.asked.as_ref().is_some_and(&which);
            if let Some(last) = thing.last.as_mut().filter(|last| which(&last.question)) {
                last.expired = true;
                self.queue.wake(thing.object.clone());
            }
        }
    }

    /// Whether a question of that resource is under way for which this holds.
    pub fn is_asking(&self, uid: &str, which: impl Fn(&Q) -> bool) -> bool {
        let things = self.things.lock();
        let mut mine = things.get(uid).into_iter().flat_map(BTreeMap::values);
        mine.any(|thing| thing.asked.as_ref().is_some_and(&which))
    }

    /// Forgets what was seen of all things of a resource but these: who comes back later is asked anew.
    pub fn keep(&self, uid: &str, names: &[&str]) {
        if let Some(mine) = self.things.lock().get_mut(uid) {
            mine.retain(|name, thing| {
                if names.contains(&name.as_str()) {
                    return true;
                }
                (thing.last, thing.dropped) = (None, thing.asked.is_some());
                thing.dropped || !thing.untold.is_empty()
            });
        }
    }

    /// Forgets a resource that is gone; what is under way is finished.
    pub fn forget(&self, uid: &str) {
        self.things.lock().remove(uid);
    }

    /// Waits for all that is under way; nothing is begun afterwards.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::controller::testing::owner;
    use tokio::sync::Semaphore;

    /// A thing that answers with its question when it is let.
    struct Bench {
        observer: Observer<u32, u32>,
        let_answer: Arc<Semaphore>,
        queue: Arc<Queue>,
        due: Mutex<bool>,
    }

    impl Bench {
        fn new() -> Self {
            let queue = Arc::new(Queue::default());
            Self {
                observer: Observer::new(Arc::clone(&queue)),
                let_answer: Arc::new(Semaphore::new(0)),
                queue,
                due: Mutex::default(),
            }
        }

        /// The answer, whether it is current, and whether there was news.
        fn look(&self, question: u32) -> Option<(u32, bool, bool)> {
            let news = !self.observer.take_news("uid-1").is_empty();
            let gate = Arc::clone(&self.let_answer);
            let due = |_: &u32, _| *self.due.lock();
            let ask = |_| async move {
                gate.acquire().await.unwrap().forget();
                question
            };
            let seen = self.observer.look(&owner(), "main", &question, due, ask)?;
            Some((*seen.answer, seen.current, news))
        }

        /// Lets it answer; the resource is woken.
        async fn answers(&self) {
            self.let_answer.add_permits(1);
            let name = self.queue.next().await.unwrap();
            self.queue.done(&name, None);
        }
    }

    #[tokio::test]
    async fn a_look_never_waits_and_wakes_the_resource_when_it_is_over() {
        let bench = Bench::new();
        assert_eq!(bench.look(1), None);
        assert_eq!(bench.look(1), None);
        assert!(bench.observer.is_asking("uid-1", |question| *question == 1));
        bench.answers().await;
        assert_eq!(bench.look(1), Some((1, true, true)));
        assert_eq!(bench.look(1), Some((1, true, false)));
        assert!(!bench.observer.is_asking("uid-1", |_| true));
    }

    #[tokio::test]
    async fn another_question_is_asked_at_once_and_the_last_answer_stays_until_then() {
        let bench = Bench::new();
        bench.look(1);
        bench.answers().await;
        assert_eq!(bench.look(2), Some((1, false, true)));
        bench.answers().await;
        assert_eq!(bench.look(2), Some((2, true, true)));
        *bench.due.lock() = true;
        assert_eq!(bench.look(2), Some((2, true, false)));
        *bench.due.lock() = false;
        assert!(bench.observer.is_asking("uid-1", |_| true));
        bench.answers().await;
        assert_eq!(bench.look(2), Some((2, true, true)));
    }

    #[tokio::test]
    async fn who_gave_such_an_answer_is_asked_again_at_once() {
        let bench = Bench::new();
        bench.look(1);
        bench.answers().await;
        bench.look(1);
        bench.observer.ask_again(|answer| *answer == 2);
        assert_eq!(bench.queue.depth(), 0);
        bench.observer.ask_again(|answer| *answer == 1);
        let woken = bench.queue.next().await.unwrap();
        assert_eq!(woken, owner().object_name());
        bench.look(1);
        assert!(bench.observer.is_asking("uid-1", |_| true));
    }

    #[tokio::test]
    async fn who_was_asked_before_something_happened_is_asked_again() {
        let bench = Bench::new();
        bench.look(1);
        // It is being asked.
        bench.observer.outdate(|question| *question == 1);
        bench.answers().await;
        assert_eq!(bench.look(1), Some((1, true, true)));
        assert!(bench.observer.is_asking("uid-1", |_| true));
        bench.answers().await;
        assert_eq!(bench.look(1), Some((1, true, true)));
        assert!(!bench.observer.is_asking("uid-1", |_| true));
        // It has answered.
        bench.observer.outdate(|question| *question == 2);
        assert_eq!(bench.queue.depth(), 0);
        bench.observer.outdate(|question| *question == 1);
        assert_eq!(bench.queue.depth(), 1);
        bench.look(1);
        assert!(bench.observer.is_asking("uid-1", |_| true));
    }

    #[tokio::test]
    async fn what_is_asked_no_more_is_asked_anew_when_it_comes_back() {
        let bench = Bench::new();
        bench.look(1);
        bench.answers().await;
        bench.observer.keep("uid-1", &[]);
        assert_eq!(bench.look(1), None);
        // Dropped while it is asked: that answer is of before.
        bench.observer.keep("uid-1", &[]);
        assert!(bench.observer.is_asking("uid-1", |_| true));
        bench.answers().await;
        let told = bench.observer.take_news("uid-1");
        assert_eq!(
            told,
            [("main".to_owned(), Arc::new(1))],
            "what was done is told all the same"
        );
        assert_eq!(bench.look(1), None);
        bench.observer.keep("uid-1", &["main"]);
        bench.answers().await;
        assert_eq!(bench.look(1), Some((1, true, true)));
    }

    #[tokio::test]
    async fn a_resource_that_is_gone_leaves_nothing_and_the_end_waits_for_what_is_under_way() {
        let bench = Bench::new();
        bench.look(1);
        bench.observer.forget("uid-1");
        bench.answers().await;
        assert!(bench.observer.things.lock().is_empty());
        bench.look(1);
        bench.let_answer.add_permits(1);
        bench.observer.finish().await;
        bench.look(2);
        assert!(!bench.observer.is_asking("uid-1", |_| true));
    }
}
