//! The servers under test: their configurations, processes, and what those use of the machine.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::component::{self, SECRET};
use super::conn::Conn;
use super::place::{DNS, Place};
use super::usage::Usage;
use testkit_base::Error;

/// The component id of an edge.
const COMPONENT_ID: &str = "cm-2_s2scp-1.bench-a-lab";
/// Erlang and Lua take seconds to start on a busy machine.
const START: Duration = Duration::from_mins(1);

/// What stands in the place between component and peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// An edge, by its binary.
    Edge(PathBuf),
    /// A relay with TLS and without any check: the floor.
    Relay,
    /// Debian's Prosody.
    Prosody,
    /// Debian's ejabberd.
    Ejabberd,
}

/// A server, and the name of its column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the column.
    pub name: String,
    /// What it is.
    pub kind: Kind,
}

impl std::str::FromStr for Candidate {
    type Err = String;

    /// `prosody`, `ejabberd`, `relay`, `NAME=BINARY` for an edge, or a binary alone.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, kind) = match (text, text.split_once('=')) {
            ("prosody", _) => (text, Kind::Prosody),
            ("ejabberd", _) => (text, Kind::Ejabberd),
            ("relay", _) => (text, Kind::Relay),
            (_, Some((name, binary))) => (name, Kind::Edge(binary.into())),
            (binary, None) if binary.contains('/') => ("edge", Kind::Edge(binary.into())),
            _ => return Err("write prosody, ejabberd, relay or NAME=PATH-OF-AN-EDGE".to_owned()),
        };
        Ok(Self {
            name: name.to_owned(),
            kind,
        })
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Its folder, with configuration and log.
    dir: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts it in `dir` and gives it its component; with that link.
    pub fn start(candidate: &Candidate, place: &Place, tls: bool, dir: &Path) -> Result<(Self, Conn), Error> {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let router = TcpListener::bind(place.router)?;
        let mut command = match &candidate.kind {
            Kind::Edge(binary) => edge(&dir, binary, place, tls)?,
            Kind::Relay => relay(place, tls)?,
            Kind::Prosody => prosody(&dir, place, tls)?,
            Kind::Ejabberd => ejabberd(&dir, place, tls)?,
        };
        let log = File::create(dir.join("output.log"))?;
        let child = command
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", command.get_program().display()))?;
        let mut server = Self { child, dir };
        server.wait_for(SocketAddr::new(place.server, 5269))?;
        let link = match candidate.kind {
            Kind::Edge(_) | Kind::Relay => component::accept(&router)?,
            Kind::Prosody | Kind::Ejabberd => {
                let port = SocketAddr::new(place.server, 5347);
                server.wait_for(port)?;
                component::connect(Conn::dial(port)?, &place.hosted)?
            }
        };
        Ok((server, link))
    }

    fn wait_for(&mut self, address: SocketAddr) -> Result<(), Error> {
        let deadline = Instant::now() + START;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(self.failed(&format!("ended with {status}")));
            }
            if Instant::now() > deadline {
                return Err(self.failed(&format!("does not listen at {address}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn failed(&self, what: &str) -> Error {
        let log = fs::read_to_string(self.dir.join("output.log")).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        format!("the server of {} {what}: {}", self.dir.display(), last.join("\n")).into()
    }

    /// What it uses of the machine.
    pub fn usage(&self) -> Usage {
        Usage(self.child.id())
    }
}

/// A certificate of the server's own, P-256 and self-signed: dialback decides.
fn certificate(dir: &Path, names: &[String]) -> Result<(PathBuf, PathBuf), Error> {
    let (certificate, key) = (dir.join("server.crt"), dir.join("server.key"));
    let mut params = rcgen::CertificateParams::new(names.to_vec())?;
    // ejabberd refuses dates that do not fit into the shorter of the two forms.
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(2044, 1, 1);
    let pair = rcgen::KeyPair::generate()?;
    fs::write(&certificate, params.self_signed(&pair)?.pem())?;
    fs::write(&key, pair.serialize_pem())?;
    Ok((certificate, key))
}

fn edge(dir: &Path, binary: &Path, place: &Place, tls: bool) -> Result<Command, Error> {
    let (certificate, key) = certificate(dir, std::slice::from_ref(&place.hosted))?;
    let (dialback, router) = (dir.join("dialback"), dir.join("router"));
    fs::write(&dialback, "0123456789abcdef0123456789abcdef")?;
    fs::write(&router, SECRET)?;
    let mode = if tls { "Required" } else { "Disabled" };
    // Everybody here has one address, which a limit per address would take for an attack.
    let config = format!(
        "domains: [{hosted}]\n\
         listen: {{s2s: '{server}:5269', admin: '{server}:8080'}}\n\
         dialback: {{sign: {dialback}}}\n\
         tls: {{mode: {mode}, certificates: [{{certificateFile: {certificate}, privateKeyFile: {key}}}]}}\n\
         privacy: {{mode: AllowAll}}\n\
         dns: {{resolvers: ['{DNS}'], allowPrivateTargets: ['198.51.100.0/24']}}\n\
         routers: [{{name: bench, componentIds: [{COMPONENT_ID}], secretFile: {router}, \
         endpoints: [{{name: node, address: '{address}'}}]}}]\n\
         limits: {{maxConnectionsPerAddress: 20000, maxConnections: 20000, maxVerifications: 2000}}\n\
         log: {{level: warn}}\n\
         drainDelay: 0s\n",
        hosted = place.hosted,
        server = place.server,
        dialback = dialback.display(),
        certificate = certificate.display(),
        key = key.display(),
        router = router.display(),
        address = place.router,
    );
    let file = dir.join("edge.yaml");
    fs::write(&file, config)?;
    let mut command = Command::new(binary.canonicalize().map_err(|error| {
        format!(
            "there is no edge at {}: {error}; build it with cargo build --release",
            binary.display()
        )
    })?);
    command.arg("--config").arg(file);
    Ok(command)
}

fn relay(place: &Place, tls: bool) -> Result<Command, Error> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("bench-relay")
        .args(["--listen", &format!("{}:5269", place.server)])
        .args(["--router", &place.router.to_string()])
        .args(["--peer", &format!("{}:5269", place.peer)])
        .args(["--hosted", &place.hosted])
        .args(["--zone", &place.zone]);
    if !tls {
        command.arg("--clear");
    }
    Ok(command)
}

/// Debian's defaults, apart from what puts it here.
fn prosody(dir: &Path, place: &Place, tls: bool) -> Result<Command, Error> {
    let domain = place.hosted.trim_start_matches("bench.");
    let (certificate, key) = certificate(dir, &[domain.to_owned(), place.hosted.clone()])?;
    let (address, hosted) = (place.server, &place.hosted);
    let (dir_text, certificate, key) = (dir.display(), certificate.display(), key.display());
    let tls_module = if tls { "\"tls\", " } else { "" };
    let config = format!(
        r#"run_as_root = true
daemonize = false
pidfile = "{dir_text}/prosody.pid"
data_path = "{dir_text}/data"
admin_socket = "{dir_text}/prosody.sock"
log = {{ {{ levels = {{ min = "warn" }}, to = "file", filename = "{dir_text}/prosody.log" }} }}
interfaces = {{ "{address}" }}
local_interfaces = {{ "{address}" }}
component_interfaces = {{ "{address}" }}
component_ports = {{ 5347 }}
s2s_ports = {{ 5269 }}
use_ipv6 = false
unbound = {{ resolvconf = false; hoststxt = false; forward = "{DNS}"; options = {{ ["do-not-query-localhost:"] = "no"; ["outgoing-interface:"] = "{address}" }} }}
modules_enabled = {{ "dialback", "saslauth", {tls_module}"disco", "ping", "admin_shell", "admin_socket" }}
modules_disabled = {{ "offline", "s2s_bidi" }}
s2s_require_encryption = {tls}
s2s_secure_auth = false
authentication = "internal_plain"
storage = "memory"
dialback_secret = "0123456789abcdef0123456789abcdef"
ssl = {{ key = "{key}"; certificate = "{certificate}"; cafile = "{certificate}"; capath = "/nonexistent" }}
VirtualHost "{domain}"
Component "{hosted}"
  component_secret = "{SECRET}"
"#
    );
    let file = dir.join("prosody.cfg.lua");
    fs::write(&file, config)?;
    let mut command = Command::new("lua5.4");
    command.args(["/usr/bin/prosody", "-F", "--config"]).arg(file);
    Ok(command)
}

/// Debian's defaults, apart from what puts it here and a listen backlog of 1024 instead of 5, with which a
/// third of many connections at once would fail.
fn ejabberd(dir: &Path, place: &Place, tls: bool) -> Result<Command, Error> {
    let domain = place.hosted.trim_start_matches("bench.");
    let (certificate, key) = certificate(dir, &[domain.to_owned(), place.hosted.clone()])?;
    let both = [fs::read_to_string(certificate)?, fs::read_to_string(key)?].concat();
    fs::write(dir.join("both.pem"), both)?;
    let tls_lines = if tls {
        format!(
            "certfiles: [\"{0}/both.pem\"]\nca_file: \"{0}/server.crt\"\ns2s_use_starttls: required\n",
            dir.display()
        )
    } else {
        "s2s_use_starttls: false\n".to_owned()
    };
    let (address, hosted) = (place.server, &place.hosted);
    let config = format!(
        r#"loglevel: warning
hosts: [{domain}]
{tls_lines}outgoing_s2s_families: [ipv4]
outgoing_s2s_ipv4_address: "{address}"
s2s_timeout: 1 hour
auth_method: internal
listen:
  - {{port: 5269, ip: "{address}", backlog: 1024, module: ejabberd_s2s_in, max_stanza_size: 524288}}
  - port: 5347
    ip: "{address}"
    module: ejabberd_service
    access: all
    max_fsm_queue: 1000000
    hosts:
      {hosted}: {{password: {SECRET}}}
modules:
  mod_disco: {{}}
  mod_ping: {{}}
  mod_s2s_dialback: {{}}
"#
    );
    fs::write(dir.join("ejabberd.yml"), config)?;
    fs::write(dir.join("resolv.conf"), format!("nameserver {DNS}\n"))?;
    fs::write(
        dir.join("inetrc"),
        "{resolv_conf,\"resolv.conf\"}.\n{lookup,[file,dns]}.\n",
    )?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-ec"])
        .arg("mount --bind resolv.conf /etc/resolv.conf; exec \"$0\" \"$@\"")
        .args(["erl", "-noinput", "+K", "true", "+P", "250000"])
        .args(["-mnesia", "dir", "\"db\"", "-s", "ejabberd"])
        .env("ERL_LIBS", "/usr/lib/x86_64-linux-gnu")
        .env("EJABBERD_CONFIG_PATH", "ejabberd.yml")
        .env("EJABBERD_LOG_PATH", "ejabberd.log")
        .env("ERL_INETRC", dir.join("inetrc"))
        .env("ERL_CRASH_DUMP_BYTES", "0")
        .env("HOME", ".");
    Ok(command)
}
