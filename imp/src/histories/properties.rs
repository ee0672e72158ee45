//! Random histories keep the rules and end in sync.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestError, TestRunner};

use super::mutants::Mutant;
use super::operations::{Fault, Op, Setup, ops, ops_that_forget, ops_that_leave_slots_open, setups};
use super::operator::Actor;
use super::world::{NAMES, World};
use crate::plan::WaitReason;

/// Histories per property; `PROPTEST_CASES=N` walks others.
const CASES: u32 = 350;
/// Plans that such a run makes at least.
const STEPS: u64 = 100_000;

/// The seed of the histories: the same ones in every run, because one that fails should be news
/// for who looks for it, not for a bystander's change. `PROPTEST_RNG_SEED=N` walks other ones.
pub fn seed() -> u64 {
    let chosen = std::env::var("PROPTEST_RNG_SEED");
    chosen.ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn cases() -> u32 {
    let chosen = std::env::var("PROPTEST_CASES");
    let chosen = chosen.ok().and_then(|text| text.parse().ok());
    chosen.unwrap_or(CASES)
}

pub fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed()),
        max_shrink_iters: 4_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

pub fn run(setup: Setup, history: &[Op], mutant: Option<Mutant>) -> World {
    let mut world = World::new(setup);
    world.mutant = mutant;
    for op in history {
        world.apply(*op);
        if world.violation.is_some() {
            break;
        }
    }
    world
}

/// Runs a property over random histories, counts, and shows the shortest history that breaks it.
fn check(ops: impl Strategy<Value = Op>, property: impl Fn(World) -> Result<World, TestCaseError>) {
    let steps = Cell::new(0_u64);
    let histories = (setups(), prop::collection::vec(ops, 1..160));
    let result = TestRunner::new(config(cases())).run(&histories, |(setup, history)| {
        let world = property(run(setup, &history, None))?;
        steps.set(steps.get() + world.steps);
        Ok(())
    });
    let (seed, cases, steps) = (seed(), cases(), steps.get());
    println!("seed {seed}, {cases} histories, {steps} plans");
    match result {
        Ok(()) => assert!(steps >= STEPS || cases < CASES, "only {steps} plans"),
        Err(TestError::Fail(why, (setup, history))) => {
            panic!("seed {seed}: {why}\n{setup:?}\n{history:#?}")
        }
        Err(TestError::Abort(why)) => panic!("seed {seed}: aborted: {why}"),
    }
}

fn settled(mut world: World) -> Result<World, TestCaseError> {
    let end = world.settle();
    if let Some(violation) = &world.violation {
        return Err(TestCaseError::fail(format!("rule {violation}")));
    }
    prop_assert_eq!(&end, &WaitReason::Settled);
    let wanted = world.wanted();
    for id in &wanted {
        prop_assert!(world.stands(id).is_some(), "{} has no row", id);
    }
    prop_assert_eq!(world.rows().count(), wanted.len());
    Ok(world)
}

#[test]
fn every_history_keeps_the_rules_and_ends_in_sync() {
    check(ops(), |world| {
        let world = settled(world)?;
        let ledger = world.store.content().unwrap();
        for (node, name) in NAMES.iter().enumerate() {
            for id in &world.desired[0].component_ids {
                prop_assert!(ledger.has_loaded(name, id), "{} is not known to know {}", name, id);
                prop_assert!(world.routers[node].loaded.contains(id));
            }
        }
        Ok(world)
    });
}

#[test]
fn lost_and_restored_ledgers_keep_the_rules_too() {
    check(ops_that_forget(), settled);
}

/// The cluster of Kubernetes is lost, and the resource and the ledger are restored into another one.
#[test]
fn a_restored_ledger_brings_the_resource_into_sync_without_a_change_where_its_rows_still_stand() {
    let mut world = World::new(Setup {
        lag_ms: 0,
        min_interval_ms: 0,
        skew_ms: 0,
    });
    assert_eq!(world.settle(), WaitReason::Settled);
    world.apply(Op::RestoreLedger);
    let (acts, rows) = (world.acts, world.table.len());
    assert!(acts > 0);
    world.apply(Op::LoseLedger);
    world.apply(Op::Crash);
    world.apply(Op::RestoreLedger);
    world.desired[0].owner.uid = "restored".to_owned();
    world.desired[0].live_owners = ["restored", "second"].into();
    assert_eq!(world.settle(), WaitReason::Settled);
    assert_eq!(
        (world.violation.clone(), world.acts, world.table.len()),
        (None, acts, rows)
    );
    let ledger = world.store.content().unwrap();
    assert!(ledger.is_of("restored"));
    for id in &world.wanted() {
        assert!(NAMES.iter().all(|name| ledger.has_loaded(name, id)), "{id}");
    }
}

#[test]
fn slots_rise_only_where_the_spec_asks_for_more() {
    check(ops_that_leave_slots_open(), settled);
}

#[test]
fn in_order_it_sleeps_from_poll_to_poll() {
    let mut world = World::new(Setup {
        lag_ms: 0,
        min_interval_ms: 0,
        skew_ms: 0,
    });
    assert_eq!(world.settle(), WaitReason::Settled);
    let leader = Actor {
        process: world.leader,
        resource: 0,
    };
    let (from_ms, mut reconciles) = (world.now_ms, 0);
    while world.now_ms < from_ms + 3 * 3_600_000 {
        if let Some(wait) = world.reconcile(leader, Fault::None) {
            world.wait_or_answer(leader, &wait);
        }
        reconciles += 1;
    }
    // Rows and two nodes, each at its own time, 36 times.
    assert!(reconciles <= 4 * 36, "{reconciles}");
}
