//! TLS: settings of both directions and the judgement of peers' certificates.
//!
//! Handshakes check only that the peer holds its certificate's key ([`handshake`]). Whether the
//! certificate proves a domain is judged afterwards ([`TlsSettings::judge`]), because dialback goes
//! on without a valid one, and because one stream may carry several domains.
//!
//! - [`files`], [`revocation`]: what is read; [`choice`]: which of our certificates is shown
//! - [`judge`]: what a peer's certificate proves

mod choice;
mod files;
mod handshake;
mod judge;
mod revocation;

pub(crate) use choice::noting_requests;
pub use choice::{ShownCertificate, asked_name, want};
pub(crate) use handshake::SignatureOnly;
pub use handshake::key_was_proven;
pub use judge::{PeerCertificates, Verdict};

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use xmpp_federation_core::chain::Shown;
use xmpp_federation_core::edge_config::{Tls, TlsVersion};
use xmpp_federation_core::{Domain, Fingerprint};

use crate::files::{FieldError, ReadFile, sha256_hex};
use choice::{ByDomain, ForDomain, Ours};
use files::Loading;
use judge::{Examination, Trust};
use revocation::RevocationLists;

/// What the snapshot holds about TLS.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// For streams that peers open; `None` when TLS is spoken with nobody. Asks for a client
    /// certificate without demanding one; chain and name are judged by [`TlsSettings::judge`].
    pub server: Option<Arc<ServerConfig>>,
    /// For streams we open, without a certificate.
    client: Option<Arc<ClientConfig>>,
    /// Those that may be shown there.
    ours: Vec<Ours>,
    /// SHA-256 of the leaf certificate shown first, lower-case hexadecimal.
    pub leaf_sha256: Option<String>,
    /// The certificates shown, in the order of the configuration.
    pub certificates: Vec<ShownCertificate>,
    /// The one shown where we connect, if it is a special one.
    pub client_certificate: Option<ShownCertificate>,
    /// What deserves a warning although it works, as sentences.
    pub warnings: Vec<String>,
    trust: Arc<Trust>,
}

/// How we appear where we connect. Chain and name of the server are judged by
/// [`TlsSettings::judge`]; the handshake checks the signature only.
#[derive(Debug, Clone)]
pub struct Client {
    /// Shows one of our certificates.
    pub config: Arc<ClientConfig>,
    /// SHA-256 of the leaf that is shown first, lower-case hexadecimal; empty if none is known.
    pub leaf_sha256: String,
    pub(crate) shown: Option<Arc<ShownCertificate>>,
}

impl Client {
    /// Whether the certificate shown names this domain and is in its time: SASL EXTERNAL makes
    /// sense then.
    pub fn proves(&self, local: &Domain) -> bool {
        let now = jiff::Timestamp::now();
        let mut shown = self.shown.iter();
        shown.any(|shown| shown.names.cover(local) && shown.in_time(now))
    }
}

/// What one stream's certificate proves, examined anew once a minute and after each reload only:
/// a peer can have it asked for as often as it likes.
#[derive(Debug, Default)]
pub struct JudgementCache(Mutex<Option<Judgement>>);

#[derive(Debug)]
struct Judgement {
    /// By which authorities.
    trust: Weak<Trust>,
    at: Instant,
    examined: Arc<Examination>,
}

impl JudgementCache {
    const LIFE: Duration = Duration::from_mins(1);
}

impl TlsSettings {
    /// Settings with these sides that trust nobody: every certificate is judged invalid. Where we
    /// connect, the peer's key is verified as always.
    pub fn new(server: Option<Arc<ServerConfig>>, client: Option<Arc<ClientConfig>>) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = client.map(|config| {
            let mut config = ClientConfig::clone(&config);
            let verifier = SignatureOnly(provider.signature_verification_algorithms);
            config.dangerous().set_certificate_verifier(Arc::new(verifier));
            Arc::new(config)
        });
        Self {
            server,
            client,
            ours: Vec::new(),
            leaf_sha256: None,
            certificates: Vec::new(),
            client_certificate: None,
            warnings: Vec::new(),
            trust: Arc::new(Trust {
                roots: RootCertStore::empty(),
                revoked: RevocationLists::default(),
                provider,
            }),
        }
    }

    /// Builds the settings of a configuration; `read` gives the contents of a named file.
    /// `used`: whether TLS is spoken with anybody; if not, no certificate is read.
    pub fn load(tls: &Tls, used: bool, read: &ReadFile<'_>) -> Result<Self, FieldError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut warnings = Vec::new();
        let (roots, anchors) = files::load_anchors(&tls.trust_anchors, read)?;
        let trust = Arc::new(Trust {
            roots,
            revoked: RevocationLists::load(&tls.revocation_lists, read, &mut warnings)?,
            provider: provider.clone(),
        });
        if !used {
            return Ok(Self {
                warnings,
                trust,
                ..Self::new(None, None)
            });
        }
        let loading = Loading {
            provider: &provider,
            read,
            anchors: &anchors,
            now: jiff::Timestamp::now(),
        };
        let mut shown = Vec::with_capacity(tls.certificates.len());
        for (index, named) in tls.certificates.iter().enumerate() {
            let field = format!("tls.certificates[{index}]");
            shown.push(files::load_certificate(
                &field,
                named,
                Shown::ToClients,
                &loading,
                &mut warnings,
            )?);
        }
        let broken = |field: &str, error: rustls::Error| {
            FieldError::new(field.to_owned(), format!("TLS cannot be set up: {error}"))
        };
        let field = "tls.certificates";
        let Some((first, _)) = shown.first() else {
            let message = "is empty; name at least one certificate";
            return Err(FieldError::new(field.to_owned(), message));
        };
        let leaf_sha256 = leaf_sha256(first);
        let special = match &tls.client_certificate {
            Some(named) => {
                let field = "tls.clientCertificate";
                Some(files::load_certificate(
                    field,
                    named,
                    Shown::ToServers,
                    &loading,
                    &mut warnings,
                )?)
            }
            None => None,
        };
        let client = client_config(&provider, tls.min_version).map_err(|error| broken(field, error))?;
        let client_certificate = special.as_ref().map(|(_, certificate)| certificate.clone());
        let ours = special.map_or_else(|| shown.clone(), |special| vec![special]);
        let certificates = shown.iter().map(|(_, certificate)| certificate.clone()).collect();
        let server = server_config(&provider, tls.min_version, shown).map_err(|error| broken(field, error))?;
        Ok(Self {
            server: Some(Arc::new(server)),
            client: Some(Arc::new(client)),
            ours,
            leaf_sha256,
            certificates,
            client_certificate,
            warnings,
            trust,
        })
    }

    /// How we appear to peers in the name of a hosted domain; `None` when TLS is spoken with
    /// nobody.
    pub fn client_for(&self, local: &Domain) -> Option<Client> {
        let config = self.client.as_ref()?;
        let ours = ForDomain::of(&self.ours, local, jiff::Timestamp::now());
        let Some((key, shown)) = ours.first() else {
            return Some(Client {
                config: config.clone(),
                leaf_sha256: String::new(),
                shown: None,
            });
        };
        let (leaf_sha256, shown) = (leaf_sha256(key), shown.clone());
        let mut config = ClientConfig::clone(config);
        config.client_auth_cert_resolver = Arc::new(ours);
        Some(Client {
            config: Arc::new(config),
            leaf_sha256: leaf_sha256.unwrap_or_default(),
            shown: Some(Arc::new(shown)),
        })
    }

    /// What a stream keeps of its peer's certificate.
    pub(crate) fn examine(&self, kept: &JudgementCache, peer: PeerCertificates<'_>) -> Arc<Examination> {
        let mut kept = kept.0.lock();
        if let Some(judgement) = &*kept
            && std::ptr::eq(judgement.trust.as_ptr(), Arc::as_ptr(&self.trust))
            && judgement.at.elapsed() < JudgementCache::LIFE
        {
            return judgement.examined.clone();
        }
        let examined = Arc::new(self.trust.examine(peer));
        *kept = Some(Judgement {
            trust: Arc::downgrade(&self.trust),
            at: Instant::now(),
            examined: examined.clone(),
        });
        examined
    }

    /// Judges what a peer showed against a domain: chain to an authority and name, both; or, with
    /// `pins`, the fingerprint of the leaf alone.
    pub fn judge(&self, peer: PeerCertificates<'_>, domain: &Domain, pins: &[Fingerprint]) -> Verdict {
        self.trust.examine(peer).verdict(domain, pins)
    }
}

/// The name for SNI and reference identity: always the domain, never a target of DNS.
pub fn server_name(domain: &Domain) -> Result<ServerName<'static>, rustls::pki_types::InvalidDnsNameError> {
    ServerName::try_from(domain.to_string())
}

fn versions(lowest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    static NEWEST: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    match lowest {
        TlsVersion::VersionTLS12 => &BOTH,
        TlsVersion::VersionTLS13 => &NEWEST,
    }
}

fn leaf_sha256(key: &CertifiedKey) -> Option<String> {
    key.cert.first().map(|leaf| sha256_hex(leaf))
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    lowest: TlsVersion,
    shown: Vec<Ours>,
) -> Result<ServerConfig, rustls::Error> {
    let verifier = SignatureOnly(provider.signature_verification_algorithms);
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions(lowest))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(ByDomain(shown)));
    // No resumption: replicas share no state, and a resumed session would keep an old verdict.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

fn client_config(provider: &Arc<CryptoProvider>, lowest: TlsVersion) -> Result<ClientConfig, rustls::Error> {
    let verifier = SignatureOnly(provider.signature_verification_algorithms);
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions(lowest))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

#[cfg(test)]
mod tests;
