//! What the operator does to Unified CM IM and Presence (IM&P) clusters: register component ids
//! over AXL, prove that every XCP router has read them, and restart routers when, and only when,
//! that is needed.
//!
//! - [`desired`]: what the controller asks for, validated; [`access`]: how a cluster is reached
//! - [`report`]: what it gets back: verdicts for conditions, nodes, rows, events, when to call again
//! - [`machine`]: one cluster: observes, plans, does at most one thing, records it; without I/O
//! - [`driver`]: [`Manager`], the one entry point, performs what the machines ask for; [`guard`]: whether a change may
//!   still be made
//! - [`plan`]: pure, from desired state, observation, ledger and clock to the next step
//! - [`registration`]: rows that have to be inserted or deleted; [`restart`]: routers that have to be restarted
//! - [`announcement`]: what routers of profile Xcp say of our components
//! - [`ledger`]: what was done to a cluster, one text per publisher; [`records`]: the parts of it that others read;
//!   [`store`]: where the texts are kept
//! - [`accounts`]: the rule of one 401
//! - [`dropped`]: clusters that a resource's spec does not name any more
//! - [`federation`]: whether IM&P's own XMPP federation is off
//! - [`axl`], [`control_center`]: the two SOAP interfaces; [`soap`], [`http`]: what they share
//! - [`audit`]: what was done, told as event, log line, recent action and count; [`counter`]: who counts
//! - [`verdicts`]: what all of that means, in sentences; [`reasons`]: the words that conditions and events use
//! - [`preflight`]: the same clients, asked by an administrator before anything is installed
//! - [`window`]: when routers may be restarted; [`timings`]: how long things are waited for
//! - [`clock`]: points in time that can be compared across processes only where that is sound
//!
//! ```text
//! let imp = Manager::new(Arc::new(KubeStore::new(client, namespace)), guard);   // once
//! let report = imp.reconcile(&desired).await;   // in each reconcile, per entry of spec.imp
//! let removal = imp.remove(&desired).await;     // in the finalizer, until it is done
//! ```

pub mod access;
mod accounts;
mod announcement;
mod audit;
mod axl;
pub mod clock;
pub mod control_center;
pub mod counter;
pub mod desired;
mod driver;
pub mod dropped;
mod error;
mod federation;
pub mod guard;
mod http;
mod ledger;
mod machine;
mod observation;
mod pkid;
mod plan;
pub mod preflight;
pub mod reasons;
pub mod records;
mod registration;
pub mod report;
pub mod resolve;
mod restart;
mod soap;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod text;
pub mod timings;
mod verdicts;
pub mod window;

pub use driver::Manager;
pub use ledger::cache::LedgerChange;
pub use restart::by_hand::BY_HAND;

#[cfg(test)]
mod histories;
