//! `CertificateReady`: the certificate shown to peers is valid and has all names.

use xmpp_federation_core::Domain;

use super::Inputs;
use crate::api::conditions::Verdict;
use crate::api::reasons::Reason;
use crate::controller::build::material::Certificate;
use crate::controller::validate::ValidSpec;

pub(super) fn verdict(inputs: &Inputs<'_>) -> Verdict {
    let certificate = match &inputs.material.certificate {
        Err(error) => return Verdict::no(Reason::SecretMissing, error.to_string()),
        Ok(certificate) => certificate,
    };
    let secret = secret_name(inputs.valid, certificate);
    let info = match certificate.inspect() {
        Err(error) => {
            return Verdict::no(Reason::SecretInvalid, format!("Secret {secret}: {error}"));
        }
        Ok(info) => info,
    };
    if info.not_after <= inputs.now {
        return Verdict::no(
            Reason::CertificateExpired,
            format!(
                "the certificate in Secret {secret} expired on {}; peers refuse it; renew it",
                info.not_after
            ),
        );
    }
    let missing = info.missing(&inputs.valid.hosted);
    if !missing.is_empty() {
        return Verdict::no(
            Reason::CertificateNames,
            format!(
                "the certificate in Secret {secret} does not cover {}; have it issued with all of them as subject alternative names",
                names(&missing)
            ),
        );
    }
    if let Err(error) = &inputs.material.others {
        return Verdict::no(Reason::SecretMissing, error.to_string());
    }
    Verdict::yes(
        Reason::AsWanted,
        format!(
            "Secret {secret}, issued by {}, valid until {}",
            info.issuer, info.not_after
        ),
    )
}

/// The Secret that the certificate comes from.
pub(super) fn secret_name(valid: &ValidSpec, certificate: &Certificate) -> String {
    match certificate {
        Certificate::Own { .. } => valid.owner.certificate(),
        Certificate::Brought { secret, .. } => secret.clone(),
    }
}

fn names(domains: &[&Domain]) -> String {
    domains.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
