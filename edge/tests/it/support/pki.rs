//! Certificates of a test authority, and peers that show them.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use xmpp_federation_core::edge_config::{CertificateFiles, EdgeConfig};
use xmpp_federation_edge::config::Live;
use xmpp_federation_edge::files::{FieldError, sha256_hex};
use xmpp_federation_edge::tls::TlsSettings;

pub use testkit_peer::tls::Watching;

use super::live;

/// The authority that the edge trusts.
pub struct Pki {
    pub ca: CertifiedIssuer<'static, KeyPair>,
    /// The edge's own certificate: coluc.com and conf.coluc.com.
    pub own: Identity,
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    pub chain_pem: String,
    pub key_pem: String,
}

/// The one authority of all tests.
pub fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(Pki::new)
}

/// The certificate of the partner `vngtp.lab`.
pub fn partners() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| pki().issue(&["vngtp.lab"], |_| {}))
}

/// Certificate and key from one file.
pub fn files(path: &str) -> CertificateFiles {
    serde_yaml::from_str(&format!("{{certificateFile: {path}, privateKeyFile: {path}}}")).unwrap()
}

impl Identity {
    fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        Self {
            chain: vec![certificate.der().clone()],
            key: key.serialize_der(),
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    pub fn self_signed(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Self::new(&made.cert, &made.signing_key)
    }

    /// This certificate with the key of another one.
    #[must_use]
    pub fn with_key_of(mut self, other: &Self) -> Self {
        self.key.clone_from(&other.key);
        self
    }

    /// Certificate and key as they stand in one file.
    pub fn pem(&self) -> String {
        self.chain_pem.clone() + &self.key_pem
    }

    pub fn sha256(&self) -> String {
        sha256_hex(&self.chain[0])
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.clone()).unwrap()
    }
}

impl Pki {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let own = issue(&ca, &["coluc.com", "conf.coluc.com"], |_| {});
        Self { ca, own }
    }

    /// With an RSA key.
    pub fn issue_rsa(&self, names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let params = CertificateParams::new(names).unwrap();
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
        let key = key.unwrap();
        Identity::new(&params.signed_by(&key, &self.ca).unwrap(), &key)
    }

    pub fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        issue(&self.ca, names, change)
    }

    /// A revocation list that names these serial numbers.
    pub fn revoked(&self, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|serial| rcgen::RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2099, 1, 1),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.ca).unwrap().pem().unwrap()
    }

    /// Has the edge show its own certificate and trust this authority.
    pub fn live(&self, config: EdgeConfig) -> Live {
        self.live_with(config, &[])
    }

    /// The same with further files.
    pub fn live_with(&self, mut config: EdgeConfig, files: &[(&str, &str)]) -> Live {
        config.tls.trust_anchors.system = false;
        config.tls.trust_anchors.file = Some("/ca".into());
        assert_eq!(config.problems(), []);
        let mut all: HashMap<&str, &str> = files.iter().copied().collect();
        let ca = self.ca.pem();
        all.insert("/ca", &ca);
        // Where `support::config` leads for certificate and key.
        let own = self.own.pem();
        all.insert("/nowhere", &own);
        let read = |field: &str, path: &std::path::Path| {
            let text = all.get(path.to_str().unwrap()).ok_or_else(|| FieldError {
                field: field.to_owned(),
                message: format!("{} is not there", path.display()),
            })?;
            Ok(text.as_bytes().to_vec())
        };
        let tls = TlsSettings::load(&config.tls, config.uses_tls(), &read).unwrap();
        Live { tls, ..live(config) }
    }
}

fn issue(
    ca: &CertifiedIssuer<'static, KeyPair>,
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> Identity {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Identity::new(&params.signed_by(&key, ca).unwrap(), &key)
}

const BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// A peer that connects and shows this certificate, or none.
pub fn client(shown: Option<&Identity>) -> Arc<ClientConfig> {
    client_of(shown, &BOTH)
}

/// Signs with whatever key it was given.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

impl rustls::server::ResolvesServerCert for Shown {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

pub fn certified(identity: &Identity) -> Arc<CertifiedKey> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(identity.private_key()).unwrap();
    Arc::new(CertifiedKey::new(identity.chain.clone(), key))
}

pub fn client_of(identity: Option<&Identity>, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    client_showing(identity.map(certified), versions)
}

/// The same with a certificate and something that signs.
pub fn client_showing(
    identity: Option<Arc<CertifiedKey>>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Watching::anybody()));
    Arc::new(match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(Shown(identity))),
        None => builder.with_no_client_auth(),
    })
}

/// A peer that is connected to, shows this certificate and asks for one.
pub fn server(identity: &Identity) -> Arc<ServerConfig> {
    server_of(identity, &BOTH)
}

pub fn server_of(identity: &Identity, versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
    server_showing(certified(identity), versions)
}

/// The same with a certificate and something that signs.
pub fn server_showing(
    identity: Arc<CertifiedKey>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ServerConfig> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    server_asking(identity, schemes, versions)
}

/// The same, and the client's certificate may be of keys that sign so.
pub fn server_asking(
    identity: Arc<CertifiedKey>,
    schemes: Vec<SignatureScheme>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(Arc::new(AskAnybody(schemes)))
        .with_cert_resolver(Arc::new(Shown(identity)));
    Arc::new(config)
}

#[derive(Debug)]
struct AskAnybody(Vec<SignatureScheme>);

impl ClientCertVerifier for AskAnybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
