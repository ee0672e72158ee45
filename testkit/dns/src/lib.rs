//! The lab's DNS: one server that is authoritative for the lab's zones and, for everybody in the lab,
//! also the resolver.
//!
//! ```text
//! testkit dns --bind 10.244.200.53 --bind 198.51.100.53 --control 10.244.200.53:8080 [--dual | --records FILE]
//! ```
//! - `--bind ADDRESS[:PORT]`, repeatable: UDP and TCP, port 53 unless given
//! - `--control ADDRESS:PORT`: the HTTP face that changes records (see [`control`])
//! - `--dual`: the lab's zones with IPv6 addresses beside those of IPv4
//! - `--records FILE`: YAML list of `{name, type, ttl, values}` instead of the lab's own zones; the SOA and
//!   NS records of each zone are part of it (an SOA record is what makes a zone)
//!
//! Answers inside a zone are authoritative (AA), NXDOMAIN and NODATA carry the zone's SOA. RA is set, so
//! that resolvers accept the server as a forwarder. There is no internet behind the lab: a name
//! outside its zones is NXDOMAIN with an SOA of the root, as a root server would say.
//! Records live 5 s unless they say otherwise, so a change is seen soon.

mod answer;
pub mod control;
mod zones;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use answer::QueryRecord;
pub use zones::{RecordSpec, Zones};

use testkit_base::Error;

/// Arguments of `testkit dns`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address to answer on, UDP and TCP; port 53 unless given.
    #[arg(long = "bind", required = true, value_name = "ADDRESS[:PORT]", value_parser = address_with_dns_port)]
    pub bind: Vec<SocketAddr>,
    /// Address of the HTTP face that changes records.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub control: Option<SocketAddr>,
    /// The lab's own zones as they are with IPv6 beside IPv4.
    #[arg(long, conflicts_with = "records")]
    pub dual: bool,
    /// YAML list of records instead of the lab's own zones.
    #[arg(long, value_name = "FILE")]
    pub records: Option<PathBuf>,
}

/// Runs `testkit dns` until the process is told to stop.
pub async fn run(args: Args) -> Result<(), Error> {
    let zones = match &args.records {
        None if args.dual => Zones::dual_lab()?,
        None => Zones::lab()?,
        Some(path) => {
            let text =
                std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            let records: Vec<RecordSpec> = serde_yaml::from_str(&text)
                .map_err(|error| format!("{} is no list of records: {error}", path.display()))?;
            Zones::from_records(&records)?
        }
    };
    let dns = LabDns::start(&args.bind, zones).await?;
    for address in dns.addresses() {
        tracing::info!(%address, "DNS answers");
    }
    if let Some(address) = args.control {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("cannot listen on {address} for control: {error}"))?;
        tracing::info!(%address, "DNS control listens");
        let server = axum::serve(listener, control::router(dns.handle())).into_future();
        tokio::select! {
            outcome = server => outcome?,
            () = testkit_base::stop_asked() => {}
        }
    } else {
        testkit_base::stop_asked().await;
    }
    dns.stop().await;
    Ok(())
}

fn address_with_dns_port(text: &str) -> Result<SocketAddr, String> {
    text.parse::<SocketAddr>()
        .or_else(|_| text.parse().map(|address| SocketAddr::new(address, 53)))
        .map_err(|_| format!("{text} is no address; write for example 10.244.200.53"))
}

/// What a running server and those who change it share: records, and the queries seen.
#[derive(Clone, Debug)]
pub struct DnsHandle(Arc<answer::Shared>);

impl DnsHandle {
    /// Sets the values of one name and type; no values removes it. A name outside all zones is an error.
    pub fn set(&self, record: &RecordSpec) -> Result<(), Error> {
        self.0.zones().set(record)
    }

    /// The records of one zone; none when it is not served here.
    pub fn zone(&self, origin: &str) -> Result<Option<Vec<RecordSpec>>, Error> {
        self.0.zones().list(origin)
    }

    /// The queries after a sequence number, oldest first; only the last few thousand are kept.
    pub fn queries(&self, after: u64) -> Vec<QueryRecord> {
        self.0.queries(after)
    }
}

/// A running DNS server.
#[derive(Debug)]
pub struct LabDns {
    addresses: Vec<SocketAddr>,
    handle: DnsHandle,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl LabDns {
    /// Binds UDP and TCP on each address and answers from `zones`. Port 0 takes a free port, the same for both.
    pub async fn start(binds: &[SocketAddr], zones: Zones) -> Result<Self, Error> {
        let shared = Arc::new(answer::Shared::new(zones));
        let mut server = hickory_server::Server::new(answer::Answerer(Arc::clone(&shared)));
        let mut addresses = Vec::new();
        for bind in binds {
            let (udp, tcp, address) = bind_both(*bind).await?;
            server.register_socket(udp);
            server.register_listener(tcp, Duration::from_secs(10), 16);
            addresses.push(address);
        }
        let stop = server.shutdown_token().clone();
        let task = tokio::spawn(async move {
            if let Err(error) = server.block_until_done().await {
                tracing::warn!(%error, "DNS server ended");
            }
        });
        Ok(Self {
            addresses,
            handle: DnsHandle(shared),
            stop,
            task,
        })
    }

    /// The addresses in the order of the binds, with their real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Changes records while the server runs.
    pub fn handle(&self) -> DnsHandle {
        self.handle.clone()
    }

    /// Stops answering and frees the ports.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(Duration::from_secs(2), &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
        }
    }
}

impl Drop for LabDns {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

async fn bind_both(bind: SocketAddr) -> Result<(UdpSocket, TcpListener, SocketAddr), Error> {
    // A free UDP port may be taken for TCP: try another one then.
    let attempts = if bind.port() == 0 { 20 } else { 1 };
    let mut last = String::new();
    for _ in 0..attempts {
        let udp = UdpSocket::bind(bind)
            .await
            .map_err(|error| format!("cannot listen on {bind}/udp for DNS: {error}"))?;
        let address = udp.local_addr()?;
        match TcpListener::bind(address).await {
            Ok(tcp) => return Ok((udp, tcp, address)),
            Err(error) => last = format!("cannot listen on {address}/tcp for DNS: {error}"),
        }
    }
    Err(last.into())
}

#[cfg(test)]
mod tests;
