//! What the policy for one remote domain asks of a stream: TLS, and a certificate.

use std::borrow::Cow;

use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::TlsMode;

use crate::config::Live;
use crate::peer_memory::PeerMemory;
use crate::refusal::{Check, Refusal};
use crate::stream::Failure;
use crate::tls::{JudgementCache, PeerCertificates};
use xmpp_federation_xml::StreamErrorCondition;

/// The security mode that counts towards a remote domain, or towards a peer that has not named
/// itself yet. Optional becomes Required where a certificate is required, since there is none
/// without TLS, and with domains that used TLS before.
pub fn mode(live: &Live, memory: &PeerMemory, remote: Option<&Domain>) -> TlsMode {
    let terms = live.policy.terms(remote);
    let used_tls = || remote.is_some_and(|remote| memory.used_tls.holds(remote, &()));
    match terms.tls_mode {
        TlsMode::Optional if terms.needs_certificate() || used_tls() => TlsMode::Required,
        mode => mode,
    }
}

/// The domain that a peer wants must be hosted here.
pub fn hosted(live: &Live, local: &Domain) -> Result<(), Refusal> {
    if live.hosted.contains(local) {
        return Ok(());
    }
    Err(Refusal::new(Check::Hosted, format!("{local} is not hosted here")))
}

/// The lists must admit the remote domain.
pub fn admitted(live: &Live, remote: &Domain) -> Result<(), Refusal> {
    let refused = |denied| Refusal::new(Check::Policy, format!("{remote} may not federate: {denied}"));
    live.policy.check(remote).map_err(refused)
}

/// Both, of the pairs of an open stream: a reload may have taken a domain away.
pub fn still<'a>(
    live: &Live,
    mut locals: impl Iterator<Item = &'a Domain>,
    remotes: impl IntoIterator<Item = &'a Domain>,
) -> Result<(), Failure> {
    if locals.any(|local| !live.hosted.contains(local)) {
        return Err(Failure::fault(
            StreamErrorCondition::HostGone,
            "a domain of this stream is not hosted here any more",
        ));
    }
    if remotes.into_iter().any(|remote| live.policy.check(remote).is_err()) {
        return Err(Failure::violation(
            Check::Policy,
            "federation with this domain is not allowed any more",
        ));
    }
    Ok(())
}

/// A remote domain must use TLS and does not.
pub fn no_tls(live: &Live, remote: Option<&Domain>) -> Refusal {
    let terms = live.policy.terms(remote);
    let name: Cow<'_, str> = remote.map_or("this stream".into(), |remote| remote.as_str().into());
    if terms.tls_mode == TlsMode::Required {
        let reason = format!(
            "TLS is required of {name} and is not used; it must offer and use STARTTLS; else set another tls.mode for it in partners"
        );
        Refusal::new(Check::TlsRequired, reason)
    } else if terms.needs_certificate() {
        let reason = format!(
            "a certificate is required of {name}, and TLS is not used; it must use STARTTLS; else set tls.requireCertificate: false for it in partners"
        );
        Refusal::new(Check::TlsRequired, reason)
    } else {
        let reason = format!(
            "{name} used TLS within the last day and does not now, which may be an attack; if this is intended, set tls.mode: Disabled for it in partners"
        );
        Refusal::new(Check::TlsDowngrade, reason)
    }
}

/// Whether a stream may carry a remote domain; `peer` is what was shown if the stream has TLS, and
/// `kept` what is kept of it.
pub fn check(
    live: &Live,
    memory: &PeerMemory,
    peer: Option<PeerCertificates<'_>>,
    kept: &JudgementCache,
    remote: &Domain,
) -> Result<(), Refusal> {
    let Some(peer) = peer else {
        return match mode(live, memory, Some(remote)) {
            TlsMode::Required => Err(no_tls(live, Some(remote))),
            TlsMode::Optional | TlsMode::Disabled => Ok(()),
        };
    };
    if live.policy.peer(remote).needs_certificate() {
        return certificate(live, peer, kept, remote);
    }
    Ok(())
}

/// Whether the certificate of a session proves a remote domain.
pub fn certificate(
    live: &Live,
    peer: PeerCertificates<'_>,
    kept: &JudgementCache,
    remote: &Domain,
) -> Result<(), Refusal> {
    let pins = &live.policy.peer(remote).pinned_sha256;
    let examined = live.tls.examine(kept, peer);
    match examined.verdict(remote, pins).reason() {
        None => Ok(()),
        Some(reason) => {
            let check = if pins.is_empty() {
                Check::Certificate
            } else {
                Check::Pin
            };
            let reason = format!("the certificate does not prove {remote}: {reason}");
            Err(Refusal::new(check, reason))
        }
    }
}
