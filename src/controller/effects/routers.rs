//! Where the edges find the routers that the IM and Presence module tells of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
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

/// One address of a host: see [`choose`].
async fn resolve(resolver: &SystemResolver, host: &str, known: Option<&str>) -> Option<String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(address.to_string());
    }
    let found = tokio::time::timeout(DNS_TIMEOUT, resolver.addresses(host)).await;
    choose(found.ok()?.ok()?, known, has_route).map(|address| address.to_string())
}

/// Of a host's addresses those of a family that this network has, or all where it has none of them: the one known, while
/// it is among these, else the first in order.
fn choose(mut addresses: Vec<IpAddr>, known: Option<&str>, has_route: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    if addresses.iter().any(|address| has_route(*address)) {
        addresses.retain(|address| has_route(*address));
    }
    addresses.sort_unstable();
    let known = known.and_then(|known| known.parse().ok());
    let still = known.filter(|known| addresses.contains(known));
    still.or_else(|| addresses.first().copied())
}

/// Whether this host has a route to the address: the edge pods' network is the operator's own. Nothing is sent.
fn has_route(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0))
        .and_then(|socket| socket.connect((address, 9)))
        .is_ok()
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

    /// An IPv6-only pod network reaches `fd00::/8`; an IPv4-only one reaches 10.0.0.0/8.
    #[rstest]
    #[case::both_families("10.1.1.1 fd00::11", None, "10. fd", Some("10.1.1.1"))]
    #[case::ipv6_only_pods("10.1.1.1 fd00::11", None, "fd", Some("fd00::11"))]
    #[case::ipv4_only_pods("fd00::11 10.1.1.1", None, "10.", Some("10.1.1.1"))]
    #[case::the_known_one_stays("10.1.1.1 fd00::11 fd00::12", Some("fd00::12"), "10. fd", Some("fd00::12"))]
    #[case::a_known_one_of_a_family_that_is_gone("10.1.1.1 fd00::11", Some("10.1.1.1"), "fd", Some("fd00::11"))]
    #[case::a_known_one_written_otherwise("fd00::11 fd00::12", Some("fd00:0::12"), "fd", Some("fd00::12"))]
    #[case::no_route_at_all("10.1.1.1 fd00::11", None, "none", Some("10.1.1.1"))]
    #[case::no_address("", None, "10. fd", None)]
    fn the_address_of_a_router_is_of_a_family_that_the_pods_have(
        #[case] found: &str,
        #[case] known: Option<&str>,
        #[case] routed: &str,
        #[case] expected: Option<&str>,
    ) {
        let found = found.split_whitespace().map(|text| text.parse().unwrap()).collect();
        let has_route = |address: IpAddr| routed.split(' ').any(|start| address.to_string().starts_with(start));
        let expected = expected.map(|text| text.parse().unwrap());
        assert_eq!(choose(found, known, has_route), expected);
    }

    #[test]
    fn loopback_has_a_route() {
        assert!(has_route(Ipv4Addr::LOCALHOST.into()));
    }

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
