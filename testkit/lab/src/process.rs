//! Long-running processes of a lab: started into their own session with a log file, recorded by pid and start time, and
//! ended only when that record still names the same process.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::sys::wait::{self, WaitPidFlag};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use testkit_base::Error;

/// A process that was started for a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Name in the lab; also of its log.
    pub name: String,
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot (field 22 of `/proc/PID/stat`): pids are used again, the pair is not.
    pub started: u64,
    /// Boot in which that clock ran.
    pub boot: String,
    /// Command line, for people.
    pub command: Vec<String>,
}

/// Which namespaces a process is started in.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// Network namespace, as a file.
    pub network: Option<PathBuf>,
    /// Mount namespace of a running process, as a file.
    pub mounts: Option<PathBuf>,
    /// Seen as `/etc/resolv.conf`, through a mount namespace of its own.
    pub resolv_conf: Option<PathBuf>,
}

impl Place {
    /// The words that, put before a command, run it in this place. The process keeps its pid through all of them.
    pub fn prefix(&self) -> Vec<String> {
        let mut words = Vec::new();
        if self.network.is_some() || self.mounts.is_some() {
            // Not `ip netns exec`: it mounts /sys anew and hides the cgroups.
            words.push("nsenter".to_owned());
            words.extend(self.network.iter().map(|path| format!("--net={}", path.display())));
            words.extend(self.mounts.iter().map(|path| format!("--mount={}", path.display())));
            words.push("--".to_owned());
        }
        if let Some(file) = &self.resolv_conf {
            words.extend(["unshare", "--mount", "--propagation", "slave", "sh", "-ec"].map(str::to_owned));
            words.push("mount --bind \"$0\" /etc/resolv.conf; exec \"$@\"".to_owned());
            words.push(file.display().to_string());
        }
        words
    }
}

/// Starts a process; standard output and error are appended to its log.
pub fn start(
    lab: &Layout,
    name: &str,
    place: &Place,
    command: &[String],
    environment: &BTreeMap<String, String>,
) -> Result<Record, Error> {
    if let Some(running) = find(lab, name)? {
        return Err(format!(
            "the process {name} of lab {} is already running as {}",
            lab.name(),
            running.pid
        )
        .into());
    }
    fs::create_dir_all(lab.logs_dir())?;
    fs::create_dir_all(lab.processes_dir())?;
    let path = lab.log(name);
    let log = fs::OpenOptions::new().create(true).append(true).open(&path)?;
    let errors = log.as_fd().try_clone_to_owned()?;
    // A session of its own: an interrupt typed at a terminal ends the caller, not the lab.
    let child = Command::new("setsid")
        .args(place.prefix())
        .args(command)
        .envs(environment)
        .current_dir(lab.dir())
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("cannot start {name}: {error}"))?;
    let pid = i32::try_from(child.id())?;
    let started = stat(pid)
        .ok_or_else(|| format!("{name} ended at once: see {}", path.display()))?
        .1;
    let record = Record {
        name: name.to_owned(),
        pid,
        started,
        boot: boot()?,
        command: command.to_vec(),
    };
    let file = lab.processes_dir().join(format!("{name}.json"));
    fs::write(file, serde_json::to_vec_pretty(&record)?)?;
    Ok(record)
}

impl Record {
    /// Whether this very process is still running.
    pub fn alive(&self) -> bool {
        // Takes the exit status if it is a child of ours; otherwise fails without effect.
        let _ = wait::waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
        boot().is_ok_and(|boot| boot == self.boot)
            && stat(self.pid).is_some_and(|(state, started)| started == self.started && state != 'Z')
    }

    /// Sends a signal if this very process is still running; says whether it was.
    pub fn signal(&self, signal: Signal) -> bool {
        self.alive() && signal::kill(Pid::from_raw(self.pid), signal).is_ok()
    }
}

/// The record of a running process.
pub fn find(lab: &Layout, name: &str) -> Result<Option<Record>, Error> {
    Ok(records(lab)?
        .into_iter()
        .find(|record| record.name == name && record.alive()))
}

/// All records, of running and of ended processes.
pub fn records(lab: &Layout) -> Result<Vec<Record>, Error> {
    let mut records = Vec::new();
    let entries = match fs::read_dir(lab.processes_dir()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(records),
        Err(error) => return Err(error.into()),
    };
    for entry in entries {
        // A file cut short by a crash names no process; the namespaces still find it.
        if let Ok(record) = serde_json::from_slice(&fs::read(entry?.path())?) {
            records.push(record);
        }
    }
    records.sort_by(|a: &Record, b: &Record| a.name.cmp(&b.name));
    Ok(records)
}

/// Asks a process to end (SIGTERM), insists after `grace` (SIGKILL), and forgets it. Not running is fine.
pub async fn stop(lab: &Layout, name: &str, grace: Duration) -> Result<(), Error> {
    if let Some(record) = find(lab, name)? {
        end(&record, grace).await?;
    }
    match fs::remove_file(lab.processes_dir().join(format!("{name}.json"))) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// SIGTERM, after `grace` SIGKILL; returns when the process is gone.
pub async fn end(record: &Record, grace: Duration) -> Result<(), Error> {
    record.signal(Signal::SIGTERM);
    if gone(record, grace).await {
        return Ok(());
    }
    record.signal(Signal::SIGKILL);
    if gone(record, Duration::from_secs(10)).await {
        return Ok(());
    }
    Err(format!(
        "process {} ({}) does not end, not even by SIGKILL",
        record.pid, record.name
    )
    .into())
}

async fn gone(record: &Record, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while record.alive() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

/// Processes whose network namespace is the one behind `namespace` (a file), by the kernel's own account.
pub fn inside(namespace: &Path) -> Result<Vec<Record>, Error> {
    use std::os::unix::fs::MetadataExt;
    let Ok(wanted) = fs::metadata(namespace) else {
        return Ok(Vec::new());
    };
    let boot = boot()?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(have) = fs::metadata(entry.path().join("ns/net")) else {
            continue;
        };
        if (have.dev(), have.ino()) != (wanted.dev(), wanted.ino()) {
            continue;
        }
        found.extend(adopt(pid, &boot));
    }
    Ok(found)
}

/// A record of a process that is running now.
pub fn adopt(pid: i32, boot: &str) -> Option<Record> {
    let (_, started) = stat(pid)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned();
    Some(Record {
        name,
        pid,
        started,
        boot: boot.to_owned(),
        command: Vec::new(),
    })
}

/// Identity of the running kernel.
pub fn boot() -> Result<String, Error> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// State and start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold spaces and parentheses itself: count from its end.
    let mut fields = line.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn lab() -> Layout {
        let dir = std::env::temp_dir().join(format!("xf-process-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir_all(&dir).unwrap();
        Layout::new("unit", Some(&dir)).unwrap()
    }

    fn sleeper(lab: &Layout) -> Record {
        let command = ["sleep", "60"].map(str::to_owned);
        start(lab, "sleeper", &Place::default(), &command, &BTreeMap::new()).unwrap()
    }

    #[tokio::test]
    async fn a_process_is_recorded_and_ended_by_its_record() {
        let lab = lab();
        let record = sleeper(&lab);
        assert!(record.alive());
        assert_eq!(find(&lab, "sleeper").unwrap(), Some(record.clone()));
        stop(&lab, "sleeper", Duration::from_secs(5)).await.unwrap();
        assert!(!record.alive());
        assert_eq!(records(&lab).unwrap(), []);
        fs::remove_dir_all(lab.dir()).unwrap();
    }

    #[tokio::test]
    async fn a_pid_that_was_given_to_another_process_is_not_signalled() {
        let lab = lab();
        let record = sleeper(&lab);
        let stale = Record {
            started: record.started - 1,
            ..record.clone()
        };
        assert!(!stale.signal(Signal::SIGKILL));
        assert!(record.alive());
        let other_boot = Record {
            boot: "another".to_owned(),
            ..record.clone()
        };
        assert!(!other_boot.signal(Signal::SIGKILL));
        stop(&lab, "sleeper", Duration::from_secs(5)).await.unwrap();
        fs::remove_dir_all(lab.dir()).unwrap();
    }
}
