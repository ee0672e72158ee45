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

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use xmpp_federation_core::ComponentId;

use super::axl::Node;
use super::clock::{Elapsed, Stamp};
use super::control_center::ServiceState;
use super::desired::{RestartMode, RestartPolicy};
use super::ledger::{Baseline, Ledger, Restart, RestartAnswer, RoundCause};
use super::observation::{Observation, Seen, Services};
use super::timings::Timings;

/// Whole seconds are read; the router may have started up to this much earlier.
const UP_TIME_ERROR_MS: i64 = 1_000;

/// How a human restarts a router.
pub const BY_HAND: &str = "in Cisco Unified IM and Presence Serviceability > Tools > Control Center - Network Services, select the node and restart Cisco XCP Router, or on the node's command line: utils service restart Cisco XCP Router";

/// The next thing to do about restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// No router needs anything.
    Nothing,
    /// Look at this node's services now.
    Read(String),
    /// Restart this node's router, for this reason.
    Restart {
        /// Node name.
        node: String,
        /// Why, as a sentence.
        reason: String,
    },
    /// Not now.
    Wait(Waiting),
}

/// Why not now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// What for.
    pub kind: WaitKind,
    /// When to look again.
    pub until: Stamp,
    /// A sentence.
    pub message: String,
}

/// What a restart waits for.
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
    /// `minInterval`.
    MinInterval,
    /// All nodes to be healthy and readable.
    NotHealthy,
    /// A command whose arrival nobody told of to have arrived, if it ever does.
    OnItsWay,
    /// The first node's link.
    Canary,
    /// A call that failed without effect to be repeated.
    CallFailed,
    /// Room for the calls in IM&P's rate limit.
    Budget,
}

/// What the planner needs.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Desired ids; all of them were read back.
    pub ids: &'a [ComponentId],
    /// The nodes.
    pub nodes: &'a [Node],
    /// What was seen.
    pub seen: &'a Observation,
    /// The record.
    pub ledger: &'a Ledger,
    /// The policy.
    pub policy: &'a RestartPolicy,
    /// The clock.
    pub now: Stamp,
}

/// Whether a node's router provably started after the baseline.
pub fn started_after(
    baseline: &Baseline,
    node: &str,
    services: &BTreeMap<String, Seen<Services>>,
) -> bool {
    let Some((seen, up_time)) = running(node, services) else {
        return false;
    };
    if let Some(mark) = baseline.up_times.get(node)
        && up_time.saturating_add(1) < mark.seconds
    {
        // The UpTime went back: no clock is needed.
        return true;
    }
    let up_ms = i64::try_from(up_time.saturating_mul(1_000)).unwrap_or(i64::MAX);
    let earliest = up_ms.saturating_add(UP_TIME_ERROR_MS);
    if seen.asked.process == baseline.at.process {
        let asked = i64::try_from(seen.asked.mono_ms).unwrap_or(0);
        let at = i64::try_from(baseline.at.mono_ms).unwrap_or(i64::MAX);
        return asked.saturating_sub(earliest) >= at;
    }
    // Another process wrote the baseline, and wall clocks prove nothing: another router's UpTime
    // is the clock. Since it was marked, at least that time has passed by which it grew.
    baseline.up_times.iter().any(|(other, mark)| {
        running(other, services).is_some_and(|(clock, now)| {
            let Some(grown) = now.checked_sub(mark.seconds) else {
                return false;
            };
            let grown_ms = i64::try_from(grown.saturating_mul(1_000)).unwrap_or(0);
            let between = i64::try_from(seen.asked.mono_ms).unwrap_or(0)
                - i64::try_from(clock.answered.mono_ms).unwrap_or(i64::MAX);
            seen.asked.process == clock.answered.process
                && between + grown_ms - UP_TIME_ERROR_MS >= earliest
        })
    })
}

fn running<'a>(
    node: &str,
    services: &'a BTreeMap<String, Seen<Services>>,
) -> Option<(&'a Seen<Services>, u64)> {
    let seen = services.get(node)?;
    match (seen.value.router, seen.value.up_time) {
        (ServiceState::Started, Some(up_time)) => Some((seen, up_time)),
        _ => None,
    }
}

/// Why a router has to be restarted; displays as a sentence's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Rows that it has not read, by component id.
    Rows(Vec<ComponentId>),
    /// A round that was asked for, or that IM&P's own federation calls for.
    Round(RoundCause),
}

impl Need {
    /// The word used in metrics.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Rows(_) => "rows",
            Self::Round(RoundCause::Requested(_)) => "requested",
            Self::Round(RoundCause::FederationOff) => "federation-off",
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(ids) => write!(
                f,
                "its router has not read the new row of {}",
                names(ids.iter().map(ComponentId::as_str))
            ),
            Self::Round(RoundCause::Requested(token)) => write!(
                f,
                "the annotation xmppfederation.io/restart-routers asks for it ({token:?})"
            ),
            Self::Round(RoundCause::FederationOff) => {
                f.write_str("IM&P's own XMPP federation was turned off")
            }
        }
    }
}

/// Why this node's router has to be restarted, if it has to.
pub fn need(node: &str, ids: &[ComponentId], ledger: &Ledger) -> Option<Need> {
    let unread: Vec<ComponentId> = ids
        .iter()
        .filter(|id| asks_restart(id, ledger) && !ledger.has_loaded(node, id))
        .cloned()
        .collect();
    if !unread.is_empty() {
        return Some(Need::Rows(unread));
    }
    ledger
        .rounds
        .iter()
        .find(|round| round.pending.contains(node))
        .map(|round| Need::Round(round.cause.clone()))
}

fn asks_restart(id: &ComponentId, ledger: &Ledger) -> bool {
    ledger
        .rows
        .values()
        .any(|row| row.component_id == *id && row.asks_restart)
}

/// Plans.
pub fn next(input: Input<'_>) -> Next {
    let Input {
        ids,
        nodes,
        ledger,
        now,
        ..
    } = input;
    let refused = match watch_open(input) {
        Some(Next::Wait(waiting)) if waiting.kind == WaitKind::Refused => Some(waiting),
        Some(other) => return other,
        None => None,
    };
    let needy: Vec<(&Node, String)> = nodes
        .iter()
        .filter_map(|node| need(&node.name, ids, ledger).map(|need| (node, need.to_string())))
        .collect();
    if needy.is_empty() {
        return Next::Nothing;
    }
    if let Some(asked) = asked_of_human(input) {
        return by_hand(input, &asked, &needy);
    }
    let candidates: Vec<&(&Node, String)> = needy
        .iter()
        .filter(|(node, _)| open_restart(ledger, &node.name).is_none())
        .collect();
    let canary = ledger.canary.as_ref().filter(|_| !ledger.canary_passed);
    if let Some(first) = canary
        && !candidates.iter().any(|(node, _)| node.name == *first)
    {
        return Next::Wait(refused.unwrap_or_else(|| Waiting {
            kind: WaitKind::Canary,
            until: now.plus(input.seen.timings.canary_every),
            message: format!(
                "{first} was restarted first; {} waits until the edge's link to {first} works, which shows that the new rows do: if it does not come up, check TCP 7400 and imp[].router.secretRef",
                names(candidates.iter().map(|(node, _)| node.name.as_str()))
            ),
        }));
    }
    let mut later: Option<Waiting> = refused;
    for (node, reason) in candidates {
        if canary.is_some_and(|first| *first != node.name) {
            continue;
        }
        match allowed(input, &node.name, reason) {
            Next::Wait(waiting) => {
                if later.is_none() || matches!(waiting.kind, WaitKind::NotHealthy) {
                    later = Some(waiting);
                }
            }
            other => return other,
        }
    }
    later.map_or(Next::Nothing, Next::Wait)
}

/// What is to be done about commands whose outcome is open; `None` without any. Where a human is
/// asked for something that is not needed any more, there is nothing to ask for.
pub fn watch_open(input: Input<'_>) -> Option<Next> {
    let mut refused: Option<Waiting> = None;
    for node in input.nodes {
        let Some(restart) = open_restart(input.ledger, &node.name) else {
            continue;
        };
        let (kind, next) = watch(input, &node.name, restart);
        match next {
            _ if kind != WaitKind::Restarting
                && need(&node.name, input.ids, input.ledger).is_none() => {}
            Next::Wait(waiting) if kind == WaitKind::Refused => {
                refused = Some(match refused {
                    None => waiting,
                    Some(other) => Waiting {
                        kind,
                        until: if other.until.mono_ms < waiting.until.mono_ms {
                            other.until
                        } else {
                            waiting.until
                        },
                        message: format!("{}; {}", other.message, waiting.message),
                    },
                });
            }
            other => return Some(other),
        }
    }
    refused
        .map(|waiting| Waiting {
            message: format!("{}. Restart it by hand: {BY_HAND}", waiting.message),
            ..waiting
        })
        .map(Next::Wait)
}

fn open_restart<'a>(ledger: &'a Ledger, node: &str) -> Option<&'a Restart> {
    ledger
        .nodes
        .get(node)
        .and_then(|record| record.restart.as_ref())
}

/// Whether this node may be restarted right now.
fn allowed(input: Input<'_>, node: &str, reason: &str) -> Next {
    let Input {
        nodes,
        seen,
        ledger,
        policy,
        now,
        ..
    } = input;
    if let Some((not_before, why)) = seen.restart_not_before.get(node) {
        let left = not_before.since(&now);
        if left.reached(Duration::from_millis(1)) {
            return Next::Wait(Waiting {
                kind: WaitKind::CallFailed,
                until: *not_before,
                message: format!("the restart of {node} is tried again later: {why}"),
            });
        }
    }
    if let Some(last) = ledger
        .nodes
        .get(node)
        .and_then(|record| record.last_restart)
    {
        let elapsed = now.since(&last);
        if !asked_since(ledger, node)
            && !policy.min_interval.is_zero()
            && !elapsed.reached(policy.min_interval)
        {
            return Next::Wait(Waiting {
                kind: WaitKind::MinInterval,
                until: now.plus(elapsed.left(policy.min_interval)),
                message: format!(
                    "{node} was restarted at {} and imp[].restart.minInterval is {} s; the annotation xmppfederation.io/restart-routers overrides it. Needed because {reason}",
                    last.wall,
                    policy.min_interval.as_secs()
                ),
            });
        }
    }
    if let Some(waiting) = nodes
        .iter()
        .find_map(|other| on_its_way(input, node, &other.name, reason))
    {
        return Next::Wait(waiting);
    }
    // Looks at all nodes, the command and the first look after it have to fit into the budget
    // together, or the first look would be too old when its turn to be used comes.
    let stale = nodes
        .iter()
        .filter(|other| to_be_read(input, node, &other.name))
        .count();
    let room = seen.budget_wait(stale + 2, &now);
    if !room.is_zero() {
        return Next::Wait(Waiting {
            kind: WaitKind::Budget,
            until: now.plus(room),
            message: format!(
                "the restart of {node} waits for IM&P's rate limit; it is needed because {reason}"
            ),
        });
    }
    if let Some(not_yet) = unhealthy(input, node) {
        return not_yet;
    }
    if let Some(not_yet) = just_started(input, node, reason) {
        return not_yet;
    }
    Next::Restart {
        node: node.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Whether `other` has to be looked at before `node` is restarted.
fn to_be_read(input: Input<'_>, node: &str, other: &str) -> bool {
    !is_fresh(input, other) || is_unsettled(input.ledger, node, other)
}

/// Every node, this one included, has to be seen healthy, just now.
fn unhealthy(input: Input<'_>, node: &str) -> Option<Next> {
    let Input {
        nodes, seen, now, ..
    } = input;
    for other in nodes {
        let name = &other.name;
        if let Some(failure) = seen.control_center_failures.get(name)
            && failure
                .retry_at
                .since(&now)
                .reached(Duration::from_millis(1))
        {
            return Some(Next::Wait(Waiting {
                kind: WaitKind::NotHealthy,
                until: failure.retry_at,
                message: format!(
                    "no router is restarted while the state of {name} is not known: {}",
                    failure.error
                ),
            }));
        }
        let Some(services) = seen.services.get(name) else {
            return Some(Next::Read(name.clone()));
        };
        if to_be_read(input, node, name) {
            return Some(Next::Read(name.clone()));
        }
        if services.value.router != ServiceState::Started || services.value.up_time.is_none() {
            return Some(Next::Wait(Waiting {
                kind: WaitKind::NotHealthy,
                until: now.plus(now.since(&services.asked).left(seen.timings.fresh)),
                message: format!(
                    "no router is restarted while that of {name} is {:?}{}",
                    services.value.router,
                    if services.value.up_time.is_none() {
                        " without an UpTime"
                    } else {
                        ""
                    }
                ),
            }));
        }
    }
    None
}

/// The start of a router that has just started could be taken for the one that is to come.
fn just_started(input: Input<'_>, node: &str, reason: &str) -> Option<Next> {
    let provable = provable_up_time(input.seen.timings);
    if let Some(services) = input.seen.services.get(node)
        && let Some(up_time) = services.value.up_time.filter(|up_time| *up_time < provable)
    {
        let since = match input.now.since(&services.asked) {
            Elapsed::Certain(since) => since.as_secs(),
            Elapsed::Estimated(_) => 0,
        };
        let left = provable.saturating_sub(up_time.saturating_add(since));
        if left == 0 {
            return Some(Next::Read(node.to_owned()));
        }
        return Some(Next::Wait(Waiting {
            kind: WaitKind::NotHealthy,
            until: input.now.plus(Duration::from_secs(left)),
            message: format!(
                "Cisco XCP Router on {node} has just started; it is restarted when it is up for {provable} s, so that one start can be told from the next. Needed because {reason}"
            ),
        }));
    }
    None
}

/// The up time in seconds from which on a restart is proven by a smaller one even where the first
/// look behind it has to wait for its turn.
fn provable_up_time(timings: Timings) -> u64 {
    let looked = timings.first_look + timings.look_every;
    looked.as_secs() + 2
}

/// Whether a human asked for a restart of this node after the last command to it: a request
/// stays pending until a start behind a command for it is proven.
fn asked_since(ledger: &Ledger, node: &str) -> bool {
    ledger.rounds.iter().any(|round| {
        matches!(round.cause, RoundCause::Requested(_)) && round.pending.contains(node)
    })
}

/// Whether a command to `other` may be on its way, or was not followed by a look since its time
/// ran out, and that keeps `node` from being restarted.
fn is_unsettled(ledger: &Ledger, node: &str, other: &str) -> bool {
    let excused = node == other && asked_since(ledger, node);
    !excused && ledger.on_its_way(other).is_some()
}

/// The wait for a command to `other` that may still arrive.
fn on_its_way(input: Input<'_>, node: &str, other: &str, reason: &str) -> Option<Waiting> {
    let Input { ledger, now, .. } = input;
    if !is_unsettled(ledger, node, other) {
        return None;
    }
    let since = ledger.on_its_way(other)?;
    let latest = input.seen.timings.latest_arrival;
    let left = match now.since(&since) {
        Elapsed::Certain(elapsed) => latest.saturating_sub(elapsed),
        Elapsed::Estimated(_) => latest,
    };
    let until = now.plus(left);
    (!left.is_zero()).then(|| Waiting {
        kind: WaitKind::OnItsWay,
        until,
        message: format!(
            "{node} is not restarted before {}: a command to restart Cisco XCP Router on {other} was sent or may have been sent, what became of it was not told, and until then it may still arrive. Needed because {reason}",
            until.wall.strftime("%Y-%m-%d %H:%M:%S UTC")
        ),
    })
}

/// Whether a node was looked at lately, and later than its rows were readable.
fn is_fresh(input: Input<'_>, node: &str) -> bool {
    input.seen.services.get(node).is_some_and(|services| {
        !input
            .now
            .since(&services.asked)
            .reached(input.seen.timings.fresh)
            && asked_after_rows(services, input.ledger)
    })
}

/// A look that is to be the "before" of a proof has to be later than the rows.
fn asked_after_rows(services: &Seen<Services>, ledger: &Ledger) -> bool {
    ledger.readable.as_ref().is_none_or(|readable| {
        match services.asked.since(&readable.baseline.at) {
            Elapsed::Certain(_) => services.asked.mono_ms >= readable.baseline.at.mono_ms,
            Elapsed::Estimated(_) => true,
        }
    })
}

/// A command whose outcome is open.
fn watch(input: Input<'_>, node: &str, restart: &Restart) -> (WaitKind, Next) {
    let now = input.now;
    let elapsed = now.since(&restart.planned);
    let state = input
        .seen
        .services
        .get(node)
        .map_or("not seen since".to_owned(), |services| {
            format!("last seen {:?}", services.value.router)
        });
    let (kind, message) = match &restart.answer {
        Some(RestartAnswer::Refused(why)) => (
            WaitKind::Refused,
            format!("{node} refuses to restart Cisco XCP Router over Control Center ({why})"),
        ),
        Some(RestartAnswer::Accepted) if elapsed.reached(input.seen.timings.restart_deadline) => (
            WaitKind::Hangs,
            format!(
                "the restart of Cisco XCP Router on {node} accepted at {} is not over ({state}). Look at the node, restart the service by hand ({BY_HAND}), or let it be commanded once more with the annotation xmppfederation.io/restart-routers",
                restart.planned.wall
            ),
        ),
        Some(RestartAnswer::Accepted) => (
            WaitKind::Restarting,
            format!("Cisco XCP Router on {node} is restarting ({state})"),
        ),
        Some(RestartAnswer::Ambiguous(_)) | None
            if !elapsed.reached(input.seen.timings.ambiguous_deadline)
                && elapsed != Elapsed::Estimated(None) =>
        {
            (
                WaitKind::Restarting,
                format!(
                    "whether the restart of Cisco XCP Router on {node} was carried out is not known; it is watched ({state})"
                ),
            )
        }
        Some(RestartAnswer::Ambiguous(why)) => (
            WaitKind::OutcomeUnknown,
            format!(
                "whether the restart of Cisco XCP Router on {node} commanded at {} was carried out is not known ({why}); it is not repeated unasked. Restart it by hand ({BY_HAND}), or let it be commanded once more with the annotation xmppfederation.io/restart-routers",
                restart.planned.wall
            ),
        ),
        None => (
            WaitKind::OutcomeUnknown,
            format!(
                "whether the restart of Cisco XCP Router on {node} planned at {} was sent before the operator stopped is not known; it is not repeated unasked. Restart it by hand ({BY_HAND}), or let it be commanded with the annotation xmppfederation.io/restart-routers",
                restart.planned.wall
            ),
        ),
    };
    let every = match kind {
        WaitKind::Restarting if !elapsed.reached(Duration::from_mins(1)) => {
            input.seen.timings.look_every
        }
        WaitKind::Restarting => input.seen.timings.look_slowly,
        _ => Duration::from_mins(1),
    };
    let first = match elapsed {
        Elapsed::Certain(elapsed) => input.seen.timings.first_look.saturating_sub(elapsed),
        Elapsed::Estimated(_) => Duration::ZERO,
    };
    (
        kind,
        look(
            input,
            node,
            first,
            every,
            Waiting {
                kind,
                until: now,
                message,
            },
        ),
    )
}

/// Reads when it is time to, else waits until then.
fn look(input: Input<'_>, node: &str, first: Duration, every: Duration, waiting: Waiting) -> Next {
    let Input { seen, now, .. } = input;
    let again = seen.services.get(node).map_or(Duration::ZERO, |services| {
        now.since(&services.asked).left(every)
    });
    let failure = seen
        .control_center_failures
        .get(node)
        .map_or(Duration::ZERO, |failure| {
            match failure.retry_at.since(&now) {
                Elapsed::Certain(left) => left,
                Elapsed::Estimated(_) => Duration::ZERO,
            }
        });
    let left = first.max(again).max(failure);
    if left.is_zero() {
        return Next::Read(node.to_owned());
    }
    Next::Wait(Waiting {
        until: now.plus(left.max(Duration::from_millis(100))),
        ..waiting
    })
}

/// What a human is asked for where the mode is Manual; `None` where no router needs anything.
pub fn asked_of_human(input: Input<'_>) -> Option<Waiting> {
    let needy: Vec<(&str, String)> = input
        .nodes
        .iter()
        .filter_map(|node| {
            Some((
                node.name.as_str(),
                need(&node.name, input.ids, input.ledger)?.to_string(),
            ))
        })
        .collect();
    let (_, reason) = needy.first()?;
    (input.policy.mode == RestartMode::Manual).then(|| Waiting {
        kind: WaitKind::ByHand,
        until: input.now,
        message: format!(
            "imp[].restart.mode is Manual: restart Cisco XCP Router on {}, one node after the other; {reason}. How: {BY_HAND}",
            names(needy.iter().map(|(node, _)| *node))
        ),
    })
}

/// Looks at the nodes that a human has to restart.
fn by_hand(input: Input<'_>, asked: &Waiting, needy: &[(&Node, String)]) -> Next {
    let mut soonest: Option<Waiting> = None;
    for (node, _) in needy {
        match look(
            input,
            &node.name,
            Duration::ZERO,
            input.seen.timings.look_slowly,
            asked.clone(),
        ) {
            Next::Wait(waiting) => {
                let sooner = soonest
                    .as_ref()
                    .is_none_or(|other| waiting.until.mono_ms < other.until.mono_ms);
                if sooner {
                    soonest = Some(waiting);
                }
            }
            read => return read,
        }
    }
    soonest.map_or(Next::Nothing, Next::Wait)
}

/// `a`, `a and b`, `a, b and c`.
pub fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    let Some(last) = names.pop() else {
        return "no node".to_owned();
    };
    if names.is_empty() {
        last.to_owned()
    } else {
        format!("{} and {last}", names.join(", "))
    }
}
