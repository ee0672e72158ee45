//! The HTTP face of the lab's DNS.
//!
//! | | |
//! |---|---|
//! | `GET /zones/{zone}` | its records: `[{name, type, ttl, values}]` |
//! | `PUT /records` | `{name, type, ttl, values}` replaces what stands under that name and type |
//! | `DELETE /records/{name}/{type}` | removes it |
//! | `GET /faults`, `PUT /faults/{name}`, `DELETE /faults/{name}` | `{"kind": "servfail" \| "timeout" \| "nxdomain"}` for exactly that name |
//! | `GET /queries?after=SEQ` | queries seen: `[{seq, at_ms, source, name, type, answer}]` |
//!
//! A refusal is `{"error": "…"}` with status 400 or 404.

use std::collections::BTreeMap;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{DnsHandle, Fault, QueryRecord, RecordSpec};

/// Body of `PUT /faults/{name}`.
#[derive(Debug, Serialize, Deserialize)]
pub struct FaultBody {
    /// How the name fails.
    pub kind: Fault,
}

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
        .route("/records/{name}/{type}", delete(remove))
        .route("/faults", get(faults))
        .route("/faults/{name}", put(set_fault).delete(clear_fault))
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

async fn remove(State(dns): State<DnsHandle>, Path((name, kind)): Path<(String, String)>) -> Answer<serde_json::Value> {
    if dns.remove(&name, &kind)? {
        Ok(Json(json!({})))
    } else {
        Err(Refused(StatusCode::NOT_FOUND, format!("{name} has no {kind} record")))
    }
}

async fn faults(State(dns): State<DnsHandle>) -> Json<BTreeMap<String, FaultBody>> {
    Json(
        dns.faults()
            .into_iter()
            .map(|(name, kind)| (name, FaultBody { kind }))
            .collect(),
    )
}

async fn set_fault(
    State(dns): State<DnsHandle>,
    Path(name): Path<String>,
    Json(body): Json<FaultBody>,
) -> Answer<serde_json::Value> {
    dns.set_fault(&name, body.kind)?;
    Ok(Json(json!({})))
}

async fn clear_fault(State(dns): State<DnsHandle>, Path(name): Path<String>) -> Answer<serde_json::Value> {
    if dns.clear_fault(&name)? {
        Ok(Json(json!({})))
    } else {
        Err(Refused(StatusCode::NOT_FOUND, format!("{name} has no fault")))
    }
}

async fn queries(State(dns): State<DnsHandle>, Query(After { after }): Query<After>) -> Json<Vec<QueryRecord>> {
    Json(dns.queries(after))
}
