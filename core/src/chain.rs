//! A certificate chain of ours as peers judge it: key, dates, order, completeness, usage, strength, names
//! (RFC 8446 section 4.4.2, RFC 5246 section 7.4.2, RFC 5280, RFC 9325).
//!
//! A *fault* is what peers refuse, or older ones do. A *note* is what all of them bear.

mod faults;
mod path;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::certificate::CertificateNames;
use crate::{Domain, Fingerprint, SecretBytes};
use faults::Faults;
pub use path::Anchors;
use path::{Link, Path};

/// The PEM text holds no chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableChain {
    /// No block at all.
    #[error(
        "holds no PEM certificate; write the certificate, then those of the authorities above it, each as a block -----BEGIN CERTIFICATE-----"
    )]
    Empty,
    /// The text ends within a block, or a block is no base64.
    #[error("is not PEM: {0}; write each certificate as a whole block -----BEGIN CERTIFICATE-----")]
    Pem(String),
    /// The first block is no certificate.
    #[error("begins with a certificate that is not readable: {0}; replace it")]
    Certificate(String),
    /// More than any chain has, and each may have to be verified with each.
    #[error(
        "holds {0} certificates, and a chain has {LONGEST} at most; write the certificate, then those of the authorities above it, and no others"
    )]
    TooMany(usize),
}

/// Certificates of a text; real chains have four or five.
pub const LONGEST: usize = 16;

/// Who shows the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// A server, and a client too where nothing else is shown.
    ToClients,
    /// A client only.
    ToServers,
}

/// What a chain is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The time.
    pub now: Timestamp,
    /// Where it is shown.
    pub shown: Shown,
    /// The private key, PEM.
    pub key: &'a SecretBytes,
    /// What the key is called in sentences, such as `tls.key` or a path.
    pub key_name: &'a str,
    /// Domains that it must prove.
    pub names: &'a [Domain],
    /// Authorities that are known.
    pub anchors: &'a Anchors,
}

/// Kinds of faults, the first reason first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// The key is not usable or another one's.
    Key,
    /// A certificate has ended.
    Ended,
    /// A certificate is not valid yet.
    NotYetValid,
    /// The certificates do not lead to an authority, or not in order.
    Chain,
    /// A certificate is not made for this, or is weak.
    Unfit,
    /// A domain is missing.
    Names,
}

/// Something that peers refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which kind.
    pub kind: FaultKind,
    /// What is wrong and what to do.
    pub sentence: String,
}

/// How near the end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nearness {
    /// Not near.
    Far,
    /// 21 days at most.
    Soon,
    /// 7 days at most.
    VerySoon,
}

/// What a chain is found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    /// What peers refuse, the first reason first.
    pub faults: Vec<Fault>,
    /// What they bear, as sentences.
    pub notes: Vec<String>,
    /// From when all of it is valid.
    pub not_before: Timestamp,
    /// Until when all of it is valid: the end of the certificate that ends first.
    pub not_after: Timestamp,
    /// Which one ends first.
    pub ends_first: String,
    /// How near that is.
    pub nearness: Nearness,
    /// The issuer of the first certificate.
    pub issuer: String,
    /// The fingerprint of the first certificate.
    pub fingerprint: Fingerprint,
    /// The names that it proves.
    pub names: CertificateNames,
}

/// The certificates of a PEM text.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, UnreadableChain> {
    let blocks = CertificateDer::pem_slice_iter(pem);
    let found: Vec<_> = blocks
        .collect::<Result<_, _>>()
        .map_err(|error| UnreadableChain::Pem(error.to_string()))?;
    match found.len() {
        0 => Err(UnreadableChain::Empty),
        1..=LONGEST => Ok(found),
        many => Err(UnreadableChain::TooMany(many)),
    }
}

/// Judges a chain, the first certificate first ([`certificates`]).
pub fn examine(ders: &[CertificateDer<'static>], terms: &Terms<'_>) -> Result<Examination, UnreadableChain> {
    let mut faults = Faults::default();
    let mut links = Vec::new();
    for (at, der) in ders.iter().enumerate() {
        match Link::of(at, der) {
            Ok(link) => links.push(link),
            Err(why) if at == 0 => return Err(UnreadableChain::Certificate(why)),
            // TLS libraries pass on what stands behind the first one.
            Err(why) => faults.unreadable(at, &why),
        }
    }
    let path = Path::of(&links, terms.anchors).ok_or(UnreadableChain::Empty)?;
    let leaf = path.leaf;
    let names = CertificateNames::of(&leaf.parsed);

    faults.usage_and_strength(&path, terms.shown);
    faults.key(ders, leaf, terms);
    faults.dates(&path, terms.now);
    faults.order(&path);
    faults.names(leaf, &names, terms.names);
    if faults.is_empty() {
        faults.anything_else(&path, terms);
    }

    let weakest = path.weakest();
    Ok(Examination {
        faults: faults.sorted(),
        notes: path.notes(terms.now),
        not_before: path.not_before(),
        not_after: weakest.not_after,
        ends_first: weakest.label(),
        nearness: weakest.nearness(terms.now),
        issuer: leaf.parsed.issuer().to_string(),
        fingerprint: Fingerprint::of(leaf.der),
        names,
    })
}

#[cfg(test)]
mod tests;
