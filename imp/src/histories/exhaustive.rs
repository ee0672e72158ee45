//! All short histories: two nodes, one change, and at every call and every wait each way in which
//! it can go wrong, twice.

use rstest::rstest;

use super::operations::{Edit, Fault, Setup};
use super::operator::Actor;
use super::world::{NAMES, World};
use crate::plan::WaitReason;

/// A call that changes something can end in these ways instead of well.
const FAULTS: [Fault; 9] = [
    Fault::CrashBefore,
    Fault::CrashAfter,
    Fault::ReplyLost,
    Fault::NeverArrives,
    Fault::ArrivesLate(45_000),
    Fault::ArrivesLate(400_000),
    Fault::CrashArrivesLate(400_000),
    Fault::NotDone,
    Fault::Edited(Edit::Anything),
];
/// Reconciles in one history; one that is longer does not end.
const LONGEST: u32 = 2_000;

#[derive(Default)]
struct Explored {
    histories: u64,
    plans: u64,
    problems: Vec<String>,
}

impl Explored {
    /// Goes on from here in all ways, with so many things still going wrong.
    fn explore(&mut self, mut world: World, mut length: u32, faults: u32, taken: &[String]) {
        let actor = Actor {
            process: world.leader,
            resource: 0,
        };
        loop {
            length += 1;
            if length > LONGEST {
                self.problem(taken, "it does not end");
                return;
            }
            let before = (faults > 0).then(|| world.clone());
            let acts = world.acts;
            let wait = world.reconcile(actor, Fault::None);
            if let Some(before) = before {
                if world.acts > acts {
                    // From the question whether it may be done on; what ends before is a crash before the reconcile.
                    let ends = world.requests.saturating_sub(4)..=world.requests;
                    let ends = ends.filter(|_| faults == 2).map(Fault::CrashAt);
                    for fault in FAULTS.into_iter().chain(ends) {
                        let mut other = before.clone();
                        other.reconcile(actor, fault);
                        let taken = with(taken, format!("{fault:?} in reconcile {length}"));
                        self.explore(other, length, faults - 1, &taken);
                    }
                } else if wait.is_some() {
                    let mut other = before;
                    other.crash(actor.process);
                    let taken = with(taken, format!("crash before reconcile {length}"));
                    self.explore(other, length, faults - 1, &taken);
                }
            }
            if let Some(violation) = &world.violation {
                let violation = violation.clone();
                self.problem(taken, &violation);
                return;
            }
            if let Some(wait) = wait {
                if wait.why == WaitReason::Settled {
                    break;
                }
                world.wait_or_answer(actor, &wait);
            }
        }
        self.histories += 1;
        self.plans += world.steps;
        for (node, name) in NAMES.iter().enumerate() {
            for id in &world.desired[0].component_ids {
                if !world.routers[node].loaded.contains(id) {
                    self.problem(taken, &format!("{name} does not know {id}"));
                }
            }
        }
    }

    fn problem(&mut self, taken: &[String], what: &str) {
        if self.problems.len() < 5 {
            self.problems.push(format!("{what}, after {taken:?}"));
        }
    }
}

fn with(taken: &[String], next: String) -> Vec<String> {
    taken.iter().cloned().chain([next]).collect()
}

fn settled() -> World {
    let mut world = World::new(Setup {
        lag_ms: 5_000,
        min_interval_ms: 0,
        skew_ms: 0,
    });
    assert_eq!(world.settle(), WaitReason::Settled);
    world
}

#[rstest]
#[case::the_first_registration(World::new(Setup { lag_ms: 5_000, min_interval_ms: 0, skew_ms: 0 }))]
#[case::one_more_slot({ let mut world = settled(); world.add_slot(); world })]
#[case::a_request({ let mut world = settled(); world.token(); world })]
fn two_nodes_one_change_and_everything_that_can_go_wrong_twice(#[case] world: World) {
    let mut explored = Explored::default();
    explored.explore(world, 0, 2, &[]);
    println!("{} histories, {} plans", explored.histories, explored.plans);
    assert!(explored.problems.is_empty(), "{:#?}", explored.problems);
    assert!(explored.histories > 500, "{}", explored.histories);
}
