//! Network namespaces of a lab: one in the middle with the two segments and all routing, and one for each host.
//!
//! The LAN (`kn0`, 10.244.0.0/16) has IM&P nodes and pods, the internet (`in0`, 198.51.100.0/24) partners and public DNS.
//! The middle namespace routes between them without NAT. The control plane runs in it, and the node of a plain lab is it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::cluster::Node;
use super::command;
use super::layout::Layout;
use testkit_base::Error;

/// The middle namespace's address on the LAN, gateway of hosts and nodes; the apiserver's address.
pub const LAN_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The gateway on the internet segment.
pub const INTERNET_GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The DNS server, as hosts of the LAN and pods know it.
pub const DNS_LAN: Ipv4Addr = Ipv4Addr::new(10, 244, 200, 53);
/// The DNS server, as hosts of the internet know it.
pub const DNS_INTERNET: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
/// The middle namespace on the LAN of a lab with IPv6.
pub const LAN_GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd44, 0, 0, 0, 0, 0, 0, 1);
/// The gateway on its internet segment.
pub const INTERNET_GATEWAY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 1);
/// The DNS server, as hosts of its LAN and pods know it.
pub const DNS_LAN6: Ipv6Addr = Ipv6Addr::new(0xfd44, 0, 0, 0xc8, 0, 0, 0, 0x53);
/// The DNS server, as hosts of its internet know it.
pub const DNS_INTERNET6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 0x53);

/// A network segment of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// 10.244.0.0/16: IM&P and pods.
    Lan,
    /// 198.51.100.0/24: partners, public DNS.
    Internet,
}

impl Segment {
    /// The segment an address belongs to.
    pub fn of(address: IpAddr) -> Result<Self, Error> {
        let found = match address {
            // The rest of 10.244.0.0/16 belongs to nodes and pods.
            IpAddr::V4(address) => match address.octets() {
                [10, 244, 100..=255, _] => Some(Self::Lan),
                [198, 51, 100, 2..=254] => Some(Self::Internet),
                _ => None,
            },
            IpAddr::V6(address) => match address.segments() {
                [0xfd44, 0, 0, 0xc8, ..] => Some(Self::Lan),
                [0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 2..=0xffff] => Some(Self::Internet),
                _ => None,
            },
        };
        found.ok_or_else(|| {
            format!(
                "{address} is not a host address of the lab: take one of 10.244.100.0-10.244.255.255 or \
                 fd44:0:0:c8::/64 (LAN), 198.51.100.2-198.51.100.254 or 2001:db8:64::2-2001:db8:64::ffff (internet)"
            )
            .into()
        })
    }

    /// Its bridge, hosts' interfaces on it.
    fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Lan => ("kn0", "lan0"),
            Self::Internet => ("in0", "inet0"),
        }
    }

    /// Its gateway and its resolver for hosts of a family.
    fn services(self, six: bool) -> (IpAddr, IpAddr) {
        match (self, six) {
            (Self::Lan, false) => (LAN_GATEWAY.into(), DNS_LAN.into()),
            (Self::Internet, false) => (INTERNET_GATEWAY.into(), DNS_INTERNET.into()),
            (Self::Lan, true) => (LAN_GATEWAY6.into(), DNS_LAN6.into()),
            (Self::Internet, true) => (INTERNET_GATEWAY6.into(), DNS_INTERNET6.into()),
        }
    }
}

/// File of the network namespace of a host, or of the middle one.
pub fn namespace_file(lab: &Layout, host: Option<&str>) -> PathBuf {
    let name = host.map_or_else(|| lab.tag(), |host| lab.host_namespace(host));
    PathBuf::from("/run/netns").join(name)
}

/// The resolver configuration of a host; `None`: the one of pods and of the middle namespace.
pub fn resolv_conf(lab: &Layout, host: Option<&str>) -> PathBuf {
    lab.dir().join("hosts").join(host.unwrap_or("node")).join("resolv.conf")
}

/// The resolvers of pods and of the middle namespace.
pub fn resolvers(dual: bool) -> Vec<String> {
    let six = dual.then(|| DNS_LAN6.to_string());
    six.into_iter().chain([DNS_LAN.to_string()]).collect()
}

fn write_resolv_conf(lab: &Layout, host: Option<&str>, servers: &[String]) -> Result<(), Error> {
    let path = resolv_conf(lab, host);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let lines = servers.iter().map(|server| format!("nameserver {server}\n"));
    Ok(fs::write(path, lines.collect::<String>())?)
}

async fn ip(batch: &[String], namespace: Option<&str>) -> Result<(), Error> {
    let mut words = vec!["ip".to_owned()];
    if let Some(namespace) = namespace {
        words.extend(["-n".to_owned(), namespace.to_owned()]);
    }
    words.extend(["-batch", "-"].map(str::to_owned));
    command::run_with_input(&words, batch.join("\n").as_bytes()).await?;
    Ok(())
}

/// Creates the middle namespace with both segments; `dual`: with IPv6 beside IPv4.
pub async fn create(lab: &Layout, dual: bool) -> Result<(), Error> {
    let tag = lab.tag();
    command::run(&command::on_machine(&["ip", "netns", "add", &tag])).await?;
    let mut lines = vec!["link set lo up".to_owned()];
    for (segment, length) in [(Segment::Lan, 16), (Segment::Internet, 24)] {
        let ((bridge, _), (gateway, _)) = (segment.parts(), segment.services(false));
        lines.push(format!("link add {bridge} type bridge"));
        lines.push(format!("addr add {gateway}/{length} dev {bridge}"));
        lines.push(format!("link set {bridge} up"));
    }
    // kube-proxy and the kubelet look for a default route.
    lines.push("route add default dev kn0".to_owned());
    if dual {
        routes6(lab).await?;
        for (segment, length) in [(Segment::Lan, 48), (Segment::Internet, 64)] {
            let ((bridge, _), (gateway, _)) = (segment.parts(), segment.services(true));
            lines.push(format!("addr add {gateway}/{length} dev {bridge} nodad"));
        }
        lines.push("route add ::/0 dev kn0".to_owned());
    }
    ip(&lines, Some(&tag)).await?;
    routes(lab, None).await?;
    write_resolv_conf(lab, None, &resolvers(dual))
}

/// Makes the middle namespace a router of IPv6, before it has an interface: addresses count at once, without a look for
/// others that have them.
async fn routes6(lab: &Layout) -> Result<(), Error> {
    let file = format!("--net={}", namespace_file(lab, None).display());
    #[rustfmt::skip]
    let words = [
        "nsenter", &file, "--", "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.default.forwarding=1",
        "net.ipv6.conf.default.dad_transmits=0", "net.ipv6.conf.default.accept_dad=0",
    ];
    command::run(&words).await?;
    Ok(())
}

/// Makes a namespace a router.
async fn routes(lab: &Layout, host: Option<&str>) -> Result<(), Error> {
    // Loose reverse path: the DNS host answers from either of its addresses. No redirects: what goes from node to node
    // passes the middle both ways.
    let settings = [
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.default.rp_filter=0",
        "net.ipv4.conf.all.send_redirects=0",
        "net.ipv4.conf.default.send_redirects=0",
    ];
    let interface = if host.is_some() { "lan0" } else { "kn0" };
    let interface = format!("net.ipv4.conf.{interface}.send_redirects=0");
    let file = format!("--net={}", namespace_file(lab, host).display());
    let mut words = vec!["nsenter", &file, "--", "sysctl", "-qw", &interface];
    words.extend(settings);
    command::run(&words).await?;
    Ok(())
}

/// Creates the namespace of a node that is not the middle one; the middle knows the way to its pods.
pub async fn add_node(lab: &Layout, node: &Node) -> Result<(), Error> {
    let Some(host) = node.host else {
        return Ok(());
    };
    let (tag, namespace, address) = (lab.tag(), lab.host_namespace(host), node.address);
    command::run(&command::on_machine(&["ip", "netns", "add", &namespace])).await?;
    let cables = [
        format!("link add k-{host} type veth peer name lan0 netns {namespace}"),
        format!("link set k-{host} master kn0 up"),
        format!("route add {} via {address}", node.pod_network()),
    ];
    let lines = [
        "link set lo up".to_owned(),
        format!("addr add {address}/32 dev lan0"),
        "link set lan0 up".to_owned(),
        format!("route add {LAN_GATEWAY} dev lan0"),
        format!("route add default via {LAN_GATEWAY} dev lan0"),
    ];
    ip(&cables, Some(&tag)).await?;
    ip(&lines, Some(&namespace)).await?;
    routes(lab, node.host).await
}

/// Creates a host: a namespace with a cable to the segment of each address, a default route and a resolver configuration.
pub async fn add_host(lab: &Layout, host: &str, addresses: &[IpAddr]) -> Result<(), Error> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if host.is_empty() || host.len() > 12 || !host.chars().all(fits) {
        return Err(format!("the host name {host:?} is not usable: take up to 12 of a-z, 0-9 and dash").into());
    }
    let mut segments: Vec<(Segment, Vec<IpAddr>)> = Vec::new();
    for address in addresses {
        let segment = Segment::of(*address)?;
        match segments.iter_mut().find(|(known, _)| *known == segment) {
            Some((_, list)) => list.push(*address),
            None => segments.push((segment, vec![*address])),
        }
    }
    let Some((home, at_home)) = segments.first() else {
        return Err(format!("the host {host} needs at least one address").into());
    };
    let (tag, namespace) = (lab.tag(), lab.host_namespace(host));
    command::run(&command::on_machine(&["ip", "netns", "add", &namespace])).await?;
    let mut cables = Vec::new();
    let mut lines = vec!["link set lo up".to_owned()];
    for (segment, addresses) in &segments {
        let (bridge, interface) = segment.parts();
        let letter = bridge.chars().next().unwrap_or('x');
        let plug = format!("{letter}-{host}");
        cables.push(format!(
            "link add {plug} type veth peer name {interface} netns {namespace}"
        ));
        cables.push(format!("link set {plug} master {bridge} up"));
        // /24 on the LAN: pods are reached through the node, as behind any router.
        lines.extend(addresses.iter().map(|address| match address {
            IpAddr::V4(address) => format!("addr add {address}/24 dev {interface}"),
            IpAddr::V6(address) => format!("addr add {address}/64 dev {interface} nodad"),
        }));
        lines.push(format!("link set {interface} up"));
    }
    // 10.244.0.1 is outside the /24: the route says that it is on the wire all the same.
    let (_, interface) = home.parts();
    let mut resolvers = Vec::new();
    for six in [true, false] {
        if at_home.iter().any(|address| address.is_ipv6() == six) {
            let (gateway, resolver) = home.services(six);
            let all = if six { "::/0" } else { "0.0.0.0/0" };
            lines.push(format!("route add {all} via {gateway} dev {interface} onlink"));
            resolvers.push(resolver.to_string());
        }
    }
    ip(&cables, Some(&tag)).await?;
    ip(&lines, Some(&namespace)).await?;
    write_resolv_conf(lab, Some(host), &resolvers)
}

/// Names of this lab's namespaces, hosts first.
pub async fn namespaces(lab: &Layout) -> Result<Vec<String>, Error> {
    let listed = command::run(&["ip", "netns", "list"]).await?;
    let mut names: Vec<String> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| lab.owns_namespace(name))
        .map(str::to_owned)
        .collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    Ok(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[rstest::rstest]
    #[case("10.244.200.10", Some(Segment::Lan))]
    #[case("198.51.100.20", Some(Segment::Internet))]
    #[case("10.244.0.1", None)]
    #[case("10.244.1.7", None)]
    #[case("198.51.100.1", None)]
    #[case("203.0.113.10", None)]
    #[case("fd44:0:0:c8::10", Some(Segment::Lan))]
    #[case("2001:db8:64::20", Some(Segment::Internet))]
    #[case("fd44::1", None)]
    #[case("fd44:0:0:1::107", None)]
    #[case("2001:db8:64::1", None)]
    #[case("2001:db8::cb00:710a", None)]
    fn only_host_addresses_have_a_segment(#[case] address: &str, #[case] expected: Option<Segment>) {
        assert_eq!(Segment::of(address.parse().unwrap()).ok(), expected);
    }
}
