//! What no operator may break, checked against what really is.

use std::time::Duration;

use xmpp_federation_core::{Activation, ComponentId};

use super::{Command, DELAY_MS, Entry, NAMES, World};
use crate::desired::{RestartMode, SlotSource};
use crate::histories::operations::{WINDOW_EVERY_S, WINDOW_OPEN_S};
use crate::histories::operator::Actor;
use crate::ledger::Ledger;
use crate::pkid::Pkid;
use crate::timings::Timings;

/// From a look to the command that rests on it, beside the time for which looks count.
const SLACK_MS: u64 = 1_000;

impl World {
    /// Rules 4 and 2, before a row is inserted or deleted: nothing is written in maintenance, nothing inserted beside rows of
    /// others as far as a look shows them, and rows that went twice are not written a third time.
    pub fn check_write(&mut self, pkid: Pkid, inserts: bool, ledger: &Ledger) {
        let desired = &self.desired[0];
        if desired.maintenance || inserts && desired.activation != Activation::Active {
            self.violate("2(d)", format!("{pkid} is written though nothing may be"));
        }
        if !ledger.rows.contains_key(&pkid) {
            self.violate("4", format!("the row {pkid} is not ours"));
        }
        if !inserts {
            let foreign = self.rows().find(|row| row.pkid == pkid && row.foreign);
            if let Some(id) = foreign.map(|row| row.id.clone()) {
                self.violate("4", format!("the row of {id} is somebody else's"));
            }
            return;
        }
        self.check_slots(pkid, ledger);
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

    /// Before a row is inserted: slots rise only where the spec asks for more.
    fn check_slots(&mut self, pkid: Pkid, ledger: &Ledger) {
        let desired = &self.desired[0];
        let Some(granted) = self.granted.filter(|_| desired.slots != SlotSource::Spec) else {
            return;
        };
        let inserted = ledger.rows.get(&pkid).map(|row| &row.component_id);
        let registered = desired.component_ids.iter();
        let registered = registered.filter(|id| inserted == Some(*id) || self.stands(id).is_some());
        let registered = registered.count();
        if registered > granted {
            self.violate(
                "slots",
                format!("{registered} are registered, and nobody asked for more than {granted}"),
            );
        }
    }

    /// What the resource wants, with the slots that are recorded.
    pub fn wanted(&self) -> Vec<ComponentId> {
        let recorded = self.store.content().and_then(|ledger| ledger.slots);
        self.desired[0].within(recorded).component_ids.clone()
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
        for id in &self.wanted() {
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
