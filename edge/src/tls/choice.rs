//! Which of our certificates is shown: one that names the domain in question, and of several the
//! first whose kind of key the peer can verify.

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

/// The certificates in the order in which they suit a domain: those that name it and are in their
/// time, others that name it, the rest. Equals keep the order of the configuration.
pub(super) fn by_suitability<'a, T>(
    shown: impl Iterator<Item = (T, &'a ShownCertificate)>,
    domain: Option<&Domain>,
    now: jiff::Timestamp,
) -> Vec<(T, &'a ShownCertificate)> {
    let mut shown: Vec<_> = shown.collect();
    let naming = |shown: &ShownCertificate| domain.is_some_and(|d| shown.names.cover(d) || shown.names.only_mention(d));
    shown.sort_by_key(|(_, shown)| match (naming(shown), shown.in_time(now)) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    });
    shown
}

/// The same configuration; notes in `asked` whether the server asks for our certificate.
pub(crate) fn noting_requests(config: &ClientConfig, asked: &Arc<AtomicBool>) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.client_auth_cert_resolver = Arc::new(NotingResolver {
        inner: config.client_auth_cert_resolver,
        asked: asked.clone(),
    });
    Arc::new(config)
}

#[derive(Debug)]
struct NotingResolver {
    inner: Arc<dyn ResolvesClientCert>,
    asked: Arc<AtomicBool>,
}

impl ResolvesClientCert for NotingResolver {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.inner.resolve(authorities, schemes)
    }

    fn has_certs(&self) -> bool {
        self.inner.has_certs()
    }
}

thread_local! {
    static ASKED: RefCell<Option<String>> = const { RefCell::new(None) };
    static WANTED: RefCell<Option<Domain>> = const { RefCell::new(None) };
}

/// The name in the hello that this thread has answered last; once. The library's interface without
/// buffers does not keep it.
pub fn asked_name() -> Option<String> {
    ASKED.take()
}

/// The domain that counts in the hello that this thread answers next, if the hello names none that
/// a certificate is for; gives back what was set before and not used.
pub fn want(domain: Option<Domain>) -> Option<Domain> {
    WANTED.replace(domain)
}

/// A certificate of ours that can be shown.
pub(super) type Ours = (Arc<CertifiedKey>, ShownCertificate);

/// The first that this peer can verify, else the first.
fn verifiable<'a>(
    ours: &[(&'a Arc<CertifiedKey>, &ShownCertificate)],
    schemes: &[SignatureScheme],
) -> Option<&'a Arc<CertifiedKey>> {
    let fits = |(key, _): &&(&Arc<CertifiedKey>, _)| key.key.choose_scheme(schemes).is_some();
    let first = ours.iter().find(fits).or_else(|| ours.first());
    first.map(|(key, _)| *key)
}

fn pairs(ours: &[Ours]) -> impl Iterator<Item = (&Arc<CertifiedKey>, &ShownCertificate)> {
    ours.iter().map(|(key, shown)| (key, shown))
}

/// For peers that connect: by SNI, or by the `to` of the stream's header where there is none.
#[derive(Debug)]
pub(super) struct ByDomain(pub(super) Vec<Ours>);

impl ResolvesServerCert for ByDomain {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        ASKED.set(hello.server_name().map(ToOwned::to_owned));
        let asked = hello.server_name().and_then(|name| Domain::parse(name).ok());
        let is_ours = |domain: &Domain| self.0.iter().any(|(_, shown)| shown.names.cover(domain));
        let domain = match (asked, WANTED.take()) {
            (Some(asked), Some(wanted)) if !is_ours(&asked) => Some(wanted),
            (asked, wanted) => asked.or(wanted),
        };
        let now = jiff::Timestamp::now();
        let ours = by_suitability(pairs(&self.0), domain.as_ref(), now);
        verifiable(&ours, hello.signature_schemes()).cloned()
    }
}

/// Where we connect: those that name one hosted domain, or the first if none does.
#[derive(Debug)]
pub(super) struct ForDomain(Vec<Ours>);

impl ForDomain {
    pub(super) fn of(ours: &[Ours], domain: &Domain, now: jiff::Timestamp) -> Self {
        let suitable = by_suitability(pairs(ours), Some(domain), now);
        let naming = suitable
            .iter()
            .filter(|(_, s)| s.names.cover(domain) || s.names.only_mention(domain));
        let count = naming.count().max(1);
        let suitable = suitable.into_iter().take(count);
        Self(suitable.map(|(key, shown)| (key.clone(), shown.clone())).collect())
    }

    /// The one that is shown to a peer that can verify all.
    pub(super) fn first(&self) -> Option<&Ours> {
        self.0.first()
    }
}

impl ResolvesClientCert for ForDomain {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let ours: Vec<_> = pairs(&self.0).collect();
        verifiable(&ours, schemes).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
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
        let first = |domain| by_suitability(ours.iter().enumerate(), domain, now)[0].0;
        assert_eq!(first(Some(&domain)), expected);
        assert_eq!(first(None), 0);
    }
}
