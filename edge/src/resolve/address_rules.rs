//! Which addresses DNS may lead to: public ones that are neither ours nor our routers'.
//!
//! Anyone may publish any address under a domain of theirs; without these rules a peer could make
//! the edge talk to the cluster's inside. Checked on the very address that is connected to, right
//! before, so a changed DNS answer (rebinding) gains nothing.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use parking_lot::RwLock;
use xmpp_federation_core::edge_config::{Cidr, EdgeConfig, HostPort, Listen};

use super::dns::Lookup;
use super::nat64::Nat64;

/// The addresses of the XCP routers in the configuration, and where those are that it names.
#[derive(Debug, Default)]
pub struct RouterAddresses(RwLock<HashMap<HostPort, Vec<SocketAddr>>>);

impl RouterAddresses {
    /// From now on these are our routers; what is known of others is forgotten.
    fn follow<'a>(&self, routers: impl Iterator<Item = &'a HostPort>) {
        let mut known = self.0.write();
        let mut before = std::mem::take(&mut *known);
        for router in routers {
            let addresses = match router.socket_addr() {
                Some(address) => vec![plain(address)],
                None => before.remove(router).unwrap_or_default(),
            };
            known.insert(router.clone(), addresses);
        }
    }

    /// Records where a router is found now; nothing if it is not ours any more.
    pub fn learn(&self, router: &HostPort, addresses: &[SocketAddr]) {
        let mut known = self.0.write();
        if let Some(known) = known.get_mut(router) {
            *known = addresses.iter().copied().map(plain).collect();
        }
    }

    fn any(&self, is: impl Fn(&SocketAddr) -> bool) -> bool {
        self.0.read().values().flatten().any(is)
    }
}

/// An IPv4 address in the form that all are compared in.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The rules of one configuration.
#[derive(Debug, Clone)]
pub struct AddressRules {
    allow: Vec<Cidr>,
    deny: Vec<Cidr>,
    nat64: Arc<Nat64>,
    routers: Arc<RouterAddresses>,
    own_ports: Vec<u16>,
    is_ours: fn(IpAddr) -> bool,
}

/// An address that is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{address} is refused because {}; if this address is intended, {}", self.cause(), self.remedy())]
pub struct RefusedAddress {
    /// The address.
    pub address: IpAddr,
    /// The IPv4 address that it stands for, if that is what is refused.
    pub inside: Option<Ipv4Addr>,
    /// Its class, with an article.
    pub class: &'static str,
}

impl RefusedAddress {
    /// What is wrong with it, as the end of a sentence.
    pub fn cause(&self) -> String {
        match self.inside {
            Some(inside) => format!("it maps to {inside} (NAT64), which is {}", self.class),
            None => format!("it is {}", self.class),
        }
    }

    /// What to do if the address is meant.
    pub fn remedy(&self) -> String {
        let network = match self.inside {
            Some(inside) => format!("the network of {inside}"),
            None => "its network".to_owned(),
        };
        format!("add {network} to dns.allowPrivateTargets or give the domain a route in partners")
    }
}

impl AddressRules {
    /// The rules of a configuration: `dns.allowPrivateTargets`, `dns.denyTargets`, the routers'
    /// addresses and the ports that this edge listens on.
    pub fn new(config: &EdgeConfig, routers: Arc<RouterAddresses>) -> Self {
        let endpoints = config.routers.iter().flat_map(|router| &router.endpoints);
        routers.follow(endpoints.map(|endpoint| &endpoint.address));
        Self {
            allow: config.dns.allow_private_targets.clone(),
            deny: config.dns.deny_targets.clone(),
            nat64: Arc::new(Nat64::new(&config.dns.allow_private_targets)),
            routers,
            own_ports: own_ports(&config.listen),
            is_ours: belongs_to_this_host,
        }
    }

    pub(super) fn routers(&self) -> &RouterAddresses {
        &self.routers
    }

    /// The same for an edge that listens elsewhere.
    #[must_use]
    pub(crate) fn listening(&self, listen: &Listen) -> Self {
        Self {
            own_ports: own_ports(listen),
            ..self.clone()
        }
    }

    /// Learns what IPv6 addresses stand for IPv4 ones here; called before such are judged.
    pub(crate) async fn learn_nat64(&self, lookup: &dyn Lookup) {
        self.nat64.learn(lookup).await;
    }

    /// Whether DNS may lead to this address. An IPv4 address inside an IPv6 one (NAT64) is judged
    /// in its place: no exception counts for the form it is written in.
    pub fn check(&self, address: SocketAddr) -> Result<(), RefusedAddress> {
        let inside = self.nat64.inside(address.ip());
        if inside.is_empty() {
            return self.judge(address, None);
        }
        for four in inside {
            self.judge(address, Some(four))?;
        }
        Ok(())
    }

    fn judge(&self, address: SocketAddr, inside: Option<Ipv4Addr>) -> Result<(), RefusedAddress> {
        let refuse = |class| {
            Err(RefusedAddress {
                address: address.ip(),
                inside,
                class,
            })
        };
        let ip = inside.map_or(address.ip(), IpAddr::V4);
        let plain = SocketAddr::new(ip.to_canonical(), address.port());
        // A link may have found a router in the other form.
        let is_of = |router: &SocketAddr| match router.ip() {
            ip if ip == plain.ip() => true,
            ip => self.nat64.inside(ip).iter().any(|ip| *ip == plain.ip()),
        };
        // Never, whatever is allowed: it would be a loop or a way into the router.
        let is_router = |router: &SocketAddr| router.port() == plain.port() && is_of(router);
        if self.routers.any(is_router) {
            return refuse("one of our routers");
        }
        let ours = (self.is_ours)(plain.ip());
        if ours && self.own_ports.contains(&address.port()) {
            return refuse("this edge itself");
        }
        if self.allow.iter().any(|network| network.contains(ip)) {
            return Ok(());
        }
        if let Some(class) = special_class(ip) {
            return refuse(class);
        }
        if ours {
            return refuse("an address of this host");
        }
        if self.routers.any(is_of) {
            return refuse("a host of one of our routers");
        }
        let denied = |network: &Cidr| network.contains(ip) || network.contains(address.ip());
        if self.deny.iter().any(denied) {
            return refuse("in a network of dns.denyTargets");
        }
        Ok(())
    }
}

fn own_ports(listen: &Listen) -> Vec<u16> {
    let all = [Some(listen.s2s), listen.direct_tls, Some(listen.admin)];
    all.iter().flatten().map(SocketAddr::port).collect()
}

/// The class of an address that no public server has; `None` for a public one.
/// Sources: IANA special-purpose address registries (RFC 6890), the IPv6 address space (all public
/// addresses are of `2000::/3`), and addresses that clouds answer on inside every network of theirs.
/// Documentation networks count as public: they are not routed anyway, and labs use them as their
/// internet.
fn special_class(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => special_v4(ip),
        IpAddr::V6(ip) => special_v6(ip),
    }
}

fn special_v4(ip: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, d] = ip.octets();
    Some(match (a, b, c) {
        (0, ..) => "an unspecified address",
        (127, ..) => "a loopback address",
        (10, ..) | (192, 168, _) => "a private address",
        (172, b, _) if (16..32).contains(&b) => "a private address",
        (169, 254, _) => "a link-local address",
        (100, b, _) if (64..128).contains(&b) => "a shared (CGNAT) address",
        (192, 0, 0) | (198, 18..=19, _) => "a special-purpose address",
        (192, 88, 99) => "a 6to4 relay's address",
        // Azure's host of each virtual machine; IBM's services and private endpoints.
        (168, 63, 129) if d == 16 => "a cloud provider's internal address",
        (161, 26, _) | (166, 8..=11, _) => "a cloud provider's internal address",
        (224..=239, ..) => "a multicast address",
        (240.., ..) => "a reserved or broadcast address",
        _ => return None,
    })
}

fn special_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let segments = ip.segments();
    let [first, second, third, ..] = segments;
    Some(match (first, second) {
        _ if ip.is_unspecified() => "an unspecified address",
        _ if ip.is_loopback() => "a loopback address",
        _ if ip.to_ipv4_mapped().is_some() => "an IPv4-mapped address",
        (0, 0) => "an IPv4-compatible address",
        (0x64, 0xff9b) if third <= 1 => "a NAT64 address",
        (0x100, 0) => "a discard address",
        (0x2001, 0) => "a Teredo address",
        (0x2001, 0x2 | 0x10..=0x2f) => "a special-purpose address",
        (0x2002, _) => "a 6to4 address",
        (0xfc00..=0xfdff, _) => "a unique local address",
        (0xfe80..=0xfebf, _) => "a link-local address",
        (0xfec0..=0xfeff, _) => "a site-local address",
        (0xff00..=0xffff, _) => "a multicast address",
        (0x2000..=0x3fff, _) => return None,
        _ => "in no public network",
    })
}

/// Whether a local interface has this address: the kernel picks the destination itself as the
/// source of a datagram socket then. Nothing is sent.
fn belongs_to_this_host(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0))
        .and_then(|socket| {
            socket.connect((ip, 9))?;
            socket.local_addr()
        })
        .is_ok_and(|local| local.ip() == ip)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    fn rules() -> AddressRules {
        let routers = Arc::<RouterAddresses>::default();
        let known =
            ["198.51.100.7:7400", "10.9.0.7:7400", "[64:ff9b::203.0.114.7]:7400"].map(|text| text.parse().unwrap());
        routers.follow(known.iter());
        AddressRules {
            allow: vec!["10.9.0.0/16".parse().unwrap(), "127.0.0.0/8".parse().unwrap()],
            deny: vec!["203.0.113.0/24".parse().unwrap()],
            nat64: Arc::default(),
            routers,
            own_ports: vec![5269, 5271],
            is_ours: |ip| ip == "198.51.100.1".parse::<IpAddr>().unwrap() || ip.is_loopback(),
        }
    }

    #[rstest]
    #[case("198.51.100.20:5269", "")]
    #[case("[2001:db8::20]:5269", "")]
    #[case("8.8.8.8:5269", "")]
    #[case("172.15.0.1:5269", "")]
    #[case("100.63.0.1:5269", "")]
    #[case("0.1.2.3:5269", "unspecified")]
    #[case("10.0.0.1:5269", "private")]
    #[case("172.16.0.1:5269", "private")]
    #[case("172.31.255.255:5269", "private")]
    #[case("192.168.1.1:5269", "private")]
    #[case("169.254.169.254:80", "link-local")]
    #[case("100.64.0.1:5269", "CGNAT")]
    #[case("100.127.0.1:5269", "CGNAT")]
    #[case("192.0.0.8:5269", "special")]
    #[case("198.19.0.1:5269", "special")]
    #[case("224.0.0.1:5269", "multicast")]
    #[case("255.255.255.255:5269", "broadcast")]
    #[case("[::]:5269", "unspecified")]
    #[case("[::1]:5270", "loopback")]
    #[case("[::ffff:8.8.8.8]:5269", "mapped")]
    #[case("[::8.8.8.8]:5269", "compatible")]
    #[case("168.63.129.16:80", "cloud")]
    #[case("168.63.129.17:5269", "")]
    #[case("161.26.0.10:53", "cloud")]
    #[case("166.9.1.1:443", "cloud")]
    #[case("166.12.1.1:443", "")]
    #[case("192.88.99.1:5269", "6to4")]
    #[case("[64:ff9b:0:1::1]:5269", "NAT64")]
    #[case("[2001:2::1]:5269", "special")]
    #[case("[2001:20::1]:5269", "special")]
    #[case("[2001:500::1]:5269", "")]
    #[case("[5f00::1]:5269", "no public")]
    #[case("[4000::1]:5269", "no public")]
    // The IPv4 address inside counts.
    #[case("[64:ff9b::8.8.8.8]:5269", "")]
    #[case("[64:ff9b::198.51.100.20]:5269", "")]
    #[case("[64:ff9b::10.0.0.5]:5269", "private")]
    #[case("[64:ff9b::172.16.0.1]:5269", "private")]
    #[case("[64:ff9b::127.0.0.1]:5269", "this edge itself")]
    #[case("[64:ff9b::169.254.169.254]:80", "link-local")]
    #[case("[64:ff9b::168.63.129.16]:80", "cloud")]
    #[case("[64:ff9b::]:5269", "unspecified")]
    #[case("[64:ff9b::203.0.113.9]:5269", "denyTargets")]
    #[case("[64:ff9b::198.51.100.1]:443", "address of this host")]
    #[case("[64:ff9b::198.51.100.7]:7400", "one of our routers")]
    #[case("[64:ff9b::198.51.100.7]:5269", "host of one of our routers")]
    #[case("[64:ff9b::203.0.114.7]:7400", "one of our routers")]
    #[case("203.0.114.7:7400", "one of our routers")]
    #[case("[64:ff9b::10.9.0.7]:7400", "one of our routers")]
    #[case("[64:ff9b::10.9.1.1]:5269", "")]
    #[case("[64:ff9b:1::198.51.100.20]:5269", "")]
    #[case("[64:ff9b:1::1]:5269", "unspecified")]
    #[case("[64:ff9b:1::10.0.0.5]:5269", "private")]
    #[case("[64:ff9b:1:a00:0:501:c633:6414]:5269", "private")]
    #[case("[64:ff9b:1::10.9.0.7]:7400", "one of our routers")]
    #[case("[2002:a00:1::]:5269", "6to4")]
    #[case("[2001::1]:5269", "Teredo")]
    #[case("[fc00::1]:5269", "unique local")]
    #[case("[fdff::1]:5269", "unique local")]
    #[case("[fe80::1]:5269", "link-local")]
    #[case("[fec0::1]:5269", "site-local")]
    #[case("[ff02::1]:5269", "multicast")]
    // What the configuration adds and excepts.
    #[case("203.0.113.9:5269", "denyTargets")]
    #[case("10.9.1.1:5269", "")]
    #[case("127.0.0.1:5270", "")]
    // Ours, also under an exception.
    #[case("127.0.0.1:5269", "this edge itself")]
    #[case("127.0.0.1:5271", "this edge itself")]
    #[case("198.51.100.1:443", "address of this host")]
    #[case("198.51.100.7:7400", "one of our routers")]
    #[case("10.9.0.7:7400", "one of our routers")]
    #[case("[::ffff:10.9.0.7]:7400", "one of our routers")]
    #[case("198.51.100.7:5269", "host of one of our routers")]
    fn dns_may_lead_to_public_foreign_addresses_only(#[case] address: &str, #[case] class: &str) {
        match rules().check(address.parse().unwrap()) {
            Ok(()) => assert_eq!(class, "", "{address} passed"),
            Err(refused) => {
                assert!(!class.is_empty() && refused.class.contains(class), "{refused}");
            }
        }
    }

    #[rstest]
    #[case("64:ff9b::/96", "64:ff9b::10.0.0.5", true)]
    #[case("64:ff9b::/96", "64:ff9b::198.51.100.20", false)]
    #[case("64:ff9b::/96", "64:ff9b::169.254.169.254", true)]
    #[case("64:ff9b::/32", "64:ff9b:1::10.0.0.5", true)]
    #[case("64:ff9b::10.0.0.5/128", "64:ff9b::10.0.0.5", true)]
    #[case("64:ff9b:1:abcd::/96", "64:ff9b:1:abcd::10.0.0.5", true)]
    #[case("64:ff9b:1:abcd::/96", "64:ff9b:1:abcd::198.51.100.20", false)]
    #[case("10.0.0.0/8", "64:ff9b::10.0.0.5", false)]
    #[case("::/0", "64:ff9b::10.0.0.5", true)]
    #[case("0.0.0.0/0", "64:ff9b::198.51.100.7", true)]
    fn an_exception_for_nat64_opens_nothing_that_is_private(
        #[case] allowed: Cidr,
        #[case] address: IpAddr,
        #[case] refused: bool,
    ) {
        let rules = AddressRules {
            nat64: Arc::new(Nat64::new(&[allowed])),
            allow: vec![allowed],
            ..rules()
        };
        let answer = rules.check(SocketAddr::new(address, 7400));
        assert_eq!(answer.is_err(), refused, "{answer:?}");
        if let Err(refused) = answer {
            let inside = refused.inside.unwrap().to_string();
            let sentence = refused.to_string();
            assert_eq!(sentence.matches(&inside).count(), 2, "{sentence}");
        }
    }

    #[test]
    fn only_routers_of_the_configuration_in_force_are_known() {
        let routers = RouterAddresses::default();
        let [name, gone]: [HostPort; 2] = ["cups.example:7400", "old.example:7400"].map(|text| text.parse().unwrap());
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let is_known = |address| routers.any(|known| *known == address);
        routers.follow([&name, &gone].into_iter());
        routers.learn(&name, &[at("198.51.100.7:7400")]);
        routers.learn(&gone, &[at("198.51.100.8:7400")]);
        assert!(is_known(at("198.51.100.7:7400")) && is_known(at("198.51.100.8:7400")));
        // A reload keeps what is known of a name and forgets routers that are gone.
        routers.follow([&name].into_iter());
        assert!(is_known(at("198.51.100.7:7400")) && !is_known(at("198.51.100.8:7400")));
        // Its link may still look it up before it ends.
        routers.learn(&gone, &[at("198.51.100.8:7400")]);
        assert!(!is_known(at("198.51.100.8:7400")));
        routers.learn(&name, &[at("[::ffff:198.51.100.9]:7400")]);
        assert!(is_known(at("198.51.100.9:7400")) && !is_known(at("198.51.100.7:7400")));
    }

    #[test]
    fn the_kernel_knows_this_hosts_addresses() {
        assert!(belongs_to_this_host(Ipv4Addr::LOCALHOST.into()));
        assert!(!belongs_to_this_host("192.0.2.1".parse().unwrap()));
    }
}
