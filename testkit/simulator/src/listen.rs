//! Listening sockets, where needed inside the network namespace of a simulated host.

use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::net::TcpListener;

/// Opens a listening socket; with `netns`, inside that network namespace.
pub async fn listen(address: SocketAddr, netns: Option<PathBuf>) -> Result<TcpListener, testkit_base::Error> {
    let place = netns
        .as_ref()
        .map(|path| format!(" in {}", path.display()))
        .unwrap_or_default();
    let open = move || -> Result<std::net::TcpListener, std::io::Error> {
        if let Some(path) = netns {
            let namespace = std::fs::File::open(path)?;
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
        }
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        Ok(socket.into())
    };
    // A thread of its own: it ends with the namespace it entered, no pool thread stays behind in there.
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("listen".into())
        .spawn(move || drop(sender.send(open())))?;
    let listener = receiver
        .await?
        .map_err(|error| format!("cannot listen on {address}{place}: {error}"))?;
    Ok(TcpListener::from_std(listener)?)
}
