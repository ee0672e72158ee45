//! What is said on a connection we open until stanzas or dialback may begin: header, STARTTLS as
//! the security mode has it, header again, SASL EXTERNAL where it may succeed, header once more.
//!
//! | mode | the peer offers TLS | it does not |
//! |---|---|---|
//! | Required | TLS | refused |
//! | Optional | TLS, and after a failed handshake nothing | dialback in clear |
//! | Disabled | dialback in clear, refused if the peer requires TLS | dialback in clear |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use xmpp_federation_core::edge_config::TlsMode;
use xmpp_federation_core::{Domain, StreamId};

use super::connect::note_tls;
use super::limits::PeerLimits;
use crate::config::Live;
use crate::jid::Side;
use crate::observe::log_rate::Party;
use crate::peer_memory::ExternalForms;
use crate::refusal::{Check, Refusal};
use crate::shared::Shared;
use crate::stream::direct_tls::{self};
use crate::stream::{Failure, Wire, initiating, major_version};
use crate::terms;
use crate::tls::{Client, JudgementCache, ShownCertificate, noting_requests};
use crate::words::{Direction, Service, Stage};
use xmpp_federation_xml::{Node, StreamHeader, ns};

/// A stream is ready.
#[derive(Debug)]
pub(super) struct InitiatedStream {
    /// The id of the peer's latest header.
    pub(super) id: StreamId,
    /// Dialback is answered with errors instead of closing.
    pub(super) errors: bool,
    /// What the peer says about itself.
    pub(super) limits: PeerLimits,
    /// SASL EXTERNAL succeeded: the pair of this stream's header is authenticated.
    pub(super) external: bool,
    /// Our certificate, if the peer asked for one.
    pub(super) shown: Option<Arc<ShownCertificate>>,
}

/// One connection while it is negotiated.
pub(super) struct Initiation<'a> {
    shared: &'a Shared,
    live: &'a Live,
    local: &'a Domain,
    remote: &'a Domain,
    /// The remote domain as our headers have it.
    pub(super) written: String,
    pub(super) wire: Wire,
    /// How the stream comes to TLS.
    pub(super) service: Service,
    /// Nothing may be said in clear, whatever the mode.
    pub(super) never_clear: bool,
    /// SASL EXTERNAL is wanted.
    pub(super) authenticate: bool,
    /// How far it got.
    pub(super) phase: Phase,
    /// The peer asked for our certificate.
    asked: Arc<AtomicBool>,
}

/// How far a connection got; what its failure means depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// In clear.
    Clear,
    /// TLS was asked for and is not up.
    Handshake,
    /// TLS is up.
    Secure,
    /// `<auth/>` was sent over TLS and is not answered.
    External,
}

impl Phase {
    /// The same as failures are told.
    pub(super) const fn stage(self) -> Stage {
        match self {
            Self::Clear | Self::Secure => Stage::Features,
            Self::Handshake => Stage::Tls,
            Self::External => Stage::External,
        }
    }
}

impl<'a> Initiation<'a> {
    pub(super) fn new(shared: &'a Shared, live: &'a Live, local: &'a Domain, remote: &'a Domain, wire: Wire) -> Self {
        Self {
            shared,
            live,
            local,
            remote,
            written: Side::Peer(&shared.memory.labels).spelling(remote).into_owned(),
            wire,
            service: Service::StartTls,
            never_clear: false,
            authenticate: false,
            phase: Phase::Clear,
            asked: Arc::default(),
        }
    }

    /// Starts as the service has it: with TLS, or in clear with STARTTLS where the mode has it.
    pub(super) async fn negotiate(&mut self) -> Result<InitiatedStream, Failure> {
        if self.service == Service::DirectTls {
            let Some(client) = self.live.tls.client_for(self.local) else {
                return Err(terms::no_tls(self.live, Some(self.remote)).into());
            };
            self.handshake(&direct_tls::client(&client.config)).await?;
            return self.over_tls(&client).await;
        }
        let ours = self.header();
        let header = self.wire.exchange_headers(ours).await?;
        let mode = terms::mode(self.live, &self.shared.memory, Some(self.remote));
        if major_version(&header)?.is_none() {
            // A server from before XMPP 1.0 has no features and no TLS.
            return self.in_clear(mode, &header, None);
        }
        let features = self.wire.features().await?;
        let offer = features.child(ns::TLS, "starttls");
        let client = self.live.tls.client_for(self.local);
        match (offer, mode, client) {
            (Some(offer), TlsMode::Disabled, _) if offer.child(ns::TLS, "required").is_some() => {
                let reason = format!("{} requires TLS, which is disabled for it here", self.remote);
                Err(Refusal::new(Check::TlsDisabled, reason).into())
            }
            (Some(_), TlsMode::Required | TlsMode::Optional, Some(client)) => {
                self.phase = Phase::Handshake;
                self.wire.ask_for_tls().await?;
                self.handshake(&client.config).await?;
                self.over_tls(&client).await
            }
            _ => self.in_clear(mode, &header, Some(&features)),
        }
    }

    /// Goes on where TLS is up: certificate, header, features, SASL EXTERNAL.
    pub(super) async fn over_tls(&mut self, client: &Client) -> Result<InitiatedStream, Failure> {
        note_tls(
            self.shared,
            self.live,
            Direction::Outbound,
            &self.wire,
            Some(self.remote),
        );
        // Before anything is said: a required certificate must prove the remote domain.
        let shown = self.wire.transport.shown();
        let kept = JudgementCache::default();
        terms::check(self.live, &self.shared.memory, shown, &kept, self.remote)?;
        let ours = self.header();
        let (header, features) = self.wire.restarted(ours, "TLS").await?;
        let shown = client.shown.clone();
        let shown = shown.filter(|_| self.asked.load(Ordering::Relaxed));
        let ready = InitiatedStream {
            id: stream_id(&header)?,
            errors: offers_errors(&features),
            limits: PeerLimits::read(&features),
            external: false,
            shown,
        };
        let wanted = self.authenticate && offers_external(&features) && client.proves(self.local);
        let dialback = features.child(ns::DIALBACK_FEATURE, "dialback").is_some();
        if !wanted || !self.external(client, dialback).await? {
            return Ok(ready);
        }
        let ours = self.header();
        let (header, features) = self.wire.restarted(ours, "SASL").await?;
        Ok(InitiatedStream {
            id: stream_id(&header)?,
            errors: offers_errors(&features),
            limits: PeerLimits::read(&features),
            external: true,
            shown: client.shown.clone(),
        })
    }

    /// No TLS on this stream: allowed or not.
    fn in_clear(
        &self,
        mode: TlsMode,
        header: &StreamHeader,
        features: Option<&Node>,
    ) -> Result<InitiatedStream, Failure> {
        if mode == TlsMode::Required {
            return Err(terms::no_tls(self.live, Some(self.remote)).into());
        }
        if self.never_clear && mode != TlsMode::Disabled {
            let reason = format!(
                "TLS with {} failed within the last day, which may be an attack, so the edge sends nothing to it in clear; if clear text is intended, set tls.mode: Disabled for it in partners",
                self.remote
            );
            return Err(Refusal::new(Check::TlsHandshake, reason).into());
        }
        Ok(InitiatedStream {
            id: stream_id(header)?,
            errors: features.is_some_and(offers_errors),
            limits: features.map(PeerLimits::read).unwrap_or_default(),
            external: false,
            shown: None,
        })
    }

    /// Our header on this stream.
    pub(super) fn header(&self) -> String {
        let from = Side::Peer(&self.shared.memory.labels).spelling(self.local);
        initiating::header(Some(&from), &self.written)
    }

    async fn handshake(&mut self, config: &Arc<rustls::ClientConfig>) -> Result<(), Failure> {
        self.phase = Phase::Handshake;
        let config = noting_requests(config, &self.asked);
        let done = self.wire.handshake(config, self.remote).await;
        if matches!(done, Err(Failure::Io(_))) {
            self.shared.metrics.tls_failed(Direction::Outbound);
        }
        done?;
        self.phase = Phase::Secure;
        Ok(())
    }

    /// SASL EXTERNAL (XEP-0178 section 3); `false`: not tried or refused, and the stream lives.
    ///
    /// `<auth/>` names the sending domain, which every server takes. One that refuses this form,
    /// and none of the certificate, is asked once more with an empty identity: if it says so, or if
    /// it offers no dialback instead. Until a form has succeeded it counts as refused: many servers
    /// end the stream instead of answering, and the next one must not run into the same.
    async fn external(&mut self, client: &Client, dialback: bool) -> Result<bool, Failure> {
        let memory = &self.shared.memory.external;
        let pair = (self.remote.clone(), self.local.clone());
        let partner = self.live.policy.is_partner(self.remote);
        let note = |forms| memory.note(&pair, partner, (forms, client.leaf_sha256.clone()));
        let known = memory.get(&pair);
        let known = known.filter(|(_, leaf)| *leaf == client.leaf_sha256);
        let mut named = match known {
            None => true,
            Some((ExternalForms::OnlyEmpty, _)) => false,
            Some((ExternalForms::NotNamed, _)) if !dialback => false,
            Some((ExternalForms::NotNamed | ExternalForms::None, _)) => return Ok(false),
        };
        loop {
            note(if named {
                ExternalForms::NotNamed
            } else {
                ExternalForms::None
            });
            let Some(condition) = self.authenticate_as(named).await? else {
                self.shared.metrics.sasl(Direction::Outbound, "success");
                if named {
                    memory.forget(|known| *known == pair);
                } else {
                    note(ExternalForms::OnlyEmpty);
                }
                return Ok(true);
            };
            self.shared.metrics.sasl(Direction::Outbound, "failure");
            let again = named && (condition == "invalid-authzid" || !dialback);
            let peer = self.wire.transport.entry().map(|entry| entry.peer.ip());
            let party = Party::Called(self.remote, peer);
            if self.shared.may_log("SASL EXTERNAL refused", party) {
                tracing::info!(
                    local = %self.local, remote = %self.remote, condition,
                    identity = if named { "named" } else { "empty" },
                    then = if again { "the empty identity is tried" } else { "dialback goes on" },
                    "the peer refused SASL EXTERNAL"
                );
            }
            if !again {
                return Ok(false);
            }
            named = false;
        }
    }

    /// One `<auth/>` and its answer: the condition if the peer refuses.
    async fn authenticate_as(&mut self, named: bool) -> Result<Option<String>, Failure> {
        self.phase = Phase::External;
        let sasl = ns::SASL;
        let auth = {
            let identity = Side::Peer(&self.shared.memory.labels).spelling(self.local);
            external_auth(named.then_some(&identity))
        };
        self.wire.send(auth).await?;
        loop {
            let answer = self.wire.element().await?;
            if answer.is(sasl, "success") {
                if self.wire.restart() > 0 {
                    return Err(Failure::violation(
                        Check::Protocol,
                        "the peer sent more behind <success/>",
                    ));
                }
                self.phase = Phase::Secure;
                return Ok(None);
            }
            if answer.is(sasl, "failure") {
                self.phase = Phase::Secure;
                let condition = answer.parse()?;
                let condition = condition.children().find(|child| child.name != "text");
                let condition = condition.map(|child| child.name.chars().take(40).collect());
                return Ok(Some(condition.unwrap_or_default()));
            }
            if !answer.is(sasl, "challenge") {
                return Err(Failure::unsupported_stanza_type("an answer to <auth/> was expected"));
            }
            // EXTERNAL has nothing to say to a challenge.
            self.wire.send(format!("<abort xmlns='{sasl}'/>")).await?;
        }
    }
}

/// `<auth/>` with the domain as authorization identity, spelled as in the header, or with an empty
/// one (RFC 6120 section 6.4.2).
pub(crate) fn external_auth(identity: Option<&str>) -> String {
    let identity = identity.map_or_else(|| "=".to_owned(), |name| STANDARD.encode(name));
    format!("<auth xmlns='{}' mechanism='EXTERNAL'>{identity}</auth>", ns::SASL)
}

fn stream_id(header: &StreamHeader) -> Result<StreamId, Failure> {
    header
        .id
        .as_deref()
        .and_then(StreamId::from_peer)
        .ok_or_else(|| Failure::undefined_condition("the peer's stream has no id that dialback can use"))
}

fn offers_errors(features: &Node) -> bool {
    features
        .child(ns::DIALBACK_FEATURE, "dialback")
        .is_some_and(|dialback| dialback.child(ns::DIALBACK_FEATURE, "errors").is_some())
}

fn offers_external(features: &Node) -> bool {
    features.child(ns::SASL, "mechanisms").is_some_and(|offered| {
        let mut names = offered.children().filter(|child| child.is(ns::SASL, "mechanism"));
        names.any(|name| name.text().trim() == "EXTERNAL")
    })
}
