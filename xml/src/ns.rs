//! Namespace names of the field.

/// Stream root, features and errors (RFC 6120 §4.8.1).
pub const STREAMS: &str = "http://etherx.jabber.org/streams";
/// Content of server-to-server streams.
pub const SERVER: &str = "jabber:server";
/// Content of component links (XEP-0114).
pub const COMPONENT: &str = "jabber:component:accept";
/// Content of client streams.
pub const CLIENT: &str = "jabber:client";
/// Dialback elements (XEP-0220).
pub const DIALBACK: &str = "jabber:server:dialback";
/// Dialback stream feature (XEP-0220).
pub const DIALBACK_FEATURE: &str = "urn:xmpp:features:dialback";
/// STARTTLS (RFC 6120 §5).
pub const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
/// SASL (RFC 6120 §6).
pub const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
/// Defined conditions of stream errors (RFC 6120 §4.9).
pub const STREAM_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
/// Defined conditions of stanza errors (RFC 6120 §8.3).
pub const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
/// Stream limits (XEP-0478).
pub const STREAM_LIMITS: &str = "urn:xmpp:stream-limits:0";
/// Bound to the prefix `xml`, for ever.
pub const XML: &str = "http://www.w3.org/XML/1998/namespace";
/// Bound to the prefix `xmlns`, for ever.
pub const XMLNS: &str = "http://www.w3.org/2000/xmlns/";

/// Names that are kept without allocation.
pub(super) const KNOWN: [&str; 12] = [
    "",
    SERVER,
    COMPONENT,
    STREAMS,
    DIALBACK,
    DIALBACK_FEATURE,
    TLS,
    SASL,
    STREAM_ERRORS,
    STANZA_ERRORS,
    STREAM_LIMITS,
    CLIENT,
];
