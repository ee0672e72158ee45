//! What a peer's certificate proves: chain to an authority, usage, dates, revocation, name.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use xmpp_federation_core::certificate::CertificateNames;
use xmpp_federation_core::{Domain, Fingerprint, peer_key};

use super::revocation::RevocationLists;

/// What a peer's certificate proves about a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Chain and name hold, or the fingerprint is the expected one.
    Valid,
    /// None was shown.
    Missing,
    /// No authority in `tls.trustAnchors` issued it.
    Untrusted,
    /// Why it proves nothing, as a sentence.
    Invalid(String),
    /// The same: nobody can tell whether the peer holds its key.
    Unproven(String),
}

impl Verdict {
    /// The word for logs and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Missing => "missing",
            Self::Untrusted | Self::Invalid(_) => "invalid",
            Self::Unproven(_) => "unproven",
        }
    }

    /// Why it proves nothing.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Valid => None,
            Self::Missing => Some("no certificate was shown"),
            Self::Untrusted => Some("no trusted authority issued it"),
            Self::Invalid(reason) | Self::Unproven(reason) => Some(reason),
        }
    }
}

/// What a peer showed in the handshake.
#[derive(Debug, Clone, Copy)]
pub struct PeerCertificates<'a> {
    /// Leaf first.
    pub chain: &'a [CertificateDer<'static>],
    /// The peer holds the leaf's key. Where no library can verify that, the handshake went on, and
    /// the certificates prove nothing.
    pub proven: bool,
}

/// What a chain proves whatever the domain; telling it for one domain costs nothing then.
#[derive(Debug, Clone)]
pub(crate) enum Examination {
    /// No certificate was shown.
    Missing,
    /// One was shown that anybody may have shown, as its key could not be verified with.
    Unproven(String),
    /// The fingerprint of the leaf, and its names if the chain holds, or what it proves without.
    Shown(Fingerprint, Result<CertificateNames, Verdict>),
}

impl Examination {
    /// `pins`: fingerprints that are accepted instead of chain and name; none: both must hold.
    pub(crate) fn verdict(&self, domain: &Domain, pins: &[Fingerprint]) -> Verdict {
        match self {
            Self::Missing => Verdict::Missing,
            Self::Unproven(reason) => Verdict::Unproven(reason.clone()),
            Self::Shown(fingerprint, _) if pins.contains(fingerprint) => Verdict::Valid,
            Self::Shown(fingerprint, _) if !pins.is_empty() => Verdict::Invalid(format!(
                "its fingerprint {fingerprint} is not one that is pinned for {domain}"
            )),
            Self::Shown(_, Err(verdict)) => verdict.clone(),
            Self::Shown(_, Ok(names)) if names.cover(domain) => Verdict::Valid,
            Self::Shown(_, Ok(names)) if names.only_mention(domain) => Verdict::Invalid(format!(
                "it names {domain} as SRVName or xmppAddr, which do not count; it needs {domain} as dNSName"
            )),
            Self::Shown(_, Ok(names)) => {
                let mut list = names.list();
                list.truncate(8);
                let list = if list.is_empty() {
                    "no domain".to_owned()
                } else {
                    list.join(", ")
                };
                Verdict::Invalid(format!("its names do not cover {domain}; it names {list}"))
            }
        }
    }
}

/// The authorities that peers' chains must lead to, and what these revoked.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) roots: RootCertStore,
    pub(super) revoked: RevocationLists,
    pub(super) provider: Arc<CryptoProvider>,
}

impl Trust {
    /// Examines what a peer showed.
    pub(super) fn examine(&self, peer: PeerCertificates<'_>) -> Examination {
        let Some((leaf, intermediates)) = peer.chain.split_first() else {
            return Examination::Missing;
        };
        if !peer.proven {
            return Examination::Unproven(format!(
                "it has {}; signatures of this key cannot be verified here, so neither its names nor its fingerprint count",
                peer_key::describe(leaf)
            ));
        }
        let names = self
            .check(leaf, intermediates, UnixTime::now())
            .and_then(|()| CertificateNames::from_der(leaf).map_err(|error| Verdict::Invalid(cut(&error.to_string()))));
        Examination::Shown(Fingerprint::of(leaf), names)
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Verdict> {
        let parsed = webpki::EndEntityCert::try_from(leaf).map_err(|error| Verdict::Invalid(unusual(&error)))?;
        if let Some(bits) = peer_key::weak_rsa_bits(leaf) {
            return Err(Verdict::Invalid(format!(
                "its RSA key has {bits} bits, fewer than {}; {PIN}",
                peer_key::STRONG_RSA_BITS
            )));
        }
        let algorithms = self.provider.signature_verification_algorithms.all;
        let lists = self.revoked.by_reference();
        parsed
            .verify_for_usage(
                algorithms,
                &self.roots.roots,
                intermediates,
                now,
                PeerUsage,
                RevocationLists::options(&lists),
                None,
            )
            .map(drop)
            .map_err(|error| match error {
                webpki::Error::UnknownIssuer => Verdict::Untrusted,
                error => Verdict::Invalid(explain(&error)),
            })
    }
}

/// What helps a peer that cannot get another certificate.
const PIN: &str = "it can only be pinned (tls.pinnedSha256 in partners)";

/// A certificate of a kind that is never followed to an authority.
fn unusual(error: &webpki::Error) -> String {
    let what = match error {
        webpki::Error::UnsupportedCertVersion => "it is no X.509 v3 certificate".to_owned(),
        webpki::Error::UnsupportedCriticalExtension => "it has a critical extension that is not known here".to_owned(),
        other => format!("it is not a readable certificate: {}", cut(&format!("{other:?}"))),
    };
    format!("{what}; {PIN}")
}

/// Extended key usage of a peer, in both directions: absent, any, serverAuth or clientAuth. Public
/// authorities no longer issue clientAuth, so a connecting server shows its server certificate.
struct PeerUsage;

impl webpki::ExtendedKeyUsageValidator for PeerUsage {
    fn validate(&self, usages: webpki::KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        // anyExtendedKeyUsage, id-kp-serverAuth, id-kp-clientAuth (RFC 5280 section 4.2.1.12).
        const ACCEPTED: [&[u8]; 3] = [
            &[0x55, 0x1d, 0x25, 0],
            &[0x2b, 6, 1, 5, 5, 7, 3, 1],
            &[0x2b, 6, 1, 5, 5, 7, 3, 2],
        ];
        let mut present = Vec::new();
        for usage in usages {
            let usage = usage?;
            if ACCEPTED
                .iter()
                .any(|accepted| usage == webpki::KeyPurposeId::new(accepted))
            {
                return Ok(());
            }
            present.push(usage.to_decoded_oid());
        }
        if present.is_empty() {
            return Ok(());
        }
        Err(webpki::Error::RequiredEkuNotFoundContext(
            webpki::RequiredEkuNotFoundContext {
                required: webpki::KeyUsage::server_auth(),
                present,
            },
        ))
    }
}

fn explain(error: &webpki::Error) -> String {
    match error {
        webpki::Error::CertExpired { not_after, .. } => {
            format!("it or one of its authorities expired{}", at(*not_after))
        }
        webpki::Error::CertNotValidYet { not_before, .. } => {
            format!(
                "it or one of its authorities is not valid before{}",
                at(*not_before)
            )
        }
        webpki::Error::CertRevoked => {
            "it or one of its authorities was revoked by the authority that issued it".to_owned()
        }
        webpki::Error::InvalidCrlSignatureForPublicKey => {
            "the revocation list in its authority's name is not signed by that authority; replace the file in tls.revocationLists".to_owned()
        }
        webpki::Error::InvalidSignatureForPublicKey => {
            "it is not signed by the authority that it names".to_owned()
        }
        webpki::Error::CaUsedAsEndEntity => {
            format!("it is the certificate of an authority (CA:true), not of a server; {PIN}")
        }
        webpki::Error::RequiredEkuNotFoundContext(_) => {
            "its extended key usage allows neither server nor client authentication".to_owned()
        }
        other => format!("its chain does not hold: {}", cut(&format!("{other:?}"))),
    }
}

/// Some errors quote the certificate, which may be as long as a handshake allows.
fn cut(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut cut: String = text.chars().take(LONGEST).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

fn at(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).ok();
    let time = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map(|time| format!(" {time}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_certificate_says_is_not_quoted_at_length() {
        let context = webpki::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: vec![255; 60_000],
            supported_algorithms: Vec::new(),
        };
        let said = explain(&webpki::Error::UnsupportedSignatureAlgorithmContext(context));
        assert!(said.len() < 300, "{} bytes", said.len());
        assert!(said.starts_with("its chain does not hold: UnsupportedSignatureAlgorithm"));
    }
}
