//! Objects of Kubernetes as JSON: what steps read of them.

use serde_json::Value;
use testkit_base::Error;

use super::report::ensure;

/// A text inside a JSON value; empty when absent.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// A list inside a JSON value; empty when absent.
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A condition of any object.
#[derive(Clone, Debug)]
pub struct Condition {
    /// `True`, `False`, `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// Sentences.
    pub message: String,
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.status, self.reason, self.message)
    }
}

/// The condition of that type, if the object has it.
pub fn condition(object: &Value, kind: &str) -> Option<Condition> {
    let found = list(object, "/status/conditions")
        .iter()
        .find(|condition| text(condition, "/type") == kind)?;
    Some(Condition {
        status: text(found, "/status").to_owned(),
        reason: text(found, "/reason").to_owned(),
        message: text(found, "/message").to_owned(),
    })
}

/// The condition when it has the wanted status; otherwise an error with what it says.
pub fn expect_condition(object: &Value, kind: &str, status: &str) -> Result<Condition, Error> {
    match condition(object, kind) {
        Some(found) if found.status == status => Ok(found),
        Some(found) => Err(format!("{kind} is {found}").into()),
        None => Err(format!("there is no condition {kind} yet").into()),
    }
}

/// A pod, as far as steps look at it.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Name.
    pub name: String,
    /// Condition Ready.
    pub ready: bool,
    /// Being deleted.
    pub terminating: bool,
    /// Address, empty while there is none.
    pub address: String,
    /// Ids of its containers, without the runtime's prefix.
    pub containers: Vec<String>,
    /// Identity.
    pub uid: String,
}

impl Pod {
    /// Reads a pod's JSON.
    pub fn read(pod: &Value) -> Self {
        Self {
            name: text(pod, "/metadata/name").to_owned(),
            uid: text(pod, "/metadata/uid").to_owned(),
            ready: condition(pod, "Ready").is_some_and(|ready| ready.status == "True"),
            terminating: pod.pointer("/metadata/deletionTimestamp").is_some(),
            address: text(pod, "/status/podIP").to_owned(),
            containers: list(pod, "/status/containerStatuses")
                .iter()
                .map(|status| {
                    let id = text(status, "/containerID");
                    id.rsplit('/').next().unwrap_or(id).to_owned()
                })
                .filter(|id| !id.is_empty())
                .collect(),
        }
    }

    /// Resident memory of its processes, in MB: (now, highest so far).
    pub fn memory(&self) -> Result<(f64, f64), Error> {
        let mut total = (0.0, 0.0);
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let path = entry.path();
            let group = std::fs::read_to_string(path.join("cgroup")).unwrap_or_default();
            if !self.containers.iter().any(|id| group.contains(id.as_str())) {
                continue;
            }
            let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
            total.0 += megabytes(&status, "VmRSS:");
            total.1 += megabytes(&status, "VmHWM:");
        }
        ensure(total.0 > 0.0, || format!("no process of pod {} found", self.name))?;
        Ok(total)
    }
}

fn megabytes(status: &str, field: &str) -> f64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<f64>().ok())
        .map_or(0.0, |kilobytes| kilobytes / 1024.0)
}
