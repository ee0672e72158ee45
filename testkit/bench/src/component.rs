//! The other side of the server under test: a component (XEP-0114) that connects to Prosody and ejabberd, or
//! the router that the edge connects to.

use std::net::TcpListener;

use data_encoding::HEXLOWER;
use sha1::{Digest, Sha1};

use super::conn::{Conn, STREAMS};
use testkit_base::Error;

/// The secret of every component here.
pub const SECRET: &str = "s3cr3t";
const ACCEPT: &str = "jabber:component:accept";

fn handshake(id: &str) -> String {
    let digest = Sha1::digest(format!("{id}{SECRET}"));
    HEXLOWER.encode(&digest)
}

/// Connects as the component `name`.
pub fn connect(mut conn: Conn, name: &str) -> Result<Conn, Error> {
    conn.say(&format!(
        "<?xml version='1.0'?><stream:stream xmlns='{ACCEPT}' xmlns:stream='{STREAMS}' to='{name}'>"
    ))?;
    let header = conn.header()?;
    let id = header.attribute("id").unwrap_or_default();
    conn.say(&format!("<handshake>{}</handshake>", handshake(id)))?;
    match conn.element()? {
        answer if answer.name == "handshake" => Ok(conn),
        other => Err(format!("the component {name} was refused: {other:?}").into()),
    }
}

/// Takes the next component that connects, as an XCP router does.
pub fn accept(listener: &TcpListener) -> Result<Conn, Error> {
    let (tcp, _) = listener.accept()?;
    let mut conn = Conn::new(tcp)?;
    let header = conn.header()?;
    let name = header.attribute("to").unwrap_or_default();
    let id = "c0ffee00";
    conn.say(&format!(
        "<?xml version='1.0'?><stream:stream xmlns='{ACCEPT}' xmlns:stream='{STREAMS}' from='{name}' id='{id}'>"
    ))?;
    let shown = conn.element()?;
    if shown.text() != handshake(id) {
        return Err(format!("the component {name} has another secret: {shown:?}").into());
    }
    conn.say("<handshake/>")?;
    Ok(conn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_sha1_of_id_and_secret() {
        // `printf 3BF96D32s3cr3t | sha1sum`
        assert_eq!(handshake("3BF96D32"), "ba33290100f616a33656a931798d6c9011cfa840");
    }
}
