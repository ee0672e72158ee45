//! The XCP router of a node and the services around it: what runs, since when, which component ids the router has
//! loaded, which components are linked, and how a restart goes.
//!
//! The `link` is XEP-0114, with the additions of profile `xcp` where the cluster's routers speak that.
//!
//! A restart of `R` seconds: `Stopping` for 0.3 R (all links drop at once, the port is closed), then `Starting` for
//! 0.7 R. The ids are loaded at the moment `Starting` begins, which is also the start time that `UpTime` counts from.

mod link;
mod routing;
mod xcp;

pub use link::{COMPONENT_NS, Link, LinkState};
pub use routing::{domain_of, error_answer};

use super::calls::now_ms;
use super::cluster::{Cluster, Node};
use super::config::Federation;
use super::listen::listen;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The router's name as a service.
pub const ROUTER: &str = "Cisco XCP Router";
/// The cluster's own federation.
pub const FEDERATION: &str = "Cisco XCP XMPP Federation Connection Manager";

/// Services that go down and up with the router.
const XCP_SERVICES: [&str; 7] = [
    "Cisco XCP Authentication Service",
    "Cisco XCP Connection Manager",
    "Cisco XCP Directory Service",
    "Cisco XCP File Transfer Manager",
    "Cisco XCP Text Conference Manager",
    "Cisco XCP Web Connection Manager",
    FEDERATION,
];
const OTHER_SERVICES: [&str; 8] = [
    ROUTER,
    "Cisco XCP Config Manager",
    "Cisco AXL Web Service",
    "Cisco Presence Engine",
    "Cisco SIP Proxy",
    "Cisco Sync Agent",
    "Cisco Route Datastore",
    "Cisco Tomcat",
];

/// State of a service as Control Center words it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Runs.
    Started,
    /// Does not run.
    #[default]
    Stopped,
    /// On its way up.
    Starting,
    /// On its way down.
    Stopping,
}

/// One service.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// What it does.
    pub status: Status,
    /// Start of the process, Unix milliseconds.
    pub started_at_ms: Option<u64>,
}

/// One restart, for `/state`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Restart {
    /// The command came (or the process died).
    pub requested_at_ms: u64,
    /// The process was down.
    pub stopped_at_ms: Option<u64>,
    /// The new process began: ids are loaded here, `UpTime` counts from here.
    pub starting_at_ms: Option<u64>,
    /// The port was open again, status `Started`.
    pub started_at_ms: Option<u64>,
    /// `control-center`, `hand` or `fault`.
    pub by: Cow<'static, str>,
    /// What was loaded.
    pub loaded_ids: BTreeSet<String>,
}

impl Restart {
    fn begun(by: &'static str) -> Self {
        Self {
            requested_at_ms: now_ms(),
            by: by.into(),
            ..Self::default()
        }
    }
}

/// For `/state`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RouterState {
    /// As Control Center says.
    pub status: Status,
    /// Start of the process.
    pub started_at_ms: Option<u64>,
    /// Seconds since then.
    pub up_time_s: Option<u64>,
    /// Ids known to the router.
    pub loaded_ids: BTreeSet<String>,
    /// Ids that a start would load now.
    pub configured_ids: BTreeSet<String>,
    /// Linked components.
    pub links: Vec<LinkState>,
    /// Restarts since the simulation began.
    pub restarts: Vec<Restart>,
    /// Stanzas of users answered with an error because no component was linked.
    pub bounced: u64,
    /// Stanzas that came over links and reached a user.
    pub delivered: u64,
    /// Stanzas of users handed to links.
    pub sent: u64,
    /// Stanzas over links that were not taken (unknown user, foreign domain).
    pub refused: u64,
    /// Requests for configuration, which the edge must never send (profile `Xcp`).
    pub config_requests: u64,
    /// First link since the router's start.
    pub first_link_at_ms: Option<u64>,
}

/// The router of one node, with the node's services.
#[derive(Debug)]
pub struct Router(Mutex<State>);

#[derive(Debug)]
struct State {
    services: BTreeMap<&'static str, Service>,
    configured: BTreeSet<String>,
    loaded: BTreeSet<String>,
    notice: bool,
    /// A start or stop is under way.
    busy: bool,
    /// Services that somebody stopped: a restart of the router does not bring them back.
    stopped_by_hand: BTreeSet<&'static str>,
    /// Ends the running router: its port and its links.
    run: CancellationToken,
    links: Vec<Arc<Link>>,
    turn: usize,
    /// Restarts and counters; what is known otherwise is filled in for `/state`.
    seen: RouterState,
}

/// What is to be done with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// From Stopped.
    Start,
    /// From Started.
    Stop,
    /// From either.
    Restart,
}

impl Router {
    /// A router that has run for a while with these ids.
    pub fn new(ids: BTreeSet<String>, up_time_s: u64) -> Self {
        let service = Service {
            status: Status::Started,
            started_at_ms: Some(now_ms().saturating_sub(up_time_s * 1000)),
        };
        Self(Mutex::new(State {
            services: XCP_SERVICES
                .into_iter()
                .chain(OTHER_SERVICES)
                .map(|name| (name, service))
                .collect(),
            configured: ids.clone(),
            loaded: ids,
            notice: false,
            busy: false,
            stopped_by_hand: BTreeSet::new(),
            run: CancellationToken::new(),
            links: Vec::new(),
            turn: 0,
            seen: RouterState::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// XCP Config Manager has written the router's configuration anew.
    pub fn configure(&self, ids: BTreeSet<String>, notice: bool) {
        let mut state = self.lock();
        state.configured = ids;
        if state.configured == state.loaded {
            state.notice = false;
        } else if notice {
            state.notice = true;
        }
    }

    /// Whether the node asks for a restart.
    pub fn notice(&self) -> bool {
        self.lock().notice
    }

    /// For `/state`.
    pub fn state(&self) -> RouterState {
        let state = self.lock();
        let router = state.service(ROUTER);
        RouterState {
            status: router.status,
            started_at_ms: router.started_at_ms,
            up_time_s: router.up_time_s(),
            loaded_ids: state.loaded.clone(),
            configured_ids: state.configured.clone(),
            links: state.links.iter().map(|link| link.state()).collect(),
            ..state.seen.clone()
        }
    }

    /// The services with their state; own federation as the settings say.
    pub fn services(&self, federation: Federation) -> BTreeMap<&'static str, Service> {
        let mut services = self.lock().services.clone();
        if federation != Federation::On {
            services.insert(
                FEDERATION,
                Service {
                    status: Status::Stopped,
                    started_at_ms: None,
                },
            );
        }
        services
    }

    /// All services are as much older.
    pub fn age(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        for service in self.lock().services.values_mut() {
            if let Some(at) = &mut service.started_at_ms {
                *at = at.saturating_sub(by);
            }
        }
    }

    /// Whether it takes stanzas.
    pub fn is_started(&self) -> bool {
        self.lock().service(ROUTER).status == Status::Started
    }
}

impl Service {
    /// Seconds since the start of the process, where it is fully up.
    pub fn up_time_s(&self) -> Option<u64> {
        (self.status == Status::Started)
            .then_some(self.started_at_ms)?
            .map(|at| now_ms().saturating_sub(at) / 1000)
    }
}

impl State {
    fn service(&self, name: &'static str) -> Service {
        self.services.get(name).copied().unwrap_or(Service {
            status: Status::Stopped,
            started_at_ms: None,
        })
    }

    fn set(&mut self, name: &'static str, status: Status, started_at_ms: Option<u64>) {
        self.services.insert(name, Service { status, started_at_ms });
    }

    /// The services that go with the router, but for those that somebody stopped.
    fn set_services(&mut self, status: Status, started_at_ms: u64) {
        for name in XCP_SERVICES {
            if self.stopped_by_hand.contains(name) {
                self.set(name, Status::Stopped, None);
            } else {
                self.set(name, status, Some(started_at_ms));
            }
        }
    }

    /// The process begins to end: links drop, the port closes.
    fn stop(&mut self, status: Status) {
        self.run.cancel();
        self.links.clear();
        self.seen.first_link_at_ms = None;
        self.set(ROUTER, status, None);
        for name in XCP_SERVICES {
            self.set(name, status, None);
        }
    }
}

impl Cluster {
    /// Starts, stops or restarts a service of a node; the answer is Control Center's reason code.
    pub fn control(self: &Arc<Self>, node: &Arc<Node>, service: &str, control: Control, by: &'static str) -> i64 {
        let Some(name) = XCP_SERVICES
            .into_iter()
            .chain(OTHER_SERVICES)
            .find(|name| *name == service)
        else {
            return -1010;
        };
        if name == "Cisco Tomcat" {
            return -1011;
        }
        if name == FEDERATION && self.settings().federation == Federation::Off {
            return -1068;
        }
        let restart = self.restart;
        let mut state = node.router.lock();
        if state.busy {
            return -1029;
        }
        let stopped = state.service(name).status == Status::Stopped;
        match control {
            Control::Start if !stopped => return -1039,
            Control::Stop if stopped => return -1042,
            _ => {}
        }
        state.busy = true;
        if name != ROUTER {
            state.set(name, Status::Stopping, None);
            match control {
                Control::Stop => state.stopped_by_hand.insert(name),
                Control::Start | Control::Restart => state.stopped_by_hand.remove(name),
            };
            drop(state);
            let (cluster, node) = (self.clone(), node.clone());
            tokio::spawn(async move {
                cluster.pause(restart).await;
                let mut state = node.router.lock();
                state.busy = false;
                match control {
                    Control::Stop => state.set(name, Status::Stopped, None),
                    _ => state.set(name, Status::Started, Some(now_ms())),
                }
            });
            return -1;
        }
        let hangs =
            control == Control::Restart && self.faults.strike("restart-hangs", &node.name, &["Restart"]).is_some();
        if control != Control::Stop {
            state.seen.restarts.push(Restart::begun(by));
        }
        if control != Control::Start {
            state.stop(Status::Stopping);
        }
        drop(state);
        let (cluster, node) = (self.clone(), node.clone());
        tokio::spawn(async move {
            if control != Control::Start {
                cluster.pause(restart.mul_f64(0.3)).await;
                let mut state = node.router.lock();
                if control == Control::Stop {
                    state.stop(Status::Stopped);
                    state.busy = false;
                    return;
                }
            }
            // Start alone brings back the router only.
            cluster
                .start_router(&node, restart.mul_f64(0.7), hangs, control == Control::Restart)
                .await;
        });
        -1
    }

    /// From the process being down to the port being open.
    async fn start_router(self: &Arc<Self>, node: &Arc<Node>, duration: Duration, hangs: bool, with_services: bool) {
        if let Some(restart) = node.router.lock().seen.restarts.last_mut() {
            restart.stopped_at_ms = Some(now_ms());
        }
        while (hangs && self.faults.is_on("restart-hangs", &node.name)) || self.faults.is_on("router-down", &node.name)
        {
            self.pause(Duration::from_millis(20)).await;
            if self.ended.is_cancelled() {
                return;
            }
        }
        let began = now_ms();
        {
            let mut state = node.router.lock();
            let state = &mut *state;
            state.loaded = state.configured.clone();
            state.notice = false;
            state.set(ROUTER, Status::Starting, Some(began));
            if with_services {
                state.set_services(Status::Starting, began);
            }
            if let Some(restart) = state.seen.restarts.last_mut() {
                restart.starting_at_ms = Some(began);
                restart.loaded_ids.clone_from(&state.loaded);
            }
        }
        self.pause(duration).await;
        let listener = loop {
            match listen(node.xcp_address(), node.place.netns.clone()).await {
                Ok(listener) => break listener,
                Err(error) => tracing::error!(node = node.name, %error, "XCP router"),
            }
            self.pause(Duration::from_millis(200)).await;
            if self.ended.is_cancelled() {
                return;
            }
        };
        self.run_router(node, listener);
        let mut state = node.router.lock();
        state.busy = false;
        state.set(ROUTER, Status::Started, Some(began));
        if with_services && self.services_lag.is_zero() {
            state.set_services(Status::Started, began);
        } else if with_services {
            let (cluster, node, run) = (self.clone(), node.clone(), state.run.clone());
            tokio::spawn(async move {
                cluster.pause(cluster.services_lag).await;
                let mut state = node.router.lock();
                if !run.is_cancelled() {
                    state.set_services(Status::Started, now_ms());
                }
            });
        }
        let mut down_ms = 0;
        if let Some(restart) = state.seen.restarts.last_mut() {
            restart.started_at_ms = Some(now_ms());
            down_ms = now_ms().saturating_sub(restart.requested_at_ms);
        }
        tracing::info!(node = node.name, ids = ?state.loaded, "XCP router started");
        drop(state);
        self.fail_over(node, Duration::from_millis(down_ms));
    }

    /// The other node of the group has taken over where this one was down for too long, and keeps
    /// the users until somebody lets them fall back.
    fn fail_over(self: &Arc<Self>, node: &Arc<Node>, down: Duration) {
        let other = self.nodes.iter().find(|other| other.name != node.name);
        let (Some(failover), Some(other)) = (self.failover, other) else {
            return;
        };
        if down < failover {
            return;
        }
        let host = |node: &Node| node.name.split('.').next().unwrap_or_default().to_string();
        let text = format!(
            "UPDATE enterprisenode SET tkhaserverstate = CASE name WHEN '{}' THEN 4 ELSE 7 END WHERE name IN ('{}', '{}')",
            host(other),
            host(other),
            host(node)
        );
        if let Err(error) = self.write(|database| database.raw(&text)) {
            tracing::error!(error, "failover");
        }
    }

    /// Takes components on that listener until the router stops.
    pub fn run_router(self: &Arc<Self>, node: &Arc<Node>, listener: TcpListener) {
        let run = self.ended.child_token();
        node.router.lock().run = run.clone();
        tokio::spawn(link::accept(self.clone(), node.clone(), listener, run));
    }

    /// The fault `router-down` was switched on: the processes die where they are running.
    pub fn crash_routers(self: &Arc<Self>) {
        for node in &self.nodes {
            if !self.faults.is_on("router-down", &node.name) {
                continue;
            }
            let mut state = node.router.lock();
            if state.busy {
                continue;
            }
            state.busy = true;
            state.stop(Status::Stopped);
            state.seen.restarts.push(Restart::begun("fault"));
            drop(state);
            let (cluster, node) = (self.clone(), node.clone());
            let duration = self.restart.mul_f64(0.7);
            tokio::spawn(async move { cluster.start_router(&node, duration, false, true).await });
        }
    }

    /// Sleeps, but not beyond the end of the cluster.
    async fn pause(&self, duration: Duration) {
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            () = self.ended.cancelled() => {}
        }
    }
}
