//! Where the edges find the routers that the IM and Presence module tells of.

use std::net::IpAddr;
use std::time::Duration;

use crate::controller::build::RouterAddresses;
use crate::controller::dereference::KubeView;
use crate::controller::environment::Environment;
use crate::controller::names::Owner;
use crate::controller::objects::{Content, NodeAddresses};
use crate::controller::questions::RoutersQuestion;
use crate::controller::validate::ImpCluster;
use xmpp_federation_core::edge_config::HostPort;
use xmpp_federation_imp::resolve::SystemResolver;

/// A resolver that says nothing is not waited for longer.
const DNS_TIMEOUT: Duration = Duration::from_secs(10);

/// Names are resolved anew this often.
pub const RESOLVE_EVERY: Duration = Duration::from_mins(1);

/// Addresses of the routers: overrides first, then what the names resolve to, then what was known.
pub fn router_addresses(
    env: &Environment,
    owner: &Owner,
    imp: &ImpCluster,
    nodes: &[String],
    known: Option<&NodeAddresses>,
) -> NodeAddresses {
    let before = |name: &str| known.into_iter().flatten().find(|(known, _)| known == name);
    let question = RoutersQuestion {
        nodes: nodes.to_vec(),
        given: imp.addresses.iter().cloned().collect(),
    };
    let used = |name: &str| before(name).map(|(_, address)| address.clone());
    let due = |_: &_, age| age >= RESOLVE_EVERY;
    let routers = &env.observers.routers;
    let seen = routers.look(owner, &imp.spec.name, &question, due, |_| {
        let names = question.nodes.iter();
        let unknown = names.filter(|name| !question.given.contains_key(&name.to_ascii_lowercase()));
        let unknown = unknown.map(|name| (name.clone(), used(name))).collect();
        resolve_all(env.imp.resolver().clone(), unknown)
    });
    let resolved = |name: &str| {
        let mut answers = seen.iter().flat_map(|seen| &*seen.answer);
        answers
            .find(|(of, _)| of == name)
            .and_then(|(_, address)| address.clone())
    };
    let address = |name: &str| {
        let given = question.given.get(&name.to_ascii_lowercase()).map(ToString::to_string);
        // A name that does not resolve here is left to the edge's own resolving.
        given
            .or_else(|| resolved(name))
            .or_else(|| used(name))
            .unwrap_or_else(|| name.to_owned())
    };
    nodes.iter().map(|node| (node.clone(), address(node))).collect()
}

/// Nodes with the address that was used before; they come back with today's.
async fn resolve_all(resolver: SystemResolver, nodes: Vec<(String, Option<String>)>) -> Vec<(String, Option<String>)> {
    let resolver = &resolver;
    let addresses = nodes.into_iter().map(|(node, before)| async move {
        let address = resolve(resolver, &node, before.as_deref()).await;
        (node, address)
    });
    futures::future::join_all(addresses).await
}

/// One address of a host: the one known, while it is among them, else the first in order.
async fn resolve(resolver: &SystemResolver, host: &str, known: Option<&str>) -> Option<String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(address.to_string());
    }
    let found = tokio::time::timeout(DNS_TIMEOUT, resolver.addresses(host)).await;
    let mut addresses = found.ok()?.ok()?;
    addresses.sort_unstable();
    let still = |known: &&str| addresses.iter().any(|a| a.to_string() == **known);
    if let Some(known) = known.filter(still) {
        return Some(known.to_owned());
    }
    addresses.first().map(ToString::to_string)
}

/// The nodes of one entry in the configuration as it exists; `None`: it does not tell.
pub fn addresses_written<'a>(view: &'a KubeView, entry: &str) -> Option<&'a NodeAddresses> {
    match &view.existing.config.as_ref()?.content {
        Content::ConfigMap(routers) => routers.iter().find(|(name, _)| name == entry).map(|(_, nodes)| nodes),
        _ => None,
    }
}

/// The nodes that pods dial.
pub fn addresses_dialled(view: &KubeView) -> RouterAddresses {
    let mut routers = RouterAddresses::new();
    let statuses = view.pods.iter().filter_map(|pod| pod.status.as_ref().ok());
    for link in statuses.flat_map(|status| &status.links) {
        let nodes: &mut NodeAddresses = routers.entry(link.router.clone()).or_default();
        if !nodes.iter().any(|(node, _)| *node == link.node)
            && let Ok(address) = link.address.parse::<HostPort>()
        {
            nodes.push((link.node.clone(), address.host));
        }
    }
    routers
}
