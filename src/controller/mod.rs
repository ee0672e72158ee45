//! The reconcile: dereference → validate → build → apply → effects → status, one file each.
//!
//! - [`reconcile`]: the steps in order; [`watch`]: what starts one
//! - [`dereference`], [`validate`], [`build`], [`apply`], [`effects`], [`status`]: the steps
//! - [`delete`]: what happens instead when the resource goes; [`events`], [`change_log`],
//!   [`answer`]: what is told and written back
//! - [`schedule`]: calls to clusters of IM and Presence, none of which waits for another; [`rows`]: rows
//!   that are to go
//! - [`finalizer`]: what keeps the object until its rows are gone
//! - [`desired`]: what a cluster of IM and Presence is asked for
//! - [`requests`]: annotations with which a person asks for something
//! - [`kube`]: bounded calls; [`names`]: names and labels of objects

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
