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

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowAction {
    pub pkid: Pkid,
    pub id: ComponentId,
    pub change: RowChange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChange {
    Insert,
    /// Delete it, as it is ours; with the reason, as the end of a sentence.
    Delete(&'static str),
    /// Take it over from somebody else, as asked for: only the ledger changes.
    Adopt,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowObstacle {
    /// Rows of others, as `cp_id (pkid)`.
    Foreign(Vec<String>),
    /// A row with our id that is not ours, as `cp_id (pkid)`.
    Identical(String),
    /// A row with our pkid has another id now: `cp_id (pkid)`.
    Altered(String),
}

#[derive(Debug, Clone, Copy)]
pub struct Comparison<'a> {
    pub desired: &'a [ComponentId],
    pub rows: &'a [Row],
    pub ledger: &'a Ledger,
    /// What other rows mean.
    pub foreign: ForeignComponents,
    /// Whether identical rows may be adopted.
    pub adopt: bool,
    /// A pkid for a new row.
    pub fresh: Pkid,
}

impl Comparison<'_> {
    /// The next thing to do; `None`: the table is as it should be.
    pub fn next(self) -> Result<Option<RowAction>, RowObstacle> {
        if let Some(altered) = self.altered() {
            return Err(RowObstacle::Altered(altered));
        }
        let has = |id: &ComponentId| self.standing(id).any(|pkid| self.shows(pkid));
        let foreign: Vec<&Row> = self
            .rows
            .iter()
            .filter(|row| self.ledger.record_of(row).is_none())
            .collect();
        for id in self.desired.iter().filter(|id| !has(id)) {
            if let Some(same) = foreign.iter().find(|row| row.cp_id == id.as_str()) {
                return match same.pkid.parse() {
                    Ok(pkid) if self.adopt => Ok(Some(RowAction {
                        pkid,
                        id: id.clone(),
                        change: RowChange::Adopt,
                    })),
                    _ => Err(RowObstacle::Identical(same.to_string())),
                };
            }
        }
        if self.foreign == ForeignComponents::Refuse && !self.desired.is_empty() && !foreign.is_empty() {
            // A message tells a few of them; the table may hold thousands.
            let mut told: Vec<String> = foreign.iter().take(MAX_TOLD).map(ToString::to_string).collect();
            if let Some(more) = foreign.len().checked_sub(MAX_TOLD).filter(|more| *more > 0) {
                told.push(format!("{more} more"));
            }
            return Err(RowObstacle::Foreign(told));
        }
        if let Some(id) = self.desired.iter().find(|id| !has(id)) {
            return Ok(Some(RowAction {
                pkid: self.standing(id).next().copied().unwrap_or(self.fresh),
                id: id.clone(),
                change: RowChange::Insert,
            }));
        }
        Ok(self.next_delete())
    }

    /// Our rows with that id that are not being deleted, whether they show or not.
    fn standing(&self, id: &ComponentId) -> impl Iterator<Item = &Pkid> {
        let rows = self.ledger.rows.iter();
        rows.filter(move |(_, record)| record.component_id == *id && record.state != RowState::Deleting)
            .map(|(pkid, _)| pkid)
    }

    fn shows(&self, pkid: &Pkid) -> bool {
        self.rows.iter().any(|row| row.pkid == pkid.to_string())
    }

    /// Our rows that are not wanted, were being deleted, or stand twice.
    fn next_delete(&self) -> Option<RowAction> {
        let wanted: BTreeSet<&ComponentId> = self.desired.iter().collect();
        let mut kept = BTreeSet::new();
        for (pkid, record) in &self.ledger.rows {
            let id = &record.component_id;
            let keep = record.state != RowState::Deleting && wanted.contains(id);
            let shown = self.shows(pkid);
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
                return Some(RowAction {
                    pkid: *pkid,
                    id: id.clone(),
                    change: RowChange::Delete(reason),
                });
            }
        }
        None
    }

    /// A row with a pkid of ours and another id.
    fn altered(&self) -> Option<String> {
        let other = |row: &&Row| {
            let record = self.ledger.record_of(row);
            record.is_some_and(|record| record.component_id.as_str() != row.cp_id)
        };
        self.rows.iter().find(other).map(ToString::to_string)
    }
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

    fn action(number: u128, slot: usize, change: RowChange) -> RowAction {
        RowAction {
            pkid: pkid(number),
            id: id(slot),
            change,
        }
    }

    fn insert(number: u128, slot: usize) -> RowAction {
        action(number, slot, RowChange::Insert)
    }

    fn delete(number: u128, slot: usize, reason: &'static str) -> RowAction {
        action(number, slot, RowChange::Delete(reason))
    }

    use RowState::{Deleting, Planned, Present};

    #[rstest]
    #[case::the_first_row(&[0, 1], &[], &[], Some(insert(99, 0)))]
    #[case::the_second_row(&[0, 1], &[(1, 0)], &[(1, 0, Present)], Some(insert(99, 1)))]
    #[case::a_lost_insert_keeps_its_pkid(&[0], &[], &[(7, 0, Planned)], Some(insert(7, 0)))]
    #[case::an_insert_that_arrived(&[0], &[(7, 0)], &[(7, 0, Planned)], None)]
    #[case::all_there(&[0], &[(1, 0)], &[(1, 0, Present)], None)]
    #[case::no_longer_wanted(&[], &[(1, 0)], &[(1, 0, Present)], Some(delete(1, 0, "it is not wanted any more")))]
    #[case::a_lost_delete_is_repeated(&[], &[(1, 0)], &[(1, 0, Deleting)], Some(delete(1, 0, "it is not wanted any more")))]
    #[case::a_delete_that_arrived(&[], &[], &[(1, 0, Deleting)], None)]
    #[case::wanted_again_while_deleting(&[0], &[(1, 0)], &[(1, 0, Deleting)], Some(insert(99, 0)))]
    #[case::adding_before_removing(&[1], &[(1, 0)], &[(1, 0, Present)], Some(insert(99, 1)))]
    #[case::a_duplicate_of_ours(&[0], &[(1, 0), (2, 0)], &[(1, 0, Present), (2, 0, Present)], Some(delete(2, 0, "it is there twice")))]
    #[case::a_planned_row_not_wanted(&[], &[], &[(1, 0, Planned)], Some(delete(1, 0, "it is not wanted any more")))]
    fn the_next_row(
        #[case] desired: &[usize],
        #[case] rows: &[(u128, usize)],
        #[case] recorded: &[(u128, usize, RowState)],
        #[case] expected: Option<RowAction>,
    ) {
        let desired: Vec<_> = desired.iter().map(|slot| id(*slot)).collect();
        let rows: Vec<_> = rows.iter().map(|(number, slot)| row(*number, *slot)).collect();
        let step = Comparison {
            desired: &desired,
            rows: &rows,
            ledger: &ledger(recorded),
            foreign: ForeignComponents::Refuse,
            adopt: false,
            fresh: FRESH,
        }
        .next();
        assert_eq!(step, Ok(expected));
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
        let step = Comparison {
            desired: &[id(0)],
            rows: &[row(3, slot)],
            ledger: &ledger(&[]),
            foreign,
            adopt,
            fresh: FRESH,
        }
        .next();
        assert_eq!(step.is_err(), blocked, "{step:?}");
    }

    #[test]
    fn of_many_rows_of_others_some_are_told() {
        let rows: Vec<Row> = (1..=20_000).map(|number| row(number, 5)).collect();
        let step = Comparison {
            desired: &[id(0)],
            rows: &rows,
            ledger: &ledger(&[]),
            foreign: ForeignComponents::Refuse,
            adopt: false,
            fresh: FRESH,
        }
        .next();
        let Err(RowObstacle::Foreign(told)) = step else {
            panic!("{step:?}");
        };
        assert_eq!(told.len(), MAX_TOLD + 1);
        assert_eq!(told.last().map(String::as_str), Some("19992 more"));
    }

    #[test]
    fn an_identical_row_is_adopted_when_asked_for() {
        let step = Comparison {
            desired: &[id(0)],
            rows: &[row(3, 0)],
            ledger: &ledger(&[]),
            foreign: ForeignComponents::Refuse,
            adopt: true,
            fresh: FRESH,
        }
        .next();
        assert_eq!(step, Ok(Some(action(3, 0, RowChange::Adopt))));
    }

    #[test]
    fn rows_of_others_are_never_deleted() {
        for desired in [vec![], vec![id(0)]] {
            let step = Comparison {
                desired: &desired,
                rows: &[row(1, 0), row(3, 4), row(4, 0)],
                ledger: &ledger(&[(1, 0, Present)]),
                foreign: ForeignComponents::Tolerate,
                adopt: false,
                fresh: FRESH,
            }
            .next();
            assert!(
                !matches!(&step, Ok(Some(RowAction { pkid: p, change: RowChange::Delete(_), .. })) if *p != pkid(1)),
                "{step:?}"
            );
        }
    }

    #[test]
    fn a_row_of_ours_with_another_id_stops_everything() {
        let step = Comparison {
            desired: &[id(0)],
            rows: &[row(1, 8)],
            ledger: &ledger(&[(1, 0, Present)]),
            foreign: ForeignComponents::Tolerate,
            adopt: false,
            fresh: FRESH,
        }
        .next();
        assert!(matches!(step, Err(RowObstacle::Altered(_))), "{step:?}");
    }
}
