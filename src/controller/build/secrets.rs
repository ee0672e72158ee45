//! Secrets: dialback, own authority, certificate, and the copies that pods mount.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use xmpp_federation_core::SecretBytes;

use super::Wanted;
use crate::controller::material::{Certificate, DIALBACK_KEY, Material};
use crate::controller::validate::Validated;

fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn secret(valid: &Validated, name: &str, kind: &str, data: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": valid.owner.metadata(name),
        "type": kind,
        "data": data,
    })
}

/// The dialback secret, if it was made just now.
pub fn dialback(valid: &Validated, material: &Material) -> Option<Value> {
    let dialback = material.dialback.as_ref().ok().filter(|d| d.fresh)?;
    let data = json!({DIALBACK_KEY: encode(dialback.secret.expose())});
    Some(secret(valid, &valid.owner.dialback(), "Opaque", &data))
}

/// The authority, if it was made just now.
pub fn authority(valid: &Validated, material: &Material) -> Option<Value> {
    let Ok(Certificate::Own {
        material,
        new_authority: true,
        ..
    }) = &material.certificate
    else {
        return None;
    };
    let data = json!({
        "tls.crt": encode(material.ca_certificate.as_bytes()),
        "tls.key": encode(material.ca_key.expose()),
    });
    Some(secret(
        valid,
        &valid.owner.authority(),
        "kubernetes.io/tls",
        &data,
    ))
}

/// The leaf of our own authority.
pub fn certificate(valid: &Validated, material: &Material) -> Wanted {
    match &material.certificate {
        Ok(Certificate::Own { material, .. }) => {
            let mut data = json!({
                "tls.crt": encode(material.certificate.as_bytes()),
                "tls.key": encode(material.key.expose()),
            });
            if let (false, Some(map)) = (material.ca_certificate.is_empty(), data.as_object_mut()) {
                let authority = encode(material.ca_certificate.as_bytes());
                map.insert("ca.crt".to_owned(), json!(authority));
            }
            Wanted::Object(secret(
                valid,
                &valid.owner.certificate(),
                "kubernetes.io/tls",
                &data,
            ))
        }
        Ok(Certificate::Brought { .. }) => Wanted::Absent,
        Err(_) => Wanted::AsItIs,
    }
}

/// Copies of the routers' secrets; what was copied once stays while the original is missing.
pub fn router(valid: &Validated, material: &Material) -> Wanted {
    let bytes = match &material.router {
        Ok(bytes) => bytes.clone(),
        // No link is opened, but the file has to exist.
        Err(_) if !valid.active => SecretBytes::new(Vec::new()),
        Err(_) => return Wanted::AsItIs,
    };
    let data = json!({valid.imp.spec.name.clone(): encode(bytes.expose())});
    Wanted::Object(secret(valid, &valid.owner.router(), "Opaque", &data))
}

/// Changes with everything that pods mount; hashes of hashes, so that no secret can be guessed
/// from it.
pub fn mounted_hash(config_hash: &str, material: &Material) -> String {
    let mut text = config_hash.to_owned();
    for bytes in [
        material.dialback.as_ref().ok().map(|d| d.secret.expose()),
        material.router.as_ref().ok().map(SecretBytes::expose),
        material
            .certificate
            .as_ref()
            .ok()
            .map(|c| c.pem().as_bytes()),
    ]
    .into_iter()
    .flatten()
    .chain(material.brought.iter().map(SecretBytes::expose))
    {
        text.push_str(&super::sha256(super::sha256(bytes).as_bytes()));
    }
    super::sha256(text.as_bytes())
}
