//! How a probe without configuration speaks TLS: it shows no certificate, and takes any whose key
//! signed the handshake; what the certificate proves is judged afterwards, as everywhere.

use std::sync::Arc;

use rustls::ClientConfig;

use crate::tls::SignatureOnly;

/// TLS 1.2 and 1.3 without a certificate of ours.
pub(super) fn client() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = SignatureOnly(provider.signature_verification_algorithms);
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}
