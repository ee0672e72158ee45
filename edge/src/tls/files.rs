//! Authorities, certificates and keys, read from PEM files.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use xmpp_federation_core::SecretBytes;
use xmpp_federation_core::chain::{self, Anchors, FaultKind, Nearness, Shown, Terms, UnreadableChain};
use xmpp_federation_core::edge_config::{CertificateFiles, TrustAnchors};

use super::choice::ShownCertificate;
use crate::files::{FieldError, ReadFile};

/// The authorities that peers' chains must lead to, and those that ours may lead to.
pub(super) fn load_anchors(
    anchors: &TrustAnchors,
    read: &ReadFile<'_>,
) -> Result<(RootCertStore, Anchors), FieldError> {
    let mut roots = RootCertStore::empty();
    let mut own = Vec::new();
    if anchors.system {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = &anchors.file {
        let field = "tls.trustAnchors.file";
        for certificate in CertificateDer::pem_slice_iter(&read(field, path)?) {
            let fail = |why: String| {
                FieldError::new(
                    field.to_owned(),
                    format!("{} holds an unusable certificate: {why}", path.display()),
                )
            };
            let certificate = certificate.map_err(|error| fail(error.to_string()))?;
            roots
                .add(certificate.clone())
                .map_err(|error| fail(error.to_string()))?;
            own.push(certificate);
        }
        if own.is_empty() {
            return Err(FieldError::new(
                field.to_owned(),
                format!(
                    "{} holds no PEM certificate (-----BEGIN CERTIFICATE-----)",
                    path.display()
                ),
            ));
        }
    }
    Ok((roots, Anchors::of(&own)))
}

/// What a certificate is loaded with.
pub(super) struct Loading<'a> {
    pub provider: &'a CryptoProvider,
    pub read: &'a ReadFile<'a>,
    pub anchors: &'a Anchors,
    pub now: jiff::Timestamp,
}

/// Reads chain and key. What peers will refuse goes into `warnings`, since dialback needs no certificate; without a key
/// that fits there is no TLS at all.
pub(super) fn load_certificate(
    field: &str,
    files: &CertificateFiles,
    shown: Shown,
    loading: &Loading<'_>,
    warnings: &mut Vec<String>,
) -> Result<(Arc<CertifiedKey>, ShownCertificate), FieldError> {
    let (chain_path, key_path) = (files.certificate_file.display(), files.private_key_file.display());
    let chain_field = format!("{field}.certificateFile");
    let key_field = format!("{field}.privateKeyFile");
    let pem = (loading.read)(&chain_field, &files.certificate_file)?;
    let unreadable = |error: UnreadableChain| FieldError::new(chain_field.clone(), format!("{chain_path} {error}"));
    let chain = chain::certificates(&pem).map_err(unreadable)?;
    // The contents of a key file never go into a message.
    let key_pem = SecretBytes::new((loading.read)(&key_field, &files.private_key_file)?);
    let terms = Terms {
        now: loading.now,
        shown,
        key: &key_pem,
        key_name: &key_path.to_string(),
        // Several certificates may cover the domains together.
        names: &[],
        anchors: loading.anchors,
    };
    let found = chain::examine(&chain, &terms).map_err(unreadable)?;
    if let Some(fault) = found.faults.iter().find(|fault| fault.kind == FaultKind::Key) {
        return Err(FieldError::new(key_field, fault.sentence.clone()));
    }
    warnings.extend(found.faults.iter().map(|fault| {
        format!(
            "the certificate in {chain_path} is refused by peers that check it: {}",
            fault.sentence
        )
    }));
    if found.faults.is_empty() && found.nearness != Nearness::Far {
        warnings.push(format!(
            "the certificate in {chain_path} ends on {} with {}, and peers refuse it from then on; write the renewed chain before",
            found.not_after, found.ends_first
        ));
    }
    let unusable = |why: String| FieldError::new(key_field.clone(), format!("{key_path} is not usable: {why}"));
    let key = PrivateKeyDer::from_pem_slice(key_pem.expose()).map_err(|_| unusable("it is no PEM key".to_owned()))?;
    let certified =
        CertifiedKey::from_der(chain, key, loading.provider).map_err(|error| unusable(error.to_string()))?;
    Ok((
        Arc::new(certified),
        ShownCertificate {
            names: found.names,
            not_before: found.not_before,
            not_after: found.not_after,
        },
    ))
}
