//! A remote server that speaks bytes over real sockets. Nothing here uses protocol code of the product.
//!
//! - [`Speaker`]: one side of a connection; [`Peer`]: a server that the edge connects to and that connects to it
//! - [`tls`]: anybody's TLS; [`odd`]: certificates that few libraries take

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::new_without_default,
    reason = "for tests"
)]

mod folder;
pub mod odd;
mod peer;
mod speaker;
pub mod tls;

use std::time::Duration;

pub use folder::Folder;
pub use peer::Peer;
pub use speaker::Speaker;
pub use tls::{client_tls, server_tls};

pub const PATIENCE: Duration = Duration::from_secs(10);
pub const STARTTLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
pub const PROCEED: &str = "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
/// Dialback in features, as of today.
pub const DIALBACK: &str = "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>";
/// The same without errors of its own.
pub const PLAIN_DIALBACK: &str = "<dialback xmlns='urn:xmpp:features:dialback'/>";
/// Begins SASL EXTERNAL in the name of the header.
pub const AUTH: &str = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>";
/// A key that `vngtp.lab` shows.
pub const KEY: &str = "<db:result from='vngtp.lab' to='coluc.com'>k</db:result>";
/// What it says of a key that it is shown.
pub const VALID: &str = "<db:result from='vngtp.lab' to='coluc.com' type='valid'/>";

pub fn features(inside: &str) -> String {
    format!("<stream:features>{inside}</stream:features>")
}

/// A key.
pub fn result(from: &str, to: &str, key: &str) -> String {
    format!("<db:result from='{from}' to='{to}'>{key}</db:result>")
}

/// What a receiving server says of a key.
pub fn answered(from: &str, to: &str, verdict: &str) -> String {
    format!("<db:result from='{from}' to='{to}' type='{verdict}'/>")
}

/// What an authoritative server says of a key.
pub fn verified(from: &str, to: &str, id: &str, verdict: &str) -> String {
    format!("<db:verify from='{from}' to='{to}' id='{id}' type='{verdict}'/>")
}

pub fn header(from: &str, to: &str, id: &str) -> String {
    let id = if id.is_empty() {
        String::new()
    } else {
        format!(" id='{id}'")
    };
    format!(
        "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:db='jabber:server:dialback' \
         xmlns:stream='http://etherx.jabber.org/streams' from='{from}' to='{to}'{id} version='1.0'>"
    )
}

/// The value of an attribute in a piece of XML written by the edge.
pub fn attribute(xml: &str, element: &str, name: &str) -> String {
    let start = xml
        .rfind(&format!("<{element}"))
        .unwrap_or_else(|| panic!("no <{element} in {xml}"));
    let rest = &xml[start..];
    let at = rest
        .find(&format!(" {name}='"))
        .unwrap_or_else(|| panic!("no {name} in {rest}"));
    rest[at + name.len() + 3..].split('\'').next().unwrap().to_owned()
}
