//! Where stanzas go: between components and users, and back to their senders.

use super::link::{COMPONENT_NS, Link, Outgoing, StreamError};
use super::{ROUTER, Status, xcp};
use crate::cluster::{Cluster, Node};
use crate::config::Spread;
use crate::refused::Refused;
use crate::users::Delivery;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use testkit_base::xml::Element;

/// Namespace of stanza errors' conditions.
const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";

/// The domain of a JID, lower case.
pub fn domain_of(jid: &str) -> String {
    let bare = jid.split_once('/').map_or(jid, |(bare, _)| bare);
    bare.split_once('@').map_or(bare, |(_, domain)| domain).to_lowercase()
}

/// The error answer to a stanza; `None` where an answer is forbidden.
pub fn error_answer(stanza: &Element, condition: &str) -> Option<Element> {
    let kind = stanza.attribute("type").unwrap_or_default();
    if kind == "error" || (stanza.name == "iq" && kind == "result") {
        return None;
    }
    let mut answer = Element::new(COMPONENT_NS, &stanza.name).with("type", "error");
    for (ours, theirs) in [("from", "to"), ("to", "from"), ("id", "id")] {
        if let Some(value) = stanza.attribute(theirs) {
            answer.set(ours, value);
        }
    }
    answer.children.clone_from(&stanza.children);
    let kind = match condition {
        "remote-server-timeout" => "wait",
        _ => "cancel",
    };
    Some(
        answer.with_child(
            Element::new(COMPONENT_NS, "error")
                .with("type", kind)
                .with_child(Element::new(STANZA_ERRORS, condition)),
        ),
    )
}

impl Cluster {
    /// Whether the domain is served by this cluster.
    pub fn is_local(&self, domain: &str) -> bool {
        let mut local = self.config.domains.iter().chain(&self.config.conference_aliases);
        local.any(|local| local == domain)
    }

    /// One stanza from a linked component.
    pub(super) async fn from_component(
        self: &Arc<Self>,
        node: &Arc<Node>,
        link: &Arc<Link>,
        stanza: Element,
    ) -> Result<(), StreamError> {
        if stanza.ns != COMPONENT_NS || !["message", "presence", "iq"].contains(&stanza.name.as_str()) {
            return Err(StreamError(
                "unsupported-stanza-type",
                format!("{{{}}}{}", stanza.ns, stanza.name),
            ));
        }
        let (Some(from), Some(to)) = (stanza.attribute("from"), stanza.attribute("to")) else {
            return Err(StreamError("improper-addressing", "no from or no to".into()));
        };
        let (from_domain, to_domain) = (domain_of(from), domain_of(to));
        if self.is_local(&from_domain) {
            return Err(StreamError(
                "invalid-from",
                format!("`{from}` is an address of this cluster"),
            ));
        }
        if !link.carries() {
            node.router.lock().seen.refused += 1;
            if let Some(answer) = xcp::returned(&stanza) {
                let _ = link.send(Outgoing::Own(answer)).await;
            }
            return Ok(());
        }
        if to_domain == link.id {
            // In order with everything else on this link: proof that what came before was processed.
            link.count_echo();
            let _ = link.send(Outgoing::Stanza(stanza)).await;
            return Ok(());
        }
        if !self.is_local(&to_domain) {
            node.router.lock().seen.refused += 1;
            if let Some(answer) = error_answer(&stanza, "remote-server-not-found") {
                let _ = link.send(Outgoing::Stanza(answer)).await;
            }
            return Ok(());
        }
        match self.users.deliver(&self.config.domains, &stanza) {
            Delivery::Taken => node.router.lock().seen.delivered += 1,
            Delivery::Answered(answer) => {
                node.router.lock().seen.delivered += 1;
                self.to_partner(node, answer).await;
            }
            Delivery::Refused(answer) => {
                node.router.lock().seen.refused += 1;
                if let Some(answer) = answer {
                    self.to_partner(node, answer).await;
                }
            }
        }
        Ok(())
    }

    /// One stanza of a user whose home is that node.
    pub async fn from_user(self: &Arc<Self>, home: &Arc<Node>, stanza: Element) -> Result<(), Refused> {
        if !home.router.is_started() {
            let text = format!("the XCP router of {} does not run: no session", home.name);
            return Err(Refused::NoSession(text));
        }
        let to = stanza.attribute("to");
        let to = to.ok_or_else(|| Refused::Invalid("the stanza has no `to`".to_owned()))?;
        if !self.is_local(&domain_of(to)) {
            self.to_partner(home, stanza).await;
            return Ok(());
        }
        match self.users.deliver(&self.config.domains, &stanza) {
            Delivery::Answered(answer) | Delivery::Refused(Some(answer)) => {
                self.users.deliver(&self.config.domains, &answer);
            }
            Delivery::Taken | Delivery::Refused(None) => {}
        }
        Ok(())
    }

    /// Towards a federated domain: over a component of this node, else of another; bounced where there is none.
    pub(super) async fn to_partner(self: &Arc<Self>, node: &Arc<Node>, mut stanza: Element) {
        while let Some((over, link)) = self.pick(node, &stanza) {
            match link.send(Outgoing::Stanza(stanza)).await {
                Ok(()) => {
                    over.router.lock().seen.sent += 1;
                    return;
                }
                Err(Outgoing::Stanza(back)) => stanza = back,
                Err(Outgoing::Own(_)) => return,
            }
        }
        self.bounce(node, &stanza, "remote-server-not-found");
    }

    fn pick(&self, node: &Arc<Node>, stanza: &Element) -> Option<(Arc<Node>, Arc<Link>)> {
        let spread = self.config.spread;
        let others = self.nodes.iter().filter(|other| other.name != node.name);
        std::iter::once(node).chain(others).find_map(|over| {
            let mut state = over.router.lock();
            let carrying = state.links.iter().filter(|link| link.carries());
            let links: Vec<Arc<Link>> = carrying.cloned().collect();
            if state.service(ROUTER).status != Status::Started || links.is_empty() {
                return None;
            }
            state.turn = state.turn.wrapping_add(1);
            let turn = match spread {
                Spread::RoundRobin => state.turn,
                Spread::Pair => {
                    let mut hasher = DefaultHasher::new();
                    (stanza.attribute("from"), stanza.attribute("to")).hash(&mut hasher);
                    usize::try_from(hasher.finish() >> 32).unwrap_or(0)
                }
            };
            let link = links.get(turn % links.len())?.clone();
            drop(state);
            Some((over.clone(), link))
        })
    }

    /// Back to the user who sent it.
    pub(super) fn bounce(&self, node: &Node, stanza: &Element, condition: &str) {
        node.router.lock().seen.bounced += 1;
        if let Some(answer) = error_answer(stanza, condition) {
            self.users.deliver(&self.config.domains, &answer);
        }
    }
}
