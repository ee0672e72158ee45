//! Server dialback (XEP-0220): secrets and the elements of the three roles.

mod secrets;

pub use secrets::DialbackSecrets;
