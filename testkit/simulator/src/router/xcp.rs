//! Profile `Xcp`, after a public capture of a Jabber XCP router: its stream header, announcements of components,
//! requests to its config manager, and stanzas in `<route/>`.
//!
//! What the capture does not show is decided here, the strict way:
//!
//! - a `<route/>` holds one element and nothing else, has a type that is known, goes where its stanza goes, and comes from
//!   the component or from where its stanza comes; anything else ends the stream, since a real router would do with it
//!   what nobody can know
//! - messages and presence come in a `<route/>`; an iq and an xdb may come without
//! - to a component, every second iq of a link goes without a `<route/>`, all other stanzas in one
//! - a component whose id the router has not loaded is taken and announced, without `<default-gateway/>`; users' stanzas
//!   are not sent to it (they bounce with `remote-server-not-found` if no other component takes them), and what it sends
//!   itself comes back as the error `service-unavailable` in a route of type `error`. The same before it has announced
//!   itself
//! - a component hears of the router's own connection manager and of all others that have announced themselves, before
//!   and after it announces itself; those hear of it. A component never hears of itself

use super::link::{COMPONENT_NS, Link, Outgoing, STREAM_NS, StreamError};
use super::routing::error_answer;
use crate::calls::Call;
use crate::cluster::{Cluster, Node};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use testkit_base::xml::{Element, escape};

/// Where components announce themselves.
const PRESENCE: &str = "presence@-internal";
/// The config manager.
const CONFIG: &str = "config@-internal";
const CONFIG_NS: &str = "config-manager";
const COMPONENT_PRESENCE: &str = "component-presence";
const SCHEMA: &str = "http://www.jabber.com/schemas/component-presence.xsd";
/// The router's own connection manager, announced like everybody else.
const CONNECTION_MANAGER: &str = "cm-1.jabber";

/// The router's header and features.
pub(super) fn header(id: &str, stream_id: &str) -> String {
    format!(
        "<?xml version='1.0'?><stream:stream xmlns='{COMPONENT_NS}' xmlns:stream='{STREAM_NS}' from='{}' id='{stream_id}' \
         xmlns:jd='http://jabber.com/config/jabberd' jd:realm='jabber'><stream:features/>",
        escape(id)
    )
}

/// What a component's header must have besides its id.
pub(super) fn check_header(header: &Element) -> Result<(), StreamError> {
    let attribute = |name| header.attribute(name).unwrap_or_default();
    if attribute("version") != "1.0" {
        return Err(StreamError(
            "unsupported-version",
            format!("version `{}` instead of 1.0", attribute("version")),
        ));
    }
    if attribute("id") != attribute("to") {
        return Err(StreamError(
            "improper-addressing",
            format!("id `{}` is not the component `{}`", attribute("id"), attribute("to")),
        ));
    }
    Ok(())
}

/// A `<route/>` around an element.
fn route(from: &str, to: &str, kind: &str, inside: Element) -> Element {
    Element::new(COMPONENT_NS, "route")
        .with("from", from)
        .with("to", to)
        .with("type", kind)
        .with_child(inside)
}

/// A stanza as it goes to a component.
pub(super) fn outgoing(link: &Link, stanza: &Element) -> String {
    let bare = stanza.name == "iq" && link.iqs.fetch_add(1, Ordering::Relaxed) % 2 == 1;
    if bare {
        return stanza.to_xml(COMPONENT_NS);
    }
    let address = |name| stanza.attribute(name).unwrap_or_default();
    route(address("from"), address("to"), "session", stanza.clone()).to_xml(COMPONENT_NS)
}

/// A component's announcement as the router sends it on to that link, of another component.
fn announcement(to: &Link, component: &str, hosts: &[String], gateway: bool) -> Element {
    let mut names = Element::new(SCHEMA, "local-hosts");
    for host in hosts {
        names = names.with_child(Element::new(SCHEMA, "host").with_text(host));
    }
    let mut x = Element::new(SCHEMA, "x")
        .with("protocol-version", "1.1")
        .with_child(names);
    if gateway {
        x = x.with_child(Element::new(SCHEMA, "default-gateway"));
    }
    let sequence = to.sequence.fetch_add(1, Ordering::Relaxed);
    let mut presence = Element::new(COMPONENT_NS, "presence")
        .with("from", component)
        .with("to", PRESENCE)
        .with("sequence", &format!("{sequence}:{}", to.epoch()))
        .with("config-ns", CONFIG_NS);
    if component == CONNECTION_MANAGER {
        presence = presence.with("comp-id", component);
    }
    presence.with_child(x)
}

impl Cluster {
    /// One element from a component of profile `Xcp`.
    pub(super) async fn from_xcp_component(
        self: &Arc<Self>,
        node: &Arc<Node>,
        link: &Arc<Link>,
        element: Element,
    ) -> Result<(), StreamError> {
        let unknown = |text: String| Err(StreamError("unsupported-stanza-type", text));
        if element.ns != COMPONENT_NS {
            return unknown(format!("{{{}}}{}", element.ns, element.name));
        }
        match element.name.as_str() {
            "route" => self.from_route(node, link, element).await,
            "xdb" => self.configuration(node, link, &element).await,
            "iq" => self.from_component(node, link, element).await,
            "presence" if element.attribute("to") == Some(PRESENCE) => self.announce(node, link, &element).await,
            name => unknown(format!("<{name}/> without <route/>")),
        }
    }

    async fn from_route(
        self: &Arc<Self>,
        node: &Arc<Node>,
        link: &Arc<Link>,
        envelope: Element,
    ) -> Result<(), StreamError> {
        let bad = |text: &str| Err(StreamError("bad-format", format!("a <route/> {text}")));
        let mut inside = envelope.elements();
        let (Some(stanza), None) = (inside.next(), inside.next()) else {
            return bad("without exactly one element");
        };
        if !envelope.text().trim().is_empty() {
            return bad("with text");
        }
        let (Some(from), Some(to), Some(kind)) = (
            envelope.attribute("from"),
            envelope.attribute("to"),
            envelope.attribute("type"),
        ) else {
            return bad("without from, to or type");
        };
        if from != link.id && Some(from) != stanza.attribute("from") {
            return bad("from somebody else than its stanza and its component");
        }
        if Some(to) != stanza.attribute("to") {
            return bad("to somebody else than its stanza");
        }
        let stanza = stanza.clone();
        match kind {
            COMPONENT_PRESENCE if to == PRESENCE && stanza.name == "presence" => {
                self.announce(node, link, &stanza).await
            }
            "session" | "auth" => self.from_component(node, link, stanza).await,
            kind => bad(&format!("of type `{kind}` to `{to}`")),
        }
    }

    /// A component says that it is there; everybody is told what the router's configuration says of it.
    async fn announce(&self, node: &Arc<Node>, link: &Arc<Link>, presence: &Element) -> Result<(), StreamError> {
        let from = presence.attribute("from").unwrap_or(&link.id);
        let said = presence.child("x");
        let proper = said.is_none_or(|x| x.ns == SCHEMA && x.attribute("protocol-version") == Some("1.1"));
        if from != link.id || !proper {
            return Err(StreamError(
                "bad-format",
                "an announcement of somebody else, or not of protocol version 1.1".into(),
            ));
        }
        link.announced.store(true, Ordering::Relaxed);
        let others: Vec<Arc<Link>> = node.router.lock().links.clone();
        for other in others.iter().filter(|other| !Arc::ptr_eq(other, link)) {
            let hosts = std::slice::from_ref(&link.id);
            let known = announcement(other, &link.id, hosts, link.gateway);
            let _ = other.send(Outgoing::Own(known)).await;
        }
        self.introduce(node, link).await;
        Ok(())
    }

    /// A component hears of all others.
    pub(super) async fn introduce(&self, node: &Arc<Node>, link: &Arc<Link>) {
        let manager = announcement(link, CONNECTION_MANAGER, &self.config.domains, false);
        let _ = link.send(Outgoing::Own(manager)).await;
        let others: Vec<Arc<Link>> = node.router.lock().links.clone();
        for other in others {
            if !Arc::ptr_eq(&other, link) && other.announced.load(Ordering::Relaxed) {
                let hosts = std::slice::from_ref(&other.id);
                let known = announcement(link, &other.id, hosts, other.gateway);
                let _ = link.send(Outgoing::Own(known)).await;
            }
        }
    }

    /// The config manager answers whoever asks, which is why 7400 must never be exposed; the edge must not ask.
    async fn configuration(&self, node: &Arc<Node>, link: &Arc<Link>, xdb: &Element) -> Result<(), StreamError> {
        let attribute = |name| xdb.attribute(name).unwrap_or_default();
        let asked = xdb.child("config").and_then(|config| config.attribute("id"));
        let proper = (attribute("to"), attribute("ns"), attribute("type")) == (CONFIG, CONFIG_NS, "get")
            && attribute("from") == link.id;
        let (Some(asked), true) = (asked, proper) else {
            return Err(StreamError(
                "bad-format",
                "an <xdb/> that asks for no configuration".into(),
            ));
        };
        node.router.lock().seen.config_requests += 1;
        let known = node.router.lock().loaded.contains(asked);
        let outcome = if known { "ok" } else { "not known" };
        let call = Call::new(&node.name, "xcp", "xdb get config", asked, outcome, "ok");
        self.calls.record(call);
        let mut config = Element::new(COMPONENT_NS, "config").with("id", asked);
        if known {
            let secret = Element::new(COMPONENT_NS, "secret").with_text(&self.config.router_secret);
            config = config.with_child(secret);
        }
        let answer = Element::new(COMPONENT_NS, "xdb")
            .with("from", CONFIG)
            .with("to", &link.id)
            .with("id", attribute("id"))
            .with("ns", CONFIG_NS)
            .with("type", if known { "result" } else { "error" })
            .with_child(config);
        let _ = link.send(Outgoing::Own(answer)).await;
        Ok(())
    }
}

/// What a component that is no gateway gets back for a stanza; `None` where an answer is forbidden.
pub(super) fn returned(stanza: &Element) -> Option<Element> {
    let answer = error_answer(stanza, "service-unavailable")?;
    let address = |name| answer.attribute(name).unwrap_or_default().to_owned();
    Some(route(&address("from"), &address("to"), "error", answer))
}
