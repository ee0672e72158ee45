//! As much of a Kubernetes API server as the controller asks for, in memory: objects by path,
//! resourceVersions, server-side apply without field managers, preconditions. Every request counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    requests: BTreeMap<&'static str, u64>,
    events: Vec<Value>,
    /// Part of a path, and the answer to every write there.
    refused: Option<(&'static str, StatusCode, Value)>,
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
        let uid = old.map_or(json!(format!("uid-{version}")), |old| old["metadata"]["uid"].clone());
        metadata.insert("uid".into(), uid);
        metadata.insert("resourceVersion".into(), json!(version.to_string()));
        state.objects.insert(path.to_owned(), object);
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
        self.0.lock().unwrap().objects.remove(path);
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

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await.unwrap();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let path = parts.uri.path().trim_end_matches('/').to_owned();
        let apply = parts
            .headers
            .get("content-type")
            .is_some_and(|kind| kind.to_str().unwrap().contains("apply-patch"));
        let mut state = self.0.lock().unwrap();
        let refused = state.refused.as_ref();
        let refused = refused.filter(|(part, ..)| path.contains(part) && parts.method != Method::GET);
        let (code, answer) = match parts.method {
            _ if refused.is_some() => refused.map(|(_, code, answer)| (*code, answer.clone())).unwrap(),
            Method::GET => state.read(&path),
            Method::POST => state.create(&path, body),
            Method::PUT => state.replace(&path, body),
            Method::PATCH => state.patch(&path, &body, apply),
            Method::DELETE => {
                state.count("delete");
                state.objects.remove(&path);
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
            .body(Body::from(answer.to_string().into_bytes()))
            .unwrap()
    }
}

impl State {
    fn count(&mut self, verb: &'static str) {
        *self.requests.entry(verb).or_default() += 1;
    }

    fn read(&mut self, path: &str) -> (StatusCode, Value) {
        self.count("get");
        if let Some(object) = self.objects.get(path) {
            return (StatusCode::OK, object.clone());
        }
        let collection = path.rsplit('/').next().unwrap_or_default();
        if !["pods", "configmaps", "secrets"].contains(&collection) {
            return failed(StatusCode::NOT_FOUND, "NotFound", path);
        }
        let prefix = format!("{path}/");
        let items: Vec<&Value> = self
            .objects
            .range(prefix.clone()..)
            .take_while(|(path, _)| path.starts_with(&prefix))
            .map(|(_, object)| object)
            .collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items});
        (StatusCode::OK, list)
    }

    fn store(&mut self, path: String, mut object: Value) -> Value {
        self.version += 1;
        let version = self.version;
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.entry("uid").or_insert_with(|| json!(format!("uid-{version}")));
        metadata.insert("resourceVersion".into(), json!(version.to_string()));
        self.objects.insert(path, object.clone());
        object
    }

    fn create(&mut self, path: &str, body: Value) -> (StatusCode, Value) {
        self.count("create");
        if path.ends_with("/events") {
            self.events.push(body.clone());
            return (StatusCode::CREATED, body);
        }
        let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
        if self.objects.contains_key(&path) {
            return failed(StatusCode::CONFLICT, "AlreadyExists", &path);
        }
        (StatusCode::CREATED, self.store(path, body))
    }

    fn replace(&mut self, path: &str, mut body: Value) -> (StatusCode, Value) {
        self.count("update");
        let Some(old) = self.objects.get(path) else {
            return failed(StatusCode::NOT_FOUND, "NotFound", path);
        };
        if stale(&body, old) {
            return failed(StatusCode::CONFLICT, "Conflict", path);
        }
        body["metadata"]["uid"] = old["metadata"]["uid"].clone();
        (StatusCode::OK, self.store(path.to_owned(), body))
    }

    fn patch(&mut self, path: &str, body: &Value, apply: bool) -> (StatusCode, Value) {
        self.count("patch");
        let (object, status) = match path.strip_suffix("/status") {
            Some(object) => (object, true),
            None => (path, false),
        };
        let Some(old) = self.objects.get(object).cloned() else {
            if apply && !status {
                return (StatusCode::CREATED, self.store(path.to_owned(), body.clone()));
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
            self.objects.remove(object);
            return (StatusCode::OK, new);
        }
        if new == old {
            return (StatusCode::OK, old);
        }
        (StatusCode::OK, self.store(object.to_owned(), new))
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
