//! What is said of single remote domains: fixed addresses and terms.

use xmpp_federation_core::edge_config::{HostPort, Peer, StaticRoute};

use super::Problems;
use crate::api::spec::XmppFederationSpec;

pub(super) fn static_routes(problems: &mut Problems, spec: &XmppFederationSpec) -> Vec<StaticRoute> {
    let mut routes = Vec::new();
    for (i, route) in spec.static_routes.iter().enumerate() {
        let field = format!("spec.staticRoutes[{i}]");
        let Some(domain) = problems.domain(&format!("{field}.domain"), &route.domain) else {
            continue;
        };
        let addresses = route
            .addresses
            .iter()
            .enumerate()
            .map(|(n, a)| HostPort {
                host: a.host.clone(),
                port: problems.port(&format!("{field}.addresses[{n}].port"), a.port),
            })
            .collect();
        routes.push(StaticRoute { domain, addresses });
    }
    routes
}

pub(super) fn peers(problems: &mut Problems, spec: &XmppFederationSpec) -> Vec<Peer> {
    let mut peers: Vec<Peer> = Vec::new();
    for (i, peer) in spec.peers.iter().enumerate() {
        let field = format!("spec.peers[{i}]");
        let Some(domain) = problems.domain(&format!("{field}.domain"), &peer.domain) else {
            continue;
        };
        let pinned_sha256 = problems.pins(&format!("{field}.pinnedSha256"), &peer.pinned_sha256);
        peers.push(Peer {
            domain,
            tls_mode: peer.tls_mode,
            require_certificate: peer.require_certificate,
            pinned_sha256,
            max_stanza_bytes: peer.max_stanza_bytes.and_then(|n| usize::try_from(n).ok()),
            messages_per_second: peer.messages_per_second.and_then(|n| u32::try_from(n).ok()),
            bytes_per_second: peer.bytes_per_second.and_then(|n| u64::try_from(n).ok()),
        });
    }
    peers
}
