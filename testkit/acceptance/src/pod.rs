//! Pods, as far as steps look at them.

use std::net::IpAddr;

use testkit_base::Error;

use super::report::ensure;

/// A pod.
#[derive(Clone, Debug)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Condition Ready.
    pub ready: bool,
    /// Being deleted.
    pub terminating: bool,
    /// The first one leads; none at the beginning.
    pub addresses: Vec<IpAddr>,
    /// Ids of its containers, without the runtime's prefix.
    containers: Vec<String>,
}

impl From<k8s_openapi::api::core::v1::Pod> for Pod {
    fn from(pod: k8s_openapi::api::core::v1::Pod) -> Self {
        let status = pod.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let containers = status.container_statuses.unwrap_or_default();
        Self {
            namespace: pod.metadata.namespace.unwrap_or_default(),
            name: pod.metadata.name.unwrap_or_default(),
            uid: pod.metadata.uid.unwrap_or_default(),
            ready: conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            addresses: status
                .pod_ips
                .unwrap_or_default()
                .iter()
                .filter_map(|ip| ip.ip.parse().ok())
                .collect(),
            containers: containers
                .into_iter()
                .filter_map(|container| Some(container.container_id?.rsplit_once('/')?.1.to_owned()))
                .collect(),
        }
    }
}

impl Pod {
    /// Where it is reached.
    pub fn address(&self) -> Result<IpAddr, Error> {
        let first = self.addresses.first().copied();
        first.ok_or_else(|| format!("{} has no address yet", self.name).into())
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
