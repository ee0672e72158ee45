//! What a certificate of the own authority says, for its renewal.

use x509_parser::pem::Pem;
use xmpp_federation_core::Domain;
use xmpp_federation_core::certificate::CertificateNames;

/// The facts of a leaf certificate that people ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
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

/// Reads the first certificate of a PEM text.
pub fn inspect(pem: &str) -> Result<CertificateInfo, Unreadable> {
    let block = Pem::iter_from_buffer(pem.as_bytes())
        .filter_map(Result::ok)
        .find(|block| block.label == "CERTIFICATE")
        .ok_or_else(|| Unreadable("no such block found".to_owned()))?;
    let certificate = block.parse_x509().map_err(|e| Unreadable(e.to_string()))?;
    let time = |t: x509_parser::time::ASN1Time| {
        jiff::Timestamp::from_second(t.timestamp()).map_err(|e| Unreadable(e.to_string()))
    };
    Ok(CertificateInfo {
        not_after: time(certificate.validity().not_after)?,
        issuer: certificate.issuer().to_string(),
        names: CertificateNames::of(&certificate),
    })
}
