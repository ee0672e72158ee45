//! The secrets that keys are made and checked with.

use xmpp_federation_core::{DialbackKey, Domain, SecretBytes, StreamId};

/// One secret to sign with and further ones that are valid during a rotation.
#[derive(Debug, Clone)]
pub struct DialbackSecrets {
    sign: SecretBytes,
    accept: Vec<SecretBytes>,
}

impl DialbackSecrets {
    /// `sign` is accepted too.
    pub fn new(sign: SecretBytes, accept: Vec<SecretBytes>) -> Self {
        Self { sign, accept }
    }

    /// The key that `originating` (ours) shows to `receiving` on the stream with this id.
    pub fn key(&self, receiving: &Domain, originating: &Domain, id: &StreamId) -> DialbackKey {
        DialbackKey::generate(&self.sign, receiving, originating, id)
    }

    /// Whether a key that `receiving` was shown in the name of `originating` (ours) was made
    /// with any of the secrets. All are tried, so time tells nothing about which one matched.
    pub fn accepts(&self, received: &str, receiving: &Domain, originating: &Domain, id: &StreamId) -> bool {
        std::iter::once(&self.sign)
            .chain(&self.accept)
            .map(|secret| DialbackKey::generate(secret, receiving, originating, id))
            .fold(false, |valid, key| key.matches(received) | valid)
    }

    /// The secrets, the one that signs first; for fingerprints.
    pub fn all(&self) -> impl Iterator<Item = &SecretBytes> {
        std::iter::once(&self.sign).chain(&self.accept)
    }
}
