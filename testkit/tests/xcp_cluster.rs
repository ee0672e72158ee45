//! Two replicas of the edge, as processes, at a simulated cluster whose routers speak profile Xcp:
//! before and after the restart that makes the routers read the table.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use testkit_peer::{Folder, Peer, Speaker, attribute};
use testkit_simulator::{ClusterState, ImpConfig, Profile, SimulatedImp, Status};

const IDS: [&str; 2] = [
    "cm-2_s2scp-1.eft-xwye-a-coluc-com",
    "cm-2_s2scp-1.eft-xwye-a-1-coluc-com",
];
const ALICE: &str = "alice@coluc.com";

/// The edge's binary, which `cargo build --workspace` puts beside this package's own.
fn edge() -> Command {
    Command::new(Path::new(env!("CARGO_BIN_EXE_testkit")).with_file_name("xmpp-federation-edge"))
}

/// One replica and its files.
struct Replica {
    folder: Folder,
    child: Child,
    s2s: SocketAddr,
}

impl Replica {
    fn start(index: usize, peer: &Peer, imp: &SimulatedImp) -> Self {
        // The edge tells no port that the system chose.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let s2s = free.local_addr().unwrap();
        drop(free);
        let folder = Folder::of_edge(&config(s2s, peer, imp));
        let mut child = edge()
            .args(["--index", &index.to_string(), "--config"])
            .arg(folder.path("edge.yaml"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
        let started = log.any(|line| line.unwrap().contains("the edge starts"));
        assert!(started, "the edge does not start");
        // A full pipe would stop the edge.
        std::thread::spawn(move || log.for_each(drop));
        Self { folder, child, s2s }
    }

    /// The links as `ctl status` tells of them.
    fn links(&self) -> Vec<Value> {
        let output = edge()
            .args(["ctl", "--socket"])
            .arg(self.folder.path("control.sock"))
            .arg("status")
            .output()
            .unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let links = status["links"].as_array().cloned();
        links.unwrap_or_default()
    }

    /// Waits until the links to both nodes are up and both routers have said so of the `other`
    /// replica. A router never speaks of a component to itself.
    async fn linked(&self, id: &str, other: &str, gateway: bool) {
        let waiting = async {
            loop {
                let links = self.links();
                let all = |link: &Value| {
                    link["state"] == "Up"
                        && link["componentId"] == id
                        && link["announced"].is_null()
                        && link["sightings"][0]["componentId"] == other
                        && link["sightings"][0]["gateway"] == gateway
                };
                if links.len() == 2 && links.iter().all(all) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        assert!(in_time.is_ok(), "not {gateway}: {:#?}", self.links());
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(s2s: SocketAddr, peer: &Peer, imp: &SimulatedImp) -> String {
    let endpoints: Vec<_> = imp
        .nodes()
        .iter()
        .map(|node| format!("  - {{name: {}, address: '{}'}}\n", node.name, node.xcp))
        .collect();
    let endpoints = endpoints.concat();
    format!(
        "\
listen: {{s2s: '{s2s}', admin: '127.0.0.1:0', control: HERE/control.sock}}
partners:
- {{domain: {domain}, route: [{{host: '{host}', port: {port}}}]}}
routers:
- name: main
  profile: Xcp
  componentIds: [{first}, {second}]
  secretFile: HERE/router
  endpoints:
{endpoints}",
        domain = peer.domain,
        host = peer.listener.local_addr().unwrap().ip(),
        port = peer.listener.local_addr().unwrap().port(),
        first = IDS[0],
        second = IDS[1],
    )
}

/// Waits until each replica has both links and has seen that of the other.
async fn linked(replicas: &[Replica], gateway: bool) {
    for (own, replica) in replicas.iter().enumerate() {
        replica.linked(IDS[own], IDS[1 - own], gateway).await;
    }
}

async fn until(imp: &SimulatedImp, what: &str, holds: impl Fn(&ClusterState) -> bool) {
    let waiting = async {
        while !holds(&imp.state()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    assert!(in_time.is_ok(), "never: {what}: {:#?}", imp.state());
}

async fn restart(imp: &SimulatedImp) {
    let count: Vec<_> = imp
        .state()
        .nodes
        .iter()
        .map(|node| node.router.restarts.len())
        .collect();
    for node in imp.nodes() {
        imp.restart_router(&node.name).unwrap();
    }
    until(imp, "both routers are back", |state| {
        state
            .nodes
            .iter()
            .zip(&count)
            .all(|(node, before)| node.router.status == Status::Started && node.router.restarts.len() > *before)
    })
    .await;
}

fn message(n: usize) -> String {
    format!("<message from='bob@vngtp.lab' to='{ALICE}' id='{n}'><body>x</body></message>")
}

/// The ids of messages that alice has, errors aside.
async fn inbox(imp: &SimulatedImp) -> HashSet<usize> {
    let items = imp.inbox(ALICE, 0, Duration::ZERO).await.unwrap();
    let good = items.iter().filter(|item| !item.stanza.contains("type='error'"));
    good.map(|item| attribute(&item.stanza, "message", "id").parse().unwrap())
        .collect()
}

#[tokio::test]
async fn two_replicas_carry_stanzas_once_the_routers_have_read_their_ids() {
    let peer = Peer::new("vngtp.lab").await;
    let imp = SimulatedImp::start(ImpConfig {
        router_profile: Profile::Xcp,
        restart_s: 0.4,
        replication_s: 0.1,
        config_manager_s: 0.05,
        ..ImpConfig::default()
    })
    .await
    .unwrap();
    let replicas: Vec<_> = (0..2).map(|index| Replica::start(index, &peer, &imp)).collect();

    // Accepted everywhere, known nowhere, which each replica sees of the other.
    linked(&replicas, false).await;
    imp.send(ALICE, "<message to='bob@vngtp.lab' id='900'/>").await.unwrap();
    let items = imp.inbox(ALICE, 0, Duration::from_secs(10)).await.unwrap();
    assert!(items[0].stanza.contains("<remote-server-not-found "), "{items:?}");
    // What a partner sends comes back, and it hears so.
    let (mut bob, mut back): (Vec<Speaker>, Vec<Speaker>) = (Vec::new(), Vec::new());
    for replica in &replicas {
        let mut stream = peer.open_authenticated(replica.s2s, "coluc.com").await;
        stream.say(&message(900)).await;
        bob.push(stream);
        let mut stream = peer.accept_authenticated("coluc.com").await;
        let error = stream.hear("</message>").await;
        assert!(error.contains("<service-unavailable "), "{error}");
        back.push(stream);
    }

    for id in IDS {
        imp.sql(&format!(
            "INSERT INTO xmpps2snodes (pkid, cp_id) VALUES (newid(), '{id}')"
        ))
        .unwrap();
    }
    until(&imp, "both routers are configured", |state| {
        let mut nodes = state.nodes.iter();
        nodes.all(|node| node.router.configured_ids.len() == 2)
    })
    .await;
    linked(&replicas, false).await;
    restart(&imp).await;
    linked(&replicas, true).await;
    bob[0].say(&message(0)).await;
    bob[1].say(&message(1)).await;
    let waiting = async {
        while inbox(&imp).await != HashSet::from([0, 1]) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    assert!(in_time.is_ok(), "the messages did not arrive");

    // The router spreads over both replicas.
    let mut heard = HashSet::new();
    for n in 100..102 {
        imp.send(ALICE, &format!("<message to='bob@vngtp.lab' id='{n}'/>"))
            .await
            .unwrap();
    }
    for stream in &mut back {
        let message = stream.hear("/>").await;
        heard.insert(attribute(&message, "message", "id"));
    }
    assert_eq!(heard, HashSet::from(["100".to_owned(), "101".to_owned()]));

    restart_under_traffic(&imp, bob, back).await;
    linked(&replicas, true).await;

    // Nothing was said that a router does not understand, and nobody asked for its secrets.
    let state = imp.state();
    assert!(state.nodes.iter().all(|node| node.router.config_requests == 0));
    let odd: Vec<_> = imp
        .calls(0)
        .into_iter()
        .filter(|call| call.service == "xcp" && call.outcome != "ok")
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
}

/// Messages of the second part, with the two of the first.
const COUNT: usize = 600;

/// Both routers restart while the partner writes: everything is delivered or reported. `back`: the
/// edges' streams to the partner.
async fn restart_under_traffic(imp: &SimulatedImp, mut bob: Vec<Speaker>, back: Vec<Speaker>) {
    let (tx, mut reported) = tokio::sync::mpsc::unbounded_channel();
    for mut stream in back {
        let tx = tx.clone();
        tokio::spawn(async move {
            loop {
                let error = stream.hear("</message>").await;
                assert!(error.contains("type='error'"), "{error}");
                let _ = tx.send(attribute(&error, "message", "id").parse::<usize>().unwrap());
            }
        });
    }
    let writer = tokio::spawn(async move {
        for n in 2..COUNT {
            bob[n % 2].say(&message(n)).await;
            if n % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        bob
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    restart(imp).await;
    let _bob = writer.await.unwrap();
    let mut told = HashSet::new();
    let waiting = async {
        loop {
            while let Ok(id) = reported.try_recv() {
                told.insert(id);
            }
            let there = inbox(imp).await;
            if there.union(&told).count() == COUNT {
                return there.len();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(40), waiting).await;
    let delivered = in_time.expect("stanzas are neither delivered nor reported");
    println!("{delivered} delivered, {} reported of {COUNT}", told.len());
}
