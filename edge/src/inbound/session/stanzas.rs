//! Stanzas of an inbound stream: which go on, which are answered, and which are dropped.

use super::lanes::LastStanza;
use super::{AuthenticatedPair, Session};
use crate::bounce::{Cause, bounce};
use crate::config::Live;
use crate::inbound::rate::Payer;
use crate::jid::{JidFault, LastJudged, Side, domain_part, is_known_good, judge, readdressed, shown};
use crate::network::network_of;
use crate::observe::log_rate::Party;
use crate::refusal::{Check, Refusal};
use crate::stanza::wants_answer;
use crate::stream::Failure;
use crate::words::Stage;
use std::borrow::Cow;
use std::sync::Arc;
use tokio::time::Instant;
use xmpp_federation_core::Domain;
use xmpp_federation_xml::{Element, Reroot, StreamErrorCondition};

/// What the metric of dropped stanzas calls those that are refused beyond their sender's rate.
pub(super) const BEYOND: &str = "refused-rate";

/// Bytes of stanzas, as they are written, that are handed to a link at once: a turn brings more
/// when the stream's header adds to each of them.
pub(super) const PIECE: usize = 64 * 1024;

/// An address without its resource: one user's.
pub(super) fn bare(address: &str) -> &str {
    address.split_once('/').map_or(address, |(bare, _)| bare)
}

pub(super) fn addressing() -> Failure {
    Failure::improper_addressing("from and to of a stanza must be addresses")
}

impl Session {
    /// A stanza counts only between the domains of an authenticated pair.
    pub(super) fn take_stanza(&mut self, live: &Arc<Live>, element: &Element) -> Result<(), Failure> {
        let from = element.from().ok_or_else(addressing)?;
        let to = element.to().ok_or_else(addressing)?;
        let again = |last: &LastStanza| last.addresses.are(&from, &to);
        if !self.last.as_ref().is_some_and(again) && !self.find_way(live, element, &from, &to)? {
            return Ok(());
        }
        let Some(last) = &self.last else {
            return Ok(());
        };
        let received = element.bytes().len();
        let unportable = element.unportable();
        let other;
        let moved = if last.from_instead.is_none() && last.to_instead.is_none() {
            element
        } else {
            let (from, to) = (last.from_instead.as_deref(), last.to_instead.as_deref());
            other = readdressed(element, from, to);
            &other
        };
        let Some(lane) = self.lanes.get_mut(last.lane) else {
            return Ok(());
        };
        // The framer has the largest limit of all domains on this stream.
        if received > lane.max_bytes {
            return Err(Failure::violation(Check::Size, "stanza too large"));
        }
        let before = lane.builder.out.len();
        if unportable.is_none() {
            moved.reroot_into(Reroot::TO_LINK, &mut lane.builder.out)?;
            lane.builder.count += 1;
            lane.builder.requests += usize::from(wants_answer(moved));
        }
        let written = lane.builder.out.len() - before;
        let rate = lane.rate.as_ref().filter(|_| self.wire.is_open());
        let until = rate.and_then(|rate| rate.spend(written.max(received), Instant::now()));
        if lane.builder.out.len() >= PIECE {
            let pause = lane.hand_over(&self.inbound);
            self.pause(pause);
        }
        self.throttle(until, "rate");
        if let Some(name) = unportable {
            let mut domain = |address| self.domains.domain_of(address);
            let domains = domain(&from).zip(domain(&to));
            let (remote, local) = domains.ok_or_else(addressing)?;
            if self.is_over(&from) {
                self.drop_refused();
            } else {
                self.refuse_name(live, element, &local, &remote, name);
                self.pay_refusal(live, &remote, Some(&from));
            }
        }
        Ok(())
    }

    /// Sets [`Session::last`] for these addresses; false if the stanza goes nowhere.
    pub(super) fn find_way(
        &mut self,
        live: &Arc<Live>,
        element: &Element,
        from: &str,
        to: &str,
    ) -> Result<bool, Failure> {
        let (of_from, of_to) = (domain_part(from), domain_part(to));
        let last = self.last.as_ref();
        if !last.is_some_and(|last| *last.from == *of_from && *last.to == *of_to) {
            let remote = self.domains.domain(of_from).ok_or_else(addressing)?;
            let local = self.domains.domain(of_to).ok_or_else(addressing)?;
            self.check_pair(live, &local, &remote)?;
            let Some(lane) = self.lane_for(live, &local, &remote) else {
                // That is no fault of the sender's: nothing is dropped, but the domain waits.
                self.refuse(live, element, (&local, &remote), Cause::LinkDown);
                self.pay_refusal(live, &remote, None);
                self.count_refused(live, &remote, element);
                return Ok(false);
            };
            self.last = Some(LastStanza {
                addresses: LastJudged::default(),
                from: of_from.into(),
                to: of_to.into(),
                from_instead: Side::Link.instead(of_from, &remote),
                to_instead: Side::Link.instead(of_to, &local),
                lane,
            });
        }
        if !is_known_good(from, &self.domains) || !is_known_good(to, &self.domains) {
            // To judge addresses takes longer than all else.
            if self.is_over(from) {
                self.drop_refused();
                if let Some(remote) = self.domains.domain(of_from) {
                    self.count_refused(live, &remote, element);
                }
                return Ok(false);
            }
            let faults = (judge(from, &mut self.domains), judge(to, &mut self.domains));
            self.look_at_time();
            if faults.0.is_err() || faults.1.is_err() {
                self.malformed(live, element, faults.0.err());
                return Ok(false);
            }
        }
        if let Some(last) = &mut self.last {
            last.addresses.note(from, to);
        }
        Ok(true)
    }

    /// One user's stanza must not break the links for all.
    pub(super) fn refuse_name(&mut self, live: &Live, element: &Element, local: &Domain, remote: &Domain, name: &str) {
        let reason = format!("not every XML parser accepts the name {name:?}; the stanza is refused");
        let refusal = Refusal::new(Check::Xml, reason);
        let entry = &self.guard.entry;
        self.shared()
            .refused(entry, Stage::Stream, Some(local), Some(remote), &refusal);
        self.refuse(live, element, (local, remote), Cause::Unportable);
    }

    /// A stanza of an authenticated pair whose addresses are good only in their domains.
    pub(super) fn malformed(&mut self, live: &Arc<Live>, element: &Element, of_from: Option<JidFault>) {
        let mut domain = |address: Option<Cow<'_, str>>| address.and_then(|address| self.domains.domain_of(&address));
        let (Some(remote), Some(local)) = (domain(element.from()), domain(element.to())) else {
            return;
        };
        self.count_refused(live, &remote, element);
        let from = element.from().unwrap_or_default();
        self.pay_refusal(live, &remote, Some(&from));
        let Some(fault) = of_from else {
            self.refuse(live, element, (&local, &remote), Cause::Malformed);
            return;
        };
        // Nobody could be told.
        let reason = format!("a stanza from {} was dropped: {fault}", shown(&from));
        let refusal = Refusal::new(Check::Addressing, reason);
        let (local, remote) = (Some(&local), Some(&remote));
        self.shared()
            .refused(&self.guard.entry, Stage::Stream, local, remote, &refusal);
        self.shared().metrics.dropped(Cause::Malformed.as_str());
    }

    /// A stanza that goes no further counts for the domain's rate like any other.
    pub(super) fn count_refused(&mut self, live: &Live, remote: &Domain, element: &Element) {
        if self.wire.is_open() {
            let rate = self.inbound.rates.of(&live.policy, remote);
            let until = rate.and_then(|rate| rate.spend(element.bytes().len(), Instant::now()));
            self.throttle(until, "rate");
        }
        self.look_at_time();
    }

    /// Whether stanzas of this sender were refused so often that others are only dropped.
    pub(super) fn is_over(&self, from: &str) -> bool {
        self.inbound.rates.is_over(bare(from), Instant::now())
    }

    /// A stanza is refused beyond its sender's rate: to judge and to answer it would be too much work.
    pub(super) fn drop_refused(&mut self) {
        self.shared().metrics.dropped(BEYOND);
        self.look_at_time();
    }

    /// A stanza was refused: nothing else stops a stream that sends many.
    ///
    /// `from`: the sender, if it is at fault.
    pub(super) fn pay_refusal(&mut self, live: &Live, remote: &Domain, from: Option<&str>) {
        let payer = if live.policy.is_partner(remote) {
            Payer::Partner(remote.clone())
        } else {
            Payer::Network(network_of(self.guard.entry.peer.ip()))
        };
        let now = Instant::now();
        let paid = self.inbound.rates.refused(payer, from.map(bare), now);
        self.throttle(paid.until, "refused");
        let peer = self.guard.entry.peer;
        let party = Party::Caller(peer.ip(), Some(remote));
        if let Some(sender) = paid.user_is_over.then_some(from).flatten()
            && self.shared().may_log("refused stanzas of one sender", party)
        {
            tracing::warn!(
                %peer, %remote, sender = %shown(bare(sender)),
                "the edge refuses too many stanzas of this sender; it drops further ones without an answer until fewer come"
            );
        }
        self.look_at_time();
    }

    pub(super) fn check_pair(&self, live: &Live, local: &Domain, remote: &Domain) -> Result<(), Failure> {
        let known = |pair: &AuthenticatedPair| pair.local == *local && pair.remote == *remote;
        if self.pairs.iter().any(known) {
            return Ok(());
        }
        let (condition, text) = if self.pairs.is_empty() {
            (StreamErrorCondition::NotAuthorized, "no stanza before dialback")
        } else if !self.pairs.iter().any(|pair| pair.remote == *remote) {
            (
                StreamErrorCondition::InvalidFrom,
                "the sender's domain is not authenticated here",
            )
        } else if live.hosted.contains(local) {
            (
                StreamErrorCondition::InvalidFrom,
                "this pair of domains is not authenticated here",
            )
        } else {
            (
                StreamErrorCondition::HostUnknown,
                "the recipient's domain is not hosted here",
            )
        };
        Err(Failure::fault(condition, text))
    }

    /// Answers a stanza that goes no further; its sender is of the pair's second domain.
    pub(super) fn refuse(&mut self, live: &Live, element: &Element, pair: (&Domain, &Domain), cause: Cause) {
        let (local, remote) = pair;
        let side = Side::Peer(&self.inbound.shared.memory.labels);
        let element = side.respell(element, &mut self.domains);
        let told = bounce(&element, cause)
            .is_some_and(|error| self.inbound.outbound.push(live, local, remote, &error).is_ok());
        self.shared().count_report(told, cause);
    }
}
