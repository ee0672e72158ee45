//! Servers that know TLS 1.0 or 1.1 only: our TLS cannot speak that, so a hello of that time is
//! sent and only the version of the answer is read. Nothing more is said on such a connection.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Cipher suites of that time.
const SUITES: [u16; 8] = [0xc014, 0xc013, 0xc00a, 0xc009, 0x0039, 0x0033, 0x0035, 0x002f];

/// The old version that a server answers with, where it does.
pub async fn version(address: SocketAddr) -> Option<&'static str> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(&hello(rand::random())).await.ok()?;
    // A record with a ServerHello: 5 bytes of record header, 4 of message header, 2 of version.
    let mut answer = [0; 11];
    stream.read_exact(&mut answer).await.ok()?;
    match answer {
        [22, 3, _, _, _, 2, _, _, _, 3, 1] => Some("TLS 1.0"),
        [22, 3, _, _, _, 2, _, _, _, 3, 2] => Some("TLS 1.1"),
        _ => None,
    }
}

/// A `ClientHello` for TLS 1.1 or less.
fn hello(random: [u8; 32]) -> Vec<u8> {
    let mut body = vec![3, 2];
    body.extend(random);
    body.push(0);
    push_u16(&mut body, SUITES.len() * 2);
    for suite in SUITES {
        body.extend(suite.to_be_bytes());
    }
    body.extend([1, 0]);
    // Groups secp256r1 and secp384r1; uncompressed points.
    let extensions = [0, 10, 0, 6, 0, 4, 0, 23, 0, 24, 0, 11, 0, 2, 1, 0];
    push_u16(&mut body, extensions.len());
    body.extend(extensions);

    let mut record = vec![22, 3, 1];
    push_u16(&mut record, body.len() + 4);
    record.extend([1, 0]);
    push_u16(&mut record, body.len());
    record.extend(body);
    record
}

fn push_u16(to: &mut Vec<u8>, number: usize) {
    // All lengths here are below 200.
    to.extend(u16::try_from(number).unwrap_or(0).to_be_bytes());
}
