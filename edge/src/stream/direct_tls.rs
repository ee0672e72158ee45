//! The two services of a server: STARTTLS and TLS from the first byte (XEP-0368).

use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};

/// The protocol that ALPN names for server-to-server streams (XEP-0368 section 4).
pub const ALPN: &[u8] = b"xmpp-server";

/// For connections that peers open. A peer that names protocols by ALPN must name ours, or gets
/// the alert `no_application_protocol`; one that names none is taken.
pub fn server(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}

/// For connections that we open. A peer may leave ALPN unanswered.
pub fn client(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}
