//! A host as the resource and the command line have it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A host, by address or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Its address.
    Address(IpAddr),
    /// Its name, lower case.
    Name(String),
}

/// Why a text is no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {}", A_HOST)]
pub struct HostError {
    text: String,
}

/// What a host is written as.
pub const A_HOST: &str = "a host name such as imp1.example.com, or an IP address such as 192.0.2.10 or 2001:db8::10";

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let plain = |label: &str| {
            let letters = label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
            (1..=63).contains(&label.len()) && letters && !label.starts_with('-') && !label.ends_with('-')
        };
        // A name that ends in a number is a misspelt address.
        let last = name.rsplit('.').next().unwrap_or_default();
        let number = last.bytes().all(|b| b.is_ascii_digit());
        if name.len() > 253 || number || !name.split('.').all(plain) {
            let text = text.to_owned();
            return Err(HostError { text });
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("192.0.2.10", Some("192.0.2.10"))]
    #[case("2001:DB8::10", Some("2001:db8::10"))]
    #[case("ecup10.coluc.com", Some("ecup10.coluc.com"))]
    #[case("ECUP10.Inside.example.", Some("ecup10.inside.example."))]
    #[case::a_name_of_the_search_list("imp_1", Some("imp_1"))]
    #[case("10.0.0.300", None)]
    #[case("10", None)]
    #[case("ecup10.coluc.com:8443", None)]
    #[case("https://ecup10.coluc.com", None)]
    #[case("[2001:db8::10]", None)]
    #[case("ecup10..coluc.com", None)]
    #[case("-ecup10", None)]
    #[case("ecup 10", None)]
    #[case("bücher.example", None)]
    #[case(".", None)]
    #[case("", None)]
    fn a_host_is_a_name_or_an_address(#[case] text: &str, #[case] expected: Option<&str>) {
        let host = text.parse::<Host>();
        assert_eq!(host.as_ref().ok().map(Host::to_string).as_deref(), expected);
        let is_address = matches!(host, Ok(Host::Address(_)));
        assert_eq!(is_address, text.parse::<IpAddr>().is_ok());
    }
}
