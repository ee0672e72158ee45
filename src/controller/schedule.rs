//! Calls to clusters of IM and Presence: one at a time per cluster, those of a resource all at once. A
//! cluster that does not answer costs no other cluster a time-out: a reconcile waits one second after the
//! first answer. A cluster that answers later keeps its last known state for this reconcile, and a later
//! reconcile takes its answer.

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

use xmpp_federation_imp::Manager;
use xmpp_federation_imp::desired::Desired;
use xmpp_federation_imp::report::{Removal, Report};

/// Time for the other answers after the first one.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a cluster is asked for.
#[derive(Debug)]
pub enum ClusterRequest {
    /// One step towards what is wanted.
    Reconcile(Box<Desired>),
    /// One step of removing our rows.
    Remove(Box<Desired>),
}

/// The answer to a request.
#[derive(Debug)]
pub enum ClusterAnswer {
    /// The state of the cluster.
    Reconcile(Box<Report>),
    /// How far the removal is.
    Remove(Box<Removal>),
}

/// A call to one cluster.
#[derive(Debug)]
pub struct ClusterCall {
    /// What it was asked for, by the caller's name for it.
    pub key: String,
    /// Its answer; `None`: it is still under way.
    pub answer: Option<ClusterAnswer>,
    /// It was asked in this call, with what is wanted now.
    pub current: bool,
}

/// Resource UID, and the caller's name for the cluster.
type Key = (String, String);

/// All calls under way.
pub struct Schedule {
    imp: Arc<Manager>,
    tasks: TaskTracker,
    running: Mutex<HashMap<Key, JoinHandle<ClusterAnswer>>>,
}

/// A call under way.
struct PendingCall {
    key: Key,
    current: bool,
    task: JoinHandle<ClusterAnswer>,
}

impl Schedule {
    /// A schedule without calls.
    pub fn new(imp: Arc<Manager>) -> Self {
        Self {
            imp,
            tasks: TaskTracker::new(),
            running: Mutex::default(),
        }
    }

    /// Whether a call of that resource, asked for earlier, is under way.
    pub fn busy(&self, uid: &str) -> bool {
        self.running.lock().keys().any(|(owner, _)| owner == uid)
    }

    /// Asks all of them at once, but none that still has an earlier question; gives their answers,
    /// and those to earlier questions that came meanwhile, in the order asked.
    pub async fn take(&self, uid: &str, requests: Vec<(String, ClusterRequest)>) -> Vec<ClusterCall> {
        let mut waiting: Vec<PendingCall> = Vec::new();
        for (name, ask) in requests {
            let key = (uid.to_owned(), name);
            let earlier = self.running.lock().remove(&key);
            waiting.push(match earlier {
                Some(task) => PendingCall {
                    key,
                    current: false,
                    task,
                },
                None => PendingCall {
                    key,
                    current: true,
                    task: self.tasks.spawn(call_one(Arc::clone(&self.imp), ask)),
                },
            });
        }
        {
            // Of clusters that are asked no more.
            let mut running = self.running.lock();
            let others: Vec<Key> = running.keys().filter(|k| k.0 == uid).cloned().collect();
            for key in others {
                if let Some(task) = running.remove(&key) {
                    waiting.push(PendingCall {
                        key,
                        current: false,
                        task,
                    });
                }
            }
        }
        let order: Vec<String> = waiting.iter().map(|w| w.key.1.clone()).collect();
        let mut calls: Vec<ClusterCall> = Vec::new();
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
            let PendingCall { key, current, .. } = waiting.swap_remove(index);
            if let Err(error) = &answer {
                tracing::error!(cluster = key.1, %error, "a turn at IM and Presence failed");
            }
            calls.push(ClusterCall {
                key: key.1,
                answer: answer.ok(),
                current,
            });
        }
        let mut running = self.running.lock();
        for late in waiting {
            calls.push(ClusterCall {
                key: late.key.1.clone(),
                answer: None,
                current: false,
            });
            running.insert(late.key, late.task);
        }
        drop(running);
        calls.sort_by_key(|call| order.iter().position(|key| *key == call.key));
        calls
    }

    /// Waits for all calls of a resource: what is removed next must not be inserted behind it.
    pub async fn settle(&self, uid: &str) {
        let tasks: Vec<JoinHandle<ClusterAnswer>> = {
            let mut running = self.running.lock();
            let keys: Vec<Key> = running.keys().filter(|k| k.0 == uid).cloned().collect();
            keys.iter().filter_map(|key| running.remove(key)).collect()
        };
        futures::future::join_all(tasks).await;
    }

    /// Waits for all calls of all resources; none is begun afterwards.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn call_one(imp: Arc<Manager>, ask: ClusterRequest) -> ClusterAnswer {
    match ask {
        ClusterRequest::Reconcile(desired) => ClusterAnswer::Reconcile(Box::new(imp.reconcile(&desired).await)),
        ClusterRequest::Remove(desired) => ClusterAnswer::Remove(Box::new(imp.remove(&desired).await)),
    }
}

/// The first call that is done, by its index.
fn first_done(waiting: &mut [PendingCall]) -> impl Future<Output = (usize, Result<ClusterAnswer, JoinError>)> + '_ {
    futures::future::poll_fn(move |context| {
        for (index, waiting) in waiting.iter_mut().enumerate() {
            if let Poll::Ready(answer) = Pin::new(&mut waiting.task).poll(context) {
                return Poll::Ready((index, answer));
            }
        }
        Poll::Pending
    })
}
