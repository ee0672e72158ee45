//! TLS: settings of both directions and the judgement of peers' certificates.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use xmpp_federation_core::Domain;

/// What the snapshot holds about TLS.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// For streams that peers open; `None` when TLS is disabled. Asks for a client certificate
    /// without demanding one; chain and name are judged by [`TlsSettings::judge`].
    pub server: Option<Arc<rustls::ServerConfig>>,
    /// For streams we open. Checks the handshake signature only; chain and name are judged by
    /// [`TlsSettings::judge`].
    pub client: Option<Arc<rustls::ClientConfig>>,
    /// SHA-256 of the leaf certificate shown first, lower-case hexadecimal.
    pub leaf_sha256: Option<String>,
}

/// What a peer's certificate proves about a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Chain and name hold.
    Valid,
    /// None was shown.
    Missing,
    /// Why it proves nothing, as a sentence.
    Invalid(String),
}

impl TlsSettings {
    /// Judges a chain, leaf first, against a domain.
    pub fn judge(&self, chain: &[CertificateDer<'_>], _domain: &Domain) -> Verdict {
        if chain.is_empty() {
            Verdict::Missing
        } else {
            Verdict::Invalid("the chain has not been checked against any authority".to_owned())
        }
    }
}
