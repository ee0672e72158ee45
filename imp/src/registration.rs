//! Which row comes next: a pure comparison of desired component ids, rows and ledger. Ours is
//! what the ledger has by pkid, nothing else; adding comes before removing, so that a changed host
//! name costs one round of restarts.

use std::collections::BTreeSet;

use xmpp_federation_core::{ComponentId, ForeignComponents};

use super::axl::Row;

use super::ledger::Ledger;
use super::pkid::Pkid;
use crate::records::RowState;

/// How many rows of others are told.
const MAX_TOLD: usize = 8;

/// The next thing to do about rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the table is as it should be.
    Nothing,
    /// Insert this id under this pkid; `fresh` where the pkid is not in the ledger yet.
    Insert {
        /// The row's key.
        pkid: Pkid,
        /// Its component id.
        id: ComponentId,
    },
    /// Delete this row of ours.
    Delete {
        /// The row's key.
        pkid: Pkid,
        /// Its component id.
        id: ComponentId,
        /// Why, as the end of a sentence.
        reason: &'static str,
    },
    /// Take over a row of somebody else with our id, as asked for.
    Adopt {
        /// The row's key.
        pkid: Pkid,
        /// Its component id.
        id: ComponentId,
    },
    /// Nothing may be written.
    Blocked(Blocked),
}

/// Why nothing may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocked {
    /// Rows of others, as `cp_id (pkid)`.
    Foreign(Vec<String>),
    /// A row with our id that is not ours, as `cp_id (pkid)`.
    Identical(String),
    /// A row with our pkid has another id now: `cp_id (pkid)`.
    Altered(String),
}

/// What the comparison needs.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Desired ids in slot order.
    pub desired: &'a [ComponentId],
    /// All rows, just read.
    pub rows: &'a [Row],
    /// The record.
    pub ledger: &'a Ledger,
    /// What other rows mean.
    pub foreign: ForeignComponents,
    /// Whether identical rows may be adopted.
    pub adopt: bool,
    /// A pkid for a new row.
    pub fresh: Pkid,
}

/// Compares.
pub fn next(input: Input<'_>) -> Step {
    let Input {
        desired, rows, ledger, ..
    } = input;
    if let Some(altered) = altered(rows, ledger) {
        return Step::Blocked(Blocked::Altered(altered));
    }
    let shown = |pkid: &Pkid| rows.iter().any(|row| row.pkid == pkid.to_string());
    let wanted: BTreeSet<&ComponentId> = desired.iter().collect();
    let has = |id: &ComponentId| {
        ledger
            .rows
            .iter()
            .any(|(pkid, record)| record.component_id == *id && record.state != RowState::Deleting && shown(pkid))
    };
    let foreign: Vec<&Row> = rows
        .iter()
        .filter(|row| {
            row.pkid
                .parse::<Pkid>()
                .map_or(true, |pkid| !ledger.rows.contains_key(&pkid))
        })
        .collect();

    for id in desired.iter().filter(|id| !has(id)) {
        if let Some(same) = foreign.iter().find(|row| row.cp_id == id.as_str()) {
            return match same.pkid.parse() {
                Ok(pkid) if input.adopt => Step::Adopt { pkid, id: id.clone() },
                _ => Step::Blocked(Blocked::Identical(same.to_string())),
            };
        }
    }
    if input.foreign == ForeignComponents::Refuse && !desired.is_empty() && !foreign.is_empty() {
        // A message tells a few of them; the table may hold thousands.
        let mut told: Vec<String> = foreign.iter().take(MAX_TOLD).map(ToString::to_string).collect();
        if let Some(more) = foreign.len().checked_sub(MAX_TOLD).filter(|more| *more > 0) {
            told.push(format!("{more} more"));
        }
        return Step::Blocked(Blocked::Foreign(told));
    }
    if let Some(id) = desired.iter().find(|id| !has(id)) {
        let planned = ledger
            .rows
            .iter()
            .find(|(_, record)| record.component_id == *id && record.state != RowState::Deleting);
        return Step::Insert {
            pkid: planned.map_or(input.fresh, |(pkid, _)| *pkid),
            id: id.clone(),
        };
    }
    next_delete(rows, ledger, &wanted)
}

/// Our rows that are not wanted, were being deleted, or stand twice.
fn next_delete(rows: &[Row], ledger: &Ledger, wanted: &BTreeSet<&ComponentId>) -> Step {
    let mut kept = BTreeSet::new();
    for (pkid, record) in &ledger.rows {
        let id = &record.component_id;
        let keep = record.state != RowState::Deleting && wanted.contains(id);
        let shown = rows.iter().any(|row| row.pkid == pkid.to_string());
        let reason = if !keep {
            "it is not wanted any more"
        } else if !shown || kept.insert(id) {
            continue;
        } else {
            "it is there twice"
        };
        // A planned row may still arrive: its DELETE is sent whether it shows or not, and the
        // record goes when a later read does not show it.
        if shown || record.state == RowState::Planned {
            return Step::Delete {
                pkid: *pkid,
                id: id.clone(),
                reason,
            };
        }
    }
    Step::Nothing
}

/// A row with a pkid of ours and another id.
fn altered(rows: &[Row], ledger: &Ledger) -> Option<String> {
    rows.iter()
        .find(|row| {
            row.pkid
                .parse::<Pkid>()
                .ok()
                .and_then(|pkid| ledger.rows.get(&pkid))
                .is_some_and(|record| record.component_id.as_str() != row.cp_id)
        })
        .map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use crate::records::RowRecord;
    use rstest::rstest;

    const FRESH: Pkid = Pkid::from_u128(99);

    fn id(slot: usize) -> ComponentId {
        format!("cm-2_s2scp-1.slot-{slot}").parse().unwrap()
    }

    fn pkid(number: u128) -> Pkid {
        Pkid::from_u128(number)
    }

    fn row(number: u128, slot: usize) -> Row {
        Row {
            pkid: pkid(number).to_string(),
            cp_id: id(slot).to_string(),
        }
    }

    fn ledger(rows: &[(u128, usize, RowState)]) -> Ledger {
        let mut ledger = Ledger::unknown("p");
        for (number, slot, state) in rows {
            ledger.rows.insert(
                pkid(*number),
                RowRecord {
                    component_id: id(*slot),
                    state: *state,
                    asks_restart: true,
                },
            );
        }
        ledger
    }

    fn insert(number: u128, slot: usize) -> Step {
        Step::Insert {
            pkid: pkid(number),
            id: id(slot),
        }
    }

    fn delete(number: u128, slot: usize, reason: &'static str) -> Step {
        Step::Delete {
            pkid: pkid(number),
            id: id(slot),
            reason,
        }
    }

    use RowState::{Deleting, Planned, Present};

    #[rstest]
    #[case::the_first_row(&[0, 1], &[], &[], insert(99, 0))]
    #[case::the_second_row(&[0, 1], &[(1, 0)], &[(1, 0, Present)], insert(99, 1))]
    #[case::a_lost_insert_keeps_its_pkid(&[0], &[], &[(7, 0, Planned)], insert(7, 0))]
    #[case::an_insert_that_arrived(&[0], &[(7, 0)], &[(7, 0, Planned)], Step::Nothing)]
    #[case::all_there(&[0], &[(1, 0)], &[(1, 0, Present)], Step::Nothing)]
    #[case::no_longer_wanted(&[], &[(1, 0)], &[(1, 0, Present)], delete(1, 0, "it is not wanted any more"))]
    #[case::a_lost_delete_is_repeated(&[], &[(1, 0)], &[(1, 0, Deleting)], delete(1, 0, "it is not wanted any more"))]
    #[case::a_delete_that_arrived(&[], &[], &[(1, 0, Deleting)], Step::Nothing)]
    #[case::wanted_again_while_deleting(&[0], &[(1, 0)], &[(1, 0, Deleting)], insert(99, 0))]
    #[case::adding_before_removing(&[1], &[(1, 0)], &[(1, 0, Present)], insert(99, 1))]
    #[case::a_duplicate_of_ours(&[0], &[(1, 0), (2, 0)], &[(1, 0, Present), (2, 0, Present)], delete(2, 0, "it is there twice"))]
    #[case::a_planned_row_not_wanted(&[], &[], &[(1, 0, Planned)], delete(1, 0, "it is not wanted any more"))]
    fn the_next_row(
        #[case] desired: &[usize],
        #[case] rows: &[(u128, usize)],
        #[case] recorded: &[(u128, usize, RowState)],
        #[case] expected: Step,
    ) {
        let desired: Vec<_> = desired.iter().map(|slot| id(*slot)).collect();
        let rows: Vec<_> = rows.iter().map(|(number, slot)| row(*number, *slot)).collect();
        let step = next(Input {
            desired: &desired,
            rows: &rows,
            ledger: &ledger(recorded),
            foreign: ForeignComponents::Refuse,
            adopt: false,
            fresh: FRESH,
        });
        assert_eq!(step, expected);
    }

    #[rstest]
    #[case::refused(ForeignComponents::Refuse, false, 5, true)]
    #[case::tolerated(ForeignComponents::Tolerate, false, 5, false)]
    #[case::identical_is_refused_even_when_tolerated(ForeignComponents::Tolerate, false, 0, true)]
    fn foreign_rows(
        #[case] foreign: ForeignComponents,
        #[case] adopt: bool,
        #[case] slot: usize,
        #[case] blocked: bool,
    ) {
        let step = next(Input {
            desired: &[id(0)],
            rows: &[row(3, slot)],
            ledger: &ledger(&[]),
            foreign,
            adopt,
            fresh: FRESH,
        });
        assert_eq!(matches!(step, Step::Blocked(_)), blocked, "{step:?}");
    }

    #[test]
    fn of_many_rows_of_others_some_are_told() {
        let rows: Vec<Row> = (1..=20_000).map(|number| row(number, 5)).collect();
        let step = next(Input {
            desired: &[id(0)],
            rows: &rows,
            ledger: &ledger(&[]),
            foreign: ForeignComponents::Refuse,
            adopt: false,
            fresh: FRESH,
        });
        let Step::Blocked(Blocked::Foreign(told)) = step else {
            panic!("{step:?}");
        };
        assert_eq!(told.len(), MAX_TOLD + 1);
        assert_eq!(told.last().map(String::as_str), Some("19992 more"));
    }

    #[test]
    fn an_identical_row_is_adopted_when_asked_for() {
        let step = next(Input {
            desired: &[id(0)],
            rows: &[row(3, 0)],
            ledger: &ledger(&[]),
            foreign: ForeignComponents::Refuse,
            adopt: true,
            fresh: FRESH,
        });
        assert_eq!(
            step,
            Step::Adopt {
                pkid: pkid(3),
                id: id(0)
            }
        );
    }

    #[test]
    fn rows_of_others_are_never_deleted() {
        for desired in [vec![], vec![id(0)]] {
            let step = next(Input {
                desired: &desired,
                rows: &[row(1, 0), row(3, 4), row(4, 0)],
                ledger: &ledger(&[(1, 0, Present)]),
                foreign: ForeignComponents::Tolerate,
                adopt: false,
                fresh: FRESH,
            });
            assert!(
                !matches!(&step, Step::Delete { pkid: p, .. } if *p != pkid(1)),
                "{step:?}"
            );
        }
    }

    #[test]
    fn a_row_of_ours_with_another_id_stops_everything() {
        let step = next(Input {
            desired: &[id(0)],
            rows: &[row(1, 8)],
            ledger: &ledger(&[(1, 0, Present)]),
            foreign: ForeignComponents::Tolerate,
            adopt: false,
            fresh: FRESH,
        });
        assert!(matches!(step, Step::Blocked(Blocked::Altered(_))), "{step:?}");
    }
}
