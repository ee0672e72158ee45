//! The next step of a cleanup. Pure.

use std::fmt::Display;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Cause, Cleanup, elapsed};
use crate::api::spec::{ImpSpec, OnDelete};
use crate::api::{XmppFederation, request};
use crate::controller::{finalizer, requests};
use xmpp_federation_imp::report::Removal;

/// A process that has just started tries for this long before it gives up what another one was
/// asked to remove: an operator that was away has not tried.
const GRACE: Duration = Duration::from_secs(30);

/// A removal that failed, or may not be tried, is looked at again after this at the latest.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// `deletionTimeout` where no entry says it: the default of the schema.
const TIMEOUT: Duration = Duration::from_mins(10);

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CleanupStep {
    /// Nothing of ours is left, or nothing was ever written.
    Done,
    /// Rows stay, because the entry wants it so.
    Retain,
    /// Rows may be left; the sentence says why they are not removed.
    GiveUp(String),
    /// Rows are removed.
    Remove,
    /// Nothing may be done now, or it failed; the sentence says why and until when.
    Wait(String),
}

/// For how long a removal is tried: `deletionTimeout` counts while it is tried and fails, whatever
/// the cause.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    /// When the removal was asked for.
    pub asked: Timestamp,
    now: Timestamp,
    tried_for: Duration,
    timeout: Duration,
}

impl Deadline {
    /// Asked for at that time, and tried by this process for so long.
    pub const fn new(asked: Timestamp, now: Timestamp, tried_for: Duration) -> Self {
        Self {
            asked,
            now,
            tried_for,
            timeout: TIMEOUT,
        }
    }

    /// With the time that an entry gives.
    #[must_use]
    pub fn with_timeout_of(mut self, entry: Option<&ImpSpec>) -> Self {
        self.timeout = entry.map_or(TIMEOUT, |entry| entry.deletion_timeout.get());
        self
    }

    fn left(self) -> Duration {
        let grace = self.timeout.min(GRACE).saturating_sub(self.tried_for);
        let left = self.timeout.saturating_sub(elapsed(self.asked, self.now));
        left.max(grace)
    }

    /// Whether the rows are given up.
    pub fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// When it is over, to the second, unless the operator was away.
    fn end(self) -> String {
        let timeout = SignedDuration::try_from(self.timeout).unwrap_or_default();
        match self.asked.saturating_add(timeout) {
            Ok(end) if end > self.now => format!("at {end} (deletionTimeout)"),
            _ => "as soon as this ends, because deletionTimeout is over".to_owned(),
        }
    }

    /// When to look again, given when the removal itself wants to go on.
    pub fn again(self, wanted: Duration) -> Duration {
        let last = self.left().max(Duration::from_millis(100));
        wanted.clamp(Duration::from_millis(100), LOOK_AGAIN).min(last)
    }
}

impl Cleanup {
    /// Decides before anything is tried.
    pub fn plan(&self, object: &XmppFederation) -> CleanupStep {
        // Rows are written only behind the finalizer; without it a deletion has nothing to remove.
        let begun = self.cause == Cause::Dropped || finalizer::is_on(object);
        if !begun || self.dropped.as_ref().is_some_and(|dropped| !dropped.has_rows()) {
            return CleanupStep::Done;
        }
        // Rows that may be in use are neither retained nor given up on request.
        if let Some(unclear) = self.unclear().filter(|_| !self.deadline.is_over()) {
            return self.wait(&unclear);
        }
        if self
            .entry
            .as_ref()
            .is_some_and(|entry| entry.on_delete == OnDelete::Retain)
        {
            return CleanupStep::Retain;
        }
        if requests::abandons(object) {
            return CleanupStep::GiveUp(format!("the annotation {} asks for it", request::ABANDON_ROWS));
        }
        let (obstacle, remedy) = match self.obstacle(object) {
            Obstacle::None => return CleanupStep::Remove,
            Obstacle::Lasting(obstacle) => return CleanupStep::GiveUp(obstacle),
            Obstacle::Passing(obstacle, remedy) => (obstacle, remedy),
        };
        if self.deadline.is_over() {
            return CleanupStep::GiveUp(format!("{obstacle}, and deletionTimeout is over"));
        }
        self.wait(&format!("{obstacle}{remedy}"))
    }

    fn obstacle(&self, object: &XmppFederation) -> Obstacle {
        let deleted = self.cause == Cause::Deleted;
        let written = self.dropped.as_ref().and_then(|dropped| dropped.record.reach.as_ref());
        if self.entry.is_none() && written.is_some() {
            return Obstacle::Passing(
                "another release wrote down how this cluster was reached, in words that this one cannot read"
                    .to_owned(),
                "; run that release",
            );
        }
        let Some(entry) = &self.entry else {
            let why = "the record of this cluster does not say how it was reached";
            // In a deletion no entry comes back.
            return if deleted {
                Obstacle::Lasting(why.to_owned())
            } else {
                Obstacle::Passing(why.to_owned(), "")
            };
        };
        if deleted && object.spec.paused {
            return Obstacle::Passing(
                "spec.paused is true".to_owned(),
                ", so no row is removed; set it to false",
            );
        }
        if entry.maintenance && self.dropped.is_some() {
            return Obstacle::Passing(
                "its entry was removed from spec.imp while its maintenance was true".to_owned(),
                ", so nothing is written there; put it back with maintenance: false to have its rows removed",
            );
        }
        if entry.maintenance {
            return Obstacle::Passing(
                format!("spec.imp[{}].maintenance is true", entry.name),
                ", so no row is removed; set it to false",
            );
        }
        self.unclear().map_or(Obstacle::None, |why| Obstacle::Passing(why, ""))
    }

    /// Why the cluster may be one that the spec of a living resource names.
    fn unclear(&self) -> Option<String> {
        let dropped = self.dropped.as_ref().filter(|_| self.cause == Cause::Dropped)?;
        dropped.record.unclear.as_ref().map(|publisher| {
            format!(
                "{publisher}, a publisher in spec.imp, has not answered yet and may be another name of this cluster, whose rows would then be wanted"
            )
        })
    }

    /// Decides after a removal was tried.
    pub fn after(&self, outcome: Result<&Removal, &impl Display>) -> CleanupStep {
        let why = match outcome {
            Ok(removal) if removal.done => return CleanupStep::Done,
            Ok(removal) => removal.message.clone(),
            Err(error) => error.to_string(),
        };
        // A removal that goes well is not given up between two of its rows.
        let goes_on = outcome.is_ok_and(|removal| removal.removed);
        if self.deadline.is_over() && !goes_on {
            CleanupStep::GiveUp(why)
        } else {
            self.wait(&why)
        }
    }

    /// Says until when.
    pub fn wait(&self, why: &str) -> CleanupStep {
        CleanupStep::Wait(format!(
            "{why}. The rows are given up {}, or at once by a new value of the annotation {}",
            self.deadline.end(),
            request::ABANDON_ROWS
        ))
    }
}

/// What keeps rows from being removed.
enum Obstacle {
    None,
    /// A sentence, and its end with the remedy.
    Passing(String, &'static str),
    Lasting(String),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::super::execute::LeftoverRows;
    use super::super::testing::{ROW, at, dropped, failed};
    use super::*;
    use crate::api::FINALIZER;
    use crate::controller::testing::{owner, spec_with};
    use kube::ResourceExt as _;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn object(path: &str, value: Value) -> XmppFederation {
        let mut object = XmppFederation::new("coluc", spec_with(path, value));
        object.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        object
    }

    /// The deletion of the first cluster, asked for so long ago, and tried by this process for so long.
    fn deletion(object: &XmppFederation, asked: i64, tried_for: u64) -> Cleanup {
        let deadline = Deadline::new(at(-asked), at(0), Duration::from_secs(tried_for));
        Cleanup::of_entry(object.spec.imp.first().unwrap(), deadline)
    }

    /// A cluster that left the spec so long ago.
    fn former(change: &Value, rows: usize, since: i64) -> Cleanup {
        let deadline = Deadline::new(at(-since), at(0), Duration::from_mins(10));
        Cleanup::of_dropped(Cause::Dropped, &dropped(change, rows), deadline)
    }

    fn kind(step: &CleanupStep) -> &'static str {
        match step {
            CleanupStep::Done => "done",
            CleanupStep::Retain => "retain",
            CleanupStep::GiveUp(_) => "give up",
            CleanupStep::Remove => "remove",
            CleanupStep::Wait(_) => "wait",
        }
    }

    /// What a person reads of it.
    fn told(cleanup: &Cleanup) -> String {
        let CleanupStep::GiveUp(why) = &cleanup.step else {
            return format!("{:?}", cleanup.step);
        };
        let left = LeftoverRows {
            abandoned: true,
            why: format!("{}: {why}", cleanup.name),
            rows: vec![ROW.to_owned()],
        };
        format!("{:?}", left.report(&owner()))
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
        let step = deletion(&object, since, 600).plan(&object);
        assert_eq!(kind(&step), expected);
    }

    #[test]
    fn the_annotation_gives_up_at_once() {
        let mut object = object("/paused", json!(true));
        object
            .annotations_mut()
            .insert(request::ABANDON_ROWS.to_owned(), "yes".to_owned());
        let step = deletion(&object, 0, 0).plan(&object);
        assert_eq!(kind(&step), "give up");
    }

    #[test]
    fn the_annotation_gives_up_at_once_with_the_sql() {
        let mut object = XmppFederation::new("coluc", spec_with("", Value::Null));
        object
            .annotations_mut()
            .insert(request::ABANDON_ROWS.to_owned(), "yes".to_owned());
        let cleanup = former(&json!({}), 1, 0).planned(&object);
        assert_eq!(kind(&cleanup.step), "give up");
        let told = told(&cleanup);
        assert!(told.contains(ROW), "{told}");
        // Rows that are to stay are not given up.
        let step = former(&json!({"onDelete": "Retain"}), 1, 0).plan(&object);
        assert_eq!(kind(&step), "retain");
    }

    #[rstest]
    #[case::done(true, 10_000, 600, "done")]
    #[case::tried_for_less(false, 599, 600, "wait")]
    #[case::tried_for_all_of_it(false, 600, 600, "give up")]
    #[case::an_operator_that_was_away_tries_first(false, 10_000, 29, "wait")]
    #[case::but_not_for_ever(false, 10_000, 30, "give up")]
    fn a_removal_is_tried_until_it_is_done_or_the_time_is_over(
        #[case] done: bool,
        #[case] since: i64,
        #[case] tried_for: u64,
        #[case] expected: &str,
    ) {
        let outcome = Removal { done, ..failed() };
        let object = object("", Value::Null);
        for cause in [Cause::Deleted, Cause::Dropped] {
            let cleanup = Cleanup {
                cause,
                ..deletion(&object, since, tried_for)
            };
            let step = cleanup.after(Ok::<_, &String>(&outcome));
            assert_eq!(kind(&step), expected);
        }
    }

    #[test]
    fn a_removal_that_goes_on_is_not_given_up_between_two_rows() {
        let outcome = Removal {
            removed: true,
            ..failed()
        };
        let object = object("", Value::Null);
        let step = deletion(&object, 10_000, 600).after(Ok::<_, &String>(&outcome));
        assert_eq!(kind(&step), "wait");
    }

    #[rstest]
    #[case::retained(json!({"onDelete": "Retain"}), false)]
    #[case::given_up(json!({}), true)]
    fn a_cluster_that_may_be_wanted_is_not_let_go(#[case] change: Value, #[case] annotated: bool) {
        let mut object = XmppFederation::new("coluc", spec_with("", Value::Null));
        if annotated {
            let value = "yes".to_owned();
            object.annotations_mut().insert(request::ABANDON_ROWS.to_owned(), value);
        }
        let mut cleanup = former(&change, 1, 0);
        if let Some(dropped) = &mut cleanup.dropped {
            dropped.record.unclear = Some("cups9.example.net".to_owned());
        }
        assert_eq!(kind(&cleanup.plan(&object)), "wait");
    }

    #[rstest]
    #[case(0, "wait")]
    #[case(600, "give up")]
    fn a_secret_that_is_gone_already_holds_nothing_for_ever(#[case] since: i64, #[case] expected: &str) {
        let object = object("", Value::Null);
        let step = deletion(&object, since, 600).after(Err(&"Secret cups-axl does not exist"));
        assert_eq!(kind(&step), expected);
    }

    #[test]
    fn the_sentence_says_until_when_and_how_to_end_it() {
        let object = object("", Value::Null);
        let CleanupStep::Wait(sentence) = deletion(&object, 0, 0).after(Err(&"Secret cups-axl does not exist")) else {
            panic!("it does not wait")
        };
        assert_eq!(
            sentence,
            "Secret cups-axl does not exist. The rows are given up at 2023-11-14T22:23:20Z (deletionTimeout), or at once by a new value of the annotation xmppfederation.io/abandon-rows"
        );
    }

    #[test]
    fn a_time_that_is_over_is_not_told_as_one_to_come() {
        let object = object("", Value::Null);
        let step = deletion(&object, 601, 0).after(Err(&"no answer"));
        let CleanupStep::Wait(sentence) = step else {
            panic!("it does not wait")
        };
        assert!(sentence.contains("given up as soon as this ends"), "{sentence}");
    }

    #[rstest]
    #[case(Cause::Deleted, 0, "wait")]
    #[case(Cause::Dropped, 0, "wait")]
    #[case(Cause::Deleted, 600, "give up")]
    fn words_of_another_release_are_not_taken_for_none(
        #[case] cause: Cause,
        #[case] since: i64,
        #[case] expected: &str,
    ) {
        let object = object("", Value::Null);
        let mut cleanup = former(&json!({}), 1, since);
        (cleanup.cause, cleanup.entry) = (cause, None);
        cleanup.step = cleanup.plan(&object);
        assert_eq!(kind(&cleanup.step), expected, "{cleanup:?}");
        let told = told(&cleanup);
        assert!(told.contains("another release"), "{told}");
    }

    /// IM&P's own wait may be an hour, as after a 401.
    #[rstest]
    #[case(3600, 0, 60)]
    #[case(3600, 590, 10)]
    #[case(5, 0, 5)]
    #[case(0, 700, 0)]
    fn no_wait_goes_beyond_the_end(#[case] wanted: u64, #[case] since: i64, #[case] expected: u64) {
        let object = object("", Value::Null);
        let again = deletion(&object, since, 600)
            .deadline
            .again(Duration::from_secs(wanted));
        assert_eq!(again.as_secs(), expected);
        assert!(!again.is_zero(), "no busy loop");
    }

    #[test]
    fn without_the_finalizer_nothing_can_be_left() {
        let mut object = object("", Value::Null);
        object.metadata.finalizers = None;
        assert_eq!(deletion(&object, 0, 0).plan(&object), CleanupStep::Done);
    }

    #[test]
    fn where_nobody_knows_how_it_was_reached_a_deletion_does_not_wait() {
        let mut object = object("", Value::Null);
        let mut cluster = dropped(&json!({}), 1);
        (cluster.entry, cluster.record.reach) = (None, None);
        let deadline = Deadline::new(at(0), at(0), Duration::ZERO);
        let cleanup = Cleanup::of_dropped(Cause::Deleted, &cluster, deadline);
        assert_eq!(kind(&cleanup.plan(&object)), "give up");
        object.metadata.finalizers = None;
        assert_eq!(cleanup.plan(&object), CleanupStep::Done);
    }

    #[rstest]
    #[case(json!({}), 1, 0, "remove")]
    #[case(json!({}), 1, 10_000, "remove")]
    #[case(json!({}), 0, 0, "done")]
    #[case(json!({"onDelete": "Retain"}), 1, 0, "retain")]
    #[case(json!({"maintenance": true}), 1, 0, "wait")]
    #[case(json!({"maintenance": true}), 1, 600, "give up")]
    fn rows_of_a_former_cluster_are_removed_as_its_entry_wanted(
        #[case] change: Value,
        #[case] rows: usize,
        #[case] since: i64,
        #[case] expected: &str,
    ) {
        let object = XmppFederation::new("coluc", spec_with("", Value::Null));
        let step = former(&change, rows, since).plan(&object);
        assert_eq!(kind(&step), expected, "{step:?}");
    }

    #[rstest]
    #[case(None, 0, "wait", "how it was reached")]
    #[case(None, 600, "give up", "delete from xmpps2snodes where pkid = '055c'")]
    #[case(
        Some("cups9.example.net"),
        0,
        "wait",
        "cups9.example.net, a publisher in spec.imp, has not answered yet"
    )]
    #[case(Some("cups9.example.net"), 600, "give up", "second (cups2.example.net)")]
    fn what_is_not_clear_removes_nothing_and_waits_for_a_limited_time(
        #[case] unclear: Option<&str>,
        #[case] since: i64,
        #[case] expected: &str,
        #[case] says: &str,
    ) {
        let object = XmppFederation::new("coluc", spec_with("", Value::Null));
        let mut cluster = dropped(&json!({}), 1);
        cluster.record.unclear = unclear.map(str::to_owned);
        if unclear.is_none() {
            (cluster.entry, cluster.record.reach) = (None, None);
        }
        let mut cleanup = former(&json!({}), 1, since);
        cleanup.entry.clone_from(&cluster.entry);
        cleanup.dropped = Some(cluster);
        cleanup.step = cleanup.plan(&object);
        assert_eq!(kind(&cleanup.step), expected, "{cleanup:?}");
        let told = told(&cleanup);
        assert!(told.contains(says), "{told}");
    }

    #[rstest]
    #[case(true, 10_000, "done")]
    #[case(false, 599, "wait")]
    #[case(false, 600, "give up")]
    fn a_removal_is_tried_for_the_time_of_the_entry(#[case] done: bool, #[case] since: i64, #[case] expected: &str) {
        let outcome = Removal { done, ..failed() };
        let step = former(&json!({}), 1, since).after(Ok::<_, &String>(&outcome));
        assert_eq!(kind(&step), expected);
    }
}
