//! Which pod template a StatefulSet gets now: the wanted one, or the one that it has while the federation waits for its
//! [turn](super::turns). Pure.
//!
//! A template that differs because of the resource never waits. The record on the StatefulSet tells the two apart, also
//! for an operator that has just started.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};
use xmpp_federation_core::Release;

use super::build::{DesiredObject, DesiredObjects};
use super::objects::Rollout;
use super::record::{TEMPLATE, TemplateInForce, TemplateRecord, Turn};
use super::turns::{GIVEN_UP, Permission, Report, SETTLED, Wait};
use crate::api::XmppFederation;
use crate::api::conditions::{self, Type};
use crate::api::reasons::Reason;

/// What shows whether a federation works: those of them that were True have to be True again.
const SHOWN_BY: [Type; 3] = [Type::Ready, Type::EdgeAvailable, Type::RouterLinksUp];

/// How far a federation is with the template of this release.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Progress {
    /// Its pods are made from the wanted template, and it works.
    #[default]
    Current,
    Waits(Wait),
    /// The wanted template replaced another one because of the release; it does not work again yet.
    Rolls(Turn),
    /// Its pods cannot be made now.
    Unknown,
}

/// What decides about the template, besides the objects.
pub struct Question<'a> {
    /// The pods' controller as it is; `None`: there is none.
    pub rollout: Option<&'a Rollout>,
    /// Whether an earlier operator has accepted this generation of the resource.
    pub accepted: bool,
    pub permission: Permission,
    /// How many federations are upgraded at a time; 0: all.
    pub at_once: u16,
    /// For how long a federation may not work, if its pods came at once.
    pub patience: Duration,
    /// The turn that is over.
    pub over: Option<Turn>,
    /// A person does not want to wait for the end of the turn.
    pub goes_on: bool,
    pub now: Timestamp,
}

/// Whether an earlier operator worked by this generation of the resource.
pub fn was_accepted(object: &XmppFederation) -> bool {
    let refused = [Reason::SpecInvalid, Reason::SpecUnreadable, Reason::UsedTwice];
    object.status.as_ref().is_some_and(|status| {
        let mut stalled = status.conditions.iter().filter(|c| c.type_ == Type::Stalled.as_str());
        let refused = stalled.any(|c| refused.iter().any(|reason| reason.as_str() == c.reason));
        status.observed_generation == object.metadata.generation && !refused
    })
}

/// Gives the StatefulSet its template and the record of it.
pub fn plan(desired: &mut DesiredObjects, question: &Question<'_>) -> Progress {
    let DesiredObject::Present(set) = &mut desired.stateful_set else {
        let turn = question.rollout.and_then(|rollout| rollout.template.turn.clone());
        return turn.map_or(Progress::Unknown, Progress::Rolls);
    };
    let wanted = set.pointer("/spec/template").cloned().unwrap_or_default();
    let time = question.patience + replacement_time(set);
    let inputs = &desired.template_inputs;
    let (template, turn, progress) = decide(wanted, inputs, time, question);
    let record = TemplateRecord {
        release: own_release(),
        inputs: inputs.clone(),
        turn,
        template: template.clone(),
    };
    let record = serde_json::to_string(&record).unwrap_or_default();
    if let Some(place) = set.pointer_mut("/spec/template") {
        *place = template;
    }
    if let Some(metadata) = set.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(TEMPLATE.to_owned(), json!(record));
        }
    }
    progress
}

/// The template, the turn that goes with it, and how far the federation is; `time`: how long a turn may last.
fn decide(wanted: Value, inputs: &str, time: Duration, question: &Question<'_>) -> (Value, Option<Turn>, Progress) {
    let Some(found) = question.rollout.map(|rollout| &rollout.template) else {
        return (wanted, None, Progress::Current);
    };
    let TemplateInForce { made_of, turn, .. } = found;
    let ends = question.goes_on || question.at_once == 0 || *turn == question.over;
    let turn = turn.clone().filter(|_| !ends);
    if found.is(&wanted) {
        let progress = turn.clone().map_or(Progress::Current, Progress::Rolls);
        return (wanted, turn, progress);
    }
    // Releases may see the inputs differently, so theirs alone do not tell that the resource changed.
    let by_resource = match made_of {
        Some((release, before)) => before != inputs && (*release == own_release() || !question.accepted),
        None => !question.accepted,
    };
    let begun = |since: Timestamp, held: &[String]| {
        let time = if held.is_empty() { GIVEN_UP } else { time };
        Some(Turn {
            since: seconds(since),
            until: seconds(since + time),
            held: held.to_vec(),
        })
    };
    let turn = match (&turn, &question.permission) {
        // What began goes on with another template, as that of the former release.
        (Some(turn), _) => begun(question.now, &turn.held),
        (None, _) if by_resource || question.at_once == 0 => None,
        (None, Permission::Granted { since, held }) => begun(*since, held),
        (None, Permission::Waits(wait)) => {
            return match found.template() {
                Some(in_force) => (in_force, None, Progress::Waits(wait.clone())),
                None => (wanted, None, Progress::Current),
            };
        }
    };
    let progress = turn.clone().map_or(Progress::Current, Progress::Rolls);
    (wanted, turn, progress)
}

fn own_release() -> String {
    Release::own().to_string()
}

/// What the pods take one after the other: each ends, and its successor has to be ready for a while.
fn replacement_time(set: &Value) -> Duration {
    let number = |pointer: &str| set.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let each = number("/spec/template/spec/terminationGracePeriodSeconds") + number("/spec/minReadySeconds");
    Duration::from_secs(each.saturating_mul(number("/spec/replicas")))
}

/// Whole seconds: a record is compared with what was read.
fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// The turn under way, if it is over.
pub fn over(progress: &Progress, rollout: Option<&Rollout>, conditions: &[Condition], now: Timestamp) -> Option<Turn> {
    match (progress, rollout) {
        (Progress::Rolls(turn), Some(rollout)) if is_over(turn, rollout, conditions, now) => Some(turn.clone()),
        _ => None,
    }
}

/// Whether the turn is over: the pods are replaced, and what was True is True again.
fn is_over(turn: &Turn, rollout: &Rollout, conditions: &[Condition], now: Timestamp) -> bool {
    // What was read may be older than the write with which the turn began.
    if rollout.template.turn.as_ref() != Some(turn) {
        return false;
    }
    let rolled = rollout.is_over();
    if turn.held.is_empty() {
        return rolled || turn.until <= now;
    }
    // By its own status: pods and their controller are watched apart.
    let pods = |held: &String| held != Type::RouterLinksUp.as_str();
    let available = rollout.available || !turn.held.iter().any(pods);
    rolled && available && lost(turn, conditions).is_empty()
}

/// Conditions that were True and are not.
pub fn lost<'a>(turn: &'a Turn, conditions: &[Condition]) -> Vec<&'a str> {
    let holds = |held: &&String| conditions::find(conditions, held).is_some_and(|c| c.status == "True");
    let lost = turn.held.iter().filter(|held| !holds(held));
    lost.map(String::as_str).collect()
}

/// Those conditions that show whether a federation works.
fn shown(conditions: &[Condition]) -> impl Iterator<Item = &Condition> {
    SHOWN_BY
        .into_iter()
        .filter_map(|kind| conditions::find(conditions, kind.as_str()))
}

/// Conditions that are True and show that a federation works.
pub fn held(conditions: &[Condition]) -> Vec<String> {
    let holding = shown(conditions).filter(|c| c.status == "True");
    holding.map(|c| c.type_.clone()).collect()
}

/// What the roster is told of a federation, by its new conditions.
pub fn report(progress: &Progress, created: Option<Timestamp>, conditions: &[Condition], now: Timestamp) -> Report {
    match progress {
        Progress::Current => Report::Current,
        Progress::Unknown => Report::Idle,
        Progress::Rolls(turn) => Report::Rolling(turn.clone()),
        Progress::Waits(_) => {
            let lost = shown(conditions).filter(|c| c.status != "True");
            let settles = lost.map(|c| c.last_transition_time.0 + SETTLED).max();
            Report::Waiting {
                created,
                held: held(conditions),
                settles: settles.filter(|settles| *settles > now),
            }
        }
    }
}

#[cfg(test)]
mod tests;
