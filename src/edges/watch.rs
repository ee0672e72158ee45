//! Looks at running edges every few seconds and tells when one says something new.
//!
//! Nothing announces that a link broke, that a router refuses it or returns everything: without
//! these looks it would show when the next reconcile happens to come. A look is one request to the
//! pod itself, none to the Kubernetes API and none to IM and Presence.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use xmpp_federation_core::edge_status::{EdgeStatus, LinkState, StreamCounts};

use super::{Client, fetch_status};

/// Between two looks while a link is not up or a pod does not answer …
const SOON: Duration = Duration::from_secs(1);
/// … and while all is well.
const STEADY: Duration = Duration::from_secs(3);
/// Pods asked at once.
const AT_ONCE: usize = 32;
/// Resources that may wait to be reconciled; those that find no room are told of at the next look.
const WAITING: usize = 1024;

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

/// What a reconcile saw of one pod.
#[derive(Debug, Clone)]
struct Seen {
    ip: IpAddr,
    essence: Essence,
}

impl Seen {
    fn is_well(&self) -> bool {
        self.essence
            .as_ref()
            .is_some_and(|status| status.links.iter().all(|link| link.state == LinkState::Up))
    }
}

#[derive(Debug, Default)]
struct Known {
    pods: Vec<Seen>,
    /// Time since the last look.
    waited: Duration,
}

/// The edges of all resources, as reconciles saw them last.
#[derive(Debug)]
pub struct Watch {
    known: Mutex<HashMap<Key, Known>>,
    port: u16,
}

impl Watch {
    /// Nothing is known; edges answer on that port.
    pub fn new(port: u16) -> Self {
        Self {
            known: Mutex::default(),
            port,
        }
    }

    /// A reconcile of the resource saw these pods; from now on only what differs is news.
    pub fn saw<'a>(&self, key: Key, pods: impl Iterator<Item = (IpAddr, Option<&'a EdgeStatus>)>) {
        let pods = pods
            .map(|(ip, status)| Seen {
                ip,
                essence: essence(status),
            })
            .collect();
        let known = Known {
            pods,
            waited: Duration::ZERO,
        };
        self.known.lock().insert(key, known);
    }

    /// The resource's edges are nobody's concern any more.
    pub fn forget(&self, key: &Key) {
        self.known.lock().remove(key);
    }

    /// The pods whose next look is due after that much more time.
    fn due(&self, passed: Duration) -> Vec<(Key, Seen)> {
        let mut due = Vec::new();
        for (key, known) in self.known.lock().iter_mut() {
            known.waited += passed;
            let well = known.pods.iter().all(Seen::is_well);
            if known.waited >= if well { STEADY } else { SOON } {
                known.waited = Duration::ZERO;
                due.extend(known.pods.iter().map(|pod| (key.clone(), pod.clone())));
            }
        }
        due
    }

    /// Asks the pods whose turn it is; the resources of those that say something new.
    async fn look(&self, client: &Client, passed: Duration) -> Vec<Key> {
        let asked = stream::iter(self.due(passed)).map(|(key, pod)| async move {
            let status = fetch_status(client, pod.ip, self.port).await.ok();
            (essence(status.as_ref()) != pod.essence).then_some(key)
        });
        let mut news: Vec<Key> = asked
            .buffer_unordered(AT_ONCE)
            .filter_map(async |key| key)
            .collect()
            .await;
        news.sort_unstable();
        news.dedup();
        news
    }

    /// Resources to be reconciled, because an edge says something that their last reconcile did
    /// not see. Looks for as long as somebody listens.
    pub fn news(self: std::sync::Arc<Self>, client: Client) -> impl Stream<Item = Key> + Send {
        let (tell, told) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(SOON);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !tell.is_closed() {
                tick.tick().await;
                for key in self.look(&client, SOON).await {
                    // Told of once: the next reconcile, however late, brings it back.
                    if tell.try_send(key.clone()).is_ok() {
                        self.forget(&key);
                    }
                }
            }
        });
        stream::unfold(told, async |mut told| Some((told.recv().await?, told)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use axum::{Json, Router, routing::get};
    use rstest::rstest;
    use serde_json::{Value, json};

    /// An edge whose status can be changed.
    struct Edge {
        status: Arc<Mutex<Value>>,
        asked: Arc<AtomicUsize>,
        ip: IpAddr,
        port: u16,
    }

    impl Edge {
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
            Self {
                status,
                asked,
                ip: address.ip(),
                port: address.port(),
            }
        }

        fn set(&self, pointer: &str, value: Value) {
            let mut status = self.status.lock();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let parent = status.pointer_mut(parent).unwrap();
            parent.as_object_mut().unwrap().insert(key.to_owned(), value);
        }

        /// As a reconcile does.
        async fn seen_by(&self, watch: &Watch, client: &Client) {
            let status = fetch_status(client, self.ip, self.port).await.ok();
            watch.saw(key(), [(self.ip, status.as_ref())].into_iter());
        }
    }

    fn key() -> Key {
        ("federation".to_owned(), "coluc".to_owned())
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
        let (edge, client) = (Edge::start().await, Client::new().unwrap());
        let watch = Watch::new(edge.port);
        edge.seen_by(&watch, &client).await;
        assert!(watch.look(&client, STEADY).await.is_empty());
        edge.set(pointer, value);
        let told = watch.look(&client, STEADY).await;
        assert_eq!(told, if news { vec![key()] } else { Vec::new() });
        // After a reconcile it is no news any more.
        edge.seen_by(&watch, &client).await;
        assert!(watch.look(&client, STEADY).await.is_empty());
        watch.forget(&key());
        edge.set("/draining", json!(true));
        assert!(watch.look(&client, STEADY).await.is_empty());
    }

    #[tokio::test]
    async fn counts_that_go_on_are_no_news_and_a_pod_that_is_gone_is() {
        let (edge, client) = (Edge::start().await, Client::new().unwrap());
        let watch = Watch::new(edge.port);
        edge.set("/links/0/returned", returned(true, 9));
        edge.seen_by(&watch, &client).await;
        edge.set("/links/0/returned", returned(true, 900));
        assert!(watch.look(&client, STEADY).await.is_empty());
        let closed = Watch::new(1);
        closed.saw(key(), [(edge.ip, None)].into_iter());
        let gone = closed.look(&client, STEADY).await;
        assert!(gone.is_empty(), "it did not answer before either: {gone:?}");
        let status = fetch_status(&client, edge.ip, edge.port).await.ok();
        closed.saw(key(), [(edge.ip, status.as_ref())].into_iter());
        assert_eq!(closed.look(&client, STEADY).await, [key()]);
    }

    #[tokio::test]
    async fn all_well_is_looked_at_every_three_seconds_and_trouble_every_second() {
        let (edge, client) = (Edge::start().await, Client::new().unwrap());
        let watch = Watch::new(edge.port);
        edge.seen_by(&watch, &client).await;
        let before = edge.asked.load(Ordering::SeqCst);
        for _ in 0..9 {
            watch.look(&client, SOON).await;
        }
        assert_eq!(edge.asked.load(Ordering::SeqCst) - before, 3);
        edge.set("/links/0/state", json!("Unreachable"));
        edge.seen_by(&watch, &client).await;
        let before = edge.asked.load(Ordering::SeqCst);
        for _ in 0..9 {
            watch.look(&client, SOON).await;
        }
        assert_eq!(edge.asked.load(Ordering::SeqCst) - before, 9);
    }

    #[tokio::test]
    async fn news_come_by_themselves_within_seconds() {
        let (edge, client) = (Edge::start().await, Client::new().unwrap());
        let watch = Arc::new(Watch::new(edge.port));
        edge.seen_by(&watch, &client).await;
        let mut news = Box::pin(watch.clone().news(client.clone()));
        edge.set("/links/0/state", json!("WrongSecret"));
        let told = tokio::time::timeout(Duration::from_secs(15), news.next()).await;
        assert_eq!(told.unwrap().unwrap(), key());
    }
}
