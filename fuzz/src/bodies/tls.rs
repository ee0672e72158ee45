//! The TLS record layer in both roles. Even inputs are what a peer sends from its first byte; odd
//! ones are what happens to the records between two sessions of ours.

use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use xmpp_federation_edge::stream::tls::TlsSession;

/// What may be held of a message and a record that are not complete.
const MOST_HELD: usize = 64 * 1024 + 5 + 16 * 1024 + 2048;

fn configs() -> &'static (Arc<ServerConfig>, Arc<ClientConfig>) {
    static CONFIGS: OnceLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = OnceLock::new();
    CONFIGS.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(vec!["coluc.com".to_owned()]).unwrap();
        let der = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(der.clone()).unwrap();
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der], key)
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        (Arc::new(server), Arc::new(client))
    })
}

fn sessions() -> [TlsSession; 2] {
    let (server, client) = configs();
    let name = ServerName::try_from("coluc.com").unwrap();
    let mut client = TlsSession::client(client.clone(), name).unwrap();
    client.start().unwrap();
    [client, TlsSession::server(server.clone()).unwrap()]
}

/// Gives bytes to a session, as the transport does.
fn give(session: &mut TlsSession, bytes: &[u8], heard: &mut BytesMut) -> bool {
    let mut records = bytes.to_vec();
    let good = session.receive(&mut records, heard).is_ok();
    let held = session.kept();
    assert!(held <= MOST_HELD, "{held} bytes are held");
    good
}

/// One input.
pub fn run(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    if choice & 1 == 0 {
        raw(choice, data);
    } else {
        disturbed(data);
    }
}

fn raw(choice: u8, data: &[u8]) {
    let mut sessions = sessions();
    let session = &mut sessions[usize::from(choice >> 1 & 1)];
    let step = match usize::from(choice >> 2) {
        0 => usize::MAX,
        n => n * n,
    };
    let mut heard = BytesMut::new();
    for piece in data.chunks(step) {
        if !give(session, piece, &mut heard) {
            break;
        }
    }
    // Nobody who says fixed bytes can agree on keys.
    assert!(heard.is_empty(), "content without keys");
    session.send(b"x");
    session.send_end();
}

/// Each four bytes are a step: who speaks, what happens to the next bytes, how many, and where.
fn disturbed(data: &[u8]) {
    let mut sessions = sessions();
    let mut said = [Vec::new(), Vec::new()];
    let mut heard = [BytesMut::new(), BytesMut::new()];
    let mut ended = [false; 2];
    let mut spoilt = [false; 2];
    let mut steps = data.chunks_exact(4);
    let mut alive = true;
    while let (Some(&[what, high, low, place]), true) = (steps.next(), alive) {
        let from = usize::from(what & 1);
        let to = 1 - from;
        let size = usize::from(u16::from_be_bytes([high, low]));
        match what >> 1 & 7 {
            0 => {
                let content: Vec<u8> = (0..=250).cycle().map(|n: u8| n ^ place).take(size).collect();
                // Nothing is taken before the handshake is over, nor after the end.
                if !sessions[from].state().is_handshaking() && !ended[from] {
                    sessions[from].send(&content);
                    said[from].extend(content);
                }
                continue;
            }
            1 => {
                ended[from] |= !sessions[from].state().is_handshaking();
                sessions[from].send_end();
                continue;
            }
            _ => {}
        }
        let size = size.min(sessions[from].outgoing().len());
        let whole = sessions[from].outgoing()[..size].to_vec();
        let mut piece = whole.clone();
        sessions[from].written(size);
        let at = usize::from(place).min(piece.len());
        match what >> 1 & 7 {
            2 if at < piece.len() => piece[at] ^= 1 << (what >> 5),
            3 => piece.insert(at, place),
            4 => piece.truncate(at),
            5 => piece.extend_from_within(at..),
            _ => {}
        }
        spoilt[to] |= piece != whole;
        // The library asserts, where assertions are on, that what comes behind our end is good. It
        // is dropped whatever it is.
        alive = !(ended[to] && spoilt[to]) && give(&mut sessions[to], &piece, &mut heard[to]);
    }
    // What is left goes its way undisturbed.
    while alive && !(0..2).any(|to| ended[to] && spoilt[to]) {
        let before = heard.iter().map(BytesMut::len).sum::<usize>();
        let mut idle = true;
        for from in 0..2 {
            let piece = sessions[from].outgoing().to_vec();
            sessions[from].written(piece.len());
            idle &= piece.is_empty();
            alive &= give(&mut sessions[1 - from], &piece, &mut heard[1 - from]);
        }
        if idle && before == heard.iter().map(BytesMut::len).sum::<usize>() {
            break;
        }
    }
    for from in 0..2 {
        let heard = &heard[1 - from][..];
        assert!(said[from].starts_with(heard), "other content than was said");
        assert!(
            spoilt.contains(&true) || heard.len() == said[from].len(),
            "content is missing"
        );
    }
    assert!(alive || spoilt.contains(&true), "undisturbed records are refused");
}
