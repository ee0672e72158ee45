//! Secret material: what exists is kept, what never existed is generated. The first
//! half of the step; only here random bytes are drawn, the other half is pure.

use jiff::Timestamp;
use xmpp_federation_core::SecretBytes;

use super::secrets;
use crate::api;
use crate::controller::dereference::{ExistingObjects, Snapshot, secret_data};
use crate::controller::names::{DIALBACK_KEY, router_file};
use crate::controller::validate::{ImpCluster, ValidSpec};
use crate::secrets::generate_dialback_secret;
use crate::tls::{self, CertificateInfo, KeyMaterial, Outcome};

/// What the pods are given.
#[derive(Debug, Clone)]
pub struct Material {
    /// The dialback secret, or why there is none.
    pub dialback: Result<Dialback, String>,
    /// The certificate, or why there is none.
    pub certificate: Result<Certificate, String>,
    /// The routers' shared secrets, in the order of spec.imp.
    pub routers: Vec<RouterSecret>,
    /// What else of the user's is mounted, or why it cannot be: anchors, a certificate for
    /// connecting, revocation lists.
    pub others: Result<(), String>,
    /// The bytes of everything mounted that is the user's own, in a fixed order: what changes here
    /// has to reach the pods.
    pub brought: Vec<SecretBytes>,
}

/// The shared secret of one cluster's routers.
#[derive(Debug, Clone)]
pub struct RouterSecret {
    /// Name of the entry in spec.imp.
    pub entry: String,
    /// What pods mount: the user's, or what was copied of it before it went missing.
    pub bytes: Option<SecretBytes>,
    /// Why it is not the user's.
    pub missing: Option<String>,
}

impl Material {
    /// Why the routers' secret of an entry is missing.
    pub fn router_missing(&self, entry: &str) -> Option<&String> {
        self.router(entry)?.missing.as_ref()
    }

    /// Why no cluster's routers can be dialled, where that is so.
    pub fn no_router_secret(&self) -> Option<&String> {
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

/// The dialback secret.
#[derive(Debug, Clone)]
pub struct Dialback {
    /// Its bytes.
    pub secret: SecretBytes,
    /// Whether it was made just now and has to be stored.
    pub fresh: bool,
}

/// The certificate.
#[derive(Debug, Clone)]
pub enum Certificate {
    /// Of our own authority; `store` says why it has to be stored.
    Own {
        /// Keys and certificates.
        material: KeyMaterial,
        /// Whether the authority is new.
        new_authority: bool,
        /// Why the leaf is new, if it is.
        reason: Option<String>,
    },
    /// The user's Secret.
    Brought {
        /// Name of the Secret.
        secret: String,
        /// Its chain.
        pem: String,
    },
}

impl Certificate {
    /// The chain, PEM.
    pub fn pem(&self) -> &str {
        match self {
            Self::Own { material, .. } => &material.certificate,
            Self::Brought { pem, .. } => pem,
        }
    }

    /// What the leaf says.
    pub fn inspect(&self) -> Result<CertificateInfo, String> {
        tls::inspect(self.pem()).map_err(|error| error.to_string())
    }
}

/// Decides on all material.
pub fn run(valid: &ValidSpec, observed: &Snapshot, rotate: bool, now: Timestamp) -> Material {
    let others = others(valid, observed);
    Material {
        dialback: dialback(valid, &observed.existing, rotate),
        certificate: certificate(valid, observed, now),
        routers: routers(valid, observed),
        brought: brought(valid, observed, others.as_deref().unwrap_or_default()),
        others: others.map(drop),
    }
}

fn dialback(valid: &ValidSpec, live: &ExistingObjects, asked_for: bool) -> Result<Dialback, String> {
    let name = valid.owner.dialback();
    if let Some(object) = &live.dialback {
        return match secret_data(object).remove(DIALBACK_KEY) {
            Some(secret) if secret.len() >= 32 => Ok(Dialback { secret, fresh: false }),
            Some(secret) => Err(format!(
                "key {DIALBACK_KEY:?} of Secret {name} has {} bytes, a dialback secret needs 32; restore it from a backup, or delete the Secret and ask for a new one by the annotation {}",
                secret.len(),
                api::request::ROTATE_DIALBACK
            )),
            None => Err(format!(
                "Secret {name} has no key {DIALBACK_KEY:?}; restore it from a backup, or delete the Secret and ask for a new one by the annotation {}",
                api::request::ROTATE_DIALBACK
            )),
        };
    }
    // Pods that exist were given a secret once: it was lost, and a new one would be a change that
    // nobody asked for.
    if live.stateful_set.is_some() && !asked_for {
        return Err(format!(
            "Secret {name} was deleted while edge pods use it; restore it from a backup, or ask for a new one by the annotation {}",
            api::request::ROTATE_DIALBACK
        ));
    }
    generate_dialback_secret()
        .map(|secret| Dialback { secret, fresh: true })
        .map_err(|error| error.to_string())
}

fn certificate(valid: &ValidSpec, observed: &Snapshot, now: Timestamp) -> Result<Certificate, String> {
    if let Some(name) = &valid.tls.brought_certificate {
        let read = observed.secrets.get(name, "the certificate of spec.tls.certificate")?;
        read.key("tls.key")?;
        let pem = String::from_utf8(read.key("tls.crt")?.expose().to_vec())
            .map_err(|_| format!("key \"tls.crt\" of Secret {name} is not PEM text; correct it"))?;
        return Ok(Certificate::Brought {
            secret: name.clone(),
            pem,
        });
    }
    let owner = &valid.owner;
    let text = |object: &Option<kube::api::DynamicObject>, key: &str| {
        let bytes = secret_data(object.as_ref()?).remove(key)?;
        Some((String::from_utf8(bytes.expose().to_vec()).ok()?, bytes))
    };
    let leaf = text(&observed.existing.certificate, "tls.crt").zip(text(&observed.existing.certificate, "tls.key"));
    let authority = text(&observed.existing.authority, "tls.crt").zip(text(&observed.existing.authority, "tls.key"));
    let existing = match (authority, leaf) {
        (Some(((ca_certificate, _), (_, ca_key))), leaf) => {
            let (certificate, key) = leaf
                .map_or((String::new(), SecretBytes::new(Vec::new())), |((crt, _), (_, key))| {
                    (crt, key)
                });
            Some(KeyMaterial {
                ca_certificate,
                ca_key,
                certificate,
                key,
            })
        }
        (None, Some(((certificate, _), (_, key)))) => {
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
                    reason: None,
                }),
                _ => Err(format!(
                    "Secret {} was deleted and the certificate in Secret {} has to be issued anew; restore the former from a backup, or delete both to have a new authority made",
                    owner.authority(),
                    owner.certificate()
                )),
            };
        }
        (None, None) => None,
    };
    let new_authority = existing.is_none();
    match tls::ensure(existing.as_ref(), &valid.certificate_names, now) {
        Ok(Outcome::Issue(material, reason)) => Ok(Certificate::Own {
            material: *material,
            new_authority,
            reason: Some(reason),
        }),
        Ok(Outcome::Keep) => existing
            .map(|material| Certificate::Own {
                material,
                new_authority: false,
                reason: None,
            })
            .ok_or_else(|| "no certificate exists".to_owned()),
        Err(error) => Err(format!("Secret {}: {error}", owner.authority())),
    }
}

fn routers(valid: &ValidSpec, observed: &Snapshot) -> Vec<RouterSecret> {
    let mut copied = observed.existing.router.as_ref().map(secret_data);
    let mut secret = |imp: &ImpCluster| {
        let entry = &imp.spec.name;
        let reference = &imp.spec.router.secret_ref;
        let purpose = format!("the XCP routers' secret of spec.imp[{entry}].router");
        let found = observed.secrets.key(&reference.name, &reference.key, &purpose);
        let (bytes, missing) = match found {
            Ok(secret) => (Some(SecretBytes::from_file_contents(secret.expose().to_vec())), None),
            Err(sentence) => (
                copied
                    .as_mut()
                    .and_then(|copies| copies.remove(&router_file(entry)))
                    .filter(|copy| copy.expose() != secrets::MISSING.as_bytes()),
                Some(sentence),
            ),
        };
        RouterSecret {
            entry: entry.clone(),
            bytes,
            missing,
        }
    };
    valid.imp.iter().map(&mut secret).collect()
}

/// What is mounted besides certificate, dialback and router secrets.
fn others(valid: &ValidSpec, observed: &Snapshot) -> Result<Vec<SecretBytes>, String> {
    let mut found = Vec::new();
    if let Some(reference) = &valid.tls.anchors {
        let purpose = "the authorities of spec.tls.trustAnchors";
        let anchors = observed.secrets.key(&reference.name, &reference.key, purpose)?;
        found.push(anchors.clone());
    }
    if let Some(name) = &valid.tls.client_certificate {
        let purpose = "the certificate of spec.tls.clientCertificate";
        let read = observed.secrets.get(name, purpose)?;
        found.push(read.key("tls.crt")?.clone());
        found.push(read.key("tls.key")?.clone());
    }
    if let Some(reference) = &valid.tls.revocation_lists {
        let lists = observed.revocation_lists.as_ref().ok_or_else(|| {
            format!(
                "ConfigMap {} with key {:?}, the lists of spec.tls.revocationLists, does not exist in this namespace; create it",
                reference.name, reference.key
            )
        })?;
        found.push(SecretBytes::new(lists.clone().into_bytes()));
    }
    Ok(found)
}

fn brought(valid: &ValidSpec, observed: &Snapshot, others: &[SecretBytes]) -> Vec<SecretBytes> {
    let mut bytes = others.to_vec();
    if let Some(name) = &valid.tls.brought_certificate
        && let Ok(read) = observed.secrets.get(name, "the certificate")
        && let Ok(key) = read.key("tls.key")
    {
        bytes.push(key.clone());
    }
    bytes
}
