//! The Kubernetes nodes that a lab can have: names, addresses, ranges of pods.
//!
//! [`ONE`] is the plain lab: the middle namespace is the node, and the control plane runs on it. With [`TWO`] the middle
//! namespace has the control plane alone and routes between the nodes, each of which is a network namespace of its own on
//! the LAN, with a kubelet, a containerd and a kube-proxy. [`DUAL`] is the plain lab with IPv6 before IPv4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A Kubernetes node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Its name in Kubernetes, and of its folders.
    pub name: &'static str,
    /// The host that it is; `None`: the middle namespace.
    pub host: Option<&'static str>,
    /// Its address on the LAN, gateway of its pods.
    pub address: Ipv4Addr,
    /// Network of its pods and length of the prefix. The first 256 addresses are nobody's: those of nodes may be among them.
    pub pods: (Ipv4Addr, u8),
    /// The same in IPv6, which is its first family then.
    pub six: Option<Six>,
}

/// What a node of two families has of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Six {
    /// Its address on the LAN, gateway of its pods.
    pub address: Ipv6Addr,
    /// Network of its pods and length of the prefix; the first 256 addresses are nobody's.
    pub pods: (Ipv6Addr, u8),
}

/// What a node has of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// The network of pods and nodes.
    pub subnet: &'static str,
    /// First and last address that a pod of the node gets.
    pub range: [IpAddr; 2],
    /// Its own address, gateway of its pods.
    pub own: IpAddr,
}

/// The node of the plain lab.
pub const ONE: &[Node] = &[Node {
    name: "node1",
    host: None,
    address: Ipv4Addr::new(10, 244, 0, 1),
    pods: (Ipv4Addr::new(10, 244, 0, 0), 18),
    six: None,
}];

/// The node of the lab that has IPv6 before IPv4.
pub const DUAL: &[Node] = &[Node {
    name: "node1",
    host: None,
    address: Ipv4Addr::new(10, 244, 0, 1),
    pods: (Ipv4Addr::new(10, 244, 0, 0), 18),
    six: Some(Six {
        address: Ipv6Addr::new(0xfd44, 0, 0, 0, 0, 0, 0, 1),
        pods: (Ipv6Addr::new(0xfd44, 0, 0, 1, 0, 0, 0, 0), 64),
    }),
}];

/// Two nodes beside the control plane.
pub const TWO: &[Node] = &[
    Node {
        name: "node1",
        host: Some("node1"),
        address: Ipv4Addr::new(10, 244, 0, 2),
        pods: (Ipv4Addr::new(10, 244, 32, 0), 19),
        six: None,
    },
    Node {
        name: "node2",
        host: Some("node2"),
        address: Ipv4Addr::new(10, 244, 0, 3),
        pods: (Ipv4Addr::new(10, 244, 64, 0), 19),
        six: None,
    },
];

impl Node {
    /// Name of a process of this node among those of the lab, also of its log.
    pub fn process(&self, program: &str) -> String {
        match self.host {
            None => program.to_owned(),
            Some(host) => format!("{program}-{host}"),
        }
    }

    /// Network of its pods, as `10.244.32.0/19`.
    pub fn pod_network(&self) -> String {
        let (network, length) = self.pods;
        format!("{network}/{length}")
    }

    /// First and last address that a pod gets.
    pub fn pod_range(&self) -> [Ipv4Addr; 2] {
        let (network, length) = self.pods;
        let last = network.to_bits() | (u32::MAX >> length);
        [network.to_bits() + 256, last - 1].map(Ipv4Addr::from_bits)
    }

    /// What it has of each family, the first one before.
    pub fn families(&self) -> Vec<Family> {
        let six = self.six.map(|Six { address, pods }| {
            let (network, length) = (pods.0.to_bits(), pods.1);
            let last = network | (u128::MAX >> length);
            Family {
                subnet: "fd44::/48",
                range: [network + 256, last].map(|bits| Ipv6Addr::from_bits(bits).into()),
                own: address.into(),
            }
        });
        let four = Family {
            subnet: "10.244.0.0/16",
            range: self.pod_range().map(IpAddr::from),
            own: self.address.into(),
        };
        six.into_iter().chain([four]).collect()
    }
}

/// Whether a lab of these nodes has both families.
pub fn dual(nodes: &[Node]) -> bool {
    nodes.iter().any(|node| node.six.is_some())
}

/// The program that a process of a node runs, by the name that [`Node::process`] gave it.
pub fn program(process: &str) -> &str {
    let hosts = TWO.iter().filter_map(|node| node.host);
    let mut found = hosts.filter_map(|host| process.strip_suffix(host)?.strip_suffix('-'));
    found.next().unwrap_or(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_one_node_have_no_address_of_another() {
        let ranges: Vec<String> = TWO.iter().map(|node| format!("{:?}", node.pod_range())).collect();
        assert_eq!(ranges, ["[10.244.33.0, 10.244.63.254]", "[10.244.65.0, 10.244.95.254]"]);
    }

    #[test]
    fn the_program_of_a_process_is_known_by_its_name() {
        for node in ONE.iter().chain(TWO).chain(DUAL) {
            assert_eq!(program(&node.process("kube-proxy")), "kube-proxy");
        }
    }
}
