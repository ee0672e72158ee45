//! As much of a Kubernetes API server as the controller asks for, in memory: objects by path,
//! resourceVersions, lists and watches, server-side apply without field managers, preconditions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;

type Answer = Response<UnsyncBoxBody<Bytes, std::convert::Infallible>>;

/// Changes that a watch may lag behind.
const CHANGES: usize = 4096;

struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    events: Vec<Value>,
    /// Part of a path, and the answer to every write there.
    refused: Option<(&'static str, StatusCode, Value)>,
    /// What happened, with the path of the object.
    changes: broadcast::Sender<(String, Value)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            version: 0,
            events: Vec::new(),
            refused: None,
            changes: broadcast::channel(CHANGES).0,
        }
    }
}

/// A collection and what is asked of its objects.
#[derive(Clone)]
struct Selection {
    prefix: String,
    labels: Vec<(String, String)>,
}

impl Selection {
    fn new(path: &str, query: &str) -> Self {
        let decoded = form_urlencoded::parse(query.as_bytes());
        let selectors = decoded
            .filter(|(key, _)| key == "labelSelector")
            .map(|(_, value)| value.into_owned());
        let labels = selectors.flat_map(|selector| {
            let pair = |part: &str| match part.split_once('=') {
                Some((key, value)) => (key.to_owned(), value.to_owned()),
                None => (part.to_owned(), String::new()),
            };
            selector.split(',').map(pair).collect::<Vec<_>>()
        });
        Self {
            prefix: format!("{path}/"),
            labels: labels.collect(),
        }
    }

    fn takes(&self, path: &str, object: &Value) -> bool {
        let name = path.strip_prefix(&self.prefix);
        name.is_some_and(|name| !name.contains('/'))
            && self.labels.iter().all(|(key, value)| {
                let found = object["metadata"]["labels"].get(key).and_then(Value::as_str);
                found.is_some_and(|found| value.is_empty() || found == value)
            })
    }
}

/// The server; all clones are the same one.
#[derive(Clone, Default)]
pub struct ApiServer(Arc<Mutex<State>>);

impl ApiServer {
    /// A client of it.
    pub fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        });
        kube::Client::new(service, "federation")
    }

    /// Stores an object as it is, as if somebody had written it.
    pub fn put(&self, path: &str, mut object: Value) {
        let mut state = self.0.lock().unwrap();
        state.version += 1;
        let version = state.version;
        let old = state.objects.get(path).cloned();
        let metadata = object["metadata"].as_object_mut().unwrap();
        let uid = old
            .as_ref()
            .map_or(json!(format!("uid-{version}")), |old| old["metadata"]["uid"].clone());
        metadata.insert("uid".into(), uid);
        metadata.insert("resourceVersion".into(), json!(version.to_string()));
        state.objects.insert(path.to_owned(), object.clone());
        state.tell(if old.is_some() { "MODIFIED" } else { "ADDED" }, path, &object);
    }

    /// An object as it is now.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    /// Changes an object.
    pub fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.get(path).unwrap();
        change(&mut object);
        self.put(path, object);
    }

    pub fn delete(&self, path: &str) {
        self.0.lock().unwrap().remove(path);
    }

    /// Changes from now on, each with the path of its object.
    pub fn changes(&self) -> broadcast::Receiver<(String, Value)> {
        self.0.lock().unwrap().changes.subscribe()
    }

    /// The paths of all objects.
    pub fn paths(&self) -> Vec<String> {
        self.0.lock().unwrap().objects.keys().cloned().collect()
    }

    /// Refuses every write to a path with that part in it.
    pub fn refuse(&self, part: &'static str, code: StatusCode, reason: &str, message: &str) {
        let answer = status(code, reason, message);
        self.0.lock().unwrap().refused = Some((part, code, answer));
    }

    /// Messages of all events, oldest first, each behind its reason.
    pub fn events(&self) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let text = |event: &Value| {
            format!(
                "{}: {}",
                event["reason"].as_str().unwrap_or_default(),
                event["note"].as_str().unwrap_or_default()
            )
        };
        state.events.iter().map(text).collect()
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await.unwrap();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let path = parts.uri.path().trim_end_matches('/').to_owned();
        let apply = parts
            .headers
            .get("content-type")
            .is_some_and(|kind| kind.to_str().unwrap().contains("apply-patch"));
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let mut state = self.0.lock().unwrap();
        if parts.method == Method::GET && query.contains("watch=") {
            return state.watch(Selection::new(&path, &query));
        }
        let refused = state.refused.as_ref();
        let refused = refused.filter(|(part, ..)| path.contains(part) && parts.method != Method::GET);
        let (code, answer) = match parts.method {
            _ if refused.is_some() => refused.map(|(_, code, answer)| (*code, answer.clone())).unwrap(),
            Method::GET => state.read(&path, &query),
            Method::POST => state.create(&path, body),
            Method::PUT => state.replace(&path, body),
            Method::PATCH => state.patch(&path, &body, apply),
            Method::DELETE => {
                state.remove(&path);
                (
                    StatusCode::OK,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
                )
            }
            other => panic!("{other} {path}"),
        };
        Response::builder()
            .status(code)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(answer.to_string())).boxed_unsync())
            .unwrap()
    }
}

impl State {
    fn tell(&self, what: &str, path: &str, object: &Value) {
        let _ = self
            .changes
            .send((path.to_owned(), json!({"type": what, "object": object})));
    }

    fn remove(&mut self, path: &str) {
        if let Some(mut object) = self.objects.remove(path) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.tell("DELETED", path, &object);
        }
    }

    fn read(&self, path: &str, query: &str) -> (StatusCode, Value) {
        if let Some(object) = self.objects.get(path) {
            return (StatusCode::OK, object.clone());
        }
        // A name has a digit or a hyphen in all of these tests, or follows its collection.
        if path.rsplit('/').nth(2) == Some("namespaces") || path.ends_with("namespaces") {
            let selection = Selection::new(path, query);
            let items = self
                .objects
                .iter()
                .filter(|(path, object)| selection.takes(path, object));
            let items: Vec<&Value> = items.map(|(_, object)| object).collect();
            let metadata = json!({"resourceVersion": self.version.to_string()});
            let list = json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items});
            return (StatusCode::OK, list);
        }
        failed(StatusCode::NOT_FOUND, "NotFound", path)
    }

    /// All that is there, then all that happens: a list and a watch by one test follow each other closely, and
    /// what comes twice is no change.
    fn watch(&self, selection: Selection) -> Answer {
        let seen = self
            .objects
            .iter()
            .filter(|(path, object)| selection.takes(path, object));
        let seen: Vec<Value> = seen
            .map(|(_, object)| json!({"type": "ADDED", "object": object}))
            .collect();
        let changes = futures::stream::unfold(self.changes.subscribe(), async |mut changes| {
            Some((changes.recv().await.ok()?, changes))
        });
        let changes = changes.filter_map(move |(path, event)| {
            std::future::ready(selection.takes(&path, &event["object"]).then_some(event))
        });
        let lines = futures::stream::iter(seen).chain(changes);
        let frames =
            lines.map(|event| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(format!("{event}\n")))));
        let body = StreamBody::new(frames).boxed_unsync();
        let response = Response::builder().header("content-type", "application/json");
        response.body(body).unwrap()
    }

    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let version = self.version;
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.entry("uid").or_insert_with(|| json!(format!("uid-{version}")));
        metadata.insert("resourceVersion".into(), json!(version.to_string()));
        let old = self.objects.insert(path.to_owned(), object.clone());
        self.tell(if old.is_some() { "MODIFIED" } else { "ADDED" }, path, &object);
        object
    }

    fn create(&mut self, path: &str, body: Value) -> (StatusCode, Value) {
        if path.ends_with("/events") {
            self.events.push(body.clone());
            return (StatusCode::CREATED, body);
        }
        let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
        if self.objects.contains_key(&path) {
            return failed(StatusCode::CONFLICT, "AlreadyExists", &path);
        }
        (StatusCode::CREATED, self.store(&path, body))
    }

    fn replace(&mut self, path: &str, mut body: Value) -> (StatusCode, Value) {
        let Some(old) = self.objects.get(path) else {
            return failed(StatusCode::NOT_FOUND, "NotFound", path);
        };
        if stale(&body, old) {
            return failed(StatusCode::CONFLICT, "Conflict", path);
        }
        body["metadata"]["uid"] = old["metadata"]["uid"].clone();
        (StatusCode::OK, self.store(path, body))
    }

    fn patch(&mut self, path: &str, body: &Value, apply: bool) -> (StatusCode, Value) {
        if path.contains("/events/") {
            // The series of an event is brought up to date.
            return (StatusCode::OK, body.clone());
        }
        let (object, status) = match path.strip_suffix("/status") {
            Some(object) => (object, true),
            None => (path, false),
        };
        let Some(old) = self.objects.get(object).cloned() else {
            if apply && !status {
                return (StatusCode::CREATED, self.store(path, body.clone()));
            }
            return failed(StatusCode::NOT_FOUND, "NotFound", path);
        };
        if !apply && stale(body, &old) {
            return failed(StatusCode::CONFLICT, "Conflict", path);
        }
        let mut new = old.clone();
        if status {
            new["status"] = body["status"].clone();
        } else {
            for (key, value) in body.as_object().unwrap() {
                if key == "metadata" {
                    for (key, value) in value.as_object().unwrap() {
                        new["metadata"][key] = value.clone();
                    }
                } else {
                    new[key] = value.clone();
                }
            }
        }
        if new["metadata"]["finalizers"] == json!([]) && new["metadata"].get("deletionTimestamp").is_some() {
            self.remove(object);
            return (StatusCode::OK, new);
        }
        if new == old {
            return (StatusCode::OK, old);
        }
        (StatusCode::OK, self.store(object, new))
    }
}

/// Whether the body names another version than the stored one.
fn stale(body: &Value, old: &Value) -> bool {
    let version = &body["metadata"]["resourceVersion"];
    !version.is_null() && *version != old["metadata"]["resourceVersion"]
}

fn failed(code: StatusCode, reason: &str, path: &str) -> (StatusCode, Value) {
    (code, status(code, reason, &format!("{reason}: {path}")))
}

fn status(code: StatusCode, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": reason, "message": message, "code": code.as_u16(),
    })
}
