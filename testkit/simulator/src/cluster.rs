//! The state of a cluster: settings that change while it runs, its nodes, and database replication between them.

use super::auth::Auth;
use super::calls::Calls;
use super::config::{Federation, ImpConfig, NodeConfig};
use super::database::{Database, Snapshot};
use super::faults::Faults;
use super::router::Router;
use super::users::Users;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Publisher first.
    pub nodes: Vec<Arc<Node>>,
    /// The node that takes writes.
    pub publisher: Arc<Node>,
    /// As it was started, domains and aliases in lower case.
    pub config: ImpConfig,
    /// Everything that was asked.
    pub calls: Calls,
    /// What is to go wrong.
    pub faults: Faults,
    /// Accounts.
    pub auth: Auth,
    /// Simulated users.
    pub users: Users,
    /// How many bytes of huge answers went out.
    pub huge_bytes: AtomicUsize,
    /// Requests that are being answered, and the most there were at a time.
    pub in_flight: (AtomicUsize, AtomicUsize),
    pub restart: Duration,
    pub services_lag: Duration,
    /// How long a router may be down in a redundancy group; `None`: there are none.
    pub failover: Option<Duration>,
    /// Ends all tasks.
    pub ended: CancellationToken,
    replication: Duration,
    config_manager: Duration,
    settings: Mutex<Settings>,
    writes: AtomicU64,
    write_order: Mutex<()>,
}

/// What may be changed while the cluster runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// State of the cluster's own federation.
    pub federation: Federation,
    /// Versions that are answered.
    pub axl_versions: Vec<String>,
    /// How long each request is thought about before it is answered.
    pub think: Duration,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Name in `processnode`.
    pub name: String,
    /// Takes writes.
    pub publisher: bool,
    /// Where it listens; ports as they came out.
    pub place: NodeConfig,
    /// Its database.
    pub database: Database,
    /// Its services and XCP router.
    pub router: Router,
    /// Times of the Control Center requests of the last minute.
    pub control_center_times: Mutex<Vec<std::time::Instant>>,
    /// Number of the last write that replication has brought.
    applied: Mutex<u64>,
}

/// Seconds as written in a configuration.
fn seconds(value: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(value).map_err(|_| format!("`{value}` is no duration in seconds"))
}

impl Node {
    /// A node whose router has started with the table as configured.
    pub fn new(
        config: &ImpConfig,
        place: NodeConfig,
        publisher: bool,
        copy_of: Option<&Snapshot>,
    ) -> Result<Self, testkit_base::Error> {
        let database = Database::new(config)?;
        if let Some(snapshot) = copy_of {
            database.restore(snapshot)?;
        }
        let ids = ids(&database);
        Ok(Self {
            name: place.name.to_lowercase(),
            publisher,
            place,
            router: Router::new(ids, config.initial_up_time_s),
            database,
            control_center_times: Mutex::default(),
            applied: Mutex::default(),
        })
    }

    /// Where the XCP router listens.
    pub fn xcp_address(&self) -> SocketAddr {
        SocketAddr::new(self.place.address, self.place.xcp_port)
    }
}

fn ids(database: &Database) -> BTreeSet<String> {
    database.component_rows().into_iter().map(|row| row.cp_id).collect()
}

impl Cluster {
    /// Puts a cluster together; nothing runs yet.
    pub fn new(config: &ImpConfig, nodes: Vec<Arc<Node>>) -> Result<Self, testkit_base::Error> {
        let mut config = config.clone();
        for name in config.domains.iter_mut().chain(&mut config.conference_aliases) {
            *name = name.to_lowercase();
        }
        Ok(Self {
            users: Users::new(&config, &nodes)?,
            publisher: nodes.first().cloned().ok_or("a cluster needs at least one node")?,
            nodes,
            calls: Calls::default(),
            faults: Faults::default(),
            auth: Auth::new(
                config.accounts.clone(),
                config.lockout_after,
                seconds(config.lockout_s)?,
            ),
            huge_bytes: AtomicUsize::new(0),
            in_flight: (AtomicUsize::new(0), AtomicUsize::new(0)),
            restart: seconds(config.restart_s)?,
            services_lag: seconds(config.services_lag_s)?,
            failover: config.redundancy.then(|| seconds(config.failover_s)).transpose()?,
            ended: CancellationToken::new(),
            replication: seconds(config.replication_s)?,
            config_manager: seconds(config.config_manager_s)?,
            settings: Mutex::new(Settings {
                federation: config.federation,
                axl_versions: config.axl_versions.clone(),
                think: Duration::ZERO,
            }),
            config,
            writes: AtomicU64::new(0),
            write_order: Mutex::default(),
        })
    }

    /// The settings as they are now.
    pub fn settings(&self) -> Settings {
        self.settings.lock().clone()
    }

    /// Changes settings.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings.lock());
    }

    /// The node of that name or alias.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes
            .iter()
            .find(|node| node.name == name || node.place.aliases.iter().any(|alias| alias == name))
    }

    /// Writes on the publisher and sends the result on its way to the subscribers.
    pub fn write<T, E>(self: &Arc<Self>, write: impl FnOnce(&Database) -> Result<T, E>) -> Result<T, E> {
        let order = self.write_order.lock();
        let publisher = &self.publisher;
        let outcome = write(&publisher.database)?;
        let number = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        let snapshot = publisher.database.snapshot();
        drop(order);
        self.table_changed(publisher);
        let snapshot = match snapshot {
            Ok(snapshot) => Arc::new(snapshot),
            Err(error) => {
                tracing::error!(%error, "replication");
                return Ok(outcome);
            }
        };
        let delay = self.replication;
        for node in self.nodes.iter().skip(1) {
            let (cluster, node, snapshot) = (self.clone(), node.clone(), snapshot.clone());
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                // A later write may have overtaken this one where the delay was shortened.
                let mut applied = node.applied.lock();
                if *applied < number {
                    *applied = number;
                    if let Err(error) = node.database.restore(&snapshot) {
                        tracing::error!(%error, "replication");
                    }
                    cluster.table_changed(&node);
                }
            });
        }
        Ok(outcome)
    }

    /// XCP Config Manager of that node notices, after its delay.
    fn table_changed(&self, node: &Arc<Node>) {
        let (delay, notice, node) = (self.config_manager, self.config.notice, node.clone());
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            node.router.configure(ids(&node.database), notice);
        });
    }
}
