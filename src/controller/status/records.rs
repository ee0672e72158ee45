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
    let own = records.found.iter().filter(|r| r.state == RecordState::Verified);
    let notes = own
        .clone()
        .filter_map(|r| Some(format!("; note: {}: {}", r.name, r.note.as_ref()?)));
    let notes: String = notes.collect();
    Verdict::yes(
        Reason::AsWanted,
        format!("{} SRV records lead to {}{notes}", own.count(), inputs.valid.hostname),
    )
}
