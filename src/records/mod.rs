//! Verification of public DNS records: what peers will find when they look for us.
//!
//! This is the view of a stranger: it asks the resolvers of the spec, absolute names only, and
//! compares with what the Service really has. The edge's own resolving is its own affair.

mod lookup;
mod reach;
mod verify;

pub use lookup::{RecordResolvers, ResolverError};
pub use reach::{NameAddresses, Reach, ServiceAddresses, follow};
pub use verify::{RecordState, RecordStatus, Wanted, hold, verify};
