//! TLS: settings of both directions and the judgement of peers' certificates.
//!
//! Handshakes check only that the peer holds its certificate's key. Whether the certificate proves
//! a domain is judged afterwards ([`TlsSettings::judge`]), because dialback goes on without a
//! valid one, and because one stream may carry several domains.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use xmpp_federation_core::Domain;
use xmpp_federation_core::certificate::CertificateNames;
use xmpp_federation_core::edge_config::{CertificateFiles, Tls, TlsMode, TlsVersion, TrustAnchors};

use crate::config::{FieldError, ReadFile, sha256_hex};

/// What the snapshot holds about TLS.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// For streams that peers open; `None` when TLS is disabled. Asks for a client certificate
    /// without demanding one; chain and name are judged by [`TlsSettings::judge`].
    pub server: Option<Arc<ServerConfig>>,
    /// For streams we open. Checks the handshake signature only; chain and name are judged by
    /// [`TlsSettings::judge`].
    pub client: Option<Arc<ClientConfig>>,
    /// SHA-256 of the leaf certificate shown first, lower-case hexadecimal.
    pub leaf_sha256: Option<String>,
    /// The certificates shown, in the order of the configuration.
    pub certificates: Vec<ShownCertificate>,
    trust: Arc<Trust>,
}

/// A certificate of ours.
#[derive(Debug, Clone)]
pub struct ShownCertificate {
    /// The domains it proves.
    pub names: CertificateNames,
    /// End of its validity.
    pub not_after: jiff::Timestamp,
}

/// What a peer's certificate proves about a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Chain and name hold.
    Valid,
    /// None was shown.
    Missing,
    /// Why it proves nothing, as a sentence.
    Invalid(String),
}

impl TlsSettings {
    /// Settings with these sides that trust nobody: every certificate is judged invalid.
    pub fn new(server: Option<Arc<ServerConfig>>, client: Option<Arc<ClientConfig>>) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Self {
            server,
            client,
            leaf_sha256: None,
            certificates: Vec::new(),
            trust: Arc::new(Trust {
                roots: RootCertStore::empty(),
                provider,
            }),
        }
    }

    /// Builds the settings of a configuration; `read` gives the contents of a named file.
    pub fn load(tls: &Tls, read: &ReadFile<'_>) -> Result<Self, FieldError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let trust = Arc::new(Trust {
            roots: load_roots(&tls.trust_anchors, read)?,
            provider: provider.clone(),
        });
        if tls.mode == TlsMode::Disabled {
            return Ok(Self {
                trust,
                ..Self::new(None, None)
            });
        }
        let mut shown = Vec::with_capacity(tls.certificates.len());
        for (index, files) in tls.certificates.iter().enumerate() {
            shown.push(load_certificate(
                &format!("tls.certificates[{index}]"),
                files,
                &provider,
                read,
            )?);
        }
        let field = || "tls.certificates".to_owned();
        let first = shown.first().map(|(key, _)| key.clone());
        let first = first
            .ok_or_else(|| FieldError::new(field(), "is empty; name at least one certificate"))?;
        let broken = |error: rustls::Error| {
            FieldError::new(field(), format!("TLS cannot be set up: {error}"))
        };
        let certificates = shown
            .iter()
            .map(|(_, certificate)| certificate.clone())
            .collect();
        Ok(Self {
            leaf_sha256: first.cert.first().map(|leaf| sha256_hex(leaf)),
            server: Some(Arc::new(
                server_config(&provider, tls.min_version, shown).map_err(broken)?,
            )),
            client: Some(Arc::new(
                client_config(&provider, tls.min_version, first).map_err(broken)?,
            )),
            certificates,
            trust,
        })
    }

    /// Judges a chain, leaf first, against a domain: chain to an authority and name, both.
    pub fn judge(&self, chain: &[CertificateDer<'_>], domain: &Domain) -> Verdict {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Verdict::Missing;
        };
        if let Err(reason) = self.trust.check(leaf, intermediates, UnixTime::now()) {
            return Verdict::Invalid(reason);
        }
        match CertificateNames::from_der(leaf) {
            Ok(names) if names.cover(domain) => Verdict::Valid,
            Ok(names) => {
                let mut list = names.list();
                list.truncate(8);
                let list = if list.is_empty() {
                    "no domain".to_owned()
                } else {
                    list.join(", ")
                };
                Verdict::Invalid(format!("its names do not cover {domain}; it names {list}"))
            }
            Err(error) => Verdict::Invalid(error.to_string()),
        }
    }
}

/// The name for SNI and reference identity: always the domain, never a target of DNS.
pub fn server_name(
    domain: &Domain,
) -> Result<ServerName<'static>, rustls::pki_types::InvalidDnsNameError> {
    ServerName::try_from(domain.to_string())
}

fn versions(lowest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] =
        [&rustls::version::TLS13, &rustls::version::TLS12];
    static NEWEST: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    match lowest {
        TlsVersion::VersionTLS12 => &BOTH,
        TlsVersion::VersionTLS13 => &NEWEST,
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    lowest: TlsVersion,
    shown: Vec<(Arc<CertifiedKey>, ShownCertificate)>,
) -> Result<ServerConfig, rustls::Error> {
    let verifier = SignatureOnly(provider.signature_verification_algorithms);
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions(lowest))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(ByDomain(shown)));
    // No resumption: replicas share no state, and a resumed session would keep an old verdict.
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    lowest: TlsVersion,
    shown: Arc<CertifiedKey>,
) -> Result<ClientConfig, rustls::Error> {
    let verifier = SignatureOnly(provider.signature_verification_algorithms);
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions(lowest))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

/// Chooses the certificate that covers the domain of SNI, else the first.
#[derive(Debug)]
struct ByDomain(Vec<(Arc<CertifiedKey>, ShownCertificate)>);

impl ResolvesServerCert for ByDomain {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello
            .server_name()
            .and_then(|name| Domain::parse(name).ok());
        self.choose(asked.as_ref()).cloned()
    }
}

impl ByDomain {
    fn choose(&self, asked: Option<&Domain>) -> Option<&Arc<CertifiedKey>> {
        let covering =
            asked.and_then(|domain| self.0.iter().find(|(_, shown)| shown.names.cover(domain)));
        covering.or(self.0.first()).map(|(key, _)| key)
    }
}

/// Accepts every certificate whose key signed the handshake; everything else is judged later.
#[derive(Debug)]
struct SignatureOnly(WebPkiSupportedAlgorithms);

impl SignatureOnly {
    fn tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.tls12(message, certificate, signature)
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.tls13(message, certificate, signature)
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_schemes()
        }
    };
}

impl ServerCertVerifier for SignatureOnly {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    signatures!();
}

impl ClientCertVerifier for SignatureOnly {
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: they would be long, and peers show what they have.
        &[]
    }
    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }
    signatures!();
}

/// The authorities that peers' chains must lead to.
#[derive(Debug)]
struct Trust {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
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

impl Trust {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), String> {
        let parsed = webpki::EndEntityCert::try_from(leaf)
            .map_err(|error| format!("it is not a readable certificate: {error:?}"))?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        parsed
            .verify_for_usage(
                algorithms,
                &self.roots.roots,
                intermediates,
                now,
                PeerUsage,
                None,
                None,
            )
            .map(drop)
            .map_err(|error| explain(&error))
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
        webpki::Error::UnknownIssuer => "no trusted authority issued it".to_owned(),
        webpki::Error::InvalidSignatureForPublicKey => {
            "it is not signed by the authority that it names".to_owned()
        }
        webpki::Error::CaUsedAsEndEntity => {
            "it is the certificate of an authority, not of a server".to_owned()
        }
        webpki::Error::RequiredEkuNotFoundContext(_) => {
            "its extended key usage allows neither server nor client authentication".to_owned()
        }
        other => format!("its chain does not hold: {other:?}"),
    }
}

fn at(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).ok();
    let time = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map(|time| format!(" {time}")).unwrap_or_default()
}

fn load_roots(anchors: &TrustAnchors, read: &ReadFile<'_>) -> Result<RootCertStore, FieldError> {
    let mut roots = RootCertStore::empty();
    if anchors.system {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = &anchors.file {
        let field = "tls.trustAnchors.file";
        let pem = read(field, path)?;
        let mut count = 0;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let fail = |why: String| {
                FieldError::new(
                    field.to_owned(),
                    format!("{} holds an unusable certificate: {why}", path.display()),
                )
            };
            let certificate = certificate.map_err(|error| fail(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| fail(error.to_string()))?;
            count += 1;
        }
        if count == 0 {
            return Err(FieldError::new(
                field.to_owned(),
                format!(
                    "{} holds no PEM certificate (-----BEGIN CERTIFICATE-----)",
                    path.display()
                ),
            ));
        }
    }
    Ok(roots)
}

fn load_certificate(
    field: &str,
    files: &CertificateFiles,
    provider: &CryptoProvider,
    read: &ReadFile<'_>,
) -> Result<(Arc<CertifiedKey>, ShownCertificate), FieldError> {
    let (chain_path, key_path) = (
        files.certificate_file.display(),
        files.private_key_file.display(),
    );
    let chain_field = format!("{field}.certificateFile");
    let key_field = format!("{field}.privateKeyFile");
    let pem = read(&chain_field, &files.certificate_file)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| {
            FieldError::new(
                chain_field.clone(),
                format!("{chain_path} is not PEM: {error}"),
            )
        })?;
    let leaf = chain.first().cloned().ok_or_else(|| {
        FieldError::new(
            chain_field.clone(),
            format!("{chain_path} holds no PEM certificate (-----BEGIN CERTIFICATE-----)"),
        )
    })?;
    // The contents of a key file never go into a message.
    let pem = xmpp_federation_core::SecretBytes::new(read(&key_field, &files.private_key_file)?);
    let key = PrivateKeyDer::from_pem_slice(pem.expose()).map_err(|_| {
        FieldError::new(
            key_field.clone(),
            format!("{key_path} holds no PEM private key (PKCS #8, PKCS #1 or SEC1, unencrypted)"),
        )
    })?;
    let unreadable =
        |why: String| FieldError::new(chain_field.clone(), format!("{chain_path}: {why}"));
    let names = CertificateNames::from_der(&leaf).map_err(|error| unreadable(error.to_string()))?;
    let (_, parsed) =
        X509Certificate::from_der(&leaf).map_err(|error| unreadable(error.to_string()))?;
    let not_after = jiff::Timestamp::from_second(parsed.validity().not_after.timestamp())
        .map_err(|error| unreadable(error.to_string()))?;
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => FieldError::new(
            key_field,
            format!("{key_path} is not the key of the certificate in {chain_path}; put the pair of one issuance there"),
        ),
        other => FieldError::new(key_field, format!("{key_path} is not usable: {other}")),
    })?;
    Ok((Arc::new(certified), ShownCertificate { names, not_after }))
}

#[cfg(test)]
mod tests;
