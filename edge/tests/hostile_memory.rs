//! The memory of the process while peers send what has no end or what grows.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use support::{COMPONENT, Peer, Router, Speaker};

/// An edge that is a process of its own, with its folder; both go when it is dropped.
struct Process {
    child: Child,
    folder: PathBuf,
    s2s: SocketAddr,
}

impl Process {
    fn start(peer: &Peer, router: &Router) -> Self {
        let name = format!("edge-memory-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["coluc.com".to_owned()]).unwrap();
        write("tls.crt", &made.cert.pem());
        write("tls.key", &made.signing_key.serialize_pem());
        write("dialback", "0123456789abcdef0123456789abcdef");
        write("router", "router-secret");
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let s2s = free.local_addr().unwrap();
        drop(free);
        let here = folder.display();
        let way = peer.listener.local_addr().unwrap();
        let node = router.listener.local_addr().unwrap();
        let yaml = format!(
            "\
domains: [coluc.com]
listen: {{s2s: '{s2s}', admin: '127.0.0.1:0'}}
dialback: {{sign: {here}/dialback}}
tls:
  certificates: [{{certificateFile: {here}/tls.crt, privateKeyFile: {here}/tls.key}}]
staticRoutes: [{{domain: vngtp.lab, addresses: ['{way}']}}]
routers:
- name: main
  componentIds: [{COMPONENT}]
  secretFile: {here}/router
  endpoints: [{{name: node0, address: '{node}'}}]
drainDelay: 0s
"
        );
        write("edge.yaml", &yaml);
        let child = Command::new(env!("CARGO_BIN_EXE_xmpp-federation-edge"))
            .arg("--config")
            .arg(folder.join("edge.yaml"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, folder, s2s }
    }

    /// The most memory that it ever had, in kilobytes.
    fn most(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

const STREAMS: usize = 24;
const START: &str = "<message from='bob@vngtp.lab' to='alice@coluc.com'><body>";

async fn streams(edge: &Process, peer: &Peer) -> Vec<Speaker> {
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(peer.open_authenticated(edge.s2s, "coluc.com").await);
    }
    streams
}

async fn all_say(streams: &mut [Speaker], text: &str) {
    // The edge may end a stream before everything is written.
    futures::future::join_all(streams.iter_mut().map(|one| one.try_say(text.as_bytes()))).await;
}

#[tokio::test]
async fn memory_stays_within_what_the_limits_add_up_to() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let edge = Process::start(&peer, &router);
    let mut link = router.accept().await;
    let idle = edge.most();

    // Just less than a stanza, and no end of it.
    let mut held = streams(&edge, &peer).await;
    all_say(&mut held, &(START.to_owned() + &"x".repeat(262_000))).await;
    // More than a stanza.
    let mut cut = streams(&edge, &peer).await;
    all_say(&mut cut, &(START.to_owned() + &"x".repeat(4_000_000))).await;
    for one in &mut cut {
        assert_eq!(one.condition().await, "policy-violation");
    }
    // A namespace bound once and used often: gigabytes if it were written out.
    let mut growing = streams(&edge, &peer).await;
    let grows = format!(
        "<s:message xmlns:s='jabber:server' from='bob@vngtp.lab' to='alice@coluc.com' xmlns:p='{}'>{}</s:message>",
        "n".repeat(120_000),
        "<p:a/>".repeat(20_000)
    );
    all_say(&mut growing, &grows).await;
    for one in &mut growing {
        assert_eq!(one.condition().await, "policy-violation");
    }
    for one in &mut held {
        one.say("</body></message>").await;
        assert!(link.hear().await.len() > 262_000);
    }
    let most = edge.most();
    println!("{idle} kB idle, {most} kB at most with {STREAMS} streams of each kind");
    assert!(most < 96 * 1024, "{most} kB");
}
