//! Opening a stream to a remote domain: look-up, TCP, and what [`super::opening`] negotiates.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use xmpp_federation_core::{Domain, StreamId};

use super::opening::{Opening, Ready};
use crate::bounce::Cause;
use crate::config::Live;
use crate::edge::Edge;
use crate::metrics::Direction;
use crate::refusal::{Check, Refusal};
use crate::registry::StreamGuard;
use crate::resolve::connect::open;
use crate::resolve::{Attempts, ResolveError};
use crate::stream::transport::Transport;
use crate::stream::{Failure, Wire, negotiation_limits};
use crate::tls::Verdict;

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
    /// The hosted domain that SASL EXTERNAL authenticated.
    pub external: Option<Domain>,
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
    /// A handshake failed: nothing is said in clear to any address of the domain any more.
    tls_failed: bool,
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
                    tls_failed: false,
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
        // An address whose server ended the stream because of SASL EXTERNAL.
        let mut again: Option<SocketAddr> = None;
        loop {
            let next = match again.take() {
                Some(address) => {
                    let connecting = timeout_at(self.attempts.deadline(), open(address));
                    let connected = connecting.await.unwrap_or_else(|late| Err(late.into()));
                    Some(
                        connected
                            .map(|tcp| (tcp, address))
                            .map_err(|error| format!("{address}: {error}")),
                    )
                }
                None => self.attempts.next().await,
            };
            let (tcp, address) = match next {
                Some(Ok(connected)) => connected,
                Some(Err(reason)) => {
                    self.note(Cause::Unreachable, reason);
                    continue;
                }
                None => return Err(self.failure()),
            };
            let limit = self.live.config.limits.negotiation_timeout.0;
            let deadline = self.attempts.deadline().min(Instant::now() + limit);
            let guard = self.edge.registry.open(Direction::Outbound, address);
            let wire = Wire::new(
                Transport::new(tcp),
                negotiation_limits(&self.live.config.limits),
                Direction::Outbound,
                self.edge.metrics.clone(),
            );
            let mut opening = Opening::new(&self.edge, &self.live, local, &self.remote, wire);
            opening.never_clear = self.tls_failed;
            opening.authenticate = purpose == Purpose::Stanzas;
            let negotiated = timeout_at(deadline, opening.negotiate()).await;
            let handshake_failed = opening.tls_begun && !opening.wire.transport.is_established();
            self.tls_failed |= handshake_failed;
            if opening.external_asked && matches!(negotiated, Ok(Err(_)) | Err(_)) {
                again = Some(address);
            }
            let header = opening.header();
            let wire = opening.wire;
            match negotiated.unwrap_or(Err(Failure::Timeout("the negotiation of the stream"))) {
                Ok(Ready {
                    id,
                    errors,
                    external,
                }) => {
                    guard.update(|detail| {
                        detail.tls = describe_tls(&wire);
                        detail.phase = "established";
                    });
                    tracing::debug!(
                        %local, remote = %self.remote, %address, ?purpose, stream_id = %id,
                        "outbound stream negotiated"
                    );
                    return Ok(Opened {
                        wire,
                        id,
                        address,
                        guard,
                        errors,
                        external: external.then(|| local.clone()),
                    });
                }
                Err(failure) => {
                    let why = failure.to_string();
                    tracing::warn!(
                        %local, remote = %self.remote, %address, reason = why,
                        "outbound stream failed during its negotiation"
                    );
                    let log = |refusal: &Refusal| {
                        let remote = Some(&self.remote);
                        refusal.log(Direction::Outbound, address, Some(local), remote);
                    };
                    let cause = match &failure {
                        Failure::Refused(refusal) => {
                            log(refusal);
                            Cause::Insecure
                        }
                        _ => {
                            if handshake_failed {
                                log(&Refusal::new(Check::TlsHandshake, why.clone()));
                            }
                            Cause::Unreachable
                        }
                    };
                    self.note(cause, format!("{address}: {why}"));
                    tokio::spawn(async move {
                        wire.hang_up(&failure, || header).await;
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

/// Counts and logs what a completed handshake agreed on and what the peer's certificate proves
/// about `remote`, as far as that is known. What it fails to prove, dialback must.
pub fn note_tls(
    edge: &Edge,
    live: &Live,
    direction: Direction,
    wire: &Wire,
    remote: Option<&Domain>,
) -> Option<Verdict> {
    let tls = wire.transport.tls()?;
    let version = tls
        .protocol_version()
        .and_then(|v| v.as_str())
        .unwrap_or("TLS");
    let suite = tls
        .negotiated_cipher_suite()
        .and_then(|s| s.suite().as_str())
        .unwrap_or("?");
    edge.metrics.tls_established(direction, version, suite);
    let remote = remote?;
    let chain = tls.peer_certificates().unwrap_or_default();
    let pins = &live.policy.peer(remote).pinned_sha256;
    let verdict = live.tls.judge(chain, remote, pins);
    edge.metrics.certificate_judged(direction, verdict.as_str());
    tracing::info!(
        direction = direction.as_str(), %remote, version, suite,
        certificate = verdict.as_str(), reason = verdict.reason(),
        "TLS established"
    );
    Some(verdict)
}
