//! Operators that are broken in one way each: if the histories do not catch one, they prove less
//! than they claim.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use rstest::rstest;
use xmpp_federation_core::ForeignComponents;

use super::operations::{Op, ops, ops_that_forget, ops_that_hurry, ops_that_leave_slots_open, setups};
use super::properties::{config, run};
use crate::clock::Stamp;
use crate::control_center::ServiceState;
use crate::desired::{Desired, RestartMode};
use crate::ledger::{Ledger, NodeRecord};
use crate::observation::Observation;
use crate::plan::{NextStep, PlanInput};
use crate::timings::Timings;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Does not ask whether the spec has changed.
    DoesNotAsk,
    /// Sends the command, then writes the intent.
    CallsBeforeItRecords,
    /// Takes no answer for "not carried out".
    TakesSilenceForNo,
    /// Takes a command without an answer as over once a router started.
    ForgetsWhatIsOnItsWay,
    /// Thinks that a command arrives within a minute or never.
    WaitsTooShort,
    /// Believes the wall clock of another process about what is on its way.
    BelievesWallClocks,
    /// Thinks that a human's request is about all nodes.
    TakesARequestForAll,
    /// Does not ask whether the others are running.
    DoesNotLook,
    /// Uses what it saw long ago.
    UsesOldLooks,
    /// Looks at routers alone.
    ForgetsTheServices,
    ForgetsToSettle,
    ForgetsTheRedundancyGroup,
    /// Believes the first node list without a node.
    BelievesOneNodeList,
    ForgetsMinInterval,
    ForgetsThePropagationDelay,
    ForgetsTheCanary,
    ForgetsServedRequests,
    ForgetsMaintenance,
    ForgetsTheMode,
    ForgetsTheWindow,
    /// Goes on with a round that began inside.
    ForgetsThatTheWindowCloses,
    ClaimsWhatItCommanded,
    TrustsARestoredLedger,
    /// Takes what routers had read before a restore for true without a look at the rows.
    RecallsWithoutALook,
    AdoptsUnasked,
    ToleratesUnasked,
    FightsAnotherWriter,
    ForgetsWhoHasTheCluster,
    ForgetsTheBudget,
    RaisesSlots,
}

impl Mutant {
    pub fn plan(self, input: PlanInput<'_>) -> NextStep {
        let mut desired = input.desired.clone();
        let mut seen = input.seen.clone();
        let mut ledger = input.ledger.cloned();
        let now = input.now;
        if let Some(ledger) = &mut ledger {
            match self {
                Self::ForgetsWhatIsOnItsWay => {
                    for record in ledger.nodes.values_mut() {
                        record.on_its_way = None;
                    }
                }
                Self::TakesARequestForAll => {
                    for (name, record) in &mut ledger.nodes {
                        if ledger.rounds.iter().any(|round| round.pending.contains(name)) {
                            record.on_its_way = None;
                        }
                    }
                }
                Self::ForgetsMinInterval => {
                    desired.restart.min_interval = std::time::Duration::ZERO;
                }
                Self::FightsAnotherWriter => ledger.vanished = 0,
                Self::ForgetsTheCanary => ledger.canary_passed = true,
                Self::ForgetsWhoHasTheCluster => ledger.owner = Some(desired.owner.clone()),
                _ => {}
            }
        }
        match self {
            Self::DoesNotLook => {
                for services in seen.services.values_mut() {
                    services.value.router = ServiceState::Started;
                    services.value.up_time.get_or_insert(1);
                    services.value.down.clear();
                    services.value.youngest = services.value.up_time;
                }
            }
            Self::ForgetsTheServices => {
                for services in seen.services.values_mut() {
                    services.value.down.clear();
                }
            }
            Self::ForgetsToSettle => seen.timings.settle = std::time::Duration::ZERO,
            Self::ForgetsTheRedundancyGroup => {
                seen.redundancy = None;
                seen.redundancy_unreadable = true;
            }
            Self::UsesOldLooks => seen.timings.fresh = std::time::Duration::from_mins(10),
            Self::ForgetsMaintenance => desired.maintenance = false,
            Self::ForgetsTheMode if desired.restart.mode == RestartMode::Manual => {
                desired.restart.mode = RestartMode::Automatic;
            }
            Self::ForgetsTheWindow if desired.restart.mode != RestartMode::Manual => {
                desired.restart.mode = RestartMode::Automatic;
            }
            Self::ForgetsThatTheWindowCloses if desired.restart.mode != RestartMode::Manual => {
                let begun = |record: &NodeRecord| record.last_restart.is_some();
                if ledger.as_ref().is_some_and(|ledger| ledger.nodes.values().any(begun)) {
                    desired.restart.mode = RestartMode::Automatic;
                }
            }
            Self::ToleratesUnasked => desired.foreign_components = ForeignComponents::Tolerate,
            Self::AdoptsUnasked => desired.requests.adopt_rows = Some("x".into()),
            Self::ForgetsTheBudget => seen.control_center_calls.clear(),
            _ => {}
        }
        PlanInput {
            desired: &desired,
            seen: &seen,
            ledger: ledger.as_ref(),
            now,
            fresh: input.fresh,
        }
        .plan()
    }

    pub fn before_learning(self, desired: &Desired, seen: &mut Observation) -> Desired {
        let mut desired = desired.clone();
        if self == Self::WaitsTooShort {
            seen.timings.latest_arrival = std::time::Duration::from_mins(1);
        }
        if self == Self::BelievesOneNodeList {
            let missing: Vec<_> = seen.missing_nodes.keys().copied().collect();
            if let Some(nodes) = &mut seen.nodes {
                nodes.value.retain(|node| !missing.contains(&node.pkid));
            }
            seen.timings.confirm_missing = std::time::Duration::ZERO;
        }
        if self == Self::ForgetsThePropagationDelay {
            desired.restart.propagation_delay = std::time::Duration::ZERO;
        }
        desired
    }

    pub fn after_learning(self, ledger: &mut Ledger, before: &Ledger, now: Stamp) {
        match self {
            Self::BelievesWallClocks => {
                let latest = Timings::default().latest_arrival;
                for (name, record) in &mut ledger.nodes {
                    let over = |since: Stamp| since.process != now.process && now.since(&since).reached(latest);
                    if before.on_its_way(name).is_some_and(over) {
                        record.on_its_way = None;
                    }
                }
            }
            Self::RecallsWithoutALook => {
                for (name, record) in &mut ledger.nodes {
                    let before = before.nodes.get(name).map(|before| before.loaded_before.clone());
                    record.loaded.extend(before.unwrap_or_default());
                }
            }
            Self::RaisesSlots => ledger.slots = Some(u16::MAX),
            Self::ForgetsServedRequests => ledger.handled_restart_token = None,
            Self::ClaimsWhatItCommanded => {
                for record in ledger.nodes.values_mut() {
                    if let Some(restart) = &record.restart {
                        record.loaded.extend(restart.ids.clone());
                    }
                }
            }
            _ => {}
        }
    }
}

/// Whether some history makes it break that rule.
fn caught(mutant: Mutant, rule: &str, ops: BoxedStrategy<Op>) -> bool {
    const HISTORIES: u32 = 4_000;
    let mut runner = TestRunner::new(config(HISTORIES));
    let histories = (setups(), prop::collection::vec(ops, 1..160));
    (0..HISTORIES).any(|_| {
        let (setup, history) = histories.new_tree(&mut runner).unwrap().current();
        let world = run(setup, &history, Some(mutant));
        world.violation.is_some_and(|how| how.starts_with(rule))
    })
}

#[rstest]
#[case(Mutant::DoesNotAsk, "2(d)", false)]
#[case(Mutant::CallsBeforeItRecords, "2(b)", false)]
#[case(Mutant::TakesSilenceForNo, "2(b)", false)]
#[case(Mutant::ForgetsWhatIsOnItsWay, "2(c)", false)]
#[case(Mutant::WaitsTooShort, "2(c)", false)]
#[case(Mutant::BelievesWallClocks, "2(c)", false)]
#[case(Mutant::TakesARequestForAll, "2(c)", false)]
#[case(Mutant::DoesNotLook, "2(c)", false)]
#[case(Mutant::UsesOldLooks, "2(c)", false)]
#[case(Mutant::ForgetsTheServices, "2(c)", false)]
#[case(Mutant::ForgetsToSettle, "2(c)", false)]
#[case(Mutant::ForgetsTheRedundancyGroup, "2(c)", false)]
#[case(Mutant::BelievesOneNodeList, "2(c)", false)]
#[case(Mutant::ForgetsMinInterval, "2(e)", false)]
#[case(Mutant::ForgetsThePropagationDelay, "2(f)", false)]
#[case(Mutant::ForgetsTheCanary, "2(g)", false)]
#[case(Mutant::ForgetsServedRequests, "2(a)", false)]
#[case(Mutant::ForgetsMaintenance, "2(d)", false)]
#[case(Mutant::ForgetsTheMode, "2(d)", false)]
#[case(Mutant::ForgetsTheWindow, "2(d)", false)]
#[case(Mutant::ForgetsThatTheWindowCloses, "2(d)", false)]
#[case(Mutant::ClaimsWhatItCommanded, "3", false)]
#[case(Mutant::TrustsARestoredLedger, "3", true)]
#[case(Mutant::RecallsWithoutALook, "3", true)]
#[case(Mutant::AdoptsUnasked, "4", true)]
#[case(Mutant::ToleratesUnasked, "4", false)]
#[case(Mutant::FightsAnotherWriter, "4", false)]
#[case(Mutant::ForgetsWhoHasTheCluster, "7", false)]
fn a_broken_operator_is_caught(#[case] mutant: Mutant, #[case] rule: &str, #[case] forgetting: bool) {
    let ops = if forgetting {
        ops_that_forget().boxed()
    } else {
        ops().boxed()
    };
    assert!(caught(mutant, rule, ops), "{mutant:?} keeps {rule}");
}

/// Only a person who asks again and again comes near the limit.
#[test]
fn an_operator_that_forgets_the_budget_is_caught_when_it_is_hurried() {
    let ops = ops_that_hurry().boxed();
    assert!(caught(Mutant::ForgetsTheBudget, "rate", ops));
}

#[test]
fn an_operator_that_raises_slots_by_itself_is_caught_where_the_spec_leaves_them_open() {
    let ops = ops_that_leave_slots_open().boxed();
    assert!(caught(Mutant::RaisesSlots, "slots", ops));
}
