//! Authorities, certificates and keys, read from PEM files.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};
use xmpp_federation_core::certificate::CertificateNames;
use xmpp_federation_core::edge_config::{CertificateFiles, TrustAnchors};

use super::choice::ShownCertificate;
use crate::files::{FieldError, ReadFile};

pub(super) fn load_roots(anchors: &TrustAnchors, read: &ReadFile<'_>) -> Result<RootCertStore, FieldError> {
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
            roots.add(certificate).map_err(|error| fail(error.to_string()))?;
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

pub(super) fn load_certificate(
    field: &str,
    files: &CertificateFiles,
    provider: &CryptoProvider,
    read: &ReadFile<'_>,
) -> Result<(Arc<CertifiedKey>, ShownCertificate), FieldError> {
    let (chain_path, key_path) = (files.certificate_file.display(), files.private_key_file.display());
    let chain_field = format!("{field}.certificateFile");
    let key_field = format!("{field}.privateKeyFile");
    let pem = read(&chain_field, &files.certificate_file)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| FieldError::new(chain_field.clone(), format!("{chain_path} is not PEM: {error}")))?;
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
    let unreadable = |why: String| FieldError::new(chain_field.clone(), format!("{chain_path}: {why}"));
    let names = CertificateNames::from_der(&leaf).map_err(|error| unreadable(error.to_string()))?;
    let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|error| unreadable(error.to_string()))?;
    let time = |time: &x509_parser::time::ASN1Time| {
        jiff::Timestamp::from_second(time.timestamp()).map_err(|error| unreadable(error.to_string()))
    };
    let not_before = time(&parsed.validity().not_before)?;
    let not_after = time(&parsed.validity().not_after)?;
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => FieldError::new(
            key_field,
            format!("{key_path} is not the key of the certificate in {chain_path}; put the pair of one issuance there"),
        ),
        other => FieldError::new(key_field, format!("{key_path} is not usable: {other}")),
    })?;
    Ok((
        Arc::new(certified),
        ShownCertificate {
            names,
            not_before,
            not_after,
        },
    ))
}
