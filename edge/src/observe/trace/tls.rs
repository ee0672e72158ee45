//! A TLS session in words: what was agreed on, and the chain that the peer showed.

use std::fmt::Write as _;

use rustls::CommonState;
use x509_parser::prelude::{FromDer, X509Certificate};
use xmpp_federation_core::certificate::CertificateNames;

use super::printable;
use crate::tls::PeerCertificates;

/// Certificates of a chain that are described.
const CHAIN: usize = 5;
/// Names of a certificate that are listed.
const NAMES: usize = 8;
/// Longest subject or name, bytes.
const NAME: usize = 128;

/// The version as people write it.
pub fn version(tls: &CommonState) -> &'static str {
    tls.protocol_version()
        .and_then(|version| version.as_str())
        .unwrap_or("TLS")
}

/// The cipher suite, by its registered name.
pub fn cipher(tls: &CommonState) -> &'static str {
    tls.negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str())
        .unwrap_or("?")
}

/// The name that a peer asked for in the handshake.
pub(crate) fn asked_for(name: Option<&str>) -> String {
    name.map_or_else(
        || "; asked for no name".to_owned(),
        |name| format!("; asked for {}", printable(name, NAME)),
    )
}

/// What a completed handshake agreed on; `asked` as [`asked_for`] has it.
pub(crate) fn session(tls: &CommonState, asked: &str, shown: &PeerCertificates<'_>) -> String {
    let mut out = format!("TLS established: {} {}{asked}", version(tls), cipher(tls));
    let PeerCertificates { chain, proven } = shown;
    if chain.is_empty() {
        out.push_str("; the peer shows no certificate");
    } else if !proven {
        out.push_str("; whether the peer holds its key cannot be verified");
    }
    for (place, der) in chain.iter().take(CHAIN).enumerate() {
        let _ = write!(out, "; certificate {place}: {}", certificate(der));
    }
    if chain.len() > CHAIN {
        let _ = write!(out, "; and {} more", chain.len() - CHAIN);
    }
    out
}

/// One certificate: subject, issuer, validity, and the names that can prove a domain.
pub fn certificate(der: &[u8]) -> String {
    let Ok((_, parsed)) = X509Certificate::from_der(der) else {
        return format!("not readable, {} bytes", der.len());
    };
    let name = |name: &x509_parser::x509::X509Name<'_>| printable(&name.to_string(), NAME);
    let time = |time: x509_parser::time::ASN1Time| {
        jiff::Timestamp::from_second(time.timestamp()).map_or_else(|_| "?".to_owned(), |time| time.to_string())
    };
    let mut out = format!(
        "{} issued by {}, valid {} to {}",
        name(parsed.subject()),
        name(parsed.issuer()),
        time(parsed.validity().not_before),
        time(parsed.validity().not_after),
    );
    let names = CertificateNames::from_der(der).map(|names| names.list());
    let names = names.unwrap_or_default();
    if !names.is_empty() {
        let shown: Vec<_> = names.iter().take(NAMES).map(|n| printable(n, NAME)).collect();
        let _ = write!(out, ", for {}", shown.join(" "));
        if names.len() > NAMES {
            let _ = write!(out, " and {} more", names.len() - NAMES);
        }
    }
    out
}
