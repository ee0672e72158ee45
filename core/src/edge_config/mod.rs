//! The edge's configuration: one YAML file, written by the operator or by hand.
//!
//! [`EdgeConfig::from_yaml`] reads and validates it; errors carry the line where the reader knows
//! it, the field and what is allowed. Files named in it (keys, certificates, secrets) are read by
//! the edge itself.
//!
//! The operator and its edges may be of different releases. [`EdgeConfig::read`] takes a later release's file as far as it
//! is known, unless the file names a feature that readers must know ([`features`]).

pub mod features;
mod known;
mod partner;
mod read;
#[cfg(feature = "schemars")]
mod schema;
mod types;
mod validate;
mod values;

pub use known::ConfigRead;
pub use partner::{Partner, PartnerLimits, PartnerTls, RouteHost};
pub use read::{Doors, Head, ReadError, Reader};
pub use types::{
    CertificateFiles, Dialback, Dns, EdgeConfig, Endpoint, FINISH_AT_MOST, Limits, LinkProfile, Listen, Log, Privacy,
    PrivacyMode, ProxyProtocol, Router, Tls, TlsMode, TlsVersion, TrustAnchors,
};
pub use validate::{ConfigError, Problem};
pub use values::{Cidr, HostPort, HumanDuration, ValueError};
