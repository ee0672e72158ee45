//! The binary's listeners: what is not logged, and running out of descriptors.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::process::Running;
use crate::support::{COMPONENT, Folder, PATIENCE, header};

const EDGE: &str = env!("CARGO_BIN_EXE_xmpp-federation-edge");

/// An edge at an address of its own, so that its ports are free.
struct Listening {
    edge: Running,
    ip: IpAddr,
    _folder: Folder,
}

impl Listening {
    /// `which`: tells the tests of this file apart.
    fn start(which: u8, descriptors: u32) -> Self {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, 100 + which, high, low.max(1));
        let folder = Folder::of_edge(&format!(
            "\
listen: {{s2s: '{ip}:5269', directTls: '{ip}:5270', admin: '{ip}:8080'}}
privacy: {{mode: AllowAll}}
routers:
- name: main
  componentIds: [{COMPONENT}]
  secretFile: HERE/router
  endpoints: []
"
        ));
        let (edge, _) = Running::start(
            Command::new("sh")
                .args(["-c", "ulimit -n \"$0\"; exec \"$1\" --config \"$2\""])
                .args([&descriptors.to_string(), EDGE])
                .arg(folder.path("edge.yaml")),
        );
        Self {
            edge,
            ip: ip.into(),
            _folder: folder,
        }
    }

    fn connect(&self, port: u16) -> TcpStream {
        let address = SocketAddr::new(self.ip, port);
        let tcp = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        tcp.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        tcp
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

#[test]
fn whoever_only_looks_whether_somebody_listens_is_not_logged() {
    let mut edge = Listening::start(1, 1024);
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
    let mut lines = edge.edge.lines_until("failed during its negotiation");
    lines.retain(|line| !line.contains("bounds on memory"));
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn running_out_of_descriptors_stops_neither_open_streams_nor_later_ones() {
    let mut edge = Listening::start(2, 64);
    let mut open = edge.connect(5269);
    say(&mut open, &header("vngtp.lab", "coluc.com", ""));
    assert!(hears(&mut open, "</stream:features>", PATIENCE));
    let many: Vec<_> = (0..100).map(|_| edge.connect(5269)).collect();
    edge.edge.lines_until("could not be accepted");
    say(&mut open, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    assert!(hears(&mut open, "<proceed ", PATIENCE), "the open stream stands still");
    let mut waiting = edge.connect(5269);
    say(&mut waiting, &header("vngtp.lab", "coluc.com", ""));
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
