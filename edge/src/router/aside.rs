//! What a router says to its components besides the stanzas of users: requests between its own
//! parts, data, announcements, answers to handshakes. An edge has no use for any of it. It is
//! dropped and counted by name.

use crate::jid::domain_part;
use xmpp_federation_xml::{Element, ns};

/// The domain of the router's own parts, `presence@-internal` for one.
pub(super) const INTERNAL: &str = "-internal";
/// An announcement of a component that is not ours.
pub(super) const ANNOUNCEMENT: &str = "announcement";
/// Something that no router is known to say.
pub(super) const OTHER: &str = "other";

/// The word for an element that is no stanza.
pub(super) fn of(element: &Element) -> &'static str {
    const KNOWN: [&str; 4] = ["xdb", "data", "x", "handshake"];
    let known = KNOWN.into_iter().find(|known| *known == element.name());
    known.unwrap_or(OTHER)
}

/// The word for an element of a router that has not answered the handshake yet.
pub(super) fn before_the_handshake(element: &Element) -> &'static str {
    of_stanza(element).unwrap_or_else(|| of(element))
}

/// The word for a stanza from or to one of the router's own parts; `None` for any other.
pub(super) fn of_stanza(stanza: &Element) -> Option<&'static str> {
    let [from, to] = [stanza.from(), stanza.to()]
        .map(|address| address.is_some_and(|address| domain_part(&address).eq_ignore_ascii_case(INTERNAL)));
    (from || to).then(|| {
        if stanza.is(ns::COMPONENT, "presence") {
            ANNOUNCEMENT
        } else {
            "internal"
        }
    })
}
