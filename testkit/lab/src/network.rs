//! Network namespaces of a lab: one in the middle with the two segments and all routing, and one for each host.
//!
//! The LAN (`kn0`, 10.244.0.0/16) has IM&P nodes and pods, the internet (`in0`, 198.51.100.0/24) partners and public DNS.
//! The middle namespace routes between them without NAT. The control plane runs in it, and the node of a plain lab is it.

use std::fs;
use std::net::Ipv4Addr;
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
    pub fn of(address: Ipv4Addr) -> Result<Self, Error> {
        match address.octets() {
            // The rest of 10.244.0.0/16 belongs to nodes and pods.
            [10, 244, 100..=255, _] => Ok(Self::Lan),
            [198, 51, 100, 2..=254] => Ok(Self::Internet),
            _ => Err(format!(
                "{address} is not a host address of the lab: take one of 10.244.100.0-10.244.255.255 (LAN) or \
                 198.51.100.2-198.51.100.254 (internet)"
            )
            .into()),
        }
    }

    /// Its bridge, hosts' interfaces on it, its gateway, its resolver.
    fn parts(self) -> (&'static str, &'static str, Ipv4Addr, Ipv4Addr) {
        match self {
            Self::Lan => ("kn0", "lan0", LAN_GATEWAY, DNS_LAN),
            Self::Internet => ("in0", "inet0", INTERNET_GATEWAY, DNS_INTERNET),
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

fn write_resolv_conf(lab: &Layout, host: Option<&str>, server: Ipv4Addr) -> Result<(), Error> {
    let path = resolv_conf(lab, host);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    Ok(fs::write(path, format!("nameserver {server}\n"))?)
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

/// Creates the middle namespace with both segments.
pub async fn create(lab: &Layout) -> Result<(), Error> {
    let tag = lab.tag();
    command::run(&command::on_machine(&["ip", "netns", "add", &tag])).await?;
    let mut lines = vec!["link set lo up".to_owned()];
    for (segment, length) in [(Segment::Lan, 16), (Segment::Internet, 24)] {
        let (bridge, _, gateway, _) = segment.parts();
        lines.push(format!("link add {bridge} type bridge"));
        lines.push(format!("addr add {gateway}/{length} dev {bridge}"));
        lines.push(format!("link set {bridge} up"));
    }
    // kube-proxy and the kubelet look for a default route.
    lines.push("route add default dev kn0".to_owned());
    ip(&lines, Some(&tag)).await?;
    routes(lab, None).await?;
    write_resolv_conf(lab, None, DNS_LAN)
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
pub async fn add_host(lab: &Layout, host: &str, addresses: &[Ipv4Addr]) -> Result<(), Error> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if host.is_empty() || host.len() > 12 || !host.chars().all(fits) {
        return Err(format!("the host name {host:?} is not usable: take up to 12 of a-z, 0-9 and dash").into());
    }
    let mut segments: Vec<(Segment, Vec<Ipv4Addr>)> = Vec::new();
    for address in addresses {
        let segment = Segment::of(*address)?;
        match segments.iter_mut().find(|(known, _)| *known == segment) {
            Some((_, list)) => list.push(*address),
            None => segments.push((segment, vec![*address])),
        }
    }
    let Some((home, _)) = segments.first() else {
        return Err(format!("the host {host} needs at least one address").into());
    };
    let (tag, namespace) = (lab.tag(), lab.host_namespace(host));
    command::run(&command::on_machine(&["ip", "netns", "add", &namespace])).await?;
    let mut cables = Vec::new();
    let mut lines = vec!["link set lo up".to_owned()];
    for (segment, addresses) in &segments {
        let (bridge, interface, ..) = segment.parts();
        let letter = bridge.chars().next().unwrap_or('x');
        let plug = format!("{letter}-{host}");
        cables.push(format!(
            "link add {plug} type veth peer name {interface} netns {namespace}"
        ));
        cables.push(format!("link set {plug} master {bridge} up"));
        // /24 on the LAN: pods are reached through the node, as behind any router.
        lines.extend(
            addresses
                .iter()
                .map(|address| format!("addr add {address}/24 dev {interface}")),
        );
        lines.push(format!("link set {interface} up"));
    }
    // 10.244.0.1 is outside the /24: the route says that it is on the wire all the same.
    let (_, interface, gateway, resolver) = home.parts();
    lines.push(format!("route add default via {gateway} dev {interface} onlink"));
    ip(&cables, Some(&tag)).await?;
    ip(&lines, Some(&namespace)).await?;
    write_resolv_conf(lab, Some(host), resolver)
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
    fn only_host_addresses_have_a_segment(#[case] address: &str, #[case] expected: Option<Segment>) {
        assert_eq!(Segment::of(address.parse().unwrap()).ok(), expected);
    }
}
