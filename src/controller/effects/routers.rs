//! Where the edges find the routers that the IM and Presence module tells of.

use std::net::IpAddr;

use xmpp_federation_core::edge_config::EdgeConfig;

use super::DNS_TIMEOUT;
use crate::controller::build::{NodeAddresses, RouterAddresses};
use crate::controller::dereference::Snapshot;
use crate::controller::validate::ImpCluster;
use xmpp_federation_imp::report::NodeReport;

/// Addresses of the routers: overrides first, then what the names resolve to, then what was known.
pub async fn router_addresses(imp: &ImpCluster, nodes: &[NodeReport], known: Option<&NodeAddresses>) -> NodeAddresses {
    let resolved = nodes.iter().map(|node| async move {
        let lower = node.name.to_ascii_lowercase();
        let given = imp.addresses.iter().find(|(name, _)| *name == lower);
        let before = known
            .into_iter()
            .flatten()
            .find(|(name, _)| *name == node.name)
            .map(|(_, a)| a.clone());
        let address = match given {
            Some((_, address)) => Some(address.to_string()),
            None => resolve(&node.name, before.as_deref()).await.or(before),
        };
        // A name that does not resolve here is left to the edge's own resolving.
        (node.name.clone(), address.unwrap_or_else(|| node.name.clone()))
    });
    futures::future::join_all(resolved).await
}

/// One address of a host: the one known, while it is among them, else the first in order.
async fn resolve(host: &str, known: Option<&str>) -> Option<String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(address.to_string());
    }
    let found = tokio::time::timeout(DNS_TIMEOUT, tokio::net::lookup_host((host, 0)))
        .await
        .ok()?
        .ok()?;
    let mut addresses: Vec<IpAddr> = found.map(|a| a.ip().to_canonical()).collect();
    addresses.sort_unstable();
    let still = |known: &&str| addresses.iter().any(|a| a.to_string() == **known);
    if let Some(known) = known.filter(still) {
        return Some(known.to_owned());
    }
    addresses.first().map(ToString::to_string)
}

/// Addresses in a configuration that was written earlier, for an operator that has just started.
pub fn addresses_written(observed: &Snapshot) -> RouterAddresses {
    let text = observed
        .existing
        .config
        .as_ref()
        .and_then(|c| c.data.pointer("/data/edge.yaml"))
        .and_then(|v| v.as_str());
    let Some(Ok(config)) = text.map(EdgeConfig::from_yaml) else {
        return RouterAddresses::new();
    };
    config
        .routers
        .into_iter()
        .map(|router| {
            let endpoints = router.endpoints.into_iter();
            let nodes = endpoints.map(|endpoint| (endpoint.name, endpoint.address.host));
            (router.name, nodes.collect())
        })
        .collect()
}
