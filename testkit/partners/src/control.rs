//! The HTTP face of users.
//!
//! | | |
//! |---|---|
//! | `POST /users/{bare-jid}/stanza` | body: XML of one stanza; 200 once written to the server |
//! | `GET /users/{bare-jid}/inbox?after=SEQ&wait=MS` | `[{seq, at_ms, stanza}]`, waits up to MS for the first |
//! | `GET /users/{bare-jid}` | `{"online": full JID or null}` |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::session::User;
use testkit_base::inbox::Received;

type Users = Arc<BTreeMap<String, User>>;

#[derive(Debug, Deserialize)]
struct Window {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait: u64,
}

struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

/// The routes of some users.
pub fn router(users: impl IntoIterator<Item = User>) -> Router {
    let users: BTreeMap<String, User> = users.into_iter().map(|user| (user.jid().to_string(), user)).collect();
    Router::new()
        .route("/users/{jid}", get(state))
        .route("/users/{jid}/stanza", post(send))
        .route("/users/{jid}/inbox", get(inbox))
        .with_state(Arc::new(users))
}

fn find<'a>(users: &'a Users, jid: &str) -> Result<&'a User, Refused> {
    users
        .get(jid)
        .ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("no user {jid} here")))
}

async fn state(State(users): State<Users>, Path(jid): Path<String>) -> Result<Json<Value>, Refused> {
    Ok(Json(json!({ "online": find(&users, &jid)?.online() })))
}

async fn send(State(users): State<Users>, Path(jid): Path<String>, xml: String) -> Result<Json<Value>, Refused> {
    match find(&users, &jid)?.send(&xml).await {
        Ok(()) => Ok(Json(json!({}))),
        Err(error) => Err(Refused(StatusCode::BAD_REQUEST, error.to_string())),
    }
}

async fn inbox(
    State(users): State<Users>,
    Path(jid): Path<String>,
    Query(Window { after, wait }): Query<Window>,
) -> Result<Json<Vec<Received>>, Refused> {
    let user = find(&users, &jid)?;
    // One request holds its connection for a minute at most.
    let wait = Duration::from_millis(wait.min(60_000));
    Ok(Json(user.inbox().after(after, wait).await))
}
