//! The S2S gateway: data flows socket → framer → stream → policy → link, and back.
//!
//! - [`words`], [`files`], `network`, `stanza`, `jid`: what all others build on
//! - [`config`], [`reload`]: the file and what it names, loaded into one immutable [`config::Live`] snapshot
//! - [`policy`]: who may federate, `partners`: at which addresses, `terms`: on which terms; [`refusal`]: by which
//!   check not; `peer_memory`: what is remembered of remote domains
//! - [`resolve`], [`tls`]: where a domain is reached, and what certificates prove
//! - [`stream`]: headers, STARTTLS, closing; [`dialback`]: keys and the three roles' elements
//! - [`inbound`]: receiving and authoritative server; `outbound`: initiating server
//! - `clusters`: what waits for XCP routers; [`router`]: the links to them; [`bounce`]: the one table from cause to stanza error
//! - `shared`: what they have in common; [`runtime`]: wires them together and stops them in order; [`budget`]: how much
//!   memory all may hold
//! - [`observe`], [`logging`]: what can be seen, and [`admin`], [`control`], [`ctl`]: through which doors
//! - [`probe`]: one remote domain looked at step by step, without a running edge

pub mod admin;
mod backoff;
pub mod bounce;
pub mod budget;
mod clusters;
pub mod config;
pub mod control;
pub mod ctl;
pub mod dialback;
pub mod files;
pub mod inbound;
mod jid;
pub mod logging;
mod memory;
mod network;
pub mod observe;
mod outbound;
mod partners;
mod peer_memory;
pub mod policy;
pub mod probe;
pub mod refusal;
pub mod reload;
pub mod resolve;
pub mod router;
pub mod runtime;
mod shared;
mod stanza;
pub mod stream;
mod terms;
pub mod tls;
pub mod words;
