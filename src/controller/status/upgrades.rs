//! What a new release of the operator means for the edge pods: whose turn it is, and why nothing goes on.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::Inputs;
use crate::api::reasons::Reason;
use crate::api::request::CONTINUE_UPGRADE;
use crate::controller::names::ObjectName;
use crate::controller::turns::Wait;
use crate::controller::upgrade::{self, Progress};

/// Federations that are named.
const NAMED: usize = 3;

/// How far the pods are, as a column shows it.
pub(super) const fn word(progress: &Progress, halted: bool) -> &'static str {
    match progress {
        _ if halted => "Halted",
        Progress::Current => "Current",
        Progress::Rolls(_) => "Rolling",
        Progress::Waits(_) => "Waiting",
        Progress::Unknown => "Unknown",
    }
}

/// What the pods of an earlier release wait for; put behind another sentence.
pub(super) fn waits(inputs: &Inputs<'_>) -> Option<(Reason, String)> {
    let Progress::Waits(wait) = inputs.progress else {
        return None;
    };
    let why = match wait {
        Wait::Starting => "the operator has just started and looks at all federations first".to_owned(),
        Wait::Unsettled(until) => format!(
            "conditions of this federation changed lately; it takes its turn when it is Ready, or is judged as it is after {until}"
        ),
        Wait::Halted(by, since) => {
            let sentence = format!(
                ". They are to be replaced for this release of the operator and wait: the upgrade halts since {since}, because {} is not Ready again after its own; see its condition Stalled",
                shown(by)
            );
            return Some((Reason::UpgradeHalted, sentence));
        }
        Wait::Turn {
            rolling,
            ahead,
            waiting,
        } => {
            let place = match ahead {
                Some(0) => format!("it comes next, and {waiting} wait"),
                Some(ahead) => format!("{ahead} are ahead, and {waiting} wait"),
                None => "more than 10 are ahead".to_owned(),
            };
            match (ahead, named(rolling)) {
                (Some(_), Some(rolling)) => format!("{rolling} first; {place}"),
                _ => place,
            }
        }
    };
    Some((
        Reason::UpgradeWaits,
        format!(". They are to be replaced for this release of the operator, in their turn: {why}"),
    ))
}

/// Why no other federation is upgraded, if it is because of this one.
pub(super) fn halted(inputs: &Inputs<'_>, conditions: &[Condition]) -> Option<String> {
    let Progress::Rolls(turn) = inputs.progress else {
        return None;
    };
    let rollout = inputs.view.existing.rollout();
    let over = upgrade::over(inputs.progress, rollout, conditions, inputs.now);
    if turn.held.is_empty() || turn.until > inputs.now || over.is_some() {
        return None;
    }
    let lost = upgrade::lost(turn, conditions);
    let what = if lost.is_empty() {
        "its edge pods are not all replaced".to_owned()
    } else {
        format!("{} was True and is not True again", lost.join(", "))
    };
    Some(format!(
        "the upgrade of all federations halts: the edge pods of this one are replaced because of the operator's release since {}, and {what} (limit {}). Correct what its conditions say, go back to the former release of the operator, or go on without it: kubectl annotate xfed {} -n {} {CONTINUE_UPGRADE}=\"$(date +%s)\" --overwrite",
        turn.since, turn.until, inputs.valid.owner.name, inputs.valid.owner.namespace,
    ))
}

fn shown(name: &ObjectName) -> String {
    format!("{}/{}", name.namespace, name.name)
}

fn named(names: &[ObjectName]) -> Option<String> {
    let first: Vec<String> = names.iter().take(NAMED).map(shown).collect();
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let have = if names.len() == 1 {
        "has its turn"
    } else {
        "have their turns"
    };
    (!first.is_empty()).then(|| format!("{}{more} {have}", first.join(", ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;

    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::super::testing::{status, verdict, with_inputs, world};
    use crate::api::conditions::{Status, Type};
    use crate::api::status::XmppFederationStatus;
    use crate::controller::kube::Kind;
    use crate::controller::objects::ExistingObject;
    use crate::controller::record::{TEMPLATE, TemplateRecord, Turn};
    use crate::controller::status;
    use crate::controller::testing::owner;
    use crate::controller::turns::Wait;
    use crate::controller::upgrade::Progress;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn in_turn(rolling: &[&str], ahead: Option<usize>) -> Wait {
        Wait::Turn {
            rolling: rolling.iter().map(|name| owner().sibling(name)).collect(),
            ahead,
            waiting: 7,
        }
    }

    #[rstest]
    #[case::next(in_turn(&["a"], Some(0)), "UpgradeWaits", "in their turn: federation/a has its turn first; it comes next, and 7 wait")]
    #[case::behind(in_turn(&["a", "b"], Some(4)), "UpgradeWaits", "federation/a, federation/b have their turns first; 4 are ahead, and 7 wait")]
    #[case::many(in_turn(&["a", "b", "c", "d"], Some(4)), "UpgradeWaits", "federation/c and 1 more have their turns")]
    #[case::nobody_yet(in_turn(&[], Some(4)), "UpgradeWaits", "in their turn: 4 are ahead")]
    #[case::far_behind(in_turn(&["a"], None), "UpgradeWaits", "in their turn: more than 10 are ahead")]
    #[case::unsettled(
        Wait::Unsettled(at(60)),
        "UpgradeWaits",
        "or is judged as it is after 2023-11-14T22:14:20Z"
    )]
    #[case::starting(Wait::Starting, "UpgradeWaits", "has just started")]
    #[case::halted(Wait::Halted(owner().sibling("a"), at(0)), "UpgradeHalted", "halts since 2023-11-14T22:13:20Z, because federation/a is not Ready again")]
    fn a_federation_that_waits_is_available_and_says_for_whom(
        #[case] wait: Wait,
        #[case] reason: &str,
        #[case] says: &str,
    ) {
        let mut world = world("", Value::Null);
        world.progress = Progress::Waits(wait);
        status(&mut world).version = Some("0.0.9".to_owned());
        let told = verdict(&world, Type::EdgeAvailable);
        assert_eq!((told.status, told.reason.as_str()), (Status::True, reason));
        for says in [
            "1 of 1 edge pods are ready",
            says,
            "coluc-edge-0 (0.0.9). They are replaced in their turn",
        ] {
            assert!(told.message.contains(says), "{}", told.message);
        }
        let edge = with_inputs(&world, |inputs| {
            status::run(inputs, &XmppFederationStatus::default(), Some(1))
        })
        .edge
        .unwrap();
        assert_eq!(
            (edge.upgrade.as_deref(), edge.release.as_deref()),
            (Some("Waiting"), Some("0.0.9"))
        );
    }

    /// Seconds until which the pod may be unready, and whether it is ready; the column, and whether the resource is Stalled.
    #[rstest]
    #[case::in_time(60, false, "Rolling", false)]
    #[case::too_late(0, false, "Halted", true)]
    #[case::too_late_and_again(0, true, "Rolling", false)]
    fn one_that_is_not_ready_again_in_time_halts_the_upgrade(
        #[case] until: i64,
        #[case] ready: bool,
        #[case] word: &str,
        #[case] stalled: bool,
    ) {
        let mut world = world("", Value::Null);
        let turn = Turn {
            since: at(-600),
            until: at(until),
            held: vec!["EdgeAvailable".to_owned()],
        };
        let record = TemplateRecord {
            release: "0.1.0".to_owned(),
            inputs: "in".to_owned(),
            turn: Some(turn.clone()),
            template: json!({}),
        };
        let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {"replicas": 1},
            "metadata": {"name": "coluc-edge", "generation": 2,
                "annotations": {TEMPLATE: serde_json::to_string(&record).unwrap()}},
            "status": {"observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": 1}});
        let set = ExistingObject::new(Kind::StatefulSet, serde_json::from_value(set).unwrap(), None);
        world.stateful_set = Some(Arc::new(set));
        world.progress = Progress::Rolls(turn);
        Arc::make_mut(&mut world.pods.first_mut().unwrap().pod).ready = ready;
        let told = with_inputs(&world, |inputs| {
            status::run(inputs, &XmppFederationStatus::default(), Some(1))
        });
        assert_eq!(told.edge.unwrap().upgrade.as_deref(), Some(word));
        let by_upgrade = |c: &&Condition| c.type_ == "Stalled" && c.reason == "UpgradeHalted";
        let condition = told.conditions.iter().find(by_upgrade);
        assert_eq!(condition.is_some(), stalled);
        for says in [
            "EdgeAvailable was True and is not True again (limit 2023-11-14T22:13:20Z)",
            "kubectl annotate xfed coluc -n federation xmppfederation.io/continue-upgrade=",
        ] {
            assert!(condition.is_none_or(|c| c.message.contains(says)), "{condition:?}");
        }
    }
}
