//! What is remembered of remote domains, bounded and in memory only.

use std::time::Duration;

use xmpp_federation_core::Domain;

use crate::jid::Labels;
use crate::memory::Memory;

/// How long a domain that used TLS is held to it.
const TLS_LIFE: Duration = Duration::from_hours(24);
/// How long SASL EXTERNAL is not tried with a domain that refused it.
const EXTERNAL_LIFE: Duration = Duration::from_mins(10);
/// How long it is remembered how a domain is written by its own server.
const LABELS_LIFE: Duration = Duration::from_hours(24);
/// How long a pair that was refused is nobody's guest.
const ALONE_LIFE: Duration = Duration::from_mins(10);

/// What matters for the next stream with a remote domain.
#[derive(Debug)]
pub struct PeerMemory {
    /// Domains that authenticated a pair over TLS while they need not have: a later stream of
    /// theirs in clear is a downgrade.
    pub used_tls: Memory<()>,
    /// Domains with which TLS was begun where we connect, and failed: whoever strips STARTTLS the
    /// next time would be told everything in clear. What comes in says nothing about a domain.
    pub failed_tls: Memory<()>,
    /// How servers write their own domains, where there are two ways.
    pub(crate) labels: Memory<Labels>,
    /// Pairs for which a remote domain (named first) refused SASL EXTERNAL in some form, with the
    /// fingerprint of the certificate we showed: what was said of another one does not count.
    pub external: Memory<(ExternalForms, String), (Domain, Domain)>,
    /// Pairs, or all pairs of a remote domain (named first), that are carried by streams of their
    /// own: they were refused as guests on another pair's stream, or in their own name.
    pub alone: Memory<(), (Domain, Option<Domain>)>,
}

/// What a remote domain takes of the two forms of SASL EXTERNAL, as far as one was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExternalForms {
    /// The authorization identity was refused or not answered; nothing is known of the empty one.
    NotNamed,
    /// Only the empty one works.
    OnlyEmpty,
    /// None works.
    None,
}

impl PeerMemory {
    /// Of domains that are not configured, so many are remembered for one fact; the oldest gives way.
    pub fn new(most: usize) -> Self {
        Self {
            used_tls: Memory::new(TLS_LIFE, most),
            failed_tls: Memory::new(TLS_LIFE, most),
            labels: Memory::new(LABELS_LIFE, most),
            external: Memory::new(EXTERNAL_LIFE, most),
            alone: Memory::new(ALONE_LIFE, most),
        }
    }
}
