//! The edge against peers, routers and name servers that speak bytes over real sockets, by theme:
//!
//! - `support`: the other parties, and a running edge
//! - `streams`: dialback, delivery and time limits of streams in both directions
//! - `security`: TLS, certificates, SASL EXTERNAL
//! - `dns`: what zones lead to
//! - `link`: routers
//! - `hostile`: hostile and odd input
//! - `observe`: what can be seen of a running edge
//! - `process`: the binary
//! - `reference`: what pages and kept inputs say

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::format_collect,
    reason = "tests"
)]

mod support;

mod dns {
    mod hostile;
    mod lookups;
    mod zones;
}
mod hostile {
    mod addressing;
    mod budget;
    mod dialback;
    mod framing;
    mod jids;
    mod load;
    pub mod names;
    mod refused;
    mod sizes;
    mod spelling;
    mod strangers;
    mod stream_header;
    mod streams;
}
mod link {
    mod components;
    mod returned;
    mod router_words;
    mod slow_router;
    mod states;
    mod suspects;
    mod xcp;
    mod xcp_router;
}
mod observe {
    mod probe;
    mod stages;
    mod status;
    mod trace;
}
mod process {
    mod binary;
    mod dead_peer;
    mod listening;
    mod logs;
    mod memory;
    mod releases;
    mod signals;
}
mod reference {
    mod documentation;
    mod fuzz_corpora;
    mod hostile_table;
    mod metrics;
}
mod security {
    mod certificates;
    mod direct_tls;
    mod external_identity;
    mod inbound;
    mod matrix;
    mod odd_certificates;
    mod outbound;
    mod proofs;
    mod reloads;
    mod tls;
    mod tls_records;
    mod world;
}
mod streams {
    mod burst;
    mod connecting;
    mod dialback;
    mod drain;
    mod federation;
    mod idle;
    mod odd_peers;
    mod outbound;
    mod partners;
    mod per_pair;
    mod proxy;
    mod reload;
    mod sent;
    mod terms;
    mod time_limits;
    mod verifications;
}
