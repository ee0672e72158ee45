//! One connection of the generator: blocking while it is negotiated, then handed to the [`pump`](super::pump).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::xml::{self, Piece};
use testkit_base::Error;

/// How long a server may take for one answer.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// TCP, with or without TLS.
#[derive(Debug)]
pub struct Conn {
    /// The socket.
    pub tcp: TcpStream,
    /// The session, once TLS was started.
    pub tls: Option<Box<rustls::Connection>>,
    /// Bytes that were received and not looked at.
    pub heard: Vec<u8>,
}

impl Conn {
    /// Takes over a socket.
    pub fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            tcp,
            tls: None,
            heard: Vec::new(),
        })
    }

    /// Connects.
    pub fn dial(address: SocketAddr) -> Result<Self, Error> {
        let tcp = TcpStream::connect_timeout(&address, PATIENCE)
            .map_err(|error| format!("cannot connect to {address}: {error}"))?;
        Ok(Self::new(tcp)?)
    }

    /// Writes text at once.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return self.tcp.write_all(text.as_bytes());
        };
        tls.writer().write_all(text.as_bytes())?;
        flush(tls, &mut self.tcp)
    }

    /// Reads until there is more in `heard`.
    pub fn fill(&mut self) -> io::Result<()> {
        let before = self.heard.len();
        let mut scratch = [0; 16 * 1024];
        loop {
            let Some(tls) = &mut self.tls else {
                let read = self.tcp.read(&mut scratch)?;
                if read == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                self.heard.extend_from_slice(scratch.get(..read).unwrap_or_default());
                return Ok(());
            };
            loop {
                match tls.reader().read(&mut scratch) {
                    Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                    Ok(read) => self.heard.extend_from_slice(scratch.get(..read).unwrap_or_default()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            if self.heard.len() > before {
                return Ok(());
            }
            if tls.read_tls(&mut self.tcp)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            tls.process_new_packets().map_err(io::Error::other)?;
            flush(tls, &mut self.tcp)?;
        }
    }

    /// The next piece of the stream.
    pub fn piece(&mut self) -> Result<Piece, Error> {
        loop {
            if let Some((piece, taken)) = xml::piece(&self.heard)? {
                self.heard.drain(..taken);
                return Ok(piece);
            }
            self.fill()?;
        }
    }

    /// The next piece, which must be a header.
    pub fn header(&mut self) -> Result<String, Error> {
        match self.piece()? {
            Piece::Header(header) => Ok(header),
            other => Err(format!("a stream header was expected, and this came: {other:?}").into()),
        }
    }

    /// The next piece, which must be an element, and not a stream error.
    pub fn element(&mut self) -> Result<String, Error> {
        match self.piece()? {
            Piece::Element(element) if !element.starts_with("<stream:error") => Ok(element),
            other => Err(format!("an element was expected, and this came: {other:?}").into()),
        }
    }

    /// Starts TLS; clear bytes that came before it are an error.
    pub fn start_tls(&mut self, tls: rustls::Connection) -> Result<(), Error> {
        if !self.heard.is_empty() {
            return Err("clear bytes behind the agreement to start TLS".into());
        }
        let mut tls = Box::new(tls);
        tls.set_buffer_limit(None);
        while tls.is_handshaking() {
            tls.complete_io(&mut self.tcp)?;
        }
        flush(&mut tls, &mut self.tcp)?;
        self.tls = Some(tls);
        Ok(())
    }

    /// Starts TLS as the one who connected.
    pub fn start_tls_as_client(&mut self, tls: &Tls, name: &str) -> Result<(), Error> {
        let name = ServerName::try_from(name.to_owned())?;
        let session = rustls::ClientConnection::new(tls.client.clone(), name)?;
        self.start_tls(session.into())
    }

    /// Starts TLS as the one who was connected to.
    pub fn start_tls_as_server(&mut self, tls: &Tls) -> Result<(), Error> {
        let session = rustls::ServerConnection::new(tls.server.clone())?;
        self.start_tls(session.into())
    }
}

fn flush(tls: &mut rustls::Connection, tcp: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(tcp)?;
    }
    Ok(())
}

/// TLS settings of the generator: its own certificate, and trust in anybody, because dialback decides.
#[derive(Debug, Clone)]
pub struct Tls {
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
}

impl Tls {
    /// A new self-signed P-256 certificate; no session is resumed.
    pub fn new() -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let made = rcgen::generate_simple_self_signed(vec!["peer.lab".to_owned()])?;
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
        let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        server.send_tls13_tickets = 0;
        let mut client = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustAnybody(provider)))
            .with_no_client_auth();
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            server: Arc::new(server),
            client: Arc::new(client),
        })
    }
}

#[derive(Debug)]
struct TrustAnybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
