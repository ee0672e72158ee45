//! An edge that is a process of its own, so that its memory and its time can be read.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{COMPONENT, Folder, PATIENCE, Peer, Router};

/// The process and its folder; both go when it is dropped.
pub struct Process {
    child: Child,
    pub folder: Folder,
    pub s2s: SocketAddr,
    pub admin: SocketAddr,
}

impl Process {
    /// An edge for coluc.com with a static route to the peer `vngtp.lab`; `more` is further
    /// configuration, YAML at the top level.
    pub fn start(peer: &Peer, router: &Router, more: &str) -> Self {
        Self::start_as(&[], Stdio::null(), &[peer], router, more)
    }

    /// The same by way of another command, which gets the edge's command line at its end.
    #[allow(dead_code, reason = "used by the siege")]
    pub fn start_under(by: &[&str], peer: &Peer, router: &Router, more: &str) -> Self {
        Self::start_as(by, Stdio::null(), &[peer], router, more)
    }

    /// An edge for coluc.com with static routes to all these peers.
    pub fn start_among(peers: &[&Peer], router: &Router) -> Self {
        Self::start_as(&[], Stdio::null(), peers, router, "")
    }

    /// The same with its log somewhere else.
    pub fn start_writing(peer: &Peer, router: &Router, more: &str, log: Stdio) -> Self {
        Self::start_as(&[], log, &[peer], router, more)
    }

    fn start_as(by: &[&str], log: Stdio, peers: &[&Peer], router: &Router, more: &str) -> Self {
        let (s2s, admin) = (free(), free());
        let ways = peers.iter().map(|peer| {
            let way = peer.listener.local_addr().unwrap();
            let (host, port) = (way.ip(), way.port());
            format!("{{domain: {}, route: [{{host: '{host}', port: {port}}}]}}", peer.domain)
        });
        let ways = ways.collect::<Vec<_>>().join(", ");
        let node = router.listener.local_addr().unwrap();
        let folder = Folder::of_edge(&format!(
            "\
listen: {{s2s: '{s2s}', admin: '{admin}'}}
partners: [{ways}]
routers:
- name: main
  componentIds: [{COMPONENT}]
  secretFile: HERE/router
  endpoints: [{{name: node0, address: '{node}'}}]
{more}
"
        ));
        // What is shipped is another build: its latency is measured with that one.
        let binary = std::env::var("EDGE_TEST_BINARY");
        let binary = binary.as_deref();
        let binary = binary.unwrap_or(env!("CARGO_BIN_EXE_xmpp-federation-edge"));
        let line = [by, &[binary]].concat();
        let child = Command::new(line[0])
            .args(&line[1..])
            .arg("--config")
            .arg(folder.path("edge.yaml"))
            .stdout(log)
            .spawn()
            .unwrap();
        Self {
            child,
            folder,
            s2s,
            admin,
        }
    }

    /// What nobody has read yet, if its log is a pipe.
    pub fn log(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Asks it to stop, and says whether it did within that time.
    pub fn stops_within(&mut self, time: Duration) -> bool {
        let id = self.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status();
        assert!(asked.unwrap().success());
        let began = Instant::now();
        while began.elapsed() < time {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// The value of a metric, by its name and labels.
    pub async fn metric(&self, line: &str) -> u64 {
        let text = timeout(PATIENCE, self.get("/metrics")).await;
        let text = text.expect("the admin port does not answer");
        let value = text.lines().find_map(|found| found.strip_prefix(line));
        value.map_or(0, |value| value.trim().parse().unwrap())
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the admin port answers, without the header.
    pub async fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n");
        let mut stream = loop {
            // It may still be starting.
            match TcpStream::connect(self.admin).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// The most memory that it ever had, in kilobytes.
    pub fn most(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// The memory that it has now, in kilobytes.
    pub fn resident(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The time that it has computed.
    pub fn busy(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        // Behind the name, which stands in brackets: utime and stime, in hundredths of a second.
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        let ticks = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of the loopback that nobody listens on; one that no other test uses, so that it stays
/// free.
pub fn free() -> SocketAddr {
    static GIVEN: AtomicUsize = AtomicUsize::new(0);
    let [.., given] = GIVEN.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let [.., high, low] = std::process::id().to_be_bytes();
    let listener = std::net::TcpListener::bind(SocketAddr::from(([127, 64 + given % 64, high, low], 0))).unwrap();
    listener.local_addr().unwrap()
}

/// A running program and its log.
pub struct Running {
    pub child: Child,
    log: BufReader<ChildStdout>,
}

impl Running {
    /// With the line that says so.
    pub fn start(command: &mut Command) -> (Self, String) {
        Self::start_until(command, "the edge starts")
    }

    /// With the first line that has this text.
    pub fn start_until(command: &mut Command, with: &str) -> (Self, String) {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stdout.take().unwrap());
        let mut running = Self { child, log };
        let line = running.line(with);
        (running, line)
    }

    /// The log up to and including a line with this text.
    pub fn lines_until(&mut self, with: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.log.read_line(&mut line).unwrap();
            assert!(read > 0, "no line with {with:?} after {lines:?}");
            lines.push(line);
            if lines.last().is_some_and(|line| line.contains(with)) {
                return lines;
            }
        }
    }

    /// The next log line with this text.
    pub fn line(&mut self, with: &str) -> String {
        self.lines_until(with).pop().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
