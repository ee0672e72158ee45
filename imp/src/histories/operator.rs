//! Processes of the operator: each drives the real [`Machine`], and the world performs its requests. What can go wrong
//! between any two of them does so here.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use xmpp_federation_core::Activation;

use super::mutants::Mutant;
use super::operations::Fault;
use super::world::{DELAY_MS, World, node_of};
use crate::clock::Stamp;
use crate::control_center::{CommandOutcome, ImpFederation, RestartAnswer};
use crate::desired::{Desired, RestartMode};
use crate::ledger::Ledger;
use crate::machine::{Answer, Change, Machine, Next, Recorded, Request};
use crate::observation::Read;
use crate::pkid::Pkid;
use crate::plan::{Action, NextStep, Wait, WaitReason};
use crate::registration::{RowAction, RowChange, RowObstacle};
use crate::restart::WaitKind;
use crate::store::StoreError;
use crate::testing;

/// A process and what it knows.
#[derive(Clone, Default)]
pub struct Process {
    pub number: u64,
    pub started_ms: u64,
    pub skew_ms: i64,
    /// Calls to Control Center that count, over all resources.
    calls: VecDeque<Stamp>,
    /// When they really were.
    pub real_calls: Vec<u64>,
    /// By resource.
    known: [Known; 2],
}

impl Process {
    pub fn new(number: u64, started_ms: u64, skew_ms: i64) -> Self {
        Self {
            number,
            started_ms,
            skew_ms,
            ..Self::default()
        }
    }
}

#[derive(Clone, Default)]
struct Known {
    machine: Machine,
    /// Whether the machine has the ledger as it was loaded or saved last, and the version of that.
    loaded: bool,
    version: Option<u64>,
    /// What a mutant claims to have saved.
    unsaved: Option<Ledger>,
    /// The node whose command was answered, until that is saved.
    told: Option<usize>,
}

pub fn desired(uid: &str, min_interval_ms: u64) -> Desired {
    let mut desired = testing::desired();
    desired.live_owners = ["u", "second"].into();
    desired.owner.name = uid.into();
    desired.owner.uid = uid.into();
    desired.restart.propagation_delay = Duration::from_millis(DELAY_MS);
    desired.restart.min_interval = Duration::from_millis(min_interval_ms);
    desired
}

/// Which operator acts for which resource.
#[derive(Clone, Copy)]
pub struct Actor {
    pub process: usize,
    pub resource: usize,
}

impl World {
    fn known(&mut self, actor: Actor) -> &mut Known {
        &mut self.processes[actor.process].known[actor.resource]
    }

    /// One turn with at most one change, which meets the fault; returns the wait it ends in.
    pub fn reconcile(&mut self, actor: Actor, fault: Fault) -> Option<Wait> {
        self.desired[0].links = self.links_now();
        self.forget_slots();
        let calls = self.processes[actor.process].calls.clone();
        self.known(actor).machine.seen.control_center_calls = calls;
        let number = self.processes[actor.process].number;
        let wait = self.turn(actor, fault);
        let process = &mut self.processes[actor.process];
        if process.number == number {
            let machine = &process.known[actor.resource].machine;
            process.calls = machine.seen.control_center_calls.clone();
        }
        wait
    }

    fn turn(&mut self, actor: Actor, fault: Fault) -> Option<Wait> {
        let desired = self.desired[actor.resource].clone();
        let read = self.edits;
        let mut learned = false;
        self.requests = 0;
        loop {
            let (now, fresh, mutant) = (self.stamp(actor.process), self.pkid(), self.mutant);
            let machine = &mut self.known(actor).machine;
            machine.mutant = mutant;
            let next = machine.poll(now, fresh, &desired);
            if std::mem::take(&mut learned) {
                self.steps += 1;
                self.check_learned(actor, &next);
            }
            let request = match next {
                Next::Do(request) => request,
                Next::Wait(NextStep::Wait(wait)) => return Some(wait),
                Next::Wait(NextStep::Read(_) | NextStep::Act(_)) => return None,
            };
            learned = matches!(request, Request::LoadLedger(_));
            let unsaved = self.known(actor).unsaved.take();
            let answer = match request {
                Request::Prepare { .. } => Answer::Connected(Ok(())),
                Request::LoadLedger(_) => self.load(actor),
                Request::SaveLedger(ledger) => Answer::Saved(self.save(actor, *ledger)),
                Request::Read(read) => self.read(actor.process, &read),
                Request::Confirm(action) => Answer::Confirmed(self.confirm(actor, &action, read, fault)),
                Request::Change(recorded) => self.change(actor, &recorded, fault)?,
            };
            self.requests += 1;
            if fault == Fault::CrashAt(self.requests) {
                self.crash(actor.process);
                return None;
            }
            if let Some(ledger) = unsaved {
                let _ = self.write(actor, &ledger);
            }
            let now = self.stamp(actor.process);
            self.known(actor).machine.answered(now, answer);
        }
    }

    /// Checks the record as it was just brought up to what was seen.
    fn check_learned(&mut self, actor: Actor, next: &Next) {
        let known = &self.processes[actor.process].known[actor.resource];
        // One that leads no more and has an old ledger reports to nobody.
        let current = known.loaded && self.store.is_current(known.version);
        let (Some(before), true) = (known.machine.ledger().cloned(), current) else {
            return;
        };
        let ledger = match next {
            Next::Do(Request::SaveLedger(ledger)) => &**ledger,
            _ => &before,
        };
        if actor.resource == 0 {
            self.check_proof(ledger);
            self.served(ledger);
        }
        if before.federation_was_on && !ledger.federation_was_on {
            self.saw_federation_off();
        }
    }

    fn load(&mut self, actor: Actor) -> Answer {
        let trusting = self.mutant == Some(Mutant::TrustsARestoredLedger);
        let known = &mut self.processes[actor.process].known[actor.resource];
        let newer = (!known.loaded).then(|| {
            let (version, ledger) = self.store.load(trusting);
            (known.loaded, known.version) = (true, version);
            Box::new(ledger)
        });
        Answer::Ledger(Ok(newer), BTreeMap::new())
    }

    fn save(&mut self, actor: Actor, ledger: Ledger) -> Result<(), StoreError> {
        if self.mutant == Some(Mutant::CallsBeforeItRecords) {
            self.known(actor).unsaved = Some(ledger);
            return Ok(());
        }
        let written = self.write(actor, &ledger);
        if let Some(node) = self.known(actor).told.take().filter(|_| written.is_ok()) {
            self.told(node);
        }
        written
    }

    fn write(&mut self, actor: Actor, ledger: &Ledger) -> Result<(), StoreError> {
        let known = &mut self.processes[actor.process].known[actor.resource];
        let written = self.store.save(known.version, ledger);
        (known.loaded, known.version) = (written.is_some(), written);
        written.map(|_| ()).ok_or(StoreError::Conflict)
    }

    /// Whether it may still be done; the spec may change right before that is asked.
    fn confirm(&mut self, actor: Actor, action: &Action, read: u64, fault: Fault) -> Result<(), String> {
        self.acts += 1;
        if actor.resource != 0 {
            self.violate("7", format!("the second resource does {action:?}"));
        }
        if let Fault::Edited(edit) = fault {
            self.edit(edit);
        }
        if self.edits != read && self.mutant != Some(Mutant::DoesNotAsk) {
            return Err("the spec was changed".to_owned());
        }
        match action {
            Action::Row(RowAction {
                change: RowChange::Insert,
                ..
            }) => {
                let first = self
                    .known(actor)
                    .machine
                    .ledger()
                    .is_some_and(|ledger| ledger.rows.is_empty());
                if first {
                    self.first_registration();
                }
            }
            Action::Row(RowAction {
                change: RowChange::Adopt,
                id,
                ..
            }) if self.desired[0].requests.adopt_rows.is_none() => {
                self.violate("4", format!("nobody asked for the adoption of {id}"));
            }
            _ => {}
        }
        Ok(())
    }

    /// A call behind its intent; nothing where the process dies.
    fn change(&mut self, actor: Actor, recorded: &Recorded, fault: Fault) -> Option<Answer> {
        let ledger = self.known(actor).machine.ledger().cloned();
        match &recorded.change {
            Change::Restart { node, .. } => {
                let node = node_of(node);
                self.check_command(actor, node, &recorded.reason);
                if !matches!(fault, Fault::Refused | Fault::NotDone) {
                    self.commanded(node);
                }
            }
            Change::Insert { pkid, .. } => self.check_write(*pkid, true, &ledger?),
            Change::Delete { pkid, .. } => self.check_write(*pkid, false, &ledger?),
        }
        if matches!(fault, Fault::CrashBefore) {
            self.crash(actor.process);
            return None;
        }
        let answer = match &recorded.change {
            Change::Restart { node, .. } => Answer::Commanded(self.command(actor.process, node_of(node), fault)),
            Change::Insert { pkid, id, .. } => self.write_row(fault, false, |world| world.insert(*pkid, id)),
            Change::Delete { pkid, shown, .. } => self.write_row(fault, !shown, |world| world.delete(*pkid)),
        };
        if matches!(fault, Fault::CrashAfter | Fault::CrashArrivesLate(_)) {
            self.crash(actor.process);
            return None;
        }
        if let (Change::Restart { node, .. }, Answer::Commanded(CommandOutcome::Answered(RestartAnswer::Accepted))) =
            (&recorded.change, &answer)
        {
            self.known(actor).told = Some(node_of(node));
        }
        Some(answer)
    }

    /// No more faults: goes on until nothing is left to do, answering what a human is asked for.
    pub fn settle(&mut self) -> WaitReason {
        self.links = true;
        self.hide(false);
        self.desired[0].requests.refresh = Some("settle".into());
        self.federate(ImpFederation::Off);
        let desired = &mut self.desired[0];
        desired.activation = Activation::Active;
        desired.maintenance = false;
        // In a window everything ends in sync too, later.
        if desired.restart.mode == RestartMode::Manual {
            desired.restart.mode = RestartMode::Automatic;
        }
        let actor = Actor {
            process: self.leader,
            resource: 0,
        };
        let mut last = WaitReason::Axl;
        let mut settled_ms: Option<u64> = None;
        for _ in 0..5_000 {
            if self.violation.is_some() {
                return last;
            }
            let Some(wait) = self.reconcile(actor, Fault::None) else {
                continue;
            };
            last = wait.why.clone();
            // What somebody did meanwhile shows when everything was read once more.
            let since = settled_ms.get_or_insert(self.now_ms);
            let polls = 2 * self.desired[0].poll_interval.as_millis() as u64;
            if last != WaitReason::Settled {
                settled_ms = None;
            } else if self.now_ms > *since + polls {
                return last;
            }
            self.wait_or_answer(actor, &wait);
        }
        last
    }

    /// A human deletes what stands in no ledger: rows that an older ledger does not have.
    fn remove_strange_rows(&mut self, actor: Actor) {
        let ours = self.known(actor).machine.ledger();
        let ours = ours.map(|ledger| ledger.rows.clone()).unwrap_or_default();
        let strange: Vec<Pkid> = self
            .rows()
            .map(|row| row.pkid)
            .filter(|pkid| !ours.contains_key(pkid))
            .collect();
        for pkid in strange {
            self.delete(pkid);
        }
        self.known(actor).machine.seen.due.insert(Read::Rows);
    }

    /// A human does what is asked for, or time passes until the next look.
    pub fn wait_or_answer(&mut self, actor: Actor, wait: &Wait) {
        match &wait.why {
            WaitReason::Blocked(RowObstacle::Identical(_)) => {
                self.desired[0].requests.adopt_rows = Some("yes".into());
            }
            WaitReason::Blocked(RowObstacle::Foreign(_)) => self.remove_strange_rows(actor),
            WaitReason::Vanished => self.desired[0].requests.refresh = Some(self.now_ms.to_string()),
            WaitReason::Restart(waiting)
                if matches!(
                    waiting.kind,
                    WaitKind::OutcomeUnknown | WaitKind::Hangs | WaitKind::Refused
                ) =>
            {
                self.token();
            }
            WaitReason::Restart(waiting) if waiting.kind == WaitKind::Unhealthy => {
                self.start_services();
                self.desired[0].requests.refresh = Some(self.now_ms.to_string());
            }
            _ => {
                let now = self.stamp(actor.process);
                let left = wait.until.mono_ms.saturating_sub(now.mono_ms);
                self.pass(left.max(100));
            }
        }
    }
}
