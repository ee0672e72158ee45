//! Secrets and `ConfigMaps` that resources refer to. All of a namespace are watched by their metadata; the data
//! of those that a resource refers to is fetched by name, and of no other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::Notify;
use xmpp_federation_core::SecretBytes;

use super::kube::{Kind, call};
use super::names::ObjectName;
use super::objects::secret_data;
use super::queue::Queue;
use crate::backoff::doubled;
use xmpp_federation_imp::access::SecretVersion;

/// Objects fetched at once.
const AT_ONCE: usize = 16;
/// An object that could not be fetched is tried again after this …
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// … and twice as long each time, up to this.
const LAST_RETRY: Duration = Duration::from_mins(2);

/// A Secret as it was read.
#[derive(Debug, Clone)]
pub struct SecretContent {
    /// Which one, in which version.
    pub version: SecretVersion,
    pub data: BTreeMap<String, SecretBytes>,
}

/// A Secret that is needed cannot be used. The first value is its name, the second the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It does not exist; the second value is its purpose.
    #[error("Secret {0}, {1}, does not exist in this namespace; create it")]
    Absent(String, String),
    /// It lacks the key, and has these.
    #[error("Secret {0} has no key {1:?}; add it (it has: {list})", list = .2.join(", "))]
    NoKey(String, String, Vec<String>),
    /// The key holds nothing.
    #[error("key {1:?} of Secret {0} is empty; fill it")]
    Empty(String, String),
    /// The key does not hold this kind of text.
    #[error("key {1:?} of Secret {0} is not {2} text; correct it")]
    NotText(String, &'static str, &'static str),
}

impl SecretContent {
    /// The bytes of a key.
    pub fn key(&self, key: &str) -> Result<&SecretBytes, SecretError> {
        let (name, wanted) = (self.version.name.clone(), key.to_owned());
        match self.data.get(key) {
            Some(bytes) if !bytes.is_empty() => Ok(bytes),
            Some(_) => Err(SecretError::Empty(name, wanted)),
            None => Err(SecretError::NoKey(name, wanted, self.data.keys().cloned().collect())),
        }
    }
}

/// Secrets that users brought, by name; `None`: does not exist.
#[derive(Debug, Clone, Default)]
pub struct Secrets(pub BTreeMap<String, Option<SecretContent>>);

impl Secrets {
    /// The Secret, which is there for that purpose.
    pub fn get(&self, name: &str, purpose: &str) -> Result<&SecretContent, SecretError> {
        self.0
            .get(name)
            .and_then(Option::as_ref)
            .ok_or_else(|| SecretError::Absent(name.to_owned(), purpose.to_owned()))
    }

    /// One key of one Secret.
    pub fn key(&self, name: &str, key: &str, purpose: &str) -> Result<&SecretBytes, SecretError> {
        self.get(name, purpose)?.key(key)
    }
}

/// Kind, namespace and name of what is referred to.
pub type Reference = (Kind, ObjectName);

/// The data of one object.
#[derive(Debug, Clone)]
pub enum Data {
    Secret(SecretContent),
    ConfigMap(BTreeMap<String, String>),
}

/// Why a resource cannot be worked on yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotFetched {
    /// A fetch is under way; the resource is woken when it is over.
    Pending,
    /// The API server refuses it, as it said; it is tried again.
    Failed(String),
}

#[derive(Debug, Default)]
struct Entry {
    referrers: BTreeSet<ObjectName>,
    /// It was fetched once.
    known: bool,
    /// As fetched; `None`: it does not exist.
    data: Option<Arc<Data>>,
    /// Why the last fetch failed.
    error: Option<String>,
    failures: u32,
    /// News came after the last fetch began.
    stale: bool,
    fetching: bool,
}

/// All that resources refer to.
#[derive(Debug, Default)]
pub struct References {
    entries: Mutex<HashMap<Reference, Entry>>,
    /// What each resource refers to.
    referrers: Mutex<HashMap<ObjectName, Vec<Reference>>>,
    changed: Notify,
}

impl References {
    /// The resource refers to exactly these; others are forgotten where nobody else refers to them.
    pub fn refer(&self, referrer: &ObjectName, to: &[Reference]) {
        let before = {
            let mut referrers = self.referrers.lock();
            match referrers.get(referrer) {
                Some(before) if before == to => return,
                _ if to.is_empty() => referrers.remove(referrer),
                _ => referrers.insert(referrer.clone(), to.to_vec()),
            }
        };
        let mut entries = self.entries.lock();
        for reference in before.into_iter().flatten().filter(|reference| !to.contains(reference)) {
            if let Some(entry) = entries.get_mut(&reference) {
                entry.referrers.remove(referrer);
                if entry.referrers.is_empty() {
                    entries.remove(&reference);
                }
            }
        }
        for reference in to {
            let entry = entries.entry(reference.clone()).or_default();
            entry.stale |= !entry.known && entry.error.is_none();
            entry.referrers.insert(referrer.clone());
        }
        drop(entries);
        self.changed.notify_one();
    }

    /// The watch tells that an object changed or is gone.
    pub fn changed(&self, kind: Kind, name: ObjectName) {
        if let Some(entry) = self.entries.lock().get_mut(&(kind, name)) {
            entry.stale = true;
            self.changed.notify_one();
        }
    }

    /// After a list: what is referred to may have gone or changed unseen.
    pub fn listed(&self, kind: Kind) {
        for ((of, _), entry) in self.entries.lock().iter_mut() {
            entry.stale |= *of == kind;
        }
        self.changed.notify_one();
    }

    /// What was fetched last; `None` inside: it does not exist.
    pub fn get(&self, kind: Kind, name: &ObjectName) -> Result<Option<Arc<Data>>, NotFetched> {
        let entries = self.entries.lock();
        let entry = entries.get(&(kind, name.clone()));
        // What is known to be outdated is not used.
        let entry = entry.filter(|entry| !entry.stale && !entry.fetching || entry.error.is_some());
        match entry.map(|entry| (entry, &entry.error)) {
            Some((_, Some(error))) => Err(NotFetched::Failed(error.clone())),
            Some((entry, None)) if entry.known => Ok(entry.data.clone()),
            _ => Err(NotFetched::Pending),
        }
    }

    /// The Secrets of these names.
    pub fn secrets(&self, namespace: &str, names: &[String]) -> Result<Secrets, NotFetched> {
        let read = names.iter().map(|name| {
            let object = ObjectName {
                namespace: namespace.to_owned(),
                name: name.clone(),
            };
            let secret = self.get(Kind::Secret, &object)?.and_then(|data| match &*data {
                Data::Secret(secret) => Some(secret.clone()),
                Data::ConfigMap(_) => None,
            });
            Ok((name.clone(), secret))
        });
        Ok(Secrets(read.collect::<Result<_, _>>()?))
    }

    /// Fetches what is asked for, for ever, and wakes who refers to it.
    pub async fn fetch(self: Arc<Self>, client: Client, queue: Arc<Queue>) {
        let room = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        loop {
            let changed = self.changed.notified();
            for (kind, name) in self.due() {
                let (references, client, queue) = (Arc::clone(&self), client.clone(), Arc::clone(&queue));
                let room = Arc::clone(&room);
                tokio::spawn(async move {
                    let _permit = room.acquire().await;
                    let fetched = read(&client, kind, &name).await;
                    if let Some(retry) = references.fetched(&(kind, name.clone()), fetched, &queue) {
                        tokio::time::sleep(retry).await;
                        references.changed(kind, name);
                    }
                });
            }
            changed.await;
        }
    }

    /// What has to be fetched and is not being fetched.
    fn due(&self) -> Vec<Reference> {
        let mut due = Vec::new();
        for (reference, entry) in self.entries.lock().iter_mut() {
            if entry.stale && !entry.fetching {
                (entry.stale, entry.fetching) = (false, true);
                due.push(reference.clone());
            }
        }
        due
    }

    /// A fetch is over; when it is tried again where it failed.
    fn fetched(&self, reference: &Reference, result: Result<Option<Data>, String>, queue: &Queue) -> Option<Duration> {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(reference)?;
        entry.fetching = false;
        let retry = match result {
            Ok(data) => {
                (entry.data, entry.error, entry.failures) = (data.map(Arc::new), None, 0);
                entry.known = true;
                None
            }
            Err(error) => {
                let wait = doubled(FIRST_RETRY, entry.failures, LAST_RETRY);
                (entry.error, entry.failures) = (Some(error), entry.failures.saturating_add(1));
                Some(wait)
            }
        };
        let referrers = entry.referrers.clone();
        let again = entry.stale;
        drop(entries);
        if again {
            self.changed.notify_one();
        }
        for referrer in referrers {
            queue.wake(referrer);
        }
        retry
    }
}

async fn read(client: &Client, kind: Kind, name: &ObjectName) -> Result<Option<Data>, String> {
    let what = || format!("{} {} cannot be read", kind.as_str(), name.name);
    let found = call(what, kind.api(client, &name.namespace).get_opt(&name.name)).await;
    let Some(object) = found.map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    Ok(Some(if kind == Kind::Secret {
        Data::Secret(SecretContent {
            version: SecretVersion {
                namespace: name.namespace.clone(),
                name: name.name.clone(),
                uid: object.uid().unwrap_or_default(),
                resource_version: object.resource_version().unwrap_or_default(),
            },
            data: secret_data(&object).collect(),
        })
    } else {
        let data = object.data.get("data").cloned().unwrap_or_default();
        Data::ConfigMap(serde_json::from_value(data).unwrap_or_default())
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::controller::testing::owner;
    use rstest::rstest;

    fn name(name: &str) -> ObjectName {
        owner().sibling(name)
    }

    fn reference(of: &str) -> Reference {
        (Kind::Secret, name(of))
    }

    fn text(value: &str) -> Data {
        Data::ConfigMap([("a".to_owned(), value.to_owned())].into())
    }

    #[test]
    fn only_what_a_resource_refers_to_is_fetched_and_that_once_for_all_of_them() {
        let (references, queue) = (References::default(), Queue::default());
        references.changed(Kind::Secret, name("foreign"));
        assert_eq!(references.due(), []);
        references.refer(&name("coluc"), &[reference("axl")]);
        references.refer(&name("vngtp"), &[reference("axl")]);
        assert_eq!(
            references.get(Kind::Secret, &name("axl")).unwrap_err(),
            NotFetched::Pending
        );
        assert_eq!(references.due(), [reference("axl")]);
        assert_eq!(references.due(), []);
        assert_eq!(references.fetched(&reference("axl"), Ok(Some(text("1"))), &queue), None);
        assert_eq!(queue.depth(), 2);
        assert!(references.get(Kind::Secret, &name("axl")).unwrap().is_some());
        // Nobody refers to it any more.
        references.refer(&name("coluc"), &[]);
        references.refer(&name("vngtp"), &[]);
        references.changed(Kind::Secret, name("axl"));
        assert_eq!(references.due(), []);
        assert_eq!(
            references.get(Kind::Secret, &name("axl")).unwrap_err(),
            NotFetched::Pending
        );
    }

    #[rstest]
    #[case::changed(false)]
    #[case::listed(true)]
    fn news_during_a_fetch_lead_to_another_one(#[case] list: bool) {
        let (references, queue) = (References::default(), Queue::default());
        references.refer(&name("coluc"), &[reference("axl")]);
        assert_eq!(references.due().len(), 1);
        if list {
            references.listed(Kind::Secret);
        } else {
            references.changed(Kind::Secret, name("axl"));
        }
        assert_eq!(references.due(), []);
        references.fetched(&reference("axl"), Ok(None), &queue);
        assert_eq!(references.due(), [reference("axl")]);
    }

    #[test]
    fn a_failed_fetch_is_told_and_tried_again_ever_later() {
        let (references, queue) = (References::default(), Queue::default());
        references.refer(&name("coluc"), &[reference("axl")]);
        let waits: Vec<u64> = (0..10)
            .map(|_| {
                references.changed(Kind::Secret, name("axl"));
                references.due();
                let wait = references.fetched(&reference("axl"), Err("forbidden".to_owned()), &queue);
                wait.unwrap().as_secs()
            })
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 120, 120, 120]);
        let told = references.get(Kind::Secret, &name("axl")).unwrap_err();
        assert_eq!(told, NotFetched::Failed("forbidden".to_owned()));
    }
}
