//! Listening sockets and the options of connections.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that may wait to be accepted: a partner's restart brings hundreds at once.
const BACKLOG: i32 = 4096;

/// The sockets that peers connect to.
#[derive(Debug)]
pub struct Listeners {
    /// Streams with STARTTLS.
    pub s2s: TcpListener,
    /// Streams with TLS from the first byte.
    pub direct_tls: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    fn from(s2s: TcpListener) -> Self {
        Self { s2s, direct_tls: None }
    }
}

/// Listens; an IPv6 wildcard takes IPv4 too, where the system has IPv6.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match bind_exactly(address) {
        Err(error)
            if address.ip().is_unspecified() && address.is_ipv6() && error.kind() != io::ErrorKind::AddrInUse =>
        {
            bind_exactly(SocketAddr::from(([0, 0, 0, 0], address.port())))
        }
        bound => bound,
    }
}

fn bind_exactly(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
