//! Values that are in the schema already and whose implementation comes later.
//!
//! One table serves two readers: the CRD carries each row as a rule, so the apiserver refuses the
//! value with the sentence; and validation asks again, for objects that were stored under an older
//! schema. The change that implements a value removes its row.

use xmpp_federation_core::Activation;

use super::spec::{Publish, RouterProfile, XmppFederationSpec};

/// One refused value.
pub struct NotYet {
    /// Where the rule stands in the schema: the properties from `spec` down, `[]` for items.
    pub schema_path: &'static [&'static str],
    /// Name of the field for the reader, as in `spec.edge.autoscaling`.
    pub field: &'static str,
    /// CEL that holds while the value is absent.
    pub rule: &'static str,
    /// What to do instead.
    pub instead: &'static str,
    /// Whether the spec uses the value.
    pub used: fn(&XmppFederationSpec) -> bool,
}

impl NotYet {
    /// The sentence the user reads.
    pub fn sentence(&self) -> String {
        format!("{} is not available in this release; {}", self.field, self.instead)
    }
}

/// All of them.
pub const NOT_YET: &[NotYet] = &[
    NotYet {
        schema_path: &["edge"],
        field: "spec.edge.autoscaling",
        rule: "!has(self.autoscaling)",
        instead: "remove it and set replicas",
        used: |s| s.edge.autoscaling.is_some(),
    },
    NotYet {
        schema_path: &[],
        field: "spec.dialback.secretRef",
        rule: "!has(self.dialback) || !has(self.dialback.secretRef)",
        instead: "remove it: a secret is generated and kept",
        used: |s| s.dialback.as_ref().is_some_and(|d| d.secret_ref.is_some()),
    },
    NotYet {
        schema_path: &[],
        field: "spec.dialback.rotateEvery",
        rule: "!has(self.dialback) || !has(self.dialback.rotateEvery)",
        instead: "remove it: a secret is generated and kept",
        used: |s| s.dialback.as_ref().is_some_and(|d| d.rotate_every.is_some()),
    },
    NotYet {
        schema_path: &["tls"],
        field: "spec.tls.certificate.issuerRef",
        rule: "!has(self.certificate) || !has(self.certificate.issuerRef)",
        instead: "bring a Secret by secretRef (cert-manager can fill it), or remove certificate for one of the operator's own authority",
        used: |s| s.tls.certificate.as_ref().is_some_and(|c| c.issuer_ref.is_some()),
    },
    NotYet {
        schema_path: &["tls"],
        field: "spec.tls.clientCertificate.issuerRef",
        rule: "!has(self.clientCertificate) || !has(self.clientCertificate.issuerRef)",
        instead: "bring a Secret by secretRef, or remove clientCertificate: the same certificate is shown in both directions",
        used: |s| {
            s.tls
                .client_certificate
                .as_ref()
                .is_some_and(|c| c.issuer_ref.is_some())
        },
    },
    NotYet {
        schema_path: &["dns"],
        field: "spec.dns.publish ExternalDns",
        rule: "self.publish == 'None'",
        instead: "use None and publish the records that status.records asks for",
        used: |s| s.dns.publish != Publish::None,
    },
    NotYet {
        schema_path: &["imp", "[]", "router"],
        field: "spec.imp[].router.profile S2s",
        rule: "self.profile != 'S2s'",
        instead: "use Component and switch IM and Presence's own XMPP federation off",
        used: |s| s.imp.iter().any(|imp| imp.router.profile == RouterProfile::S2s),
    },
];

/// The sentences that apply to a spec; empty if it uses nothing of the table.
pub fn refused(spec: &XmppFederationSpec) -> Vec<String> {
    NOT_YET
        .iter()
        .filter(|row| (row.used)(spec))
        .map(NotYet::sentence)
        .collect()
}

/// Prepared is available: everything is made, nothing is registered and no link is opened.
pub const fn wants_registration(activation: Activation) -> bool {
    matches!(activation, Activation::Active)
}
