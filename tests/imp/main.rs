//! The IM&P module against the simulated IM&P cluster: real HTTPS, real SQL, routers that read
//! their table when they start. Every claim is checked by what the simulator counted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod accounts;
mod announcing;
mod apiserver;
mod audit;
mod client;
mod clusters;
mod cost;
mod cost_at_scale;
mod fault_table;
mod faults;
mod federation;
mod golden;
mod health;
mod log;
mod nodes;
mod registering;
mod restarting;
mod rows;
mod store;
mod support;
mod symptom_one;
