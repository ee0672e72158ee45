//! The words of XMPP federation as types; no I/O.
//!
//! - [`domain`]: a domain in its canonical form, used for every comparison
//! - [`realm`], [`component_id`]: the ids under which IM and Presence knows an edge replica
//! - [`stream_id`], [`dialback`], [`secret`]: what server dialback computes with
//! - [`certificate`]: which names a certificate proves; [`chain`]: whether peers accept a chain of ours; [`fingerprint`]: which one it
//!   is; [`peer_key`]: whether its key signed a handshake
//! - [`resource`]: words of the resource that have nothing to do with Kubernetes
//! - [`edge_config`]: the edge's configuration file, written by the operator or by hand
//! - [`edge_status`]: what an edge tells on its admin port
//! - [`release`]: which of two releases is the later one
//!
//! Everything else depends on this crate, so no rule exists twice.

pub mod certificate;
pub mod chain;
pub mod component_id;
pub mod dialback;
pub mod domain;
pub mod domain_pattern;
pub mod edge_config;
pub mod edge_status;
pub mod fingerprint;
pub mod peer_key;
pub mod realm;
pub mod release;
pub mod resource;
pub mod secret;
pub mod stream_id;
mod text;

pub use component_id::ComponentId;
pub use dialback::DialbackKey;
pub use domain::{Domain, DomainError};
pub use domain_pattern::{DomainMap, DomainPattern};
pub use fingerprint::Fingerprint;
pub use realm::Realm;
pub use release::Release;
pub use resource::{Activation, ForeignComponents};
pub use secret::SecretBytes;
pub use stream_id::StreamId;
