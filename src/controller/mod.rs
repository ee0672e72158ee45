//! The reconcile: dereference → validate → build → apply → effects → status. No module imports another in a circle.
//!
//! - [`reconcile`]: the steps in order; [`queue`]: whose turn it is; [`requeue`]: when it is repeated; [`outcome`]: how it ends
//! - [`watch`] fills the [`snapshots`]: [`snapshot`] of one kind, [`resource`], [`objects`], [`pods`], [`refusals`],
//!   [`references`]
//! - [`ledger_store`]: where what was done to IM and Presence is kept
//! - [`observer`] looks at what is outside Kubernetes; [`questions`]: what is asked there
//! - [`dereference`], [`validate`], [`build`], [`apply`], [`effects`], [`status`]: the steps
//! - [`delete`]: what happens instead when the resource goes; [`unreadable`]: what when it does not fit the schema;
//!   [`renewal`]: what when its spec is refused
//! - [`rows`]: rows in IM and Presence that are to go; [`finalizer`]: what keeps the object until they are gone
//! - [`upgrade`]: which pod template is in force; [`turns`]: whose pods a release replaces now; [`record`]: what the
//!   `StatefulSets` say of both
//! - [`desired`]: what a cluster is asked for; [`guard`]: whether a change there may still be made
//! - [`answer`], [`events`], [`change_log`]: what is written back; [`requests`]: annotations with which a person asks for something
//! - [`context`]: all of the below, with the cache of each module; [`environment`]: what the steps share; [`cache`]
//! - [`kube`]: bounded calls; [`names`]: names, keys and labels of objects

mod answer;
mod apply;
mod build;
mod cache;
mod change_log;
mod context;
mod delete;
mod dereference;
mod desired;
mod effects;
mod environment;
mod events;
mod fields;
mod finalizer;
mod guard;
mod kube;
pub mod ledger_store;
mod names;
mod objects;
mod observer;
mod outcome;
mod pods;
mod questions;
mod queue;
mod reconcile;
mod record;
mod references;
mod refusals;
mod renewal;
mod repairs;
mod requests;
mod requeue;
mod resource;
mod rows;
mod snapshot;
mod snapshots;
mod status;
#[cfg(test)]
pub(crate) mod testing;
mod turns;
mod unreadable;
mod upgrade;
mod validate;
pub mod watch;

pub use context::Context;
pub use guard::ResourceGuard;
pub use validate::{PodUsers, Settings};
