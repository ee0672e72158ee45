//! Strangers with domains of their own: they prove them by dialback, as anybody may, and then send
//! what they like as fast as they can.

use std::io;
use std::net::SocketAddr;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::{attribute, client_tls, header, server_tls};
use crate::{hear, say};

/// Domains below this one are strangers' whose name servers answer: `x.77.flood.lab` is at
/// 127.0.0.77.
const ZONE: &[u8] = b"\x05flood\x03lab\0";
/// Where servers are without a record that says so.
const PORT: u16 = 5269;
const TO_TLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
/// Pairs that one stream may have.
const PAIRS: usize = 64;

/// What a stranger sends once its domain is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// As many small stanzas as there is room for.
    Stanzas,
    /// Stanzas that take all that a header may add to them.
    Headers,
    /// The same small ones, of as many domains as a stream may have.
    Pairs,
    /// Addresses that are none, of which each has an answer.
    Jids,
    /// Names that expat refuses, of which each has an answer.
    Names,
}

impl Flood {
    /// What is sent again and again.
    fn stanzas(self, domains: &[String]) -> String {
        let one = |domain: &String| {
            let to = "to='alice@coluc.com'";
            match self {
                Self::Stanzas | Self::Pairs => {
                    format!("<message from='u@{domain}' {to}><body>flood</body></message>")
                }
                Self::Headers => {
                    (0..8).fold(format!("<message from='u@{domain}' {to}>"), |text, n| {
                        text + &format!("<p{n}:x/>")
                    }) + "</message>"
                }
                Self::Jids => format!("<message from='u@{domain}' to='a b@coluc.com'/>"),
                Self::Names => format!("<message from='u@{domain}' {to}><\u{132}/></message>"),
            }
        };
        domains.iter().map(one).collect()
    }

    /// The header of the stream.
    fn header(self, from: &str) -> String {
        let plain = header(from, "coluc.com", "");
        if self != Self::Headers {
            return plain;
        }
        // 2 KiB of prefixes, and a language of 64 bytes that are longer when they are written.
        let prefixes = (0..8).map(|n| format!(" xmlns:p{n}='urn:{}'", "x".repeat(220)));
        let language = "en-".to_owned() + &"x".repeat(60);
        let more = prefixes.collect::<String>() + &format!(" xml:lang='{language}'");
        plain.replace(" version='1.0'>", &(more + " version='1.0'>"))
    }

    /// One stream, for as long as the edge takes what it sends.
    pub async fn once(self, mut tcp: TcpStream, host: u8, number: u32) -> io::Result<()> {
        let pairs = if self == Self::Pairs { PAIRS } else { 1 };
        let domains: Vec<_> = (0..pairs).map(|n| format!("d{n}.s{number}.{host}.flood.lab")).collect();
        let first = &domains[0];
        crate::start_tls(&mut tcp, &header(first, "coluc.com", "")).await?;
        let name = ServerName::try_from("coluc.com").unwrap();
        let mut stream = TlsConnector::from(client_tls()).connect(name, tcp).await?;
        say(&mut stream, &self.header(first)).await?;
        hear(&mut stream, "</stream:features>").await?;
        for domain in &domains {
            let key = format!("<db:result from='{domain}' to='coluc.com'>key</db:result>");
            say(&mut stream, &key).await?;
            hear(&mut stream, "type='valid'").await?;
        }
        let once = self.stanzas(&domains);
        let many = once.repeat((64 * 1024 / once.len()).max(1));
        let (mut read, mut write) = tokio::io::split(stream);
        // What the edge says is read, so that it can go on.
        let reading = async move {
            let mut heard = [0; 4096];
            while read.read(&mut heard).await? > 0 {}
            Ok(())
        };
        let writing = async move {
            loop {
                say(&mut write, &many).await?;
            }
        };
        tokio::select! {
            ended = reading => ended,
            ended = writing => ended,
        }
    }
}

/// The server of all domains of one attack: it says that every key is its own, and takes every
/// stream of the edge.
pub async fn serve(host: u8) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, host], PORT)))
        .await
        .unwrap();
    let tls = TlsAcceptor::from(server_tls());
    loop {
        let Ok((tcp, _)) = listener.accept().await else {
            continue;
        };
        let tls = tls.clone();
        tokio::spawn(async move {
            let _ = serve_one(tcp, tls).await;
        });
    }
}

async fn serve_one(mut tcp: TcpStream, tls: TlsAcceptor) -> io::Result<()> {
    let opened = hear(&mut tcp, "version='1.0'>").await?;
    let (local, own) = (
        attribute(&opened, "stream:stream", "from"),
        attribute(&opened, "stream:stream", "to"),
    );
    let features = format!("<stream:features>{TO_TLS}</stream:features>");
    say(&mut tcp, &(header(&own, &local, "c") + &features)).await?;
    hear(&mut tcp, TO_TLS).await?;
    say(&mut tcp, "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await?;
    let mut stream = tls.accept(tcp).await?;
    hear(&mut stream, "version='1.0'>").await?;
    let features =
        "<stream:features><dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback></stream:features>";
    say(&mut stream, &(header(&own, &local, "v") + features)).await?;
    answer(&mut stream).await
}

/// Answers keys; whatever else the edge says is not looked at.
async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    let mut heard = String::new();
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let read = stream.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        heard.push_str(&String::from_utf8_lossy(&bytes[..read]));
        let mut answers = String::new();
        while let Some(end) = heard.find("</db:") {
            let rest = heard.split_off(end + "</db:".len());
            let asked = std::mem::replace(&mut heard, rest);
            let element = if asked.contains("<db:verify") {
                "db:verify"
            } else {
                "db:result"
            };
            let [from, to] = ["from", "to"].map(|name| attribute(&asked, element, name));
            let id = match element {
                "db:verify" => format!(" id='{}'", attribute(&asked, element, "id")),
                _ => String::new(),
            };
            let answer = format!("<{element} from='{to}' to='{from}'{id} type='valid'/>");
            answers.push_str(&answer);
        }
        say(stream, &answers).await?;
        if heard.len() > 64 * 1024 {
            heard.clear();
        }
    }
}

/// A name server that answers for strangers' domains and for no others.
pub async fn name_server(address: SocketAddr) {
    let socket = UdpSocket::bind(address).await.unwrap();
    tokio::spawn(async move {
        let mut question = [0; 512];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut question).await else {
                continue;
            };
            if let Some(answer) = answer_to(&question[..length]) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
}

/// An answer in the form of RFC 1035 section 4; `None` for other domains.
fn answer_to(question: &[u8]) -> Option<Vec<u8>> {
    let name = question.get(12..)?;
    let end = name.windows(ZONE.len()).position(|part| part == ZONE)?;
    let asked = name.get(..end + ZONE.len() + 4)?;
    let kind = &asked[asked.len() - 4..asked.len() - 2];
    // The label in front of the zone is the host.
    let digits = name[..end].rsplit(|byte| !byte.is_ascii_digit()).next()?;
    let host = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let is_address = kind == [0, 1] && name[0] != b'_';
    let mut answer = question[..2].to_vec();
    answer.extend([0x84, 0, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    answer.extend_from_slice(asked);
    if is_address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, host]);
    }
    Some(answer)
}
