//! Removes a lab, running or broken: processes, namespaces, mounts, cgroups, folders — its own and no others.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::layout::Layout;
use super::process::{self, Record};
use super::{cluster, command, kubernetes, network, node};
use testkit_base::Error;

/// Marks a folder as a lab's: nothing else is ever removed.
pub const MARK: &str = ".lab";

/// How long a component may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// Removes everything; the logs are kept in `keep_logs` if given.
pub async fn remove(lab: &Layout, keep_logs: Option<&Path>) -> Result<(), Error> {
    let first: BTreeSet<&str> = kubernetes::stop_first().collect();
    let last = ["kube-apiserver", "etcd", "containerd", node::HOLDER];
    let (kubernetes, hosts): (Vec<Record>, Vec<Record>) = process::records(lab)?.into_iter().partition(|record| {
        let program = cluster::program(&record.name);
        first.contains(program) || last.contains(&program)
    });
    end_all(&hosts).await?;
    let (first, rest): (Vec<Record>, Vec<Record>) = kubernetes
        .into_iter()
        .partition(|record| first.contains(cluster::program(&record.name)));
    end_all(&first).await?;
    end_pods(lab).await?;
    // The apiserver waits for etcd when that goes first; pods' tasks outlive a containerd that goes first.
    for program in last {
        for record in rest.iter().filter(|record| cluster::program(&record.name) == program) {
            process::stop(lab, &record.name, GRACE).await?;
        }
    }
    end_inhabitants(lab).await?;
    unmount(lab).await?;
    node::remove_cgroups(lab).await?;
    for namespace in network::namespaces(lab).await? {
        command::run(&command::on_machine(&["ip", "netns", "delete", &namespace])).await?;
    }
    remove_folder(&lab.run_dir())?;
    if let Some(kept) = keep_logs {
        keep(&lab.logs_dir(), kept)?;
    }
    if lab.dir().join(MARK).exists() {
        remove_folder(lab.dir())?;
    }
    Ok(())
}

/// SIGTERM to all at once, SIGKILL to those that stay.
async fn end_all(records: &[Record]) -> Result<(), Error> {
    for record in records {
        record.signal(Signal::SIGTERM);
    }
    for record in records {
        process::end(record, GRACE).await?;
    }
    Ok(())
}

/// Kills the pods' processes, found by the lab's cgroup; a task may be starting another one meanwhile.
async fn end_pods(lab: &Layout) -> Result<(), Error> {
    node::wait_until("the end of the pods", Duration::from_secs(20), async || {
        let processes = node::pod_processes(lab)?;
        for process in &processes {
            process.signal(Signal::SIGKILL);
        }
        Ok(processes.is_empty())
    })
    .await
}

/// Ends whatever still runs in the lab's network namespaces: shims of containerd, shells, processes of an aborted run.
async fn end_inhabitants(lab: &Layout) -> Result<(), Error> {
    let spared = self_and_ancestors();
    for namespace in network::namespaces(lab).await? {
        let inhabitants: Vec<Record> = process::inside(&Path::new("/run/netns").join(namespace))?
            .into_iter()
            .filter(|record| !spared.contains(&record.pid))
            .collect();
        for record in &inhabitants {
            // A shell ignores SIGTERM; it ends when its terminal does.
            record.signal(Signal::SIGHUP);
        }
        end_all(&inhabitants).await?;
    }
    Ok(())
}

fn self_and_ancestors() -> BTreeSet<i32> {
    let mut pids = BTreeSet::new();
    let mut pid = i32::try_from(std::process::id()).unwrap_or(0);
    while pid > 0 && pids.insert(pid) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        pid = parent.and_then(|parent| parent.trim().parse().ok()).unwrap_or(0);
    }
    pids
}

/// Mounts of the lab live in its node's mount namespace; one that got out all the same is removed here.
async fn unmount(lab: &Layout) -> Result<(), Error> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut points: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    points.reverse();
    for point in points {
        if Path::new(point).starts_with(lab.dir()) || Path::new(point).starts_with(lab.run_dir()) {
            command::run(&command::on_machine(&["umount", point])).await?;
        }
    }
    Ok(())
}

fn keep(logs: &Path, kept: &Path) -> Result<(), Error> {
    if !logs.is_dir() {
        return Ok(());
    }
    remove_folder(kept)?;
    fs::create_dir_all(kept)?;
    for entry in fs::read_dir(logs)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), kept.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn remove_folder(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(format!("{} cannot be removed: {error}", path.display()).into())
        }
        _ => Ok(()),
    }
}
