//! The cluster's certificates: one CA, one leaf per node.

use super::config::NodeConfig;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// The CA of one cluster.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A node's TLS identity.
pub struct Identity {
    /// Accepts TLS 1.2 and 1.3.
    pub acceptor: TlsAcceptor,
    /// The leaf, DER.
    pub certificate: CertificateDer<'static>,
}

impl Authority {
    /// A new CA.
    pub fn new() -> Result<Self, crate::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params
            .distinguished_name
            .push(DnType::CommonName, "Simulated IM&P CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self(CertifiedIssuer::self_signed(
            params,
            KeyPair::generate()?,
        )?))
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A leaf for the node's name and aliases.
    pub fn identity(&self, node: &NodeConfig) -> Result<Identity, crate::Error> {
        let mut names = vec![node.name.clone()];
        names.extend(node.aliases.iter().cloned());
        let mut params = CertificateParams::new(names)?;
        params
            .distinguished_name
            .push(DnType::CommonName, node.name.as_str());
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?.der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Identity {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificate,
        })
    }
}
