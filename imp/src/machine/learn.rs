//! The ledger: loaded, brought up to what was seen, saved.

use std::collections::BTreeMap;

use super::{MAX_PLANS, Machine, Next, Request, State, Then, retry};
use crate::clock::Stamp;
use crate::desired::{Desired, Sibling};
use crate::ledger::{Ledger, transitions};
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
            Then::Change(unsaved) => unsaved.saved(&result).map_or(State::Look, State::Recorded),
            Then::Look(action) => {
                if let Some(action) = action.filter(|_| saved) {
                    self.announce(action);
                }
                State::Look
            }
            Then::End => State::Over,
        };
        match result {
            Ok(()) => self.ledger = Some(ledger),
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
