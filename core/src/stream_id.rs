//! Stream ids (RFC 6120 section 4.7.3).

use std::fmt;

use data_encoding::HEXLOWER;

/// The id of one stream header. Ours carry 128 random bits, because dialback keys are only as
/// unpredictable as the id; a peer's is any text without white space.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamId(Box<str>);

impl StreamId {
    /// An id of ours: 32 hexadecimal digits.
    pub fn from_random(bits: [u8; 16]) -> Self {
        Self(HEXLOWER.encode(&bits).into())
    }

    /// An id as a peer announced it; `None` if it is empty, over 1 kB, or contains white space
    /// or control characters, which would make dialback keys ambiguous (CVE-2016-0756).
    pub fn from_peer(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= 1024 && !text.chars().any(|c| c.is_whitespace() || c.is_control());
        fits.then(|| Self(text.into()))
    }

    /// The id's text, unescaped.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_with_white_space_are_refused() {
        for text in ["", "a b", "a\nb", "a\u{a0}b"] {
            assert_eq!(StreamId::from_peer(text), None, "{text:?}");
        }
        assert_eq!(StreamId::from_random([0xab; 16]).as_str(), "ab".repeat(16));
    }
}
