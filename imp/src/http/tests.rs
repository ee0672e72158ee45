//! Handshakes with tomcat certificates that few libraries take.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};
use testkit_peer::odd::{Odd, OddIdentity};

use super::*;

#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// A handshake with a server that shows this, in the words of a failed call.
async fn handshake(
    trust: &ServerTrust,
    shown: &OddIdentity,
    version: &'static SupportedProtocolVersion,
) -> Result<(), String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shown(shown.0.clone())));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let accept = tokio_rustls::TlsAcceptor::from(Arc::new(server)).accept(far);
    let name = ServerName::try_from("vngtp.lab").unwrap();
    let client = Arc::new(tls_config(trust).unwrap());
    let connect = tokio_rustls::TlsConnector::from(client).connect(name, near);
    let (_, connected) = tokio::join!(accept, connect);
    connected.map(drop).map_err(|error| match tls_error(&error) {
        Some(rustls::Error::InvalidCertificate(why)) => certificate_words(why),
        _ => error.to_string(),
    })
}

#[tokio::test]
async fn an_unusual_tomcat_certificate_can_be_pinned_if_its_key_signed_the_handshake() {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let (pem, key) = (ca.pem(), ca.key().serialize_pem());
    let issued = ServerTrust::Ca {
        pem: pem.clone().into_bytes(),
        source: "Secret imp-ca, key ca.crt".into(),
    };
    let pinned = "can only be pinned";
    for (odd, proven, by_ca) in [
        (Odd::Usual, true, None),
        (Odd::Version1, true, Some(pinned)),
        (Odd::CriticalExtension, true, Some(pinned)),
        (Odd::Rsa1024, true, Some(pinned)),
        (Odd::Rsa16384, false, Some("it has an RSA key of 16384 bits")),
        (Odd::P192, false, Some("it has a key of an unusual elliptic curve")),
        (Odd::Garbage, false, Some("it has a key that is not where X.509 has it")),
    ] {
        let shown = OddIdentity::new(odd, Some((&pem, &key)));
        let pin = ServerTrust::Pinned(vec![Fingerprint::of(&shown.0.cert[0])]);
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let case = format!("{odd:?} {version:?}");
            let found = handshake(&pin, &shown, version).await;
            assert_eq!(found.is_ok(), proven, "{case}: {found:?}");
            if let Err(why) = found {
                assert!(why.contains(by_ca.unwrap()), "{case}: {why}");
            }
            let found = handshake(&issued, &shown, version).await;
            match by_ca {
                None => assert_eq!(found, Ok(()), "{case}"),
                Some(says) => {
                    let why = found.unwrap_err();
                    assert!(why.contains(says), "{case}: {why}");
                }
            }
            let found = handshake(&ServerTrust::Insecure, &shown, version).await;
            assert_eq!(found, Ok(()), "{case}");
            let stolen = handshake(&pin, &shown.stolen(), version).await;
            assert!(stolen.is_err(), "{case}");
            let other = handshake(&ServerTrust::Pinned(vec![Fingerprint::of(b"")]), &shown, version).await;
            assert!(other.is_err(), "{case}");
        }
    }
}
