//! The cluster as it is, and the rules that nothing in it may break.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use xmpp_federation_core::ComponentId;

use super::mutants::Mutant;
use super::operations::{Setup, WINDOW_EVERY_S, WINDOW_OPEN_S};
use super::operator::{self, Actor, Process};
use crate::axl::HaState;
use crate::clock::Stamp;
use crate::control_center::Services;
use crate::control_center::beside::{self, Down};
use crate::control_center::{ImpFederation, ServiceState};
use crate::desired::{Activation, Desired, Link, RestartMode};
use crate::effects::NODES_EVERY;
use crate::ledger::{Ledger, Round, RoundCause};
use crate::pkid::Pkid;
use crate::timings::Timings;

pub const NAMES: [&str; 2] = ["ecup10", "ecup10s"];
pub const DELAY_MS: u64 = 30_000;
pub const RESTART_MS: u64 = 90_000;
/// From a look to the command that rests on it, beside the time for which looks count.
const SLACK_MS: u64 = 1_000;

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

/// The ConfigMap.
#[derive(Debug, Clone, Default)]
pub struct Store {
    /// Version of the object; `None`: there is none.
    version: Option<u64>,
    object: u64,
    /// The object into which the text was written, and the ledger.
    content: Option<(u64, Ledger)>,
    count: u64,
}

impl Store {
    /// The ledger and the version to name when writing.
    pub fn load(&self, trusting: bool) -> (Option<u64>, Ledger) {
        let ledger = match &self.content {
            Some((object, ledger)) => {
                let mut ledger = ledger.clone();
                if *object != self.object && !trusting {
                    ledger.distrust();
                }
                ledger
            }
            None => Ledger::unknown("p"),
        };
        (self.version, ledger)
    }

    /// Writes over that version; the new one.
    pub fn save(&mut self, expected: Option<u64>, ledger: &Ledger) -> Option<u64> {
        if expected != self.version {
            return None;
        }
        self.count += 1;
        if self.version.is_none() {
            self.object = self.count;
        }
        self.version = Some(self.count);
        self.content = Some((self.object, ledger.clone()));
        self.version
    }

    fn lose(&mut self) {
        self.version = None;
        self.content = None;
    }

    fn restore(&mut self, ledger: Ledger, object: u64) {
        self.count += 1;
        self.version = Some(self.count);
        self.object = self.count;
        self.content = Some((object, ledger));
    }

    /// Whether that version is the one that is stored.
    pub fn is_current(&self, version: Option<u64>) -> bool {
        version == self.version
    }

    pub fn content(&self) -> Option<&Ledger> {
        self.content.as_ref().map(|(_, ledger)| ledger)
    }
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
    slots: usize,
    tokens: u32,
    pub mutant: Option<Mutant>,
    /// The first rule that was broken, and how.
    pub violation: Option<String>,
    /// Plans made.
    pub steps: u64,
    /// Things done.
    pub acts: u64,
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
            slots: 0,
            tokens: 0,
            mutant: None,
            violation: None,
            steps: 0,
            acts: 0,
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
    pub fn arrives_later(&mut self, node: usize, ms: u64) {
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

    pub fn insert(&mut self, pkid: Pkid, id: &ComponentId) {
        // The primary key is unique.
        if self.rows().all(|row| row.pkid != pkid) {
            self.table.push(Entry {
                pkid,
                id: id.clone(),
                foreign: false,
                written_ms: self.now_ms,
                deleted_ms: None,
            });
            self.cause();
        }
    }

    /// Somebody else registers a component.
    pub fn insert_foreign(&mut self) {
        self.pkids += 1;
        self.table.push(Entry {
            pkid: Pkid::from_u128(1 << 100 | self.pkids),
            id: format!("cm-2_s2scp-1.expressway-{}", self.pkids).parse().unwrap(),
            foreign: true,
            written_ms: self.now_ms,
            deleted_ms: None,
        });
    }

    pub fn delete_foreign(&mut self) {
        let now_ms = self.now_ms;
        for row in self.table.iter_mut().filter(|row| row.foreign) {
            row.deleted_ms.get_or_insert(now_ms);
        }
    }

    /// Rule 4, before a row is deleted.
    pub fn check_delete(&mut self, pkid: Pkid) {
        let foreign = self.rows().find(|row| row.pkid == pkid && row.foreign);
        if let Some(id) = foreign.map(|row| row.id.clone()) {
            self.violate("4", format!("the row of {id} is somebody else's"));
        }
    }

    /// Rules 4 and 2: beside rows of others, as far as a look shows them, nothing is inserted, and
    /// rows that went twice are not written a third time.
    pub fn check_insert(&mut self, ledger: &Ledger) {
        let fresh_ms = 60_000 + SLACK_MS;
        let old = |row: &&Entry| row.foreign && row.written_ms + fresh_ms < self.now_ms;
        let beside = self.rows().find(old).map(|row| row.id.clone());
        if let Some(id) = beside {
            self.violate("4", format!("a row is inserted beside that of {id}"));
        }
        if ledger.vanished >= 2 {
            self.violate("4", "rows that vanished twice are written again");
        }
    }

    pub fn delete(&mut self, pkid: Pkid) {
        let now_ms = self.now_ms;
        for row in &mut self.table {
            if row.pkid == pkid && row.deleted_ms.is_none() {
                row.deleted_ms = Some(now_ms);
            }
        }
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

    /// The node list loses the second node, or has it again.
    pub fn hide(&mut self, hidden: bool) {
        if hidden {
            self.hidden_ms.get_or_insert(self.now_ms);
        } else if self.hidden_ms.take().is_some() {
            self.shown_ms = Some(self.now_ms);
        }
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

    pub fn stop_service(&mut self, node: usize) {
        let now_ms = self.now_ms;
        let router = &mut self.routers[node];
        // Between two polls nobody sees that it ran.
        let unseen = router.restarted_ms.is_some_and(|at| at + 600_000 > now_ms);
        router.stopped.get_or_insert((now_ms, unseen));
    }

    /// A human puts in order what keeps routers from being restarted.
    pub fn start_services(&mut self) {
        for router in &mut self.routers {
            if router.stopped.take().is_some() {
                router.restarted_ms = Some(self.now_ms);
            }
        }
        self.runs_for_the_other = None;
    }

    pub fn fail_over(&mut self, to: usize) {
        self.runs_for_the_other = Some((to, self.now_ms));
    }

    /// What the table of redundancy groups shows; some releases show nothing.
    pub fn redundancy(&self) -> Option<Vec<HaState>> {
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

    pub fn add_slot(&mut self) {
        let id = format!("cm-2_s2scp-1.slot-{}", self.slots);
        self.slots += 1;
        self.desired[0].component_ids.push(id.parse().unwrap());
    }

    /// A changed host name: other ids for the slots.
    pub fn rename(&mut self) {
        let slots = self.desired[0].component_ids.len();
        self.desired[0].component_ids.clear();
        for _ in 0..slots {
            self.add_slot();
        }
    }

    pub fn token(&mut self) {
        self.tokens += 1;
        self.desired[0].requests.restart_routers = Some(format!("t{}", self.tokens));
        self.cause();
        for router in &mut self.routers {
            router.asked = true;
            if let Some((_, asked)) = &mut router.stopped {
                *asked = true;
            }
            for command in &mut router.commands {
                command.human_since = true;
            }
        }
    }

    pub fn jump(&mut self, seconds: i64) {
        self.wall_ms += seconds * 1_000;
        for router in &mut self.routers {
            for command in &mut router.commands {
                command.jumped_since = true;
            }
        }
    }

    /// IM&P's own federation is switched; going Off asks for a round.
    pub fn federate(&mut self, state: ImpFederation) {
        self.went_off |= self.federation == ImpFederation::On && state == ImpFederation::Off;
        self.federation = state;
    }

    /// It was seen to have gone Off, which is a cause where it did.
    pub fn saw_federation_off(&mut self) {
        if std::mem::take(&mut self.went_off) {
            self.cause();
        }
    }

    pub fn lose_ledger(&mut self) {
        self.store.lose();
        self.forget();
        for router in &mut self.routers {
            for command in &mut router.commands {
                command.lost = true;
            }
        }
    }

    /// An operator without a record registers where no row of ours stands: as far as anybody can
    /// know, for the first time.
    pub fn first_registration(&mut self) {
        for router in &mut self.routers {
            if router.commands.iter().any(|command| command.lost) {
                router.commands.retain(|command| !command.lost);
                let late = std::mem::take(&mut router.late_ms);
                router.untraceable_ms.extend(late);
            }
        }
    }

    /// The first time a backup is made, then it is restored.
    pub fn back_up_or_restore(&mut self) {
        match self.backup.clone() {
            None => self.backup = self.store.content.clone(),
            Some((object, ledger)) => {
                self.store.restore(ledger, object);
                self.forget();
            }
        }
    }

    /// What stands in no ledger cannot count for `minInterval` and for the canary; a command that
    /// may still arrive counts all the same.
    fn forget(&mut self) {
        self.first_node = None;
        for router in &mut self.routers {
            for command in &mut router.commands {
                command.forgotten = true;
            }
        }
    }

    /// A command goes out, or its intent was written and nobody will know whether it did.
    pub fn commanded(&mut self, node: usize) {
        self.first_node.get_or_insert(node);
        let at_ms = self.now_ms;
        let router = &mut self.routers[node];
        router.since_cause += 1;
        router.asked = false;
        router.commands.push(Command {
            at_ms,
            told: false,
            human_since: false,
            forgotten: false,
            lost: false,
            jumped_since: false,
        });
    }

    /// The answer to the last command was recorded.
    pub fn told(&mut self, node: usize) {
        if let Some(command) = self.routers[node].commands.last_mut() {
            command.told = true;
        }
    }

    /// The request that was made last is known to be served where nothing of it is pending.
    pub fn served(&mut self, ledger: &Ledger) {
        if ledger.handled_restart_token != self.desired[0].requests.restart_routers {
            return;
        }
        for (router, name) in self.routers.iter_mut().zip(NAMES) {
            let pending =
                |round: &Round| matches!(round.cause, RoundCause::Requested(_)) && round.pending.contains(name);
            router.asked &= ledger.rounds.iter().any(pending);
        }
    }

    /// Rule 3: what is claimed to be loaded, is. An id whose row somebody took away is no claim.
    pub fn check_proof(&mut self, ledger: &Ledger) {
        let wanted = self.desired[0].wanted();
        let wrong = NAMES.iter().enumerate().find_map(|(node, name)| {
            let claimed = &ledger.nodes.get(*name)?.loaded;
            let id = claimed.iter().find(|id| {
                wanted.contains(id) && self.stands(id).is_some() && !self.routers[node].loaded.contains(*id)
            })?;
            Some(format!("{name} is claimed to have read {id}"))
        });
        if let Some(how) = wrong {
            self.violate("3", how);
        }
    }

    /// Rules 2 (a) to (g), against what really is and what can be known.
    pub fn check_command(&mut self, actor: Actor, node: usize, reason: &str) {
        let resource = actor.resource;
        let timings = Timings::default();
        let latest_ms = timings.latest_arrival.as_millis() as u64;
        let fresh_ms = timings.fresh.as_millis() as u64 + SLACK_MS;
        let desired = self.desired[0].clone();
        let min_interval_ms = desired.restart.min_interval.as_millis() as u64;
        let (router, other) = (self.routers[node].clone(), self.routers[1 - node].clone());
        let now_ms = self.now_ms;
        let may_arrive = |command: &Command| !command.told && now_ms < command.at_ms + latest_ms;
        if resource != 0 {
            self.violate("7", format!("the second resource restarts {node}"));
        }
        if router.since_cause > 0 {
            self.violate("2(a)", format!("{node} again without a cause: {reason}"));
        }
        let unexcused = |command: &&Command| !command.human_since;
        if router
            .commands
            .iter()
            .filter(unexcused)
            .any(|command| may_arrive(command) || !command.forgotten && router.started_ms <= command.at_ms)
        {
            self.violate("2(b)", format!("a command to {node} may still arrive: {reason}"));
        }
        let alone = self.is_forgotten(1 - node);
        if !alone && (other.commands.iter().any(may_arrive) || !other.late_ms.is_empty()) {
            self.violate("2(c)", format!("a command to {} may still arrive: {reason}", 1 - node));
        }
        if let Some(down) = other.down
            && !alone
            && (down.ours || down.since_ms + fresh_ms < now_ms)
        {
            self.violate("2(c)", format!("{} is not back ({down:?}): {reason}", 1 - node));
        }
        self.check_health(node, reason);
        if !self.mode_allows(actor, node) || desired.maintenance || desired.activation != Activation::Active {
            self.violate("2(d)", format!("{node} though nothing may be restarted"));
        }
        let too_soon = router.commands.iter().filter(unexcused).find(|command| {
            !command.forgotten
                && !command.jumped_since
                && now_ms < command.at_ms + min_interval_ms.saturating_sub(self.skew_ms())
        });
        if let Some(command) = too_soon {
            let after = now_ms - command.at_ms;
            self.violate("2(e)", format!("{node} after {after} ms"));
        }
        for id in &desired.component_ids {
            // What somebody takes away is missed at the next read, which is a minute old at most.
            let just_went = self.table.iter().any(|row| {
                let rows_fresh_ms = 60_000 + SLACK_MS;
                row.id == *id && row.deleted_ms.is_some_and(|at| at + rows_fresh_ms > now_ms)
            });
            match self.stands_since(id) {
                None if just_went => {}
                None => self.violate("2(a)", format!("{id} is not even there")),
                Some(written) if written + DELAY_MS > now_ms => {
                    let ago = now_ms - written;
                    self.violate("2(f)", format!("{id} was written {ago} ms ago"));
                }
                Some(_) => {}
            }
        }
        let first = self.first_node.filter(|first| !self.is_forgotten(*first));
        if !self.link_worked && first.is_some_and(|first| first != node) {
            self.violate("2(g)", format!("{node} before the first one's link worked"));
        }
    }

    /// Rule 2 (c), beside the routers: services and redundancy groups, as far as a look shows them.
    fn check_health(&mut self, node: usize, reason: &str) {
        let timings = Timings::default();
        let now_ms = self.now_ms;
        let fresh_ms = timings.fresh.as_millis() as u64 + SLACK_MS;
        // Whole seconds are read.
        let settle_ms = timings.settle.as_millis() as u64 - 1_000;
        for (index, router) in self.routers.clone().iter().enumerate() {
            if self.is_forgotten(index) {
                continue;
            }
            let up_ms = router.started_ms.max(router.services_ms);
            if router.down.is_none() && up_ms > now_ms {
                self.violate("2(c)", format!("services of {index} are not up: {reason}"));
            }
            if index != node && router.down.is_none() && up_ms + settle_ms > now_ms {
                self.violate("2(c)", format!("{index} has just come back: {reason}"));
            }
            if let Some((at_ms, false)) = router.stopped
                && at_ms + fresh_ms < now_ms
            {
                self.violate("2(c)", format!("a service of {index} is stopped: {reason}"));
            }
        }
        if let Some((other, at_ms)) = self.runs_for_the_other
            && self.redundancy_shows()
            && !self.is_forgotten(other)
            && at_ms + fresh_ms < now_ms
        {
            self.violate("2(c)", format!("{other} runs for the other one: {reason}"));
        }
    }

    /// Whether mode and window let this operator restart that node now, by its own wall clock.
    fn mode_allows(&self, actor: Actor, node: usize) -> bool {
        match self.desired[0].restart.mode {
            RestartMode::Automatic => true,
            RestartMode::Manual => false,
            RestartMode::Window(_) => {
                let wall_s = self.stamp(actor.process).wall.as_second();
                let open = wall_s.rem_euclid(WINDOW_EVERY_S) < WINDOW_OPEN_S;
                open || self.routers[node].asked
            }
        }
    }

    /// By how much two operators' wall clocks differ: nobody can do better than that.
    fn skew_ms(&self) -> u64 {
        (self.processes[0].skew_ms - self.processes[1].skew_ms).unsigned_abs()
    }

    /// Rule of the interface: under 12 calls a minute by one process.
    pub fn called_control_center(&mut self, process: usize) {
        let now_ms = self.now_ms;
        let calls = &mut self.processes[process].real_calls;
        calls.push(now_ms);
        calls.retain(|at| at + Duration::from_mins(1).as_millis() as u64 > now_ms);
        let count = calls.len();
        if count > 11 {
            self.violate("rate", format!("{count} calls in a minute"));
        }
    }
}
