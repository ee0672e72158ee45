//! Opening a stream to a remote domain: look-up, TCP, header, STARTTLS, header again, features.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout_at};
use xmpp_federation_core::edge_config::TlsMode;
use xmpp_federation_core::{Domain, StreamId};

use crate::bounce::Cause;
use crate::config::Live;
use crate::edge::Edge;
use crate::metrics::Direction;
use crate::registry::StreamGuard;
use crate::resolve::{Attempts, Connected, ResolveError, Service};
use crate::stream::direct_tls;
use crate::stream::transport::Transport;
use crate::stream::{Failure, Wire, major_version, negotiation_limits};
use crate::tls::Verdict;
use crate::xml::{HeaderToSend, StreamErrorCondition, StreamHeader, ns};

/// A stream on which dialback may begin.
#[derive(Debug)]
pub struct Opened {
    /// The connection.
    pub wire: Wire,
    /// The id of the latest header the peer sent: keys are computed with it.
    pub id: StreamId,
    /// The peer's address.
    pub address: SocketAddr,
    /// Its place in the registry.
    pub guard: StreamGuard,
    /// The peer said that it answers dialback with errors instead of closing.
    pub errors: bool,
}

/// Why no stream could be opened.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct OpenError {
    /// What senders are told.
    pub cause: Cause,
    /// Whether another attempt within seconds makes sense.
    pub temporary: bool,
    /// Stage and reason as a sentence.
    pub message: String,
}

/// Failures of single addresses that go into the final sentence.
const FAILURES_TOLD: usize = 4;

/// What a stream is opened for; goes into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Stanzas.
    Stanzas,
    /// Nothing but asking the authoritative server.
    Verification,
}

/// The connections that are still possible for one remote domain.
#[derive(Debug)]
pub struct Opener {
    edge: Arc<Edge>,
    live: Arc<Live>,
    remote: Domain,
    attempts: Attempts,
    failures: Vec<String>,
    insecure: bool,
}

impl Opener {
    /// Looks the remote domain up. The lists are applied before, by the caller.
    pub async fn resolve(edge: &Arc<Edge>, remote: &Domain) -> Result<Self, OpenError> {
        let live = edge.live();
        let started = Instant::now();
        let resolved = live.resolver.resolve(remote).await;
        let took = started.elapsed();
        match resolved {
            Ok(resolution) => {
                edge.metrics.resolved(Some(resolution.method), "ok", took);
                tracing::info!(
                    domain = %remote,
                    method = resolution.method.as_str(),
                    targets = resolution.targets(),
                    ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                    "resolved the remote domain"
                );
                let attempts = Attempts::new(resolution);
                Ok(Self {
                    edge: edge.clone(),
                    live,
                    remote: remote.clone(),
                    attempts,
                    failures: Vec::new(),
                    insecure: false,
                })
            }
            Err(error) => {
                edge.metrics.resolved(None, error.as_str(), took);
                tracing::warn!(
                    domain = %remote,
                    reason = %error,
                    ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                    "the remote domain could not be resolved"
                );
                Err(error.into())
            }
        }
    }

    /// Notes what was wrong with one address.
    pub fn note(&mut self, cause: Cause, reason: String) {
        self.insecure |= cause == Cause::Insecure;
        if self.failures.len() < FAILURES_TOLD {
            self.failures.push(reason);
        }
    }

    fn failure(&mut self) -> OpenError {
        let reasons = std::mem::take(&mut self.failures).join("; ");
        OpenError {
            cause: if self.insecure {
                Cause::Insecure
            } else {
                Cause::Unreachable
            },
            temporary: !self.insecure,
            message: format!("{} cannot be reached: {reasons}", self.remote),
        }
    }

    /// Opens a stream from `local` to the next address that takes one; addresses on which TLS
    /// or the stream fails are passed over.
    pub async fn open(&mut self, local: &Domain, purpose: Purpose) -> Result<Opened, OpenError> {
        loop {
            let Connected {
                tcp,
                address,
                service,
            } = match self.attempts.next().await {
                Some(Ok(connected)) => connected,
                Some(Err(reason)) => {
                    self.note(Cause::Unreachable, reason);
                    continue;
                }
                None => return Err(self.failure()),
            };
            let limit = self.live.config.limits.negotiation_timeout.0;
            let deadline = Instant::now() + limit.min(self.attempts.share());
            let guard = self.edge.registry.open(Direction::Outbound, address);
            let wire = Wire::new(
                Transport::new(tcp),
                negotiation_limits(&self.live.config.limits),
                Direction::Outbound,
                self.edge.metrics.clone(),
            );
            let mut opening = Opening {
                live: &self.live,
                edge: &self.edge,
                local,
                remote: &self.remote,
                service,
                wire,
            };
            let negotiated = timeout_at(deadline, opening.negotiate()).await;
            let wire = opening.wire;
            match negotiated.unwrap_or(Err(Failure::Timeout("the negotiation of the stream"))) {
                Ok((id, errors)) => {
                    guard.update(|detail| {
                        detail.tls = describe_tls(&wire);
                        detail.phase = "established";
                    });
                    tracing::debug!(
                        %local, remote = %self.remote, %address, ?service, ?purpose, stream_id = %id,
                        "outbound stream negotiated"
                    );
                    return Ok(Opened {
                        wire,
                        id,
                        address,
                        guard,
                        errors,
                    });
                }
                Err(failure) => {
                    let why = failure.to_string();
                    tracing::warn!(
                        %local, remote = %self.remote, %address, ?service, reason = why,
                        "outbound stream failed during its negotiation"
                    );
                    let insecure = matches!(
                        &failure,
                        Failure::Fault {
                            condition: StreamErrorCondition::PolicyViolation,
                            ..
                        }
                    );
                    let cause = if insecure {
                        Cause::Insecure
                    } else {
                        Cause::Unreachable
                    };
                    self.note(cause, format!("{address}: {why}"));
                    tokio::spawn(async move {
                        wire.hang_up(&failure, String::new).await;
                        drop(guard);
                    });
                }
            }
        }
    }
}

impl From<ResolveError> for OpenError {
    fn from(error: ResolveError) -> Self {
        let (cause, temporary) = match &error {
            ResolveError::NotFound(_) | ResolveError::Disabled(_) | ResolveError::Refused(_) => {
                (Cause::NotFound, false)
            }
            ResolveError::Temporary(_) => (Cause::Unreachable, true),
        };
        Self {
            cause,
            temporary,
            message: error.to_string(),
        }
    }
}

/// TLS version and cipher suite in words.
pub fn describe_tls(wire: &Wire) -> Option<String> {
    let tls = wire.transport.tls()?;
    let version = tls
        .protocol_version()
        .and_then(|v| v.as_str())
        .unwrap_or("TLS");
    let suite = tls
        .negotiated_cipher_suite()
        .and_then(|s| s.suite().as_str())
        .unwrap_or("?");
    Some(format!("{version} {suite}"))
}

struct Opening<'a> {
    live: &'a Live,
    edge: &'a Edge,
    local: &'a Domain,
    remote: &'a Domain,
    service: Service,
    wire: Wire,
}

impl Opening<'_> {
    async fn negotiate(&mut self) -> Result<(StreamId, bool), Failure> {
        if self.service == Service::DirectTls {
            let tls = self.live.tls.client.as_ref().ok_or_else(Self::no_tls)?;
            let tls = direct_tls::client(tls);
            self.handshake(tls).await?;
            return self.over_tls().await;
        }
        let header = self.exchange_headers().await?;
        let tls = self
            .live
            .tls
            .client
            .clone()
            .filter(|_| self.live.config.tls.mode != TlsMode::Disabled);
        let must = self.live.config.tls.mode == TlsMode::Required;
        if major_version(&header)?.is_none() {
            // A server from before XMPP 1.0 has no features and no TLS.
            if must {
                return Err(Self::no_tls());
            }
            return Ok((stream_id(&header)?, false));
        }
        let features = self.wire.element().await?;
        if !features.is(ns::STREAMS, "features") {
            return Err(Failure::fault(
                StreamErrorCondition::BadFormat,
                "stream features were expected",
            ));
        }
        let features = features.parse()?;
        let offered = features.child(ns::TLS, "starttls").is_some();
        let Some(tls) = tls.filter(|_| offered) else {
            if must {
                return Err(Self::no_tls());
            }
            return Ok((stream_id(&header)?, offers_errors(&features)));
        };
        self.start_tls(tls).await?;
        self.over_tls().await
    }

    /// TLS is up: the stream begins, or begins anew.
    async fn over_tls(&mut self) -> Result<(StreamId, bool), Failure> {
        let header = self.exchange_headers().await?;
        if major_version(&header)?.is_none() {
            return Err(Failure::fault(
                StreamErrorCondition::UnsupportedVersion,
                "a stream over TLS needs version 1.0",
            ));
        }
        let features = self.wire.element().await?;
        if !features.is(ns::STREAMS, "features") {
            return Err(Failure::fault(
                StreamErrorCondition::BadFormat,
                "stream features were expected",
            ));
        }
        Ok((stream_id(&header)?, offers_errors(&features.parse()?)))
    }

    fn no_tls() -> Failure {
        Failure::fault(
            StreamErrorCondition::PolicyViolation,
            "TLS is required here and was not offered",
        )
    }

    async fn exchange_headers(&mut self) -> Result<Box<StreamHeader>, Failure> {
        let header = HeaderToSend {
            content_ns: ns::SERVER,
            from: Some(&self.local.to_unicode()),
            to: Some(&self.remote.to_unicode()),
            version: true,
            dialback: true,
            ..HeaderToSend::default()
        };
        // Domains have only characters that XML can express.
        self.wire.send(header.write().unwrap_or_default()).await?;
        let header = self.wire.header().await?;
        if header.default_ns() != ns::SERVER {
            return Err(Failure::fault(
                StreamErrorCondition::InvalidNamespace,
                "the peer's stream is not a server's",
            ));
        }
        Ok(header)
    }

    async fn start_tls(&mut self, config: Arc<rustls::ClientConfig>) -> Result<(), Failure> {
        self.wire
            .send(format!("<starttls xmlns='{}'/>", ns::TLS))
            .await?;
        let answer = self.wire.element().await?;
        if !answer.is(ns::TLS, "proceed") {
            return Err(Failure::fault(
                StreamErrorCondition::PolicyViolation,
                "the peer offered STARTTLS and then refused it",
            ));
        }
        if self.wire.restart() > 0 {
            return Err(Failure::fault(
                StreamErrorCondition::PolicyViolation,
                "the peer sent more behind <proceed/> in clear",
            ));
        }
        self.handshake(config).await
    }

    async fn handshake(&mut self, config: Arc<rustls::ClientConfig>) -> Result<(), Failure> {
        let name = ServerName::try_from(self.remote.as_str().to_owned()).map_err(|_| {
            Failure::fault(
                StreamErrorCondition::ImproperAddressing,
                "no TLS name for this domain",
            )
        })?;
        let session = rustls::ClientConnection::new(config, name).map_err(std::io::Error::other)?;
        let Wire {
            transport, framer, ..
        } = &mut self.wire;
        if let Err(error) = transport.start_tls(session.into(), framer.buffer()).await {
            self.edge.metrics.tls_failed(Direction::Outbound);
            return Err(
                std::io::Error::new(error.kind(), format!("TLS handshake: {error}")).into(),
            );
        }
        note_tls(
            self.edge,
            self.live,
            Direction::Outbound,
            &self.wire,
            Some(self.remote),
        );
        Ok(())
    }
}

/// Counts and logs what a completed handshake agreed on and what the peer's certificate proves.
/// What it fails to prove, dialback must.
pub fn note_tls(
    edge: &Edge,
    live: &Live,
    direction: Direction,
    wire: &Wire,
    remote: Option<&Domain>,
) {
    let Some(tls) = wire.transport.tls() else {
        return;
    };
    let version = tls
        .protocol_version()
        .and_then(|v| v.as_str())
        .unwrap_or("TLS");
    let suite = tls
        .negotiated_cipher_suite()
        .and_then(|s| s.suite().as_str())
        .unwrap_or("?");
    edge.metrics.tls_established(direction, version, suite);
    let Some(remote) = remote else { return };
    let verdict = live
        .tls
        .judge(tls.peer_certificates().unwrap_or_default(), remote);
    let (word, reason) = match &verdict {
        Verdict::Valid => ("valid", None),
        Verdict::Missing => ("missing", None),
        Verdict::Invalid(reason) => ("invalid", Some(reason.as_str())),
    };
    edge.metrics.certificate_judged(direction, word);
    tracing::info!(
        direction = direction.as_str(), %remote, version, suite, certificate = word, reason,
        "TLS established"
    );
}

fn stream_id(header: &StreamHeader) -> Result<StreamId, Failure> {
    header
        .id
        .as_deref()
        .and_then(StreamId::from_peer)
        .ok_or_else(|| {
            Failure::fault(
                StreamErrorCondition::UndefinedCondition,
                "the peer's stream has no id that dialback can use",
            )
        })
}

fn offers_errors(features: &crate::xml::Node) -> bool {
    features
        .child(ns::DIALBACK_FEATURE, "dialback")
        .is_some_and(|dialback| dialback.child(ns::DIALBACK_FEATURE, "errors").is_some())
}
