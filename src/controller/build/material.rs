//! Secret material: what exists is kept, what never existed is generated. The first
//! half of the step; only here random bytes are drawn, the other half is pure.

use std::sync::Arc;

use jiff::Timestamp;
use xmpp_federation_core::SecretBytes;

use super::chains::{self, JudgedChain};
use super::secrets;
use crate::api;
use crate::api::reasons::Reason;
use crate::controller::dereference::{ExistingObjects, KubeView};
use crate::controller::names::{DIALBACK_KEY, router_file};
use crate::controller::objects::ExistingObject;
use crate::controller::references::SecretError;
use crate::controller::validate::{ImpCluster, ValidSpec};
use crate::secrets::{NoRandomness, generate_dialback_secret};
use crate::tls::{self, KeyMaterial, Outcome, TlsError};

/// Something that pods are to be given cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// This Secret has no dialback secret.
    #[error("Secret {0} has no key {key:?}; {remedy}", key = DIALBACK_KEY, remedy = restore_dialback())]
    NoDialback(String),
    /// The dialback secret in this Secret has so many bytes.
    #[error(
        "key {key:?} of Secret {0} has {1} bytes, a dialback secret needs 32; {remedy}",
        key = DIALBACK_KEY,
        remedy = restore_dialback()
    )]
    ShortDialback(String, usize),
    /// This Secret is gone, and was there.
    #[error(
        "Secret {0} was deleted while edge pods use it; restore it from a backup, or ask for a new one by the annotation {annotation}",
        annotation = api::request::ROTATE_DIALBACK
    )]
    LostDialback(String),
    /// No new one can be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The Secret of the authority is gone, and that of the leaf is due.
    #[error(
        "Secret {0} was deleted and the certificate in Secret {1} has to be issued anew; restore the former from a backup, or delete both to have a new authority made"
    )]
    LostAuthority(String, String),
    /// The authority in this Secret cannot issue.
    #[error("Secret {0}: {1}")]
    Authority(String, TlsError),
    /// There is none to keep.
    #[error("no certificate exists")]
    NoCertificate,
    /// ConfigMap and key of the revocation lists.
    #[error(
        "ConfigMap {0} with key {1:?}, the lists of spec.tls.revocationLists, does not exist in this namespace; create it"
    )]
    NoRevocationLists(String, String),
}

impl MaterialError {
    /// The reason in a condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Secret(error) => error.reason(),
            _ => Reason::SecretMissing,
        }
    }
}

fn restore_dialback() -> String {
    format!(
        "restore it from a backup, or delete the Secret and ask for a new one by the annotation {}",
        api::request::ROTATE_DIALBACK
    )
}

/// What the pods are given.
#[derive(Debug)]
pub struct Material {
    /// The dialback secret, or why there is none.
    pub dialback: Result<Dialback, MaterialError>,
    /// The certificate, or why there is none.
    pub certificate: Result<Certificate, MaterialError>,
    /// How peers judge what is shown to them.
    pub chains: Vec<JudgedChain>,
    /// The routers' shared secrets, in the order of spec.imp.
    pub routers: Vec<RouterSecret>,
    /// What else of the user's is mounted, or why it cannot be: anchors, a certificate for
    /// connecting, revocation lists.
    pub others: Result<(), MaterialError>,
    /// The bytes of everything mounted that is the user's own, in a fixed order: what changes here
    /// has to reach the pods.
    pub brought: Vec<SecretBytes>,
}

/// The shared secret of one cluster's routers.
#[derive(Debug, Clone)]
pub struct RouterSecret {
    pub entry: String,
    /// What pods mount: the user's, or what was copied of it before it went missing.
    pub bytes: Option<SecretBytes>,
    /// Why it is not the user's.
    pub missing: Option<SecretError>,
}

impl Material {
    /// Why the routers' secret of an entry is missing.
    pub fn router_missing(&self, entry: &str) -> Option<&SecretError> {
        self.router(entry)?.missing.as_ref()
    }

    /// Why no cluster's routers can be dialled, where that is so.
    pub fn no_router_secret(&self) -> Option<&SecretError> {
        if self.routers.iter().any(|router| router.bytes.is_some()) {
            return None;
        }
        self.routers.iter().find_map(|router| router.missing.as_ref())
    }

    /// The routers' secret of an entry.
    pub fn router(&self, entry: &str) -> Option<&RouterSecret> {
        self.routers.iter().find(|secret| secret.entry == entry)
    }
}

#[derive(Debug, Clone)]
pub struct Dialback {
    pub secret: SecretBytes,
    /// Whether it was made just now and has to be stored.
    pub fresh: bool,
}

#[derive(Debug, Clone)]
pub enum Certificate {
    /// Of our own authority.
    Own {
        material: KeyMaterial,
        /// Whether the authority is new.
        new_authority: bool,
        /// Why the leaf was issued just now.
        issued: Option<String>,
    },
    Brought {
        secret: String,
        pem: String,
    },
}

impl Certificate {
    /// Why it was issued just now.
    pub fn issued(&self) -> Option<&String> {
        match self {
            Self::Own { issued, .. } => issued.as_ref(),
            Self::Brought { .. } => None,
        }
    }

    /// The chain, PEM.
    pub fn pem(&self) -> &str {
        match self {
            Self::Own { material, .. } => &material.certificate,
            Self::Brought { pem, .. } => pem,
        }
    }
}

/// Decides on all material.
pub fn run(valid: &ValidSpec, view: &KubeView, rotate: bool, now: Timestamp) -> Material {
    let others = others(valid, view);
    let certificate = certificate(valid, view, now);
    Material {
        dialback: dialback(valid, &view.existing, rotate),
        chains: chains::judged(valid, view, certificate.as_ref().ok(), now),
        certificate,
        routers: routers(valid, view),
        brought: brought(valid, view, others.as_deref().unwrap_or_default()),
        others: others.map(drop),
    }
}

fn dialback(valid: &ValidSpec, live: &ExistingObjects, asked_for: bool) -> Result<Dialback, MaterialError> {
    let name = valid.owner.dialback();
    if let Some(object) = &live.dialback {
        return match object.secret(DIALBACK_KEY) {
            Some(secret) if secret.len() >= 32 => Ok(Dialback {
                secret: secret.clone(),
                fresh: false,
            }),
            Some(secret) => Err(MaterialError::ShortDialback(name, secret.len())),
            None => Err(MaterialError::NoDialback(name)),
        };
    }
    // Pods that exist were given a secret once: it was lost, and a new one would be a change that
    // no person asked for.
    if live.stateful_set.is_some() && !asked_for {
        return Err(MaterialError::LostDialback(name));
    }
    let secret = generate_dialback_secret()?;
    Ok(Dialback { secret, fresh: true })
}

fn certificate(valid: &ValidSpec, view: &KubeView, now: Timestamp) -> Result<Certificate, MaterialError> {
    if let Some(name) = &valid.tls.brought_certificate {
        let read = view.secrets.get(name, "the certificate of spec.tls.certificate")?;
        read.key("tls.key")?;
        let pem = String::from_utf8(read.key("tls.crt")?.expose().to_vec())
            .map_err(|_| SecretError::NotText(name.clone(), "tls.crt", "PEM"))?;
        return Ok(Certificate::Brought {
            secret: name.clone(),
            pem,
        });
    }
    let owner = &valid.owner;
    let pair = |object: &Option<Arc<ExistingObject>>| object.as_ref()?.key_pair();
    let (leaf, authority) = (pair(&view.existing.certificate), pair(&view.existing.authority));
    // Its Secret is there, and holds none.
    let damaged = view.existing.authority.is_some() && authority.is_none();
    let no_authority = || {
        if damaged {
            let what = "it has no PEM text under tls.crt and tls.key".to_owned();
            MaterialError::Authority(owner.authority(), TlsError::Authority(what))
        } else {
            MaterialError::LostAuthority(owner.authority(), owner.certificate())
        }
    };
    let existing = match (authority, leaf) {
        (Some((ca_certificate, ca_key)), leaf) => {
            let (certificate, key) = leaf.unwrap_or_else(|| (String::new(), SecretBytes::new(Vec::new())));
            Some(KeyMaterial {
                ca_certificate,
                ca_key,
                certificate,
                key,
            })
        }
        (None, Some((certificate, key))) => {
            // The authority is gone; its leaf is good until it is due.
            let material = KeyMaterial {
                ca_certificate: String::new(),
                ca_key: SecretBytes::new(Vec::new()),
                certificate,
                key,
            };
            return match tls::ensure(Some(&material), &valid.certificate_names, now) {
                Ok(Outcome::Keep) => Ok(Certificate::Own {
                    material,
                    new_authority: false,
                    issued: None,
                }),
                _ => Err(no_authority()),
            };
        }
        (None, None) if damaged => return Err(no_authority()),
        (None, None) => None,
    };
    let new_authority = existing.is_none();
    match tls::ensure(existing.as_ref(), &valid.certificate_names, now) {
        Ok(Outcome::Issue(material, reason)) => Ok(Certificate::Own {
            material: *material,
            new_authority,
            issued: Some(reason),
        }),
        Ok(Outcome::Keep) => existing
            .map(|material| Certificate::Own {
                material,
                new_authority: false,
                issued: None,
            })
            .ok_or(MaterialError::NoCertificate),
        Err(error) => Err(MaterialError::Authority(owner.authority(), error)),
    }
}

fn routers(valid: &ValidSpec, view: &KubeView) -> Vec<RouterSecret> {
    let secret = |imp: &ImpCluster| {
        let entry = &imp.spec.name;
        let reference = &imp.router.secret;
        let purpose = format!("the XCP routers' secret of spec.imp[{entry}].router");
        let found = view.secrets.key(&reference.name, &reference.key, &purpose);
        let (bytes, missing) = match found {
            Ok(secret) => (Some(SecretBytes::from_file_contents(secret.expose().to_vec())), None),
            Err(error) => (
                view.existing
                    .router
                    .as_ref()
                    .and_then(|copies| copies.secret(&router_file(entry)))
                    .filter(|copy| copy.expose() != secrets::MISSING.as_bytes())
                    .cloned(),
                Some(error),
            ),
        };
        RouterSecret {
            entry: entry.clone(),
            bytes,
            missing,
        }
    };
    valid.imp.iter().map(secret).collect()
}

/// What is mounted besides certificate, dialback and router secrets.
fn others(valid: &ValidSpec, view: &KubeView) -> Result<Vec<SecretBytes>, MaterialError> {
    let mut found = Vec::new();
    if let Some(reference) = &valid.tls.anchors {
        let purpose = "the authorities of spec.tls.trustAnchors";
        let anchors = view.secrets.key(&reference.name, &reference.key, purpose)?;
        found.push(anchors.clone());
    }
    if let Some(name) = &valid.tls.client_certificate {
        let purpose = "the certificate of spec.tls.clientCertificate";
        let read = view.secrets.get(name, purpose)?;
        found.push(read.key("tls.crt")?.clone());
        found.push(read.key("tls.key")?.clone());
    }
    if let Some(reference) = &valid.tls.revocation_lists {
        let missing = || MaterialError::NoRevocationLists(reference.name.clone(), reference.key.clone());
        let lists = view.revocation_lists.as_ref().ok_or_else(missing)?;
        found.push(SecretBytes::new(lists.clone().into_bytes()));
    }
    Ok(found)
}

fn brought(valid: &ValidSpec, view: &KubeView, others: &[SecretBytes]) -> Vec<SecretBytes> {
    let mut bytes = others.to_vec();
    if let Some(name) = &valid.tls.brought_certificate
        && let Ok(read) = view.secrets.get(name, "the certificate")
        && let Ok(key) = read.key("tls.key")
    {
        bytes.push(key.clone());
    }
    bytes
}
