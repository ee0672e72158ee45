//! Whether the peer of a TLS handshake holds the key of the certificate that it shows.
//!
//! Only the key (`SubjectPublicKeyInfo`) must be readable. Other code judges the rest of the certificate and the
//! names that it proves.

use aws_lc_rs::signature as aws;
use rsa::sha2::digest::{Digest, FixedOutputReset};
use rsa::sha2::{Sha256, Sha384, Sha512};
use rsa::signature::Verifier as _;
use rsa::{BoxedUint, pkcs1v15, pss};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::SignatureVerificationAlgorithm;
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use x509_parser::asn1_rs::{Any, Class, FromDer, Tag};

/// The shortest RSA key that may prove a name (RFC 9325 section 4.5).
pub const STRONG_RSA_BITS: usize = 2048;
/// The shortest and the longest RSA key whose signatures are verified.
const RSA_BITS: std::ops::RangeInclusive<usize> = 1024..=8192;

/// What the signature of a handshake says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Possession {
    /// The peer holds the key.
    Proven,
    /// No library verifies signatures of this key; it is described.
    Unknown(String),
}

/// The version of TLS that signs: it decides what a signature scheme means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2: a scheme leaves the curve open.
    Tls12,
    /// TLS 1.3: a scheme is of one kind of key.
    Tls13,
}

/// Verifies the signature of a handshake with the key of a certificate. An error is a signature that
/// is wrong, or of a scheme that does not fit the key.
pub fn verify(
    version: Version,
    message: &[u8],
    certificate: &[u8],
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<Possession, Error> {
    let scheme = signed.scheme;
    let unfit = || PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into();
    if version == Version::Tls13 && is_of_tls12_only(scheme) {
        return Err(unfit());
    }
    let Some((_, candidates)) = algorithms.mapping.iter().find(|(of, _)| *of == scheme) else {
        return Err(unfit());
    };
    let candidates = match version {
        Version::Tls12 => candidates,
        Version::Tls13 => candidates.get(..1).unwrap_or_default(),
    };
    let Some(key) = PublicKey::of(certificate) else {
        return Ok(Possession::Unknown(describe(certificate)));
    };
    if !key.is_supported(algorithms) {
        return Ok(Possession::Unknown(key.describe()));
    }
    let valid = if key.is_rsa() {
        if !is_of_rsa(scheme) {
            return Err(unfit());
        }
        if key.is_weak_rsa() {
            weak_rsa(scheme, &key, message, signed.signature())
        } else {
            let first = candidates.first();
            first.is_some_and(|by| key.verifies(*by, message, signed.signature()))
        }
    } else {
        let by = candidates.iter().find(|by| key.is_of(**by));
        key.verifies(*by.ok_or_else(unfit)?, message, signed.signature())
    };
    if valid {
        Ok(Possession::Proven)
    } else if key.is_readable() {
        Err(CertificateError::BadSignature.into())
    } else {
        Ok(Possession::Unknown(key.describe()))
    }
}

/// The key of a certificate in words, if no library verifies signatures of it.
pub fn unsupported(certificate: &[u8], algorithms: &WebPkiSupportedAlgorithms) -> Option<String> {
    let key = PublicKey::of(certificate);
    let supported = key.is_some_and(|key| key.is_supported(algorithms) && key.is_readable());
    (!supported).then(|| describe(certificate))
}

/// The key of a certificate in words.
pub fn describe(certificate: &[u8]) -> String {
    PublicKey::of(certificate).map_or_else(
        || "a key that is not where X.509 has it".to_owned(),
        |key| key.describe(),
    )
}

/// The length of a certificate's RSA key that is too short to prove a name ([`STRONG_RSA_BITS`]); `None` if it has no
/// such key.
pub fn weak_rsa_bits(certificate: &[u8]) -> Option<usize> {
    PublicKey::of(certificate)?.weak_rsa_bits()
}

/// Hash and padding that TLS 1.3 no longer has (RFC 8446 section 4.2.3).
fn is_of_tls12_only(scheme: SignatureScheme) -> bool {
    matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA1
            | SignatureScheme::ECDSA_SHA1_Legacy
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    )
}

fn is_of_rsa(scheme: SignatureScheme) -> bool {
    matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
            | SignatureScheme::RSA_PSS_SHA256
            | SignatureScheme::RSA_PSS_SHA384
            | SignatureScheme::RSA_PSS_SHA512
    )
}

/// rsaEncryption and id-RSASSA-PSS (RFC 8017 appendix C).
const RSA: [&[u8]; 2] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10],
];
/// id-ecPublicKey (RFC 5480 section 2.1.1).
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
/// secp256r1, secp384r1, secp521r1.
const CURVES: [(&[u8], &dyn aws::VerificationAlgorithm); 3] = [
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], &aws::ECDSA_P256_SHA256_ASN1),
    (&[0x2b, 0x81, 4, 0, 34], &aws::ECDSA_P384_SHA384_ASN1),
    (&[0x2b, 0x81, 4, 0, 35], &aws::ECDSA_P521_SHA512_ASN1),
];

/// A `SubjectPublicKeyInfo`.
struct PublicKey<'a> {
    /// What is in its `AlgorithmIdentifier`.
    algorithm: &'a [u8],
    /// The OID therein, and of elliptic curves the one of a named curve.
    oids: [&'a [u8]; 2],
    /// What is in its BIT STRING.
    key: &'a [u8],
}

/// The next element and what is behind it.
fn element(der: &[u8]) -> Option<(Any<'_>, &[u8])> {
    let (rest, any) = Any::from_der(der).ok()?;
    Some((any, rest))
}

fn content(der: &[u8], tag: Tag) -> Option<(&[u8], &[u8])> {
    let (any, rest) = element(der)?;
    (any.class() == Class::Universal && any.tag() == tag).then_some((any.data, rest))
}

impl<'a> PublicKey<'a> {
    /// Of a certificate (RFC 5280 section 4.1).
    fn of(certificate: &'a [u8]) -> Option<Self> {
        let (certificate, _) = content(certificate, Tag::Sequence)?;
        let (signed, _) = content(certificate, Tag::Sequence)?;
        let (first, rest) = element(signed)?;
        // The version may be absent.
        let mut rest = match first.class() {
            Class::ContextSpecific => rest,
            _ => signed,
        };
        // serialNumber, signature, issuer, validity, subject.
        for _ in 0..5 {
            (_, rest) = element(rest)?;
        }
        let (info, _) = content(rest, Tag::Sequence)?;
        let (algorithm, rest) = content(info, Tag::Sequence)?;
        let (key, _) = content(rest, Tag::BitString)?;
        let (oid, parameters) = content(algorithm, Tag::Oid)?;
        let curve = content(parameters, Tag::Oid).map_or(&[][..], |(oid, _)| oid);
        Some(Self {
            algorithm,
            oids: [oid, curve],
            key: key.strip_prefix(&[0])?,
        })
    }

    fn is_rsa(&self) -> bool {
        RSA.contains(&self.oids[0])
    }

    fn weak_rsa_bits(&self) -> Option<usize> {
        let bits = self.rsa_bits().filter(|_| self.is_rsa())?;
        (bits < STRONG_RSA_BITS).then_some(bits)
    }

    fn is_weak_rsa(&self) -> bool {
        self.weak_rsa_bits().is_some()
    }

    /// Whether that is how this kind of key signs.
    fn is_of(&self, algorithm: &dyn SignatureVerificationAlgorithm) -> bool {
        algorithm.public_key_alg_id().as_ref() == self.algorithm
    }

    /// Whether a library verifies signatures of keys of this kind and length.
    fn is_supported(&self, algorithms: &WebPkiSupportedAlgorithms) -> bool {
        if self.is_rsa() {
            self.rsa_bits().is_some_and(|bits| RSA_BITS.contains(&bits))
        } else {
            algorithms.all.iter().any(|algorithm| self.is_of(*algorithm))
        }
    }

    /// Modulus and exponent.
    fn rsa(&self) -> Option<[&'a [u8]; 2]> {
        let (numbers, _) = content(self.key, Tag::Sequence)?;
        let (modulus, rest) = content(numbers, Tag::Integer)?;
        let (exponent, _) = content(rest, Tag::Integer)?;
        let without_zeros = |number: &'a [u8]| {
            let zeros = number.iter().take_while(|byte| **byte == 0).count();
            number.get(zeros..).unwrap_or_default()
        };
        Some([modulus, exponent].map(without_zeros))
    }

    fn rsa_bits(&self) -> Option<usize> {
        let [modulus, _] = self.rsa()?;
        let first = modulus.first()?;
        Some(8 * modulus.len() - usize::try_from(first.leading_zeros()).ok()?)
    }

    fn verifies(&self, algorithm: &dyn SignatureVerificationAlgorithm, message: &[u8], signature: &[u8]) -> bool {
        let verified = algorithm.verify_signature(self.key, message, signature);
        verified.is_ok()
    }

    /// Whether the library takes this very key.
    fn is_readable(&self) -> bool {
        let algorithm: &'static dyn aws::VerificationAlgorithm = if self.is_weak_rsa() {
            return self.small_rsa().is_some();
        } else if self.is_rsa() {
            &aws::RSA_PKCS1_2048_8192_SHA256
        } else if let Some((_, algorithm)) = CURVES.iter().find(|(oid, _)| *oid == self.oids[1]) {
            *algorithm
        } else {
            // The others are bytes of a fixed length, any of which may be a key.
            return true;
        };
        aws::ParsedPublicKey::new(algorithm, self.key).is_ok()
    }

    fn small_rsa(&self) -> Option<rsa::PublicKey> {
        let [modulus, exponent] = self.rsa()?.map(BoxedUint::from_be_slice_vartime);
        rsa::PublicKey::new(modulus, exponent).ok()
    }

    fn describe(&self) -> String {
        let [oid, curve] = self.oids;
        if self.is_rsa() {
            match self.rsa_bits() {
                Some(bits) => format!("an RSA key of {bits} bits"),
                None => "an RSA key that is not readable".to_owned(),
            }
        } else if oid == EC && !CURVES.iter().any(|(known, _)| *known == curve) {
            "a key of an unusual elliptic curve".to_owned()
        } else {
            "a key of an unusual kind".to_owned()
        }
    }
}

/// Whether an RSA key shorter than usual made the signature.
fn weak_rsa(scheme: SignatureScheme, key: &PublicKey<'_>, message: &[u8], signature: &[u8]) -> bool {
    fn pss<D: Digest + FixedOutputReset>(key: rsa::PublicKey, message: &[u8], by: &[u8]) -> bool {
        let key = pss::VerifyingKey::<D>::new(key);
        pss::Signature::try_from(by).is_ok_and(|by| key.verify(message, &by).is_ok())
    }
    let Some(key) = key.small_rsa() else {
        return false;
    };
    macro_rules! pkcs1 {
        ($digest:ty) => {{
            let key = pkcs1v15::VerifyingKey::<$digest>::new(key);
            let signature = pkcs1v15::Signature::try_from(signature);
            signature.is_ok_and(|signature| key.verify(message, &signature).is_ok())
        }};
    }
    match scheme {
        SignatureScheme::RSA_PSS_SHA256 => pss::<Sha256>(key, message, signature),
        SignatureScheme::RSA_PSS_SHA384 => pss::<Sha384>(key, message, signature),
        SignatureScheme::RSA_PSS_SHA512 => pss::<Sha512>(key, message, signature),
        SignatureScheme::RSA_PKCS1_SHA256 => pkcs1!(Sha256),
        SignatureScheme::RSA_PKCS1_SHA384 => pkcs1!(Sha384),
        SignatureScheme::RSA_PKCS1_SHA512 => pkcs1!(Sha512),
        _ => false,
    }
}
