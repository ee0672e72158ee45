//! The binary's listeners: what is not logged, and running out of descriptors.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const EDGE: &str = env!("CARGO_BIN_EXE_xmpp-federation-edge");
const PATIENCE: Duration = Duration::from_secs(10);

/// An edge at an address of its own, so that its ports are free.
struct Running {
    child: Child,
    log: BufReader<ChildStdout>,
    folder: PathBuf,
    ip: IpAddr,
}

impl Running {
    /// `which`: tells the tests of this file apart.
    fn start(which: u8, descriptors: u32) -> Self {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, 100 + which, high, low.max(1));
        let folder = std::env::temp_dir().join(format!("edge-listening-{}-{which}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let here = folder.display().to_string();
        let made = rcgen::generate_simple_self_signed(vec!["coluc.com".to_owned()]).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        write("tls.crt", &made.cert.pem());
        write("tls.key", &made.signing_key.serialize_pem());
        write("dialback", "0123456789abcdef0123456789abcdef");
        write("router", "router-secret");
        write(
            "edge.yaml",
            &format!(
                "\
domains: [coluc.com]
listen: {{s2s: '{ip}:5269', directTls: '{ip}:5270', admin: '{ip}:8080'}}
dialback: {{sign: {here}/dialback}}
tls:
  certificates: [{{certificateFile: {here}/tls.crt, privateKeyFile: {here}/tls.key}}]
privacy: {{mode: AllowAll}}
routers:
- name: main
  componentIds: [cm-2_s2scp-1.eft-xwye-a-coluc-com]
  secretFile: {here}/router
  endpoints: []
drainDelay: 0s
"
            ),
        );
        let mut child = Command::new("sh")
            .args(["-c", "ulimit -n \"$0\"; exec \"$1\" --config \"$2\""])
            .args([&descriptors.to_string(), EDGE, &format!("{here}/edge.yaml")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stdout.take().unwrap());
        let mut running = Self {
            child,
            log,
            folder,
            ip: ip.into(),
        };
        running.lines_until("the edge starts");
        running
    }

    /// The log up to and including a line with this text.
    fn lines_until(&mut self, with: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert!(
                self.log.read_line(&mut line).unwrap() > 0,
                "no line with {with:?} after {lines:?}"
            );
            lines.push(line);
            if lines.last().is_some_and(|line| line.contains(with)) {
                return lines;
            }
        }
    }

    fn connect(&self, port: u16) -> TcpStream {
        let address = SocketAddr::new(self.ip, port);
        let tcp = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        tcp.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        tcp
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn say(tcp: &mut TcpStream, text: &str) {
    tcp.write_all(text.as_bytes()).unwrap();
}

/// Reads until this text has come; `false` if it does not come in time.
fn hears(tcp: &mut TcpStream, what: &str, time: Duration) -> bool {
    let began = Instant::now();
    let mut heard = String::new();
    let mut bytes = [0; 4096];
    while !heard.contains(what) && began.elapsed() < time {
        match tcp.read(&mut bytes) {
            Ok(0) => return false,
            Ok(read) => heard += &String::from_utf8_lossy(bytes.get(..read).unwrap()),
            Err(_) => {}
        }
    }
    heard.contains(what)
}

const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' \
    xmlns:stream='http://etherx.jabber.org/streams' from='vngtp.lab' to='coluc.com' version='1.0'>";

#[test]
fn whoever_only_looks_whether_somebody_listens_is_not_logged() {
    let mut edge = Running::start(1, 1024);
    for port in [5269, 5270] {
        for reset in [false, true] {
            let look = edge.connect(port);
            if reset {
                socket2::SockRef::from(&look).set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(look);
        }
    }
    // Whoever says something and leaves is.
    let mut talker = edge.connect(5269);
    say(&mut talker, "<?xml version");
    drop(talker);
    let mut lines = edge.lines_until("failed during its negotiation");
    lines.retain(|line| !line.contains("bounds on memory"));
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn running_out_of_descriptors_stops_neither_open_streams_nor_later_ones() {
    let mut edge = Running::start(2, 64);
    let mut open = edge.connect(5269);
    say(&mut open, HEADER);
    assert!(hears(&mut open, "</stream:features>", PATIENCE));
    let many: Vec<_> = (0..100).map(|_| edge.connect(5269)).collect();
    edge.lines_until("could not be accepted");
    say(&mut open, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    assert!(hears(&mut open, "<proceed ", PATIENCE), "the open stream stands still");
    let mut waiting = edge.connect(5269);
    say(&mut waiting, HEADER);
    assert!(
        !hears(&mut waiting, "<stream:features>", Duration::from_millis(300)),
        "there was a descriptor left"
    );
    drop(many);
    assert!(
        hears(&mut waiting, "</stream:features>", PATIENCE),
        "who waited is not served"
    );
}
