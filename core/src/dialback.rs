//! Dialback keys (XEP-0185 version 1.0).

use std::fmt;

use data_encoding::HEXLOWER;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use crate::secret::equal_in_constant_time;
use crate::{Domain, SecretBytes, StreamId};

/// A dialback key: 64 lower-case hexadecimal digits. Anybody who sees it can use it for one pair on
/// one stream only.
#[derive(Clone, PartialEq, Eq)]
pub struct DialbackKey(Box<str>);

impl DialbackKey {
    /// Computes the key that `originating` shows to `receiving` on the stream whose id the
    /// *receiving* server announced last (XEP-0185 section 3). Needs nothing but the secret, so
    /// any replica can verify any other's key.
    pub fn generate(secret: &SecretBytes, receiving: &Domain, originating: &Domain, id: &StreamId) -> Self {
        Self::generate_from_text(secret, receiving.as_str(), originating.as_str(), id.as_str())
    }

    fn generate_from_text(secret: &SecretBytes, receiving: &str, originating: &str, id: &str) -> Self {
        // The HMAC key is the digest as text; its raw bytes are the classic mistake.
        let text = HEXLOWER.encode(&Sha256::digest(secret.expose()));
        let mut message = String::with_capacity(receiving.len() + originating.len() + id.len() + 2);
        message.push_str(receiving);
        message.push(' ');
        message.push_str(originating);
        message.push(' ');
        message.push_str(id);
        let digest = match Hmac::<Sha256>::new_from_slice(text.as_bytes()) {
            Ok(mut mac) => {
                mac.update(message.as_bytes());
                mac.finalize().into_bytes()
            }
            Err(impossible) => unreachable!("HMAC takes keys of any length: {impossible}"),
        };
        Self(HEXLOWER.encode(&digest).into())
    }

    /// Whether a key as received, white space around it ignored, is this one. Constant time.
    pub fn matches(&self, received: &str) -> bool {
        equal_in_constant_time(self.0.as_bytes(), received.trim().as_bytes())
    }

    /// The key as it goes into `db:result` or `db:verify`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DialbackKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DialbackKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(
        "s3cr3tf0rd14lb4ck",
        "xmpp.example.com",
        "example.org",
        "D60000229F",
        "37c69b1cf07a3f67c04a5ef5902fa5114f2c76fe4a2686482ba5b89323075643"
    )]
    #[case(
        "s3cr3tf0rd14lb4ck",
        "montague.example",
        "capulet.example",
        "D60000229F",
        "b4835385f37fe2895af6c196b59097b16862406db80559900d96bf6fa7d23df3"
    )]
    #[case(
        "d14lb4ck43v3r",
        "capulet.example",
        "montague.example",
        "417GAF25",
        "225cc5aa6a071133249d25fef42ae516fc7a86c523aa1c6980a7f73e784c972d"
    )]
    fn keys_equal_the_published_vectors(
        #[case] secret: &str,
        #[case] receiving: &str,
        #[case] originating: &str,
        #[case] id: &str,
        #[case] expected: &str,
    ) {
        let secret = SecretBytes::new(secret.as_bytes().to_vec());
        let key = DialbackKey::generate_from_text(&secret, receiving, originating, id);
        assert_eq!(key.as_str(), expected);
        assert!(key.matches(&format!("\n {expected} ")));
        assert!(!key.matches(&expected.to_uppercase()));
        assert!(!key.matches(""));
    }
}
