//! The edge against hostile peers, odd peers and bursts; one module per kind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod budget;
mod burst;
mod certificates;
mod components;
mod external_identity;
mod fuzz_corpora;
mod idle;
mod jids;
mod logs;
mod lookups;
mod memory;
mod names;
mod odd_certificates;
mod odd_peers;
mod one_host;
mod partner;
mod per_pair;
mod refused;
mod router_words;
mod sent;
mod signals;
mod slow_router;
mod spelling;
mod stages;
mod strangers;
mod stream_header;
mod suspects;
mod tls_records;
mod verifications;
mod xcp_router;
