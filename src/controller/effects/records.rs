//! Public records: our own, and partners' beside them, each looked at when it is due, and at once when the
//! question changed.

use std::net::IpAddr;
use std::time::Duration;

use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::PrivacyMode;

use crate::controller::environment::Environment;
use crate::controller::observer::Observation;
use crate::controller::questions::{RecordsAnswer, RecordsQuestion};
use crate::controller::validate::ValidSpec;
use crate::records::{RecordState, RecordStatus, Wanted, verify};

/// Records that are as they should be are looked at this often, as are others that do not change …
const RECORDS_GOOD: Duration = Duration::from_mins(5);
/// … and those first after this, and twice as long each time.
const RECORDS_BAD: Duration = Duration::from_secs(10);

/// Public records as they were looked at last.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// Ours, then partners'; what was not looked at yet is missing.
    pub found: Vec<RecordStatus>,
    /// Partners' were not looked at yet.
    pub partners_unknown: bool,
    /// Why ours cannot be told.
    pub unknown: Option<String>,
    /// All of ours were looked at, for what is wanted now.
    pub current: bool,
    /// Time to the next look.
    pub due: Duration,
}

impl Records {
    /// Whether something was not looked at yet.
    pub fn is_incomplete(&self) -> bool {
        self.partners_unknown || (self.unknown.is_some() && !self.current)
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

/// The time between two looks.
fn pace(answer: &RecordsAnswer) -> Duration {
    let bad = |record: &RecordStatus| {
        use RecordState::{Absent, PartnerMissing, Unknown, Wrong};
        matches!(record.state, Wrong | Absent | Unknown | PartnerMissing)
    };
    match &answer.found {
        Ok(found) if !found.iter().any(bad) => RECORDS_GOOD,
        _ => RECORDS_BAD.saturating_mul(1 << answer.repeats.min(5)).min(RECORDS_GOOD),
    }
}

/// What was seen of the records last; they are looked up where that is due.
pub fn look(env: &Environment, valid: &ValidSpec, addresses: &[IpAddr], refresh: Option<&String>) -> Records {
    let ask = |name: &str, domains: Vec<Domain>, partners: Vec<Domain>| {
        let question = RecordsQuestion {
            wanted: Wanted {
                domains,
                direct_tls: valid.direct_tls,
                hostname: valid.hostname.clone(),
                addresses: addresses.to_vec(),
                partners,
            },
            resolvers: valid.resolvers.clone(),
            refresh: refresh.cloned(),
        };
        let (asked, records) = (question.clone(), &env.observers.records);
        let resolver = env.observers.resolvers.get(&asked.resolvers);
        let due = |answer: &RecordsAnswer, age| age >= pace(answer);
        records.look(&valid.owner, name, &question, due, |before| async move {
            let found = match resolver {
                Ok(resolver) => Ok(verify(&resolver, &asked.wanted).await),
                Err(error) => Err(error),
            };
            let same = |before: &RecordsAnswer| matches!((&before.found, &found), (Ok(a), Ok(b)) if a == b);
            let repeats = before
                .filter(|before| same(before))
                .map_or(0, |before| before.repeats.saturating_add(1));
            RecordsAnswer { found, repeats }
        })
    };
    let own = ask("own", valid.hosted.clone(), Vec::new());
    let partners = looked_up(valid);
    let none = partners.is_empty();
    let partners = if none {
        None
    } else {
        ask("partners", Vec::new(), partners)
    };
    let mut records = Records {
        current: own.as_ref().is_some_and(|own| own.current),
        partners_unknown: !none && partners.is_none(),
        due: RECORDS_GOOD,
        ..Records::default()
    };
    match own.as_ref().map(|own| &own.answer.found) {
        Some(Ok(_)) => {}
        Some(Err(error)) => records.unknown = Some(error.to_string()),
        None => records.unknown = Some("not looked at yet".to_owned()),
    }
    for seen in own.iter().chain(&partners) {
        take(&mut records, seen);
    }
    records
}

fn take(records: &mut Records, seen: &Observation<RecordsAnswer>) {
    records.due = records.due.min(pace(&seen.answer).saturating_sub(seen.age));
    records.found.extend(seen.answer.found.iter().flatten().cloned());
}
