//! What the machine lends to a Kubernetes node of a lab: a mount namespace in which the node's usual folders are its own, a
//! cgroup, and containerd.
//!
//! kubelet, containerd and the CNI plugins have paths built in (`/var/lib/kubelet/device-plugins`, `/var/lib/cni`,
//! `/run/containerd/s`, `/var/log/containers`). In the node's mount namespace `/var/lib`, `/var/log` and `/run` are folders
//! of the lab, so labs do not meet there, and every mount made for a pod disappears with the namespace.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cluster::{Family, Node, TWO};
use super::layout::Layout;
use super::process::{self, Place};
use super::{command, network};
use testkit_base::Error;

/// The process that keeps a node's mount namespace.
pub const HOLDER: &str = "mounts";
/// Image of the process that keeps a pod's namespaces.
pub const PAUSE_IMAGE: &str = "localhost/xf-pause:dev";

/// Kernel settings that a kubelet insists on writing for the whole machine: it sees and writes these files instead.
const KERNEL: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Runs as the first process of the node's mount namespace. Arguments: the node's folder, its `/run`, kernel settings.
const HOLD: &str = r#"
dir=$0 run=$1; shift
mount --bind "$dir/var-lib" /var/lib
mount --bind "$dir/var-log" /var/log
for setting; do mount --bind "$dir/kernel/$setting" "/proc/sys/$setting"; done
touch "$dir/ready"
mount --bind "$run" /run
exec sleep infinity
"#;

/// Makes the node's folders, cgroup and mount namespace.
pub async fn create(lab: &Layout, node: &Node) -> Result<(), Error> {
    let (dir, run) = (lab.node_dir(node), lab.node_run_dir(node));
    for hidden in ["/var/lib", "/var/log", "/run"] {
        if lab.dir().starts_with(hidden) {
            return Err(format!(
                "the lab folder {} is below {hidden}, which a lab's node replaces by its own: choose another with --dir",
                lab.dir().display()
            )
            .into());
        }
    }
    for folder in [&dir.join("var-lib"), &dir.join("var-log"), &run] {
        fs::create_dir_all(folder)?;
    }
    let mut settings = Vec::new();
    for (name, value) in KERNEL {
        if Path::new("/proc/sys").join(name).exists() {
            let file = dir.join("kernel").join(name);
            fs::create_dir_all(file.parent().unwrap_or(&dir))?;
            fs::write(file, format!("{value}\n"))?;
            settings.push((*name).to_owned());
        }
    }
    create_cgroups(lab, node)?;
    let place = Place {
        network: Some(network::namespace_file(lab, node.host)),
        ..Place::default()
    };
    let mut words = command::words("unshare --mount --propagation slave sh -ec");
    words.extend([HOLD.to_owned(), dir.display().to_string(), run.display().to_string()]);
    words.extend(settings);
    let name = node.process(HOLDER);
    let holder = process::start(lab, &name, &place, &words, &BTreeMap::new())?;
    // The last mount hides the lab's run folder from the holder, so the mark before it is not the end: `sleep` is.
    wait_until("the node's mount namespace", Duration::from_secs(10), async || {
        if !holder.alive() {
            return Err(format!("it ended: see {}", lab.log(&name).display()).into());
        }
        let comm = fs::read_to_string(format!("/proc/{}/comm", holder.pid)).unwrap_or_default();
        Ok(dir.join("ready").exists() && comm.trim() == "sleep")
    })
    .await
}

/// Where the node's processes run.
pub fn place(lab: &Layout, node: &Node) -> Result<Place, Error> {
    let holder = process::find(lab, &node.process(HOLDER))?;
    let holder = holder.ok_or_else(|| format!("{} of lab {} is not running", node.name, lab.name()))?;
    Ok(Place {
        network: Some(network::namespace_file(lab, node.host)),
        mounts: Some(PathBuf::from(format!("/proc/{}/ns/mnt", holder.pid))),
        resolv_conf: None,
    })
}

/// Starts containerd and waits until it answers.
pub async fn start_containerd(lab: &Layout, node: &Node) -> Result<(), Error> {
    let config = lab.kubernetes_dir().join(format!("containerd-{}.toml", node.name));
    let cni = lab.kubernetes_dir().join(format!("cni-{}", node.name));
    fs::create_dir_all(&cni)?;
    // ptp, not bridge: every packet between pods passes the node's IP layer, where Services and policies act.
    let families = node.families();
    let range = |family: &Family| {
        let [first, last] = family.range;
        // The plugin wants the gateway in the subnet.
        serde_json::json!([
            {"subnet": family.subnet, "rangeStart": first, "rangeEnd": last, "gateway": family.own}
        ])
    };
    let to_all = |family: &Family| {
        let all = if family.own.is_ipv6() { "::/0" } else { "0.0.0.0/0" };
        serde_json::json!({ "dst": all })
    };
    let network = serde_json::json!({
        "cniVersion": "1.0.0", "name": "lab",
        "plugins": [{
            "type": "ptp", "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "ranges": families.iter().map(range).collect::<Vec<_>>(),
                "routes": families.iter().map(to_all).collect::<Vec<_>>(),
            }
        }]
    });
    fs::write(cni.join("10-lab.conflist"), serde_json::to_vec_pretty(&network)?)?;
    // restrict_oom_score_adj: a container or small virtual machine may lack CAP_SYS_RESOURCE.
    // disable_apparmor: a profile would be loaded into the machine's kernel and stay there.
    fs::write(
        &config,
        format!(
            r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  sandbox_image = "{PAUSE_IMAGE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
"#,
            cni.display()
        ),
    )?;
    let words = vec!["containerd".to_owned(), "-c".to_owned(), config.display().to_string()];
    let name = node.process("containerd");
    let containerd = process::start(lab, &name, &place(lab, node)?, &words, &BTreeMap::new())?;
    wait_until("containerd", Duration::from_mins(1), async || {
        if !containerd.alive() {
            return Err(format!("it ended: see {}", lab.log(&name).display()).into());
        }
        let socket = lab.containerd_socket(node);
        let words = ["ctr".as_ref(), "-a".as_ref(), socket.as_os_str(), "version".as_ref()];
        Ok(command::output(&words, None).await?.success)
    })
    .await
}

/// Makes an image archive known to a node.
pub async fn import(lab: &Layout, node: &Node, archive: &Path) -> Result<(), Error> {
    let socket = lab.containerd_socket(node);
    let mut words = vec!["ctr".into(), "-a".into(), socket.into_os_string()];
    words.extend(["-n", "k8s.io", "images", "import"].map(Into::into));
    words.push(archive.as_os_str().to_owned());
    command::run(&words).await?;
    Ok(())
}

/// The nodes of a running lab, as far as their names go.
pub fn running(lab: &Layout) -> impl Iterator<Item = &'static Node> {
    TWO.iter().filter(|node| lab.containerd_socket(node).exists())
}

/// A node's cgroup below the root, as the kubelet names it.
pub fn cgroup(lab: &Layout, node: &Node) -> String {
    format!("/{}/{}", lab.tag(), node.name)
}

/// Where cgroups of this name can be: version 2 has one tree, version 1 one for each controller.
fn cgroup_paths(lab: &Layout) -> Result<Vec<PathBuf>, Error> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.join(lab.tag())]);
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(root)?.flatten() {
        if entry.path().join("cgroup.procs").exists() && !entry.path().is_symlink() {
            paths.push(entry.path().join(lab.tag()));
        }
    }
    Ok(paths)
}

/// Makes the cgroup that a node's kubelet puts all pods below.
fn create_cgroups(lab: &Layout, node: &Node) -> Result<(), Error> {
    for path in cgroup_paths(lab)? {
        create_cgroup(&path)?;
        create_cgroup(&path.join(node.name))?;
    }
    Ok(())
}

fn create_cgroup(path: &Path) -> Result<(), Error> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    for controller in ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"] {
        // Which ones there are differs from machine to machine; the kubelet says what it misses.
        let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
    }
    fs::create_dir_all(path)?;
    for setting in ["cpuset.cpus", "cpuset.mems"] {
        // Version 1: an empty set lets no process in.
        if let Ok(value) = fs::read_to_string(parent.join(setting)) {
            let _ = fs::write(path.join(setting), value);
        }
    }
    Ok(())
}

/// Every cgroup of the lab, deepest first.
fn all_cgroups(lab: &Layout) -> Result<Vec<PathBuf>, Error> {
    fn below(path: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below(&entry.path(), found);
            }
        }
        found.push(path.to_path_buf());
    }
    let mut found = Vec::new();
    for path in cgroup_paths(lab)? {
        if path.exists() {
            below(&path, &mut found);
        }
    }
    Ok(found)
}

/// The processes of all pods.
pub fn pod_processes(lab: &Layout) -> Result<Vec<process::Record>, Error> {
    let boot = process::boot()?;
    let mut found = BTreeMap::new();
    for path in all_cgroups(lab)? {
        for pid in fs::read_to_string(path.join("cgroup.procs"))
            .unwrap_or_default()
            .split_whitespace()
        {
            if let Some(record) = pid.parse().ok().and_then(|pid| process::adopt(pid, &boot)) {
                found.insert(record.pid, record);
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Removes the lab's cgroups; its processes must have ended.
pub async fn remove_cgroups(lab: &Layout) -> Result<(), Error> {
    wait_until(
        "the removal of the lab's cgroups",
        Duration::from_secs(10),
        async || {
            let paths = all_cgroups(lab)?;
            for path in &paths {
                match fs::remove_dir(path) {
                    // Busy: the kernel is still putting away a process.
                    Err(error) if error.kind() != ErrorKind::NotFound && error.kind() != ErrorKind::ResourceBusy => {
                        return Err(format!("{}: {error}", path.display()).into());
                    }
                    _ => {}
                }
            }
            Ok(all_cgroups(lab)?.is_empty())
        },
    )
    .await
}

/// Asks `ready` until it says yes; an error or the time limit ends the wait.
pub async fn wait_until(
    what: &str,
    within: Duration,
    mut ready: impl AsyncFnMut() -> Result<bool, Error>,
) -> Result<(), Error> {
    let deadline = Instant::now() + within;
    loop {
        if ready().await.map_err(|error| format!("{what}: {error}"))? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("{what} did not come within {} s", within.as_secs()).into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
