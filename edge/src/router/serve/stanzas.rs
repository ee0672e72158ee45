//! Stanzas of a router: which go on, which are answered, and which are dropped.

use super::LiveLink;
use super::lanes::{NoLane, PairLane};
use crate::bounce::{Cause, bounce};
use crate::clusters::batch::{Batch, Source};
use crate::config::Live;
use crate::jid::{JidFault, Side, domain_part, judge, readdressed, shown};
use crate::observe::log_rate::Party;
use crate::observe::returned::{RouterEvidence, condition};
use crate::router::aside;
use crate::stanza::is_stanza;
use std::sync::Arc;
use tokio::time::Instant;
use xmpp_federation_core::Domain;
use xmpp_federation_xml::{Element, Reroot, ns};

impl LiveLink<'_> {
    /// The trust rules of the link: hosted sender, foreign recipient, stanzas only.
    pub(super) fn take_stanza(&mut self, live: &Arc<Live>, element: &Element) {
        if !is_stanza(element, ns::COMPONENT) {
            return self.aside(element, aside::of(element));
        }
        let (from, to) = (element.from(), element.to());
        let lane = match self.find_lane(live, from.as_deref(), to.as_deref()) {
            Ok(lane) => lane,
            Err(NoLane::Check(cause)) => {
                return match aside::of_stanza(element) {
                    Some(word) => self.aside(element, word),
                    None => self.refuse(live, element, cause),
                };
            }
            Err(NoLane::From(fault)) => {
                return self.malformed_sender(from.as_deref().unwrap_or_default(), fault);
            }
            Err(NoLane::To) => return self.refuse(live, element, Cause::Malformed),
        };
        if element.unportable().is_some() {
            return self.refuse(live, element, Cause::Unportable);
        }
        self.hear(element);
        let limits = &live.config.limits;
        let (bytes, most) = (element.bytes().len(), limits.max_stanza_bytes);
        let other;
        let element = match self.lanes.all.get(lane) {
            Some(PairLane {
                from_instead: from,
                to_instead: to,
                ..
            }) if from.is_some() || to.is_some() => {
                other = readdressed(element, from.as_deref(), to.as_deref());
                &other
            }
            _ => element,
        };
        // One user's stanza must not break the link for all.
        let text = &mut self.lanes.text;
        let start = text.len();
        if bytes > most || element.reroot_into(Reroot::TO_SERVER, text).is_err() {
            text.truncate(start);
            return self.refuse(live, element, Cause::TooLarge { bytes, most });
        }
        self.lanes.append(lane, start);
    }

    /// A stanza whose sender has no address that an answer could go to.
    pub(super) fn malformed_sender(&self, from: &str, fault: JidFault) {
        let routers = &self.link.routers;
        routers.shared.metrics.dropped(Cause::Malformed.as_str());
        if routers.shared.may_log("malformed senders of routers", Party::Router) {
            tracing::warn!(
                router = self.link.cluster.name,
                node = self.link.endpoint.name,
                from = shown(from),
                reason = %fault,
                "the XCP router sent a stanza with an invalid sender address; it is dropped"
            );
        }
    }

    /// What a stanza of a hosted user says about the router that passes it on.
    pub(super) fn hear(&mut self, element: &Element) {
        let heard = RouterEvidence::of(element);
        if heard != RouterEvidence::Returned {
            self.heard = self.heard.max(Some(heard));
            return;
        }
        self.came_back(condition(element), element.from().as_deref());
    }

    /// A message or request for that address came back.
    pub(super) fn came_back(&self, condition: &'static str, from: Option<&str>) {
        let (now, unproven) = (Instant::now(), self.unproven);
        let entry = &self.link.entry;
        let news = entry.returned(|returned| {
            let from = from.unwrap_or_default();
            returned.came_back(now, condition, from, unproven)
        });
        self.shared().metrics.returned(condition);
        if news {
            tracing::warn!(
                router = self.link.cluster.name,
                node = self.link.endpoint.name,
                condition,
                "the XCP router accepts the link but returns every message and request"
            );
        }
    }

    /// Answers the router's stanza on this cluster's links.
    pub(super) fn refuse(&mut self, live: &Live, element: &Element, cause: Cause) {
        let link = self.link;
        let [from, to] = [element.from(), element.to()].map(|address| {
            let address = address?;
            self.domains.domain_of(&address)
        });
        let is_hosted = |domain: &Option<Domain>| {
            let domain = domain.as_ref();
            domain.is_some_and(|domain| live.hosted.contains(domain))
        };
        let to_hosted = is_hosted(&to);
        if cause == Cause::ForeignSender
            && to_hosted
            && from.as_ref().is_some_and(|from| live.policy.check(from).is_ok())
        {
            // It went to the router from outside and came back as it was: its sender is told.
            return self.give_back(element);
        }
        if matches!(cause, Cause::ForeignSender | Cause::NotForUs | Cause::BadEnvelope) {
            self.warn_of(element, cause);
        }
        if cause == Cause::Unportable && self.may_log("unportable") {
            tracing::warn!(
                router = link.cluster.name,
                node = link.endpoint.name,
                from_domain = element.from().map(|a| domain_part(&a).to_owned()),
                to_domain = element.to().map(|a| domain_part(&a).to_owned()),
                name = element.unportable(),
                "a hosted user's stanza has a name that not every XML parser accepts; it is refused with not-acceptable"
            );
        }
        let answered = Side::Link.respell(element, &mut self.domains);
        // A router that serves a domain that is not hosted here is answered, too, but never in the
        // name of a hosted domain. Errors are not answered, so no answer comes back for another one.
        let own = from.filter(|from| live.hosted.contains(from));
        let mut is_address = |address: Option<std::borrow::Cow<'_, str>>| {
            address.is_some_and(|address| judge(&address, &mut self.domains).is_ok())
        };
        let may_answer = own.is_some() || (!to_hosted && is_address(element.from()) && is_address(element.to()));
        let answer = bounce(&answered, cause).filter(|_| may_answer);
        let told = answer.is_some_and(|answer| {
            let queue = &link.cluster.queue;
            // A cluster that is not configured any more takes nothing; another one may, if it
            // serves the domain.
            match (queue.push(&Source::Edge, Batch::one(answer)), own) {
                (Ok(_), _) => true,
                (Err(batch), Some(own)) => link.routers.clusters.send(live, &own, batch.bytes),
                (Err(_), None) => false,
            }
        });
        link.routers.shared.count_report(told, cause);
    }

    /// Names a stanza of the router that may not leave.
    pub(super) fn warn_of(&self, element: &Element, cause: Cause) {
        let link = self.link;
        let domain =
            |address: Option<std::borrow::Cow<'_, str>>| address.map(|address| domain_part(&address).to_owned());
        let (from, to) = (domain(element.from()), domain(element.to()));
        let is_error = element.type_().as_deref() == Some("error");
        if cause != Cause::ForeignSender || is_error {
            if self.may_log("router-stanza") {
                tracing::warn!(
                    router = link.cluster.name,
                    node = link.endpoint.name,
                    from_domain = from,
                    to_domain = to,
                    cause = cause.as_str(),
                    "the XCP router sent a stanza that the edge does not forward"
                );
            }
        } else if self.may_log("router-sender") {
            tracing::warn!(
                router = link.cluster.name,
                node = link.endpoint.name,
                from_domain = from,
                to_domain = to,
                cause = cause.as_str(),
                "the XCP router sent a stanza of the domain {}, which is not among the hosted domains; if it is a domain of yours, add it to `domains` (spec.domains of the resource), else remove it from IM and Presence",
                from.as_deref().unwrap_or("(none)")
            );
        }
    }

    /// Drops what the router says besides stanzas; `word`: its name.
    pub(super) fn aside(&self, element: &Element, word: &'static str) {
        let link = self.link;
        link.routers.shared.metrics.router_element_dropped(word);
        if word != aside::OTHER {
            tracing::debug!(
                router = link.cluster.name,
                node = link.endpoint.name,
                from = element.from().as_deref(),
                word,
                "the XCP router sent an element that is not a user's stanza; it is dropped"
            );
        } else if self.may_log("router-element") {
            tracing::warn!(
                router = link.cluster.name,
                node = link.endpoint.name,
                element = element.name(),
                namespace = element.ns(),
                "the XCP router sent an element that is not a stanza; it is dropped"
            );
        }
    }
}
