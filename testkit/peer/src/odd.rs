//! Certificates that few libraries take: made and used by OpenSSL, or by hand where OpenSSL would
//! need minutes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::Folder;

fn openssl(folder: &Path, arguments: &str) {
    let done = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .expect("openssl is installed by `make setup`");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "openssl {arguments}: {said}");
}

/// How a certificate is unusual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Odd {
    /// Nothing is.
    Usual,
    /// X.509 v1, which has no names but the subject's.
    Version1,
    /// A critical extension that nobody knows.
    CriticalExtension,
    /// A serial number of 30 bytes.
    LongSerial,
    /// An RSA key of 1024 bits.
    Rsa1024,
    /// An RSA key of 16384 bits.
    Rsa16384,
    /// The curve prime192v1.
    P192,
    /// A curve spelled out instead of named.
    ExplicitCurve,
    /// No certificate at all.
    Garbage,
}

/// A certificate for `vngtp.lab` and what signs with its key.
#[derive(Debug, Clone)]
pub struct OddIdentity(pub Arc<CertifiedKey>);

impl OddIdentity {
    /// Self-signed, or issued by a CA (PEM of certificate and key).
    pub fn new(odd: Odd, ca: Option<(&str, &str)>) -> Self {
        let folder = Folder::new();
        let key = match odd {
            Odd::Rsa16384 => return Self::by_hand(&rsa_16384()),
            Odd::Garbage => return Self::unsigned(vec![0x30, 3, 2, 1, 5]),
            Odd::Rsa1024 => "genrsa -out key.pem 1024",
            Odd::P192 => "ecparam -name prime192v1 -genkey -noout -out key.pem",
            Odd::ExplicitCurve => "ecparam -name prime256v1 -param_enc explicit -genkey -noout -out key.pem",
            _ => "genrsa -out key.pem 2048",
        };
        let at = &folder.path("");
        openssl(at, key);
        openssl(at, "req -new -key key.pem -subj /CN=vngtp.lab -out csr.pem");
        let mut extensions = "basicConstraints=CA:FALSE\nsubjectAltName=DNS:vngtp.lab\n".to_owned();
        if odd == Odd::CriticalExtension {
            extensions += "1.2.3.4.5=critical,ASN1:UTF8String:x\n";
        }
        folder.write("extensions", &extensions);
        let extensions = match odd {
            Odd::Version1 => "",
            _ => "-extfile extensions",
        };
        let serial = match odd {
            Odd::LongSerial => format!("0x{}", "7a".repeat(30)),
            _ => "7".to_owned(),
        };
        let signer = if let Some((certificate, key)) = ca {
            folder.write("ca.pem", certificate);
            folder.write("ca.key", key);
            "-CA ca.pem -CAkey ca.key"
        } else {
            "-signkey key.pem"
        };
        openssl(
            at,
            &format!("x509 -req -in csr.pem {signer} -set_serial {serial} -days 90 -sha256 {extensions} -out cert.pem"),
        );
        let pem = std::fs::read(at.join("cert.pem")).unwrap();
        let certificate = CertificateDer::from_pem_slice(&pem).unwrap();
        let algorithm = match odd {
            Odd::P192 | Odd::ExplicitCurve => SignatureAlgorithm::ECDSA,
            _ => SignatureAlgorithm::RSA,
        };
        Self(Arc::new(CertifiedKey::new(
            vec![certificate],
            Arc::new(Key {
                folder: Some(folder),
                algorithm,
            }),
        )))
    }

    /// The same certificate in the hands of somebody without its key.
    #[must_use]
    pub fn stolen(&self) -> Self {
        let folder = Folder::new();
        let kind = match self.0.key.algorithm() {
            SignatureAlgorithm::ECDSA => "ecparam -name prime256v1 -genkey -noout -out key.pem",
            _ => "genrsa -out key.pem 1024",
        };
        openssl(&folder.path(""), kind);
        Self(Arc::new(CertifiedKey::new(
            self.0.cert.clone(),
            Arc::new(Key {
                folder: Some(folder),
                algorithm: self.0.key.algorithm(),
            }),
        )))
    }

    fn by_hand(key: &[u8]) -> Self {
        let name = element(0x30, &[]);
        let algorithm = element(0x30, &element(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 11]));
        let time = |year: &str| element(0x17, format!("{year}0101000000Z").as_bytes());
        let validity = element(0x30, &[time("24"), time("49")].concat());
        let inside = [
            element(0xa0, &element(2, &[2])),
            element(2, &[7]),
            algorithm.clone(),
            name.clone(),
            validity,
            name,
            key.to_vec(),
        ];
        let signed = element(0x30, &inside.concat());
        let signature = element(3, &[0; 257]);
        Self::unsigned(element(0x30, &[signed, algorithm, signature].concat()))
    }

    /// Nobody can verify what is signed with it.
    fn unsigned(certificate: Vec<u8>) -> Self {
        Self(Arc::new(CertifiedKey::new(
            vec![CertificateDer::from(certificate)],
            Arc::new(Key {
                folder: None,
                algorithm: SignatureAlgorithm::RSA,
            }),
        )))
    }
}

/// A DER element.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    if let Ok(short @ ..0x80) = u8::try_from(length) {
        out.push(short);
    } else {
        let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
        out.extend([0x82, high, low]);
    }
    out.extend(content);
    out
}

/// A `SubjectPublicKeyInfo` whose private key nobody has.
fn rsa_16384() -> Vec<u8> {
    let mut modulus = vec![0xa5; 2048];
    modulus.insert(0, 0);
    let numbers = [element(2, &modulus), element(2, &[1, 0, 1])].concat();
    let mut bits = vec![0];
    bits.extend(element(0x30, &numbers));
    let oid = element(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1]);
    let algorithm = element(0x30, &[oid, vec![5, 0]].concat());
    element(0x30, &[algorithm, element(3, &bits)].concat())
}

/// Signs with the key in a folder by OpenSSL, or with zeros.
struct Key {
    folder: Option<Folder>,
    algorithm: SignatureAlgorithm,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({:?})", self.algorithm)
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let ours = match self.algorithm {
            SignatureAlgorithm::ECDSA => vec![SignatureScheme::ECDSA_NISTP256_SHA256],
            _ => vec![
                // A key of 1024 bits is too short for the other hashes.
                SignatureScheme::RSA_PSS_SHA256,
                SignatureScheme::RSA_PKCS1_SHA384,
            ],
        };
        let scheme = ours.into_iter().find(|scheme| offered.contains(scheme))?;
        let key = self.folder.as_ref().map(|folder| folder.path("key.pem"));
        Some(Box::new(ByOpenssl { key, scheme }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }
}

#[derive(Debug)]
struct ByOpenssl {
    key: Option<PathBuf>,
    scheme: SignatureScheme,
}

impl Signer for ByOpenssl {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        use std::io::Write as _;
        let Some(key) = &self.key else {
            return Ok(vec![0; 2048]);
        };
        let options: &[&str] = match self.scheme {
            SignatureScheme::RSA_PSS_SHA256 => &[
                "-sha256",
                "-sigopt",
                "rsa_padding_mode:pss",
                "-sigopt",
                "rsa_pss_saltlen:digest",
            ],
            SignatureScheme::RSA_PKCS1_SHA384 => &["-sha384"],
            _ => &["-sha256"],
        };
        let mut openssl = Command::new("openssl")
            .arg("dgst")
            .args(options)
            .arg("-sign")
            .arg(key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        openssl.stdin.take().unwrap().write_all(message).unwrap();
        let done = openssl.wait_with_output().unwrap();
        assert!(done.status.success());
        Ok(done.stdout)
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}
