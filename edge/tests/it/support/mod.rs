//! A running edge with peers and routers that speak bytes over real sockets. Nothing here uses
//! the edge's protocol code.

pub mod lab;
pub mod log;
pub mod one_host;
pub mod partner;
pub mod pki;
pub mod process;
pub mod records;
pub mod router;
pub mod scene;

pub use lab::{Lab, SECRET, config, live};
pub use router::{COMPONENT, GATEWAY, Router, RouterLink, announced, end_of_first_element};
pub use scene::Scene;
pub use testkit_peer::{PATIENCE, Peer, Speaker, attribute, client_tls, header, odd, server_tls};
