//! The state of a cluster: settings that change while it runs, its nodes, and database replication between them.

use super::auth::Auth;
use super::calls::Calls;
use super::config::{Federation, ImpConfig, NodeConfig, Profile, Spread};
use super::database::{Database, Snapshot};
use super::faults::Faults;
use super::router::Router;
use super::users::Users;
use parking_lot::{Mutex, MutexGuard};
use serde::Deserialize;
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
    /// Presence domains, lower case.
    pub domains: Vec<String>,
    /// Conference aliases, lower case.
    pub aliases: Vec<String>,
    /// Everything that was asked.
    pub calls: Calls,
    /// What is to go wrong.
    pub faults: Faults,
    /// Accounts.
    pub auth: Auth,
    /// Simulated users.
    pub users: Users,
    /// Name of the component table.
    pub table: String,
    /// How many bytes of huge answers went out.
    pub huge_bytes: AtomicUsize,
    /// What the routers speak.
    pub profile: Profile,
    /// Requests that are being answered, and the most there were at a time.
    pub in_flight: (AtomicUsize, AtomicUsize),
    pub services_lag: Duration,
    pub not_activated: BTreeSet<String>,
    /// How long a router may be down in a redundancy group; `None`: there are none.
    pub failover: Option<Duration>,
    /// Ends all tasks.
    pub ended: CancellationToken,
    settings: Mutex<Settings>,
    writes: AtomicU64,
    write_order: Mutex<()>,
}

/// What may be changed while the cluster runs; explained at `ImpConfig`.
#[derive(Debug, Clone)]
pub struct Settings {
    pub restart: Duration,
    pub replication: Duration,
    pub config_manager: Duration,
    pub federation: Federation,
    pub notice: bool,
    pub control_center_per_minute: usize,
    pub axl_versions: Vec<String>,
    pub router_secret: String,
    pub spread: Spread,
    /// How long each request is thought about.
    pub think: Duration,
}

/// A change of settings: what is absent stays.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// New password of the first account (also ends its lockout).
    pub password: Option<String>,
    /// Replaces all accounts.
    pub accounts: Option<Vec<super::config::Account>>,
    /// Seconds.
    pub restart_s: Option<f64>,
    /// Seconds.
    pub replication_s: Option<f64>,
    /// Seconds.
    pub config_manager_s: Option<f64>,
    /// The cluster's own federation.
    pub federation: Option<Federation>,
    /// Whether the notice appears.
    pub notice: Option<bool>,
    /// Allowed requests per node.
    pub control_center_per_minute: Option<usize>,
    /// Answered versions.
    pub axl_versions: Option<Vec<String>>,
    /// Shared secret of the routers, for new links.
    pub router_secret: Option<String>,
    /// Spreading over components.
    pub spread: Option<Spread>,
    /// Seconds for which each request is thought about before it is answered.
    pub think_s: Option<f64>,
    /// True: all session cookies go stale.
    pub forget_sessions: Option<bool>,
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
pub fn seconds(value: f64) -> Result<Duration, String> {
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
        let lower = |names: &[String]| names.iter().map(|name| name.to_lowercase()).collect();
        let settings = Settings {
            restart: seconds(config.restart_s)?,
            replication: seconds(config.replication_s)?,
            config_manager: seconds(config.config_manager_s)?,
            federation: config.federation,
            notice: config.notice,
            control_center_per_minute: config.control_center_per_minute,
            axl_versions: config.axl_versions.clone(),
            router_secret: config.router_secret.clone(),
            spread: config.spread,
            think: Duration::ZERO,
        };
        Ok(Self {
            users: Users::new(config, &nodes)?,
            publisher: nodes.first().cloned().ok_or("a cluster needs at least one node")?,
            nodes,
            domains: lower(&config.domains),
            aliases: lower(&config.conference_aliases),
            calls: Calls::default(),
            faults: Faults::default(),
            auth: Auth::new(
                config.accounts.clone(),
                config.lockout_after,
                seconds(config.lockout_s)?,
            ),
            table: config.table.clone(),
            huge_bytes: AtomicUsize::new(0),
            profile: config.router_profile,
            in_flight: (AtomicUsize::new(0), AtomicUsize::new(0)),
            services_lag: seconds(config.services_lag_s)?,
            not_activated: config.not_activated.iter().cloned().collect(),
            failover: config.redundancy.then(|| seconds(config.failover_s)).transpose()?,
            ended: CancellationToken::new(),
            settings: Mutex::new(settings),
            writes: AtomicU64::new(0),
            write_order: Mutex::default(),
        })
    }

    /// The settings as they are now.
    pub fn settings(&self) -> Settings {
        self.lock_settings().clone()
    }

    /// How stanzas are spread; asked for each of them.
    pub fn spread(&self) -> Spread {
        self.lock_settings().spread
    }

    /// Changes settings.
    pub fn change(&self, change: Change) -> Result<(), String> {
        let restart = change.restart_s.map(seconds).transpose()?;
        let replication = change.replication_s.map(seconds).transpose()?;
        let config_manager = change.config_manager_s.map(seconds).transpose()?;
        let think = change.think_s.map(seconds).transpose()?;
        let mut settings = self.lock_settings();
        let now = settings.clone();
        *settings = Settings {
            restart: restart.unwrap_or(now.restart),
            replication: replication.unwrap_or(now.replication),
            config_manager: config_manager.unwrap_or(now.config_manager),
            federation: change.federation.unwrap_or(now.federation),
            notice: change.notice.unwrap_or(now.notice),
            control_center_per_minute: change
                .control_center_per_minute
                .unwrap_or(now.control_center_per_minute),
            axl_versions: change.axl_versions.unwrap_or(now.axl_versions),
            router_secret: change.router_secret.unwrap_or(now.router_secret),
            spread: change.spread.unwrap_or(now.spread),
            think: think.unwrap_or(now.think),
        };
        drop(settings);
        if let Some(accounts) = change.accounts {
            self.auth.set_accounts(accounts);
        }
        if let Some(password) = change.password {
            self.auth.set_password(password);
        }
        if change.forget_sessions == Some(true) {
            self.auth.forget_sessions();
        }
        Ok(())
    }

    fn lock_settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock()
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
        let delay = self.settings().replication;
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
    fn table_changed(self: &Arc<Self>, node: &Arc<Node>) {
        let delay = self.settings().config_manager;
        let (cluster, node) = (self.clone(), node.clone());
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            node.router.configure(ids(&node.database), cluster.settings().notice);
        });
    }
}
