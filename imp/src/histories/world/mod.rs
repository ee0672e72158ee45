//! The cluster as it is, and the rules that nothing in it may break.
//!
//! - [`answers`]: what it answers; [`store`]: where the ledger is kept; [`events`]: what others do to the cluster;
//!   [`rules`]: what no command may break

mod answers;
mod events;
mod rules;
mod store;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use xmpp_federation_core::ComponentId;

pub use answers::node_of;
pub use store::Store;

use super::mutants::Mutant;
use super::operations::Setup;
use super::operator::{self, Process};
use crate::axl::HaState;
use crate::clock::Stamp;
use crate::control_center::beside::{self, Down};
use crate::control_center::{ImpFederation, ServiceState, Services};
use crate::desired::{Desired, Link};
use crate::ledger::Ledger;
use crate::pkid::Pkid;
use crate::plan::NODES_EVERY;

pub const NAMES: [&str; 2] = ["ecup10", "ecup10s"];
pub const DELAY_MS: u64 = 30_000;
pub const RESTART_MS: u64 = 90_000;

/// A router that is not running.
#[derive(Debug, Clone, Copy)]
pub struct Outage {
    since_ms: u64,
    back_ms: u64,
    /// Whether a command of ours has a part in it.
    ours: bool,
}

/// A command of ours.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    at_ms: u64,
    /// Whether an answer told what became of it.
    told: bool,
    /// A human asked for restarts since.
    human_since: bool,
    /// Perhaps no ledger has it any more.
    forgotten: bool,
    /// Certainly none has.
    lost: bool,
    /// The wall clock was changed since.
    jumped_since: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Router {
    started_ms: u64,
    pub loaded: BTreeSet<ComponentId>,
    down: Option<Outage>,
    /// When commands arrive that are still on their way.
    late_ms: Vec<u64>,
    /// What can still come of commands that stand in no record and have left no trace.
    untraceable_ms: Vec<u64>,
    /// Commands of the last minutes, the last one last.
    commands: Vec<Command>,
    /// Commands since the last cause.
    since_cause: u32,
    /// A human asked for a restart of it, and neither a command nor a start has come of it yet.
    asked: bool,
    /// The XCP services beside it run from then on.
    services_ms: u64,
    /// An administrator stopped one of them then, and whether a human asked for restarts since.
    stopped: Option<(u64, bool)>,
    /// Such a service was started again then.
    restarted_ms: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub pkid: Pkid,
    pub id: ComponentId,
    /// Somebody else wrote it.
    pub foreign: bool,
    written_ms: u64,
    deleted_ms: Option<u64>,
}

#[derive(Clone)]
pub struct World {
    pub now_ms: u64,
    pub wall_ms: i64,
    pub lag_ms: u64,
    pub table: Vec<Entry>,
    pub routers: [Router; 2],
    pub federation: ImpFederation,
    /// It went Off since somebody saw it do so.
    went_off: bool,
    /// The node that has its group's users, and since when.
    runs_for_the_other: Option<(usize, u64)>,
    /// Since when the node list does not name the second node.
    hidden_ms: Option<u64>,
    /// When it was named again.
    shown_ms: Option<u64>,
    pub links: bool,
    pub link_worked: bool,
    first_node: Option<usize>,
    /// As the two resources want it; the second one came later.
    pub desired: [Desired; 2],
    pub store: Store,
    backup: Option<(u64, Ledger)>,
    pub processes: [Process; 2],
    pub leader: usize,
    pub process_count: u64,
    pub pkids: u128,
    /// How often the spec was changed while a turn was under way.
    pub edits: u64,
    slots: usize,
    /// How many slots were registered when the spec stopped to say how many.
    granted: Option<usize>,
    tokens: u32,
    pub mutant: Option<Mutant>,
    /// The first rule that was broken, and how.
    pub violation: Option<String>,
    pub steps: u64,
    pub acts: u64,
    /// Requests in the last turn.
    pub requests: usize,
}

impl World {
    pub fn new(setup: Setup) -> Self {
        let mut world = Self {
            now_ms: 100_000_000,
            wall_ms: 1_700_000_000_000,
            lag_ms: setup.lag_ms,
            table: Vec::new(),
            routers: [Router::default(), Router::default()],
            federation: ImpFederation::Off,
            went_off: false,
            runs_for_the_other: None,
            hidden_ms: None,
            shown_ms: None,
            links: true,
            link_worked: false,
            first_node: None,
            desired: [
                operator::desired("u", setup.min_interval_ms),
                operator::desired("second", setup.min_interval_ms),
            ],
            store: Store::default(),
            backup: None,
            processes: [Process::default(), Process::default()],
            leader: 0,
            process_count: 0,
            pkids: 0,
            edits: 0,
            slots: 0,
            granted: None,
            tokens: 0,
            mutant: None,
            violation: None,
            steps: 0,
            acts: 0,
            requests: 0,
        };
        world.processes[1].skew_ms = setup.skew_ms;
        world.start(0);
        world.start(1);
        world.add_slot();
        world.desired[1].component_ids = vec!["cm-2_s2scp-1.second".parse().unwrap()];
        world
    }

    /// A process starts, with nothing but its clock.
    pub fn start(&mut self, process: usize) {
        self.process_count += 1;
        let skew_ms = self.processes[process].skew_ms;
        self.processes[process] = Process::new(self.process_count, self.now_ms, skew_ms);
    }

    pub fn crash(&mut self, process: usize) {
        self.pass(1_000);
        self.start(process);
    }

    pub fn stamp(&self, process: usize) -> Stamp {
        let process = &self.processes[process];
        Stamp {
            wall: Timestamp::from_millisecond(self.wall_ms + process.skew_ms + self.now_ms as i64).unwrap(),
            process: process.number,
            mono_ms: self.now_ms - process.started_ms,
        }
    }

    pub fn violate(&mut self, rule: &str, how: impl std::fmt::Display) {
        if self.violation.is_none() {
            self.violation = Some(format!("{rule}: {how}"));
        }
    }

    /// Lets time pass, with what happens meanwhile, in its order.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        // What is slow in one thing is in the other.
        let lag_ms = self.lag_ms;
        loop {
            let next = self
                .routers
                .iter()
                .flat_map(|router| {
                    let back = router.down.map(|down| down.back_ms);
                    let late = router.late_ms.iter().chain(&router.untraceable_ms);
                    late.copied().chain(back)
                })
                .filter(|at| *at <= end)
                .min();
            let Some(at) = next else { break };
            self.now_ms = self.now_ms.max(at);
            for node in 0..2 {
                let router = &mut self.routers[node];
                let waiting = (router.late_ms.len(), router.untraceable_ms.len());
                router.late_ms.retain(|late| *late > at);
                router.untraceable_ms.retain(|late| *late > at);
                let ours = router.late_ms.len() < waiting.0;
                if ours || router.untraceable_ms.len() < waiting.1 {
                    self.stop(node, RESTART_MS, ours);
                }
                if self.routers[node].down.is_some_and(|down| down.back_ms <= at) {
                    let loaded = self.visible(node);
                    let router = &mut self.routers[node];
                    router.down = None;
                    router.started_ms = self.now_ms;
                    router.services_ms = self.now_ms + lag_ms;
                    router.loaded = loaded;
                }
            }
        }
        self.now_ms = end;
    }

    pub fn stop(&mut self, node: usize, for_ms: u64, ours: bool) {
        let before = self.routers[node].down;
        self.routers[node].down = Some(Outage {
            since_ms: before.map_or(self.now_ms, |down| down.since_ms),
            back_ms: self.now_ms + for_ms,
            ours: ours || before.is_some_and(|down| down.ours),
        });
    }

    /// A command of ours that arrives later.
    fn arrives_later(&mut self, node: usize, ms: u64) {
        let at = self.now_ms + ms;
        self.routers[node].late_ms.push(at);
    }

    /// The ids a router would load now.
    fn visible(&self, node: usize) -> BTreeSet<ComponentId> {
        let lag = if node == 0 { 0 } else { self.lag_ms };
        self.table
            .iter()
            .filter(|row| row.written_ms + lag <= self.now_ms && row.deleted_ms.is_none_or(|at| at + lag > self.now_ms))
            .map(|row| row.id.clone())
            .collect()
    }

    pub fn stands(&self, id: &ComponentId) -> Option<&Entry> {
        self.rows().find(|row| row.id == *id)
    }

    /// Since when that id stands in the table without a gap, in whichever rows.
    fn stands_since(&self, id: &ComponentId) -> Option<u64> {
        let mut since = self
            .rows()
            .filter(|row| row.id == *id)
            .map(|row| row.written_ms)
            .min()?;
        while let Some(earlier) = self
            .table
            .iter()
            .find(|row| row.id == *id && row.written_ms < since && row.deleted_ms.is_some_and(|at| at >= since))
        {
            since = earlier.written_ms;
        }
        Some(since)
    }

    /// The publisher's table.
    pub fn rows(&self) -> impl Iterator<Item = &Entry> {
        self.table.iter().filter(|row| row.deleted_ms.is_none())
    }

    /// A pkid that nothing has.
    pub fn pkid(&mut self) -> Pkid {
        self.pkids += 1;
        Pkid::from_u128(1_000 + self.pkids)
    }

    /// Whether it was done: the primary key is unique.
    pub fn insert(&mut self, pkid: Pkid, id: &ComponentId) -> bool {
        let free = self.rows().all(|row| row.pkid != pkid);
        if free {
            self.table.push(Entry {
                pkid,
                id: id.clone(),
                foreign: false,
                written_ms: self.now_ms,
                deleted_ms: None,
            });
            self.cause();
        }
        free
    }

    /// Whether there was one to delete.
    pub fn delete(&mut self, pkid: Pkid) -> bool {
        let mut rows = self.table.iter_mut();
        let row = rows.find(|row| row.pkid == pkid && row.deleted_ms.is_none());
        row.is_some_and(|row| row.deleted_ms.replace(self.now_ms).is_none())
    }

    pub fn services(&self, node: usize) -> Services {
        let router = &self.routers[node];
        let up = (self.now_ms - router.started_ms) / 1_000;
        Services {
            router: if router.down.is_some() {
                ServiceState::Starting
            } else {
                ServiceState::Started
            },
            up_time: (router.down.is_none() && up > 0).then_some(up),
            federation: self.federation,
            down: self.services_down(node),
            youngest: router.down.is_none().then(|| {
                let since_ms = self.now_ms.saturating_sub(router.services_ms);
                up.min(since_ms / 1_000)
            }),
        }
    }

    fn services_down(&self, node: usize) -> Vec<Down> {
        let router = &self.routers[node];
        let mut down = Vec::new();
        if router.down.is_some() || self.now_ms < router.services_ms {
            down.push(Down {
                name: beside::NAMES[0],
                state: ServiceState::Starting,
            });
        }
        if router.stopped.is_some() {
            down.push(Down {
                name: beside::NAMES[1],
                state: ServiceState::Stopped,
            });
        }
        down
    }

    pub fn lists(&self, node: usize) -> bool {
        node == 0 || self.hidden_ms.is_none()
    }

    /// Whether the operator may rightly take that node for gone: two lists without it, a minute
    /// apart, and no one since.
    fn is_forgotten(&self, node: usize) -> bool {
        let every_ms = (NODES_EVERY + Duration::from_mins(10)).as_millis() as u64;
        let read = |at: u64| at + every_ms > self.now_ms;
        let gone = self.hidden_ms.is_some_and(|at| at + 60_000 <= self.now_ms);
        node == 1 && (gone || self.shown_ms.is_some_and(read))
    }

    /// What the table of redundancy groups shows; some releases show nothing.
    fn redundancy(&self) -> Option<Vec<HaState>> {
        let state = |node: usize| HaState {
            name: NAMES[node].to_owned(),
            number: match self.runs_for_the_other {
                Some((other, _)) if other == node => 4,
                _ => 3,
            },
        };
        self.redundancy_shows().then(|| vec![state(0), state(1)])
    }

    fn redundancy_shows(&self) -> bool {
        self.lag_ms.is_multiple_of(2)
    }

    pub fn links_now(&mut self) -> Vec<Link> {
        let mut links = Vec::new();
        for (node, name) in NAMES.iter().enumerate() {
            for id in &self.desired[0].component_ids {
                let router = &self.routers[node];
                let up = self.links && router.down.is_none() && router.loaded.contains(id);
                self.link_worked |= up;
                links.push(Link {
                    node: (*name).to_owned(),
                    component_id: id.clone(),
                    up,
                    bouncing: None,
                    opened: None,
                    announced: Vec::new(),
                });
            }
        }
        links
    }

    /// A row came or a human spoke: each node may be restarted once more.
    fn cause(&mut self) {
        for router in &mut self.routers {
            router.since_cause = 0;
        }
    }
}
