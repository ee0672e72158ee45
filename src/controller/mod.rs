//! The reconcile: dereference → validate → build → apply → effects → status. No module imports another in a circle.
//!
//! - [`reconcile`]: the steps in order; [`watch`]: what starts one; [`requeue`]: when it is repeated; [`outcome`]: how it ends
//! - [`dereference`], [`validate`], [`build`], [`apply`], [`effects`], [`status`]: the steps
//! - [`delete`]: what happens instead when the resource goes; [`unreadable`]: what when it does not fit the schema
//! - [`rows`]: rows in IM and Presence that are to go; [`finalizer`]: what keeps the object until they are gone
//! - [`desired`]: what a cluster is asked for; [`schedule`]: calls to clusters, none of which waits for another
//! - [`answer`], [`events`], [`change_log`]: what is written back; [`requests`]: annotations with which a person asks for something
//! - [`context`]: all of the below, with the cache of each module; [`environment`]: what the steps share; [`cache`]
//! - [`kube`]: bounded calls; [`names`]: names, keys and labels of objects

pub mod answer;
pub mod apply;
pub mod build;
pub mod cache;
pub mod change_log;
pub mod context;
pub mod delete;
pub mod dereference;
pub mod desired;
pub mod effects;
pub mod environment;
pub mod events;
pub mod finalizer;
pub mod kube;
pub mod names;
pub mod outcome;
pub mod reconcile;
pub mod requests;
pub mod requeue;
pub mod rows;
pub mod schedule;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod unreadable;
pub mod validate;
pub mod watch;

pub use context::Context;
pub use validate::Settings;
