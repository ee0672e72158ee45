//! Pods, as far as steps look at them.

use std::net::IpAddr;
use std::path::PathBuf;

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
    /// Its node; empty while there is none.
    pub node: String,
    /// Ids of its containers, without the runtime's prefix.
    containers: Vec<String>,
}

impl From<k8s_openapi::api::core::v1::Pod> for Pod {
    fn from(pod: k8s_openapi::api::core::v1::Pod) -> Self {
        let status = pod.status.unwrap_or_default();
        let spec = pod.spec.unwrap_or_default();
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
            node: spec.node_name.unwrap_or_default(),
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
        for process in self.processes()? {
            let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
            total.0 += megabytes(&status, "VmRSS:");
            total.1 += megabytes(&status, "VmHWM:");
        }
        ensure(total.0 > 0.0, || format!("no process of pod {} found", self.name))?;
        Ok(total)
    }

    /// User and supplementary groups of its first process, as the kernel knows them.
    pub fn user(&self) -> Result<(u32, Vec<u32>), Error> {
        let status = std::fs::read_to_string(self.process()?.join("status"))?;
        let numbers = |field: &str| -> Vec<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let words = line.unwrap_or_default().split_whitespace();
            words.filter_map(|word| word.parse().ok()).collect()
        };
        let user = numbers("Uid:").first().copied();
        Ok((user.ok_or("a process without a user")?, numbers("Groups:")))
    }

    /// Folder below `/proc` of its first process.
    pub fn process(&self) -> Result<PathBuf, Error> {
        let first = self.processes()?.into_iter().next();
        first.ok_or_else(|| format!("no process of pod {} found", self.name).into())
    }

    /// Folders below `/proc` of its processes.
    fn processes(&self) -> Result<Vec<PathBuf>, Error> {
        let ours = |path: &PathBuf| {
            let group = std::fs::read_to_string(path.join("cgroup")).unwrap_or_default();
            self.containers.iter().any(|id| group.contains(id.as_str()))
        };
        let all = std::fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
        Ok(all.filter(ours).collect())
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
