//! The generator as a federation partner: a server-to-server peer that really does STARTTLS and dialback in
//! both roles. Each stream is negotiated by a thread of its own and then handed over as a plain connection.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::conn::{Conn, STREAMS, Tls};
use testkit_base::Error;
use testkit_base::xml::{Element, StreamEvent};

const TLS_NS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
/// Threads here only wait and negotiate.
const STACK: usize = 256 * 1024;

/// A stream that the server under test opened, with the first message behind it.
#[derive(Debug)]
pub struct Delivered {
    /// When it was there.
    pub at: Instant,
    /// That message.
    pub first: String,
    /// The connection, with what came behind the message.
    pub conn: Conn,
}

#[derive(Debug)]
struct Shared {
    /// Where the server under test listens.
    server: SocketAddr,
    /// With TLS, or in clear.
    tls: Option<Tls>,
    secret: [u8; 32],
    /// Whether keys shown to us are verified with their authoritative server; else any is valid.
    verify: bool,
    delivered: Mutex<Vec<Delivered>>,
    arrived: Condvar,
    /// What went wrong last on a stream that the server opened.
    trouble: Mutex<Option<String>>,
}

/// A listening peer.
#[derive(Debug, Clone)]
pub struct Peer(Arc<Shared>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peer {
    /// Listens at `address` for the server that listens at `server`.
    pub fn start(address: SocketAddr, server: SocketAddr, tls: Option<Tls>, verify: bool) -> Result<Self, Error> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket
            .bind(&address.into())
            .map_err(|error| format!("the peer cannot listen on {address}: {error}"))?;
        socket.listen(4096)?;
        let peer = Self(Arc::new(Shared {
            server,
            tls,
            secret: rand::random(),
            verify,
            delivered: Mutex::default(),
            arrived: Condvar::new(),
            trouble: Mutex::default(),
        }));
        let listening = peer.clone();
        let listener = TcpListener::from(socket);
        spawn(move || {
            while let Ok((tcp, _)) = listener.accept() {
                let peer = listening.clone();
                spawn(move || {
                    if let Err(error) = Conn::new(tcp).map_err(Error::from).and_then(|conn| peer.serve(conn)) {
                        *lock(&peer.0.trouble) = Some(error.to_string());
                    }
                })?;
            }
            Ok::<_, Error>(())
        })?;
        Ok(peer)
    }

    /// What went wrong last on a stream that the server opened.
    pub fn trouble(&self) -> String {
        lock(&self.0.trouble).clone().unwrap_or_default()
    }

    /// Waits until `count` streams have brought a message, and takes them.
    pub fn delivered(&self, count: usize, time: Duration) -> Result<Vec<Delivered>, Error> {
        let deadline = Instant::now() + time;
        let mut delivered = lock(&self.0.delivered);
        while delivered.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!(
                    "of {count} streams {} came within {} s; the last trouble: {}",
                    delivered.len(),
                    time.as_secs(),
                    self.trouble()
                )
                .into());
            }
            let woken = self.0.arrived.wait_timeout(delivered, left);
            delivered = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(std::mem::take(&mut *delivered))
    }

    fn key(&self, receiving: &str, originating: &str, id: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(self.0.secret);
        hash.update(format!("{receiving} {originating} {id}"));
        HEXLOWER.encode(&hash.finalize())
    }

    /// Opens a stream to the server under test, up to its features; with the id of its last header.
    pub fn open(&self, from: &str, to: &str) -> Result<(Conn, String), Error> {
        let mut conn = Conn::dial(self.0.server)?;
        let header = format!(
            "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:db='jabber:server:dialback' \
             xmlns:stream='{STREAMS}' from='{from}' to='{to}' version='1.0'>"
        );
        conn.say(&header)?;
        let mut theirs = conn.header()?;
        let features = conn.element()?;
        if let Some(tls) = &self.0.tls {
            if features.child("starttls").is_none() {
                return Err(format!("the server does not offer TLS: {features:?}").into());
            }
            conn.say(&format!("<starttls xmlns='{TLS_NS}'/>"))?;
            let answer = conn.element()?;
            if answer.name != "proceed" {
                return Err(format!("the server refuses TLS: {answer:?}").into());
            }
            conn.start_tls_as_client(tls, to)?;
            conn.say(&header)?;
            theirs = conn.header()?;
            conn.element()?;
        }
        let id = theirs.attribute("id").ok_or("the server's stream has no id")?;
        Ok((conn, id.to_owned()))
    }

    /// Opens a stream and authenticates the pair on it.
    pub fn authenticated(&self, from: &str, to: &str) -> Result<Conn, Error> {
        let (mut conn, id) = self.open(from, to)?;
        let key = self.key(to, from, &id);
        conn.say(&format!("<db:result from='{from}' to='{to}'>{key}</db:result>"))?;
        let answer = conn.element()?;
        if answer.name == "result" && answer.attribute("type") == Some("valid") {
            Ok(conn)
        } else {
            Err(format!("{from} was not believed: {answer:?}").into())
        }
    }

    /// Serves a stream that the server under test opened, until it ends or brings a message.
    fn serve(&self, mut conn: Conn) -> Result<(), Error> {
        let mut theirs = conn.header()?;
        let mut id = answer(&mut conn, &theirs)?;
        if let Some(tls) = &self.0.tls {
            conn.say(&format!(
                "<stream:features><starttls xmlns='{TLS_NS}'><required/></starttls></stream:features>"
            ))?;
            let asked = conn.element()?;
            if asked.name != "starttls" {
                return Err(format!("STARTTLS was expected, and this came: {asked:?}").into());
            }
            conn.say(&format!("<proceed xmlns='{TLS_NS}'/>"))?;
            conn.start_tls_as_server(tls)?;
            theirs = conn.header()?;
            id = answer(&mut conn, &theirs)?;
        }
        conn.say(
            "<stream:features><dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback></stream:features>",
        )?;
        // A stream without anything to say is its opener's business.
        conn.tcp.set_read_timeout(None)?;
        loop {
            let element = match conn.event()? {
                StreamEvent::Stanza(element) => element,
                StreamEvent::Header(_) => return Err("a second stream header".into()),
                StreamEvent::End => {
                    conn.say("</stream:stream>")?;
                    return Ok(());
                }
            };
            let address = |name| element.attribute(name).unwrap_or_default();
            let (from, to) = (address("from"), address("to"));
            match element.name.as_str() {
                "verify" => {
                    let id = address("id");
                    let valid = self.key(from, to, id) == element.text().trim();
                    let verdict = if valid { "valid" } else { "invalid" };
                    conn.say(&format!(
                        "<db:verify from='{to}' to='{from}' id='{id}' type='{verdict}'/>"
                    ))?;
                }
                "result" => {
                    if self.0.verify {
                        self.ask(to, from, &id, element.text().trim())?;
                    }
                    conn.say(&format!("<db:result from='{to}' to='{from}' type='valid'/>"))?;
                }
                "message" => {
                    let at = Instant::now();
                    conn.tcp.set_read_timeout(Some(super::conn::PATIENCE))?;
                    lock(&self.0.delivered).push(Delivered {
                        at,
                        first: element.to_xml("jabber:server"),
                        conn,
                    });
                    self.0.arrived.notify_all();
                    return Ok(());
                }
                _ => return Err(format!("unexpected on a stream from the server: {element:?}").into()),
            }
        }
    }

    /// Has the authoritative server, which is the server under test, verify a key.
    fn ask(&self, local: &str, remote: &str, id: &str, key: &str) -> Result<(), Error> {
        let (mut conn, _) = self.open(local, remote)?;
        conn.say(&format!(
            "<db:verify from='{local}' to='{remote}' id='{id}'>{key}</db:verify>"
        ))?;
        let answer = conn.element()?;
        if answer.name != "verify" || answer.attribute("type") != Some("valid") {
            return Err(format!("the server does not know its own key: {answer:?}").into());
        }
        // An orderly end, without waiting for the server's.
        conn.say("</stream:stream>")?;
        Ok(())
    }
}

/// Our header as answer to theirs; its id.
fn answer(conn: &mut Conn, theirs: &Element) -> Result<String, Error> {
    let id = format!("{:032x}", rand::random::<u128>());
    let address = |name| theirs.attribute(name).unwrap_or("peer.lab");
    conn.say(&format!(
        "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:db='jabber:server:dialback' \
         xmlns:stream='{STREAMS}' from='{}' to='{}' id='{id}' version='1.0'>",
        address("to"),
        address("from")
    ))?;
    Ok(id)
}

/// Starts a thread with a small stack.
pub fn spawn<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<std::thread::JoinHandle<T>, Error> {
    Ok(std::thread::Builder::new().stack_size(STACK).spawn(work)?)
}
