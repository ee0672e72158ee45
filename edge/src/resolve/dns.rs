//! The questions asked of DNS; absolute names only, because pods have search lists.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// An SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrvRecord {
    /// Lower is tried first.
    pub priority: u16,
    /// Share among records of one priority.
    pub weight: u16,
    /// TCP port.
    pub port: u16,
    /// Host name with or without trailing dot; `.` means that the service is not offered.
    pub target: String,
}

/// DNS did not answer: SERVFAIL, refused, bogus, no reply. Absence of records is no error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LookupError(pub String);

/// An answer to come; an empty list is NXDOMAIN or NODATA.
pub type LookupFuture<'a, T> = Pin<Box<dyn Future<Output = Result<Vec<T>, LookupError>> + Send + 'a>>;

/// What the edge asks of DNS. Names end with a dot.
pub trait Lookup: Send + Sync {
    /// SRV records of a name.
    fn srv<'a>(&'a self, name: &'a str) -> LookupFuture<'a, SrvRecord>;
    /// AAAA and A records of a name.
    fn addresses<'a>(&'a self, name: &'a str) -> LookupFuture<'a, IpAddr>;
    /// The same DNS with a cache and places that strangers' names do not use; `None`: there is no
    /// difference.
    fn for_partners(&self) -> Option<Arc<dyn Lookup>> {
        None
    }
}

/// Writes a name with its trailing dot.
pub(crate) fn absolute(name: &str) -> String {
    if name.ends_with('.') {
        name.to_owned()
    } else {
        format!("{name}.")
    }
}

/// What is remembered of an answer.
#[derive(Debug, Clone)]
struct CacheEntry {
    records: Arc<[RData]>,
    until: StdInstant,
}

/// Answers by name and type, bounded by their bytes: the library's own cache counts answers, and one can
/// have 64 kB.
type Cache = moka::sync::Cache<(Box<str>, RecordType), CacheEntry>;

/// DNS as it is: asks the configured resolvers, or those of `/etc/resolv.conf`.
pub struct Dns {
    /// Why there is none stays an error of each look-up: static routes work without DNS.
    resolver: Result<TokioResolver, LookupError>,
    known: Cache,
    /// A place for each question that was just asked.
    asking: Semaphore,
    /// With a cache and places of its own.
    partners: Option<Arc<Dns>>,
}

/// How long a resolver may take over a question; it is asked twice.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Questions asked at once. A burst of hundreds, as when many partners are called after a start,
/// overflows a resolver's socket, and each one that is lost costs a time-out.
const AT_ONCE: usize = 64;
/// A question that takes longer keeps its place no more: slow domains hold up no others.
const SLOW: Duration = Duration::from_millis(50);

/// Records of one answer that are looked at: more than a domain has any use for.
const MOST_RECORDS: usize = 64;
/// Bytes of answers remembered where nobody says how many.
pub(crate) const CACHED: usize = 1024 * 1024;
/// Bytes that an answer takes beside its records.
const ANSWER: usize = 256;
/// How long records are remembered at most, and their absence.
const POSITIVE: Duration = Duration::from_hours(1);
const NEGATIVE: Duration = Duration::from_mins(1);

impl Dns {
    /// Asks the resolvers of a configuration; of the answers about partners, and of those about
    /// strangers, this many bytes are remembered.
    pub fn of(config: &xmpp_federation_core::edge_config::Dns, cached: usize) -> Self {
        let servers: Vec<_> = config.resolvers.iter().map(|ip| SocketAddr::new(*ip, 53)).collect();
        Self::caching(&servers, cached)
    }

    /// Asks these resolvers, over UDP and, where an answer is cut short, over TCP. An empty list
    /// means those of `/etc/resolv.conf`.
    pub fn new(resolvers: &[SocketAddr]) -> Self {
        Self::caching(resolvers, CACHED)
    }

    pub(super) fn caching(resolvers: &[SocketAddr], cached: usize) -> Self {
        let config = if resolvers.is_empty() {
            system_resolvers()
        } else {
            Ok(ResolverConfig::from_name_servers(
                resolvers.iter().map(name_server).collect(),
            ))
        };
        Self {
            partners: Some(Arc::new(Self::asking(config.clone(), cached))),
            ..Self::asking(config, cached)
        }
    }

    fn asking(config: Result<ResolverConfig, LookupError>, cached: usize) -> Self {
        let known =
            Cache::builder()
                .max_capacity(cached as u64)
                .weigher(|(name, _): &(Box<str>, _), known: &CacheEntry| {
                    let bytes = ANSWER + name.len() + known.bytes();
                    u32::try_from(bytes).unwrap_or(u32::MAX)
                });
        Self {
            resolver: config.and_then(build),
            known: known.build(),
            asking: Semaphore::new(AT_ONCE),
            partners: None,
        }
    }

    /// Bytes of the answers that are remembered about strangers.
    #[cfg(test)]
    pub(super) fn cached(&self) -> u64 {
        self.known.run_pending_tasks();
        self.known.weighted_size()
    }

    async fn ask(&self, name: &str, record_type: RecordType) -> Result<Arc<[RData]>, LookupError> {
        let key = (name.to_ascii_lowercase().into(), record_type);
        let known = self.known.get(&key);
        if let Some(known) = known.filter(|known| StdInstant::now() < known.until) {
            return Ok(known.records);
        }
        let fail = |why: String| LookupError(format!("the DNS look-up of {record_type} {name} failed: {why}"));
        let mut parsed = Name::from_ascii(name).map_err(|error| fail(error.to_string()))?;
        parsed.set_fqdn(true);
        let resolver = self.resolver.as_ref().map_err(|why| fail(why.to_string()))?;
        let place = self.asking.acquire().await;
        let asked = resolver.lookup(parsed, record_type);
        tokio::pin!(asked);
        let answer = if let Ok(answer) = timeout(SLOW, &mut asked).await {
            answer
        } else {
            drop(place);
            asked.await
        };
        let now = StdInstant::now();
        let known = match answer {
            Ok(answer) => {
                let records = answer.answers().iter();
                let wanted = records.filter(|record| record.record_type() == record_type);
                CacheEntry {
                    records: wanted.take(MOST_RECORDS).map(|record| record.data.clone()).collect(),
                    until: answer.valid_until().min(now + POSITIVE),
                }
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let told = none.negative_ttl.map(|seconds| Duration::from_secs(seconds.into()));
                CacheEntry {
                    records: Arc::default(),
                    until: now + told.unwrap_or_default().min(NEGATIVE),
                }
            }
            Err(NetError::Timeout) => return Err(fail("no resolver answered in time".to_owned())),
            Err(error) => return Err(fail(error.to_string())),
        };
        self.known.insert(key, known.clone());
        Ok(known.records)
    }
}

impl CacheEntry {
    fn bytes(&self) -> usize {
        let name = |record: &RData| match record {
            RData::SRV(srv) => srv.target.len(),
            _ => 0,
        };
        let each = |record| size_of::<RData>() + name(record);
        self.records.iter().map(each).sum()
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let with_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    NameServerConfig::new(
        address.ip(),
        true,
        vec![with_port(ConnectionConfig::udp()), with_port(ConnectionConfig::tcp())],
    )
}

/// Only the addresses count: neither the search list nor `ndots`.
fn system_resolvers() -> Result<ResolverConfig, LookupError> {
    const REMEDY: &str = "list resolvers in dns.resolvers or provide /etc/resolv.conf";
    let (config, _) = hickory_resolver::system_conf::read_system_conf()
        .map_err(|error| LookupError(format!("/etc/resolv.conf is not usable ({error}); {REMEDY}")))?;
    let (_, _, servers) = config.into_parts();
    if servers.is_empty() {
        return Err(LookupError(format!("/etc/resolv.conf names no resolver; {REMEDY}")));
    }
    Ok(ResolverConfig::from_name_servers(servers))
}

fn build(config: ResolverConfig) -> Result<TokioResolver, LookupError> {
    let mut options = ResolverOpts::default();
    options.timeout = TIMEOUT;
    options.attempts = 1;
    // There is one of our own.
    options.cache_size = 0;
    // Partners are public names: a file in the container has no say in them.
    options.use_hosts_file = ResolveHosts::Never;
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map_err(|error| LookupError(error.to_string()))
}

impl Lookup for Dns {
    fn for_partners(&self) -> Option<Arc<dyn Lookup>> {
        let partners = self.partners.clone()?;
        Some(partners)
    }

    fn srv<'a>(&'a self, name: &'a str) -> LookupFuture<'a, SrvRecord> {
        Box::pin(async move {
            let records = self.ask(name, RecordType::SRV).await?;
            Ok(records
                .iter()
                .filter_map(|record| match record {
                    RData::SRV(srv) => Some(SrvRecord {
                        priority: srv.priority,
                        weight: srv.weight,
                        port: srv.port,
                        target: srv.target.to_ascii(),
                    }),
                    _ => None,
                })
                .collect())
        })
    }

    fn addresses<'a>(&'a self, name: &'a str) -> LookupFuture<'a, IpAddr> {
        Box::pin(async move {
            let (six, four) = futures::join!(self.ask(name, RecordType::AAAA), self.ask(name, RecordType::A));
            // One family's failure does not matter while the other gives addresses.
            let (mut found, mut failure) = (Vec::new(), None);
            for answer in [six, four] {
                match answer {
                    Ok(records) => found.extend(records.iter().filter_map(RData::ip_addr)),
                    Err(error) => failure = Some(error),
                }
            }
            match failure {
                Some(error) if found.is_empty() => Err(error),
                _ => Ok(found),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::HashSet;

    use super::*;

    #[tokio::test]
    async fn many_questions_that_nobody_answers_do_not_keep_others_from_being_asked() {
        let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let dns = Arc::new(Dns::new(&[server.local_addr().unwrap()]));
        let asked = 3 * AT_ONCE;
        for n in 0..asked {
            let dns = dns.clone();
            tokio::spawn(async move { dns.addresses(&format!("d{n}.example.")).await });
        }
        // Each question anew until its name is known; a place kept for the whole time-out would
        // let through only the first ones.
        let mut names = HashSet::new();
        let mut packet = [0; 512];
        let all = timeout(TIMEOUT, async {
            while names.len() < asked {
                let (size, _) = server.recv_from(&mut packet).await.unwrap();
                // Behind the header: one label's length and text.
                let label = packet.get(12..size).unwrap();
                let length = usize::from(*label.first().unwrap());
                names.insert(label.get(1..=length).unwrap().to_vec());
            }
        });
        assert!(all.await.is_ok(), "{} of {asked} were asked", names.len());
    }

    #[tokio::test]
    async fn configured_partners_have_places_of_their_own() {
        let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let dns = Arc::new(Dns::new(&[server.local_addr().unwrap()]));
        let places = dns.asking.acquire_many(u32::try_from(AT_ONCE).unwrap());
        let _places = places.await.unwrap();
        let partners = dns.for_partners().unwrap();
        let stranger = dns.clone();
        tokio::spawn(async move { stranger.addresses("stranger.example.").await });
        tokio::spawn(async move { partners.addresses("partner.example.").await });
        let mut packet = [0; 512];
        for _ in 0..2 {
            let (size, _) = server.recv_from(&mut packet).await.unwrap();
            let asked = packet.get(13..size).unwrap();
            assert!(asked.starts_with(b"partner"), "{asked:?}");
        }
    }
}
