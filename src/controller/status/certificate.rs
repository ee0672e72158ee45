//! `CertificateReady`: peers accept the certificates that they are shown.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use xmpp_federation_core::chain::{Examination, FaultKind, Nearness};

use super::Inputs;
use crate::api::conditions::Verdict;
use crate::api::reasons::Reason;
use crate::controller::build::chains::{ChainField, JudgedChain, OwnAuthority};

/// Partners may have pinned an authority, so its end is told this long before.
const NOTICE: SignedDuration = SignedDuration::from_hours(180 * 24);

pub(super) fn verdict(inputs: &Inputs<'_>) -> Verdict {
    let material = inputs.material;
    if let Err(error) = &material.certificate {
        return Verdict::no(error.reason(), error.to_string());
    }
    if let Some(refused) = material.chains.iter().find_map(refused) {
        return refused;
    }
    if let Err(error) = &material.others {
        return Verdict::no(error.reason(), error.to_string());
    }
    let accepted = material
        .chains
        .iter()
        .filter_map(|chain| Some((chain, chain.found.as_ref().ok()?)));
    let nearest = accepted.clone().map(|(_, found)| found.nearness).max();
    let mut own = material.chains.iter().filter_map(|chain| chain.authority.as_ref());
    let reason = match nearest {
        Some(Nearness::VerySoon) => Reason::CertificateExpiringSoon,
        Some(Nearness::Soon) => Reason::CertificateExpiring,
        _ if own.any(|authority| near_end(authority, inputs.now).is_some()) => Reason::CertificateExpiring,
        _ => Reason::AsWanted,
    };
    let said = accepted.map(|(chain, found)| accepted_words(chain, found, inputs.now));
    let said: Vec<String> = said.collect();
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
    if let Some(OwnAuthority { secret: authority, .. }) = &chain.authority {
        let _ = write!(
            message,
            "; the operator issued it: delete Secret {}, or that and Secret {authority} for a new authority, and both are made anew",
            chain.secret
        );
    }
    Some(Verdict::no(reason, message))
}

/// When an authority ends, if that is near.
fn near_end(authority: &OwnAuthority, now: Timestamp) -> Option<Timestamp> {
    authority.ends.filter(|ends| ends.duration_since(now) <= NOTICE)
}

fn accepted_words(chain: &JudgedChain, found: &Examination, now: Timestamp) -> String {
    let mut message = format!(
        "{}, issued by {}, valid until {}",
        place(chain),
        found.issuer,
        found.not_after
    );
    let anew = |authority: &OwnAuthority| {
        format!(
            "delete Secrets {} and {} before, to have both made anew, and tell partners that pinned them",
            authority.secret, chain.secret
        )
    };
    if found.nearness == Nearness::Far {
        let near = |authority| Some((near_end(authority, now)?, anew(authority)));
        if let Some((ends, remedy)) = chain.authority.as_ref().and_then(near) {
            let _ = write!(
                message,
                ": its authority ends on {ends}, and no certificate outlives that; {remedy}"
            );
        }
    } else {
        let remedy = match &chain.authority {
            Some(authority) => anew(authority),
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
