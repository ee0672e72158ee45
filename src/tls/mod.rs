//! Certificates: our own authority where none is brought, and what any certificate says.

mod authority;
mod inspect;

pub use authority::{KeyMaterial, Outcome, TlsError, ensure};
pub use inspect::{CertificateInfo, Unreadable, inspect};
