//! Server dialback (XEP-0220): secrets and the elements of the three roles.
//!
//! The roles themselves: initiating in [`crate::outbound`], receiving and authoritative in
//! [`crate::inbound`], the receiving server's questions in [`crate::outbound::verify`].

pub mod elements;
mod secrets;

pub use secrets::DialbackSecrets;
