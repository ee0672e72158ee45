//! The HTTP face of the lab's DNS.
//!
//! | | |
//! |---|---|
//! | `GET /zones/{zone}` | its records: `[{name, type, ttl, values}]` |
//! | `PUT /records` | `{name, type, ttl, values}` replaces what stands under that name and type; no values remove it |
//! | `GET /queries?after=SEQ` | queries seen: `[{seq, at_ms, source, name, type, answer}]` |
//!
//! A refusal is `{"error": "…"}` with status 400 or 404.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use super::{DnsHandle, QueryRecord, RecordSpec};

#[derive(Debug, Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<testkit_base::Error> for Refused {
    fn from(error: testkit_base::Error) -> Self {
        Self(StatusCode::BAD_REQUEST, error.to_string())
    }
}

type Answer<T> = Result<Json<T>, Refused>;

/// The routes, over a running server's handle.
pub fn router(dns: DnsHandle) -> Router {
    Router::new()
        .route("/zones/{zone}", get(zone))
        .route("/records", put(set))
        .route("/queries", get(queries))
        .with_state(dns)
}

async fn zone(State(dns): State<DnsHandle>, Path(zone): Path<String>) -> Answer<Vec<RecordSpec>> {
    dns.zone(&zone)?
        .map(Json)
        .ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("no zone {zone} here")))
}

async fn set(State(dns): State<DnsHandle>, Json(record): Json<RecordSpec>) -> Answer<serde_json::Value> {
    dns.set(&record)?;
    Ok(Json(json!({})))
}

async fn queries(State(dns): State<DnsHandle>, Query(After { after }): Query<After>) -> Json<Vec<QueryRecord>> {
    Json(dns.queries(after))
}
