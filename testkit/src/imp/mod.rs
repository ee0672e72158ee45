//! The simulated Unified CM IM and Presence (IM&P) cluster: AXL and Control Center on HTTPS 8443, the XCP router on
//! TCP 7400, the users behind it, and a control port (HTTP 8080) for tests.
//!
//! In tests: [`SimulatedImp::start`] with an [`ImpConfig`] (all defaults: two nodes on loopback, any free ports).
//! As a process: `testkit imp`, one process for the whole cluster:
//!
//! ```text
//! testkit imp --ca-out DIR/imp-ca.pem --password PASSWORD --router-secret SECRET --restart-s 5 --replication-s 1 \
//!   --node name=ecup10.coluc.com,alias=cups.ciscotac.net,address=10.244.200.10,netns=/run/netns/xf-demo-ecup10 \
//!   --node name=ecup10s.coluc.com,address=10.244.200.11,netns=/run/netns/xf-demo-ecup10s
//! ```
//!
//! `--node` may be repeated, the first is the publisher; ports default to 8443, 7400 and 8080 (`https=`, `xcp=`,
//! `control=`). `--config FILE` (YAML, the fields of [`ImpConfig`] in kebab-case) comes first, flags override it. The CA file is
//! written before the process says `imp: ready` on its standard output; all ports are open then.

mod config;

pub use config::{Account, Federation, ImpConfig, NodeConfig, Row, Spread, UserConfig};

use std::path::PathBuf;

/// Arguments of `testkit imp`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// YAML file with the fields of `ImpConfig`; flags override it
    #[arg(long)]
    config: Option<PathBuf>,
    /// A node, publisher first: name=…,address=…[,netns=PATH][,alias=NAME][,https=8443][,xcp=7400][,control=8080]
    #[arg(long = "node")]
    nodes: Vec<NodeConfig>,
    /// Where to write the CA certificate of the nodes (PEM)
    #[arg(long)]
    ca_out: Option<PathBuf>,
    /// User name of the application user for AXL and Control Center
    #[arg(long)]
    username: Option<String>,
    /// Password of the application user
    #[arg(long)]
    password: Option<String>,
    /// Shared secret of the XCP routers
    #[arg(long)]
    router_secret: Option<String>,
    /// Duration of a router restart, seconds
    #[arg(long)]
    restart_s: Option<f64>,
    /// Delay of database replication to the subscribers, seconds
    #[arg(long)]
    replication_s: Option<f64>,
    /// Delay until XCP Config Manager has read a changed table, seconds
    #[arg(long)]
    config_manager_s: Option<f64>,
}

impl Args {
    fn into_config(self) -> Result<ImpConfig, crate::Error> {
        let mut config = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
                serde_yaml::from_str(&text)
                    .map_err(|error| format!("{}: {error}", path.display()))?
            }
            None => ImpConfig::default(),
        };
        if !self.nodes.is_empty() {
            config.nodes = self.nodes;
        }
        if let Some(account) = config.accounts.first_mut() {
            account.username = self.username.unwrap_or(account.username.clone());
            account.password = self.password.unwrap_or(account.password.clone());
        }
        config.router_secret = self.router_secret.unwrap_or(config.router_secret);
        config.restart_s = self.restart_s.unwrap_or(config.restart_s);
        config.replication_s = self.replication_s.unwrap_or(config.replication_s);
        config.config_manager_s = self.config_manager_s.unwrap_or(config.config_manager_s);
        Ok(config)
    }
}

/// Runs `testkit imp`.
pub async fn run(args: Args) -> Result<(), crate::Error> {
    let config = args.into_config()?;
    Err(format!("not written yet: {config:?}").into())
}
