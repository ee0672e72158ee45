//! The binary as it is started by Kubernetes and by hand: check, run, control, reload, stop.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::support::process::Running;
use crate::support::{COMPONENT, Folder, has};

const EDGE: &str = env!("CARGO_BIN_EXE_xmpp-federation-edge");

/// The configuration with this mode.
fn yaml(mode: &str) -> String {
    format!(
        "\
listen: {{s2s: '127.0.0.1:0', admin: '127.0.0.1:0', control: HERE/control.sock}}
privacy: {{mode: {mode}}}
routers:
- name: main
  componentIds: [{COMPONENT}]
  secretFile: HERE/router
  endpoints: []
"
    )
}

fn folder() -> Folder {
    Folder::of_edge(&yaml("AllowList"))
}

fn edge(arguments: &[&str], config: &Path) -> Output {
    Command::new(EDGE)
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap()
}

fn start(folder: &Folder) -> (Running, String) {
    Running::start(Command::new(EDGE).arg("--config").arg(folder.path("edge.yaml")))
}

fn signal(running: &Running, name: &str) {
    let id = running.child.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

fn end(mut running: Running) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Some(status) = running.child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the edge does not end");
}

#[test]
fn check_exits_with_the_line_and_field_of_what_is_wrong() {
    let folder = folder();
    let good = edge(&["--check"], &folder.path("edge.yaml"));
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    folder.configure(&yaml("Sometimes"));
    for arguments in [&["--check"][..], &[]] {
        let bad = edge(arguments, &folder.path("edge.yaml"));
        assert_eq!(bad.status.code(), Some(2));
        let error = String::from_utf8(bad.stderr).unwrap();
        has(&error, ["line 7: privacy.mode: unknown variant `Sometimes`"]);
    }
    let absent = edge(&["--check"], Path::new("/nowhere/edge.yaml"));
    assert!(
        String::from_utf8(absent.stderr)
            .unwrap()
            .contains("there is no such file")
    );
}

#[test]
fn a_running_edge_is_controlled_reloaded_and_stopped() {
    let folder = folder();
    let (mut running, first) = start(&folder);
    assert!(
        first.starts_with('{') && first.contains("\"config_hash\":\""),
        "{first}"
    );

    let status = edge(&["ctl", "status"], &folder.path("edge.yaml"));
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("\"draining\": false"), "{status}");
    let log = edge(&["ctl", "log", "info,edge::reload=debug"], &folder.path("edge.yaml"));
    assert!(log.status.success(), "{log:?}");
    let wrong = edge(&["ctl", "log", "loud"], &folder.path("edge.yaml"));
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("is not a log level"));
    let close = edge(&["ctl", "close", "7"], &folder.path("edge.yaml"));
    assert!(
        String::from_utf8(close.stderr)
            .unwrap()
            .contains("there is no stream 7")
    );

    folder.configure(&yaml("AllowAll"));
    running.line("privacy.mode - changed from: AllowList to: AllowAll");
    folder.configure(&yaml("Sometimes"));
    running.line("the new configuration is refused; the one in force stays");
    // The socket is found by --socket while the file is bad.
    let socket = folder.path("control.sock");
    let status = Command::new(EDGE)
        .args(["ctl", "--socket", socket.to_str().unwrap(), "status"])
        .output()
        .unwrap();
    assert!(String::from_utf8(status.stdout).unwrap().contains("\"rejected\""));

    signal(&running, "-TERM");
    assert!(running.line("\"message\":\"stopped\"").contains("INFO"));
    assert_eq!(end(running), Some(0));
}

fn told(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn check_names_what_troubles_people_most() {
    let folder = folder();
    let yaml = yaml("AllowList");
    let routed = "partners: [{domain: coluc.com, route: [{host: 192.0.2.1}]}]\n";
    folder.configure(&format!("{yaml}{routed}"));
    let output = edge(&["--check"], &folder.path("edge.yaml"));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let (_, error) = told(&output);
    has(
        &error,
        ["partners[0].domain: coluc.com is hosted here; partners are remote domains"],
    );

    folder.configure(&yaml);
    let other = rcgen::generate_simple_self_signed(vec!["coluc.com".to_owned()]).unwrap();
    let good = std::fs::read_to_string(folder.path("tls.key")).unwrap();
    folder.write("tls.key", &other.signing_key.serialize_pem());
    let output = edge(&["--check"], &folder.path("edge.yaml"));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    has(&told(&output).1, ["tls.certificates[0].privateKeyFile: "]);
    folder.write("tls.key", "no key");
    let output = edge(&["--check"], &folder.path("edge.yaml"));
    assert!(told(&output).1.contains("holds no PEM private key"), "{output:?}");
    std::fs::remove_file(folder.path("tls.key")).unwrap();
    std::fs::create_dir(folder.path("tls.key")).unwrap();
    let output = edge(&["--check"], &folder.path("edge.yaml"));
    assert!(told(&output).1.contains("tls.key cannot be read"), "{output:?}");
    std::fs::remove_dir(folder.path("tls.key")).unwrap();
    folder.write("tls.key", &good);

    let mut expired = rcgen::CertificateParams::new(vec!["coluc.com".to_owned()]).unwrap();
    expired.not_after = rcgen::date_time_ymd(2020, 2, 3);
    let key = rcgen::KeyPair::generate().unwrap();
    folder.write("tls.crt", &expired.self_signed(&key).unwrap().pem());
    folder.write("tls.key", &key.serialize_pem());
    folder.write("dialback", "short");
    let output = edge(&["--check"], &folder.path("edge.yaml"));
    // Served while there is nothing better.
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let (_, error) = told(&output);
    assert!(error.contains("warning: the certificate in "), "{error}");
    assert!(error.contains("expired on 2020-02-03T00:00:00Z"), "{error}");
    assert!(error.contains("has 5 bytes; use 32 random ones or more"), "{error}");
}

#[test]
fn tables_and_the_log_level_are_told_by_a_running_edge() {
    let folder = folder();
    let (running, _) = start(&folder);
    let (table, _) = told(&edge(&["ctl", "connections"], &folder.path("edge.yaml")));
    assert!(table.starts_with("ID  DIRECTION  PEER  PHASE"), "{table}");
    assert!(table.ends_with("0 inbound, 0 outbound\n"), "{table}");
    let (json, _) = told(&edge(&["ctl", "connections", "--json"], &folder.path("edge.yaml")));
    assert_eq!(json, "[]\n");
    let wrong = edge(
        &["ctl", "connections", "--peer", "no domain"],
        &folder.path("edge.yaml"),
    );
    assert_eq!(wrong.status.code(), Some(1));
    let (failures, _) = told(&edge(&["ctl", "failures"], &folder.path("edge.yaml")));
    assert_eq!(failures, "no failed attempts\n");
    let (level, _) = told(&edge(&["ctl", "log"], &folder.path("edge.yaml")));
    assert!(level.contains("\"level\": \"info\""), "{level}");
    let set = edge(&["ctl", "log", "warn,dialback=debug"], &folder.path("edge.yaml"));
    assert!(set.status.success(), "{set:?}");
    let (level, _) = told(&edge(&["ctl", "log"], &folder.path("edge.yaml")));
    assert!(level.contains("warn,dialback=debug"), "{level}");
    signal(&running, "-TERM");
    assert_eq!(end(running), Some(0));
}

#[test]
fn a_trace_ends_with_its_time_and_with_its_reader() {
    let folder = folder();
    let (mut running, first) = start(&folder);
    assert!(first.contains("\"s2s\""), "{first}");
    let started = Instant::now();
    let trace = edge(
        &["ctl", "trace", "--peer", "127.0.0.1", "--for", "1s"],
        &folder.path("edge.yaml"),
    );
    assert!(trace.status.success(), "{trace:?}");
    assert!(started.elapsed() >= Duration::from_secs(1));
    let wrong = edge(&["ctl", "trace", "--peer", "no peer"], &folder.path("edge.yaml"));
    assert_eq!(wrong.status.code(), Some(1));
    has(&told(&wrong).1, ["neither a remote domain nor an address"]);
    // Readers that hang up make room for others.
    let socket = folder.path("control.sock");
    for _ in 0..20 {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream
            .write_all(b"{\"command\":\"trace\",\"peer\":\"vngtp.lab\"}\n")
            .unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let arguments = ["ctl", "trace", "--peer", "vngtp.lab", "--for", "1s"];
        if edge(&arguments, &folder.path("edge.yaml")).status.success() {
            break;
        }
        assert!(Instant::now() < deadline, "the places stay taken");
    }
    signal(&running, "-TERM");
    running.line("stopped");
    assert_eq!(end(running), Some(0));
}

#[test]
fn the_exit_code_of_a_probe_tells_its_result() {
    let folder = folder();
    let wrong = Command::new(EDGE).args(["probe", "localhost"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let absent = edge(&["probe", "vngtp.lab"], Path::new("/nowhere/edge.yaml"));
    assert_eq!(absent.status.code(), Some(2), "{absent:?}");
    let ours = edge(&["probe", "coluc.com"], &folder.path("edge.yaml"));
    assert!(told(&ours).1.contains("probe a remote domain"), "{ours:?}");
    // Nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let (host, port) = (address.ip(), address.port());
    let route = format!("partners: [{{domain: vngtp.lab, route: [{{host: '{host}', port: {port}}}]}}]\n");
    folder.configure(&format!("{}{route}", yaml("AllowList")));
    let bad = edge(&["probe", "vngtp.lab"], &folder.path("edge.yaml"));
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    let (table, _) = told(&bad);
    assert!(table.contains("connection refused"), "{table}");
    assert!(table.contains("-> nothing listens there"), "{table}");
    let json = edge(&["probe", "vngtp.lab", "--json"], &folder.path("edge.yaml"));
    assert_eq!(json.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(report["good"], false);
    assert_eq!(report["from"], "coluc.com");
}

#[test]
fn a_port_that_is_taken_is_named_with_its_field() {
    let folder = folder();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    folder.configure(&yaml("AllowList").replacen("127.0.0.1:0", &address, 1));
    let output = edge(&[], &folder.path("edge.yaml"));
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    has(&error, [&format!("listen.s2s: cannot listen at {address}")]);
    assert!(error.contains("another process has this port"), "{error}");
}

#[test]
fn the_control_socket_answers_nonsense_with_an_error_and_goes_on() {
    let folder = folder();
    let (running, _) = start(&folder);
    let socket = folder.path("control.sock");
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    stream.write_all(b"nonsense\n{\"command\":\"status\"}\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    let lines: Vec<_> = answers.lines().collect();
    has(lines[0], ["\"error\":\"the request is not understood"]);
    assert!(lines[1].starts_with("{\"result\":"), "{answers}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    signal(&running, "-INT");
    assert_eq!(end(running), Some(0));
}

/// What the process has of its own. The pages of its code are the file's, and those of this unoptimized
/// build say nothing about the one that is shipped, whose whole size the benchmark shows.
#[test]
fn an_idle_edge_is_small() {
    let folder = folder();
    let (running, _) = start(&folder);
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    println!("{line}");
    assert!(kilobytes < 2 * 1024, "{line}");
    signal(&running, "-TERM");
    assert_eq!(end(running), Some(0));
}
