//! Stream error conditions (RFC 6120 §4.9.3) and the error of reading XML.

/// Defined condition of a stream error, RFC 6120 §4.9.3.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum StreamErrorCondition {
    /// §4.9.3.1: the XML cannot be processed as a stream.
    BadFormat,
    /// §4.9.3.2: a prefix is missing where one is needed, or not supported.
    BadNamespacePrefix,
    /// §4.9.3.3: a newer stream replaces this one.
    Conflict,
    /// §4.9.3.4: the peer was silent for too long.
    ConnectionTimeout,
    /// §4.9.3.5: the domain was served here and is no longer.
    HostGone,
    /// §4.9.3.6: the domain is not served here.
    HostUnknown,
    /// §4.9.3.7: `to` or `from` of a stanza is missing or malformed.
    ImproperAddressing,
    /// §4.9.3.8: our fault.
    InternalServerError,
    /// §4.9.3.9: `from` is not a domain authenticated on this stream.
    InvalidFrom,
    /// §4.9.3.10: the stream or content namespace is not the expected one.
    InvalidNamespace,
    /// §4.9.3.11: XML that violates the protocol's schema.
    InvalidXml,
    /// §4.9.3.12: the peer is not authorised for what it sent.
    NotAuthorized,
    /// §4.9.3.13: violates XML 1.0 or Namespaces in XML 1.0.
    NotWellFormed,
    /// §4.9.3.14: violates a local rule, for example a size limit.
    PolicyViolation,
    /// §4.9.3.15: a server that must be asked cannot be reached.
    RemoteConnectionFailed,
    /// §4.9.3.16: the stream is closed so that another is negotiated.
    Reset,
    /// §4.9.3.17: not enough resources.
    ResourceConstraint,
    /// §4.9.3.18: comment, processing instruction, DTD or entity.
    RestrictedXml,
    /// §4.9.3.19: redirect; never followed here.
    SeeOtherHost,
    /// §4.9.3.20: the server is stopping.
    SystemShutdown,
    /// §4.9.3.21: none of the others.
    UndefinedCondition,
    /// §4.9.3.22: not UTF-8, or ill-formed UTF-8.
    UnsupportedEncoding,
    /// §4.9.3.23: a mandatory feature is not supported.
    UnsupportedFeature,
    /// §4.9.3.24: a top-level element that is not understood.
    UnsupportedStanzaType,
    /// §4.9.3.25: the `version` of the stream is not supported.
    UnsupportedVersion,
}

impl StreamErrorCondition {
    /// Element name of the condition in `urn:ietf:params:xml:ns:xmpp-streams`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Why the bytes of a stream were refused. The stream cannot go on after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{condition}: {reason} (at byte {offset} of the stream)")]
pub struct XmlError {
    /// What is sent to the peer.
    pub condition: StreamErrorCondition,
    /// What was wrong, for the log and the error's `text`. Holds no peer data.
    pub reason: &'static str,
    /// Bytes of the stream before the refused one, counted from the last (re)start.
    pub offset: u64,
}
