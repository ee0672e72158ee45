//! A TLS peer that completes as much of a handshake as it is told and then writes records of its
//! own: clear ones, and encrypted ones with padding.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Connection, ConnectionTrafficSecrets, KeyLog, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

use super::pki::Watching;

/// A handshake record.
pub const HANDSHAKE: u8 = 22;
/// A record of content.
pub const CONTENT: u8 = 23;
/// Padding of a record with one byte of content.
pub const MOST_PADDING: usize = 16 * 1024 - 1;

/// The secrets of one handshake, by their labels.
#[derive(Debug, Default)]
struct Secrets(Mutex<HashMap<String, Vec<u8>>>);

impl KeyLog for Secrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        let mut secrets = self.0.lock().unwrap();
        secrets.insert(label.to_owned(), secret.to_vec());
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            TLS13_CHACHA20_POLY1305_SHA256,
            TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
        ..rustls::crypto::aws_lc_rs::default_provider()
    })
}

/// One side of a handshake.
pub struct TlsPeer {
    connection: Connection,
    secrets: Arc<Secrets>,
    /// The side's name in the labels of its secrets.
    side: &'static str,
    version: &'static SupportedProtocolVersion,
}

impl TlsPeer {
    pub fn client(name: &str, version: &'static SupportedProtocolVersion) -> Self {
        let secrets = Arc::new(Secrets::default());
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Watching::anybody()))
            .with_no_client_auth();
        config.key_log = secrets.clone();
        config.enable_secret_extraction = true;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        Self {
            connection: connection.into(),
            secrets,
            side: "CLIENT",
            version,
        }
    }

    pub fn server(name: &str, version: &'static SupportedProtocolVersion) -> Self {
        let secrets = Arc::new(Secrets::default());
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        config.send_tls13_tickets = 0;
        config.key_log = secrets.clone();
        config.enable_secret_extraction = true;
        let connection = ServerConnection::new(Arc::new(config)).unwrap();
        Self {
            connection: connection.into(),
            secrets,
            side: "SERVER",
            version,
        }
    }

    /// What it has to say.
    pub fn give(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut records).unwrap();
        }
        records
    }

    /// What is said to it.
    pub fn take(&mut self, mut records: &[u8]) {
        while !records.is_empty() {
            self.connection.read_tls(&mut records).unwrap();
            self.connection.process_new_packets().unwrap();
        }
    }

    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Its own records once the keys of a TLS 1.3 handshake are known; what the session had to
    /// say under them is not said.
    pub fn seal_handshake(self) -> Option<Sealer> {
        let label = format!("{}_HANDSHAKE_TRAFFIC_SECRET", self.side);
        let secrets = self.secrets.0.lock().unwrap();
        let secret = secrets.get(&label)?;
        let secret = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret);
        Some(Sealer::new(
            &expand(&secret, "key", 32),
            &expand(&secret, "iv", 12),
            0,
            true,
        ))
    }

    /// Its own records behind the handshake.
    pub fn seal(self) -> Sealer {
        let newest = self.version.version == rustls::ProtocolVersion::TLSv1_3;
        let (sequence, secrets) = self.connection.dangerous_extract_secrets().unwrap().tx;
        let ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } = secrets else {
            panic!("another suite");
        };
        Sealer::new(key.as_ref(), iv.as_ref(), sequence, newest)
    }
}

/// HKDF-Expand-Label (RFC 8446 section 7.1) without context.
fn expand(secret: &hkdf::Prk, label: &str, length: usize) -> Vec<u8> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let label = format!("tls13 {label}");
    let info = [
        &u16::try_from(length).unwrap().to_be_bytes()[..],
        &[u8::try_from(label.len()).unwrap()],
        label.as_bytes(),
        &[0],
    ];
    let mut out = vec![0; length];
    let expanded = secret.expand(&info, Length(length)).unwrap();
    expanded.fill(&mut out).unwrap();
    out
}

/// Writes encrypted records.
pub struct Sealer {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    newest: bool,
}

impl Sealer {
    fn new(key: &[u8], iv: &[u8], sequence: u64, newest: bool) -> Self {
        Self {
            key: LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap()),
            iv: iv.try_into().unwrap(),
            sequence,
            newest,
        }
    }

    /// A record of this type; TLS 1.2 has no padding.
    pub fn record(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut nonce = self.iv;
        for (byte, of) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of;
        }
        let mut inside = content.to_vec();
        let (header, additional) = if self.newest {
            inside.push(kind);
            inside.resize(inside.len() + padding, 0);
            let header = clear_header(CONTENT, inside.len() + 16);
            (header, header.to_vec())
        } else {
            let sequence = self.sequence.to_be_bytes();
            let additional = [&sequence[..], &clear_header(kind, content.len())[..]].concat();
            (clear_header(kind, content.len() + 16), additional)
        };
        self.sequence += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let additional = Aad::from(&additional[..]);
        self.key
            .seal_in_place_append_tag(nonce, additional, &mut inside)
            .unwrap();
        [&header[..], &inside[..]].concat()
    }
}

fn clear_header(kind: u8, length: usize) -> [u8; 5] {
    let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
    [kind, 3, 3, high, low]
}

/// A clear record.
pub fn clear(kind: u8, content: &[u8]) -> Vec<u8> {
    [&clear_header(kind, content.len())[..], content].concat()
}
