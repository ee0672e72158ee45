//! A simulated cluster, an operator beside it, and what is asked of both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use testkit_simulator::{Call, FaultOptions, ImpConfig, NodeState, SimulatedImp, Status};
use xmpp_federation_core::ComponentId;
use xmpp_federation_imp::Manager;
use xmpp_federation_imp::access::{Credentials, Host, NodeAddress, ServerTrust};
use xmpp_federation_imp::clock::{Clock as _, SystemClock};
use xmpp_federation_imp::desired::{Announcement, Desired, Link, LinkAge};
use xmpp_federation_imp::reasons::Reason;
use xmpp_federation_imp::report::{Event, Report, Status as Verdict};
use xmpp_federation_imp::store::LedgerStore;
use xmpp_federation_imp::testing::{self, TestStore, Unguarded};
use xmpp_federation_imp::timings::Timings;

/// Names in the lab.
pub const PUBLISHER: &str = "ecup10.coluc.com";
pub const SUBSCRIBER: &str = "ecup10s.coluc.com";

/// One simulated cluster and one operator.
pub struct Bench {
    pub sim: SimulatedImp,
    pub store: Arc<TestStore>,
    timings: Timings,
    pub operator: Manager,
    pub desired: Desired,
    pub events: Vec<Event>,
    /// Whether edges run: a link is up where a started router knows the id.
    pub edges: bool,
    /// The condition under which everything that is sent to a router comes back.
    pub bouncing: Option<String>,
    /// Profile Xcp: routers announce nobody as their gateway, whatever they have read.
    pub ignorant: bool,
}

/// A simulator that restarts and replicates quickly.
pub fn quick() -> ImpConfig {
    ImpConfig {
        // As many calls in [`quick_timings`]' window as a real cluster allows in a minute.
        control_center_per_minute: 120,
        // Longer than the second by which an up time may be wrong.
        restart_s: 1.5,
        replication_s: 0.2,
        config_manager_s: 0.1,
        ..ImpConfig::default()
    }
}

/// The operator's waits in proportion to that. An up time is whole seconds, and a router that
/// has just started has none, so looks cannot be much quicker than this.
pub fn quick_timings() -> Timings {
    Timings {
        first_look: Duration::from_millis(2_800),
        look_every: Duration::from_secs(1),
        look_slowly: Duration::from_secs(2),
        canary_every: Duration::from_millis(500),
        fresh: Duration::from_secs(2),
        settle: Duration::from_secs(2),
        services_deadline: Duration::from_secs(4),
        latest_arrival: Duration::from_secs(4),
        confirm_missing: Duration::from_secs(2),
        budget_window: Duration::from_secs(6),
        busy: Duration::from_secs(2),
        ..Timings::default()
    }
}

pub fn id(slot: usize) -> ComponentId {
    let text = match slot {
        0 => "cm-2_s2scp-1.eft-xwye-a-coluc-com".to_owned(),
        n => format!("cm-2_s2scp-1.eft-xwye-a-{n}-coluc-com"),
    };
    text.parse().unwrap()
}

pub fn secret(version: &str, password: &str) -> Credentials {
    testing::credentials("cups-axl", version, "axluser", password)
}

/// That a condition's message has all these words.
#[track_caller]
pub fn says(verdict: &xmpp_federation_imp::report::Verdict, parts: &[&str]) {
    let said = &verdict.message;
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
}

impl Bench {
    /// A simulated cluster as [`quick`] makes them, and an operator with waits to match.
    pub async fn start(config: ImpConfig) -> Self {
        Self::timed(config, quick_timings()).await
    }

    /// The same with other waits.
    pub async fn timed(config: ImpConfig, timings: Timings) -> Self {
        let sim = SimulatedImp::start(config).await.unwrap();
        let store = Arc::new(TestStore::default());
        let operator = Manager::new(Arc::clone(&store) as Arc<dyn LedgerStore>, Arc::new(Unguarded)).timed(timings);
        let desired = desired(&sim);
        Self {
            sim,
            store,
            timings,
            operator,
            desired,
            events: Vec::new(),
            edges: true,
            bouncing: None,
            ignorant: false,
        }
    }

    /// The operator's process ends and another one starts.
    pub fn restart_operator(&mut self) {
        self.operator =
            Manager::new(Arc::clone(&self.store) as Arc<dyn LedgerStore>, Arc::new(Unguarded)).timed(self.timings);
    }

    /// The same, and the new one has other waits.
    pub fn set_timings(&mut self, timings: Timings) {
        self.timings = timings;
        self.restart_operator();
    }

    /// One reconcile.
    pub async fn once(&mut self) -> Report {
        self.desired.links = self.links();
        let report = self.operator.reconcile(&self.desired).await;
        self.events.extend(report.events.clone());
        report
    }

    /// Reconciles, as often as asked to and at least five times a second, until the report is as
    /// expected; panics after that time.
    pub async fn until(&mut self, limit_s: u64, what: &str, done: impl Fn(&Report) -> bool) -> Report {
        let started = Instant::now();
        loop {
            let report = self.once().await;
            if done(&report) {
                return report;
            }
            assert!(
                started.elapsed() < Duration::from_secs(limit_s),
                "not {what} after {limit_s} s: {report:#?}"
            );
            tokio::time::sleep(report.requeue_after.min(Duration::from_millis(200))).await;
        }
    }

    /// Until the condition of the account has that reason.
    pub async fn until_axl(&mut self, limit_s: u64, reason: Reason) -> Report {
        self.until(limit_s, &reason.to_string(), |report| {
            report.axl_authenticated.reason == reason
        })
        .await
    }

    /// The same of the rows.
    pub async fn until_rows(&mut self, limit_s: u64, reason: Reason) -> Report {
        self.until(limit_s, &reason.to_string(), |report| {
            report.components_registered.reason == reason
        })
        .await
    }

    /// The same of the routers.
    pub async fn until_routers(&mut self, limit_s: u64, reason: Reason) -> Report {
        self.until(limit_s, &reason.to_string(), |report| {
            report.routers_in_sync.reason == reason
        })
        .await
    }

    /// Until all rows are there.
    pub async fn until_registered(&mut self, limit_s: u64) -> Report {
        self.until(limit_s, "registered", |report| {
            report.components_registered.status == Verdict::True
        })
        .await
    }

    /// Until all four conditions are True.
    pub async fn until_ready(&mut self, limit_s: u64) -> Report {
        self.until(limit_s, "ready", |report| {
            [
                &report.axl_authenticated,
                &report.components_registered,
                &report.routers_in_sync,
                &report.imp_federation_off,
            ]
            .into_iter()
            .all(|verdict| verdict.status == Verdict::True)
        })
        .await
    }

    /// Reconciles for that long.
    pub async fn keep_on(&mut self, seconds: f64) {
        let started = Instant::now();
        while started.elapsed().as_secs_f64() < seconds {
            let report = self.once().await;
            tokio::time::sleep(report.requeue_after.min(Duration::from_millis(200))).await;
        }
    }

    pub fn fault(&self, name: &str, options: FaultOptions) {
        self.sim.set_fault(name, options).unwrap();
    }

    fn links(&self) -> Vec<Link> {
        if !self.edges {
            return Vec::new();
        }
        let (announces, ignorant) = (self.desired.announces, self.ignorant);
        let wanted: BTreeSet<ComponentId> = self.desired.component_ids.iter().cloned().collect();
        self.sim
            .state()
            .nodes
            .into_iter()
            .flat_map(|node| {
                let started = node.router.status == Status::Started;
                let name = node.name;
                let loaded = node.router.loaded_ids;
                let bouncing = self.bouncing.clone();
                // A router of profile Xcp takes every link, and announces each component to all
                // others.
                let others = wanted.clone();
                wanted.clone().into_iter().map(move |id| {
                    let seen = others.iter().filter(|other| **other != id);
                    let seen = seen.map(|other| Announcement {
                        component_id: other.clone(),
                        gateway: loaded.contains(other.as_str()) && !ignorant,
                    });
                    Link {
                        up: started && (announces || loaded.contains(id.as_str())),
                        bouncing: bouncing.clone(),
                        opened: started.then(|| LinkAge {
                            asked: SystemClock.now(),
                            seconds: 0,
                        }),
                        announced: seen.filter(|_| announces && started).collect(),
                        node: name.clone(),
                        component_id: id,
                    }
                })
            })
            .collect()
    }

    /// All calls of one kind: service and operation.
    pub fn calls(&self, service: &str, operation: &str) -> Vec<Call> {
        let mut calls = self.sim.calls(0);
        calls.retain(|call| call.service == service && call.operation == operation);
        calls
    }

    /// The logins that failed.
    pub fn bad_logins(&self) -> Vec<Call> {
        let mut calls = self.sim.calls(0);
        calls.retain(|call| call.auth == "bad");
        calls
    }

    /// Restart commands received.
    pub fn restart_commands(&self) -> Vec<Call> {
        self.calls("control-center", "soapDoControlServices")
    }

    pub fn node(&self, name: &str) -> NodeState {
        self.sim
            .state()
            .nodes
            .into_iter()
            .find(|node| node.name == name)
            .unwrap()
    }

    /// The table of the publisher: (`pkid`, `cp_id`).
    pub fn rows(&self) -> Vec<(String, String)> {
        self.node(PUBLISHER)
            .rows
            .into_iter()
            .map(|row| (row.pkid, row.cp_id))
            .collect()
    }

    /// How often each router was restarted, by whomever.
    pub fn restarts(&self) -> Vec<usize> {
        self.sim
            .state()
            .nodes
            .iter()
            .map(|node| node.router.restarts.len())
            .collect()
    }
}

pub fn desired(sim: &SimulatedImp) -> Desired {
    let mut addresses: BTreeMap<String, NodeAddress> = sim
        .nodes()
        .iter()
        .map(|node| {
            let address = NodeAddress {
                host: node.https.ip().into(),
                port: Some(node.https.port()),
            };
            (node.name.clone(), address)
        })
        .collect();
    if let Some(publisher) = addresses.get(PUBLISHER).cloned() {
        addresses.insert("cups.ciscotac.net".into(), publisher);
    }
    // Nothing else may be reached by mistake.
    assert!(
        addresses
            .values()
            .all(|address| address.host == Host::from(IpAddr::from([127, 0, 0, 1])))
    );
    let mut desired = testing::desired();
    desired.target.addresses = addresses;
    desired.target.axl = secret("1", "axlpassword");
    desired.target.tls = ServerTrust::Ca {
        pem: sim.ca_pem().as_bytes().to_vec(),
        source: "Secret imp-ca, key ca.crt".into(),
    };
    desired.component_ids = vec![id(0)];
    desired
}
