//! XML of streams: framer, negotiation parser, re-rooting, writing.

mod error;

pub use error::{StreamErrorCondition, XmlError};
