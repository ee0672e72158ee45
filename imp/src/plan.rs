//! The plan: from desired state, observation, ledger and clock to exactly one next step, which is
//! a read, one thing to do, or a wait with its reason. Pure: the same input gives the same step.

use std::time::Duration;

use xmpp_federation_core::{Activation, ComponentId};

use super::clock::Stamp;
use super::control_center::ImpFederation;
use super::desired::{Desired, Owner};
use super::ledger::Ledger;
use super::observation::{Exclusion, Observation, Read};
use super::pkid::Pkid;
use super::registration::{Comparison, RowAction, RowChange, RowObstacle};
use super::restart::{self, RestartWait};

/// How often the node list is read anew.
pub const NODES_EVERY: Duration = Duration::from_hours(1);
/// Rows count for this long when something is about to be done because of them.
const ROWS_FRESH: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextStep {
    /// Read something, then plan again.
    Read(Read),
    /// Do one thing, after writing the intent to the ledger.
    Act(Action),
    Wait(Wait),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Change a row, or whose it is.
    Row(RowAction),
    /// Restart `Cisco XCP Router` on one node.
    Restart {
        node: String,
        /// Why, as the end of a sentence.
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    pub why: WaitReason,
    /// When to plan again at the latest.
    pub until: Stamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// Nothing: all is done.
    Settled,
    Axl,
    Ledger,
    /// A cluster that another resource has.
    Claimed(Owner),
    /// A cluster that another entry of the same resource has, or one that is not meant.
    Barred(Exclusion),
    Maintenance,
    /// A human, because of rows.
    Blocked(RowObstacle),
    /// A human, because IM&P's own federation is on at these nodes.
    FederationOn(Vec<String>),
    /// A human, because rows of ours vanish again and again.
    Vanished,
    /// A second read that confirms that rows are missing.
    ConfirmMissing,
    Propagating,
    Restart(RestartWait),
    Budget,
    /// What is due may not be done as it was planned, for this reason.
    Withheld(String),
}

#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    pub desired: &'a Desired,
    pub seen: &'a Observation,
    /// The record; `None` where it could not be read.
    pub ledger: Option<&'a Ledger>,
    pub now: Stamp,
    /// A pkid for a new row.
    pub fresh: Pkid,
}

impl<'a> PlanInput<'a> {
    pub fn plan(self) -> NextStep {
        let step = self.unbounded();
        // Calls to Control Center have a budget over all that is planned.
        if let NextStep::Read(Read::Services(_)) | NextStep::Act(Action::Restart { .. }) = &step {
            let wait = self.seen.budget_wait(1, &self.now);
            if !wait.is_zero() {
                let until = self.now.plus(wait);
                // What a human has to do is known without asking again.
                let by_hand = self
                    .ledger
                    .filter(|ledger| is_readable(ledger, self.desired.wanted()))
                    .and_then(|ledger| self.restart_input(ledger).asked_of_human());
                let why = by_hand.map_or(WaitReason::Budget, WaitReason::Restart);
                return NextStep::Wait(Wait { why, until });
            }
        }
        step
    }

    fn unbounded(self) -> NextStep {
        if let Some(read) = self.overdue() {
            return NextStep::Read(read);
        }
        let wait = |why: WaitReason| {
            NextStep::Wait(Wait {
                why,
                until: self.next_poll(),
            })
        };
        let Some(ledger) = self.ledger else {
            if self.seen.nodes.is_none() {
                return wait(WaitReason::Axl);
            }
            let until = self.now.plus(Duration::from_secs(2));
            return NextStep::Wait(Wait {
                why: WaitReason::Ledger,
                until,
            });
        };
        if let Some(barred) = &self.seen.barred {
            return wait(WaitReason::Barred(barred.clone()));
        }
        if let Some(other) = ledger.claimed_by_another(&self.desired.owner) {
            return wait(WaitReason::Claimed(other.clone()));
        }
        let restart = self.restart_input(ledger);
        // A restart under way is watched whatever else is the matter.
        let watched = restart.watch_open();
        if let Some(restart::RestartStep::Read(node)) = &watched {
            return NextStep::Read(Read::Services(node.clone()));
        }
        if !self.seen.rows_current() && self.seen.axl_failure.is_some() {
            return match watched {
                Some(restart::RestartStep::Wait(waiting)) => self.restart_wait(waiting),
                _ => wait(WaitReason::Axl),
            };
        }
        let step = match self.rows(ledger) {
            Some(step) => step,
            None if self.desired.activation == Activation::Prepared => wait(WaitReason::Settled),
            None => match restart.next() {
                restart::RestartStep::Nothing => wait(WaitReason::Settled),
                restart::RestartStep::Read(node) => NextStep::Read(Read::Services(node)),
                restart::RestartStep::ReadRedundancy => NextStep::Read(Read::Redundancy),
                restart::RestartStep::Wait(waiting) => self.restart_wait(waiting),
                restart::RestartStep::Restart { node, reason } => NextStep::Act(Action::Restart { node, reason }),
            },
        };
        match step {
            NextStep::Act(_) if self.desired.maintenance => wait(WaitReason::Maintenance),
            NextStep::Act(Action::Row(RowAction {
                change: RowChange::Adopt,
                ..
            })) => step,
            NextStep::Act(_) if self.stale() => NextStep::Read(Read::Rows),
            _ => step,
        }
    }

    fn restart_input(self, ledger: &'a Ledger) -> restart::RestartInput<'a> {
        restart::RestartInput {
            ids: self.desired.wanted(),
            nodes: self.seen.node_list(),
            seen: self.seen,
            ledger,
            policy: &self.desired.restart,
            now: self.now,
        }
    }

    /// Rows: what to do about them, what to wait for, or `None` when they are readable everywhere.
    fn rows(self, ledger: &Ledger) -> Option<NextStep> {
        let until = self.next_poll();
        let wait = |why: WaitReason, until: Stamp| Some(NextStep::Wait(Wait { why, until }));
        let rows = self.seen.rows.as_ref()?;
        if self
            .seen
            .missing_since
            .keys()
            .any(|pkid| ledger.rows.contains_key(pkid))
        {
            return wait(WaitReason::ConfirmMissing, until);
        }
        let comparison = Comparison {
            desired: self.desired.wanted(),
            rows: &rows.value,
            ledger,
            foreign: self.desired.foreign_components,
            adopt: self.desired.requests.adopt_rows.is_some(),
            fresh: self.fresh,
        };
        // What a former resource left on purpose is for the next one that is active.
        let touches = self.desired.activation == Activation::Active || ledger.is_of(&self.desired.owner.uid);
        let action = match touches.then(|| comparison.next()).transpose() {
            Ok(action) => action.flatten(),
            Err(blocked) => return wait(WaitReason::Blocked(blocked), until),
        };
        if let Some(action) = action {
            if action.change == RowChange::Insert {
                if ledger.vanished >= 2 {
                    return wait(WaitReason::Vanished, until);
                }
                let on = federation_on(self.seen);
                if !on.is_empty() && self.seen.present_since.is_empty() {
                    return wait(WaitReason::FederationOn(on), until);
                }
                if unasked(self.seen) {
                    return wait(WaitReason::Budget, until);
                }
            }
            return Some(NextStep::Act(Action::Row(action)));
        }
        if self.seen.unverified {
            return Some(NextStep::Read(Read::Rows));
        }
        let wanted = self.desired.wanted();
        if is_readable(ledger, wanted) || wanted.is_empty() {
            return None;
        }
        // The delay is over when the last of them was there for long enough.
        let left = wanted
            .iter()
            .map(|id| {
                self.seen.present_since.get(id).map_or(Duration::from_secs(1), |since| {
                    self.now.since(since).left(self.desired.restart.propagation_delay)
                })
            })
            .max()
            .unwrap_or_default();
        wait(
            WaitReason::Propagating,
            self.now.plus(left.max(Duration::from_millis(20))),
        )
    }

    /// Whether the rows are too old to act upon.
    fn stale(self) -> bool {
        self.seen.rows.as_ref().is_none_or(|rows| {
            !self.seen.rows_current() && !self.seen.unverified || self.now.since(&rows.asked).reached(ROWS_FRESH)
        })
    }

    /// What has to be read before anything else.
    fn overdue(self) -> Option<Read> {
        let poll = self.desired.poll_interval;
        let axl_ready = self
            .seen
            .axl_failure
            .as_ref()
            .is_none_or(|failure| retry_left(&failure.retry_at, &self.now).is_zero());
        if axl_ready {
            let Some(nodes) = &self.seen.nodes else {
                return Some(Read::Nodes);
            };
            // One read per poll interval, whichever.
            let last = last_asked(self.seen, nodes.asked);
            let due = self.now.since(&last).reached(poll);
            let confirm = !self.seen.missing_nodes.is_empty()
                && self.now.since(&nodes.asked).reached(self.seen.timings.confirm_missing);
            if self.seen.due.contains(&Read::Nodes)
                || confirm
                || due && self.now.since(&nodes.asked).reached(NODES_EVERY) && !self.rests()
            {
                return Some(Read::Nodes);
            }
            if self.rests() {
                return None;
            }
            if self.ledger.is_some() {
                if self.seen.table.is_none() || self.seen.due.contains(&Read::Table) {
                    return Some(Read::Table);
                }
                let Some(rows) = &self.seen.rows else {
                    return Some(Read::Rows);
                };
                // In place of every other read of the rows.
                if self.desired.federation_check.is_some() && self.seen.federation_is_open() {
                    let asked = self.seen.federation_check.as_ref().map(|c| c.seen.asked);
                    if asked.is_none_or(|asked| due && self.now.since(&asked).reached(2 * poll)) {
                        return Some(Read::Federation);
                    }
                }
                let confirm = !self.seen.missing_since.is_empty()
                    && self.now.since(&rows.asked).reached(self.seen.timings.confirm_missing);
                if due || confirm || self.seen.axl_failure.is_some() || self.seen.due.contains(&Read::Rows) {
                    return Some(Read::Rows);
                }
            }
        }
        if self.rests() {
            return None;
        }
        // What the budget does not allow must not hold up what needs no such call.
        self.overdue_services()
            .filter(|_| self.seen.budget_wait(1, &self.now).is_zero())
    }

    /// Whether somebody else looks at this cluster: however many resources name it, only one reads its
    /// rows and services. The ledger tells when that ends.
    pub fn rests(self) -> bool {
        self.seen.barred.is_some()
            || self
                .ledger
                .is_some_and(|ledger| ledger.claimed_by_another(&self.desired.owner).is_some())
    }

    /// A node whose services have to be read.
    fn overdue_services(self) -> Option<Read> {
        let poll = self.desired.poll_interval;
        self.seen
            .node_list()
            .iter()
            .find(|node| {
                let failed = self
                    .seen
                    .control_center_failures
                    .get(&node.name)
                    .map(|failure| retry_left(&failure.retry_at, &self.now));
                match failed {
                    Some(left) => left.is_zero(),
                    None => {
                        self.seen.due.contains(&Read::Services(node.name.clone()))
                            || self
                                .seen
                                .services
                                .get(&node.name)
                                .is_none_or(|services| self.now.since(&services.asked).reached(poll))
                    }
                }
            })
            .map(|node| Read::Services(node.name.clone()))
    }

    /// When something is overdue next, if nothing else happens.
    fn next_poll(self) -> Stamp {
        let poll = self.desired.poll_interval;
        let mut left = poll;
        if let Some(failure) = &self.seen.axl_failure {
            left = left.min(retry_left(&failure.retry_at, &self.now));
        }
        if self.rests() {
            return self.now.plus(left.max(Duration::from_millis(100)));
        }
        if self.seen.axl_failure.is_some() {
            // Counted already.
        } else if let Some(rows) = &self.seen.rows {
            if let Some(nodes) = &self.seen.nodes {
                let last = last_asked(self.seen, nodes.asked);
                left = left.min(self.now.since(&last).left(poll));
                if !self.seen.missing_nodes.is_empty() {
                    let confirm = self.seen.timings.confirm_missing;
                    left = left.min(self.now.since(&nodes.asked).left(confirm));
                }
            }
            if !self.seen.missing_since.is_empty() {
                let confirm = self.seen.timings.confirm_missing;
                left = left.min(self.now.since(&rows.asked).left(confirm));
            }
        }
        for node in self.seen.node_list() {
            if let Some(failure) = self.seen.control_center_failures.get(&node.name) {
                left = left.min(retry_left(&failure.retry_at, &self.now));
            } else if let Some(services) = self.seen.services.get(&node.name) {
                left = left.min(self.now.since(&services.asked).left(poll));
            }
        }
        if self.overdue_services().is_some() {
            left = left.min(self.seen.budget_wait(1, &self.now));
        }
        self.now.plus(left.max(Duration::from_millis(100)))
    }

    fn restart_wait(self, waiting: RestartWait) -> NextStep {
        let poll = self.next_poll();
        let until = if waiting.until.mono_ms < poll.mono_ms {
            waiting.until
        } else {
            poll
        };
        NextStep::Wait(Wait {
            why: WaitReason::Restart(waiting),
            until,
        })
    }
}

/// Whether all of these were readable on every node at some time.
fn is_readable(ledger: &Ledger, wanted: &[ComponentId]) -> bool {
    ledger
        .readable
        .as_ref()
        .is_some_and(|readable| wanted.iter().all(|id| readable.ids.contains(id)))
}

/// Nodes at which IM&P's own federation is on.
pub fn federation_on(seen: &Observation) -> Vec<String> {
    seen.node_list()
        .iter()
        .filter(|node| seen.federation(&node.name) == ImpFederation::On)
        .map(|node| node.name.clone())
        .collect()
}

/// Whether some node was never asked for its services.
fn unasked(seen: &Observation) -> bool {
    seen.node_list()
        .iter()
        .any(|node| !seen.services.contains_key(&node.name) && !seen.control_center_failures.contains_key(&node.name))
}

/// When AXL was last asked for something that is read again and again.
fn last_asked(seen: &Observation, nodes: Stamp) -> Stamp {
    let rows = seen.rows.as_ref().map(|rows| rows.asked);
    let check = seen.federation_check.as_ref().map(|c| c.seen.asked);
    [rows, check].into_iter().flatten().fold(nodes, later)
}

/// What is left until a time this process set itself.
fn retry_left(retry_at: &Stamp, now: &Stamp) -> Duration {
    Duration::from_millis(retry_at.mono_ms.saturating_sub(now.mono_ms))
}

fn later(a: Stamp, b: Stamp) -> Stamp {
    if a.mono_ms >= b.mono_ms { a } else { b }
}
