//! Keys by the thousand, and keys that are to keep others from being verified.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use xmpp_federation_core::edge_config::PrivacyMode;
use xmpp_federation_edge::observe::failures::AttemptInfo;

use crate::support::dns::Dns;
use crate::support::{
    DIALBACK, KEY, Lab, PROCEED, Peer, Router, STARTTLS, Speaker, attribute, client_tls, config, features, header,
    live, result, server_tls, verified,
};

fn valid(asked: &str) -> String {
    let [from, to, id] = ["from", "to", "id"].map(|name| attribute(asked, "db:verify", name));
    verified(&to, &from, &id, "valid")
}

/// Takes a connection; ends the stream at its header if it comes from `refused`, else gives it back
/// ready for questions.
async fn accept_unless(peer: &Peer, refused: &str) -> Option<Speaker> {
    let (mut stream, local) = peer.accept_tls().await;
    stream.say(&header(peer.domain, &local, "v")).await;
    if local == refused {
        let error = "<stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>";
        stream.say(error).await;
        return None;
    }
    stream.say(&features(DIALBACK)).await;
    Some(stream)
}

async fn answer_valid(verifying: &mut Speaker) {
    let asked = verifying.hear("</db:verify>").await;
    verifying.say(&valid(&asked)).await;
}

/// A key of the partner's for coluc.com is verified on a stream that the partner takes; gives both streams.
async fn believed(lab: &Lab, peer: &Peer) -> (Speaker, Speaker) {
    let (mut partner, _) = peer.open(lab.s2s, "coluc.com").await;
    partner.say(KEY).await;
    let mut verifying = accept_unless(peer, "conf.coluc.com").await.unwrap();
    answer_valid(&mut verifying).await;
    partner.hear("type='valid'/>").await;
    (partner, verifying)
}

#[tokio::test]
async fn a_domain_of_ours_that_the_partner_refuses_does_not_keep_another_from_being_verified() {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let connected = Speaker::connect_from([127, 5, 5, 5], lab.s2s).await;
    let (mut stranger, _) = peer.open_on(connected, "conf.coluc.com").await;
    stranger.say(&result("vngtp.lab", "conf.coluc.com", "k")).await;
    assert!(accept_unless(&peer, "conf.coluc.com").await.is_none());
    let answer = stranger.hear("</db:result>").await;
    assert!(answer.contains("<remote-connection-failed "), "{answer}");
    assert_eq!(lab.edge.registry.failing_count(), 0, "nothing is proven");
    let _streams = believed(&lab, &peer).await;
    // What failed is remembered for its own pair.
    stranger.say(&result("vngtp.lab", "conf.coluc.com", "k")).await;
    stranger.hear("<remote-connection-failed ").await;
}

#[tokio::test]
async fn a_stream_that_never_comes_up_for_one_domain_of_ours_does_not_hold_up_another() {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let (mut stranger, _) = peer.open(lab.s2s, "conf.coluc.com").await;
    stranger.say(&result("vngtp.lab", "conf.coluc.com", "k")).await;
    // Taken, and nothing is said.
    let _silent = peer.accept_tcp().await;
    let _streams = believed(&lab, &peer).await;
}

#[tokio::test]
async fn a_failure_for_somebody_who_is_gone_is_not_remembered() {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let (mut stranger, _) = peer.open(lab.s2s, "coluc.com").await;
    stranger.say(KEY).await;
    let taken = peer.accept_tcp().await;
    drop(stranger);
    let gone = |lab: &Lab| lab.edge.registry.counts().inbound == 0;
    lab.until("the stranger is gone", gone).await;
    drop(taken);
    let _streams = believed(&lab, &peer).await;
    assert_eq!(lab.edge.registry.failing_count(), 0);
}

#[tokio::test]
async fn a_question_on_a_stream_that_ends_just_then_is_asked_again_once() {
    let (lab, peer, _router, _link) = Lab::with_link().await;
    let (mut bob, mut verifying) = believed(&lab, &peer).await;
    bob.say(&result("vngtp.lab", "conf.coluc.com", "k")).await;
    verifying.hear("</db:verify>").await;
    drop(verifying);
    let mut verifying = accept_unless(&peer, "").await.unwrap();
    verifying.hear("</db:verify>").await;
    drop(verifying);
    bob.hear("<remote-server-timeout ").await;
}

#[tokio::test]
async fn keys_wait_for_their_turn_and_one_address_leaves_turns_to_another() {
    const KEYS: usize = 30;
    let (lab, peer, _link) = Lab::configured(|config| {
        config.limits.max_verifications = Some(8);
        config
            .domains
            .extend((0..KEYS).map(|n| format!("d{n}.coluc.com").parse().unwrap()));
    })
    .await;
    let from = async |source| {
        let connected = Speaker::connect_from(source, lab.s2s).await;
        peer.open_on(connected, "coluc.com").await.0
    };
    let mut many = from([127, 5, 5, 5]).await;
    for n in 0..KEYS {
        let to = format!("d{n}.coluc.com");
        many.say(&result("vngtp.lab", &to, "k")).await;
    }
    // What waits is told: of eight turns a stranger's network has two.
    let states = |lab: &Lab| {
        let streams = serde_json::to_value(lab.edge.streams(None)).unwrap();
        let streams = streams.as_array().unwrap().iter();
        let keys: Vec<_> = streams.filter_map(|one| one["keys"].as_array()).flatten().collect();
        let of = |state: &str| keys.iter().filter(|key| key["state"] == state).count();
        (of("asking"), of("waiting"))
    };
    lab.until("keys wait", |lab| states(lab) == (2, KEYS - 2)).await;
    let mut verifying = accept_unless(&peer, "").await.unwrap();
    // A quarter of all for one address that is nobody's.
    let first = verifying.hear("</db:verify>").await;
    let second = verifying.hear("</db:verify>").await;
    assert!(verifying.is_silent(Duration::from_millis(100)).await);
    assert_eq!(lab.edge.verifications(), (2, KEYS - 2));
    let mut one = from([127, 6, 6, 6]).await;
    one.say(KEY).await;
    answer_valid(&mut verifying).await;
    one.hear("type='valid'/>").await;
    // Everything else has its turn too.
    for asked in [first, second] {
        verifying.say(&valid(&asked)).await;
    }
    for _ in 2..KEYS {
        answer_valid(&mut verifying).await;
    }
    for _ in 0..KEYS {
        many.hear("type='valid'/>").await;
    }
    assert_eq!(lab.edge.verifications(), (0, 0));
}

#[tokio::test]
async fn a_key_whose_time_is_over_before_its_turn_is_answered_and_named() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    config.limits.max_verifications = Some(1);
    let lab = Lab::start(live(config.clone()));
    let (mut bob, _) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(KEY).await;
    let mut verifying = accept_unless(&peer, "").await.unwrap();
    verifying.hear("</db:verify>").await;
    config.limits.dialback_timeout = "1s".parse().unwrap();
    lab.live.send(Arc::new(live(config))).unwrap();
    bob.say(&result("vngtp.lab", "conf.coluc.com", "k")).await;
    let answer = bob.hear("</db:result>").await;
    assert!(answer.contains("<resource-constraint "), "{answer}");
    let refused = lab.metric("xmpp_edge_verifications_refused_total{reason=\"too-late\"}");
    assert_eq!(refused, 1);
    let vngtp = "vngtp.lab".parse().unwrap();
    let noted = lab.edge.registry.failures(Some(&vngtp));
    let named = |noted: &AttemptInfo| noted.attempt.reason.contains("limits.maxVerifications");
    assert!(noted[0].attempts.iter().any(named), "{noted:?}");
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// One side of a connection in a burst, where everything may take long.
struct Side {
    io: Box<dyn Io>,
    heard: String,
}

impl Side {
    fn new(io: impl Io + 'static) -> Self {
        Self {
            io: Box::new(io),
            heard: String::new(),
        }
    }

    async fn say(&mut self, text: &str) -> Option<()> {
        self.io.write_all(text.as_bytes()).await.ok()?;
        self.io.flush().await.ok()
    }

    /// Up to and including `what`; nothing if the connection ends before.
    async fn hear(&mut self, what: &str) -> Option<String> {
        loop {
            if let Some(at) = self.heard.find(what) {
                let rest = self.heard.split_off(at + what.len());
                return Some(std::mem::replace(&mut self.heard, rest));
            }
            let mut bytes = [0; 4096];
            let read = self.io.read(&mut bytes).await.ok();
            let read = read.filter(|read| *read > 0)?;
            self.heard.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    }
}

/// The authoritative server of all domains of a partner, at one address: every key is its own.
async fn authoritative(listener: TcpListener, streams: Arc<AtomicUsize>) {
    let tls = tokio_rustls::TlsAcceptor::from(server_tls());
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        streams.fetch_add(1, Ordering::SeqCst);
        let tls = tls.clone();
        tokio::spawn(async move {
            let mut side = Side::new(tcp);
            let opened = side.hear("version='1.0'>").await?;
            let domain = attribute(&opened, "stream:stream", "to");
            side.say(&(header(&domain, "coluc.com", "c") + &features(STARTTLS)))
                .await?;
            side.hear(STARTTLS).await?;
            side.say(PROCEED).await?;
            let mut side = Side::new(tls.accept(side.io).await.ok()?);
            side.hear("version='1.0'>").await?;
            side.say(&(header(&domain, "coluc.com", "v") + &features(DIALBACK)))
                .await?;
            loop {
                let asked = side.hear("</db:verify>").await?;
                side.say(&valid(&asked)).await?;
            }
            #[expect(unreachable_code, reason = "its type")]
            Some(())
        });
    }
}

async fn open(edge: SocketAddr, from: &str) -> Option<Side> {
    let tcp = TcpStream::connect(edge).await.ok()?;
    tcp.set_nodelay(true).unwrap();
    let mut side = Side::new(tcp);
    side.say(&header(from, "coluc.com", "")).await?;
    side.hear("</stream:features>").await?;
    side.say(STARTTLS).await?;
    side.hear(PROCEED).await?;
    let connector = tokio_rustls::TlsConnector::from(client_tls());
    let name = ServerName::try_from("coluc.com").unwrap();
    let mut side = Side::new(connector.connect(name, side.io).await.ok()?);
    side.say(&header(from, "coluc.com", "")).await?;
    side.hear("</stream:features>").await?;
    Some(side)
}

/// Shows a key of each domain on one stream; gives how many were valid.
async fn show_keys(edge: SocketAddr, domains: Vec<String>) -> usize {
    let Some(mut side) = open(edge, &domains[0]).await else {
        return 0;
    };
    let keys = domains.iter().map(|domain| result(domain, "coluc.com", "k"));
    let mut valid = 0;
    if side.say(&keys.collect::<String>()).await.is_some() {
        for _ in domains {
            let Some(answer) = side.hear("<db:result ").await else {
                break;
            };
            let Some(rest) = side.hear(">").await else {
                break;
            };
            valid += usize::from((answer + &rest).contains("type='valid'"));
        }
    }
    valid
}

/// Domains of a partner; more by hand.
fn domains() -> usize {
    std::env::var("BURST_DOMAINS").map_or(500, |count| count.parse().unwrap())
}

async fn burst(on_each_stream: usize) {
    let domains: Vec<_> = (0..domains()).map(|n| format!("d{n}.partner.example")).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let streams = Arc::new(AtomicUsize::new(0));
    let server = tokio::spawn(authoritative(listener, streams.clone()));
    let router = Router::new().await;
    let mut config = config(&[], &[&router]);
    config.privacy.mode = PrivacyMode::AllowList;
    config.privacy.domains = domains.iter().map(|d| d.parse().unwrap()).collect();
    config.dns.allow_private_targets = vec!["127.0.0.0/8".parse().unwrap()];
    let dns = Dns::default().plain(0, port, "host.partner.example.");
    let dns = Arc::new(dns.others(&["127.0.0.1"]));
    let lab = Lab::start(dns.resolves(live(config)));
    let known = |lab: &Lab| {
        let live = lab.edge.live();
        lab.edge.is_partners_address(&live, [127, 0, 0, 1].into())
    };
    lab.until("the partner's address is known", known).await;
    let began = Instant::now();
    let showing = domains
        .chunks(on_each_stream)
        .map(|some| tokio::spawn(show_keys(lab.s2s, some.to_vec())));
    let shown = timeout(Duration::from_secs(30), join_all(showing)).await;
    let shown = shown.expect("not all are answered within 30 s");
    let valid: usize = shown.into_iter().map(Result::unwrap).sum();
    println!(
        "{valid} of {} domains valid in {:.1} s, {} streams to their server",
        domains.len(),
        began.elapsed().as_secs_f64(),
        streams.load(Ordering::SeqCst)
    );
    assert_eq!(valid, domains.len());
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partner_that_brings_each_of_its_domains_on_a_connection_of_its_own_is_believed() {
    burst(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partner_that_brings_fifty_domains_on_each_stream_is_believed() {
    burst(50).await;
}
