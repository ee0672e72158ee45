//! The one entry point: observes a cluster, learns, plans, does at most one thing, records it
//! before and after, and reports. One call at a time per publisher, over all resources.
//!
//! - [`removal`]: rows of a resource that goes; [`record`]: the ledger, read, learned and written
//! - [`read`]: what is asked of IM&P; [`act`]: what is done to it; [`access`]: how it is reached

mod access;
mod act;
mod read;
mod record;
mod removal;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::dns::Resolve;
use tokio::sync::Mutex as AsyncMutex;

use crate::access::AxlVersion;
use crate::accounts::{Logins, Permission};
use crate::axl::Row;
use crate::clock::{Clock, Stamp, SystemClock};
use crate::counter::{Counter, Uncounted};
use crate::desired::Desired;
use crate::effects::{NextStep, PlanInput, Wait, WaitReason};
use crate::http::{Caller, SetupError};
use crate::ledger::Ledger;
use crate::ledger::cache::LedgerCache;
use crate::ledger::file::LedgerFile;
use crate::observation::{Observation, Read};
use crate::pkid::Pkid;
use crate::report::{Event, Report};
use crate::store::{LedgerStore, StoreError};
use crate::timings::Timings;
use crate::verdicts::ReportInput;

pub(crate) use access::server;
pub(crate) use removal::rows_left;

/// Most reads in one reconcile; the next reconcile does the rest.
const MAX_STEPS: usize = 24;

/// All IM&P clusters of this operator.
pub struct Manager {
    counter: Arc<dyn Counter>,
    clock: Arc<dyn Clock>,
    resolver: Option<Arc<dyn Resolve>>,
    logins: Arc<Logins>,
    ledgers: LedgerCache,
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
    caller: Option<Result<Caller, SetupError>>,
    axl_version: Option<AxlVersion>,
    seen: Observation,
    file: Option<LedgerFile>,
    /// Why the ledger could not be read or written.
    ledger_error: Option<StoreError>,
    /// Ids of rows that were deleted, until the removal is reported.
    deleted: Vec<String>,
}

impl Manager {
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

    /// The same, which calls IM and Presence only while that answers yes.
    #[must_use]
    pub fn permitted_by(self, permission: Permission) -> Self {
        self.logins.permitted_by(permission);
        self
    }

    /// The same with another clock and resolver.
    pub fn with(store: Arc<dyn LedgerStore>, clock: Arc<dyn Clock>, resolver: Option<Arc<dyn Resolve>>) -> Self {
        Self {
            logins: Arc::new(Logins::new(Arc::clone(&store), Arc::clone(&clock))),
            ledgers: LedgerCache::new(store),
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
            NextStep::Wait(wait) => Duration::from_millis(wait.until.mono_ms.saturating_sub(now.mono_ms)),
            NextStep::Read(_) | NextStep::Act(_) => Duration::ZERO,
        };
        ReportInput {
            desired,
            seen: &cluster.seen,
            ledger: cluster.file.as_ref().map(|file| &file.ledger),
            step: &step,
            setup_error: cluster.caller.as_ref().and_then(|caller| caller.as_ref().err()),
            ledger_error: cluster.ledger_error.as_ref(),
            axl_version: cluster.axl_version,
        }
        .report(events, requeue_after)
    }

    /// Writes down the last outcomes of logins, after the last call: otherwise they read as lost answers.
    pub async fn finish(&self) {
        self.logins.finish().await;
    }

    /// Forgets a resource that is gone; ledgers stay.
    pub fn forget(&self, owner_uid: &str) {
        self.clusters.lock().retain(|(uid, _), _| uid != owner_uid);
    }

    fn cluster(&self, desired: &Desired) -> Arc<AsyncMutex<Cluster>> {
        let key = (desired.owner.uid.clone(), desired.target.name.clone());
        let mut clusters = self.clusters.lock();
        Arc::clone(clusters.entry(key).or_default())
    }

    /// Waits for the right to call the publisher, and makes a step with it.
    async fn turn(&self, cluster: &mut Cluster, desired: &Desired) -> (NextStep, Vec<Event>) {
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
        (NextStep::Read(Read::Rows), events)
    }

    fn calls(&self, key: &PublisherKey) -> Arc<AsyncMutex<RecentCalls>> {
        let mut publishers = self.publishers.lock();
        Arc::clone(publishers.entry(key.clone()).or_default())
    }

    fn publisher_key(&self, name: &str) -> PublisherKey {
        self.pkid_of(name)
            .map_or_else(|| PublisherKey::Name(name.to_owned()), PublisherKey::Pkid)
    }

    /// The pkid of the publisher that answered at that name, to this process.
    pub(crate) fn pkid_of(&self, name: &str) -> Option<String> {
        let pkids = self.pkids.lock();
        pkids.get(name).cloned()
    }

    pub(crate) fn ledgers(&self) -> &LedgerCache {
        &self.ledgers
    }

    /// Notes which publisher answers at that name.
    fn found_publisher(&self, name: &str, seen: &Observation) {
        if let Some(node) = seen.node_list().iter().find(|node| node.publisher) {
            let mut pkids = self.pkids.lock();
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
    ) -> Option<NextStep> {
        self.take_in_changes(cluster, desired).await;
        let mut acted = false;
        for _ in 0..MAX_STEPS {
            if held.is_some_and(|held| *held != self.publisher_key(&desired.target.publisher)) {
                return None;
            }
            self.update_ledger(cluster, desired, events).await;
            let step = PlanInput {
                desired,
                seen: &cluster.seen,
                ledger: cluster
                    .file
                    .as_ref()
                    .filter(|_| cluster.ledger_error.is_none())
                    .map(|file| &file.ledger),
                now: self.clock.now(),
                fresh: Pkid::random(),
            }
            .plan();
            match step {
                NextStep::Read(read) if !acted => self.read(cluster, desired, read).await,
                NextStep::Act(act) if !acted && !desired.hold_acts => {
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
        Some(NextStep::Wait(Wait {
            why: WaitReason::Axl,
            until,
        }))
    }

    /// Takes over what changed in the target, and a refresh that was asked for.
    async fn take_in_changes(&self, cluster: &mut Cluster, desired: &Desired) {
        let target = access::target_key(&desired.target);
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
