//! The record of everything that was asked of the cluster, so that tests can count.

use axum::http;
use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt::Write as _;

/// One call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// Position in the record, from 1.
    pub seq: u64,
    /// When it was answered (or dropped), Unix milliseconds.
    pub at_ms: u64,
    /// The node that was called.
    pub node: String,
    /// `axl`, `control-center`, `xcp` or `cli`.
    pub service: Cow<'static, str>,
    /// As `executeSQLQuery`, `soapDoControlServices`, `handshake`, `run sql`.
    pub operation: String,
    /// SQL text, control type and services, component id.
    pub detail: String,
    /// HTTP status; 0 where there was no answer. For `xcp`: 0.
    pub status: u16,
    /// What it came to: `ok`, or why not.
    pub outcome: String,
    /// User name, where one was given.
    pub user: Option<String>,
    /// `ok`, `bad` or `none`.
    pub auth: Cow<'static, str>,
    /// Fingerprint of the credentials: SHA-256 of `user:password`, first 12 hex digits.
    pub credential: Option<String>,
}

impl Call {
    /// A call that is no HTTP request.
    pub fn new(
        node: &str,
        service: &'static str,
        operation: &str,
        detail: &str,
        outcome: &str,
        auth: &'static str,
    ) -> Self {
        Self {
            seq: 0,
            at_ms: 0,
            node: node.into(),
            service: service.into(),
            operation: operation.into(),
            detail: detail.into(),
            status: 0,
            outcome: outcome.into(),
            user: None,
            auth: auth.into(),
            credential: None,
        }
    }
}

/// One request as it came, in the lines that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedRequest {
    /// The node that was called.
    pub node: String,
    /// Request line, the headers `Content-Type`, `Accept`, `SOAPAction` and `Authorization` (its credentials left out), an empty
    /// line, and the body as it is.
    pub text: String,
}

/// How many requests are kept.
const MAX_REQUESTS: usize = 2_000;

/// The record of calls, oldest first.
#[derive(Debug, Default)]
pub struct Calls(Mutex<Vec<Call>>, Mutex<VecDeque<RecordedRequest>>);

impl Calls {
    /// Keeps a request.
    pub fn keep_request(
        &self,
        node: &str,
        method: &http::Method,
        uri: &http::Uri,
        headers: &http::HeaderMap,
        body: &[u8],
    ) {
        let mut text = format!("{method} {} HTTP/1.1\n", uri.path());
        for name in ["Content-Type", "Accept", "SOAPAction", "Authorization"] {
            for value in headers.get_all(name) {
                let value = String::from_utf8_lossy(value.as_bytes());
                let shown = match value.split_once(' ') {
                    Some((scheme, _)) if name == "Authorization" => format!("{scheme} …"),
                    _ => value.into_owned(),
                };
                let _ = writeln!(text, "{name}: {shown}");
            }
        }
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(body));
        let mut requests = self.1.lock();
        requests.push_back(RecordedRequest {
            node: node.into(),
            text,
        });
        if requests.len() > MAX_REQUESTS {
            requests.pop_front();
        }
    }

    /// The last requests, oldest first.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        let requests = self.1.lock();
        requests.iter().cloned().collect()
    }

    /// Adds a call; number and time are filled in.
    pub fn record(&self, mut call: Call) {
        let mut calls = self.0.lock();
        call.seq = calls.len() as u64 + 1;
        call.at_ms = now_ms();
        tracing::info!(
            node = call.node,
            service = %call.service,
            operation = call.operation,
            detail = call.detail,
            status = call.status,
            outcome = call.outcome,
            auth = %call.auth,
            "call"
        );
        calls.push(call);
    }

    /// All calls behind that number.
    pub fn after(&self, seq: u64) -> Vec<Call> {
        let calls = self.0.lock();
        calls
            .iter()
            .skip(usize::try_from(seq).unwrap_or(usize::MAX))
            .cloned()
            .collect()
    }
}

/// Unix time in milliseconds.
pub fn now_ms() -> u64 {
    u64::try_from(testkit_base::now_ms()).unwrap_or_default()
}

/// The fingerprint under which credentials appear in the record.
pub fn fingerprint(user: &str, password: &str) -> String {
    let digest = Sha256::digest(format!("{user}:{password}"));
    HEXLOWER.encode(&digest).chars().take(12).collect()
}
