//! The S2S gateway: data flows socket → framer → stream → policy → link, and back.
//!
//! - [`config`], [`reload`]: the file and what it names, loaded into one immutable [`config::Live`] snapshot
//! - [`stream`]: headers, STARTTLS, closing
//! - [`dialback`]: keys and the three roles' elements; [`policy`]: who may federate, [`partners`]: at which addresses; [`refusal`]: by which check not
//! - [`inbound`]: receiving and authoritative server; [`outbound`]: initiating server
//! - [`stanza`]: what routing needs to know; `jid`: addresses that are refused, and spellings of domains
//! - [`resolve`], [`tls`]: where a domain is reached, and what certificates prove
//! - [`router`]: the links to XCP routers; [`bounce`]: the one table from cause to stanza error
//! - [`edge`]: ties them together; [`drain`]: the orderly stop; [`budget`]: how much memory all may hold
//! - [`registry`], [`failures`], [`trace`], [`metrics`], [`logging`]: what can be seen (a peer fills no
//!   log: `log_rate`), and [`admin`], [`control`], [`ctl`]: through which doors
//! - [`probe`]: one remote domain looked at step by step, without a running edge

pub mod admin;
pub mod backoff;
pub mod bounce;
pub mod budget;
pub mod config;
pub mod control;
pub mod ctl;
pub mod dialback;
pub mod drain;
pub mod edge;
pub mod failures;
pub mod files;
pub mod inbound;
mod jid;
mod log_rate;
pub mod logging;
mod memory;
pub mod metrics;
mod network;
mod notes;
pub mod outbound;
pub mod partners;
mod peer_memory;
pub mod policy;
pub mod probe;
pub mod refusal;
pub mod registry;
pub mod reload;
pub mod resolve;
pub mod router;
pub mod stanza;
pub mod stream;
mod terms;
pub mod tls;
pub mod trace;
pub mod words;
