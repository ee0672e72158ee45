//! XML of streams, in two tiers.
//!
//! - [`Framer`]: every byte of a stream goes through it once. It checks all rules,
//!   cuts the stream into a header and top-level [`Element`]s, and keeps their bytes as received.
//! - [`Element::parse`]: reads the few elements that are understood here (features, STARTTLS,
//!   SASL, dialback, errors) into small trees.
//! - [`Fragments`]: cuts elements out of bytes that went through the framer before.
//!
//! [`Reroot`] moves an element from one content namespace to another without changing
//! what it says; [`XmlWriter`] makes the XML that is sent.

mod chars;
mod declaration;
mod element;
mod error;
mod fragment;
mod framer;
mod header;
mod limits;
mod name;
mod negotiation;
pub mod ns;
mod portable;
mod prolog;
mod reroot;
mod scanner;
mod split;
mod state;
mod tag;
mod write;

pub use element::Element;
pub use error::{StreamErrorCondition, XmlError};
pub use fragment::Fragments;
pub use framer::{Frame, Framer};
pub use header::{NsName, StreamContext, StreamHeader};
pub use limits::Limits;
pub use negotiation::{Attribute, Content, Node, parse};
pub use reroot::Reroot;
pub use split::split;
pub use write::{HeaderToSend, STREAM_END, UnwritableChar, XmlWriter, is_writable, stream_error};

#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
