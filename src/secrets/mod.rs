//! Dialback secrets: generated once, kept in a Secret, never shown.

use rand::TryRngCore as _;
use xmpp_federation_core::SecretBytes;

/// The system's random number generator failed; nothing secret may be made from anything else.
#[derive(Debug, thiserror::Error)]
#[error("the system's random number generator failed ({0}); no secret was generated")]
pub struct NoRandomness(rand::rand_core::OsError);

/// A new dialback secret: 64 hexadecimal digits of 256 random bits, so that it can be pasted into
/// other servers' configurations.
pub fn generate_dialback_secret() -> Result<SecretBytes, NoRandomness> {
    let mut bits = [0_u8; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut bits).map_err(NoRandomness)?;
    let mut text = Vec::with_capacity(64);
    for byte in bits {
        for nibble in [byte >> 4, byte & 0xf] {
            text.push(match nibble {
                0..=9 => b'0' + nibble,
                _ => b'a' + nibble - 10,
            });
        }
    }
    Ok(SecretBytes::new(text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn secrets_are_256_bits_as_hexadecimal_text_and_never_repeat() {
        let (a, b) = (generate_dialback_secret().unwrap(), generate_dialback_secret().unwrap());
        assert_eq!(a.len(), 64);
        assert!(a.expose().iter().all(u8::is_ascii_hexdigit));
        assert_ne!(a.expose(), b.expose());
    }
}
