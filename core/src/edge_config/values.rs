//! Small values of the configuration: durations, networks, host and port.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::as_text;

/// A text that is not the value its field wants; the message says what is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {wanted}")]
pub struct ValueError {
    /// What was written.
    pub given: String,
    /// What the field takes, with an example.
    pub wanted: &'static str,
}

impl ValueError {
    fn new(given: &str, wanted: &'static str) -> Self {
        Self {
            given: given.to_owned(),
            wanted,
        }
    }
}

/// A duration as people and Go write it: numbers with a unit `ms`, `s`, `m` or `h` each, such as `90s`, `1h30m` or `1.5h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

const DURATION: &str = "a duration: numbers with the units ms, s, m or h, such as 15s or 1h30m";

impl FromStr for HumanDuration {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = || ValueError::new(text, DURATION);
        let (mut sum, mut rest) = (0_u64, text);
        loop {
            let of_number = |c: char| c.is_ascii_digit() || c == '.';
            let unit = rest.find(|c| !of_number(c)).ok_or_else(error)?;
            let (number, from_unit) = rest.split_at(unit);
            let next = from_unit.find(of_number).unwrap_or(from_unit.len());
            let (unit, behind) = from_unit.split_at(next);
            let millis = millis(number, unit).ok_or_else(error)?;
            sum = sum.checked_add(millis).ok_or_else(error)?;
            rest = behind;
            if rest.is_empty() {
                return Ok(Self(Duration::from_millis(sum)));
            }
        }
    }
}

/// Whole milliseconds of a number with its unit.
fn millis(number: &str, unit: &str) -> Option<u64> {
    let size: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let scale = 10_u64.checked_pow(u32::try_from(part.len()).ok()?)?;
    let part = part.parse::<u64>().ok()?.checked_mul(size)?;
    let whole = whole.parse::<u64>().ok()?.checked_mul(size)?;
    (part.is_multiple_of(scale)).then_some(part / scale)?.checked_add(whole)
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
            if ms >= size && ms.is_multiple_of(size) {
                return write!(f, "{}{unit}", ms / size);
            }
        }
        write!(f, "{ms}ms")
    }
}

as_text!(HumanDuration);

/// A network in CIDR notation; a bare address stands for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr(IpNet);

impl Cidr {
    /// The network.
    pub const fn net(&self) -> IpNet {
        self.0
    }

    /// Whether the address lies in the network; a v4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Cidr {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let network = text
            .parse()
            .ok()
            .or_else(|| text.parse().map(|ip: IpAddr| ip.into()).ok());
        let wanted = "a network such as 192.0.2.0/24 or 2001:db8::/32";
        network.map(Self).ok_or_else(|| ValueError::new(text, wanted))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

as_text!(Cidr);

/// A host (name or address) and a port: `ecup10.coluc.com:7400`, `10.0.0.1:7400`, `[::1]:7400`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A host name or an IP address, without brackets.
    pub host: String,
    /// TCP port, 1 to 65535.
    pub port: u16,
}

impl HostPort {
    /// The socket address, if the host is an IP address.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }
}

/// Whether a text may be a host name or is an IP address without brackets.
pub(super) fn is_host(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let name = !text.is_empty() && text.chars().all(plain);
    name || text.parse::<IpAddr>().is_ok()
}

const HOST_PORT: &str = "a host and a port such as ecup10.example.com:7400 or [2001:db8::1]:7400";

impl FromStr for HostPort {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = || ValueError::new(text, HOST_PORT);
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port: u16 = port.parse().map_err(|_| error())?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match bracketed {
            Some(inner) => inner.parse::<Ipv6Addr>().map_err(|_| error())?.to_string(),
            None if host.contains(':') => return Err(error()),
            None => host.to_owned(),
        };
        if port == 0 || !is_host(&host) {
            return Err(error());
        }
        Ok(Self { host, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

as_text!(HostPort);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("15s", 15_000)]
    #[case("10m", 600_000)]
    #[case("2160h", 7_776_000_000)]
    #[case("250ms", 250)]
    fn durations_read_and_print_alike(#[case] text: &str, #[case] ms: u64) {
        let duration: HumanDuration = text.parse().unwrap();
        assert_eq!(duration.0, Duration::from_millis(ms));
        assert_eq!(duration.to_string(), text);
    }

    #[rstest]
    #[case("1h30m", 5_400_000, "90m")]
    #[case("5m0s", 300_000, "5m")]
    #[case("1.5h", 5_400_000, "90m")]
    #[case("1.5s", 1_500, "1500ms")]
    #[case("1m30.25s100ms", 90_350, "90350ms")]
    #[case("0s", 0, "0ms")]
    fn durations_of_go_are_read_and_printed_in_one_unit(#[case] text: &str, #[case] ms: u64, #[case] printed: &str) {
        let duration: HumanDuration = text.parse().unwrap();
        assert_eq!(duration.0, Duration::from_millis(ms));
        assert_eq!(duration.to_string(), printed);
    }

    #[rstest]
    #[case("")]
    #[case("15")]
    #[case("s")]
    #[case("-1s")]
    #[case("1.s")]
    #[case(".5s")]
    #[case("1.5ms")]
    #[case("1h30")]
    #[case("1d")]
    #[case("1.2.3s")]
    #[case("99999999999999999999h")]
    #[case("15 s")]
    fn what_is_no_duration_is_refused_with_an_example(#[case] text: &str) {
        let error = text.parse::<HumanDuration>().unwrap_err().to_string();
        assert!(error.contains("such as 15s"), "{error}");
    }

    #[test]
    fn networks_contain_their_addresses_only() {
        let net: Cidr = "10.244.0.0/16".parse().unwrap();
        assert!(net.contains("10.244.1.9".parse().unwrap()));
        assert!(net.contains("::ffff:10.244.1.9".parse().unwrap()));
        assert!(!net.contains("10.245.0.1".parse().unwrap()));
        let all: Cidr = "::/0".parse().unwrap();
        assert!(all.contains("2001:db8::1".parse().unwrap()));
        assert!("10.0.0.0/33".parse::<Cidr>().is_err());
    }

    #[test]
    fn ports_may_follow_names_and_both_kinds_of_address() {
        for text in ["ecup10.coluc.com:7400", "10.0.0.1:7400", "[2001:db8::1]:7400"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for text in ["ecup10", "a:0", "2001:db8::1:7400", ":1", "a b:1"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }
}
