//! Certificates: our own authority where none is brought. Whether peers accept one is judged in
//! [`xmpp_federation_core::chain`].

mod authority;
mod inspect;

pub use authority::{KeyMaterial, Outcome, TlsError, end_of, ensure};
pub use inspect::inspect;
