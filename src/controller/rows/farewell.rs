//! Clusters that the spec names no more: their rows are removed beside everything else.

use std::borrow::Cow;

use jiff::Timestamp;

use super::{Former, Leaving, Step};
use crate::api::XmppFederation;
use crate::controller::dereference::Secrets;
use crate::controller::desired::{Resource, desired};
use crate::controller::environment::Environment;
use crate::controller::events::Note;
use crate::controller::turns::{Answer, Ask, Turn};
use crate::controller::validate;
use xmpp_federation_imp::desired::{Desired, Place, Requests};

/// One of them, and what is done about it in this reconcile.
struct One<'a> {
    former: &'a Former,
    since: Timestamp,
    step: Step,
}

/// All of them.
pub struct Farewell<'a> {
    env: &'a Environment,
    now: Timestamp,
    resource: Resource<'a>,
    all: Vec<One<'a>>,
}

impl<'a> Farewell<'a> {
    /// With what is to be done about each.
    pub fn new(env: &'a Environment, object: &XmppFederation, resource: Resource<'a>, former: &'a [Former]) -> Self {
        let now = Timestamp::now();
        let all = former
            .iter()
            .map(|former| {
                let since = former.since(object.status.as_ref(), now);
                One {
                    former,
                    since,
                    step: former.plan(object, since, now),
                }
            })
            .collect();
        Self {
            env,
            now,
            resource,
            all,
        }
    }

    /// The removals that are to be tried; none while an earlier turn of the resource is under way.
    pub fn asks(&mut self, secrets: &Secrets, busy: bool) -> Vec<(String, Ask)> {
        let mut asks = Vec::new();
        for one in &mut self.all {
            if one.step != Step::Remove {
                continue;
            }
            if busy {
                one.step = Step::Wait("an earlier call is waited for".to_owned());
                continue;
            }
            match removal(&self.resource, one.former, secrets) {
                Ok(desired) => asks.push((one.former.key(), Ask::Removal(Box::new(desired)))),
                Err(sentence) => {
                    one.step = one.former.after(&Err(sentence), one.since, self.now);
                }
            }
        }
        asks
    }

    /// Takes the answers, and gives up what has to be given up; what is still to be done.
    pub async fn conclude(
        mut self,
        object: &XmppFederation,
        turns: &mut [Turn],
        notes: &mut Vec<Note>,
    ) -> Vec<Leaving> {
        let mut leaving = Vec::new();
        // A publisher that was asked just now may have turned out to be another name of one of them.
        let still = super::by(self.env, object).await.ok();
        let is_left = |former: &Former| {
            let same = |other: &Former| other.left.publisher == former.left.publisher;
            still.as_ref().is_none_or(|still| still.iter().any(same))
        };
        for One {
            former,
            since,
            mut step,
        } in std::mem::take(&mut self.all)
        {
            if matches!(step, Step::Wait(_)) && !is_left(former) {
                continue;
            }
            let turn = turns.iter_mut().find(|turn| turn.key == former.key());
            match turn.and_then(|turn| turn.answer.take()) {
                Some(Answer::Removal(removal)) => {
                    notes.extend(removal.events.iter().map(Note::of));
                    let done = removal.done;
                    step = former.after(&Ok(*removal), since, self.now);
                    if done {
                        match self.end_claim(former, "its rows are removed").await {
                            Ok(()) => continue,
                            Err(message) => step = Step::Wait(message),
                        }
                    }
                }
                _ if step == Step::Remove => {
                    step = Step::Wait("its publisher has not answered yet".to_owned());
                }
                _ => {}
            }
            let message = match step {
                Step::Remove => continue,
                Step::Wait(message) => message,
                Step::Keep | Step::GiveUp(_) => match self.give_up(former, &step, notes).await {
                    Ok(()) => continue,
                    Err(message) => message,
                },
            };
            leaving.push(Leaving {
                name: former.name(),
                since,
                message,
                rows: former.left.rows.clone(),
            });
        }
        leaving
    }

    /// Whoever is active there next has the cluster.
    async fn end_claim(&self, former: &Former, why: &str) -> Result<(), String> {
        let (uid, publisher) = (&self.resource.owner.uid, &former.left.publisher);
        self.env
            .imp
            .give_up(uid, publisher, why, self.now)
            .await
            .map_err(|error| format!("the claim on it cannot be ended: {error}"))
    }

    async fn give_up(&self, former: &Former, step: &Step, notes: &mut Vec<Note>) -> Result<(), String> {
        let (warning, message) = match step {
            Step::GiveUp(sentence) => (true, sentence.clone()),
            _ => (
                false,
                format!(
                    "the rows of {} stay, as its onDelete is Retain: {}",
                    former.name(),
                    former.left.rows.join("; ")
                ),
            ),
        };
        self.end_claim(former, &message).await?;
        if former.left.rows.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            namespace = self.resource.owner.namespace,
            name = self.resource.owner.name,
            message,
            "rows of a cluster that left the spec stay"
        );
        if warning {
            self.env.metrics.abandoned_rows.inc();
        }
        notes.push(Note {
            warning,
            reason: "RowsAbandoned".to_owned(),
            message,
        });
        Ok(())
    }
}

/// How the rows of a cluster that left the spec are removed, or why that cannot be tried.
pub fn removal(resource: &Resource<'_>, former: &Former, secrets: &Secrets) -> Result<Desired, String> {
    let entry = former
        .entry
        .as_ref()
        .ok_or_else(|| "how it was reached is not recorded".to_owned())?;
    let cluster = validate::former(entry)?;
    let place = Place {
        only: Some(former.left.publisher.clone()),
        ..Place::default()
    };
    let gone = Resource {
        owner: resource.owner,
        component_ids: Cow::Borrowed(&[]),
        active: false,
        live_owners: resource.live_owners.clone(),
        requests: Requests::default(),
    };
    let mut desired = desired(&gone, &cluster, place, secrets, &[])?;
    // Its name may be another entry's by now.
    desired.target.name = former.key();
    Ok(desired)
}
