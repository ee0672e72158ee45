//! Connections that are tried from inside somebody's network, to see which of them policies let through.

use std::path::PathBuf;

use futures::future::join_all;

use super::pod::Pod;
use super::report::ensure;
use testkit_base::Error;
use testkit_lab::command;

/// Somebody who connects: a name, and the file of the network namespace.
#[derive(Clone, Debug)]
pub struct Prober {
    name: String,
    network: PathBuf,
}

impl Prober {
    /// A running pod.
    pub fn pod(name: &str, pod: &Pod) -> Result<Self, Error> {
        Ok(Self {
            name: name.to_owned(),
            network: pod.process()?.join("ns/net"),
        })
    }

    /// A host.
    pub fn host(name: &str, network: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            network,
        }
    }

    /// A TCP connection.
    pub fn tcp(&self, passes: bool, to: &str, address: &str, port: u16) -> Probe {
        self.probe(
            passes,
            &format!("{to} {address}:{port}"),
            format!("exec 3<>/dev/tcp/{address}/{port}"),
        )
    }

    /// A question to DNS by UDP, and its answer.
    pub fn dns(&self, passes: bool, to: &str, address: &str, port: u16) -> Probe {
        // The SOA of coluc.com, with an id that comes back.
        let question = r"\x58\x46\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05coluc\x03com\x00\x00\x06\x00\x01";
        let script = format!(
            "exec 3<>/dev/udp/{address}/{port}; printf '{question}' >&3; [ \"$(head -c 2 <&3 | tr -d '\\0')\" = XF ]"
        );
        self.probe(passes, &format!("{to} {address}:{port} (UDP)"), script)
    }

    fn probe(&self, passes: bool, to: &str, script: String) -> Probe {
        Probe {
            what: format!("{} → {to}", self.name),
            network: self.network.clone(),
            script,
            passes,
        }
    }
}

/// One connection, and whether it has to pass.
#[derive(Clone, Debug)]
pub struct Probe {
    what: String,
    network: PathBuf,
    script: String,
    passes: bool,
}

impl Probe {
    async fn passed(&self) -> Result<bool, Error> {
        let network = format!("--net={}", self.network.display());
        let words = ["nsenter", &network, "timeout", "2", "bash", "-c", &self.script];
        Ok(command::output(&words, None).await?.success)
    }
}

/// An error that names every connection that is not as it has to be; `all_pass`: none may be refused.
pub async fn check(probes: &[Probe], all_pass: bool) -> Result<(), Error> {
    let mut wrong = Vec::new();
    let outcomes = join_all(probes.iter().map(Probe::passed)).await;
    for (probe, passed) in probes.iter().zip(outcomes) {
        if passed? != (probe.passes || all_pass) {
            let verb = if probe.passes || all_pass {
                "is refused"
            } else {
                "passes"
            };
            wrong.push(format!("{} {verb}", probe.what));
        }
    }
    ensure(wrong.is_empty(), || wrong.join("; "))
}

/// The table, as people read it.
pub fn table(probes: &[Probe]) -> String {
    let line = |probe: &Probe| format!("{:<7} {}", if probe.passes { "passes" } else { "refused" }, probe.what);
    probes.iter().map(line).collect::<Vec<_>>().join("\n")
}
