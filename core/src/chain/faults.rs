//! What peers refuse in a chain.

use jiff::Timestamp;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use x509_parser::x509::X509Version;

use super::path::{End, Link, Path};
use super::{Fault, FaultKind, Shown, Terms};
use crate::certificate::CertificateNames;
use crate::{Domain, SecretBytes, peer_key};

/// Signature algorithms whose hash is broken: MD5 and SHA-1 with RSA, SHA-1 with ECDSA (RFC 9325 section 4.1).
const BROKEN: [(&str, &str); 4] = [
    ("1.2.840.113549.1.1.4", "MD5"),
    ("1.2.840.113549.1.1.5", "SHA-1"),
    ("1.3.14.3.2.29", "SHA-1"),
    ("1.2.840.10045.4.1", "SHA-1"),
];

#[derive(Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, kind: FaultKind, sentence: String) {
        self.0.push(Fault { kind, sentence });
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn sorted(mut self) -> Vec<Fault> {
        self.0.sort_by_key(|fault| fault.kind);
        self.0
    }

    /// A block behind the first one, at that place from 0, is no certificate.
    pub fn unreadable(&mut self, at: usize, why: &str) {
        let number = at + 1;
        let sentence = format!("certificate number {number} is not readable: {why}; remove or replace it");
        self.add(FaultKind::Chain, sentence);
    }

    /// The key fits the first certificate. Its bytes never go into a sentence.
    pub fn key(&mut self, chain: &[CertificateDer<'static>], leaf: &Link<'_>, terms: &Terms<'_>) {
        let (name, label) = (terms.key_name, leaf.label());
        let Ok(key) = PrivateKeyDer::from_pem_slice(terms.key.expose()) else {
            let sentence = if is_encrypted(terms.key) {
                format!("{name} is encrypted; write the key without a password (openssl pkey -in KEY)")
            } else {
                format!("{name} holds no PEM private key; write it as PKCS #8, PKCS #1 or SEC1, unencrypted")
            };
            return self.add(FaultKind::Key, sentence);
        };
        let Ok(key) = aws_lc_rs::sign::any_supported_type(&key) else {
            // Too short or of an unusual kind: the certificate says which.
            if weakness(leaf).is_none() {
                let sentence = format!(
                    "{name} is damaged or a key of a kind that TLS has not; write the key that certificate {label} was issued for"
                );
                self.add(FaultKind::Key, sentence);
            }
            return;
        };
        let matches = CertifiedKey::new(chain.to_vec(), key).keys_match();
        if matches == Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) {
            let sentence = format!(
                "{name} is not the key of the certificate {label}, which stands first; write the pair of one issuance, and the chain behind its certificate"
            );
            self.add(FaultKind::Key, sentence);
        }
    }

    pub fn dates(&mut self, path: &Path<'_>, now: Timestamp) {
        for link in &path.links {
            let label = link.label();
            if link.not_after <= now {
                let remedy = if link.at == 0 {
                    "renew it".to_owned()
                } else {
                    "write the chain that your authority issues now, or only renew what it has renewed".to_owned()
                };
                self.add(
                    FaultKind::Ended,
                    format!("certificate {label} expired on {}; {remedy}", link.not_after),
                );
            } else if link.not_before > now {
                self.add(
                    FaultKind::NotYetValid,
                    format!(
                        "certificate {label} is not valid before {}; keep the former one until then, or compare the clock of its authority",
                        link.not_before
                    ),
                );
            }
        }
    }

    /// Each certificate is followed by that of its issuer, up to an authority that peers can know.
    pub fn order(&mut self, path: &Path<'_>) {
        if path.end == End::Missing {
            let last = path.last();
            let (label, issuer) = (last.label(), last.issuer());
            let named = path.surplus.iter().find(|link| link.is_named_by(last));
            let found = match (named, path.surplus.first()) {
                (Some(_), _) => {
                    format!("the certificate of that name has another key than the one that issued {label}")
                }
                (None, Some(other)) => format!("certificate {} is there and has not issued it", other.label()),
                (None, None) => "no certificate of it is there".to_owned(),
            };
            return self.add(
                FaultKind::Chain,
                format!(
                    "certificate {label} was issued by {issuer}, and {found}; write the certificate of {issuer} behind {label}, or put it into tls.trustAnchors if it is a root that your partners have"
                ),
            );
        }
        if path.links.iter().enumerate().any(|(at, link)| link.at != at) {
            let order: Vec<String> = path.links.iter().map(|link| link.label()).collect();
            self.add(
                FaultKind::Chain,
                format!(
                    "the certificates are not in the order in which each was issued by the next, so peers with TLS 1.2 may refuse them; write them in this order: {}",
                    order.join(", ")
                ),
            );
        }
    }

    pub fn usage_and_strength(&mut self, path: &Path<'_>, shown: Shown) {
        for link in &path.links {
            let (label, leaf) = (link.label(), link.at == path.leaf.at);
            let unfit = if leaf { usage(link, shown) } else { authority(link) };
            let broken = hash(link)
                .filter(|_| !link.is_self_signed())
                .map(|hash| format!("is signed with {hash}, which is broken; have it issued anew with SHA-256"));
            let sentences = [unfit, weakness(link), broken].into_iter().flatten();
            for sentence in sentences {
                self.add(FaultKind::Unfit, format!("certificate {label} {sentence}"));
            }
        }
    }

    pub fn names(&mut self, leaf: &Link<'_>, names: &CertificateNames, wanted: &[Domain]) {
        let missing: Vec<_> = wanted
            .iter()
            .filter(|domain| !names.cover(domain))
            .map(Domain::as_str)
            .collect();
        if !missing.is_empty() {
            let sentence = format!(
                "certificate {} does not cover {}; have it issued with all of them as subject alternative names (dNSName)",
                leaf.label(),
                missing.join(", ")
            );
            self.add(FaultKind::Names, sentence);
        }
    }

    /// What is left: constraints of authorities, critical extensions, signatures of known authorities.
    pub fn anything_else(&mut self, path: &Path<'_>, terms: &Terms<'_>) {
        let leaf = path.leaf;
        if leaf.is_self_signed() {
            return;
        }
        let usages = match terms.shown {
            Shown::ToClients => vec![webpki::KeyUsage::server_auth()],
            Shown::ToServers => vec![webpki::KeyUsage::client_auth(), webpki::KeyUsage::server_auth()],
        };
        let anchors = terms.anchors.with(path.last());
        let above: Vec<_> = path.links.iter().skip(1).map(|link| link.der.clone()).collect();
        let seconds = u64::try_from(terms.now.as_second()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        let verified = webpki::EndEntityCert::try_from(leaf.der).and_then(|leaf| {
            let verify = |usage| {
                leaf.verify_for_usage(algorithms, &anchors, &above, now, usage, None, None)
                    .map(drop)
            };
            let mut results = usages.into_iter().map(verify);
            let first = results.next().unwrap_or(Ok(()));
            first.or_else(|error| results.next().unwrap_or(Err(error)))
        });
        if let Err(error) = verified {
            let said: String = format!("{error:?}").chars().take(200).collect();
            let sentence = format!(
                "the chain of certificate {} does not hold: {said}; have it issued anew, and write the chain as the authority gives it",
                leaf.label()
            );
            self.add(FaultKind::Chain, sentence);
        }
    }
}

fn is_encrypted(pem: &SecretBytes) -> bool {
    let text = String::from_utf8_lossy(pem.expose());
    text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")
}

/// Why a leaf cannot be shown.
fn usage(leaf: &Link<'_>, shown: Shown) -> Option<String> {
    if leaf.parsed.version() != X509Version::V3 {
        return Some("is no X.509 v3 certificate, so it has no names; have it issued with extensions".to_owned());
    }
    if leaf.parsed.is_ca() {
        let sentence =
            "is that of an authority (CA:TRUE), which some peers refuse; have one issued that is not (CA:FALSE)";
        return Some(sentence.to_owned());
    }
    let usage = leaf.parsed.extended_key_usage().ok().flatten();
    let fits =
        usage.is_none_or(|usage| usage.value.server_auth || shown == Shown::ToServers && usage.value.client_auth);
    if !fits {
        let wanted = match shown {
            Shown::ToClients => "serverAuth",
            Shown::ToServers => "clientAuth or serverAuth",
        };
        return Some(format!(
            "lacks {wanted} in its extended key usage; have it issued with that"
        ));
    }
    let usage = leaf.parsed.key_usage().ok().flatten();
    usage.is_some_and(|usage| !usage.value.digital_signature()).then(|| {
        "lacks digitalSignature in its key usage, without which TLS 1.3 refuses it; have it issued with that".to_owned()
    })
}

/// Why a certificate cannot issue.
fn authority(link: &Link<'_>) -> Option<String> {
    let usage = link.parsed.key_usage().ok().flatten();
    let may_sign = usage.is_none_or(|usage| usage.value.key_cert_sign());
    (!link.parsed.is_ca() || !may_sign).then(|| {
        "is not that of an authority (CA:TRUE with keyCertSign), so nothing that it has issued counts; have the first certificate issued by an authority".to_owned()
    })
}

/// Why its key is too weak or unusual.
fn weakness(link: &Link<'_>) -> Option<String> {
    if let Some(bits) = peer_key::weak_rsa_bits(link.der) {
        return Some(format!(
            "has an RSA key of {bits} bits, fewer than {}; have it issued for a longer key",
            peer_key::STRONG_RSA_BITS
        ));
    }
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    let unsupported = peer_key::unsupported(link.der, &algorithms);
    unsupported.map(|key| format!("has {key}; have it issued for one of RSA, P-256 or P-384"))
}

fn hash(link: &Link<'_>) -> Option<&'static str> {
    let oid = link.parsed.signature_algorithm.algorithm.to_id_string();
    BROKEN.iter().find(|(of, _)| *of == oid).map(|(_, hash)| *hash)
}
