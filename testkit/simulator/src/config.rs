//! What a simulated cluster is made of; every field has the lab's default.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// One simulated IM&P cluster. The first node is the publisher.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ImpConfig {
    /// The nodes, publisher first.
    pub nodes: Vec<NodeConfig>,
    /// Presence domains of the cluster.
    pub domains: Vec<String>,
    /// Conference aliases: domains of the text conferencing component.
    pub conference_aliases: Vec<String>,
    /// Simulated users and their home nodes.
    pub users: Vec<UserConfig>,
    /// Accounts for AXL and Control Center, shared by all nodes.
    pub accounts: Vec<Account>,
    /// Failed logins before an account is locked; 0: never.
    pub lockout_after: u32,
    /// How long a locked account stays locked, seconds.
    pub lockout_s: f64,
    /// The shared secret of the XCP routers.
    pub router_secret: String,
    /// What the XCP routers speak with components.
    pub router_profile: Profile,
    /// Name of the table of S2S component ids: `xmpps2snodes` or `xmpp2snodes`.
    pub table: String,
    /// Rows present from the start.
    pub rows: Vec<Row>,
    /// AXL versions that are answered; others get 599.
    pub axl_versions: Vec<String>,
    /// Whether `processnode` has the column `tkprocessnoderole` (9.x has not).
    pub role_column: bool,
    /// From a write on the publisher until the subscribers have it, seconds.
    pub replication_s: f64,
    /// From a change of a node's table until XCP Config Manager has written the router's configuration, seconds.
    pub config_manager_s: f64,
    /// Duration of a restart of the XCP router, seconds.
    pub restart_s: f64,
    /// From the router being up to the XCP services beside it being up, seconds.
    pub services_lag_s: f64,
    /// XCP services that are not activated.
    pub not_activated: Vec<String>,
    /// Services that the release does not have, and for which it answers as if they were stopped.
    pub absent_as_stopped: Vec<String>,
    /// Whether there is a table `enterprisenode` with the states of redundancy groups.
    pub redundancy: bool,
    /// A router that is down for longer gives its users to the group's other node, seconds.
    pub failover_s: f64,
    /// For how long everything has been up when the simulation starts, seconds.
    pub initial_up_time_s: u64,
    /// State of the cluster's own XMPP federation.
    pub federation: Federation,
    /// Whether the "requires a restart" notice appears at all.
    pub notice: bool,
    /// Control Center requests allowed per node and minute.
    pub control_center_per_minute: usize,
    /// How stanzas are spread over several linked components.
    pub spread: Spread,
}

/// One row of the component table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Primary key, a lower-case UUID.
    pub pkid: String,
    /// Component id, as `cm-2_s2scp-1.eft-xwye-a-coluc-com`.
    pub cp_id: String,
}

/// One node: its name and where it listens.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeConfig {
    /// Name in `processnode`, also the first name in its certificate.
    pub name: String,
    /// Further names in its certificate.
    pub aliases: Vec<String>,
    /// Address of all three listeners.
    pub address: IpAddr,
    /// Network namespace in which the sockets are opened.
    pub netns: Option<PathBuf>,
    /// Port of AXL and Control Center; 0: any free one.
    pub https_port: u16,
    /// Port of the XCP router; 0: any free one.
    pub xcp_port: u16,
    /// Port of the lab's control HTTP; 0: any free one.
    pub control_port: u16,
}

/// One simulated user.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct UserConfig {
    /// Bare JID.
    pub jid: String,
    /// Name of the home node; absent: the publisher.
    #[serde(default)]
    pub node: Option<String>,
}

/// One application user of the cluster.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Account {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Has *Standard AXL API Access*.
    #[serde(default = "yes")]
    pub axl: bool,
    /// Has a serviceability role.
    #[serde(default = "yes")]
    pub control_center: bool,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

const fn yes() -> bool {
    true
}

/// The cluster's own XMPP federation, as its connection manager shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Federation {
    /// Service activated and started.
    On,
    /// Service not activated (reason code -1068).
    Off,
    /// Service activated but stopped: proves nothing.
    Unknown,
}

/// What the XCP routers of a cluster speak with components.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// XEP-0114 alone; an id that is not loaded is refused.
    Component,
    /// XEP-0114 with announcements and `<route/>`; an id that is not loaded gets nothing.
    Xcp,
}

/// How stanzas of users are spread over the linked components of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// One after the other; two stanzas of one pair may overtake each other.
    RoundRobin,
    /// All stanzas of one pair of addresses take the same component, while the set stays.
    Pair,
}

impl Default for ImpConfig {
    fn default() -> Self {
        Self {
            nodes: vec![
                NodeConfig {
                    name: "ecup10.coluc.com".into(),
                    aliases: vec!["cups.ciscotac.net".into()],
                    ..NodeConfig::default()
                },
                NodeConfig {
                    name: "ecup10s.coluc.com".into(),
                    ..NodeConfig::default()
                },
            ],
            domains: vec!["coluc.com".into()],
            conference_aliases: vec!["conf.coluc.com".into()],
            users: vec![
                UserConfig {
                    jid: "alice@coluc.com".into(),
                    node: Some("ecup10.coluc.com".into()),
                },
                UserConfig {
                    jid: "carol@coluc.com".into(),
                    node: Some("ecup10s.coluc.com".into()),
                },
            ],
            accounts: vec![Account {
                username: "axluser".into(),
                password: "axlpassword".into(),
                axl: true,
                control_center: true,
            }],
            lockout_after: 3,
            lockout_s: 1800.0,
            router_secret: "router-secret".into(),
            router_profile: Profile::Component,
            table: "xmpps2snodes".into(),
            rows: Vec::new(),
            axl_versions: ["14.0", "12.5", "12.0", "11.5"].map(String::from).into(),
            role_column: true,
            replication_s: 1.0,
            config_manager_s: 0.5,
            restart_s: 5.0,
            services_lag_s: 0.0,
            not_activated: Vec::new(),
            absent_as_stopped: Vec::new(),
            redundancy: false,
            failover_s: 90.0,
            initial_up_time_s: 86_400,
            federation: Federation::Off,
            notice: true,
            control_center_per_minute: 50,
            spread: Spread::RoundRobin,
        }
    }
}

impl Default for NodeConfig {
    /// Any free ports on loopback.
    fn default() -> Self {
        Self {
            name: String::new(),
            aliases: Vec::new(),
            address: IpAddr::from([127, 0, 0, 1]),
            netns: None,
            https_port: 0,
            xcp_port: 0,
            control_port: 0,
        }
    }
}
