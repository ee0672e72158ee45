//! Dialback on an inbound stream: receiving role (`db:result`) and authoritative role
//! (`db:verify`); XEP-0220 sections 2.1 and 2.2.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::TlsMode;

use super::session::{AuthenticatedPair, Session};
use crate::config::Live;
use crate::dialback::elements::{DialbackElement, Kind, Malformed, Reply, reply};
use crate::jid::Labels;
use crate::observe::registry::{KeyInfo, PairInfo};
use crate::outbound::verify::{Outcome, Question};
use crate::refusal::{Check, Refusal};
use crate::stream::{Failure, pair_changed};
use crate::terms;
use crate::words::{Mechanism, Role, Stage};
use xmpp_federation_xml::{Element, StreamErrorCondition};

/// How often a key that is being verified may be shown again.
const REPEATED: usize = 4;

/// A key that is being verified.
#[derive(Debug)]
pub(super) struct ShownKey {
    local: Domain,
    remote: Domain,
    key: String,
    /// Shown again meanwhile: answered as often, verified once.
    again: Vec<DialbackElement>,
}

/// A key that was verified, or not.
pub(super) struct VerifiedKey {
    request: DialbackElement,
    outcome: Outcome,
    since: Instant,
}

impl Session {
    pub(super) fn take_dialback(&mut self, live: &Arc<Live>, element: &Element, kind: Kind) -> Result<(), Failure> {
        let request = DialbackElement::parse(element, kind).map_err(|error| {
            let condition = match error {
                Malformed::Addressing => StreamErrorCondition::ImproperAddressing,
                Malformed::Id | Malformed::Key | Malformed::Xml => StreamErrorCondition::InvalidXml,
            };
            Failure::fault(condition, error.to_string())
        })?;
        if let Some(name) = element.unportable()
            && request.answer.is_none()
        {
            let (local, remote) = (&request.to_domain, &request.from_domain);
            let reason = format!("not every XML parser accepts the name {name:?}; the element is refused");
            self.log(&Refusal::new(Check::Xml, reason), local, remote);
            return self.answer(&request, Reply::Error("not-acceptable"));
        }
        if request.answer.is_some() {
            // An answer to a question that was not asked is an attempt to authenticate a domain (CVE-2012-3525).
            return Err(Failure::violation(
                Check::Protocol,
                "a dialback answer that was not asked for",
            ));
        }
        self.last_use = Instant::now();
        self.wire.transport.charge(1);
        if self.pairs.is_empty() {
            self.guard.entry.comes_to(Stage::Dialback);
        }
        match kind {
            Kind::Result => self.receiving(live, request),
            Kind::Verify => self.authoritative(live, &request),
        }
    }

    /// Why this pair may not be on this stream at all.
    fn refusal(&self, live: &Live, local: &Domain, remote: &Domain) -> Option<Refusal> {
        let admitted = terms::hosted(live, local).and_then(|()| terms::admitted(live, remote));
        admitted.and_then(|()| self.terms(live, remote)).err()
    }

    fn log(&self, refusal: &Refusal, local: &Domain, remote: &Domain) {
        let entry = &self.guard.entry;
        self.shared()
            .refused(entry, Stage::Dialback, Some(local), Some(remote), refusal);
    }

    fn answer(&mut self, request: &DialbackElement, answer: Reply) -> Result<(), Failure> {
        if !self.wire.is_open() {
            // Nothing may follow the end of our stream.
            return Ok(());
        }
        let xml = reply(request, answer)
            .map_err(|_| Failure::bad_format("addresses with characters that XML does not allow"))?;
        self.wire.transport.queue(Bytes::from(xml));
        Ok(())
    }

    /// Is the key ours? Any replica can say, since keys are computed from the shared secret.
    fn authoritative(&mut self, live: &Live, request: &DialbackElement) -> Result<(), Failure> {
        let started = Instant::now();
        let (local, remote) = (&request.to_domain, &request.from_domain);
        // To a domain that is refused we never sent a key.
        let answer = if let Some(refusal) = self.refusal(live, local, remote) {
            self.log(&refusal, local, remote);
            Reply::Error(refusal.check.dialback_condition())
        } else {
            let valid = request
                .id
                .as_ref()
                .is_some_and(|id| live.dialback.accepts(&request.key, remote, local, id));
            if valid { Reply::Valid } else { Reply::Invalid }
        };
        if answer == Reply::Valid
            && let Some(id) = &request.id
            && self.inbound.proofs.is_first(local, remote, id)
        {
            // Who shows a key of ours is whom we sent it to.
            self.proven(live.policy.is_partner(remote));
        }
        self.guard.update(|detail| detail.verifies = true);
        self.shared()
            .metrics
            .dialback(Role::Authoritative, answer.as_str(), started.elapsed());
        let peer = self.guard.entry.peer;
        if self.may_log("db:verify received", Some(remote)) {
            tracing::info!(
                role = Role::Authoritative.as_str(), %local, %remote,
                stream_id = request.id.as_ref().map(ToString::to_string),
                %peer, answer = ?answer,
                "db:verify received and answered"
            );
        }
        self.answer(request, answer)
    }

    /// A peer shows a key: the authoritative server is asked whether it is its own.
    fn receiving(&mut self, live: &Arc<Live>, request: DialbackElement) -> Result<(), Failure> {
        let (local, remote) = (request.to_domain.clone(), request.from_domain.clone());
        let limits = &live.config.limits;
        let peer = self.guard.entry.peer;
        let role = Role::Receiving.as_str();
        if live.hosted.contains(&remote) {
            return Err(Failure::invalid_from(
                "a domain hosted here cannot come in from outside",
            ));
        }
        let mut refusal = self.refusal(live, &local, &remote);
        if refusal.is_none() {
            let shown = self
                .shown
                .iter_mut()
                .find(|shown| shown.local == local && shown.remote == remote);
            if let Some(shown) = shown {
                if shown.key == request.key && shown.again.len() < REPEATED {
                    shown.again.push(request);
                    return Ok(());
                }
                // The answer names the pair and the stream's id, not the key: two could not be
                // told apart.
                return self.refuse_key(&request, "conflict", "another key of this pair is being verified");
            }
            let most = limits.max_pairs_per_stream;
            let full = self.pairs.len() + self.pending.len() >= most;
            refusal = full.then(|| Refusal::new(Check::Limits, "too many pairs or keys on this stream"));
        }
        if let Some(refusal) = refusal {
            let condition = refusal.check.dialback_condition();
            self.log(&refusal, &local, &remote);
            self.shared()
                .metrics
                .dialback(Role::Receiving, "error", std::time::Duration::ZERO);
            return self.answer(&request, Reply::Error(condition));
        }
        if self.may_log("db:result received", Some(&remote)) {
            tracing::info!(role, %local, %remote, %peer, stream_id = %self.id, "db:result received");
            tracing::info!(
                role, %local, %remote, seconds = limits.dialback_timeout.0.as_secs(),
                "dialback timer started"
            );
        }
        let standing = self.shared().standing(peer.ip(), &remote);
        let question = Question {
            local,
            remote,
            id: self.id.clone(),
            key: request.key.clone(),
            labels: Labels::of(&request.from, &request.from_domain),
            asker: peer.ip(),
            standing,
            until: Instant::now() + limits.dialback_timeout.0,
        };
        self.shown.push(ShownKey {
            local: question.local.clone(),
            remote: question.remote.clone(),
            key: question.key.clone(),
            again: Vec::new(),
        });
        let inbound = self.inbound.clone();
        let since = Instant::now();
        let entry = self.guard.entry.clone();
        entry.update(|detail| {
            let key = KeyInfo::new(question.local.clone(), question.remote.clone());
            detail.keys.push(key);
        });
        self.pending.push(Box::pin(async move {
            let (local, remote) = (question.local.clone(), question.remote.clone());
            let asking = || {
                entry.update(|detail| {
                    let mut keys = detail.keys.iter_mut();
                    let key = keys.find(|key| key.local == local && key.remote == remote);
                    if let Some(key) = key {
                        key.asking();
                    }
                });
            };
            let outcome = inbound.verifier.ask(question, asking).await;
            VerifiedKey {
                request,
                outcome,
                since,
            }
        }));
        Ok(())
    }

    fn refuse_key(
        &mut self,
        request: &DialbackElement,
        condition: &'static str,
        reason: &'static str,
    ) -> Result<(), Failure> {
        let refusal = Refusal::new(Check::Dialback, reason);
        self.log(&refusal, &request.to_domain, &request.from_domain);
        self.shared()
            .metrics
            .dialback(Role::Receiving, "error", std::time::Duration::ZERO);
        self.answer(request, Reply::Error(condition))
    }

    /// The authoritative server answered, or could not.
    pub(super) fn verified(&mut self, verified: VerifiedKey) -> Result<(), Failure> {
        let VerifiedKey {
            request,
            outcome,
            since,
        } = verified;
        let (local, remote) = (request.to_domain.clone(), request.from_domain.clone());
        self.guard.update(|detail| {
            let is_other = |key: &KeyInfo| key.local != local || key.remote != remote;
            detail.keys.retain(is_other);
            // An idle stream holds no memory for it.
            detail.keys.shrink_to_fit();
        });
        let live = self.shared().live();
        // The lists may have changed meanwhile.
        let refusal = self.refusal(&live, &local, &remote);
        let answer = match (&refusal, outcome) {
            (Some(refusal), _) => Reply::Error(refusal.check.dialback_condition()),
            (None, Outcome::Valid) => Reply::Valid,
            (None, Outcome::Invalid) => Reply::Invalid,
            (None, Outcome::Failed(condition)) => Reply::Error(condition),
            (None, Outcome::NoTurn(_)) => Reply::Error(Check::Limits.dialback_condition()),
        };
        let refusal = refusal.or_else(|| match outcome {
            Outcome::Valid => None,
            Outcome::Invalid => Some(Refusal::new(
                Check::Dialback,
                format!("the key shown for {local} is not one of {remote}"),
            )),
            Outcome::Failed(condition) => Some(Refusal::new(
                Check::Dialback,
                format!("the key shown for {local} could not be verified: {condition}"),
            )),
            Outcome::NoTurn(reason) => {
                self.shared().metrics.verification_refused(reason.as_str());
                Some(Refusal::new(
                    Check::Limits,
                    format!(
                        "the key shown for {local} was not verified: {}; raise limits.maxVerifications if this is no attack",
                        reason.why()
                    ),
                ))
            }
        });
        if let Some(refusal) = &refusal {
            self.log(refusal, &local, &remote);
        }
        self.last_use = Instant::now();
        self.shared()
            .metrics
            .dialback(Role::Receiving, answer.as_str(), since.elapsed());
        if self.may_log("db:result answered", Some(&remote)) {
            let failed = match answer {
                Reply::Valid => None,
                Reply::Invalid => Some(answer.as_str()),
                Reply::Error(condition) => Some(condition),
            };
            let (entry, took) = (&self.guard.entry, since.elapsed());
            pair_changed(entry, (&local, &remote), Mechanism::Dialback, Some(took), failed);
        }
        self.answer(&request, answer)?;
        let shown = self
            .shown
            .iter()
            .position(|shown| shown.local == local && shown.remote == remote);
        if let Some(place) = shown {
            for again in self.shown.swap_remove(place).again {
                self.answer(&again, answer)?;
            }
        }
        match answer {
            Reply::Valid => {
                let mechanism = Mechanism::Dialback;
                self.authenticated(&live, local, remote, mechanism, &request.from);
            }
            Reply::Invalid => {
                self.forget_pair(&local, &remote);
                if self.pairs.is_empty() {
                    self.close(None);
                }
            }
            Reply::Error(_) => {}
        }
        Ok(())
    }

    /// From now on stanzas of this pair count. `written`: the remote domain as its server writes it.
    pub(super) fn authenticated(
        &mut self,
        live: &Live,
        local: Domain,
        remote: Domain,
        mechanism: Mechanism,
        written: &str,
    ) {
        if let Some(labels) = Labels::of(written, &remote) {
            let partner = live.policy.is_partner(&remote);
            self.shared().memory.labels.note(&remote, partner, labels);
        }
        // The peer lives: what waits for it need not wait for our next attempt.
        self.inbound.outbound.heard_from(&remote, &local);
        let peer = self.guard.entry.peer.ip();
        self.shared().partners.authenticated(&live.policy, &remote, peer);
        self.proven(live.policy.is_partner(&remote));
        if self.wire.transport.is_tls() && live.policy.peer(&remote).tls_mode == TlsMode::Optional {
            let partner = live.policy.is_partner(&remote);
            self.shared().memory.used_tls.note(&remote, partner, ());
        }
        let pair = AuthenticatedPair {
            local,
            remote,
            mechanism,
        };
        let known = |known: &AuthenticatedPair| known.local == pair.local && known.remote == pair.remote;
        if !self.pairs.iter().any(known) {
            self.guard.update(|detail| {
                detail.pairs.push(PairInfo {
                    local: pair.local.clone(),
                    remote: pair.remote.clone(),
                    mechanism: mechanism.as_str(),
                });
            });
            self.pairs.push(pair);
        }
        self.guard.entry.comes_to(Stage::Stream);
        self.wire.framer.set_limits(self.limits(live));
    }
}
