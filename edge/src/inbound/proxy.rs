//! The PROXY protocol, versions 1 and 2: a load balancer names the client that it relays.
//!
//! Standard: "The PROXY protocol", `HAProxy`, 2020/03/05. Only trusted balancers are read here, and
//! theirs must come first. Not one byte behind the header is taken from the socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Longest header of version 1, line end included (section 2.1).
const LONGEST_V1: usize = 107;
/// Longest header of version 2: what senders should keep to, additional fields included
/// (section 2.2).
const LONGEST_V2: usize = 536;
/// Version 2 begins with this.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 1 begins with this.
const WORD: &[u8; 6] = b"PROXY ";

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A client's, relayed.
    Client(SocketAddr),
    /// The balancer's own, or one it can say nothing about: its health checks as a rule.
    Balancer,
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    /// Nothing was sent at all: a health check that only opens the connection.
    #[error("closed before the first byte")]
    Nothing,
    /// It ended, or broke, inside the header.
    #[error("the connection ended inside the PROXY header")]
    Cut,
    /// Not all of it came in time.
    #[error("the PROXY header did not come in time")]
    Late,
    /// What is wrong with it.
    #[error("{0}")]
    Malformed(&'static str),
}

impl HeaderError {
    /// The word used in metrics; `None` for what is no failure.
    pub(super) const fn outcome(&self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Late => Some("timeout"),
            Self::Cut | Self::Malformed(_) => Some("malformed"),
        }
    }
}

/// A good header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    /// Whose connection it is.
    pub(super) origin: Origin,
    /// The word used in metrics.
    pub(super) outcome: &'static str,
}

/// Takes the header, and nothing behind it, from the beginning of a connection. Time limits are
/// the caller's.
pub(super) async fn read_header(tcp: &mut TcpStream) -> Result<Header, HeaderError> {
    let mut header = Vec::new();
    let mut window = vec![0; LONGEST_V2];
    loop {
        let ended = |_: io::Error| HeaderError::Cut;
        // Looked at first, because what follows the header must stay in the socket.
        let seen = tcp.peek(&mut window).await;
        let seen = match seen {
            Ok(0) | Err(_) if header.is_empty() => return Err(HeaderError::Nothing),
            Ok(0) | Err(_) => return Err(HeaderError::Cut),
            Ok(seen) => seen,
        };
        let before = header.len();
        header.extend_from_slice(window.get(..seen).unwrap_or_default());
        let parsed = parse(&header).map_err(HeaderError::Malformed)?;
        let taken = parsed.map_or(seen, |(_, length)| length.saturating_sub(before));
        if let Some(window) = window.get_mut(..taken) {
            tcp.read_exact(window).await.map_err(ended)?;
        }
        if let Some((origin, _)) = parsed {
            let outcome = match origin {
                Origin::Balancer => "local",
                Origin::Client(_) if header.starts_with(WORD) => "v1",
                Origin::Client(_) => "v2",
            };
            return Ok(Header { origin, outcome });
        }
    }
}

/// Reads the header that `bytes` begin with; gives its length too. `None`: all of them belong to
/// it, and more must come.
pub fn parse(bytes: &[u8]) -> Result<Option<(Origin, usize)>, &'static str> {
    if let Some(rest) = bytes.strip_prefix(SIGNATURE) {
        return parse_v2(rest);
    }
    if bytes.starts_with(WORD) {
        return parse_v1(bytes);
    }
    if SIGNATURE.starts_with(bytes) || WORD.starts_with(bytes) {
        return Ok(None);
    }
    Err("a connection from a trusted source must begin with a PROXY header")
}

fn parse_v1(bytes: &[u8]) -> Result<Option<(Origin, usize)>, &'static str> {
    const LONG: &str = "the PROXY line is longer than 107 bytes";
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() >= LONGEST_V1 { Err(LONG) } else { Ok(None) };
    };
    let length = end + 1;
    if length > LONGEST_V1 {
        return Err(LONG);
    }
    let line = bytes.get(WORD.len()..end).unwrap_or_default();
    let line = line
        .strip_suffix(b"\r")
        .and_then(|line| std::str::from_utf8(line).ok())
        .ok_or("the PROXY line does not end with CR LF, or is not text")?;
    let mut fields = line.split(' ');
    let origin = match fields.next() {
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => Origin::Balancer,
        Some("TCP4") => client::<Ipv4Addr>(fields)?,
        Some("TCP6") => client::<Ipv6Addr>(fields)?,
        _ => return Err("the PROXY line names no known protocol"),
    };
    Ok(Some((origin, length)))
}

fn client<'a, A: FromStr + Into<IpAddr>>(mut fields: impl Iterator<Item = &'a str>) -> Result<Origin, &'static str> {
    const WRONG: &str = "the PROXY line holds a wrong address or port";
    let mut address = || fields.next().and_then(|field| field.parse::<A>().ok());
    let (source, destination) = (address(), address());
    let mut port = || fields.next().and_then(port);
    let (from, to) = (port(), port());
    let (Some(source), Some(_), Some(from), Some(_), None) = (source, destination, from, to, fields.next()) else {
        return Err(WRONG);
    };
    Ok(Origin::Client(SocketAddr::new(source.into().to_canonical(), from)))
}

/// Decimal digits without leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let zeros = text.len() > 1 && text.starts_with('0');
    text.parse().ok().filter(|_| plain && !zeros)
}

/// `rest`: what follows the signature.
fn parse_v2(rest: &[u8]) -> Result<Option<(Origin, usize)>, &'static str> {
    let Some(([command, family, high, low], body)) = rest.split_first_chunk() else {
        return Ok(None);
    };
    let size = usize::from(u16::from_be_bytes([*high, *low]));
    let length = SIGNATURE.len() + 4 + size;
    if length > LONGEST_V2 {
        return Err("the PROXY header is longer than 536 bytes");
    }
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err("the PROXY header has an unknown version or command"),
    };
    let Some(body) = body.get(..size) else {
        return Ok(None);
    };
    let short = "the PROXY header is too short for its addresses";
    // Source and destination address, source and destination port; then fields that are ignored.
    let origin = match family {
        // The balancer's own connection; addresses, if any, are to be ignored.
        _ if local => Origin::Balancer,
        0x00 => Origin::Balancer,
        0x11 => {
            let ([source @ .., _, _, _, _, high, low, _, _], _) = body.split_first_chunk::<12>().ok_or(short)?;
            from_bytes(Ipv4Addr::from(*source).into(), *high, *low)
        }
        0x21 => {
            let (source, rest) = body.split_first_chunk::<16>().ok_or(short)?;
            let (_, rest) = rest.split_first_chunk::<16>().ok_or(short)?;
            let ([high, low, _, _], _) = rest.split_first_chunk().ok_or(short)?;
            from_bytes(Ipv6Addr::from(*source).into(), *high, *low)
        }
        _ => return Err("the PROXY header is about something else than TCP"),
    };
    Ok(Some((origin, length)))
}

fn from_bytes(address: IpAddr, high: u8, low: u8) -> Origin {
    Origin::Client(SocketAddr::new(address.to_canonical(), u16::from_be_bytes([high, low])))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// Version 2 with this command and family.
    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    /// 192.0.2.1:40000 → 198.51.100.1:5269.
    const FOUR: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0x9c, 0x40, 0x14, 0x95];

    fn six(source: &str) -> Vec<u8> {
        let mut body = source.parse::<Ipv6Addr>().unwrap().octets().to_vec();
        body.extend([0x11; 16]);
        body.extend([0x9c, 0x40, 0x14, 0x95]);
        body
    }

    fn with_fields(size: usize) -> Vec<u8> {
        let mut body = FOUR.to_vec();
        body.resize(size, 0xee);
        body
    }

    fn read(bytes: &[u8]) -> String {
        match parse(bytes) {
            Ok(Some((Origin::Client(client), length))) => format!("{client} {length}"),
            Ok(Some((Origin::Balancer, length))) => format!("balancer {length}"),
            Ok(None) => "more".to_owned(),
            Err(error) => error.to_owned(),
        }
    }

    #[rstest]
    #[case("PROXY TCP4 192.0.2.1 198.51.100.1 40000 5269\r\n", "192.0.2.1:40000 46")]
    #[case("PROXY TCP4 192.0.2.1 198.51.100.1 0 0\r\n<stream", "192.0.2.1:0 39")]
    #[case("PROXY TCP6 2001:db8::1 2001:db8::2 40000 5269\r\n", "[2001:db8::1]:40000 47")]
    #[case(
        "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.1 40000 5269\r\n",
        "192.0.2.1:40000 60"
    )]
    #[case("PROXY UNKNOWN\r\n", "balancer 15")]
    #[case(
        "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
        "balancer 107"
    )]
    #[case("", "more")]
    #[case("P", "more")]
    #[case("PROXY TCP4 192.0.2.1 198.51.100.1 40000 5269\r", "more")]
    #[case("PROXY TCP4 192.0.2.1 198.51.100.1 40000 5269\n", "CR LF")]
    #[case("proxy TCP4 192.0.2.1 198.51.100.1 40000 5269\r\n", "must begin")]
    #[case("<?xml version='1.0'?>", "must begin")]
    #[case("\u{16}\u{3}\u{1}", "must begin")]
    #[case("PROXY TCP5 192.0.2.1 198.51.100.1 40000 5269\r\n", "no known protocol")]
    #[case("PROXY  TCP4 192.0.2.1 198.51.100.1 40000 5269\r\n", "no known protocol")]
    #[case("PROXY \r\n", "no known protocol")]
    #[case("PROXY TCP4 192.0.2.1 198.51.100.1 40000\r\n", "wrong address")]
    #[case("PROXY TCP4 192.0.2.1 198.51.100.1 40000 5269 \r\n", "wrong address")]
    #[case("PROXY TCP4 192.0.2.1 198.51.100.1 40000 5269 1\r\n", "wrong address")]
    #[case("PROXY TCP4 192.0.2.1  198.51.100.1 40000 5269\r\n", "wrong address")]
    #[case("PROXY TCP4 192.0.2.01 198.51.100.1 40000 5269\r\n", "wrong address")]
    #[case("PROXY TCP4 192.0.2.1 198.51.100.256 40000 5269\r\n", "wrong address")]
    #[case("PROXY TCP4 2001:db8::1 2001:db8::2 40000 5269\r\n", "wrong address")]
    #[case("PROXY TCP6 192.0.2.1 198.51.100.1 40000 5269\r\n", "wrong address")]
    #[case("PROXY TCP6 [2001:db8::1] ::2 40000 5269\r\n", "wrong address")]
    #[case("PROXY TCP6 fe80::1%eth0 ::2 40000 5269\r\n", "wrong address")]
    #[case("PROXY TCP4 192.0.2.1 198.51.100.1 65536 5269\r\n", "wrong address")]
    #[case("PROXY TCP4 192.0.2.1 198.51.100.1 +1 5269\r\n", "wrong address")]
    #[case("PROXY TCP4 192.0.2.1 198.51.100.1 01 5269\r\n", "wrong address")]
    fn version_1_is_read_strictly(#[case] text: &str, #[case] expected: &str) {
        let found = read(text.as_bytes());
        assert!(found.contains(expected), "{found}");
    }

    #[test]
    fn a_line_without_end_is_refused_at_107_bytes() {
        let mut line = b"PROXY UNKNOWN ".to_vec();
        line.resize(106, b'x');
        assert_eq!(read(&line), "more");
        line.push(b'x');
        assert!(read(&line).contains("longer"), "{}", read(&line));
        line.extend(b"\r\n");
        assert!(read(&line).contains("longer"), "{}", read(&line));
    }

    #[rstest]
    #[case(v2(0x21, 0x11, &FOUR), "192.0.2.1:40000 28")]
    #[case(v2(0x21, 0x11, &with_fields(520)), "192.0.2.1:40000 536")]
    #[case(v2(0x21, 0x21, &six("2001:db8::1")), "[2001:db8::1]:40000 52")]
    #[case(v2(0x21, 0x21, &six("::ffff:192.0.2.1")), "192.0.2.1:40000 52")]
    #[case(v2(0x20, 0x00, &[]), "balancer 16")]
    #[case(v2(0x20, 0x11, &FOUR), "balancer 28")]
    #[case(v2(0x20, 0x77, &[1, 2, 3]), "balancer 19")]
    #[case(v2(0x21, 0x00, &[1, 2, 3]), "balancer 19")]
    #[case(v2(0x21, 0x11, &FOUR[..11]), "too short")]
    #[case(v2(0x21, 0x21, &six("::1")[..35]), "too short")]
    #[case(v2(0x21, 0x11, &with_fields(521)), "longer")]
    #[case(v2(0x21, 0x12, &FOUR), "something else than TCP")]
    #[case(v2(0x21, 0x31, &[0; 216]), "something else than TCP")]
    #[case(v2(0x22, 0x11, &FOUR), "unknown version or command")]
    #[case(v2(0x11, 0x11, &FOUR), "unknown version or command")]
    fn version_2_is_read_strictly(#[case] bytes: Vec<u8>, #[case] expected: &str) {
        let found = read(&bytes);
        assert!(found.contains(expected), "{found}");
        // Refused as soon as what is wrong is there, understood with the last byte.
        for cut in 0..bytes.len() {
            let part = read(&bytes[..cut]);
            assert!(part == "more" || part == found, "at {cut}: {part}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_bounded(
            start in prop_oneof![Just(&b""[..]), Just(&WORD[..]), Just(&SIGNATURE[..])],
            rest in proptest::collection::vec(any::<u8>(), 0..700),
        ) {
            let bytes = [start, &rest].concat();
            match parse(&bytes) {
                Ok(None) => prop_assert!(bytes.len() < LONGEST_V2),
                Ok(Some((_, length))) => prop_assert!(length <= bytes.len() && length <= LONGEST_V2),
                Err(_) => {}
            }
        }
    }
}
