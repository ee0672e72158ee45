//! What a certificate of the own authority says, for its renewal.

use rcgen::{KeyPair, PublicKeyData as _};
use x509_parser::pem::Pem;
use xmpp_federation_core::certificate::CertificateNames;
use xmpp_federation_core::{Domain, SecretBytes};

/// The facts of a leaf certificate that people ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Begin of validity.
    pub not_before: jiff::Timestamp,
    /// End of validity.
    pub not_after: jiff::Timestamp,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// The names it proves.
    pub names: CertificateNames,
}

impl CertificateInfo {
    /// Which of these domains the certificate does not prove.
    pub fn missing<'a>(&self, wanted: &'a [Domain]) -> Vec<&'a Domain> {
        wanted.iter().filter(|domain| !self.names.cover(domain)).collect()
    }
}

/// Not a certificate that can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no readable PEM certificate: {0}; expected a block BEGIN CERTIFICATE with the leaf first")]
pub struct Unreadable(String);

/// Whether a key, PEM, is that of the first certificate of a text.
pub fn fits(pem: &str, key: &SecretBytes) -> bool {
    let fits = || {
        let (block, key) = (
            first(pem).ok()?,
            KeyPair::from_pem(std::str::from_utf8(key.expose()).ok()?).ok()?,
        );
        let certificate = block.parse_x509().ok()?;
        Some(certificate.public_key().raw == key.subject_public_key_info())
    };
    fits().unwrap_or(false)
}

/// Whether the key of the first certificate of `authority` signed that of `pem`.
pub fn signed_by(pem: &str, authority: &str) -> bool {
    let signed = || {
        let (block, authority) = (first(pem).ok()?, first(authority).ok()?);
        let (certificate, authority) = (block.parse_x509().ok()?, authority.parse_x509().ok()?);
        let named = certificate.issuer().as_raw() == authority.subject().as_raw();
        Some(named && certificate.verify_signature(Some(authority.public_key())).is_ok())
    };
    signed().unwrap_or(false)
}

fn first(pem: &str) -> Result<Pem, Unreadable> {
    Pem::iter_from_buffer(pem.as_bytes())
        .filter_map(Result::ok)
        .find(|block| block.label == "CERTIFICATE")
        .ok_or_else(|| Unreadable("no such block found".to_owned()))
}

/// Reads the first certificate of a PEM text.
pub fn inspect(pem: &str) -> Result<CertificateInfo, Unreadable> {
    let block = first(pem)?;
    let certificate = block.parse_x509().map_err(|e| Unreadable(e.to_string()))?;
    let time = |t: x509_parser::time::ASN1Time| {
        jiff::Timestamp::from_second(t.timestamp()).map_err(|e| Unreadable(e.to_string()))
    };
    Ok(CertificateInfo {
        not_before: time(certificate.validity().not_before)?,
        not_after: time(certificate.validity().not_after)?,
        issuer: certificate.issuer().to_string(),
        names: CertificateNames::of(&certificate),
    })
}
