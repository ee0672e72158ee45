//! The one entry point: observes a cluster, learns, plans, does at most one thing, records it
//! before and after, and reports. One call at a time per publisher, over all resources.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::dns::Resolve;
use tokio::sync::Mutex as AsyncMutex;
use xmpp_federation_core::ComponentId;

use super::audit::{self, Action, Deed, Outcome};
use super::axl::{Axl, HaState, Row};
use super::clock::{Clock, Stamp, SystemClock};
use super::control_center::{Commanded, ControlCenter, NotDone};
use super::desired::{Activation, Desired, Sibling};
use super::effects::{self, Act, Step, Wait, Why};
use super::error::{CallError, CallErrorKind};
use super::http::Caller;
use super::ledger::Ledger;
use super::ledger::learn::learn;
use super::ledger::shelf::Shelf;
use super::observation::{Barred, Failure, Observation, Read, Seen};
use super::pkid::Pkid;
use super::report::{Event, Removal, Report, row_left};
use super::timings::Timings;
use super::{restart, verdicts};
use crate::access::AxlVersion;
use crate::access::{Credentials, NodeAddress, ServerTrust, Target};
use crate::accounts::Logins;
use crate::control_center::RestartAnswer;
use crate::counter::{Counter, Uncounted};
use crate::ledger::file::LedgerFile;
use crate::observation::Check;
use crate::reasons;
use crate::records::RowRecord;
use crate::store::{LedgerStore, StoreError};

/// Most reads in one reconcile; a plan that wants more goes on in the next.
const MAX_STEPS: usize = 24;

/// All IM&P clusters of this operator.
pub struct Imp {
    counter: Arc<dyn Counter>,
    clock: Arc<dyn Clock>,
    resolver: Option<Arc<dyn Resolve>>,
    logins: Arc<Logins>,
    shelf: Shelf,
    timings: Timings,
    clusters: Mutex<BTreeMap<ClusterKey, Arc<AsyncMutex<Cluster>>>>,
    /// By publisher: the right to call it.
    publishers: Mutex<BTreeMap<PublisherKey, Arc<AsyncMutex<RecentCalls>>>>,
    /// By host name: the publisher that answered there, by its pkid.
    pkids: Mutex<BTreeMap<String, String>>,
}

/// Resource UID and name of the entry.
type ClusterKey = (String, String);
/// A cluster's publisher: by the pkid that it has in `processnode`, because one host may have
/// several names; by name until that is known, which takes one AXL call and no other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum PublisherKey {
    Pkid(String),
    Name(String),
}
/// When Control Center was called in the last minute.
type RecentCalls = VecDeque<Stamp>;

/// What this process keeps of one cluster.
#[derive(Default)]
struct Cluster {
    /// What the caller was made for.
    target: Option<String>,
    caller: Option<Result<Caller, String>>,
    axl_version: Option<AxlVersion>,
    seen: Observation,
    file: Option<LedgerFile>,
    /// Why the ledger could not be read or written.
    ledger_error: Option<String>,
    /// Ids of rows that were deleted, until the removal is reported.
    deleted: Vec<String>,
}

impl Imp {
    /// Ledgers live in that store; names are resolved as the system does.
    pub fn new(store: Arc<dyn LedgerStore>) -> Self {
        Self::with(store, Arc::new(SystemClock), None)
    }

    /// The same, counting what is done.
    #[must_use]
    pub fn counted_by(mut self, counter: Arc<dyn Counter>) -> Self {
        self.counter = counter;
        self
    }

    /// The same with another clock and resolver.
    pub fn with(store: Arc<dyn LedgerStore>, clock: Arc<dyn Clock>, resolver: Option<Arc<dyn Resolve>>) -> Self {
        Self {
            logins: Arc::new(Logins::new(Arc::clone(&store), Arc::clone(&clock))),
            shelf: Shelf::new(store),
            counter: Arc::new(Uncounted),
            clock,
            resolver,
            timings: Timings::default(),
            clusters: Mutex::default(),
            publishers: Mutex::default(),
            pkids: Mutex::default(),
        }
    }

    /// The same with other waits, for a simulated cluster that is quicker than a real one.
    #[must_use]
    pub fn timed(mut self, timings: Timings) -> Self {
        self.timings = timings;
        self
    }

    /// Brings one cluster one step nearer to what is desired, and reports.
    pub async fn reconcile(&self, desired: &Desired) -> Report {
        let cluster = self.cluster(desired);
        let mut cluster = cluster.lock().await;
        let (step, events) = self.turn(&mut cluster, desired).await;
        let now = self.clock.now();
        let requeue_after = match &step {
            Step::Wait(wait) => Duration::from_millis(wait.until.mono_ms.saturating_sub(now.mono_ms)),
            Step::Read(_) | Step::Act(_) => Duration::ZERO,
        };
        verdicts::report(
            &verdicts::Input {
                desired,
                seen: &cluster.seen,
                ledger: cluster.file.as_ref().map(|file| &file.ledger),
                step: &step,
                setup_error: cluster.caller.as_ref().and_then(|caller| caller.as_ref().err()),
                ledger_error: cluster.ledger_error.as_ref(),
                axl_version: cluster.axl_version,
            },
            events,
            requeue_after,
        )
    }

    /// Removes our rows, one step at a time; never restarts anything.
    pub async fn remove(&self, desired: &Desired) -> Removal {
        let mut prepared = desired.clone();
        prepared.activation = Activation::Prepared;
        let report = self.reconcile(&prepared).await;
        let cluster = self.cluster(desired);
        let mut cluster = cluster.lock().await;
        let ledger = cluster.file.as_ref().map(|file| &file.ledger);
        let barred = cluster.seen.barred.is_some();
        let claimed = ledger
            .and_then(|ledger| ledger.claimed_by_another(&desired.owner))
            .is_some();
        let none_left = ledger.is_some_and(|ledger| ledger.rows.is_empty())
            && cluster.seen.rows_current()
            && cluster.ledger_error.is_none();
        // The cluster is free for another resource, before this one is told to be done.
        let freed =
            none_left && !barred && !claimed && self.record(&mut cluster, |ledger| ledger.free(&desired.owner)).await;
        let done = !barred && (claimed || freed);
        let ledger = cluster.file.as_ref().map(|file| &file.ledger);
        let table = cluster.seen.table.map(super::axl::Table::name);
        let rows_left = match ledger {
            Some(ledger) if !done && !barred => rows_left(ledger, table),
            _ => Vec::new(),
        };
        let like_ours: Vec<String> = cluster
            .seen
            .rows
            .iter()
            .filter(|_| freed)
            .flat_map(|rows| &rows.value)
            .filter(|row| {
                let ids = &desired.component_ids;
                ids.iter().any(|id| id.as_str() == row.cp_id)
            })
            .map(|row| row_left(&row.cp_id, &row.pkid, table))
            .collect();
        let mut events = report.events;
        events.extend(like_ours.iter().map(|row| Event {
            warning: true,
            reason: reasons::IDENTICAL_FOREIGN_ROW,
            message: format!(
                "A row with a component id of ours stays in IM&P's table, as the record does not show it as ours; if it is (a lost record), remove it on the publisher's command line: {row}"
            ),
        }));
        let message = if done {
            let deleted = std::mem::take(&mut cluster.deleted);
            if deleted.is_empty() {
                "No row of ours is left in IM&P's table".to_owned()
            } else {
                let message = format!(
                    "The rows of {} are removed from IM&P's table; no router was restarted. Until Cisco XCP Router is restarted on every node, the routers still know these component ids, without links to them",
                    deleted.join(", ")
                );
                events.push(Event {
                    warning: false,
                    reason: reasons::RESTART_WOULD_CLEAN,
                    message: message.clone(),
                });
                message
            }
        } else if report.axl_authenticated.status == super::report::Status::False {
            // What the condition says beside the error is not about rows, and an event is short.
            let failure = cluster.seen.axl_failure.as_ref();
            failure.map_or(report.axl_authenticated.message, |failure| failure.error.to_string())
        } else {
            report.components_registered.message
        };
        Removal {
            done,
            message,
            rows_left,
            events,
            requeue_after: report.requeue_after,
        }
    }

    /// The rows of a resource as the record has them, without asking IM&P, each with the command
    /// that removes it by hand; `None` where no record tells of this resource.
    pub async fn recorded(
        &self,
        owner_uid: &str,
        publisher: &str,
        table: Option<&str>,
    ) -> Result<Option<Vec<String>>, StoreError> {
        let publisher = publisher.to_ascii_lowercase();
        let is_it = |ledger: &Ledger| ledger.known_as.contains(&publisher);
        let file = self.ledger_of(owner_uid, is_it).await?;
        Ok(file.map(|file| rows_left(&file.ledger, table)))
    }

    /// Forgets a resource that is gone; ledgers stay.
    pub fn forget(&self, owner_uid: &str) {
        self.clusters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(uid, _), _| uid != owner_uid);
    }

    fn cluster(&self, desired: &Desired) -> Arc<AsyncMutex<Cluster>> {
        let key = (desired.owner.uid.clone(), desired.target.name.clone());
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(clusters.entry(key).or_default())
    }

    /// Waits for the right to call the publisher, and makes a step with it.
    async fn turn(&self, cluster: &mut Cluster, desired: &Desired) -> (Step, Vec<Event>) {
        let name = &desired.target.publisher;
        let mut events = Vec::new();
        let mut key = self.publisher_key(name);
        // Twice at most: what is behind a name is learned once, and may change once.
        for last in [false, true] {
            let calls = self.calls(&key);
            let mut calls = calls.lock().await;
            cluster.seen.control_center_calls.clone_from(&calls);
            let step = self.step(cluster, desired, &mut events, (!last).then_some(&key)).await;
            calls.clone_from(&cluster.seen.control_center_calls);
            if let Some(step) = step {
                return (step, events);
            }
            key = self.publisher_key(name);
        }
        (Step::Read(Read::Rows), events)
    }

    fn calls(&self, key: &PublisherKey) -> Arc<AsyncMutex<RecentCalls>> {
        let mut publishers = self.publishers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(publishers.entry(key.clone()).or_default())
    }

    fn publisher_key(&self, name: &str) -> PublisherKey {
        self.pkid_of(name)
            .map_or_else(|| PublisherKey::Name(name.to_owned()), PublisherKey::Pkid)
    }

    /// The pkid of the publisher that answered at that name, to this process.
    pub(super) fn pkid_of(&self, name: &str) -> Option<String> {
        let pkids = self.pkids.lock().unwrap_or_else(PoisonError::into_inner);
        pkids.get(name).cloned()
    }

    pub(super) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// Notes which publisher answers at that name.
    fn found_publisher(&self, name: &str, seen: &Observation) {
        if let Some(node) = seen.node_list().iter().find(|node| node.publisher) {
            let mut pkids = self.pkids.lock().unwrap_or_else(PoisonError::into_inner);
            pkids.insert(name.to_owned(), node.pkid.to_string());
        }
    }

    /// Reads as long as the plan asks for it, does one thing if it asks for one, and returns what
    /// the plan says then; `None` as soon as the publisher turns out not to be the one that is held.
    async fn step(
        &self,
        cluster: &mut Cluster,
        desired: &Desired,
        events: &mut Vec<Event>,
        held: Option<&PublisherKey>,
    ) -> Option<Step> {
        self.take_over(cluster, desired).await;
        let mut acted = false;
        for _ in 0..MAX_STEPS {
            if held.is_some_and(|held| *held != self.publisher_key(&desired.target.publisher)) {
                return None;
            }
            self.learn(cluster, desired, events).await;
            let step = effects::plan(effects::Input {
                desired,
                seen: &cluster.seen,
                ledger: cluster
                    .file
                    .as_ref()
                    .filter(|_| cluster.ledger_error.is_none())
                    .map(|file| &file.ledger),
                now: self.clock.now(),
                fresh: Pkid::random(),
            });
            match step {
                Step::Read(read) if !acted => self.read(cluster, desired, read).await,
                Step::Act(act) if !acted && !desired.hold_acts => {
                    acted = true;
                    self.act(cluster, desired, act, events).await;
                }
                step => return Some(step),
            }
            if matches!(cluster.caller, Some(Err(_))) {
                break;
            }
        }
        let until = self.clock.now().plus(Duration::from_secs(5));
        Some(Step::Wait(Wait { why: Why::Axl, until }))
    }

    /// Takes over what changed in the target, and a refresh that was asked for.
    async fn take_over(&self, cluster: &mut Cluster, desired: &Desired) {
        let target = target_key(&desired.target);
        // What a process finds at its start was asked of another one.
        let asked_now = cluster.target.is_some();
        if cluster.target.as_ref() != Some(&target) {
            let caller = Caller::new(
                &desired.target,
                self.resolver.clone(),
                Arc::clone(&self.logins),
                Arc::clone(&self.counter),
            );
            cluster.caller = Some(caller.map(|caller| caller.within(self.timings.call)));
            let same_host = cluster
                .target
                .as_ref()
                .is_some_and(|old| old.split('\n').next() == target.split('\n').next());
            if !same_host {
                // These are the publisher's, over all resources.
                let calls = std::mem::take(&mut cluster.seen.control_center_calls);
                *cluster = Cluster {
                    caller: cluster.caller.take(),
                    ..Cluster::default()
                };
                cluster.seen.control_center_calls = calls;
            }
            cluster.seen.forgive();
            // Whether it is accepted shows at once, not at the next poll.
            if cluster.target.is_some() {
                cluster.seen.look_again();
            }
            cluster.seen.timings = self.timings;
            cluster.target = Some(target);
        }
        let check = cluster.seen.federation_check.as_ref();
        if check.map(|check| &check.check) != desired.federation_check.as_ref() {
            cluster.seen.federation_check = None;
        }
        if cluster.seen.refreshed != desired.requests.refresh {
            cluster.seen.refreshed.clone_from(&desired.requests.refresh);
            if desired.requests.refresh.is_some() {
                cluster.seen.refresh();
                if asked_now {
                    let target = &desired.target;
                    self.logins.ask_again(&target.axl).await;
                    if let Some(account) = &target.control_center {
                        self.logins.ask_again(account).await;
                    }
                }
            }
        }
    }

    /// Loads the ledger where it is not, and writes what was learned.
    async fn learn(&self, cluster: &mut Cluster, desired: &Desired, events: &mut Vec<Event>) {
        let publisher = cluster
            .seen
            .node_list()
            .iter()
            .find(|node| node.publisher)
            .map(|node| node.pkid.to_string());
        let loaded = match publisher {
            Some(pkid) => {
                let newer = self.shelf.newer(&pkid, cluster.file.as_ref()).await;
                if newer.is_ok() {
                    cluster.ledger_error = None;
                }
                newer
            }
            // IM&P does not answer: what is known of the cluster is found by the publisher's name.
            None if cluster.file.is_none() && cluster.seen.axl_failure.is_some() => {
                let is_it = |ledger: &Ledger| match &desired.place.only {
                    Some(pkid) => ledger.publisher == *pkid,
                    None => ledger.known_as.contains(&desired.target.publisher),
                };
                self.ledger_of(&desired.owner.uid, is_it).await
            }
            None => Ok(None),
        };
        match loaded {
            Ok(Some(file)) => {
                if cluster.file.replace(file).is_some() {
                    cluster.seen.outdate();
                }
                cluster.ledger_error = None;
            }
            Ok(None) => {}
            Err(error) => {
                cluster.ledger_error = Some(error.to_string());
                return;
            }
        }
        let Some(file) = &mut cluster.file else {
            return;
        };
        cluster.seen.barred = self.barred(&cluster.seen, &file.ledger, desired);
        let mut ledger = file.ledger.clone();
        let before = ledger.actions.clone();
        let learned = learn(&mut ledger, desired, &mut cluster.seen, self.clock.now());
        if ledger != file.ledger
            && let Err(error) = self.shelf.save(file, ledger).await
        {
            cluster.ledger_error = Some(error.to_string());
            return;
        }
        for action in &file.ledger.actions {
            if !before.contains(action) {
                audit::announce_learned(action, &*self.counter);
            }
        }
        events.extend(learned);
    }

    async fn ledger_of(
        &self,
        owner_uid: &str,
        is_it: impl Fn(&Ledger) -> bool,
    ) -> Result<Option<LedgerFile>, StoreError> {
        let ours = |ledger: &Ledger| {
            let owner = ledger.owner.as_ref();
            owner.is_some_and(|owner| owner.uid == owner_uid)
        };
        let mut files = self.shelf.all().await?.into_iter();
        Ok(files.find(|file| ours(&file.ledger) && is_it(&file.ledger)))
    }

    /// Why nothing may be done at the publisher of this ledger.
    fn barred(&self, seen: &Observation, ledger: &Ledger, desired: &Desired) -> Option<Barred> {
        let place = &desired.place;
        let only = place.only.as_ref();
        if seen.nodes.is_some() && only.is_some_and(|pkid| *pkid != ledger.publisher) {
            return Some(Barred::Elsewhere(ledger.publisher.clone()));
        }
        let same = |sibling: &&Sibling| match self.pkid_of(&sibling.publisher) {
            Some(pkid) => pkid == ledger.publisher,
            // Not asked by this process yet; the ledger knows its names.
            None => ledger.known_as.contains(&sibling.publisher),
        };
        let sibling = place.earlier.iter().find(same)?;
        Some(Barred::SameAs(sibling.entry.clone()))
    }

    async fn read(&self, cluster: &mut Cluster, desired: &Desired, read: Read) {
        let Some(Ok(caller)) = cluster.caller.clone() else {
            return;
        };
        if let Read::Services(node) = read {
            self.read_services(cluster, desired, &caller, node).await;
            return;
        }
        let mut axl = axl(&caller, &desired.target, cluster.axl_version);
        let asked = self.clock.now();
        let result = match &read {
            Read::Nodes => match axl.nodes().await {
                Ok(value) => {
                    let answered = self.clock.now();
                    cluster
                        .seen
                        .services
                        .retain(|name, _| value.iter().any(|node| node.name == *name));
                    cluster
                        .seen
                        .control_center_failures
                        .retain(|name, _| value.iter().any(|node| node.name == *name));
                    cluster.seen.ask_for_all();
                    cluster.seen.nodes = Some(Seen { value, asked, answered });
                    self.found_publisher(&desired.target.publisher, &cluster.seen);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Read::Table => axl.table().await.map(|table| cluster.seen.table = Some(table)),
            Read::Rows => match cluster.seen.table {
                Some(table) => match axl.rows(table).await {
                    Ok(value) => {
                        let answered = self.clock.now();
                        let ours = cluster
                            .file
                            .as_ref()
                            .map(|file| file.ledger.rows.clone())
                            .unwrap_or_default();
                        cluster.seen.saw_rows(Seen { value, asked, answered }, &ours);
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                None => Ok(()),
            },
            Read::Federation => match &desired.federation_check {
                Some(check) => super::federation::ask(&mut axl, check).await.map(|value| {
                    let answered = self.clock.now();
                    cluster.seen.federation_check = Some(Check {
                        check: check.clone(),
                        seen: Seen { value, asked, answered },
                    });
                }),
                None => Ok(()),
            },
            Read::Redundancy => self
                .take_redundancy(cluster, asked, axl.redundancy().await)
                .map_or(Ok(()), Err),
            Read::Services(_) => Ok(()),
        };
        cluster.axl_version = axl.version;
        match result {
            Ok(()) => {
                cluster.seen.due.remove(&read);
                cluster.seen.axl_failure = None;
            }
            Err(error) => {
                if matches!(error.kind, CallErrorKind::Fault(_)) {
                    // Perhaps the table has another name by now.
                    cluster.seen.due.insert(Read::Table);
                }
                self.axl_failed(cluster, error);
            }
        }
    }

    fn axl_failed(&self, cluster: &mut Cluster, error: CallError) {
        let now = self.clock.now();
        let count = cluster
            .seen
            .axl_failure
            .as_ref()
            .map_or(0, |failure| failure.count)
            .max(cluster.seen.write_failures.saturating_sub(1))
            + 1;
        let retry_at = now.plus(error.back_off(count, now.wall, self.timings.back_off_unit));
        cluster.seen.axl_failure = Some(Failure { error, count, retry_at });
    }

    /// Takes in the states of redundancy groups; where there are none, that is remembered.
    fn take_redundancy(
        &self,
        cluster: &mut Cluster,
        asked: Stamp,
        states: Result<Vec<HaState>, CallError>,
    ) -> Option<CallError> {
        match states {
            Ok(value) => {
                cluster.seen.redundancy = Some(Seen {
                    value,
                    asked,
                    answered: self.clock.now(),
                });
                None
            }
            Err(error) if matches!(error.kind, CallErrorKind::Fault(_)) => {
                tracing::info!(%error, "states in redundancy groups cannot be read here; they say nothing");
                cluster.seen.redundancy_unreadable = true;
                None
            }
            Err(error) => Some(error),
        }
    }

    async fn read_services(&self, cluster: &mut Cluster, desired: &Desired, caller: &Caller, node: String) {
        let asked = self.clock.now();
        cluster.seen.called_control_center(asked);
        let which = cluster.seen.services_to_ask(&node);
        let answer = control_center(caller, &desired.target, &node).services(which).await;
        let answered = self.clock.now();
        cluster.seen.due.remove(&Read::Services(node.clone()));
        if let Err(error) = &answer
            && matches!(error.kind, CallErrorKind::Fault(_))
            && cluster.seen.suspect_names(&node, which)
        {
            tracing::info!(node, %error, "perhaps a service has another name here: those that are needed are asked for alone");
            return;
        }
        cluster.seen.services_answered(&node, which, answer.is_ok());
        match answer {
            Ok(value) => {
                cluster.seen.control_center_failures.remove(&node);
                cluster.seen.services.insert(node, Seen { value, asked, answered });
            }
            Err(error) => {
                let count = cluster
                    .seen
                    .control_center_failures
                    .get(&node)
                    .map_or(0, |failure| failure.count)
                    + 1;
                let unit = self.timings.back_off_unit;
                let retry_at = answered.plus(error.back_off(count, answered.wall, unit));
                cluster
                    .seen
                    .control_center_failures
                    .insert(node, Failure { error, count, retry_at });
            }
        }
    }

    /// Does one thing: the intent is in the ledger before the call, the outcome after it.
    async fn act(&self, cluster: &mut Cluster, desired: &Desired, act: Act, events: &mut Vec<Event>) {
        let Some(Ok(caller)) = cluster.caller.clone() else {
            return;
        };
        match act {
            Act::Insert { pkid, id } => {
                let known = cluster.ledger().is_some_and(|ledger| ledger.rows.contains_key(&pkid));
                if !known
                    && !self
                        .record(cluster, |ledger| {
                            ledger.intend_insert(pkid, &id);
                        })
                        .await
                {
                    return;
                }
                let Some(table) = cluster.seen.table else {
                    return;
                };
                let before = cluster.rows_of_ours();
                let mut axl = axl(&caller, &desired.target, cluster.axl_version);
                let result = axl.insert(table, pkid, &id).await;
                cluster.axl_version = axl.version;
                if matches!(result, Ok(1))
                    && let Some(rows) = &mut cluster.seen.rows
                {
                    rows.value.push(Row {
                        pkid: pkid.to_string(),
                        cp_id: id.to_string(),
                    });
                    cluster.seen.unverified = true;
                }
                let reason = format!("{} has a slot for it", desired.owner);
                let row = (pkid, id.as_str(), reason.as_str());
                self.row_done(cluster, Action::InsertRow, row, before, result, events)
                    .await;
            }
            Act::Delete { pkid, id, reason } => {
                if !self.record(cluster, |ledger| ledger.intend_delete(pkid)).await {
                    return;
                }
                let Some(table) = cluster.seen.table else {
                    return;
                };
                let before = cluster.rows_of_ours();
                let shown = cluster
                    .seen
                    .rows
                    .as_ref()
                    .is_some_and(|rows| rows.value.iter().any(|row| row.pkid == pkid.to_string()));
                let mut axl = axl(&caller, &desired.target, cluster.axl_version);
                let result = axl.delete(table, pkid, &id, shown).await;
                cluster.axl_version = axl.version;
                if result.is_ok() {
                    if let Some(rows) = &mut cluster.seen.rows {
                        rows.value.retain(|row| row.pkid != pkid.to_string());
                    }
                    cluster.seen.unverified = true;
                    if !cluster.deleted.contains(&id.to_string()) {
                        cluster.deleted.push(id.to_string());
                    }
                }
                let row = (pkid, id.as_str(), reason);
                self.row_done(cluster, Action::DeleteRow, row, before, result, events)
                    .await;
            }
            Act::Adopt { pkid, id } => self.adopt(cluster, pkid, &id, events).await,
            Act::Restart { node, reason } => {
                self.restart(cluster, desired, &caller, &node, reason, events).await;
            }
        }
    }

    /// Takes a row over that stands for a component of ours, as the annotation asks.
    async fn adopt(&self, cluster: &mut Cluster, pkid: Pkid, id: &ComponentId, events: &mut Vec<Event>) {
        let deed = Deed {
            at: self.clock.now().wall,
            action: Action::AdoptRow,
            subject: format!("{id} ({pkid})"),
            reason: "the annotation xmppfederation.io/adopt-rows asks for it".to_owned(),
            outcome: Outcome::Done,
            told: "it was of somebody else, it is ours from now on; nothing was written to the table".to_owned(),
        };
        let saved = self
            .record(cluster, |ledger| {
                ledger.adopt(pkid, id);
                ledger.acted(deed.record());
            })
            .await;
        if saved {
            cluster.seen.due.insert(Read::Rows);
            deed.announce(&*self.counter);
            events.push(deed.event());
        }
    }

    /// Notes what came of a write.
    async fn row_done(
        &self,
        cluster: &mut Cluster,
        action: Action,
        (pkid, id, reason): (Pkid, &str, &str),
        before: usize,
        result: Result<u64, CallError>,
        events: &mut Vec<Event>,
    ) {
        let (outcome, told) = match &result {
            Ok(rows) => (
                if *rows == 1 { Outcome::Done } else { Outcome::NotDone },
                format!(
                    "{rows} row(s); the table had {before} rows of ours, has {}",
                    cluster.rows_of_ours()
                ),
            ),
            Err(error) => (
                if error.may_have_arrived() {
                    Outcome::Unknown
                } else {
                    Outcome::NotDone
                },
                format!("the table had {before} rows of ours; {error}"),
            ),
        };
        let deed = Deed {
            at: self.clock.now().wall,
            action,
            subject: format!("{id} ({pkid})"),
            reason: reason.to_owned(),
            outcome,
            told,
        };
        deed.announce(&*self.counter);
        events.push(deed.event());
        let record = deed.record();
        match result {
            Ok(rows) => {
                cluster.seen.axl_failure = None;
                cluster.seen.write_failures = 0;
                // A row that was never seen: look whether it is gone.
                if rows != 1 {
                    cluster.seen.due.insert(Read::Rows);
                }
            }
            Err(error) => {
                cluster.seen.write_failures = cluster.seen.write_failures.saturating_add(1);
                cluster.seen.due.insert(Read::Rows);
                if matches!(error.kind, CallErrorKind::Fault(_)) {
                    cluster.seen.due.insert(Read::Table);
                }
                self.axl_failed(cluster, error);
            }
        }
        self.record(cluster, |ledger| ledger.acted(record)).await;
    }

    async fn restart(
        &self,
        cluster: &mut Cluster,
        desired: &Desired,
        caller: &Caller,
        node: &str,
        reason: String,
        events: &mut Vec<Event>,
    ) {
        let planned = self.clock.now();
        let seen = cluster.seen.clone();
        let intent = |ledger: &mut Ledger| {
            let id = Pkid::random().to_string();
            ledger.intend_restart(node, &reason, id, planned, &seen);
        };
        let cause = cluster
            .ledger()
            .and_then(|ledger| restart::need(node, desired.wanted(), ledger))
            .map_or("unknown", |need| need.word());
        if !self.record(cluster, intent).await {
            return;
        }
        self.counter.restarted(node, cause);
        cluster.seen.called_control_center(self.clock.now());
        let commanded = control_center(caller, &desired.target, node)
            .restart_router(planned.plus(self.timings.send_within))
            .await;
        let now = self.clock.now();
        let (answer, outcome, told) = match commanded {
            Commanded::Answered(answer) => {
                cluster.seen.restart_failures.remove(node);
                let (outcome, told) = match &answer {
                    RestartAnswer::Accepted => (Outcome::Done, "accepted".to_owned()),
                    RestartAnswer::Refused(why) => (Outcome::NotDone, format!("refused ({why})")),
                    RestartAnswer::Ambiguous(why) => (Outcome::Unknown, format!("unknown ({why})")),
                };
                (Some(answer), outcome, told)
            }
            Commanded::NotDone(not_done) => {
                let (wait, why) = match not_done {
                    NotDone::Busy(why) => (self.timings.busy, why),
                    NotDone::Failed(error) => {
                        let count = cluster.seen.restart_failures.entry(node.to_owned()).or_default();
                        *count = count.saturating_add(1);
                        let unit = self.timings.back_off_unit;
                        (error.back_off(*count, now.wall, unit).max(unit * 10), error.to_string())
                    }
                };
                cluster
                    .seen
                    .restart_not_before
                    .insert(node.to_owned(), (now.plus(wait), why.clone()));
                (None, Outcome::NotDone, format!("not carried out ({why})"))
            }
        };
        let up_time = seen
            .services
            .get(node)
            .and_then(|services| services.value.up_time)
            .map_or_else(|| "not known".to_owned(), |seconds| format!("{seconds} s before"));
        let deed = Deed {
            at: now.wall,
            action: Action::RestartRouter,
            subject: node.to_owned(),
            reason,
            outcome,
            told: format!("{told}; up time {up_time}"),
        };
        deed.announce(&*self.counter);
        events.push(deed.event());
        let record = deed.record();
        self.record(cluster, |ledger| {
            ledger.acted(record);
            ledger.restart_answered(node, answer);
        })
        .await;
    }

    /// Changes the ledger; whether it was written.
    async fn record(&self, cluster: &mut Cluster, change: impl FnOnce(&mut Ledger)) -> bool {
        let Some(file) = &mut cluster.file else {
            return false;
        };
        let mut ledger = file.ledger.clone();
        change(&mut ledger);
        match self.shelf.save(file, ledger).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "the ledger could not be written");
                cluster.ledger_error = Some(error.to_string());
                false
            }
        }
    }
}

impl Cluster {
    fn ledger(&self) -> Option<&Ledger> {
        self.file.as_ref().map(|file| &file.ledger)
    }

    /// How many rows of ours stand in the table, as far as is known.
    fn rows_of_ours(&self) -> usize {
        let ours = |row: &&Row| {
            row.pkid
                .parse()
                .is_ok_and(|pkid: Pkid| self.ledger().is_some_and(|ledger| ledger.rows.contains_key(&pkid)))
        };
        let rows = self.seen.rows.as_ref();
        rows.map_or(0, |rows| rows.value.iter().filter(ours).count())
    }
}

/// All rows of ours that may stand in the table, for a person who removes them.
pub(super) fn rows_left(ledger: &Ledger, table: Option<&str>) -> Vec<String> {
    let row = |(pkid, row): (&Pkid, &RowRecord)| row_left(row.component_id.as_str(), &pkid.to_string(), table);
    ledger.rows.iter().map(row).collect()
}

/// Changes when anything about reaching the cluster does; the first line is the publisher.
fn target_key(target: &Target) -> String {
    let account = |account: &Credentials| format!("{}/{}", account.secret.uid, account.secret);
    let trust = match &target.tls {
        ServerTrust::Ca { pem, .. } => format!("{:?}", super::http::fingerprint(pem)),
        ServerTrust::Pinned(pinned) => format!("{pinned:?}"),
        ServerTrust::Insecure => "insecure".to_owned(),
    };
    format!(
        "{}:{}\n{:?}\n{:?}\n{}\n{}\n{trust}",
        target.publisher,
        target.port,
        target.addresses,
        target.axl_version,
        account(&target.axl),
        target.control_center.as_ref().map(account).unwrap_or_default(),
    )
}

/// `https://host:port` of a host, with its override.
pub(super) fn server(target: &Target, host: &str) -> String {
    let port = target
        .addresses
        .get(host)
        .and_then(|address: &NodeAddress| address.port)
        .unwrap_or(target.port);
    if host.contains(':') {
        format!("https://[{host}]:{port}")
    } else {
        format!("https://{host}:{port}")
    }
}

fn axl<'a>(caller: &'a Caller, target: &'a Target, version: Option<AxlVersion>) -> Axl<'a> {
    Axl {
        caller,
        server: server(target, &target.publisher),
        account: &target.axl,
        fixed: target.axl_version,
        version,
    }
}

fn control_center<'a>(caller: &'a Caller, target: &'a Target, node: &'a str) -> ControlCenter<'a> {
    ControlCenter {
        caller,
        server: server(target, node),
        node,
        account: target.control_center.as_ref().unwrap_or(&target.axl),
    }
}
