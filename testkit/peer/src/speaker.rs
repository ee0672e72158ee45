//! One side of a connection.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{PATIENCE, PROCEED, STARTTLS, attribute, client_tls, server_tls};

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Client = (Option<String>, Option<Vec<u8>>, Vec<CertificateDer<'static>>);

/// One side of a connection that says and expects text.
pub struct Speaker {
    io: Option<Pin<Box<dyn Io>>>,
    heard: String,
}

impl Speaker {
    pub fn new(tcp: TcpStream) -> Self {
        tcp.set_nodelay(true).unwrap();
        Self {
            io: Some(Box::pin(tcp)),
            heard: String::new(),
        }
    }

    /// Its bytes from here on, and what was heard already.
    pub fn into_parts(self) -> (impl AsyncRead + AsyncWrite + Send + Unpin, String) {
        (self.io.unwrap(), self.heard)
    }

    pub async fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.unwrap())
    }

    /// From another address of this host.
    pub async fn connect_from(source: [u8; 4], address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        Self::new(socket.connect(address).await.unwrap())
    }

    pub async fn say(&mut self, text: &str) {
        self.try_say(text.as_bytes()).await.unwrap();
    }

    /// Says one after the other; gives itself back.
    pub async fn say_all(mut self, texts: impl Iterator<Item = String> + Send) -> Self {
        for text in texts {
            self.say(&text).await;
        }
        self
    }

    pub async fn try_say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let io = self.io.as_mut().unwrap();
        io.write_all(bytes).await?;
        io.flush().await
    }

    /// Says that nothing more will come.
    pub async fn finish_writing(&mut self) {
        let _ = self.io.as_mut().unwrap().shutdown().await;
    }

    /// Everything up to and including `what`.
    pub async fn hear(&mut self, what: &str) -> String {
        match self.hear_or_end(what).await {
            Ok(text) => text,
            Err(text) => panic!("the connection ended before {what:?}; heard {text:?}"),
        }
    }

    /// The same; everything that came if the connection ends before.
    pub async fn hear_or_end(&mut self, what: &str) -> Result<String, String> {
        loop {
            if let Some(at) = self.heard.find(what) {
                let rest = self.heard.split_off(at + what.len());
                return Ok(std::mem::replace(&mut self.heard, rest));
            }
            let mut bytes = vec![0; 16 * 1024];
            let read = timeout(PATIENCE, self.io.as_mut().unwrap().read(&mut bytes)).await;
            let read = match read {
                Ok(read) => read.unwrap_or(0),
                Err(tokio::time::error::Elapsed { .. }) => {
                    panic!("{what:?} did not come; heard {:?}", self.heard)
                }
            };
            if read == 0 {
                return Err(std::mem::take(&mut self.heard));
            }
            self.heard.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    }

    /// What comes next, at most so many bytes at once.
    pub async fn hear_some(&mut self, most: usize) -> String {
        let mut bytes = vec![0; most];
        let read = timeout(PATIENCE, self.io.as_mut().unwrap().read(&mut bytes)).await;
        let read = read.expect("nothing came").unwrap_or(0);
        let heard = std::mem::take(&mut self.heard);
        heard + &String::from_utf8_lossy(&bytes[..read])
    }

    /// What came behind what was heard last.
    pub fn heard_already(&self) -> &str {
        &self.heard
    }

    /// Whether nothing at all comes for a while.
    pub async fn is_silent(&mut self, time: Duration) -> bool {
        if !self.heard.is_empty() {
            return false;
        }
        let mut byte = [0; 1];
        timeout(time, self.io.as_mut().unwrap().read(&mut byte)).await.is_err()
    }

    /// Everything up to the end of the connection.
    pub async fn hear_end(&mut self) -> String {
        let mut rest = Vec::new();
        let io = self.io.as_mut().unwrap();
        let end = timeout(PATIENCE, io.read_to_end(&mut rest)).await;
        // A reset is an end too.
        let _ = end.unwrap_or_else(|_| panic!("the connection does not end; heard {rest:?}"));
        std::mem::take(&mut self.heard) + &String::from_utf8_lossy(&rest)
    }

    /// The condition of the stream error that comes; the stream is ended behind it.
    pub async fn condition(&mut self) -> String {
        let text = self.hear("</stream:stream>").await;
        let error = text
            .split("<stream:error><")
            .nth(1)
            .unwrap_or_else(|| panic!("no error in {text}"));
        error.split([' ', '/']).next().unwrap().to_owned()
    }

    /// The features that follow a header, or the condition of the stream error that comes instead.
    pub async fn features_or_condition(&mut self) -> Result<String, String> {
        let text = self.hear("</stream:").await;
        let rest = self.hear(">").await;
        match text.split("<stream:error><").nth(1) {
            Some(error) => Err(error.split([' ', '/']).next().unwrap().to_owned()),
            None => Ok(text + &rest),
        }
    }

    /// Says a header and hears the answer with its features.
    pub async fn open(&mut self, header: &str) -> String {
        self.say(header).await;
        self.hear("</stream:features>").await
    }

    /// A stream to the edge through STARTTLS with this header; gives the id of the edge's last one.
    pub async fn secured(edge: SocketAddr, header: &str) -> (Self, String) {
        let mut speaker = Self::connect(edge).await;
        speaker.open(header).await;
        speaker.starttls().await;
        speaker.start_tls_as_client("coluc.com").await;
        let text = speaker.open(header).await;
        let id = attribute(&text, "stream:stream", "id");
        (speaker, id)
    }

    /// To where TLS begins.
    pub async fn starttls(&mut self) {
        self.say(STARTTLS).await;
        self.hear(PROCEED).await;
    }

    pub async fn start_tls_as_client(&mut self, name: &str) {
        self.tls_client(client_tls(), name).await.unwrap();
    }

    /// The client's side of TLS by this configuration; gives the protocol that ALPN agreed on.
    pub async fn try_tls_as_client(&mut self, name: &str, config: ClientConfig) -> std::io::Result<Option<Vec<u8>>> {
        let io = self.io.take().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, io)
            .await?;
        let protocol = tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        self.io = Some(Box::pin(tls));
        Ok(protocol)
    }

    /// The server's side of TLS by this configuration; gives the name and the protocol that the
    /// client asked for.
    pub async fn tls_as_server(&mut self, config: ServerConfig) -> (Option<String>, Option<Vec<u8>>) {
        self.try_tls_as_server(config).await.unwrap()
    }

    /// The same; an error if there is no handshake.
    pub async fn try_tls_as_server(
        &mut self,
        config: ServerConfig,
    ) -> std::io::Result<(Option<String>, Option<Vec<u8>>)> {
        let (name, protocol, _) = self.accept_tls(Arc::new(config)).await?;
        Ok((name, protocol))
    }

    pub async fn start_tls_as_server(&mut self) {
        self.tls_server(server_tls()).await.unwrap();
    }

    /// Starts TLS as the side that connected.
    pub async fn tls_client(&mut self, config: Arc<ClientConfig>, name: &str) -> std::io::Result<()> {
        assert_eq!(self.heard, "", "clear text before TLS");
        let config = Arc::unwrap_or_clone(config);
        self.try_tls_as_client(name, config).await.map(drop)
    }

    /// Starts TLS as the side that was connected to; gives the name asked for and the chain shown.
    pub async fn tls_server(
        &mut self,
        config: Arc<ServerConfig>,
    ) -> std::io::Result<(Option<String>, Vec<CertificateDer<'static>>)> {
        assert_eq!(self.heard, "", "clear text before TLS");
        let (name, _, chain) = self.accept_tls(config).await?;
        Ok((name, chain))
    }

    /// Name, protocol and chain of a client.
    async fn accept_tls(&mut self, config: Arc<ServerConfig>) -> std::io::Result<Client> {
        let io = self.io.take().unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(config).accept(io).await?;
        let session = tls.get_ref().1;
        let client = (
            session.server_name().map(str::to_owned),
            session.alpn_protocol().map(<[u8]>::to_vec),
            session.peer_certificates().unwrap_or_default().to_vec(),
        );
        self.io = Some(Box::pin(tls));
        Ok(client)
    }

    /// Everything up to the first of these, each of which ends with `>`; `None` if the connection
    /// ends before.
    pub async fn hear_any(&mut self, ends: &[&str]) -> Option<String> {
        let mut text = String::new();
        loop {
            text += &self.hear_or_end(">").await.ok()?;
            if ends.iter().any(|end| text.ends_with(end)) {
                return Some(text);
            }
        }
    }

    /// Bytes as they come.
    pub async fn hear_bytes(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 16 * 1024];
        let read = self.io.as_mut().unwrap().read(&mut bytes);
        let read = timeout(PATIENCE, read).await;
        bytes.truncate(read.expect("nothing came").unwrap_or(0));
        bytes
    }
}
