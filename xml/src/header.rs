//! The stream header and what it leaves in force for every element of the stream.

use std::fmt;
use std::sync::Arc;

use super::ns;

/// A namespace name; cheap to clone, the names of the field are not allocated.
#[derive(Clone)]
pub enum NsName {
    /// One of the names in [`ns`].
    Known(&'static str),
    /// Any other name.
    Other(Arc<str>),
}

impl NsName {
    /// The empty name: no namespace.
    pub const NONE: Self = Self::Known("");

    /// Holds `name`.
    pub fn new(name: &str) -> Self {
        ns::KNOWN
            .iter()
            .find(|known| **known == name)
            .map_or_else(|| Self::Other(name.into()), |known| Self::Known(known))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(name) => name,
            Self::Other(name) => name,
        }
    }
}

impl Default for NsName {
    fn default() -> Self {
        Self::NONE
    }
}

impl PartialEq for NsName {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for NsName {}

impl fmt::Debug for NsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for NsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a stream header puts in scope for the elements of its stream.
#[derive(Debug, Default)]
pub struct StreamContext {
    /// Name of the root as written, `stream:stream`; the closing tag must match it.
    pub(super) root: Box<[u8]>,
    /// Namespace without prefix, `jabber:server` as a rule; empty when none is declared.
    pub(super) default_ns: NsName,
    /// Prefixes and their namespaces, in the order of the header; at most 64.
    pub(super) prefixes: Vec<(Box<str>, NsName)>,
    /// `xml:lang` of the header.
    pub(super) lang: Option<Box<str>>,
    /// Bit `i` is set when prefix `i` is bound to the default namespace.
    pub(super) default_ns_prefixes: u64,
}

impl StreamContext {
    /// A context without a stream, for elements read on their own.
    pub fn new(default_ns: &str, prefixes: &[(&str, &str)], lang: Option<&str>) -> Self {
        let prefixes: Vec<_> = prefixes
            .iter()
            .take(64)
            .map(|(prefix, name)| ((*prefix).into(), NsName::new(name)))
            .collect();
        Self {
            root: Box::default(),
            default_ns_prefixes: bound_to(&prefixes, default_ns),
            default_ns: NsName::new(default_ns),
            prefixes,
            lang: lang.map(Into::into),
        }
    }

    /// Namespace of elements without prefix and without own declaration.
    pub fn default_ns(&self) -> &str {
        self.default_ns.as_str()
    }

    /// Prefixes declared on the header, with their namespaces.
    pub fn prefixes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.prefixes.iter().map(|(p, n)| (&**p, n.as_str()))
    }

    /// `xml:lang` of the header.
    pub fn lang(&self) -> Option<&str> {
        self.lang.as_deref()
    }
}

/// Bit set of the prefixes bound to `name`.
pub(super) fn bound_to(prefixes: &[(Box<str>, NsName)], name: &str) -> u64 {
    prefixes
        .iter()
        .take(64)
        .enumerate()
        .filter(|(_, (_, n))| n.as_str() == name)
        .fold(0, |bits, (i, _)| bits | 1 << i)
}

/// A peer's stream header (RFC 6120 §4.7), well-formed and in the streams namespace.
///
/// Everything else about it is for the reader to judge: `default_ns`
/// (`invalid-namespace`), `version`, addresses.
#[derive(Debug, Clone)]
pub struct StreamHeader {
    /// `from`.
    pub from: Option<String>,
    /// `to`.
    pub to: Option<String>,
    /// `id`.
    pub id: Option<String>,
    /// `version`; `None` means a server from before XMPP 1.0.
    pub version: Option<String>,
    /// `xml:lang`.
    pub lang: Option<String>,
    /// Namespaces in force below the header.
    pub context: Arc<StreamContext>,
}

impl StreamHeader {
    /// Content namespace: the default namespace of the header, `jabber:server` as a rule.
    pub fn default_ns(&self) -> &str {
        self.context.default_ns()
    }

    /// Does the header bind some prefix to this namespace (dialback: RFC-era peers announce it so)?
    pub fn declares(&self, namespace: &str) -> bool {
        self.context.prefixes().any(|(_, n)| n == namespace)
    }
}
