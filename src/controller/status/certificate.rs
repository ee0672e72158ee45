//! `CertificateReady`: peers accept the certificates that they are shown.

use std::fmt::Write as _;

use xmpp_federation_core::chain::{Examination, FaultKind, Nearness};

use super::Inputs;
use crate::api::conditions::Verdict;
use crate::api::reasons::Reason;
use crate::controller::build::chains::{ChainField, JudgedChain};

pub(super) fn verdict(inputs: &Inputs<'_>) -> Verdict {
    let material = inputs.material;
    if let Err(error) = &material.certificate {
        return Verdict::no(Reason::SecretMissing, error.to_string());
    }
    if let Some(refused) = material.chains.iter().find_map(refused) {
        return refused;
    }
    if let Err(error) = &material.others {
        return Verdict::no(Reason::SecretMissing, error.to_string());
    }
    let accepted = material
        .chains
        .iter()
        .filter_map(|chain| Some((chain, chain.found.as_ref().ok()?)));
    let nearest = accepted.clone().map(|(_, found)| found.nearness).max();
    let reason = match nearest {
        Some(Nearness::VerySoon) => Reason::CertificateExpiringSoon,
        Some(Nearness::Soon) => Reason::CertificateExpiring,
        _ => Reason::AsWanted,
    };
    let said: Vec<String> = accepted.map(|(chain, found)| accepted_words(chain, found)).collect();
    Verdict::yes(reason, said.join("; "))
}

/// Where it comes from.
fn place(chain: &JudgedChain) -> String {
    match chain.field {
        ChainField::Certificate => format!("Secret {}", chain.secret),
        ChainField::ClientCertificate => format!("Secret {} (spec.tls.clientCertificate)", chain.secret),
    }
}

fn refused(chain: &JudgedChain) -> Option<Verdict> {
    let found = match &chain.found {
        Err(error) => {
            return Some(Verdict::no(
                Reason::SecretInvalid,
                format!("{}: tls.crt {error}", place(chain)),
            ));
        }
        Ok(found) => found,
    };
    let reason = match found.faults.first()?.kind {
        FaultKind::Key => Reason::CertificateKey,
        FaultKind::Ended => Reason::CertificateExpired,
        FaultKind::NotYetValid => Reason::CertificateNotYetValid,
        FaultKind::Chain => Reason::CertificateChain,
        FaultKind::Unfit => Reason::CertificateUnfit,
        FaultKind::Names => Reason::CertificateNames,
    };
    let sentences: Vec<&str> = found.faults.iter().map(|fault| fault.sentence.as_str()).collect();
    let mut message = format!("{}: {}", place(chain), sentences.join("; "));
    if let Some(authority) = &chain.authority {
        let _ = write!(
            message,
            "; the operator issued it: delete Secret {}, or that and Secret {authority} for a new authority, and both are made anew",
            chain.secret
        );
    }
    Some(Verdict::no(reason, message))
}

fn accepted_words(chain: &JudgedChain, found: &Examination) -> String {
    let mut message = format!(
        "{}, issued by {}, valid until {}",
        place(chain),
        found.issuer,
        found.not_after
    );
    if found.nearness != Nearness::Far {
        let remedy = match &chain.authority {
            Some(authority) => format!(
                "delete Secrets {authority} and {} before, to have both made anew, and tell partners that pinned them",
                chain.secret
            ),
            None => format!("write the renewed chain into Secret {} before", chain.secret),
        };
        let _ = write!(
            message,
            ": certificate {} ends then, and peers refuse it from then on; {remedy}",
            found.ends_first
        );
    }
    for note in &found.notes {
        let _ = write!(message, "; {note}");
    }
    message
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;
