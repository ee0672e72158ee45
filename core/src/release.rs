//! Releases of the project. An operator and an edge of the same release have the same version.

use std::fmt;
use std::str::FromStr;

use semver::Version;

use crate::as_text;

/// A release, by its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release(Version);

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version such as 0.1.0")]
pub struct ReleaseError(pub String);

impl Release {
    /// The release that this program belongs to.
    pub fn own() -> Self {
        // Cargo takes no other version.
        env!("CARGO_PKG_VERSION").parse().unwrap_or(Self(Version::new(0, 0, 0)))
    }

    /// Whether it came after the other one, by semantic versioning.
    pub fn is_later_than(&self, other: &Self) -> bool {
        self.0.cmp_precedence(&other.0).is_gt()
    }
}

impl FromStr for Release {
    type Err = ReleaseError;
    fn from_str(text: &str) -> Result<Self, ReleaseError> {
        let error = |_| ReleaseError(text.to_owned());
        Version::parse(text).map(Self).map_err(error)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

as_text!(Release);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("0.2.0", "0.1.0", true)]
    #[case("0.10.0", "0.9.0", true)]
    #[case("0.2.0", "0.2.0-rc.1", true)]
    #[case("0.1.0", "0.1.0", false)]
    #[case("0.1.0+build.7", "0.1.0+build.6", false)]
    #[case("0.1.0", "0.2.0", false)]
    fn the_later_of_two_releases_is_told(#[case] one: Release, #[case] other: Release, #[case] later: bool) {
        assert_eq!(one.is_later_than(&other), later);
    }

    #[test]
    fn the_own_release_is_that_of_the_package() {
        assert_eq!(Release::own().to_string(), env!("CARGO_PKG_VERSION"));
        let error = "newest".parse::<Release>().unwrap_err().to_string();
        assert_eq!(error, "\"newest\" is not a version such as 0.1.0");
    }
}
