//! Removes rows as planned, and says which are left and how a person removes them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::plan::CleanupStep;
use super::{Cleanup, Dropped, DroppedCluster, Memory};
use crate::api::XmppFederation;
use crate::api::reasons::Reason;
use crate::api::status::{ImpStatus, XmppFederationStatus};
use crate::controller::cache::Cache;
use crate::controller::dereference;
use crate::controller::desired::{Resource, desired, sibling};
use crate::controller::environment::Environment;
use crate::controller::events::{LONGEST, Note};
use crate::controller::names::Owner;
use crate::controller::observer::Observation;
use crate::controller::questions::{ClusterAnswer, ClusterQuestion};
use crate::controller::references::{NotFetched, SecretError, Secrets};
use crate::controller::validate::{self, Refusal};
use xmpp_federation_imp::desired::{Desired, Place, Requests, SlotSource};
use xmpp_federation_imp::report::{Removal, row_left};

/// A removal cannot be tried.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// The entry is not known.
    #[error("how it was reached is not recorded")]
    NoEntry,
    /// The entry is not valid for this release.
    #[error(transparent)]
    Entry(#[from] Refusal),
    /// The account or its authority is not usable.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Another publisher's password must not be tried here: it would be locked there.
    #[error(
        "Secret {0} was changed since and holds the account of {1} now, so it is not tried at this cluster; put its entry back with a Secret of its own, then remove it again"
    )]
    Reused(String, String),
    /// The API server refuses a Secret.
    #[error("{0}")]
    NotRead(String),
}

/// How the rows of a cluster are removed.
pub fn removal(resource: &Resource<'_>, cleanup: &Cleanup, secrets: &Secrets) -> Result<Desired, RemovalError> {
    let entry = cleanup.entry.as_ref().ok_or(RemovalError::NoEntry)?;
    let cluster = validate::dropped_entry(entry)?;
    if let Some((secret, publisher)) = cleanup.reused(secrets) {
        return Err(RemovalError::Reused(secret.clone(), publisher.clone()));
    }
    let Some(dropped) = &cleanup.dropped else {
        return Ok(desired(resource, &cluster, Place::default(), secrets, &[])?);
    };
    let place = Place {
        earlier: cleanup.live.clone(),
        only: Some(dropped.record.publisher.clone()),
        ..Place::default()
    };
    let gone = Resource {
        owner: resource.owner,
        component_ids: Cow::Borrowed(&[]),
        slots: SlotSource::Spec,
        active: false,
        live_owners: resource.live_owners.clone(),
        generation: resource.generation,
        requests: Requests::default(),
    };
    let mut desired = desired(&gone, &cluster, place, secrets, &[])?;
    // Its name may be another entry's by now.
    desired.target.name = dropped.key();
    Ok(desired)
}

impl Cleanup {
    /// Takes the answer to a removal in; one to an earlier question changes nothing.
    fn take(&mut self, seen: Option<&Observation<ClusterAnswer>>) {
        let Some(seen) = seen.filter(|seen| seen.current) else {
            return;
        };
        if let ClusterAnswer::Remove(removal) = &*seen.answer {
            self.step = self.after(Ok::<_, &RemovalError>(removal));
            self.removal = Some(Removal {
                requeue_after: removal.requeue_after.saturating_sub(seen.age),
                ..(**removal).clone()
            });
        }
    }

    /// One step of removing the rows of a resource that is deleted, with the Secrets as they are now or
    /// as they were read before. The step stays [`CleanupStep::Remove`] until the cluster has answered.
    pub fn remove(&mut self, env: &Environment, memory: &Cache<Memory>, resource: &Resource<'_>) {
        match self.wanted(env, memory, resource) {
            Ok(Some(desired)) => {
                let question = ClusterQuestion::Remove(Arc::new(desired));
                let seen = env.ask_cluster(resource.owner, &self.name, &question);
                self.take(seen.as_ref());
            }
            Ok(None) => {}
            Err(error) => self.step = self.after(Err(&error)),
        }
    }

    /// `None`: a Secret is being read.
    fn wanted(
        &self,
        env: &Environment,
        memory: &Cache<Memory>,
        resource: &Resource<'_>,
    ) -> Result<Option<Desired>, RemovalError> {
        let owner = resource.owner;
        let names = dereference::secret_names_of(&self.entry);
        let secrets = match env.snapshots.references.secrets(&owner.namespace, &names) {
            Ok(secrets) => Ok(secrets),
            Err(NotFetched::Pending) => return Ok(None),
            Err(NotFetched::Failed(sentence)) => Err(RemovalError::NotRead(sentence)),
        };
        let mut desired = match secrets.and_then(|secrets| removal(resource, self, &secrets)) {
            Ok(desired) => desired,
            Err(error) => {
                let last = memory.with(&owner.uid, |memory| {
                    let last = memory.access.get(&self.name)?;
                    last.usable(self.deadline.asked).cloned()
                });
                // Only where the Secret is gone, and only to the cluster that the entry means.
                let absent = matches!(&error, RemovalError::Secret(SecretError::Absent(..)));
                let publisher = self.entry.as_ref().map(|entry| entry.publisher.to_ascii_lowercase());
                let last = last.filter(|last| {
                    absent && self.dropped.is_none() && Some(&last.target.publisher) == publisher.as_ref()
                });
                let Some(mut last) = last else {
                    return Err(error);
                };
                last.place = Place::default();
                tracing::info!(
                    namespace = owner.namespace,
                    name = owner.name,
                    sentence = %error,
                    "rows are removed with what was read before the deletion"
                );
                last
            }
        };
        desired.live_owners = resource.live_owners.clone();
        desired.generation = resource.generation;
        desired.maintenance = self.entry.as_ref().is_some_and(|entry| entry.maintenance);
        desired.hold_acts = false;
        Ok(Some(desired))
    }
}

/// A cleanup that is not at its end, of a cluster that the spec names no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingCleanup {
    /// The cluster's name in status and messages.
    pub name: String,
    /// Since when its rows are being removed.
    pub since: Timestamp,
    /// What that waits for.
    pub message: String,
    /// The table of its component ids, by the status.
    pub table: Option<String>,
    /// Its rows, each with the SQL that removes it by hand.
    pub rows: Vec<String>,
}

/// The cleanups of clusters that the spec of an existing resource does not name any more. They run
/// beside everything else.
pub struct DroppedCleanups<'a> {
    env: &'a Environment,
    now: Timestamp,
    resource: Resource<'a>,
    cleanups: Vec<(&'a DroppedCluster, Cleanup)>,
    /// An earlier call of the resource is under way, and may still write where rows are to go.
    busy: bool,
}

impl<'a> DroppedCleanups<'a> {
    /// With what is to be done about each.
    pub fn new(
        env: &'a Environment,
        memory: &Cache<Memory>,
        object: &XmppFederation,
        resource: Resource<'a>,
        dropped: &'a Dropped,
    ) -> Self {
        let now = Timestamp::now();
        let plan = |dropped| (dropped, Cleanup::of_one(object, resource.owner, dropped, memory, now));
        let cleanups = dropped.clusters.iter().map(plan).collect();
        Self {
            env,
            now,
            resource,
            cleanups,
            busy: dropped.busy,
        }
    }

    /// The removals that are to be tried; none while an earlier call of the resource is under way.
    pub fn requests(&mut self, secrets: &Secrets) -> Vec<(String, ClusterQuestion)> {
        let mut requests = Vec::new();
        for (dropped, cleanup) in &mut self.cleanups {
            let removal = match cleanup.step {
                CleanupStep::Remove => Some(removal(&self.resource, cleanup, secrets)),
                _ => None,
            };
            cleanup.step = match removal {
                Some(Err(error)) if self.busy => cleanup.wait(&error.to_string()),
                _ if self.busy => cleanup.wait("an earlier call is waited for"),
                Some(Err(error)) => cleanup.after(Err(&error)),
                Some(Ok(desired)) => {
                    requests.push((dropped.key(), ClusterQuestion::Remove(Arc::new(desired))));
                    continue;
                }
                None => continue,
            };
        }
        requests
    }

    /// Takes the answers, and gives up what has to be given up; what is still to be done.
    pub async fn conclude(
        mut self,
        object: &XmppFederation,
        seen: &BTreeMap<String, Observation<ClusterAnswer>>,
        all_looked_at: bool,
        notes: &mut Vec<Note>,
    ) -> Vec<PendingCleanup> {
        let mut pending = Vec::new();
        if self.cleanups.is_empty() {
            return pending;
        }
        // A publisher that was asked just now may have turned out to be another name of one of them.
        let still = Dropped::of(self.env, object).clusters;
        let is_dropped = |cluster: &DroppedCluster| still.iter().any(|other| other.is_same(cluster));
        for (cluster, mut cleanup) in std::mem::take(&mut self.cleanups) {
            if cleanup.step == CleanupStep::Remove {
                cleanup.take(seen.get(&cluster.key()));
            }
            // A publisher that is being asked for the first time may be another name of it.
            let unclear = !all_looked_at && cluster.record.unclear.is_some() && !cluster.is_leaving(object);
            if cleanup.removal.is_none() && (unclear || !is_dropped(cluster)) {
                continue;
            }
            if cleanup.step == CleanupStep::Remove {
                cleanup.step = cleanup.wait("its publisher has not answered yet");
            }
            let since = cleanup.deadline.asked;
            if let CleanupStep::Wait(message) = self.end(object, cleanup, notes).await {
                pending.push(PendingCleanup {
                    name: cluster.name(),
                    since,
                    message,
                    table: cluster.table.clone(),
                    // By hand nothing is removed either that may be wanted.
                    rows: match cluster.record.unclear {
                        Some(_) => Vec::new(),
                        None => cluster.rows.clone(),
                    },
                });
            }
        }
        pending
    }

    /// Ends the claim on the cluster, so that another resource can have it, and reports the rows that stay.
    async fn end(&self, object: &XmppFederation, cleanup: Cleanup, notes: &mut Vec<Note>) -> CleanupStep {
        let why = match &cleanup.step {
            CleanupStep::Remove | CleanupStep::Wait(_) => return cleanup.step,
            CleanupStep::Done => "its rows are removed",
            CleanupStep::Retain => RETAINED,
            CleanupStep::GiveUp(why) => why,
        };
        let Resource { owner, .. } = self.resource;
        let left = LeftoverRows::of(self.env, object, owner, &cleanup, true);
        if let Some(dropped) = &cleanup.dropped {
            let publisher = &dropped.record.publisher;
            if let Err(error) = self.env.imp.give_up(&owner.uid, publisher, why, self.now).await {
                return cleanup.wait(&format!("the claim on it cannot be ended: {error}"));
            }
            self.env.cluster_freed();
        }
        if let Some(left) = left {
            notes.extend(left.report(owner));
            left.count(self.env);
        }
        cleanup.step
    }
}

const RETAINED: &str = "onDelete is Retain";

/// Rows of one cluster that stay.
#[derive(Debug)]
pub struct LeftoverRows {
    /// They were given up; else they are retained on purpose.
    pub abandoned: bool,
    pub why: String,
    /// Each with the SQL that removes it by hand.
    pub rows: Vec<String>,
}

impl LeftoverRows {
    /// What a cleanup leaves at its end; `None`: nothing, or it is not at its end.
    pub fn of(
        env: &Environment,
        object: &XmppFederation,
        owner: &Owner,
        cleanup: &Cleanup,
        named: bool,
    ) -> Option<Self> {
        let (abandoned, why) = match &cleanup.step {
            CleanupStep::Done | CleanupStep::Remove | CleanupStep::Wait(_) => return None,
            CleanupStep::Retain => (false, RETAINED),
            CleanupStep::GiveUp(why) => (true, why.as_str()),
        };
        let why = if named {
            format!("{}: {why}", cleanup.name)
        } else {
            why.to_owned()
        };
        let rows = rows(env, object, owner, cleanup);
        Some(Self { abandoned, why, rows })
    }

    /// What a ledger that cannot be read may leave; the status may name the clusters.
    pub fn not_known(why: &str, status: Option<&XmppFederationStatus>) -> Self {
        let clusters = status.into_iter().flat_map(|status| &status.imp);
        let leaving: Vec<&str> = clusters
            .filter(|imp| imp.leaving.is_some())
            .map(|imp| imp.name.as_str())
            .collect();
        let told = if leaving.is_empty() {
            String::new()
        } else {
            format!("; the status named {} last", leaving.join(", "))
        };
        Self {
            abandoned: true,
            why: format!("{why}{told}"),
            rows: Vec::new(),
        }
    }

    /// Writes all of it to the log and returns it as notes, as many as the length of an event needs.
    /// Nothing is reported if no row is retained.
    pub fn report(&self, owner: &Owner) -> Vec<Note> {
        let Self { abandoned, why, rows } = self;
        if rows.is_empty() && !abandoned {
            return Vec::new();
        }
        let (namespace, name) = (&owner.namespace, &owner.name);
        let list = rows.join("; ");
        if *abandoned {
            tracing::warn!(
                namespace,
                name,
                why,
                rows = list,
                "given up; rows may be left in IM and Presence"
            );
        } else {
            tracing::info!(namespace, name, why, rows = list, "rows stay in IM and Presence");
        }
        let mut messages = vec![match (abandoned, rows.is_empty()) {
            (true, true) => {
                format!("Gave up removing rows from IM and Presence: {why}; no row of ours is known")
            }
            (true, false) => format!(
                "Gave up removing rows from IM and Presence: {why}; {} may be left. On the publisher's command line:",
                rows.len()
            ),
            (false, _) => format!(
                "{} rows stay in IM and Presence: {why}. To remove them, on the publisher's command line:",
                rows.len()
            ),
        }];
        for (number, row) in rows.iter().enumerate() {
            let joint = if number == 0 { " " } else { "; " };
            match messages.last_mut() {
                Some(newest) if newest.len() + joint.len() + row.len() <= LONGEST => {
                    newest.push_str(joint);
                    newest.push_str(row);
                }
                _ => messages.push(row.clone()),
            }
        }
        let reason = if *abandoned {
            Reason::RowsAbandoned
        } else {
            Reason::RowsRetained
        };
        messages
            .into_iter()
            .map(|message| Note {
                warning: *abandoned,
                reason: reason.to_string(),
                message,
            })
            .collect()
    }

    /// Counts rows that were given up. If none is known, one is counted, because there may be one.
    pub fn count(&self, env: &Environment) {
        if self.abandoned {
            let rows = u64::try_from(self.rows.len()).unwrap_or(u64::MAX);
            env.metrics.abandoned_rows.inc_by(rows.max(1));
        }
    }
}

/// The rows of ours that may stand in a cluster's table, each with the command that removes it.
/// The ledger knows best; the status remembers where the ledger was lost.
fn rows(env: &Environment, object: &XmppFederation, owner: &Owner, cleanup: &Cleanup) -> Vec<String> {
    let tried = cleanup.removal.as_ref().map(|removal| &removal.rows_left);
    if let Some(rows) = tried.filter(|rows| !rows.is_empty()) {
        return rows.clone();
    }
    if let Some(dropped) = &cleanup.dropped {
        return dropped.rows.clone();
    }
    let status = object.status.as_ref();
    let status = status.and_then(|s| s.imp.iter().find(|imp| imp.name == cleanup.name));
    let table = status.and_then(|imp| imp.table.as_deref());
    let entry = cleanup.entry.as_ref().map(sibling);
    match entry.map(|entry| env.imp.recorded(&owner.uid, &entry, table)) {
        Some(Ok(Some(rows))) => rows,
        _ => status.map(of_status).unwrap_or_default(),
    }
}

/// The rows that a status shows.
pub fn of_status(imp: &ImpStatus) -> Vec<String> {
    imp.registrations
        .iter()
        .map(|row| row_left(&row.component_id, &row.pkid, imp.table.as_deref()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::testing::owner;
    use rstest::rstest;

    fn many(count: usize) -> Vec<String> {
        (0..count)
            .map(|n| {
                let id = format!("cm-2_s2scp-1.eft-xwye-a-{n}-coluc-com");
                row_left(&id, "055c13d9-943d-459d-a3c6-af1d1176936d", None)
            })
            .collect()
    }

    #[rstest]
    #[case(0, 1)]
    #[case(1, 1)]
    #[case(2, 1)]
    #[case(60, 11)]
    fn every_row_stands_in_an_event_that_the_api_takes(#[case] rows: usize, #[case] events: usize) {
        let left = LeftoverRows {
            abandoned: true,
            why: "HTTP 401".to_owned(),
            rows: many(rows),
        };
        let notes = left.report(&owner());
        assert_eq!(notes.len(), events);
        for note in &notes {
            assert!(note.warning && note.message.len() <= LONGEST, "{note:?}");
        }
        for row in &left.rows {
            let holders = notes.iter().filter(|n| n.message.contains(row)).count();
            assert_eq!(holders, 1, "{row}");
        }
    }

    #[test]
    fn a_row_is_named_with_what_removes_it() {
        assert_eq!(
            row_left("cm-2_s2scp-1.a-b", "055c13d9", Some("xmpp2snodes")),
            "cm-2_s2scp-1.a-b (055c13d9): run sql delete from xmpp2snodes where pkid = '055c13d9'"
        );
    }

    #[test]
    fn rows_that_were_to_stay_are_no_warning() {
        let retained = |rows| LeftoverRows {
            abandoned: false,
            why: RETAINED.to_owned(),
            rows,
        };
        let notes = retained(many(1)).report(&owner());
        assert!(notes.iter().all(|note| !note.warning), "{notes:?}");
        assert!(retained(many(0)).report(&owner()).is_empty());
    }
}
