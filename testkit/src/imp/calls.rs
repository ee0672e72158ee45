//! The record of everything that was asked of the cluster, so that tests can count.

use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

/// One call.
#[derive(Debug, Clone, Serialize)]
pub struct Call {
    /// Position in the record, from 1.
    pub seq: u64,
    /// When it was answered (or dropped), Unix milliseconds.
    pub at_ms: u64,
    /// The node that was called.
    pub node: String,
    /// `axl`, `control-center`, `xcp` or `cli`.
    pub service: &'static str,
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
    pub auth: &'static str,
    /// Fingerprint of the credentials: SHA-256 of `user:password`, first 12 hex digits.
    pub credential: Option<String>,
}

/// The record of calls, oldest first.
#[derive(Debug, Default)]
pub struct Calls(Mutex<Vec<Call>>);

impl Calls {
    /// Adds a call; number and time are filled in.
    pub fn record(&self, mut call: Call) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        call.seq = calls.len() as u64 + 1;
        call.at_ms = now_ms();
        tracing::info!(
            node = call.node,
            service = call.service,
            operation = call.operation,
            detail = call.detail,
            status = call.status,
            outcome = call.outcome,
            auth = call.auth,
            "call"
        );
        calls.push(call);
    }

    /// All calls behind that number.
    pub fn after(&self, seq: u64) -> Vec<Call> {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls
            .iter()
            .skip(usize::try_from(seq).unwrap_or(usize::MAX))
            .cloned()
            .collect()
    }
}

/// Unix time in milliseconds.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// The fingerprint under which credentials appear in the record.
pub fn fingerprint(user: &str, password: &str) -> String {
    let digest = Sha256::digest(format!("{user}:{password}"));
    hex(&digest).chars().take(12).collect()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        use std::fmt::Write as _;
        let _ = write!(out, "{byte:02x}");
        out
    })
}
