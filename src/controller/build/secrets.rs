//! Secrets: dialback, own authority, certificate, and the copies that pods mount.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use xmpp_federation_core::SecretBytes;

use super::DesiredObject;
use super::material::{Certificate, Material};
use crate::controller::names::{DIALBACK_KEY, Owner, router_file};
use crate::controller::validate::ValidSpec;
use crate::tls::KeyMaterial;

fn secret<'a>(metadata: ObjectMeta, kind: &str, data: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Secret {
    let data = data.into_iter();
    Secret {
        metadata,
        type_: Some(kind.to_owned()),
        data: Some(
            data.map(|(key, bytes)| (key.to_owned(), ByteString(bytes.to_vec())))
                .collect(),
        ),
        ..Secret::default()
    }
}

/// The dialback secret, if it was made just now.
pub fn dialback(valid: &ValidSpec, material: &Material) -> Option<Secret> {
    let dialback = material.dialback.as_ref().ok().filter(|d| d.fresh)?;
    let data = [(DIALBACK_KEY, dialback.secret.expose())];
    let metadata = valid.owner.kept_metadata(&valid.owner.dialback());
    Some(secret(metadata, "Opaque", data))
}

/// The authority, if it was made just now.
pub fn authority(valid: &ValidSpec, material: &Material) -> Option<Secret> {
    let Ok(Certificate::Own {
        material,
        new_authority: true,
        ..
    }) = &material.certificate
    else {
        return None;
    };
    let data = [
        ("tls.crt", material.ca_certificate.as_bytes()),
        ("tls.key", material.ca_key.expose()),
    ];
    let metadata = valid.owner.kept_metadata(&valid.owner.authority());
    Some(secret(metadata, "kubernetes.io/tls", data))
}

/// The Secret of a leaf of our own authority.
pub fn leaf(owner: &Owner, material: &KeyMaterial) -> Secret {
    let authority = Some(("ca.crt", material.ca_certificate.as_bytes()));
    let leaf = [
        ("tls.crt", material.certificate.as_bytes()),
        ("tls.key", material.key.expose()),
    ];
    let data = leaf.into_iter().chain(authority.filter(|(_, bytes)| !bytes.is_empty()));
    secret(owner.metadata(&owner.certificate()), "kubernetes.io/tls", data)
}

/// The leaf of our own authority.
pub fn certificate(valid: &ValidSpec, material: &Material) -> DesiredObject<Secret> {
    match &material.certificate {
        Ok(Certificate::Own { material, .. }) => DesiredObject::Present(leaf(&valid.owner, material)),
        Ok(Certificate::Brought { .. }) => DesiredObject::Absent,
        Err(_) => DesiredObject::Unchanged,
    }
}

/// Content of the file if the secret of a cluster's routers is missing.
pub const MISSING: &str = "the secret of these routers is missing, no link is opened";

/// Copies of the routers' secrets; what was copied once stays while the original is missing.
pub fn router(valid: &ValidSpec, material: &Material) -> DesiredObject<Secret> {
    if valid.active && material.no_router_secret().is_some() {
        return DesiredObject::Unchanged;
    }
    let files = material.routers.iter().map(|router| router_file(&router.entry));
    let files: Vec<String> = files.collect();
    let data = files.iter().zip(&material.routers).map(|(file, router)| {
        // Without one no link is opened, but the edge wants a file with something in it.
        let bytes = router.bytes.as_ref().map_or(MISSING.as_bytes(), SecretBytes::expose);
        (file.as_str(), bytes)
    });
    let metadata = valid.owner.metadata(&valid.owner.router());
    DesiredObject::Present(secret(metadata, "Opaque", data))
}

/// Changes with everything that pods mount; hashes of hashes, so that no secret can be guessed
/// from it.
pub fn mounted_hash(config_hash: &str, material: &Material) -> String {
    let mut text = config_hash.to_owned();
    for bytes in [
        material.dialback.as_ref().ok().map(|d| d.secret.expose()),
        material.certificate.as_ref().ok().map(|c| c.pem().as_bytes()),
    ]
    .into_iter()
    .flatten()
    .chain(
        material
            .routers
            .iter()
            .filter_map(|router| router.bytes.as_ref())
            .map(SecretBytes::expose),
    )
    .chain(material.brought.iter().map(SecretBytes::expose))
    {
        text.push_str(&super::sha256(super::sha256(bytes).as_bytes()));
    }
    super::sha256(text.as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::material::{MaterialError, RouterSecret};
    use super::super::{RouterAddresses, Topology, all};
    use super::*;
    use crate::controller::references::SecretError;
    use crate::controller::testing::{entry, validated, with_entries};

    fn material(secrets: [Option<&str>; 2]) -> Material {
        let secret = |(bytes, entry): (Option<&str>, &str)| RouterSecret {
            entry: entry.to_owned(),
            bytes: bytes.map(|text| SecretBytes::new(text.as_bytes().to_vec())),
            missing: bytes
                .is_none()
                .then(|| SecretError::Absent(format!("{entry}-router"), "a test".to_owned())),
        };
        Material {
            dialback: Err(MaterialError::NoDialback(String::new())),
            certificate: Err(MaterialError::NoCertificate),
            chains: Vec::new(),
            routers: secrets.into_iter().zip(["main", "second"]).map(secret).collect(),
            others: Ok(()),
            brought: Vec::new(),
        }
    }

    #[rstest::rstest]
    #[case::both([Some("one"), Some("two")], Some(["one", "two"]), ["main", "second"].as_slice())]
    // The pods serve the other cluster; the one without a secret is not dialled.
    #[case::one_missing([Some("one"), None], Some(["one", MISSING]), &["main"])]
    // What was copied once stays.
    #[case::both_missing([None, None], None, &[])]
    fn a_missing_routers_secret_holds_up_its_own_cluster_alone(
        #[case] secrets: [Option<&str>; 2],
        #[case] copied: Option<[&str; 2]>,
        #[case] dialled: &[&str],
    ) {
        let other = entry("second", "cups2.example.net", &[]);
        let valid = validated(&with_entries(&[], &[other])).unwrap();
        let material = material(secrets);
        let nodes = |name: &str| vec![(name.to_owned(), "10.244.200.10".to_owned())];
        let topology = Topology {
            routers: RouterAddresses::from([("main".to_owned(), nodes("a")), ("second".to_owned(), nodes("b"))]),
            pods: 1,
            unsure: false,
        };
        let desired = all(&valid, &material, &topology).unwrap();
        match (copied, &desired.router) {
            (Some(texts), DesiredObject::Present(secret)) => {
                for (key, text) in ["router-main", "router-second"].into_iter().zip(texts) {
                    let data = secret.data.as_ref().unwrap();
                    assert_eq!(data.get(key), Some(&ByteString(text.as_bytes().to_vec())));
                }
            }
            (copied, wanted) => {
                assert_eq!(
                    (copied.is_none(), matches!(wanted, DesiredObject::Unchanged)),
                    (true, true)
                );
            }
        }
        let DesiredObject::Present(config) = &desired.config else {
            panic!("no configuration");
        };
        let text = config.data.as_ref().unwrap().get("edge.yaml").unwrap();
        let config = xmpp_federation_core::edge_config::EdgeConfig::from_yaml(text).unwrap();
        let with_links: Vec<&str> = config
            .routers
            .iter()
            .filter(|router| !router.endpoints.is_empty())
            .map(|router| router.name.as_str())
            .collect();
        assert_eq!(with_links, dialled);
    }
}
