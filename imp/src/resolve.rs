//! Addresses of publishers and nodes. One resolver serves all clusters: each has tables of 40 kB.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::NetError;
use parking_lot::Mutex;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::access::Host;

/// Asks the servers that `/etc/resolv.conf` names, each time anew.
#[derive(Debug, Clone, Default)]
pub struct SystemResolver(Arc<Mutex<Option<TokioResolver>>>);

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ResolveError(#[from] NetError);

impl SystemResolver {
    /// IPv4 and IPv6 addresses of a host.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let resolver = self.get()?;
        let found = resolver.lookup_ip(host).await?;
        Ok(found.iter().map(|address| address.to_canonical()).collect())
    }

    /// The same of a host, or of what is given instead of its name; each address once.
    pub async fn addresses_of(&self, host: &str, given: Option<&Host>) -> Result<Vec<IpAddr>, ResolveError> {
        let name: &str = match given {
            Some(Host::Address(address)) => return Ok(vec![*address]),
            Some(Host::Name(name)) => name,
            None => host,
        };
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let mut found = self.addresses(name).await?;
        let mut known = BTreeSet::new();
        found.retain(|address| known.insert(*address));
        Ok(found)
    }

    fn get(&self) -> Result<TokioResolver, NetError> {
        let mut known = self.0.lock();
        if let Some(resolver) = &*known {
            return Ok(resolver.clone());
        }
        let mut builder = TokioResolver::builder_tokio()?;
        let options = builder.options_mut();
        // A record that was mended counts at the next try.
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        Ok(known.insert(builder.build()?).clone())
    }
}

/// The same for the hosts of one cluster, some of which have another name or an address.
#[derive(Debug)]
pub(crate) struct ClusterResolver {
    pub(crate) resolver: SystemResolver,
    /// What is given instead of a host's name, by host.
    pub(crate) hosts: BTreeMap<String, Host>,
}

impl Resolve for ClusterResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.resolver.clone();
        let given = self.hosts.get(name.as_str()).cloned();
        Box::pin(async move {
            let found = resolver.addresses_of(name.as_str(), given.as_ref()).await?;
            let addresses = found.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}
