//! Histories of operators and a cluster of two nodes: crashes before and after each call, lost
//! answers, commands that arrive late or never, restarts by others, jumps and differences of wall
//! clocks, replication lag, lost and restored ledgers, a paused leader that goes on beside its
//! successor, a second resource on the cluster, windows that open and close, services that come late
//! or are stopped, nodes that fail over or are missing in the node list, rows of others and of
//! another writer, humans who ask for this and that.
//!
//! After every step the design's rules are checked against what really is, which no operator in
//! here can see; and once faults stop, everything ends in sync, answering what a human is asked for.
//!
//! - [`world`]: the cluster as it is, its clocks, the stored ledger, and the rules
//! - [`operator`]: processes that know only what they read: the real machine, its requests performed by the world
//! - [`operations`]: what can happen, and what is likely
//! - [`properties`]: random histories; [`exhaustive`]: all short ones
//! - [`mutants`]: broken operators, each of which has to be caught breaking its rule

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    clippy::struct_excessive_bools,
    clippy::struct_field_names,
    reason = "tests"
)]

mod exhaustive;
pub mod mutants;
mod operations;
mod operator;
mod properties;
mod world;
