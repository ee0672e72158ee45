//! Public records: looked at when they are due, and at once when the question changed.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::PrivacyMode;

use super::DNS_TIMEOUT;
use crate::controller::validate::ValidSpec;
use crate::records::{RecordResolver, RecordState, RecordStatus, ResolverError, Wanted, verify};

/// Records that are as they should be are looked at this often …
const RECORDS_GOOD: Duration = Duration::from_mins(5);
/// … and others this often.
const RECORDS_BAD: Duration = Duration::from_secs(10);

/// Public records cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// No resolver can be asked.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// None answers.
    #[error("the resolvers did not answer within {} s; check spec.dns.resolvers and the way to them", DNS_TIMEOUT.as_secs())]
    Timeout,
}

/// Public records as they were looked at last.
#[derive(Debug, Clone)]
pub struct Records {
    /// When they were looked up.
    pub at: Instant,
    wanted: Wanted,
    resolvers: Vec<IpAddr>,
    /// Which request for a refresh this served.
    refresh: Option<String>,
    pub found: Vec<RecordStatus>,
}

impl Records {
    /// Whether all of ours are as they should be.
    pub fn good(&self) -> bool {
        !self
            .found
            .iter()
            .any(|r| matches!(r.state, RecordState::Wrong | RecordState::Absent | RecordState::Unknown))
    }

    /// Time to the next look.
    pub fn due_in(&self) -> Duration {
        let period = if self.good() { RECORDS_GOOD } else { RECORDS_BAD };
        period.saturating_sub(self.at.elapsed())
    }
}

/// Remote domains that an allow list admits and that are found by DNS.
fn looked_up(valid: &ValidSpec) -> Vec<Domain> {
    if valid.privacy.mode != PrivacyMode::AllowList {
        return Vec::new();
    }
    let routed = |d: &Domain| valid.static_routes.iter().any(|r| r.domain == *d);
    let mut partners = valid.privacy.domains.clone();
    let peers = valid.peers.iter().map(|peer| &peer.domain);
    partners.extend(peers.filter(|d| !valid.privacy.domains.contains(d)).cloned());
    partners.retain(|d| !routed(d));
    partners
}

/// Looks public records up, unless they were looked up lately for the same question.
pub async fn look(
    valid: &ValidSpec,
    addresses: Vec<IpAddr>,
    refresh: Option<&String>,
    last: Option<Records>,
) -> Result<Records, RecordsError> {
    let partners = looked_up(valid);
    let wanted = Wanted {
        domains: valid.hosted.clone(),
        direct_tls: valid.direct_tls,
        hostname: valid.hostname.clone(),
        addresses,
        partners,
    };
    let current = |last: &Records| {
        last.wanted == wanted
            && last.resolvers == valid.resolvers
            && last.refresh.as_ref() == refresh
            && !last.due_in().is_zero()
    };
    if let Some(last) = last.filter(current) {
        return Ok(last);
    }
    let resolver = RecordResolver::new(&valid.resolvers)?;
    let found = tokio::time::timeout(DNS_TIMEOUT, verify(&resolver, &wanted))
        .await
        .map_err(|_| RecordsError::Timeout)?;
    Ok(Records {
        at: Instant::now(),
        wanted,
        resolvers: valid.resolvers.clone(),
        refresh: refresh.cloned(),
        found,
    })
}
