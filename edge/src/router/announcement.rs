//! The announcements of profile Xcp: the components that are connected, and their namespaces.
//!
//! A component announces itself to `presence@-internal`. The router sends that on to all other
//! components, never to the announced one, with what its own configuration says of that component
//! id: `<local-hosts>`, and `<default-gateway/>` if it is the way to foreign domains. Only the
//! router's configuration decides; it is read when the router starts. Where in the announcement
//! these two stand is not published, so they are found wherever they stand.
//!
//! So a link learns nothing about its own component. Its announcement shows on the links of other
//! replicas, which the operator reads, and perhaps on the link to another node, if the cluster
//! passes announcements on.

use super::aside::INTERNAL;
use crate::jid::domain_part;
use xmpp_federation_xml::{Element, Node, XmlWriter, ns};

/// Where components announce themselves.
const PRESENCE: &str = "presence@-internal";
/// Type of an announcement's envelope.
pub(super) const TYPE: &str = "component-presence";
const SCHEMA: &str = "http://www.jabber.com/schemas/component-presence.xsd";

/// What the router says of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Announcement {
    /// Stanzas to foreign domains are sent to it.
    pub(super) gateway: bool,
    /// Names in `<local-hosts>`.
    pub(super) local_hosts: usize,
}

/// Our own announcement, in its envelope.
pub(super) fn announce(own: &str) -> String {
    let mut w = XmlWriter::new();
    w.start("route")
        .attr("from", own)
        .attr("to", PRESENCE)
        .attr("type", TYPE);
    w.start("presence").attr("from", own).attr("to", PRESENCE);
    w.start("x").attr("xmlns", SCHEMA).attr("protocol-version", "1.1");
    w.end().end().end();
    // A component id has only characters that XML can express.
    w.finish().unwrap_or_default()
}

/// Whether an element is presence of a component, and not of a user; `envelope` is the type of the
/// envelope that it came in.
pub(super) fn is_announcement(element: &Element, envelope: Option<&str>, own: &str) -> bool {
    if !element.is(ns::COMPONENT, "presence") {
        return false;
    }
    let is = |address: Option<&str>, domain: &str| {
        address.is_some_and(|address| domain_part(address).eq_ignore_ascii_case(domain))
    };
    let (from, to) = (element.from(), element.to());
    let of_a_user = from.as_deref().is_none_or(|from| from.contains('@'));
    envelope == Some(TYPE)
        || is(from.as_deref(), own)
        || is(to.as_deref(), INTERNAL)
        || (is(to.as_deref(), own) && !of_a_user)
}

/// What a component's presence says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// It is there.
    There(Announcement),
    /// It has gone.
    Gone,
    /// Neither.
    Nothing,
}

/// What the presence of a component says of it.
pub(super) fn read(presence: &Element) -> Presence {
    match presence.type_().as_deref() {
        None => {
            let mut found = Announcement {
                gateway: false,
                local_hosts: 0,
            };
            if let Ok(node) = presence.parse() {
                look(&node, &mut found);
            }
            Presence::There(found)
        }
        Some("unavailable") => Presence::Gone,
        Some(_) => Presence::Nothing,
    }
}

/// Trees are at most as deep as the strict parser lets them be.
fn look(node: &Node, found: &mut Announcement) {
    for child in node.children() {
        match child.name.as_str() {
            "default-gateway" => found.gateway = true,
            "local-hosts" => {
                let names = child.children().filter(|c| c.name != "default-gateway");
                let listed = names.count();
                let written = child.text().split_whitespace().count();
                found.local_hosts += listed.max(written);
            }
            _ => {}
        }
        look(child, found);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;
    use xmpp_federation_xml::split;

    const OWN: &str = "cm-2_s2scp-1.eft-xwye-a-coluc-com";

    #[test]
    fn we_announce_ourselves_as_the_capture_shows_it() {
        assert_eq!(
            announce("cm-1.jabber"),
            "<route from='cm-1.jabber' to='presence@-internal' type='component-presence'>\
             <presence from='cm-1.jabber' to='presence@-internal'>\
             <x xmlns='http://www.jabber.com/schemas/component-presence.xsd' protocol-version='1.1'/>\
             </presence></route>"
        );
    }

    #[rstest]
    #[case::none("", false, 0)]
    #[case::not_yet("<x xmlns='urn:x'><local-hosts><host>a</host></local-hosts></x>", false, 1)]
    #[case::gateway(
        "<x xmlns='urn:x'><local-hosts><host>a</host><host>b</host></local-hosts><default-gateway/></x>",
        true,
        2
    )]
    #[case::gateway_among_the_hosts(
        "<x xmlns='urn:x'><local-hosts><host>a</host><default-gateway/></local-hosts></x>",
        true,
        1
    )]
    #[case::hosts_as_text("<x xmlns='urn:x'><local-hosts>a b\nc</local-hosts></x>", false, 3)]
    #[case::one_by_one(
        "<local-hosts>a</local-hosts><local-hosts>b</local-hosts><default-gateway xmlns='urn:y'/>",
        true,
        2
    )]
    #[case::said_in_text("<x xmlns='urn:x'>&lt;default-gateway/></x>", false, 0)]
    fn what_the_router_says_of_a_component_is_found_wherever_it_stands(
        #[case] inside: &str,
        #[case] gateway: bool,
        #[case] local_hosts: usize,
    ) {
        let xml = format!("<presence from='{OWN}' to='{OWN}'>{inside}</presence>");
        let element = split(xml.as_bytes(), ns::COMPONENT).remove(0);
        assert!(is_announcement(&element, None, OWN));
        let expected = Announcement { gateway, local_hosts };
        assert_eq!(read(&element), Presence::There(expected));
    }

    #[rstest]
    #[case::another_component(
        "<presence from='cm-1.jabber' to='presence@-internal'><default-gateway/></presence>",
        None,
        true,
        Some(true)
    )]
    #[case::with_the_routers_own_attributes(
        "<presence from='cm-1.jabber' to='presence@-internal' sequence='7:1203010001' config-ns='config-manager' comp-id='cm-1'/>",
        None,
        true,
        Some(false)
    )]
    #[case::to_us(
        "<presence from='cm-1.jabber' to='CM-2_s2scp-1.eft-xwye-a-coluc-com'><default-gateway/></presence>",
        None,
        true,
        Some(true)
    )]
    #[case::by_its_envelope("<presence from='cm-1.jabber'/>", Some(TYPE), true, Some(false))]
    #[case::gone(
        "<presence type='unavailable' from='cm-2_s2scp-1.eft-xwye-a-coluc-com'><default-gateway/></presence>",
        None,
        true,
        None
    )]
    #[case::of_a_user(
        "<presence from='alice@coluc.com' to='bob@vngtp.lab' type='probe'><default-gateway/></presence>",
        Some("session"),
        false,
        None
    )]
    #[case::of_a_user_to_us(
        "<presence from='alice@coluc.com' to='cm-2_s2scp-1.eft-xwye-a-coluc-com'/>",
        None,
        false,
        Some(false)
    )]
    #[case::no_presence(
        "<message from='cm-2_s2scp-1.eft-xwye-a-coluc-com'/>",
        Some(TYPE),
        false,
        Some(false)
    )]
    fn only_presence_of_components_is_an_announcement(
        #[case] xml: &str,
        #[case] envelope: Option<&str>,
        #[case] is: bool,
        #[case] gateway: Option<bool>,
    ) {
        let element = split(xml.as_bytes(), ns::COMPONENT).remove(0);
        assert_eq!(is_announcement(&element, envelope, OWN), is);
        let found = match read(&element) {
            Presence::There(announcement) => Some(announcement.gateway),
            Presence::Gone | Presence::Nothing => None,
        };
        assert_eq!(found, gateway);
    }
}
