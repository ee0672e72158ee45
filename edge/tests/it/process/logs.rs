//! The log: a standard output that nobody reads stops nobody, and no stranger fills it.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::support::process::Process;
use crate::support::{Peer, Router, RouterLink, Speaker, header};

const STANZA: &str = "<message from='bob@vngtp.lab' to='alice@coluc.com' id='here'/>";

#[tokio::test]
async fn a_standard_output_that_nobody_reads_stops_nobody() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let more = "log: {level: trace}";
    let mut edge = Process::start_writing(&peer, &router, more, Stdio::piped());
    let mut link = router.accept().await;
    let mut bob = peer.open_authenticated(edge.s2s, "coluc.com").await;
    let dropped = "xmpp_edge_log_lines_dropped_total{reason=\"output\"}";
    // A pipe holds 64 kB: some hundred lines.
    for _ in 0..200 {
        for _ in 0..100 {
            drop(TcpStream::connect(edge.s2s).await.unwrap());
        }
        if edge.metric(dropped).await > 0 {
            break;
        }
    }
    assert!(edge.metric(dropped).await > 0, "nothing had to be dropped");
    for _ in 0..10 {
        bob.say(STANZA).await;
        assert!(link.hear().await.contains("id='here'"));
    }
    drop((bob, link));
    // It does not wait for a reader at its end either.
    let stopped = tokio::task::spawn_blocking(move || {
        let stopped = edge.stops_within(Duration::from_secs(20));
        let mut first = vec![0; 4096];
        edge.log().unwrap().read_exact(&mut first).unwrap();
        (stopped, first)
    });
    let (stopped, first) = stopped.await.unwrap();
    assert!(stopped, "it waits for a reader of its log");
    assert!(first.starts_with(b"{\"timestamp\":"));
}

struct Written {
    edge: Process,
    peer: Peer,
    link: RouterLink,
}

impl Written {
    async fn start(more: &str) -> Self {
        let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
        let port = peer.listener.local_addr().unwrap().port();
        let name = format!("edge-log-{}-{port}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let file = File::create(&path).unwrap();
        let edge = Process::start_writing(&peer, &router, more, file.into());
        // It goes with its folder.
        std::fs::rename(path, edge.folder.path("log")).unwrap();
        let link = router.accept().await;
        Self { edge, peer, link }
    }

    fn count(&self, text: &str) -> usize {
        let lines = std::fs::read_to_string(self.edge.folder.path("log")).unwrap();
        lines.lines().filter(|line| line.contains(text)).count()
    }

    /// Looks until so many lines with this text are there: a thread of their own writes them.
    async fn written(&self, text: &str, count: usize) {
        for _ in 0..400 {
            if self.count(text) >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{} lines with {text}", self.count(text));
    }

    async fn assert_bounded(&self, message: &str) {
        self.written(message, 1).await;
        let lines = self.count(message);
        assert!((1..=60).contains(&lines), "{lines} lines: {message}");
    }

    /// Looks until this many events of a metric are there.
    async fn until(&self, metric: &str, count: u64) {
        for _ in 0..400 {
            if self.edge.metric(metric).await >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{metric} does not come to {count}");
    }
}

const REFUSED_XML: &str = "xmpp_edge_peers_refused_total{check=\"xml\"}";

#[tokio::test]
async fn lines_about_connections_are_bounded_and_a_partners_are_written() {
    const NETWORKS: u64 = 300;
    let here = Written::start("").await;
    let fail = async |source: [u8; 4], bytes: &str| {
        let mut stranger = Speaker::connect_from(source, here.edge.s2s).await;
        stranger.say(bytes).await;
        stranger.hear_end().await;
    };
    // One network that fails again and again.
    for _ in 0..100 {
        fail([127, 7, 7, 7], "<nonsense>").await;
    }
    here.until(REFUSED_XML, 100).await;
    here.assert_bounded("inbound stream failed during").await;
    here.written("peer refused", 20).await;
    assert_eq!(here.count("peer refused"), 20);
    // More networks than there are places.
    for n in 0..NETWORKS {
        let [.., high, low] = n.to_be_bytes();
        fail([127, 8, high, low], "<nonsense>").await;
    }
    here.until(REFUSED_XML, 100 + NETWORKS).await;
    let lines = here.count("peer refused");
    assert!((20..20 + 256 + 20).contains(&lines), "{lines} lines");
    assert_eq!(
        here.count("\"peer\":\"127.8.1.43:"),
        0,
        "the last network finds no place"
    );
    // A partner has its own: where its route leads, and anywhere in its own name.
    fail([127, 0, 0, 1], "<nonsense>").await;
    let named = header("vngtp.lab", "coluc.com", "") + "<nonsense/>";
    fail([127, 9, 9, 9], &named).await;
    here.until(
        "xmpp_edge_stream_errors_total{direction=\"inbound\",sender=\"edge\",condition=\"unsupported-stanza-type\"}",
        1,
    )
    .await;
    for address in ["127.0.0.1", "127.9.9.9"] {
        here.written(&format!("\"peer\":\"{address}:"), 1).await;
    }
    let left_out = "xmpp_edge_log_lines_dropped_total{reason=\"rate\"}";
    assert!(here.edge.metric(left_out).await > 0);
}

/// Names that cannot be looked up: nobody answers at that address.
const NO_DNS: &str = "privacy: {mode: AllowAll}\ndns: {resolvers: [127.99.99.99]}";

#[tokio::test]
async fn lines_about_names_that_a_peer_or_a_routers_user_makes_up_are_bounded() {
    const NAMES: usize = 150;
    let here = Written::start(NO_DNS).await;
    // A peer that shows keys in ever new names.
    let mut streams = Vec::new();
    for _ in 0..NAMES / 50 {
        streams.push(here.peer.open(here.edge.s2s, "coluc.com").await.0);
    }
    for n in 0..NAMES {
        let key = format!("<db:result from='n{n}.example' to='coluc.com'>k</db:result>");
        streams[n / 50].say(&key).await;
    }
    for n in 0..NAMES {
        streams[n / 50].hear("</db:result>").await;
    }
    here.assert_bounded("the authoritative server cannot be asked").await;
    here.assert_bounded("db:result received").await;
    here.assert_bounded("state of the pair changed").await;
    here.assert_bounded("the remote domain could not be resolved").await;
    // A hosted user who writes to ever new names.
    for n in 0..NAMES {
        here.link.say(&format!(
            "<message from='alice@coluc.com' to='x@m{n}.example' id='{n}'/>"
        ));
    }
    let failed = "xmpp_edge_resolution_seconds_count{method=\"none\",outcome=\"temporary\"}";
    here.until(failed, 2 * NAMES as u64).await;
    here.written("the remote domain could not be resolved", 61).await;
    let lines = here.count("the remote domain could not be resolved");
    assert!((61..=120).contains(&lines), "{lines} lines");
    here.assert_bounded("no stream to the remote domain").await;
    // A user whom the edge does not know.
    for n in 0..NAMES {
        here.link.say(&format!(
            "<message from='x@foreign.example' to='y@vngtp.lab' id='{n}'/>"
        ));
    }
    let answered = "xmpp_edge_stanzas_bounced_total{cause=\"foreign-sender\"}";
    here.until(answered, NAMES as u64).await;
    here.assert_bounded("which is not among the hosted domains").await;
}
