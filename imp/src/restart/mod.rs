//! Which router is restarted next, if any: a pure function of rows, nodes, what their routers
//! were seen doing, the ledger, the policy and the clock. And the evidence it rests on: whether a
//! router provably started after a point in time.
//!
//! The rules:
//!
//! - (a) a restart needs rows that were inserted, a round that was asked for, or IM&P's own
//!   federation gone Off behind it
//! - (b) never a second command to a node while one may have arrived, unless a human asks
//! - (c) never while another node is not back and healthy
//! - (d) never outside the mode that the policy sets
//! - (e) never within `minInterval` of that node's last one
//! - (f) never sooner than the propagation delay after the rows were read back
//! - (g) on the very first registration the second node waits for the first one's link
//!
//! # Commands without an answer
//!
//! A command is *on its way* from the writing of its intent until an answer tells what became of
//! it. Where the answer is lost, tells nothing, or the operator ended before it was recorded, the
//! command is on its way until [`Timings::latest_arrival`](super::timings::Timings::latest_arrival):
//! it may take the router down at any moment until then. Nothing that is seen meanwhile shortens
//! that. A router that provably started after the intent has read the rows, whoever restarted it,
//! so the node needs no further restart; but a restart by others looks just like the command's
//! own outcome, and the command may still come. Therefore, while a command to a node is on its way:
//!
//! - no other node is restarted (c), whatever a human asks for: a human's request is a decision
//!   about that command, not about two nodes at once
//! - that node is not commanded again (b), except where a human asked after the command
//!
//! and afterwards the node has to be looked at once more before it counts as healthy. Only one
//! process's own clock proves that the time is over: another process counts from the moment at
//! which it found the record. A ledger that was restored, or that is new where rows of ours stand
//! already, may have lost commands: every node then counts as having one on its way.
//!
//! - [`next`] puts it together; [`crate::observation::started_after`] is what proves a start; [`need`] why a router has to be
//!   restarted; [`allowed`] whether one may be now, with [`health`] of all nodes, their
//!   [`redundancy`] groups and the restart [`window`]
//! - [`watch`]: commands whose outcome is open; [`by_hand`]: what a human does

mod allowed;
pub mod by_hand;
mod health;
pub mod need;
mod redundancy;
pub mod watch;
mod window;

use xmpp_federation_core::ComponentId;

use super::axl::Node;
use super::clock::Stamp;
use super::desired::RestartPolicy;
use super::ledger::Ledger;
use super::observation::Observation;
use super::text::names;

use watch::open_restart;

pub use need::need;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestartStep {
    Nothing,
    /// Look at this node's services now.
    Read(String),
    /// Look at the redundancy groups now.
    ReadRedundancy,
    /// Restart this node's router, for this reason.
    Restart {
        node: String,
        /// Why, as a sentence.
        reason: String,
    },
    Wait(RestartWait),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartWait {
    pub kind: WaitKind,
    /// When to look again.
    pub until: Stamp,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitKind {
    /// One that is under way.
    Restarting,
    /// A human, because a command may or may not have arrived.
    OutcomeUnknown,
    /// A human, because a restart does not end.
    Hangs,
    /// A human, because IM&P refuses the command.
    Refused,
    /// A human, because the mode is Manual.
    ByHand,
    MinInterval,
    Window,
    /// All nodes to be healthy and readable.
    NotHealthy,
    /// A human, because a service does not run, or a node runs for another one.
    Unhealthy,
    /// A command whose arrival nobody told of to have arrived, if it ever does.
    OnItsWay,
    Canary,
    /// A call that failed without effect to be repeated.
    CallFailed,
    /// Room for the calls in IM&P's rate limit.
    Budget,
}

#[derive(Debug, Clone, Copy)]
pub struct RestartInput<'a> {
    /// Desired ids; all of them were read back.
    pub ids: &'a [ComponentId],
    pub nodes: &'a [Node],
    pub seen: &'a Observation,
    pub ledger: &'a Ledger,
    pub policy: &'a RestartPolicy,
    pub now: Stamp,
}

impl RestartInput<'_> {
    pub fn next(self) -> RestartStep {
        let refused = match self.watch_open() {
            Some(RestartStep::Wait(waiting)) if waiting.kind == WaitKind::Refused => Some(waiting),
            Some(other) => return other,
            None => None,
        };
        let needy: Vec<(&Node, String)> = self
            .nodes
            .iter()
            .filter_map(|node| need(&node.name, self.ids, self.ledger).map(|need| (node, need.to_string())))
            .collect();
        if needy.is_empty() {
            return RestartStep::Nothing;
        }
        if let Some(asked) = self.asked_of_human() {
            return self.by_hand(&asked, &needy);
        }
        let candidates: Vec<&(&Node, String)> = needy
            .iter()
            .filter(|(node, _)| open_restart(self.ledger, &node.name).is_none())
            .collect();
        let canary = self.ledger.canary.as_ref().filter(|_| !self.ledger.canary_passed);
        if let Some(first) = canary
            && !candidates.iter().any(|(node, _)| node.name == *first)
        {
            return RestartStep::Wait(refused.unwrap_or_else(|| RestartWait {
            kind: WaitKind::Canary,
            until: self.now.plus(self.seen.timings.canary_every),
            message: format!(
                "{first} was restarted first; {} waits until the edge's link to {first} works, which shows that the new rows do: if it does not come up, check TCP 7400 and imp[].router.secretRef",
                names(candidates.iter().map(|(node, _)| node.name.as_str()))
            ),
        }));
        }
        let mut later: Option<RestartWait> = refused;
        for (node, reason) in candidates {
            if canary.is_some_and(|first| *first != node.name) {
                continue;
            }
            let next = match self.closed(&node.name, &needy) {
                Some(waiting) => RestartStep::Wait(waiting),
                None => self.allowed(&node.name, reason),
            };
            match next {
                RestartStep::Wait(waiting) => {
                    if later.is_none() || matches!(waiting.kind, WaitKind::NotHealthy) {
                        later = Some(waiting);
                    }
                }
                other => return other,
            }
        }
        later.map_or(RestartStep::Nothing, RestartStep::Wait)
    }
}
