//! `RecordsVerified`: public records lead to the edge.

use super::Inputs;
use crate::api::conditions::Verdict;
use crate::api::reasons::Reason;
use crate::records::RecordState;

pub(super) fn verdict(inputs: &Inputs<'_>) -> Verdict {
    let records = &inputs.effects.records;
    if !records.own_seen {
        return Verdict::unknown(Reason::NotLookedYet, "not looked at yet");
    }
    if let Some(error) = &records.error {
        return Verdict::unknown(Reason::RecordsUnknown, error);
    }
    let of = |states: &[RecordState]| records.found.iter().find(|r| states.contains(&r.state));
    if let Some(record) = of(&[RecordState::Wrong, RecordState::Absent]) {
        return Verdict::no(Reason::RecordsWrong, format!("{}: {}", record.name, record.message));
    }
    if let Some(record) = of(&[RecordState::Unknown]) {
        return Verdict::unknown(Reason::RecordsUnknown, format!("{}: {}", record.name, record.message));
    }
    let verified = records.found.iter().filter(|r| r.state == RecordState::Verified);
    let of_ours = records.found.iter().filter(|r| !r.state.is_of_a_partner());
    let notes = of_ours.filter_map(|r| Some(format!("; note: {}: {}", r.name, r.note.as_ref()?)));
    let notes: String = notes.collect();
    Verdict::yes(
        Reason::AsWanted,
        format!(
            "{} SRV records lead to {}{notes}",
            verified.count(),
            inputs.valid.hostname
        ),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::testing::{verdict, world};
    use crate::api::conditions::{Status, Type};
    use crate::records::{RecordState, RecordStatus};
    use serde_json::Value;

    #[test]
    fn a_record_of_a_further_site_is_a_note_and_is_not_counted() {
        let mut world = world("", Value::Null);
        let record = |name: &str, state, note: Option<&str>| RecordStatus {
            name: name.to_owned(),
            state,
            message: String::new(),
            note: note.map(str::to_owned),
            unanswered_since: None,
            disputed_since: None,
        };
        world.records.own_seen = true;
        world.records.found = vec![
            record("_xmpp-server._tcp.coluc.com", RecordState::Verified, None),
            record(
                "_xmpps-server._tcp.coluc.com",
                RecordState::FurtherSite,
                Some("elsewhere"),
            ),
        ];
        let verdict = verdict(&world, Type::RecordsVerified);
        assert_eq!(
            (verdict.status, verdict.message.as_str()),
            (
                Status::True,
                "1 SRV records lead to eft-xwye-a.coluc.com; note: _xmpps-server._tcp.coluc.com: elsewhere"
            )
        );
    }
}
