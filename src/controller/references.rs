//! Secrets and `ConfigMaps` that resources refer to. All of a namespace are watched by their metadata; the data
//! of those that a resource refers to is fetched by name, and of no other. Where the operator requires a label on Secrets,
//! the metadata is asked for first, and the data of a Secret without it stays in the API server.

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
use crate::api::USE_LABEL;
use crate::api::reasons::Reason;
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

/// Why there is no content of a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unavailable {
    /// It does not exist.
    Absent,
    /// It lacks the label that this operator requires.
    NotAllowed,
}

/// A Secret that is needed cannot be used. The first value is its name, the second the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It does not exist; the second value is its purpose.
    #[error("Secret {0}, {1}, does not exist in this namespace; create it")]
    Absent(String, String),
    /// It lacks the label that this operator requires; the second value is its purpose.
    #[error(
        "Secret {0}, {1}, is not used: this operator takes only Secrets with the label {label}={value}; if this resource may use it: kubectl label secret {0} {label}={value}, in this namespace",
        label = USE_LABEL.0,
        value = USE_LABEL.1
    )]
    NotAllowed(String, String),
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

impl SecretError {
    /// The reason in a condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotAllowed(..) => Reason::SecretNotAllowed,
            Self::Absent(..) | Self::NoKey(..) | Self::Empty(..) | Self::NotText(..) => Reason::SecretMissing,
        }
    }
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

/// Secrets that users brought, by name.
#[derive(Debug, Clone, Default)]
pub struct Secrets(pub BTreeMap<String, Result<SecretContent, Unavailable>>);

impl Secrets {
    /// The Secret, which is there for that purpose.
    pub fn get(&self, name: &str, purpose: &str) -> Result<&SecretContent, SecretError> {
        let error: fn(String, String) -> SecretError = match self.0.get(name) {
            Some(Ok(content)) => return Ok(content),
            Some(Err(Unavailable::NotAllowed)) => SecretError::NotAllowed,
            Some(Err(Unavailable::Absent)) | None => SecretError::Absent,
        };
        Err(error(name.to_owned(), purpose.to_owned()))
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
    /// A Secret without the label that this operator requires.
    NotAllowed,
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
            let data = self.get(Kind::Secret, &object)?;
            let secret = match data.as_deref() {
                Some(Data::Secret(secret)) => Ok(secret.clone()),
                Some(Data::NotAllowed) => Err(Unavailable::NotAllowed),
                Some(Data::ConfigMap(_)) | None => Err(Unavailable::Absent),
            };
            Ok((name.clone(), secret))
        });
        Ok(Secrets(read.collect::<Result<_, _>>()?))
    }

    /// Fetches what is asked for, for ever, and wakes who refers to it; `labelled`: of Secrets only those with the label.
    pub async fn fetch(self: Arc<Self>, client: Client, queue: Arc<Queue>, labelled: bool) {
        let room = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        loop {
            let changed = self.changed.notified();
            for (kind, name) in self.due() {
                let (references, client, queue) = (Arc::clone(&self), client.clone(), Arc::clone(&queue));
                let room = Arc::clone(&room);
                tokio::spawn(async move {
                    let _permit = room.acquire().await;
                    let fetched = read(&client, kind, &name, labelled && kind == Kind::Secret).await;
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

async fn read(client: &Client, kind: Kind, name: &ObjectName, labelled: bool) -> Result<Option<Data>, String> {
    let what = || format!("{} {} cannot be read", kind.as_str(), name.name);
    let api = kind.api(client, &name.namespace);
    if labelled {
        let found = call(what, api.get_metadata_opt(&name.name)).await;
        let Some(metadata) = found.map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        if !is_allowed(&metadata) {
            return Ok(Some(Data::NotAllowed));
        }
    }
    let found = call(what, api.get_opt(&name.name)).await;
    let Some(object) = found.map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    // It may have lost the label between the two.
    if labelled && !is_allowed(&object) {
        return Ok(Some(Data::NotAllowed));
    }
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

/// Whether resources may use a Secret, by its label.
fn is_allowed(object: &impl ResourceExt) -> bool {
    object
        .labels()
        .get(USE_LABEL.0)
        .is_some_and(|value| value == USE_LABEL.1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::controller::testing::owner;
    use rstest::rstest;

    use http::{Request, Response, StatusCode};
    use kube::client::Body;
    use serde_json::json;

    fn name(name: &str) -> ObjectName {
        owner().sibling(name)
    }

    /// An API server that has these answers: the labels of a Secret, or that it does not exist. What was read there, and how
    /// often the data was asked for.
    async fn read_with(answers: Vec<Option<serde_json::Value>>, labelled: bool) -> (Option<Data>, usize) {
        let (left, asked) = (Arc::new(Mutex::new(answers)), Arc::new(Mutex::new(0)));
        let count = Arc::clone(&asked);
        let service = tower::service_fn(move |request: Request<Body>| {
            let accept = request
                .headers()
                .get("accept")
                .map(|value| value.to_str().unwrap().to_owned());
            let metadata = accept.is_some_and(|accept| accept.contains("PartialObjectMetadata"));
            *count.lock() += usize::from(!metadata);
            let mut object = json!({"apiVersion": "v1", "kind": "Secret", "data": {"password": "c2VjcmV0"}});
            if metadata {
                object = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata"});
            }
            let (code, body) = if let Some(labels) = left.lock().remove(0) {
                object["metadata"] = json!({"name": "axl", "namespace": "federation", "labels": labels});
                (StatusCode::OK, object)
            } else {
                let missing = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "not found", "reason": "NotFound", "code": 404});
                (StatusCode::NOT_FOUND, missing)
            };
            let body = Body::from(body.to_string().into_bytes());
            async move { Ok::<_, kube::Error>(Response::builder().status(code).body(body).unwrap()) }
        });
        let client = Client::new(service, "federation");
        let data = read(&client, Kind::Secret, &name("axl"), labelled).await.unwrap();
        let asked = *asked.lock();
        (data, asked)
    }

    #[rstest]
    #[case::nothing_is_required(false, vec![Some(json!({}))], "content", 1)]
    #[case::with_the_label(true, vec![Some(json!({"xmppfederation.io/use": "allowed"})), Some(json!({"xmppfederation.io/use": "allowed"}))], "content", 1)]
    #[case::without_it(true, vec![Some(json!({"a": "b"}))], "not allowed", 0)]
    #[case::with_another_value(true, vec![Some(json!({"xmppfederation.io/use": "no"}))], "not allowed", 0)]
    #[case::taken_away_in_between(true, vec![Some(json!({"xmppfederation.io/use": "allowed"})), Some(json!({}))], "not allowed", 1)]
    #[case::absent(true, vec![None], "absent", 0)]
    #[tokio::test]
    async fn a_secret_without_the_label_stays_in_the_api_server_where_the_operator_requires_it(
        #[case] labelled: bool,
        #[case] answers: Vec<Option<serde_json::Value>>,
        #[case] expected: &str,
        #[case] data_was_asked_for: usize,
    ) {
        let (data, asked) = read_with(answers, labelled).await;
        let found = match data {
            Some(Data::Secret(content)) if content.data.contains_key("password") => "content",
            Some(Data::NotAllowed) => "not allowed",
            None => "absent",
            other => panic!("{other:?}"),
        };
        assert_eq!((found, asked), (expected, data_was_asked_for));
    }

    #[test]
    fn a_label_that_is_taken_away_takes_the_content_away_and_is_named_with_its_command() {
        let (references, queue) = (References::default(), Queue::default());
        let content = SecretContent {
            version: SecretVersion {
                namespace: "federation".to_owned(),
                name: "axl".to_owned(),
                uid: "s-1".to_owned(),
                resource_version: "1".to_owned(),
            },
            data: [("username".to_owned(), SecretBytes::new(b"admin".to_vec()))].into(),
        };
        references.refer(&name("coluc"), &[reference("axl")]);
        let mut seen = Vec::new();
        for data in [Data::Secret(content), Data::NotAllowed] {
            references.changed(Kind::Secret, name("axl"));
            references.due();
            references.fetched(&reference("axl"), Ok(Some(data)), &queue);
            let secrets = references.secrets("federation", &["axl".to_owned()]).unwrap();
            seen.push(secrets.key("axl", "username", "the account").cloned());
        }
        assert_eq!(seen[0].as_ref().unwrap().expose(), b"admin");
        let error = seen[1].as_ref().unwrap_err();
        assert_eq!(error.reason(), Reason::SecretNotAllowed);
        let sentence = error.to_string();
        assert!(
            sentence.contains("kubectl label secret axl xmppfederation.io/use=allowed"),
            "{sentence}"
        );
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
