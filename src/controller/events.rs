//! Events (events.k8s.io/v1). The first occurrence of a note is an object. A repetition is counted in the series of
//! that object, as client-go does, so a condition that flaps neither fills the namespace nor the API server.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use parking_lot::Mutex;
use serde_json::json;

use super::kube::call;
use crate::api::{Reason, XmppFederation, bounds};
use xmpp_federation_imp::reasons::Reason as ImpReason;

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Warning instead of Normal.
    pub warning: bool,
    /// Word of the catalogue, or a condition's name.
    pub reason: String,
    /// What was done or found.
    pub message: String,
}

impl Note {
    /// From the IM and Presence module.
    pub fn of(event: &xmpp_federation_imp::report::Event) -> Self {
        Self {
            warning: event.warning,
            reason: event.reason.to_string(),
            message: event.message.clone(),
        }
    }

    /// What the operator did when this came up.
    fn action(&self) -> &'static str {
        let by = |reasons: &[ImpReason]| reasons.iter().any(|reason| reason.as_str() == self.reason);
        let of = |reasons: &[Reason]| reasons.iter().any(|reason| reason.as_str() == self.reason);
        if by(&[ImpReason::RowInserted]) {
            "InsertRow"
        } else if by(&[ImpReason::RowDeleted, ImpReason::RestartWouldClean]) {
            "DeleteRow"
        } else if by(&[ImpReason::RowAdopted]) {
            "AdoptRow"
        } else if by(&[ImpReason::RouterRestart, ImpReason::RouterBack, ImpReason::RouterInSync]) {
            "RestartRouter"
        } else if of(&[Reason::RowsAbandoned, Reason::RowsRetained]) {
            "LeaveRows"
        } else {
            OBSERVE
        }
    }

    fn text(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.message.hash(&mut hasher);
        hasher.finish()
    }
}

/// The action of notes about what was found.
const OBSERVE: &str = "Observe";
/// Longest note the API takes.
pub const LONGEST: usize = 1024;
/// Time between two writes of a series, after its second occurrence.
const PACE: Duration = Duration::from_mins(5);
/// A note that did not occur for this long is not repeated but new.
const QUIET: Duration = Duration::from_mins(30);
/// Notes about one reason that differ in their text alone; a further one counts as the last of them.
const ALIKE: usize = 10;
/// Notes that are remembered of one resource.
const REMEMBERED: usize = 64;

/// A note that was told, and how often.
#[derive(Debug)]
struct Series {
    warning: bool,
    reason: Box<str>,
    /// The hash of the message, which may be long.
    text: u64,
    /// Name of the object.
    event: Box<str>,
    count: i32,
    observed: Timestamp,
    /// The count in the object, and when it was written.
    written: (i32, Timestamp),
}

impl Series {
    fn is_like(&self, note: &Note) -> bool {
        self.warning == note.warning && *self.reason == *note.reason
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.count > self.written.0 && (self.count == 2 || elapsed(self.written.1, now) >= PACE)
    }
}

fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// What was told of one resource, oldest first.
#[derive(Debug, Default)]
struct Told(Vec<Series>);

/// A write that a note asks for.
#[derive(Debug, PartialEq, Eq)]
enum Write {
    Create(Note, String),
    Count(String),
}

impl Told {
    /// Notes occurrences, and gives what is to be written.
    fn note(&mut self, notes: &[Note], name: impl Fn(usize) -> String, now: Timestamp) -> Vec<Write> {
        self.0
            .retain(|series| elapsed(series.observed, now) < QUIET || series.count > series.written.0);
        let mut writes = Vec::new();
        for (index, note) in notes.iter().enumerate() {
            let told = &mut self.0;
            let text = note.text();
            let same = |series: &Series| series.text == text && series.is_like(note);
            let same = told.iter().position(same).or_else(|| {
                let mut alike = told.iter().filter(|series| series.is_like(note));
                (note.action() == OBSERVE && alike.nth(ALIKE - 1).is_some())
                    .then(|| told.iter().rposition(|series| series.is_like(note)))
                    .flatten()
            });
            if let Some(series) = same.and_then(|at| told.get_mut(at)) {
                series.count = series.count.saturating_add(1);
                series.observed = now;
                continue;
            }
            let event = name(index);
            writes.push(Write::Create(note.clone(), event.clone()));
            told.push(Series {
                warning: note.warning,
                reason: note.reason.as_str().into(),
                text,
                event: event.into_boxed_str(),
                count: 1,
                observed: now,
                written: (1, now),
            });
        }
        let surplus = self.0.len().saturating_sub(REMEMBERED);
        self.0.drain(..surplus);
        let due = self.0.iter().filter(|series| series.is_due(now));
        writes.extend(due.map(|series| Write::Count(series.event.to_string())));
        writes
    }

    fn find(&mut self, event: &str) -> Option<&mut Series> {
        self.0.iter_mut().find(|series| *series.event == *event)
    }

    fn forget(&mut self, event: &str) {
        self.0.retain(|series| *series.event != *event);
    }
}

/// Writes notes, and remembers of each resource what it told.
pub struct Recorder {
    client: Client,
    /// Name of this pod.
    instance: String,
    told: Mutex<HashMap<String, Told>>,
    /// Conditions that are on the way to True, by UID of their resource and type.
    waiting: Mutex<HashMap<String, HashMap<String, Wait>>>,
}

/// A condition that is not True.
#[derive(Debug)]
struct Wait {
    since: Timestamp,
    /// The reason that was told last; empty: none.
    told: String,
}

impl Wait {
    fn since(since: Timestamp) -> Self {
        let told = String::new();
        Self { since, told }
    }
}

impl Recorder {
    /// Has told nothing yet.
    pub fn new(client: Client, instance: String) -> Self {
        Self {
            client,
            instance,
            told: Mutex::default(),
            waiting: Mutex::default(),
        }
    }

    /// Forgets a resource that is gone.
    pub fn forget(&self, uid: &str) {
        self.told.lock().remove(uid);
        self.waiting.lock().remove(uid);
    }

    /// Notes about conditions that this process saw on the way to True, and that are not True after [`PATIENCE`]. One
    /// that is Unknown in between is on its way as long.
    pub fn overdue(&self, uid: &str, conditions: &[Condition], now: Timestamp) -> Vec<Note> {
        let mut waiting = self.waiting.lock();
        let mut before = waiting.remove(uid).unwrap_or_default();
        let (mut after, mut notes) = (HashMap::new(), Vec::new());
        for condition in conditions.iter().filter(|condition| condition.type_ != "Ready") {
            let Condition { type_, reason, .. } = condition;
            let expected = condition.status == "False" && EXPECTED.contains(&reason.as_str());
            if condition.status == "True" || expected {
                continue;
            }
            let passing = is_passing(condition);
            let begins = (passing || condition.status == "Unknown") && is_young(condition, now);
            let begun = || begins.then(|| Wait::since(condition.last_transition_time.0));
            let Some(mut wait) = before.remove(type_).or_else(begun) else {
                continue;
            };
            if passing && elapsed(wait.since, now) >= PATIENCE && wait.told != *reason {
                wait.told.clone_from(reason);
                notes.push(note_of(condition));
            }
            after.insert(type_.clone(), wait);
        }
        if !after.is_empty() {
            waiting.insert(uid.to_owned(), after);
        }
        notes
    }

    /// Writes notes; a failure is logged only, as no event is worth a failed reconcile. Without notes, series are
    /// brought up to date.
    pub async fn publish(&self, object: &XmppFederation, notes: &[Note]) {
        self.publish_at(object, notes, Timestamp::now()).await;
    }

    async fn publish_at(&self, object: &XmppFederation, notes: &[Note], now: Timestamp) {
        let reference = object.object_ref(&());
        let (Some(namespace), Some(uid)) = (reference.namespace.clone(), reference.uid.clone()) else {
            return;
        };
        let writes = {
            let mut told = self.told.lock();
            if notes.is_empty() && !told.contains_key(&uid) {
                return;
            }
            let resource = reference.name.as_deref().unwrap_or("xmppfederation");
            let name = |index| format!("{resource}.{:x}.{index}", now.as_nanosecond());
            told.entry(uid.clone()).or_default().note(notes, name, now)
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let what = || "an event cannot be written".to_owned();
        for write in writes {
            let (event, written) = match write {
                Write::Create(note, event) => {
                    let object = self.event(&note, event.clone(), &reference, now);
                    let written = call(what, api.create(&PostParams::default(), &object)).await;
                    (event, written.map(drop))
                }
                Write::Count(event) => {
                    let Some(patch) = self.count(&uid, &event, now) else {
                        continue;
                    };
                    let written = call(what, api.patch(&event, &PatchParams::default(), &Patch::Merge(&patch))).await;
                    (event, written.map(drop))
                }
            };
            if let Err(error) = written {
                // Refused in a namespace that is being deleted; or the event is too old and was removed. The next
                // occurrence is a new one.
                tracing::debug!(event, %error, "event not written");
                if let Some(told) = self.told.lock().get_mut(&uid) {
                    told.forget(&event);
                }
            }
        }
    }

    /// The patch that brings a series up to date.
    fn count(&self, uid: &str, event: &str, now: Timestamp) -> Option<serde_json::Value> {
        let mut told = self.told.lock();
        let series = told.get_mut(uid)?.find(event)?;
        series.written = (series.count, now);
        let observed = MicroTime(series.observed);
        Some(json!({"series": {"count": series.count, "lastObservedTime": observed}}))
    }

    fn event(
        &self,
        note: &Note,
        name: String,
        regarding: &k8s_openapi::api::core::v1::ObjectReference,
        now: Timestamp,
    ) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: regarding.namespace.clone(),
                ..ObjectMeta::default()
            },
            action: Some(note.action().to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(bounds::message(&note.message, LONGEST)),
            reason: Some(note.reason.clone()),
            regarding: Some(regarding.clone()),
            reporting_controller: Some("xmppfederation.io/operator".to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        }
    }
}

/// Reasons of conditions that are True and told all the same, once for each text.
const TOLD_IN_TIME: &[&str] = &[
    Reason::CertificateExpiring.as_str(),
    Reason::CertificateExpiringSoon.as_str(),
];

/// Reasons of conditions that are False as long as they have to be, with nothing wrong.
const EXPECTED: &[&str] = &[
    Reason::InProgress.as_str(),
    Reason::NotLookedYet.as_str(),
    Reason::Prepared.as_str(),
    Reason::Deleting.as_str(),
    ImpReason::NotTried.as_str(),
    ImpReason::Prepared.as_str(),
];

/// Reasons of conditions that are False for a while on the way to True, …
const PASSING: &[&str] = &[
    Reason::NoPods.as_str(),
    Reason::PodsNotReady.as_str(),
    Reason::PodsReplaced.as_str(),
    Reason::ConfigNotLoaded.as_str(),
    Reason::NoAddress.as_str(),
    Reason::LinksDown.as_str(),
    ImpReason::Registering.as_str(),
    ImpReason::Propagating.as_str(),
    ImpReason::Restarting.as_str(),
    ImpReason::WaitingForFirstLink.as_str(),
    ImpReason::Unproven.as_str(),
    ImpReason::NotProven.as_str(),
];

/// … and that are a failure after this.
const PATIENCE: Duration = Duration::from_mins(2);

fn is_passing(condition: &Condition) -> bool {
    condition.status == "False" && PASSING.contains(&condition.reason.as_str())
}

fn is_young(condition: &Condition, now: Timestamp) -> bool {
    elapsed(condition.last_transition_time.0, now) < PATIENCE
}

/// Notes about conditions whose status changed, and about those that fail at their first look.
pub fn changes(before: &[Condition], after: &[Condition], now: Timestamp) -> Vec<Note> {
    after
        .iter()
        .filter(|new| !["Reconciling", "Paused"].contains(&new.type_.as_str()))
        .filter_map(|new| {
            let old = before.iter().find(|c| c.type_ == new.type_);
            let same = old.is_some_and(|old| {
                let text = old.reason == new.reason && old.message == new.message;
                let reason = new.status == "True" || old.reason == new.reason;
                old.status == new.status && if is_told_in_time(new) { text } else { reason }
            });
            // Ready only sums up what another condition says.
            let waits = new.type_ == "Ready"
                || EXPECTED.contains(&new.reason.as_str())
                || (is_passing(new) && is_young(new, now));
            let held = old.is_some_and(|old| old.status == "True");
            let goes_on = new.status == "False" && waits && !held;
            (!same && !goes_on && new.status != "Unknown").then(|| note_of(new))
        })
        .collect()
}

fn is_told_in_time(condition: &Condition) -> bool {
    TOLD_IN_TIME.contains(&condition.reason.as_str())
}

fn note_of(condition: &Condition) -> Note {
    let Condition { type_, status, .. } = condition;
    let warns = is_told_in_time(condition);
    Note {
        warning: warns || (status == "False") != (type_ == "Stalled"),
        reason: if status == "True" && !warns {
            type_
        } else {
            &condition.reason
        }
        .clone(),
        message: format!("{type_} is {status}: {}", condition.message),
    }
}

#[cfg(test)]
mod tests;
