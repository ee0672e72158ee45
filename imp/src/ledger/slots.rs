//! How many slots are recorded, before anything is planned; pure.

use xmpp_federation_core::{Activation, ComponentId};

use super::Ledger;
use crate::desired::{Desired, SlotSource};
use crate::observation::Observation;

/// The slots are recorded before the first row is inserted, and they rise only when the spec asks for more.
pub(super) fn slots(ledger: &mut Ledger, desired: &Desired, seen: &Observation) {
    if desired.activation == Activation::Prepared {
        return;
    }
    let count = |ids: usize| u16::try_from(ids).unwrap_or(u16::MAX);
    let wanted = count(desired.component_ids.len());
    let most = match (desired.slots, ledger.slots) {
        (SlotSource::Spec, _) | (SlotSource::Record, None) => wanted,
        (_, Some(recorded)) => recorded,
        // Where the records say nothing, the rows tell what was registered.
        (SlotSource::Default, None) => {
            let Some(rows) = seen.rows.as_ref().filter(|_| seen.rows_current()) else {
                return;
            };
            let planned = |id: &ComponentId| ledger.rows.values().any(|row| row.component_id == *id);
            let stands = |id: &ComponentId| rows.value.iter().any(|row| row.cp_id == id.as_str());
            let last = desired.component_ids.iter().rposition(|id| stands(id) || planned(id));
            last.map_or(wanted, |last| count(last + 1))
        }
    };
    ledger.slots = Some(wanted.min(most));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::transitions::apply;
    use super::*;
    use crate::axl::Row;
    use crate::clock::Stamp;
    use crate::observation::Reading;
    use crate::pkid::Pkid;
    use crate::records::{RowRecord, RowState};
    use crate::testing::desired;
    use rstest::rstest;

    use SlotSource::{Default as Nobody, Record, Spec};

    #[rstest]
    #[case::a_new_resource(Nobody, 4, None, 0, "", Some(4))]
    #[case::nobody_has_looked_yet(Nobody, 4, None, 0, "not read", None)]
    #[case::the_spec_says_it(Spec, 2, None, 0, "not read", Some(2))]
    #[case::the_spec_asks_for_more(Spec, 6, Some(4), 4, "0, 1, 2, 3", Some(6))]
    #[case::the_spec_asks_for_fewer(Spec, 2, Some(4), 4, "0, 1, 2, 3", Some(2))]
    #[case::the_spec_is_silent_again(Record, 6, Some(6), 6, "not read", Some(6))]
    #[case::the_status_is_lost(Nobody, 4, Some(2), 2, "0, 1", Some(2))]
    #[case::the_status_is_lost_and_publisher_is_down(Nobody, 4, Some(2), 2, "not read", Some(2))]
    #[case::the_ledger_is_lost(Record, 4, None, 0, "0, 1", Some(4))]
    #[case::both_are_lost(Nobody, 4, None, 0, "0, 1", Some(2))]
    #[case::both_are_lost_and_a_row_between_went(Nobody, 4, None, 0, "2", Some(3))]
    #[case::rows_of_others_alone(Nobody, 4, None, 0, "9", Some(4))]
    #[case::a_ledger_that_does_not_say_it(Nobody, 4, None, 2, "0, 1", Some(2))]
    #[case::a_row_that_may_still_arrive(Nobody, 4, None, 2, "0", Some(2))]
    #[case::an_older_ledger_is_restored(Record, 2, Some(4), 2, "0, 1", Some(2))]
    #[case::it_knows_fewer(Record, 4, Some(2), 2, "0, 1", Some(2))]
    fn slots_rise_only_where_the_spec_asks_for_more(
        #[case] source: SlotSource,
        #[case] wanted: usize,
        #[case] recorded: Option<u16>,
        #[case] rows: usize,
        #[case] table: &str,
        #[case] expected: Option<u16>,
    ) {
        let id = |slot: usize| -> ComponentId { format!("cm-2_s2scp-1.slot-{slot}").parse().unwrap() };
        let now = Stamp {
            wall: jiff::Timestamp::UNIX_EPOCH,
            process: 1,
            mono_ms: 1_000,
        };
        let mut desired = desired();
        desired.slots = source;
        desired.component_ids = (0..wanted).map(id).collect();
        let record = |slot: usize| RowRecord {
            component_id: id(slot),
            state: RowState::Present,
            asks_restart: true,
        };
        let pkid = |slot: usize| Pkid::from_u128(slot as u128 + 1);
        let mut ledger = Ledger {
            owner: Some(desired.owner.clone()),
            slots: recorded,
            rows: (0..rows).map(|slot| (pkid(slot), record(slot))).collect(),
            ..Ledger::unknown("055c13d9-943d-459d-a3c6-af1d1176936d")
        };
        let row = |slot: &str| Row {
            pkid: pkid(slot.parse().unwrap()).to_string(),
            cp_id: id(slot.parse().unwrap()).to_string(),
        };
        let mut seen = Observation {
            rows: (table != "not read").then(|| Reading {
                value: table.split_terminator(", ").map(row).collect(),
                asked: now,
                answered: now,
            }),
            ..Observation::default()
        };
        apply(&mut ledger, &desired, &mut seen, now);
        assert_eq!(ledger.slots, expected);
        let allowed = desired.within(ledger.slots).component_ids.len();
        assert_eq!(allowed, expected.map_or(wanted, usize::from));
        // Without rows the next registration is a first one.
        desired.activation = Activation::Prepared;
        ledger.rows.clear();
        apply(&mut ledger, &desired, &mut seen, now);
        assert_eq!(ledger.slots, None);
    }
}
