//! Events (events.k8s.io/v1), one per change; written directly, so that two changes with the same
//! reason are not merged into one.

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Resource};

use super::kube::call;
use crate::api::XmppFederation;

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
}

/// Longest note the API takes.
pub const LONGEST: usize = 1024;

/// Writes notes; a failure is logged only, as no event is worth a failed reconcile.
pub async fn publish(client: &Client, object: &XmppFederation, instance: &str, notes: &[Note]) {
    let reference = object.object_ref(&());
    let Some(namespace) = reference.namespace.clone() else {
        return;
    };
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    for (count, note) in notes.iter().enumerate() {
        let now = Timestamp::now();
        let mut text = note.message.clone();
        while text.len() > LONGEST {
            text.pop();
        }
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!(
                    "{}.{:x}.{count}",
                    reference.name.as_deref().unwrap_or("xmppfederation"),
                    now.as_nanosecond()
                )),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some("Reconcile".to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(text),
            reason: Some(note.reason.clone()),
            regarding: Some(reference.clone()),
            reporting_controller: Some("xmppfederation.io/operator".to_owned()),
            reporting_instance: Some(instance.to_owned()),
            type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        };
        let what = || "an event cannot be written".to_owned();
        if let Err(error) = call(what, api.create(&PostParams::default(), &event)).await {
            // Refused in a namespace that is being deleted.
            tracing::debug!(reason = note.reason, %error, "event not written");
        }
    }
}

/// Notes about conditions whose status changed.
pub fn changes(before: &[Condition], after: &[Condition]) -> Vec<Note> {
    after
        .iter()
        .filter(|new| !["Reconciling", "Paused"].contains(&new.type_.as_str()))
        .filter_map(|new| {
            let old = before.iter().find(|c| c.type_ == new.type_);
            let same =
                old.is_some_and(|old| old.status == new.status && (new.status == "True" || old.reason == new.reason));
            // The first look at anything is no change, unless something holds already.
            let first = old.is_none() && new.status != "True";
            if same || first || new.status == "Unknown" {
                return None;
            }
            Some(Note {
                warning: (new.status == "False") != (new.type_ == "Stalled"),
                reason: if new.status == "True" {
                    new.type_.clone()
                } else {
                    new.reason.clone()
                },
                message: format!("{} is {}: {}", new.type_, new.status, new.message),
            })
        })
        .collect()
}
