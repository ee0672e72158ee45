//! AXL versions: each IM&P release answers its own and some earlier ones, and HTTP 599 to others.

use std::fmt;
use std::str::FromStr;

/// One AXL version, as in the namespace `http://www.cisco.com/AXL/API/14.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AxlVersion(u8, u8);

impl AxlVersion {
    /// The versions that are tried, newest first.
    pub const STEPS: [Self; 9] = [
        Self(15, 0),
        Self(14, 0),
        Self(12, 5),
        Self(12, 0),
        Self(11, 5),
        Self(11, 0),
        Self(10, 5),
        Self(10, 0),
        Self(9, 1),
    ];
}

impl fmt::Display for AxlVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A text that is no AXL version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an AXL version; write major and minor number, such as 14.0")]
pub struct AxlVersionError(pub String);

impl FromStr for AxlVersion {
    type Err = AxlVersionError;
    fn from_str(text: &str) -> Result<Self, AxlVersionError> {
        let number = |part: &str| {
            (part.len() <= 2 && part.bytes().all(|b| b.is_ascii_digit()))
                .then(|| part.parse().ok())
                .flatten()
        };
        text.split_once('.')
            .and_then(|(major, minor)| Some(Self(number(major)?, number(minor)?)))
            .ok_or_else(|| AxlVersionError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn steps_go_from_15_0_down_to_9_1() {
        let steps: Vec<String> = AxlVersion::STEPS.iter().map(ToString::to_string).collect();
        assert_eq!(steps.first().unwrap(), "15.0");
        assert_eq!(steps.last().unwrap(), "9.1");
        assert!(AxlVersion::STEPS.is_sorted_by(|a, b| a > b));
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["", "14", "14.", "x.y", "14.0.1", "+1.0", "14.0/"] {
            assert!(text.parse::<AxlVersion>().is_err(), "{text:?}");
        }
        assert_eq!("12.5".parse::<AxlVersion>().unwrap().to_string(), "12.5");
    }
}
