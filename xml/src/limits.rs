//! How much a peer may send at once.

/// Bounds that the [`Framer`](super::Framer) enforces; going beyond one of them
/// is `policy-violation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one top-level element, or of a stream header, from `<` to `>`.
    pub max_stanza_bytes: usize,
    /// Nested elements; the top-level element is at depth 1.
    pub max_depth: usize,
    /// Attributes of one start tag, namespace declarations included.
    pub max_attributes: usize,
    /// Prefixes that one top-level element may have in scope at once, those of the header not
    /// counted; the header itself: at most [`Limits::HEADER_PREFIXES`].
    pub max_namespaces: usize,
    /// Bytes of one element or attribute name, prefix included.
    pub max_name_bytes: usize,
}

impl Limits {
    /// Prefixes that a stream header can bind: which of them an element uses is a bit set.
    pub const HEADER_PREFIXES: usize = 64;

    /// Bytes of the language that a stream header declares, which goes along with each element that
    /// declares none. Longer than any tag that is registered.
    pub const HEADER_LANGUAGE: usize = 64;

    /// Bytes of the prefixes that a stream header binds and of their namespaces together, as they
    /// are written: those that an element uses go along with it.
    pub const HEADER_NAMES: usize = 2048;

    /// Before the peer is authenticated: header, features, STARTTLS, SASL, dialback.
    pub const fn negotiation() -> Self {
        Self {
            max_stanza_bytes: 8 * 1024,
            max_depth: 8,
            max_attributes: 32,
            max_namespaces: 16,
            max_name_bytes: 128,
        }
    }

    /// After authentication. RFC 6120 §13.12 asks for 10 000 bytes or more.
    pub const fn stanzas(max_stanza_bytes: usize) -> Self {
        Self {
            max_stanza_bytes,
            max_depth: 64,
            max_attributes: 64,
            max_namespaces: 32,
            max_name_bytes: 256,
        }
    }

    /// The limits as far as the framer can go: positions are 32 bits wide, namespaces 16.
    pub(super) fn bounded(self) -> Self {
        Self {
            max_stanza_bytes: self.max_stanza_bytes.min(1 << 30),
            max_namespaces: self.max_namespaces.min(1 << 15),
            ..self
        }
    }
}
