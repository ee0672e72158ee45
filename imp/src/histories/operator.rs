//! Processes of the operator: the real plan, ledger and transitions, with the world's answers in
//! place of calls. What [`crate::cluster`] does around them is done here in the same order.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use xmpp_federation_core::Activation;

use super::mutants::Mutant;
use super::operations::Fault;
use super::world::{DELAY_MS, NAMES, RESTART_MS, World};
use crate::axl::{Node, Row, Table};
use crate::clock::Stamp;
use crate::control_center::{ImpFederation, RestartAnswer};
use crate::desired::{Desired, RestartMode};
use crate::effects::{Action, NextStep, PlanInput, Wait, WaitReason};
use crate::error::{CallError, CallErrorKind, Interface};
use crate::ledger::{Ledger, transitions};
use crate::observation::{Failure, Observation, Read, Reading};
use crate::pkid::Pkid;
use crate::registration::{RowAction, RowChange, RowObstacle};
use crate::restart::WaitKind;
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
    seen: Observation,
    file: Option<(Option<u64>, Ledger)>,
    /// The ledger could not be written.
    broken: bool,
    refreshed: Option<String>,
}

pub fn desired(uid: &str, min_interval_ms: u64) -> Desired {
    let mut desired = testing::desired();
    desired.live_owners = Arc::new(BTreeSet::from(["u".into(), "second".into()]));
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

    /// One reconcile with at most one act, which meets the fault; returns the wait it ends in.
    pub fn reconcile(&mut self, actor: Actor, fault: Fault) -> Option<Wait> {
        self.desired[0].links = self.links_now();
        let calls = self.processes[actor.process].calls.clone();
        let refresh = self.desired[actor.resource].requests.refresh.clone();
        let known = self.known(actor);
        known.seen.control_center_calls = calls;
        if known.refreshed != refresh {
            known.refreshed = refresh;
            known.seen.refresh();
        }
        let number = self.processes[actor.process].number;
        let wait = self.walk(actor, fault);
        let process = &mut self.processes[actor.process];
        if process.number == number {
            process.calls = process.known[actor.resource].seen.control_center_calls.clone();
        }
        wait
    }

    fn walk(&mut self, actor: Actor, fault: Fault) -> Option<Wait> {
        let mut acted = false;
        for _ in 0..24 {
            self.steps += 1;
            self.update_ledger(actor);
            self.pkids += 1;
            let step = self.plan(actor);
            match step {
                NextStep::Read(_) | NextStep::Act(_) if acted => return None,
                NextStep::Read(read) => self.read(actor, &read),
                NextStep::Act(act) => {
                    acted = true;
                    if !self.act(actor, act, fault) {
                        return None;
                    }
                }
                NextStep::Wait(wait) => return Some(wait),
            }
        }
        None
    }

    fn plan(&self, actor: Actor) -> NextStep {
        let known = &self.processes[actor.process].known[actor.resource];
        let ledger = known
            .file
            .as_ref()
            .filter(|_| !known.broken && known.seen.nodes.is_some())
            .map(|(_, ledger)| ledger);
        let input = PlanInput {
            desired: &self.desired[actor.resource],
            seen: &known.seen,
            ledger,
            now: self.stamp(actor.process),
            fresh: Pkid::from_u128(1_000 + self.pkids),
        };
        match self.mutant {
            Some(mutant) => mutant.plan(input),
            None => input.plan(),
        }
    }

    fn update_ledger(&mut self, actor: Actor) {
        let now = self.stamp(actor.process);
        let mutant = self.mutant;
        let known = &mut self.processes[actor.process].known[actor.resource];
        if known.seen.nodes.is_none() {
            return;
        }
        if known.file.is_none() || known.broken {
            let stored = self.store.load(mutant == Some(Mutant::TrustsARestoredLedger));
            if known.file.replace(stored).is_some() {
                known.seen.outdate();
            }
            known.broken = false;
        }
        let Some((expected, before)) = known.file.take() else {
            return;
        };
        let desired = &self.desired[actor.resource];
        let mut ledger = before.clone();
        match mutant {
            None => {
                transitions::apply(&mut ledger, desired, &mut known.seen, now);
            }
            Some(mutant) => {
                let mut desired = desired.clone();
                mutant.before_learning(&mut desired, &mut known.seen);
                transitions::apply(&mut ledger, &desired, &mut known.seen, now);
                mutant.after_learning(&mut ledger, &before, now);
            }
        }
        // One that leads no more and has an old ledger reports to nobody.
        let current = self.store.is_current(expected);
        if actor.resource == 0 && current {
            self.check_proof(&ledger);
            self.served(&ledger);
        }
        let changed = ledger != before;
        if changed && current && before.federation_was_on && !ledger.federation_was_on {
            self.saw_federation_off();
        }
        self.known(actor).file = Some((expected, before));
        if changed {
            self.save(actor, expected, ledger);
        }
    }

    /// Whether it was written.
    fn save(&mut self, actor: Actor, expected: Option<u64>, ledger: Ledger) -> bool {
        let written = self.store.save(expected, &ledger);
        let known = self.known(actor);
        match written {
            Some(version) => known.file = Some((Some(version), ledger)),
            None => known.broken = true,
        }
        written.is_some()
    }

    fn record(&mut self, actor: Actor, change: impl FnOnce(&mut Ledger)) -> bool {
        let Some((expected, mut ledger)) = self.known(actor).file.clone() else {
            return false;
        };
        change(&mut ledger);
        self.save(actor, expected, ledger)
    }

    fn read(&mut self, actor: Actor, read: &Read) {
        let asked = self.stamp(actor.process);
        self.pass(10);
        let answered = self.stamp(actor.process);
        match read {
            Read::Nodes => {
                let value = NAMES
                    .iter()
                    .zip([0_u128, 1])
                    .filter(|(_, number)| self.lists(*number as usize))
                    .map(|(name, number)| Node {
                        pkid: Pkid::from_u128(number),
                        name: (*name).to_owned(),
                        publisher: number == 0,
                    })
                    .collect();
                self.known(actor).seen.nodes = Some(Reading { value, asked, answered });
            }
            Read::Table => self.known(actor).seen.table = Some(Table::Xmpps2snodes),
            Read::Federation => unreachable!("no check is wanted"),
            Read::Rows => {
                let value = self
                    .rows()
                    .map(|row| Row {
                        pkid: row.pkid.to_string(),
                        cp_id: row.id.to_string(),
                    })
                    .collect();
                let known = self.known(actor);
                let ours = known
                    .file
                    .as_ref()
                    .map(|(_, ledger)| ledger.rows.clone())
                    .unwrap_or_default();
                known.seen.saw_rows(Reading { value, asked, answered }, &ours);
            }
            Read::Redundancy => {
                let shown = self.redundancy();
                let seen = &mut self.known(actor).seen;
                seen.redundancy_unreadable = shown.is_none();
                seen.redundancy = shown.map(|value| Reading { value, asked, answered });
            }
            Read::Services(name) => {
                let node = NAMES.iter().position(|known| known == name).unwrap();
                let value = self.services(node);
                self.called_control_center(actor.process);
                let known = self.known(actor);
                known.seen.called_control_center(asked);
                known
                    .seen
                    .services
                    .insert(name.clone(), Reading { value, asked, answered });
            }
        }
        let seen = &mut self.known(actor).seen;
        seen.due.remove(read);
        if !matches!(read, Read::Services(_)) {
            seen.axl_failure = None;
        }
    }

    fn axl_failed(&mut self, actor: Actor) {
        let retry_at = self.stamp(actor.process).plus(Duration::from_secs(5));
        let seen = &mut self.known(actor).seen;
        seen.due.insert(Read::Rows);
        seen.axl_failure = Some(Failure {
            error: CallError {
                interface: Interface::Axl,
                server: String::new(),
                secret: String::new(),
                kind: CallErrorKind::Timeout,
            },
            count: 1,
            retry_at,
        });
    }

    /// Whether the process lives on.
    fn act(&mut self, actor: Actor, act: Action, fault: Fault) -> bool {
        self.acts += 1;
        if actor.resource != 0 {
            self.violate("7", format!("the second resource does {act:?}"));
        }
        let RowAction { pkid, id, change } = match act {
            Action::Row(row) => row,
            Action::Restart { node, reason } => return self.restart(actor, &node, &reason, fault),
        };
        match change {
            RowChange::Insert => {
                let record = self.known(actor).file.as_ref().map(|(_, ledger)| ledger);
                if record.is_some_and(|ledger| ledger.rows.is_empty()) {
                    self.first_registration();
                }
                let record = self.known(actor).file.as_ref().map(|(_, ledger)| ledger.clone());
                if let Some(ledger) = record {
                    self.check_insert(&ledger);
                }
                if !self.record(actor, |ledger| ledger.intend_insert(pkid, &id)) {
                    return true;
                }
                self.write(
                    actor,
                    fault,
                    |world| world.insert(pkid, &id),
                    |rows| {
                        rows.push(Row {
                            pkid: pkid.to_string(),
                            cp_id: id.to_string(),
                        });
                    },
                )
            }
            RowChange::Delete(_) => {
                let ours = self
                    .known(actor)
                    .file
                    .as_ref()
                    .is_some_and(|(_, ledger)| ledger.rows.contains_key(&pkid));
                if !ours {
                    self.violate("4", format!("the row of {id} is not ours"));
                }
                self.check_delete(pkid);
                if !self.record(actor, |ledger| ledger.intend_delete(pkid)) {
                    return true;
                }
                self.write(
                    actor,
                    fault,
                    |world| world.delete(pkid),
                    |rows| {
                        rows.retain(|row| row.pkid != pkid.to_string());
                    },
                )
            }
            RowChange::Adopt => {
                if self.desired[0].requests.adopt_rows.is_none() {
                    self.violate("4", format!("nobody asked for the adoption of {id}"));
                }
                if self.record(actor, |ledger| ledger.adopt(pkid, &id)) {
                    self.known(actor).seen.due.insert(Read::Rows);
                }
                true
            }
        }
    }

    /// A call that writes a row, behind its intent.
    fn write(
        &mut self,
        actor: Actor,
        fault: Fault,
        effect: impl FnOnce(&mut Self),
        expect: impl FnOnce(&mut Vec<Row>),
    ) -> bool {
        if matches!(fault, Fault::CrashBefore) {
            self.crash(actor.process);
            return false;
        }
        self.pass(10);
        if !matches!(fault, Fault::NeverArrives | Fault::NotDone | Fault::Refused) {
            effect(self);
        }
        match fault {
            Fault::CrashAfter | Fault::CrashArrivesLate(_) => {
                self.crash(actor.process);
                return false;
            }
            Fault::None | Fault::Hangs => {
                let seen = &mut self.known(actor).seen;
                if let Some(rows) = &mut seen.rows {
                    expect(&mut rows.value);
                }
                seen.unverified = true;
            }
            _ => self.axl_failed(actor),
        }
        true
    }

    fn restart(&mut self, actor: Actor, name: &str, reason: &str, fault: Fault) -> bool {
        let node = NAMES.iter().position(|known| *known == name).unwrap();
        let planned = self.stamp(actor.process);
        let seen = self.known(actor).seen.clone();
        let intent = |ledger: &mut Ledger| {
            ledger.intend_restart(name, reason, "r".into(), planned, &seen);
        };
        let unwritten = self.mutant == Some(Mutant::CallsBeforeItRecords);
        if !unwritten && !self.record(actor, intent) {
            return true;
        }
        self.check_command(actor, node, reason);
        let carried_out = !matches!(fault, Fault::Refused | Fault::NotDone);
        if carried_out {
            self.commanded(node);
        }
        if matches!(fault, Fault::CrashBefore) {
            self.crash(actor.process);
            return false;
        }
        let now = self.stamp(actor.process);
        self.known(actor).seen.called_control_center(now);
        self.called_control_center(actor.process);
        self.pass(10);
        match fault {
            Fault::ArrivesLate(ms) | Fault::CrashArrivesLate(ms) => self.arrives_later(node, ms),
            Fault::Hangs => self.stop(node, 3_600_000, true),
            Fault::NeverArrives | Fault::Refused | Fault::NotDone => {}
            _ => self.stop(node, RESTART_MS, true),
        }
        let answer = match fault {
            Fault::CrashAfter | Fault::CrashArrivesLate(_) => {
                self.crash(actor.process);
                return false;
            }
            Fault::None | Fault::Hangs => Some(RestartAnswer::Accepted),
            Fault::Refused => Some(RestartAnswer::Refused("-1045".into())),
            Fault::NotDone => {
                let later = self.stamp(actor.process).plus(Duration::from_secs(30));
                self.known(actor)
                    .seen
                    .restart_not_before
                    .insert(name.to_owned(), (later, "busy".into()));
                None
            }
            _ => Some(RestartAnswer::Ambiguous("no answer".into())),
        };
        let answer = match self.mutant {
            Some(mutant) => mutant.answer(answer),
            None => answer,
        };
        let told = matches!(fault, Fault::None | Fault::Hangs);
        let recorded = self.record(actor, |ledger| {
            if unwritten {
                intent(ledger);
            }
            ledger.restart_answered(name, answer);
        });
        if told && recorded {
            self.told(node);
        }
        true
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
        let ours = self
            .known(actor)
            .file
            .as_ref()
            .map(|(_, ledger)| ledger.rows.clone())
            .unwrap_or_default();
        let strange: Vec<Pkid> = self
            .rows()
            .map(|row| row.pkid)
            .filter(|pkid| !ours.contains_key(pkid))
            .collect();
        for pkid in strange {
            self.delete(pkid);
        }
        self.known(actor).seen.due.insert(Read::Rows);
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
