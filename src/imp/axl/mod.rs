//! AXL: SQL on the publisher's database over SOAP.

pub mod version;

pub use version::AxlVersion;
