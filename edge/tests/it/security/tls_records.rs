//! TLS records that hold almost nothing: one byte of a handshake message each, in clear, or encrypted
//! behind 16 kB of padding.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls::SupportedProtocolVersion;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use xmpp_federation_edge::stream::tls::TlsSession;

use crate::support::process::Process;
use crate::support::records::{CONTENT, HANDSHAKE, MOST_PADDING, Sealer, TlsPeer, clear};
use crate::support::{Peer, Router, Speaker, client_tls, header};

/// A handshake message of the greatest length that may be declared.
fn endless() -> impl Iterator<Item = u8> {
    [0x0b, 0, 0xff, 0xff].into_iter().chain(std::iter::repeat(0))
}

/// How far the peer goes before it writes its own records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Clear,
    BeforeFinished,
    AfterFinished,
}

/// Who the edge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

fn session(role: Role) -> TlsSession {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    match role {
        Role::Client => {
            let mut session = TlsSession::client(client_tls(), ServerName::try_from("vngtp.lab").unwrap()).unwrap();
            session.start().unwrap();
            session
        }
        Role::Server => {
            let made = rcgen::generate_simple_self_signed(vec!["coluc.com".to_owned()]).unwrap();
            let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
            let mut config = rustls::ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .unwrap();
            config.send_tls13_tickets = 0;
            TlsSession::server(Arc::new(config)).unwrap()
        }
    }
}

fn peer(role: Role, version: &'static SupportedProtocolVersion) -> TlsPeer {
    match role {
        Role::Server => TlsPeer::client("coluc.com", version),
        Role::Client => TlsPeer::server("vngtp.lab", version),
    }
}

/// Carries the handshake to and fro up to a phase; gives what encrypts the peer's own records.
fn until(phase: Phase, mut peer: TlsPeer, session: &mut TlsSession) -> Option<Sealer> {
    let mut nothing = BytesMut::new();
    if phase == Phase::Clear {
        return None;
    }
    loop {
        let said = session.outgoing().to_vec();
        session.written(said.len());
        peer.take(&said);
        let mut said = peer.give();
        if phase == Phase::BeforeFinished {
            // What is in clear is said: the hello, and where a server changes the cipher.
            let encrypted = said.first() == Some(&20);
            let clear = if encrypted { 0 } else { clear_records(&said) };
            said.truncate(clear);
        }
        session.receive(&mut said, &mut nothing).unwrap();
        if phase == Phase::BeforeFinished && said.is_empty() || !peer.is_handshaking() {
            break;
        }
        if phase == Phase::BeforeFinished && session.outgoing().is_empty() {
            break;
        }
    }
    if phase == Phase::BeforeFinished {
        return Some(peer.seal_handshake().unwrap());
    }
    let said = session.outgoing().to_vec();
    session.written(said.len());
    peer.take(&said);
    assert!(!session.state().is_handshaking());
    Some(peer.seal())
}

/// Length of the records in front of the first that is encrypted.
fn clear_records(records: &[u8]) -> usize {
    let mut at = 0;
    while let Some([kind, _, _, high, low]) = records.get(at..at + 5)
        && *kind != CONTENT
    {
        at += 5 + usize::from(u16::from_be_bytes([*high, *low]));
    }
    at
}

#[test]
fn a_message_that_never_ends_is_refused_whatever_its_records_hold() {
    for (role, version, phase, padding) in [
        (Role::Server, &TLS13, Phase::Clear, 0),
        (Role::Server, &TLS12, Phase::Clear, 0),
        (Role::Server, &TLS13, Phase::BeforeFinished, MOST_PADDING),
        (Role::Server, &TLS13, Phase::BeforeFinished, 0),
        (Role::Server, &TLS13, Phase::AfterFinished, MOST_PADDING),
        (Role::Server, &TLS13, Phase::AfterFinished, 1_000),
        (Role::Server, &TLS12, Phase::AfterFinished, 0),
        (Role::Client, &TLS13, Phase::Clear, 0),
        (Role::Client, &TLS12, Phase::Clear, 0),
        (Role::Client, &TLS13, Phase::BeforeFinished, MOST_PADDING),
        (Role::Client, &TLS13, Phase::BeforeFinished, 0),
        (Role::Client, &TLS13, Phase::AfterFinished, MOST_PADDING),
        (Role::Client, &TLS12, Phase::AfterFinished, 0),
    ] {
        for piece in [1_999, 64 * 1024] {
            let case = format!("{role:?} {version:?} {phase:?}, padding {padding}, {piece}");
            let mut session = session(role);
            let mut sealer = until(phase, peer(role, version), &mut session);
            let (mut received, mut most) = (0, 0);
            let mut heard = BytesMut::new();
            let mut pieces = BytesMut::new();
            let error = endless().find_map(|byte| {
                let record = match &mut sealer {
                    Some(sealer) => sealer.record(HANDSHAKE, &[byte], padding),
                    None => clear(HANDSHAKE, &[byte]),
                };
                pieces.extend_from_slice(&record);
                while pieces.len() >= piece {
                    let mut piece = pieces.split_to(piece);
                    received += piece.len();
                    if let Err(error) = session.receive(&mut piece, &mut heard) {
                        return Some(error);
                    }
                    most = most.max(session.kept());
                }
                (received > 1_000_000).then(|| panic!("{case}: {received} bytes taken"))
            });
            let error = error.unwrap().to_string();
            assert!(error.contains("64 kB of records"), "{case}: {error}");
            assert!(most <= 64 * 1024 + 5 + 18 * 1024, "{case}: {most} kept");
            assert_eq!(session.kept(), 0, "{case}: nothing is kept after an error");
            assert!(heard.is_empty());
        }
    }
}

fn is_understood(role: Role, version: &'static SupportedProtocolVersion, records: &[usize], reads: &[usize]) {
    let (mut session, mut peer) = (session(role), peer(role, version));
    let mut heard = BytesMut::new();
    let mut reads = reads.iter().copied().cycle();
    let mut hear = |session: &mut TlsSession, mut said: Vec<u8>, heard: &mut BytesMut| {
        let mut rest = &mut said[..];
        while !rest.is_empty() {
            let (read, more) = rest.split_at_mut(reads.next().unwrap().min(rest.len()));
            session.receive(read, heard).unwrap();
            rest = more;
        }
    };
    for _ in 0..4 {
        let said = session.outgoing().to_vec();
        session.written(said.len());
        peer.take(&said);
        let said = cut(&peer.give(), records);
        hear(&mut session, said, &mut heard);
    }
    assert!(!session.state().is_handshaking() && !peer.is_handshaking());
    assert_eq!(session.kept(), 0);
    let mut sealer = peer.seal();
    for content in ["padded ", "content"] {
        let padding = match version.version {
            rustls::ProtocolVersion::TLSv1_3 => 16_000,
            _ => 0,
        };
        let record = sealer.record(CONTENT, content.as_bytes(), padding);
        hear(&mut session, record, &mut heard);
    }
    assert_eq!(&heard[..], b"padded content");
    assert_eq!(session.kept(), 0);
}

/// The same handshake messages in clear records of these lengths.
fn cut(records: &[u8], lengths: &[usize]) -> Vec<u8> {
    let mut lengths = lengths.iter().copied().cycle();
    let mut out = Vec::new();
    let mut rest = records;
    let mut is_clear = true;
    while let [kind, _, _, high, low, ..] = *rest {
        let (record, more) = rest.split_at(5 + usize::from(u16::from_be_bytes([high, low])));
        // What follows in TLS 1.2 is encrypted.
        is_clear &= kind == HANDSHAKE;
        let mut content = &record[5..];
        while is_clear && !content.is_empty() {
            let (piece, more) = content.split_at(lengths.next().unwrap().min(content.len()));
            out.extend(clear(HANDSHAKE, piece));
            content = more;
        }
        if !is_clear {
            out.extend_from_slice(record);
        }
        rest = more;
    }
    out
}

const ROLES: [Role; 2] = [Role::Server, Role::Client];

#[test]
fn a_handshake_in_records_of_one_byte_and_padded_content_are_understood() {
    for role in ROLES {
        for version in [&TLS12, &TLS13] {
            for read in [1, 64 * 1024] {
                is_understood(role, version, &[1], &[read]);
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(96))]

    #[test]
    fn a_handshake_is_understood_in_whatever_records_and_reads_it_comes(
        role in 0..2_usize,
        newest in proptest::prelude::any::<bool>(),
        records in proptest::collection::vec(1..900_usize, 1..6),
        reads in proptest::collection::vec(1..2_500_usize, 1..6),
    ) {
        is_understood(ROLES[role], if newest { &TLS13 } else { &TLS12 }, &records, &reads);
    }

    #[test]
    fn nothing_that_is_received_makes_the_session_panic(
        role in 0..2_usize,
        contents in proptest::collection::vec(
            (0..4_usize, proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2_000)),
            0..40,
        ),
        declared in 0..70_000_u32,
        reads in proptest::collection::vec(1..9_000_usize, 1..6),
    ) {
        let mut session = session(ROLES[role]);
        // A message that claims some length, cut into records between which others may stand.
        let [_, a, b, c] = declared.to_be_bytes();
        let mut all = clear(HANDSHAKE, &[1, a, b, c]);
        for (kind, content) in contents {
            all.extend(clear([HANDSHAKE, HANDSHAKE, HANDSHAKE, 21][kind], &content));
        }
        let mut reads = reads.iter().copied().cycle();
        let mut heard = BytesMut::new();
        let mut rest = &mut all[..];
        while !rest.is_empty() {
            let (read, more) = rest.split_at_mut(reads.next().unwrap().min(rest.len()));
            let _ = session.receive(read, &mut heard);
            session.send(b"x");
            assert!(session.kept() <= 64 * 1024 + 5 + 18 * 1024);
            rest = more;
        }
    }
}

/// Opens a stream to the edge up to TLS.
async fn before_tls(edge: &Process) -> Speaker {
    let mut peer = Speaker::connect(edge.s2s).await;
    peer.open(&header("vngtp.lab", "coluc.com", "")).await;
    peer.starttls().await;
    peer
}

/// The handshake up to a phase; the same for both roles.
async fn handshake(speaker: &mut Speaker, mut peer: TlsPeer, phase: Phase, role: Role) -> Option<Sealer> {
    if phase == Phase::Clear {
        return None;
    }
    if role == Role::Client {
        peer.take(&speaker.hear_bytes().await);
    }
    loop {
        let said = peer.give();
        match (phase, role) {
            (Phase::BeforeFinished, Role::Client) => {
                speaker.try_say(&said[..clear_records(&said)]).await.unwrap();
                return peer.seal_handshake();
            }
            // The answer to all that the edge says is what is not said.
            (Phase::BeforeFinished, Role::Server) if !peer.is_handshaking() => {
                return peer.seal_handshake();
            }
            _ => speaker.try_say(&said).await.unwrap(),
        }
        if !peer.is_handshaking() {
            return Some(peer.seal());
        }
        peer.take(&speaker.hear_bytes().await);
    }
}

/// Writes records of one byte until the other side ends the connection, or so many bytes.
async fn write_endlessly(speaker: &mut Speaker, mut sealer: Option<Sealer>, most: usize) -> usize {
    let mut written = 0;
    for byte in endless() {
        let record = match &mut sealer {
            Some(sealer) => sealer.record(HANDSHAKE, &[byte], MOST_PADDING),
            None => clear(HANDSHAKE, &[byte]),
        };
        if written + record.len() > most || speaker.try_say(&record).await.is_err() {
            break;
        }
        written += record.len();
    }
    written
}

#[tokio::test]
async fn the_edge_keeps_little_of_them_and_ends_the_connection() {
    const MOST: usize = 4 * 1024 * 1024;
    let (partner, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let edge = Process::start(&partner, &router, "");
    let link = router.accept().await;
    let idle = edge.most();
    for phase in [Phase::Clear, Phase::BeforeFinished, Phase::AfterFinished] {
        let streams = (0..24).map(|_| async {
            let mut speaker = before_tls(&edge).await;
            let peer = TlsPeer::client("coluc.com", &TLS13);
            let sealer = handshake(&mut speaker, peer, phase, Role::Server).await;
            let most = if phase == Phase::Clear { 200_000 } else { MOST };
            let written = write_endlessly(&mut speaker, sealer, most).await;
            speaker.hear_end().await;
            written
        });
        let written = futures::future::join_all(streams).await;
        println!("{phase:?}: at most {:?} bytes written", written.iter().max());
    }
    // Where the edge connects.
    link.say("<message from='alice@coluc.com' to='bob@vngtp.lab'><body>hi</body></message>");
    let mut speaker = partner.accept_starttls().await;
    speaker.say("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
    let peer = TlsPeer::server("vngtp.lab", &TLS13);
    let sealer = handshake(&mut speaker, peer, Phase::BeforeFinished, Role::Client).await;
    write_endlessly(&mut speaker, sealer, 16 * MOST).await;
    speaker.hear_end().await;
    let most = edge.most();
    println!("{idle} kB idle, {most} kB at most");
    assert!(most < idle + 24 * 1024, "{most} kB");
}

#[tokio::test]
async fn a_byte_costs_the_same_however_much_of_the_message_is_there() {
    const STREAMS: usize = 12;
    const RECORDS: usize = 1_000;
    let (partner, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let edge = Process::start(&partner, &router, "");
    let _link = router.accept().await;
    let mut costs = Vec::new();
    for there in [0, 55_000] {
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            streams.push(before_tls(&edge).await);
        }
        let message: Vec<u8> = endless().take(there + RECORDS).collect();
        for stream in &mut streams {
            for content in message[..there].chunks(11_000) {
                stream.try_say(&clear(HANDSHAKE, content)).await.unwrap();
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = edge.busy();
        for byte in &message[there..] {
            for stream in &mut streams {
                stream.try_say(&clear(HANDSHAKE, &[*byte])).await.unwrap();
            }
            // Each is to be read on its own.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        costs.push(edge.busy().saturating_sub(before));
    }
    println!("{costs:?} with little and with much");
    let little = costs[0].max(Duration::from_millis(50));
    assert!(costs[1] < 2 * little, "{costs:?}");
}
