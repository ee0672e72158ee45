//! The cluster's certificates: one CA, one leaf per node.

use super::config::NodeConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// The CA of one cluster.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A node's TLS identity, and those that faults give it instead.
pub struct Identity {
    /// Accepts TLS 1.2 and 1.3.
    pub acceptor: TlsAcceptor,
    /// The leaf, DER.
    pub certificate: CertificateDer<'static>,
    /// With a certificate that has expired.
    pub expired: TlsAcceptor,
    /// With the certificate of another host.
    pub other_name: TlsAcceptor,
    /// With a certificate as tomcat makes it itself: its own CA, with a common name only.
    pub self_signed: TlsAcceptor,
    /// That certificate, PEM.
    pub self_signed_pem: String,
    /// The same, DER.
    pub self_signed_der: CertificateDer<'static>,
}

impl Authority {
    /// A new CA.
    pub fn new() -> Result<Self, testkit_base::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "Simulated IM&P CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A leaf for the node's name and aliases, and what else it may show.
    pub fn identity(&self, node: &NodeConfig) -> Result<Identity, testkit_base::Error> {
        let mut names = vec![node.name.clone()];
        names.extend(node.aliases.iter().cloned());
        let leaf = |names: Vec<String>| -> Result<CertificateParams, testkit_base::Error> {
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name.push(DnType::CommonName, node.name.as_str());
            Ok(params)
        };
        let signed = |params: CertificateParams| -> Result<_, testkit_base::Error> {
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &self.0)?.der().clone();
            Ok((acceptor(certificate.clone(), &key)?, certificate))
        };
        let (acceptor_of_node, certificate) = signed(leaf(names.clone())?)?;
        let mut params = leaf(names)?;
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let (expired, _) = signed(params)?;
        let (other_name, _) = signed(leaf(vec!["another-host.example".to_owned()])?)?;
        let mut params = leaf(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let own = params.self_signed(&key)?;
        Ok(Identity {
            acceptor: acceptor_of_node,
            certificate,
            expired,
            other_name,
            self_signed: acceptor(own.der().clone(), &key)?,
            self_signed_pem: own.pem(),
            self_signed_der: own.der().clone(),
        })
    }
}

fn acceptor(certificate: CertificateDer<'static>, key: &KeyPair) -> Result<TlsAcceptor, testkit_base::Error> {
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Answers a `ClientHello` as a server does that speaks nothing newer than TLS 1.0: a `ServerHello` of version 3.1 with
/// `TLS_RSA_WITH_AES_128_CBC_SHA` (RFC 2246 section 7.4.1.3); what the client makes of it is awaited.
pub async fn answer_as_tls_1_0(mut stream: TcpStream) {
    let mut taken = [0; 4096];
    let _ = stream.read(&mut taken).await;
    let mut hello = vec![0x16, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1];
    hello.extend([7; 32]);
    // No session id, the cipher suite, no compression.
    hello.extend([0, 0, 0x2f, 0]);
    let _ = stream.write_all(&hello).await;
    let _ = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut taken)).await;
}
