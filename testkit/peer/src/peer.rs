//! The remote server.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::{DIALBACK, PATIENCE, PROCEED, STARTTLS, Speaker, attribute, features, header};

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
        peer.say(&features(DIALBACK)).await;
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
        peer.hear(STARTTLS).await;
        peer.say(PROCEED).await;
        peer.start_tls_as_server().await;
        peer.hear("version='1.0'>").await;
        (peer, local)
    }

    /// Takes one connection of the edge and hears its question about a key.
    pub async fn accept_question(&self) -> Speaker {
        let mut peer = self.accept("v").await;
        peer.hear("</db:verify>").await;
        peer
    }

    /// Takes one connection of the edge, which may also do without TLS, to where it asks for TLS.
    pub async fn accept_starttls(&self) -> Speaker {
        let mut peer = self.accept_tcp().await;
        peer.hear("version='1.0'>").await;
        peer.say(&header(self.domain, "coluc.com", "clear-id")).await;
        peer.say(&features(&format!("{STARTTLS}{DIALBACK}"))).await;
        peer.hear(STARTTLS).await;
        peer
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
        let features = peer.open(&header(self.domain, to, "")).await;
        assert!(features.contains("<required/>"), "{features}");
        peer.starttls().await;
        self.open_over_tls(peer, to).await
    }

    /// Opens a stream with TLS from the first byte.
    pub async fn open_direct(&self, edge: SocketAddr, to: &str) -> (Speaker, String) {
        self.open_over_tls(Speaker::connect(edge).await, to).await
    }

    async fn open_over_tls(&self, mut peer: Speaker, to: &str) -> (Speaker, String) {
        peer.start_tls_as_client(to).await;
        let text = peer.open(&header(self.domain, to, "")).await;
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

    /// The stream for stanzas of coluc.com, which is taken when it is first needed.
    pub async fn accepted<'a>(&self, stream: &'a mut Option<Speaker>) -> &'a mut Speaker {
        if stream.is_none() {
            *stream = Some(self.accept_authenticated("coluc.com").await);
        }
        stream.as_mut().unwrap()
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
