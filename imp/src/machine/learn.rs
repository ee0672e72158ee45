//! The ledger: loaded, brought up to what was seen, saved.

use std::collections::BTreeMap;

use super::{MAX_PLANS, Machine, Next, Request, State, Then, retry};
use crate::clock::Stamp;
use crate::desired::{Desired, Sibling};
use crate::ledger::{Ledger, NodeRecord, transitions};
use crate::observation::Exclusion;
use crate::plan::WaitReason;
use crate::records::ActionRecord;
use crate::store::StoreError;

impl Machine {
    /// Looks at the ledger, which another resource may have written meanwhile.
    pub(super) fn look(&mut self, now: Stamp) -> Option<Next> {
        self.plans += 1;
        if self.plans > MAX_PLANS {
            return Some(Next::Wait(retry(WaitReason::Axl, now)));
        }
        let publisher = self.seen.node_list().iter().find(|node| node.publisher);
        let publisher = publisher.map(|node| node.pkid.to_string());
        // IM&P does not answer: what is known of the cluster is found by the publisher's name.
        let by_name = self.ledger.is_none() && self.seen.axl_failure.is_some();
        if publisher.is_none() && !by_name {
            self.state = State::Learn;
            return None;
        }
        Some(self.ask(State::Loading, Request::LoadLedger(publisher)))
    }

    pub(super) fn loaded(
        &mut self,
        newer: Result<Option<Box<Ledger>>, StoreError>,
        publishers: BTreeMap<String, String>,
    ) -> State {
        self.publishers = publishers;
        match newer {
            Ok(newer) => {
                self.ledger_error = None;
                if let Some(ledger) = newer
                    && self.ledger.replace(*ledger).is_some()
                {
                    self.seen.outdate();
                }
                State::Learn
            }
            Err(error) => {
                self.ledger_error = Some(error);
                State::Plan
            }
        }
    }

    pub(super) fn learn(&mut self, now: Stamp, desired: &Desired) -> Option<Next> {
        self.state = State::Plan;
        let record = self.ledger.as_ref()?;
        self.seen.barred = self.exclusion(record, desired);
        let mut ledger = record.clone();
        if self.seen.barred.is_none() && record.is_of(&desired.owner.uid) {
            self.note_unsent(&mut ledger);
        }
        #[cfg(test)]
        let mutated = self
            .mutant
            .map(|mutant| mutant.before_learning(desired, &mut self.seen));
        #[cfg(test)]
        let desired = mutated.as_ref().unwrap_or(desired);
        let learned = transitions::apply(&mut ledger, desired, &mut self.seen, now);
        #[cfg(test)]
        if let Some(mutant) = self.mutant {
            mutant.after_learning(&mut ledger, record, now);
        }
        if ledger == *record {
            self.events.extend(learned);
            return None;
        }
        Some(self.save(ledger, Then::Plan(learned)))
    }

    /// An intent that was saved without an answer: its command was not sent, so nobody has to look what became of it.
    fn note_unsent(&self, ledger: &mut Ledger) {
        let unsent = |record: &NodeRecord| {
            let restart = record.restart.as_ref();
            restart.is_some_and(|restart| restart.answer.is_none() && self.unsent.contains(&restart.id))
        };
        let nodes = ledger.nodes.iter().filter(|(_, record)| unsent(record));
        for node in nodes.map(|(node, _)| node.clone()).collect::<Vec<_>>() {
            ledger.restart_answered(&node, None);
        }
    }

    pub(super) fn saved(&mut self, ledger: Ledger, then: Then, result: Result<(), StoreError>) -> State {
        let saved = result.is_ok();
        let next = match then {
            Then::Plan(events) => {
                if saved && let Some(before) = &self.ledger {
                    let done = |action: &&ActionRecord| !before.actions.contains(action);
                    self.actions.extend(ledger.actions.iter().filter(done).cloned());
                    self.events.extend(events);
                }
                State::Plan
            }
            Then::Change(unsaved) => {
                self.unsent.extend(unsaved.restart_in(&ledger));
                unsaved.saved(&result).map_or(State::Look, State::Recorded)
            }
            Then::Look(action) => {
                if let Some(action) = action.filter(|_| saved) {
                    self.announce(action);
                }
                State::Look
            }
            Then::End => State::Over,
        };
        match result {
            Ok(()) => {
                // No write before this one can be done any more.
                self.unsent.clear();
                self.ledger = Some(ledger);
            }
            Err(error) => {
                if self.acted {
                    tracing::warn!(%error, "the ledger could not be written");
                }
                self.ledger_error = Some(error);
            }
        }
        next
    }

    /// Why nothing may be done at the publisher of this ledger.
    fn exclusion(&self, record: &Ledger, desired: &Desired) -> Option<Exclusion> {
        let place = &desired.place;
        let only = place.only.as_ref();
        if self.seen.nodes.is_some() && only.is_some_and(|pkid| *pkid != record.publisher) {
            return Some(Exclusion::Elsewhere(record.publisher.clone()));
        }
        let same = |sibling: &&Sibling| match self.publishers.get(&sibling.entry) {
            Some(pkid) => *pkid == record.publisher,
            // Not asked by this process yet; the ledger knows its names.
            None => record.known_as.contains(&sibling.publisher),
        };
        let sibling = place.earlier.iter().find(same)?;
        Some(Exclusion::SameAs(sibling.entry.clone()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::super::Answer;
    use super::super::intent::{Change, Unsaved};
    use super::*;
    use crate::pkid::Pkid;
    use crate::testing::desired;
    use crate::timings::Timings;
    use rstest::rstest;

    const NODE: &str = "cups.ciscotac.net";

    /// The ledger that is read after the save has an intent with that id.
    #[rstest]
    #[case::its_own(7, false)]
    #[case::of_another_process(8, true)]
    fn a_restart_whose_intent_was_saved_without_an_answer_is_known_as_not_sent(
        #[case] found: u128,
        #[case] open: bool,
    ) {
        let now = Stamp {
            wall: jiff::Timestamp::UNIX_EPOCH,
            process: 1,
            mono_ms: 1_000,
        };
        let desired = desired();
        let mut machine = Machine::new(Timings::default());
        let before = Ledger {
            owner: Some(desired.owner.clone()),
            ..Ledger::unknown("055c13d9-943d-459d-a3c6-af1d1176936d")
        };
        machine.ledger = Some(before.clone());
        let intended = |id| {
            let change = Change::Restart {
                node: NODE.to_owned(),
                cause: "rows",
                not_after: now,
            };
            let seen = &Machine::new(Timings::default()).seen;
            Unsaved::new(change, "it is due".to_owned(), now, Pkid::from_u128(id), &before, seen)
        };
        let (ledger, unsaved) = intended(7);
        machine.state = State::Saving(ledger, Then::Change(unsaved));
        let lost = StoreError::Unavailable("no answer".to_owned());
        machine.answered(now, Answer::Saved(Err(lost)));
        let (stored, _) = intended(found);
        machine.state = State::Loading;
        machine.answered(now, Answer::Ledger(Ok(Some(Box::new(stored))), BTreeMap::new()));
        let next = machine.poll(now, Pkid::from_u128(9), &desired);
        let Next::Do(Request::SaveLedger(learned)) = next else {
            panic!("{next:?}")
        };
        let record = learned.nodes.get(NODE).unwrap();
        let traces = [
            record.restart.is_some(),
            record.last_restart.is_some(),
            record.on_its_way.is_some(),
        ];
        assert_eq!(traces, [open; 3]);
        assert_eq!(learned.canary.is_some(), open);
    }
}
