//! Calls to clusters of IM and Presence: one at a time per cluster, all at once per resource. A
//! cluster that does not answer costs time-outs, and those are nobody else's: a reconcile waits a
//! moment for the slower ones, goes on with what it knew of them, and takes their answers later.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use xmpp_federation_imp::Imp;
use xmpp_federation_imp::desired::Desired;
use xmpp_federation_imp::report::{Removal, Report};

/// How long the others are waited for once the first has answered.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a cluster is asked for.
#[derive(Debug)]
pub enum Ask {
    /// One step towards what is wanted.
    Step(Box<Desired>),
    /// One step of removing our rows.
    Removal(Box<Desired>),
}

/// What came of it.
#[derive(Debug)]
pub enum Answer {
    /// The state of the cluster.
    Step(Box<Report>),
    /// How far the removal is.
    Removal(Box<Removal>),
}

/// One cluster's turn.
#[derive(Debug)]
pub struct Turn {
    /// What it was asked for, by the caller's name for it.
    pub key: String,
    /// Its answer; `None`: it is still under way.
    pub answer: Option<Answer>,
    /// It was asked in this call, with what is wanted now.
    pub current: bool,
}

/// Resource UID, and the caller's name for the cluster.
type Key = (String, String);

/// All turns under way.
pub struct Turns {
    imp: Arc<Imp>,
    tasks: TaskTracker,
    running: Mutex<HashMap<Key, JoinHandle<Answer>>>,
}

/// One that is waited for.
struct Waiting {
    key: Key,
    current: bool,
    task: JoinHandle<Answer>,
}

impl Turns {
    /// None yet.
    pub fn new(imp: Arc<Imp>) -> Self {
        Self {
            imp,
            tasks: TaskTracker::new(),
            running: Mutex::default(),
        }
    }

    /// Whether a turn of that resource, asked for earlier, is under way.
    pub fn busy(&self, uid: &str) -> bool {
        self.running.lock().keys().any(|(owner, _)| owner == uid)
    }

    /// Asks all of them at once, but none that still has an earlier question; gives their answers,
    /// and those to earlier questions that came meanwhile, in the order asked.
    pub async fn take(&self, uid: &str, asks: Vec<(String, Ask)>) -> Vec<Turn> {
        let mut waiting: Vec<Waiting> = Vec::new();
        for (name, ask) in asks {
            let key = (uid.to_owned(), name);
            let earlier = self.running.lock().remove(&key);
            waiting.push(match earlier {
                Some(task) => Waiting {
                    key,
                    current: false,
                    task,
                },
                None => Waiting {
                    key,
                    current: true,
                    task: self.tasks.spawn(ask_one(Arc::clone(&self.imp), ask)),
                },
            });
        }
        {
            // Of clusters that are asked no more.
            let mut running = self.running.lock();
            let others: Vec<Key> = running.keys().filter(|k| k.0 == uid).cloned().collect();
            for key in others {
                if let Some(task) = running.remove(&key) {
                    waiting.push(Waiting {
                        key,
                        current: false,
                        task,
                    });
                }
            }
        }
        let order: Vec<String> = waiting.iter().map(|w| w.key.1.clone()).collect();
        let mut turns: Vec<Turn> = Vec::new();
        let mut deadline = None;
        while !waiting.is_empty() {
            let next = first_done(&mut waiting);
            let done = match deadline {
                None => Some(next.await),
                Some(at) => timeout_at(at, next).await.ok(),
            };
            let Some((index, answer)) = done else {
                break;
            };
            deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            let Waiting { key, current, .. } = waiting.swap_remove(index);
            if let Err(error) = &answer {
                tracing::error!(cluster = key.1, %error, "a turn at IM and Presence failed");
            }
            turns.push(Turn {
                key: key.1,
                answer: answer.ok(),
                current,
            });
        }
        let mut running = self.running.lock();
        for late in waiting {
            turns.push(Turn {
                key: late.key.1.clone(),
                answer: None,
                current: false,
            });
            running.insert(late.key, late.task);
        }
        drop(running);
        turns.sort_by_key(|turn| order.iter().position(|key| *key == turn.key));
        turns
    }

    /// Waits for all turns of a resource: what is removed next must not be inserted behind it.
    pub async fn settle(&self, uid: &str) {
        let tasks: Vec<JoinHandle<Answer>> = {
            let mut running = self.running.lock();
            let keys: Vec<Key> = running.keys().filter(|k| k.0 == uid).cloned().collect();
            keys.iter().filter_map(|key| running.remove(key)).collect()
        };
        futures::future::join_all(tasks).await;
    }

    /// Waits for all turns of all resources; none is begun afterwards.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn ask_one(imp: Arc<Imp>, ask: Ask) -> Answer {
    match ask {
        Ask::Step(desired) => Answer::Step(Box::new(imp.reconcile(&desired).await)),
        Ask::Removal(desired) => Answer::Removal(Box::new(imp.remove(&desired).await)),
    }
}

/// The first that is done, by its place.
fn first_done(waiting: &mut [Waiting]) -> impl Future<Output = (usize, Result<Answer, JoinError>)> + '_ {
    futures::future::poll_fn(move |context| {
        for (index, waiting) in waiting.iter_mut().enumerate() {
            if let Poll::Ready(answer) = Pin::new(&mut waiting.task).poll(context) {
                return Poll::Ready((index, answer));
            }
        }
        Poll::Pending
    })
}
