//! All attacks of strangers at once, while one partner goes on: the edge lives within its memory, and
//! the partner hardly notices.
//!
//! The edge, the partner and the router share one processor; the attackers, several processes, have
//! another. The edge is in a control group of 512 MiB. Needs root, two processors and a minute, so
//! `make test` runs it (with `--ignored`), a plain `cargo test` does not. It runs in a network namespace
//! of its own, whose loopback network gives the attackers thousands of addresses.
//!
//! It is a binary of its own because its attackers are processes of this binary, and because nothing else may
//! compute meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

mod router;
mod stranger;
#[allow(
    dead_code,
    unused_imports,
    clippy::format_collect,
    reason = "tests; this one uses a part of it"
)]
#[path = "../it/support/mod.rs"]
mod support;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use router::Sink;
use rustls::version::TLS13;
use stranger::Flood;
use support::process::Process;
use support::records::{HANDSHAKE, MOST_PADDING, TlsPeer};
use support::{Peer, Router, Speaker, client_tls, header};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const NAME: &str = "under_all_attacks_at_once_the_edge_lives_and_its_partner_hardly_notices";
/// Set inside the namespace: `test`, or an attack with the edge's address.
const ROLE: &str = "EDGE_TEST_SIEGE";
const MEMORY: u64 = 512 * 1024 * 1024;
const RESTING: Duration = Duration::from_secs(8);
const SIEGE: Duration = Duration::from_secs(30);
/// What one attacker's process does at once.
const TASKS: u16 = 200;

#[test]
#[ignore = "needs root, two processors and a minute; make test runs it"]
fn under_all_attacks_at_once_the_edge_lives_and_its_partner_hardly_notices() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    match std::env::var(ROLE) {
        Err(_) => {
            let inside = Command::new("unshare")
                .args(["--net", "--", "taskset", "-c", "0"])
                .arg(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "--nocapture", NAME])
                .env(ROLE, "test")
                .status();
            assert!(inside.unwrap().success());
        }
        Ok(role) if role == "test" => {
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
            assert!(up.unwrap().success());
            runtime().block_on(siege());
        }
        Ok(attack) => {
            let (name, edge) = attack.split_once('@').unwrap();
            runtime().block_on(Attack::named(name).run(edge.parse().unwrap()));
        }
    }
}

/// A control group with a limit of memory; removed at the end.
struct Group {
    folder: PathBuf,
    most: &'static str,
}

impl Group {
    fn new() -> Self {
        let (root, limit, most) = if Path::new("/sys/fs/cgroup/memory").is_dir() {
            let most = "memory.max_usage_in_bytes";
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", most)
        } else {
            // Without this the group below has no files for memory; it may be so already.
            let _ = std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
            ("/sys/fs/cgroup", "memory.max", "memory.peak")
        };
        let folder = Path::new(root).join(format!("edge-siege-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a control group needs root");
        std::fs::write(folder.join(limit), MEMORY.to_string()).unwrap();
        Self { folder, most }
    }

    /// The most memory that was in use, the kernel's for it included.
    fn most(&self) -> u64 {
        let text = std::fs::read_to_string(self.folder.join(self.most)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The edge in it has just been ended.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

struct Attacker(Child);

impl Attacker {
    fn start(attack: Attack, edge: SocketAddr) -> Self {
        let child = Command::new("taskset")
            .args(["-c", "1"])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", NAME])
            .env(ROLE, format!("{attack:?}@{edge}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn siege() {
    let group = Group::new();
    stranger::name_server(([127, 0, 0, 66], 53).into()).await;
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let more = "privacy: {mode: AllowAll}\nlog: {level: info}\n\
                dns: {resolvers: [127.0.0.66], allowPrivateTargets: [127.0.0.0/24]}";
    let procs = group.folder.join("cgroup.procs");
    let enter = format!("echo $$ > {} && exec \"$0\" \"$@\"", procs.display());
    let edge = Process::start_under(&["sh", "-c", &enter], &peer, &router, more);
    let status: serde_json::Value = serde_json::from_str(&edge.get("/status").await).unwrap();
    assert_eq!(status["memory"]["limitBytes"], MEMORY, "{status}");
    let mut link = Sink::start(router.accept_stream().await);
    let mut partner = peer.open_authenticated(edge.s2s, "coluc.com").await;

    let resting = measure(&mut partner, &mut link, RESTING).await;
    // A list of names to find out which one costs what.
    let only = std::env::var("EDGE_TEST_SIEGE_ONLY").unwrap_or_default();
    let attackers: Vec<_> = Attack::ALL
        .into_iter()
        .filter(|attack| only.is_empty() || only.contains(&format!("{attack:?}")))
        .map(|attack| Attacker::start(attack, edge.s2s))
        .collect();
    // They have begun.
    sleep(Duration::from_secs(2)).await;
    let (before, busy) = (link.read(), edge.busy());
    let besieged = measure(&mut partner, &mut link, SIEGE).await;
    let flooded = (link.read() - before) / SIEGE.as_secs();
    let busy = edge.busy().saturating_sub(busy).as_secs_f64() / SIEGE.as_secs_f64();
    let (resident, group_most) = (edge.most() * 1024, group.most());
    // A newcomer of the partner is served, too.
    let began = Instant::now();
    let mut new = peer.open_authenticated(edge.s2s, "coluc.com").await;
    let newcomer = began.elapsed();
    exchange(&mut new, &mut link).await;
    let metrics = edge.get("/metrics").await;
    drop(attackers);

    let mib = |bytes: u64| bytes / 1024 / 1024;
    println!("resting: {resting}\nbesieged: {besieged}");
    println!(
        "a new stream of the partner took {newcomer:?}; the router got {flooded} bytes/s; the edge computed {:.0} % of the time and had {} MiB at most, its control group {} MiB",
        100.0 * busy,
        mib(resident),
        mib(group_most)
    );
    let told = |line: &&str| {
        [
            "connections_refused",
            "unproven_",
            "peers_refused",
            "xmpp_edge_streams{",
        ]
        .iter()
        .any(|name| line.contains(name) && !line.starts_with('#'))
    };
    metrics.lines().filter(told).for_each(|line| println!("{line}"));
    let most = (2 * resting.p99).max(Duration::from_millis(20));
    assert!(besieged.p99 <= most, "{besieged}; allowed {most:?}");
    assert!(resident < MEMORY / 10 * 6, "{} MiB", mib(resident));
}

/// How long stanzas of the partner took to the router.
struct Measured {
    stanzas: usize,
    p50: Duration,
    p99: Duration,
    longest: Duration,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            stanzas,
            p50,
            p99,
            longest,
        } = self;
        write!(
            f,
            "{stanzas} stanzas, median {p50:?}, 99 % within {p99:?}, longest {longest:?}"
        )
    }
}

async fn measure(partner: &mut Speaker, link: &mut Sink, time: Duration) -> Measured {
    let until = Instant::now() + time;
    let mut took = Vec::new();
    while Instant::now() < until {
        let began = Instant::now();
        exchange(partner, link).await;
        took.push(began.elapsed());
        sleep(Duration::from_millis(5)).await;
    }
    took.sort();
    Measured {
        stanzas: took.len(),
        p50: took[took.len() / 2],
        p99: took[took.len() * 99 / 100],
        longest: took[took.len() - 1],
    }
}

async fn exchange(partner: &mut Speaker, link: &mut Sink) {
    partner
        .say("<message from='bob@vngtp.lab' to='alice@coluc.com' id='marks'><body>Hello</body></message>")
        .await;
    link.hear_mark().await;
}

/// What strangers do, each in a process of its own.
#[derive(Debug, Clone, Copy)]
enum Attack {
    /// Connections that are opened and closed.
    Flood,
    /// Connections that are opened and kept without a word.
    Hold,
    /// TLS records of one byte each that never make a message.
    TinyRecords,
    /// Encrypted records of one byte each behind as much padding as there may be.
    PaddedRecords,
    /// Streams over TLS, kept busy with keys that are not ours.
    KeepAlive,
    /// Keys of many domains whose name servers are silent.
    ManyDomains,
    /// Headers as long as they may be, in languages of apostrophes.
    LongHeaders,
    /// Whatever makes a line in the log: own domains, denied ones, nonsense.
    LogLines,
    /// Names and addresses that nobody should have.
    HostileNames,
    /// Domains that are proven, and what their owners send then.
    Proven(Flood),
}

/// A stream over TLS.
type Stream = TlsStream<TcpStream>;

impl Attack {
    const ALL: [Self; 14] = [
        Self::Flood,
        Self::Hold,
        Self::TinyRecords,
        Self::PaddedRecords,
        Self::KeepAlive,
        Self::ManyDomains,
        Self::LongHeaders,
        Self::LogLines,
        Self::HostileNames,
        Self::Proven(Flood::Stanzas),
        Self::Proven(Flood::Headers),
        Self::Proven(Flood::Pairs),
        Self::Proven(Flood::Jids),
        Self::Proven(Flood::Names),
    ];

    fn named(name: &str) -> Self {
        let named = |attack: &Self| format!("{attack:?}") == name;
        Self::ALL.into_iter().find(named).unwrap()
    }

    /// Its number, which is in its addresses.
    fn number(self) -> u8 {
        let name = format!("{self:?}");
        let place = Self::ALL.iter().position(|one| format!("{one:?}") == name);
        u8::try_from(place.unwrap()).unwrap()
    }

    /// Goes on until the process is ended, at the latest when the test must be over.
    async fn run(self, edge: SocketAddr) {
        if let Self::Proven(_) = self {
            tokio::spawn(stranger::serve(100 + self.number()));
        }
        let tasks = (0..TASKS).map(|task| async move {
            for round in 0.. {
                let [high, low] = (task * 50 + round % 50).to_be_bytes();
                // Another address of this attack's own network for each connection.
                let from = [127, 100 + self.number(), high, low.max(1)];
                // Whatever fails is tried again, from elsewhere.
                let once = self.once(from, edge, u32::from(task) << 16 | u32::from(round));
                let _ = timeout(Duration::from_mins(1), once).await;
            }
        });
        let all = futures::future::join_all(tasks);
        let _ = timeout(RESTING + SIEGE + Duration::from_mins(1), all).await;
    }

    async fn once(self, from: [u8; 4], edge: SocketAddr, number: u32) -> io::Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((from, 0).into())?;
        let mut tcp = socket.connect(edge).await?;
        match self {
            Self::Flood => Ok(()),
            Self::Hold => {
                let _ = tcp.read(&mut [0]).await?;
                Ok(())
            }
            Self::TinyRecords => {
                start_tls(&mut tcp, &header("vngtp.lab", "coluc.com", "")).await?;
                // A ClientHello of 64 KiB, one byte in each record.
                tcp.write_all(b"\x16\x03\x01\0\x04\x01\0\xff\xff").await?;
                loop {
                    tcp.write_all(&b"\x16\x03\x01\0\x01\0".repeat(500)).await?;
                }
            }
            Self::PaddedRecords => {
                start_tls(&mut tcp, &header("vngtp.lab", "coluc.com", "")).await?;
                let mut peer = TlsPeer::client("coluc.com", &TLS13);
                let mut heard = vec![0; 16 * 1024];
                loop {
                    tcp.write_all(&peer.give()).await?;
                    if !peer.is_handshaking() {
                        break;
                    }
                    let read = tcp.read(&mut heard).await?;
                    if read == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    peer.take(&heard[..read]);
                }
                let mut sealer = peer.seal();
                // A message of 64 KiB, one byte in each record.
                for byte in [0x18, 0, 0xff, 0xff].into_iter().chain(std::iter::repeat(0)) {
                    tcp.write_all(&sealer.record(HANDSHAKE, &[byte], MOST_PADDING)).await?;
                }
                Ok(())
            }
            Self::KeepAlive => {
                let mut stream = tls(tcp).await?;
                loop {
                    say(
                        &mut stream,
                        "<db:verify from='vngtp.lab' to='coluc.com' id='1'>00</db:verify>",
                    )
                    .await?;
                    let _ = timeout(Duration::from_millis(200), stream.read(&mut [0; 4096])).await;
                }
            }
            Self::ManyDomains => {
                let mut stream = tls(tcp).await?;
                for n in 0..64 {
                    let key = format!("<db:result from='d{n}.s{number}.example' to='coluc.com'>00</db:result>");
                    say(&mut stream, &key).await?;
                }
                let _ = timeout(Duration::from_secs(20), hear_end(&mut stream)).await;
                Ok(())
            }
            Self::LongHeaders => {
                let language = "'".repeat(16_000);
                let long = header("vngtp.lab", "coluc.com", "")
                    .replace(" version='1.0'>", &format!(" xml:lang=\"{language}\" version='1.0'>"));
                say(&mut tcp, &long).await?;
                hear_end(&mut tcp).await
            }
            Self::LogLines => {
                let line = match number % 4 {
                    0 => header("coluc.com", "coluc.com", ""),
                    1 => header("vngtp.lab", "elsewhere.example", ""),
                    2 => "\x16\x03 nonsense".to_owned(),
                    _ => header("..", "..", ""),
                };
                say(&mut tcp, &line).await?;
                hear_end(&mut tcp).await
            }
            Self::HostileNames => {
                let mut stream = tls(tcp).await?;
                say(
                    &mut stream,
                    "<message from='\u{2070}@vngtp.lab' to='@coluc.com'><\u{132}:\u{10000} xmlns:\u{132}='x'/></message>",
                )
                .await?;
                hear_end(&mut stream).await
            }
            Self::Proven(flood) => flood.once(tcp, 100 + self.number(), number).await,
        }
    }
}

async fn say(to: &mut (impl AsyncWrite + Unpin), text: &str) -> io::Result<()> {
    to.write_all(text.as_bytes()).await?;
    to.flush().await
}

/// Everything up to what holds these words.
async fn hear(from: &mut (impl AsyncRead + Unpin), what: &str) -> io::Result<String> {
    let mut heard = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&heard);
        if text.contains(what) {
            return Ok(text.into_owned());
        }
        if from.read_buf(&mut heard).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn hear_end(from: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    while from.read(&mut [0; 4096]).await? > 0 {}
    Ok(())
}

/// To where TLS begins.
async fn start_tls(tcp: &mut TcpStream, header: &str) -> io::Result<()> {
    say(tcp, header).await?;
    hear(tcp, "</stream:features>").await?;
    say(tcp, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await?;
    hear(tcp, "<proceed ").await.map(drop)
}

async fn tls(mut tcp: TcpStream) -> io::Result<Stream> {
    start_tls(&mut tcp, &header("vngtp.lab", "coluc.com", "")).await?;
    let name = rustls::pki_types::ServerName::try_from("coluc.com").unwrap();
    let mut stream = TlsConnector::from(client_tls()).connect(name, tcp).await?;
    say(&mut stream, &header("vngtp.lab", "coluc.com", "")).await?;
    hear(&mut stream, "</stream:features>").await?;
    Ok(stream)
}
