//! Rows to be removed: those of a resource that is deleted, and those in clusters that its spec does not
//! name any more.
//!
//! - [`plan`](mod@plan): what comes next about the rows of one cluster; pure
//! - [`execute`]: removes them, and says which are left and how a person removes them

pub mod execute;
pub mod plan;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::desired::sibling;
use super::environment::Environment;
use super::finalizer;
use super::names::Owner;
use super::questions::ClusterQuestion;
use super::references::Secrets;
use crate::api::XmppFederation;
use crate::api::spec::ImpSpec;
use crate::api::status::{ImpStatus, LeavingStatus, XmppFederationStatus};
use plan::{CleanupStep, Deadline};
use xmpp_federation_imp::desired::{Desired, Sibling};
use xmpp_federation_imp::dropped::{DroppedRecord, DroppedRecords};
use xmpp_federation_imp::report::{Registration, Removal, row_left};

/// A Secret that was deleted so shortly before the resource was deleted with it, as in a namespace that is
/// deleted. A Secret that was deleted earlier takes the account away from the operator.
const WENT_TOGETHER: Duration = Duration::from_mins(1);

/// What is remembered of a resource for the removal of its rows.
#[derive(Debug, Default)]
pub struct Memory {
    /// How IM and Presence was reached last, for a deletion that finds the Secret gone; by entry of
    /// the spec.
    pub access: HashMap<String, LastAccess>,
    /// When this process began to remove the rows of a dropped cluster (its publisher's pkid), or of
    /// the whole resource (`None`).
    began: BTreeMap<Option<String>, Instant>,
}

impl Memory {
    /// For how long this process has been removing them.
    fn tried_for(&mut self, publisher: Option<&String>) -> Duration {
        let began = self.began.entry(publisher.cloned());
        began.or_insert_with(Instant::now).elapsed()
    }
}

/// How a cluster was reached last, in memory alone; nothing while it never was.
#[derive(Debug, Clone, Default)]
pub struct LastAccess(Option<Access>);

#[derive(Debug, Clone)]
struct Access {
    desired: Arc<Desired>,
    /// Since when a Secret of it is missing.
    missing_since: Option<Timestamp>,
}

impl LastAccess {
    /// Takes in what one reconcile of a living resource found.
    pub fn see(&mut self, found: Option<&Arc<Desired>>, now: Timestamp) {
        if let Some(desired) = found {
            self.0 = Some(Access {
                desired: Arc::clone(desired),
                missing_since: None,
            });
        } else if let Some(access) = &mut self.0 {
            let since = *access.missing_since.get_or_insert(now);
            self.0.take_if(|_| elapsed(since, now) > WENT_TOGETHER);
        }
    }

    /// What is wanted, once in memory where it was wanted before.
    pub fn once(&self, wanted: Desired) -> Arc<Desired> {
        match &self.0 {
            Some(access) if *access.desired == wanted => Arc::clone(&access.desired),
            _ => Arc::new(wanted),
        }
    }

    /// What a deletion asked for at that time may still use although the Secret is gone.
    fn usable(&self, asked: Timestamp) -> Option<&Desired> {
        let access = self.0.as_ref()?;
        let together = access
            .missing_since
            .is_none_or(|since| elapsed(since, asked) <= WENT_TOGETHER);
        together.then_some(&*access.desired)
    }
}

fn elapsed(since: Timestamp, until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(since)).unwrap_or_default()
}

/// A cluster that an entry of spec.imp led to and none does any more.
#[derive(Debug, Clone)]
pub struct DroppedCluster {
    /// What its ledger says.
    pub record: DroppedRecord,
    /// The table of its component ids, by the status.
    pub table: Option<String>,
    /// Rows of ours that may stand in that table, each with the SQL that removes it by hand.
    pub rows: Vec<String>,
    /// The entry as it was accepted last; `None`: the ledger does not say it.
    pub entry: Option<ImpSpec>,
    /// The versions of the Secrets with its accounts then, by name.
    accounts: BTreeMap<String, String>,
}

/// What the ledger keeps beside the fields of an entry.
#[derive(Debug, Default, Serialize, Deserialize)]
struct ReachedWith {
    #[serde(default)]
    accounts: BTreeMap<String, String>,
}

/// The Secrets with the accounts of an entry.
fn account_names(entry: &ImpSpec) -> impl Iterator<Item = &String> {
    let control_center = entry.control_center_credentials_secret_ref.as_ref();
    std::iter::once(&entry.credentials_secret_ref)
        .chain(control_center)
        .map(|reference| &reference.name)
}

/// Which Secret it is, and in which version; `None`: it does not exist.
fn version_of(secrets: &Secrets, name: &str) -> Option<String> {
    let version = &secrets.0.get(name)?.as_ref().ok()?.version;
    Some(format!("{}/{}", version.uid, version.resource_version))
}

/// The text that the ledger keeps of an entry and its accounts.
pub fn to_ledger(entry: &ImpSpec, secrets: &Secrets) -> Option<String> {
    let accounts = account_names(entry).filter_map(|name| Some((name.clone(), version_of(secrets, name)?)));
    let accounts = accounts.collect();
    let mut text = serde_json::to_value(entry).ok()?;
    let with = serde_json::to_value(ReachedWith { accounts }).ok()?;
    text.as_object_mut()?.extend(with.as_object()?.clone());
    serde_json::to_string(&text).ok()
}

impl DroppedCluster {
    pub fn new(record: DroppedRecord, status: Option<&XmppFederationStatus>) -> Self {
        let reach = record.reach.as_deref().unwrap_or_default();
        let with: ReachedWith = serde_json::from_str(reach).unwrap_or_default();
        let mut cluster = Self {
            entry: serde_json::from_str(reach).ok(),
            accounts: with.accounts,
            rows: Vec::new(),
            table: None,
            record,
        };
        cluster.table = status.and_then(|status| cluster.told_in(status)?.table.clone());
        let table = cluster.table.as_deref();
        let row = |row: &Registration| row_left(row.component_id.as_str(), &row.pkid.to_string(), table);
        cluster.rows = cluster.record.rows.iter().map(row).collect();
        cluster
    }

    /// Whether both are one cluster.
    pub fn is_same(&self, other: &Self) -> bool {
        self.record.publisher == other.record.publisher
    }

    /// Whether rows of ours are in its table.
    pub fn has_rows(&self) -> bool {
        !self.rows.is_empty()
    }

    /// Its name in status and messages: the entry's, which may have come back with another cluster.
    pub fn name(&self) -> String {
        match &self.entry {
            Some(entry) => format!("{} ({})", entry.name, entry.publisher),
            None => self.record.name.clone(),
        }
    }

    /// What a status tells of it, before or after it left the spec.
    pub fn told_in<'a>(&self, status: &'a XmppFederationStatus) -> Option<&'a ImpStatus> {
        let find = |is_it: &dyn Fn(&ImpStatus) -> bool| status.imp.iter().find(|imp| is_it(imp));
        let is_row = |pkid: &String| self.record.rows.iter().any(|row| row.pkid.to_string() == *pkid);
        let entry = self.entry.as_ref().map(|entry| &entry.name);
        find(&|imp| imp.name == self.name())
            .or_else(|| find(&|imp| imp.registrations.iter().any(|row| is_row(&row.pkid))))
            // An entry of that name may lead to another cluster by now.
            .or_else(|| find(&|imp| Some(&imp.name) == entry))
    }

    /// What observers call it: no entry has a space in its name.
    pub fn key(&self) -> String {
        format!("left {}", self.record.publisher)
    }

    /// What the status says of its end.
    fn leaving<'a>(&self, status: Option<&'a XmppFederationStatus>) -> Option<&'a LeavingStatus> {
        let name = self.name();
        let mut clusters = status.into_iter().flat_map(|status| &status.imp);
        clusters.find(|imp| imp.name == name)?.leaving.as_ref()
    }

    /// Whether the status tells of its end.
    pub fn is_leaving(&self, object: &XmppFederation) -> bool {
        self.leaving(object.status.as_ref()).is_some()
    }

    /// Since when it is noticed, as the status says.
    pub fn since(&self, status: Option<&XmppFederationStatus>, now: Timestamp) -> Timestamp {
        self.leaving(status)
            .and_then(|leaving| leaving.since.parse().ok())
            // A clock that was ahead when this was written would stop the time.
            .map_or(now, |since: Timestamp| since.min(now))
    }
}

/// The clusters that the spec does not name any more.
#[derive(Debug, Default)]
pub struct Dropped {
    pub clusters: Vec<DroppedCluster>,
    /// Why there may be more: a sentence with the remedy for each ledger that cannot be read.
    pub unreadable: Vec<String>,
    /// A call of the resource was under way when they were looked for, and may still write.
    pub busy: bool,
}

impl Dropped {
    /// The clusters that the spec does not name any more, by their ledgers.
    pub fn of(env: &Environment, object: &XmppFederation) -> Self {
        let uid = object.uid().unwrap_or_default();
        // Looked for before the ledgers are: what a call writes afterwards would be missed there.
        let asking = |question: &ClusterQuestion| matches!(question, ClusterQuestion::Reconcile(_));
        let busy = env.observers.clusters.is_asking(&uid, asking);
        let entries = object.spec.imp.iter();
        let entries: Vec<Sibling> = entries.map(sibling).collect();
        let DroppedRecords { known, mut unreadable } = env.imp.left_by(&uid, &entries);
        // Rows are written only behind the finalizer.
        if !finalizer::is_on(object) {
            unreadable.clear();
        }
        Self {
            clusters: known
                .into_iter()
                .map(|record| DroppedCluster::new(record, object.status.as_ref()))
                .collect(),
            unreadable,
            busy,
        }
    }

    /// Why it is not known whether there are more; `None`: there are none.
    pub fn unknown(&self) -> Option<String> {
        (!self.unreadable.is_empty()).then(|| {
            format!(
                "whether rows are left in clusters that spec.imp does not name any more is not known: {}",
                self.unreadable.join("; ")
            )
        })
    }
}

/// Why the rows of a cluster are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The resource is deleted.
    Deleted,
    /// The resource exists, and its spec does not name the cluster any more.
    Dropped,
}

/// The removal of the rows in one cluster.
#[derive(Debug)]
pub struct Cleanup {
    pub cause: Cause,
    /// Name of the cluster in status and messages.
    pub name: String,
    /// Its entry; `None`: it is not known.
    pub entry: Option<ImpSpec>,
    /// Where the spec does not name it any more.
    pub dropped: Option<DroppedCluster>,
    /// For how long this is tried.
    pub deadline: Deadline,
    /// The Secrets with the accounts of other publishers in the spec, each with one of them.
    taken: BTreeMap<String, String>,
    /// The entries of the spec, where the resource lives: rows at their publishers are wanted.
    live: Vec<Sibling>,
    /// What comes next.
    pub step: CleanupStep,
    /// What a try came to.
    pub removal: Option<Removal>,
}

impl Cleanup {
    fn of_entry(entry: &ImpSpec, deadline: Deadline) -> Self {
        Self {
            cause: Cause::Deleted,
            name: entry.name.clone(),
            deadline: deadline.with_timeout_of(Some(entry)),
            entry: Some(entry.clone()),
            dropped: None,
            taken: BTreeMap::new(),
            live: Vec::new(),
            step: CleanupStep::Remove,
            removal: None,
        }
    }

    fn of_dropped(cause: Cause, dropped: &DroppedCluster, deadline: Deadline) -> Self {
        Self {
            cause,
            name: dropped.name(),
            deadline: deadline.with_timeout_of(dropped.entry.as_ref()),
            entry: dropped.entry.clone(),
            dropped: Some(dropped.clone()),
            taken: BTreeMap::new(),
            live: Vec::new(),
            step: CleanupStep::Remove,
            removal: None,
        }
    }

    /// A Secret that holds the account of another publisher by now, and that publisher: it was changed since it was used
    /// here, and a live entry names it.
    fn reused(&self, secrets: &Secrets) -> Option<(&String, &String)> {
        let (dropped, entry) = (self.dropped.as_ref()?, self.entry.as_ref()?);
        let was_changed = |name: &str| {
            let before = dropped.accounts.get(name);
            before.is_some_and(|before| version_of(secrets, name).is_some_and(|now| now != *before))
        };
        let mut taken = account_names(entry).filter_map(|name| Some((name, self.taken.get(name)?)));
        taken.find(|(name, _)| was_changed(name))
    }

    fn planned(mut self, object: &XmppFederation) -> Self {
        let own = self.entry.as_ref().map(|entry| entry.publisher.to_ascii_lowercase());
        let live = object.spec.imp.iter();
        let others = live.filter(|entry| Some(entry.publisher.to_ascii_lowercase()) != own);
        self.taken = others
            .flat_map(|entry| account_names(entry).map(|name| (name.clone(), entry.publisher.clone())))
            .collect();
        if self.cause == Cause::Dropped {
            self.live = object.spec.imp.iter().map(sibling).collect();
        }
        self.step = self.plan(object);
        self
    }

    /// What a deletion does about each cluster: those of the spec, then the dropped ones.
    pub fn all_of(
        object: &XmppFederation,
        owner: &Owner,
        dropped: &[DroppedCluster],
        memory: &Cache<Memory>,
        now: Timestamp,
    ) -> Vec<Self> {
        let asked = object.metadata.deletion_timestamp.as_ref().map_or(now, |time| time.0);
        let tried_for = memory.with(&owner.uid, |memory| memory.tried_for(None));
        let deadline = Deadline::new(asked, now, tried_for);
        let named = object.spec.imp.iter().map(|entry| Self::of_entry(entry, deadline));
        let dropped = dropped.iter().filter(|dropped| dropped.has_rows());
        let others = dropped.map(|dropped| Self::of_dropped(Cause::Deleted, dropped, deadline));
        named.chain(others).map(|cleanup| cleanup.planned(object)).collect()
    }

    /// What is done about a cluster that the spec of an existing resource does not name any more.
    pub fn of_one(
        object: &XmppFederation,
        owner: &Owner,
        dropped: &DroppedCluster,
        memory: &Cache<Memory>,
        now: Timestamp,
    ) -> Self {
        let publisher = &dropped.record.publisher;
        let tried_for = memory.with(&owner.uid, |memory| memory.tried_for(Some(publisher)));
        let deadline = Deadline::new(dropped.since(object.status.as_ref(), now), now, tried_for);
        Self::of_dropped(Cause::Dropped, dropped, deadline).planned(object)
    }
}

#[cfg(test)]
mod testing {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::controller::testing::entry;
    use serde_json::Value;

    pub const ROW: &str = "cm-2 (055c): run sql delete from xmpps2snodes where pkid = '055c'";

    pub fn dropped(change: &Value, rows: usize) -> DroppedCluster {
        let mut spec = entry("second", "cups2.example.net", &["gone.example"]);
        for (key, value) in change.as_object().into_iter().flatten() {
            spec.as_object_mut().unwrap().insert(key.clone(), value.clone());
        }
        let spec: ImpSpec = serde_json::from_value(spec).unwrap();
        let record = DroppedRecord {
            publisher: "p-1".to_owned(),
            name: "cups2.example.net".to_owned(),
            reach: to_ledger(&spec, &Secrets::default()),
            rows: Vec::new(),
            unclear: None,
        };
        DroppedCluster {
            rows: vec![ROW.to_owned(); rows],
            ..DroppedCluster::new(record, None)
        }
    }

    /// A try that came to nothing.
    pub fn failed() -> Removal {
        Removal {
            done: false,
            removed: false,
            message: "no answer".to_owned(),
            rows_left: Vec::new(),
            events: Vec::new(),
            requeue_after: Duration::ZERO,
        }
    }

    pub fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }
}

#[cfg(test)]
mod dropped_tests;
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::execute::removal;
    use super::testing::{at, dropped};
    use super::*;
    use crate::controller::desired::Resource;
    use crate::controller::references::SecretContent;
    use crate::controller::testing::{owner, spec_with};
    use rstest::rstest;
    use serde_json::json;
    use std::borrow::Cow;
    use xmpp_federation_core::SecretBytes;
    use xmpp_federation_imp::access::SecretVersion;
    use xmpp_federation_imp::desired::{LiveOwners, Requests, SlotSource};

    #[test]
    fn the_entry_survives_in_the_ledgers_words() {
        let dropped = dropped(&json!({"deletionTimeout": "1m"}), 1);
        assert_eq!(dropped.name(), "second (cups2.example.net)");
        assert_eq!(dropped.entry.unwrap().deletion_timeout.get(), Duration::from_mins(1));
    }

    fn secrets(version: &str) -> Secrets {
        let version = SecretVersion {
            namespace: "federation".to_owned(),
            name: "second-axl".to_owned(),
            uid: "s-1".to_owned(),
            resource_version: version.to_owned(),
        };
        let content = SecretContent {
            version,
            data: BTreeMap::new(),
        };
        Secrets(BTreeMap::from([("second-axl".to_owned(), Ok(content))]))
    }

    #[rstest]
    #[case::it_has_just_left("second")]
    #[case::it_is_leaving("second (cups2.example.net)")]
    fn the_statement_names_the_table_that_the_cluster_has(#[case] name: &str) {
        let row = Registration {
            component_id: "cm-2_s2scp-1.eft-xwye-a-coluc-com".parse().unwrap(),
            pkid: "055c13d9-943d-459d-a3c6-af1d1176936d".parse().unwrap(),
        };
        let record = DroppedRecord {
            rows: vec![row],
            ..dropped(&json!({}), 1).record
        };
        let imp = ImpStatus {
            name: name.to_owned(),
            table: Some("xmpp2snodes".to_owned()),
            ..ImpStatus::default()
        };
        let status = XmppFederationStatus {
            imp: vec![imp],
            ..XmppFederationStatus::default()
        };
        let cluster = DroppedCluster::new(record, Some(&status));
        let row = cluster.rows.first().unwrap();
        assert!(row.contains("delete from xmpp2snodes where"), "{row}");
    }

    #[rstest]
    #[case::another_ones_password("cups3.example.net", "2", true)]
    #[case::one_account_for_both("cups3.example.net", "1", false)]
    #[case::a_new_password_of_its_own("cups2.example.net", "2", false)]
    fn a_password_that_is_of_another_publisher_by_now_is_not_tried(
        #[case] publisher: &str,
        #[case] version: &str,
        #[case] reused: bool,
    ) {
        let DroppedCluster { record, entry, .. } = dropped(&json!({}), 1);
        let record = DroppedRecord {
            reach: to_ledger(&entry.unwrap(), &secrets("1")),
            ..record
        };
        let dropped = DroppedCluster::new(record, None);
        let mut spec = spec_with("/imp/0/credentialsSecretRef", json!({"name": "second-axl"}));
        spec.imp.first_mut().unwrap().publisher = publisher.to_owned();
        let object = XmppFederation::new("coluc", spec);
        let deadline = Deadline::new(at(0), at(0), Duration::ZERO);
        let cleanup = Cleanup::of_dropped(Cause::Dropped, &dropped, deadline).planned(&object);
        assert_eq!(cleanup.reused(&secrets(version)).is_some(), reused);
    }

    #[rstest]
    #[case::the_resource_lives(Cause::Dropped, true)]
    #[case::nothing_is_wanted_any_more(Cause::Deleted, false)]
    fn a_removal_leaves_publishers_alone_that_an_entry_leads_to(
        #[case] cause: Cause,
        #[case] bars: bool,
        #[values("192.0.2.7", "Cups2.Inside.example")] host: &str,
    ) {
        let nodes = json!([{"name": "CUPS2.example.net", "address": host}]);
        let dropped = dropped(&json!({"nodes": nodes, "axl": {"port": 8444}}), 1);
        let mut object = XmppFederation::new("coluc", spec_with("", json!(null)));
        let entry = dropped.entry.clone().unwrap();
        object.spec.imp.push(entry.clone());
        let mut secrets = secrets("1");
        let account = secrets.0.values_mut().flatten().next().unwrap();
        for key in ["username", "password"] {
            account.data.insert(key.to_owned(), SecretBytes::new(b"x".to_vec()));
        }
        let deadline = Deadline::new(at(0), at(0), Duration::ZERO);
        let cleanup = Cleanup::of_dropped(cause, &dropped, deadline).planned(&object);
        let owner = owner();
        let resource = Resource {
            owner: &owner,
            component_ids: Cow::Borrowed(&[]),
            slots: SlotSource::Spec,
            active: true,
            live_owners: LiveOwners::default(),
            generation: None,
            requests: Requests::default(),
        };
        let removal = removal(&resource, &cleanup, &secrets).unwrap();
        let live: Vec<Sibling> = object.spec.imp.iter().map(sibling).collect();
        assert_eq!(removal.place.earlier, if bars { live } else { Vec::new() });
        // The entry is known again by where it leads.
        let mut target = removal.target;
        target.name = entry.name.clone();
        assert_eq!(Sibling::of(&target), sibling(&entry));
        assert!(target.addresses.len() == 1 && target.port == 8444);
    }

    #[test]
    fn the_time_counts_from_when_the_status_first_named_it() {
        let dropped = dropped(&json!({}), 1);
        let leaving = LeavingStatus {
            since: at(-300).to_string(),
            message: String::new(),
        };
        let status = XmppFederationStatus {
            imp: vec![crate::api::status::ImpStatus {
                name: dropped.name(),
                leaving: Some(leaving),
                ..Default::default()
            }],
            ..XmppFederationStatus::default()
        };
        assert_eq!(dropped.since(Some(&status), at(0)), at(-300));
        // A clock that was ahead does not stop the time.
        assert_eq!(dropped.since(Some(&status), at(-400)), at(-400));
        assert_eq!(dropped.since(None, at(0)), at(0));
    }
}
