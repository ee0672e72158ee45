//! Opening a stream to a remote domain: look-up, TCP, and what [`super::opening`] negotiates.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use xmpp_federation_core::edge_config::TlsMode;
use xmpp_federation_core::{Domain, StreamId};

use super::limits::PeerLimits;
use super::opening::{InitiatedStream, Initiation, Phase};
use super::route::Route;
use crate::bounce::Cause;
use crate::config::Live;
use crate::jid::Labels;
use crate::observe::failures::Attempt;
use crate::observe::log_rate::Party;
use crate::observe::registry::{StreamEntry, StreamGuard};
use crate::observe::trace::tls::{cipher, version};
use crate::refusal::{Check, Refusal};
use crate::resolve::connect::{ConnectError, open};
use crate::resolve::{Attempts, Connection, ResolveError, Service};
use crate::shared::Shared;
use crate::stream::transport::Transport;
use crate::stream::{Failure, Wire, negotiation_limits};
use crate::tls::{ShownCertificate, Verdict};
use crate::words::{Direction, Stage};
use xmpp_federation_xml::StreamErrorCondition;

/// A stream on which dialback may begin.
#[derive(Debug)]
pub struct OpenStream {
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
    /// What it says about itself.
    pub limits: PeerLimits,
    /// The hosted domain that SASL EXTERNAL authenticated.
    pub external: Option<Domain>,
    /// The remote domain as our header has it.
    pub written: String,
    /// Our certificate, if the peer asked for one.
    pub shown: Option<Arc<ShownCertificate>>,
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
    /// Whom it says something about.
    pub says: FailureScope,
}

/// Whom a failure to open a stream says something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureScope {
    /// No connection stood: all our domains.
    OfAll,
    /// The domain of ours in whose name the stream was opened.
    OfPair,
}

impl OpenError {
    /// The hosted domain, if the failure says nothing about others.
    pub fn local<'a>(&self, local: &'a Domain) -> Option<&'a Domain> {
        (self.says == FailureScope::OfPair).then_some(local)
    }
}

/// Failures of single addresses that go into the final sentence.
const FAILURES_TOLD: usize = 4;

/// What a stream is opened for; goes into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Stanzas.
    Stanzas,
    /// Nothing but asking the authoritative server, which writes its domain so.
    Verification(Option<Labels>),
}

/// The connections that are still possible for one remote domain.
#[derive(Debug)]
pub struct Opener {
    shared: Arc<Shared>,
    live: Arc<Live>,
    remote: Domain,
    attempts: Attempts,
    failures: Vec<String>,
    insecure: bool,
    /// A handshake failed: nothing is said in clear to any address of the domain any more.
    tls_failed: bool,
    /// Told when a connection is up.
    route: Option<Arc<Route>>,
    /// Whose key is to be verified; lines of the log are counted as that peer's.
    asker: Option<IpAddr>,
    connected: bool,
    /// The remote server did not know its domain as it is spelled usually, and is asked with these
    /// labels.
    labels: Option<Labels>,
}

impl Opener {
    /// Looks the remote domain up. The lists are applied before, by the caller.
    pub(crate) async fn resolve(shared: &Arc<Shared>, remote: &Domain) -> Result<Self, OpenError> {
        Self::resolve_for(shared, remote, None).await
    }

    /// The same because of a key that the peer at `asker` showed.
    pub(crate) async fn resolve_for(
        shared: &Arc<Shared>,
        remote: &Domain,
        asker: Option<IpAddr>,
    ) -> Result<Self, OpenError> {
        let live = shared.live();
        let party = party(asker, remote, None);
        let started = Instant::now();
        let resolved = live.resolver.resolve(remote).await;
        let took = started.elapsed();
        match resolved {
            Ok(resolution) => {
                shared.metrics.resolved(Some(resolution.method), "ok", took);
                if shared.may_log("look-up", party) {
                    tracing::info!(
                        domain = %remote,
                        method = resolution.method.as_str(),
                        targets = resolution.targets(),
                        ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                        "resolved the remote domain"
                    );
                }
                shared.registry.tracers.about(remote, || {
                    let (method, targets) = (resolution.method.as_str(), resolution.targets());
                    format!("resolved by {method}: {targets}")
                });
                for address in resolution.addresses() {
                    shared.partners.resolved(&live.policy, remote, address.ip());
                }
                let attempts = Attempts::new(resolution);
                Ok(Self {
                    shared: shared.clone(),
                    live,
                    remote: remote.clone(),
                    attempts,
                    failures: Vec::new(),
                    insecure: false,
                    tls_failed: false,
                    route: None,
                    asker,
                    connected: false,
                    labels: None,
                })
            }
            Err(error) => {
                shared.metrics.resolved(None, error.as_str(), took);
                if shared.may_log("failed look-up", party) {
                    tracing::warn!(
                        domain = %remote,
                        reason = %error,
                        ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                        "the remote domain could not be resolved"
                    );
                }
                let (tracers, attempt) = (&shared.registry.tracers, error.to_string());
                tracers.about(remote, || format!("not resolved: {attempt}"));
                shared.attempt_failed(remote, Attempt::outbound(Stage::Resolve, None, attempt));
                Err(error.into())
            }
        }
    }

    /// Tells the route of connections.
    #[must_use]
    pub(super) fn of(mut self, route: Arc<Route>) -> Self {
        self.route = Some(route);
        self
    }

    /// Whether any address was connected to: what failed then may depend on who we are.
    pub fn connected(&self) -> bool {
        self.connected
    }

    /// Notes what was wrong with one address.
    pub fn note(&mut self, cause: Cause, reason: String) {
        self.insecure |= cause == Cause::Insecure;
        if self.failures.len() < FAILURES_TOLD {
            self.failures.push(reason);
        }
    }

    fn failure(&mut self, local: &Domain) -> OpenError {
        let reasons = std::mem::take(&mut self.failures).join("; ");
        let message = if self.connected {
            format!("no stream from {local} to {} could be opened: {reasons}", self.remote)
        } else {
            format!("{} cannot be reached: {reasons}", self.remote)
        };
        OpenError {
            cause: if self.insecure {
                Cause::Insecure
            } else {
                Cause::Unreachable
            },
            temporary: !self.insecure,
            message,
            says: if self.connected {
                FailureScope::OfPair
            } else {
                FailureScope::OfAll
            },
        }
    }

    /// The next connection, or one more to an address.
    async fn connect(&mut self, again: Option<(SocketAddr, Service)>) -> Option<Result<Connection, ConnectError>> {
        let Some((address, service)) = again else {
            return self.attempts.next().await;
        };
        let connecting = timeout_at(self.attempts.deadline(), open(address));
        let connected = connecting.await.unwrap_or_else(|late| Err(late.into()));
        let connected = connected.map(|tcp| Connection { tcp, address, service });
        Some(connected.map_err(|error| ConnectError::Address(address, error)))
    }

    /// The next attempt must not be talked into clear text either.
    fn note_failed_tls(&self) {
        let (policy, remote) = (&self.live.policy, &self.remote);
        if policy.peer(remote).tls_mode == TlsMode::Optional {
            let failed = &self.shared.memory.failed_tls;
            failed.note(remote, policy.is_partner(remote), ());
        }
    }

    /// Records why a negotiation failed; gives what senders are told.
    fn cause(&self, local: &Domain, entry: &StreamEntry, phase: Phase, failure: &Failure) -> Cause {
        let refused = |refusal: &Refusal| {
            let (local, remote) = (Some(local), Some(&self.remote));
            self.shared.refused(entry, phase.stage(), local, remote, refusal);
        };
        match failure {
            Failure::Refused(refusal) => {
                refused(refusal);
                Cause::Insecure
            }
            _ if phase == Phase::Handshake => {
                refused(&Refusal::new(Check::TlsHandshake, failure.to_string()));
                Cause::Unreachable
            }
            _ => {
                let stage = failure.stage(phase.stage());
                let attempt = Attempt::outbound(stage, Some(entry.peer), failure.to_string()).of(local);
                self.shared.attempt_failed(&self.remote, attempt);
                Cause::Unreachable
            }
        }
    }

    /// Whether the remote server may know its domain by the other spelling, which is tried once.
    fn spells_otherwise(&mut self, failure: &Failure, written: &str) -> bool {
        let unknown =
            matches!(failure, Failure::Peer { condition, .. } if *condition == StreamErrorCondition::HostUnknown);
        let known = self.shared.memory.labels.get(&self.remote).is_some();
        if !unknown || known || self.labels.is_some() {
            return false;
        }
        self.labels = Labels::of(written, &self.remote).map(Labels::other);
        self.labels.is_some()
    }

    /// A connection on which nothing was said yet.
    fn wire(&self, tcp: TcpStream, entry: &Arc<StreamEntry>) -> Wire {
        let partner = self.live.policy.is_partner(&self.remote);
        let incomplete = self.shared.incomplete.part(partner);
        Wire::new(
            Transport::new(tcp).of(entry).counted(incomplete),
            negotiation_limits(&self.live.config.limits),
            Direction::Outbound,
            self.shared.metrics.clone(),
        )
    }

    /// Opens a stream from `local` to the next address that takes one; addresses on which TLS
    /// or the stream fails are passed over.
    pub async fn open(&mut self, local: &Domain, purpose: Purpose) -> Result<OpenStream, OpenError> {
        // An address whose server ended the stream because of SASL EXTERNAL.
        let mut again: Option<(SocketAddr, Service)> = None;
        loop {
            let Connection { tcp, address, service } = match self.connect(again.take()).await {
                Some(Ok(connected)) => connected,
                Some(Err(error)) => {
                    let reason = error.to_string();
                    let (tracers, remote) = (&self.shared.registry.tracers, &self.remote);
                    tracers.about(remote, || reason.clone());
                    let attempt = Attempt::outbound(Stage::Connect, None, reason.clone());
                    self.shared.attempt_failed(remote, attempt);
                    self.note(Cause::Unreachable, reason);
                    continue;
                }
                None => return Err(self.failure(local)),
            };
            self.connected = true;
            if let Some(route) = &self.route {
                route.connected(local);
            }
            let limit = self.live.config.limits.negotiation_timeout.0;
            let deadline = Instant::now() + limit.min(self.attempts.share());
            let guard = self.shared.registry.open(Direction::Outbound, address);
            guard.entry.claims(&self.remote);
            let wire = self.wire(tcp, &guard.entry);
            let mut opening = Initiation::new(&self.shared, &self.live, local, &self.remote, wire);
            opening.service = service;
            opening.never_clear = self.tls_failed || self.shared.memory.failed_tls.holds(&self.remote, &());
            opening.authenticate = purpose == Purpose::Stanzas;
            let shown = match purpose {
                Purpose::Verification(shown) => shown,
                Purpose::Stanzas => None,
            };
            let shown = shown.filter(|_| self.shared.memory.labels.get(&self.remote).is_none());
            if let Some(labels) = self.labels.or(shown) {
                opening.written = labels.write(&self.remote).into_owned();
            }
            let written = opening.written.clone();
            let negotiated = timeout_at(deadline, opening.negotiate()).await;
            let (phase, header, wire) = (opening.phase, opening.header(), opening.wire);
            match negotiated.unwrap_or(Err(Failure::Timeout("the negotiation of the stream"))) {
                Ok(InitiatedStream {
                    id,
                    errors,
                    limits,
                    external,
                    shown,
                }) => {
                    guard.update(|detail| detail.phase = "established");
                    tracing::debug!(
                        %local, remote = %self.remote, %address, ?service, ?purpose, stream_id = %id,
                        "outbound stream negotiated"
                    );
                    return Ok(OpenStream {
                        wire,
                        id,
                        address,
                        guard,
                        errors,
                        limits,
                        external: external.then(|| local.clone()),
                        written,
                        shown,
                    });
                }
                Err(failure) => {
                    if phase == Phase::External || self.spells_otherwise(&failure, &written) {
                        again = Some((address, service));
                    }
                    // Servers may refuse our certificate only after the handshake.
                    if phase != Phase::Clear {
                        self.tls_failed = true;
                        self.note_failed_tls();
                    }
                    let why = failure.to_string();
                    let party = party(self.asker, &self.remote, Some(address.ip()));
                    if self.shared.may_log("outbound stream failed", party) {
                        tracing::warn!(
                            %local, remote = %self.remote, %address, ?service, reason = why,
                            "outbound stream failed during its negotiation"
                        );
                    }
                    let cause = self.cause(local, &guard.entry, phase, &failure);
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

/// Because of whom something is logged that happens on the way to a remote domain.
const fn party(asker: Option<IpAddr>, remote: &Domain, address: Option<IpAddr>) -> Party<'_> {
    match asker {
        Some(asker) => Party::Caller(asker, Some(remote)),
        None => Party::Called(remote, address),
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
            says: FailureScope::OfAll,
        }
    }
}

/// Counts and logs what a completed handshake agreed on and what the peer's certificate proves
/// about `remote`, as far as that is known. What it fails to prove, dialback must.
pub(crate) fn note_tls(
    shared: &Shared,
    live: &Live,
    direction: Direction,
    wire: &Wire,
    remote: Option<&Domain>,
) -> Option<Verdict> {
    let (tls, shown) = (wire.transport.tls()?, wire.transport.shown()?);
    let (version, suite) = (version(tls), cipher(tls));
    shared.metrics.tls_established(direction, version, suite);
    let remote = remote?;
    let pins = &live.policy.peer(remote).pinned_sha256;
    let verdict = live.tls.judge(shown, remote, pins);
    shared.metrics.certificate_judged(direction, verdict.as_str());
    let entry = wire.transport.entry()?;
    entry.judged(
        remote,
        match verdict {
            Verdict::Missing => verdict.as_str(),
            _ => verdict.reason().unwrap_or(verdict.as_str()),
        },
    );
    if shared.may_log("TLS established", entry.party(Some(remote))) {
        tracing::info!(
            direction = direction.as_str(), %remote, version, suite,
            peer = entry.peer.to_string(),
            certificate = verdict.as_str(), reason = verdict.reason(),
            "TLS established"
        );
    }
    Some(verdict)
}
