//! A whole edge on a runtime of its own, with peers and a router that say what an input holds.
//!
//! An input is text with three bytes that UTF-8 does not have: `0xfe` waits until the edge has said
//! something, `0xff` ends what one side says, `0xfd` stands for the last id that the edge told.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

use rxml::error::EndOrError;
use rxml::{Parse, WithOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use xmpp_federation_edge::config::{Live, Loader};
use xmpp_federation_edge::observe::metrics::Metrics;
use xmpp_federation_edge::observe::registry::Registry;
use xmpp_federation_edge::resolve::{Lookup, LookupError, SrvRecord};
use xmpp_federation_edge::runtime::Edge;
use xmpp_federation_edge::stream::listen::{self, Listeners};

/// Waits until the edge has said something.
pub const WAIT: u8 = 0xfe;
/// Ends what one side says.
pub const NEXT: u8 = 0xff;
/// The last id that the edge told.
pub const ID: u8 = 0xfd;

/// How long an answer is waited for; most pieces have none.
const PATIENCE: Duration = Duration::from_millis(50);
/// The edge has said all when it says nothing for so long.
const QUIET: Duration = Duration::from_millis(2);
/// How long the end of a connection is waited for.
const END: Duration = Duration::from_millis(500);

/// Every domain is reached at one port of the loopback, or nowhere.
pub struct Everywhere(pub Option<u16>);

type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<Vec<T>, LookupError>> + Send + 'a>>;

impl Lookup for Everywhere {
    fn srv<'a>(&'a self, name: &'a str) -> Answer<'a, SrvRecord> {
        let records = self.0.filter(|_| name.starts_with("_xmpp-server."));
        let record = |port| SrvRecord {
            priority: 0,
            weight: 0,
            port,
            target: "host.example.".to_owned(),
        };
        let records = records.map(record).into_iter().collect();
        Box::pin(async { Ok(records) })
    }
    fn addresses<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
        let found = self.0.map(|_| Ipv4Addr::LOCALHOST.into());
        Box::pin(async move { Ok(found.into_iter().collect()) })
    }
}

/// A certificate and its key, PEM.
fn certificate() -> &'static [String; 2] {
    static MADE: OnceLock<[String; 2]> = OnceLock::new();
    MADE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(vec!["coluc.com".to_owned()]).unwrap();
        [made.cert.pem(), made.signing_key.serialize_pem()]
    })
}

/// The snapshot of a configuration; links are up to the target.
fn load(mode: &str, router: &str, lookup: Everywhere) -> Live {
    let folder = std::env::temp_dir().join(format!("edge-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let [chain, key] = certificate();
    write("tls.crt", chain);
    write("tls.key", key);
    write("dialback", "0123456789abcdef0123456789abcdef");
    write("router", "router-secret");
    let here = folder.display();
    let certificates = match mode {
        "Disabled" => String::new(),
        _ => format!(", certificates: [{{certificateFile: {here}/tls.crt, privateKeyFile: {here}/tls.key}}]"),
    };
    let yaml = format!(
        "domains: [coluc.com, conf.coluc.com]\n\
         dialback: {{sign: {here}/dialback}}\n\
         tls: {{mode: {mode}{certificates}}}\n\
         dns: {{allowPrivateTargets: [127.0.0.0/8]}}\n\
         privacy: {{mode: AllowAll}}\n\
         drainDelay: 0s\n\
         routers: [{{name: main, componentIds: [cm-2_s2s], secretFile: {here}/router, {router}}}]\n"
    );
    write("edge.yaml", &yaml);
    let loader = Loader::new(folder.join("edge.yaml"), 0).with_lookup(Arc::new(lookup));
    let live = loader.load().expect("a good configuration");
    std::fs::remove_dir_all(&folder).unwrap();
    live
}

thread_local! {
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a conversation on a runtime of its own. A panic of one of the edge's tasks, which the
/// runtime would swallow, is one of ours.
pub fn converse(act: impl AsyncFnOnce()) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICKED.set(true);
            before(info);
        }));
    });
    let runtime = super::super::runtime();
    runtime.block_on(act());
    drop(runtime);
    assert!(!PANICKED.replace(false), "a task of the edge panicked");
}

/// An edge that runs until its runtime ends.
pub struct Running {
    pub s2s: SocketAddr,
    _live: watch::Sender<Arc<Live>>,
}

/// Starts an edge in a security mode; `router`: its endpoints and what else the link needs.
pub fn start(mode: &str, router: &str, lookup: Everywhere) -> Running {
    let listener = listen::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let s2s = listener.local_addr().unwrap();
    let listeners = Listeners {
        s2s: listener,
        direct_tls: None,
    };
    let (sender, receiver) = watch::channel(Arc::new(load(mode, router, lookup)));
    let (metrics, registry) = (Arc::<Metrics>::default(), Arc::<Registry>::default());
    let edge = Edge::new(receiver, 0, metrics, registry);
    tokio::spawn(edge.run(listeners, std::future::pending()));
    Running { s2s, _live: sender }
}

pub async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// One side of a connection of the edge.
pub struct Side {
    tcp: TcpStream,
    heard: Vec<u8>,
    id: Vec<u8>,
}

impl Side {
    pub fn new(tcp: TcpStream) -> Self {
        // Without it each piece would wait for the last one's acknowledgement.
        tcp.set_nodelay(true).unwrap();
        Self {
            tcp,
            heard: Vec::new(),
            id: Vec::new(),
        }
    }

    pub async fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.unwrap())
    }

    /// Says what a script has, waiting where it says so. `size`: bytes given at once.
    pub async fn play(&mut self, script: &[u8], size: usize) {
        for (n, piece) in script.split(|byte| *byte == WAIT).enumerate() {
            if n > 0 && self.listen(PATIENCE).await {
                while self.listen(QUIET).await {}
            }
            let mut said = Vec::with_capacity(piece.len());
            for byte in piece {
                match *byte {
                    ID => said.extend_from_slice(&self.id),
                    byte => said.push(byte),
                }
            }
            for bytes in said.chunks(size) {
                // The edge may have ended it.
                if self.tcp.write_all(bytes).await.is_err() {
                    return;
                }
                if size < said.len() {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Takes what comes next.
    async fn listen(&mut self, patience: Duration) -> bool {
        self.heard.reserve(16 * 1024);
        let read = timeout(patience, self.tcp.read_buf(&mut self.heard)).await;
        if let Some(id) = last_id(&self.heard) {
            self.id = id.to_vec();
        }
        matches!(read, Ok(Ok(1..)))
    }

    /// Ends our direction, waits for the other's end, and looks at all that was said: it is XML,
    /// whatever we said.
    pub async fn finish(mut self) {
        let _ = self.tcp.shutdown().await;
        while self.listen(END).await {}
        check_xml(&self.heard);
    }
}

/// The value of the last `id` attribute.
fn last_id(heard: &[u8]) -> Option<&[u8]> {
    const ID: &[u8] = b" id='";
    let at = heard.windows(ID.len()).rposition(|bytes| bytes == ID)? + ID.len();
    let rest = heard.get(at..)?;
    rest.split(|byte| *byte == b'\'').next()
}

fn check_xml(heard: &[u8]) {
    // Records may follow, not XML.
    let before_tls = [&b"<starttls xmlns="[..], b"<proceed xmlns="];
    let end = (0..heard.len()).find(|at| before_tls.iter().any(|tag| heard[*at..].starts_with(tag)));
    let heard = &heard[..end.unwrap_or(heard.len())];
    let mut parser = rxml::Parser::with_options(rxml::Options {
        max_token_length: heard.len() + 1,
        ..rxml::Options::default()
    });
    let mut input = heard;
    loop {
        match parser.parse(&mut input, false) {
            Ok(Some(_)) => {}
            Ok(None) | Err(EndOrError::NeedMoreData) => return,
            Err(EndOrError::Error(error)) => panic!(
                "the edge said {:?}, to which rxml says {error}",
                String::from_utf8_lossy(heard)
            ),
        }
    }
}
