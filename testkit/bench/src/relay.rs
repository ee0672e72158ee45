//! `testkit bench-relay`: what the same chain costs with TLS and without any check. It believes everybody,
//! looks at no byte of a message, and moves what it reads in one thread; the floor for the servers compared.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, Sender, channel};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::component;
use super::conn::{Conn, Tls};
use super::peer::{Peer, spawn};
use testkit_base::Error;

/// Bytes read at once, as the edge does.
const READ: usize = 64 * 1024;
const LINK: usize = 0;
const PEER: usize = 1;
/// Woken for new connections.
const WAKER: Token = Token(usize::MAX);

/// Arguments of `testkit bench-relay`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where peers connect.
    #[arg(long)]
    listen: SocketAddr,
    /// The router that it is a component of.
    #[arg(long)]
    router: SocketAddr,
    /// The peer that gets whatever comes from the router.
    #[arg(long)]
    peer: SocketAddr,
    /// The hosted domain.
    #[arg(long)]
    hosted: String,
    /// The zone of the peer's domains.
    #[arg(long)]
    zone: String,
    /// Without TLS.
    #[arg(long)]
    clear: bool,
}

/// Runs `testkit bench-relay`, until the process is ended.
pub fn run(args: &Args) -> Result<(), Error> {
    let tls = (!args.clear).then(Tls::with_anybody);
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKER)?;
    // As a peer it accepts streams and opens the one that it writes to.
    let (sender, accepted) = channel();
    let peer = Peer::start(args.listen, args.peer, tls, false)?;
    let (watched, found) = (peer.clone(), sender.clone());
    spawn(move || accept(&watched, &found, &waker))?;
    let link = component::connect(Conn::dial(args.router)?, "relay.lab")?;
    let mut relay = Relay {
        poll,
        conns: Vec::new(),
        scratch: vec![0; READ],
        args: args.clone(),
        peer,
    };
    relay.add(link)?;
    relay.run(&accepted)
}

/// Hands over each stream once a message has come on it.
fn accept(peer: &Peer, sender: &Sender<Conn>, waker: &Waker) {
    loop {
        if let Ok(streams) = peer.delivered(1, std::time::Duration::from_hours(1)) {
            for mut stream in streams {
                // The message is to go on like all others.
                stream.conn.heard.splice(0..0, stream.first.into_bytes());
                if sender.send(stream.conn).is_err() {
                    return;
                }
            }
            let _ = waker.wake();
        }
    }
}

struct Relay {
    poll: Poll,
    conns: Vec<Conn>,
    scratch: Vec<u8>,
    args: Args,
    peer: Peer,
}

impl Relay {
    fn add(&mut self, conn: Conn) -> Result<(), Error> {
        conn.tcp.set_nonblocking(true)?;
        self.poll.registry().register(
            &mut SourceFd(&conn.tcp.as_raw_fd()),
            Token(self.conns.len()),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        self.conns.push(conn);
        Ok(())
    }

    fn run(mut self, accepted: &Receiver<Conn>) -> Result<(), Error> {
        let mut events = Events::with_capacity(256);
        loop {
            self.poll.poll(&mut events, None)?;
            for event in &events {
                let Token(i) = event.token();
                if event.token() == WAKER {
                    while let Ok(conn) = accepted.try_recv() {
                        // The outgoing stream has the place behind the link.
                        self.open_outgoing()?;
                        let i = self.conns.len();
                        self.add(conn)?;
                        self.read(i)?;
                    }
                } else if event.is_readable() {
                    if i == LINK {
                        self.open_outgoing()?;
                    }
                    self.read(i)?;
                }
            }
            for conn in &mut self.conns {
                conn.flush()?;
            }
        }
    }

    fn open_outgoing(&mut self) -> Result<(), Error> {
        if self.conns.len() > PEER {
            return Ok(());
        }
        let to = format!("l0000.{}", self.args.zone);
        let conn = self.peer.authenticated(&self.args.hosted, &to)?;
        self.add(conn)
    }

    /// Moves what has arrived: from the link to the peer, from peers to the link.
    fn read(&mut self, i: usize) -> Result<(), Error> {
        let to = if i == LINK { PEER } else { LINK };
        loop {
            let Some(conn) = self.conns.get_mut(i) else {
                return Ok(());
            };
            let more = match conn.read(&mut self.scratch) {
                Ok(0) if i == LINK => return Err("the router closed its link".into()),
                Ok(read) => read == self.scratch.len(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                Err(error) => return Err(error.into()),
            };
            let mut moved = std::mem::take(&mut conn.heard);
            if let Some(to) = self.conns.get_mut(to) {
                to.append(&moved)?;
            }
            moved.clear();
            if let Some(conn) = self.conns.get_mut(i) {
                conn.heard = moved;
            }
            if !more {
                return Ok(());
            }
        }
    }
}
