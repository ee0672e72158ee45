//! One host as anybody sees it: its name, its HTTPS port, its certificate, its clock. No account
//! is used, and nothing but `GET /` is said.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, ProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::certificate::{self, CertificateFacts};
use super::legacy;
use super::plan::{CONNECT_TIMEOUT, Plan};
use super::report::{Check, CheckRow, PreflightReport};
use crate::access::{Host, ServerTrust};
use crate::http;

/// A clock that differs by more is worth a warning.
const SKEW: i64 = 60;
/// Longest head of an HTTP answer that is read.
const LONGEST_HEAD: usize = 16 * 1024;

#[derive(Debug, Clone)]
pub struct HostProbe {
    /// Its addresses, or why there are none.
    pub addresses: Result<Vec<IpAddr>, String>,
    /// What was given instead of its name.
    pub given: Option<Host>,
    /// What was seen behind the port.
    pub https: Result<HttpsProbe, Refusal>,
}

/// What an HTTPS server showed.
#[derive(Debug, Clone)]
pub struct HttpsProbe {
    version: &'static str,
    /// Leaf first.
    chain: Vec<CertificateDer<'static>>,
    /// Its clock minus ours, seconds.
    skew: Option<i64>,
}

/// Why nothing was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    NoAddress,
    Connect(String),
    /// Old TLS only.
    Old(&'static str),
    /// TLS failed for another reason.
    Tls(String),
}

/// Addresses of a host: that given, or what the system resolves.
async fn addresses(plan: &Plan, host: &str, given: Option<&Host>) -> Result<Vec<IpAddr>, String> {
    match tokio::time::timeout(CONNECT_TIMEOUT, plan.resolver.addresses_of(host, given)).await {
        Err(_) => Err("DNS did not answer in time".to_owned()),
        Ok(found) => found.map_err(|error| error.to_string()),
    }
}

/// Opens a TCP connection to the first address that takes one.
pub async fn connect(addresses: &[IpAddr], port: u16) -> Result<TcpStream, String> {
    let all: Vec<SocketAddr> = addresses
        .iter()
        .map(|address| SocketAddr::new(*address, port))
        .collect();
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(all.as_slice())).await {
        Err(_) => Err(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(stream)) => Ok(stream),
    }
}

pub async fn host(plan: &Plan, host: &str) -> HostProbe {
    let given = plan.addresses.get(host).map(|given| given.host.clone());
    let addresses = addresses(plan, host, given.as_ref()).await;
    let https = match &addresses {
        Ok(addresses) if !addresses.is_empty() => https(plan, host, addresses).await,
        _ => Err(Refusal::NoAddress),
    };
    HostProbe {
        addresses,
        given,
        https,
    }
}

async fn https(plan: &Plan, host: &str, addresses: &[IpAddr]) -> Result<HttpsProbe, Refusal> {
    let stream = connect(addresses, plan.port).await.map_err(Refusal::Connect)?;
    let peer = stream.peer_addr();
    let limit = plan.call_limit;
    let refused = match tokio::time::timeout(limit, handshake(host, stream)).await {
        Ok(Ok(tls)) => return seen(host, tls, limit).await,
        Ok(Err(error)) => error,
        Err(_) => {
            return Err(Refusal::Tls(format!("no handshake within {} s", limit.as_secs())));
        }
    };
    let why = tls_error(&refused);
    let perhaps_old = matches!(
        why,
        Some(
            rustls::Error::PeerIncompatible(_)
                | rustls::Error::AlertReceived(
                    AlertDescription::ProtocolVersion
                        | AlertDescription::HandshakeFailure
                        | AlertDescription::InsufficientSecurity
                )
        )
    ) || refused.kind() == io::ErrorKind::UnexpectedEof
        || refused.kind() == io::ErrorKind::ConnectionReset;
    if let (true, Ok(peer)) = (perhaps_old, peer)
        && let Ok(Some(version)) = tokio::time::timeout(CONNECT_TIMEOUT, legacy::version(peer)).await
    {
        return Err(Refusal::Old(version));
    }
    Err(Refusal::Tls(
        why.map_or_else(|| refused.to_string(), ToString::to_string),
    ))
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

type Tls = tokio_rustls::client::TlsStream<TcpStream>;

async fn handshake(host: &str, stream: TcpStream) -> io::Result<Tls> {
    // Whatever is shown is only looked at; it is judged afterwards.
    let anything = http::verifier(&ServerTrust::Insecure).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(anything)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

async fn seen(host: &str, mut tls: Tls, limit: Duration) -> Result<HttpsProbe, Refusal> {
    let (_, session) = tls.get_ref();
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "another version of TLS",
    };
    let chain = session
        .peer_certificates()
        .unwrap_or_default()
        .iter()
        .map(|certificate| certificate.clone().into_owned())
        .collect();
    let skew = match tokio::time::timeout(limit, date(host, &mut tls)).await {
        Ok(Some((date, at))) => Some(date.duration_since(at).as_secs()),
        _ => None,
    };
    Ok(HttpsProbe { version, chain, skew })
}

/// The header `Date` of the answer to `GET /`, and when it was asked for.
async fn date(host: &str, tls: &mut Tls) -> Option<(Timestamp, Timestamp)> {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let at = Timestamp::now();
    tls.write_all(request.as_bytes()).await.ok()?;
    let mut head = Vec::new();
    let mut buffer = [0; 2048];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") && head.len() < LONGEST_HEAD {
        let count = tls.read(&mut buffer).await.ok()?;
        head.extend_from_slice(buffer.get(..count).filter(|read| !read.is_empty())?);
    }
    let text = String::from_utf8_lossy(&head);
    let value = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| value.trim().to_owned())
    })?;
    let date = jiff::fmt::rfc2822::parse(&value).ok()?.timestamp();
    Some((date, at))
}

impl HostProbe {
    /// The rows about the host; whether the chosen way accepts its certificate.
    pub fn rows(&self, plan: &Plan, host: &str, report: &mut PreflightReport) -> bool {
        report.add(self.name(host));
        let seen = match &self.https {
            Ok(seen) => seen,
            Err(refusal) => {
                report.add(refusal.row(plan, host));
                return false;
            }
        };
        let port = plan.port;
        report.add(Check::Https.ok(host, format!("TCP {port} answers with {}", seen.version)));
        let accepted = seen.certificate(plan, host, report);
        report.add(seen.clock(host));
        accepted
    }

    fn name(&self, host: &str) -> CheckRow {
        let name = match &self.given {
            Some(Host::Name(name)) => format!("{name}, which is given for it,"),
            _ => "the name".to_owned(),
        };
        match &self.addresses {
            Ok(addresses) if addresses.is_empty() => Check::Name.failed(host, format!("{name} has no address")),
            Ok(addresses) => {
                let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                let list = list.join(", ");
                let found = match &self.given {
                    Some(Host::Address(_)) => format!("{list}, as given"),
                    Some(Host::Name(name)) => format!("{list}, the addresses of {name}, as given"),
                    None => list,
                };
                return Check::Name.ok(host, found);
            }
            Err(why) => Check::Name.failed(host, format!("{name} does not resolve: {why}")),
        }
        .remedy(format!(
            "Mend DNS, or give its address with --node {host}=ADDRESS, which is imp[].nodes in the resource"
        ))
    }
}

impl Refusal {
    fn row(&self, plan: &Plan, host: &str) -> CheckRow {
        let port = plan.port;
        match self {
            Self::NoAddress => {
                Check::Https.skipped(host, "there is no address to connect to")
            }
            Self::Connect(why) => Check::Https.failed(host, format!("no connection to TCP {port}: {why}"))
                .remedy("Open the port from here and from the operator's pods; on IM&P, `utils network capture eth0 file axl_inject.pcap count 1000000 size all` shows what arrives"),
            Self::Old(version) => Check::Https.failed(host, format!("the server knows {version} at most, which the operator does not speak"))
                .remedy("Upgrade IM&P to 11.5 or later and set its minimum TLS version to 1.2"),
            Self::Tls(why) => Check::Https.failed(host, format!("TCP {port} answers, and the TLS handshake fails: {why}"))
                .remedy("Check that nothing else listens there and that no proxy stands between"),
        }
    }
}

impl HttpsProbe {
    fn certificate(&self, plan: &Plan, host: &str, report: &mut PreflightReport) -> bool {
        let facts = match self.chain.first().map(CertificateFacts::read) {
            Some(Ok(facts)) => facts,
            Some(Err(why)) => {
                report.add(Check::Certificate.failed(host, why));
                return false;
            }
            None => {
                report.add(Check::Certificate.failed(host, "none was shown"));
                return false;
            }
        };
        let told = facts.describe(host, self.version);
        let Some(trust) = &plan.trust else {
            report.add(
                Check::Certificate.unproven(host, told)
                    .remedy("Compare the fingerprint with the one that IM&P shows (OS Administration > Security > Certificate Management > tomcat), then use --pin or --ca"),
            );
            return false;
        };
        let row = match certificate::accepted(trust, &self.chain, host) {
            Err(why) => {
                report.add(
                    Check::Certificate.failed(host, format!("not accepted: {why}; {told}"))
                        .remedy("Compare the fingerprint with the one that IM&P shows, then use --pin, or --ca with the issuer's certificate; in the resource imp[].tls.pinnedSha256 or caSecretRef. No password was sent"),
                );
                return false;
            }
            Ok(()) if matches!(trust, ServerTrust::Insecure) => Check::Certificate
                .warning(host, format!("not checked at all; {told}"))
                .remedy("Whoever stands between reads the password: pin the fingerprint or name the authority"),
            Ok(()) if facts.ends_soon() => Check::Certificate
                .warning(host, format!("{} days left; {told}", facts.days_left()))
                .remedy("Renew the tomcat certificate; a pinned one is another one then"),
            Ok(()) => Check::Certificate.ok(host, told),
        };
        report.add(row);
        true
    }

    fn clock(&self, host: &str) -> CheckRow {
        match self.skew {
            None => Check::Clock.unproven(host, "the server does not tell its time"),
            Some(skew) if skew.abs() > SKEW => {
                let side = if skew > 0 { "ahead" } else { "behind" };
                Check::Clock.warning(host, format!("its clock is {} s {side} of ours", skew.abs()))
                    .remedy("Check NTP on both sides; the evidence of restarts goes by up times and bears it, logs and certificates do not")
            }
            Some(_) => Check::Clock.ok(host, "within a minute of ours"),
        }
    }
}
