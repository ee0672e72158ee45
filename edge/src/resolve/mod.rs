//! From a remote domain to a TCP connection (RFC 6120 section 3.2, stricter on broken DNS).
//!
//! - [`dns`]: the questions asked of DNS, as a trait, and its real implementation
//! - [`srv`]: from SRV answers to targets in order (RFC 2782)
//! - [`address_rules`]: which addresses DNS may lead to
//! - `nat64`: the IPv4 addresses that IPv6 ones stand for
//! - [`connect`]: attempts raced across addresses, bounded in number and time
//!
//! [`Resolver::resolve`] looks up, [`Attempts`] connects; after a TLS or stream failure
//! [`Attempts::next`] is asked again. Lists are applied before any look-up, by the caller.

pub mod address_rules;
pub mod connect;
pub mod dns;
mod nat64;
pub mod srv;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::maybe_done;
use rand::seq::SliceRandom;
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::{EdgeConfig, HostPort, Listen, RouteHost, TlsMode};

use crate::policy::Policy;
pub use crate::words::Service;
pub use address_rules::{AddressRules, RouterAddresses};
pub use connect::{AttemptBounds, Attempts, Connection};
pub use dns::{Dns, Lookup, LookupError, SrvRecord};
use srv::Choice;

/// Default port of server-to-server streams (RFC 6120 section 3.2.2).
pub const S2S_PORT: u16 = 5269;

/// How the addresses of a domain were found; for the log line of a resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Method {
    /// Configured; DNS has no say, neither now nor when all addresses fail.
    StaticRoute,
    /// `_xmpp-server._tcp` and `_xmpps-server._tcp` records.
    Srv,
    /// No SRV records: the domain's own A and AAAA records, port 5269.
    Address,
}

impl Method {
    /// The word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A host name (or, from a static route, an address) and its port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Name without trailing dot, or an IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// What is spoken there.
    pub service: Service,
}

impl From<&RouteHost> for Target {
    fn from(target: &RouteHost) -> Self {
        Self {
            host: target.host.clone(),
            port: target.port,
            service: Service::StartTls,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)?;
        } else {
            write!(f, "{}:{}", self.host, self.port)?;
        }
        match self.service {
            Service::StartTls => Ok(()),
            Service::DirectTls => f.write_str(" (direct TLS)"),
        }
    }
}

/// An address to connect to, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    address: SocketAddr,
    target: Target,
}

/// Where a domain is reached; addresses of the best priority that has any are looked up already.
#[derive(Debug, Clone)]
pub struct Resolution {
    /// How it was found.
    pub method: Method,
    /// Time the look-ups took; zero for static routes with addresses.
    pub took: Duration,
    targets: Vec<Target>,
    resolver: Resolver,
    hosts: Hosts,
    queue: VecDeque<Candidate>,
    later: VecDeque<Vec<Target>>,
}

/// The hosts of one resolution that were looked up. A domain of a stranger's may name hundreds, and
/// each is asked about at somebody's name servers.
#[derive(Debug, Clone, Default)]
struct Hosts {
    known: HashMap<String, Result<Vec<IpAddr>, LookupError>>,
}

impl Hosts {
    /// Of these targets, those whose hosts are known or may still be looked up; and the latter.
    fn choose(&self, group: &mut Vec<Target>) -> Vec<String> {
        let mut asked: Vec<String> = Vec::new();
        group.retain(|Target { host, .. }| {
            let known = host.parse::<IpAddr>().is_ok() || self.known.contains_key(host);
            if known || asked.contains(host) {
                return true;
            }
            let free = self.known.len() + asked.len() < MOST_HOSTS;
            if free {
                asked.push(host.clone());
            }
            free
        });
        asked
    }

    fn answer(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        self.known.get(host).cloned().unwrap_or(Ok(Vec::new()))
    }
}

impl Resolution {
    /// The targets by preference with ports, as a log line shows them; at most eight.
    pub fn targets(&self) -> String {
        let texts: Vec<_> = self.targets.iter().take(8).map(ToString::to_string).collect();
        texts.join(" ")
    }

    /// The addresses that are tried first.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.queue.iter().map(|candidate| candidate.address)
    }
}

/// Why no address is known; each text is a sentence for logs and status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum ResolveError {
    /// The domain does not exist, has no address, or no service of the kind used.
    #[error("{0}")]
    NotFound(String),
    /// The domain says that it does not federate (SRV target `.`).
    #[error("{0}")]
    Disabled(String),
    /// Its addresses are not ones that DNS may lead to.
    #[error("{0}")]
    Refused(String),
    /// SERVFAIL, time-out and the like: may work later.
    #[error("{0}")]
    Temporary(String),
}

impl ResolveError {
    /// The word used in metrics.
    pub fn as_str(&self) -> &'static str {
        self.into()
    }
}

/// Looks domains up by one configuration.
#[derive(Clone)]
pub struct Resolver {
    lookup: Arc<dyn Lookup>,
    /// Asked about configured partners.
    partners: Arc<dyn Lookup>,
    pub(crate) rules: Arc<AddressRules>,
    policy: Arc<Policy>,
    bounds: AttemptBounds,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

type SrvAnswer = Result<Vec<SrvRecord>, LookupError>;

/// Hosts of one domain that are looked up, over all priorities and both services: 16 questions, as
/// each is asked about twice, for AAAA and A records.
const MOST_HOSTS: usize = 8;
/// Addresses of one host that are looked at.
const MOST_ADDRESSES: usize = 16;
/// How long `_xmpps-server` is waited for when the domain can be reached without it.
const GRACE: Duration = Duration::from_millis(300);
/// Failures told in one sentence.
const MOST_FAILURES: usize = 4;

impl Resolver {
    /// A resolver by this configuration that asks the DNS servers named in it.
    pub fn new(config: &EdgeConfig) -> Self {
        let lookup = Dns::of(&config.dns, dns::CACHED);
        Self::with_lookup(config, Arc::new(lookup), Arc::default())
    }

    /// A resolver by this configuration that asks `lookup`, and reads the routers' addresses in `routers`.
    pub fn with_lookup(config: &EdgeConfig, lookup: Arc<dyn Lookup>, routers: Arc<RouterAddresses>) -> Self {
        Self::with_policy(config, Arc::new(Policy::new(config)), lookup, routers)
    }

    /// The same with the policy of this configuration.
    pub fn with_policy(
        config: &EdgeConfig,
        policy: Arc<Policy>,
        lookup: Arc<dyn Lookup>,
        routers: Arc<RouterAddresses>,
    ) -> Self {
        Self {
            partners: lookup.for_partners().unwrap_or_else(|| lookup.clone()),
            lookup,
            rules: Arc::new(AddressRules::new(config, routers)),
            policy,
            bounds: AttemptBounds::default(),
        }
    }

    /// The same for an edge that listens elsewhere than its configuration says.
    pub(crate) fn listening(&self, listen: &Listen) -> Self {
        Self {
            rules: Arc::new(self.rules.listening(listen)),
            ..self.clone()
        }
    }

    /// The same with other bounds.
    #[must_use]
    pub fn with_bounds(mut self, bounds: AttemptBounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// Finds out where a remote domain is reached. The lists must have been applied before.
    pub async fn resolve(&self, domain: &Domain) -> Result<Resolution, ResolveError> {
        // One by one, many priorities whose names nobody answers would take minutes.
        let total = self.bounds.total;
        let mut asking = self.clone();
        if self.policy.is_partner(domain) {
            asking.lookup = self.partners.clone();
        }
        tokio::time::timeout(total, asking.find(domain))
            .await
            .unwrap_or_else(|_| {
                Err(ResolveError::Temporary(format!(
                    "{domain} cannot be reached: its look-ups took more than {} s in all; check its name servers if this lasts",
                    total.as_secs()
                )))
            })
    }

    async fn find(&self, domain: &Domain) -> Result<Resolution, ResolveError> {
        let started = Instant::now();
        let (method, groups) = self.targets(domain).await?;
        let mut resolution = Resolution {
            method,
            took: Duration::ZERO,
            targets: groups.iter().flatten().cloned().collect(),
            resolver: self.clone(),
            hosts: Hosts::default(),
            queue: VecDeque::new(),
            later: groups.into(),
        };
        let mut failures = LookupFailures::default();
        while resolution.queue.is_empty() {
            let Some(group) = resolution.later.pop_front() else {
                return Err(failures.into_error(domain, method));
            };
            let hosts = &mut resolution.hosts;
            resolution.queue = self.look_up(method, group, hosts, &mut failures).await;
        }
        resolution.took = started.elapsed();
        Ok(resolution)
    }

    async fn targets(&self, domain: &Domain) -> Result<(Method, Vec<Vec<Target>>), ResolveError> {
        if let Some(route) = self.policy.route(domain) {
            // All are equal: each gets its share of the streams.
            let mut targets: Vec<_> = route.iter().map(Target::from).collect();
            targets.shuffle(&mut rand::rng());
            return Ok((Method::StaticRoute, vec![targets]));
        }
        let with_direct = self.policy.peer(domain).tls_mode != TlsMode::Disabled;
        let plain = format!("_xmpp-server._tcp.{domain}.");
        let direct = format!("_xmpps-server._tcp.{domain}.");
        let (plain, direct) = self.services(&plain, &direct).await;
        Ok(
            match srv::choose(domain, plain, direct, with_direct, &mut rand::rng())? {
                Choice::Targets(groups) => (Method::Srv, groups),
                Choice::NoRecords => {
                    let target = Target {
                        host: domain.to_string(),
                        port: S2S_PORT,
                        service: Service::StartTls,
                    };
                    (Method::Address, vec![vec![target]])
                }
            },
        )
    }

    /// The SRV records of both services. The second answer is waited for as long as it decides
    /// something: many name servers drop questions for names that they do not know.
    async fn services(&self, plain: &str, direct: &str) -> (SrvAnswer, SrvAnswer) {
        let mut second = pin!(maybe_done(self.lookup.srv(direct)));
        let mut first = self.lookup.srv(plain);
        let plain = poll_fn(|cx| {
            let _ = second.as_mut().poll(cx);
            first.as_mut().poll(cx)
        })
        .await;
        let wait = match &plain {
            Ok(records) if srv::offered(records) => GRACE,
            // With time left for the domain's own addresses.
            Ok(_) => self.bounds.total / 3,
            Err(_) => Duration::ZERO,
        };
        let _ = tokio::time::timeout(wait, second.as_mut()).await;
        let late = || LookupError(format!("the DNS look-up of SRV {direct} took too long"));
        let direct = second.take_output().unwrap_or_else(|| Err(late()));
        (plain, direct)
    }

    /// The allowed addresses of one priority's targets. Targets take turns, so that their order
    /// holds and none uses up the attempts; so do the families of each (RFC 8305 section 4).
    async fn look_up(
        &self,
        method: Method,
        mut group: Vec<Target>,
        hosts: &mut Hosts,
        failures: &mut LookupFailures,
    ) -> VecDeque<Candidate> {
        group.truncate(self.bounds.attempts);
        let named = group.len();
        let asked = hosts.choose(&mut group);
        failures.left_out += named - group.len();
        let answers = asked.iter().map(|host| self.host(host));
        let answers = futures::future::join_all(answers).await;
        if method != Method::StaticRoute && answers.iter().flatten().flatten().any(IpAddr::is_ipv6) {
            self.rules.learn_nat64(&*self.lookup).await;
        }
        hosts.known.extend(asked.into_iter().zip(answers));
        let mut turns: Vec<VecDeque<Candidate>> = Vec::with_capacity(group.len());
        for target in &group {
            let addresses = match hosts.answer(&target.host) {
                Ok(addresses) if addresses.is_empty() => {
                    failures
                        .not_found
                        .push(format!("{} has no address in DNS", target.host));
                    continue;
                }
                Ok(addresses) => addresses,
                Err(error) => {
                    failures.temporary.push(error.to_string());
                    continue;
                }
            };
            let (mut six, mut four) = (VecDeque::new(), VecDeque::new());
            for ip in addresses.into_iter().take(MOST_ADDRESSES) {
                let address = SocketAddr::new(ip, target.port);
                match self.check(method, address) {
                    Ok(()) => {
                        let family = if ip.is_ipv6() { &mut six } else { &mut four };
                        family.push_back(Candidate {
                            address,
                            target: target.clone(),
                        });
                    }
                    Err(refused) => failures.refused.push(format!("{target}: {refused}")),
                }
            }
            turns.push(take_turns(vec![six, four]));
        }
        take_turns(turns)
    }

    /// Static routes are trusted; what DNS says is not.
    fn check(&self, method: Method, address: SocketAddr) -> Result<(), address_rules::RefusedAddress> {
        if method == Method::StaticRoute {
            Ok(())
        } else {
            self.rules.check(address)
        }
    }

    async fn host(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        match host.parse() {
            Ok(address) => Ok(vec![address]),
            Err(_) => self.lookup.addresses(&dns::absolute(host)).await,
        }
    }

    /// The addresses of an XCP router, which the configuration is trusted about; they are
    /// remembered so that no partner's DNS can lead to them.
    pub async fn router(&self, address: &HostPort) -> Result<Vec<SocketAddr>, ResolveError> {
        let ips = self
            .host(&address.host)
            .await
            .map_err(|e| ResolveError::Temporary(e.to_string()))?;
        if ips.is_empty() {
            return Err(ResolveError::NotFound(format!(
                "{} has no address in DNS; correct its name or give its address in the endpoint",
                address.host
            )));
        }
        let addresses: Vec<_> = ips.into_iter().map(|ip| SocketAddr::new(ip, address.port)).collect();
        self.rules.routers().learn(address, &addresses);
        Ok(addresses)
    }

    /// Looks up the routers whose names are configured, so that no partner's DNS can lead to them
    /// before their links have been dialled.
    pub(crate) async fn find_routers(&self, config: &EdgeConfig) {
        let endpoints = config.routers.iter().flat_map(|router| &router.endpoints);
        let named = endpoints.filter(|endpoint| endpoint.address.socket_addr().is_none());
        // A link tells what is wrong with a name.
        futures::future::join_all(named.map(|endpoint| self.router(&endpoint.address))).await;
    }
}

/// The first of each, then the second of each, and so on.
fn take_turns<T>(mut lists: Vec<VecDeque<T>>) -> VecDeque<T> {
    let mut merged = VecDeque::with_capacity(lists.iter().map(VecDeque::len).sum());
    while lists.iter().any(|list| !list.is_empty()) {
        merged.extend(lists.iter_mut().filter_map(VecDeque::pop_front));
    }
    merged
}

/// What went wrong with the targets of one domain.
#[derive(Debug, Default)]
struct LookupFailures {
    temporary: Vec<String>,
    refused: Vec<String>,
    not_found: Vec<String>,
    /// Hosts that were not looked up.
    left_out: usize,
}

impl LookupFailures {
    fn into_error(mut self, domain: &Domain, method: Method) -> ResolveError {
        if self.left_out > 0 {
            // In front: of many causes only the first are told.
            let left_out = format!(
                "further hosts were not looked up: {} (at most {MOST_HOSTS} for each domain)",
                self.left_out
            );
            self.not_found.insert(0, left_out);
        }
        let sentence = |mut causes: Vec<String>| {
            causes.truncate(MOST_FAILURES);
            let way = match method {
                Method::StaticRoute => "its static route leads to no address (DNS is not asked instead)",
                Method::Srv => "its SRV records lead to no usable address",
                Method::Address => "it has no SRV records and its own addresses are not usable",
            };
            format!("{domain} cannot be reached: {way}: {}", causes.join("; "))
        };
        if !self.temporary.is_empty() {
            ResolveError::Temporary(sentence(self.temporary))
        } else if !self.refused.is_empty() {
            ResolveError::Refused(sentence(self.refused))
        } else {
            ResolveError::NotFound(sentence(self.not_found))
        }
    }
}

#[cfg(test)]
mod tests;
