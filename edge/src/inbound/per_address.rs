//! Counting by source address, so that one address cannot use up what all share. An IPv6 host has
//! a network of 64 bits to itself (RFC 4291 section 2.5.4): the network is what counts.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// What is in use, by address.
#[derive(Debug, Default)]
pub(super) struct PerAddress {
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One use; ends when dropped.
#[derive(Debug)]
pub(super) struct Use {
    of: Arc<PerAddress>,
    address: IpAddr,
}

impl PerAddress {
    /// One more use by this address, unless it has `most` already.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr, most: usize) -> Option<Use> {
        let address = network_of(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&address).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        counts.insert(address, count + 1);
        Some(Use {
            of: self.clone(),
            address,
        })
    }
}

/// The address, or the first of its network.
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (!0 << 64)).into(),
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut counts = self
            .of
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_one_ipv6_network_share_what_an_address_gets() {
        let counts = Arc::new(PerAddress::default());
        let v6 = |network: u16, host: u16| IpAddr::from([0x2001, 0xdb8, 0, network, 0, 0, 0, host]);
        let first = counts.admit(v6(1, 1), 1);
        assert!(first.is_some());
        assert!(counts.admit(v6(1, 2), 1).is_none());
        assert!(counts.admit(v6(2, 1), 1).is_some());
        drop(first);
        assert!(counts.admit(v6(1, 3), 1).is_some());
        assert!(counts.counts.lock().is_ok_and(|counts| counts.is_empty()));
    }

    #[test]
    fn an_address_gets_its_share_and_leaves_nothing_behind() {
        let counts = Arc::new(PerAddress::default());
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let first = counts.admit(one, 2);
        let second = counts.admit(one, 2);
        assert!(first.is_some() && second.is_some());
        assert!(counts.admit(one, 2).is_none());
        assert!(counts.admit(other, 2).is_some(), "others are not affected");
        drop(first);
        assert!(counts.admit(one, 2).is_some());
        drop(second);
        assert!(counts.counts.lock().is_ok_and(|counts| counts.is_empty()));
    }
}
