//! What a server's certificate says, what would accept it, and whether the chosen way does.

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use xmpp_federation_core::Fingerprint;

use crate::access::ServerTrust;
use crate::http;

/// Fewer days than these are worth a warning.
const SOON_DAYS: i64 = 30;
const NAMES_SHOWN: usize = 6;

/// What people ask of a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    pub subject: String,
    pub issuer: String,
    /// End of its validity.
    pub not_after: Timestamp,
    /// SHA-256 over its bytes, lower-case hexadecimal.
    pub sha256: Fingerprint,
    pub names: Vec<String>,
    pub is_ca: bool,
    /// Whether it names itself as its issuer.
    pub self_issued: bool,
    /// Why no CA could make it acceptable.
    pub unusual: Option<String>,
}

impl CertificateFacts {
    pub fn read(leaf: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, certificate) =
            X509Certificate::from_der(leaf).map_err(|error| format!("its certificate cannot be read: {error}"))?;
        let names = certificate
            .subject_alternative_name()
            .ok()
            .flatten()
            .map(|extension| {
                let names = extension.value.general_names.iter();
                names.filter_map(name).collect()
            })
            .unwrap_or_default();
        let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp())
            .map_err(|error| format!("the end of its certificate cannot be read: {error}"))?;
        Ok(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            not_after,
            sha256: Fingerprint::of(leaf),
            names,
            is_ca: certificate.is_ca(),
            self_issued: certificate.subject() == certificate.issuer(),
            unusual: http::only_pinned(leaf),
        })
    }

    /// Whether it carries the name of that host.
    pub fn names_host(&self, host: &str) -> bool {
        self.names.iter().any(|name| {
            let wild = name.strip_prefix("*.").is_some_and(|rest| {
                host.split_once('.')
                    .is_some_and(|(_, domain)| domain.eq_ignore_ascii_case(rest))
            });
            wild || name.eq_ignore_ascii_case(host)
        })
    }

    /// All of it, with what would accept it.
    pub fn describe(&self, host: &str, version: &str) -> String {
        let names = if self.names.is_empty() {
            "no names".to_owned()
        } else {
            let more = self.names.len().saturating_sub(NAMES_SHOWN);
            let shown: Vec<&str> = self.names.iter().take(NAMES_SHOWN).map(String::as_str).collect();
            match more {
                0 => format!("names {}", shown.join(", ")),
                more => format!("names {} and {more} more", shown.join(", ")),
            }
        };
        format!(
            "subject {}; issuer {}; {names}; valid until {}; SHA-256 {}; {version}; {}",
            self.subject,
            if self.self_issued {
                "itself"
            } else {
                self.issuer.as_str()
            },
            self.not_after.strftime("%Y-%m-%d"),
            self.sha256,
            self.ways(host)
        )
    }

    /// Which ways would accept it.
    fn ways(&self, host: &str) -> String {
        let hindrance = if self.is_ca {
            Some("it is an authority itself".to_owned())
        } else if let Some(why) = &self.unusual {
            Some(why.clone())
        } else if !self.names_host(host) {
            Some(format!("it does not carry the name {host}"))
        } else {
            None
        };
        match hindrance {
            Some(why) => format!("only its fingerprint would be accepted, no authority: {why}"),
            None if self.self_issued => "its fingerprint would be accepted".to_owned(),
            None => "its fingerprint or its issuer's certificate would be accepted".to_owned(),
        }
    }

    pub fn days_left(&self) -> i64 {
        self.not_after.duration_since(Timestamp::now()).as_secs() / 86_400
    }

    pub fn ends_soon(&self) -> bool {
        self.days_left() < SOON_DAYS
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
            v4.or(v6).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

/// Whether the chosen way accepts a chain, by the verifier of the operator's own client.
pub fn accepted(trust: &ServerTrust, chain: &[CertificateDer<'_>], host: &str) -> Result<(), String> {
    let (leaf, rest) = chain
        .split_first()
        .ok_or_else(|| "no certificate was shown".to_owned())?;
    let name = ServerName::try_from(host).map_err(|_| format!("{host} is no name that a certificate could carry"))?;
    let verifier = http::verifier(trust).map_err(|error| error.to_string())?;
    match verifier.verify_server_cert(leaf, rest, &name, &[], UnixTime::now()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InvalidCertificate(why)) => Err(http::certificate_words(&why)),
        Err(other) => Err(other.to_string()),
    }
}
