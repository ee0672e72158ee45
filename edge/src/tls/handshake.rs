//! What a handshake itself checks: the peer holds the key of the certificate it shows, as far as a
//! library can tell, and its chain is not longer than is kept.

use std::cell::Cell;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use xmpp_federation_core::peer_key::{Possession, Version, verify};

/// Bytes of all certificates that a peer may show. The library keeps them as long as the
/// connection lives, and a stranger may have many of those.
const LONGEST_CHAIN: usize = 16 * 1024;

thread_local! {
    static PROVEN: Cell<bool> = const { Cell::new(false) };
}

/// Whether a handshake of this thread has proven the peer's key since this was asked last.
pub fn key_was_proven() -> bool {
    PROVEN.take()
}

/// Accepts every certificate whose key signed the handshake, and those whose key no library can
/// verify with ([`key_was_proven`]); everything else is judged later.
#[derive(Debug)]
pub(crate) struct SignatureOnly(pub(crate) WebPkiSupportedAlgorithms);

impl SignatureOnly {
    fn check_signature(
        &self,
        version: Version,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let possession = verify(version, message, certificate, signature, &self.0)?;
        PROVEN.set(possession == Possession::Proven);
        Ok(HandshakeSignatureValid::assertion())
    }
}

fn check_length(leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
    let length = leaf.len() + others.iter().map(|der| der.len()).sum::<usize>();
    if length > LONGEST_CHAIN {
        let reason = format!(
            "its certificates have {length} bytes, more than the {LONGEST_CHAIN} that are taken; it should show those of its chain only"
        );
        return Err(rustls::Error::General(reason));
    }
    Ok(())
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.check_signature(Version::Tls12, message, certificate, signature)
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.check_signature(Version::Tls13, message, certificate, signature)
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_schemes()
        }
    };
}

impl ServerCertVerifier for SignatureOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        check_length(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }
    signatures!();
}

impl ClientCertVerifier for SignatureOnly {
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: they would be long, and peers show what they have.
        &[]
    }
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        check_length(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }
    signatures!();
}
