//! Which domains a certificate proves (RFC 6125, RFC 6120 section 13.7.1.2, RFC 7590).
//!
//! Only a dNSName (one left-most wildcard label) counts, never the common name. SRVName
//! `_xmpp-server.domain` and xmppAddr prove nothing by themselves: constraints of an authority to
//! certain names do not reach them, so an authority that may issue for one domain could name any.

use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Domain;

/// The names in a certificate that can prove a domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateNames {
    exact: Vec<Domain>,
    /// The part behind `*.`.
    wildcard: Vec<Domain>,
    /// By SRVName and xmppAddr only.
    other: Vec<Domain>,
}

/// A certificate that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificate is not readable X.509 DER: {0}")]
pub struct UnreadableCertificate(String);

/// id-on-dnsSRV (RFC 4985).
const SRV_NAME: &str = "1.3.6.1.5.5.7.8.7";
/// id-on-xmppAddr (RFC 6120 section 13.7.1.4).
const XMPP_ADDR: &str = "1.3.6.1.5.5.7.8.5";

impl CertificateNames {
    /// Collects the names of a DER-encoded certificate. Names that are no domains are left out.
    pub fn from_der(der: &[u8]) -> Result<Self, UnreadableCertificate> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|e| UnreadableCertificate(e.to_string()))?;
        Ok(Self::of(&certificate))
    }

    /// The same of a certificate that was read.
    pub fn of(certificate: &X509Certificate<'_>) -> Self {
        let mut names = Self::default();
        for extension in certificate.extensions() {
            let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() else {
                continue;
            };
            for name in &san.general_names {
                match name {
                    GeneralName::DNSName(text) => names.add_dns(text),
                    GeneralName::OtherName(oid, value) => {
                        let oid = oid.to_id_string();
                        if let Some(text) = other_name_text(value) {
                            if oid == SRV_NAME {
                                if let Some(text) = text.strip_prefix("_xmpp-server.") {
                                    names.other.extend(Domain::parse(text).ok());
                                }
                            } else if oid == XMPP_ADDR {
                                names.other.extend(Domain::parse(&text).ok());
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        names
    }

    fn add_dns(&mut self, text: &str) {
        match text.strip_prefix("*.") {
            Some(rest) => self.wildcard.extend(Domain::parse(rest).ok()),
            None => self.add_exact(text),
        }
    }

    fn add_exact(&mut self, text: &str) {
        self.exact.extend(Domain::parse(text).ok());
    }

    /// Whether the certificate proves this domain; a wildcard stands for exactly one label.
    pub fn cover(&self, domain: &Domain) -> bool {
        self.exact.contains(domain)
            || domain
                .as_str()
                .split_once('.')
                .is_some_and(|(_, rest)| self.wildcard.iter().any(|w| w.as_str() == rest))
    }

    /// Whether the domain is named in a way that proves nothing by itself.
    pub fn only_mention(&self, domain: &Domain) -> bool {
        self.other.contains(domain) && !self.cover(domain)
    }

    /// The names as they would be listed for a person.
    pub fn list(&self) -> Vec<String> {
        let wildcards = self.wildcard.iter().map(|w| format!("*.{w}"));
        self.exact.iter().map(ToString::to_string).chain(wildcards).collect()
    }
}

/// The text inside an OtherName's `[0] EXPLICIT` value: IA5String or UTF8String.
fn other_name_text(value: &[u8]) -> Option<String> {
    let inner = |bytes: &[u8], tags: &[u8]| -> Option<Vec<u8>> {
        let (&tag, rest) = bytes.split_first()?;
        let (&length, rest) = rest.split_first()?;
        // Short form only: no domain needs more than 127 bytes of a name here, save odd ones.
        let (length, rest) = match length {
            0..=0x7f => (usize::from(length), rest),
            0x81 => {
                let (&length, rest) = rest.split_first()?;
                (usize::from(length), rest)
            }
            _ => return None,
        };
        (tags.contains(&tag) && rest.len() >= length).then(|| rest.iter().take(length).copied().collect())
    };
    let explicit = inner(value, &[0xa0])?;
    String::from_utf8(inner(&explicit, &[0x0c, 0x16])?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};
    use rstest::rstest;

    fn names(sans: Vec<SanType>) -> CertificateNames {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "cn-only.example");
        params.subject_alt_names = sans;
        let key = KeyPair::generate().unwrap();
        CertificateNames::from_der(params.self_signed(&key).unwrap().der()).unwrap()
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    fn other(oid: &[u64], text: &str) -> SanType {
        SanType::OtherName((oid.to_vec(), rcgen::OtherNameValue::Utf8String(text.to_owned())))
    }

    #[rstest]
    #[case(dns("coluc.com"), "coluc.com", true)]
    #[case(dns("COLUC.com"), "coluc.com", true)]
    #[case(dns("coluc.com"), "conf.coluc.com", false)]
    #[case(dns("*.coluc.com"), "conf.coluc.com", true)]
    #[case(dns("*.coluc.com"), "coluc.com", false)]
    #[case(dns("*.coluc.com"), "a.conf.coluc.com", false)]
    #[case(dns("xn--bcher-kva.example"), "bücher.example", true)]
    #[case(other(&[1, 3, 6, 1, 5, 5, 7, 8, 5], "vngtp.lab"), "vngtp.lab", false)]
    #[case(other(&[1, 3, 6, 1, 5, 5, 7, 8, 7], "_xmpp-server.vngtp.lab"), "vngtp.lab", false)]
    #[case(other(&[1, 3, 6, 1, 5, 5, 7, 8, 7], "_xmpp-client.vngtp.lab"), "vngtp.lab", false)]
    #[case(dns("other.example"), "cn-only.example", false)]
    fn a_name_proves_exactly_its_domains(#[case] san: SanType, #[case] domain: &str, #[case] proves: bool) {
        assert_eq!(names(vec![san]).cover(&Domain::parse(domain).unwrap()), proves);
    }

    #[test]
    fn a_name_of_another_kind_is_told_apart_from_none() {
        let vngtp = Domain::parse("vngtp.lab").unwrap();
        let xmpp = || other(&[1, 3, 6, 1, 5, 5, 7, 8, 5], "vngtp.lab");
        let srv = other(&[1, 3, 6, 1, 5, 5, 7, 8, 7], "_xmpp-server.vngtp.lab");
        for only in [xmpp(), srv] {
            assert!(names(vec![dns("coluc.com"), only]).only_mention(&vngtp));
        }
        assert!(!names(vec![dns("vngtp.lab"), xmpp()]).only_mention(&vngtp));
        assert!(!names(vec![dns("*.vngtp.lab"), xmpp()]).cover(&vngtp));
        assert!(!names(vec![dns("coluc.com")]).only_mention(&vngtp));
    }

    #[test]
    fn garbage_is_an_error_and_not_a_panic() {
        assert!(CertificateNames::from_der(&[0x30, 0x82, 0xff]).is_err());
    }
}
