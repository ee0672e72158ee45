//! The one entry point: performs what the [`Machine`] of each cluster asks for. One call at a time per publisher, over all
//! resources.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use xmpp_federation_core::Activation;

use crate::access::{AxlVersion, Target};
use crate::accounts::{Logins, Permission};
use crate::axl::Axl;
use crate::clock::{Clock, Stamp, SystemClock};
use crate::control_center::ControlCenter;
use crate::counter::{Counter, Uncounted};
use crate::desired::{Desired, Sibling};
use crate::error::CallError;
use crate::federation;
use crate::guard::Guard;
use crate::http::{Caller, SetupError};
use crate::ledger::Ledger;
use crate::ledger::cache::{LedgerCache, LedgerChange};
use crate::ledger::file::LedgerFile;
use crate::machine::{Answer, Change, Machine, Next, Recorded, Reply, Request, rows_left};
use crate::observation::Read;
use crate::pkid::Pkid;
use crate::plan::{Action, NextStep};
use crate::report::{Removal, Report};
use crate::resolve::SystemResolver;
use crate::store::{LedgerStore, StoreError};
use crate::timings::Timings;

/// All IM&P clusters of this operator.
pub struct Manager {
    counter: Arc<dyn Counter>,
    clock: Arc<dyn Clock>,
    guard: Arc<dyn Guard>,
    logins: Arc<Logins>,
    ledgers: LedgerCache,
    resolver: SystemResolver,
    timings: Timings,
    clusters: Mutex<BTreeMap<ClusterKey, Arc<AsyncMutex<Cluster>>>>,
    /// The right to call a publisher: by the pkid that it has in `processnode`, because one host may have several names;
    /// by name until that is known, which takes one AXL call and no other.
    publishers: Mutex<BTreeMap<String, Arc<AsyncMutex<RecentCalls>>>>,
    /// The publisher that answered where an entry leads, by its pkid. One name leads to several where it is overridden.
    pkids: Mutex<BTreeMap<ClusterKey, (Sibling, String)>>,
}

/// Resource UID and name of the entry.
type ClusterKey = (String, String);
/// When Control Center was called in the last minute.
type RecentCalls = VecDeque<Stamp>;

/// One cluster of one resource, with what its calls need.
#[derive(Default)]
struct Cluster {
    machine: Machine,
    /// For one turn.
    caller: Option<Caller>,
    axl_version: Option<AxlVersion>,
    file: Option<Arc<LedgerFile>>,
}

impl Manager {
    /// Ledgers live in that store; that guard is asked before each change.
    pub fn new(store: Arc<dyn LedgerStore>, guard: Arc<dyn Guard>) -> Self {
        Self::with(store, guard, Arc::new(SystemClock))
    }

    /// The same with another clock.
    pub fn with(store: Arc<dyn LedgerStore>, guard: Arc<dyn Guard>, clock: Arc<dyn Clock>) -> Self {
        Self {
            logins: Arc::new(Logins::new(Arc::clone(&store), Arc::clone(&clock))),
            ledgers: LedgerCache::new(store),
            resolver: SystemResolver::default(),
            counter: Arc::new(Uncounted),
            clock,
            guard,
            timings: Timings::default(),
            clusters: Mutex::default(),
            publishers: Mutex::default(),
            pkids: Mutex::default(),
        }
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
        self.turn(&mut cluster, desired).await
    }

    /// Removes our rows, one step at a time; never restarts anything.
    pub async fn remove(&self, desired: &Desired) -> Removal {
        let mut prepared = desired.clone();
        prepared.activation = Activation::Prepared;
        let cluster = self.cluster(desired);
        let mut cluster = cluster.lock().await;
        let report = self.turn(&mut cluster, &prepared).await;
        let freeing = cluster.machine.free(desired);
        let freed = freeing.is_some();
        if let Some(request) = freeing {
            self.perform(&mut cluster, &prepared, request).await;
        }
        cluster.machine.removal(desired, report, freed)
    }

    /// The rows of a resource as the records have them of the clusters that an entry may lead to, without asking IM&P, each
    /// with the command that removes it by hand; `None` where no record tells of it.
    pub fn recorded(
        &self,
        owner_uid: &str,
        entry: &Sibling,
        table: Option<&str>,
    ) -> Result<Option<Vec<String>>, StoreError> {
        let files = self.led_to(owner_uid, self.pkid_of(owner_uid, entry).as_ref(), &entry.publisher)?;
        let rows = files.iter().flat_map(|file| rows_left(&file.ledger, table));
        Ok((!files.is_empty()).then(|| rows.collect()))
    }

    /// How many slots are recorded for that resource, in any of its clusters; `None`: nothing was registered yet.
    pub fn recorded_slots(&self, owner_uid: &str) -> Option<u16> {
        let ledgers = self.ledgers.of(owner_uid).ok()?.readable;
        ledgers.iter().filter_map(|file| file.ledger.slots).max()
    }

    /// The nodes of the cluster that an entry leads to as the record has them; none where it may lead to several.
    pub fn recorded_nodes(&self, owner_uid: &str, entry: &Sibling) -> Vec<String> {
        let files = self.led_to(owner_uid, self.pkid_of(owner_uid, entry).as_ref(), &entry.publisher);
        match files.as_deref() {
            Ok([file]) => file.ledger.node_names(),
            _ => Vec::new(),
        }
    }

    /// The ledgers of a resource that a publisher's name may lead to: that of the one that answered, else each whose
    /// publisher was reached by that name.
    fn led_to(
        &self,
        owner_uid: &str,
        answered: Option<&String>,
        name: &str,
    ) -> Result<Vec<Arc<LedgerFile>>, StoreError> {
        let is_it = |ledger: &Ledger| match answered {
            Some(pkid) => ledger.publisher == *pkid,
            None => ledger.known_as.contains(name),
        };
        let mut files = self.ledgers.of(owner_uid)?.readable;
        files.retain(|file| is_it(&file.ledger));
        Ok(files)
    }

    /// Writes down the last outcomes of logins, after the last call: otherwise they read as lost answers.
    pub async fn finish(&self) {
        self.logins.finish().await;
    }

    /// Forgets a resource that is gone; ledgers stay.
    pub fn forget(&self, owner_uid: &str) {
        self.clusters.lock().retain(|(uid, _), _| uid != owner_uid);
        self.keep(owner_uid, &[]);
    }

    /// The pkid of the publisher that answered to this process where that entry leads now.
    pub(crate) fn pkid_of(&self, owner_uid: &str, entry: &Sibling) -> Option<String> {
        let pkids = self.pkids.lock();
        let (led, pkid) = pkids.get(&(owner_uid.to_owned(), entry.entry.clone()))?;
        (led == entry).then(|| pkid.clone())
    }

    /// That publisher answered. Rows are removed at none but the one that is meant, so that removal tells nothing new.
    pub(crate) fn answered(&self, desired: &Desired, pkid: String) {
        if desired.place.only.is_none() {
            let entry = Sibling::of(&desired.target);
            let key = (desired.owner.uid.clone(), entry.entry.clone());
            self.pkids.lock().insert(key, (entry, pkid));
        }
    }

    /// Forgets what answered to entries that are no more, or lead elsewhere.
    pub(crate) fn keep(&self, owner_uid: &str, entries: &[Sibling]) {
        let mut pkids = self.pkids.lock();
        pkids.retain(|(uid, _), (entry, _)| uid != owner_uid || entries.contains(entry));
    }

    /// The publisher that is to be called.
    fn called(&self, desired: &Desired) -> Option<String> {
        let only = desired.place.only.clone();
        only.or_else(|| self.pkid_of(&desired.owner.uid, &Sibling::of(&desired.target)))
    }

    /// The text of that name changed in the store; `None`: it is no ledger.
    pub fn ledger_changed(&self, name: &str) -> Option<LedgerChange> {
        self.ledgers.changed(name)
    }

    /// What finds publishers and nodes.
    pub const fn resolver(&self) -> &SystemResolver {
        &self.resolver
    }

    pub(crate) fn ledgers(&self) -> &LedgerCache {
        &self.ledgers
    }

    fn cluster(&self, desired: &Desired) -> Arc<AsyncMutex<Cluster>> {
        let key = (desired.owner.uid.clone(), desired.target.name.clone());
        let cluster = || {
            Arc::new(AsyncMutex::new(Cluster {
                machine: Machine::new(self.timings),
                ..Cluster::default()
            }))
        };
        Arc::clone(self.clusters.lock().entry(key).or_insert_with(cluster))
    }

    /// Performs what the machine asks for until it waits, with the right to call the publisher.
    async fn turn(&self, cluster: &mut Cluster, desired: &Desired) -> Report {
        let name = &desired.target.publisher;
        loop {
            let key = self.called(desired).unwrap_or_else(|| name.clone());
            let calls = Arc::clone(self.publishers.lock().entry(key.clone()).or_default());
            let mut calls = calls.lock().await;
            cluster.machine.seen.control_center_calls.clone_from(&calls);
            let step = self.turn_at(cluster, desired, &key).await;
            calls.clone_from(&cluster.machine.seen.control_center_calls);
            if let Some(step) = step {
                // It takes 3 kB, and the next turn may be minutes away.
                cluster.caller = None;
                let now = self.clock.now();
                return cluster.machine.report(now, desired, &step, cluster.axl_version);
            }
        }
    }

    /// The same; `None` as soon as the publisher turns out not to be the one that is held.
    async fn turn_at(&self, cluster: &mut Cluster, desired: &Desired, held: &str) -> Option<NextStep> {
        while self.called(desired).is_none_or(|pkid| pkid == held) {
            match cluster.machine.poll(self.clock.now(), Pkid::random(), desired) {
                Next::Wait(step) => return Some(step),
                Next::Do(request) => self.perform(cluster, desired, request).await,
            }
        }
        None
    }

    /// Performs a request, and tells the machine what came of it.
    async fn perform(&self, cluster: &mut Cluster, desired: &Desired, request: Request) {
        let answer = match request {
            Request::Prepare { client, retry_logins } => {
                if retry_logins {
                    let target = &desired.target;
                    for account in [Some(&target.axl), target.control_center.as_ref()]
                        .into_iter()
                        .flatten()
                    {
                        self.logins.ask_again(account).await;
                    }
                }
                client.map_or(Answer::Nothing, |anew| self.connect(cluster, &desired.target, anew))
            }
            Request::LoadLedger(publisher) => {
                let newer = self.load(cluster, desired, publisher).await;
                let others = desired.place.earlier.iter();
                let others =
                    others.filter_map(|other| Some((other.entry.clone(), self.pkid_of(&desired.owner.uid, other)?)));
                Answer::Ledger(newer, others.collect())
            }
            Request::SaveLedger(ledger) => Answer::Saved(match &mut cluster.file {
                Some(file) => self.ledgers.save(file, *ledger).await,
                None => Err(StoreError::Conflict),
            }),
            Request::Confirm(action) => {
                let restart = matches!(action, Action::Restart { .. });
                Answer::Confirmed(self.guard.ask(desired, restart).await)
            }
            Request::Read(read) => self
                .read(cluster, desired, read)
                .await
                .map_or(Answer::Nothing, Answer::Read),
            Request::Change(recorded) => {
                let answer = self.change(cluster, &desired.target, &recorded).await;
                answer.unwrap_or(Answer::Nothing)
            }
        };
        cluster.machine.answered(self.clock.now(), answer);
        for action in cluster.machine.take_actions() {
            action.announce(&*self.counter);
        }
    }

    fn connect(&self, cluster: &mut Cluster, target: &Target, anew: bool) -> Answer {
        if anew {
            (cluster.axl_version, cluster.file) = (None, None);
        }
        let caller = self.caller(target);
        let error = caller.as_ref().err().map(ToString::to_string);
        cluster.caller = caller.ok();
        Answer::Connected(error.map_or(Ok(()), Err))
    }

    fn caller(&self, target: &Target) -> Result<Caller, SetupError> {
        let (logins, counter) = (Arc::clone(&self.logins), Arc::clone(&self.counter));
        let caller = Caller::new(target, self.resolver.clone(), logins, counter)?;
        Ok(caller.within(self.timings.call))
    }

    fn caller_of<'a>(&self, caller: &'a mut Option<Caller>, target: &Target) -> Option<&'a Caller> {
        if caller.is_none() {
            *caller = self.caller(target).ok();
        }
        caller.as_ref()
    }

    async fn load(
        &self,
        cluster: &mut Cluster,
        desired: &Desired,
        publisher: Option<String>,
    ) -> Result<Option<Box<Ledger>>, StoreError> {
        let newer = if let Some(pkid) = publisher {
            self.ledgers.newer(&pkid, cluster.file.as_ref()).await?
        } else {
            let (owner, called) = (&desired.owner.uid, self.called(desired));
            // A name that led to several of its clusters tells of none.
            let [file] = &*self.led_to(owner, called.as_ref(), &desired.target.publisher)? else {
                return Ok(None);
            };
            self.ledgers.newer(&file.ledger.publisher, None).await?
        };
        Ok(newer.map(|file| Box::new(cluster.file.insert(file).ledger.clone())))
    }

    /// Asks IM&P; `None`: what the call needs is not known.
    async fn read(&self, cluster: &mut Cluster, desired: &Desired, read: Read) -> Option<Result<Reply, CallError>> {
        let (target, seen) = (&desired.target, &cluster.machine.seen);
        let caller = self.caller_of(&mut cluster.caller, target)?;
        let mut axl = axl(caller, target, cluster.axl_version);
        let reply = match read {
            Read::Services(node) => {
                let which = seen.services_to_ask(&node);
                let services = control_center(caller, target, &node).services(which).await;
                return Some(services.map(Reply::Services));
            }
            Read::Nodes => axl.nodes().await.map(Reply::Nodes),
            Read::Table => axl.table().await.map(Reply::Table),
            Read::Rows => axl.rows(seen.table?).await.map(Reply::Rows),
            Read::Federation => {
                let check = desired.federation_check.as_ref()?;
                let answer = federation::ask(&mut axl, check).await;
                answer.map(|answer| Reply::Federation(check.clone(), answer))
            }
            Read::Redundancy => axl.redundancy().await.map(Reply::Redundancy),
        };
        cluster.axl_version = axl.version;
        if let Ok(Reply::Nodes(nodes)) = &reply
            && let Some(node) = nodes.iter().find(|node| node.publisher)
        {
            self.answered(desired, node.pkid.to_string());
        }
        Some(reply)
    }

    async fn change(&self, cluster: &mut Cluster, target: &Target, recorded: &Recorded) -> Option<Answer> {
        let caller = self.caller_of(&mut cluster.caller, target)?;
        let mut axl = axl(caller, target, cluster.axl_version);
        let written = match &recorded.change {
            Change::Restart { node, cause, not_after } => {
                self.counter.restarted(node, cause);
                let node = control_center(caller, target, node);
                return Some(Answer::Commanded(node.restart_router(*not_after).await));
            }
            Change::Insert { table, pkid, id } => axl.insert(*table, *pkid, id).await,
            Change::Delete { table, pkid, id, shown } => axl.delete(*table, *pkid, id, *shown).await,
        };
        cluster.axl_version = axl.version;
        Some(Answer::Written(written))
    }
}

fn axl<'a>(caller: &'a Caller, target: &'a Target, version: Option<AxlVersion>) -> Axl<'a> {
    Axl {
        caller,
        server: target.server(&target.publisher),
        account: &target.axl,
        fixed: target.axl_version,
        version,
    }
}

fn control_center<'a>(caller: &'a Caller, target: &'a Target, node: &'a str) -> ControlCenter<'a> {
    ControlCenter {
        caller,
        server: target.server(node),
        node,
        account: target.control_center.as_ref().unwrap_or(&target.axl),
    }
}
