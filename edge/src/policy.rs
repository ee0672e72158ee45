//! Who may federate, and on which terms: the privacy lists and the policy per remote domain, on
//! canonical names only.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use xmpp_federation_core::edge_config::{EdgeConfig, PrivacyMode, TlsMode};
use xmpp_federation_core::{Domain, Fingerprint};

use crate::network::network_of;

/// The lists of one configuration. Asked before any look-up and for every pair.
#[derive(Debug, Clone)]
pub struct Policy {
    mode: PrivacyMode,
    listed: HashSet<Domain>,
    routed: HashSet<Domain>,
    /// Addresses that static routes name, of IPv6 by network of 64 bits.
    route_addresses: HashSet<IpAddr>,
    hosted: HashSet<Domain>,
    general: PeerPolicy,
    peers: HashMap<Domain, PeerPolicy>,
}

/// The terms for one remote domain: the general rules with its entry in `peers` on top.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerPolicy {
    /// Security mode.
    pub tls_mode: TlsMode,
    /// Whether its certificate must be valid and name it, in both directions.
    pub require_certificate: bool,
    /// Fingerprints of its leaf certificate; not empty: only these are accepted, and their chain and
    /// name are not asked for.
    pub pinned_sha256: Vec<Fingerprint>,
    /// Largest stanza taken from it, bytes.
    pub max_stanza_bytes: usize,
    /// Stanzas taken from it per second; `None`: no bound.
    pub messages_per_second: Option<u32>,
    /// Bytes of stanzas taken from it per second; `None`: no bound.
    pub bytes_per_second: Option<u64>,
}

impl PeerPolicy {
    /// Whether its certificate must prove it, by chain and name or by fingerprint.
    pub fn needs_certificate(&self) -> bool {
        self.require_certificate || !self.pinned_sha256.is_empty()
    }
}

/// Why a remote domain may not federate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A domain of ours: it never comes in from outside and never leaves.
    #[error("it is hosted here")]
    OwnDomain,
    /// The mode is AllowList, and the domain is not listed and has no static route and no entry in `peers`.
    #[error("it is not on the allow list")]
    NotAllowed,
    /// The mode is DenyList and the domain is listed.
    #[error("it is on the deny list")]
    Listed,
}

impl Policy {
    /// The lists of this configuration.
    pub fn new(config: &EdgeConfig) -> Self {
        let general = PeerPolicy {
            tls_mode: config.tls.mode,
            require_certificate: config.tls.require_client_certificates,
            pinned_sha256: Vec::new(),
            max_stanza_bytes: config.limits.max_stanza_bytes,
            messages_per_second: None,
            bytes_per_second: None,
        };
        let peers = config.peers.iter().map(|peer| {
            let terms = PeerPolicy {
                tls_mode: peer.tls_mode.unwrap_or(general.tls_mode),
                require_certificate: peer.require_certificate.unwrap_or(general.require_certificate),
                pinned_sha256: peer.pinned_sha256.clone(),
                max_stanza_bytes: peer.max_stanza_bytes.unwrap_or(general.max_stanza_bytes),
                messages_per_second: peer.messages_per_second,
                bytes_per_second: peer.bytes_per_second,
            };
            (peer.domain.clone(), terms)
        });
        Self {
            peers: peers.collect(),
            general,
            mode: config.privacy.mode,
            listed: config.privacy.domains.iter().cloned().collect(),
            routed: config.static_routes.iter().map(|r| r.domain.clone()).collect(),
            route_addresses: config
                .static_routes
                .iter()
                .flat_map(|route| &route.addresses)
                .filter_map(|address| address.host.parse().ok().map(network_of))
                .collect(),
            hosted: config.domains.iter().cloned().collect(),
        }
    }

    /// The terms for a remote domain.
    pub fn peer(&self, remote: &Domain) -> &PeerPolicy {
        self.peers.get(remote).unwrap_or(&self.general)
    }

    /// Whether an administrator wrote this remote domain down as one to federate with: on the allow
    /// list, with a route, or with terms of its own.
    pub fn is_partner(&self, remote: &Domain) -> bool {
        let listed = self.mode == PrivacyMode::AllowList && self.listed.contains(remote);
        (listed || self.routed.contains(remote) || self.peers.contains_key(remote)) && self.check(remote).is_ok()
    }

    /// All of them.
    pub(crate) fn partners(&self) -> impl Iterator<Item = &Domain> {
        let listed = self.listed.iter().filter(|_| self.mode == PrivacyMode::AllowList);
        let all: HashSet<_> = listed
            .chain(&self.routed)
            .chain(self.peers.keys())
            .filter(|domain| self.is_partner(domain))
            .collect();
        all.into_iter()
    }

    /// Whether a static route names this address or its network.
    pub(crate) fn routes_to(&self, network: IpAddr) -> bool {
        self.route_addresses.contains(&network)
    }

    /// The terms for a remote domain, or for a peer that has not named its domain yet.
    pub fn terms(&self, remote: Option<&Domain>) -> &PeerPolicy {
        remote.map_or(&self.general, |remote| self.peer(remote))
    }

    /// Whether a remote domain may federate. A static route and an entry in `peers` admit it beside the allow
    /// list; a deny list wins over both.
    pub fn check(&self, remote: &Domain) -> Result<(), Denied> {
        if self.hosted.contains(remote) {
            return Err(Denied::OwnDomain);
        }
        let listed = self.listed.contains(remote);
        let described = || self.routed.contains(remote) || self.peers.contains_key(remote);
        match self.mode {
            PrivacyMode::AllowList if listed || described() => Ok(()),
            PrivacyMode::AllowList => Err(Denied::NotAllowed),
            PrivacyMode::DenyList if listed => Err(Denied::Listed),
            PrivacyMode::AllowAll | PrivacyMode::DenyList => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    fn policy(mode: PrivacyMode) -> Policy {
        let domain = |text: &str| Domain::parse(text).unwrap();
        Policy {
            mode,
            listed: HashSet::from([domain("listed.example")]),
            routed: HashSet::from([domain("routed.example")]),
            route_addresses: HashSet::new(),
            hosted: HashSet::from([domain("coluc.com")]),
            general: PeerPolicy::default(),
            peers: ["listed.example", "terms.example"]
                .map(|peer| (domain(peer), PeerPolicy::default()))
                .into(),
        }
    }

    #[rstest]
    #[case(PrivacyMode::AllowList, "listed.example", Ok(()))]
    #[case(PrivacyMode::AllowList, "LISTED.example.", Ok(()))]
    #[case(PrivacyMode::AllowList, "routed.example", Ok(()))]
    #[case(PrivacyMode::AllowList, "terms.example", Ok(()))]
    #[case(PrivacyMode::AllowList, "sub.listed.example", Err(Denied::NotAllowed))]
    #[case(PrivacyMode::AllowList, "sub.terms.example", Err(Denied::NotAllowed))]
    #[case(PrivacyMode::AllowList, "coluc.com", Err(Denied::OwnDomain))]
    #[case(PrivacyMode::DenyList, "listed.example", Err(Denied::Listed))]
    #[case(PrivacyMode::DenyList, "other.example", Ok(()))]
    #[case(PrivacyMode::DenyList, "sub.listed.example", Ok(()))]
    #[case(PrivacyMode::AllowAll, "listed.example", Ok(()))]
    #[case(PrivacyMode::AllowAll, "COLUC.com", Err(Denied::OwnDomain))]
    fn each_mode_admits_exactly_its_domains(
        #[case] mode: PrivacyMode,
        #[case] remote: &str,
        #[case] expected: Result<(), Denied>,
    ) {
        assert_eq!(policy(mode).check(&Domain::parse(remote).unwrap()), expected);
    }
}
