//! A component's link (XEP-0114): header, handshake, stanzas, the end.

use super::xcp;
use crate::calls::{Call, now_ms};
use crate::cluster::{Cluster, Node};
use crate::config::Profile;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use testkit_base::xml::{Element, StreamEvent, StreamParser};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Namespace of a component's stanzas.
pub const COMPONENT_NS: &str = "jabber:component:accept";
pub(super) const STREAM_NS: &str = "http://etherx.jabber.org/streams";
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Stanzas that may wait for one link before their senders wait.
const QUEUE: usize = 4096;

/// A linked component.
#[derive(Debug)]
pub struct Link {
    /// Component id.
    pub id: String,
    address: SocketAddr,
    since_ms: u64,
    queue: mpsc::Sender<Outgoing>,
    sent: AtomicU64,
    received: AtomicU64,
    echoed: AtomicU64,
    profile: Profile,
    /// Its id was in the table when the router started.
    pub(super) gateway: bool,
    /// It has announced itself (profile `Xcp`).
    pub(super) announced: AtomicBool,
    /// Iqs written (profile `Xcp`).
    pub(super) iqs: AtomicU64,
    /// Announcements written (profile `Xcp`).
    pub(super) sequence: AtomicU64,
}

/// What goes out on a link.
#[derive(Debug)]
pub enum Outgoing {
    /// A stanza; comes back to its sender where the link breaks before it was written.
    Stanza(Element),
    /// The router's own words (profile `Xcp`); nobody misses them.
    Own(Element),
}

/// For `/state`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkState {
    /// Component id.
    pub id: String,
    /// Where it came from.
    pub address: SocketAddr,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
    /// Stanzas given to this link (queued or written).
    pub sent: u64,
    /// Stanzas that came over it.
    pub received: u64,
    /// Of these, IQs to its own id, sent back.
    pub echoed: u64,
    /// Whether its id was in the table when the router started.
    pub gateway: bool,
    /// Whether it has announced itself; always with profile `Component`.
    pub announced: bool,
}

impl Link {
    /// For `/state`.
    pub fn state(&self) -> LinkState {
        LinkState {
            id: self.id.clone(),
            address: self.address,
            since_ms: self.since_ms,
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            echoed: self.echoed.load(Ordering::Relaxed),
            gateway: self.gateway,
            announced: self.announced.load(Ordering::Relaxed),
        }
    }

    /// When it was accepted, Unix seconds.
    pub(super) fn epoch(&self) -> u64 {
        self.since_ms / 1000
    }

    /// Whether stanzas go over it.
    pub(super) fn carries(&self) -> bool {
        self.gateway && self.announced.load(Ordering::Relaxed)
    }

    /// Queues; gives back what a closed link cannot take.
    pub async fn send(&self, outgoing: Outgoing) -> Result<(), Outgoing> {
        self.queue.send(outgoing).await.map_err(|error| error.0)?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn count_echo(&self) {
        self.echoed.fetch_add(1, Ordering::Relaxed);
    }
}

/// The value of a handshake: lower-case hex SHA-1 of the stream id and the secret (XEP-0114 section 3).
pub fn handshake(stream_id: &str, secret: &str) -> String {
    HEXLOWER.encode(&Sha1::digest(format!("{stream_id}{secret}")))
}

/// Takes connections until the router stops.
pub async fn accept(cluster: Arc<Cluster>, node: Arc<Node>, listener: TcpListener, run: CancellationToken) {
    loop {
        let (stream, address) = tokio::select! {
            () = run.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(node = node.name, %error, "accepting components");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (cluster, node, run) = (cluster.clone(), node.clone(), run.clone());
        tokio::spawn(async move { serve(cluster, node, stream, address, run).await });
    }
}

/// A stream error to end with: condition and text.
pub(super) struct StreamError(pub(super) &'static str, pub(super) String);

/// The reading side of a connection.
struct Incoming {
    read: OwnedReadHalf,
    parser: StreamParser,
    buffer: Vec<u8>,
    filled: usize,
    used: usize,
}

impl Incoming {
    /// The next event; `None`: the other side closed the connection.
    async fn event(&mut self) -> Result<Option<StreamEvent>, StreamError> {
        loop {
            let mut rest = self.buffer.get(self.used..self.filled).unwrap_or_default();
            let event = self.parser.next(&mut rest);
            self.used = self.filled - rest.len();
            match event {
                Ok(Some(event)) => return Ok(Some(event)),
                Ok(None) => {}
                Err(fault) => return Err(StreamError(fault.condition, fault.text)),
            }
            self.used = 0;
            self.filled = match self.read.read(&mut self.buffer).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(count) => count,
            };
        }
    }

    /// Reads on for a moment: closing with unread data would destroy the last words on their way.
    async fn drain(&mut self) {
        let rest = async { while matches!(self.read.read(&mut self.buffer).await, Ok(1..)) {} };
        let _ = tokio::time::timeout(Duration::from_secs(2), rest).await;
    }
}

async fn serve(cluster: Arc<Cluster>, node: Arc<Node>, stream: TcpStream, address: SocketAddr, run: CancellationToken) {
    let _ = stream.set_nodelay(true);
    keepalive(&stream);
    let (read, mut write) = stream.into_split();
    let mut incoming = Incoming {
        read,
        parser: StreamParser::default(),
        buffer: vec![0; 64 * 1024],
        filled: 0,
        used: 0,
    };
    let mut opening = Opening::default();
    let opened = tokio::select! {
        () = run.cancelled() => return,
        opened = tokio::time::timeout(
            HANDSHAKE_TIME,
            opening.open(&cluster, &node, &mut incoming, &mut write),
        ) => opened.unwrap_or_else(|_| Err(StreamError("connection-timeout", "no handshake in time".into()))),
    };
    let Opening {
        id,
        header_sent,
        gateway,
    } = opening;
    let record = |outcome: &str, auth| {
        let call = Call::new(&node.name, "xcp", "handshake", &id, outcome, auth);
        cluster.calls.record(call);
    };
    let (queue, waiting) = mpsc::channel(QUEUE);
    let registered = opened.and_then(|()| {
        let link = Arc::new(Link {
            id: id.clone(),
            address,
            since_ms: now_ms(),
            queue,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            echoed: AtomicU64::new(0),
            profile: cluster.config.router_profile,
            gateway,
            announced: AtomicBool::new(cluster.config.router_profile == Profile::Component),
            iqs: AtomicU64::new(0),
            sequence: AtomicU64::new(1),
        });
        register(&node, &link, &run)?;
        Ok(link)
    });
    let link = match registered {
        Ok(link) => link,
        Err(StreamError(condition, text)) => {
            let auth = if condition == "not-authorized" { "bad" } else { "none" };
            record(&format!("{condition}: {text}"), auth);
            refuse(&mut write, header_sent, condition, &text).await;
            incoming.drain().await;
            return;
        }
    };
    record("ok", "ok");
    converse(&cluster, &node, &run, (incoming, write), link, waiting).await;
}

/// Dead peers are noticed within about 15 s, so that a host that vanished does not occupy its id.
fn keepalive(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let _ = socket.set_tcp_keepalive(
        &socket2::TcpKeepalive::new()
            .with_time(Duration::from_secs(5))
            .with_interval(Duration::from_secs(3))
            .with_retries(3),
    );
    let _ = socket.set_tcp_user_timeout(Some(Duration::from_secs(15)));
}

/// How far a connection has come.
#[derive(Default)]
struct Opening {
    id: String,
    header_sent: bool,
    /// Whether the router's table has the id.
    gateway: bool,
}

impl Opening {
    /// Header and handshake.
    async fn open(
        &mut self,
        cluster: &Cluster,
        node: &Node,
        incoming: &mut Incoming,
        write: &mut OwnedWriteHalf,
    ) -> Result<(), StreamError> {
        let gone = || StreamError("undefined-condition", "closed before the handshake".into());
        let Some(StreamEvent::Header(header)) = incoming.event().await? else {
            return Err(gone());
        };
        self.id = header.attribute("to").unwrap_or_default().to_lowercase();
        if (header.ns.as_str(), header.name.as_str()) != (STREAM_NS, "stream") {
            return Err(StreamError(
                "invalid-namespace",
                format!("{{{}}}{}", header.ns, header.name),
            ));
        }
        let seconds = now_ms() / 1000;
        let (stream_id, answer) = match cluster.config.router_profile {
            Profile::Component => {
                let stream_id = format!("{seconds:X}{:016x}", rand::random::<u64>());
                let answer = format!(
                    "<?xml version='1.0'?><stream:stream xmlns='{COMPONENT_NS}' xmlns:stream='{STREAM_NS}' from='{}' id='{stream_id}'>",
                    testkit_base::xml::escape(&self.id)
                );
                (stream_id, answer)
            }
            Profile::Xcp => {
                xcp::check_header(&header)?;
                let stream_id = format!("{seconds:x}");
                let answer = xcp::header(&self.id, &stream_id);
                (stream_id, answer)
            }
        };
        write.write_all(answer.as_bytes()).await.map_err(|_| gone())?;
        self.header_sent = true;
        self.gateway = node.router.lock().loaded.contains(&self.id);
        if cluster.config.router_profile == Profile::Component && !self.gateway {
            return Err(StreamError("host-unknown", format!("`{}` is not loaded", self.id)));
        }
        let Some(StreamEvent::Stanza(stanza)) = incoming.event().await? else {
            return Err(gone());
        };
        // The stream's default namespace shows here: nothing else tells it.
        if (stanza.ns.as_str(), stanza.name.as_str()) != (COMPONENT_NS, "handshake") {
            return Err(StreamError(
                "not-authorized",
                format!("<{}/> instead of the handshake", stanza.name),
            ));
        }
        if stanza.text() != handshake(&stream_id, &cluster.config.router_secret) {
            return Err(StreamError("not-authorized", "wrong handshake".into()));
        }
        Ok(())
    }
}

/// Makes it a link, unless that id has one or the router is going down.
fn register(node: &Node, link: &Arc<Link>, run: &CancellationToken) -> Result<(), StreamError> {
    let mut state = node.router.lock();
    if run.is_cancelled() {
        return Err(StreamError("system-shutdown", "the router stops".into()));
    }
    if state.links.iter().any(|other| other.id == link.id) {
        return Err(StreamError("conflict", format!("`{}` is linked already", link.id)));
    }
    state.links.push(link.clone());
    state.seen.first_link_at_ms.get_or_insert_with(now_ms);
    Ok(())
}

async fn refuse(write: &mut OwnedWriteHalf, header_sent: bool, condition: &str, text: &str) {
    let mut out = String::new();
    if !header_sent {
        out = format!("<?xml version='1.0'?><stream:stream xmlns='{COMPONENT_NS}' xmlns:stream='{STREAM_NS}'>");
    }
    out.push_str(&stream_error(condition, text));
    let _ = write.write_all(out.as_bytes()).await;
    let _ = write.shutdown().await;
}

fn stream_error(condition: &str, text: &str) -> String {
    let ns = "urn:ietf:params:xml:ns:xmpp-streams";
    format!(
        "<stream:error><{condition} xmlns='{ns}'/><text xmlns='{ns}'>{}</text></stream:error></stream:stream>",
        testkit_base::xml::escape(text)
    )
}

/// From the handshake's answer to the end of the connection.
async fn converse(
    cluster: &Arc<Cluster>,
    node: &Arc<Node>,
    run: &CancellationToken,
    (mut incoming, mut write): (Incoming, OwnedWriteHalf),
    link: Arc<Link>,
    waiting: mpsc::Receiver<Outgoing>,
) {
    tracing::info!(node = node.name, id = link.id, "component linked");
    if write.write_all(b"<handshake/>").await.is_err() {
        unregister(node, &link);
        return;
    }
    let (goodbye, last_words) = oneshot::channel();
    let writer = Writer {
        cluster: cluster.clone(),
        node: node.clone(),
        link: link.clone(),
        write,
        waiting,
        run: run.clone(),
    };
    let writer = tokio::spawn(writer.run(last_words));
    if link.profile == Profile::Xcp {
        cluster.introduce(node, &link).await;
    }
    let end = tokio::select! {
        () = run.cancelled() => return,
        end = stanzas(cluster, node, &link, &mut incoming) => end,
    };
    unregister(node, &link);
    let words = match end {
        Ok(()) => "</stream:stream>".to_string(),
        Err(StreamError(condition, text)) => {
            tracing::warn!(
                node = node.name,
                id = link.id,
                condition,
                text,
                "component's stream ends"
            );
            let outcome = format!("{condition}: {text}");
            let call = Call::new(&node.name, "xcp", "stream-error", &link.id, &outcome, "ok");
            cluster.calls.record(call);
            stream_error(condition, &text)
        }
    };
    let _ = goodbye.send(words);
    tracing::info!(node = node.name, id = link.id, "component gone");
    let _ = writer.await;
    incoming.drain().await;
}

/// Takes stanzas until the component ends its stream or connection.
async fn stanzas(
    cluster: &Arc<Cluster>,
    node: &Arc<Node>,
    link: &Arc<Link>,
    incoming: &mut Incoming,
) -> Result<(), StreamError> {
    while let Some(StreamEvent::Stanza(stanza)) = incoming.event().await? {
        link.received.fetch_add(1, Ordering::Relaxed);
        match link.profile {
            Profile::Component => cluster.from_component(node, link, stanza).await?,
            Profile::Xcp => cluster.from_xcp_component(node, link, stanza).await?,
        }
    }
    Ok(())
}

fn unregister(node: &Node, link: &Arc<Link>) {
    node.router.lock().links.retain(|other| !Arc::ptr_eq(other, link));
}

/// The writing side of a link: writes the queue in batches, to its end also when the component has said goodbye, and
/// answers for what it could not write.
struct Writer {
    cluster: Arc<Cluster>,
    node: Arc<Node>,
    link: Arc<Link>,
    write: OwnedWriteHalf,
    waiting: mpsc::Receiver<Outgoing>,
    run: CancellationToken,
}

impl Writer {
    async fn run(mut self, mut last_words: oneshot::Receiver<String>) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = self.run.cancelled() => break,
                _ = self.waiting.recv_many(&mut batch, 256) => {
                    if !self.write(&mut batch).await {
                        break;
                    }
                }
                words = &mut last_words => {
                    let Ok(words) = words else { break };
                    // Whoever still holds the link gets its stanza back from here on.
                    self.waiting.close();
                    while self.waiting.recv_many(&mut batch, 256).await > 0 {
                        if !self.write(&mut batch).await {
                            break;
                        }
                    }
                    let _ = self.write.write_all(words.as_bytes()).await;
                    let _ = self.write.shutdown().await;
                    break;
                }
            }
        }
        unregister(&self.node, &self.link);
        self.waiting.close();
        while let Some(outgoing) = self.waiting.recv().await {
            if let Outgoing::Stanza(stanza) = outgoing {
                self.cluster.to_partner(&self.node, stanza).await;
            }
        }
    }

    /// False: the link is broken; what may or may not have arrived is reported to its senders.
    async fn write(&mut self, batch: &mut Vec<Outgoing>) -> bool {
        let mut bytes = Vec::with_capacity(4096);
        for outgoing in batch.iter() {
            match outgoing {
                Outgoing::Stanza(stanza) => {
                    let text = match self.link.profile {
                        Profile::Component => stanza.to_xml(COMPONENT_NS),
                        Profile::Xcp => xcp::outgoing(&self.link, stanza),
                    };
                    bytes.extend_from_slice(text.as_bytes());
                }
                Outgoing::Own(element) => {
                    bytes.extend_from_slice(element.to_xml(COMPONENT_NS).as_bytes());
                }
            }
        }
        let written = tokio::select! {
            () = self.run.cancelled() => false,
            written = self.write.write_all(&bytes) => written.is_ok(),
        };
        for outgoing in batch.drain(..) {
            if let (false, Outgoing::Stanza(stanza)) = (written, outgoing) {
                self.cluster.bounce(&self.node, &stanza, "remote-server-timeout");
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_handshake_is_the_published_one() {
        assert_eq!(
            super::handshake("3BF96D32", "secret"),
            "b09ea9b3b7f586be8a08d0a3dd7466f110aeb136"
        );
    }
}
