//! The way from a certificate to an authority that peers may know.

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::Nearness;
use crate::peer_key;

/// The end of a chain is near when this is left …
const SOON: SignedDuration = SignedDuration::from_hours(21 * 24);
/// … and very near when this is.
const VERY_SOON: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Certificates of a short life are renewed late: it is never earlier than with this part of their life left …
const SOON_PART: i32 = 4;
/// … and this.
const VERY_SOON_PART: i32 = 12;

/// One certificate of the text.
pub(super) struct Link<'a> {
    /// Its place, from 0.
    pub at: usize,
    pub der: &'a CertificateDer<'static>,
    pub parsed: X509Certificate<'a>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl<'a> Link<'a> {
    /// An error says why it cannot be read.
    pub fn of(at: usize, der: &'a CertificateDer<'static>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        Ok(Self {
            at,
            der,
            not_before: time(parsed.validity().not_before, Timestamp::MIN),
            not_after: time(parsed.validity().not_after, Timestamp::MAX),
            parsed,
        })
    }

    /// What a person knows it by: its subject, or its first name where it has none.
    pub fn label(&self) -> String {
        let subject = self.parsed.subject();
        if subject.iter().next().is_some() {
            return format!("{subject:?}", subject = subject.to_string());
        }
        let names = self.parsed.subject_alternative_name().ok().flatten();
        let first = names.and_then(|names| {
            names.value.general_names.iter().find_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })
        });
        first.map_or_else(|| format!("number {}", self.at + 1), |name| format!("{name:?}"))
    }

    /// The issuer that it names.
    pub fn issuer(&self) -> String {
        format!("{issuer:?}", issuer = self.parsed.issuer().to_string())
    }

    /// Whether it names itself as issuer and is.
    pub fn is_self_signed(&self) -> bool {
        self.has_issued(self)
    }

    /// Whether that one names this as its issuer.
    pub fn is_named_by(&self, other: &Self) -> bool {
        self.parsed.subject().as_raw() == other.parsed.issuer().as_raw()
    }

    /// Whether the key of this has signed that one. Where no library verifies such signatures here, the names
    /// decide; what verifies the whole chain comes last.
    pub fn has_issued(&self, other: &Self) -> bool {
        let weak = peer_key::weak_rsa_bits(self.der).is_some();
        self.is_named_by(other)
            && match other.parsed.verify_signature(Some(self.parsed.public_key())) {
                Ok(()) | Err(X509Error::SignatureUnsupportedAlgorithm) => true,
                Err(_) => weak,
            }
    }

    pub fn nearness(&self, now: Timestamp) -> Nearness {
        let left = self.not_after.duration_since(now);
        let life = self.not_after.duration_since(self.not_before);
        if left <= VERY_SOON.min(life / VERY_SOON_PART) {
            Nearness::VerySoon
        } else if left <= SOON.min(life / SOON_PART) {
            Nearness::Soon
        } else {
            Nearness::Far
        }
    }
}

/// X.509 has later times than the library; they are as good as its last.
fn time(time: ASN1Time, beyond: Timestamp) -> Timestamp {
    Timestamp::from_second(time.timestamp()).unwrap_or(beyond)
}

/// Authorities that are known: the public ones, and those that the user trusts.
#[derive(Debug, Clone)]
pub struct Anchors(Vec<TrustAnchor<'static>>);

impl Anchors {
    /// Those of a PEM text besides the public ones; whoever uses the text reports what is wrong with it.
    pub fn from_pem(pem: &[u8]) -> Self {
        let own: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
        Self::of(&own)
    }

    /// These besides the public ones.
    pub fn of(own: &[CertificateDer<'_>]) -> Self {
        let own = own
            .iter()
            .filter_map(|der| Some(webpki::anchor_from_trusted_cert(der).ok()?.to_owned()));
        Self(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().chain(own).collect())
    }

    /// The same and the last certificate of a path, where that is its own issuer.
    pub(super) fn with(&self, last: &Link<'_>) -> Vec<TrustAnchor<'static>> {
        let mut anchors = self.0.clone();
        if last.is_self_signed() {
            anchors.extend(webpki::anchor_from_trusted_cert(last.der).map(|anchor| anchor.to_owned()));
        }
        anchors
    }

    /// Whether the issuer that a certificate names is one of them.
    fn know_issuer_of(&self, link: &Link<'_>) -> bool {
        // An anchor's subject is without the head of its SEQUENCE.
        let issuer = link.parsed.issuer().as_raw();
        let same = |anchor: &TrustAnchor<'_>| {
            let subject: &[u8] = anchor.subject.as_ref();
            let head = issuer.strip_suffix(subject);
            head.is_some_and(|head| (2..=4).contains(&head.len()) && head.first() == Some(&0x30))
        };
        self.0.iter().any(same)
    }
}

/// Where a path ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// At a certificate that is its own issuer.
    SelfSigned {
        /// Peers have it themselves.
        known: bool,
    },
    /// At one that a known authority issued.
    Known,
    /// At one whose issuer is missing.
    Missing,
}

/// The certificates from the first one to an authority.
pub(super) struct Path<'l> {
    pub leaf: &'l Link<'l>,
    /// In the order in which each has issued the one before.
    pub links: Vec<&'l Link<'l>>,
    /// The others, in the order of the text.
    pub surplus: Vec<&'l Link<'l>>,
    pub end: End,
}

impl<'l> Path<'l> {
    /// Of the certificates of a text; `None` without any.
    pub fn of(all: &'l [Link<'l>], anchors: &Anchors) -> Option<Self> {
        let leaf = all.first()?;
        let mut links = vec![leaf];
        let mut last = leaf;
        let end = loop {
            let known = anchors.know_issuer_of(last);
            if last.is_self_signed() {
                break End::SelfSigned { known };
            }
            let unused = |link: &&Link<'_>| !links.iter().any(|used| used.at == link.at);
            let issuers = || all.iter().filter(unused).filter(|link| link.has_issued(last));
            let ends = |link: &&Link<'_>| link.is_self_signed() || anchors.know_issuer_of(link);
            // Behind a known authority a certificate of it by another one is for old peers. An issuer may have several
            // certificates, and peers find the one that leads on.
            let next = if known {
                issuers().find(|link| link.is_self_signed())
            } else {
                issuers().find(ends).or_else(|| issuers().next())
            };
            match next {
                Some(next) => {
                    links.push(next);
                    last = next;
                }
                None if known => break End::Known,
                None => break End::Missing,
            }
        };
        let surplus = all.iter().filter(|link| !links.iter().any(|used| used.at == link.at));
        let surplus = surplus.collect();
        Some(Self {
            leaf,
            links,
            surplus,
            end,
        })
    }

    pub fn last(&self) -> &'l Link<'l> {
        self.links.last().copied().unwrap_or(self.leaf)
    }

    /// The one that ends first.
    pub fn weakest(&self) -> &'l Link<'l> {
        let first = self.links.iter().min_by_key(|link| link.not_after);
        first.copied().unwrap_or(self.leaf)
    }

    /// From when all are valid.
    pub fn not_before(&self) -> Timestamp {
        let last = self.links.iter().map(|link| link.not_before).max();
        last.unwrap_or(self.leaf.not_before)
    }

    /// What peers bear.
    pub fn notes(&self, now: Timestamp) -> Vec<String> {
        let mut notes = Vec::new();
        match self.end {
            End::SelfSigned { .. } if self.links.len() == 1 => notes.push(format!(
                "certificate {} is its own issuer, so peers accept it by its fingerprint or by dialback only",
                self.leaf.label()
            )),
            End::SelfSigned { known: true } => notes.push(format!(
                "the authority {} is sent along, which is allowed and not needed",
                self.last().label()
            )),
            _ => {}
        }
        if self.end != End::Missing {
            notes.extend(self.surplus.iter().map(|link| {
                let ended = if link.not_after <= now {
                    format!("ended on {} and ", link.not_after)
                } else {
                    String::new()
                };
                format!(
                    "certificate {} {ended}is not needed in this chain; remove it",
                    link.label()
                )
            }));
        }
        notes
    }
}
