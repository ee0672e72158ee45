//! The pre-flight check against the simulated IM&P cluster and against servers that misbehave:
//! what it says, what it asks, and that it never asks once too often.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod binary;
mod cluster;
mod servers;
mod support;
