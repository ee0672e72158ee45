//! `PartnersReachable`: the partners that are configured by name can be reached.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::PrivacyMode;

use super::{Inputs, answering};
use crate::api::bounds;
use crate::api::conditions::Verdict;
use crate::api::reasons::Reason;
use crate::api::status::{PartnerTrouble, PartnersStatus};
use crate::records::RecordState;

/// Longest list of refused partners in a message, in bytes.
const REFUSED: usize = 1024;

/// The partners as the status has them; `before`: what it has now.
pub(super) fn shown(inputs: &Inputs<'_>, before: Option<&PartnersStatus>) -> PartnersStatus {
    let silent = answering(&inputs.view.pods).next().is_none();
    if let Some(before) = before.filter(|_| silent || !inputs.effects.records.partners_seen) {
        return before.clone();
    }
    let named = named(inputs);
    let failing = failing(inputs, &named);
    let reachable = format!("{}/{}", named.len().saturating_sub(failing.len()), named.len());
    let (failing, further) = bounds::first(failing.into_iter().map(|(_, partner)| partner).collect());
    PartnersStatus {
        reachable,
        failing,
        further,
    }
}

fn named<'a>(inputs: &Inputs<'a>) -> HashSet<&'a str> {
    inputs.valid.named_partners().map(Domain::as_str).collect()
}

/// Named partners that fail, each once: first those of which edge pods tell, by name and with the first such pod, then
/// those whose records fail.
fn failing<'a>(inputs: &Inputs<'a>, named: &HashSet<&str>) -> Vec<(Option<&'a str>, PartnerTrouble)> {
    let mut told = BTreeMap::new();
    for (pod, status) in answering(&inputs.view.pods) {
        for failure in &status.failing_partners {
            let domain = failure.domain.as_str();
            if named.contains(domain) {
                told.entry(domain).or_insert((pod.name.as_str(), failure));
            }
        }
    }
    let fails = |state| matches!(state, RecordState::PartnerMissing | RecordState::PartnerUnknown);
    let records = inputs.effects.records.found.iter().filter(|record| fails(record.state));
    // The name of a record is that of the service, of the protocol, and the domain.
    let records = records.filter_map(|record| Some((record.name.splitn(3, '.').nth(2)?, record)));
    let records = records.filter(|(domain, _)| named.contains(domain) && !told.contains_key(domain));
    let of_records = records.map(|(domain, record)| PartnerTrouble {
        domain: domain.to_owned(),
        local: None,
        reason: record.message.clone(),
        since: None,
    });
    let of_pods = told.values().map(|(pod, failure)| {
        let trouble = PartnerTrouble {
            domain: failure.domain.clone(),
            local: failure.local.clone(),
            reason: failure.reason.clone(),
            since: Some(failure.since.clone()),
        };
        (Some(*pod), trouble)
    });
    of_pods.chain(of_records.map(|trouble| (None, trouble))).collect()
}

/// The first of them in a sentence, and how many more there are.
fn sentence(failing: &[(Option<&str>, PartnerTrouble)]) -> Option<String> {
    let (pod, first) = failing.first()?;
    let local = first.local.as_ref().map(|local| format!(" for {local}"));
    let since = first.since.as_ref().map(|since| format!(" since {since}"));
    let pod = pod.map(|pod| format!(" (pod {pod})"));
    let more = match failing.len() - 1 {
        0 => String::new(),
        more => format!("; {more} more fail, see status.partners"),
    };
    Some(format!(
        "{}{}{}{}: {}{more}",
        first.domain,
        local.unwrap_or_default(),
        since.unwrap_or_default(),
        pod.unwrap_or_default(),
        first.reason,
    ))
}

pub(super) fn verdict(inputs: &Inputs<'_>) -> Verdict {
    let mut verdict = reached(inputs);
    let refused: Vec<String> = inputs.valid.refused_partners().map(ToString::to_string).collect();
    if !refused.is_empty() {
        let refused = bounds::list(&refused, ", ", REFUSED);
        let _ = write!(
            verdict.message,
            "; the deny list refuses {refused} of spec.partners; remove them there or from spec.privacy.domains"
        );
    }
    verdict
}

fn reached(inputs: &Inputs<'_>) -> Verdict {
    let valid = inputs.valid;
    if valid.privacy.mode == PrivacyMode::AllowList && valid.privacy.domains.is_empty() && valid.partners.is_empty() {
        return Verdict::no(
            Reason::NobodyAdmitted,
            "the allow list is empty, so nothing federates; list remote domains in spec.privacy.domains or spec.partners",
        );
    }
    let named = named(inputs);
    if let Some(sentence) = sentence(&failing(inputs, &named)) {
        return Verdict::no(Reason::PartnersFailing, sentence);
    }
    if let Some(error) = &inputs.effects.records.partners_error {
        return Verdict::unknown(Reason::RecordsUnknown, error);
    }
    if !inputs.effects.records.partners_seen {
        return Verdict::unknown(Reason::NotLookedYet, "the records of partners were not looked at yet");
    }
    if named.is_empty() {
        return Verdict::unknown(Reason::NoPartners, "no partner is configured by name");
    }
    let mut records = inputs.effects.records.found.iter();
    let stands = records.find(|record| record.unanswered_since.is_some());
    let stands = stands.map(|record| format!("; {}: {}", record.name, record.message));
    let message = format!("no configured partner fails{}", stands.unwrap_or_default());
    Verdict::yes(Reason::AsWanted, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::testing::{World, details_after, details_of, status, verdict, world};
    use crate::api::conditions::{Status, Type};
    use crate::api::status::PartnersStatus;
    use crate::records::{RecordState, RecordStatus};
    use rstest::rstest;
    use serde_json::{Value, json};
    use xmpp_federation_core::edge_status::PartnerFailure;

    #[test]
    fn a_failing_partner_is_told_with_its_last_reason() {
        let mut world = world("", Value::Null);
        status(&mut world).failing_partners = vec![PartnerFailure {
            domain: "vngtp.lab".to_owned(),
            local: Some("coluc.com".to_owned()),
            reason: "no SRV record".to_owned(),
            since: "2023-11-14T22:13:20Z".to_owned(),
        }];
        let verdict = verdict(&world, Type::PartnersReachable);
        assert_eq!(verdict.reason.as_str(), "PartnersFailing");
        assert!(verdict.message.contains("no SRV record"), "{}", verdict.message);
        assert!(
            verdict.message.starts_with("vngtp.lab for coluc.com since"),
            "{}",
            verdict.message
        );
    }

    fn failure(domain: &str, reason: &str) -> PartnerFailure {
        PartnerFailure {
            domain: domain.to_owned(),
            local: None,
            reason: reason.to_owned(),
            since: "2023-11-14T22:13:20Z".to_owned(),
        }
    }

    /// A world with those partners; each pod says of some that they fail.
    fn failing(partners: &[&str], pods: &[&str], records: &[(&str, RecordState)]) -> World {
        let mut world = world("/privacy", json!({"mode": "AllowList", "domains": partners}));
        // The first one is named twice.
        let entry = json!({"domain": partners.first().unwrap()});
        world.valid.partners = vec![serde_json::from_value(entry).unwrap()];
        let pod = world.pods.first().unwrap().clone();
        world.pods.clear();
        for (index, domains) in pods.iter().enumerate() {
            let mut pod = pod.clone();
            let reason = format!("pod {index} says so");
            let failures = domains.split_whitespace().map(|domain| failure(domain, &reason));
            pod.status.as_mut().unwrap().failing_partners = failures.collect();
            world.pods.push(pod);
        }
        let records = records.iter().map(|(domain, state)| RecordStatus {
            name: format!("_xmpp-server._tcp.{domain}"),
            state: *state,
            message: "its records say so".to_owned(),
            note: None,
            unanswered_since: None,
            disputed_since: None,
        });
        world.records.found = records.collect();
        world
    }

    const ALL: &[&str] = &["a.lab", "b.lab", "c.lab", "*.d.lab"];

    /// Each failing partner once, with the last reason; the column has those that do not fail, of all that are named.
    #[rstest]
    #[case::none_fails(ALL, &[""], &[("a.lab", RecordState::PartnerFound)], "3/3", &[])]
    #[case::one_fails(ALL, &["b.lab"], &[], "2/3", &["b.lab: pod 0 says so"])]
    #[case::at_two_pods(ALL, &["b.lab", "a.lab b.lab"], &[], "1/3", &["a.lab: pod 1 says so", "b.lab: pod 0 says so"])]
    #[case::by_records(ALL, &[""], &[("c.lab", RecordState::PartnerMissing), ("a.lab", RecordState::PartnerUnknown)], "1/3", &["c.lab: its records say so", "a.lab: its records say so"])]
    #[case::by_both(ALL, &["c.lab"], &[("a.lab", RecordState::PartnerMissing), ("c.lab", RecordState::PartnerMissing)], "1/3", &["c.lab: pod 0 says so", "a.lab: its records say so"])]
    #[case::one_that_left_the_spec(ALL, &["old.lab"], &[("older.lab", RecordState::PartnerMissing)], "3/3", &[])]
    #[case::nobody_is_named(&["*.d.lab"], &[""], &[], "0/0", &[])]
    fn partners_that_fail_are_in_the_status_once(
        #[case] partners: &[&str],
        #[case] pods: &[&str],
        #[case] records: &[(&str, RecordState)],
        #[case] reachable: &str,
        #[case] expected: &[&str],
    ) {
        let world = failing(partners, pods, records);
        let found = details_of(&world).partners.unwrap();
        let named = found.failing.iter().map(|f| format!("{}: {}", f.domain, f.reason));
        let named: Vec<String> = named.collect();
        assert_eq!(found.reachable, reachable);
        assert_eq!(named, expected);
        let said = verdict(&world, Type::PartnersReachable);
        assert_eq!(said.status == Status::False, !expected.is_empty(), "{}", said.message);
        let more = format!("; {} more fail, see status.partners", expected.len().saturating_sub(1));
        assert_eq!(said.message.ends_with(&more), expected.len() > 1, "{}", said.message);
    }

    #[test]
    fn of_many_partners_that_fail_the_first_are_named_and_the_rest_is_counted() {
        let partners: Vec<String> = (0..100).map(|n| format!("p{n:03}.lab")).collect();
        let partners: Vec<&str> = partners.iter().map(String::as_str).collect();
        let world = failing(&partners, &[&partners.join(" ")], &[]);
        let found = details_of(&world).partners.unwrap();
        let named = (found.failing.len(), found.failing.last().unwrap().domain.as_str());
        assert_eq!((named, found.further), ((16, "p015.lab"), Some(84)));
        assert_eq!(found.reachable, "0/100");
    }

    /// Without an answer nothing is known anew.
    #[rstest]
    #[case::all_was_looked_at(true, true, "3/3")]
    #[case::no_pod_answers(false, true, "2/3")]
    #[case::records_were_not_looked_at(true, false, "2/3")]
    fn partners_stay_as_they_were_while_nothing_is_known(
        #[case] answers: bool,
        #[case] seen: bool,
        #[case] reachable: &str,
    ) {
        let before = details_of(&failing(ALL, &["b.lab"], &[]));
        let mut world = failing(ALL, &[""], &[]);
        world.pods.retain(|_| answers);
        world.records.partners_seen = seen;
        let found = details_after(&world, &before).partners.unwrap();
        assert_eq!(found.reachable, reachable);
        // Before the first status the spec alone tells.
        let first = details_of(&world).partners.unwrap();
        let expected = PartnersStatus {
            reachable: "3/3".to_owned(),
            ..PartnersStatus::default()
        };
        assert_eq!(first, expected);
    }

    #[test]
    fn partners_whose_records_cannot_be_asked_for_are_not_told_as_reached() {
        let mut world = world("", Value::Null);
        let error = "the DNS resolver cannot be set up: no such file; check dns.resolvers";
        world.records.partners_error = Some(error.to_owned());
        let verdict = verdict(&world, Type::PartnersReachable);
        assert_eq!((verdict.status, verdict.message.as_str()), (Status::Unknown, error));
    }

    #[test]
    fn an_empty_allow_list_is_said() {
        let mut world = world("/privacy", json!({"mode": "AllowList"}));
        let verdict_of = |world: &_| {
            let verdict = verdict(world, Type::PartnersReachable);
            (verdict.status, verdict.reason.as_str())
        };
        assert_eq!(verdict_of(&world), (Status::False, "NobodyAdmitted"));
        // An entry in partners admits its domain.
        world.valid.partners = vec![serde_json::from_value(json!({"domain": "vngtp.lab"})).unwrap()];
        assert_eq!(verdict_of(&world).0, Status::True);
    }

    /// Only a partner that is named can fail.
    #[rstest]
    #[case::allowed("AllowList", &["vngtp.lab"], &[], Status::True)]
    #[case::partner("AllowList", &[], &["vngtp.lab"], Status::True)]
    #[case::below("AllowList", &[], &["*.vngtp.lab"], Status::Unknown)]
    #[case::listed_below("AllowList", &["*.vngtp.lab"], &[], Status::Unknown)]
    #[case::both("AllowList", &[], &["*.vngtp.lab", "vngtp.lab"], Status::True)]
    #[case::everybody("AllowAll", &[], &[], Status::Unknown)]
    #[case::everybody_and_a_partner("AllowAll", &[], &["vngtp.lab"], Status::True)]
    #[case::denied("DenyList", &["bad.example"], &[], Status::Unknown)]
    #[case::denied_partner("DenyList", &["vngtp.lab"], &["vngtp.lab"], Status::Unknown)]
    #[case::partner_below_a_denied_wildcard("DenyList", &["*.vngtp.lab"], &["a.vngtp.lab"], Status::Unknown)]
    #[case::partner_beside_the_denied("DenyList", &["*.vngtp.lab"], &["vngtp.lab"], Status::True)]
    fn partners_are_reachable_as_far_as_any_is_named(
        #[case] mode: &str,
        #[case] listed: &[&str],
        #[case] partners: &[&str],
        #[case] expected: Status,
    ) {
        let mut world = world("/privacy", json!({"mode": mode, "domains": listed}));
        let partners = partners.iter().map(|name| json!({"domain": name}));
        world.valid.partners = partners.map(|entry| serde_json::from_value(entry).unwrap()).collect();
        let verdict = verdict(&world, Type::PartnersReachable);
        assert_eq!(verdict.status, expected, "{}", verdict.message);
        let unknown = (expected == Status::Unknown).then_some("NoPartners");
        assert_eq!(verdict.reason.as_str(), unknown.unwrap_or("AsWanted"));
    }

    #[rstest]
    #[case::it("DenyList", &["vngtp.lab"], &["vngtp.lab", "other.lab"], Some("vngtp.lab"))]
    #[case::one_below("DenyList", &["*.vngtp.lab"], &["a.vngtp.lab"], Some("a.vngtp.lab"))]
    #[case::all_below("DenyList", &["*.vngtp.lab"], &["*.vngtp.lab"], Some("*.vngtp.lab"))]
    #[case::beside("DenyList", &["*.vngtp.lab"], &["vngtp.lab"], None)]
    #[case::admitted("AllowList", &["vngtp.lab"], &["vngtp.lab"], None)]
    fn a_partner_that_the_deny_list_refuses_is_told(
        #[case] mode: &str,
        #[case] listed: &[&str],
        #[case] partners: &[&str],
        #[case] refused: Option<&str>,
    ) {
        let mut world = world("/privacy", json!({"mode": mode, "domains": listed}));
        let partners = partners.iter().map(|name| json!({"domain": name}));
        world.valid.partners = partners.map(|entry| serde_json::from_value(entry).unwrap()).collect();
        let message = verdict(&world, Type::PartnersReachable).message;
        let said = message.split_once("the deny list refuses ").map(|(_, rest)| rest);
        let expected =
            refused.map(|name| format!("{name} of spec.partners; remove them there or from spec.privacy.domains"));
        assert_eq!(said, expected.as_deref(), "{message}");
    }
}
