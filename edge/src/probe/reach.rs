//! One address: TCP, header, STARTTLS or direct TLS, certificate, features.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use x509_parser::prelude::{FromDer, X509Certificate};
use xmpp_federation_core::StreamId;
use xmpp_federation_core::edge_config::TlsMode;

use super::names::ProbeTarget;
use super::{Plan, Report};
use crate::jid::spelling;
use crate::observe::trace::tls::{certificate, cipher, version};
use crate::policy::PeerPolicy;
use crate::stream::transport::Transport;
use crate::stream::{Failure, Wire, direct_tls, initiating, major_version, negotiation_limits};
use crate::tls::{PeerCertificates, Verdict};
use crate::words::{Direction, Stage};
use xmpp_federation_xml::{Node, StreamErrorCondition as Condition, StreamHeader, ns};

/// Time for a TCP connection.
const CONNECT: Duration = Duration::from_secs(10);
/// A certificate that expires sooner deserves a look.
const SOON: Duration = Duration::from_hours(14 * 24);

/// What helps where TLS fails, in the handshake or behind it.
const TLS_REMEDY: &str = "compare TLS versions and ciphers; a peer that demands a client certificate closes here";

/// A stream on which we may say who we are.
pub(super) struct ReachedPeer {
    pub(super) wire: Wire,
    /// Of the latest header; empty if the peer gave none.
    pub(super) id: Option<StreamId>,
    pub(super) mechanisms: Vec<String>,
}

impl ReachedPeer {
    /// Ends the stream.
    pub(super) async fn leave(self) {
        self.wire.hang_up(&Failure::Closed, String::new).await;
    }
}

/// What failed on a stream: the check, what happened, what to do.
struct StepFailure(&'static str, String, &'static str);

impl Plan {
    /// Looks at one address; gives the stream if it came to features.
    pub(super) async fn reach(&self, target: &ProbeTarget, report: &mut Report) -> Option<ReachedPeer> {
        let subject = target.subject();
        let tcp = self.connect(target, report).await?;
        match self.negotiate(target, tcp, report).await {
            Ok(reached) => Some(reached),
            Err(StepFailure(check, detail, remedy)) => {
                report.bad(check, &subject, detail, remedy);
                None
            }
        }
    }

    async fn connect(&self, target: &ProbeTarget, report: &mut Report) -> Option<TcpStream> {
        let subject = target.subject();
        let started = Instant::now();
        let opened = timeout(CONNECT, crate::resolve::connect::open(target.address)).await;
        let opened = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match opened {
            Ok(tcp) => {
                let ms = started.elapsed().as_millis();
                report.good("connect", &subject, format!("TCP connection in {ms} ms"));
                Some(tcp)
            }
            Err(error) if error.kind() == io::ErrorKind::NetworkUnreachable => {
                let detail = "no route from this host to that network; an edge on this host tries the other addresses";
                report.warn("connect", &subject, detail, None);
                None
            }
            Err(error) => {
                let (detail, remedy) = match error.kind() {
                    io::ErrorKind::TimedOut => (
                        "no answer within 10 s".to_owned(),
                        "a firewall on the way drops it, or the host is down: check our egress rules, then ask the peer's administrators",
                    ),
                    io::ErrorKind::ConnectionRefused => (
                        "connection refused".to_owned(),
                        "nothing listens there: the peer's server is down, or its SRV record names the wrong port",
                    ),
                    _ => (error.to_string(), "check the network between here and there"),
                };
                report.bad("connect", &subject, detail, remedy);
                None
            }
        }
    }

    async fn negotiate(
        &self,
        target: &ProbeTarget,
        tcp: TcpStream,
        report: &mut Report,
    ) -> Result<ReachedPeer, StepFailure> {
        let limits = &self.config.limits;
        let mut wire = Wire::new(
            Transport::new(tcp),
            negotiation_limits(limits),
            Direction::Outbound,
            self.metrics.clone(),
        );
        let time = limits.negotiation_timeout.0;
        let mut stage = Stage::Features;
        let steps = self.steps(target, &mut wire, report, &mut stage);
        let done = timeout(time, steps).await.unwrap_or_else(|_| {
            let seconds = time.as_secs();
            Err(StepFailure(
                stage.as_str(),
                format!("the peer did not finish the negotiation within {seconds} s"),
                "the peer is overloaded, or something on the way swallows its answers",
            ))
        });
        match done {
            Ok((id, features)) => Ok(ReachedPeer {
                wire,
                id,
                mechanisms: mechanisms(&features),
            }),
            Err(failed) => {
                wire.hang_up(&Failure::Closed, String::new).await;
                Err(failed)
            }
        }
    }

    async fn steps(
        &self,
        target: &ProbeTarget,
        wire: &mut Wire,
        report: &mut Report,
        stage: &mut Stage,
    ) -> Result<StreamStart, StepFailure> {
        let subject = target.subject();
        let mode = self.mode();
        let client = self.client.clone().filter(|_| mode != TlsMode::Disabled);
        if target.direct {
            let Some(client) = client else {
                let detail = "direct TLS only, and TLS is disabled for this domain";
                return Err(StepFailure("tls", detail.to_owned(), "change tls.mode"));
            };
            let client = direct_tls::client(&client);
            *stage = Stage::Tls;
            self.start_tls(client, wire, &subject, report).await?;
            *stage = Stage::Features;
            let (id, features) = self.begin_again(wire).await.map_err(|failure| begin_failed(&failure))?;
            report.good("features", &subject, describe(&features));
            return Ok((id, features));
        }
        let (id, features) = self.begin(wire).await.map_err(|failure| begin_failed(&failure))?;
        let Some(client) = client else {
            report.skip("tls", &subject, "TLS is disabled for this domain");
            report.good("features", &subject, describe(&features));
            return Ok((id, features));
        };
        let Some(offer) = features.child(ns::TLS, "starttls") else {
            let detail = "STARTTLS is not offered";
            if mode == TlsMode::Required {
                let remedy = "the peer's administrators must switch TLS on, or tls.mode (or partners[].tls.mode) must be Optional here";
                return Err(StepFailure("tls", detail.to_owned(), remedy));
            }
            report.warn("tls", &subject, detail, None);
            report.good("features", &subject, describe(&features));
            return Ok((id, features));
        };
        let required = offer.child(ns::TLS, "required").is_some();
        let offered = if required { "required" } else { "offered" };
        report.good("features", &subject, format!("STARTTLS is {offered}"));
        *stage = Stage::Tls;
        let asked = wire.ask_for_tls().await;
        asked
            .map_err(|failure| StepFailure("tls", failure.to_string(), "the peer's TLS is broken: its log says why"))?;
        self.start_tls(client, wire, &subject, report).await?;
        *stage = Stage::Features;
        let (id, features) = self.begin_again(wire).await.map_err(|failure| begin_failed(&failure))?;
        report.good("features", &subject, describe(&features));
        Ok((id, features))
    }

    fn mode(&self) -> TlsMode {
        match &self.live {
            Some(live) => live.policy.peer(&self.domain).tls_mode,
            None => TlsMode::Optional,
        }
    }

    fn header(&self) -> String {
        let from = self.from.as_ref().map(spelling);
        initiating::header(from.as_deref(), &spelling(&self.domain))
    }

    /// Headers and features in clear.
    async fn begin(&self, wire: &mut Wire) -> Result<StreamStart, Failure> {
        let header = wire.exchange_headers(self.header()).await?;
        let features = match major_version(&header)? {
            None => Node::default(),
            Some(_) => wire.features().await?,
        };
        Ok((stream_id(&header), features))
    }

    /// The same after TLS.
    async fn begin_again(&self, wire: &mut Wire) -> Result<StreamStart, Failure> {
        let (header, features) = wire.restarted(self.header(), "TLS").await?;
        Ok((stream_id(&header), features))
    }

    async fn start_tls(
        &self,
        client: Arc<ClientConfig>,
        wire: &mut Wire,
        subject: &str,
        report: &mut Report,
    ) -> Result<(), StepFailure> {
        let started = Instant::now();
        let done = wire.handshake(client, &self.domain).await;
        done.map_err(|failure| StepFailure("tls", failure.to_string(), TLS_REMEDY))?;
        if let Some(tls) = wire.transport.tls() {
            let ms = started.elapsed().as_millis();
            let detail = format!("{} {}, {ms} ms", version(tls), cipher(tls));
            report.good("tls", subject, detail);
        }
        self.judge(wire, subject, report)
    }

    /// What the certificate is, and what it proves.
    fn judge(&self, wire: &Wire, subject: &str, report: &mut Report) -> Result<(), StepFailure> {
        let none = PeerCertificates {
            chain: &[],
            proven: false,
        };
        let peer = wire.transport.shown().unwrap_or(none);
        let chain = peer.chain;
        let shown: Vec<_> = chain.iter().take(4).map(|der| certificate(der)).collect();
        let shown = shown.join("; then ");
        let policy = self.live.as_ref().map(|live| live.policy.peer(&self.domain));
        let needed = policy.is_some_and(PeerPolicy::needs_certificate);
        let pins = policy.map_or(&[][..], |policy| &policy.pinned_sha256);
        let verdict = self.tls.judge(peer, &self.domain, pins);
        let Some(why) = verdict.reason() else {
            let left = chain.first().and_then(|leaf| time_left(leaf));
            if let Some(left) = left.filter(|left| *left < SOON) {
                let days = left.as_secs() / 86_400;
                let detail = format!("proves {}, for {days} more days: {shown}", self.domain);
                let remedy = "the peer's administrators should renew it";
                report.warn("certificate", subject, detail, Some(remedy));
            } else {
                let detail = format!("proves {}: {shown}", self.domain);
                report.good("certificate", subject, detail);
            }
            return Ok(());
        };
        let detail = format!("does not prove {}: {why}: {shown}", self.domain);
        if needed {
            let remedy = match verdict {
                Verdict::Invalid(_) if !pins.is_empty() => {
                    "ask its administrators for the fingerprint of their certificate; if they changed it, change tls.pinnedSha256 in partners"
                }
                Verdict::Untrusted => {
                    "certificates are required of this domain: add the authority to tls.trustAnchors if you trust it, or pin the certificate (tls.pinnedSha256 in partners)"
                }
                _ => {
                    "certificates are required of this domain: its administrators must get one, or tls.requireClientCertificates (or its entry in partners) must change"
                }
            };
            return Err(StepFailure("certificate", detail, remedy));
        }
        let remedy = if verdict == Verdict::Untrusted {
            "dialback decides then; add the authority to tls.trustAnchors if it is yours"
        } else {
            "dialback decides then"
        };
        report.warn("certificate", subject, detail, Some(remedy));
        Ok(())
    }
}

/// The peer's id, as far as it is one, and its features.
type StreamStart = (Option<StreamId>, Node);

fn stream_id(header: &StreamHeader) -> Option<StreamId> {
    header.id.as_deref().and_then(StreamId::from_peer)
}

fn begin_failed(failure: &Failure) -> StepFailure {
    let stage = failure.stage(Stage::Features);
    StepFailure(stage.as_str(), failure.to_string(), remedy(failure))
}

fn time_left(leaf: &[u8]) -> Option<Duration> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let end = parsed.validity().not_after.timestamp();
    let left = end.saturating_sub(jiff::Timestamp::now().as_second());
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

/// What may help against a failure before anybody was authenticated.
fn remedy(failure: &Failure) -> &'static str {
    match failure {
        Failure::Peer { condition, .. } => match condition {
            Condition::HostUnknown | Condition::HostGone => {
                "that server does not serve the domain: its SRV records or its configuration are wrong"
            }
            Condition::PolicyViolation | Condition::NotAuthorized => {
                "the peer does not want us, or not so: ask its administrators to admit our domain"
            }
            Condition::RemoteConnectionFailed => {
                "the peer could not reach our servers: check our own SRV records and port"
            }
            _ => "the peer's log says more",
        },
        Failure::Io(error) if error.kind() == io::ErrorKind::InvalidData => TLS_REMEDY,
        Failure::Ended | Failure::Closed | Failure::Io(_) => {
            "the peer, or a firewall on the way, closes the connection: ask its administrators whether our addresses are blocked"
        }
        Failure::Fault { .. } => "another service seems to listen there: check the port",
        Failure::Timeout(_) | Failure::Refused(_) => "the peer's log says more",
    }
}

fn mechanisms(features: &Node) -> Vec<String> {
    let offers = features.children().filter(|child| child.is(ns::SASL, "mechanisms"));
    let mechanisms = offers.flat_map(Node::children).take(16);
    mechanisms
        .filter(|child| child.is(ns::SASL, "mechanism"))
        .map(|child| child.text().trim().chars().take(32).collect())
        .collect()
}

/// What the peer offers, in words.
fn describe(features: &Node) -> String {
    let mut parts = Vec::new();
    match mechanisms(features) {
        names if names.is_empty() => parts.push("no SASL".to_owned()),
        names => parts.push(format!("SASL {}", names.join(" "))),
    }
    match features.child(ns::DIALBACK_FEATURE, "dialback") {
        Some(offer) if offer.child(ns::DIALBACK_FEATURE, "errors").is_some() => {
            parts.push("dialback with errors".to_owned());
        }
        Some(_) => parts.push("dialback".to_owned()),
        None => parts.push("dialback not announced".to_owned()),
    }
    if let Some(limits) = features.child(ns::STREAM_LIMITS, "limits") {
        for (name, unit) in [("max-bytes", "bytes a stanza"), ("idle-seconds", "s idle")] {
            if let Some(limit) = limits.child(ns::STREAM_LIMITS, name) {
                let number: String = limit.text().trim().chars().take(20).collect();
                parts.push(format!("at most {number} {unit}"));
            }
        }
    }
    parts.join(", ")
}
