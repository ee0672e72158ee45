//! A running edge with peers and routers that speak bytes over real sockets. Nothing here uses
//! the edge's protocol code.

pub mod log;
pub mod odd;
pub mod one_host;
pub mod partner;
pub mod pki;
pub mod process;
pub mod records;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use xmpp_federation_core::edge_config::EdgeConfig;
use xmpp_federation_core::{Domain, SecretBytes};
use xmpp_federation_edge::budget::{Budget, MemoryLimit};
use xmpp_federation_edge::config::Live;
use xmpp_federation_edge::dialback::DialbackSecrets;
use xmpp_federation_edge::edge::Edge;
use xmpp_federation_edge::observe::metrics::Metrics;
use xmpp_federation_edge::observe::registry::Registry;
use xmpp_federation_edge::policy::Policy;
use xmpp_federation_edge::resolve::Resolver;
use xmpp_federation_edge::router::Timing;
use xmpp_federation_edge::stream::listen::{self, Listeners};
use xmpp_federation_edge::tls::TlsSettings;

pub const SECRET: &str = "s3cr3tf0rd14lb4ck";
pub const COMPONENT: &str = "cm-2_s2scp-1.eft-xwye-a-coluc-com";
pub const PATIENCE: Duration = Duration::from_secs(10);

pub fn server_tls() -> Arc<rustls::ServerConfig> {
    let names = vec!["vngtp.lab".to_owned(), "coluc.com".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    Arc::new(config)
}

pub fn client_tls() -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pki::Watching::anybody()))
        .with_no_client_auth();
    Arc::new(config)
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// One side of a connection that says and expects text.
pub struct Speaker {
    io: Option<Pin<Box<dyn Io>>>,
    heard: String,
}

impl Speaker {
    pub fn new(tcp: TcpStream) -> Self {
        tcp.set_nodelay(true).unwrap();
        Self {
            io: Some(Box::pin(tcp)),
            heard: String::new(),
        }
    }

    /// Its bytes from here on, and what was heard already.
    #[allow(dead_code, reason = "used by the siege")]
    pub fn into_parts(self) -> (impl AsyncRead + AsyncWrite + Send + Unpin, String) {
        (self.io.unwrap(), self.heard)
    }

    pub async fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.unwrap())
    }

    /// From another address of this host.
    pub async fn connect_from(source: [u8; 4], address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        Self::new(socket.connect(address).await.unwrap())
    }

    pub async fn say(&mut self, text: &str) {
        self.try_say(text.as_bytes()).await.unwrap();
    }

    pub async fn try_say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let io = self.io.as_mut().unwrap();
        io.write_all(bytes).await?;
        io.flush().await
    }

    /// Says that nothing more will come.
    pub async fn finish_writing(&mut self) {
        let _ = self.io.as_mut().unwrap().shutdown().await;
    }

    /// Everything up to and including `what`.
    pub async fn hear(&mut self, what: &str) -> String {
        match self.hear_or_end(what).await {
            Ok(text) => text,
            Err(text) => panic!("the connection ended before {what:?}; heard {text:?}"),
        }
    }

    /// The same; everything that came if the connection ends before.
    pub async fn hear_or_end(&mut self, what: &str) -> Result<String, String> {
        loop {
            if let Some(at) = self.heard.find(what) {
                let rest = self.heard.split_off(at + what.len());
                return Ok(std::mem::replace(&mut self.heard, rest));
            }
            let mut bytes = vec![0; 16 * 1024];
            let read = timeout(PATIENCE, self.io.as_mut().unwrap().read(&mut bytes)).await;
            let read = match read {
                Ok(read) => read.unwrap_or(0),
                Err(tokio::time::error::Elapsed { .. }) => {
                    panic!("{what:?} did not come; heard {:?}", self.heard)
                }
            };
            if read == 0 {
                return Err(std::mem::take(&mut self.heard));
            }
            self.heard.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    }

    /// What comes next, at most so many bytes at once.
    pub async fn hear_some(&mut self, most: usize) -> String {
        let mut bytes = vec![0; most];
        let read = timeout(PATIENCE, self.io.as_mut().unwrap().read(&mut bytes)).await;
        let read = read.expect("nothing came").unwrap_or(0);
        let heard = std::mem::take(&mut self.heard);
        heard + &String::from_utf8_lossy(&bytes[..read])
    }

    /// Whether nothing at all comes for a while.
    /// What came behind what was heard last.
    pub fn heard_already(&self) -> &str {
        &self.heard
    }

    pub async fn is_silent(&mut self, time: Duration) -> bool {
        if !self.heard.is_empty() {
            return false;
        }
        let mut byte = [0; 1];
        timeout(time, self.io.as_mut().unwrap().read(&mut byte)).await.is_err()
    }

    /// Everything up to the end of the connection.
    pub async fn hear_end(&mut self) -> String {
        let mut rest = Vec::new();
        let io = self.io.as_mut().unwrap();
        let end = timeout(PATIENCE, io.read_to_end(&mut rest)).await;
        // A reset is an end too.
        let _ = end.unwrap_or_else(|_| panic!("the connection does not end; heard {rest:?}"));
        std::mem::take(&mut self.heard) + &String::from_utf8_lossy(&rest)
    }

    /// The condition of the stream error that comes; the stream is ended behind it.
    pub async fn condition(&mut self) -> String {
        let text = self.hear("</stream:stream>").await;
        let error = text
            .split("<stream:error><")
            .nth(1)
            .unwrap_or_else(|| panic!("no error in {text}"));
        error.split([' ', '/']).next().unwrap().to_owned()
    }

    /// The features that follow a header, or the condition of the stream error that comes instead.
    pub async fn features_or_condition(&mut self) -> Result<String, String> {
        let text = self.hear("</stream:").await;
        let rest = self.hear(">").await;
        match text.split("<stream:error><").nth(1) {
            Some(error) => Err(error.split([' ', '/']).next().unwrap().to_owned()),
            None => Ok(text + &rest),
        }
    }

    /// Ends our writing; what comes can still be heard.
    pub async fn shut(&mut self) {
        let _ = self.io.as_mut().unwrap().shutdown().await;
    }

    pub async fn start_tls_as_client(&mut self, name: &str) {
        assert_eq!(self.heard, "", "clear text before TLS");
        let io = self.io.take().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let tls = tokio_rustls::TlsConnector::from(client_tls())
            .connect(name, io)
            .await
            .unwrap();
        self.io = Some(Box::pin(tls));
    }

    /// The client's side of TLS by this configuration; gives the protocol that ALPN agreed on.
    pub async fn try_tls_as_client(
        &mut self,
        name: &str,
        config: rustls::ClientConfig,
    ) -> std::io::Result<Option<Vec<u8>>> {
        let io = self.io.take().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, io)
            .await?;
        let protocol = tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        self.io = Some(Box::pin(tls));
        Ok(protocol)
    }

    /// The server's side of TLS by this configuration; gives the name and the protocol that the
    /// client asked for.
    pub async fn tls_as_server(&mut self, config: rustls::ServerConfig) -> (Option<String>, Option<Vec<u8>>) {
        self.try_tls_as_server(config).await.unwrap()
    }

    /// The same; an error if there is no handshake.
    pub async fn try_tls_as_server(
        &mut self,
        config: rustls::ServerConfig,
    ) -> std::io::Result<(Option<String>, Option<Vec<u8>>)> {
        let io = self.io.take().unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(io).await?;
        let session = tls.get_ref().1;
        let name = session.server_name().map(str::to_owned);
        let protocol = session.alpn_protocol().map(<[u8]>::to_vec);
        self.io = Some(Box::pin(tls));
        Ok((name, protocol))
    }

    pub async fn start_tls_as_server(&mut self) {
        assert_eq!(self.heard, "", "clear text before TLS");
        let io = self.io.take().unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(server_tls()).accept(io).await.unwrap();
        self.io = Some(Box::pin(tls));
    }
}

pub fn header(from: &str, to: &str, id: &str) -> String {
    let id = if id.is_empty() {
        String::new()
    } else {
        format!(" id='{id}'")
    };
    format!(
        "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:db='jabber:server:dialback' \
         xmlns:stream='http://etherx.jabber.org/streams' from='{from}' to='{to}'{id} version='1.0'>"
    )
}

/// The value of an attribute in a piece of XML written by the edge.
pub fn attribute(xml: &str, element: &str, name: &str) -> String {
    let start = xml
        .rfind(&format!("<{element}"))
        .unwrap_or_else(|| panic!("no <{element} in {xml}"));
    let rest = &xml[start..];
    let at = rest
        .find(&format!(" {name}='"))
        .unwrap_or_else(|| panic!("no {name} in {rest}"));
    rest[at + name.len() + 3..].split('\'').next().unwrap().to_owned()
}

/// The remote server: takes streams of the edge and opens streams to it.
pub struct Peer {
    pub listener: TcpListener,
    pub domain: &'static str,
}

impl Peer {
    pub async fn new(domain: &'static str) -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            domain,
        }
    }

    /// Takes one connection of the edge through STARTTLS to features with dialback.
    pub async fn accept(&self, id: &str) -> Speaker {
        let mut peer = self.accept_tls_with(id).await;
        peer.say(
            "<stream:features><dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback></stream:features>",
        )
        .await;
        peer
    }

    /// The same up to our second header.
    pub async fn accept_tls_with(&self, id: &str) -> Speaker {
        let (mut peer, local) = self.accept_tls().await;
        peer.say(&header(self.domain, &local, id)).await;
        peer
    }

    /// The same up to the edge's second header; with the domain that it comes from.
    pub async fn accept_tls(&self) -> (Speaker, String) {
        let mut peer = self.accept_tcp().await;
        let first = peer.hear("version='1.0'>").await;
        assert!(first.contains("xmlns:db='jabber:server:dialback'"), "{first}");
        assert_eq!(attribute(&first, "stream:stream", "to"), self.domain);
        let local = attribute(&first, "stream:stream", "from");
        peer.say(&header(self.domain, &local, "clear-id")).await;
        peer.say("<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>").await;
        peer.hear("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
        peer.say("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
        peer.start_tls_as_server().await;
        peer.hear("version='1.0'>").await;
        (peer, local)
    }

    pub async fn accept_tcp(&self) -> Speaker {
        let (tcp, _) = timeout(PATIENCE, self.listener.accept())
            .await
            .expect("the edge did not connect to the peer")
            .unwrap();
        Speaker::new(tcp)
    }

    /// Opens a stream to the edge through STARTTLS; gives the id of the edge's last header.
    pub async fn open(&self, edge: SocketAddr, to: &str) -> (Speaker, String) {
        self.open_on(Speaker::connect(edge).await, to).await
    }

    /// The same on a connection that exists.
    pub async fn open_on(&self, mut peer: Speaker, to: &str) -> (Speaker, String) {
        peer.say(&header(self.domain, to, "")).await;
        let features = peer.hear("</stream:features>").await;
        assert!(features.contains("<required/>"), "{features}");
        peer.say("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
        peer.hear("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
        peer.start_tls_as_client(to).await;
        peer.say(&header(self.domain, to, "")).await;
        let text = peer.hear("</stream:features>").await;
        assert!(text.contains("<errors/>"), "{text}");
        let id = attribute(&text, "stream:stream", "id");
        (peer, id)
    }

    /// Opens a stream with TLS from the first byte.
    pub async fn open_direct(&self, edge: SocketAddr, to: &str) -> (Speaker, String) {
        let mut peer = Speaker::connect(edge).await;
        peer.start_tls_as_client(to).await;
        peer.say(&header(self.domain, to, "")).await;
        let text = peer.hear("</stream:features>").await;
        assert!(text.contains("<errors/>"), "{text}");
        let id = attribute(&text, "stream:stream", "id");
        (peer, id)
    }

    /// Opens a stream and authenticates the pair on it.
    pub async fn open_authenticated(&self, edge: SocketAddr, to: &str) -> Speaker {
        let (mut peer, id) = self.open(edge, to).await;
        self.authenticate(&mut peer, &id, to).await;
        peer
    }

    /// Shows a key on `peer` and plays the authoritative server for it.
    pub async fn authenticate(&self, peer: &mut Speaker, id: &str, to: &str) {
        let from = self.domain;
        peer.say(&format!("<db:result from='{from}' to='{to}'>some-key</db:result>"))
            .await;
        let mut verifying = self.accept("verify-stream").await;
        let asked = verifying.hear("</db:verify>").await;
        assert_eq!(attribute(&asked, "db:verify", "from"), to);
        assert_eq!(attribute(&asked, "db:verify", "to"), from);
        assert_eq!(attribute(&asked, "db:verify", "id"), id);
        assert!(asked.contains(">some-key<"), "{asked}");
        verifying
            .say(&format!("<db:verify from='{from}' to='{to}' id='{id}' type='valid'/>"))
            .await;
        let answer = peer.hear("type='valid'/>").await;
        assert_eq!(attribute(&answer, "db:result", "from"), to);
        assert_eq!(attribute(&answer, "db:result", "to"), from);
    }

    /// Takes the edge's stream for stanzas and believes its key.
    pub async fn accept_authenticated(&self, from: &str) -> Speaker {
        let mut peer = self.accept("outbound-id").await;
        let result = peer.hear("</db:result>").await;
        assert_eq!(attribute(&result, "db:result", "from"), from);
        let to = self.domain;
        peer.say(&format!("<db:result from='{to}' to='{from}' type='valid'/>"))
            .await;
        peer
    }
}

/// An XCP router: handshake, echo of pings, everything else is heard through a channel.
pub struct Router {
    pub listener: TcpListener,
}

/// One link as the router sees it.
pub struct RouterLink {
    pub heard: mpsc::UnboundedReceiver<String>,
    say: mpsc::UnboundedSender<String>,
    pub echo: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Router {
    pub async fn new() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    pub async fn accept(&self) -> RouterLink {
        RouterLink::start(self.accept_stream().await)
    }

    /// A link that is up and that nobody reads yet.
    pub async fn accept_stream(&self) -> Speaker {
        let mut speaker = self.accept_header().await;
        let handshake = speaker.hear("</handshake>").await;
        // SHA-1("router-stream" + "router-secret")
        assert!(
            handshake.contains("d66b21135a20916ec1e6ab86b00e7cc9445f3264"),
            "{handshake}"
        );
        speaker.say("<handshake/>").await;
        speaker
    }

    pub async fn accept_header(&self) -> Speaker {
        let mut speaker = self.accept_tcp().await;
        let opened = speaker.hear("accept'").await + &speaker.hear(">").await;
        assert_eq!(attribute(&opened, "stream:stream", "to"), COMPONENT);
        speaker
            .say(&format!(
                "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' \
                 xmlns:stream='http://etherx.jabber.org/streams' from='{COMPONENT}' id='router-stream'>"
            ))
            .await;
        speaker
    }

    pub async fn accept_tcp(&self) -> Speaker {
        let (tcp, _) = timeout(PATIENCE, self.listener.accept())
            .await
            .expect("the edge did not dial the router")
            .unwrap();
        Speaker::new(tcp)
    }

    /// Profile Xcp: a link that was accepted, whose component has announced itself.
    pub async fn accept_xcp_stream(&self) -> Speaker {
        let mut speaker = self.accept_tcp().await;
        let opened = speaker.hear("<stream:stream").await + &speaker.hear(">").await;
        assert_eq!(
            opened,
            format!(
                "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' \
                 xmlns:stream='http://etherx.jabber.org/streams' to='{COMPONENT}' id='{COMPONENT}' version='1.0'>"
            )
        );
        speaker
            .say(&format!(
                "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' \
                 xmlns='jabber:component:accept' from='{COMPONENT}' id='65f0c3a1' \
                 xmlns:jd='http://jabber.com/config/jabberd' jd:realm='jabber'><stream:features/>"
            ))
            .await;
        // SHA-1("65f0c3a1" + "router-secret")
        assert_eq!(
            speaker.hear("</handshake>").await,
            "<handshake>c53c932f23615d1856c351e88a8c5527a38e3f20</handshake>"
        );
        speaker.say("<handshake/>").await;
        assert_eq!(
            speaker.hear("</route>").await,
            format!(
                "<route from='{COMPONENT}' to='presence@-internal' type='component-presence'>\
                 <presence from='{COMPONENT}' to='presence@-internal'>\
                 <x xmlns='http://www.jabber.com/schemas/component-presence.xsd' protocol-version='1.1'/>\
                 </presence></route>"
            )
        );
        speaker
    }

    /// Profile Xcp: a link that was accepted and hears of the router's own connection manager.
    pub async fn accept_xcp(&self) -> RouterLink {
        let mut speaker = self.accept_xcp_stream().await;
        speaker.say(&announced("cm-1.jabber", "<local-hosts/>")).await;
        RouterLink::start(speaker)
    }
}

/// What a router says of the component that is its way to foreign domains.
pub const GATEWAY: &str = "<local-hosts><host>cm-2_s2scp-1.eft-xwye-a-coluc-com</host></local-hosts><default-gateway/>";

/// A router's announcement of a component.
pub fn announced(component: &str, inside: &str) -> String {
    format!(
        "<route from='{component}' to='{COMPONENT}' type='component-presence'>\
         <presence from='{component}' to='{COMPONENT}'>\
         <x xmlns='http://www.jabber.com/schemas/component-presence.xsd' protocol-version='1.1'>{inside}</x>\
         </presence></route>"
    )
}

impl RouterLink {
    pub fn start(speaker: Speaker) -> Self {
        Self::start_at(speaker, f64::INFINITY)
    }

    /// The same with a router that processes only so many stanzas in a second.
    pub fn start_at(speaker: Speaker, per_second: f64) -> Self {
        let each = Duration::from_secs_f64(per_second.recip());
        let (heard_tx, heard) = mpsc::unbounded_channel();
        let (say, mut say_rx) = mpsc::unbounded_channel::<String>();
        let echo = Arc::new(AtomicBool::new(true));
        let echoing = echo.clone();
        let task = tokio::spawn(async move {
            let Speaker { io, mut heard } = speaker;
            let (mut read, mut write) = tokio::io::split(io.unwrap());
            let mut bytes = vec![0; 64 * 1024];
            let mut due = Instant::now();
            loop {
                while let Some(end) = end_of_first_element(&heard) {
                    let rest = heard.split_off(end);
                    let element = std::mem::replace(&mut heard, rest);
                    let is_ping = element.starts_with("<iq") || element.starts_with("<route");
                    if is_ping && element.contains("id='proof-") {
                        if echoing.load(Ordering::SeqCst) {
                            let _ = write.write_all(element.as_bytes()).await;
                        }
                    } else {
                        due = due.max(Instant::now()) + each;
                        if due > Instant::now() + Duration::from_millis(5) {
                            tokio::time::sleep_until(due).await;
                        }
                        let _ = heard_tx.send(element);
                    }
                }
                tokio::select! {
                    read = read.read(&mut bytes) => match read {
                        Ok(0) | Err(_) => return,
                        Ok(n) => heard.push_str(&String::from_utf8_lossy(&bytes[..n])),
                    },
                    said = say_rx.recv() => match said {
                        Some(text) if text.is_empty() => return,
                        Some(text) => { let _ = write.write_all(text.as_bytes()).await; }
                        None => return,
                    },
                }
            }
        });
        Self { heard, say, echo, task }
    }

    pub fn say(&self, text: &str) {
        let _ = self.say.send(text.to_owned());
    }

    /// A way to say something from another task.
    pub fn sayer(&self) -> impl Fn(&str) + Send + 'static {
        let say = self.say.clone();
        move |text| {
            let _ = say.send(text.to_owned());
        }
    }

    /// The next element that is no ping.
    pub async fn hear(&mut self) -> String {
        timeout(PATIENCE, self.heard.recv())
            .await
            .expect("nothing came over the link")
            .expect("the link ended")
    }

    /// Breaks the connection without a word; gives what had been taken by then.
    pub async fn cut(mut self) -> Vec<String> {
        self.task.abort();
        let _ = self.task.await;
        let mut taken = Vec::new();
        while let Ok(element) = self.heard.try_recv() {
            taken.push(element);
        }
        taken
    }
}

/// Where the first element of the edge's plain output ends; texts hold no `<`.
pub fn end_of_first_element(xml: &str) -> Option<usize> {
    if xml.starts_with("</stream:stream>") {
        return Some("</stream:stream>".len());
    }
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(open) = xml[at..].find('<') {
        let start = at + open;
        if xml[start..].starts_with("<![CDATA[") {
            at = start + xml[start..].find("]]>")? + 3;
            continue;
        }
        let end = start + xml[start..].find('>')? + 1;
        let tag = &xml[start..end];
        if tag.starts_with("</") {
            depth -= 1;
        } else if !tag.ends_with("/>") {
            depth += 1;
        }
        if depth == 0 {
            return Some(end);
        }
        at = end;
    }
    None
}

/// A running edge.
pub struct Lab {
    pub edge: Arc<Edge>,
    pub s2s: SocketAddr,
    pub direct_tls: SocketAddr,
    pub live: watch::Sender<Arc<Live>>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// What [`Lab::start`] begins with.
pub fn config(peers: &[&Peer], routers: &[&Router]) -> EdgeConfig {
    let ways: String = peers
        .iter()
        .map(|peer| {
            let address = peer.listener.local_addr().unwrap();
            let domain = Domain::parse(peer.domain).unwrap();
            format!("- domain: {domain}\n  addresses: ['{address}']\n")
        })
        .collect();
    let endpoints: String = routers
        .iter()
        .enumerate()
        .map(|(n, router)| {
            let address = router.listener.local_addr().unwrap();
            format!("  - name: node{n}\n    address: '{address}'\n")
        })
        .collect();
    let (ways, endpoints) = (
        if ways.is_empty() {
            "[]\n".into()
        } else {
            format!("\n{ways}")
        },
        if endpoints.is_empty() {
            "[]\n".into()
        } else {
            format!("\n{endpoints}")
        },
    );
    EdgeConfig::from_yaml(&format!(
        "domains: [coluc.com, conf.coluc.com]\n\
         dialback: {{sign: /nowhere}}\n\
         tls:\n  certificates: [{{certificateFile: /nowhere, privateKeyFile: /nowhere}}]\n\
         staticRoutes: {ways}\
         routers:\n- name: main\n  componentIds: [{COMPONENT}]\n  secretFile: /nowhere\n  endpoints: {endpoints}\
         drainDelay: 0s\n"
    ))
    .unwrap()
}

pub fn live(config: EdgeConfig) -> Live {
    Live {
        budget: Budget::new(MemoryLimit::of_this_process(), &config.limits),
        config_hash: String::new(),
        hosted: config.domains.iter().cloned().collect::<HashSet<_>>(),
        policy: Policy::new(&config),
        dialback: DialbackSecrets::new(SecretBytes::new(SECRET.into()), vec![]),
        tls: TlsSettings::new(Some(server_tls()), Some(client_tls())),
        resolver: Arc::new(Resolver::new(&config)),
        router_secrets: vec![SecretBytes::new(b"router-secret".to_vec())],
        warnings: Vec::new(),
        files: Vec::new(),
        config,
    }
}

impl Lab {
    pub fn start(live: Live) -> Self {
        Self::start_with(live, Timing::default())
    }

    /// With other times on the links than a router deserves.
    pub fn start_with(live: Live, timing: Timing) -> Self {
        static LOG: std::sync::Once = std::sync::Once::new();
        LOG.call_once(|| {
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_test_writer()
                .init();
        });
        let listener = listen::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let s2s = listener.local_addr().unwrap();
        let direct = listen::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let direct_tls = direct.local_addr().unwrap();
        let listeners = Listeners {
            s2s: listener,
            direct_tls: Some(direct),
        };
        let (live, rx) = watch::channel(Arc::new(live));
        let edge = Edge::with_timing(
            rx,
            0,
            Arc::new(Metrics::default()),
            Arc::new(Registry::default()),
            timing,
        );
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(edge.clone().run(listeners, async move {
            let _ = stopped.await;
        }));
        Self {
            edge,
            s2s,
            direct_tls,
            live,
            stop: Some(stop),
            task,
        }
    }

    /// An edge with one peer, one router and this configuration; the first link is up, and no other is taken.
    pub async fn configured(change: impl FnOnce(&mut EdgeConfig)) -> (Self, Peer, RouterLink) {
        let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
        let mut config = config(&[&peer], &[&router]);
        change(&mut config);
        let lab = Self::start(live(config));
        let link = router.accept().await;
        (lab, peer, link)
    }

    /// An edge with one peer and one router, the link up.
    pub async fn with_link() -> (Self, Peer, Router, RouterLink) {
        let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
        let lab = Self::start(live(config(&[&peer], &[&router])));
        let link = router.accept().await;
        (lab, peer, router, link)
    }

    /// What is counted, as Prometheus reads it.
    pub fn metric(&self, line: &str) -> u64 {
        let text = self.edge.metrics.render(&self.edge.registry);
        let value = text.lines().find_map(|found| found.strip_prefix(line));
        value.map_or(0, |value| value.trim().parse().unwrap())
    }

    /// Waits until something is so.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
    }

    /// SIGTERM.
    pub fn begin_stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    pub async fn stopped(self) {
        timeout(Duration::from_secs(40), self.task)
            .await
            .expect("the edge did not stop")
            .unwrap();
    }
}

/// A partner that nobody attacks, with a stream each way: what others suffer is seen here.
pub struct Bystander {
    _peer: Peer,
    inward: Speaker,
    outward: Speaker,
    count: usize,
}

impl Bystander {
    pub const DOMAIN: &'static str = "bystander.example";

    async fn new(lab: &Lab, peer: Peer, link: &mut RouterLink) -> Self {
        let inward = peer.open_authenticated(lab.s2s, "coluc.com").await;
        link.say(&Self::message("alice@coluc.com", "carol@bystander.example", 0));
        let mut outward = peer.accept_authenticated("coluc.com").await;
        outward.hear("id='bystander-0'/>").await;
        Self {
            _peer: peer,
            inward,
            outward,
            count: 0,
        }
    }

    fn message(from: &str, to: &str, n: usize) -> String {
        format!("<message from='{from}' to='{to}' id='bystander-{n}'/>")
    }

    /// One message in and one out over the streams that it has; gives everything else that came
    /// over the link meanwhile.
    pub async fn exchange(&mut self, link: &mut RouterLink) -> Vec<String> {
        let (alice, carol) = ("alice@coluc.com", "carol@bystander.example");
        self.count += 1;
        let id = format!("id='bystander-{}'", self.count);
        self.inward.say(&Self::message(carol, alice, self.count)).await;
        let mut others = Vec::new();
        loop {
            let heard = link.hear().await;
            if heard.contains(&id) {
                break;
            }
            if !heard.contains("id='bystander-") {
                others.push(heard);
            }
        }
        link.say(&Self::message(alice, carol, self.count));
        self.outward.hear(&format!("{id}/>")).await;
        others
    }

    /// Exchanges messages for as long as something else lasts, and once more after it; gives
    /// everything else that came over the link.
    pub async fn during<T>(&mut self, link: &mut RouterLink, other: impl Future<Output = T>) -> (T, Vec<String>) {
        let mut others = Vec::new();
        let done = {
            let exchanging = async {
                loop {
                    others.extend(self.exchange(link).await);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::select! {
                done = other => done,
                () = exchanging => unreachable!(),
            }
        };
        others.extend(self.exchange(link).await);
        (done, others)
    }
}

/// An edge with a hostile or odd peer, `vngtp.lab`, and a bystander.
pub struct Scene {
    pub lab: Lab,
    pub peer: Peer,
    pub link: RouterLink,
    pub bystander: Bystander,
}

impl Scene {
    pub async fn new() -> Self {
        Self::with(|_| {}, |_| {}).await
    }

    pub async fn with(configure: impl FnOnce(&mut EdgeConfig), prepare: impl FnOnce(&mut Live)) -> Self {
        let (peer, other) = (Peer::new("vngtp.lab").await, Peer::new(Bystander::DOMAIN).await);
        let router = Router::new().await;
        let mut config = config(&[&peer, &other], &[&router]);
        configure(&mut config);
        let mut live = live(config);
        prepare(&mut live);
        let lab = Lab::start(live);
        let mut link = router.accept().await;
        let bystander = Bystander::new(&lab, other, &mut link).await;
        Self {
            lab,
            peer,
            link,
            bystander,
        }
    }
}
