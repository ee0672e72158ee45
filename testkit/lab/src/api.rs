//! [`Lab`]: what scenarios and the command line do with a lab.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::cluster::{Node, ONE};
use super::command::{self, Output};
use super::layout::{self, Layout};
use super::node::{self, wait_until};
use super::process::{self, Place, Record};
use super::{kubernetes, network, teardown};
use testkit_base::Error;

/// What a lab is to have.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name: up to 20 lower-case letters and digits. Labs of different names do not disturb each other.
    pub name: String,
    /// Folder; `target/lab/NAME` in the repository if absent.
    pub dir: Option<PathBuf>,
    /// Kubernetes with the product's images, and the cloud.
    pub kubernetes: bool,
    /// Its nodes.
    pub nodes: &'static [Node],
    /// An agent on each node that enforces policies of the network.
    pub policies: bool,
    /// The standard hosts: DNS, IM&P, partner.
    pub hosts: bool,
}

impl Options {
    /// Everything, in the usual folder.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            dir: None,
            kubernetes: true,
            nodes: ONE,
            policies: false,
            hosts: true,
        }
    }
}

/// A running lab. Dropping it leaves the lab running.
#[derive(Debug, Clone)]
pub struct Lab {
    pub(super) layout: Layout,
}

impl Lab {
    /// A lab that is already running.
    pub fn attach(name: &str, dir: Option<&Path>) -> Result<Self, Error> {
        require_root()?;
        let layout = Layout::new(name, dir)?;
        if !network::namespace_file(&layout, None).exists() {
            return Err(format!("there is no lab {name}: start it with `testkit lab up --name {name}`").into());
        }
        let owner = fs::read_to_string(layout.owner_file()).unwrap_or_default();
        if Path::new(&owner) != layout.dir() {
            return Err(format!("the lab {name} has its folder in {owner}: name it with --dir").into());
        }
        Ok(Self { layout })
    }

    /// Removes the lab with everything in it; copies the logs to `keep_logs` first if given.
    pub async fn down(&self, keep_logs: Option<&Path>) -> Result<(), Error> {
        Self::remove(&self.layout, keep_logs).await
    }

    /// Removes a lab, or the remains of one.
    pub async fn remove(layout: &Layout, keep_logs: Option<&Path>) -> Result<(), Error> {
        require_root()?;
        let _only = lock(layout)?;
        claim(layout).await?;
        teardown::remove(layout, keep_logs).await
    }

    /// Names and paths.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The lab's folder.
    pub fn dir(&self) -> &Path {
        self.layout.dir()
    }

    /// kubeconfig of an administrator (usable inside the lab's network).
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig()
    }

    /// Log of a process: `dns`, `imp`, `vngtp`, `cloud`, `kube-apiserver`, `kubelet`, `containerd` …
    pub fn log(&self, process: &str) -> PathBuf {
        self.layout.log(process)
    }

    /// Where the logs of a failed run are kept: `target/lab-logs/NAME`.
    pub fn failure_logs(&self) -> PathBuf {
        layout::repository().join("target/lab-logs").join(self.layout.name())
    }

    /// Runs kubectl as administrator; standard output, or an error with kubectl's own words.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String, Error> {
        command::run(&kubernetes::kubectl(&self.layout, arguments)?).await
    }

    /// As [`Lab::kubectl`], with standard input (`apply -f -`).
    pub async fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<String, Error> {
        command::run_with_input(&kubernetes::kubectl(&self.layout, arguments)?, input.as_bytes()).await
    }

    /// Runs helm as administrator.
    pub async fn helm(&self, arguments: &[&str]) -> Result<String, Error> {
        let mut words = self.place(None).prefix();
        words.push("env".to_owned());
        // Helm writes caches and repositories to the home folder otherwise.
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            words.push(format!("{variable}={}", self.dir().join("helm").display()));
        }
        words.push(layout::tool("helm")?.display().to_string());
        words.extend(["--kubeconfig".to_owned(), self.kubeconfig().display().to_string()]);
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        command::run(&words).await
    }

    /// Adds a host with addresses of the LAN (10.244.100.0 and up) or the internet (198.51.100.2 and up); its default route
    /// and resolver are those of the first address's segment.
    pub async fn add_host(&self, host: &str, addresses: &[impl Into<IpAddr> + Copy]) -> Result<(), Error> {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| (*address).into()).collect();
        network::add_host(&self.layout, host, &addresses).await
    }

    /// Where a host's processes run; `None`: the middle namespace.
    pub fn place(&self, host: Option<&str>) -> Place {
        Place {
            network: Some(network::namespace_file(&self.layout, host)),
            mounts: None,
            resolv_conf: Some(network::resolv_conf(&self.layout, host)),
        }
    }

    /// File of a host's network namespace; `None`: the middle one.
    pub fn namespace_file(&self, host: Option<&str>) -> PathBuf {
        network::namespace_file(&self.layout, host)
    }

    /// Starts a process on a host; it ends with the lab. Output goes to [`Lab::log`].
    pub fn spawn_in(
        &self,
        host: Option<&str>,
        process: &str,
        command: &[&str],
        environment: &BTreeMap<String, String>,
    ) -> Result<Record, Error> {
        let words: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        process::start(&self.layout, process, &self.place(host), &words, environment)
    }

    /// Starts the program that has the subcommands on a host.
    pub fn spawn_testkit(&self, host: Option<&str>, process: &str, arguments: &[&str]) -> Result<Record, Error> {
        let program = layout::binary("testkit")?.display().to_string();
        let mut words = vec![program.as_str()];
        words.extend_from_slice(arguments);
        self.spawn_in(host, process, &words, &BTreeMap::new())
    }

    /// Runs a command on a host to its end, whatever its exit status.
    pub async fn exec_in(&self, host: Option<&str>, command: &[&str]) -> Result<Output, Error> {
        let mut words = self.place(host).prefix();
        words.extend(command.iter().map(|word| (*word).to_owned()));
        command::output(&words, None).await
    }

    /// All processes that were started, and whether they still run.
    pub fn processes(&self) -> Result<Vec<(Record, bool)>, Error> {
        let records = process::records(&self.layout)?;
        Ok(records
            .into_iter()
            .map(|record| (record.clone(), record.alive()))
            .collect())
    }

    /// Waits until a TCP port of the lab accepts connections, as seen from the middle namespace; an error at once when
    /// `process` has ended.
    pub async fn wait_for_port(&self, process: &str, address: impl Into<IpAddr>, port: u16) -> Result<(), Error> {
        let address = address.into();
        let target = format!("/dev/tcp/{address}/{port}");
        let script = format!("exec 3<>{target}");
        wait_until(
            &format!("{process} at {address}:{port}"),
            Duration::from_secs(30),
            async || {
                if process::find(&self.layout, process)?.is_none() {
                    return Err(format!("the process ended: {}", self.tail(process)).into());
                }
                Ok(self
                    .exec_in(None, &["timeout", "2", "bash", "-c", &script])
                    .await?
                    .success)
            },
        )
        .await
    }

    /// The last lines of a process's log, for error messages.
    pub fn tail(&self, process: &str) -> String {
        let path = self.log(process);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last: Vec<&str> = lines.iter().rev().take(5).rev().copied().collect();
        let last = last.join("\n");
        format!("{last}\n({})", path.display())
    }

    /// Runs `work` on threads of this process that live in the lab's middle network namespace and ask the lab's DNS: its
    /// sockets, and programs it starts, are inside the lab.
    pub async fn inside<T, W>(&self, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: AsyncFnOnce() -> Result<T, Error> + Send + 'static,
    {
        let place = self.place(None);
        let (tell, told) = tokio::sync::oneshot::channel();
        // Namespaces belong to threads and are inherited by the threads that they start: the runtime's workers.
        std::thread::Builder::new().name("lab".to_owned()).spawn(move || {
            let outcome = enter(&place).and_then(|()| {
                let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
                runtime.block_on(work())
            });
            let _ = tell.send(outcome);
        })?;
        told.await.map_err(|_| "the work inside the lab panicked")?
    }
}

/// Moves the calling thread.
fn enter(place: &Place) -> Result<(), Error> {
    if let Some(network) = &place.network {
        let file = fs::File::open(network).map_err(|error| format!("{}: {error}", network.display()))?;
        setns(&file, CloneFlags::CLONE_NEWNET)?;
    }
    if let Some(resolv_conf) = &place.resolv_conf {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
        mount(Some(resolv_conf), "/etc/resolv.conf", none, MsFlags::MS_BIND, none)?;
    }
    Ok(())
}

pub(super) fn require_root() -> Result<(), Error> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err("a lab needs root: it makes network namespaces, mounts and cgroups".into())
    }
}

/// Held while a lab is started or removed. The name vanishes with the process: nothing stays behind.
pub(super) fn lock(lab: &Layout) -> Result<UnixListener, Error> {
    let address = SocketAddr::from_abstract_name(format!("{}-lock", lab.tag()))?;
    UnixListener::bind_addr(&address).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => format!(
            "the lab {} is just being started or removed by another process",
            lab.name()
        )
        .into(),
        _ => error.into(),
    })
}

/// Refuses a name that a lab of another folder uses; adopts it when that lab is dead.
pub(super) async fn claim(lab: &Layout) -> Result<(), Error> {
    let Ok(owner) = fs::read_to_string(lab.owner_file()) else {
        return Ok(());
    };
    if Path::new(&owner) == lab.dir() {
        return Ok(());
    }
    let other = Layout::new(lab.name(), Some(Path::new(&owner)))?;
    if !runs(&other).await? {
        eprintln!("removing the remains of the lab {} in {owner}", lab.name());
        return teardown::remove(&other, None).await;
    }
    Err(format!(
        "a lab named {name} is running with its folder in {owner}: choose another name, or remove it with \
         `testkit lab down --name {name} --dir {owner}`",
        name = lab.name()
    )
    .into())
}

/// Whether anything of a lab is alive.
async fn runs(lab: &Layout) -> Result<bool, Error> {
    if process::records(lab)?.iter().any(Record::alive) || !node::pod_processes(lab)?.is_empty() {
        return Ok(true);
    }
    for namespace in network::namespaces(lab).await? {
        if !process::inside(&Path::new("/run/netns").join(namespace))?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
