//! DNS questions and their answers as facts.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use xmpp_federation_core::Domain;

/// A service that servers look for by SRV record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// STARTTLS (RFC 6120).
    Server,
    /// TLS from the first byte (XEP-0368).
    DirectTls,
}

impl Service {
    /// The port on which the edge's Service offers it.
    pub const fn port(self) -> u16 {
        match self {
            Self::Server => 5269,
            Self::DirectTls => 5270,
        }
    }

    /// Name of a domain's records.
    pub fn record(self, domain: &Domain) -> String {
        let label = match self {
            Self::Server => "_xmpp-server",
            Self::DirectTls => "_xmpps-server",
        };
        format!("{label}._tcp.{domain}")
    }
}

/// An SRV record's data (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Srv {
    /// Lower is preferred.
    pub priority: u16,
    /// Share within one priority.
    pub weight: u16,
    /// TCP port.
    pub port: u16,
    /// Absolute name without its trailing dot; empty for `.` (service not offered).
    pub target: String,
}

/// Answer to an SRV question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SrvAnswer {
    /// At least one record.
    Found(Vec<Srv>),
    /// NXDOMAIN or no data.
    Absent,
    /// No answer that proves anything; the text says why.
    Failed(String),
}

/// Answer to a question for a host's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addresses {
    /// The addresses; `alias` is the canonical name if the host is a CNAME.
    Found {
        /// A and AAAA together.
        addresses: Vec<IpAddr>,
        /// The name behind the alias.
        alias: Option<String>,
    },
    /// NXDOMAIN or no data.
    Absent,
    /// No answer that proves anything; the text says why.
    Failed(String),
}

/// Asks DNS; a trait so that tests can answer without a network.
pub trait Lookup {
    /// The SRV records of a service of a domain.
    fn srv(&self, service: Service, domain: &Domain) -> impl Future<Output = SrvAnswer> + Send;
    /// A and AAAA of a host name.
    fn addresses(&self, host: &str) -> impl Future<Output = Addresses> + Send;
    /// What bounds the records that are looked up at once, if anything does.
    fn room(&self) -> Option<&Semaphore> {
        None
    }
}

/// The resolver could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the DNS resolver cannot be set up: {0}; check dns.resolvers")]
pub struct ResolverError(NetError);

/// Resolvers by purpose and addresses: one serves all resources that ask there.
#[derive(Debug, Default)]
pub struct RecordResolvers(Mutex<HashMap<(&'static str, Vec<IpAddr>), RecordResolver>>);

/// Lists of addresses that are kept.
const KEPT: usize = 128;

/// Records that are looked up at one resolver at once: each takes some 20 kB.
const AT_ONCE: usize = 128;

impl RecordResolvers {
    /// The one that asks there, for that purpose: questions of another one take no room from its own.
    pub fn get(&self, purpose: &'static str, addresses: &[IpAddr]) -> Result<RecordResolver, ResolverError> {
        let mut resolvers = self.0.lock();
        let key = (purpose, addresses.to_vec());
        if let Some(resolver) = resolvers.get(&key) {
            return Ok(resolver.clone());
        }
        if resolvers.len() >= KEPT {
            resolvers.clear();
        }
        let resolver = RecordResolver::new(addresses)?;
        resolvers.insert(key, resolver.clone());
        Ok(resolver)
    }
}

/// Questions to the given resolvers, or to those of the system if none are given.
#[derive(Debug, Clone)]
pub struct RecordResolver {
    resolver: TokioResolver,
    room: Arc<Semaphore>,
}

impl RecordResolver {
    /// Sets the resolver up; nothing is sent yet.
    pub fn new(resolvers: &[IpAddr]) -> Result<Self, ResolverError> {
        let mut builder = if resolvers.is_empty() {
            TokioResolver::builder_tokio().map_err(ResolverError)?
        } else {
            let servers = resolvers.iter().copied().map(NameServerConfig::udp_and_tcp).collect();
            TokioResolver::builder_with_config(
                ResolverConfig::from_parts(None, Vec::new(), servers),
                TokioRuntimeProvider::default(),
            )
        };
        let options: &mut ResolverOpts = builder.options_mut();
        // A verification wants today's truth, bounded in time.
        options.cache_size = 0;
        options.timeout = Duration::from_secs(3);
        options.attempts = 2;
        options.ndots = 0;
        Ok(Self {
            resolver: builder.build().map_err(ResolverError)?,
            room: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Result<Vec<(Name, RData)>, NetError> {
        let mut name = Name::from_utf8(name).map_err(|_| NetError::Message("the name cannot be asked for in DNS"))?;
        // Absolute: a pod's search list must not turn a miss into a hit.
        name.set_fqdn(true);
        let answer = self.resolver.lookup(name, kind).await?;
        Ok(answer
            .answers()
            .iter()
            .map(|record| (record.name.clone(), record.data.clone()))
            .collect())
    }
}

fn text(name: &Name) -> String {
    let text = name.to_ascii().to_ascii_lowercase();
    text.strip_suffix('.').unwrap_or(&text).to_owned()
}

impl Lookup for RecordResolver {
    fn room(&self) -> Option<&Semaphore> {
        Some(&self.room)
    }

    async fn srv(&self, service: Service, domain: &Domain) -> SrvAnswer {
        match self.ask(&service.record(domain), RecordType::SRV).await {
            Ok(records) => {
                let mut found: Vec<Srv> = records
                    .into_iter()
                    .filter_map(|(_, data)| match data {
                        RData::SRV(srv) => Some(Srv {
                            priority: srv.priority,
                            weight: srv.weight,
                            port: srv.port,
                            target: text(&srv.target),
                        }),
                        _ => None,
                    })
                    .collect();
                // DNS rotates its answers.
                found.sort_by(|a, b| {
                    let order = |srv: &Srv| (srv.priority, std::cmp::Reverse(srv.weight), srv.port);
                    (order(a), &a.target).cmp(&(order(b), &b.target))
                });
                if found.is_empty() {
                    SrvAnswer::Absent
                } else {
                    SrvAnswer::Found(found)
                }
            }
            Err(error) if error.is_no_records_found() && !is_failure(&error) => SrvAnswer::Absent,
            Err(error) => SrvAnswer::Failed(error.to_string()),
        }
    }

    async fn addresses(&self, host: &str) -> Addresses {
        let (v4, v6) = tokio::join!(self.ask(host, RecordType::A), self.ask(host, RecordType::AAAA));
        let mut addresses = Vec::new();
        let mut alias = None;
        let mut failure = None;
        for answer in [v4, v6] {
            match answer {
                Ok(records) => {
                    for (_, data) in records {
                        match data {
                            RData::A(a) => addresses.push(IpAddr::V4(a.0)),
                            RData::AAAA(a) => addresses.push(IpAddr::V6(a.0)),
                            RData::CNAME(name) => alias = Some(text(&name.0)),
                            _ => {}
                        }
                    }
                }
                Err(error) if error.is_no_records_found() && !is_failure(&error) => {}
                Err(error) => failure = Some(error.to_string()),
            }
        }
        match (addresses.is_empty(), failure) {
            (false, _) => Addresses::Found { addresses, alias },
            (true, Some(reason)) => Addresses::Failed(reason),
            (true, None) => Addresses::Absent,
        }
    }
}

/// "No records" with a response code other than NOERROR and NXDOMAIN proves nothing.
fn is_failure(error: &NetError) -> bool {
    use hickory_resolver::net::DnsError;
    use hickory_resolver::proto::op::ResponseCode;
    match error {
        NetError::Dns(DnsError::NoRecordsFound(records)) => {
            !matches!(records.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
        }
        _ => true,
    }
}
