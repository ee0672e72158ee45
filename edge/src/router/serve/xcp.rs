//! What a router of profile Xcp says: announcements, and stanzas in envelopes.

use std::sync::Arc;

use xmpp_federation_core::edge_status::RouterAnnouncement;

use super::LiveLink;
use crate::bounce::Cause;
use crate::config::Live;
use crate::jid::domain_part;
use crate::router::announcement::{self, Announcement, Presence};
use crate::router::aside;
use crate::router::envelope::Inside;
use crate::stanza::is_stanza;
use xmpp_federation_xml::{Element, Reroot, ns};

/// Type of the envelope in which a router gives something back.
const RETURNED: &str = "error";

/// The same namespace on both sides: what is declared around an element goes along.
const TO_ITSELF: Reroot = Reroot {
    from: ns::COMPONENT,
    to: ns::COMPONENT,
};

impl LiveLink<'_> {
    /// Takes one element; gives the bytes of what counts as a stanza.
    pub(super) fn take_xcp(&mut self, live: &Arc<Live>, element: &Element) -> Option<usize> {
        let inside = match &mut self.envelopes {
            Some(envelopes) if element.is(ns::COMPONENT, "route") => envelopes.open(element),
            _ => {
                if announcement::is_announcement(element, None, self.link.id.as_str()) {
                    self.take_announcement(live, element);
                    return None;
                }
                self.take_stanza(live, element);
                return Some(element.bytes().len());
            }
        };
        match inside {
            Inside::One(inside) => self.take_routed(live, element, &inside),
            Inside::Nothing => {
                self.odd("an empty envelope");
                None
            }
            Inside::Odd(mut all) => {
                all.retain(|inside| is_stanza(inside, ns::COMPONENT));
                for stanza in &all {
                    self.refuse(live, stanza, Cause::BadEnvelope);
                }
                if all.is_empty() {
                    self.odd("an envelope that holds no stanza, only other content");
                }
                Some(element.bytes().len())
            }
        }
    }

    fn take_routed(&mut self, live: &Arc<Live>, envelope: &Element, inside: &Element) -> Option<usize> {
        if self.take_echo(inside) {
            return None;
        }
        let own = self.link.id.as_str();
        let kind = envelope.type_();
        if announcement::is_announcement(inside, kind.as_deref(), own) {
            self.take_announcement(live, inside);
            return None;
        }
        let size = inside.bytes().len();
        if kind.as_deref() == Some(RETURNED) && self.is_ours(live, inside) {
            self.give_back(inside);
        } else if is_stanza(inside, ns::COMPONENT) && !self.is_for(envelope, inside) {
            self.refuse(live, inside, Cause::NotForUs);
        } else if is_stanza(inside, ns::COMPONENT) && envelope.unportable().is_some() {
            // Also what the envelope declares: the stanza would have to take it along.
            self.refuse(live, inside, Cause::Unportable);
        } else {
            self.take_stanza(live, inside);
        }
        Some(size)
    }

    /// Whether an envelope goes where its stanza does, or just to us. One without address leaves
    /// it to the stanza.
    fn is_for(&self, envelope: &Element, stanza: &Element) -> bool {
        let (Some(outer), Some(inner)) = (envelope.to(), stanza.to()) else {
            return true;
        };
        let outer = domain_part(&outer);
        outer.eq_ignore_ascii_case(domain_part(&inner)) || outer.eq_ignore_ascii_case(self.link.id.as_str())
    }

    /// Whether a stanza is one that went to the router: from outside to a hosted domain.
    fn is_ours(&mut self, live: &Live, stanza: &Element) -> bool {
        let mut hosted = |address: Option<&str>| {
            address
                .and_then(|address| self.domains.domain_of(address))
                .map(|domain| live.hosted.contains(&domain))
        };
        is_stanza(stanza, ns::COMPONENT)
            && hosted(stanza.from().as_deref()) == Some(false)
            && hosted(stanza.to().as_deref()) == Some(true)
    }

    /// The router could not deliver a stanza of ours: its sender is told.
    pub(super) fn give_back(&self, stanza: &Element) {
        let is_request = matches!(stanza.name(), "message" | "iq");
        if is_request && stanza.type_().as_deref() != Some("error") {
            // The envelope does not say why.
            self.came_back("undefined-condition", stanza.to().as_deref());
        }
        // Only what would grow beyond reason cannot be moved, and it did not when it came in.
        if let Ok(stanza) = stanza.reroot(TO_ITSELF) {
            self.link.routers.outbound.report(&stanza, Cause::RouterRefused);
        }
    }

    /// Nobody can be told about it.
    fn odd(&self, what: &'static str) {
        let link = self.link;
        link.routers.shared.metrics.dropped(Cause::BadEnvelope.as_str());
        if self.may_log("router-envelope") {
            tracing::warn!(
                router = link.cluster.name,
                node = link.endpoint.name,
                what,
                "the XCP router sent an envelope that the edge does not understand; it is dropped"
            );
        }
    }

    /// What the router says of one of our component ids tells whether that one is its gateway.
    fn take_announcement(&mut self, live: &Live, presence: &Element) {
        let link = self.link;
        let from = presence.from().unwrap_or_default().to_ascii_lowercase();
        let mut routers = live.config.routers.iter();
        let router = routers.find(|router| router.name == link.cluster.name);
        let ours = router
            .map(|router| router.component_ids.as_slice())
            .unwrap_or_default()
            .iter()
            .find(|id| id.as_str() == domain_part(&from));
        let announced = match (ours, announcement::read(presence)) {
            (Some(_), Presence::There(announcement)) => {
                let Announcement { gateway, local_hosts } = announcement;
                let at = jiff::Timestamp::now().to_string();
                Some(RouterAnnouncement {
                    gateway,
                    local_hosts,
                    at,
                })
            }
            (Some(_), Presence::Gone) => None,
            (None, _) | (_, Presence::Nothing) => return self.aside(presence, aside::ANNOUNCEMENT),
        };
        if let Some(component_id) = ours {
            tracing::debug!(
                router = link.cluster.name,
                node = link.endpoint.name,
                %component_id,
                ?announced,
                "the XCP router announces a component of this edge's configuration"
            );
            let registry = &link.routers.shared.registry;
            registry.announced(&link.entry, component_id, announced);
        }
    }
}
