//! The lab: a whole network on one machine — hosts, DNS, a simulated IM&P, partners and a real Kubernetes — in network
//! namespaces of its own, and without a trace after its removal.
//!
//! - [`layout`]: names and paths
//! - [`cluster`]: which Kubernetes nodes there are
//! - [`network`]: the two segments, hosts, nodes
//! - [`process`]: processes and their records
//! - [`node`]: what the machine lends to a Kubernetes node: mount namespace, cgroup, containerd
//! - [`kubernetes`]: the control plane and kubelet; the table of settings that are not defaults
//! - [`pki`]: certificates of Kubernetes
//! - [`images`]: container images of the product
//! - [`cloud`]: addresses for `LoadBalancer` Services; [`balancer`]: which node they lead to
//! - [`hosts`]: the standard hosts and what runs on them
//! - [`teardown`]: what takes a lab away again
//!
//! [`Lab`] is what scenarios use:
//!
//! ```no_run
//! # async fn example() -> Result<(), testkit_base::Error> {
//! use testkit_lab::{Lab, Options};
//! let lab = Lab::up(&Options::named("demo")).await?;
//! lab.kubectl(&["get", "nodes"]).await?;
//! let reply = lab.inside(async || reqwest_from_inside().await).await?;
//! lab.down(None).await?;
//! # Ok(()) }
//! # async fn reqwest_from_inside() -> Result<(), testkit_base::Error> { Ok(()) }
//! ```

pub mod balancer;
pub mod cloud;
pub mod cluster;
pub mod command;
pub mod hosts;
pub mod images;
pub mod kubernetes;
pub mod layout;
pub mod network;
pub mod node;
pub mod pki;
pub mod process;
mod start;
pub mod teardown;

pub mod api;
mod cli;

pub use api::{Lab, Options};
pub use cli::{Args, run};
