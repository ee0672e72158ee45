//! The certificates that peers are shown, judged as peers do.

use jiff::Timestamp;
use xmpp_federation_core::SecretBytes;
use xmpp_federation_core::chain::{Anchors, Examination, Shown, Terms, UnreadableChain, certificates, examine};

use super::material::Certificate;
use crate::controller::dereference::KubeView;
use crate::controller::validate::ValidSpec;
use crate::tls;

/// Which certificate of the spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "camelCase")]
pub enum ChainField {
    /// `spec.tls.certificate`, or that of the own authority.
    Certificate,
    /// `spec.tls.clientCertificate`.
    ClientCertificate,
}

impl ChainField {
    pub const ALL: [Self; 2] = [Self::Certificate, Self::ClientCertificate];

    /// Its name in the spec.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The authority that the operator made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnAuthority {
    /// Its Secret.
    pub secret: String,
    /// When it ends; `None`: its Secret is lost.
    pub ends: Option<Timestamp>,
}

/// A certificate with its chain, and what peers say of it.
#[derive(Debug, Clone)]
pub struct JudgedChain {
    pub field: ChainField,
    /// The Secret that has it.
    pub secret: String,
    /// The own authority issued it.
    pub authority: Option<OwnAuthority>,
    pub found: Result<Examination, UnreadableChain>,
}

/// All that can be read; whoever mounts the others says why they cannot.
pub(super) fn judged(
    valid: &ValidSpec,
    view: &KubeView,
    certificate: Option<&Certificate>,
    now: Timestamp,
) -> Vec<JudgedChain> {
    let anchors = valid.tls.anchors.as_ref().and_then(|reference| {
        let found = view.secrets.key(&reference.name, &reference.key, "the authorities");
        found.ok().map(SecretBytes::expose)
    });
    let anchors = Anchors::from_pem(anchors.unwrap_or_default());
    let examine = |pem: &[u8], key: &SecretBytes, shown| {
        let terms = Terms {
            now,
            shown,
            key,
            key_name: "tls.key",
            names: &valid.hosted,
            anchors: &anchors,
        };
        examine(&certificates(pem)?, &terms)
    };
    let brought = |secret: &String, field, shown| {
        let content = view.secrets.get(secret, "a certificate").ok()?;
        let (pem, key) = (content.key("tls.crt").ok()?, content.key("tls.key").ok()?);
        Some(JudgedChain {
            field,
            secret: secret.clone(),
            authority: None,
            found: examine(pem.expose(), key, shown),
        })
    };
    let first = certificate.and_then(|certificate| match certificate {
        Certificate::Own { material, .. } => Some(JudgedChain {
            field: ChainField::Certificate,
            secret: valid.owner.certificate(),
            authority: Some(OwnAuthority {
                secret: valid.owner.authority(),
                ends: tls::end_of(&material.ca_certificate),
            }),
            found: examine(material.certificate.as_bytes(), &material.key, Shown::ToClients),
        }),
        Certificate::Brought { secret, .. } => brought(secret, ChainField::Certificate, Shown::ToClients),
    });
    let client = valid.tls.client_certificate.as_ref();
    let client = client.and_then(|secret| brought(secret, ChainField::ClientCertificate, Shown::ToServers));
    first.into_iter().chain(client).collect()
}
