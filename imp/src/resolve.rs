//! Addresses of publishers and nodes. One resolver serves all clusters: each has tables of 40 kB.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::NetError;
use parking_lot::Mutex;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

/// Lookups under way at once: each takes some 20 kB.
const AT_ONCE: usize = 128;

/// Asks the servers that `/etc/resolv.conf` names, for each connection anew.
#[derive(Clone)]
pub struct SystemResolver {
    resolver: Arc<Mutex<Option<TokioResolver>>>,
    room: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self {
            resolver: Arc::default(),
            room: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl SystemResolver {
    fn get(&self) -> Result<TokioResolver, NetError> {
        let mut known = self.resolver.lock();
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

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (resolver, room) = (self.get(), Arc::clone(&self.room));
        Box::pin(async move {
            let _permit = room.acquire().await;
            let found = resolver?.lookup_ip(name.as_str()).await?;
            let addresses: Vec<SocketAddr> = found.iter().map(|address| SocketAddr::new(address, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
