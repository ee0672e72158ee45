//! Clusters that an entry of spec.imp led to and none does any more: their rows are removed as in a
//! deletion, while everything else goes on. How they were reached is kept in their ledgers, as the
//! entry that was accepted last.

pub mod farewell;
pub mod left;
pub mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt;

use super::environment::Environment;
use super::requests;
use crate::api::spec::{ImpSpec, OnDelete};
use crate::api::status::XmppFederationStatus;
use crate::api::{XmppFederation, request};
use xmpp_federation_imp::desired::Desired;
use xmpp_federation_imp::left::Left;
use xmpp_federation_imp::report::Removal;

/// A Secret that went so shortly before the resource went with it, as in a namespace that is
/// deleted; one that went earlier was taken away from us.
const WENT_TOGETHER: Duration = Duration::from_mins(1);

/// Where the ledger does not say how long is tried.
const TIMEOUT: Duration = Duration::from_mins(10);

/// What is remembered of a resource for its deletion.
#[derive(Debug, Default)]
pub struct Memory {
    /// How IM and Presence was reached last, for a deletion that finds the Secret gone; by entry of
    /// the spec.
    pub reach: BTreeMap<String, Option<LastReach>>,
    /// When this process began with the deletion.
    pub(super) deleting_since: Option<Instant>,
}

/// The last sight of what IM and Presence is reached with, in memory alone.
#[derive(Debug, Clone)]
pub struct LastReach {
    desired: Arc<Desired>,
    /// Since when a Secret of it is missing.
    missing_since: Option<Timestamp>,
}

impl LastReach {
    /// Takes in what one reconcile of a living resource found.
    pub fn see(last: &mut Option<Self>, found: Option<&Desired>, now: Timestamp) {
        if let Some(desired) = found {
            *last = Some(Self {
                desired: Arc::new(desired.clone()),
                missing_since: None,
            });
        } else if let Some(reach) = last {
            let since = *reach.missing_since.get_or_insert(now);
            if lasted(since, now) > WENT_TOGETHER {
                *last = None;
            }
        }
    }

    /// What a deletion asked for at that time may still use although the Secret is gone.
    pub(super) fn usable(&self, asked: Timestamp) -> Option<&Desired> {
        let together = self
            .missing_since
            .is_none_or(|since| lasted(since, asked) <= WENT_TOGETHER);
        together.then_some(&*self.desired)
    }
}

pub(super) fn lasted(since: Timestamp, until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(since)).unwrap_or_default()
}

/// Such a cluster with the entry that led to it.
#[derive(Debug, Clone)]
pub struct Former {
    /// What its ledger says.
    pub left: Left,
    /// The entry as it was accepted last; `None`: the ledger does not say it.
    pub entry: Option<ImpSpec>,
}

/// How far one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// Its name in status and messages.
    pub name: String,
    /// Since when its rows are being removed.
    pub since: Timestamp,
    /// What that waits for.
    pub message: String,
    /// Its rows, each with the SQL that removes it by hand.
    pub rows: Vec<String>,
}

/// What is done about one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Rows are removed.
    Remove,
    /// Nothing can be done now; the sentence says why.
    Wait(String),
    /// The rows stay, as the entry wanted (`onDelete: Retain`), or as there are none.
    Keep,
    /// Rows may be left that nobody wanted; the sentence names them.
    GiveUp(String),
}

/// The text that the ledger keeps.
pub fn reach(entry: &ImpSpec) -> Option<String> {
    serde_json::to_string(entry).ok()
}

impl Former {
    fn new(left: Left) -> Self {
        let entry = left.reach.as_deref().and_then(|text| serde_json::from_str(text).ok());
        Self { left, entry }
    }

    /// Whether rows of ours are in its table.
    pub fn has_rows(&self) -> bool {
        !self.left.rows.is_empty()
    }

    /// Its name in status and messages: the entry's, which may have come back with another cluster.
    pub fn name(&self) -> String {
        match &self.entry {
            Some(entry) => format!("{} ({})", entry.name, entry.publisher),
            None => self.left.name.clone(),
        }
    }

    /// What [`super::turns::Turns`] calls it: no entry has a space in its name.
    pub fn key(&self) -> String {
        format!("left {}", self.left.publisher)
    }

    /// Since when it is noticed, as the status says.
    pub fn since(&self, status: Option<&XmppFederationStatus>, now: Timestamp) -> Timestamp {
        let name = self.name();
        status
            .into_iter()
            .flat_map(|status| &status.imp)
            .filter(|imp| imp.name == name)
            .find_map(|imp| imp.leaving.as_ref()?.since.parse().ok())
            .unwrap_or(now)
    }

    fn timed_out(&self, since: Timestamp, now: Timestamp) -> bool {
        let timeout = self
            .entry
            .as_ref()
            .map_or(TIMEOUT, |entry| entry.deletion_timeout.get());
        Duration::try_from(now.duration_since(since)).is_ok_and(|elapsed| elapsed >= timeout)
    }

    fn given_up(&self, why: &str) -> Step {
        Step::GiveUp(self.rows_by_hand(&format!("gave up the rows of {}: {why}", self.name())))
    }

    /// A sentence with the SQL that removes its rows by hand.
    pub fn rows_by_hand(&self, sentence: &str) -> String {
        format!("{sentence}; on its publisher: {}", self.left.rows.join("; "))
    }

    fn wait(&self, why: String, since: Timestamp, now: Timestamp) -> Step {
        if self.timed_out(since, now) {
            self.given_up(&why)
        } else {
            Step::Wait(why)
        }
    }

    /// Decides before anything is tried. Pure.
    pub fn plan(&self, object: &XmppFederation, since: Timestamp, now: Timestamp) -> Step {
        if self.left.rows.is_empty() {
            return Step::Keep;
        }
        if requests::abandons(object) {
            return self.given_up(&format!("the annotation {} asks for it", request::ABANDON_ROWS));
        }
        let Some(entry) = &self.entry else {
            let why = "the record of this cluster does not say how it was reached";
            return self.wait(why.to_owned(), since, now);
        };
        if entry.on_delete == OnDelete::Retain {
            return Step::Keep;
        }
        if entry.maintenance {
            let why = "its entry was removed from spec.imp while its maintenance was true, so nothing is written there; put it back with maintenance: false to have its rows removed";
            return self.wait(why.to_owned(), since, now);
        }
        if let Some(publisher) = &self.left.unclear {
            let why = format!(
                "{publisher}, a publisher in spec.imp, was never reached and may be another name of this cluster, whose rows would then be wanted"
            );
            return self.wait(why, since, now);
        }
        Step::Remove
    }

    /// Decides after a removal was tried; `Keep`: it is done. Pure.
    pub fn after(&self, outcome: &Result<Removal, String>, since: Timestamp, now: Timestamp) -> Step {
        match outcome {
            Ok(removal) if removal.done => Step::Keep,
            Ok(removal) => self.wait(removal.message.clone(), since, now),
            Err(sentence) => self.wait(sentence.clone(), since, now),
        }
    }
}

/// The clusters that a resource has left.
///
/// # Errors
/// The ledgers cannot be read, as a sentence.
pub async fn by(env: &Environment, object: &XmppFederation) -> Result<Vec<Former>, String> {
    let publishers: Vec<String> = object
        .spec
        .imp
        .iter()
        .map(|entry| entry.publisher.to_ascii_lowercase())
        .collect();
    let uid = object.uid().unwrap_or_default();
    let left = env.imp.left_by(&uid, &publishers).await;
    match left {
        Ok(left) => Ok(left.into_iter().map(Former::new).collect()),
        Err(error) => Err(format!(
            "whether rows are left in clusters that spec.imp does not name any more is not known: {error}"
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::testing::{entry, spec_with};
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    const ROW: &str = "cm-2 (055c): run sql delete from xmpps2snodes where pkid = '055c'";

    fn former(change: &Value, rows: usize) -> Former {
        let mut spec = entry("second", "cups2.example.net", &["gone.example"]);
        for (key, value) in change.as_object().into_iter().flatten() {
            spec.as_object_mut().unwrap().insert(key.clone(), value.clone());
        }
        let spec: ImpSpec = serde_json::from_value(spec).unwrap();
        Former::new(Left {
            publisher: "p-1".to_owned(),
            name: "cups2.example.net".to_owned(),
            reach: reach(&spec),
            rows: vec![ROW.to_owned(); rows],
            unclear: None,
        })
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn word(step: &Step) -> &'static str {
        match step {
            Step::Remove => "remove",
            Step::Wait(_) => "wait",
            Step::Keep => "keep",
            Step::GiveUp(_) => "give up",
        }
    }

    #[test]
    fn the_entry_survives_in_the_ledgers_words() {
        let former = former(&json!({"deletionTimeout": "1m"}), 1);
        assert_eq!(former.name(), "second (cups2.example.net)");
        assert_eq!(former.entry.unwrap().deletion_timeout.get(), Duration::from_mins(1));
    }

    #[rstest]
    #[case(json!({}), 1, 0, "remove")]
    #[case(json!({}), 1, 10_000, "remove")]
    #[case(json!({}), 0, 0, "keep")]
    #[case(json!({"onDelete": "Retain"}), 1, 0, "keep")]
    #[case(json!({"maintenance": true}), 1, 0, "wait")]
    #[case(json!({"maintenance": true}), 1, 600, "give up")]
    fn rows_of_a_former_cluster_are_removed_as_its_entry_wanted(
        #[case] change: Value,
        #[case] rows: usize,
        #[case] since: i64,
        #[case] expected: &str,
    ) {
        let object = XmppFederation::new("coluc", spec_with("", Value::Null));
        let step = former(&change, rows).plan(&object, at(-since), at(0));
        assert_eq!(word(&step), expected, "{step:?}");
    }

    #[rstest]
    #[case(None, 0, "wait", "how it was reached")]
    #[case(None, 600, "give up", "delete from xmpps2snodes where pkid = '055c'")]
    #[case(
        Some("cups9.example.net"),
        0,
        "wait",
        "cups9.example.net, a publisher in spec.imp, was never reached"
    )]
    #[case(Some("cups9.example.net"), 600, "give up", "second (cups2.example.net)")]
    fn what_is_not_clear_removes_nothing_and_waits_for_a_limited_time(
        #[case] unclear: Option<&str>,
        #[case] since: i64,
        #[case] expected: &str,
        #[case] says: &str,
    ) {
        let object = XmppFederation::new("coluc", spec_with("", Value::Null));
        let mut former = former(&json!({}), 1);
        former.left.unclear = unclear.map(str::to_owned);
        if unclear.is_none() {
            former.entry = None;
        }
        let step = former.plan(&object, at(-since), at(0));
        assert_eq!(word(&step), expected, "{step:?}");
        assert!(format!("{step:?}").contains(says), "{step:?}");
    }

    #[rstest]
    #[case(true, 10_000, "keep")]
    #[case(false, 599, "wait")]
    #[case(false, 600, "give up")]
    fn a_removal_is_tried_for_the_time_of_the_entry(#[case] done: bool, #[case] since: i64, #[case] expected: &str) {
        let outcome = Ok(Removal {
            done,
            message: "no answer".to_owned(),
            rows_left: Vec::new(),
            events: Vec::new(),
            requeue_after: Duration::ZERO,
        });
        let step = former(&json!({}), 1).after(&outcome, at(-since), at(0));
        assert_eq!(word(&step), expected);
    }

    #[test]
    fn the_annotation_gives_up_at_once_with_the_sql() {
        let mut object = XmppFederation::new("coluc", spec_with("", Value::Null));
        object
            .annotations_mut()
            .insert(request::ABANDON_ROWS.to_owned(), "yes".to_owned());
        let Step::GiveUp(sentence) = former(&json!({}), 1).plan(&object, at(0), at(0)) else {
            unreachable!("it did not give up")
        };
        assert!(sentence.contains(ROW), "{sentence}");
    }

    #[test]
    fn the_time_counts_from_when_the_status_first_named_it() {
        let former = former(&json!({}), 1);
        let leaving = crate::api::status::LeavingStatus {
            since: at(-300).to_string(),
            message: String::new(),
        };
        let status = XmppFederationStatus {
            imp: vec![crate::api::status::ImpStatus {
                name: former.name(),
                leaving: Some(leaving),
                ..Default::default()
            }],
            ..XmppFederationStatus::default()
        };
        assert_eq!(former.since(Some(&status), at(0)), at(-300));
        assert_eq!(former.since(None, at(0)), at(0));
    }
}
