//! What can happen.

use std::time::Duration;

use proptest::prelude::*;
use xmpp_federation_core::Activation;

use super::operator::Actor;
use super::world::{DELAY_MS, RESTART_MS, World};
use crate::control_center::ImpFederation;
use crate::desired::RestartMode;
use crate::pkid::Pkid;
use crate::timings::Timings;
use crate::window::Window;

/// What goes wrong with the next call that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Between the record and the call.
    CrashBefore,
    /// Between the call and the record of its answer.
    CrashAfter,
    ReplyLost,
    NeverArrives,
    /// No answer, and the command arrives after so many milliseconds.
    ArrivesLate(u64),
    /// The same, and the process ends: also a leader that was paused behind its intent, and whose
    /// command goes out when another one leads already.
    CrashArrivesLate(u64),
    Refused,
    NotDone,
    Hangs,
    /// The spec is changed between the decision and the call.
    Edited(Edit),
    /// The process ends when this request of the turn was performed, from one, before it knows the answer.
    CrashAt(usize),
}

impl Fault {
    /// Whether a call meets nothing of it.
    pub fn spares_calls(self) -> bool {
        matches!(self, Self::None | Self::Edited(_) | Self::CrashAt(_))
    }
}

/// What changes in the spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// Nothing that matters.
    Anything,
    Maintenance,
    Prepared,
    Manual,
}

/// Something that happens.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    /// The leader looks, and may act.
    Reconcile(Fault),
    /// One that leads no more does, with what it knew.
    PausedLeader(Fault),
    /// The second resource on the cluster is looked at.
    SecondResource,
    Failover,
    Crash,
    Wait(u64),
    RestartByOthers(usize),
    JumpWall(i64),
    AddSlot,
    LeaveSlotsOpen,
    AskForSlots,
    Rename,
    Activation(Activation),
    Mode(Mode),
    Maintenance(bool),
    Federation(ImpFederation),
    /// Somebody deletes a row of ours.
    RowVanishes,
    /// Somebody else writes a row of their own.
    ForeignRow,
    /// They are gone again.
    NoForeignRows,
    Token,
    Refresh,
    Links(bool),
    StopService(usize),
    StartServices,
    FailOver(usize),
    /// The node list names one node only, or both again.
    HideNode(bool),
    LoseLedger,
    Adopt,
    /// The first time: a backup is made.
    RestoreLedger,
}

/// [`RestartMode`], with one window for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Automatic,
    Window,
    Manual,
}

/// A window opens every so often, for so long; the world counts it in seconds.
pub const WINDOW_EVERY_S: i64 = 7_200;
pub const WINDOW_OPEN_S: i64 = 1_800;

impl From<Mode> for RestartMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Automatic => Self::Automatic,
            Mode::Manual => Self::Manual,
            Mode::Window => {
                let open = Duration::from_secs(WINDOW_OPEN_S as u64);
                Self::Window(Box::new(Window::new("0 */2 * * *", open, None).unwrap()))
            }
        }
    }
}

/// What a history starts from.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Replication lag.
    pub lag_ms: u64,
    pub min_interval_ms: u64,
    /// By how much the second operator's wall clock is ahead.
    pub skew_ms: i64,
}

impl World {
    pub fn apply(&mut self, op: Op) {
        let leader = Actor {
            process: self.leader,
            resource: 0,
        };
        match op {
            Op::Reconcile(fault) => {
                self.reconcile(leader, fault);
            }
            Op::PausedLeader(fault) => {
                let process = 1 - self.leader;
                self.reconcile(Actor { process, resource: 0 }, fault);
            }
            Op::SecondResource => {
                // It came later: where nobody has the cluster it would take it, rightly.
                let taken = self
                    .store
                    .content()
                    .and_then(|ledger| ledger.owner.as_ref())
                    .is_some_and(|owner| owner.uid == self.desired[0].owner.uid);
                if taken {
                    let second = Actor { resource: 1, ..leader };
                    self.reconcile(second, Fault::None);
                }
            }
            Op::Failover => self.leader = 1 - self.leader,
            Op::Crash => self.crash(self.leader),
            Op::Wait(seconds) => self.pass(seconds * 1_000),
            Op::RestartByOthers(node) => self.stop(node, RESTART_MS / 2, false),
            Op::JumpWall(seconds) => self.jump(seconds),
            Op::AddSlot => {
                if self.desired[0].component_ids.len() < 3 {
                    self.add_slot();
                }
            }
            Op::LeaveSlotsOpen => self.leave_slots_open(),
            Op::AskForSlots => self.ask_for_slots(),
            Op::Rename => self.rename(),
            Op::Activation(activation) => self.desired[0].activation = activation,
            Op::Mode(mode) => self.desired[0].restart.mode = mode.into(),
            Op::Maintenance(on) => self.desired[0].maintenance = on,
            Op::Federation(state) => self.federate(state),
            Op::RowVanishes => {
                let first: Option<Pkid> = self.rows().next().map(|row| row.pkid);
                if let Some(pkid) = first {
                    self.delete(pkid);
                }
            }
            Op::ForeignRow => self.insert_foreign(),
            Op::NoForeignRows => self.delete_foreign(),
            Op::Token => self.token(),
            Op::Refresh => self.desired[0].requests.refresh = Some(self.now_ms.to_string()),
            Op::Links(up) => self.links = up,
            Op::StopService(node) => self.stop_service(node),
            Op::StartServices => self.start_services(),
            Op::HideNode(hidden) => self.hide(hidden),
            Op::FailOver(to) => self.fail_over(to),
            Op::LoseLedger => self.lose_ledger(),
            Op::Adopt => self.desired[0].requests.adopt_rows = Some("yes".into()),
            Op::RestoreLedger => self.back_up_or_restore(),
        }
    }
}

pub fn setups() -> impl Strategy<Value = Setup> {
    (
        0..DELAY_MS,
        prop_oneof![Just(0), Just(300_000), Just(1_800_000)],
        -60_000_i64..60_000,
    )
        .prop_map(|(lag_ms, min_interval_ms, skew_ms)| Setup {
            lag_ms,
            min_interval_ms,
            skew_ms,
        })
}

fn late() -> impl Strategy<Value = u64> {
    // A command is never later than its latest arrival; the call's own time is in that.
    let latest_ms = Timings::default().latest_arrival.as_millis() as u64 - 1_000;
    prop_oneof![1_000..60_000_u64, 1_000..latest_ms]
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        14 => Just(Fault::None),
        1 => Just(Fault::CrashBefore),
        1 => Just(Fault::CrashAfter),
        1 => Just(Fault::ReplyLost),
        1 => Just(Fault::NeverArrives),
        1 => late().prop_map(Fault::ArrivesLate),
        1 => late().prop_map(Fault::CrashArrivesLate),
        1 => Just(Fault::Refused),
        1 => Just(Fault::NotDone),
        1 => Just(Fault::Hangs),
        1 => edits().prop_map(Fault::Edited),
        1 => (1_usize..12).prop_map(Fault::CrashAt),
    ]
}

fn edits() -> impl Strategy<Value = Edit> {
    prop_oneof![
        Just(Edit::Anything),
        Just(Edit::Maintenance),
        Just(Edit::Prepared),
        Just(Edit::Manual),
    ]
}

/// Everything but what makes the ledger forget.
pub fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        48 => faults().prop_map(Op::Reconcile),
        24 => (1_u64..60).prop_map(Op::Wait),
        6 => (60_u64..2_000).prop_map(Op::Wait),
        4 => (0_usize..2).prop_map(Op::RestartByOthers),
        3 => Just(Op::Crash),
        2 => faults().prop_map(Op::PausedLeader),
        2 => Just(Op::Failover),
        2 => Just(Op::SecondResource),
        2 => (-20_000_i64..20_000).prop_map(Op::JumpWall),
        4 => Just(Op::AddSlot),
        1 => Just(Op::Rename),
        1 => prop_oneof![1 => Just(Activation::Prepared), 3 => Just(Activation::Active)]
            .prop_map(Op::Activation),
        2 => prop_oneof![1 => Just(Mode::Manual), 2 => Just(Mode::Automatic), 3 => Just(Mode::Window)]
            .prop_map(Op::Mode),
        1 => prop_oneof![1 => Just(true), 3 => Just(false)].prop_map(Op::Maintenance),
        1 => prop_oneof![1 => Just(ImpFederation::On), 2 => Just(ImpFederation::Off)]
            .prop_map(Op::Federation),
        1 => Just(Op::RowVanishes),
        1 => Just(Op::ForeignRow),
        8 => Just(Op::NoForeignRows),
        3 => Just(Op::Token),
        3 => Just(Op::Refresh),
        2 => any::<bool>().prop_map(Op::Links),
        1 => (0_usize..2).prop_map(Op::StopService),
        // What holds everything up does not last: little else would happen.
        8 => Just(Op::StartServices),
        1 => (0_usize..2).prop_map(Op::FailOver),
        4 => prop_oneof![1 => Just(true), 3 => Just(false)].prop_map(Op::HideNode),
    ]
}

/// The same, and ledgers that are lost or restored.
pub fn ops_that_forget() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => ops(),
        1 => Just(Op::LoseLedger),
        2 => Just(Op::Adopt),
        2 => Just(Op::RestoreLedger),
    ]
}

/// The same, and a spec that does not always say how many slots there are.
pub fn ops_that_leave_slots_open() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => ops_that_forget(),
        2 => Just(Op::LeaveSlotsOpen),
        1 => Just(Op::AskForSlots),
    ]
}

/// As [`ops`], and a person who wants to see everything anew all the time.
pub fn ops_that_hurry() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => ops(),
        3 => Just(Op::Refresh),
        3 => (1_u64..4).prop_map(Op::Wait),
        6 => Just(Op::Reconcile(Fault::None)),
    ]
}
