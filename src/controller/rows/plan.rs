//! What a deletion does next about one IM&P cluster. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::api::spec::{ImpSpec, OnDelete};
use crate::api::{XmppFederation, request};
use crate::controller::{finalizer, requests};
use xmpp_federation_imp::report::Removal;

/// A process that has just started tries for this long before it gives up what another one was
/// asked to remove: an operator that was away has not tried.
const GRACE: Duration = Duration::from_secs(30);

/// A removal that failed, or may not be tried, is looked at again after this at the latest.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// What a deletion does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing of ours is left, or nothing was ever written.
    Release,
    /// Rows stay, because the spec wants it so.
    Retain,
    /// Rows may be left; the sentence says why they are not removed.
    GiveUp(String),
    /// Rows are removed.
    Remove,
    /// Nothing may be done now, or it failed; the sentence says why and until when.
    Wait(String),
}

/// How long a deletion goes on already.
#[derive(Debug, Clone, Copy)]
pub struct Age {
    /// When it was asked for.
    pub asked: Timestamp,
    /// Now.
    pub now: Timestamp,
    /// For how long this process has been at it.
    pub at_it: Duration,
}

impl Age {
    /// What is left of `deletionTimeout`, which counts while removal is tried and fails, whatever
    /// the cause; zero: it is over.
    pub fn left(self, imp: &ImpSpec) -> Duration {
        let timeout = imp.deletion_timeout.get();
        let asked = Duration::try_from(self.now.duration_since(self.asked)).unwrap_or_default();
        let grace = timeout.min(GRACE).saturating_sub(self.at_it);
        timeout.saturating_sub(asked).max(grace)
    }

    /// When it is over, to the second, unless the operator was away.
    fn end(self, imp: &ImpSpec) -> String {
        let timeout = SignedDuration::try_from(imp.deletion_timeout.get()).unwrap_or_default();
        self.asked
            .saturating_add(timeout)
            .map_or_else(|_| "deletionTimeout".to_owned(), |end| end.to_string())
    }

    /// When to look again, given when the removal itself wants to go on.
    pub fn again(self, imp: &ImpSpec, wanted: Duration) -> Duration {
        let last = self.left(imp).max(Duration::from_millis(100));
        wanted.clamp(Duration::from_millis(100), LOOK_AGAIN).min(last)
    }
}

/// Decides before anything is tried.
pub fn plan(object: &XmppFederation, imp: &ImpSpec, age: Age) -> Step {
    if !finalizer::is_on(object) {
        return Step::Release;
    }
    if imp.on_delete == OnDelete::Retain {
        return Step::Retain;
    }
    if requests::abandons(object) {
        return Step::GiveUp(format!("the annotation {} asks for it", request::ABANDON_ROWS));
    }
    let which = match (object.spec.paused, imp.maintenance) {
        (true, _) => "spec.paused is true".to_owned(),
        (false, true) => format!("spec.imp[{}].maintenance is true", imp.name),
        (false, false) => return Step::Remove,
    };
    if age.left(imp).is_zero() {
        return Step::GiveUp(format!("{which}, and deletionTimeout is over"));
    }
    Step::Wait(format!(
        "{which}, so no row is removed; set it to false. {}",
        until(imp, age)
    ))
}

/// Decides after a removal was tried.
pub fn after(imp: &ImpSpec, outcome: &Result<Removal, String>, age: Age) -> Step {
    let why = match outcome {
        Ok(removal) if removal.done => return Step::Release,
        Ok(removal) => &removal.message,
        Err(sentence) => sentence,
    };
    if age.left(imp).is_zero() {
        return Step::GiveUp(why.clone());
    }
    Step::Wait(format!("{why}. {}", until(imp, age)))
}

fn until(imp: &ImpSpec, age: Age) -> String {
    format!(
        "The rows are given up at {} (deletionTimeout), or at once by the annotation {}",
        age.end(imp),
        request::ABANDON_ROWS
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use crate::api::FINALIZER;
    use crate::controller::testing::spec_with;
    use kube::ResourceExt as _;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn object(path: &str, value: Value) -> XmppFederation {
        let mut object = XmppFederation::new("coluc", spec_with(path, value));
        object.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        object
    }

    /// Asked for so long ago, and this process is at it for so long.
    fn age(asked: i64, at_it: u64) -> Age {
        Age {
            asked: Timestamp::from_second(1_700_000_000 - asked).unwrap(),
            now: Timestamp::from_second(1_700_000_000).unwrap(),
            at_it: Duration::from_secs(at_it),
        }
    }

    fn first(object: &XmppFederation) -> &ImpSpec {
        object.spec.imp.first().unwrap()
    }

    fn kind(step: &Step) -> &'static str {
        match step {
            Step::Release => "release",
            Step::Retain => "retain",
            Step::GiveUp(_) => "give up",
            Step::Remove => "remove",
            Step::Wait(_) => "wait",
        }
    }

    #[rstest]
    #[case("", Value::Null, 0, "remove")]
    #[case("", Value::Null, 10_000, "remove")]
    #[case("/imp/0/onDelete", json!("Retain"), 0, "retain")]
    #[case("/paused", json!(true), 0, "wait")]
    #[case("/paused", json!(true), 600, "give up")]
    #[case("/imp/0/maintenance", json!(true), 599, "wait")]
    #[case("/imp/0/maintenance", json!(true), 600, "give up")]
    fn a_deletion_begins_with(#[case] path: &str, #[case] value: Value, #[case] since: i64, #[case] expected: &str) {
        let object = object(path, value);
        let step = plan(&object, first(&object), age(since, 600));
        assert_eq!(kind(&step), expected);
    }

    #[test]
    fn the_annotation_gives_up_at_once() {
        let mut object = object("/paused", json!(true));
        object
            .annotations_mut()
            .insert(request::ABANDON_ROWS.to_owned(), "yes".to_owned());
        let step = plan(&object, first(&object), age(0, 0));
        assert_eq!(kind(&step), "give up");
    }

    #[rstest]
    #[case::done(true, 10_000, 600, "release")]
    #[case::tried_for_less(false, 599, 600, "wait")]
    #[case::tried_for_all_of_it(false, 600, 600, "give up")]
    #[case::an_operator_that_was_away_tries_first(false, 10_000, 29, "wait")]
    #[case::but_not_for_ever(false, 10_000, 30, "give up")]
    fn a_removal_is_tried_until_it_is_done_or_the_time_is_over(
        #[case] done: bool,
        #[case] since: i64,
        #[case] at_it: u64,
        #[case] expected: &str,
    ) {
        let outcome = Ok(Removal {
            done,
            message: "no answer".to_owned(),
            rows_left: Vec::new(),
            events: Vec::new(),
            requeue_after: Duration::ZERO,
        });
        let object = object("", Value::Null);
        let step = after(first(&object), &outcome, age(since, at_it));
        assert_eq!(kind(&step), expected);
    }

    #[rstest]
    #[case(0, "wait")]
    #[case(600, "give up")]
    fn a_secret_that_is_gone_already_holds_nothing_for_ever(#[case] since: i64, #[case] expected: &str) {
        let outcome = Err("Secret cups-axl does not exist".to_owned());
        let object = object("", Value::Null);
        let step = after(first(&object), &outcome, age(since, 600));
        assert_eq!(kind(&step), expected);
    }

    #[test]
    fn the_sentence_says_until_when_and_how_to_end_it() {
        let outcome = Err("Secret cups-axl does not exist".to_owned());
        let object = object("", Value::Null);
        let Step::Wait(sentence) = after(first(&object), &outcome, age(0, 0)) else {
            panic!("it does not wait")
        };
        assert_eq!(
            sentence,
            "Secret cups-axl does not exist. The rows are given up at 2023-11-14T22:23:20Z (deletionTimeout), or at once by the annotation xmppfederation.io/abandon-rows"
        );
    }

    /// IM&P's own wait may be an hour, as after a 401.
    #[rstest]
    #[case(3600, 0, 60)]
    #[case(3600, 590, 10)]
    #[case(5, 0, 5)]
    #[case(0, 700, 0)]
    fn no_wait_goes_beyond_the_end(#[case] wanted: u64, #[case] since: i64, #[case] expected: u64) {
        let object = object("", Value::Null);
        let again = age(since, 600).again(first(&object), Duration::from_secs(wanted));
        assert_eq!(again.as_secs(), expected);
        assert!(!again.is_zero(), "no busy loop");
    }

    #[test]
    fn without_the_finalizer_nothing_can_be_left() {
        let mut object = object("", Value::Null);
        object.metadata.finalizers = None;
        assert_eq!(plan(&object, first(&object), age(0, 0)), Step::Release);
    }
}
