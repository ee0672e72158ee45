//! Security modes, certificates and SASL EXTERNAL, both directions: the edge against peers that
//! speak bytes. What is refused is known by the check that its log line names.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DnType};
use rstest::rstest;
use rustls::SupportedProtocolVersion;
use tokio::net::TcpStream;
use tracing::Level;
use xmpp_federation_core::edge_config::{EdgeConfig, TlsMode, TlsVersion};

use crate::support::log::Log;
use crate::support::pki::{Identity, client, client_of, files, partners, pki, server, server_of};
use crate::support::{
    self, KEY, Lab, PROCEED, Peer, Router, RouterLink, STARTTLS, Speaker, VALID, answered, attribute, config, header,
    pin, terms, to_alice, verified,
};

const HEADER_END: &str = "version='1.0'>";
const MESSAGE: &str = "<message from='alice@coluc.com/pc' to='bob@vngtp.lab' id='m1'><body>x</body></message>";
const DIALBACK: &str = "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback></stream:features>";

// --- an edge with certificates, and peers -----------------------------------------------------

struct World {
    lab: Lab,
    peer: Peer,
    link: RouterLink,
    config: EdgeConfig,
    log: Log,
    _router: Router,
}

impl World {
    async fn new(change: impl FnOnce(&mut EdgeConfig)) -> Self {
        Self::with_files(change, &[]).await
    }

    async fn with_files(change: impl FnOnce(&mut EdgeConfig), files: &[(&str, &str)]) -> Self {
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

    fn reload(&self, change: impl FnOnce(&mut EdgeConfig), files: &[(&str, &str)]) {
        let mut config = self.config.clone();
        change(&mut config);
        let live = pki().live_with(config, files);
        self.lab.live.send(Arc::new(live)).unwrap();
    }

    fn peer_address(&self) -> SocketAddr {
        self.peer.listener.local_addr().unwrap()
    }

    async fn refused_by(&self, peer: SocketAddr, check: &str, says: &str) {
        let (found, reason) = self.log.refusal(peer).await;
        assert_eq!(found, check, "{reason}");
        assert!(reason.contains(says), "{reason}");
    }

    /// The mechanisms of the authenticated pairs in this direction.
    fn mechanisms(&self, direction: &str) -> Vec<&'static str> {
        let streams = self.lab.edge.registry.streams(None);
        let streams = streams.iter().filter(|s| s.direction == direction);
        streams
            .flat_map(|s| s.detail.pairs.iter().map(|pair| pair.mechanism))
            .collect()
    }
}

/// A connection to the edge.
struct Inbound {
    speaker: Speaker,
    address: SocketAddr,
    id: String,
    features: String,
}

impl Inbound {
    /// Sends a header and hears the features.
    async fn open(edge: SocketAddr, header: &str) -> Self {
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

    async fn header(&mut self, header: &str) {
        self.speaker.say(header).await;
        self.features = self.speaker.hear("</stream:features>").await;
        self.id = attribute(&self.features, "stream:stream", "id");
    }

    async fn from_peer(edge: SocketAddr) -> Self {
        Self::open(edge, &header("vngtp.lab", "coluc.com", "")).await
    }

    /// Starts TLS and begins the stream anew.
    async fn secure(&mut self, config: Arc<rustls::ClientConfig>) {
        self.start_tls(config).await.unwrap();
        self.header(&header("vngtp.lab", "coluc.com", "")).await;
    }

    async fn start_tls(&mut self, config: Arc<rustls::ClientConfig>) -> std::io::Result<()> {
        self.speaker.say(STARTTLS).await;
        self.speaker.hear(PROCEED).await;
        self.speaker.tls_client(config, "coluc.com").await
    }

    /// A stream over TLS whose peer shows this.
    async fn secured(edge: SocketAddr, shown: Option<&Identity>) -> Self {
        let mut inbound = Self::from_peer(edge).await;
        inbound.secure(client(shown)).await;
        inbound
    }

    async fn auth(&mut self, identity: &str) -> String {
        let auth = format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>{identity}</auth>");
        self.speaker.say(&auth).await;
        let ends = ["<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", "</failure>"];
        self.speaker.hear_any(&ends).await.expect("no answer")
    }

    /// A stream that SASL EXTERNAL authenticated.
    async fn external(edge: SocketAddr, shown: &Identity) -> Self {
        let mut inbound = Self::secured(edge, Some(shown)).await;
        assert!(inbound.offers_external(), "{}", inbound.features);
        assert!(inbound.auth("=").await.contains("<success"));
        inbound.header(&header("vngtp.lab", "coluc.com", "")).await;
        inbound
    }

    fn offers_external(&self) -> bool {
        self.features.contains(
            "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>",
        )
    }

    /// Shows a key and hears the condition of the dialback error.
    async fn refused(&mut self, element: &str) -> String {
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

    async fn passes(&mut self, link: &mut RouterLink, id: &str) {
        let message = format!("<message from='bob@vngtp.lab' to='alice@coluc.com' id='{id}'/>");
        self.speaker.say(&message).await;
        assert_eq!(link.hear().await, message);
    }

    /// The condition of the stream error that ends the stream.
    async fn ends_with(&mut self) -> String {
        let text = self.speaker.hear("</stream:stream>").await;
        let error = text.split("<stream:error><").nth(1);
        let error = error.unwrap_or_else(|| panic!("no error in {text}"));
        error.split([' ', '/']).next().unwrap().to_owned()
    }
}

/// What a peer that the edge connects to does.
#[derive(Clone, Copy)]
struct Host<'a> {
    /// Its own mode: Disabled offers no TLS.
    mode: TlsMode,
    shows: &'a Identity,
    versions: &'a [&'static SupportedProtocolVersion],
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

impl<'a> Host<'a> {
    fn new(mode: TlsMode, shows: &'a Identity) -> Self {
        Self {
            mode,
            shows,
            versions: &VERSIONS,
        }
    }

    /// Takes a connection up to the first thing that the edge says after features (`ends`), which
    /// is the second part; `None` if the edge gives up. The third: whether TLS is up.
    async fn take(&self, peer: &Peer, offers: &str, ends: &[&str]) -> Option<(Speaker, String, bool)> {
        let mut edge = peer.accept_tcp().await;
        let first = edge.hear_any(&[HEADER_END]).await?;
        let to = attribute(&first, "stream:stream", "from");
        edge.say(&header("vngtp.lab", &to, "clear-id")).await;
        let starttls = match self.mode {
            TlsMode::Required => "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>",
            TlsMode::Optional => STARTTLS,
            TlsMode::Disabled => "",
        };
        edge.say(&format!("<stream:features>{starttls}{DIALBACK}")).await;
        let mut said = edge.hear_any(&[&[STARTTLS], ends].concat()).await?;
        let secure = said == STARTTLS;
        if secure {
            edge.say(PROCEED).await;
            let config = server_of(self.shows, self.versions);
            let (name, _) = edge.tls_server(config).await.ok()?;
            assert_eq!(name.as_deref(), Some("vngtp.lab"), "SNI is the domain");
            edge.hear_any(&[HEADER_END]).await?;
            edge.say(&header("vngtp.lab", &to, "secure-id")).await;
            edge.say(&format!("<stream:features>{offers}{DIALBACK}")).await;
            said = edge.hear_any(ends).await?;
        }
        Some((edge, said, secure))
    }

    /// Answers one `db:verify` with `valid`.
    async fn verifies(&self, peer: &Peer) {
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
    async fn is_written_to(&self, peer: &Peer) -> Option<bool> {
        let (mut edge, _, secure) = self.take(peer, "", &["</db:result>"]).await?;
        edge.say(VALID).await;
        edge.hear("</message>").await;
        Some(secure)
    }
}

// --- the matrix -------------------------------------------------------------------------------

const SHOWN: [&str; 5] = ["missing", "self-signed", "expired", "wrong-name", "valid"];

fn identity(shown: &str) -> Option<Identity> {
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

fn mode(text: &str) -> TlsMode {
    match text {
        "Required" => TlsMode::Required,
        "Optional" => TlsMode::Optional,
        "Disabled" => TlsMode::Disabled,
        other => panic!("{other}"),
    }
}

/// What the reason of a refusal must say.
fn must_say(outcome: &str, shown: &str) -> &'static str {
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

/// Columns: mode of the edge, are certificates required, mode of the peer, then the outcome for
/// each certificate that the peer shows. `config`: such a configuration is refused.
const INBOUND: &str = "
Required no  Required | dialback/tls   dialback/tls   dialback/tls   dialback/tls   external
Required no  Optional | dialback/tls   dialback/tls   dialback/tls   dialback/tls   external
Required no  Disabled | tls-required   tls-required   tls-required   tls-required   tls-required
Required yes Required | certificate    certificate    certificate    certificate    external
Required yes Optional | certificate    certificate    certificate    certificate    external
Required yes Disabled | tls-required   tls-required   tls-required   tls-required   tls-required
Optional no  Required | dialback/tls   dialback/tls   dialback/tls   dialback/tls   external
Optional no  Optional | dialback/tls   dialback/tls   dialback/tls   dialback/tls   external
Optional no  Disabled | dialback/clear dialback/clear dialback/clear dialback/clear dialback/clear
Optional yes Required | certificate    certificate    certificate    certificate    external
Optional yes Optional | certificate    certificate    certificate    certificate    external
Optional yes Disabled | tls-required   tls-required   tls-required   tls-required   tls-required
Disabled no  Required | tls-disabled   tls-disabled   tls-disabled   tls-disabled   tls-disabled
Disabled no  Optional | dialback/clear dialback/clear dialback/clear dialback/clear dialback/clear
Disabled no  Disabled | dialback/clear dialback/clear dialback/clear dialback/clear dialback/clear
Disabled yes Required | config         config         config         config         config
Disabled yes Optional | config         config         config         config         config
Disabled yes Disabled | config         config         config         config         config
";

/// The same where the edge connects. A TLS server always shows a certificate: no column for
/// `missing`.
const OUTBOUND: &str = "
Required no  Required | skipped dialback/tls   dialback/tls   dialback/tls   dialback/tls
Required no  Optional | skipped dialback/tls   dialback/tls   dialback/tls   dialback/tls
Required no  Disabled | skipped tls-required   tls-required   tls-required   tls-required
Required yes Required | skipped certificate    certificate    certificate    dialback/tls
Required yes Optional | skipped certificate    certificate    certificate    dialback/tls
Required yes Disabled | skipped tls-required   tls-required   tls-required   tls-required
Optional no  Required | skipped dialback/tls   dialback/tls   dialback/tls   dialback/tls
Optional no  Optional | skipped dialback/tls   dialback/tls   dialback/tls   dialback/tls
Optional no  Disabled | skipped dialback/clear dialback/clear dialback/clear dialback/clear
Optional yes Required | skipped certificate    certificate    certificate    dialback/tls
Optional yes Optional | skipped certificate    certificate    certificate    dialback/tls
Optional yes Disabled | skipped tls-required   tls-required   tls-required   tls-required
Disabled no  Required | skipped tls-disabled   tls-disabled   tls-disabled   tls-disabled
Disabled no  Optional | skipped dialback/clear dialback/clear dialback/clear dialback/clear
Disabled no  Disabled | skipped dialback/clear dialback/clear dialback/clear dialback/clear
Disabled yes Required | skipped config         config         config         config
Disabled yes Optional | skipped config         config         config         config
Disabled yes Disabled | skipped config         config         config         config
";

struct Cell {
    mode: TlsMode,
    require: bool,
    peer: TlsMode,
    shown: &'static str,
    expected: &'static str,
}

fn cells(table: &'static str) -> Vec<Cell> {
    let rows = table.lines().filter(|line| !line.is_empty());
    let cells = rows.flat_map(|row| {
        let (given, outcomes) = row.split_once('|').unwrap();
        let given: Vec<_> = given.split_whitespace().collect();
        let outcomes = outcomes.split_whitespace();
        outcomes.zip(SHOWN).map(move |(expected, shown)| Cell {
            mode: mode(given[0]),
            require: given[1] == "yes",
            peer: mode(given[2]),
            shown,
            expected,
        })
    });
    let cells: Vec<_> = cells.collect();
    assert_eq!(cells.len(), 3 * 2 * 3 * SHOWN.len());
    cells
}

/// The configuration of a cell; `None` if it is refused.
fn cell_config(cell: &Cell, config: &mut EdgeConfig) -> Option<()> {
    config.tls.mode = cell.mode;
    config.tls.require_client_certificates = cell.require;
    config.problems().is_empty().then_some(())
}

fn run_matrix(table: &'static str, name: &str, outcome: &impl AsyncFn(&Cell) -> (String, String)) {
    let mut wrong = Vec::new();
    let mut told = vec![format!(
        "{name}: edge's mode, certificates required, peer's mode, certificate shown: outcome"
    )];
    for cell in cells(table) {
        let (found, reason) = if cell.expected == "skipped" {
            ("skipped".to_owned(), "a TLS server always shows one".to_owned())
        } else {
            // The end of a runtime is the end of its edge: none goes on dialling ports that later
            // cells use.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(outcome(&cell))
        };
        let line = format!(
            "{:?} {} {:?} {}: {found} {reason}",
            cell.mode,
            if cell.require { "yes" } else { "no" },
            cell.peer,
            cell.shown
        );
        told.push(format!("  {line}"));
        let says = must_say(&found, cell.shown);
        if found != cell.expected || !reason.contains(says) {
            wrong.push(format!("{line}; expected {} {says}", cell.expected));
        }
    }
    println!("{}", told.join("\n"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn matrix_of_modes_and_certificates_where_the_peer_connects() {
    run_matrix(INBOUND, "inbound", &async |cell: &Cell| {
        let log = Log::start(Level::INFO);
        let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
        let mut config = config(&[&peer], &[&router]);
        if cell_config(cell, &mut config).is_none() {
            return ("config".to_owned(), config.problems()[0].to_string());
        }
        let lab = Lab::start(pki().live(config));
        let mut link = router.accept().await;
        let shown = identity(cell.shown);
        let mut bob = Inbound::from_peer(lab.s2s).await;
        let offered = bob.features.contains("<starttls");
        let mut transport = "clear";
        if cell.peer == TlsMode::Required || (cell.peer == TlsMode::Optional && offered) {
            bob.speaker.say(STARTTLS).await;
            let answer = bob.speaker.hear_any(&["/>"]).await.unwrap();
            if answer != PROCEED {
                assert!(answer.starts_with("<failure "), "{answer}");
                bob.speaker.hear_end().await;
                return log.refusal(bob.address).await;
            }
            let config = client(shown.as_ref());
            bob.speaker.tls_client(config, "coluc.com").await.unwrap();
            bob.header(&header("vngtp.lab", "coluc.com", "")).await;
            transport = "tls";
        }
        let mechanism = if bob.offers_external() {
            assert!(bob.auth("=").await.contains("<success"));
            bob.header(&header("vngtp.lab", "coluc.com", "")).await;
            "external"
        } else {
            bob.speaker.say(KEY).await;
            let instead = Identity::self_signed(&["vngtp.lab"]);
            let host = Host::new(cell.peer, shown.as_ref().unwrap_or(&instead));
            let answers = ["</db:result>", "type='valid'/>"];
            let answer = tokio::select! {
                answer = bob.speaker.hear_any(&answers) => answer,
                () = host.verifies(&peer) => bob.speaker.hear_any(&answers).await,
            };
            if !answer.unwrap().contains("type='valid'") {
                return log.refusal(bob.address).await;
            }
            "dialback"
        };
        bob.passes(&mut link, "1").await;
        let streams = lab.edge.registry.streams(None);
        let inbound = streams.iter().find(|s| s.direction == "inbound").unwrap();
        assert_eq!(inbound.detail.pairs[0].mechanism, mechanism);
        assert_eq!(inbound.detail.tls.is_some(), transport == "tls");
        let outcome = match mechanism {
            "external" => mechanism.to_owned(),
            _ => format!("{mechanism}/{transport}"),
        };
        (outcome, String::new())
    });
}

#[test]
fn matrix_of_modes_and_certificates_where_the_edge_connects() {
    run_matrix(OUTBOUND, "outbound", &async |cell: &Cell| {
        let log = Log::start(Level::INFO);
        let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
        let mut config = config(&[&peer], &[&router]);
        if cell_config(cell, &mut config).is_none() {
            return ("config".to_owned(), config.problems()[0].to_string());
        }
        let _lab = Lab::start(pki().live(config));
        let mut link = router.accept().await;
        link.say(MESSAGE);
        let shown = identity(cell.shown).unwrap();
        match Host::new(cell.peer, &shown).is_written_to(&peer).await {
            Some(true) => ("dialback/tls".to_owned(), String::new()),
            Some(false) => ("dialback/clear".to_owned(), String::new()),
            None => {
                let bounced = link.hear().await;
                assert!(bounced.contains("<remote-server-not-found "), "{bounced}");
                log.refusal(peer.listener.local_addr().unwrap()).await
            }
        }
    });
}

// --- SASL EXTERNAL where the peer connects ----------------------------------------------------

#[tokio::test]
async fn external_authenticates_the_headers_pair_and_dialback_adds_others() {
    let mut world = World::new(|_| {}).await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    assert!(bob.offers_external() && bob.features.contains("<errors/>"));
    let before = bob.id.clone();
    assert!(bob.auth("=").await.contains("<success"));
    bob.header(&header("vngtp.lab", "coluc.com", "")).await;
    assert_ne!(bob.id, before, "the stream after SASL has an id of its own");
    assert!(!bob.features.contains("mechanisms") && bob.features.contains("<errors/>"));
    bob.passes(&mut world.link, "1").await;
    assert_eq!(world.mechanisms("inbound"), ["external"]);

    let id = bob.id.clone();
    world.peer.authenticate(&mut bob.speaker, &id, "conf.coluc.com").await;
    bob.speaker
        .say("<message from='bob@vngtp.lab' to='room@conf.coluc.com' id='2'/>")
        .await;
    assert!(world.link.hear().await.contains("room@conf.coluc.com"));
    assert_eq!(world.mechanisms("inbound"), ["external", "dialback"]);
}

#[tokio::test]
async fn external_authenticates_no_other_pair() {
    let world = World::new(|_| {}).await;
    let mut bob = Inbound::external(world.lab.s2s, partners()).await;
    bob.speaker
        .say("<message from='bob@vngtp.lab' to='room@conf.coluc.com'/>")
        .await;
    assert_eq!(bob.ends_with().await, "invalid-from");
}

#[tokio::test]
async fn a_from_that_is_named_only_after_tls_is_enough_for_external() {
    let mut world = World::new(|_| {}).await;
    let bare = header("vngtp.lab", "coluc.com", "").replace(" from='vngtp.lab'", "");
    let mut bob = Inbound::open(world.lab.s2s, &bare).await;
    bob.secure(client(Some(partners()))).await;
    assert!(bob.offers_external(), "{}", bob.features);
    assert!(bob.auth("").await.contains("<success"));
    bob.header(&header("vngtp.lab", "coluc.com", "")).await;
    bob.passes(&mut world.link, "1").await;
}

#[tokio::test]
async fn without_a_from_nothing_is_offered_and_nothing_authenticated() {
    let world = World::new(|_| {}).await;
    let bare = header("vngtp.lab", "coluc.com", "").replace(" from='vngtp.lab'", "");
    let mut bob = Inbound::open(world.lab.s2s, &bare).await;
    bob.start_tls(client(Some(partners()))).await.unwrap();
    bob.header(&bare).await;
    assert!(!bob.offers_external());
    assert!(bob.auth("=").await.contains("<not-authorized/>"));
}

#[rstest]
#[case::another_identity("EXTERNAL", "ZXZpbC5leGFtcGxl", "invalid-authzid")]
#[case::no_base64("EXTERNAL", "vngtp.lab", "incorrect-encoding")]
#[case::another_mechanism("PLAIN", "=", "invalid-mechanism")]
#[tokio::test]
async fn a_failed_external_leaves_the_stream_to_dialback(
    #[case] mechanism: &str,
    #[case] identity: &str,
    #[case] condition: &str,
) {
    let mut world = World::new(|_| {}).await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    bob.speaker
        .say(&format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='{mechanism}'>{identity}</auth>"
        ))
        .await;
    let failure = bob.speaker.hear("</failure>").await;
    assert!(failure.contains(&format!("<{condition}/>")), "{failure}");
    let id = bob.id.clone();
    world.peer.authenticate(&mut bob.speaker, &id, "coluc.com").await;
    bob.passes(&mut world.link, "1").await;
    assert_eq!(world.mechanisms("inbound"), ["dialback"]);
}

#[tokio::test]
async fn external_can_be_tried_again_a_few_times_only() {
    let world = World::new(|_| {}).await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    for _ in 0..3 {
        assert!(bob.auth("!").await.contains("<incorrect-encoding/>"));
    }
    assert!(bob.auth("!").await.contains("<incorrect-encoding/>"));
    assert_eq!(bob.ends_with().await, "policy-violation");
}

#[rstest]
#[case::self_signed("self-signed")]
#[case::expired("expired")]
#[case::wrong_name("wrong-name")]
#[case::missing("missing")]
#[tokio::test]
async fn external_that_was_not_offered_fails_by_the_check_that_failed(#[case] shown: &str) {
    let world = World::new(|_| {}).await;
    let shown_identity = identity(shown);
    let mut bob = Inbound::secured(world.lab.s2s, shown_identity.as_ref()).await;
    assert!(!bob.offers_external());
    assert!(bob.auth("=").await.contains("<not-authorized/>"));
    world
        .refused_by(bob.address, "certificate", must_say("certificate", shown))
        .await;
}

#[tokio::test]
async fn nothing_may_be_pipelined_behind_auth() {
    let mut world = World::new(|_| {}).await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    let injected = header("vngtp.lab", "coluc.com", "");
    bob.speaker
        .say(&format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>{injected}\
             <message from='bob@vngtp.lab' to='alice@coluc.com'/>"
        ))
        .await;
    assert_eq!(bob.ends_with().await, "policy-violation");
    let nothing = tokio::time::timeout(Duration::from_millis(100), world.link.hear()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[rstest]
#[case::from("other.example", "coluc.com", "invalid-from")]
#[case::to("vngtp.lab", "conf.coluc.com", "host-unknown")]
#[tokio::test]
async fn the_domains_may_not_change_after_sasl(#[case] from: &str, #[case] to: &str, #[case] condition: &str) {
    let world = World::new(|config| {
        config.privacy.domains.push("other.example".parse().unwrap());
    })
    .await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    assert!(bob.auth("=").await.contains("<success"));
    bob.speaker.say(&header(from, to, "")).await;
    assert_eq!(bob.ends_with().await, condition);
    assert_eq!(world.mechanisms("inbound"), [""; 0]);
}

#[tokio::test]
async fn what_comes_after_success_instead_of_a_header_ends_the_stream() {
    let world = World::new(|_| {}).await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    assert!(bob.auth("=").await.contains("<success"));
    bob.speaker
        .say("<message from='bob@vngtp.lab' to='alice@coluc.com'/>")
        .await;
    let text = bob.speaker.hear("</stream:stream>").await;
    assert!(text.starts_with("<?xml"), "an error needs a header: {text}");
    assert!(text.contains("<stream:error>"), "{text}");
}

#[tokio::test]
async fn external_on_a_stream_that_used_dialback_is_refused() {
    let mut world = World::new(|_| {}).await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    let id = bob.id.clone();
    world.peer.authenticate(&mut bob.speaker, &id, "coluc.com").await;
    assert!(bob.auth("=").await.contains("<not-authorized/>"));
    bob.passes(&mut world.link, "1").await;
}

#[rstest]
#[case::abort("abort", "aborted")]
#[case::response("response", "malformed-request")]
#[tokio::test]
async fn what_belongs_to_no_exchange_fails_and_the_stream_lives(#[case] name: &str, #[case] condition: &str) {
    let mut world = World::new(|_| {}).await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    bob.speaker
        .say(&format!("<{name} xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"))
        .await;
    let failure = bob.speaker.hear("</failure>").await;
    assert!(failure.contains(&format!("<{condition}/>")), "{failure}");
    assert!(bob.auth("=").await.contains("<success"));
    bob.header(&header("vngtp.lab", "coluc.com", "")).await;
    bob.passes(&mut world.link, "1").await;
}

#[tokio::test]
async fn external_without_tls_fails_and_dialback_goes_on() {
    let mut world = World::new(|config| config.tls.mode = TlsMode::Optional).await;
    let mut bob = Inbound::from_peer(world.lab.s2s).await;
    assert!(!bob.offers_external());
    assert!(bob.auth("=").await.contains("<encryption-required/>"));
    bob.speaker.say(KEY).await;
    Host::new(TlsMode::Disabled, partners()).verifies(&world.peer).await;
    bob.speaker.hear("type='valid'/>").await;
    bob.passes(&mut world.link, "1").await;
}

#[tokio::test]
async fn external_after_a_question_to_us_as_authoritative_server_works() {
    let mut world = World::new(|_| {}).await;
    let mut bob = Inbound::secured(world.lab.s2s, Some(partners())).await;
    bob.speaker
        .say("<db:verify from='vngtp.lab' to='coluc.com' id='1'>k</db:verify>")
        .await;
    bob.speaker.hear("type='invalid'/>").await;
    assert!(bob.auth("=").await.contains("<success"));
    bob.header(&header("vngtp.lab", "coluc.com", "")).await;
    bob.passes(&mut world.link, "1").await;
}

#[tokio::test]
async fn a_challenge_is_given_up_and_dialback_goes_on() {
    let world = World::new(|_| {}).await;
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, partners());
    let taken = host.take(&world.peer, OFFERS_EXTERNAL, &["</auth>"]).await;
    let (mut edge, _, _) = taken.unwrap();
    edge.say("<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>=</challenge>")
        .await;
    edge.hear("<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>").await;
    edge.say("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><aborted/></failure>")
        .await;
    edge.hear("</db:result>").await;
}

#[tokio::test]
async fn nothing_pipelined_behind_success_counts() {
    let world = World::new(|_| {}).await;
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, partners());
    let taken = host.take(&world.peer, OFFERS_EXTERNAL, &["</auth>"]).await;
    let (mut edge, _, _) = taken.unwrap();
    edge.say(&format!(
        "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>{}<stream:features>{DIALBACK}",
        header("vngtp.lab", "coluc.com", "injected")
    ))
    .await;
    let end = edge.hear_end().await;
    assert!(end.contains("<policy-violation "), "{end}");
    assert!(!end.contains("<message"), "{end}");
}

/// Two edges, each with its own router: both roles of EXTERNAL in one go.
#[tokio::test]
async fn two_edges_that_require_certificates_federate_by_external() {
    let (router_a, router_b) = (Router::new().await, Router::new().await);
    let here = config(&[], &[&router_a]);
    let mut there = config(&[], &[&router_b]);
    there.domains = vec!["vngtp.lab".parse().unwrap()];
    there.privacy.domains = here.domains.clone();
    there.tls.require_client_certificates = true;
    there.tls.certificates = vec![files("/b")];
    let b = pki().issue(&["vngtp.lab"], |_| {});
    let b = b.pem();
    // Each needs the other's address: B is told A's afterwards, by a reload.
    let lab_b = Lab::start(pki().live_with(there.clone(), &[("/b", &b)]));
    let way = |domain: &str, address: SocketAddr| {
        serde_yaml::from_str(&format!("{{domain: {domain}, addresses: ['{address}']}}")).unwrap()
    };
    let mut here = here;
    here.tls.require_client_certificates = true;
    here.static_routes = vec![way("vngtp.lab", lab_b.s2s)];
    let lab_a = Lab::start(pki().live(here));
    there.static_routes = vec![way("coluc.com", lab_a.s2s)];
    lab_b
        .live
        .send(Arc::new(pki().live_with(there, &[("/b", &b)])))
        .unwrap();
    let (mut link_a, mut link_b) = (router_a.accept().await, router_b.accept().await);
    link_a.say(MESSAGE);
    assert!(link_b.hear().await.contains("id='m1'"));
    link_b.say(&to_alice("m2"));
    assert!(link_a.hear().await.contains("id='m2'"));
    for lab in [&lab_a, &lab_b] {
        let streams = lab.edge.registry.streams(None);
        assert_eq!(streams.len(), 2, "no stream for dialback: {streams:?}");
        for stream in streams {
            assert_eq!(stream.detail.pairs[0].mechanism, "external");
        }
    }
}

// --- SASL EXTERNAL where the edge connects ----------------------------------------------------

const OFFERS_EXTERNAL: &str = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1</mechanism><mechanism>EXTERNAL</mechanism></mechanisms>";
/// With base64 of `coluc.com` as authorization identity.
const AUTH: &str = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>Y29sdWMuY29t</auth>";

#[tokio::test]
async fn the_edge_uses_external_where_it_is_offered_and_dialback_for_its_other_domains() {
    let world = World::new(|_| {}).await;
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, partners());
    let taken = host.take(&world.peer, OFFERS_EXTERNAL, &["</auth>"]).await;
    let (mut edge, auth, _) = taken.unwrap();
    assert_eq!(auth, AUTH);
    edge.say("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>").await;
    edge.hear(HEADER_END).await;
    edge.say(&header("vngtp.lab", "coluc.com", "third-id")).await;
    edge.say(&format!("<stream:features>{DIALBACK}")).await;
    let message = edge.hear("</message>").await;
    assert!(!message.contains("db:result"), "{message}");
    assert_eq!(world.mechanisms("outbound"), ["external"]);

    world
        .link
        .say("<message from='room@conf.coluc.com' to='bob@vngtp.lab' id='m2'><body/></message>");
    let result = edge.hear("</db:result>").await;
    assert_eq!(attribute(&result, "db:result", "from"), "conf.coluc.com");
    let key = xmpp_federation_core::DialbackKey::generate(
        &xmpp_federation_core::SecretBytes::new(support::SECRET.into()),
        &"vngtp.lab".parse().unwrap(),
        &"conf.coluc.com".parse().unwrap(),
        &xmpp_federation_core::StreamId::from_peer("third-id").unwrap(),
    );
    assert!(result.contains(key.as_str()), "the key is of the latest id");
    edge.say(&answered("vngtp.lab", "conf.coluc.com", "valid")).await;
    edge.hear("id='m2'").await;
}

#[tokio::test]
async fn where_external_is_refused_dialback_goes_on_over_the_same_stream() {
    let world = World::new(|_| {}).await;
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, partners());
    let taken = host.take(&world.peer, OFFERS_EXTERNAL, &["</auth>"]).await;
    let (mut edge, _, _) = taken.unwrap();
    edge.say("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/><text xml:lang='en'>unacceptable</text></failure>").await;
    edge.hear("</db:result>").await;
    edge.say(VALID).await;
    edge.hear("</message>").await;
    assert_eq!(world.mechanisms("outbound"), ["dialback"]);
    edge.say("</stream:stream>").await;
    edge.hear_end().await;
    // And it is not tried again at once.
    world.link.say(&MESSAGE.replace("m1", "m2"));
    let ends = ["</db:result>", "</auth>"];
    let taken = host.take(&world.peer, OFFERS_EXTERNAL, &ends).await;
    assert!(taken.unwrap().1.ends_with("</db:result>"));
}

#[rstest]
#[case::with_an_error(
    "<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
)]
#[case::without_a_word("")]
#[tokio::test]
async fn a_server_that_ends_the_stream_because_of_external_is_called_again_without(#[case] last: &str) {
    let world = World::new(|_| {}).await;
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, partners());
    let taken = host.take(&world.peer, OFFERS_EXTERNAL, &["</auth>"]).await;
    let (mut edge, _, _) = taken.unwrap();
    edge.say(last).await;
    drop(edge);
    let ends = ["</db:result>", "</auth>"];
    let taken = host.take(&world.peer, OFFERS_EXTERNAL, &ends).await;
    let (mut edge, said, _) = taken.unwrap();
    assert!(said.ends_with("</db:result>"), "{said}");
    edge.say(VALID).await;
    edge.hear("</message>").await;
}

#[tokio::test]
async fn external_is_not_tried_with_a_certificate_that_does_not_name_the_sender() {
    let other = pki().issue(&["elsewhere.example"], |_| {});
    let world = World::with_files(
        |config| {
            config.tls.client_certificate = Some(files("/client"));
        },
        &[("/client", &(other.pem()))],
    )
    .await;
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, partners());
    let ends = ["</db:result>", "</auth>"];
    let taken = host.take(&world.peer, OFFERS_EXTERNAL, &ends).await;
    assert!(taken.unwrap().1.ends_with("</db:result>"));
}

// --- what TLS must withstand ------------------------------------------------------------------

#[tokio::test]
async fn a_domain_that_used_tls_is_not_spoken_to_in_clear_where_tls_is_optional() {
    let mut world = World::new(|config| config.tls.mode = TlsMode::Optional).await;
    let mut bob = Inbound::external(world.lab.s2s, partners()).await;
    bob.passes(&mut world.link, "1").await;

    // Inbound: the attacker strips <starttls/>, or leaves `from` out.
    let mut stripped = Inbound::from_peer(world.lab.s2s).await;
    assert!(stripped.features.contains("<required/>"));
    assert_eq!(stripped.refused(KEY).await, "policy-violation");
    world
        .refused_by(stripped.address, "tls-downgrade", "used TLS within the last day")
        .await;
    let bare = header("vngtp.lab", "coluc.com", "").replace(" from='vngtp.lab'", "");
    let mut nameless = Inbound::open(world.lab.s2s, &bare).await;
    assert!(!nameless.features.contains("<required/>"));
    assert_eq!(nameless.refused(KEY).await, "policy-violation");
    world.refused_by(nameless.address, "tls-downgrade", "").await;
    let verify = "<db:verify from='vngtp.lab' to='coluc.com' id='1'>k</db:verify>";
    assert_eq!(nameless.refused(verify).await, "policy-violation");
    let old = header("vngtp.lab", "coluc.com", "").replace(" version='1.0'>", ">");
    let tcp = TcpStream::connect(world.lab.s2s).await.unwrap();
    let mut old_peer = Speaker::new(tcp);
    old_peer.say(&old).await;
    let end = old_peer.hear("</stream:stream>").await;
    assert!(end.contains("<policy-violation "), "{end}");

    // Outbound: the same.
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Disabled, partners());
    assert_eq!(host.is_written_to(&world.peer).await, None);
    world.refused_by(world.peer_address(), "tls-downgrade", "").await;
    assert!(world.link.hear().await.contains("<remote-server-not-found "));
}

#[rstest]
#[case::no_handshake(false)]
#[case::refused_right_behind_it(true)]
#[tokio::test]
async fn after_a_failed_handshake_nothing_is_said_in_clear_to_another_address_either(#[case] completed: bool) {
    let second = Peer::new("vngtp.lab").await;
    let address = second.listener.local_addr().unwrap();
    let mut world = World::new(|config| {
        config.tls.mode = TlsMode::Optional;
        let addresses = &mut config.static_routes[0].addresses;
        addresses.push(address.to_string().parse().unwrap());
    })
    .await;
    world.link.say(MESSAGE);
    // Static addresses have no order: whoever is called first offers TLS and breaks it.
    let (first, other) = tokio::select! {
        edge = world.peer.accept_tcp() => (edge, &second),
        edge = second.accept_tcp() => (edge, &world.peer),
    };
    let mut first = first;
    first.hear(HEADER_END).await;
    first.say(&header("vngtp.lab", "coluc.com", "id")).await;
    first.say(&format!("<stream:features>{STARTTLS}{DIALBACK}")).await;
    first.hear(STARTTLS).await;
    first.say(PROCEED).await;
    if completed {
        // As a server does that does not like our certificate.
        first.tls_server(server(partners())).await.unwrap();
        drop(first);
    } else {
        first.say("this is no TLS record").await;
    }
    let host = Host::new(TlsMode::Disabled, partners());
    assert_eq!(host.is_written_to(other).await, None);
    world
        .refused_by(
            other.listener.local_addr().unwrap(),
            "tls-handshake",
            "the edge sends nothing to it in clear",
        )
        .await;
    assert!(world.link.hear().await.contains("type='error'"));
}

#[tokio::test]
async fn starttls_refused_after_it_was_offered_is_a_failed_handshake() {
    let mut world = World::new(|config| config.tls.mode = TlsMode::Optional).await;
    world.link.say(MESSAGE);
    let mut edge = world.peer.accept_starttls().await;
    edge.say("<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
    let end = edge.hear_end().await;
    assert!(!end.contains("db:result"), "{end}");
    assert!(world.link.hear().await.contains("type='error'"));
    world
        .refused_by(world.peer_address(), "tls-handshake", "then refused it")
        .await;
}

#[tokio::test]
async fn a_handshake_that_stalls_is_ended_and_others_go_on() {
    let mut world = World::new(|config| {
        config.limits.negotiation_timeout = "1s".parse().unwrap();
    })
    .await;
    let mut bob = Inbound::external(world.lab.s2s, partners()).await;
    let mut stalled = Inbound::from_peer(world.lab.s2s).await;
    stalled.speaker.say(STARTTLS).await;
    stalled.speaker.hear(PROCEED).await;
    bob.passes(&mut world.link, "1").await;
    stalled.speaker.hear_end().await;
    bob.passes(&mut world.link, "2").await;

    // Outbound: the edge gives the connection up.
    world.link.say(MESSAGE);
    let mut edge = world.peer.accept_starttls().await;
    edge.say(PROCEED).await;
    edge.hear_end().await;
    world
        .refused_by(world.peer_address(), "tls-handshake", "took too long")
        .await;
}

#[tokio::test]
async fn the_victims_certificate_without_its_key_fails_the_handshake() {
    let world = World::new(|_| {}).await;
    let thief = partners().clone().with_key_of(&pki().issue(&["evil.example"], |_| {}));
    let mut eve = Inbound::from_peer(world.lab.s2s).await;
    if eve.start_tls(client(Some(&thief))).await.is_ok() {
        // With TLS 1.3 the client's side is done before the server has judged it.
        eve.speaker.hear_end().await;
    }
    world.refused_by(eve.address, "tls-handshake", "BadSignature").await;
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, &thief);
    assert_eq!(host.is_written_to(&world.peer).await, None);
    world
        .refused_by(world.peer_address(), "tls-handshake", "BadSignature")
        .await;
}

#[tokio::test]
async fn a_chain_of_100_kb_is_refused_and_harms_nobody() {
    let mut world = World::new(|_| {}).await;
    let mut long = partners().clone();
    while long.chain.iter().map(|c| c.len()).sum::<usize>() < 100_000 {
        let more = long.chain.clone();
        long.chain.extend(more);
    }
    let mut eve = Inbound::from_peer(world.lab.s2s).await;
    if eve.start_tls(client(Some(&long))).await.is_ok() {
        eve.speaker.hear_end().await;
    }
    world.refused_by(eve.address, "tls-handshake", "").await;
    let mut bob = Inbound::external(world.lab.s2s, partners()).await;
    bob.passes(&mut world.link, "1").await;
}

#[rstest]
#[case::tls_1_2(&rustls::version::TLS12)]
#[case::tls_1_3(&rustls::version::TLS13)]
#[tokio::test]
async fn both_versions_of_tls_are_spoken_in_both_directions(#[case] version: &'static SupportedProtocolVersion) {
    let mut world = World::new(|_| {}).await;
    let mut bob = Inbound::from_peer(world.lab.s2s).await;
    bob.secure(client_of(Some(partners()), &[version])).await;
    assert!(bob.auth("=").await.contains("<success"));
    bob.header(&header("vngtp.lab", "coluc.com", "")).await;
    bob.passes(&mut world.link, "1").await;
    world.link.say(MESSAGE);
    let versions = [version];
    let host = Host {
        versions: &versions,
        ..Host::new(TlsMode::Required, partners())
    };
    assert_eq!(host.is_written_to(&world.peer).await, Some(true));
    let streams = world.lab.edge.registry.streams(None);
    let said = if *version == rustls::version::TLS12 {
        "TLSv1_2"
    } else {
        "TLSv1_3"
    };
    for stream in streams {
        let tls = stream.detail.tls.unwrap();
        assert_eq!(tls.version, said);
    }
}

#[tokio::test]
async fn tls_1_2_is_refused_where_1_3_is_the_lowest() {
    let world = World::new(|config| config.tls.min_version = TlsVersion::VersionTLS13).await;
    let mut bob = Inbound::from_peer(world.lab.s2s).await;
    let old = client_of(Some(partners()), &[&rustls::version::TLS12]);
    assert!(bob.start_tls(old).await.is_err());
    world.refused_by(bob.address, "tls-handshake", "").await;
    world.link.say(MESSAGE);
    let host = Host {
        versions: &[&rustls::version::TLS12],
        ..Host::new(TlsMode::Required, partners())
    };
    assert_eq!(host.is_written_to(&world.peer).await, None);
    world.refused_by(world.peer_address(), "tls-handshake", "").await;
}

// --- which certificate proves what ------------------------------------------------------------

fn required(config: &mut EdgeConfig) {
    config.tls.require_client_certificates = true;
    for domain in ["other.example", "xmpp.vngtp.lab"] {
        config.privacy.domains.push(domain.parse().unwrap());
    }
}

#[rstest]
#[case::common_name_only(&[], "it names no domain")]
#[case::the_target_of_srv_only(&["xmpp.vngtp.lab"], "do not cover vngtp.lab; it names xmpp.vngtp.lab")]
#[tokio::test]
async fn a_required_certificate_names_the_domain_itself(#[case] names: &[&str], #[case] says: &str) {
    let world = World::new(required).await;
    let shown = pki().issue(names, |params| {
        params.distinguished_name.push(DnType::CommonName, "vngtp.lab");
    });
    let mut bob = Inbound::secured(world.lab.s2s, Some(&shown)).await;
    assert!(!bob.offers_external());
    assert_eq!(bob.refused(KEY).await, "not-authorized");
    world.refused_by(bob.address, "certificate", says).await;
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, &shown);
    assert_eq!(host.is_written_to(&world.peer).await, None);
    world.refused_by(world.peer_address(), "certificate", says).await;
}

#[tokio::test]
async fn a_required_certificate_is_required_of_every_domain_of_a_stream() {
    let mut world = World::new(required).await;
    let mut bob = Inbound::external(world.lab.s2s, partners()).await;
    let other = "<db:result from='other.example' to='coluc.com'>k</db:result>";
    assert_eq!(bob.refused(other).await, "not-authorized");
    world
        .refused_by(bob.address, "certificate", "do not cover other.example")
        .await;
    let verify = "<db:verify from='other.example' to='coluc.com' id='1'>k</db:verify>";
    assert_eq!(bob.refused(verify).await, "not-authorized");
    bob.passes(&mut world.link, "1").await;
}

#[tokio::test]
async fn nothing_is_said_to_a_server_whose_required_certificate_does_not_hold() {
    let mut world = World::new(required).await;
    world.link.say(MESSAGE);
    let shown = identity("expired").unwrap();
    let mut edge = world.peer.accept_starttls().await;
    edge.say(PROCEED).await;
    edge.tls_server(server(&shown)).await.unwrap();
    let all = edge.hear_end().await;
    assert!(all.contains("<policy-violation ") && !all.contains("db:"), "{all}");
    let failing = world.lab.edge.registry.failing_partners();
    assert!(failing.is_empty() || failing[0].reason.contains("expired 2021-01-01"));
    assert!(world.link.hear().await.contains("<remote-server-not-found "));
    let failing = world.lab.edge.registry.failing_partners();
    assert!(failing[0].reason.contains("expired 2021-01-01"), "{failing:?}");
}

#[tokio::test]
async fn only_the_pinned_certificate_is_accepted_in_both_directions() {
    let pinned = Identity::self_signed(&["whatever.example"]);
    let mut world = World::new(|config| {
        config.peers.push(pin(&pinned.sha256().to_uppercase()));
    })
    .await;
    let mut bob = Inbound::external(world.lab.s2s, &pinned).await;
    bob.passes(&mut world.link, "1").await;
    let mut eve = Inbound::secured(world.lab.s2s, Some(partners())).await;
    assert!(!eve.offers_external());
    assert_eq!(eve.refused(KEY).await, "not-authorized");
    world
        .refused_by(eve.address, "pin", "not one that is pinned for vngtp.lab")
        .await;

    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, partners());
    assert_eq!(host.is_written_to(&world.peer).await, None);
    world
        .refused_by(world.peer_address(), "pin", "not one that is pinned")
        .await;
    assert!(world.link.hear().await.contains("type='error'"));
    // The pinned one: after the pause that follows a final failure, or at once when asked for.
    world.lab.edge.retry(Some(&"vngtp.lab".parse().unwrap()));
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, &pinned);
    assert_eq!(host.is_written_to(&world.peer).await, Some(true));
}

#[tokio::test]
async fn each_domain_is_held_to_its_own_mode() {
    let mut world = World::new(|config| {
        config.tls.mode = TlsMode::Optional;
        for domain in ["strict.example", "clear.example", "proven.example"] {
            config.privacy.domains.push(domain.parse().unwrap());
        }
        config.peers.push(terms("strict.example", "tlsMode: Required"));
        config.peers.push(terms("clear.example", "tlsMode: Disabled"));
        config.peers.push(terms("proven.example", "requireCertificate: true"));
    })
    .await;
    let edge = world.lab.s2s;
    for (from, starttls, required) in [
        ("vngtp.lab", true, false),
        ("strict.example", true, true),
        ("clear.example", false, false),
        ("proven.example", true, true),
    ] {
        let opened = Inbound::open(edge, &header(from, "coluc.com", "")).await;
        let features = &opened.features;
        assert_eq!(features.contains("<starttls"), starttls, "{from}: {features}");
        assert_eq!(features.contains("<required/>"), required, "{from}: {features}");
    }
    // Whoever comes up later on a stream in clear is held to it there.
    let mut clear = Inbound::from_peer(edge).await;
    let mut check = async |element: &str, expected: &str| {
        assert_eq!(clear.refused(element).await, expected, "{element}");
    };
    check(
        "<db:result from='strict.example' to='coluc.com'>k</db:result>",
        "policy-violation",
    )
    .await;
    check(
        "<db:result from='proven.example' to='coluc.com'>k</db:result>",
        "policy-violation",
    )
    .await;
    check(
        "<db:verify from='strict.example' to='coluc.com' id='1'>k</db:verify>",
        "policy-violation",
    )
    .await;
    let id = clear.id.clone();
    clear.speaker.say(KEY).await;
    Host::new(TlsMode::Disabled, partners()).verifies(&world.peer).await;
    clear.speaker.hear("type='valid'/>").await;
    assert!(!id.is_empty());
    clear.passes(&mut world.link, "1").await;
}

#[tokio::test]
async fn a_domain_without_tls_that_names_itself_late_is_taken_in_clear() {
    let world = World::new(|config| {
        config.peers.push(terms("vngtp.lab", "tlsMode: Disabled"));
    })
    .await;
    let bare = header("vngtp.lab", "coluc.com", "").replace(" from='vngtp.lab'", "");
    let mut bob = Inbound::open(world.lab.s2s, &bare).await;
    assert!(bob.features.contains("<required/>"), "the general mode");
    bob.speaker.say(KEY).await;
    Host::new(TlsMode::Disabled, partners()).verifies(&world.peer).await;
    bob.speaker.hear("type='valid'/>").await;
}

#[rstest]
#[case::optional(TlsMode::Optional)]
#[case::disabled(TlsMode::Disabled)]
#[tokio::test]
async fn a_server_from_before_xmpp_1_0_federates_by_dialback_where_tls_is_not_required(#[case] mode: TlsMode) {
    let mut world = World::new(|config| config.tls.mode = mode).await;
    let tcp = TcpStream::connect(world.lab.s2s).await.unwrap();
    let mut old = Speaker::new(tcp);
    old.say(&header("vngtp.lab", "coluc.com", "").replace(" version='1.0'>", ">"))
        .await;
    let answer = old.hear("<stream:stream").await + &old.hear(">").await;
    assert!(!answer.contains(" version='1.0'>"), "{answer}");
    old.say(KEY).await;
    // It is asked in the same old way.
    let mut asked = world.peer.accept_tcp().await;
    asked.hear(HEADER_END).await;
    asked
        .say(&header("vngtp.lab", "coluc.com", "v").replace(" version='1.0'>", ">"))
        .await;
    let question = asked.hear("</db:verify>").await;
    let id = attribute(&question, "db:verify", "id");
    asked.say(&verified("vngtp.lab", "coluc.com", &id, "valid")).await;
    old.hear("type='valid'/>").await;
    old.say(&to_alice("1")).await;
    assert!(world.link.hear().await.contains("id='1'"));
}

// --- reloads ----------------------------------------------------------------------------------

#[tokio::test]
async fn a_revoked_certificate_ends_the_streams_that_it_authenticated_and_no_others() {
    let revoked = pki().issue(&["vngtp.lab"], |params: &mut CertificateParams| {
        params.serial_number = Some(4711_u64.into());
    });
    let mut world = World::with_files(
        |config| config.tls.revocation_lists = vec!["/crl".into()],
        &[("/crl", &pki().revoked(&[1, 2]))],
    )
    .await;
    let edge = world.lab.s2s;
    let mut external = Inbound::external(edge, &revoked).await;
    let mut dialback = Inbound::secured(edge, Some(&revoked)).await;
    let id = dialback.id.clone();
    world.peer.authenticate(&mut dialback.speaker, &id, "coluc.com").await;
    external.passes(&mut world.link, "1").await;
    dialback.passes(&mut world.link, "2").await;
    world.reload(
        |config| config.tls.revocation_lists = vec!["/crl".into()],
        &[("/crl", &pki().revoked(&[1, 4711]))],
    );
    assert_eq!(external.ends_with().await, "policy-violation");
    world.refused_by(external.address, "certificate", "was revoked").await;
    dialback.passes(&mut world.link, "3").await;
    let again = Inbound::secured(edge, Some(&revoked)).await;
    assert!(!again.offers_external(), "{}", again.features);
}

#[tokio::test]
async fn certificates_that_become_required_end_streams_without_one_in_both_directions() {
    let mut world = World::new(|_| {}).await;
    let shown = identity("self-signed").unwrap();
    let mut bob = Inbound::secured(world.lab.s2s, Some(&shown)).await;
    let id = bob.id.clone();
    world.peer.authenticate(&mut bob.speaker, &id, "coluc.com").await;
    bob.passes(&mut world.link, "1").await;
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, &shown);
    let taken = host.take(&world.peer, "", &["</db:result>"]).await;
    let (mut edge, _, _) = taken.unwrap();
    edge.say(VALID).await;
    edge.hear("</message>").await;
    let mut good = Inbound::external(world.lab.s2s, partners()).await;
    world.reload(required, &[]);
    assert_eq!(bob.ends_with().await, "policy-violation");
    world
        .refused_by(bob.address, "certificate", "no trusted authority")
        .await;
    assert!(edge.hear("</stream:stream>").await.contains("<policy-violation "));
    // What was written a moment ago may be lost with that stream.
    assert!(world.link.hear().await.contains("type='error'"));
    good.passes(&mut world.link, "2").await;
}

#[tokio::test]
async fn a_new_certificate_is_shown_on_new_streams_and_live_ones_go_on() {
    let mut world = World::new(|_| {}).await;
    let mut before = Inbound::external(world.lab.s2s, partners()).await;
    let renewed = pki().issue(&["coluc.com", "conf.coluc.com"], |_| {});
    world.reload(
        |config| {
            config.tls.certificates = vec![files("/new")];
        },
        &[("/new", &(renewed.pem()))],
    );
    before.passes(&mut world.link, "1").await;
    world.link.say(MESSAGE);
    let mut edge = world.peer.accept_starttls().await;
    edge.say(PROCEED).await;
    let (_, shown) = edge.tls_server(server(partners())).await.unwrap();
    assert_eq!(shown, renewed.chain);
    let status = world.lab.edge.live();
    assert_eq!(status.tls.leaf_sha256, Some(renewed.sha256()));
}

// --- how much a peer can make the edge log ------------------------------------------------------

#[tokio::test]
async fn a_peer_that_fails_a_check_with_every_element_does_not_fill_the_log() {
    const FLOOD: usize = 300;
    let log = Log::start(Level::INFO);
    let (mut lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = Speaker::connect_from([127, 0, 5, 1], lab.s2s).await;
    bob.open(&header("vngtp.lab", "coluc.com", "")).await;
    bob.starttls().await;
    bob.start_tls_as_client("coluc.com").await;
    bob.open(&header("vngtp.lab", "coluc.com", "")).await;
    for _ in 0..FLOOD {
        bob.say("<db:result from='vngtp.lab' to='other.example'>key</db:result>")
            .await;
        bob.hear("</db:result>").await;
        bob.say("<db:verify from='vngtp.lab' to='coluc.com' id='x'>key</db:verify>")
            .await;
        bob.hear("type='invalid'/>").await;
    }
    // All is counted.
    assert_eq!(
        lab.metric("xmpp_edge_peers_refused_total{check=\"hosted\"}"),
        FLOOD as u64
    );
    let attempts = lab.edge.registry.failures(None).remove(0).attempts;
    assert_eq!(attempts[0].count as usize, FLOOD);
    drop(bob);
    lab.begin_stop();
    link.ends().await;
    lab.stopped().await;
    drop(peer);
    let text = log.text();
    let lines = |what: &str| {
        let about = |line: &&str| line.contains(what) && line.contains("127.0.5.1");
        text.lines().filter(about).count()
    };
    assert_eq!(lines("peer refused"), 20);
    assert_eq!(lines("db:verify received and answered"), 60);
    assert_eq!(lines("the rest was not written"), 2);
    for unwritten in [FLOOD - 20, FLOOD - 60] {
        assert_eq!(lines(&format!("lines={unwritten}")), 1);
    }
}
