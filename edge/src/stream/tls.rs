//! One TLS session that holds no memory for records while it is idle: the library's interface
//! without buffers. What came in stands in the caller's memory; only what the library cannot use
//! up yet is kept ([`held`]).

mod held;

use std::fmt;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};
use xmpp_federation_core::Domain;

use crate::observe::trace;
use crate::tls::{PeerCertificates, asked_name, key_was_proven, want};
use held::RecordBuffer;

/// What a record adds to its content at most: header, nonce or type, and tag.
const OVERHEAD: usize = 64;
/// Content of a record (RFC 8446 section 5.1).
const RECORD: usize = 16 * 1024;
/// White space in clear that is taken before the first record; what tools send is a line end.
const MOST_SPACE: usize = 16;

/// A session in one of the two roles.
pub struct TlsSession {
    side: TlsSide,
    asked: Option<String>,
    /// For the server's role: the domain that the certificate is for where the peer asks for none.
    wanted: Option<Domain>,
    /// The peer holds the key of its certificate.
    proven: bool,
    held: RecordBuffer,
    outgoing: BytesMut,
    /// Bytes of white space that may still come before the first record.
    space: usize,
    ended: bool,
    failed: bool,
}

enum TlsSide {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What is to be sent when the session can.
#[derive(Clone, Copy)]
enum Output<'a> {
    Nothing,
    Content(&'a [u8]),
    End,
}

/// What one step of the session asks for.
enum Next {
    Again,
    Ended,
    Idle,
}

impl TlsSession {
    /// On a connection that we open; `name` goes into SNI.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        UnbufferedClientConnection::new(config, name).map(|side| Self::new(TlsSide::Client(side)))
    }

    /// On a connection that a peer opened.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        UnbufferedServerConnection::new(config).map(|side| Self::new(TlsSide::Server(side)))
    }

    fn new(side: TlsSide) -> Self {
        Self {
            side,
            asked: None,
            wanted: None,
            proven: false,
            held: RecordBuffer::default(),
            outgoing: BytesMut::new(),
            space: 0,
            ended: false,
            failed: false,
        }
    }

    /// For the server's role: whom the peer wants, which counts where it does not ask by SNI.
    #[must_use]
    pub fn for_domain(mut self, wanted: Option<Domain>) -> Self {
        self.wanted = wanted;
        self
    }

    /// The session follows clear text: white space that belongs to that may come before the first
    /// record, which never begins with any.
    pub fn follow_clear_text(&mut self) {
        self.space = MOST_SPACE;
    }

    /// Drops white space in front of the first record.
    fn skip_space<'a>(&mut self, came: &'a mut [u8]) -> &'a mut [u8] {
        if self.space == 0 {
            return came;
        }
        let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        let space = came.iter().take(self.space).take_while(is_space).count();
        let is_all = space == came.len();
        self.space = if is_all { self.space - space } else { 0 };
        came.get_mut(space..).unwrap_or_default()
    }

    /// What the peer showed.
    pub fn shown(&self) -> PeerCertificates<'_> {
        PeerCertificates {
            chain: self.state().peer_certificates().unwrap_or_default(),
            proven: self.proven,
        }
    }

    /// Version and cipher suite.
    pub fn state(&self) -> &CommonState {
        match &self.side {
            TlsSide::Client(side) => side,
            TlsSide::Server(side) => side,
        }
    }

    /// For the server's role: the name that the peer asked for by SNI.
    pub fn asked_name(&self) -> Option<Option<&str>> {
        matches!(self.side, TlsSide::Server(_)).then_some(self.asked.as_deref())
    }

    /// What the handshake agreed on, in words.
    pub(super) fn described(&self) -> String {
        let asked = self.asked_name().map(trace::tls::asked_for).unwrap_or_default();
        trace::tls::session(self.state(), &asked, &self.shown())
    }

    /// Whether the peer said that it sends no more.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Records that are to be written.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing
    }

    /// So many bytes of [`TlsSession::outgoing`] were written.
    pub fn written(&mut self, bytes: usize) {
        self.outgoing.advance(bytes.min(self.outgoing.len()));
        if self.outgoing.is_empty() {
            self.outgoing = BytesMut::new();
        }
    }

    /// Starts the handshake in the client's role.
    pub fn start(&mut self) -> Result<(), Error> {
        self.go_on(Output::Nothing)
    }

    /// Bytes of memory kept of what came.
    pub fn kept(&self) -> usize {
        self.held.capacity()
    }

    /// Takes in what came; content goes to `into`. At most [`held::MOST`] bytes stay in memory, and
    /// each byte is copied a bounded number of times, however many calls it comes in. After an error
    /// an alert may be left to be written, and nothing else is done any more.
    pub fn receive(&mut self, records: &mut [u8], into: &mut BytesMut) -> Result<(), Error> {
        let mut records = self.skip_space(records);
        while !records.is_empty() {
            // The library takes nothing behind the peer's end, nor after an error.
            if self.ended || self.failed {
                return Ok(());
            }
            let mut held = std::mem::take(&mut self.held);
            if let Some((taken, ready)) = held.complete(records) {
                if ready {
                    let (used, done) = self.advance(held.bytes(), Output::Nothing, into);
                    done.and_then(|()| held.used(used)).map_err(|error| self.fail(error))?;
                }
                records = records.get_mut(taken..).unwrap_or_default();
            } else {
                let whole = held::whole_records(records);
                let (used, done) = self.advance(records, Output::Nothing, into);
                done.and_then(|()| held.keep(records, used, whole))
                    .map_err(|error| self.fail(error))?;
                records = &mut [];
            }
            if !self.ended {
                self.held = held;
            }
        }
        Ok(())
    }

    /// Nothing that came counts any more; what the library has to say of it is to be written.
    fn fail(&mut self, error: Error) -> Error {
        self.failed = true;
        while self.state().wants_write() {
            // It does not look at any bytes again.
            let said = self.step(&mut [], Output::Nothing, &mut BytesMut::new());
            if said.1.is_err() {
                break;
            }
        }
        error
    }

    /// Encrypts content; without effect before the handshake is over and after an error.
    pub fn send(&mut self, content: &[u8]) {
        if !content.is_empty() {
            let _ = self.go_on(Output::Content(content));
        }
    }

    /// Says that nothing more will be sent.
    pub fn send_end(&mut self) {
        let _ = self.go_on(Output::End);
    }

    /// Goes on with what is there. The library wants to see what it has not used up at every call.
    fn go_on(&mut self, say: Output<'_>) -> Result<(), Error> {
        let mut held = std::mem::take(&mut self.held);
        let (used, done) = self.advance(held.bytes(), say, &mut BytesMut::new());
        done.and_then(|()| held.used(used))?;
        self.held = held;
        Ok(())
    }

    /// Goes on until the session needs more bytes; how many of them are used up.
    fn advance(&mut self, records: &mut [u8], say: Output<'_>, into: &mut BytesMut) -> (usize, Result<(), Error>) {
        let mut used = 0;
        while !self.failed {
            let rest = records.get_mut(used..).unwrap_or_default();
            let (discard, next) = self.step(rest, say, into);
            used += discard;
            match next {
                Ok(Next::Again) => {}
                Ok(Next::Ended) => self.ended = true,
                Ok(Next::Idle) => break,
                Err(error) => {
                    self.failed = true;
                    return (used, Err(error));
                }
            }
        }
        (used, Ok(()))
    }

    fn step(&mut self, records: &mut [u8], say: Output<'_>, into: &mut BytesMut) -> (usize, Result<Next, Error>) {
        // What the library asks and tells while it works on the handshake goes by the thread.
        let handshaking = self.state().is_handshaking();
        match &mut self.side {
            TlsSide::Client(side) => {
                let status = side.process_tls_records(records);
                self.proven |= handshaking && key_was_proven();
                step(status, &mut self.outgoing, say, into)
            }
            TlsSide::Server(side) => {
                if handshaking {
                    want(self.wanted.take());
                }
                let status = side.process_tls_records(records);
                if handshaking {
                    self.wanted = want(None);
                    self.proven |= key_was_proven();
                    if let Some(name) = asked_name() {
                        self.asked = Some(name);
                    }
                }
                step(status, &mut self.outgoing, say, into)
            }
        }
    }
}

/// One step; the bytes to discard, and how it goes on.
fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut BytesMut,
    say: Output<'_>,
    into: &mut BytesMut,
) -> (usize, Result<Next, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let next = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Next::Again),
                Some(Err(error)) => break Err(error),
                Some(Ok(record)) => {
                    discard += record.discard;
                    into.extend_from_slice(record.payload);
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => put(outgoing, 1024, |room| {
            data.encode(room).map_err(|error| match error {
                EncodeError::InsufficientSize(size) => Some(size),
                EncodeError::AlreadyEncoded => None,
            })
        })
        .map(|()| Next::Again),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It stands in what is to be written, and order is kept there.
            data.done();
            Ok(Next::Again)
        }
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            let size = |error| match error {
                EncryptError::InsufficientSize(size) => Some(size),
                EncryptError::EncryptExhausted => None,
            };
            match say {
                Output::Nothing => Ok(()),
                Output::Content(content) => {
                    let records = content.len() / RECORD + 1;
                    put(outgoing, content.len() + records * OVERHEAD, |room| {
                        traffic.encrypt(content, room).map_err(size)
                    })
                }
                Output::End => put(outgoing, OVERHEAD, |room| {
                    traffic.queue_close_notify(room).map_err(size)
                }),
            }
            .map(|()| Next::Idle)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Next::Ended),
        Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => Ok(Next::Idle),
        // Early data is never agreed on.
        Ok(_) => Err(Error::General("an unexpected state of TLS".to_owned())),
    };
    (discard, next)
}

/// Appends what `write` puts into room of about that size, or of the size that it names.
fn put(
    outgoing: &mut BytesMut,
    size: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
) -> Result<(), Error> {
    let start = outgoing.len();
    let mut size = size;
    // The second time it has the room that was asked for.
    for _ in 0..2 {
        outgoing.resize(start + size, 0);
        let done = write(outgoing.get_mut(start..).unwrap_or_default());
        outgoing.truncate(start + *done.as_ref().unwrap_or(&0));
        match done {
            Ok(_) => return Ok(()),
            Err(Some(more)) => size = more.required_size,
            Err(None) => break,
        }
    }
    Err(Error::EncryptError)
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.side {
            TlsSide::Client(_) => "client",
            TlsSide::Server(_) => "server",
        };
        write!(f, "TlsSession({role})")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;
    use rcgen::generate_simple_self_signed;
    use rstest::rstest;
    use rustls::SupportedProtocolVersion;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::version::{TLS12, TLS13};

    type Configs = (Arc<ServerConfig>, Arc<ClientConfig>);

    fn configs(version: &'static SupportedProtocolVersion) -> Configs {
        let made = generate_simple_self_signed(vec!["coluc.com".to_owned()]).unwrap();
        let der = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der.clone()).unwrap();
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone());
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
            .with_single_cert(vec![der], key)
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        (Arc::new(server), Arc::new(client))
    }

    fn pair((server, client): &Configs) -> [TlsSession; 2] {
        let name = ServerName::try_from("coluc.com").unwrap();
        let mut client = TlsSession::client(client.clone(), name).unwrap();
        client.start().unwrap();
        [client, TlsSession::server(server.clone()).unwrap()]
    }

    /// Carries bytes to and fro in pieces of these sizes until nothing is left to carry; `spoil`
    /// changes the byte at that place of all that is carried.
    fn carry(
        sessions: &mut [TlsSession; 2],
        sizes: &[usize],
        mut spoil: Option<(usize, u8)>,
        heard: &mut [BytesMut; 2],
    ) -> Result<(), Error> {
        let mut sizes = sizes.iter().copied().cycle();
        loop {
            let mut idle = true;
            for from in 0..2 {
                let to = 1 - from;
                while !sessions[from].outgoing().is_empty() {
                    idle = false;
                    let size = sizes.next().unwrap().min(sessions[from].outgoing().len());
                    let mut piece = sessions[from].outgoing()[..size].to_vec();
                    sessions[from].written(size);
                    if let Some((place, bits)) = &mut spoil {
                        if *place < size {
                            piece[*place] ^= *bits;
                            spoil = None;
                        } else {
                            *place -= size;
                        }
                    }
                    sessions[to].receive(&mut piece, &mut heard[to])?;
                }
            }
            if idle {
                return Ok(());
            }
        }
    }

    #[rstest]
    #[case::tls_1_2(&TLS12)]
    #[case::tls_1_3(&TLS13)]
    fn an_idle_session_keeps_no_bytes(#[case] version: &'static SupportedProtocolVersion) {
        let mut sessions = pair(&configs(version));
        let mut heard = [BytesMut::new(), BytesMut::new()];
        carry(&mut sessions, &[7], None, &mut heard).unwrap();
        for session in &sessions {
            assert!(!session.state().is_handshaking());
            assert_eq!(session.held.capacity(), 0);
            assert_eq!(session.outgoing.capacity(), 0);
        }
    }

    #[rstest]
    #[case::tls_1_2(&TLS12)]
    #[case::tls_1_3(&TLS13)]
    fn the_end_is_told_once_everything_was_heard(#[case] version: &'static SupportedProtocolVersion) {
        let mut sessions = pair(&configs(version));
        let mut heard = [BytesMut::new(), BytesMut::new()];
        carry(&mut sessions, &[900], None, &mut heard).unwrap();
        sessions[0].send(b"last words");
        sessions[0].send_end();
        carry(&mut sessions, &[900], None, &mut heard).unwrap();
        assert!(sessions[1].ended());
        assert_eq!(&heard[1][..], b"last words");
        sessions[1].send(b"the other direction goes on");
        carry(&mut sessions, &[900], None, &mut heard).unwrap();
        assert_eq!(&heard[0][..], b"the other direction goes on");
    }

    #[rstest]
    #[case::tls_1_2(&TLS12)]
    #[case::tls_1_3(&TLS13)]
    fn an_error_leaves_an_alert_to_be_written(#[case] version: &'static SupportedProtocolVersion) {
        let (server, client) = configs(version);
        let (mut server, mut client) = ((*server).clone(), (*client).clone());
        server.alpn_protocols = vec![b"xmpp-server".to_vec()];
        client.alpn_protocols = vec![b"h2".to_vec()];
        let mut sessions = pair(&(Arc::new(server), Arc::new(client)));
        let mut heard = [BytesMut::new(), BytesMut::new()];
        let error = carry(&mut sessions, &[900], None, &mut heard).unwrap_err();
        assert_eq!(error, Error::NoApplicationProtocol);
        let told = carry(&mut sessions, &[900], None, &mut heard).unwrap_err();
        let alert = rustls::AlertDescription::NoApplicationProtocol;
        assert_eq!(told, Error::AlertReceived(alert));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn content_arrives_in_whatever_pieces_records_do(
            newest in any::<bool>(),
            sizes in prop::collection::vec(1usize..40_000, 1..8),
            contents in prop::collection::vec((0usize..2, 0usize..70_000), 1..6),
        ) {
            let mut sessions = pair(&configs(if newest { &TLS13 } else { &TLS12 }));
            let mut heard = [BytesMut::new(), BytesMut::new()];
            carry(&mut sessions, &sizes, None, &mut heard).unwrap();
            let mut said = [Vec::new(), Vec::new()];
            for (n, (from, length)) in contents.into_iter().enumerate() {
                let content: Vec<u8> = (0..length).map(|i| u8::try_from((i * 31 + n) % 251).unwrap()).collect();
                sessions[from].send(&content);
                said[1 - from].extend(content);
                carry(&mut sessions, &sizes, None, &mut heard).unwrap();
            }
            prop_assert_eq!(&heard[0][..], &said[0][..]);
            prop_assert_eq!(&heard[1][..], &said[1][..]);
        }

        #[test]
        fn a_spoilt_byte_ends_the_session_and_nothing_wrong_is_heard(
            newest in any::<bool>(),
            sizes in prop::collection::vec(1usize..3_000, 1..8),
            place in 0usize..5_000,
            bits in 1u8..=255,
        ) {
            let mut sessions = pair(&configs(if newest { &TLS13 } else { &TLS12 }));
            let mut heard = [BytesMut::new(), BytesMut::new()];
            let content = b"all is well ".repeat(200);
            let mut done = carry(&mut sessions, &sizes, Some((place, bits)), &mut heard);
            // A caller may go on after the error: that must not panic.
            for from in 0..2 {
                sessions[from].send(&content);
                let more = carry(&mut sessions, &sizes, None, &mut heard);
                done = done.and(more);
            }
            for heard in &heard {
                prop_assert!(content.starts_with(heard));
            }
            if sessions[0].state().is_handshaking() || sessions[1].state().is_handshaking() {
                prop_assert!(heard[0].is_empty() || heard[1].is_empty());
            }
            sessions.iter_mut().for_each(TlsSession::send_end);
        }
    }
}
