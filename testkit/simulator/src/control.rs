//! What a test can do with the cluster, as methods of [`SimulatedImp`] and over HTTP (the same on every node's control
//! port). What is refused is answered with `{"error": "…"}`.
//!
//! | request | |
//! |---|---|
//! | `GET /state` | [`ClusterState`] |
//! | `GET /calls?after=SEQ` | list of [`Call`] |
//! | `PUT /password` | the new password of the first account; its lockout ends |
//! | `POST /nodes/{name}/restart-router` | by hand, returns at once |
//! | `POST /sql` | any SQL on the publisher: `{"rows": [{…}], "changed": n}` |
//! | `POST /users/{jid}/stanza` | one stanza, sent as that user |
//! | `GET /users/{jid}/inbox?after=SEQ&wait=MS` | list of [`Received`] |

use super::SimulatedImp;
use super::auth::AccountState;
use super::calls::{Call, RecordedRequest};
use super::cluster::{Node, Settings};
use super::config::{Federation, Row};
use super::faults::FaultOptions;
use super::refused::Refused;
use super::router::{Control, ROUTER, RouterState};
use axum::extract::{Path, Query, State};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
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
            table: cluster.config.table.clone(),
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

    /// Changes settings.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        self.cluster.change(change);
    }

    /// Sets the first account's password, as an administrator's reset: also ends its lockout.
    pub fn set_password(&self, password: &str) {
        self.cluster.auth.set_password(password);
    }

    /// All session cookies go stale, as with a restarted Tomcat.
    pub fn forget_sessions(&self) {
        self.cluster.auth.forget_sessions();
    }

    /// Restarts a node's XCP router as the command line `utils service restart Cisco XCP Router` does; returns at once.
    pub fn restart_router(&self, name: &str) -> Result<(), Refused> {
        let node = self.find(name)?;
        let code = self.cluster.control(node, ROUTER, Control::Restart, "hand");
        let outcome = match code {
            -1 => "ok".to_owned(),
            code => format!("refused: {code}"),
        };
        self.record_cli(&node.name, "utils service restart", ROUTER, &outcome);
        match code {
            -1 => Ok(()),
            -1029 => Err(Refused::Invalid(format!("{name}: an operation is pending"))),
            code => Err(Refused::Invalid(format!("{name}: refused with {code}"))),
        }
    }

    /// Stops or starts a service of a node as an administrator does; returns at once.
    pub fn switch_service(&self, name: &str, service: &str, on: bool) -> Result<(), Refused> {
        let node = self.find(name)?;
        let control = if on { Control::Start } else { Control::Stop };
        match self.cluster.control(node, service, control, "hand") {
            -1 => Ok(()),
            code => Err(Refused::Invalid(format!("{name}, {service}: refused with {code}"))),
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
    pub async fn send(&self, jid: &str, stanza: &str) -> Result<(), Refused> {
        let (stanza, home) = self.cluster.users.outgoing(jid, stanza.as_bytes())?;
        self.cluster.from_user(&home, stanza).await
    }

    /// What a user received behind `after`; waits up to `wait` for the first such stanza. `None`: no such user.
    pub async fn inbox(&self, jid: &str, after: u64, wait: Duration) -> Option<Vec<Received>> {
        self.cluster.users.inbox(jid, after, wait).await
    }

    fn find(&self, name: &str) -> Result<&Arc<Node>, Refused> {
        let node = self.cluster.node(name);
        node.ok_or_else(|| Refused::Unknown(format!("there is no node `{name}`")))
    }

    fn record_cli(&self, node: &str, operation: &str, detail: &str, outcome: &str) {
        let call = Call::new(node, "cli", operation, detail, outcome, "none");
        self.cluster.calls.record(call);
    }
}

/// The control port's routes.
pub fn routes(imp: SimulatedImp) -> Router {
    Router::new()
        .route("/state", get(async |State(imp): State<SimulatedImp>| Json(imp.state())))
        .route("/calls", get(calls))
        .route("/password", put(password))
        .route("/nodes/{name}/restart-router", post(restart_router))
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

async fn calls(State(imp): State<SimulatedImp>, Query(query): Query<After>) -> Json<Vec<Call>> {
    Json(imp.calls(query.after))
}

async fn password(State(imp): State<SimulatedImp>, password: String) {
    imp.set_password(&password);
}

async fn restart_router(State(imp): State<SimulatedImp>, Path(name): Path<String>) -> Result<(), Refused> {
    imp.restart_router(&name)
}

async fn sql(State(imp): State<SimulatedImp>, body: String) -> Result<Json<SqlResult>, Refused> {
    imp.sql(&body).map(Json).map_err(Refused::Invalid)
}

async fn stanza(State(imp): State<SimulatedImp>, Path(jid): Path<String>, body: String) -> Result<(), Refused> {
    imp.send(&jid, &body).await
}

async fn inbox(
    State(imp): State<SimulatedImp>,
    Path(jid): Path<String>,
    Query(query): Query<After>,
) -> Result<Json<Vec<Received>>, Refused> {
    let wait = Duration::from_millis(query.wait.min(600_000));
    let items = imp.inbox(&jid, query.after, wait).await;
    items
        .map(Json)
        .ok_or_else(|| Refused::Unknown(format!("there is no user `{jid}`")))
}
