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
use xmpp_federation_imp::access::Host;
use xmpp_federation_imp::resolve::SystemResolver;

/// A resolver that says nothing is not waited for longer.
const DNS_TIMEOUT: Duration = Duration::from_secs(10);

/// Names are resolved anew this often.
pub const RESOLVE_EVERY: Duration = Duration::from_mins(1);

/// Addresses of the routers: those given first, then what the names resolve to, then what was known.
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
    let given = |name: &str| question.given.get(&name.to_ascii_lowercase());
    let seen = routers.look(owner, &imp.spec.name, &question, due, |_| {
        let unresolved = question.nodes.iter().filter_map(|node| {
            let host = match given(node) {
                Some(Host::Address(_)) => return None,
                Some(Host::Name(name)) => name,
                None => node,
            };
            Some(Unresolved {
                node: node.clone(),
                host: host.clone(),
                used: used(node),
            })
        });
        resolve_all(env.imp.resolver().clone(), unresolved.collect())
    });
    let resolved = |name: &str| {
        let mut answers = seen.iter().flat_map(|seen| &*seen.answer);
        answers
            .find(|(of, _)| of == name)
            .and_then(|(_, address)| address.clone())
    };
    let address = |name: &str| {
        let host = match given(name) {
            Some(Host::Address(address)) => return address.to_string(),
            Some(Host::Name(host)) => host.as_str(),
            None => name,
        };
        // A name that does not resolve here is left to the edge's own resolving.
        resolved(name).or_else(|| used(name)).unwrap_or_else(|| host.to_owned())
    };
    nodes.iter().map(|node| (node.clone(), address(node))).collect()
}

struct Unresolved {
    node: String,
    /// Its name, or the one that is given for it.
    host: String,
    /// The address that was used before.
    used: Option<String>,
}

/// Nodes with today's addresses.
async fn resolve_all(resolver: SystemResolver, nodes: Vec<Unresolved>) -> Vec<(String, Option<String>)> {
    let resolver = &resolver;
    let addresses = nodes.into_iter().map(|Unresolved { node, host, used }| async move {
        let address = resolve(resolver, &host, used.as_deref()).await;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::an_address("192.0.2.10", None, Some("192.0.2.10"))]
    #[case::a_name("localhost", None, Some("127.0.0.1"))]
    #[case::one_that_is_still_right("localhost", Some("127.0.0.1"), Some("127.0.0.1"))]
    #[case::another_one_than_before("localhost", Some("192.0.2.10"), Some("127.0.0.1"))]
    #[case::no_such_name("no-such-host.invalid", Some("192.0.2.10"), None)]
    #[tokio::test]
    async fn a_node_has_the_address_of_the_host_that_is_given_for_it(
        #[case] host: &str,
        #[case] used: Option<&str>,
        #[case] expected: Option<&str>,
    ) {
        let node = Unresolved {
            node: "ecup10.coluc.com".to_owned(),
            host: host.to_owned(),
            used: used.map(str::to_owned),
        };
        let found = resolve_all(SystemResolver::default(), vec![node]).await;
        let expected = expected.map(str::to_owned);
        assert_eq!(found, [("ecup10.coluc.com".to_owned(), expected)]);
    }
}
