//! One remote domain looked at step by step, as an edge would reach it: `probe DOMAIN`.
//!
//! [`names`]: DNS and addresses; [`reach`]: TCP, TLS, certificate, features of one address;
//! [`identity`]: whether the peer believes that we are who we say; [`report`]: the findings.

mod identity;
mod names;
mod reach;
mod report;
mod verifier;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use xmpp_federation_core::edge_config::{ConfigError, EdgeConfig, Tls, TlsMode};
use xmpp_federation_core::{Domain, DomainError};

use crate::config::{Live, LoadError, Loader};
use crate::observe::metrics::Metrics;
use crate::resolve::dns::CACHED;
use crate::resolve::{AddressRules, Dns, Lookup};
use crate::tls::TlsSettings;
pub use report::{Finding, Rating, Report};

/// Addresses that are tried, as an edge would.
const MOST_ADDRESSES: usize = 8;

/// What is looked at, and with which settings.
pub struct Plan {
    domain: Domain,
    /// For whom we speak; `None`: nobody.
    from: Option<Domain>,
    config: EdgeConfig,
    tls: TlsSettings,
    client: Option<Arc<ClientConfig>>,
    lookup: Arc<dyn Lookup>,
    rules: AddressRules,
    /// Loaded from a configuration: lists and dialback secret count.
    live: Option<Arc<Live>>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("domain", &self.domain)
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

/// Why nothing can be looked at.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The domain to probe, or the one of `--from`.
    #[error(transparent)]
    Domain(#[from] DomainError),
    /// `--dns` names no server.
    #[error("{0:?} is no address of a DNS server; write 198.51.100.53 or 198.51.100.53:53")]
    Server(String),
    /// The configuration cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// `--from` names somebody else's domain.
    #[error("{0} is not hosted by this configuration; --from names one of its domains")]
    NotHosted(Domain),
    /// The domain is one of ours.
    #[error("{0} is hosted by this configuration; probe a remote domain")]
    Hosted(Domain),
    /// The defaults cannot be used.
    #[error(transparent)]
    Defaults(#[from] ConfigError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// What counts where no configuration is given: the defaults. Its files are never read.
const DEFAULTS: &str = "\
domains: [probe.invalid]
dialback: {sign: /nonexistent}
tls: {certificates: [{certificateFile: /nonexistent, privateKeyFile: /nonexistent}]}
routers: [{name: none, componentIds: [none.invalid], secretFile: /nonexistent, endpoints: []}]
";

impl Plan {
    /// Reads the arguments of the command.
    pub fn new(domain: &str, from: Option<&str>, config: Option<&Path>, dns: &[String]) -> Result<Self, PlanError> {
        let (domain, from) = (Domain::parse(domain)?, from.map(Domain::parse).transpose()?);
        let servers = dns.iter().map(|text| server(text)).collect::<Result<Vec<_>, _>>()?;
        let lookup = (!servers.is_empty()).then(|| Arc::new(Dns::new(&servers)) as Arc<dyn Lookup>);
        match config {
            Some(path) => Self::with_live(domain, from, Arc::new(Loader::new(path, 0).load()?), lookup),
            None => Self::without_configuration(domain, from, lookup),
        }
    }

    /// Looks as an edge with this configuration does. `lookup`: asked instead of its DNS servers.
    pub fn with_live(
        domain: Domain,
        from: Option<Domain>,
        live: Arc<Live>,
        lookup: Option<Arc<dyn Lookup>>,
    ) -> Result<Self, PlanError> {
        let from = match from {
            Some(from) if !live.hosted.contains(&from) => return Err(PlanError::NotHosted(from)),
            Some(from) => Some(from),
            None => live.config.domains.first().cloned(),
        };
        if live.hosted.contains(&domain) {
            return Err(PlanError::Hosted(domain));
        }
        let config = live.config.clone();
        Ok(Self {
            rules: AddressRules::new(&config, Arc::default()),
            lookup: lookup.unwrap_or_else(|| Arc::new(Dns::of(&config.dns, CACHED))),
            client: from
                .as_ref()
                .and_then(|from| live.tls.client_for(from))
                .map(|client| client.config.clone()),
            tls: live.tls.clone(),
            domain,
            from,
            config,
            live: Some(live),
            metrics: Arc::default(),
        })
    }

    fn without_configuration(
        domain: Domain,
        from: Option<Domain>,
        lookup: Option<Arc<dyn Lookup>>,
    ) -> Result<Self, PlanError> {
        let config = EdgeConfig::from_yaml(DEFAULTS)?;
        // Authorities only; nothing is read in this mode.
        let authorities = Tls {
            mode: TlsMode::Disabled,
            ..config.tls.clone()
        };
        let tls = TlsSettings::load(&authorities, false, &|_, _| Ok(Vec::new()));
        Ok(Self {
            rules: AddressRules::new(&config, Arc::default()),
            lookup: lookup.unwrap_or_else(|| Arc::new(Dns::of(&config.dns, CACHED))),
            client: Some(verifier::client().map_err(|error| PlanError::Tls(error.to_string()))?),
            tls: tls.map_err(|error| PlanError::Tls(error.message))?,
            domain,
            from,
            config,
            live: None,
            metrics: Arc::default(),
        })
    }

    /// Looks. Takes some seconds, with dialback up to a minute; every step is bounded.
    pub async fn run(&self) -> Report {
        let mut report = Report::new(&self.domain, self.from.as_ref());
        self.check_policy(&mut report);
        let mut targets = self.find(&mut report).await;
        targets.truncate(MOST_ADDRESSES);
        let mut identified = false;
        for target in &targets {
            let Some(reached) = self.reach(target, &mut report).await else {
                continue;
            };
            // Once is enough: each dialback makes the peer call our own servers.
            if std::mem::replace(&mut identified, true) {
                reached.leave().await;
            } else {
                self.identify(target, reached, &mut report).await;
            }
        }
        report.finish(!identified);
        report
    }

    fn check_policy(&self, report: &mut Report) {
        let Some(live) = &self.live else { return };
        for warning in &live.warnings {
            report.warn("configuration", "", warning.clone(), None);
        }
        let subject = self.domain.to_string();
        match live.policy.check(&self.domain) {
            Ok(()) => report.good("policy", &subject, "may federate by this configuration"),
            Err(denied) => report.bad(
                "policy",
                &subject,
                format!("may not federate: {denied}"),
                "change privacy.mode or privacy.domains",
            ),
        }
    }
}

/// `198.51.100.53` or `198.51.100.53:53`.
fn server(text: &str) -> Result<SocketAddr, PlanError> {
    let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    address
        .or_else(|_| text.parse())
        .map_err(|_| PlanError::Server(text.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("198.51.100.53", Some("198.51.100.53:53"))]
    #[case("198.51.100.53:5353", Some("198.51.100.53:5353"))]
    #[case("2001:db8::53", Some("[2001:db8::53]:53"))]
    #[case("resolver.example", None)]
    fn dns_servers_are_addresses(#[case] text: &str, #[case] expected: Option<&str>) {
        let found = server(text).ok().map(|address| address.to_string());
        assert_eq!(found.as_deref(), expected);
    }

    #[rstest]
    #[case("localhost", None, "localhost")]
    #[case("vngtp.lab", Some("not a domain"), "not a domain")]
    fn arguments_that_are_no_domains_are_refused(#[case] domain: &str, #[case] from: Option<&str>, #[case] says: &str) {
        let error = Plan::new(domain, from, None, &[]).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }

    #[test]
    fn without_a_configuration_the_defaults_count() {
        let plan = Plan::new("vngtp.lab", None, None, &["127.0.0.1".to_owned()]).unwrap();
        assert!(plan.client.is_some() && plan.live.is_none() && plan.from.is_none());
    }
}
