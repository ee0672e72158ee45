//! What counts as one source: an IPv6 host has a network of 64 bits to itself (RFC 4291 section 2.5.4),
//! so the network is what counts.

use std::net::{IpAddr, Ipv6Addr};

/// The address, or the first of its network.
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (!0 << 64)).into(),
    }
}
