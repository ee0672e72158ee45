//! Handshakes with tomcat certificates that few libraries take.

use std::collections::BTreeMap;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rstest::rstest;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};
use testkit_peer::odd::{Odd, OddIdentity};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::access::{Host, NodeAddress};
use crate::clock::SystemClock;
use crate::counter::Uncounted;
use crate::testing::{TestStore, desired};

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

/// A TLS server with a certificate of its own.
fn acceptor() -> (tokio_rustls::TlsAcceptor, Fingerprint) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let shown = OddIdentity::new(Odd::Usual, None);
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shown(shown.0.clone())));
    let pin = Fingerprint::of(&shown.0.cert[0]);
    (tokio_rustls::TlsAcceptor::from(Arc::new(server)), pin)
}

/// A call to that server, which has to have a certificate with that fingerprint.
async fn called(logins: &Arc<Logins>, server: String, pin: Fingerprint) -> Result<Element, CallErrorKind> {
    called_at(BTreeMap::new(), logins, server, pin).await
}

/// The same where other hosts are given for some.
async fn called_at(
    addresses: BTreeMap<String, NodeAddress>,
    logins: &Arc<Logins>,
    server: String,
    pin: Fingerprint,
) -> Result<Element, CallErrorKind> {
    let mut target = desired().target;
    target.addresses = addresses;
    target.tls = ServerTrust::Pinned(vec![pin]);
    let caller = Caller::new(
        &target,
        SystemResolver::default(),
        Arc::clone(logins),
        Arc::new(Uncounted),
    )
    .unwrap();
    let call = Call {
        interface: Interface::Axl,
        server: &server,
        path: "/axl/",
        function: "executeSQLQuery",
        soap_action: "",
        body: "",
        account: &target.axl,
        not_after: None,
    };
    caller.call(call).await.map_err(|error| error.kind)
}

fn logins(store: &Arc<TestStore>) -> Arc<Logins> {
    Arc::new(Logins::new(Arc::clone(store) as _, Arc::new(SystemClock)))
}

#[tokio::test]
async fn a_use_of_an_account_is_not_noted_where_no_request_is_sent() {
    let store = Arc::new(TestStore::default());
    let logins = logins(&store);
    let no_pin = Fingerprint::of(b"");
    let unresolved = called(&logins, "https://cups.invalid:8443".to_owned(), no_pin).await;
    assert!(matches!(unresolved, Err(CallErrorKind::Connect(_))), "{unresolved:?}");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("https://{}", listener.local_addr().unwrap());
    let answering = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        assert!(acceptor().0.accept(stream).await.is_err());
    });
    let distrusted = called(&logins, server.clone(), no_pin).await;
    assert!(
        matches!(distrusted, Err(CallErrorKind::Certificate(_))),
        "{distrusted:?}"
    );
    // The listener is closed.
    answering.await.unwrap();
    let refused = called(&logins, server, no_pin).await;
    assert!(matches!(refused, Err(CallErrorKind::Connect(_))), "{refused:?}");
    assert_eq!(store.writes(), 0);
}

#[rstest]
#[case::an_address("127.0.0.1")]
#[case::a_name("localhost")]
#[tokio::test]
async fn a_node_is_called_at_the_host_that_is_given_for_it(#[case] given: &str) {
    let logins = logins(&Arc::new(TestStore::default()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("https://ecup10.invalid:{}", listener.local_addr().unwrap().port());
    let (acceptor, pin) = acceptor();
    let answering = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut request = vec![0; 2048];
        let read = stream.read(&mut request).await.unwrap();
        let answer = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        request.truncate(read);
        String::from_utf8(request).unwrap().to_ascii_lowercase()
    };
    let host: Host = given.parse().unwrap();
    let addresses = BTreeMap::from([("ecup10.invalid".to_owned(), NodeAddress::from(host))]);
    let (called, request) = tokio::join!(called_at(addresses, &logins, server, pin), answering);
    assert!(matches!(called, Err(CallErrorKind::Unauthorized { .. })), "{called:?}");
    assert!(request.contains("\r\nhost: ecup10.invalid:"), "{request}");
}

#[tokio::test]
async fn a_call_that_finds_its_account_in_use_waits_for_the_answer_to_the_other() {
    let store = Arc::new(TestStore::default());
    let logins = logins(&store);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("https://{}", listener.local_addr().unwrap());
    let (acceptor, pin) = acceptor();
    let answering = async {
        let mut request = [0; 2048];
        let (stream, _) = listener.accept().await.unwrap();
        let mut first = acceptor.accept(stream).await.unwrap();
        assert!(first.read(&mut request).await.unwrap() > 0);
        let (stream, _) = listener.accept().await.unwrap();
        let mut second = acceptor.accept(stream).await.unwrap();
        assert_eq!(second.read(&mut request).await.unwrap_or(0), 0, "no password");
        let answer = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
        first.write_all(answer.as_bytes()).await.unwrap();
    };
    let (one, other, ()) = tokio::join!(
        called(&logins, server.clone(), pin),
        called(&logins, server.clone(), pin),
        answering
    );
    let (told, held) = match (one, other) {
        (Err(CallErrorKind::Held(hold)), told) | (told, Err(CallErrorKind::Held(hold))) => (told, hold),
        both => panic!("{both:?}"),
    };
    assert!(matches!(told, Err(CallErrorKind::Unauthorized { .. })), "{told:?}");
    assert!(held.told);
    // In use, then rejected.
    assert_eq!(store.writes(), 2);
}
