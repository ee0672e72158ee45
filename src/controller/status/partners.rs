//! `PartnersReachable`: the partners that are configured by name can be reached.

use xmpp_federation_core::edge_config::PrivacyMode;

use super::{Inputs, answering};
use crate::api::conditions::Verdict;
use crate::api::reasons::Reason;
use crate::records::RecordState;

pub(super) fn verdict(inputs: &Inputs<'_>) -> Verdict {
    let valid = inputs.valid;
    if valid.privacy.mode == PrivacyMode::AllowList && valid.privacy.domains.is_empty() && valid.partners.is_empty() {
        return Verdict::no(
            Reason::NobodyAdmitted,
            "the allow list is empty, so nothing federates; list remote domains in spec.privacy.domains or spec.partners",
        );
    }
    let failing = answering(&inputs.view.pods)
        .flat_map(|(pod, status)| status.failing_partners.iter().map(move |f| (pod, f)))
        .next();
    if let Some((pod, failure)) = failing {
        let local = failure.local.as_ref().map(|local| format!(" for {local}"));
        return Verdict::no(
            Reason::PartnersFailing,
            format!(
                "{}{} since {} (pod {}): {}",
                failure.domain,
                local.unwrap_or_default(),
                failure.since,
                pod.name,
                failure.reason
            ),
        );
    }
    let mut records = inputs.effects.records.found.iter();
    let fails = |state| matches!(state, RecordState::PartnerMissing | RecordState::PartnerUnknown);
    if let Some(record) = records.find(|record| fails(record.state)) {
        return Verdict::no(Reason::PartnersFailing, format!("{}: {}", record.name, record.message));
    }
    if let Some(error) = &inputs.effects.records.partners_error {
        return Verdict::unknown(Reason::RecordsUnknown, error);
    }
    if !inputs.effects.records.partners_seen {
        return Verdict::unknown(Reason::NotLookedYet, "the records of partners were not looked at yet");
    }
    if valid.named_partners().next().is_none() {
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
    use super::super::testing::{status, verdict, world};
    use crate::api::conditions::{Status, Type};
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
}
