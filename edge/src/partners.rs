//! Which addresses belong to configured partners, before anything is proven on a connection.
//!
//! A partner is a remote domain that an administrator wrote down ([`Policy::is_partner`]). An address
//! counts as a partner's if a static route names it, if a pair of a partner was authenticated from it
//! lately, or if a partner's domain was resolved to it lately. That proves nothing: such an address
//! only has its room in tables that strangers could fill.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use xmpp_federation_core::Domain;

use crate::network::network_of;
use crate::policy::Policy;

/// How long an address counts after a pair of a partner was authenticated from it.
const AUTHENTICATED: Duration = Duration::from_hours(24);
/// How long it counts after a partner's domain was resolved to it.
const RESOLVED: Duration = Duration::from_hours(2);
/// Addresses by what was seen of them.
#[derive(Debug)]
pub struct Partners {
    most: usize,
    /// By address, of IPv6 by network of 64 bits.
    seen: Mutex<HashMap<IpAddr, PartnerAddress>>,
}

#[derive(Debug)]
struct PartnerAddress {
    /// Counts while it is configured.
    domain: Domain,
    until: Instant,
}

impl Partners {
    /// So many addresses are remembered; the one that would be forgotten first gives way.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            seen: Mutex::default(),
        }
    }

    /// A pair of this remote domain was authenticated from or at this address.
    pub fn authenticated(&self, policy: &Policy, remote: &Domain, address: IpAddr) {
        self.note(policy, remote, address, Instant::now() + AUTHENTICATED);
    }

    /// This remote domain was resolved to this address.
    pub fn resolved(&self, policy: &Policy, remote: &Domain, address: IpAddr) {
        self.note(policy, remote, address, Instant::now() + RESOLVED);
    }

    /// Whether the address belongs to a configured partner.
    pub fn owns(&self, policy: &Policy, address: IpAddr) -> bool {
        self.owns_at(policy, address, Instant::now())
    }

    fn owns_at(&self, policy: &Policy, address: IpAddr, now: Instant) -> bool {
        let address = network_of(address.to_canonical());
        if policy.routes_to(address) {
            return true;
        }
        let seen = self.seen.lock();
        let seen = seen.get(&address).filter(|seen| now < seen.until);
        seen.is_some_and(|seen| policy.is_partner(&seen.domain))
    }

    fn note(&self, policy: &Policy, remote: &Domain, address: IpAddr, until: Instant) {
        if !policy.is_partner(remote) {
            return;
        }
        let address = network_of(address.to_canonical());
        let mut all = self.seen.lock();
        if let Some(seen) = all.get_mut(&address) {
            // Another partner at the same address stands in where that one is not configured any more.
            if seen.until < until || !policy.is_partner(&seen.domain) {
                seen.domain.clone_from(remote);
                seen.until = until;
            }
            return;
        }
        if all.len() >= self.most {
            let first = all.iter().min_by_key(|(_, seen)| seen.until);
            if let Some(first) = first.map(|(address, _)| *address) {
                all.remove(&first);
            }
        }
        let domain = remote.clone();
        all.insert(address, PartnerAddress { domain, until });
    }
}

/// In whose name a key is shown, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// In the name of a partner, from an address of a partner.
    Partner,
    /// In the name of a partner, from an address that is not known as one of a partner.
    Claimed,
    /// In the name of a domain that nobody configured.
    Stranger,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const MOST: usize = 64;
    use xmpp_federation_core::edge_config::{EdgeConfig, PrivacyMode};

    fn policy(mode: PrivacyMode, listed: &[&str], routes: &str) -> Policy {
        let mut config = EdgeConfig::from_yaml(&format!(
            "domains: [coluc.com]\n\
             dialback: {{sign: /nowhere}}\n\
             tls: {{mode: Disabled}}\n\
             partners: {routes}\n\
             routers: [{{name: main, componentIds: [cm-2_s2scp-1.x], secretFile: /nowhere, endpoints: []}}]\n"
        ))
        .unwrap();
        config.privacy.mode = mode;
        config.privacy.domains = listed.iter().map(|name| domain(name).into()).collect();
        Policy::new(&config)
    }

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_counts_for_as_long_as_its_partner_is_configured_and_was_seen_lately() {
        let listed = policy(PrivacyMode::AllowList, &["a.example", "b.example"], "[]");
        let partners = Partners::new(MOST);
        partners.resolved(&listed, &domain("a.example"), ip("192.0.2.1"));
        partners.authenticated(&listed, &domain("b.example"), ip("2001:db8::1"));
        partners.authenticated(&listed, &domain("c.example"), ip("192.0.2.3"));
        assert!(partners.owns(&listed, ip("192.0.2.1")));
        assert!(
            partners.owns(&listed, ip("::ffff:192.0.2.1")),
            "as a socket of both families has it"
        );
        assert!(partners.owns(&listed, ip("2001:db8::2")), "the same network");
        assert!(!partners.owns(&listed, ip("192.0.2.2")));
        assert!(!partners.owns(&listed, ip("192.0.2.3")), "of nobody configured");

        let without = policy(PrivacyMode::AllowList, &["b.example"], "[]");
        assert!(!partners.owns(&without, ip("192.0.2.1")));
        // Another partner at the same address.
        partners.resolved(&without, &domain("b.example"), ip("192.0.2.1"));
        assert!(partners.owns(&without, ip("192.0.2.1")));

        let after = |time| Instant::now() + time;
        let four = |time| partners.owns_at(&listed, ip("192.0.2.1"), after(time));
        let six = |time| partners.owns_at(&listed, ip("2001:db8::1"), after(time));
        assert!(!four(RESOLVED) && four(RESOLVED / 2));
        assert!(!six(AUTHENTICATED) && six(AUTHENTICATED / 2));
    }

    #[test]
    fn the_addresses_of_static_routes_count_in_every_mode() {
        let routes = "[{domain: r.example, route: [{host: 192.0.2.9}, {host: '2001:db8:1::1'}, {host: name.example}]}]";
        let policy = policy(PrivacyMode::AllowAll, &[], routes);
        let partners = Partners::new(MOST);
        assert!(partners.owns(&policy, ip("192.0.2.9")));
        assert!(partners.owns(&policy, ip("2001:db8:1::1")));
        assert!(!partners.owns(&policy, ip("192.0.2.8")));
    }

    #[test]
    fn a_partner_with_many_addresses_takes_no_more_memory_than_the_bound() {
        let policy = policy(PrivacyMode::AllowList, &["a.example"], "[]");
        let partners = Partners::new(MOST);
        for n in 0..u32::try_from(MOST).unwrap() + 10 {
            partners.resolved(&policy, &domain("a.example"), IpAddr::from(n.to_be_bytes()));
        }
        assert_eq!(partners.seen.lock().len(), MOST);
    }
}
