//! What a test can do with the cluster, as methods of [`SimulatedImp`] and over HTTP (the same on every node's control
//! port). Wherever a node or user is named that does not exist, the answer is 404 with `{"error": "…"}`.
//!
//! | request | |
//! |---|---|
//! | `GET /state` | [`ClusterState`] |
//! | `GET /calls?after=SEQ` | list of [`Call`] |
//! | `GET /faults`, `PUT /faults/{name}` with [`FaultOptions`], `DELETE /faults/{name}` | names: `faults::NAMES` |
//! | `PUT /config` with [`Change`] | any subset of the settings |
//! | `POST /nodes/{name}/restart-router` | by hand, returns at once |
//! | `POST /nodes/{name}/links/{component id}/raw` | the body's bytes go out on that link as they are |
//! | `POST /sql` | any SQL on the publisher: `{"rows": [{…}], "changed": n}` |
//! | `POST /users/{jid}/stanza` | one stanza, sent as that user |
//! | `GET /users/{jid}/inbox?after=SEQ&wait=MS` | list of [`Received`] |
//! | `GET /ca.pem` | the CA of the nodes |

use super::SimulatedImp;
use super::auth::AccountState;
use super::calls::{Call, RecordedRequest};
use super::cluster::{Change, Cluster};
use super::config::{Federation, Row};
use super::faults::FaultOptions;
use super::router::{Control, Outgoing, ROUTER, RouterState};
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use testkit_base::inbox::Received;

/// Everything that can be seen of a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterState {
    /// Name of the component table.
    pub table: String,
    /// The cluster's own federation.
    pub federation: Federation,
    /// Publisher first.
    pub nodes: Vec<NodeState>,
    /// Accounts with which somebody tried.
    pub accounts: Vec<AccountState>,
    /// Users and conference aliases.
    pub users: Vec<String>,
}

/// What can be seen of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeState {
    /// Name in `processnode`.
    pub name: String,
    /// The component table as this node has it.
    pub rows: Vec<Row>,
    /// "requires a restart in order for recent configuration changes to take effect".
    pub notice: bool,
    /// The XCP router.
    pub router: RouterState,
}

/// Result of raw SQL.
#[derive(Debug, Clone, Serialize)]
pub struct SqlResult {
    /// Rows of a SELECT, column by column.
    pub rows: Vec<Map<String, Value>>,
    /// Rows changed by anything else.
    pub changed: usize,
}

impl SimulatedImp {
    /// Everything that can be seen.
    pub fn state(&self) -> ClusterState {
        let cluster = &self.cluster;
        ClusterState {
            table: cluster.table.clone(),
            federation: cluster.settings().federation,
            nodes: cluster
                .nodes
                .iter()
                .map(|node| NodeState {
                    name: node.name.clone(),
                    rows: node.database.component_rows(),
                    notice: node.router.notice(),
                    router: node.router.state(),
                })
                .collect(),
            accounts: cluster.auth.state(),
            users: cluster.users.names(),
        }
    }

    /// The record of calls behind that number.
    pub fn calls(&self, after: u64) -> Vec<Call> {
        self.cluster.calls.after(after)
    }

    /// The last requests as they came, oldest first.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.cluster.calls.requests()
    }

    /// How often that fault struck since the simulation began.
    pub fn struck(&self, name: &str) -> u64 {
        self.cluster.faults.struck(name)
    }

    /// How many bytes of huge answers (the faults `…-huge`) were taken from the node.
    pub fn huge_bytes(&self) -> usize {
        self.cluster.huge_bytes.load(Ordering::Relaxed)
    }

    /// The most requests that were being answered at a time, over all nodes.
    pub fn most_in_flight(&self) -> usize {
        self.cluster.in_flight.1.load(Ordering::SeqCst)
    }

    /// Makes all services of all nodes as much older: for tests that count with a clock of their own.
    pub fn age(&self, by: Duration) {
        for node in &self.cluster.nodes {
            node.router.age(by);
        }
    }

    /// Switches a fault on.
    pub fn set_fault(&self, name: &str, options: FaultOptions) -> Result<(), String> {
        self.cluster.faults.set(name, options)?;
        if name == "router-down" {
            self.cluster.crash_routers();
        }
        Ok(())
    }

    /// Switches a fault off; tells whether it was on.
    pub fn clear_fault(&self, name: &str) -> bool {
        self.cluster.faults.remove(name)
    }

    /// The faults that are on.
    pub fn faults(&self) -> BTreeMap<String, FaultOptions> {
        self.cluster.faults.list()
    }

    /// Changes settings.
    pub fn change(&self, change: Change) -> Result<(), String> {
        self.cluster.change(change)
    }

    /// Restarts a node's XCP router as the command line `utils service restart Cisco XCP Router` does; returns at once.
    pub fn restart_router(&self, name: &str) -> Result<(), String> {
        let node = self.find(name)?;
        let code = self.cluster.control(node, ROUTER, Control::Restart, "hand");
        let outcome = if code == -1 {
            "ok".into()
        } else {
            format!("refused: {code}")
        };
        self.record_cli(&node.name, "utils service restart", ROUTER, &outcome);
        match code {
            -1 => Ok(()),
            -1029 => Err(format!("{name}: an operation is pending")),
            code => Err(format!("{name}: refused with {code}")),
        }
    }

    /// Stops or starts a service of a node as an administrator does; returns at once.
    pub fn switch_service(&self, name: &str, service: &str, on: bool) -> Result<(), String> {
        let node = self.find(name)?;
        let control = if on { Control::Start } else { Control::Stop };
        match self.cluster.control(node, service, control, "hand") {
            -1 => Ok(()),
            code => Err(format!("{name}, {service}: refused with {code}")),
        }
    }

    /// Any SQL that `SQLite` takes, on the publisher's database; writes are replicated.
    pub fn sql(&self, text: &str) -> Result<SqlResult, String> {
        let outcome = if text.trim_start().to_ascii_lowercase().starts_with("select") {
            self.cluster.publisher.database.raw(text)
        } else {
            self.cluster.write(|database| database.raw(text))
        };
        self.record_cli(
            &self.cluster.publisher.name,
            "run sql",
            text,
            outcome.as_ref().map_or_else(String::as_str, |_| "ok"),
        );
        let (rows, changed) = outcome?;
        let rows = rows
            .into_iter()
            .map(|row| row.into_iter().map(|(column, value)| (column, json!(value))).collect())
            .collect();
        Ok(SqlResult { rows, changed })
    }

    /// Sends one stanza (XML without `xmlns`) as that user; `from` is filled in.
    pub async fn send(&self, jid: &str, stanza: &str) -> Result<(), String> {
        send(&self.cluster, jid, stanza.as_bytes()).await
    }

    /// What a user received behind `after`; waits up to `wait` for the first such stanza. `None`: no such user.
    pub async fn inbox(&self, jid: &str, after: u64, wait: Duration) -> Option<Vec<Received>> {
        self.cluster.users.inbox(jid, after, wait).await
    }

    /// Writes bytes as they are on the link of a component at a node.
    pub async fn write_raw(&self, node: &str, id: &str, bytes: Vec<u8>) -> Result<(), String> {
        let link = self
            .find(node)?
            .router
            .link(id)
            .ok_or_else(|| format!("`{id}` is not linked to {node}"))?;
        link.send(Outgoing::Raw(bytes))
            .await
            .map_err(|_| "the link has just gone".into())
    }

    fn find(&self, name: &str) -> Result<&Arc<super::cluster::Node>, String> {
        self.cluster
            .node(name)
            .ok_or_else(|| format!("there is no node `{name}`"))
    }

    fn record_cli(&self, node: &str, operation: &str, detail: &str, outcome: &str) {
        let call = Call::new(node, "cli", operation, detail, outcome, "none");
        self.cluster.calls.record(call);
    }
}

async fn send(cluster: &Arc<Cluster>, jid: &str, stanza: &[u8]) -> Result<(), String> {
    let (stanza, home) = cluster.users.outgoing(jid, stanza)?;
    cluster.from_user(&home, stanza).await
}

/// The control port's routes.
pub fn routes(imp: SimulatedImp) -> Router {
    Router::new()
        .route("/state", get(async |State(imp): State<SimulatedImp>| Json(imp.state())))
        .route(
            "/ca.pem",
            get(async |State(imp): State<SimulatedImp>| imp.ca_pem().to_string()),
        )
        .route("/calls", get(calls))
        .route(
            "/faults",
            get(async |State(imp): State<SimulatedImp>| Json(imp.faults())),
        )
        .route("/faults/{name}", put(set_fault).delete(clear_fault))
        .route("/config", put(config))
        .route("/nodes/{name}/restart-router", post(restart_router))
        .route("/nodes/{name}/links/{id}/raw", post(raw))
        .route("/sql", post(sql))
        .route("/users/{jid}/stanza", post(stanza))
        .route("/users/{jid}/inbox", get(inbox))
        .with_state(imp)
}

/// Where a list is read from.
#[derive(Debug, Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait: u64,
}

fn failed(status: StatusCode, text: impl Into<String>) -> Response {
    (status, Json(json!({ "error": text.into() }))).into_response()
}

fn done(outcome: Result<(), String>) -> Response {
    match outcome {
        Ok(()) => Json(json!({})).into_response(),
        Err(text) if text.starts_with("there is no ") => failed(StatusCode::NOT_FOUND, text),
        Err(text) => failed(StatusCode::BAD_REQUEST, text),
    }
}

/// An absent body is the empty object.
fn object<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| format!("the body: {error}"))
}

async fn calls(State(imp): State<SimulatedImp>, Query(query): Query<After>) -> Json<Vec<Call>> {
    Json(imp.calls(query.after))
}

async fn set_fault(State(imp): State<SimulatedImp>, Path(name): Path<String>, body: Bytes) -> Response {
    done(object(&body).and_then(|options| imp.set_fault(&name, options)))
}

async fn clear_fault(State(imp): State<SimulatedImp>, Path(name): Path<String>) -> Response {
    Json(json!({ "was_on": imp.clear_fault(&name) })).into_response()
}

async fn config(State(imp): State<SimulatedImp>, body: Bytes) -> Response {
    done(object(&body).and_then(|change| imp.change(change)))
}

async fn restart_router(State(imp): State<SimulatedImp>, Path(name): Path<String>) -> Response {
    done(imp.restart_router(&name))
}

async fn raw(State(imp): State<SimulatedImp>, Path((name, id)): Path<(String, String)>, body: Bytes) -> Response {
    done(imp.write_raw(&name, &id, body.to_vec()).await)
}

async fn sql(State(imp): State<SimulatedImp>, body: String) -> Response {
    match imp.sql(&body) {
        Ok(result) => Json(result).into_response(),
        Err(text) => failed(StatusCode::BAD_REQUEST, text),
    }
}

async fn stanza(State(imp): State<SimulatedImp>, Path(jid): Path<String>, body: Bytes) -> Response {
    match send(&imp.cluster, &jid, &body).await {
        Err(text) if text.contains("no session") => failed(StatusCode::SERVICE_UNAVAILABLE, text),
        outcome => done(outcome),
    }
}

async fn inbox(State(imp): State<SimulatedImp>, Path(jid): Path<String>, Query(query): Query<After>) -> Response {
    let wait = Duration::from_millis(query.wait.min(600_000));
    match imp.inbox(&jid, query.after, wait).await {
        Some(items) => Json(items).into_response(),
        None => failed(StatusCode::NOT_FOUND, format!("there is no user `{jid}`")),
    }
}
