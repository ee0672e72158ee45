//! Public records: our own, and partners' beside them, each looked at when it is due, and at once when the
//! question changed.

use std::time::Duration;

use jiff::Timestamp;
use xmpp_federation_core::edge_config::{Partner, PrivacyMode};
use xmpp_federation_core::{Domain, DomainMap};

use crate::api::status::{self, XmppFederationStatus};
use crate::backoff::doubled;
use crate::controller::environment::Environment;
use crate::controller::observer::Observation;
use crate::controller::questions::{RecordsAnswer, RecordsQuestion};
use crate::controller::validate::ValidSpec;
use crate::records::{Reach, RecordState, RecordStatus, Wanted, follow, hold, verify};

/// Records that are as they should be are looked at this often, as are others that do not change …
const RECORDS_GOOD: Duration = Duration::from_mins(5);
/// … and those first after this, and twice as long each time.
const RECORDS_BAD: Duration = Duration::from_secs(10);

/// Public records as they were looked at last.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// Ours, then partners'; what was not looked at yet is missing.
    pub found: Vec<RecordStatus>,
    /// Ours were looked at.
    pub own_seen: bool,
    /// Partners' were looked at, or there are none.
    pub partners_seen: bool,
    /// Why ours cannot be looked at.
    pub error: Option<String>,
    /// Why partners' cannot.
    pub partners_error: Option<String>,
    /// All of ours were looked at, for what is wanted now.
    pub current: bool,
    /// Time to the next look.
    pub due: Duration,
}

impl Records {
    /// Whether something was not looked at yet.
    pub fn is_incomplete(&self) -> bool {
        !(self.own_seen && self.partners_seen)
    }
}

/// Remote domains that an allow list admits by name and that are found by DNS.
fn looked_up(valid: &ValidSpec) -> Vec<Domain> {
    if valid.privacy.mode != PrivacyMode::AllowList {
        return Vec::new();
    }
    let entries = valid.partners.iter().map(|partner| (partner.domain.clone(), partner));
    let entries: DomainMap<&Partner> = entries.collect();
    let routed = |domain: &Domain| entries.get(domain).is_some_and(|partner| !partner.route.is_empty());
    let named = valid.named_partners();
    named.filter(|domain| !routed(domain)).cloned().collect()
}

/// The time between two looks.
fn pace(answer: &RecordsAnswer) -> Duration {
    let bad = |record: &RecordStatus| {
        use RecordState::{Absent, PartnerMissing, PartnerUnknown, Unknown, Wrong};
        matches!(record.state, Wrong | Absent | Unknown | PartnerMissing | PartnerUnknown)
            || record.unanswered_since.is_some()
            || record.disputed_since.is_some()
    };
    match &answer.found {
        Ok(found) if !found.iter().any(bad) => RECORDS_GOOD,
        _ => doubled(RECORDS_BAD, answer.repeats, RECORDS_GOOD),
    }
}

impl From<&RecordStatus> for status::RecordStatus {
    fn from(found: &RecordStatus) -> Self {
        Self {
            name: found.name.clone(),
            state: <&str>::from(found.state).to_owned(),
            message: found.message.clone(),
            unanswered_since: found.unanswered_since.map(|since| since.to_string()),
        }
    }
}

/// What a status tells of records: another process may have found them.
fn told(last: Option<&XmppFederationStatus>) -> Vec<RecordStatus> {
    let records = last.into_iter().flat_map(|status| &status.records);
    let told = records.filter_map(|record| {
        let state: RecordState = record.state.parse().ok()?;
        Some(RecordStatus {
            name: record.name.clone(),
            state,
            message: record.message.clone(),
            note: None,
            unanswered_since: record.unanswered_since.as_ref().and_then(|since| since.parse().ok()),
            disputed_since: None,
        })
    });
    told.collect()
}

/// What was seen of the records last; they are looked up where that is due.
pub fn look(
    env: &Environment,
    valid: &ValidSpec,
    reach: &Reach,
    refresh: Option<&String>,
    last: Option<&XmppFederationStatus>,
) -> Records {
    // What partners publish has nothing to do with how they come to us.
    let ask = |name: &'static str, domains: Vec<Domain>, partners: Vec<Domain>| {
        let reach = if partners.is_empty() {
            reach.clone()
        } else {
            Reach::default()
        };
        let question = RecordsQuestion {
            wanted: Wanted {
                domains,
                direct_tls: valid.direct_tls,
                hostname: valid.hostname.clone(),
                reach,
                partners,
            },
            resolvers: valid.resolvers.clone(),
            refresh: refresh.cloned(),
        };
        let due = |answer: &RecordsAnswer, age| age >= pace(answer);
        let records = &env.observers.records;
        records.look(&valid.owner, name, &question, due, |before| {
            let wanted = question.wanted.clone();
            let resolver = env.observers.resolvers.get(name, &question.resolvers);
            let told = if before.is_none() { told(last) } else { Vec::new() };
            async move {
                let found = before.iter().flat_map(|before| before.found.iter().flatten());
                let last: Vec<RecordStatus> = found.cloned().chain(told).collect();
                let seen = before.as_ref().map(|before| &*before.names).unwrap_or_default();
                let now = Timestamp::now();
                let (found, names) = match resolver {
                    Ok(resolver) => {
                        let names = Box::pin(follow(&resolver, wanted.reach.names(), seen, now)).await;
                        let found = Box::pin(verify(&resolver, &wanted, &names)).await;
                        (Ok(hold(&last, found, now)), names)
                    }
                    Err(error) => (Err(error), seen.to_vec()),
                };
                let same = |before: &RecordsAnswer| matches!((&before.found, &found), (Ok(a), Ok(b)) if a == b);
                let repeats = before
                    .as_ref()
                    .filter(|before| same(before))
                    .map_or(0, |before| before.repeats.saturating_add(1));
                RecordsAnswer { found, names, repeats }
            }
        })
    };
    let own = ask("own", valid.hosted.clone(), Vec::new());
    let partners = looked_up(valid);
    let partners = (!partners.is_empty()).then(|| ask("partners", Vec::new(), partners));
    let error = |seen: Option<&Observation<RecordsAnswer>>| Some(seen?.answer.found.as_ref().err()?.to_string());
    let mut records = Records {
        own_seen: own.is_some(),
        partners_seen: partners.as_ref().is_none_or(Option::is_some),
        error: error(own.as_ref()),
        partners_error: error(partners.as_ref().and_then(Option::as_ref)),
        current: own.as_ref().is_some_and(|own| own.current),
        due: RECORDS_GOOD,
        ..Records::default()
    };
    for seen in own.iter().chain(partners.iter().flatten()) {
        take(&mut records, seen);
    }
    records
}

fn take(records: &mut Records, seen: &Observation<RecordsAnswer>) {
    records.due = records.due.min(pace(&seen.answer).saturating_sub(seen.age));
    records.found.extend(seen.answer.found.iter().flatten().cloned());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::controller::testing::{spec_with, validated};
    use rstest::rstest;
    use serde_json::json;

    const ROUTE: &str = "198.51.100.20";

    #[test]
    fn what_another_process_found_of_a_partner_stands_while_dns_gives_no_answer() {
        let (first, second) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(9).unwrap());
        let found = |state, message: &str| RecordStatus {
            name: "_xmpp-server._tcp.vngtp.lab".to_owned(),
            state,
            message: message.to_owned(),
            note: None,
            unanswered_since: None,
            disputed_since: None,
        };
        let unanswered = || vec![found(RecordState::PartnerUnknown, "could not be looked up (dead)")];
        let before = [found(RecordState::PartnerFound, "leads to xmpp.vngtp.lab")];
        // Written into the status, and read by the next process.
        let written = |records: &[RecordStatus]| XmppFederationStatus {
            records: records.iter().map(status::RecordStatus::from).collect(),
            ..XmppFederationStatus::default()
        };
        let held = hold(&told(Some(&written(&before))), unanswered(), first);
        let record = held.first().unwrap();
        assert_eq!(record.state, RecordState::PartnerFound);
        assert!(
            record.message.starts_with("leads to xmpp.vngtp.lab; since "),
            "{record:?}"
        );
        // And by the one after that: since when does not change.
        assert_eq!(hold(&told(Some(&written(&held))), unanswered(), second), held);
        // What it found of our own stands while addresses move.
        let own = [found(RecordState::Verified, "leads to us")];
        let moved = RecordStatus {
            disputed_since: Some(first),
            ..found(RecordState::Wrong, "leads elsewhere")
        };
        let held = hold(&told(Some(&written(&own))), vec![moved], first);
        let record = held.first().unwrap();
        assert_eq!((record.state, &*record.message), (RecordState::Verified, "leads to us"));
    }

    /// Partners behind which a host stands have a route.
    #[rstest]
    #[case::listed("AllowList", &["a.example"], &[], &["a.example"])]
    #[case::partner("AllowList", &[], &[("a.example", "")], &["a.example"])]
    #[case::both("AllowList", &["a.example"], &[("a.example", "")], &["a.example"])]
    #[case::a_wildcard_names_nobody("AllowList", &["*.a.example"], &[("*.b.example", "")], &[])]
    #[case::routed("AllowList", &["a.example"], &[("a.example", ROUTE), ("b.example", ROUTE)], &[])]
    #[case::routed_by_a_wildcard("AllowList", &["x.a.example", "a.example"], &[("*.a.example", ROUTE)], &["a.example"])]
    #[case::an_exact_entry_without_route("AllowList", &[], &[("*.a.example", ROUTE), ("x.a.example", "")], &["x.a.example"])]
    #[case::others_federate_too("AllowAll", &[], &[("a.example", "")], &[])]
    #[case::denied("DenyList", &["a.example"], &[("a.example", ""), ("b.example", "")], &[])]
    fn the_records_of_named_partners_without_a_route_are_looked_up(
        #[case] mode: &str,
        #[case] listed: &[&str],
        #[case] partners: &[(&str, &str)],
        #[case] expected: &[&str],
    ) {
        let partners = partners.iter().map(|(domain, host)| match *host {
            "" => json!({"domain": domain}),
            host => json!({"domain": domain, "route": [{"host": host}]}),
        });
        let mut spec = spec_with("/privacy", json!({"mode": mode, "domains": listed}));
        spec.partners = serde_json::from_value(partners.collect()).unwrap();
        let found = looked_up(&validated(&spec).unwrap());
        let found: Vec<&str> = found.iter().map(Domain::as_str).collect();
        assert_eq!(found, expected);
    }
}
