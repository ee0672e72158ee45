//! An edge with certificates, and peers that show some. What is refused is known by the check that its log line names.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use tokio::net::TcpStream;
use tracing::Level;
use xmpp_federation_core::edge_config::{EdgeConfig, TlsMode};

use crate::support::log::Log;
use crate::support::pki::{Identity, client, partners, pki, server_of};
use crate::support::{
    DIALBACK, Lab, PROCEED, Peer, Router, RouterLink, STARTTLS, Speaker, VALID, attribute, config, features, header,
};

pub(super) const HEADER_END: &str = "version='1.0'>";
pub(super) const MESSAGE: &str =
    "<message from='alice@coluc.com/pc' to='bob@vngtp.lab' id='m1'><body>x</body></message>";

pub(super) const OFFERS_EXTERNAL: &str = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1</mechanism><mechanism>EXTERNAL</mechanism></mechanisms>";
pub(super) struct World {
    pub(super) lab: Lab,
    pub(super) peer: Peer,
    pub(super) link: RouterLink,
    pub(super) config: EdgeConfig,
    pub(super) log: Log,
    _router: Router,
}

impl World {
    pub(super) async fn new(change: impl FnOnce(&mut EdgeConfig)) -> Self {
        Self::with_files(change, &[]).await
    }

    pub(super) async fn with_files(change: impl FnOnce(&mut EdgeConfig), files: &[(&str, &str)]) -> Self {
        let log = Log::start(Level::INFO);
        let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
        let mut config = config(&[&peer], &[&router]);
        change(&mut config);
        let lab = Lab::start(pki().live_with(config.clone(), files));
        let link = router.accept().await;
        Self {
            lab,
            peer,
            link,
            config,
            log,
            _router: router,
        }
    }

    pub(super) fn reload(&self, change: impl FnOnce(&mut EdgeConfig), files: &[(&str, &str)]) {
        let mut config = self.config.clone();
        change(&mut config);
        let live = pki().live_with(config, files);
        self.lab.live.send(Arc::new(live)).unwrap();
    }

    pub(super) fn peer_address(&self) -> SocketAddr {
        self.peer.listener.local_addr().unwrap()
    }

    pub(super) async fn refused_by(&self, peer: SocketAddr, check: &str, says: &str) {
        let (found, reason) = self.log.refusal(peer).await;
        assert_eq!(found, check, "{reason}");
        assert!(reason.contains(says), "{reason}");
    }

    /// The mechanisms of the authenticated pairs in this direction.
    pub(super) fn mechanisms(&self, direction: &str) -> Vec<&'static str> {
        let streams = self.lab.edge.registry.streams(None);
        let streams = streams.iter().filter(|s| s.direction == direction);
        streams
            .flat_map(|s| s.detail.pairs.iter().map(|pair| pair.mechanism))
            .collect()
    }
}

/// A connection to the edge.
pub(super) struct Inbound {
    pub(super) speaker: Speaker,
    pub(super) address: SocketAddr,
    pub(super) id: String,
    pub(super) features: String,
}

impl Inbound {
    /// Sends a header and hears the features.
    pub(super) async fn open(edge: SocketAddr, header: &str) -> Self {
        let tcp = TcpStream::connect(edge).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let mut inbound = Self {
            speaker: Speaker::new(tcp),
            address,
            id: String::new(),
            features: String::new(),
        };
        inbound.header(header).await;
        inbound
    }

    pub(super) async fn header(&mut self, header: &str) {
        self.speaker.say(header).await;
        self.features = self.speaker.hear("</stream:features>").await;
        self.id = attribute(&self.features, "stream:stream", "id");
    }

    pub(super) async fn from_peer(edge: SocketAddr) -> Self {
        Self::open(edge, &header("vngtp.lab", "coluc.com", "")).await
    }

    /// Starts TLS and begins the stream anew.
    pub(super) async fn secure(&mut self, config: Arc<rustls::ClientConfig>) {
        self.start_tls(config).await.unwrap();
        self.header(&header("vngtp.lab", "coluc.com", "")).await;
    }

    pub(super) async fn start_tls(&mut self, config: Arc<rustls::ClientConfig>) -> std::io::Result<()> {
        self.speaker.say(STARTTLS).await;
        self.speaker.hear(PROCEED).await;
        self.speaker.tls_client(config, "coluc.com").await
    }

    /// A stream over TLS whose peer shows this.
    pub(super) async fn secured(edge: SocketAddr, shown: Option<&Identity>) -> Self {
        let mut inbound = Self::from_peer(edge).await;
        inbound.secure(client(shown)).await;
        inbound
    }

    pub(super) async fn auth(&mut self, identity: &str) -> String {
        let auth = format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>{identity}</auth>");
        self.speaker.say(&auth).await;
        let ends = ["<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", "</failure>"];
        self.speaker.hear_any(&ends).await.expect("no answer")
    }

    /// A stream that SASL EXTERNAL authenticated.
    pub(super) async fn external(edge: SocketAddr, shown: &Identity) -> Self {
        let mut inbound = Self::secured(edge, Some(shown)).await;
        assert!(inbound.offers_external(), "{}", inbound.features);
        assert!(inbound.auth("=").await.contains("<success"));
        inbound.header(&header("vngtp.lab", "coluc.com", "")).await;
        inbound
    }

    pub(super) fn offers_external(&self) -> bool {
        self.features.contains(
            "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>",
        )
    }

    /// Shows a key and hears the condition of the dialback error.
    pub(super) async fn refused(&mut self, element: &str) -> String {
        self.speaker.say(element).await;
        let answer = self
            .speaker
            .hear_any(&["</db:result>", "</db:verify>", "type='valid'/>"])
            .await
            .unwrap();
        let condition = answer.split("<error type='cancel'><").nth(1);
        let condition = condition.unwrap_or_else(|| panic!("no error: {answer}"));
        condition.split(' ').next().unwrap().to_owned()
    }

    pub(super) async fn passes(&mut self, link: &mut RouterLink, id: &str) {
        let message = format!("<message from='bob@vngtp.lab' to='alice@coluc.com' id='{id}'/>");
        self.speaker.say(&message).await;
        assert_eq!(link.hear().await, message);
    }

    /// The condition of the stream error that ends the stream.
    pub(super) async fn ends_with(&mut self) -> String {
        let text = self.speaker.hear("</stream:stream>").await;
        let error = text.split("<stream:error><").nth(1);
        let error = error.unwrap_or_else(|| panic!("no error in {text}"));
        error.split([' ', '/']).next().unwrap().to_owned()
    }
}

/// What a peer that the edge connects to does.
#[derive(Clone, Copy)]
pub(super) struct Host<'a> {
    /// Its own mode: Disabled offers no TLS.
    pub(super) mode: TlsMode,
    pub(super) shows: &'a Identity,
    pub(super) versions: &'a [&'static SupportedProtocolVersion],
}

pub(super) const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

impl<'a> Host<'a> {
    pub(super) fn new(mode: TlsMode, shows: &'a Identity) -> Self {
        Self {
            mode,
            shows,
            versions: &VERSIONS,
        }
    }

    /// Takes a connection up to the first thing that the edge says after features (`ends`), which
    /// is the second part; `None` if the edge gives up. The third: whether TLS is up.
    pub(super) async fn take(&self, peer: &Peer, offers: &str, ends: &[&str]) -> Option<(Speaker, String, bool)> {
        let mut edge = peer.accept_tcp().await;
        let first = edge.hear_any(&[HEADER_END]).await?;
        let to = attribute(&first, "stream:stream", "from");
        edge.say(&header("vngtp.lab", &to, "clear-id")).await;
        let starttls = match self.mode {
            TlsMode::Required => "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>",
            TlsMode::Optional => STARTTLS,
            TlsMode::Disabled => "",
        };
        edge.say(&features(&format!("{starttls}{DIALBACK}"))).await;
        let mut said = edge.hear_any(&[&[STARTTLS], ends].concat()).await?;
        let secure = said == STARTTLS;
        if secure {
            edge.say(PROCEED).await;
            let config = server_of(self.shows, self.versions);
            let (name, _) = edge.tls_server(config).await.ok()?;
            assert_eq!(name.as_deref(), Some("vngtp.lab"), "SNI is the domain");
            edge.hear_any(&[HEADER_END]).await?;
            edge.say(&header("vngtp.lab", &to, "secure-id")).await;
            edge.say(&features(&format!("{offers}{DIALBACK}"))).await;
            said = edge.hear_any(ends).await?;
        }
        Some((edge, said, secure))
    }

    /// Answers one `db:verify` with `valid`.
    pub(super) async fn verifies(&self, peer: &Peer) {
        let taken = self.take(peer, "", &["</db:verify>"]).await;
        let (mut edge, asked, _) = taken.expect("the edge does not ask");
        let (from, to, id) = (
            attribute(&asked, "db:verify", "to"),
            attribute(&asked, "db:verify", "from"),
            attribute(&asked, "db:verify", "id"),
        );
        edge.say(&format!("<db:verify from='{from}' to='{to}' id='{id}' type='valid'/>"))
            .await;
    }

    /// Believes the edge's key and hears the message; whether TLS was up.
    pub(super) async fn is_written_to(&self, peer: &Peer) -> Option<bool> {
        let (mut edge, _, secure) = self.take(peer, "", &["</db:result>"]).await?;
        edge.say(VALID).await;
        edge.hear("</message>").await;
        Some(secure)
    }
}

pub(super) fn identity(shown: &str) -> Option<Identity> {
    Some(match shown {
        "missing" => return None,
        "self-signed" => Identity::self_signed(&["vngtp.lab"]),
        "expired" => pki().issue(&["vngtp.lab"], |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }),
        "wrong-name" => pki().issue(&["other.example"], |_| {}),
        "valid" => partners().clone(),
        other => panic!("{other}"),
    })
}

/// What the reason of a refusal must say.
pub(super) fn must_say(outcome: &str, shown: &str) -> &'static str {
    match (outcome, shown) {
        ("certificate", "missing") => "no certificate was shown",
        ("certificate", "self-signed") => "no trusted authority issued it",
        ("certificate", "expired") => "expired 2021-01-01",
        ("certificate", "wrong-name") => "do not cover vngtp.lab; it names other.example",
        ("tls-required", _) => "required of vngtp.lab",
        ("tls-disabled", _) => "TLS, which is disabled for it here",
        _ => "",
    }
}

pub(super) fn required(config: &mut EdgeConfig) {
    config.tls.require_client_certificates = true;
    for domain in ["other.example", "xmpp.vngtp.lab"] {
        config.privacy.domains.push(domain.parse().unwrap());
    }
}
