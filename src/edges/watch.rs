//! Looks at running edges every few seconds and tells when one says something new.
//!
//! Nothing announces that a link broke, that a router refuses it or returns everything: without
//! these looks it would show when the next reconcile happens to come. A look is one request to the
//! pod itself, none to the Kubernetes API and none to IM and Presence. Each pod has its own task, so
//! that one that does not answer delays no other.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use xmpp_federation_core::edge_status::{EdgeStatus, LinkState, StreamCounts};
use xmpp_federation_imp::clock::{Clock as _, Stamp, SystemClock};

use super::{Client, Error, fetch_status};
use crate::backoff::doubled;

/// Between two looks while a link is not up …
const SOON: Duration = Duration::from_secs(1);
/// … while all is well …
const STEADY: Duration = Duration::from_secs(3);
/// … and while a pod does not answer: twice as long each time, up to this.
const SILENT: Duration = Duration::from_secs(15);

/// Namespace and name of a resource.
pub type Key = (String, String);

/// The part of a status that a condition follows from; `None`: no answer.
type Essence = Option<EdgeStatus>;

fn essence(status: Option<&EdgeStatus>) -> Essence {
    let mut status = status?.clone();
    status.streams = StreamCounts::default();
    for link in &mut status.links {
        // Counts go on; what they mean changes seldom.
        if let Some(returned) = &mut link.returned {
            (returned.sent, returned.returned) = (0, 0);
        }
        link.returned.take_if(|returned| !returned.everything);
        link.open_seconds = None;
        let sightings = link.sightings.iter_mut();
        let sightings = sightings.map(|sighting| &mut sighting.announced);
        for announced in link.announced.iter_mut().chain(sightings) {
            // A router may say the same again.
            announced.at.clear();
        }
    }
    // Only the first is told with its reason, which may change with each attempt.
    for failure in status.failing_partners.iter_mut().skip(1) {
        failure.reason.clear();
    }
    Some(status)
}

/// What a pod said last.
#[derive(Debug, Clone)]
pub struct Observation {
    /// When it was asked.
    pub asked: Stamp,
    /// Its answer.
    pub status: Result<Arc<EdgeStatus>, Arc<Error>>,
}

impl Observation {
    fn essence(&self) -> Essence {
        essence(self.status.as_deref().ok())
    }

    /// The time until the next look; `silent`: looks in a row without an answer.
    fn pace(&self, silent: u32) -> Duration {
        match &self.status {
            Ok(status) if status.links.iter().all(|link| link.state == LinkState::Up) => STEADY,
            Ok(_) => SOON,
            Err(_) => doubled(SOON, silent, SILENT),
        }
    }
}

#[derive(Debug)]
struct Pod {
    last: Option<Observation>,
    task: JoinHandle<()>,
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The running edges of all resources.
pub struct Watch {
    pods: Mutex<HashMap<Key, HashMap<IpAddr, Pod>>>,
    client: Client,
    port: u16,
    wake: Box<dyn Fn(Key) + Send + Sync>,
}

impl Watch {
    /// Edges answer on that port; `wake` is called for a resource whose edge says something new.
    pub fn new(client: Client, port: u16, wake: impl Fn(Key) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            pods: Mutex::default(),
            client,
            port,
            wake: Box::new(wake),
        })
    }

    /// The resource's pods have these addresses, and no others.
    pub fn watch(self: &Arc<Self>, key: &Key, addresses: &[IpAddr]) {
        let mut pods = self.pods.lock();
        if addresses.is_empty() {
            pods.remove(key);
            return;
        }
        let mine = pods.entry(key.clone()).or_default();
        mine.retain(|ip, _| addresses.contains(ip));
        for ip in addresses {
            mine.entry(*ip).or_insert_with(|| Pod {
                last: None,
                task: tokio::spawn(look_for_ever(Arc::downgrade(self), key.clone(), *ip)),
            });
        }
    }

    /// What the pod of that address said last; `None`: it was not asked yet.
    pub fn last(&self, key: &Key, ip: IpAddr) -> Option<Observation> {
        self.pods.lock().get(key)?.get(&ip)?.last.clone()
    }

    /// The resource's edges are nobody's concern any more.
    pub fn forget(&self, key: &Key) {
        self.pods.lock().remove(key);
    }

    /// Takes in an answer; whether it is news. `None`: nobody wants it any more.
    fn note(&self, key: &Key, ip: IpAddr, observation: &Observation) -> Option<bool> {
        let mut pods = self.pods.lock();
        let pod = pods.get_mut(key)?.get_mut(&ip)?;
        let before = pod.last.replace(observation.clone());
        Some(before.is_none_or(|before| before.essence() != observation.essence()))
    }
}

async fn look_for_ever(watch: Weak<Watch>, key: Key, ip: IpAddr) {
    let mut silent = 0;
    loop {
        let Some(watch) = watch.upgrade() else { return };
        let asked = SystemClock.now();
        let answer = fetch_status(&watch.client, ip, watch.port).await;
        let status = answer.map(Arc::new).map_err(Arc::new);
        silent = if status.is_ok() { 0 } else { silent + 1 };
        let observation = Observation { asked, status };
        match watch.note(&key, ip, &observation) {
            Some(true) => (watch.wake)(key.clone()),
            Some(false) => {}
            None => return,
        }
        drop(watch);
        tokio::time::sleep(observation.pace(silent)).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use axum::{Json, Router, routing::get};
    use rstest::rstest;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    /// An edge whose status can be changed, and who watches it.
    struct Bench {
        status: Arc<Mutex<Value>>,
        asked: Arc<AtomicUsize>,
        address: SocketAddr,
        watch: Arc<Watch>,
        woken: mpsc::UnboundedReceiver<Key>,
    }

    fn key() -> Key {
        ("federation".to_owned(), "coluc".to_owned())
    }

    impl Bench {
        async fn start() -> Self {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let status = Arc::new(Mutex::new(json!({
                "configHash": "ab", "dialbackSecrets": [], "draining": false,
                "links": [{"router": "main", "node": "ecup10.coluc.com", "address": "192.0.2.1:7400",
                    "componentId": "cm-2_s2scp-1.eft-xwye-a-coluc-com", "state": "Up",
                    "since": "2023-11-14T22:13:20Z"}],
                "failingPartners": [], "streams": {"inbound": 0, "outbound": 0},
            })));
            let asked = Arc::new(AtomicUsize::new(0));
            let (told, count) = (status.clone(), asked.clone());
            let app = Router::new().route(
                "/status",
                get(move || async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    Json(told.lock().clone())
                }),
            );
            tokio::spawn(async move { axum::serve(listener, app).await });
            let (wake, woken) = mpsc::unbounded_channel();
            let wake = move |key| wake.send(key).unwrap_or_default();
            let watch = Watch::new(Client::new().unwrap(), address.port(), wake);
            Self {
                status,
                asked,
                address,
                watch,
                woken,
            }
        }

        fn set(&self, pointer: &str, value: Value) {
            let mut status = self.status.lock();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let parent = status.pointer_mut(parent).unwrap();
            parent.as_object_mut().unwrap().insert(key.to_owned(), value);
        }

        async fn news(&mut self, within: Duration) -> bool {
            tokio::time::timeout(within, self.woken.recv()).await.is_ok()
        }

        /// Waits until the edge was asked again twice: the first may have been under way.
        async fn looked_at_again(&self) {
            let before = self.asked.load(Ordering::SeqCst);
            let again = async {
                while self.asked.load(Ordering::SeqCst) < before + 2 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), again).await.unwrap();
        }
    }

    fn returned(everything: bool, n: u32) -> Value {
        json!({"since": "2023-11-14T22:13:20Z", "sent": n, "returned": n,
            "condition": "remote-server-not-found", "everything": everything})
    }

    #[rstest]
    #[case::refused("/links/0/state", json!("UnknownComponent"), true)]
    #[case::everything_returned("/links/0/returned", returned(true, 9), true)]
    #[case::another_configuration("/configHash", json!("cd"), true)]
    #[case::partner("/failingPartners", json!([{"domain": "vngtp.lab", "reason": "x", "since": "2023-11-14T22:13:20Z"}]), true)]
    #[case::users_away("/links/0/returned", returned(false, 9), false)]
    #[case::time_goes_on("/links/0/openSeconds", json!(77), false)]
    #[case::streams("/streams", json!({"inbound": 7, "outbound": 9}), false)]
    #[tokio::test]
    async fn what_a_condition_follows_from_is_news_and_nothing_else(
        #[case] pointer: &str,
        #[case] value: Value,
        #[case] news: bool,
    ) {
        let mut bench = Bench::start().await;
        bench.watch.watch(&key(), &[bench.address.ip()]);
        assert!(bench.news(Duration::from_secs(15)).await, "the first answer is news");
        bench.set(pointer, value);
        if news {
            assert!(bench.news(Duration::from_secs(15)).await);
        } else {
            bench.looked_at_again().await;
            assert!(!bench.news(Duration::ZERO).await);
        }
        bench.watch.forget(&key());
        bench.set("/draining", json!(true));
        assert!(!bench.news(STEADY + SOON).await);
    }

    #[tokio::test]
    async fn counts_that_go_on_are_no_news_and_are_read_all_the_same() {
        let mut bench = Bench::start().await;
        bench.set("/links/0/returned", returned(true, 9));
        bench.watch.watch(&key(), &[bench.address.ip()]);
        assert!(bench.news(Duration::from_secs(15)).await);
        bench.set("/links/0/returned", returned(true, 900));
        bench.looked_at_again().await;
        assert!(!bench.news(Duration::ZERO).await);
        let last = bench.watch.last(&key(), bench.address.ip()).unwrap();
        let returned = last.status.unwrap().links.first().unwrap().returned.clone();
        assert_eq!(returned.unwrap().sent, 900);
    }

    #[tokio::test]
    async fn a_pod_that_does_not_answer_is_told_once() {
        let (wake, mut woken) = mpsc::unbounded_channel();
        let watch = Watch::new(Client::new().unwrap(), 1, move |key| wake.send(key).unwrap_or_default());
        let ip: IpAddr = "127.0.0.1".parse().unwrap();
        watch.watch(&key(), &[ip]);
        assert_eq!(woken.recv().await, Some(key()));
        assert!(watch.last(&key(), ip).unwrap().status.is_err());
        assert!(tokio::time::timeout(STEADY + SOON, woken.recv()).await.is_err());
        watch.watch(&key(), &[]);
        assert!(watch.last(&key(), ip).is_none());
    }

    #[rstest]
    #[case::well("Up", &[3, 3, 3])]
    #[case::trouble("Unreachable", &[1, 1, 1])]
    #[case::silent("", &[2, 4, 8, 15, 15])]
    fn all_well_is_looked_at_every_three_seconds_trouble_every_second_and_silence_ever_later(
        #[case] state: &str,
        #[case] seconds: &[u64],
    ) {
        let link = json!({"router": "main", "node": "n", "address": "192.0.2.1:7400",
            "componentId": "cm-2_s2scp-1.eft-xwye-a-coluc-com", "state": state, "since": ""});
        let status = json!({"configHash": "ab", "dialbackSecrets": [], "draining": false, "links": [link],
            "failingPartners": [], "streams": {"inbound": 0, "outbound": 0}});
        let silent = Error::Unexpected {
            address: "192.0.2.1:8080".parse().unwrap(),
            what: "HTTP 404".to_owned(),
        };
        let answer = if state.is_empty() { Value::Null } else { status };
        let status = serde_json::from_value::<EdgeStatus>(answer).map(Arc::new);
        let observation = Observation {
            asked: SystemClock.now(),
            status: status.map_err(|_| Arc::new(silent)),
        };
        let paces: Vec<u64> = (1..)
            .take(seconds.len())
            .map(|n| observation.pace(n).as_secs())
            .collect();
        assert_eq!(paces, seconds);
    }
}
