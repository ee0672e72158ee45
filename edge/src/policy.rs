//! Who may federate, and on which terms: the privacy lists and the partners, on canonical names only.

use std::collections::HashSet;
use std::net::IpAddr;

use xmpp_federation_core::edge_config::{EdgeConfig, Partner, PrivacyMode, RouteHost, TlsMode};
use xmpp_federation_core::{Domain, DomainMap, DomainPattern, Fingerprint};

use crate::network::network_of;

/// The lists of one configuration. Asked before any look-up and for every pair.
#[derive(Debug, Clone)]
pub struct Policy {
    mode: PrivacyMode,
    listed: DomainMap<()>,
    partners: DomainMap<PartnerEntry>,
    /// Addresses that routes name, of IPv6 by network of 64 bits.
    route_addresses: HashSet<IpAddr>,
    hosted: HashSet<Domain>,
    general: PeerPolicy,
}

/// What the configuration says of a partner.
#[derive(Debug, Clone, Default)]
struct PartnerEntry {
    terms: PeerPolicy,
    route: Vec<RouteHost>,
}

/// The terms for one remote domain: the general rules with its entry in `partners` on top.
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
    /// The wildcard whose domains share these rates; `None`: each domain has its own.
    pub rates_shared_by: Option<DomainPattern>,
}

impl PeerPolicy {
    /// Whether its certificate must prove it, by chain and name or by fingerprint.
    pub fn needs_certificate(&self) -> bool {
        self.require_certificate || !self.pinned_sha256.is_empty()
    }

    fn of(partner: &Partner, general: &Self) -> Self {
        let (tls, limits) = (&partner.tls, &partner.limits);
        let has_rate = limits.messages_per_second.is_some() || limits.bytes_per_second.is_some();
        let shares = has_rate && partner.domain.exact().is_none();
        // A rate of each domain by itself is none that many share.
        let general_rates = Some(general).filter(|_| !shares);
        Self {
            tls_mode: tls.mode.unwrap_or(general.tls_mode),
            require_certificate: tls.require_certificate.unwrap_or(general.require_certificate),
            pinned_sha256: tls.pinned_sha256.clone(),
            max_stanza_bytes: limits.max_stanza_bytes.unwrap_or(general.max_stanza_bytes),
            messages_per_second: limits
                .messages_per_second
                .or(general_rates.and_then(|general| general.messages_per_second)),
            bytes_per_second: limits
                .bytes_per_second
                .or(general_rates.and_then(|general| general.bytes_per_second)),
            // Whoever has the domain has any number of names below it.
            rates_shared_by: shares.then(|| partner.domain.clone()),
        }
    }
}

/// Why a remote domain may not federate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A domain of ours: it never comes in from outside and never leaves.
    #[error("it is hosted here")]
    OwnDomain,
    /// The mode is AllowList, and neither the list nor an entry in `partners` covers the domain.
    #[error("it is not on the allow list")]
    NotAllowed,
    /// The mode is DenyList and the list covers the domain.
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
            messages_per_second: config.limits.messages_per_second,
            bytes_per_second: config.limits.bytes_per_second,
            rates_shared_by: None,
        };
        let partners = config.partners.iter().map(|partner| {
            let entry = PartnerEntry {
                terms: PeerPolicy::of(partner, &general),
                route: partner.route.clone(),
            };
            (partner.domain.clone(), entry)
        });
        let routes = config.partners.iter().flat_map(|partner| &partner.route);
        Self {
            partners: partners.collect(),
            route_addresses: routes
                .filter_map(|target| target.host.parse().ok().map(network_of))
                .collect(),
            general,
            mode: config.privacy.mode,
            listed: config
                .privacy
                .domains
                .iter()
                .map(|domain| (domain.clone(), ()))
                .collect(),
            hosted: config.domains.iter().cloned().collect(),
        }
    }

    /// The terms for a remote domain.
    pub fn peer(&self, remote: &Domain) -> &PeerPolicy {
        self.partners.get(remote).map_or(&self.general, |entry| &entry.terms)
    }

    /// The hosts where a remote domain is reached, instead of those that DNS names.
    pub fn route(&self, remote: &Domain) -> Option<&[RouteHost]> {
        let route = &self.partners.get(remote)?.route;
        (!route.is_empty()).then_some(route)
    }

    /// Whether an administrator wrote this remote domain down as one to federate with: on the allow
    /// list, or in `partners`. One that only a wildcard covers has the places of a stranger, because
    /// whoever has a domain has any number of names below it.
    pub fn is_partner(&self, remote: &Domain) -> bool {
        let listed = self.mode == PrivacyMode::AllowList && self.listed.names_itself(remote);
        (listed || self.partners.names_itself(remote)) && self.check(remote).is_ok()
    }

    /// All of them.
    pub(crate) fn partners(&self) -> impl Iterator<Item = &Domain> {
        let listed = self.listed.names().filter(|_| self.mode == PrivacyMode::AllowList);
        let all: HashSet<_> = listed
            .chain(self.partners.names())
            .filter(|domain| self.is_partner(domain))
            .collect();
        all.into_iter()
    }

    /// Whether a route names this address or its network.
    pub(crate) fn routes_to(&self, network: IpAddr) -> bool {
        self.route_addresses.contains(&network)
    }

    /// The terms for a remote domain, or for a peer that has not named its domain yet.
    pub fn terms(&self, remote: Option<&Domain>) -> &PeerPolicy {
        remote.map_or(&self.general, |remote| self.peer(remote))
    }

    /// Whether a remote domain may federate. An entry in `partners` admits it beside the allow list; a
    /// deny list wins over it.
    pub fn check(&self, remote: &Domain) -> Result<(), Denied> {
        if self.hosted.contains(remote) {
            return Err(Denied::OwnDomain);
        }
        let listed = || self.listed.get(remote).is_some();
        match self.mode {
            PrivacyMode::AllowList if listed() || self.partners.get(remote).is_some() => Ok(()),
            PrivacyMode::AllowList => Err(Denied::NotAllowed),
            PrivacyMode::DenyList if listed() => Err(Denied::Listed),
            PrivacyMode::AllowAll | PrivacyMode::DenyList => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    const RATES: &str = "limits: {maxStanzaBytes: 30000, messagesPerSecond: 40, bytesPerSecond: 50000}\n";

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn policy(mode: PrivacyMode, listed: &str, partners: &str) -> Policy {
        let mut config: EdgeConfig = serde_yaml::from_str(&format!(
            "domains: [coluc.com, conf.coluc.com]\ndialback: {{sign: /s}}\ntls: {{}}\nrouters: []\n\
             privacy: {{domains: [{listed}]}}\npartners: [{partners}]\n{RATES}"
        ))
        .unwrap();
        config.privacy.mode = mode;
        Policy::new(&config)
    }

    const LISTED: &str = "listed.example, '*.below.example'";
    const PARTNERS: &str = "{domain: listed.example}, {domain: routed.example, route: [{host: 192.0.2.1}]}, \
                            {domain: terms.example, tls: {mode: Optional}}, {domain: '*.partner.example'}, \
                            {domain: named.below.example}, {domain: '*.coluc.com'}";

    #[rstest]
    #[case(PrivacyMode::AllowList, "listed.example", Ok(()))]
    #[case(PrivacyMode::AllowList, "LISTED.example.", Ok(()))]
    #[case(PrivacyMode::AllowList, "routed.example", Ok(()))]
    #[case(PrivacyMode::AllowList, "terms.example", Ok(()))]
    #[case(PrivacyMode::AllowList, "sub.listed.example", Err(Denied::NotAllowed))]
    #[case(PrivacyMode::AllowList, "sub.terms.example", Err(Denied::NotAllowed))]
    #[case(PrivacyMode::AllowList, "a.partner.example", Ok(()))]
    #[case(PrivacyMode::AllowList, "b.a.partner.example", Ok(()))]
    #[case(PrivacyMode::AllowList, "partner.example", Err(Denied::NotAllowed))]
    #[case(PrivacyMode::AllowList, "otherpartner.example", Err(Denied::NotAllowed))]
    #[case(PrivacyMode::AllowList, "a.below.example", Ok(()))]
    #[case(PrivacyMode::AllowList, "below.example", Err(Denied::NotAllowed))]
    #[case(PrivacyMode::AllowList, "coluc.com", Err(Denied::OwnDomain))]
    #[case(PrivacyMode::AllowList, "conf.coluc.com", Err(Denied::OwnDomain))]
    #[case(PrivacyMode::AllowList, "theirs.coluc.com", Ok(()))]
    #[case(PrivacyMode::DenyList, "listed.example", Err(Denied::Listed))]
    #[case(PrivacyMode::DenyList, "other.example", Ok(()))]
    #[case(PrivacyMode::DenyList, "sub.listed.example", Ok(()))]
    #[case(PrivacyMode::DenyList, "a.below.example", Err(Denied::Listed))]
    #[case(PrivacyMode::DenyList, "named.below.example", Err(Denied::Listed))]
    #[case(PrivacyMode::DenyList, "below.example", Ok(()))]
    #[case(PrivacyMode::DenyList, "a.partner.example", Ok(()))]
    #[case(PrivacyMode::DenyList, "coluc.com", Err(Denied::OwnDomain))]
    #[case(PrivacyMode::AllowAll, "listed.example", Ok(()))]
    #[case(PrivacyMode::AllowAll, "other.example", Ok(()))]
    #[case(PrivacyMode::AllowAll, "COLUC.com", Err(Denied::OwnDomain))]
    fn each_mode_admits_exactly_its_domains(
        #[case] mode: PrivacyMode,
        #[case] remote: &str,
        #[case] expected: Result<(), Denied>,
    ) {
        assert_eq!(policy(mode, LISTED, PARTNERS).check(&domain(remote)), expected);
    }

    /// Of each mode, the domains that have the places of a configured partner.
    #[rstest]
    #[case(PrivacyMode::AllowList, &["listed.example", "named.below.example", "routed.example", "terms.example"])]
    #[case(PrivacyMode::DenyList, &["routed.example", "terms.example"])]
    #[case(PrivacyMode::AllowAll, &["listed.example", "named.below.example", "routed.example", "terms.example"])]
    fn partners_are_the_names_that_are_written_down_and_admitted(#[case] mode: PrivacyMode, #[case] expected: &[&str]) {
        let policy = policy(mode, LISTED, PARTNERS);
        let mut found: Vec<&str> = policy.partners().map(Domain::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, expected);
        for stranger in [
            "a.partner.example",
            "a.below.example",
            "theirs.coluc.com",
            "other.example",
        ] {
            assert!(!policy.is_partner(&domain(stranger)), "{stranger}");
        }
    }

    const TERMS: &str = "{domain: '*.partner.example', route: [{host: 192.0.2.1}], limits: {messagesPerSecond: 7}}, \
                         {domain: '*.deep.partner.example', tls: {mode: Optional}}, \
                         {domain: a.partner.example, limits: {maxStanzaBytes: 20000, bytesPerSecond: 9000}}, \
                         {domain: other.example, tls: {requireCertificate: true}}";

    /// Mode, whether a certificate is needed, largest stanza, the two rates and who shares them, whether there is a route.
    #[rstest]
    #[case::nobody("nobody.example", "Required, false, 30000, 40, 50000, each, DNS")]
    #[case::listed("listed.example", "Required, false, 30000, 40, 50000, each, DNS")]
    #[case::not_itself("partner.example", "Required, false, 30000, 40, 50000, each, DNS")]
    #[case::wildcard("b.partner.example", "Required, false, 30000, 7, none, *.partner.example, route")]
    #[case::listed_below_a_wildcard("c.partner.example", "Required, false, 30000, 7, none, *.partner.example, route")]
    #[case::longer("x.deep.partner.example", "Optional, false, 30000, 40, 50000, each, DNS")]
    #[case::between("deep.partner.example", "Required, false, 30000, 7, none, *.partner.example, route")]
    #[case::exact("a.partner.example", "Required, false, 20000, 40, 9000, each, DNS")]
    #[case::below_the_exact("x.a.partner.example", "Required, false, 30000, 7, none, *.partner.example, route")]
    #[case::other("other.example", "Required, true, 30000, 40, 50000, each, DNS")]
    fn one_entry_counts_and_the_rest_comes_from_the_general_rules(#[case] remote: &str, #[case] expected: &str) {
        for mode in [PrivacyMode::AllowList, PrivacyMode::DenyList, PrivacyMode::AllowAll] {
            let policy = policy(mode, "listed.example, c.partner.example", TERMS);
            let (remote, route) = (domain(remote), |found| if found { "route" } else { "DNS" });
            let terms = policy.peer(&remote);
            let rate = |rate: Option<u64>| rate.map_or("none".to_owned(), |rate| rate.to_string());
            let shared = terms
                .rates_shared_by
                .as_ref()
                .map_or("each".to_owned(), ToString::to_string);
            let found = format!(
                "{:?}, {}, {}, {}, {}, {shared}, {}",
                terms.tls_mode,
                terms.needs_certificate(),
                terms.max_stanza_bytes,
                rate(terms.messages_per_second.map(u64::from)),
                rate(terms.bytes_per_second),
                route(policy.route(&remote).is_some())
            );
            assert_eq!(found, expected);
        }
    }
}
