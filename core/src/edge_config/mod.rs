//! The edge's configuration: one YAML file, written by the operator or by hand.
//!
//! [`EdgeConfig::from_yaml`] reads and validates it; errors carry the line where the reader knows
//! it, the field and what is allowed. Files named in it (keys, certificates, secrets) are read by
//! the edge itself.

#[cfg(feature = "schemars")]
mod schema;
mod types;
mod validate;
mod values;

pub use types::{
    CertificateFiles, Dialback, Dns, EdgeConfig, Endpoint, FINISH_AT_MOST, Limits, LinkProfile, Listen, Log, Peer,
    Privacy, PrivacyMode, ProxyProtocol, Router, StaticRoute, Tls, TlsMode, TlsVersion, TrustAnchors,
};
pub use validate::{ConfigError, Problem};
pub use values::{Cidr, HostPort, HumanDuration, ValueError};
