//! Pairs of domains on one outbound stream: dialback in the initiating role, and guests.

use std::time::Duration;

use tokio::time::Instant;
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::TlsMode;
use xmpp_federation_xml::Element;

use super::Stream;
use crate::bounce::Cause;
use crate::dialback::elements::{Answer, Kind, result_request};
use crate::jid::{Labels, Side};
use crate::observe::failures::Attempt;
use crate::observe::registry::PairInfo;
use crate::outbound::route::GuestPolicy;
use crate::outbound::{answers, keep_alone};
use crate::stream::{Failure, pair_changed};
use crate::words::{Mechanism, Role, Stage};
use bytes::Bytes;

/// How long a guest waits for the answer to its `db:result`, and which part of the time that it may
/// wait in all: enough is left for a stream of its own.
const GUEST: Duration = Duration::from_secs(10);
const GUEST_PART: u32 = 3;

/// What is known about one hosted domain on this stream.
#[derive(Debug, Clone, Copy)]
pub(super) enum PairState {
    /// `db:result` was sent then.
    Pending(Instant),
    /// Authenticated.
    Valid,
    /// Not on this stream any more.
    Gone,
}

/// How long a guest waits for the answer to its `db:result`.
pub(super) fn hold_of_guests(hold: Duration) -> Duration {
    GUEST.min(hold / GUEST_PART)
}

impl Stream<'_> {
    /// Step 1 of dialback.
    pub(super) fn ask(&mut self, local: &Domain) -> Result<(), Failure> {
        let live = self.shared().live();
        let remote = &self.route.remote;
        let key = live.dialback.key(remote, local, &self.opened.id);
        let from = Side::Peer(&self.shared().memory.labels).spelling(local);
        let xml = result_request(&from, &self.opened.written, &key)
            .map_err(|_| Failure::improper_addressing("a domain with characters that XML does not allow"))?;
        self.opened.wire.transport.queue(Bytes::from(xml));
        self.pairs.insert(local.clone(), PairState::Pending(Instant::now()));
        if self.may_log("db:result sent") {
            tracing::info!(
                role = Role::Initiating.as_str(), %local, %remote,
                address = %self.opened.address, stream_id = %self.opened.id,
                "db:result sent"
            );
            tracing::info!(
                role = Role::Initiating.as_str(), %local, %remote,
                seconds = live.config.limits.dialback_timeout.0.as_secs(),
                "dialback timer started"
            );
        }
        Ok(())
    }

    pub(super) fn take_answer(&mut self, element: &Element) -> Result<(), Failure> {
        // Streams are one-way: nothing but answers to our db:result may come back.
        let Some(received) = answers::take(element, Kind::Result, &self.route.remote)? else {
            return Ok(());
        };
        let (local, answer) = (received.local, received.answer);
        let since = match self.pairs.get(&local) {
            Some(PairState::Pending(since)) => *since,
            // After its time-out or a refusal an answer comes too late to count.
            Some(PairState::Gone) => return Ok(()),
            // A valid pair may be told that it is not any more, never anything else.
            Some(PairState::Valid) if answer == Answer::Invalid => Instant::now(),
            Some(PairState::Valid) | None => return Err(answers::unasked(Kind::Result)),
        };
        self.answered(&local, &answer, since)
    }

    pub(super) fn answered(&mut self, local: &Domain, answer: &Answer, since: Instant) -> Result<(), Failure> {
        let remote = &self.route.remote;
        let took = since.elapsed();
        let role = Role::Initiating;
        match answer {
            Answer::Valid => {
                self.valid(local, Mechanism::Dialback);
                self.shared().metrics.dialback(role, "valid", took);
                if self.may_log("db:result came back") {
                    let entry = &self.opened.guard.entry;
                    pair_changed(entry, (local, remote), Mechanism::Dialback, Some(took), None);
                }
                Ok(())
            }
            Answer::Invalid => {
                self.shared().metrics.dialback(role, "invalid", took);
                let cause = Cause::DialbackInvalid;
                self.refuse(local, cause, "refused", "the peer says our key is invalid")
            }
            Answer::Error(condition) => {
                self.shared().metrics.dialback(role, "error", took);
                let condition = condition.as_deref().unwrap_or("no condition");
                let reason = format!("the peer reports {condition}");
                self.refuse(local, Cause::DialbackFailed, "refused", &reason)
            }
            Answer::Unknown => Err(Failure::invalid_xml("an answer to db:result of unknown type")),
        }
    }

    /// From now on stanzas of this pair are sent.
    pub(super) fn valid(&mut self, local: &Domain, mechanism: Mechanism) {
        let remote = &self.route.remote;
        self.pairs.insert(local.clone(), PairState::Valid);
        self.last_use = Instant::now();
        let live = self.shared().live();
        let limits = crate::stream::stanza_limits(&live.config.limits);
        self.opened.wire.framer.set_limits(limits);
        self.opened.guard.update(|detail| {
            detail.pairs.push(PairInfo {
                local: local.clone(),
                remote: remote.clone(),
                mechanism: mechanism.as_str(),
            });
        });
        self.shared().registry.partner_works(remote, local);
        let address = self.opened.address.ip();
        self.shared().partners.authenticated(&live.policy, remote, address);
        if let Some(labels) = Labels::of(&self.opened.written, remote) {
            let partner = live.policy.is_partner(remote);
            self.shared().memory.labels.note(remote, partner, labels);
        }
        let tls = self.opened.wire.transport.is_tls();
        if tls && live.policy.peer(remote).tls_mode == TlsMode::Optional {
            self.shared()
                .memory
                .used_tls
                .note(remote, live.policy.is_partner(remote), ());
        }
        if mechanism == Mechanism::External && self.may_log("SASL EXTERNAL") {
            pair_changed(&self.opened.guard.entry, (local, remote), mechanism, None, None);
        }
        self.used |= local == self.local;
    }

    /// Other hosted domains may use the stream, too: if the peer answers dialback with errors
    /// instead of closing (XEP-0220 section 2.6), and if our certificate, should it matter, names
    /// them.
    pub(super) fn take_guests(&mut self) {
        let outbound = self.outbound;
        let live = outbound.shared.live();
        let alone = &outbound.shared.memory.alone;
        let alone = alone.holds(&(self.route.remote.clone(), None), &());
        if self.opened.errors && !alone && self.opened.wire.is_open() {
            let shown = self.opened.shown.take();
            let takes = shown.map_or(GuestPolicy::Any, GuestPolicy::Named);
            let most = live.config.limits.max_pairs_per_stream.saturating_sub(1);
            self.host = Some(self.route.host(self.local, takes, most));
        }
        // Pairs that waited for this stream decide again.
        *self.opening = None;
    }

    /// The stream takes no more guests.
    pub(super) fn unhost(&mut self) {
        if let Some(host) = self.host.take() {
            for guest in self.route.unhost(host) {
                self.route.leave(self.outbound, host, &guest, false);
            }
        }
    }

    /// The pair is not used on this stream. What waits of the stream's own pair is reported, a
    /// guest tries again on a stream of its own.
    pub(super) fn refuse(
        &mut self,
        local: &Domain,
        cause: Cause,
        kind: &'static str,
        reason: &str,
    ) -> Result<(), Failure> {
        let (outbound, route) = (self.outbound, self.route);
        let remote = &route.remote;
        self.pairs.insert(local.clone(), PairState::Gone);
        self.opened
            .guard
            .update(|detail| detail.pairs.retain(|pair| pair.local != *local));
        let message = format!("dialback from {local} to {remote} failed: {reason}");
        let attempt = Attempt::outbound(Stage::Dialback, Some(self.opened.address), message.clone()).of(local);
        outbound.shared.attempt_failed(remote, attempt);
        if self.may_log("our key refused") {
            let entry = &self.opened.guard.entry;
            pair_changed(entry, (local, remote), Mechanism::Dialback, None, Some(reason));
        }
        let mut others = self.pairs.values();
        let alive = others.any(|state| !matches!(state, PairState::Gone));
        if local == self.local {
            self.refused = Some(cause);
            route.report_older(outbound, Duration::ZERO, local, cause);
            outbound
                .shared
                .registry
                .partner_failed(remote, Some(local), message.clone());
            if alive {
                // The stream goes on for its guests, and the pair without it.
                self.handed_over = true;
                route.hand_over(outbound, local, cause, message);
            }
        } else {
            let whose = Some(local).filter(|_| kind == "refused");
            keep_alone(&outbound.shared, remote, whose, kind);
            route.leave(outbound, self.host.unwrap_or(0), local, true);
        }
        if alive {
            return Ok(());
        }
        // Nothing can be lost.
        self.close(None);
        Err(Failure::Closed)
    }

    /// At the end: what waits of guests goes over other streams.
    pub(super) fn guests_leave(&mut self, failure: &Failure) {
        let (outbound, route) = (self.outbound, self.route);
        let host = self.host.unwrap_or(0);
        self.unhost();
        // A question that came in between may be the cause.
        let by_peer = match failure {
            Failure::Peer { .. } | Failure::Ended | Failure::Closed => self.opened.wire.is_open(),
            _ => false,
        };
        for (local, state) in &self.pairs {
            if local == self.local || matches!(state, PairState::Gone) {
                continue;
            }
            let asked = by_peer && self.used && matches!(state, PairState::Pending(_));
            if asked {
                keep_alone(&outbound.shared, &route.remote, None, "ended");
            }
            route.leave(outbound, host, local, asked);
        }
    }
}
