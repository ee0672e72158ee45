//! One connection of the generator: blocking while it is negotiated, then handed to the [`pump`](super::pump).

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use testkit_base::Error;
use testkit_base::xml::{Element, StreamEvent, StreamParser};

/// How long a server may take for one answer.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Namespace of streams.
pub const STREAMS: &str = "http://etherx.jabber.org/streams";

/// TCP, with or without TLS.
#[derive(Debug)]
pub struct Conn {
    /// The socket.
    pub tcp: TcpStream,
    /// The session, once TLS was started.
    pub tls: Option<Box<rustls::Connection>>,
    /// Bytes that were received and not looked at.
    pub heard: Vec<u8>,
    /// Bytes that [`Conn::append`] took and [`Conn::flush`] has not written; with TLS the session has them.
    out: Vec<u8>,
    written: usize,
    /// The socket takes no more for now.
    pub blocked: bool,
    /// Reads the stream while it is negotiated.
    parser: StreamParser,
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
            out: Vec::new(),
            written: 0,
            blocked: false,
            parser: StreamParser::default(),
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
        self.append(text.as_bytes())?;
        self.flush()
    }

    /// Takes bytes that are to be written.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            return tls.writer().write_all(bytes);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes them, as far as a socket that does not wait takes them.
    pub fn flush(&mut self) -> io::Result<()> {
        let done = match &mut self.tls {
            Some(tls) => flush(tls, &mut self.tcp),
            None => loop {
                let left = self.out.get(self.written..).unwrap_or_default();
                if left.is_empty() {
                    self.out.clear();
                    self.written = 0;
                    break Ok(());
                }
                match self.tcp.write(left) {
                    Ok(written) => self.written += written,
                    Err(error) => break Err(error),
                }
            },
        };
        self.blocked = matches!(&done, Err(error) if error.kind() == ErrorKind::WouldBlock);
        if self.blocked { Ok(()) } else { done }
    }

    /// Reads once, behind what was heard; the bytes that the socket gave, none at its end.
    pub fn read(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        let read = self.tcp.read(scratch)?;
        let mut received = scratch.get(..read).unwrap_or_default();
        let Some(tls) = &mut self.tls else {
            self.heard.extend_from_slice(received);
            return Ok(read);
        };
        while !received.is_empty() {
            tls.read_tls(&mut received)?;
            tls.process_new_packets().map_err(io::Error::other)?;
            drain(tls, &mut self.heard);
        }
        Ok(read)
    }

    /// Takes what the session has decrypted already.
    pub fn decrypted(&mut self) {
        if let Some(tls) = &mut self.tls {
            drain(tls, &mut self.heard);
        }
    }

    /// Reads until there is more in `heard`.
    pub fn fill(&mut self) -> io::Result<()> {
        let before = self.heard.len();
        self.decrypted();
        let mut scratch = [0; 16 * 1024];
        while self.heard.len() == before {
            if self.read(&mut scratch)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.flush()?;
        }
        Ok(())
    }

    /// What happens next on the stream.
    pub fn event(&mut self) -> Result<StreamEvent, Error> {
        loop {
            let mut rest = self.heard.as_slice();
            let event = self.parser.next(&mut rest);
            let taken = self.heard.len() - rest.len();
            self.heard.drain(..taken);
            match event {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => self.fill()?,
                Err(fault) => return Err(format!("{}: {}", fault.condition, fault.text).into()),
            }
        }
    }

    /// The next event, which must be a header.
    pub fn header(&mut self) -> Result<Element, Error> {
        match self.event()? {
            StreamEvent::Header(header) => Ok(header),
            other => Err(format!("a stream header was expected, and this came: {other:?}").into()),
        }
    }

    /// The next event, which must be an element, and not a stream error.
    pub fn element(&mut self) -> Result<Element, Error> {
        match self.event()? {
            StreamEvent::Stanza(element) if (&*element.ns, &*element.name) != (STREAMS, "error") => Ok(element),
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
        self.parser = StreamParser::default();
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

fn drain(tls: &mut rustls::Connection, into: &mut Vec<u8>) {
    let mut reader = tls.reader();
    while let Ok(content) = reader.fill_buf() {
        let taken = content.len();
        if taken == 0 {
            break;
        }
        into.extend_from_slice(content);
        reader.consume(taken);
    }
}

/// TLS settings of the generator: its own certificate, and trust in anybody, because dialback decides. No session is resumed.
#[derive(Debug, Clone)]
pub struct Tls {
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
}

impl Tls {
    /// A new self-signed P-256 certificate.
    pub fn with_anybody() -> Self {
        let (mut server, mut client) = (testkit_peer::server_tls(), testkit_peer::client_tls());
        Arc::make_mut(&mut server).send_tls13_tickets = 0;
        Arc::make_mut(&mut client).resumption = rustls::client::Resumption::disabled();
        Self { server, client }
    }
}
