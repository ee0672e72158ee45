//! What the edge notes about attempts that failed and peers that it refused: once for the log,
//! the metrics and `ctl failures`.

use std::net::IpAddr;

use tokio::time::Instant;
use xmpp_federation_core::Domain;

use crate::observe::failures::Attempt;
use crate::observe::log_rate::{EXCHANGES, PartnerLookup, Party, REFUSALS};
use crate::observe::registry::StreamEntry;
use crate::partners::Standing;
use crate::refusal::Refusal;
use crate::stream::Failure;
use crate::words::Stage;

use super::Shared;

impl Shared {
    /// One way to a remote domain failed, or somebody was refused who came in its name.
    pub(crate) fn attempt_failed(&self, remote: &Domain, attempt: Attempt) {
        self.metrics.attempt_failed(attempt.direction, attempt.stage);
        self.registry.attempt_failed(remote, attempt);
    }

    /// A peer was refused by a check, at this stage of the stream. `local`, `remote`: whom it wanted and in
    /// whose name it came, as far as it said so.
    pub(crate) fn refused(
        &self,
        entry: &StreamEntry,
        stage: Stage,
        local: Option<&Domain>,
        remote: Option<&Domain>,
        refusal: &Refusal,
    ) {
        let (direction, peer) = (entry.direction, entry.peer);
        entry.update(|detail| detail.refused = true);
        self.metrics.peer_refused(refusal.check.as_str());
        if self.admit_line(refusal.check.as_str(), entry.party(remote), REFUSALS) {
            refusal.log(direction, peer, local, remote);
        }
        if let Some(remote) = remote {
            let attempt = Attempt {
                direction,
                stage: refusal.check.stage().unwrap_or(stage),
                local: local.cloned(),
                address: Some(peer),
                reason: refusal.reason.to_string(),
            };
            self.attempt_failed(remote, attempt);
        }
    }

    /// Whether a line about a step that a peer, its DNS or a router's user can repeat at will is to
    /// be written.
    pub(crate) fn may_log(&self, about: &'static str, party: Party<'_>) -> bool {
        self.admit_line(about, party, EXCHANGES)
    }

    fn admit_line(&self, about: &'static str, party: Party<'_>, most: u32) -> bool {
        let now = Instant::now();
        let admitted = self.log_rate.admit(about, party, self, most, now);
        if !admitted {
            self.metrics.log_line_left_out();
        }
        admitted
    }

    /// A peer's stream ended by this failure; notes what we refused, and a peer that hung up before anything
    /// was authenticated.
    pub(crate) fn stream_refused(&self, entry: &StreamEntry, failure: &Failure) {
        if let Some(check) = failure.check() {
            let remote = entry.claimed();
            let refusal = Refusal::new(check, failure.to_string());
            self.refused(entry, entry.stage(), None, remote.as_ref(), &refusal);
        } else if failure.is_hang_up()
            && entry.came_to_nothing()
            && let Some(remote) = entry.claimed()
        {
            let reason = format!("{failure} before a pair of domains was authenticated");
            let attempt = Attempt::inbound(failure.stage(entry.stage()), entry.peer, reason);
            self.attempt_failed(&remote, attempt);
        }
    }

    /// In whose name somebody at this address shows a key of this domain.
    pub(crate) fn standing(&self, address: IpAddr, remote: &Domain) -> Standing {
        match (self.is_partner(remote), self.is_partners(address)) {
            (true, true) => Standing::Partner,
            (true, false) => Standing::Claimed,
            (false, _) => Standing::Stranger,
        }
    }
}

impl PartnerLookup for Shared {
    fn is_partner(&self, remote: &Domain) -> bool {
        self.live().policy.is_partner(remote)
    }

    fn is_partners(&self, address: IpAddr) -> bool {
        self.is_partners_address(&self.live(), address)
    }
}
