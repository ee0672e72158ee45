//! What each target does with one input. The tests of the edge include this module and play the kept
//! inputs on it (`edge/tests/it/reference/fuzz_corpora.rs`), on a stable toolchain and without libFuzzer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is what tells a finding"
)]

mod conversation;
pub mod framer;
pub mod link;
pub mod negotiation;
pub mod proxy;
pub mod reroot;
pub mod streams;
pub mod tls;

/// What a target does with an input.
pub type Body = fn(&[u8]);

/// Every target by its name, which is that of its folder in `fuzz/corpus`.
pub const TARGETS: [(&str, Body); 7] = [
    ("framer", framer::run),
    ("link", link::run),
    ("negotiation", negotiation::run),
    ("proxy", proxy::run),
    ("reroot", reroot::run),
    ("streams", streams::run),
    ("tls", tls::run),
];
