//! A running edge with peers and routers that speak bytes over real sockets. Nothing here uses
//! the edge's protocol code.

pub mod dns;
pub mod lab;
pub mod log;
pub mod partner;
pub mod pki;
pub mod process;
pub mod records;
pub mod router;
pub mod scene;

pub use lab::{Lab, SECRET, config, config_of, give_terms, live, pin, route_host, terms};
pub use router::{COMPONENT, GATEWAY, Router, RouterLink, announced, end_of_first_element};
pub use scene::{Scene, configured_scene, scene, scene_with};
pub use testkit_peer::{
    AUTH, DIALBACK, Folder, KEY, PATIENCE, PLAIN_DIALBACK, PROCEED, Peer, STARTTLS, Speaker, VALID, answered,
    attribute, client_tls, features, header, odd, result, server_tls, verified,
};

/// All these are in the text.
#[track_caller]
pub fn has<const N: usize>(text: impl AsRef<str>, all: [&str; N]) {
    for one in all {
        assert!(text.as_ref().contains(one), "{one:?} is not in {}", text.as_ref());
    }
}

pub fn to_alice(id: impl std::fmt::Display) -> String {
    format!("<message from='bob@vngtp.lab' to='alice@coluc.com' id='{id}'/>")
}

pub fn to_bob(id: impl std::fmt::Display) -> String {
    format!("<message from='alice@coluc.com' to='bob@vngtp.lab' id='{id}'/>")
}

/// The numbered message of bob's to alice.
pub fn message(n: usize) -> String {
    format!("<message from='bob@vngtp.lab' to='alice@coluc.com' id='{n}'><body>x</body></message>")
}

/// The number of such a message.
pub fn id(stanza: &str) -> usize {
    attribute(stanza, "message", "id").parse().unwrap()
}
