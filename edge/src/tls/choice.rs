//! Which of our certificates is shown: the one that covers the domain in question.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use xmpp_federation_core::Domain;
use xmpp_federation_core::certificate::CertificateNames;

/// A certificate of ours.
#[derive(Debug, Clone)]
pub struct ShownCertificate {
    /// The domains it proves.
    pub names: CertificateNames,
    /// Start of its validity.
    pub not_before: jiff::Timestamp,
    /// End of its validity.
    pub not_after: jiff::Timestamp,
}

impl ShownCertificate {
    pub(super) fn in_time(&self, now: jiff::Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

/// Index of the certificate for a domain: one that covers it and is in its time, else one that
/// covers it, else the first.
pub(super) fn choose<'a>(
    shown: &(impl Iterator<Item = &'a ShownCertificate> + Clone),
    domain: Option<&Domain>,
    now: jiff::Timestamp,
) -> usize {
    let covering = |shown: &ShownCertificate| domain.is_some_and(|d| shown.names.cover(d));
    let mut all = shown.clone();
    all.position(|shown| covering(shown) && shown.in_time(now))
        .or_else(|| shown.clone().position(covering))
        .unwrap_or(0)
}

/// The same configuration; notes in `asked` whether the server asks for our certificate.
pub(crate) fn noting_requests(config: &ClientConfig, asked: &Arc<AtomicBool>) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.client_auth_cert_resolver = Arc::new(Noting {
        inner: config.client_auth_cert_resolver,
        asked: asked.clone(),
    });
    Arc::new(config)
}

#[derive(Debug)]
struct Noting {
    inner: Arc<dyn ResolvesClientCert>,
    asked: Arc<AtomicBool>,
}

impl ResolvesClientCert for Noting {
    fn resolve(
        &self,
        authorities: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.inner.resolve(authorities, schemes)
    }

    fn has_certs(&self) -> bool {
        self.inner.has_certs()
    }
}

thread_local! {
    static ASKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The name in the hello that this thread has answered last; once. The library's interface without
/// buffers does not keep it.
pub fn asked_name() -> Option<String> {
    ASKED.take()
}

/// Answers SNI.
#[derive(Debug)]
pub(super) struct ByDomain(pub(super) Vec<(Arc<CertifiedKey>, ShownCertificate)>);

impl ResolvesServerCert for ByDomain {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        ASKED.set(hello.server_name().map(ToOwned::to_owned));
        let asked = hello
            .server_name()
            .and_then(|name| Domain::parse(name).ok());
        let shown = self.0.iter().map(|(_, shown)| shown);
        let chosen = choose(&shown, asked.as_ref(), jiff::Timestamp::now());
        self.0.get(chosen).map(|(key, _)| key.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    fn shown(names: &[&str], not_before: &str, not_after: &str) -> ShownCertificate {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        ShownCertificate {
            names: CertificateNames::from_der(made.cert.der()).unwrap(),
            not_before: not_before.parse().unwrap(),
            not_after: not_after.parse().unwrap(),
        }
    }

    const LONG_AGO: &str = "2020-01-01T00:00:00Z";
    const PAST: &str = "2021-01-01T00:00:00Z";
    const LATER: &str = "2099-01-01T00:00:00Z";
    const FAR: &str = "2100-01-01T00:00:00Z";

    #[rstest]
    #[case::covering("conf.coluc.com", 3)]
    #[case::nothing_better_than_expired("old.example", 1)]
    #[case::in_time_before_expired("coluc.com", 2)]
    #[case::not_yet_in_time("next.example", 4)]
    #[case::nothing_covers("other.example", 0)]
    fn the_covering_one_in_its_time_is_shown(#[case] domain: &str, #[case] expected: usize) {
        let ours = [
            shown(&["first.example"], LONG_AGO, FAR),
            shown(&["coluc.com", "old.example"], LONG_AGO, PAST),
            shown(&["coluc.com"], LONG_AGO, FAR),
            shown(&["*.coluc.com"], LONG_AGO, FAR),
            shown(&["next.example"], LATER, FAR),
        ];
        let domain = Domain::parse(domain).unwrap();
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(choose(&ours.iter(), Some(&domain), now), expected);
        assert_eq!(choose(&ours.iter(), None, now), 0);
    }
}
