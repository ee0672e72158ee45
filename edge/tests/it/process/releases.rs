//! The binary with a file of a later release.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use xmpp_federation_core::Release;
use xmpp_federation_core::edge_status::EdgeStatus;

use crate::support::process::{Running, free};
use crate::support::{COMPONENT, Folder, PATIENCE, has};

const EDGE: &str = env!("CARGO_BIN_EXE_xmpp-federation-edge");
const RESTRICTED: &str = "writtenBy: 99.0.0\nrequires: [peer-quarantine]\nquarantine: [vngtp.lab]\n";
const IGNORED: &str = "writtenBy: 99.0.0\ngreeting: hello\n";
const REFUSED: &str = "the configuration is refused; the edge is not ready";

struct Edge {
    folder: Folder,
    s2s: SocketAddr,
    admin: SocketAddr,
}

impl Edge {
    fn new(more: &str) -> Self {
        let (s2s, admin) = (free(), free());
        let folder = Folder::of_edge("");
        let edge = Self { folder, s2s, admin };
        edge.configure(more);
        edge
    }

    fn configure(&self, more: &str) {
        let (s2s, admin) = (self.s2s, self.admin);
        self.folder.configure(&format!(
            "\
listen: {{s2s: '{s2s}', admin: '{admin}', control: HERE/control.sock}}
routers:
- name: main
  componentIds: [{COMPONENT}]
  secretFile: HERE/router
  endpoints: []
{more}"
        ));
    }

    fn start(&self, until: &str) -> (Running, String) {
        let mut command = Command::new(EDGE);
        Running::start_until(command.arg("--config").arg(self.folder.path("edge.yaml")), until)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let config = self.folder.path("edge.yaml");
        let mut command = Command::new(EDGE);
        command.args(arguments).arg("--config").arg(config).output().unwrap()
    }

    /// The first line of the answer, and its body.
    fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect_timeout(&self.admin, PATIENCE).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    fn status(&self) -> EdgeStatus {
        serde_json::from_str(&self.get("/status").1).unwrap()
    }
}

fn terminate(mut running: Running) {
    let id = running.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = running.child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(0));
            return;
        }
        assert!(Instant::now() < deadline, "the edge does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What is said of the restriction, with both versions and the remedy.
fn sentence() -> [String; 3] {
    [
        "the operator 99.0.0 wrote the file with peer-quarantine".to_owned(),
        format!("this edge {} does not know", Release::own()),
        "set the edge's image (spec.edge.image) to that version or a later one".to_owned(),
    ]
}

#[test]
fn an_edge_that_starts_with_an_unknown_restriction_waits_unready_and_starts_by_itself() {
    let edge = Edge::new(RESTRICTED);
    let (mut running, line) = edge.start(REFUSED);
    let says = sentence();
    has(&line, says.each_ref().map(String::as_str));

    assert_eq!(edge.get("/livez"), ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
    let (code, body) = edge.get("/readyz");
    assert_eq!(code, "HTTP/1.1 503 Service Unavailable");
    has(&body, says.each_ref().map(String::as_str));
    let (_, metrics) = edge.get("/metrics");
    has(metrics, ["\nxmpp_edge_configuration_refused 1\n"]);
    let status = edge.status();
    assert_eq!(status.version, Some(Release::own().to_string()));
    assert_eq!((status.config_hash.as_str(), status.written_by), ("", None));
    let rejected = status.rejected.unwrap();
    has(&rejected.reason, says.each_ref().map(String::as_str));
    assert_eq!(rejected.config_hash.len(), 64);
    let refused = TcpStream::connect_timeout(&edge.s2s, PATIENCE).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "nothing is served");

    // Another wrong file is waited for just as well.
    edge.configure("privacy: {mode: Perhaps}\n");
    has(running.line(REFUSED), ["unknown variant `Perhaps`"]);
    edge.configure(IGNORED);
    running.line("the edge starts");
    assert_eq!(edge.get("/readyz").0, "HTTP/1.1 200 OK");
    TcpStream::connect_timeout(&edge.s2s, PATIENCE).unwrap();
    let status = edge.status();
    assert_eq!(status.written_by.as_deref(), Some("99.0.0"));
    assert_eq!(status.ignored_fields, ["greeting"]);
    assert_eq!(status.rejected, None);
    terminate(running);
}

#[test]
fn an_edge_waits_for_a_release_that_can_read_the_head_and_finds_the_files() {
    for (more, says) in [
        ("writtenBy: v99\n", "writtenBy: this edge"),
        ("requires: [{name: posture}]\n", "requires: this edge"),
        (IGNORED, "router cannot be read"),
    ] {
        let edge = Edge::new(more);
        std::fs::remove_file(edge.folder.path("router")).unwrap();
        let (running, line) = edge.start(REFUSED);
        has(&line, [says, "set the edge's image (spec.edge.image)"]);
        assert_eq!(edge.get("/readyz").0, "HTTP/1.1 503 Service Unavailable");
        terminate(running);
    }
}

#[test]
fn an_edge_that_waits_ends_when_it_is_told_to() {
    let edge = Edge::new(RESTRICTED);
    let (running, _) = edge.start(REFUSED);
    let id = running.child.id().to_string();
    // Asks for nothing that it does not do anyway.
    assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    assert_eq!(edge.get("/livez").0, "HTTP/1.1 200 OK");
    terminate(running);
}

#[test]
fn a_running_edge_goes_on_with_the_old_file_and_is_asked_through_its_control_socket() {
    let edge = Edge::new(IGNORED);
    let (mut running, line) = edge.start("ignores fields of it that it does not know: greeting");
    has(line, ["operator 99.0.0 wrote the configuration", "WARN"]);
    running.line("the edge starts");
    let before = edge.status();
    edge.configure(RESTRICTED);
    let says = sentence();
    let line = running.line("the new configuration is refused; the one in force stays");
    has(&line, says.each_ref().map(String::as_str));
    assert_eq!(edge.get("/readyz").0, "HTTP/1.1 200 OK");
    let after = edge.status();
    assert_eq!(after.config_hash, before.config_hash);
    has(after.rejected.unwrap().reason, says.each_ref().map(String::as_str));
    let shown = edge.run(&["ctl", "status"]);
    assert!(shown.status.success(), "{shown:?}");
    has(
        String::from_utf8(shown.stdout).unwrap(),
        ["\"rejected\"", "\"writtenBy\": \"99.0.0\""],
    );
    terminate(running);
}

#[test]
fn a_check_is_strict_whoever_wrote_the_file() {
    for (more, says) in [
        (IGNORED, "unknown field `greeting`"),
        (RESTRICTED, "does not know and would not enforce"),
    ] {
        let edge = Edge::new(more);
        let checked = edge.run(&["--check"]);
        assert_eq!(checked.status.code(), Some(2), "{checked:?}");
        has(String::from_utf8(checked.stderr).unwrap(), [says]);
    }
}

#[test]
fn a_wrong_file_of_nobody_or_of_this_release_ends_the_start_as_ever() {
    for writer in [String::new(), format!("writtenBy: {}\n", Release::own())] {
        let edge = Edge::new(&format!("{writer}greeting: hello\n"));
        let ended = edge.run(&[]);
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        has(String::from_utf8(ended.stderr).unwrap(), ["unknown field `greeting`"]);
    }
}
